"""Two runs compared on the drives they share: route, repetition and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.metrics.records import RouteResult, Run
from eval.metrics.scores import common_scoring, score_run
from eval.metrics.statistics import RESAMPLES, Interval, Ratio, mcnemar_p, paired_bootstrap
from eval.metrics.summary import Options, ScoredRun, score_drives
from eval.metrics.tables import (
    ABILITY_KEYS,
    ALL_PER_KM,
    COMFORT_AS_CODED,
    COMFORT_CORRECTED,
    DRIVING_SCORE,
    EFFICIENCY,
    OUTSIDE_PER_KM,
    PER_KM_KEYS,
    ROUTE_COMPLETION,
    SUCCESS_RATE,
    Drive,
    tables,
)
from eval.results import ResultsError
from eval.scoring import Scoring

COMPARED = (DRIVING_SCORE, ROUTE_COMPLETION, SUCCESS_RATE, ALL_PER_KM, *PER_KM_KEYS, OUTSIDE_PER_KM)
MEASURED = {
    "efficiency": (EFFICIENCY,),
    "comfort": (COMFORT_AS_CODED, COMFORT_CORRECTED),
    "abilities": ABILITY_KEYS,
}
"""What is compared over the routes on which it was measured on both sides."""
DriveKey = tuple[str, int, int | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of both sides over the shared drives; the difference is second minus first."""

    first: float
    second: float
    interval: Interval | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences over the paired drives, and what could not be paired."""

    scoring: Scoring
    names: tuple[str, str]
    pairs: int
    differences: Mapping[str, Difference]
    only_first_succeeded: int
    only_second_succeeded: int
    unpaired_first: tuple[DriveKey, ...]
    unpaired_second: tuple[DriveKey, ...]
    resamples: int
    notes: tuple[str, ...]

    @property
    def mcnemar_p(self) -> float:
        """Exact two-sided p of the difference in success."""
        return mcnemar_p(self.only_first_succeeded, self.only_second_succeeded)

    def to_json(self) -> dict[str, Any]:
        """The comparison with documented keys."""
        return {
            "format": 1,
            "scoring": self.scoring.value,
            "first": self.names[0],
            "second": self.names[1],
            "pairs": self.pairs,
            "differences": {
                name: {
                    "first": item.first,
                    "second": item.second,
                    "difference": item.difference,
                    "interval_95": None if item.interval is None else list(item.interval),
                }
                for name, item in self.differences.items()
            },
            "success_mcnemar": {
                "only_first": self.only_first_succeeded,
                "only_second": self.only_second_succeeded,
                "p": self.mcnemar_p,
            },
            "unpaired_first": [_key_json(key) for key in self.unpaired_first],
            "unpaired_second": [_key_json(key) for key in self.unpaired_second],
            "bootstrap_resamples": self.resamples,
            "notes": list(self.notes),
        }


def compare_runs(
    first: Sequence[Run],
    second: Sequence[Run],
    scoring: Scoring | None = None,
    *,
    ignore_seeds: bool = False,
    resamples: int = RESAMPLES,
    options: Options | None = None,
) -> Comparison:
    """Paired comparison; `first` and `second` are the runs (seeds) of one side each.

    `options`: where scenario types, maps and logged motion are found (its scoring and resamples do not count).

    Raises: ResultsError if the sides were scored by different rules and none was asked for, or share no drive.
    """
    chosen = common_scoring([*first, *second], scoring)
    with_seeds = not ignore_seeds and all(_has_seeds(side) for side in (first, second))
    found = options or Options()
    scored = [[score_drives(run, chosen, found) for run in side] for side in (first, second)]
    left, right = (_drives(side, with_seeds=with_seeds) for side in scored)
    shared = sorted(left.keys() & right.keys(), key=_sortable)
    names = (_name(first), _name(second))
    if not shared:
        raise ResultsError(_nothing_shared(names, left, right))
    both = tables([[side[key] for key in shared] for side in (left, right)], [len(shared)] * 2)
    ratios, missing = _measured_on_both(both[0], both[1])
    if any(run.open_signs for side in scored for run in side):
        missing = (*missing, "Traffic_Signs is without its extra credit (give --routes and --town-dir)")
    missing = (*missing, *_other_towns(left, right, shared))
    intervals = paired_bootstrap(*ratios, resamples=resamples)
    differences = {
        name: Difference(ratios[0][name].value() or 0.0, ratios[1][name].value() or 0.0, intervals[name])
        for name in ratios[0]
    }
    won = [(left[key].score.success, right[key].score.success) for key in shared]
    return Comparison(
        scoring=chosen,
        names=names,
        pairs=len(shared),
        differences=differences,
        only_first_succeeded=won.count((True, False)),
        only_second_succeeded=won.count((False, True)),
        unpaired_first=tuple(sorted(left.keys() - right.keys(), key=_sortable)),
        unpaired_second=tuple(sorted(right.keys() - left.keys(), key=_sortable)),
        resamples=resamples,
        notes=(*_notes([*first, *second], chosen, with_seeds=with_seeds, ignored=ignore_seeds), *missing),
    )


def pair_drives(
    first: Sequence[Run], second: Sequence[Run], scoring: Scoring | None = None, *, ignore_seeds: bool = False
) -> tuple[dict[DriveKey, Drive], dict[DriveKey, Drive]]:
    """The drives that both sides share, by key, in the same order, scored by the same rules.

    Raises: ResultsError if the sides were scored by different rules and none was asked for, or share no drive.
    """
    chosen = common_scoring([*first, *second], scoring)
    with_seeds = not ignore_seeds and all(_has_seeds(side) for side in (first, second))
    scored = [[score_drives(run, chosen, Options()) for run in side] for side in (first, second)]
    left, right = (_drives(side, with_seeds=with_seeds) for side in scored)
    shared = sorted(left.keys() & right.keys(), key=_sortable)
    if not shared:
        raise ResultsError(_nothing_shared((_name(first), _name(second)), left, right))
    return {key: left[key] for key in shared}, {key: right[key] for key in shared}


def show_key(key: DriveKey) -> str:
    """A drive as text, with repetition and seed where they say something."""
    route_id, repetition, seed = key
    return f"{route_id}{f' repetition {repetition}' if repetition else ''}{'' if seed is None else f' seed {seed}'}"


def _drives(side: Sequence[ScoredRun], *, with_seeds: bool) -> dict[DriveKey, Drive]:
    """Drives by key; of a drive that is recorded twice the first counts."""
    drives: dict[DriveKey, Drive] = {}
    for scored in side:
        for drive in scored.drives:
            key = _key(drive.result, with_seeds=with_seeds)
            drives.setdefault(key, replace(drive, result=replace(drive.result, seed=None)))
    return drives


def _measured_on_both(
    first: Mapping[str, Ratio], second: Mapping[str, Ratio]
) -> tuple[tuple[dict[str, Ratio], dict[str, Ratio]], tuple[str, ...]]:
    """The metrics of both sides over the routes that count for both, and a note on what is missing."""
    sides = {name: (first[name], second[name]) for name in COMPARED}
    missing = []
    for kind, names in MEASURED.items():
        pairs = {name: _on_both(first[name], second[name]) for name in names if name in first and name in second}
        pairs = {name: pair for name, pair in pairs.items() if pair[0].value() is not None}
        sides |= pairs
        missing += [] if pairs else [kind]
    note = f"not measured on both sides: {', '.join(missing)} (--routes, --metric-dir say where to look)"
    split = ({name: pair[0] for name, pair in sides.items()}, {name: pair[1] for name, pair in sides.items()})
    return split, (note,) if missing else ()


def _other_towns(
    left: Mapping[DriveKey, Drive], right: Mapping[DriveKey, Drive], shared: Sequence[DriveKey]
) -> tuple[str, ...]:
    """A note where drives of one id lie in different towns: the sides drove different route files."""
    towns = {key: (left[key].result.town, right[key].result.town) for key in shared}
    apart = [key for key, (one, other) in towns.items() if one and other and one != other]
    if not apart:
        return ()
    one, other = towns[apart[0]]
    return (
        f"{len(apart)} of {len(shared)} pairs lie in different towns (route {show_key(apart[0])}: {one} and {other}): "
        "these runs are of different route files",
    )


def _on_both(first: Ratio, second: Ratio) -> tuple[Ratio, Ratio]:
    counts = (first.denominator > 0.0) & (second.denominator > 0.0)
    one, other = (
        replace(side, numerator=side.numerator * counts, denominator=side.denominator * counts)
        for side in (first, second)
    )
    return one, other


def _key(result: RouteResult, *, with_seeds: bool) -> DriveKey:
    return result.route_id, result.repetition, result.seed if with_seeds else None


def _has_seeds(side: Sequence[Run]) -> bool:
    return all(result.seed is not None for run in side for result in run.results)


def _notes(runs: Sequence[Run], scoring: Scoring, *, with_seeds: bool, ignored: bool) -> tuple[str, ...]:
    notes = [note for run in runs for note in (*run.notes, *score_run(run, scoring).notes)]
    if not with_seeds and not ignored:
        notes.append("paired by route and repetition alone: not all records name their seed")
    return tuple(dict.fromkeys(notes))


def _nothing_shared(names: tuple[str, str], left: Mapping[DriveKey, Drive], right: Mapping[DriveKey, Drive]) -> str:
    routes = {key[0] for key in left} & {key[0] for key in right}
    if routes:
        return (
            f"{names[0]} and {names[1]} share {len(routes)} routes but no drive of the same repetition and seed; "
            "--ignore-seeds pairs them by route and repetition"
        )
    return f"{names[0]} and {names[1]} share no route; compare runs of the same route file"


def _name(side: Sequence[Run]) -> str:
    return side[0].name if len(side) == 1 else f"{side[0].name} and {len(side) - 1} more"


def _sortable(key: DriveKey) -> tuple[str, int, int]:
    return key[0], key[1], key[2] if key[2] is not None else -1


def _key_json(key: DriveKey) -> dict[str, Any]:
    return {"route_id": key[0], "repetition": key[1], "seed": key[2]}
