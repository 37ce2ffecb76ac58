"""What rays meet first: the triangles of a town and of the actors in it, each seen from its front.

The town's triangles lie in a binary tree of boxes; an actor's are tried one after the other where a
ray enters the actor's box.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba as nb
import numpy as np

from simulator.render.mesh import TileMesh
from simulator.render.placement import Bodies
from simulator.render.raster import HOT
from simulator.render.scene import NO_ACTOR

LEAF = 4
"""Most triangles in a leaf of the tree."""
TOWN = -1
"""Owner of a hit on the town itself."""
MISS = -2

_STACK = 64


class Hits(NamedTuple):
    """What each ray meets first."""

    distance_m: np.ndarray
    """(n,) float64; the ray's reach where it meets nothing"""
    owner: np.ndarray
    """(n,) int32: index of an actor, TOWN or MISS"""
    normal: np.ndarray
    """(n, 3) float32 unit normal of the surface, zero at a miss"""
    label: np.ndarray
    """(n,) uint8 CityObjectLabel of the town's surface, 0 for an actor's"""


class RayCaster:
    """Rays against one town on `threads` threads."""

    def __init__(self, tiles: TileMesh, threads: int = 1) -> None:
        corners = tiles.vertices[tiles.triangles].astype(np.float64)
        leaves = _leaves(len(corners))
        order = _sort_into_leaves(corners.mean(axis=1), leaves)
        corners = corners[order]
        self._triangles = _edges(corners)
        self._normals = np.ascontiguousarray(tiles.surfaces[order, 3:6])
        self._labels = tiles.labels[order]
        self._nodes = _tree(corners.min(axis=1), corners.max(axis=1), leaves)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rays")

    def close(self) -> None:
        self._pool.shutdown()

    def cast(
        self,
        origin_m: np.ndarray,
        directions: np.ndarray,
        reach_m: float,
        bodies: Bodies | None = None,
        skip: int = NO_ACTOR,
    ) -> Hits:
        """First hits of rays from `origin_m` (3,) along unit `directions` (n, 3), up to `reach_m`.

        `skip` is the index of a body that rays go through.
        """
        count = len(directions)
        directions = np.ascontiguousarray(directions, np.float64)
        distance, found = np.full(count, float(reach_m)), np.full(count, -1, np.int64)
        owner = np.full(count, MISS, np.int32)
        tiles = None if bodies is None else bodies.tiles
        actors = _NOBODY if tiles is None else (tiles.bounds, tiles.ranges, _edges(tiles.vertices[tiles.triangles]))
        edges = [count * k // self._threads for k in range(self._threads + 1)]
        jobs = [
            self._pool.submit(
                _cast, self._nodes, self._triangles, actors, np.asarray(origin_m, np.float64),
                directions[a:b], distance[a:b], found[a:b], owner[a:b], np.empty(_STACK, np.int64), skip,
            )
            for a, b in itertools.pairwise(edges) if b > a
        ]  # fmt: skip
        for job in jobs:
            job.result()
        normal, label = np.zeros((count, 3), np.float32), np.zeros(count, np.uint8)
        town, actor = owner == TOWN, owner >= 0
        normal[town], label[town] = self._normals[found[town]], self._labels[found[town]]
        if bodies is not None:
            normal[actor] = bodies.surfaces[found[actor], 3:6]
        return Hits(distance, owner, normal, label)


def _edges(corners: np.ndarray) -> np.ndarray:
    """(t, 3, 3): first corner, and the edges from it to the second and the third."""
    corners = np.asarray(corners, np.float64)
    return np.ascontiguousarray(
        np.stack([corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=1)
    )


_NOBODY = (np.zeros((0, 6), np.float32), np.zeros((0, 4), np.int32), np.zeros((0, 3, 3)))


def _leaves(count: int) -> int:
    """Leaves of the complete tree over so many triangles."""
    return 1 << max(0, math.ceil(math.log2(max(count, 1) / LEAF)))


@nb.njit(nogil=True, cache=True)
def _sort_into_leaves(centres, leaves):
    """Order (n,) of points (n, 3) by which every half of every subtree lies on one side along its longest axis.

    Leaf k holds places n k / leaves to n (k + 1) / leaves.
    """
    count = len(centres)
    order = np.arange(count)
    parts = 1
    while parts < leaves:
        share = leaves // parts
        for k in range(parts):
            first, end = count * (k * share) // leaves, count * ((k + 1) * share) // leaves
            if end - first < 2:
                continue
            part = order[first:end].copy()
            axis, widest = 0, -1.0
            for candidate in range(3):
                values = centres[part, candidate]
                width = values.max() - values.min()
                if width > widest:
                    axis, widest = candidate, width
            order[first:end] = part[np.argsort(centres[part, axis])]
        parts *= 2
    return order


@nb.njit(nogil=True, cache=True)
def _tree(low, high, leaves):
    """(2 leaves - 1, 6) boxes of a complete tree, root first; `low`, `high` (n, 3) are the sorted triangles' boxes."""
    count = len(low)
    nodes = np.empty((2 * leaves - 1, 6))
    for k in range(leaves):
        place = leaves - 1 + k
        nodes[place, :3], nodes[place, 3:] = 1e9, -1e9
        for t in range(count * k // leaves, count * (k + 1) // leaves):
            for axis in range(3):
                nodes[place, axis] = min(nodes[place, axis], low[t, axis])
                nodes[place, 3 + axis] = max(nodes[place, 3 + axis], high[t, axis])
    for place in range(leaves - 2, -1, -1):
        for axis in range(3):
            nodes[place, axis] = min(nodes[2 * place + 1, axis], nodes[2 * place + 2, axis])
            nodes[place, 3 + axis] = max(nodes[2 * place + 1, 3 + axis], nodes[2 * place + 2, 3 + axis])
    return nodes


@nb.njit(**HOT)
def _enter(boxes, k, ray, reach):
    """Distance at which a ray (origin, then inverse direction) enters box k, or -1 if it does not within `reach`."""
    ox, oy, oz, ix, iy, iz = ray
    a, b = (boxes[k, 0] - ox) * ix, (boxes[k, 3] - ox) * ix
    near, far = max(0.0, min(a, b)), min(reach, max(a, b))
    a, b = (boxes[k, 1] - oy) * iy, (boxes[k, 4] - oy) * iy
    near, far = max(near, min(a, b)), min(far, max(a, b))
    a, b = (boxes[k, 2] - oz) * iz, (boxes[k, 5] - oz) * iz
    near, far = max(near, min(a, b)), min(far, max(a, b))
    return near if near <= far else -1.0


@nb.njit(**HOT)
def _meet(triangles, t, ray, reach):
    """Distance at which a ray (origin, then direction) meets the front of triangle t, or -1 (Moeller, Trumbore)."""
    ox, oy, oz, dx, dy, dz = ray
    ax, ay, az = triangles[t, 1, 0], triangles[t, 1, 1], triangles[t, 1, 2]
    bx, by, bz = triangles[t, 2, 0], triangles[t, 2, 1], triangles[t, 2, 2]
    px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
    area = ax * px + ay * py + az * pz
    if area <= 1e-12:
        return -1.0
    sx, sy, sz = ox - triangles[t, 0, 0], oy - triangles[t, 0, 1], oz - triangles[t, 0, 2]
    u = sx * px + sy * py + sz * pz
    if u < 0.0 or u > area:
        return -1.0
    qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
    v = dx * qx + dy * qy + dz * qz
    if v < 0.0 or u + v > area:
        return -1.0
    distance = (bx * qx + by * qy + bz * qz) / area
    return distance if 0.0 < distance < reach else -1.0


@nb.njit(**HOT)
def _inverse(value):
    return 1.0 / value if abs(value) > 1e-12 else 1e12


@nb.njit(**HOT)
def _cast(nodes, triangles, actors, origin, directions, distance, found, owner, stack, skip):  # noqa: PLR0913 - hot path
    """Fill distance, triangle and owner of every ray; `stack` (_STACK,) int64 is scratch."""
    bounds, ranges, bodies = actors
    first_leaf, count = len(nodes) // 2, len(triangles)
    ox, oy, oz = origin[0], origin[1], origin[2]
    for r in range(len(directions)):
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        ray = (ox, oy, oz, dx, dy, dz)
        slabs = (ox, oy, oz, _inverse(dx), _inverse(dy), _inverse(dz))
        best = distance[r]
        stack[0], depth = 0, 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _enter(nodes, node, slabs, best) < 0.0:  # again: `best` may be nearer by now
                continue
            while node < first_leaf:
                left, right = 2 * node + 1, 2 * node + 2
                to_left, to_right = _enter(nodes, left, slabs, best), _enter(nodes, right, slabs, best)
                if to_left < 0.0 and to_right < 0.0:
                    break
                if to_left >= 0.0 and to_right >= 0.0:  # the nearer one is looked at first
                    node, stack[depth] = (left, right) if to_left <= to_right else (right, left)
                    depth += 1
                else:
                    node = left if to_left >= 0.0 else right
            if node < first_leaf:
                continue
            leaf = node - first_leaf
            for t in range(count * leaf // (first_leaf + 1), count * (leaf + 1) // (first_leaf + 1)):
                met = _meet(triangles, t, ray, best)
                if met > 0.0:
                    best, found[r], owner[r] = met, t, TOWN
        for k in range(len(bounds)):
            if k == skip or _enter(bounds, k, slabs, best) < 0.0:
                continue
            for t in range(ranges[k, 2], ranges[k, 3]):
                met = _meet(bodies, t, ray, best)
                if met > 0.0:
                    best, found[r], owner[r] = met, t, k
        distance[r] = best
