"""Somebody crosses the ego's way: walkers from the roadside and at junctions, a cyclist where the ego turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar

import carla
import numpy as np

from eval.criteria import TICK_S
from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.arrival import Arrival
from eval.scenarios.lanes import ahead, beside, roadside, shifted, turn_deg
from eval.scenarios.motion import Crossing
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.stage import Stage
from eval.scenarios.way import Way

CLOSE_M = 6.0
"""They set out when the ego is this near, however slow it is. Source: scenario_runner, as all figures here."""
BEHIND_M = 40.0
"""The ego has a crossing behind it this far past it."""
VERGE_M = 0.5
"""Without a sidewalk they stand this far beside the last lane."""
HIDDEN_M = 0.5
"""Distance from what hides a walker to the walker."""
STEP_M = 0.25
ATTEMPTS = 6
SHIFT_M = 0.4
"""Where there is no room, the next attempt is this much further along the road."""
CUT_DEG = 5.0
CUT_S = 0.1
"""A walker who comes towards the ego starts earlier by this for every so many degrees."""
PAST_S = 0.4
"""They are past the middle of the ego's lane by at most this when it arrives."""
BLOCKERS = ("container", "advertisement", "foodcart", "haybalelb", "busstoplb")
"""Props of real route files that hide a walker."""
NARROW_M = 1.5
"""No car is parked on a lane narrower than this."""
DISTANCES_M = (40, 45, 50)
BEFORE_TURN_M = 30.0
AFTER_TURN_M = 30.0
"""In generated routes: places and triggers as in real route files."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A straight way across the ego's route."""

    start: carla.Transform
    """Faces the way to go."""
    goal: carla.Location
    reach_m: float
    """From the start to the ego's route."""
    arc_m: float
    """Where on the ego's route they would meet."""


class Rolling:
    """Rolls a vehicle straight ahead to a goal; set `speed_mps` at any time, call `update` every tick."""

    def __init__(self, stage: Stage, vehicle: carla.Vehicle, walk: Walk, speed_mps: float) -> None:
        self.speed_mps = speed_mps
        self._stage = stage
        self._vehicle = vehicle
        self._start = walk.start.location
        self._ahead = walk.start.get_forward_vector()
        self._length_m = math.hypot(walk.goal.x - self._start.x, walk.goal.y - self._start.y)
        self._left_s = self._length_m / speed_mps
        stage.command(carla.command.ApplyVehicleControl(vehicle, carla.VehicleControl()))

    @property
    def rolled_m(self) -> float:
        """Distance from where it started."""
        here = self._stage.pose(self._vehicle).location
        return math.hypot(here.x - self._start.x, here.y - self._start.y)

    @property
    def finished(self) -> bool:
        """Whether the vehicle has arrived, or had the time to at its first speed."""
        return self._left_s <= 0.0 or self.rolled_m >= self._length_m

    def update(self) -> None:
        """Command the vehicle for the next tick."""
        self._left_s -= TICK_S
        velocity = carla.Vector3D(self._ahead.x * self.speed_mps, self._ahead.y * self.speed_mps, 0.0)
        self._stage.command(carla.command.ApplyTargetVelocity(self._vehicle, velocity))


