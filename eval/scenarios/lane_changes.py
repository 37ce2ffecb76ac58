"""The ego itself must get into another lane: out of a parking place, and through several lanes of traffic.

Figures are those of scenario_runner's scenarios of the same names, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

import carla

from eval.routes import ScenarioBlock
from eval.scenarios.cut_ins import can_park, kerb_m, park_at_kerb
from eval.scenarios.lanes import ahead, behind, beside, lane_path, shifted, turn_deg
from eval.scenarios.line import Line
from eval.scenarios.motion import Flow, PathDriver
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.stage import is_car
from eval.scenarios.way import Way

START_M = 10.0
LEAP_M = 1.5
"""A step of the route this far to the side is a lane change."""
MIN_SPEED_MPS = 4.0


class ParkingExit(Scenario):
    """The ego starts in a parking place between two cars, while others drive by.

    A car beside it sets out when it does, more follow with gaps of `flow_distance` to twice of it.
    """

    timeout_s = 240.0
    starts_route = True
    STRAIGHT_DEG: ClassVar[float] = 6.0
    """Inside a bend there is less room between parked cars."""
    AFTER_M: ClassVar[float] = 15.0
    """It has left when it has come this much further than the car before it stands."""
    SIDE_CAR_M: ClassVar[float] = 50.0
    FLOW_M: ClassVar[float] = 60.0
    SPEED_SHARE: ClassVar[float] = 0.7
    """Of the speed limit, beside parked cars."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Beside a parking lane that goes on for a while, straight on; on a shoulder the ego is outside the lanes."""
        for index in way.stretches(before_m=0.0, after_m=40.0):
            here = way.waypoints[index]
            straight = abs(way.bend_deg(float(way.line.arc_m[index]) - 10.0, 30.0)) < cls.STRAIGHT_DEG
            spots = [beside(spot, "right") for spot in (behind(here, 12.0), here, ahead(here, 12.0))]
            if straight and all(can_park(spot, (carla.LaneType.Parking,)) for spot in spots):
                gaps = {"front_vehicle_distance": 9, "behind_vehicle_distance": 9}
                yield way.block("ParkingExit", index, direction="right", **gaps)

    def prepare(self) -> None:
        """Park the ego and the two others, and put the car beside it on the road."""
        if self.trigger_arc_m > START_M:
            raise ScenarioError(
                f"its trigger lies {self.trigger_arc_m:.0f} m from the route's start; the ego must start there"
            )
        side = self.parameters.choice("direction", ("left", "right"), "right")
        self.front_m = self.parameters.number("front_vehicle_distance", 20.0, 6.0, 100.0)
        behind_m = self.parameters.number("behind_vehicle_distance", 10.0, 6.0, 100.0)
        ego = self.stage.ego
        right_m = kerb_m(self.trigger, side, ego.bounding_box.extent.y)
        self.parked = shifted(self.trigger.transform, right_m=right_m, up_m=0.1)
        ego.set_transform(self.parked)
        park_at_kerb(self, ahead(self.trigger, self.front_m), side)
        park_at_kerb(self, behind(self.trigger, behind_m), side)
        self.beside = self.vehicle(self.trigger.transform, accept=is_car)

    def script(self) -> Script:
        """Cars drive by until the ego has left."""
        gap_m = self.parameters.number("flow_distance", 25.0, 10.0, 200.0)
        speed_mps = max(self.SPEED_SHARE * self.stage.speed_limit_mps, MIN_SPEED_MPS)
        start = behind(self.trigger, self.FLOW_M, stop_at_junction=True)
        way = Line(lane_path(start, 2.0 * self.FLOW_M))
        first = PathDriver(self.stage, self.beside, way, speed_mps, minds_ego=True)
        flow = Flow(self, way, speed_mps, (gap_m, 2.0 * gap_m), minds_ego=True, filled=False)
        end_m = self.front_m + self.AFTER_M
        yield from self.play(first, flow, until=lambda: self.stage.ego_distance_m(self.parked.location) > end_m)


