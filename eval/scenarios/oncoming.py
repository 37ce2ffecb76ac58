"""Traffic in the opposite lane while the ego has to use it."""

from __future__ import annotations

import carla

from eval.scenarios.lanes import behind, lane_path, opposite
from eval.scenarios.line import Line
from eval.scenarios.motion import Flow
from eval.scenarios.scenario import Scenario

REACH_S = 5.4
REACH_M = 30.0
"""The traffic reaches this far to either side of the obstacle, but not across a junction: 1.5 m per km/h, and 30 m."""
MIN_SPEED_MPS = 5.0
YIELD_M = 15.0
"""Bumper to bumper distance at which the oncoming stop for an ego in their lane, so that it can get back."""
NEAR_SOURCE_M = 30.0
"""Nobody appears closer than this to the ego."""


class Oncoming:
    """Vehicles in the lane opposite of a place, with gaps; without such a lane there are none.

    Source: scenario_runner `OppositeActorFlow`.
    """

    def __init__(self, scenario: Scenario, place: carla.Waypoint, gaps_m: tuple[float, float]) -> None:
        self._stage = scenario.stage
        speed_mps = max(scenario.stage.speed_limit_mps, MIN_SPEED_MPS)
        self._line = _line(place, REACH_S * speed_mps + REACH_M)
        self._flow: Flow | None = None
        if self._line is not None:
            self._source = self._line.transforms[0].location
            self._flow = Flow(scenario, self._line, speed_mps, gaps_m, minds_ego=True, filled=False)
            self._flow.gap_m = YIELD_M
            self._flow.may_enter = lambda: self._stage.ego_distance_m(self._source) > NEAR_SOURCE_M

    def update(self) -> None:
        """Act for the next tick."""
        if self._flow is not None:
            self._flow.update()


def _line(place: carla.Waypoint, reach_m: float) -> Line | None:
    lane = opposite(place)
    if lane is None:
        return None
    start = behind(lane, reach_m, stop_at_junction=True)
    length_m = reach_m + start.transform.location.distance(lane.transform.location)
    path = lane_path(start, length_m, stop_at_junction=True)
    return Line(path) if len(path) > 1 else None
