"""A planned route with what a scenario's place depends on: its lanes, its junctions and how it passes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import carla

from eval.planner import DensePlan, RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios import lanes
from eval.scenarios.line import Line

TRAFFIC_LIGHT = "1000001"
"""OpenDRIVE type of a traffic light."""
STOP_SIGN = "206"
CONTROL_SEARCH_POINTS = 15
CONTROL_BEYOND_M = 3.0
ON_LANE_M = 2.0


class Control(str, Enum):
    """What regulates the ego's way into a junction."""

    LIGHT = "light"
    STOP = "stop"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Passage:
    """The route's way through a junction, by indices of its points."""

    entry: int
    """Last point before the junction."""
    exit: int
    """First point after it."""
    option: RoadOption
    """LEFT, RIGHT or STRAIGHT through a crossing; LANEFOLLOW where there is no choice (ramps, merges)."""
    control: Control


class Way:
    """A dense plan on its map; the points of `line` belong to `waypoints` one by one."""

    def __init__(self, carla_map: carla.Map, plan: DensePlan) -> None:
        self.map = carla_map
        self.plan = plan
        self.line = Line([transform for transform, _ in plan])
        self.waypoints: list[carla.Waypoint] = [carla_map.get_waypoint(t.location) for t in self.line.transforms]
        options = {id(transform): option for transform, option in plan}
        self.options: list[RoadOption] = [options[id(transform)] for transform in self.line.transforms]

    @cached_property
    def passages(self) -> list[Passage]:
        """The junctions on the way, in order; junctions at either end are left out."""
        found = []
        inside = [waypoint.is_junction for waypoint in self.waypoints]
        for index in range(1, len(inside)):
            if inside[index] and not inside[index - 1]:
                exit_ = next((k for k in range(index, len(inside)) if not inside[k]), None)
                if exit_ is not None:
                    found.append(Passage(index - 1, exit_, self._option(index, exit_), self._control(index - 1)))
        return found

    def junction_ahead(self, index: int) -> float:
        """Distance [m] from a point to the next junction on the way (or to the way's end)."""
        here = self.line.arc_m[index]
        ahead = [self.line.arc_m[p.entry] - here for p in self.passages if p.entry >= index]
        return float(min(ahead, default=self.line.length_m - here))

    def before(self, passage: Passage, distance_m: float) -> int | None:
        """The point `distance_m` before a junction; None if the way's start or another junction is nearer."""
        index = self.line.index_at(float(self.line.arc_m[passage.entry]) - distance_m)
        if index == 0 or any(self.waypoints[k].is_junction for k in range(index, passage.entry + 1)):
            return None
        return index

    def after(self, passage: Passage) -> float:
        """Length [m] of the way behind a junction."""
        return self.line.length_m - float(self.line.arc_m[passage.exit])

    def bend_deg(self, start_m: float, length_m: float) -> float:
        """How far the way turns over a stretch, clockwise positive."""
        start, end = self.line.index_at(start_m), self.line.index_at(start_m + length_m)
        return math.degrees(float(self.line.yaw_rad[end] - self.line.yaw_rad[start]))

    def stretches(self, *, before_m: float, after_m: float, step_m: float = 10.0) -> Iterator[int]:
        """Points with a free road: `before_m` metres of it behind on the way, `after_m` ahead before a junction."""
        last_m = -math.inf
        for index, arc_m in enumerate(self.line.arc_m):
            if arc_m - last_m < step_m or arc_m < before_m or self.waypoints[index].is_junction:
                continue
            if self.junction_ahead(index) >= after_m and not self._changes_lane(index, after_m):
                last_m = float(arc_m)
                yield index

    def keeps_lane(self, index: int, distance_m: float) -> bool:
        """Whether the way stays on the lane of a point for some distance."""
        there = self.line.at(float(self.line.arc_m[index]) + distance_m).location
        on_lane = lanes.ahead(self.waypoints[index], distance_m).transform.location
        return there.distance(on_lane) < ON_LANE_M

    def block(self, kind: str, index: int, **parameters: object) -> ScenarioBlock:
        """A <scenario> whose trigger is a point of the way.

        A parameter is a number or word (`value`), a pair (`from`, `to`) or a `carla.Location` (`x`, `y`, `z`).
        """
        transform = self.line.transforms[index]
        trigger = (*_xyz(transform.location), ("yaw", f"{transform.rotation.yaw:.1f}"))
        elements = [("trigger_point", trigger)]
        elements += [(key, _attributes(value)) for key, value in parameters.items()]
        return ScenarioBlock(name=f"{kind}_1", type=kind, elements=tuple(elements))

    def _option(self, start: int, end: int) -> RoadOption:
        options = {self.options[k] for k in range(start, end)}
        turns = options & {RoadOption.LEFT, RoadOption.RIGHT, RoadOption.STRAIGHT}
        return turns.pop() if len(turns) == 1 else RoadOption.LANEFOLLOW

    def _control(self, entry: int) -> Control:
        before = self.waypoints[max(entry - CONTROL_SEARCH_POINTS, 0)]
        if before.is_junction:
            before = self.waypoints[entry]
        reach_m = before.transform.location.distance(self.waypoints[entry].transform.location) + CONTROL_BEYOND_M
        if before.get_landmarks_of_type(reach_m, TRAFFIC_LIGHT, False):  # signals may be referenced inside the junction
            return Control.LIGHT
        return Control.STOP if before.get_landmarks_of_type(reach_m, STOP_SIGN, False) else Control.NONE

    def _changes_lane(self, index: int, distance_m: float) -> bool:
        end = self.line.index_at(float(self.line.arc_m[index]) + distance_m)
        changes = (RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT)
        return any(self.options[k] in changes for k in range(index, end + 1))


def two_way(waypoint: carla.Waypoint) -> bool:
    """One lane in the ego's direction, and one of the other direction beside it that may be used to overtake."""
    return len(lanes.same_direction(waypoint)) == 1 and lanes.opposite(waypoint) is not None


def _attributes(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, carla.Location):
        return _xyz(value)
    if isinstance(value, tuple):
        start, end = value
        return (("from", f"{start:g}"), ("to", f"{end:g}"))
    return (("value", f"{value:g}" if isinstance(value, (int, float)) else str(value)),)


def _xyz(location: carla.Location) -> tuple[tuple[str, str], ...]:
    return (("x", f"{location.x:.1f}"), ("y", f"{location.y:.1f}"), ("z", f"{location.z:.1f}"))
