"""Routes with scenarios for any town: short ones with one scenario each, and long ones with many.

Random drives over the map are planned like any route; every scenario type says where on such a way it can be played
(`Scenario.places`). The same map and seed give the same routes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import carla

from eval.generate import RouteGenerationError
from eval.planner import LANE_CHANGES, PlannerError, RoutePlanner
from eval.routes import Route, ScenarioBlock, Weather
from eval.scenarios.parameters import Parameters
from eval.scenarios.registry import SCENARIOS
from eval.scenarios.way import Way

STEP_M = 5.0
DRIVE_M = 520.0
LANE_CHANGE_RATE_PER_M = 1.0 / 120.0
LANE_CHANGE_M = 20.0
"""Length along the road in which a lane change is planned."""
RUN_UP_M = 45.0
"""A short route starts this far before its scenario's trigger."""
START_CLEAR_M = 12.0
"""No route starts nearer to a junction."""
RUN_OUT_M = 190.0
"""It ends at most this far after the trigger."""
KEYPOINT_M = 25.0
MAX_DETOUR_M = 2.5
"""The route planned from the keypoints must pass the trigger this close."""
DRIVES_PER_TOWN = 400
QUICK_DRIVES = 40
PATIENCE_DRIVES = 250
"""After so many random drives without any place for what is still wanted, a town is taken to have none: where other
towns may do, and where none is left."""
TYPES_PER_DRIVE = 6
"""No more routes than this begin at the same place."""
LONG_SPACING_M = 140.0
"""Triggers of a long route lie at least this far apart."""


@dataclass(frozen=True, slots=True)
class Town:
    """A town's map with its planner."""

    name: str
    carla_map: carla.Map
    planner: RoutePlanner
    starts: tuple[carla.Waypoint, ...]
    """Where random drives may begin."""

    @classmethod
    def of(cls, name: str, carla_map: carla.Map) -> Town:
        """Build the planner, too."""
        starts = [w for w in carla_map.generate_waypoints(20.0) if not w.is_junction]
        starts.sort(key=lambda w: (w.road_id, w.section_id, w.lane_id, w.s))  # the map's own order is no promise
        return cls(name, carla_map, RoutePlanner(carla_map), tuple(starts))


def scenario_routes(
    town: Town,
    wanted: Mapping[str, int],
    *,
    seed: int,
    first_id: int = 1,
    prefix: str = "",
    patience: int = PATIENCE_DRIVES,
) -> tuple[list[Route], Counter[str]]:
    """Short routes with one scenario each, as many of each type as wanted, and how many of each could not be placed.

    A type that the town offers no place for (a motorway's in a village) is only counted; `patience`: random drives
    without any new place after which the search ends.
    """
    generator = random.Random(f"{town.name}/{seed}")
    missing = Counter({kind: count for kind, count in wanted.items() if count > 0})
    routes: list[Route] = []
    last = 0
    for drive in range(DRIVES_PER_TOWN):
        if not missing or drive - last > patience:
            break
        way = _random_way(town, generator, DRIVE_M)
        if way is None:
            continue
        placed = 0
        kinds = sorted(missing)
        if len(kinds) > TYPES_PER_DRIVE:  # else all of them get their chance
            generator.shuffle(kinds)
        for kind in kinds:
            route = _short_route(town, way, kind, generator) if placed < TYPES_PER_DRIVE else None
            if route is not None:
                placed += 1
                routes.append(replace(route, id=f"{prefix}{first_id + len(routes)}"))
                missing -= Counter({kind: 1})
                last = drive
    return routes, missing


def long_route(
    town: Town, *, seed: int, min_length_m: float = 7000.0, min_scenarios: int = 30, route_id: str = "1"
) -> Route:
    """A drive across the town with many scenarios, in the manner of the leaderboard's validation routes.

    Raises: RouteGenerationError if the town does not offer that many places.
    """
    generator = random.Random(f"{town.name}/{seed}/long")
    for _ in range(20):
        way = _random_way(town, generator, min_length_m * 1.02)
        if way is None or way.line.length_m < min_length_m:
            continue
        blocks = _fill(way, generator)
        if len(blocks) >= min_scenarios:
            keypoints = _keypoints(way, 0, len(way.waypoints) - 1)
            return Route(route_id, town.name, keypoints, random_weathers(generator), tuple(blocks))
    raise RouteGenerationError(
        f"{town.name}: no drive of {min_length_m:.0f} m with {min_scenarios} scenarios found; "
        "ask for a shorter one or for fewer, or take a larger town"
    )


