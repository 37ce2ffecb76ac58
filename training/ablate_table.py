"""Tables of an ablation: each arm beside the paper's figures, with intervals over routes, repetitions and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from eval.metrics.records import read_runs
from eval.metrics.statistics import Interval, Ratio, bootstrap, wilson_interval
from eval.results import STATUS_SIMULATION_CRASHED, ResultsError
from eval.scoring import succeeded
from training.raw.arms import FULL, Arm
from training.raw.readout import shown

SCORE, SUCCESS = "driving_score", "success_percent"
READOUTS = {
    "embed": "e",
    "deter": "h",
    "stoch": "KL(q, q^)",
    "rollout_deter_15": "h after 15",
    "rollout_prior_15": "KL(p, p^) after 15",
    "rollout_reward_15": "reward error after 15",
    "iou_road": "IoU road",
    "iou_vehicle": "IoU vehicles",
    "iou_walker": "IoU walkers",
    "iou_lights": "IoU lights",
    "iou_bodies_seen": "IoU bodies in view",
    "iou_bodies_blind": "IoU bodies in blind spots",
    "policy_kl": "KL(pi, pi^)",
}
"""What is shown of the readouts, and how it is called."""
NOT_CARLA = "Driven on the embedded server, not on CARLA: these are not CARLA results."
MIN_RANKED = 3
Drives = Mapping[tuple[str, int], tuple[float, float]]
"""Driving score and success in percent by route and repetition."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one training run came to."""

    arm: Arm
    seed: int
    readout: Mapping[str, float | None] | None
    """None: not finished."""
    drives: Drives | None
    """None: not driven, or not all routes."""


def read_drives(results: Path) -> Drives | None:
    """Scores in a run's results.json; None if it is not there or the simulation failed on a route.

    Raises: ResultsError for a file that cannot be read.
    """
    if not results.is_file():
        return None
    drives: dict[tuple[str, int], tuple[float, float]] = {}
    for run in read_runs([results]):
        for item in run.results:
            if item.status == STATUS_SIMULATION_CRASHED:
                return None
            success = 100.0 * succeeded(item.status, item.infractions)
            drives[item.route_id, item.repetition] = (item.composed_percent or 0.0, success)
    return drives


