"""Every metric of runs as sums per route, on one list of routes, which is what values and intervals are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.abilities import ABILITIES, TRAFFIC_SIGNS, abilities_of, earns_credit
from eval.metrics.comfort import Comfort
from eval.metrics.efficiency import route_efficiency_percent
from eval.metrics.records import RouteResult
from eval.metrics.scores import PER_KM_KINDS, RouteScore, driven_km, outside_km
from eval.metrics.statistics import Ratio
from eval.scoring import Infraction

DRIVING_SCORE = "driving_score_percent"
ROUTE_COMPLETION = "route_completion_percent"
PENALTY = "infraction_penalty"
SUCCESS_RATE = "success_rate_percent"
EFFICIENCY = "efficiency_percent"
COMFORT_AS_CODED = "comfort_as_coded_percent"
COMFORT_CORRECTED = "comfort_corrected_percent"
ABILITIES_MEAN = "abilities_mean_percent"
ALL_PER_KM = "infractions_per_km"
OUTSIDE_PER_KM = "outside_route_lanes_m_per_km"
SMALLEST_KM = 0.001
"""The leaderboard divides by at least a metre."""


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive with everything that was found out about it."""

    result: RouteResult
    score: RouteScore
    comfort: Comfort | None = None
    abilities: frozenset[str] = frozenset()
    """Abilities its scenario counts for."""
    credit_percent: float | None = None
    """Completion to exceed for the traffic signs' credit; None: no credit, or not known."""
    with_efficiency: bool = True


def ability_key(ability: str) -> str:
    """Name of an ability's metric."""
    return f"ability_{ability.lower()}_percent"


def per_km_key(kind: Infraction) -> str:
    """Name of the metric that counts a kind of infraction per kilometre."""
    return f"{kind.value}_per_km"


ABILITY_KEYS = tuple(ability_key(ability) for ability in ABILITIES)
PER_KM_KEYS = tuple(per_km_key(kind) for kind in PER_KM_KINDS)


def drive_abilities(scenario_type: str) -> frozenset[str]:
    """The abilities a drive counts for."""
    return frozenset(abilities_of(scenario_type))


def tables(runs: Sequence[Sequence[Drive]], totals: Sequence[int]) -> list[dict[str, Ratio]]:
    """Per run all metrics as ratios over the same routes, in an order that does not depend on that of the files.

    `totals`: how many drives each run's means are taken over; drives without a record are routes of zeros.
    """
    ids = sorted({drive.result.route_id for run in runs for drive in run})
    expected = [_expected(ids, run, total) for run, total in zip(runs, totals, strict=True)]
    size = max(len(counts) for counts in expected)
    index = {route_id: number for number, route_id in enumerate(ids)}
    return [
        _table(run, index, np.pad(counts, (0, size - len(counts)))) for run, counts in zip(runs, expected, strict=True)
    ]


def _expected(ids: Sequence[str], run: Sequence[Drive], total: int) -> np.ndarray:
    """How many drives each route stands for: those recorded, then one each for missing ones, known to others first."""
    recorded = Counter(drive.result.route_id for drive in run)
    missing = total - len(run)
    counts = []
    for route_id in ids:
        if route_id in recorded:
            counts.append(recorded[route_id])
        else:
            counts.append(1 if missing > 0 else 0)
            missing -= 1
    return np.array([*counts, *([1] * max(missing, 0))], dtype=np.float64)


def _table(run: Sequence[Drive], index: Mapping[str, int], expected: np.ndarray) -> dict[str, Ratio]:
    size = len(expected)
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(name: str, drive: Drive, amount: float, weight: float) -> None:
        above, below = sums.setdefault(name, (np.zeros(size), np.zeros(size)))
        row = index[drive.result.route_id]
        above[row] += amount
        below[row] += weight

    for drive in sorted(run, key=_order):
        for name, amount in _means(drive).items():
            add(name, drive, amount, 0.0)
        for name, amount in _measured(drive).items():
            add(name, drive, amount, 1.0)
        km = driven_km(drive.result)
        for name, amount in _amounts(drive.result).items():
            add(name, drive, amount, km)
    means = (DRIVING_SCORE, ROUTE_COMPLETION, PENALTY, SUCCESS_RATE)
    per_km = (ALL_PER_KM, OUTSIDE_PER_KM, *PER_KM_KEYS)
    return {
        name: Ratio(above, expected if name in means else below, SMALLEST_KM if name in per_km else 0.0)
        for name, (above, below) in sums.items()
    }


def _means(drive: Drive) -> dict[str, float]:
    """What missing drives count as zero for."""
    score = drive.score
    return {
        DRIVING_SCORE: score.composed_percent,
        ROUTE_COMPLETION: score.completion_percent,
        PENALTY: score.penalty,
        SUCCESS_RATE: 100.0 * score.success,
    }


def _measured(drive: Drive) -> dict[str, float]:
    """What only the drives on which it was measured count for."""
    values: dict[str, float] = {}
    efficiency = route_efficiency_percent(drive.result) if drive.with_efficiency else None
    if efficiency is not None:
        values[EFFICIENCY] = efficiency
    if drive.comfort is not None:
        values[COMFORT_AS_CODED] = drive.comfort.as_coded_percent
        values[COMFORT_CORRECTED] = drive.comfort.corrected_percent
    for ability in drive.abilities:
        credit = ability == TRAFFIC_SIGNS and drive.credit_percent is not None
        passed = drive.score.success or (credit and earns_credit(drive.result, drive.credit_percent or 0.0))
        values[ability_key(ability)] = 100.0 * passed
    return values


def _amounts(result: RouteResult) -> dict[str, float]:
    """What is counted per kilometre."""
    counts = {per_km_key(kind): float(len(result.messages(kind))) for kind in PER_KM_KINDS}
    return {ALL_PER_KM: sum(counts.values()), **counts, OUTSIDE_PER_KM: 1000.0 * outside_km(result)}


def _order(drive: Drive) -> tuple[str, int, int, float]:
    result = drive.result
    return result.route_id, result.repetition, result.seed or 0, drive.score.composed_percent
