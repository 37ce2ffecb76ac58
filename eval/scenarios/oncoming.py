"""Traffic in the opposite lane while the ego has to use it."""

from __future__ import annotations

import math
from collections.abc import Callable

import carla

from eval.scenarios.lanes import behind, lane_path, opposite
from eval.scenarios.line import Line
from eval.scenarios.motion import Flow
from eval.scenarios.scenario import Scenario

REACH_S = 5.4
REACH_M = 30.0
"""The traffic reaches this far to either side of the obstacle, but not across a junction: 1.5 m per km/h, and 30 m."""
MIN_SPEED_MPS = 5.0
HOLD_M = 20.0
"""While the ego is in their lane, they wait this far before the obstacle, so that it can get back."""
HOLD_SLACK_M = 10.0
"""Who is further than this past that place drives on."""
HOLD_DECELERATION_MPS2 = 2.0
ACROSS_M = 2.2
"""The ego is in their lane if it is no further from its middle."""
NEAR_SOURCE_M = 30.0
"""Nobody appears closer than this to the ego."""


class Oncoming:
    """Vehicles in the lane opposite of a place, with gaps; without such a lane there are none.

    Source: scenario_runner `OppositeActorFlow`, whose vehicles stop for an ego in their lane.
    """

    def __init__(
        self,
        scenario: Scenario,
        place: carla.Waypoint,
        gaps_m: tuple[float, float],
        obstacle_end: Callable[[], float],
    ) -> None:
        """`obstacle_end`: arc length of the ego's route at which the obstacle ends now."""
        self._stage = scenario.stage
        self._obstacle_end = obstacle_end
        self._speed_mps = max(scenario.stage.speed_limit_mps, MIN_SPEED_MPS)
        self._line = _line(place, REACH_S * self._speed_mps + REACH_M)
        if self._line is not None:
            source = self._line.transforms[0].location
            self._flow = Flow(scenario, self._line, self._speed_mps, gaps_m, minds_ego=True, filled=False)
            self._flow.may_enter = lambda: self._stage.ego_distance_m(source) > NEAR_SOURCE_M

    def update(self) -> None:
        """Act for the next tick."""
        line = self._line
        if line is None:
            return
        ego = self._stage.ego_pose.location
        across = abs(line.offset_of(ego, line.nearest(ego))) < ACROSS_M
        hold = self._stage.route.at(self._obstacle_end() + HOLD_M).location
        hold_m = line.arc_of(hold, line.nearest(hold))
        for driver in self._flow.drivers:
            left_m = hold_m - driver.arc_m
            driver.speed_mps = self._speed_mps
            if across and left_m > -HOLD_SLACK_M:
                slower_mps = math.sqrt(2.0 * HOLD_DECELERATION_MPS2 * max(left_m, 0.0))
                driver.speed_mps = min(self._speed_mps, slower_mps)
        self._flow.update()


def _line(place: carla.Waypoint, reach_m: float) -> Line | None:
    lane = opposite(place)
    if lane is None:
        return None
    start = behind(lane, reach_m, stop_at_junction=True)
    length_m = reach_m + start.transform.location.distance(lane.transform.location)
    path = lane_path(start, length_m, stop_at_junction=True)
    return Line(path) if len(path) > 1 else None
