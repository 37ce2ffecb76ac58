"""Driving scores of the CARLA Leaderboard 2.0 and 2.1 and of Bench2Drive, as pure functions.

Source: `statistics_manager` of leaderboard-2.0, leaderboard-2.1 and Bench2Drive 0.0.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Scoring(str, Enum):
    """Whose rules a route is run and scored by."""

    LEADERBOARD_20 = "2.0"
    LEADERBOARD_21 = "2.1"
    BENCH2DRIVE = "bench2drive"


class Infraction(str, Enum):
    """Kinds of infractions, named as in the leaderboard's results file."""

    COLLISION_STATIC = "collisions_layout"
    COLLISION_PEDESTRIAN = "collisions_pedestrian"
    COLLISION_VEHICLE = "collisions_vehicle"
    RED_LIGHT = "red_light"
    STOP_SIGN = "stop_infraction"
    OUTSIDE_ROUTE_LANES = "outside_route_lanes"
    MIN_SPEED = "min_speed_infractions"
    YIELD_TO_EMERGENCY_VEHICLE = "yield_emergency_vehicle_infractions"
    SCENARIO_TIMEOUT = "scenario_timeouts"
    ROUTE_DEVIATION = "route_dev"
    VEHICLE_BLOCKED = "vehicle_blocked"
    ROUTE_TIMEOUT = "route_timeout"


FACTORS_20 = {
    Infraction.COLLISION_PEDESTRIAN: 0.5,
    Infraction.COLLISION_VEHICLE: 0.6,
    Infraction.COLLISION_STATIC: 0.65,
    Infraction.RED_LIGHT: 0.7,
    Infraction.STOP_SIGN: 0.8,
    Infraction.SCENARIO_TIMEOUT: 0.7,
    Infraction.YIELD_TO_EMERGENCY_VEHICLE: 0.7,
}
"""Leaderboard 2.0 and Bench2Drive multiply the score by the factor of each infraction."""

MIN_SPEED_FACTOR_20 = 0.7

COEFFICIENTS_21 = {
    Infraction.COLLISION_PEDESTRIAN: 1.0,
    Infraction.COLLISION_VEHICLE: 0.7,
    Infraction.COLLISION_STATIC: 0.6,
    Infraction.RED_LIGHT: 0.4,
    Infraction.STOP_SIGN: 0.25,
    Infraction.SCENARIO_TIMEOUT: 0.4,
    Infraction.YIELD_TO_EMERGENCY_VEHICLE: 0.4,
}
"""Leaderboard 2.1 divides the score by one plus the sum of the coefficients."""

MIN_SPEED_COEFFICIENT_21 = 0.4


@dataclass(frozen=True, slots=True)
class Offence:
    """One infraction; `percentage` is the share outside the lanes, or the speed relative to the traffic."""

    kind: Infraction
    percentage: float = 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one route under the leaderboard's names: percent, factor, percent."""

    score_route: float
    score_penalty: float
    score_composed: float


def penalty(offences: Iterable[Offence], scoring: Scoring) -> float:
    """Factor on the route completion; 1 without offences."""
    if scoring is Scoring.LEADERBOARD_21:
        return _penalty_21(offences)
    factor = 1.0
    for offence in offences:
        if offence.kind in FACTORS_20:
            factor *= FACTORS_20[offence.kind]
        elif offence.kind is Infraction.OUTSIDE_ROUTE_LANES:
            factor *= _shortfall(offence)
        elif offence.kind is Infraction.MIN_SPEED and scoring is Scoring.LEADERBOARD_20:
            factor *= 1.0 - (1.0 - MIN_SPEED_FACTOR_20) * _shortfall(offence)
    return factor


def route_scores(completion_percent: float, offences: Sequence[Offence], scoring: Scoring) -> Scores:
    """Scores of a route from its completion [%] and its offences, rounded as the leaderboard does."""
    factor = penalty(offences, scoring)
    return Scores(
        score_route=round(completion_percent, 6),
        score_penalty=round(factor, 6),
        score_composed=round(max(completion_percent * factor, 0.0), 6),
    )


def succeeded(status: str, infractions: Mapping[str, Sequence[str]]) -> bool:
    """Bench2Drive's success: the route completed without any infraction but minimum speed."""
    clean = all(not messages for kind, messages in infractions.items() if kind != Infraction.MIN_SPEED.value)
    return status in ("Completed", "Perfect") and clean


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of a single value is 0."""
    if not values:
        raise ValueError("no routes to average over")
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _penalty_21(offences: Iterable[Offence]) -> float:
    factor, weight = 1.0, 0.0
    for offence in offences:
        if offence.kind in COEFFICIENTS_21:
            weight += COEFFICIENTS_21[offence.kind]
        elif offence.kind is Infraction.MIN_SPEED:
            weight += MIN_SPEED_COEFFICIENT_21 * _shortfall(offence)
        elif offence.kind is Infraction.OUTSIDE_ROUTE_LANES:
            factor *= _shortfall(offence)
    return factor / (1.0 + weight)


def _shortfall(offence: Offence) -> float:
    """What is left to the full percentage; faster than the traffic, as Bench2Drive's files have it, earns nothing."""
    return min(max(1.0 - offence.percentage / 100.0, 0.0), 1.0)
