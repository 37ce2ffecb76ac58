"""How far and how fast the ego gets along its route, and what ends the route early."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.criteria.events import EgoState, Event, at_text, make_event, xyz
from eval.criteria.track import RouteTrack
from eval.scoring import Infraction

BLOCKED_SPEED_MPS = 0.1
OFF_ROUTE_MAX_M = 30.0
OFF_ROUTE_SAFE_M = 15.0
OFF_ROUTE_MAX_PERCENT = 30.0
COMPLETION_PERCENT = 99.0
COMPLETION_RADIUS_M = 10.0
TIMEOUT_BASE_S = 300.0
TIMEOUT_SPEED_SHARE = 0.1
MIN_SPEED_LAST_SHARE = 0.95


class RouteCompletion:
    """How much of the route is done [%]; complete above 99 % within 10 m of the end."""

    WINDOW = 2

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self.percent = 0.0
        self.reached = False

    @property
    def index(self) -> int:
        """Index of the last passed point of the dense route."""
        return self._index

    def update(self, ego: EgoState) -> None:
        """Advance along the route."""
        if self.reached:
            return
        index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        if index != self._index or self._track.passed(index, ego.location):
            self._index = index
            self.percent = round(self._track.travelled_m[index] / self._track.length_m * 100.0, 2)
        near_end = math.dist(xyz(ego.location), self._track.locations[-1]) < COMPLETION_RADIUS_M
        if self.percent > COMPLETION_PERCENT and near_end:
            self.reached = True
            self.percent = 100.0


class MinimumSpeed:
    """Mean speed relative to the background traffic, judged at checkpoints along the route.

    Bench2Drive writes every checkpoint down, the leaderboard only those below 100 %.
    """

    WINDOW = 2

    def __init__(self, track: RouteTrack, checkpoints: int, *, every: bool) -> None:
        self._track = track
        self._every = every
        self._spacing_m = track.length_m / checkpoints
        self._index = 0
        self._checkpoint_m = 0.0
        self._ego_sum = 0.0
        self._traffic_sum = 0.0
        self._samples = 0
        self.events: list[Event] = []

    def update(self, ego: EgoState, traffic_speeds_mps: Sequence[float]) -> None:
        """Add one tick's speeds (of the ego and of all vehicles with role name `background`)."""
        self._index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        if self._track.travelled_m[self._index] - self._checkpoint_m > self._spacing_m:
            self._judge(ego)
            self._checkpoint_m = self._track.travelled_m[self._index]
            self._ego_sum = self._traffic_sum = 0.0
            self._samples = 0
        if traffic_speeds_mps:
            self._traffic_sum += sum(traffic_speeds_mps) / len(traffic_speeds_mps)
            self._ego_sum += ego.speed_mps
            self._samples += 1

    def finish(self, ego: EgoState, *, ended_by_criterion: bool) -> None:
        """Judge the last stretch once at least 95 % are done.

        A route that its own criteria ended is judged twice, as in the official tools, whose tree is terminated once by
        itself and once by the scenario manager (published Bench2Drive results show the repeated last checkpoint).
        """
        if self._track.travelled_m[self._index] / self._track.length_m > MIN_SPEED_LAST_SHARE:
            for _ in range(2 if ended_by_criterion else 1):
                self._judge(ego)

    def _judge(self, ego: EgoState) -> None:
        value: float = 100
        if self._samples and self._traffic_sum:
            value = round(self._ego_sum / self._traffic_sum * 100.0, 2)
        if value < 100.0 or self._every:
            message = f"Average speed is {value}% of the surrounding traffic's one"
            self.events.append(make_event(ego, Infraction.MIN_SPEED, message, percentage=value))


class InRoute:
    """Ends the route when the ego is 30 m off it, or drove 30 % of it more than 15 m off."""

    WINDOW = 5

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self._safe = True
        self._off_m = 0.0
        self.events: list[Event] = []

    def update(self, ego: EgoState) -> None:
        """Find the closest route point near the last one and judge the distance to it."""
        if self.events:
            return
        last = min(self._index + self.WINDOW, len(self._track) - 1)
        position = ego.location.x, ego.location.y
        distances = [math.dist(position, self._track.locations[i][:2]) for i in range(self._index, last + 1)]
        shortest_m = min(distances)
        closest = last - distances[::-1].index(shortest_m)
        off = shortest_m >= OFF_ROUTE_MAX_M
        if not off:
            self._safe = shortest_m < OFF_ROUTE_SAFE_M
        if closest != self._index:
            if not self._safe:
                self._off_m += self._track.travelled_m[closest] - self._track.travelled_m[self._index]
                off = off or 100.0 * self._off_m / self._track.length_m > OFF_ROUTE_MAX_PERCENT
            self._index = closest
        if off:
            message = f"Agent deviated from the route at {at_text(ego.location)}"
            self.events.append(make_event(ego, Infraction.ROUTE_DEVIATION, message))


class Blocked:
    """Ends the route when the ego has not moved for too long; time does not count while a scenario may hold it up."""

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._last_moving_s: float | None = None
        self.events: list[Event] = []

    def update(self, ego: EgoState, *, held_up: bool = False) -> None:
        """Measure the time since the ego last moved."""
        if self.events:
            return
        if held_up or ego.speed_mps >= BLOCKED_SPEED_MPS or not self._last_moving_s:
            self._last_moving_s = ego.time_s
        elif ego.time_s - self._last_moving_s > self._max_s:
            message = f"Agent got blocked at {at_text(ego.location)}"
            self.events.append(make_event(ego, Infraction.VEHICLE_BLOCKED, message))


class RouteTimeout:
    """Game time allowed: 300 s, and for every metre gained the time it takes at a tenth of the speed limit."""

    WINDOW = 3

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self._start_s: float | None = None
        self.allowed_s = TIMEOUT_BASE_S
        self.expired = False

    def update(self, ego: EgoState) -> None:
        """Extend the time for progress and compare."""
        if self._start_s is None:
            self._start_s = ego.time_s
        index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        gained_m = self._track.travelled_m[index] - self._track.travelled_m[self._index]
        if gained_m > 0.0 and ego.speed_limit_mps > 0.0:
            self.allowed_s += gained_m / (ego.speed_limit_mps * TIMEOUT_SPEED_SHARE)
        self._index = index
        if ego.time_s - self._start_s > self.allowed_s:
            self.expired = True