class RoadCrossing(Scenario):
    """Somebody sets out across the ego's route in time to meet the ego on it."""

    SPEED_MPS: ClassVar[float] = 2.0
    REACTION_S: ClassVar[float]
    """They set out this long before the ego's middle arrives, or earlier if they need more time to its lane."""

    @cached_property
    def arrival(self) -> Arrival:
        """Forecast of the ego's way."""
        return Arrival(self.stage)

    def walk(self, start: carla.Transform, length_m: float) -> Walk:
        """The way of somebody who goes straight ahead from a pose."""
        steps = np.arange(0.0, length_m, STEP_M)
        spots = [shifted(start, ahead_m=float(step)).location for step in steps]
        beside_m = [self._off_route_m(spot) for spot in spots]
        nearest = int(np.argmin(beside_m))
        goal = shifted(start, ahead_m=length_m).location
        return Walk(start, goal, float(steps[nearest]), self.arc_ahead(spots[nearest]))

    def meets_ego(self, walk: Walk, due_s: float, close_m: float = CLOSE_M) -> bool:
        """Whether it is time to set out: the ego's front arrives within `due_s`, or the ego is close."""
        close = walk.arc_m - self.stage.ego_arc_m < close_m
        return close or self.arrival.in_s(walk.arc_m) < due_s

    def due_s(self, walk: Walk, reaction_s: float) -> float:
        """Time before the ego's front at which they set out; `reaction_s` counts for its middle, as official."""
        half_length_m = self.stage.ego.bounding_box.extent.x
        official_s = reaction_s - half_length_m / max(self.stage.ego_pose.speed_mps, 1.0)
        reach_s = walk.reach_m / self.SPEED_MPS
        return min(max(official_s, reach_s), reach_s + PAST_S)

    def on_route(self, arc_m: float) -> carla.Waypoint:
        """The lane at an arc length of the ego's route."""
        return self.stage.map.get_waypoint(self.stage.route.at(arc_m).location)

    def vanish(self, arc_m: float) -> Script:
        """Who has crossed is gone, and what hid them; the scenario ends when the ego has the place behind it."""
        self.leave()
        yield from self.until(lambda: self.ego_passed(arc_m + BEHIND_M))

    def set_up(self, arc_m: float, put: Callable[[carla.Waypoint], None]) -> None:
        """Put things on stage at an arc length of the ego's route, or a little further where there is no room."""
        for attempt in range(ATTEMPTS):
            try:
                put(self.on_route(arc_m + attempt * SHIFT_M))
                return
            except ScenarioError:
                self.leave()
                if attempt == ATTEMPTS - 1:
                    raise

    def _off_route_m(self, location: carla.Location) -> float:
        nearest = self.stage.route.at(self.arc_ahead(location)).location
        return math.hypot(nearest.x - location.x, nearest.y - location.y)


class DynamicObjectCrossing(RoadCrossing):
    """A walker steps out from behind something on the sidewalk. Source: scenario_runner `DynamicObjectCrossing`."""

    REACTION_S = 2.1

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Roads with a sidewalk."""
        for index in way.stretches(before_m=10.0, after_m=DISTANCES_M[-1] + 10.0):
            if roadside(way.waypoints[index], "right").lane_type == carla.LaneType.Sidewalk:
                model = f"static.prop.{random.choice(BLOCKERS)}"
                yield way.block(
                    "DynamicObjectCrossing",
                    index,
                    distance=random.choice(DISTANCES_M),
                    direction="right",
                    blocker_model=model,
                    crossing_angle=random.choice((-2, 1, 3, 5, 8, 10, 15)),
                )

    def prepare(self) -> None:
        """Hide a walker."""
        side = self.parameters.choice("direction", ("left", "right"), "right")
        arc_m = self.trigger_arc_m + self.parameters.number("distance", 12.0, 0.0, 1000.0)
        self.angle_deg = self.parameters.number("crossing_angle", 0.0, -80.0, 80.0)
        self.set_up(arc_m, lambda place: self._stand(place, side))

    def script(self) -> Script:
        """The walker crosses when the ego comes."""
        reaction_s = self.REACTION_S + CUT_S * math.floor(self.angle_deg / CUT_DEG)
        yield from self.until(lambda: self.meets_ego(self.way, self.due_s(self.way, reaction_s)))
        crossing = Crossing(self.stage, self.person, self.way.goal, self.SPEED_MPS)
        yield from self.play(crossing, until=lambda: crossing.finished)
        yield from self.vanish(self.way.arc_m)

    def hide(self, place: carla.Waypoint, side: str) -> tuple[float, carla.Transform]:
        """Put up what hides the walker: half its length along the road, and the walker's place beside it."""
        corner = curb(place, side)
        model = self.parameters.text("blocker_model", "static.prop.vendingmachine")
        if model.startswith("vehicle."):
            return self.stage.size(self.vehicle(corner, model))[0], corner
        return self.stage.size(self.prop(shifted(corner, yaw_deg=90.0), model))[1], corner

    def _stand(self, place: carla.Waypoint, side: str) -> None:
        half_length_m, corner = self.hide(place, side)
        across_deg = (90.0 + self.angle_deg) * (1.0 if side == "left" else -1.0)
        width_m = corner.location.distance(curb(place, "left" if side == "right" else "right").location)
        start = shifted(corner, ahead_m=half_length_m + HIDDEN_M, yaw_deg=across_deg)
        self.way = self.walk(start, width_m / math.cos(math.radians(self.angle_deg)))
        self.person = self.walker(start)