class Column:
    """Cars in the lane that the ego is about to change to; the middle one drives level with it until there.

    They do not wait for an ego that falls back.
    """

    SPACING_M: ClassVar[tuple[float, float]] = (13.0, 17.0)
    START_AHEAD_M: ClassVar[float] = 20.0
    """The middle car appears this far before the ego, not beside it."""
    LEVEL_M: ClassVar[float] = -1.0
    GAIN_PER_S: ClassVar[float] = 0.6
    SLOWEST_SHARE: ClassVar[float] = 0.7
    """Of the ego's speed when they appear."""
    FASTEST_SHARE: ClassVar[float] = 1.25
    """Of the speed limit."""
    SLACK_M: ClassVar[float] = 15.0
    ROOM_M: ClassVar[float] = 12.0
    RUN_UP_M: ClassVar[float] = 60.0
    LENGTH_M: ClassVar[float] = 400.0

    def __init__(self, scenario: Scenario, target: carla.Waypoint, change_arc_m: float) -> None:
        """`target`: where the ego's change ends; `change_arc_m`: where that is on its route."""
        self._stage = scenario.stage
        self._change_arc_m = change_arc_m
        start = behind(target, change_arc_m - self._stage.ego_arc_m + self.RUN_UP_M, stop_at_junction=True)
        self._line = Line(lane_path(start, self.LENGTH_M))
        self._shift_m = self._line.arc_m[self._line.nearest(target.transform.location)] - change_arc_m
        """From arc lengths of the route to those of the line."""
        speed_mps = max(self._stage.ego_pose.speed_mps, MIN_SPEED_MPS)
        self._slowest_mps = self.SLOWEST_SHARE * speed_mps
        self._cars = []
        for rank in (1, 0, -1):
            lead_m = rank * self._stage.random.uniform(*self.SPACING_M)
            arc_m = self._stage.ego_arc_m + self._shift_m + self.START_AHEAD_M + lead_m
            place = self._line.at(arc_m)
            others = [body.pose.location for body in self._stage.bodies(ego=False)]
            if arc_m < 0.0 or any(other.distance(place.location) < self.ROOM_M for other in others):
                continue
            try:
                car = scenario.vehicle(place, accept=is_car, parked=False)
            except ScenarioError:
                continue  # something is there: one less
            driver = PathDriver(self._stage, car, self._line, speed_mps, minds_ego=True, rolling=True)
            self._cars.append((driver, lead_m))

    def update(self) -> None:
        """Act for the next tick."""
        fastest_mps = self.FASTEST_SHARE * max(self._stage.speed_limit_mps, MIN_SPEED_MPS)
        ego_arc_m = self._stage.ego_arc_m
        for driver, lead_m in self._cars:
            if ego_arc_m < self._change_arc_m + self.SLACK_M:
                error_m = ego_arc_m + self._shift_m + self.LEVEL_M + lead_m - driver.arc_m
                wanted_mps = self._stage.ego_pose.speed_mps + self.GAIN_PER_S * error_m
                driver.speed_mps = min(max(wanted_mps, self._slowest_mps), fastest_mps)
            driver.update()


class SequentialLaneChange(Scenario):
    """The route changes lanes several times within 200 m, and in every new lane there are cars.

    The original brings no cars of its own; its background traffic is the difficulty.
    """

    timeout_s = 240.0
    LENGTH_M: ClassVar[float] = 200.0
    APPEAR_M: ClassVar[float] = 70.0
    """Before a change, its cars appear."""
    BEFORE_M: ClassVar[float] = 50.0
    BESIDE_M: ClassVar[float] = 35.0
    BEHIND_M: ClassVar[float] = 12.0
    TURNED_DEG: ClassVar[float] = 20.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Before two or more lane changes that cars can hinder."""
        changes = [k for k in leaps(way.line, 0, len(way.line.transforms) - 1) if cls._is_hindered(way, k)]
        for first in changes:
            arc_m = float(way.line.arc_m[first])
            index = way.line.index_at(arc_m - cls.BEFORE_M)
            more = [k for k in changes if 0.0 < way.line.arc_m[k] - arc_m < cls.LENGTH_M - cls.BEFORE_M]
            if arc_m > cls.BEFORE_M and more and not way.waypoints[index].is_junction:
                yield way.block("SequentialLaneChange", index)

    @classmethod
    def _is_hindered(cls, way: Way, change: int) -> bool:
        """Whether both lanes run beside each other for a while before a change."""
        before = way.line.index_at(float(way.line.arc_m[change]) - cls.BESIDE_M)
        place = behind(way.waypoints[change], cls.BESIDE_M, stop_at_junction=True).transform.location
        free = not any(waypoint.is_junction for waypoint in way.waypoints[before:change])
        return free and abs(way.line.offset_of(place, way.line.nearest(place))) > LEAP_M

    def script(self) -> Script:
        """Cars appear before every change."""
        end_m = self.trigger_arc_m + self.LENGTH_M
        changes = self._changes(end_m)
        columns: list[Column] = []
        while not self.ego_passed(end_m):
            if changes and self.ego_passed(changes[0][0]):
                changes.pop(0)
            elif changes and self._is_beside(*changes[0]):
                arc_m, target = changes.pop(0)
                columns.append(Column(self, target, arc_m))
            for column in columns:
                column.update()
            yield

    def _is_beside(self, change_arc_m: float, target: carla.Waypoint) -> bool:
        """Whether the ego is near a change and on the same road already."""
        left_m = change_arc_m - self.stage.ego_arc_m
        if left_m > self.APPEAR_M:
            return False
        place = behind(target, max(left_m, 0.0), stop_at_junction=True).transform
        turned_deg = abs(turn_deg(place.rotation.yaw, self.stage.ego_pose.transform.rotation.yaw))
        return self.stage.ego_distance_m(place.location) < self.BEHIND_M and turned_deg < self.TURNED_DEG

    def _changes(self, end_m: float) -> list[tuple[float, carla.Waypoint]]:
        """Arc lengths of the lane changes ahead and where they end."""
        route = self.stage.route
        found = leaps(route, route.index_at(self.trigger_arc_m), route.index_at(end_m))
        return [(float(route.arc_m[k]), self.stage.map.get_waypoint(route.transforms[k].location)) for k in found]


def leaps(line: Line, start: int, end: int) -> list[int]:
    """Points of a planned route at which a lane change ends: they lie beside the point before."""
    steps = range(start + 1, end + 1)
    return [k for k in steps if abs(line.offset_of(line.transforms[k].location, k - 1)) > LEAP_M]
