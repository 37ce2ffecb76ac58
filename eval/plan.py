"""What the agent is told of its route: the dense plan, its sparse form and both in GPS coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import carla

from eval.geo import GpsPoint, geo_reference, gps_from_world
from eval.planner import LANE_CHANGES, DensePlan, RoadOption, RoutePlanner, plan_length_m
from eval.routes import Route

LEADERBOARD_SPACING_M = 200.0
BENCH2DRIVE_SPACING_M = 50.0


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A route on its map: `world` is the dense plan (about 1 m apart), `gps` the same points in GPS coordinates."""

    route: Route
    world: DensePlan
    gps: list[tuple[GpsPoint, RoadOption]]
    length_m: float


def make_plan(route: Route, carla_map: carla.Map, planner: RoutePlanner | None = None) -> RoutePlan:
    """The route planned on the map (a planner of the same map may be passed to save building one).

    Raises: PlannerError.
    """
    world = (planner or RoutePlanner(carla_map)).plan(route.keypoints)
    reference_deg = geo_reference(carla_map.to_opendrive())
    gps = [
        (gps_from_world(reference_deg, point.location.x, point.location.y, point.location.z), option)
        for point, option in world
    ]
    return RoutePlan(route=route, world=world, gps=gps, length_m=plan_length_m(world))


def sparse_indices(plan: Sequence[tuple[carla.Transform, RoadOption]], spacing_m: float) -> list[int]:
    """Indices of the plan that the leaderboard gives to the agent.

    Kept are the first and the last point, every lane-change point, every change of option (unless it follows a lane
    change) and a point after more than `spacing_m` metres. The step to a kept point does not count towards the
    distance. Source: leaderboard 2.0 `downsample_route`, with 200 m; Bench2Drive uses 50 m.
    """
    kept: list[int] = []
    distance_m = 0.0
    for index, (transform, option) in enumerate(plan):
        before = plan[index - 1] if index else None
        if (
            before is None
            or option in LANE_CHANGES
            or (before[1] != option and before[1] not in LANE_CHANGES)
            or distance_m > spacing_m
            or index == len(plan) - 1
        ):
            kept.append(index)
            distance_m = 0.0
        else:
            distance_m += _distance_m(transform.location, before[0].location)
    return kept


def _distance_m(a: carla.Location, b: carla.Location) -> float:
    return math.dist((a.x, a.y, a.z), (b.x, b.y, b.z))
