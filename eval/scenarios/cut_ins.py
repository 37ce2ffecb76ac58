"""Somebody drives into the ego's lane close before it: from a parking place, out of a queue, from a ramp.

Figures are those of scenario_runner's scenarios of the same names, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from random import Random
from typing import ClassVar

import carla

from eval.routes import ScenarioBlock
from eval.scenarios.lanes import ahead, beside, driving_beside, lane_path, shifted, turn_deg
from eval.scenarios.line import Line
from eval.scenarios.motion import PathDriver
from eval.scenarios.obstacles import is_new_car
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.way import Way

MAX_MANOEUVRE_S = 30.0
"""A cut-in that has got stuck ends after this time."""
PASSED_M = 40.0
CLEAR_M = 10.0
MIN_PARKING_WIDTH_M = 1.8
PARKABLE = (carla.LaneType.Parking, carla.LaneType.Shoulder)


def changing(path: list[carla.Transform], right_m: float, length_m: float) -> Line:
    """A path that starts `right_m` beside a lane's and has joined it after a length."""
    poses, travelled_m = [], 0.0
    for before, pose in zip([path[0], *path], path, strict=False):
        travelled_m += before.location.distance(pose.location)
        share = min(travelled_m / length_m, 1.0)
        poses.append(shifted(pose, right_m=right_m * (1.0 - share * share * (3.0 - 2.0 * share))))
    return Line(poses)


class _CutIn(Scenario):
    """A vehicle beside the lane pulls out when the ego arrives in a given time, and stays slower than it."""

    REACTION_S: ClassVar[float]
    NEAR_M: ClassVar[float]
    """They pull out when the ego is this near, however slow it is."""
    CHANGE_M: ClassVar[float]
    """Length in which they are in the ego's lane; as short as a car can steer it."""
    AFTER_M: ClassVar[float]
    """It goes on to drive this far."""
    SPEED_SHARE: ClassVar[float] = 0.6
    """Of the ego's when they set out: it must brake. The originals accelerate more slowly than vehicles can."""
    MIN_SPEED_MPS: ClassVar[float] = 3.0

    def pull_out(self, vehicle: carla.Vehicle, place: carla.Waypoint, right_m: float) -> Script:
        """Wait for the ego, then drive from beside a place into the lane and on."""
        arc_m = self.arc_ahead(place.transform.location)
        self.stage.clear_way(self.stage.ego_arc_m + 1.0, arc_m + CLEAR_M)
        location = place.transform.location
        yield from self.until(
            lambda: self.ego_arrives_in(self.REACTION_S, arc_m) or self.ego_within(self.NEAR_M, location)
        )
        speed_mps = max(self.SPEED_SHARE * self.stage.ego_pose.speed_mps, self.MIN_SPEED_MPS)
        line = changing(lane_path(place, self.AFTER_M + CLEAR_M), right_m, self.CHANGE_M)
        driver = PathDriver(self.stage, vehicle, line, speed_mps)
        end_s = self.stage.now_s + MAX_MANOEUVRE_S
        yield from self.play(
            driver,
            until=lambda: (
                driver.arc_m > self.AFTER_M
                or self.stage.now_s > end_s
                or self.ego_passed(arc_m + self.AFTER_M + PASSED_M)
            ),
        )

    def side(self) -> str:
        """The side of the ego's lane they come from."""
        return self.parameters.choice("direction", ("left", "right"), "right")