def random_weathers(generator: random.Random) -> tuple[Weather, ...]:
    """One weather for the whole route: any hour, cloud cover, rain, wet road and fog."""
    rain = generator.choice((0.0, 0.0, 0.0, 30.0, 60.0, 100.0))
    fog = generator.choice((0.0, 0.0, 0.0, 0.0, 15.0, 40.0))
    parameters = {
        "cloudiness": max(rain, generator.choice((5.0, 30.0, 60.0, 90.0))),
        "precipitation": rain,
        "precipitation_deposits": rain * generator.uniform(0.5, 1.0),
        "wetness": rain,
        "wind_intensity": generator.choice((5.0, 20.0, 60.0)),
        "sun_azimuth_angle": round(generator.uniform(0.0, 360.0), 1),
        "sun_altitude_angle": generator.choice((75.0, 60.0, 45.0, 30.0, 15.0, 5.0, -5.0, -30.0)),
        "fog_density": fog,
        "fog_distance": 20.0 if fog else 0.0,
    }
    return (Weather(0.0, tuple(parameters.items())),)


def _short_route(town: Town, way: Way, kind: str, generator: random.Random) -> Route | None:
    places = list(SCENARIOS[kind].places(way, generator))
    if not places:
        return None
    block = generator.choice(places)
    trigger = Parameters(block).trigger().location
    line = way.line
    index = line.nearest(trigger)
    first = index
    if not SCENARIOS[kind].starts_route:
        first = line.index_at(line.arc_m[index] - RUN_UP_M)
        while not _may_start(way, first):
            first -= 1
            if first < 0:
                return None
    last = _end_index(way, line.index_at(line.arc_m[index] + RUN_OUT_M))
    keypoints = _keypoints(way, first, last)
    try:
        planned = Way(town.carla_map, town.planner.plan(keypoints))
    except PlannerError:
        return None
    detour_m = abs(planned.line.offset_of(trigger, planned.line.nearest(trigger)))
    length_m = float(line.arc_m[last] - line.arc_m[first])
    if detour_m > MAX_DETOUR_M or abs(planned.line.length_m - length_m) > 0.2 * length_m:
        return None
    return Route("1", town.name, keypoints, random_weathers(generator), (block,))


def _may_start(way: Way, index: int) -> bool:
    """Outside junctions, and not on the line before one, where a light may be red."""
    return not way.waypoints[index].is_junction and way.junction_ahead(index) > START_CLEAR_M


def _end_index(way: Way, last: int) -> int:
    """An end outside junctions, further on if need be."""
    while last < len(way.waypoints) - 1 and way.waypoints[last].is_junction:
        last += 1
    return last


def _fill(way: Way, generator: random.Random) -> list[ScenarioBlock]:
    """Scenarios along a way, varied in type, their triggers far enough apart."""
    candidates: list[tuple[float, ScenarioBlock]] = []
    for kind in sorted(kind for kind in SCENARIOS if not SCENARIOS[kind].starts_route):
        for block in SCENARIOS[kind].places(way, generator):
            index = way.line.nearest(Parameters(block).trigger().location)
            candidates.append((float(way.line.arc_m[index]), block))
    candidates.sort(key=lambda item: item[0])
    used: Counter[str] = Counter()
    blocks: list[ScenarioBlock] = []
    free_from_m = 20.0
    while True:
        near = [c for c in candidates if free_from_m <= c[0] < free_from_m + LONG_SPACING_M]
        if near:
            fewest = min(used[block.type] for _, block in near)
            arc_m, block = generator.choice([c for c in near if used[c[1].type] == fewest])
            used[block.type] += 1
            blocks.append(replace(block, name=f"{block.type}_{used[block.type]}"))
            free_from_m = arc_m + LONG_SPACING_M
        else:
            later = [c[0] for c in candidates if c[0] >= free_from_m]
            if not later:
                return blocks
            free_from_m = later[0]


