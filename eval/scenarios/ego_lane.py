"""Trouble in the ego's own lane: a braking leader, dirt on the road, a blocked exit, oncoming cars that cut a bend."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import carla
import numpy as np

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.lanes import ahead, lane_path, opposite, shifted
from eval.scenarios.line import Line
from eval.scenarios.motion import Flow, PathDriver
from eval.scenarios.obstacles import FreeWay
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.way import Way, two_way

ROUTE_AHEAD_M = 400.0
BEYOND_ROUTE_M = 60.0
"""Vehicles drive this far beyond the ego's route where that ends before they are out of sight."""
GONE_M = 45.0
"""A vehicle that drove away is taken off the stage at this distance ..."""
GONE_S = 60.0
"""... or after this time."""
CRUISE_MPS = 9.0


class Leader:
    """Drives ahead of the ego at the ego's speed, from when the ego comes near; call `update` every tick."""

    NOTICE_M = 32.0
    GAP_M = 5.0
    HEADWAY_S = 1.0
    GAIN_PER_S = 0.5

    def __init__(self, scenario: Scenario, driver: PathDriver) -> None:
        self._stage = scenario.stage
        self._driver = driver
        self._moving = False

    @property
    def close(self) -> bool:
        """Whether both drive, the ego about as near as it should be."""
        moving = self._stage.pose(self._driver.vehicle).speed_mps > 0.6 * self._stage.ego_pose.speed_mps > 1.0
        return moving and self._gap_m() < 1.3 * self._wanted_m()

    def update(self) -> None:
        """Keep the distance."""
        gap_m = self._gap_m()
        self._moving = self._moving or gap_m < self.NOTICE_M
        speed_mps = self._stage.ego_pose.speed_mps + self.GAIN_PER_S * (self._wanted_m() - gap_m)
        self._driver.speed_mps = max(speed_mps, 0.0) if self._moving else 0.0
        self._driver.update()

    def _gap_m(self) -> float:
        """Bumper to bumper."""
        between_m = self._stage.ego_distance_m(self._stage.pose(self._driver.vehicle).location)
        return between_m - self._stage.size(self._driver.vehicle)[0] - self._stage.size(self._stage.ego)[0]

    def _wanted_m(self) -> float:
        return self.GAP_M + self.HEADWAY_S * self._stage.ego_pose.speed_mps


class OnRoute(Scenario):
    """A scenario with a vehicle that drives on the ego's route."""

    def driver_at(self, arc_m: float) -> PathDriver:
        """A car standing on the ego's route, behind the next junction if the place lies in one."""
        route, carla_map = self.stage.route, self.stage.map
        last = route.index_at(arc_m + ROUTE_AHEAD_M)
        index = route.index_at(arc_m)
        while index < last and carla_map.get_waypoint(route.transforms[index].location).is_junction:
            index += 1
        beyond = lane_path(carla_map.get_waypoint(route.transforms[last].location), BEYOND_ROUTE_M)
        line = Line([*route.transforms[index : last + 1], *beyond[1:]])
        vehicle = self.vehicle(line.transforms[0], parked=False)
        vehicle.apply_control(carla.VehicleControl(brake=1.0))
        return PathDriver(self.stage, vehicle, line, 0.0)

    def way_to(self, driver: PathDriver) -> FreeWay:
        """Keeps background vehicles from the ego's way up to another vehicle."""
        return FreeWay(self.stage, lambda: self.arc_ahead(self.stage.pose(driver.vehicle).location))

    def drive_off(self, driver: PathDriver) -> Script:
        """Let it drive away along the route, obeying lights, until it is out of sight."""
        set_brake_lights(driver.vehicle, on=False)
        end_s = self.stage.now_s + GONE_S
        while self.ego_within(GONE_M, self.stage.pose(driver.vehicle).location):
            if self.stage.now_s > end_s or driver.finished:
                break
            vehicle = driver.vehicle
            red = vehicle.is_at_traffic_light() and vehicle.get_traffic_light_state() == carla.TrafficLightState.Red
            driver.speed_mps = 0.0 if red else CRUISE_MPS
            driver.update()
            yield
        self.discard([driver.vehicle])