class ParkingCutIn(_CutIn):
    """A parked car pulls out, hidden by the one parked behind it."""

    REACTION_S = 2.35
    NEAR_M = 10.0
    CHANGE_M = 10.0
    AFTER_M = 30.0
    PLACE_M: ClassVar[float] = 35.0
    BLOCKER_M: ClassVar[float] = 28.0
    APART_M: ClassVar[float] = 6.5
    """The two are parked no closer than this: inside a bend the kerb is shorter than the lane."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Beside a parking lane."""
        for index in way.stretches(before_m=10.0, after_m=cls.PLACE_M + cls.AFTER_M):
            arc_m = float(way.line.arc_m[index])
            spots = [way.waypoints[way.line.index_at(arc_m + place_m)] for place_m in (cls.BLOCKER_M, cls.PLACE_M)]
            if all(can_park(beside(spot, "right")) for spot in spots):
                yield way.block("ParkingCutIn", index, direction="right")

    def prepare(self) -> None:
        """Park both at the kerb."""
        self.place = self.place_ahead(self.PLACE_M)
        self.car, self.right_m = park_at_kerb(self, self.place, self.side())
        parked = shifted(self.place.transform, right_m=self.right_m).location
        for ahead_m in range(round(self.BLOCKER_M), 0, -1):
            place = self.place_ahead(ahead_m)
            if shifted(place.transform, right_m=self.right_m).location.distance(parked) > self.APART_M:
                park_at_kerb(self, place, self.side())
                return

    def script(self) -> Script:
        """The second one pulls out."""
        yield from self.pull_out(self.car, self.place, self.right_m)


class StaticCutIn(_CutIn):
    """A car pulls out of a standing queue in the neighbouring lane."""

    REACTION_S = 2.7
    NEAR_M = 15.0
    CHANGE_M = 12.0
    AFTER_M = 70.0
    GAP_M: ClassVar[float] = 11.0
    QUEUE: ClassVar[tuple[float, ...]] = (0.0, 11.0, 33.0, 44.0, 55.0)
    PLACE_M: ClassVar[float] = 20.0
    """Its place in the queue, nearer to the one behind: it needs some room to steer."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Roads with a second lane of the ego's direction; the queue reaches up to the next junction at most."""
        for index in way.stretches(before_m=10.0, after_m=75.0):
            distance_m = random.randint(25, int(min(way.junction_ahead(index) - 50.0, 100.0)))
            if not way.keeps_lane(index, distance_m + cls.AFTER_M):
                continue
            spot = way.waypoints[way.line.index_at(float(way.line.arc_m[index]) + distance_m + cls.QUEUE[-1])]
            for side in ("right", "left"):
                if not spot.is_junction and driving_beside(spot, side) and driving_beside(way.waypoints[index], side):
                    yield way.block("StaticCutIn", index, distance=distance_m, direction=side)
                    break

    def prepare(self) -> None:
        """Put up the queue as far as the road goes."""
        start = self.place_ahead(self.parameters.number("distance", 100.0, 0.0, 1000.0))
        self.place = ahead(start, self.PLACE_M)
        self.car, self.right_m = self._stand(self.place)
        last = None
        for gap_m in self.QUEUE:
            place = ahead(start, gap_m)
            if last is None or place.transform.location.distance(last.transform.location) > 0.9 * self.GAP_M:
                self._stand(place)
            last = place

    def script(self) -> Script:
        """It pulls out."""
        yield from self.pull_out(self.car, self.place, self.right_m)

    def _stand(self, place: carla.Waypoint) -> tuple[carla.Vehicle, float]:
        lane = beside(place, self.side())
        if lane is None:
            raise ScenarioError(f"there is no lane to the {self.side()} for the queue; choose another direction")
        right_m = 0.5 * (place.lane_width + lane.lane_width) * (1.0 if self.side() == "right" else -1.0)
        return self.vehicle(shifted(place.transform, right_m=right_m)), right_m


