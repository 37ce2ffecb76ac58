"""The adapter on stored states: how good what it picks is, with the truth by replay, under one change at a time.

Regret: true return of the best candidate minus that of the picked one. Rank correlation: Spearman, between scores and
true returns within a state. Gain: true return of the picked one minus that of the base plan; captured is its share of
what the best pick would gain. Candidates whose outcome says nothing (a follower's contact) cannot be picked by anybody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.adapter import AdapterConfig, Proposals, Proposer, check_agent, load_adapter
from agent.config import ConfigError
from agent.driver import load_model
from agent.model.adapter import VALUES, AdapterNet
from eval.report import machine
from eval.results import write_json_atomically
from training.adapter.data import AdapterData, DataConfig, read
from training.adapter.truth import returns
from training.risk.metrics import bootstrap, interval, ranks

FLAT = 1e-6
"""Returns of a state that differ by less are not ranked."""
MEASURES = ("regret", "gain", "captured", "rank_correlation", "failed", "failed_base", "failed_best", "collided")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is compared."""

    base: AdapterConfig = field(default_factory=AdapterConfig)
    """Everything else changes one thing of this."""
    candidates: tuple[int, ...] = (1, 4, 8, 20, 64)
    steps: tuple[int, ...] = (1, 2, 3, 10)
    """Of the sampler: what quicker decisions cost, and slower ones bring."""
    horizons: tuple[int, ...] = (2, 4, 8, 12)
    """Quarter seconds that the Q-values sum up: what shorter rollouts would have told."""
    guidance: tuple[float, ...] = (0.1, 0.3, 1.0)
    margins: tuple[float, ...] = (0.1, 0.3, 1.0)
    """By how much a plan must be better than the base plan."""
    careful: tuple[float, ...] = (0.0, 0.1)
    """How far the collision's Q-value may lie below the base plan's."""
    weights: tuple[tuple[float, float, float, float], ...] = ((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 20.0, 0.5))
    """Other weights of route, distance, collision and speed; the truth keeps those of `base`."""
    data: DataConfig = field(default_factory=lambda: DataConfig(around=0))
    seen_towns: bool = False
    """Allow models that were trained in a town of the states."""
    batch: int = 64
    draws: int = 1000
    """Of the bootstrap over episodes."""
    seed: int = 0

    def settings(self) -> dict[str, AdapterConfig]:
        """All settings by name; the first one is the full adapter."""
        base, random = self.base, replace(self.base, source="random")
        found = {"full": base}
        found |= {f"without {name}": _without(base, name) for name in VALUES}
        found |= {f"random plans without {name}": _without(random, name) for name in VALUES}
        found |= {f"only {name}": replace(base, values=(name,)) for name in VALUES}
        found |= {"half random plans": replace(base, source="both")}
        found |= {"random plans": random, "random pick": replace(base, pick="random")}
        found |= {"no values": replace(base, pick="first", keep_base=False, candidates=1)}
        found |= {f"{n} candidates": replace(base, candidates=n) for n in self.candidates}
        found |= {f"{n} steps": replace(base, steps=n) for n in self.steps}
        found |= {f"{n / 4:g} s": replace(base, horizon=n) for n in self.horizons}
        found |= {f"guidance {strength:g}": replace(base, guidance=strength) for strength in self.guidance}
        found |= {f"margin {margin:g}": replace(base, margin=margin) for margin in self.margins}
        found |= {f"careful {slack:g}": replace(base, careful=slack) for slack in self.careful}
        found |= {f"weights {' '.join(f'{w:g}' for w in each)}": replace(base, weights=each) for each in self.weights}
        return found


def _without(config: AdapterConfig, name: str) -> AdapterConfig:
    return replace(config, values=tuple(other for other in VALUES if other != name))