class HardBreakRoute(OnRoute):
    """The vehicle ahead brakes hard. Source: scenario_runner `HardBreakRoute`, whose traffic stops for 10 s."""

    STOP_S = 10.0
    BEHIND_M = 15.0
    BEFORE_M = 25.0
    """The leader waits for the ego this far before the trigger."""
    START_M = 14.0
    LATEST_M = 70.0
    """It brakes at the latest this far after the trigger."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Any free road."""
        for index in way.stretches(before_m=50.0, after_m=60.0):
            yield way.block("HardBreakRoute", index)

    def prepare(self) -> None:
        """Put the leader on the road."""
        arc_m = max(self.trigger_arc_m - self.BEFORE_M, self.stage.ego_arc_m + self.START_M)
        self.driver = self.driver_at(arc_m)
        self.leader = Leader(self, self.driver)

    def approach(self) -> Script:
        """The leader drives ahead of the ego, and nobody between them."""
        yield from self.play(self.leader, self.way_to(self.driver), until=lambda: False)

    def script(self) -> Script:
        """It brakes, stands and drives on."""
        latest_m = self.trigger_arc_m + self.LATEST_M
        yield from self.play(self.leader, until=lambda: self._may_brake() or self.ego_passed(latest_m))
        set_brake_lights(self.driver.vehicle, on=True)
        self.driver.speed_mps, end_s = 0.0, self.stage.now_s + self.STOP_S
        yield from self.play(self.driver, until=lambda: self.stage.now_s > end_s)
        arc_m = self.stage.ego_arc_m
        yield from self.drive_off(self.driver)
        yield from self.until(lambda: self.ego_passed(arc_m + self.BEHIND_M))

    def _may_brake(self) -> bool:
        here = self.stage.map.get_waypoint(self.stage.pose(self.driver.vehicle).location)
        return self.leader.close and not here.is_junction


class ControlLoss(Scenario):
    """Dirt on the lane disturbs the ego's steering and throttle. Source: scenario_runner `ControlLoss`, all figures."""

    PLACES_M = (14.0, 48.0, 74.0)
    END_M = 110.0
    NEAR_M = 2.0
    """The ego is disturbed while its middle is this near to the middle of the dirt."""
    STEER, STEER_DEVIATION = 0.055, 0.015
    THROTTLE, THROTTLE_DEVIATION = 0.03, 0.01
    """Mean and standard deviation of what is added to a control; each place draws the means' signs."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Any free road."""
        for index in way.stretches(before_m=10.0, after_m=cls.PLACES_M[-1] + 10.0):
            yield way.block("ControlLoss", index)

    def prepare(self) -> None:
        """Spill the dirt."""
        self.spots = [ahead(self.trigger, place_m, stop_at_junction=False).transform for place_m in self.PLACES_M]
        for spot in self.spots:
            self.prop(spot, "static.prop.dirtdebris01").set_collisions(  # pyright: ignore[reportAttributeAccessIssue] - the stub lacks it
                False  # on slopes, too, one drives over it
            )

    def script(self) -> Script:
        """Disturb the ego at every place until it has passed."""
        end_m = self.trigger_arc_m + self.END_M
        signs = [(self._sign(), self._sign()) for _ in self.spots]
        while not self.ego_passed(end_m):
            near = [sign for sign, spot in zip(signs, self.spots, strict=True) if self._is_at(spot)]
            self.stage.disturb = partial(self._disturbed, *near[0]) if near else None
            yield

    def finish(self) -> None:
        """The ego has its controls back."""
        self.stage.disturb = None

    def _sign(self) -> float:
        return self.stage.random.choice((-1.0, 1.0))

    def _is_at(self, spot: carla.Transform) -> bool:
        return self.ego_within(self.NEAR_M, spot.location)

    def _disturbed(
        self, throttle_sign: float, steer_sign: float, control: carla.VehicleControl
    ) -> carla.VehicleControl:
        throttle = control.throttle + self.stage.random.gauss(throttle_sign * self.THROTTLE, self.THROTTLE_DEVIATION)
        steer = control.steer + self.stage.random.gauss(steer_sign * self.STEER, self.STEER_DEVIATION)
        return carla.VehicleControl(
            throttle=min(max(throttle, 0.0), 1.0),
            steer=min(max(steer, -1.0), 1.0),
            brake=control.brake,
            hand_brake=control.hand_brake,
            reverse=control.reverse,
        )


