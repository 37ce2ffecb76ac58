"""What a straight line meets: boxes of actors, and the ground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

GROUND: Final = -1
"""Index of the ground among hits."""
STEP_M: Final = 0.5
"""The ground is looked at this often along a ray."""
MAX_RAY_M: Final = 2000.0
_BISECTIONS: Final = 12

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x, y, z of centres, yaw in degrees, half length, width, height; (n,) each."""
Heights = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Ground heights at x, y on the level next to z; (n,) each."""


def hits(start_m: np.ndarray, end_m: np.ndarray, boxes: Boxes, solid: np.ndarray, ground: Heights) -> list:
    """[(distance in metres, index of a box or GROUND)] along the line from start to end (3,), nearest first.

    Boxes of which `solid` (n,) is False, and those around the start, are passed through. The line is cut at MAX_RAY_M.
    """
    way = end_m - start_m
    length_m = min(float(np.linalg.norm(way)), MAX_RAY_M)
    if length_m == 0.0:
        return []
    direction = way / np.linalg.norm(way)
    distance = _into_boxes(start_m, direction, boxes)
    struck = np.flatnonzero(solid & (distance > 0.0) & (distance <= length_m))
    found = [(float(distance[k]), int(k)) for k in struck]
    below = _into_ground(start_m, direction, length_m, ground)
    if below is not None:
        found.append((below, GROUND))
    return sorted(found)


def _into_boxes(start: np.ndarray, direction: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(n,) distance at which a ray enters each box, inf where it does not."""
    x, y, z, yaw_deg, *half = boxes
    cos, sin = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    dx, dy = start[0] - x, start[1] - y
    origin = (dx * cos + dy * sin, dy * cos - dx * sin, start[2] - z)
    heading = (
        direction[0] * cos + direction[1] * sin,
        direction[1] * cos - direction[0] * sin,
        np.full(len(x), direction[2]),
    )
    enter, leave = np.full(len(x), -np.inf), np.full(len(x), np.inf)
    for o, d, h in zip(origin, heading, half, strict=True):
        d = np.where(np.abs(d) < 1e-12, 1e-12, d)
        first, second = (-h - o) / d, (h - o) / d
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return np.where(enter <= leave, enter, np.inf)


def _into_ground(start: np.ndarray, direction: np.ndarray, length_m: float, ground: Heights) -> float | None:
    """Distance at which a ray that starts above the ground passes below it."""

    def above(at: np.ndarray) -> np.ndarray:
        points = start + at[:, None] * direction
        return points[:, 2] - ground(points[:, 0], points[:, 1], np.full(len(at), start[2]))

    at = np.linspace(0.0, length_m, max(2, int(length_m / STEP_M) + 2))
    clearance = above(at)
    through = np.flatnonzero((clearance[:-1] >= 0.0) & (clearance[1:] < 0.0))
    if len(through) == 0:
        return None
    low, high = float(at[through[0]]), float(at[through[0] + 1])
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if above(np.array([middle]))[0] >= 0.0:
            low = middle
        else:
            high = middle
    return high
