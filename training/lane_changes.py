"""The route's lane changes, which its plan makes in one leap: drawn out, and put off while the other lane is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from training.forecast import Others, Path, presence
from training.sidestep import Ego, LaneTable, shifted, smooth

LEAP_M = 1.5
"""A step of the route this far to the side is a lane change."""
LENGTH_S = 2.4
LENGTH_M = (9.0, 30.0)
"""A change takes this long, within these bounds."""
SPARE_M = 3.0
"""A change ends this far before the lane that it leaves does."""
ROOM_M = 3.0
"""Free road wanted before and behind the ego on the other lane, and so many seconds of who is faster."""
ROOM_S = 4.0
SIDE_M = 0.4
CLOSE_M = 6.0
"""The ego decides when it is this near to where the change begins."""
FALL_BACK_MPS = 2.0
"""An ego that cannot change drives by so much slower than who hinders it."""


@dataclass(slots=True)
class _Change:
    """One lane change."""

    index: int
    """First point on the new lane."""
    across_m: float
    """To the left."""
    latest_m: float
    """Arc length at which the lane that is left ends."""
    begin_m: float
    length_m: float
    begun: bool = False


class LaneChanges:
    """The route with its lane changes drawn out; call `update` once per decision."""

    def __init__(self, path: Path, lanes: LaneTable) -> None:
        self._route = path
        self._lanes = lanes
        self._changes = _find(path, lanes)
        self.path, self.lanes = path, lanes
        """The way to drive, and the lanes beside it."""
        self._draw()

    def update(self, ego: Ego, others: Others, wanted_mps: float) -> tuple[float | None, float]:
        """Put a change off if somebody is in the way.

        Gives the arc length at which the ego must wait for room, if it must, and the speed it should keep below.
        """
        for change in self._changes:
            if change.begun or ego.arc_m + CLOSE_M < change.begin_m:
                continue
            hindering = self._hindering(change, ego, others)
            last_m = change.latest_m - SPARE_M - LENGTH_M[0]
            if not hindering or ego.arc_m > last_m + LENGTH_M[0]:
                change.begun = ego.arc_m > change.begin_m
                length_m = min(max(LENGTH_S * ego.speed_mps, LENGTH_M[0]), LENGTH_M[1])
                length_m = max(min(length_m, change.latest_m - SPARE_M - change.begin_m), 1.0)
                if not change.begun and abs(length_m - change.length_m) > 1.0:
                    change.length_m = length_m
                    self._draw()
                return None, math.inf
            change.begin_m = ego.arc_m + CLOSE_M
            change.length_m = max(min(change.length_m, change.latest_m - SPARE_M - change.begin_m), 1.0)
            self._draw()
            return max(last_m, ego.front_m), max(min(hindering) - FALL_BACK_MPS, 0.3 * wanted_mps)
        return None, math.inf

    def _hindering(self, change: _Change, ego: Ego, others: Others) -> list[float]:
        """Speeds of those who are, or come, where the ego would change to."""
        found = []
        for i in range(len(others)):
            present = presence(
                self._route, others.pose[i : i + 1], float(others.half_length_m[i]), float(others.half_width_m[i])
            )
            low_m, high_m = float(present.low_m[0]), float(present.high_m[0])
            if low_m < self._route.arc_m[change.index] - 2.0 * LENGTH_M[1]:
                continue
            offset_m = float(present.offset_m[0])
            if high_m < self._route.arc_m[change.index]:
                offset_m -= change.across_m  # beside the lane that is left
            if abs(offset_m) > present.reach_m[0] + ego.half_width_m + SIDE_M or not present.beside[0]:
                continue
            along_mps = float(others.speed_mps[i] * present.along[0])
            faster_mps, slower_mps = max(along_mps - ego.speed_mps, 0.0), max(ego.speed_mps - along_mps, 0.0)
            rear_m = ego.arc_m - ego.half_length_m
            if high_m + ROOM_M + ROOM_S * faster_mps > rear_m and low_m - ROOM_M - 0.5 * slower_mps < ego.front_m:
                found.append(max(along_mps, 0.0))
        return found

    def _draw(self) -> None:
        """Lay the way anew."""
        arc_m = self._route.arc_m
        offset_m = np.zeros(len(arc_m))
        for change in self._changes:
            done = smooth((arc_m - change.begin_m) / change.length_m)
            offset_m[change.index :] -= change.across_m * (1.0 - done[change.index :])
        points = shifted(self._route, offset_m)
        for change in self._changes:  # the route's leap and the offset's cancel each other
            points[change.index - 1 : change.index + 1, 2] = self._route.points[change.index - 1 : change.index + 1, 2]
        self.path = Path(points, arc_m)
        self.lanes = _beside(self._lanes, offset_m)


def _find(path: Path, lanes: LaneTable) -> list[_Change]:
    delta = np.diff(path.points[:, :2], axis=0)
    yaw = path.points[:-1, 2]
    across_m = delta[:, 1] * np.cos(yaw) - delta[:, 0] * np.sin(yaw)
    leaps = [int(k) + 1 for k in np.flatnonzero(np.abs(across_m) > LEAP_M)]
    changes = []
    for position, index in enumerate(leaps):
        left_m = float(across_m[index - 1])
        gone = np.flatnonzero(~lanes.beside[index:, 1 if left_m > 0.0 else 0])
        latest_m = float(path.arc_m[index + gone[0]]) if len(gone) else float(path.arc_m[-1])
        if position + 1 < len(leaps):
            latest_m = min(latest_m, float(path.arc_m[leaps[position + 1] - 1]))
        begin_m = float(path.arc_m[index - 1])
        length_m = max(min(LENGTH_M[1], latest_m - SPARE_M - begin_m), 1.0)
        changes.append(_Change(index, left_m, latest_m, begin_m, length_m))
    return changes


def _beside(lanes: LaneTable, offset_m: Float64[np.ndarray, " n"]) -> LaneTable:
    """Lanes beside the way that lies `offset_m` to the left of the route: on the other lane, the route's is beside."""
    on_left, on_right = offset_m > LEAP_M, offset_m < -LEAP_M
    left_m = np.where(on_right, -offset_m, np.where(on_left, np.nan, lanes.left_m - offset_m))
    right_m = np.where(on_left, -offset_m, np.where(on_right, np.nan, lanes.right_m - offset_m))
    return LaneTable(left_m, lanes.left_same | on_right, right_m, lanes.inside, lanes.beside)
