"""Routes generated on any map: random drives through junctions, checked with the planner."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import carla

from eval.planner import PlannerError, RoutePlanner, count_turns, plan_length_m
from eval.routes import Route, Weather

STEP_M = 5.0
SPACING_START_M = 12.0
"""Distance of start points from each other; routes may overlap otherwise."""
JUNCTION_CLEARANCE_M = 12.0
"""A route starts and ends at least this far from a junction ahead, so that neither is inside one."""
LENGTH_RATIO = 1.6
"""A route is at most this much longer than asked for."""
MAX_STEP_M = 15.0
"""A longer step between dense points (a lane change is about 6 m) means a torn plan."""
ATTEMPTS_PER_ROUTE = 200
SUNNY = Weather(0.0, (("cloudiness", 20.0), ("sun_altitude_angle", 50.0)))


class RouteGenerationError(ValueError):
    """The map does not offer enough routes of the wanted kind."""


def generate_routes(
    carla_map: carla.Map,
    count: int,
    *,
    seed: int,
    min_length_m: float = 400.0,
    min_turns: int = 2,
    town: str | None = None,
    weathers: tuple[Weather, ...] = (SUNNY,),
) -> list[Route]:
    """`count` routes with at least `min_length_m` metres and `min_turns` left or right turns, ids 1..count.

    The same map and seed give the same routes. Raises: RouteGenerationError.
    """
    generator = random.Random(seed)
    planner = RoutePlanner(carla_map)
    starts = [w for w in carla_map.generate_waypoints(STEP_M) if _may_start(w)]
    starts.sort(
        key=lambda w: (w.road_id, w.section_id, w.lane_id, w.s)
    )  # the map's own order is not part of its promise
    generator.shuffle(starts)
    name = town or carla_map.name.split("/")[-1]
    routes: list[Route] = []
    attempts = 0
    while len(routes) < count and starts and attempts < count * ATTEMPTS_PER_ROUTE:
        attempts += 1
        start = starts[attempts % len(starts)]
        if any(_near(start, route.keypoints[0]) for route in routes):
            continue
        keypoints = _random_drive(start, min_length_m, min_turns, generator)
        if keypoints is None or not _is_good(planner, keypoints, min_length_m, min_turns):
            continue
        routes.append(Route(id=str(len(routes) + 1), town=name, keypoints=tuple(keypoints), weathers=weathers))
    if len(routes) < count:
        raise RouteGenerationError(
            f"{name}: {len(routes)} of {count} routes with {min_length_m:.0f} m and {min_turns} turns found in "
            f"{attempts} attempts; ask for fewer, shorter or straighter ones"
        )
    return routes


def _random_drive(
    start: carla.Waypoint, min_length_m: float, min_turns: int, generator: random.Random
) -> list[tuple[float, float, float]] | None:
    """Keypoints of a random drive: its start, one in the middle of each road between junctions, its end."""
    keypoints = [_xyz(start)]
    stretch: list[carla.Waypoint] = []  # waypoints since the last junction
    waypoint, length_m, turns, heading_deg = start, 0.0, 0, start.transform.rotation.yaw
    for _ in range(int(LENGTH_RATIO * min_length_m / STEP_M)):
        following = waypoint.next(STEP_M)
        if not following:
            return None
        entering = not waypoint.is_junction
        waypoint = generator.choice(following)
        length_m += STEP_M
        if waypoint.is_junction:
            if entering:
                if stretch:
                    keypoints.append(_xyz(stretch[len(stretch) // 2]))
                heading_deg, stretch = waypoint.transform.rotation.yaw, []
            continue
        if not stretch and not entering:
            turn_deg = (waypoint.transform.rotation.yaw - heading_deg + 180.0) % 360.0 - 180.0
            turns += abs(turn_deg) > 45.0
        stretch.append(waypoint)
        if length_m >= min_length_m * 1.03 and turns >= min_turns and len(stretch) > 3 and _may_start(waypoint):
            keypoints.append(_xyz(waypoint))
            return keypoints
    return None


def _is_good(
    planner: RoutePlanner, keypoints: list[tuple[float, float, float]], min_length_m: float, min_turns: int
) -> bool:
    try:
        plan = planner.plan(keypoints)
    except PlannerError:
        return False
    length_m = plan_length_m(plan)
    locations = [transform.location for transform, _ in plan]
    longest_step_m = max(a.distance(b) for a, b in pairwise(locations))
    right_length = min_length_m <= length_m <= LENGTH_RATIO * min_length_m
    return right_length and longest_step_m < MAX_STEP_M and count_turns(plan) >= min_turns


def _may_start(waypoint: carla.Waypoint) -> bool:
    if waypoint.is_junction or waypoint.lane_type != carla.LaneType.Driving:
        return False
    ahead = waypoint.next(JUNCTION_CLEARANCE_M)
    return bool(ahead) and not ahead[0].is_junction


def _near(waypoint: carla.Waypoint, point: tuple[float, float, float]) -> bool:
    return math.dist(_xyz(waypoint), point) < SPACING_START_M


def _xyz(waypoint: carla.Waypoint) -> tuple[float, float, float]:
    location = waypoint.transform.location
    return round(location.x, 2), round(location.y, 2), round(location.z, 2)
