"""What the agent is told of its route: the dense plan, its sparse form and both in GPS coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import carla

from agent.route import BENCH2DRIVE_SPACING_M, LEADERBOARD_SPACING_M, sparse_indices
from eval.geo import GpsPoint, geo_reference, gps_from_world
from eval.planner import DensePlan, RoadOption, RoutePlanner, plan_length_m
from eval.routes import Route

__all__ = ["BENCH2DRIVE_SPACING_M", "LEADERBOARD_SPACING_M", "RoutePlan", "make_plan", "sparse_indices"]


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