class BlockedIntersection(OnRoute):
    """A car stands where the ego leaves a junction. Source: scenario_runner `BlockedIntersection`."""

    timeout_s = 240.0
    BEYOND_M = 5.0
    NEAR_M = 13.0
    STAND_S = 10.0
    """It drives off this long after the ego came near."""
    BEFORE_M = 35.0
    AFTER_M = 30.0
    """In generated routes the trigger is so far before the junction, and the route goes on so far behind it."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Turns."""
        for passage in way.passages:
            index = way.before(passage, cls.BEFORE_M)
            turn = passage.option in (RoadOption.LEFT, RoadOption.RIGHT)
            if index is not None and turn and way.after(passage) > cls.AFTER_M:
                yield way.block("BlockedIntersection", index)

    def prepare(self) -> None:
        """Put the car there."""
        self.driver = self.driver_at(self.arc_ahead(self.after_junction().transform.location) + self.BEYOND_M)
        set_brake_lights(self.driver.vehicle, on=True)

    def script(self) -> Script:
        """It drives off when the ego has waited; nobody else waits between them."""
        location = self.stage.pose(self.driver.vehicle).location
        yield from self.play(self.way_to(self.driver), until=lambda: self.ego_within(self.NEAR_M, location))
        yield from self.wait(self.STAND_S)
        yield from self.drive_off(self.driver)


class InvadingTurn(Scenario):
    """Oncoming cars drive partly in the ego's lane, past cones. Source: scenario_runner `InvadingTurn`."""

    timeout_s = 240.0
    SOURCE_M = 30.0
    SPACING_M = (40.0, 41.0)
    CAR_M = 0.7
    """Offset 0 puts the cars' middle this far from the middle of the road, on their side."""
    CONE_FIRST_M = 15.0
    CONE_SPACING_M = 5.0
    CONE_SIDE = 0.4
    """Of the lane's width, from its middle to the outside."""
    BEND_DEG = 12.0
    DISTANCES_M = (50, 53, 60, 70)

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Bends of roads with one lane each way."""
        for index in way.stretches(before_m=10.0, after_m=cls.DISTANCES_M[0] + cls.SOURCE_M + 5.0):
            waypoint = way.waypoints[index]
            room_m = way.junction_ahead(index) - cls.SOURCE_M - 5.0
            distance_m = max(d for d in cls.DISTANCES_M if d <= room_m)
            bend_deg = abs(way.bend_deg(float(way.line.arc_m[index]), distance_m))
            if two_way(waypoint) and bend_deg > cls.BEND_DEG:
                offset_m = 0.5 * waypoint.lane_width - random.uniform(1.0, 1.2)
                yield way.block("InvadingTurn", index, distance=distance_m, offset=round(offset_m, 2))

    def prepare(self) -> None:
        """Set up the cones."""
        distance_m = self.parameters.number("distance", 100.0, 10.0, 1000.0)
        forward = ahead(self.trigger, distance_m + self.SOURCE_M, stop_at_junction=False)
        source, sink = opposite(forward), opposite(self.trigger)
        if source is None or sink is None:
            raise ScenarioError(f"no oncoming lane at the trigger or {distance_m + self.SOURCE_M:g} m after it")
        self.end_arc_m = self.arc_ahead(forward.transform.location)
        lane = self.line_between(source.transform.location, sink.transform.location)
        inwards_m = self.parameters.number("offset", 0.25, -1.0, 2.0) + 0.5 * sink.lane_width - self.CAR_M
        self.line = Line([shifted(transform, right_m=-inwards_m) for transform in lane.transforms])
        for arc_m in np.arange(self.CONE_FIRST_M, self.CONE_FIRST_M + 0.5 * distance_m, self.CONE_SPACING_M):
            cone = shifted(lane.at(float(arc_m)), right_m=self.CONE_SIDE * sink.lane_width)
            self.prop(cone, "static.prop.constructioncone")

    def script(self) -> Script:
        """Cars come until the ego has passed, and nobody stands before them in its lane."""
        speed_mps = self.stage.ego.get_speed_limit() / 3.6
        flow = Flow(self, self.line, speed_mps, self.SPACING_M, minds_ego=True, filled=False)
        way = FreeWay(self.stage, lambda: self.end_arc_m)
        yield from self.play(flow, way, until=lambda: self.ego_passed(self.end_arc_m))
        flow.close()


def set_brake_lights(vehicle: carla.Vehicle, *, on: bool) -> None:
    """Show or hide a vehicle's brake lights."""
    vehicle.set_light_state(carla.VehicleLightState.Brake if on else carla.VehicleLightState.NONE)