def summarised(outcomes: Sequence[Outcome], facts: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `ablation.json`. Raises: ResultsError if runs drove different routes."""
    arms = list(dict.fromkeys(outcome.arm.name for outcome in outcomes))
    own = {name: [outcome for outcome in outcomes if outcome.arm.name == name] for name in arms}
    _check_alike(outcomes)
    rows = {name: _arm(own[name], own.get(FULL, ())) for name in arms}
    return {
        "format": facts["format"],
        **about,
        "data": facts["data"],
        "held_out": facts["held_out"],
        "arms": rows,
        "rank_correlation": _rank_correlation(rows),
    }


def _check_alike(outcomes: Sequence[Outcome]) -> None:
    keys = {frozenset(outcome.drives) for outcome in outcomes if outcome.drives is not None}
    if len(keys) > 1:
        raise ResultsError("runs of the ablation drove different routes or repetitions; give another --out")


def _arm(outcomes: Sequence[Outcome], full: Sequence[Outcome]) -> dict[str, Any]:
    arm = outcomes[0].arm
    driven = [outcome for outcome in outcomes if outcome.drives is not None]
    return {
        "says": arm.says,
        "rows": list(arm.rows),
        "paper": None
        if arm.paper is None
        else {SCORE: arm.paper.driving_score, SUCCESS: 10.0 * arm.paper.successes_of_10},
        "finished": sum(outcome.readout is not None for outcome in outcomes),
        "readout": _readouts(outcomes),
        "readout_per_seed": {str(item.seed): dict(item.readout) for item in outcomes if item.readout is not None},
        "closed_loop": _closed_loop(driven) if driven else None,
        "minus_full": None if arm.name == FULL else _difference(driven, full),
    }


def _readouts(outcomes: Sequence[Outcome]) -> dict[str, list[float] | None]:
    """Mean, smallest and largest value over the seeds."""
    found: dict[str, list[float] | None] = {}
    readouts = [outcome.readout for outcome in outcomes if outcome.readout is not None]
    for name in dict.fromkeys(name for readout in readouts for name in readout):
        values = [value for readout in readouts if (value := readout.get(name)) is not None]
        found[name] = [float(np.mean(values)), min(values), max(values)] if values else None
    return found


def _closed_loop(driven: Sequence[Outcome]) -> dict[str, Any]:
    tables = [_ratios(drives) for outcome in driven for drives in _by_repetition(outcome.drives or {})]
    intervals = bootstrap(tables)
    return {
        "drives": sum(len(outcome.drives or {}) for outcome in driven),
        "seeds": [outcome.seed for outcome in driven],
        **{name: _mean(tables, name) for name in (SCORE, SUCCESS)},
        "interval_95": {SCORE: _listed(intervals[SCORE]), SUCCESS: _success_interval(driven, intervals[SUCCESS])},
        "per_seed": {
            str(outcome.seed): float(np.mean([score for score, _ in (outcome.drives or {}).values()]))
            for outcome in driven
        },
    }


def _success_interval(driven: Sequence[Outcome], resampled: Interval | None) -> list[float]:
    """The wider of the bootstrap, which knows nothing of drives that never succeeded, and Wilson's over all drives."""
    successes = [success > 0.0 for outcome in driven for _, success in (outcome.drives or {}).values()]
    low, high = (100.0 * end for end in wilson_interval(sum(successes), len(successes)))
    return [low, high] if resampled is None else [min(low, resampled[0]), max(high, resampled[1])]


def _difference(driven: Sequence[Outcome], full: Sequence[Outcome]) -> dict[str, Any] | None:
    """Arm minus `full` on the same routes, repetitions and seeds; None without such."""
    others = {outcome.seed: outcome.drives for outcome in full if outcome.drives is not None}
    tables = []
    for outcome in driven:
        reference = others.get(outcome.seed)
        if reference is None or outcome.drives is None:
            continue
        apart = {
            key: (score - reference[key][0], success - reference[key][1])
            for key, (score, success) in outcome.drives.items()
        }
        tables += [_ratios(drives) for drives in _by_repetition(apart)]
    if not tables:
        return None
    intervals = bootstrap(tables)
    return {
        name: {"difference": _mean(tables, name), "interval_95": _listed(intervals[name])} for name in (SCORE, SUCCESS)
    }


def _by_repetition(drives: Drives) -> list[dict[str, tuple[float, float]]]:
    """The routes of each repetition, always in the same order."""
    numbers = sorted({repetition for _, repetition in drives})
    return [
        {route: drives[route, number] for route, repetition in sorted(drives) if repetition == number}
        for number in numbers
    ]


def _ratios(drives: Mapping[str, tuple[float, float]]) -> dict[str, Ratio]:
    scores = np.array(list(drives.values())).reshape(-1, 2)
    ones = np.ones(len(scores))
    return {SCORE: Ratio(scores[:, 0], ones), SUCCESS: Ratio(scores[:, 1], ones)}


def _mean(tables: Sequence[Mapping[str, Ratio]], name: str) -> float:
    return float(np.mean([table[name].value() or 0.0 for table in tables]))


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _rank_correlation(rows: Mapping[str, Any]) -> float | None:
    """Spearman's, of the driving scores here and in the paper; None for fewer than three arms."""
    pairs = [
        (row["paper"][SCORE], row["closed_loop"][SCORE]) for row in rows.values() if row["paper"] and row["closed_loop"]
    ]
    if len(pairs) < MIN_RANKED:
        return None
    printed, own = np.array(pairs).T
    value = float(spearmanr(printed, own).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return value if np.isfinite(value) else None


# ------------------------------------------------------------------------------------------- tables


def markdown(summary: Mapping[str, Any]) -> str:
    """The tables, with what they are about."""
    data, held_out = summary["data"], summary["held_out"]
    measured = "the same windows" if held_out is None else f"{held_out['steps']} decisions that no arm learned from"
    lines = [
        f"{summary['updates']} updates of every arm on {data['steps']} recorded decisions ({data['terminations']} "
        f"endings), {summary['seeds']} seeds each, beginning with {_beginning(summary)}; {summary['machine']}, "
        f"{summary['date']}, code of {summary['commit']}.",
        "",
        *_closed_loop_table(summary),
        "",
        f"What the world models learned, measured on {measured}: mean over the seeds (smallest to largest).",
        "",
        *_readout_table(summary["arms"]),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _beginning(summary: Mapping[str, Any]) -> str:
    parts = {"image encoder": summary["encoder"], "neck": summary["neck"]}
    return " and ".join(f"the {part} of {name}" if name else f"a random {part}" for part, name in parts.items())


def _closed_loop_table(summary: Mapping[str, Any]) -> list[str]:
    driven = summary["routes_file"] is not None
    lines = []
    if driven:
        cut = f", every drive ended after {summary['max_game_s']:g} s" if summary["max_game_s"] is not None else ""
        lines += [
            f"{NOT_CARLA} {summary['routes']} routes of {summary['routes_file']}, {summary['repetitions']} "
            f"repetitions, {summary['traffic']} cars of background traffic{cut}. 95 % intervals: bootstrap over routes "
            "and runs, for SR Wilson's over the drives where that is wider.",
            "",
        ]
    lines += [
        "| arm | what it is | paper's row | paper (CARLA, Dev10): DS; SR % | embedded server: DS | SR % | "
        "DS minus full | DS per seed |",
        "|---" * 8 + "|",
    ]
    for name, row in summary["arms"].items():
        paper = row["paper"]
        printed = "-" if paper is None else f"{paper[SCORE]:g}; {paper[SUCCESS]:g}"
        own, apart = row["closed_loop"], row["minus_full"]
        cells = [
            "-" if own is None else _with_interval(own[SCORE], own["interval_95"][SCORE]),
            "-" if own is None else _with_interval(own[SUCCESS], own["interval_95"][SUCCESS]),
            "-" if apart is None else _with_interval(apart[SCORE]["difference"], apart[SCORE]["interval_95"], "+"),
            "-" if own is None else ", ".join(f"{value:.1f}" for value in own["per_seed"].values()),
        ]
        lines.append(f"| {name} | {row['says']} | {', '.join(row['rows']) or '-'} | {printed} | {' | '.join(cells)} |")
    if summary["rank_correlation"] is not None:
        lines += ["", f"Rank correlation of the driving scores with the paper's: {summary['rank_correlation']:.2f}."]
    return lines


def _readout_table(arms: Mapping[str, Any]) -> list[str]:
    names = [name for name in READOUTS if any(name in row["readout"] for row in arms.values())]
    if not names:
        return ["No arm is finished."]
    lines = [f"| arm | {' | '.join(READOUTS[name] for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, row in arms.items():
        lines.append(f"| {arm} | {' | '.join(_spread(row['readout'].get(name)) for name in names)} |")
    return lines


def _spread(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    mean, low, high = values
    return shown(mean) if low == high else f"{shown(mean)} ({shown(low)} to {shown(high)})"


def _with_interval(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    text = f"{value:{sign}.1f}"
    return text if interval is None else f"{text} ({interval[0]:{sign}.1f} to {interval[1]:{sign}.1f})"