def _random_way(town: Town, generator: random.Random, length_m: float) -> Way | None:
    """A random drive as the planner plans it; None if it cannot be planned cleanly."""
    keypoints = _drive(generator.choice(town.starts), length_m, generator)
    if keypoints is None:
        return None
    try:
        way = Way(town.carla_map, town.planner.plan(keypoints))
    except (PlannerError, ValueError):
        return None
    return way if 0.8 * length_m < way.line.length_m < 1.3 * length_m else None


def _drive(
    waypoint: carla.Waypoint, length_m: float, generator: random.Random
) -> list[tuple[float, float, float]] | None:
    """Keypoints of a random drive: one about every KEYPOINT_M outside junctions, lane changes on multi-lane roads."""
    keypoints = [_xyz(waypoint)]
    since_m = driven_m = 0.0
    while driven_m < length_m:
        changed = _change_lane(waypoint, generator)
        following = changed if changed is not None else waypoint.next(STEP_M)
        if not following:
            return None
        step_m = LANE_CHANGE_M if changed is not None else STEP_M
        waypoint = generator.choice(following)
        driven_m, since_m = driven_m + step_m, since_m + step_m
        if not waypoint.is_junction and since_m >= KEYPOINT_M:
            keypoints.append(_xyz(waypoint))
            since_m = 0.0
    while waypoint.is_junction:
        waypoint = waypoint.next(STEP_M)[0]
    return [*keypoints, _xyz(waypoint)]


def _change_lane(waypoint: carla.Waypoint, generator: random.Random) -> list[carla.Waypoint] | None:
    """The place on a neighbouring lane where a lane change that starts here ends; mostly None."""
    if waypoint.is_junction or generator.random() > STEP_M * LANE_CHANGE_RATE_PER_M:
        return None
    choices = []
    if waypoint.lane_change & carla.LaneChange.Left:
        choices.append(waypoint.get_left_lane())
    if waypoint.lane_change & carla.LaneChange.Right:
        choices.append(waypoint.get_right_lane())
    fit = [c for c in choices if c is not None and c.lane_type == carla.LaneType.Driving]
    fit = [c for c in fit if c.lane_id * waypoint.lane_id > 0]
    targets: list[carla.Waypoint] = []
    for choice in fit:
        ahead = choice.next(LANE_CHANGE_M)
        if len(ahead) == 1 and not ahead[0].is_junction and ahead[0].lane_id == choice.lane_id:
            targets.append(ahead[0])
    return targets or None


def _keypoints(way: Way, first: int, last: int) -> tuple[tuple[float, float, float], ...]:
    """Points of the way that make the planner plan it again: outside junctions, none in the middle of a lane change."""
    kept = [first]
    for index in range(first + 1, last):
        steady = way.options[index] not in LANE_CHANGES and not way.waypoints[index].is_junction
        if steady and way.line.arc_m[index] - way.line.arc_m[kept[-1]] >= KEYPOINT_M:
            kept.append(index)
    return tuple(_xyz(way.waypoints[index]) for index in (*kept, last))


def _xyz(waypoint: carla.Waypoint) -> tuple[float, float, float]:
    location = waypoint.transform.location
    return round(location.x, 2), round(location.y, 2), round(location.z, 2)


def even_choice(candidates: Sequence[Route], count: int) -> list[Route]:
    """Up to `count` of the candidates (with one scenario each): as even over the types as can be, then over the towns.

    Types take turns, those with the fewest candidates first, and each takes the town that was taken least, new to the
    type if possible. Given in order of towns and types; the same candidates give the same choice.
    """
    left: dict[str, list[Route]] = {}
    for route in candidates:
        left.setdefault(route.scenarios[0].type, []).append(route)
    kinds = sorted(left, key=lambda kind: (len(left[kind]), kind))
    taken: Counter[str] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    chosen: list[Route] = []
    while len(chosen) < count and any(left.values()):
        for kind in kinds:
            if left[kind] and len(chosen) < count:
                best = min(left[kind], key=lambda route: (used[kind, route.town], taken[route.town]))
                left[kind].remove(best)
                taken[best.town] += 1
                used[kind, best.town] += 1
                chosen.append(best)
    return sorted(chosen, key=lambda route: (route.town, route.scenarios[0].type))


def spread(kinds: Sequence[str], count: int) -> Iterator[tuple[str, int]]:
    """How many routes of each type make up `count`, as even as can be."""
    for position, kind in enumerate(kinds):
        yield kind, count // len(kinds) + (position < count % len(kinds))
