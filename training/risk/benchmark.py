"""Risk benchmark: how honest models are about futures on maps and seeds they have not seen.

Equally many futures of every kind, near misses included, as far as there are so many; the same futures for every
model; intervals by bootstrap over episodes, with the threshold of equal alarms chosen anew in every draw. Calibration
counts every kind as often as it was among all futures: models learn that mixture, not the balanced one. The published
goal is stated before the numbers: against the model of driven futures alone, at most half the false-safe rate at equal
alarms, also below the one with noise, and at most three points more false alarms.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.report import machine
from eval.results import write_json_atomically
from training.counterfactual.outcome import FutureKind
from training.risk import metrics
from training.risk.data import FRAME_S, HORIZON_S, Arm, FutureSet, balanced, failing
from training.risk.loss import bits
from training.risk.model import RiskModel
from training.risk.train import load_risk_model

REGION_M = 4.0
"""Obstacles are looked for so near to where the ego ends up touching them."""
HALVED = 0.5
MORE_ALARMS = 0.03
BASELINE, NOISY, HONEST = Arm.EXPERT.value, Arm.NOISE.value, Arm.COUNTERFACTUAL.value
COLUMNS = (
    ("auroc", "AUROC", "{:.3f}"),
    ("average_precision", "AP", "{:.3f}"),
    ("false_safe", "false-safe at 0.5", "{:.1%}"),
    ("false_alarm", "false alarms at 0.5", "{:.1%}"),
    ("false_safe_equal", "false-safe at equal alarms", "{:.1%}"),
    ("false_alarm_near_miss", "false alarms on near misses", "{:.1%}"),
    ("calibration_error", "calibration error", "{:.3f}"),
    ("time_error_s", "time error, s", "{:.2f}"),
    ("impact_error_mps", "impact error, m/s", "{:.2f}"),
    ("foreground_iou", "foreground IoU", "{:.3f}"),
    ("persistence", "obstacle persistence", "{:.2f}"),
    ("within_auroc", "AUROC within a state", "{:.3f}"),
    ("sensitivity", "change by action", "{:.3f}"),
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """How it is measured."""

    per_kind: int = 300
    """Futures of every kind, if there are so many."""
    equal_alarms: float = 0.1
    """False alarm rate at which models are compared."""
    draws: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    batch: int = 32
    """Base states at a time."""

    def __post_init__(self) -> None:
        if min(self.per_kind, self.draws, self.batch) < 1 or not 0.0 < self.equal_alarms < 1.0:
            raise ValueError(f"per-kind, draws and batch must be at least 1 and equal-alarms in (0, 1), got {self}")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a model says about each of n futures."""

    failure: np.ndarray
    collision: np.ndarray
    off_road: np.ndarray
    failure_s: np.ndarray
    impact_mps: np.ndarray
    """At the true time of the contact; NaN without one."""
    shared: np.ndarray
    """Foreground cells that are foreseen and true, in the frame nearest to the failure, or the last one without any."""
    either: np.ndarray
    persistence: np.ndarray
    """Foreseen over true occupancy by others around the contact; NaN without one."""


