"""When the ego will be where: it slows down for bends and turns and speeds up again behind them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from eval.scenarios.line import Line
from eval.scenarios.stage import Stage

LATERAL_MPS2 = 2.2
"""Centripetal acceleration at which cars take bends."""
BRAKE_MPS2 = 3.0
SPEED_UP_MPS2 = 2.0
BEND_POINTS = 4
"""Curvature is measured over this many points of the route, which are about a metre apart."""
STANDING_MPS = 1.0
"""An ego slower than this waits for something: nobody knows when it will come."""
FAR_M = 120.0


class Arrival:
    """Forecasts the ego's way along its route from its present speed and the highest one it has driven here."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._bend_mps = bend_speeds_mps(stage.route)
        self._top_mps = 0.0

    def in_s(self, arc_m: float) -> float:
        """Time until the ego's front is at an arc length of its route; infinite if it stands or is far away."""
        stage, route = self._stage, self._stage.route
        here_m = stage.ego_arc_m + stage.ego.bounding_box.extent.x
        speed = stage.ego_pose.speed_mps
        self._top_mps = max(self._top_mps, speed)
        if arc_m <= here_m:
            return 0.0
        if speed < STANDING_MPS or arc_m - here_m > FAR_M:
            return math.inf
        time_s = 0.0
        stations = [here_m, *route.arc_m[(route.arc_m > here_m) & (route.arc_m < arc_m)], arc_m]
        limits = np.interp(np.array(stations) - stage.ego.bounding_box.extent.x, route.arc_m, self._bend_mps)
        for (start_m, end_m), limit in zip(pairwise(stations), limits[1:], strict=True):
            following = min(math.sqrt(speed**2 + 2.0 * SPEED_UP_MPS2 * (end_m - start_m)), self._top_mps, limit)
            time_s += (end_m - start_m) / (0.5 * (speed + following))
            speed = following
        return time_s


def bend_speeds_mps(route: Line) -> Float64[np.ndarray, " n"]:
    """Speed at every point of a route that its bends allow, those ahead included."""
    arc_m, yaw = route.arc_m, route.yaw_rad
    index = np.arange(len(arc_m))
    before, after = np.maximum(index - BEND_POINTS // 2, 0), np.minimum(index + BEND_POINTS // 2, len(arc_m) - 1)
    curvature = np.abs(yaw[after] - yaw[before]) / np.maximum(arc_m[after] - arc_m[before], 1e-6)
    speed = np.sqrt(LATERAL_MPS2 / np.maximum(curvature, 1e-3))
    for k in range(len(speed) - 2, -1, -1):
        speed[k] = min(speed[k], math.sqrt(speed[k + 1] ** 2 + 2.0 * BRAKE_MPS2 * (arc_m[k + 1] - arc_m[k])))
    return speed
