"""Traffic that the ego has to find a gap in."""

from __future__ import annotations

import math

from eval.scenarios.crossroads import arrival_s, meeting_arcs_m
from eval.scenarios.line import Line
from eval.scenarios.motion import Flow
from eval.scenarios.scenario import Scenario
from eval.scenarios.stage import Accept, Body

GROUP = 4
"""After so many vehicles there is a rest."""
REST_S = 7.0
"""Long enough to turn across the lane, or into it."""
CLEAR_STEP_M = 8.0
TOUCH_M = 0.3
TOUCH_RADIUS_M = 12.0


class Stream(Flow):
    """Vehicles that keep their speed and ignore the ego until one of them has been hit; they mind each other.

    Unlike in the leaderboard's flows, a longer gap follows every group of vehicles, so that no spacing makes a
    junction impassable, and the first group, a dense one, meets an ego that drives on as if there was nobody.
    """

    def __init__(
        self,
        scenario: Scenario,
        line: Line,
        speed_mps: float,
        spacing_m: tuple[float, float],
        *,
        until_arc_m: float,
        stop: tuple[float, float] | None = None,
        accept: Accept | None = None,
    ) -> None:
        """`until_arc_m`: the ego's way to here is searched for where the two meet; `stop`: as for `arrival_s`.

        Background vehicles on the line are removed.
        """
        self._gaps = 0
        self._enters_s = 0.0
        self._speed_mps = speed_mps
        super().__init__(scenario, line, speed_mps, spacing_m, accept=accept, filled=False)
        self.may_enter = lambda: self._stage.now_s >= self._enters_s
        self._clear()
        self._fill_to_meet(until_arc_m, stop)

    def update(self) -> None:
        """As a flow; after a collision nobody ignores the ego any more; background traffic goes out of the way."""
        super().update()
        for driver in self._drivers:
            if self._stage.pose(driver.vehicle).speed_mps < 0.5 * self._speed_mps:
                self._stage.clear(self._line.at(driver.arc_m + CLEAR_STEP_M).location, 1.5 * CLEAR_STEP_M)
        if not self._minds_ego and self._ego_is_touched():
            self._minds_ego = True
            for driver in self._drivers:
                driver.minds_ego = True

    def _draw_gap_m(self) -> float:
        """The next vehicle comes when its time has come, and the one ahead is not too close."""
        gap_m = super()._draw_gap_m() if self._gaps >= GROUP - 1 else self._spacing_m[0]
        self._gaps += 1
        if self._gaps % GROUP == 0:
            gap_m = max(gap_m, REST_S * self._speed_mps)
        self._enters_s = self._stage.now_s + gap_m / self._speed_mps
        self._drawn_gap_m = gap_m
        return 0.8 * self._spacing_m[0]

    def _clear(self) -> None:
        for step in range(math.ceil(self._line.length_m / CLEAR_STEP_M)):
            self._stage.clear(self._line.at(step * CLEAR_STEP_M).location)

    def _fill_to_meet(self, until_arc_m: float, stop: tuple[float, float] | None) -> None:
        stage = self._stage
        found = meeting_arcs_m(stage.route, stage.ego_arc_m, until_arc_m, self._line)
        ego_m, own_m = found or (until_arc_m, 0.5 * self._line.length_m)
        arc_m = own_m - self._speed_mps * arrival_s(stage, ego_m, stop)
        ahead_m = arc_m + self._spacing_m[0]
        while ahead_m < self._line.length_m:
            if ahead_m > 0.0:
                self._admit(ahead_m)
            ahead_m += stage.random.uniform(*self._spacing_m)
        self._gaps = 0
        while arc_m > 0.0:
            before = self._gaps
            self._admit(arc_m)
            if self._gaps == before:  # its place is occupied: nobody there
                self._draw_gap_m()
            arc_m -= self._drawn_gap_m
        self._enters_s = stage.now_s - arc_m / self._speed_mps

    def _ego_is_touched(self) -> bool:
        stage = self._stage
        ego = next(body for body in stage.bodies() if body.id == stage.ego.id)
        own = {driver.vehicle.id for driver in self._drivers}
        return any(body.id in own and touching(ego, body) for body in stage.bodies(ego=False))


def touching(a: Body, b: Body) -> bool:
    """Whether two boxes on the ground overlap, or nearly."""
    dx, dy = b.pose.location.x - a.pose.location.x, b.pose.location.y - a.pose.location.y
    if math.hypot(dx, dy) > TOUCH_RADIUS_M:
        return False
    yaws = [math.radians(body.pose.transform.rotation.yaw) for body in (a, b)]
    for axis in (yaws[0], yaws[0] + 0.5 * math.pi, yaws[1], yaws[1] + 0.5 * math.pi):
        reach_m = TOUCH_M
        for body, yaw in zip((a, b), yaws, strict=True):
            reach_m += abs(math.cos(yaw - axis)) * body.half_length_m + abs(math.sin(yaw - axis)) * body.half_width_m
        if abs(dx * math.cos(axis) + dy * math.sin(axis)) > reach_m:
            return False
    return True
