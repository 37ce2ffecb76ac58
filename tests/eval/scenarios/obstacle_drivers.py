"""Drivers that know how to get past obstacles and into other lanes, as long as the road is straight on."""

from __future__ import annotations

import math

import carla
import numpy as np

from eval.scenarios.lanes import shifted
from eval.scenarios.line import Line
from eval.scenarios.stage import Body, Stage
from tests.eval.scenarios.playground import SPEED_MPS, Blind

ON_LANE_M = 2.9
"""What is this far from the middle of the lane at most is in the way, or leaves too little room beside it."""


def smooth(share: np.ndarray) -> np.ndarray:
    """From 0 to 1 without a kink."""
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def beside(route: Line, right_m: np.ndarray) -> Line:
    """The route moved to the side by a length per point."""
    return Line([shifted(t, right_m=float(m)) for t, m in zip(route.transforms, right_m, strict=True)])


class Following(Blind):
    """Brakes for what is in its way."""

    minds_others = True


class Aside(Following):
    """Keeps to the left edge of its lane."""

    ASIDE_M = 1.0

    def line(self, stage: Stage) -> Line:
        return beside(stage.route, np.full(len(stage.route.arc_m), -self.ASIDE_M))


class Overtaking(Following):
    """Passes what stands in its lane through the lane beside; waits until nobody comes there."""

    RAMP_M = 12.0
    SIDE = -1.0
    """To the left."""
    START_S = 1.0

    def line(self, stage: Stage) -> Line:
        route = stage.route
        places = [self._on_route(stage, body) for body in stage.bodies(ego=False)]
        arcs = [arc_m for arc_m, offset_m in places if abs(offset_m) < ON_LANE_M]
        width_m = stage.map.get_waypoint(route.at(min(arcs)).location).lane_width
        self.start_m, self.end_m = min(arcs) - 6.0 - self.RAMP_M, max(arcs) + 6.0 + self.RAMP_M
        out = smooth((route.arc_m - self.start_m) / self.RAMP_M)
        back = smooth((self.end_m - route.arc_m) / self.RAMP_M)
        self._shift_m = self.SIDE * width_m
        self._going = False
        return beside(route, self._shift_m * np.minimum(out, back))

    def control(self) -> carla.VehicleControl:
        control = super().control()
        left_m = self.start_m - self.stage.ego_arc_m
        self._going = self._going or (left_m < 4.0 and self._is_free())
        if not self._going and left_m < 1.0 + self.stage.ego_pose.speed_mps**2 / 6.0:
            return carla.VehicleControl(brake=1.0, steer=control.steer)
        return control

    def _is_free(self) -> bool:
        way_m = self.end_m - self.RAMP_M - self.stage.ego_arc_m
        needed_s = way_m / SPEED_MPS + self.START_S
        for body in self.stage.bodies(ego=False):
            arc_m, offset_m = self._on_route(self.stage, body)
            beside_m = abs(offset_m - self._shift_m)
            ahead_m = arc_m - self.stage.ego_arc_m
            if beside_m < 1.5 and -10.0 < ahead_m < way_m + needed_s * body.pose.speed_mps:
                return False
        return True

    @staticmethod
    def _on_route(stage: Stage, body: Body) -> tuple[float, float]:
        index = stage.route.nearest(body.pose.location)
        return stage.route.arc_of(body.pose.location, index), stage.route.offset_of(body.pose.location, index)


class Leaving(Following):
    """Waits in its parking place until the lane beside is free, then pulls out."""

    OUT_M = 9.0
    BEHIND_M = 30.0

    def line(self, stage: Stage) -> Line:
        self._gone = self._placed = False
        location = stage.pose(stage.ego).location
        parked_m = stage.route.offset_of(location, stage.route.nearest(location))
        start_m = stage.arc_on_route(location)
        return beside(stage.route, parked_m * (1.0 - smooth((stage.route.arc_m - start_m) / self.OUT_M)))

    def control(self) -> carla.VehicleControl:
        self._gone = self._gone or (self._placed and self._is_free())
        self._placed = True  # poses before the first tick are from before the ego was parked
        return super().control() if self._gone else carla.VehicleControl(brake=1.0)

    def _is_free(self) -> bool:
        here = self.stage.ego_pose.transform
        yaw = math.radians(here.rotation.yaw)
        for body in self.stage.bodies(ego=False):
            delta = body.pose.location - here.location
            ahead_m = delta.x * math.cos(yaw) + delta.y * math.sin(yaw)
            right_m = delta.y * math.cos(yaw) - delta.x * math.sin(yaw)
            if right_m < -1.5 and -self.BEHIND_M < ahead_m < 7.0:
                return False
        return True


class Merging(Following):
    """Falls back before a lane change if somebody is beside it there."""

    LOOK_M = 35.0
    BESIDE_M = 13.0
    SLOW_MPS = 3.0

    def control(self) -> carla.VehicleControl:
        control = super().control()
        if self.stage.ego_pose.speed_mps > self.SLOW_MPS and self._is_taken():
            return carla.VehicleControl(brake=0.5, steer=control.steer)
        return control

    def _is_taken(self) -> bool:
        route = self.stage.route
        for index in range(self.stage.ego_index, route.index_at(self.stage.ego_arc_m + self.LOOK_M)):
            shift_m = route.offset_of(route.transforms[index + 1].location, index)
            if abs(shift_m) > 1.5:
                return any(self._beside(body, shift_m) for body in self.stage.bodies(ego=False))
        return False

    def _beside(self, body: Body, shift_m: float) -> bool:
        here = self.stage.ego_pose.transform
        yaw = math.radians(here.rotation.yaw)
        delta = body.pose.location - here.location
        ahead_m = delta.x * math.cos(yaw) + delta.y * math.sin(yaw)
        right_m = delta.y * math.cos(yaw) - delta.x * math.sin(yaw)
        return abs(ahead_m) < self.BESIDE_M and abs(right_m - shift_m) < 2.0
