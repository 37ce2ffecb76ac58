"""Where scenery must not stand: vehicles drive there, or people walk there. CARLA frame, metres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

from simulator.render.lanes import PAVED, Section
from simulator.render.roads import surface_points
from simulator.render.scenery import Frontage, rectangle

SPACING_M = 0.5
"""Lanes are covered, edges included, by points this far apart: no place of a lane is 0.36 m from one of them."""

OVERHANG_M = 0.4
"""Vehicles need this much beside their lanes, for mirrors and for a wheel on the line."""
HEADROOM_M = 4.6
"""Free height over lanes: the tallest vehicle has 4 m."""
DEPTH_M = 3.0
"""What ends this far below a lane belongs to the level below."""
VERGE_M = 2.1
"""Wide solid things stay this far from lanes: people who are about to cross wait there, where there is no sidewalk,
half a lane's width beside the last lane."""
BESIDE_SIDEWALK_M = 0.36
CORNER_M = 4.0
"""Around the ends of sidewalks, where people gather to cross, there is nothing wide."""
POST_M = 0.6
"""Narrower things are posts: people step around them, so that they may stand on sidewalks."""
SEARCH_STEP_M, SEARCH_M = 0.25, 12.0


class Passages:
    """The lanes of a town and the places beside them that stay free."""

    def __init__(self, sections: Sequence[Section], edges: Sequence[Frontage]) -> None:
        lanes = surface_points(sections, PAVED, SPACING_M)
        walks = surface_points(sections, frozenset({"sidewalk"}), SPACING_M)
        self._lanes, self._lane_z_m = KDTree(lanes[:, :2]), lanes[:, 2]
        self._walks, self._walk_z_m = KDTree(walks[:, :2]), walks[:, 2]
        ends = [edge.points[k] for edge in edges if edge.sidewalk for k in (0, -1)]
        corners = np.array(ends).reshape(-1, 3)
        self._corners, self._corner_z_m = KDTree(corners[:, :2]), corners[:, 2]

    def overhung(self, points: np.ndarray) -> bool:
        """Whether something at points (n, 3) hangs or stands where vehicles drive."""
        return _any_near(self._lanes, self._lane_z_m, points, OVERHANG_M)

    def obstructed(self, centre: np.ndarray, half_m: np.ndarray, yaw_rad: float) -> bool:
        """Whether an upright box stands where vehicles drive or people walk."""
        out = np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
        flat = rectangle(centre[:2], out, 2.0 * half_m[0], 2.0 * half_m[1])
        points = np.column_stack([flat, np.full(len(flat), centre[2] - half_m[2])])
        if 2.0 * max(half_m[0], half_m[1]) < POST_M:
            return self.overhung(points)
        return (
            _any_near(self._lanes, self._lane_z_m, points, VERGE_M)
            or _any_near(self._walks, self._walk_z_m, points, BESIDE_SIDEWALK_M)
            or _any_near(self._corners, self._corner_z_m, points, CORNER_M)
        )

    def beside_lanes(self, line: np.ndarray) -> np.ndarray:
        """(n,) whether a narrow thing at points of a line (n, 3), and up to the next ones, stands beside the lanes."""
        along_m = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1))]
        at_m = np.arange(0.0, along_m[-1], SPACING_M)
        points = np.column_stack([np.interp(at_m, along_m, line[:, k]) for k in range(3)])
        # The line's own lane runs at little more than this distance.
        blocked_m = at_m[_near(self._lanes, self._lane_z_m, points, OVERHANG_M)]
        piece = np.searchsorted(along_m, blocked_m, side="right") - 1
        free = np.ones(len(line), bool)
        free[piece] = free[np.minimum(piece + 1, len(line) - 1)] = False
        return free

    def beside(self, x: float, y: float, z: float) -> tuple[float, float]:
        """The nearest place to (x, y) at height z where a post does not stand on a lane; itself if there is none."""
        radii = np.arange(0.0, SEARCH_M, SEARCH_STEP_M)
        for radius in radii:
            count = max(1, math.ceil(2.0 * math.pi * radius / SEARCH_STEP_M))
            angles = np.arange(count) * 2.0 * math.pi / count
            places = np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles), np.full(count, z)])
            free = ~_near(self._lanes, self._lane_z_m, places, OVERHANG_M)
            if free.any():
                return tuple(places[int(np.argmax(free)), :2].tolist())
        return x, y


def _near(tree: KDTree, z_m: np.ndarray, points: np.ndarray, reach_m: float) -> np.ndarray:
    """(n,) whether points (n, 3) lie within reach of the tree's and between DEPTH_M below and HEADROOM_M above."""
    if tree.n == 0 or len(points) == 0:
        return np.zeros(len(points), bool)
    distance, place = tree.query(points[:, :2], distance_upper_bound=reach_m)
    found = np.isfinite(distance)
    above_m = points[:, 2] - z_m[np.where(found, place, 0)]
    return found & (above_m > -DEPTH_M) & (above_m < HEADROOM_M)


def _any_near(tree: KDTree, z_m: np.ndarray, points: np.ndarray, reach_m: float) -> bool:
    return bool(_near(tree, z_m, points, reach_m).any())
