"""Polylines with arc lengths: the ego's route and the paths of scripted vehicles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import carla
import numpy as np
from jaxtyping import Float64

SEARCH_BACK = 3
SEARCH_AHEAD = 25


class Line:
    """A polyline on the road, in CARLA's frame [m, degrees]; points about a metre apart."""

    def __init__(self, transforms: Sequence[carla.Transform]) -> None:
        """Points nearer than 1 cm to the one before are dropped. Raises: ValueError for fewer than two points."""
        kept = [transforms[0]]
        for transform in transforms[1:]:
            if transform.location.distance(kept[-1].location) > 0.01:
                kept.append(transform)
        if len(kept) < 2:
            raise ValueError("a path needs two points that differ")
        self.transforms = kept
        self.points: Float64[np.ndarray, "n 3"] = np.array([(t.location.x, t.location.y, t.location.z) for t in kept])
        steps_m = np.hypot(*np.diff(self.points[:, :2], axis=0).T)
        self.arc_m: Float64[np.ndarray, " n"] = np.concatenate([[0.0], np.cumsum(steps_m)])
        self.yaw_rad: Float64[np.ndarray, " n"] = np.unwrap([math.radians(t.rotation.yaw) for t in kept])

    @property
    def length_m(self) -> float:
        """Length of the polyline."""
        return float(self.arc_m[-1])

    def nearest(self, location: carla.Location, start: int | None = None, ahead: int = SEARCH_AHEAD) -> int:
        """Index of the point nearest to a location; with `start` only around that index, as lines cross themselves."""
        low = 0 if start is None else max(0, start - SEARCH_BACK)
        high = len(self.points) if start is None else min(len(self.points), start + ahead)
        delta = self.points[low:high] - (location.x, location.y, location.z)
        return low + int(np.argmin((delta**2).sum(1)))

    def arc_of(self, location: carla.Location, index: int) -> float:
        """Arc length [m] of a location beside the point `index`; beyond the ends it goes on straight."""
        x, y, _ = self.points[index]
        yaw = self.yaw_rad[index]
        return float(self.arc_m[index] + (location.x - x) * math.cos(yaw) + (location.y - y) * math.sin(yaw))

    def offset_of(self, location: carla.Location, index: int) -> float:
        """Distance [m] to the right of the line."""
        x, y, _ = self.points[index]
        yaw = self.yaw_rad[index]
        return float((location.y - y) * math.cos(yaw) - (location.x - x) * math.sin(yaw))

    def index_at(self, arc_m: float) -> int:
        """Index of the last point at or before an arc length."""
        return int(np.clip(np.searchsorted(self.arc_m, arc_m, side="right") - 1, 0, len(self.arc_m) - 1))

    def at(self, arc_m: float) -> carla.Transform:
        """Pose on the line; before the start and past the end it goes on straight."""
        inside = min(max(arc_m, 0.0), self.length_m)
        beyond = arc_m - inside
        x, y, z = (float(np.interp(inside, self.arc_m, self.points[:, axis])) for axis in range(3))
        yaw = float(np.interp(inside, self.arc_m, self.yaw_rad))
        location = carla.Location(x + beyond * math.cos(yaw), y + beyond * math.sin(yaw), z)
        pitch = self.transforms[self.index_at(inside)].rotation.pitch
        return carla.Transform(location, carla.Rotation(yaw=math.degrees(yaw), pitch=pitch))
