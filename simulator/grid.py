"""Upright boxes that never move, sorted into the cells of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator.collisions import overlaps_any

CELL_M: Final = 8.0
"""Side of a cell of the grid, about twice a car's length."""
POST_M: Final = 0.3
"""Half sizes of what a person steps around: posts and trunks stop vehicles only."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Which boxes reach into which square cell, for compiled lookups."""

    box: np.ndarray
    """(7, n) float64 rows x, y, z of the centres, yaw in degrees, half length, width, height"""
    post: np.ndarray
    """(n,) bool: people step around it"""
    origin_m: np.ndarray
    """(2,) lower corner"""
    first: np.ndarray
    """(nx * ny + 1,) where the entries of each cell begin; cells run along y first"""
    entries: np.ndarray
    """indices of boxes, cell by cell"""
    low_cell: np.ndarray
    """(n, 2) lowest cell of each box"""
    shape: tuple[int, int]

    @staticmethod
    def of(boxes: np.ndarray) -> Grid:
        """The grid of boxes (n, 7) as `TownSolids.boxes`."""
        centre, half, yaw = boxes[:, :3].astype(np.float64), boxes[:, 3:6].astype(np.float64), boxes[:, 6]
        box = np.concatenate([centre.T, np.degrees(yaw, dtype=np.float64)[None], half.T])
        cos, sin = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        reach = np.column_stack([half[:, 0] * cos + half[:, 1] * sin, half[:, 0] * sin + half[:, 1] * cos])
        low_m, high_m = centre[:, :2] - reach, centre[:, :2] + reach
        origin_m = low_m.min(axis=0) if len(boxes) else np.zeros(2)
        low = ((low_m - origin_m) / CELL_M).astype(np.int64)
        high = ((high_m - origin_m) / CELL_M).astype(np.int64)
        nx, ny = (high.max(axis=0) + 1).tolist() if len(boxes) else (0, 0)
        cells, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for k, ((a, b), (c, d)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            inside = (np.arange(a, c + 1)[:, None] * ny + np.arange(b, d + 1)).ravel()
            cells.append(inside)
            owners.append(np.full(len(inside), k))
        cell, owner = np.concatenate(cells), np.concatenate(owners)
        order = np.argsort(cell, kind="stable")
        first = np.searchsorted(cell[order], np.arange(nx * ny + 1))
        post = np.asarray((half[:, :2] < POST_M).all(axis=1))
        return Grid(np.ascontiguousarray(box), post, origin_m, first, owner[order], low, (nx, ny))

    def overlapped(self, box: tuple[float, ...], *, posts: bool = True) -> int:
        """Index of a box that overlaps `box` = (x, y, z, yaw, half_length, half_width, half_height), or -1.

        Without `posts` those are passed over.
        """
        x, y, _, _, half_length, half_width, _ = box
        reach_m = np.hypot(self.box[4], self.box[5]) + np.hypot(half_length, half_width)
        near = np.flatnonzero((np.hypot(self.box[0] - x, self.box[1] - y) <= reach_m) & (posts | ~self.post))
        found = overlaps_any(box, *self.box[:, near])
        return int(near[found]) if found >= 0 else -1

    @property
    def arrays(self) -> tuple:
        """What compiled code takes."""
        return (
            self.box, self.post, self.origin_m, self.first, self.entries, self.low_cell, *self.shape, CELL_M,
        )  # fmt: skip


NOTHING: Final = Grid.of(np.zeros((0, 7)))
"""An empty country."""