class ParkingCrossingPedestrian(DynamicObjectCrossing):
    """A walker steps out from behind a parked car. Source: scenario_runner `ParkingCrossingPedestrian`."""

    REACTION_S = 2.15

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Roads with a parking lane."""
        for index in way.stretches(before_m=10.0, after_m=DISTANCES_M[-1] + 10.0):
            edge = beside(way.waypoints[index], "right")
            if edge is not None and edge.lane_type == carla.LaneType.Parking:
                distance_m, angle_deg = random.choice(DISTANCES_M), random.choice((1, 3, 5, 10))
                yield way.block(
                    "ParkingCrossingPedestrian",
                    index,
                    distance=distance_m,
                    direction="right",
                    crossing_angle=angle_deg,
                )

    def hide(self, place: carla.Waypoint, side: str) -> tuple[float, carla.Transform]:
        """A car in the parking lane, or a lane width away; the walker is a lane width away."""
        edge = beside(place, side)
        beside_m = place.lane_width
        if edge is not None and edge.lane_type != carla.LaneType.Driving and edge.lane_width > NARROW_M:
            beside_m = 0.5 * (place.lane_width + edge.lane_width)
        sign = 1.0 if side == "right" else -1.0
        car = self.vehicle(shifted(place.transform, right_m=sign * beside_m))
        return self.stage.size(car)[0], shifted(place.transform, right_m=sign * place.lane_width)


class PedestrianCrossing(RoadCrossing):
    """Three walkers cross before a junction. Source: scenario_runner `PedestrianCrossing`."""

    NEAR_M = 12.0
    STANDS_M = ((0.4, 1.5), (1.0, 2.5), (1.6, 0.5))
    """Where they stand: ahead of the lane's end and to the right of the sidewalk's middle."""
    SPEEDS_MPS = (1.3, 2.0)
    SPREAD_S = 0.6
    """They meet the ego within this time."""
    BEFORE_M = (80.0, 60.0, 40.0)
    """In generated routes the trigger is this far before the junction, as far as the road allows."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Junctions with a sidewalk before them."""
        for passage in way.passages:
            index = next((k for before_m in cls.BEFORE_M if (k := way.before(passage, before_m)) is not None), None)
            sidewalk = roadside(way.waypoints[passage.entry], "right").lane_type == carla.LaneType.Sidewalk
            if index is not None and sidewalk and passage.option is not RoadOption.LANEFOLLOW:
                yield way.block("PedestrianCrossing", index)

    def prepare(self) -> None:
        """Put the walkers at the kerb."""
        place = ahead(self.trigger, 200.0)
        corner = curb(place, "right")
        width_m = corner.location.distance(curb(place, "left").location)
        self.group: list[tuple[carla.Walker, Walk, float]] = []
        for ahead_m, right_m in self.STANDS_M:
            start = shifted(corner, ahead_m=ahead_m, right_m=right_m, yaw_deg=-90.0)
            way = self.walk(start, width_m + 2.0 * right_m)
            self.group.append((self.walker(start), way, self.stage.random.uniform(*self.SPEEDS_MPS)))

    def script(self) -> Script:
        """They cross when the ego comes, each at his own pace."""
        waiting = [(self.stage.random.uniform(-self.SPREAD_S, self.SPREAD_S), *member) for member in self.group]
        crossings: list[Crossing] = []
        end_m = self.group[0][1].arc_m + BEHIND_M
        while not self.ego_passed(end_m):
            for member in list(waiting):
                spread_s, person, way, speed_mps = member
                if self.meets_ego(way, way.reach_m / speed_mps + spread_s, self.NEAR_M):
                    waiting.remove(member)
                    crossings.append(Crossing(self.stage, person, way.goal, speed_mps))
            for crossing in list(crossings):
                crossing.update()
                if crossing.finished:
                    crossings.remove(crossing)
                    self.discard([crossing.walker])
            yield


