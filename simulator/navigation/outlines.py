"""The outlines between the labels of a raster, as few straight segments as follow them closely."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

TOLERANCE_CELLS: Final = 1.1
"""Largest distance of a segment from the staircase it replaces; less would keep the stairs."""
LONGEST_M: Final = 12.0
"""Longer segments would not follow the ground on slopes."""

_RIGHT, _DOWN, _LEFT, _UP = range(4)


def outlines(labels: np.ndarray, cell_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 2) as x, y in metres from the raster's origin, and segments (m, 2) between them, all different.

    Each line between two labels, from one meeting point of lines to the next, is simplified once for both sides.
    """
    padded = np.pad(labels, 1)
    chains, ends = _trace(_ways(padded))
    points: list[np.ndarray] = []
    start = 0
    for end in ends:
        chain = chains[start:end].astype(np.float64)
        start = end
        points.append(chain[_simplified(chain, TOLERANCE_CELLS, LONGEST_M / cell_m)])
    corners, index = np.unique(np.concatenate(points), axis=0, return_inverse=True)
    index = index.reshape(-1)
    last = np.cumsum([len(line) for line in points]) - 1
    begin = np.setdiff1d(np.arange(len(index)), last)
    segments = np.sort(np.stack([index[begin], index[begin + 1]], axis=1), axis=1)
    segments = np.unique(segments[segments[:, 0] != segments[:, 1]], axis=0)
    return (corners[:, ::-1] - 1.0) * cell_m, segments


def _ways(labels: np.ndarray) -> np.ndarray:
    """(rows, columns) uint8: bit d is set at a lattice corner from which a line leads in direction d.

    Corner [r, c] is the upper left one of cell [r, c].
    """
    ways = np.zeros(labels.shape, np.uint8)
    across = labels[:, 1:] != labels[:, :-1]
    ways[:, 1:] |= across.astype(np.uint8) << _DOWN
    ways[1:, 1:] |= across[:-1].astype(np.uint8) << _UP
    along = labels[1:] != labels[:-1]
    ways[1:] |= along.astype(np.uint8) << _RIGHT
    ways[1:, 1:] |= along[:, :-1].astype(np.uint8) << _LEFT
    return ways


@numba.njit(cache=True)
def _trace(ways):
    """Lattice points (k, 2) of all lines one after another, and where each ends; consumes `ways`."""
    height, width = ways.shape
    steps = 0
    for r in range(height):
        for c in range(width):
            for d in range(4):
                steps += (ways[r, c] >> d) & 1
    points = np.empty((steps + 2, 2), np.int32)
    ends = np.empty(steps + 1, np.int64)
    number, lines = 0, 0
    crossing = np.zeros((height, width), np.bool_)
    for r in range(height):
        for c in range(width):
            w = ways[r, c]
            degree = (w & 1) + ((w >> 1) & 1) + ((w >> 2) & 1) + ((w >> 3) & 1)
            crossing[r, c] = degree > 2
    for closed in range(2):  # lines that begin at a crossing come first, then the closed ones that are left
        for r in range(height):
            for c in range(width):
                if not closed and not crossing[r, c]:
                    continue
                for d in range(4):
                    if (ways[r, c] >> d) & 1 == 0:
                        continue
                    y, x, direction = r, c, d
                    points[number, 0], points[number, 1] = y, x
                    number += 1
                    while True:
                        ways[y, x] &= ~np.uint8(1 << direction)
                        y += (direction == 1) - (direction == 3)
                        x += (direction == 0) - (direction == 2)
                        ways[y, x] &= ~np.uint8(1 << ((direction + 2) % 4))
                        points[number, 0], points[number, 1] = y, x
                        number += 1
                        if crossing[y, x] or (y == r and x == c) or ways[y, x] == 0:
                            break
                        for n in range(4):
                            if (ways[y, x] >> n) & 1:
                                direction = n
                                break
                    ends[lines] = number
                    lines += 1
                    if number + steps + 2 > points.shape[0]:
                        more = np.empty((2 * points.shape[0] + steps, 2), np.int32)
                        more[:number] = points[:number]
                        points = more
    return points[:number], ends[:lines]


@numba.njit(cache=True)
def _simplified(chain, tolerance, longest):
    """Indices of the points of a polyline (n, 2) that are enough to stay within tolerance of it (Douglas-Peucker)."""
    count = len(chain)
    keep = np.zeros(count, np.bool_)
    keep[0] = keep[count - 1] = True
    stack = [(0, count - 1)]
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        dy, dx = chain[b, 0] - chain[a, 0], chain[b, 1] - chain[a, 1]
        length = np.hypot(dy, dx)
        worst, split = -1.0, a
        for i in range(a + 1, b):
            py, px = chain[i, 0] - chain[a, 0], chain[i, 1] - chain[a, 1]
            away = abs(px * dy - py * dx) / length if length > 0.0 else np.hypot(py, px)
            if away > worst:
                worst, split = away, i
        if worst <= tolerance:
            if length <= longest:
                continue
            split = (a + b) // 2
        keep[split] = True
        stack.append((a, split))
        stack.append((split, b))
    return np.flatnonzero(keep)