class HighwayCutIn(Scenario):
    """A vehicle comes along a ramp (or the lane beside), level with the ego, and changes in front of it."""

    CUT_IN_M: ClassVar[float] = 10.0
    """After it has come beside the ego's lane."""
    MIN_RUN_M: ClassVar[float] = 40.0
    BESIDE_M: ClassVar[float] = 5.5
    CHANGE_S: ClassVar[float] = 2.0
    KEEP_S: ClassVar[float] = 3.0
    SPEED_SHARE: ClassVar[float] = 0.8
    LEAD_M: ClassVar[float] = 9.0
    """Centre to centre distance to the ego when it changes over."""
    MAX_SHARE: ClassVar[float] = 1.4
    RAMP_M: ClassVar[float] = 60.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Where a ramp joins from the right, and on long multi-lane roads."""
        for index in way.stretches(before_m=30.0, after_m=150.0, step_m=25.0):
            lane = driving_beside(way.waypoints[index], "right")
            if lane is not None:
                start = ahead(lane, random.uniform(20.0, 35.0))
                yield way.block("HighwayCutIn", index, other_actor_location=start.transform.location)

    def script(self) -> Script:
        """It appears now: level with the ego, wherever that is."""
        self._plan()
        speed_mps = self._sync_speed_mps(0.0)
        car = self.vehicle(self.line.transforms[0], accept=is_new_car, parked=False)
        driver = PathDriver(self.stage, car, self.line, speed_mps, rolling=True)
        while driver.arc_m < self.change_m:
            driver.speed_mps = self._sync_speed_mps(driver.arc_m)
            driver.update()
            yield
        driver.speed_mps = self.SPEED_SHARE * self.stage.ego_pose.speed_mps
        end_s = self.stage.now_s + self.CHANGE_S + self.KEEP_S
        yield from self.play(driver, until=lambda: self.stage.now_s > end_s or driver.finished)

    def _plan(self) -> None:
        """Its line: along its own lane until it is beside the ego's route, then over to that."""
        place = self.stage.map.get_waypoint(self.parameters.required_location("other_actor_location"))
        path = Line(lane_path(place, 400.0))
        route = self.stage.route
        for index, pose in enumerate(path.transforms):
            if path.arc_m[index] < self.MIN_RUN_M:
                continue
            arc_m = self.arc_ahead(pose.location)
            there = route.at(arc_m)
            turned = abs(turn_deg(pose.rotation.yaw, there.rotation.yaw)) > 30.0
            if there.location.distance(pose.location) < self.BESIDE_M and not turned:
                break
        else:
            x, y = place.transform.location.x, place.transform.location.y
            raise ScenarioError(f"the lane at ({x:.1f}, {y:.1f}) does not come beside the route; move the other actor")
        start_m = arc_m + self.CUT_IN_M
        right_m = route.offset_of(pose.location, route.index_at(arc_m))
        change_m = max(self.CHANGE_S * self.SPEED_SHARE * self.stage.speed_limit_mps, 15.0)
        rest = [route.at(start_m + step) for step in range(int(change_m) + 200)]
        self.line = Line([*path.transforms[: index + 1], *changing(rest, right_m, change_m).transforms])
        self.change_m = float(path.arc_m[index]) + self.CUT_IN_M
        self.change_arc_m = start_m

    def _sync_speed_mps(self, arc_m: float) -> float:
        """Speed at which it is `LEAD_M` before the ego when it changes over."""
        ego_mps = max(self.stage.ego_pose.speed_mps, 3.0)
        left_s = max((self.change_arc_m - self.LEAD_M - self.stage.ego_arc_m) / ego_mps, 0.1)
        return min((self.change_m - arc_m) / left_s, self.MAX_SHARE * ego_mps)


def can_park(lane: carla.Waypoint | None, types: Collection[carla.LaneType] = PARKABLE) -> bool:
    """Whether a lane is one to park in."""
    return lane is not None and lane.lane_type in types and lane.lane_width >= MIN_PARKING_WIDTH_M


def park_at_kerb(scenario: Scenario, place: carla.Waypoint, side: str) -> tuple[carla.Vehicle, float]:
    """A car parked beside a place, and how far to the right of that it stands. Raises: ScenarioError."""
    right_m = kerb_m(place, side, 0.95)
    return scenario.vehicle(shifted(place.transform, right_m=right_m), accept=is_new_car), right_m


def kerb_m(place: carla.Waypoint, side: str, half_width_m: float) -> float:
    """How far to the right of a place a vehicle stands that is parked at the kerb. Raises: ScenarioError."""
    lane = beside(place, side)
    if lane is None:
        raise ScenarioError(f"there is no lane to the {side} to park in; choose another direction")
    beside_m = 0.5 * (place.lane_width + lane.lane_width) + 0.25 * (lane.lane_width - half_width_m)
    return beside_m if side == "right" else -beside_m