def run(folders: Sequence[Path], models: Sequence[Path], out: Path, config: BenchmarkConfig) -> dict[str, Any]:
    """Measure models, write risk_bench.json and .md into a folder; gives the former's content.

    Raises: ArrayFileError, CheckpointError, ConfigError, ValueError when a model was trained in a town of the futures.
    """
    data = FutureSet.read(folders)
    generator = np.random.default_rng(config.seed)
    rows = balanced(data, config.per_kind, generator)
    results: dict[str, Any] = {}
    scores: dict[str, list[np.ndarray]] = {}
    loaded = {path: load_risk_model(path) for path in models}
    _check_alike({path: about for path, (_, about) in loaded.items()})
    for path, (model, about) in loaded.items():
        seen = sorted(set(about.get("towns", ())) & set(data.towns))
        if seen:
            raise ValueError(f"{path}: was trained in {', '.join(seen)}; the benchmark needs towns it has not seen")
        if model.config.source == "latent" and about.get("states_of") != data.states_of:
            raise ValueError(
                f"{path}: reads states of another agent than the futures have; log both with the same agent"
            )
        foreseen = foresee(model, data, rows, config.batch)
        measured = measure(data, rows, foreseen, config)
        arm, seed = str(about.get("arm", path.parent.name)), int(about.get("seed", 0))
        results[f"{arm}-{seed}"] = {"arm": arm, "seed": seed, "training": about, **measured}
        scores.setdefault(arm, []).append(foreseen.failure)
        logger.info("%s: AUROC %.3f, false-safe %.3f", path, measured["auroc"], measured["false_safe"])
    summary = {
        "futures": len(rows),
        "kinds": {kind.name.lower(): int((data.kind[rows] == kind).sum()) for kind in FutureKind},
        "states": len(np.unique(data.state[rows])),
        "episodes": len(np.unique(data.episode[data.state[rows]])),
        "towns": data.towns,
        "equal_alarms": config.equal_alarms,
        "machine": machine(),
        "models": results,
        "comparison": compare(data, rows, scores, config),
    }
    out.mkdir(parents=True, exist_ok=True)
    summary = _plain(summary)
    write_json_atomically(out / "risk_bench.json", summary)
    (out / "risk_bench.md").write_text(table(summary), encoding="utf-8")
    return summary


