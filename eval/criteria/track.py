"""The dense route that several criteria measure progress along."""

from __future__ import annotations

import math
from itertools import pairwise

import carla

from eval.planner import DensePlan


class RouteTrack:
    """The dense route as plain numbers, with the leaderboard's rule for having passed a point."""

    def __init__(self, plan: DensePlan) -> None:
        self.locations = [(t.location.x, t.location.y, t.location.z) for t, _ in plan]
        forward = [t.get_forward_vector() for t, _ in plan]
        self._forward = [(f.x, f.y, f.z) for f in forward]
        self.travelled_m = [0.0]
        for before, after in pairwise(self.locations):
            self.travelled_m.append(self.travelled_m[-1] + math.dist(before, after))

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def length_m(self) -> float:
        """Length of the route, never zero."""
        return max(self.travelled_m[-1], 1e-6)

    def passed(self, index: int, location: carla.Location) -> bool:
        """Whether the location lies ahead of the route point in the point's own direction."""
        x, y, z = self.locations[index]
        fx, fy, fz = self._forward[index]
        return (location.x - x) * fx + (location.y - y) * fy + (location.z - z) * fz > 0.0

    def last_passed(self, index: int, location: carla.Location, window: int) -> int:
        """The furthest passed point among `index` and the `window` points after it; `index` if there is none."""
        for candidate in range(min(index + window, len(self) - 1), index - 1, -1):
            if self.passed(candidate, location):
                return candidate
        return index
