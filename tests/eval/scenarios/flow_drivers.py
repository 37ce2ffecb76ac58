"""Drivers that obey lights, and one that waits for a gap in traffic."""

from __future__ import annotations

import math

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
    """Lets everybody pass whose straight way on meets its own at about the same time."""

    minds_others = True
    BEFORE_S, AFTER_S = 1.6, 3.5
    SETTLE_MPS, SETTLE_MPS2 = 4.5, 2.0
    """Its speed where it joins others, and how soon it is as fast as they are."""
    DECELERATION_MPS2 = 3.0
    CLEAR_M = 3.0

    def control(self) -> carla.VehicleControl:
        """Stops before the place where they would meet."""
        control = super().control()
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
        if not meets.any() or meets[0]:
            return None
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
