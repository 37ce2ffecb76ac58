"""The global plan as the car needs it: progress along the sparse polyline, the points ahead, the command.

The leaderboard hands out a down-sampled plan: points up to 200 m apart, with the exact world coordinates. The road
between two points may bend, so the polyline is a direction to go, not a line to follow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from agent.localization import Pose


class Command(IntEnum):
    """The leaderboard's road options in the order of the one-hot vectors."""

    LEFT = 0
    RIGHT = 1
    STRAIGHT = 2
    LANEFOLLOW = 3
    CHANGELANELEFT = 4
    CHANGELANERIGHT = 5


ROUTE_POINTS = 8
"""Polyline points the network sees."""
VECTOR_SIZE = 18
"""Length of the vector that `route_vector` builds."""
SPEED_SCALE_MPS = 10.0
DISTANCE_SCALE_M = 50.0
POINT_CLIP = 2.0
DISTANCE_CLIP = 4.0
"""The plan's spacing in units of DISTANCE_SCALE_M."""
LEADERBOARD_SPACING_M = 200.0
"""Longest distance between plan points in the official leaderboard."""
BENCH2DRIVE_SPACING_M = 50.0
LONGEST_ROAD_M = LEADERBOARD_SPACING_M + 4.0
"""Between two plan points: the spacing, the step that exceeds it, and the step that is not counted."""
LANE_CHANGES = (Command.CHANGELANELEFT.name, Command.CHANGELANERIGHT.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteConfig:
    """How progress along the plan is tracked."""

    max_advance_m: float = 20.0
    """Progress never moves further than this in one tick."""
    advance_per_metre: float = 2.0
    """Nor further than this times the distance driven, plus advance_slack_m."""
    advance_slack_m: float = 1.0
    duplicate_m: float = 0.1
    """Plan points closer to their predecessor than this are one point."""
    off_route_m: float = 30.0
    """Further from the road of the plan than this the car is lost."""
    end_m: float = 0.5
    """The route has ended when so little of it is left."""

    def __post_init__(self) -> None:
        if not 0.0 < self.max_advance_m <= 20.0:
            raise ValueError(f"route.max_advance_m must lie in (0, 20] m, got {self.max_advance_m}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A sparse global plan in the world frame."""

    points_m: np.ndarray
    """(n, 2) float64."""
    commands: tuple[Command, ...]
    geo_rad: np.ndarray
    """(n, 2) latitude and longitude of the same points."""
    start_yaw_rad: float
    """Heading of the road at the first point, which is where the car is spawned."""

    def without_duplicates(self, closer_than_m: float) -> "Plan":
        """The plan without points that repeat their predecessor; of a pair the later command holds."""
        if len(self.points_m) == 0:
            return self
        kept = [0]
        commands = list(self.commands)
        for i in range(1, len(self.points_m)):
            if np.linalg.norm(self.points_m[i] - self.points_m[kept[-1]]) > closer_than_m:
                kept.append(i)
            else:
                commands[kept[-1]] = commands[i]
        return Plan(self.points_m[kept], tuple(commands[i] for i in kept), self.geo_rad[kept], self.start_yaw_rad)


@dataclass(frozen=True, slots=True)
class RouteView:
    """The route as seen from the car; points are in the ego frame (x forward, y left, metres)."""

    points_m: np.ndarray
    """(8, 2): the last passed point, then the points ahead, padded by repeating the last."""
    next_points_m: np.ndarray
    """(2, 2): the next two points ahead."""
    command: Command
    """Of the next point."""
    last_command: Command
    """Of the last passed point: the manoeuvre the car is in."""
    commands: tuple[Command, ...]
    """Of the points in points_m."""
    distance_m: float
    """To the next point."""
    at_end: bool
    off_route: bool


class RouteTracker:
    """Follows the car along the plan; progress never goes back and never jumps."""

    def __init__(self, config: RouteConfig, plan: Plan) -> None:
        if len(plan.points_m) < 2:
            raise ValueError(f"a route needs two points or more, got {len(plan.points_m)}")
        self._config = config
        self._plan = plan
        lengths_m = np.linalg.norm(np.diff(plan.points_m, axis=0), axis=1)
        self._starts_m = np.concatenate([[0.0], np.cumsum(lengths_m)])
        self._progress_m = 0.0
        self._ended = False

    @property
    def progress_m(self) -> float:
        """Distance along the polyline that the car has covered."""
        return self._progress_m

    @property
    def length_m(self) -> float:
        """Length of the polyline."""
        return float(self._starts_m[-1])

    def update(self, pose: Pose, travelled_m: float) -> RouteView:
        """The view from `pose`, reached from the last one by driving travelled_m."""
        config = self._config
        advance_m = min(config.max_advance_m, config.advance_per_metre * abs(travelled_m) + config.advance_slack_m)
        here_m = np.array([pose.x_m, pose.y_m])
        self._progress_m, distance_m = self._nearest(here_m, self._progress_m, self._progress_m + advance_m)
        last = self._last_passed()
        next_ = min(last + 1, len(self._plan.points_m) - 1)
        local_m = pose.to_local(self._plan.points_m[last:])
        ahead = np.minimum(np.arange(ROUTE_POINTS), len(local_m) - 1)
        next_points_m = local_m[np.minimum([1, 2], len(local_m) - 1)]
        near_end = float(np.linalg.norm(local_m[-1])) < config.max_advance_m
        self._ended |= near_end and self.length_m - self._progress_m <= config.end_m
        return RouteView(
            points_m=local_m[ahead],
            next_points_m=next_points_m,
            command=self._plan.commands[next_],
            last_command=self._plan.commands[last],
            commands=tuple(self._plan.commands[last + k] for k in ahead),
            distance_m=float(np.linalg.norm(next_points_m[0])),
            at_end=self._ended,
            off_route=distance_m > config.off_route_m + self._bend_m(last),
        )

    def _last_passed(self) -> int:
        passed = int(np.searchsorted(self._starts_m, self._progress_m + 1e-9, side="right")) - 1
        return min(max(passed, 0), len(self._plan.points_m) - 1)

    def _nearest(self, here_m: np.ndarray, low_m: float, high_m: float) -> tuple[float, float]:
        """Progress in [low_m, high_m] of the polyline point nearest to here_m, and its distance."""
        first = int(np.searchsorted(self._starts_m, low_m, side="right")) - 1
        last = int(np.searchsorted(self._starts_m, min(high_m, self.length_m), side="left")) - 1
        best = (low_m, math.inf)
        for i in range(max(min(first, len(self._starts_m) - 2), 0), max(last, 0) + 1):
            start_m, end_m = self._plan.points_m[i], self._plan.points_m[i + 1]
            length_m = float(self._starts_m[i + 1] - self._starts_m[i])
            along_m = float((here_m - start_m) @ (end_m - start_m)) / length_m
            along_m = min(max(along_m, low_m - self._starts_m[i], 0.0), high_m - self._starts_m[i], length_m)
            distance_m = float(np.linalg.norm(start_m + (end_m - start_m) * (along_m / length_m) - here_m))
            if distance_m < best[1]:
                best = (float(self._starts_m[i]) + along_m, distance_m)
        return max(best[0], low_m), best[1]

    def _bend_m(self, segment: int) -> float:
        """How far the road may swing out from the chord between two plan points.

        By the leaderboard's down-sampling the road between them is at most LONGEST_ROAD_M long, so all of it lies
        within an ellipse around the chord. Ramps do curl up like that: a tighter bound would stop the car there.
        """
        segment = min(segment, len(self._starts_m) - 2)
        chord_m = float(self._starts_m[segment + 1] - self._starts_m[segment])
        return 0.5 * math.sqrt(max(LONGEST_ROAD_M**2 - chord_m**2, 0.0))


def route_vector(view: RouteView, speed_mps: float) -> np.ndarray:
    """The vector (18,) float32 of the networks.

    speed / 10, the next two points (x, y) / 50 clipped to +-2, the distance to the next point / 50 clipped to 4,
    one-hot command of the next point (6), one-hot command of the last passed point (6).
    """
    vector = np.zeros(VECTOR_SIZE, np.float32)
    vector[0] = speed_mps / SPEED_SCALE_MPS
    vector[1:5] = np.clip(view.next_points_m.reshape(4) / DISTANCE_SCALE_M, -POINT_CLIP, POINT_CLIP)
    vector[5] = min(view.distance_m / DISTANCE_SCALE_M, DISTANCE_CLIP)
    vector[6 + view.command] = 1.0
    vector[12 + view.last_command] = 1.0
    return vector


def sparse_indices(plan: Sequence[tuple[Any, Any]], spacing_m: float) -> list[int]:
    """Indices of the dense plan's (transform, road option) pairs that the leaderboard gives to the agent.

    Kept are the first and the last point, every lane-change point, every change of option (unless it follows a lane
    change) and a point after more than `spacing_m` metres. The step to a kept point does not count towards the
    distance. Options are told by their names, whichever enumeration they are of.
    Source: leaderboard 2.0 `downsample_route`.
    """
    kept: list[int] = []
    distance_m = 0.0
    option_before, changing_before, location_before = None, False, None
    for index, (transform, option) in enumerate(plan):
        changing = getattr(option, "name", option) in LANE_CHANGES
        turns_off = location_before is None or changing or (option != option_before and not changing_before)
        if turns_off or distance_m > spacing_m or index == len(plan) - 1:
            kept.append(index)
            distance_m = 0.0
        else:
            distance_m += math.dist(_xyz(transform.location), _xyz(location_before))
        option_before, changing_before, location_before = option, changing, transform.location
    return kept


def _xyz(location: Any) -> tuple[float, float, float]:
    return location.x, location.y, location.z