class VehicleTurningRoute(RoadCrossing):
    """A cyclist crosses behind a junction where the ego turns. Source: scenario_runner `VehicleTurningRoute`."""

    SPEED_MPS = 1.8
    HURRY_MPS = 3.0
    REACTION_S = 1.8
    BEYOND_M = 11.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Turns with a sidewalk behind them."""
        return turns("VehicleTurningRoute", way)

    def prepare(self) -> None:
        """Put the cyclist at the kerb."""
        arc_m = self.arc_ahead(self.after_junction().transform.location) + self.BEYOND_M
        self.set_up(arc_m, self._wait)

    def script(self) -> Script:
        """The cyclist crosses when the ego comes."""
        yield from self.until(lambda: self.meets_ego(self.way, self.due_s(self.way, self.REACTION_S)))
        rolling = Rolling(self.stage, self.bicycle, self.way, self.SPEED_MPS)
        while not rolling.finished:
            rolling.speed_mps = self._pace_mps(rolling)
            rolling.update()
            yield
        yield from self.vanish(self.way.arc_m)

    def _pace_mps(self, rolling: Rolling) -> float:
        """Pedals harder if the ego would be past before the cyclist is there."""
        left_m, in_s = self.way.reach_m - rolling.rolled_m, self.arrival.in_s(self.way.arc_m)
        if left_m <= 0.0 or in_s <= 0.0:
            return rolling.speed_mps
        needed_mps = left_m / in_s
        return min(max(needed_mps, self.SPEED_MPS), self.HURRY_MPS)

    def _wait(self, place: carla.Waypoint) -> None:
        corner = curb(place, "right")
        width_m = corner.location.distance(curb(place, "left").location)
        start = shifted(corner, yaw_deg=-90.0)
        self.way = self.walk(start, width_m)
        self.bicycle = self.vehicle(start, "vehicle.diamondback.century")


class VehicleTurningRoutePedestrian(RoadCrossing):
    """A walker crosses where the ego leaves a junction. Source: scenario_runner `VehicleTurningRoutePedestrian`."""

    SPEED_MPS = 1.8
    REACTION_S = 2.2
    BEYOND_M = 0.5

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Turns with a sidewalk behind them."""
        return turns("VehicleTurningRoutePedestrian", way)

    def prepare(self) -> None:
        """Put the walker on the side that the ego turns away from."""
        leaving = self.after_junction()
        place = self.on_route(self.arc_ahead(leaving.transform.location) + self.BEYOND_M)
        right_turn = turn_deg(place.transform.rotation.yaw, self.trigger.transform.rotation.yaw) > 0.0
        near, far = curb(place, "left" if right_turn else "right"), curb(place, "right" if right_turn else "left")
        start = shifted(near, yaw_deg=90.0 if right_turn else -90.0)
        self.way = self.walk(start, near.location.distance(far.location))
        self.person = self.walker(start)

    def script(self) -> Script:
        """The walker crosses when the ego comes."""
        yield from self.until(lambda: self.meets_ego(self.way, self.due_s(self.way, self.REACTION_S)))
        crossing = Crossing(self.stage, self.person, self.way.goal, self.SPEED_MPS)
        yield from self.play(crossing, until=lambda: crossing.finished)
        yield from self.vanish(self.way.arc_m)


def turns(kind: str, way: Way) -> Iterator[ScenarioBlock]:
    """Blocks before left and right turns that lead to a road with a sidewalk."""
    for passage in way.passages:
        index = way.before(passage, BEFORE_TURN_M)
        sidewalk = roadside(way.waypoints[passage.exit], "right").lane_type == carla.LaneType.Sidewalk
        turn = passage.option in (RoadOption.LEFT, RoadOption.RIGHT)
        if index is not None and sidewalk and turn and way.after(passage) > AFTER_TURN_M:
            yield way.block(kind, index)


def curb(place: carla.Waypoint, side: str) -> carla.Transform:
    """The middle of the sidewalk on a side (or a spot beside the last lane), facing as the place does."""
    edge = roadside(place, side)
    pose = carla.Transform(edge.transform.location, place.transform.rotation)
    if edge.lane_type == carla.LaneType.Sidewalk:
        return pose
    outwards_m = 0.5 * edge.lane_width + VERGE_M
    return shifted(pose, right_m=outwards_m if side == "right" else -outwards_m)
