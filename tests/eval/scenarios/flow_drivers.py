"""Drivers that obey lights; some wait for a gap in traffic, or fall in behind others."""

from __future__ import annotations

import math
from typing import ClassVar

import carla
import numpy as np

from eval.scenarios.crossroads import arrival_s
from eval.scenarios.stage import Body
from tests.eval.scenarios.playground import Blind

BRAKE = carla.VehicleControl(brake=1.0)
LOOK_M = 45.0
RAY_M = 120.0
MEET_M = 2.2
MOVING_MPS = 1.0
ON_ROUTE_M = 1.5
STARTING_MPS = 3.5


class Obedient(Blind):
    """Stops at red lights, ignores everybody."""

    def control(self) -> carla.VehicleControl:
        """Full brake at a red light."""
        ego = self.stage.ego
        red = ego.is_at_traffic_light() and ego.get_traffic_light_state() == carla.TrafficLightState.Red
        return BRAKE if red and not self._inside() else super().control()

    def _inside(self) -> bool:
        return self.stage.map.get_waypoint(self.stage.ego_pose.location).is_junction


class GapSeeker(Obedient):
    """Lets everybody pass whose straight way on meets its own at about the same time, until the junction is behind."""

    minds_others = True
    was_inside = False
    BEFORE_S, AFTER_S = 1.6, 3.5
    SETTLE_MPS, SETTLE_MPS2 = 4.5, 2.0
    """Its speed where it joins others, and how soon it is as fast as they are."""
    DECELERATION_MPS2 = 3.0
    CLEAR_M = 3.0

    def control(self) -> carla.VehicleControl:
        """Stops before the place where they would meet."""
        control = super().control()
        inside = self._inside()
        self.was_inside = self.was_inside or inside
        if self.was_inside and not inside:
            return control
        stops_m = [stop_m for body in self.stage.bodies(ego=False) if (stop_m := self._stop_m(body)) is not None]
        distance_m = min(stops_m, default=math.inf) - self.stage.ego_arc_m - self.stage.ego.bounding_box.extent.x
        allowed_mps = math.sqrt(2.0 * self.DECELERATION_MPS2 * max(distance_m, 0.0))
        if self.stage.ego_pose.speed_mps > allowed_mps or distance_m < 0.5:
            return carla.VehicleControl(brake=1.0, steer=control.steer)
        if control.brake == 0.0 and self.stage.ego_pose.speed_mps < STARTING_MPS < allowed_mps:
            control.throttle = 1.0
        return control

    def _stop_m(self, body: Body) -> float | None:
        """Where to stop for somebody, by arc length of the route."""
        speed = body.pose.speed_mps
        if speed < MOVING_MPS:
            return None
        route, here_m = self.stage.route, self.stage.ego_arc_m
        low, high = route.index_at(here_m), route.index_at(here_m + LOOK_M) + 1
        dx = route.points[low:high, 0] - body.pose.location.x
        dy = route.points[low:high, 1] - body.pose.location.y
        cos_yaw, sin_yaw = body.pose.velocity.x / speed, body.pose.velocity.y / speed
        along, aside = dx * cos_yaw + dy * sin_yaw, np.abs(dy * cos_yaw - dx * sin_yaw)
        meets = (aside < MEET_M) & (along > -2.0) & (along < RAY_M)
        on_route = bool((dx**2 + dy**2).min() < ON_ROUTE_M**2)
        if not meets.any() or meets[0] or on_route:
            return None  # those ahead are minded anyway
        index = int(np.argmax(meets))
        meeting_m = float(route.arc_m[low + index])
        front_m = here_m + self.stage.ego.bounding_box.extent.x
        if meeting_m - front_m < 0.5:
            return None  # too late to stop
        theirs_s = float(along[index]) / speed
        mine_s = arrival_s(self.stage, meeting_m)
        catch_up_s = max(speed - self.SETTLE_MPS, 0.0) ** 2 / (2.0 * self.SETTLE_MPS2 * speed)
        if mine_s - self.BEFORE_S < theirs_s < mine_s + self.AFTER_S + catch_up_s:
            return meeting_m - self.CLEAR_M
        return None


class Zipper(Blind):
    """Falls in behind those beside it before its own lane and theirs become one."""

    minds_others = True
    SPEED_MPS = 22.0
    SIDE_M: ClassVar[tuple[float, float]] = (-5.5, -1.5)
    """Where their lane is, to the right of the route."""
    ALONGSIDE_M = 4.0
    GAP_M = 8.0
    """Between middles."""

    def control(self) -> carla.VehicleControl:
        """As fast as those ahead in the lane beside."""
        self.path.speed_mps = min(self.SPEED_MPS, self._bend_speed_mps())
        control = self.path.control()
        wanted_mps = min((self._behind_mps(body) for body in self.stage.bodies(ego=False)), default=math.inf)
        speed_mps = self.stage.ego_pose.speed_mps
        if speed_mps > wanted_mps:
            control.throttle, control.brake = 0.0, min(0.3 * (speed_mps - wanted_mps), 1.0)
        return control

    def _behind_mps(self, body: Body) -> float:
        route = self.stage.route
        index = route.nearest(body.pose.location, min(self.stage.ego_index + 10, len(route.points) - 1))
        ahead_m = route.arc_of(body.pose.location, index) - self.stage.ego_arc_m
        beside = self.SIDE_M[0] < route.offset_of(body.pose.location, index) < self.SIDE_M[1]
        if not beside or not -self.ALONGSIDE_M < ahead_m < LOOK_M:
            return math.inf
        return max(body.pose.speed_mps + 0.5 * (ahead_m - self.GAP_M), 2.0)


class ExitZipper(Zipper):
    """The same for a lane to the right."""

    SIDE_M = (1.5, 5.5)