def run(logs: Sequence[Path], agent: Path, models: Sequence[Path], out: Path, config: StudyConfig) -> dict[str, Any]:
    """Measure models under every setting; writes adapter_study.json and .md into a folder, gives the former's content.

    Raises: ArrayFileError, CheckpointError, ConfigError; ValueError for models that know the towns.
    """
    model = load_model(agent, "cpu")
    nets = {path: load_adapter(path) for path in models}
    data = read(logs, model, config.data)
    for path, (net, about) in nets.items():
        known = sorted(set(about.get("towns", ())) & set(data.towns))
        if known and not config.seen_towns:
            raise ValueError(
                f"{path}: was trained in {', '.join(known)}; give logs of other towns, or --config.seen-towns"
            )
        check_agent(path, net, about, model)
    results = {}
    for path, (net, about) in nets.items():
        name = path.parent.name if path.name == "model" else path.name
        results[name] = {"training": about, "settings": measure(net, data, config)}
    summary = {
        "states": len(data.truths),
        "episodes": len(set(data.episode.tolist())),
        "towns": data.towns,
        "weights": list(config.base.weights),
        "machine": machine(),
        "models": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(out / "adapter_study.json", summary)
    (out / "adapter_study.md").write_text(table(summary), encoding="utf-8")
    return summary


def measure(net: AdapterNet, data: AdapterData, config: StudyConfig) -> dict[str, Any]:
    """Means with intervals of every setting."""
    found, begun_s = {}, time.monotonic()
    settings = config.settings()
    for number, (name, setting) in enumerate(settings.items(), 1):
        if setting.steps > net.config.train_steps:
            raise ConfigError(f"config.base.steps is {setting.steps}, the model knows {net.config.train_steps} levels")
        rows = np.array(list(_states(net, data, setting, config)))
        found[name] = _summary(rows, data.episode, config)
        left_s = (time.monotonic() - begun_s) / number * (len(settings) - number)
        logger.info(
            "%s: regret %.2f; %d of %d, %.0f s left", name, found[name]["regret"][0], number, len(settings), left_s
        )
    return found


def _states(net: AdapterNet, data: AdapterData, setting: AdapterConfig, config: StudyConfig) -> Iterator[np.ndarray]:
    """MEASURES of every state (NaN where there is none)."""
    proposer = Proposer(net, setting)
    weights = np.array(config.base.weights)
    generator = np.random.default_rng(config.seed)
    for first in range(0, len(data.truths), config.batch):
        chosen = np.arange(first, min(first + config.batch, len(data.truths)))
        seen, start = data.seen.at(torch.from_numpy(chosen)), data.start[chosen].astype(np.float64)
        proposals = proposer.propose(seen, start)
        scores = proposer.scores(proposals).double().numpy()
        base = _base_motions(proposals, proposer, start)
        for k, state in enumerate(chosen):
            motions = np.concatenate([base[k][None], proposals.motions[k]])
            judged = data.truths[state].judge(motions)
            total = returns(judged.rewards, net.config.gamma)[:, -1] @ weights
            usable = judged.usable[1:]
            order = {"value": scores[k], "random": generator.random(len(usable)), "first": -np.arange(len(usable))}
            yield _measured(total, judged.touches, np.isfinite(judged.failure_s), usable, order[setting.pick], setting)


def _base_motions(proposals: Proposals, proposer: Proposer, start: np.ndarray) -> np.ndarray:
    """(b, 61, 4) what comes of the base plans."""
    if proposer.config.keep_base:
        return proposals.motions[:, 0]
    alone = Proposer(proposer.net, replace(proposer.config, candidates=1, keep_base=True))
    return alone.propose(proposals.seen, start).motions[:, 0]


def _measured(
    total: np.ndarray,
    contact: np.ndarray,
    failed: np.ndarray,
    usable: np.ndarray,
    score: np.ndarray,
    setting: AdapterConfig,
) -> np.ndarray:
    """MEASURES of one state; row 0 of the first three is the base plan, the others are the candidates."""
    if not usable.any():
        return np.full(len(MEASURES), np.nan)
    rows = np.flatnonzero(usable)
    true, own = total[1:][rows], score[rows]
    picked = int(own.argmax())
    if setting.pick == "value" and setting.keep_base and usable[0] and own[picked] <= own[0] + setting.margin:
        picked = 0
    best = int(true.argmax())
    ranked = len(rows) > 2 and np.ptp(true) > FLAT and np.ptp(own) > 0.0
    correlation = float(np.corrcoef(ranks(own), ranks(true))[0, 1]) if ranked else np.nan
    room = true[best] - total[0]
    return np.array(
        [
            true[best] - true[picked],
            true[picked] - total[0],
            (true[picked] - total[0]) / room if room > FLAT else np.nan,
            correlation,
            failed[1:][rows][picked],
            failed[0],
            failed[1:][rows][best],
            contact[1:][rows][picked],
        ],
        np.float64,
    )


def _summary(rows: np.ndarray, episode: np.ndarray, config: StudyConfig) -> dict[str, Any]:
    """Mean and 95 % interval of each measure; `captured` is the ratio of the means."""
    known = np.flatnonzero(np.isfinite(rows[:, 0]))

    def means(chosen: np.ndarray) -> np.ndarray:
        own = rows[known[chosen]]
        counts = np.isfinite(own).sum(0)
        found = np.where(counts > 0, np.nansum(own, 0) / np.maximum(counts, 1), np.nan)
        gain, regret = found[MEASURES.index("gain")], found[MEASURES.index("regret")]
        found[MEASURES.index("captured")] = gain / (gain + regret) if gain + regret > FLAT else np.nan
        return found

    whole = means(np.arange(len(known)))
    draws = bootstrap(means, episode[known], config.draws, np.random.default_rng(config.seed))
    return {name: [_plain(whole[k]), *_between(draws[:, k])] for k, name in enumerate(MEASURES)}


def _between(draws: np.ndarray) -> list[float | None]:
    found = interval(draws)
    return [None, None] if found is None else [_plain(found[0]), _plain(found[1])]


def _plain(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def table(summary: Mapping[str, Any]) -> str:
    """Markdown tables, one per model."""
    lines = [
        f"{summary['states']} states of {summary['episodes']} episodes, towns {', '.join(summary['towns'])}. "
        f"{summary['machine']}. In brackets: 95 % intervals, bootstrap over episodes.",
    ]
    for name, result in summary["models"].items():
        about = result["training"]
        lines += ["", f"### {name}: {about.get('states', '?')} states, {about.get('updates', '?')} updates", ""]
        lines += ["| setting | " + " | ".join(measure.replace("_", " ") for measure in MEASURES) + " |"]
        lines += ["|---" * (len(MEASURES) + 1) + "|"]
        for setting, values in result["settings"].items():
            lines.append(f"| {setting} | " + " | ".join(_cell(values[measure]) for measure in MEASURES) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Sequence[float | None]) -> str:
    middle, low, high = value
    if middle is None:
        return "-"
    return f"{middle:.3f}" if low is None or high is None else f"{middle:.3f} [{low:.3f}, {high:.3f}]"