def _check_alike(abouts: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raises: ValueError for models of which one has cost more than another."""
    costs = {path: tuple(about.get(key) for key in ("updates", "states", "futures")) for path, about in abouts.items()}
    if len(set(costs.values())) > 1:
        told = "; ".join(f"{path}: {u} updates of {s} states out of {f} futures" for path, (u, s, f) in costs.items())
        raise ValueError(f"{told}. Compare only what was trained alike")


@torch.inference_mode()
def foresee(model: RiskModel, data: FutureSet, rows: np.ndarray, batch: int) -> Foreseen:
    """What a model says about futures."""
    names = ("failure", "collision", "off_road", "failure_s", "impact_mps", "shared", "either", "persistence")
    found = {name: np.full(len(rows), np.nan) for name in names}
    states, place = np.unique(data.state[rows], return_inverse=True)
    for first in range(0, len(states), batch):
        some = states[first : first + batch]
        inputs = data.inputs(some)
        maps = model.encode(inputs)
        own = np.flatnonzero((place >= first) & (place < first + len(some)))
        at = torch.from_numpy(place[own] - first)
        targets = data.targets(rows[own][:, None])
        each = maps.of(at)
        forecast = model.foresee(each, inputs.vector[at], targets.motion)
        found["failure"][own] = forecast.failure_probability()[:, 0].numpy()
        found["collision"][own] = forecast.collision_probability()[:, 0].numpy()
        found["off_road"][own] = forecast.off_road_probability()[:, 0].numpy()
        found["failure_s"][own] = forecast.failure_s()[:, 0].numpy()
        step = targets.contact_step.clamp_min(0)
        impact = forecast.impact_mps.gather(-1, step[..., None])[:, 0, 0].numpy()
        found["impact_mps"][own] = np.where(targets.contact_step[:, 0].numpy() >= 0, impact, np.nan)
        seen = torch.sigmoid(model.occupancy(each, targets.motion))[:, 0].numpy()
        true = bits(targets.occupancy)[:, 0].numpy()
        for name, values in _occupancy_measures(data, rows[own], seen, true).items():
            found[name][own] = values
    return Foreseen(**found)


def _occupancy_measures(data: FutureSet, futures: np.ndarray, seen: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Of the frame nearest to the failure, or the last one; seen and true (n, 6, classes, 32, 32)."""
    contact, failed_s = data.contact_s[futures], data.failure_s(futures)
    frame = np.round(np.minimum(failed_s, HORIZON_S) / FRAME_S).astype(int) - 1
    frame = np.clip(frame, 0, seen.shape[1] - 1)
    n = np.arange(len(futures))
    seen, true = seen[n, frame, 1:], true[n, frame, 1:] > 0.5
    rows, columns = np.indices(seen.shape[-2:])
    ahead, left = 23.5 - rows, 15.5 - columns
    region = np.hypot(ahead, left) < REGION_M
    mass, foreseen = (true & region).sum((1, 2, 3)), (seen * region).sum((1, 2, 3))
    return {
        "shared": ((seen > 0.5) & true).sum((1, 2, 3)),
        "either": ((seen > 0.5) | true).sum((1, 2, 3)),
        "persistence": np.where((contact >= 0.0) & (mass > 0), foreseen / np.maximum(mass, 1), np.nan),
    }


def measure(data: FutureSet, rows: np.ndarray, foreseen: Foreseen, config: BenchmarkConfig) -> dict[str, Any]:
    """All measures of one model, with intervals."""
    kind, state = data.kind[rows], data.state[rows]
    bad = failing(kind)
    score = foreseen.failure
    threshold = metrics.threshold_at(score, bad, config.equal_alarms)
    true_s = data.failure_s(rows)
    weight = metrics.natural_weight(kind, data.kind)
    noticed = bad & (score >= 0.5)
    touched = np.isfinite(foreseen.impact_mps)
    won, pairs = metrics.within_pairs(score, bad, state)
    apart, others = metrics.differences_within(score, state)

    def all_of(chosen: np.ndarray) -> dict[str, float]:
        own, s = bad[chosen], score[chosen]
        found, hit = chosen[noticed[chosen]], chosen[touched[chosen]]
        shown = chosen[own]
        equal = metrics.threshold_at(s, own, config.equal_alarms)
        return {
            "auroc": metrics.auroc(s, own),
            "average_precision": metrics.average_precision(s, own),
            "false_safe": metrics.false_safe(s, own),
            "false_alarm": metrics.false_alarm(s, own),
            "false_safe_equal": metrics.false_safe(s, own, equal),
            "false_alarm_near_miss": _mean(s[kind[chosen] == FutureKind.NEAR_MISS] >= 0.5),
            "calibration_error": metrics.calibration_error(s, own, weight[chosen]),
            "time_error_s": _median(np.abs(foreseen.failure_s[found] - true_s[found])),
            "impact_error_mps": _mean(np.abs(foreseen.impact_mps[hit] - data.impact_mps[rows[hit]])),
            "foreground_iou": float(foreseen.shared[shown].sum() / max(foreseen.either[shown].sum(), 1)),
            "persistence": _mean(foreseen.persistence[shown][np.isfinite(foreseen.persistence[shown])]),
            "within_auroc": metrics.ratio(won[chosen], pairs[chosen]),
            "sensitivity": metrics.ratio(apart[chosen], others[chosen]),
        }

    whole = np.arange(len(rows))
    names = [name for name, _, _ in COLUMNS]
    draws = metrics.bootstrap(
        lambda chosen: np.array([all_of(chosen)[name] for name in names]),
        data.episode[state],
        config.draws,
        np.random.default_rng(config.seed),
    )
    by_kind = {}
    for each in FutureKind:
        own = kind == each
        called = float((score[own] >= 0.5).mean()) if own.any() else float("nan")
        equal = float((score[own] >= threshold).mean()) if own.any() else float("nan")
        by_kind[each.name.lower()] = {"futures": int(own.sum()), "called_failing": called, "at_equal_alarms": equal}
    collided = data.contact_s[rows] >= 0.0
    left = data.off_road_s[rows] >= 0.0
    return {
        **all_of(whole),
        "auroc_collision": metrics.auroc(foreseen.collision, collided),
        "auroc_off_road": metrics.auroc(foreseen.off_road, left),
        "threshold_equal": threshold,
        "intervals": {name: metrics.interval(draws[:, k]) for k, name in enumerate(names)},
        "by_kind": by_kind,
    }


def compare(
    data: FutureSet, rows: np.ndarray, scores: Mapping[str, Sequence[np.ndarray]], config: BenchmarkConfig
) -> dict[str, Any]:
    """Paired differences of the false-safe rates (mean over seeds), and the verdict on the goal."""
    if not {BASELINE, NOISY, HONEST} <= set(scores):
        return {"verdict": "not measured", "reason": f"needs the arms {BASELINE}, {NOISY} and {HONEST}"}
    bad, episode = failing(data.kind[rows]), data.episode[data.state[rows]]

    def at_equal_alarms(score: np.ndarray, own: np.ndarray) -> float:
        return metrics.false_safe(score, own, metrics.threshold_at(score, own, config.equal_alarms))

    def rates(chosen: np.ndarray) -> np.ndarray:
        found, own = [], bad[chosen]
        for arm in (BASELINE, NOISY, HONEST):
            for measured in (at_equal_alarms, metrics.false_alarm, metrics.false_safe):
                found.append(np.mean([measured(score[chosen], own) for score in scores[arm]]))
        base, base_alarm, base_half, noise, _, _, honest, honest_alarm, honest_half = found
        ratio, ratio_half = honest / max(base, 1e-9), honest_half / max(base_half, 1e-9)
        return np.array([ratio, base - honest, noise - honest, honest_alarm - base_alarm, ratio_half])

    whole = rates(np.arange(len(rows)))
    draws = metrics.bootstrap(rates, episode, config.draws, np.random.default_rng(config.seed))
    names = ("ratio", "less_than_expert", "less_than_noise", "more_alarms", "ratio_at_half")
    found = {
        name: {"value": float(whole[k]), "interval": metrics.interval(draws[:, k])} for k, name in enumerate(names)
    }
    above = found["less_than_noise"]["interval"]
    reached = {
        "halved": whole[0] <= HALVED,
        "below_noise": above is not None and above[0] > 0.0,
        "few_more_alarms": whole[3] <= MORE_ALARMS,
    }
    reached = {name: bool(value) for name, value in reached.items()}
    return {**found, "reached": reached, "verdict": "replicated" if all(reached.values()) else "not replicated"}


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: one row per model, then what each calls failing, by kind, then the comparison."""
    kinds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary["kinds"].items())
    lines = [
        f"{summary['futures']} futures of {summary['states']} states in {summary['episodes']} episodes, towns "
        f"{', '.join(summary['towns'])} ({kinds}). Embedded server, not CARLA; {summary['machine']}. "
        f"In brackets: 95 % intervals, bootstrap over episodes.",
        "",
        "| model | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, found in summary["models"].items():
        cells = [_cell(found[key], found["intervals"][key], form) for key, _, form in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"Share called failing, at the threshold with {summary['equal_alarms']:.0%} false alarms:", ""]
    lines += ["| model | " + " | ".join(name.replace("_", " ") for name in summary["kinds"]) + " |"]
    lines += ["|---" * (len(summary["kinds"]) + 1) + "|"]
    for name, found in summary["models"].items():
        cells = [_cell(each["at_equal_alarms"], None, "{:.1%}") for each in found["by_kind"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    comparison = summary["comparison"]
    lines += ["", f"Goal: {comparison['verdict']}."]
    if "ratio" in comparison:
        for key, text, form in (
            ("ratio", "false-safe rate at equal alarms, counterfactual over expert", "{:.2f}"),
            ("less_than_noise", "noise minus counterfactual", "{:+.1%}"),
            ("more_alarms", "more false alarms at 0.5 than expert", "{:+.1%}"),
        ):
            lines.append(f"* {text}: {_cell(comparison[key]['value'], comparison[key]['interval'], form)}")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, between: Sequence[float] | None, form: str) -> str:
    if value is None:
        return "-"
    if between is None:
        return form.format(value)
    return f"{form.format(value)} [{form.format(between[0])}, {form.format(between[1])}]"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _plain(value: Any) -> Any:
    """JSON without numbers that are none."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
