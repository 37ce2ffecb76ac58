"""Convex polygons that cover the walkable parts of a raster, with their neighbours: a navigation mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay

from simulator.navigation.outlines import outlines
from simulator.navigation.walkable import NOTHING, Heights, Walkable

MAX_CORNERS: Final = 6
"""Of one polygon, as Detour lays them out."""
NONE: Final = -1
MAX_ROUNDS: Final = 12
SHORTEST_M: Final = 0.4
"""Segments are not divided below this length."""
CLEAR_SHARE: Final = 0.75
"""An enclosed region takes the label that this share of its area has."""
LARGEST_STEP_M: Final = 0.1
"""Polygons are not joined when a corner would lie this far off the plane of the others."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Convex polygons; corners run clockwise in CARLA's x, y seen with y up (its own view from below)."""

    points_m: np.ndarray
    """(n, 3) in CARLA's frame"""
    corners: np.ndarray
    """(k, MAX_CORNERS) indices of points, NONE beyond the last corner"""
    neighbours: np.ndarray
    """(k, MAX_CORNERS) polygon on the other side of the edge from corner i to the next one, or NONE"""
    labels: np.ndarray
    """(k,) SIDEWALK, CROSSWALK or ROAD"""

    @property
    def sizes(self) -> np.ndarray:
        """(k,) number of corners."""
        return (self.corners != NONE).sum(axis=1)


def build_mesh(walkable: Walkable, heights: Heights) -> Mesh:
    """The navigation mesh of a raster: where the middle of a body may be."""
    walkable = walkable.narrowed()
    corners, segments = outlines(walkable.labels, walkable.cell_m)
    points, triangles, lines = _triangulate(corners, segments)
    points = points + walkable.origin_m
    labels = _labels(points, triangles, lines, walkable)
    triangles, labels = triangles[labels != NOTHING], labels[labels != NOTHING]
    level = np.where(walkable.on_bridge(points[:, 0], points[:, 1]), np.inf, -np.inf)
    z = heights(points[:, 0], points[:, 1], level)
    points = np.column_stack([points, z])
    keep = ~np.isnan(z)[triangles].any(axis=1)
    polygons, labels = _merged(points, triangles[keep], labels[keep])
    return _linked(points, polygons, labels)


def _triangulate(points: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Delaunay triangles that contain all segments; segments that they lack are halved until they do."""
    for _ in range(MAX_ROUNDS):
        triangles = Delaunay(points).simplices
        edges = _keys(_edges(triangles).reshape(-1, 2), len(points))
        missing = ~np.isin(_keys(segments, len(points)), edges)
        ends = points[segments]
        missing &= np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) > SHORTEST_M
        if not missing.any():
            break
        middle = len(points) + np.arange(int(missing.sum()))
        points = np.concatenate([points, ends[missing].mean(axis=1)])
        halves = [np.column_stack([segments[missing, 0], middle]), np.column_stack([middle, segments[missing, 1]])]
        segments = np.concatenate([segments[~missing], *halves])
    triangles = Delaunay(points).simplices
    a, b, c = (points[triangles[:, k]] for k in range(3))
    turn = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    triangles = np.where((turn > 0)[:, None], triangles[:, ::-1], triangles)
    return points, triangles[np.abs(turn) > 1e-6], segments


def _edges(triangles: np.ndarray) -> np.ndarray:
    """(k, 3, 2) edges of triangles, edge i from corner i to the next."""
    return np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=2)


def _keys(edges: np.ndarray, count: int) -> np.ndarray:
    """One number per undirected edge (n, 2)."""
    low, high = np.sort(edges, axis=1).T.astype(np.int64)
    return low * count + high


def _labels(points: np.ndarray, triangles: np.ndarray, lines: np.ndarray, walkable: Walkable) -> np.ndarray:
    """(k,) label of each triangle: of its region between the lines if that is clear, else of its own middle."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    middle = (a + b + c) / 3.0
    own = walkable.at(middle[:, 0], middle[:, 1])
    keys = _keys(_edges(triangles).reshape(-1, 2), len(points))
    order = np.argsort(keys, kind="stable")
    same = (keys[order][1:] == keys[order][:-1]) & ~np.isin(keys[order][1:], _keys(lines, len(points)))
    first, second = order[:-1][same] // 3, order[1:][same] // 3
    count = len(triangles)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    regions, region = connected_components(graph, directed=False)
    area = np.abs((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    votes = np.zeros((regions, int(walkable.labels.max()) + 1))
    np.add.at(votes, (region, own), area)
    clear = votes.max(axis=1) >= CLEAR_SHARE * votes.sum(axis=1)
    return np.where(clear[region], votes.argmax(axis=1)[region], own)


def _merged(points: np.ndarray, triangles: np.ndarray, labels: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Triangles of one label joined to convex polygons, across their longest edges first."""
    keys = _keys(_edges(triangles).reshape(-1, 2), len(points))
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    first, second = order[same] // 3, order[same + 1] // 3
    alike = labels[first] == labels[second]
    ends = _edges(triangles).reshape(-1, 2)[order[same]][alike]
    length = np.linalg.norm(points[ends[:, 0], :2] - points[ends[:, 1], :2], axis=1)
    rank = np.argsort(-length, kind="stable")
    polygons: list[list[int]] = triangles.tolist()
    owner = list(range(len(polygons)))
    xyz = points.tolist()

    def root(index: int) -> int:
        while owner[index] != index:
            owner[index] = owner[owner[index]]
            index = owner[index]
        return index

    pairs = np.column_stack([first[alike], second[alike], ends])[rank].tolist()
    for one, other, a, b in pairs:
        i, j = root(one), root(other)
        if i == j or len(polygons[i]) + len(polygons[j]) - 2 > MAX_CORNERS:
            continue
        joined = _joined(polygons[i], polygons[j], a, b)
        if joined is not None and _convex(joined, xyz) and _flat(joined, xyz):
            polygons[i], owner[j] = joined, i
    roots = [k for k in range(len(polygons)) if owner[k] == k]
    return [polygons[k] for k in roots], labels[roots]


def _joined(one: list[int], other: list[int], a: int, b: int) -> list[int] | None:
    """Two polygons with the common edge a, b as one; None when that edge is no longer an edge of both."""
    i, j = one.index(a), other.index(b)
    if one[(i + 1) % len(one)] != b:
        a, b = b, a
        i, j = one.index(a), other.index(b)
    if one[(i + 1) % len(one)] != b or other[(j + 1) % len(other)] != a:
        return None
    around = one[i + 1 :] + one[: i + 1]  # b ... a
    rest = other[j + 1 :] + other[: j + 1]  # a ... b
    return around + rest[1:-1]


def _convex(polygon: list[int], xyz: list[list[float]]) -> bool:
    """Whether the polygon turns right at every corner; corners on a straight line are not allowed at all."""
    for k in range(len(polygon)):
        (ax, ay, _), (bx, by, _), (cx, cy, _) = (xyz[polygon[k - 2]], xyz[polygon[k - 1]], xyz[polygon[k]])
        if (bx - ax) * (cy - by) - (by - ay) * (cx - bx) > -1e-4:
            return False
    return True


def _flat(polygon: list[int], xyz: list[list[float]]) -> bool:
    """Whether all corners lie near the plane through three of them."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (xyz[polygon[k]] for k in (0, 1, 2))
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nz = ux * vy - uy * vx
    gx, gy = (uz * vy - uy * vz) / nz, (ux * vz - uz * vx) / nz
    return all(
        abs(xyz[k][2] - az - gx * (xyz[k][0] - ax) - gy * (xyz[k][1] - ay)) < LARGEST_STEP_M for k in polygon[3:]
    )


def _linked(points: np.ndarray, polygons: list[list[int]], labels: np.ndarray) -> Mesh:
    """The polygons with neighbours found through common edges, and without unused points."""
    corners = np.full((len(polygons), MAX_CORNERS), NONE, np.int64)
    for k, polygon in enumerate(polygons):
        corners[k, : len(polygon)] = polygon
    used, inverse = np.unique(corners[corners != NONE], return_inverse=True)
    corners[corners != NONE] = inverse.reshape(-1)
    neighbours = np.full_like(corners, NONE)
    open_edges: dict[tuple[int, int], tuple[int, int]] = {}
    for k, polygon in enumerate(corners.tolist()):
        polygon = [corner for corner in polygon if corner != NONE]
        for i, corner in enumerate(polygon):
            edge = corner, polygon[(i + 1) % len(polygon)]
            other = open_edges.pop((edge[1], edge[0]), None)
            if other is None:
                open_edges[edge] = k, i
            else:
                neighbours[k, i], neighbours[other] = other[0], k
    return Mesh(points[used], corners, neighbours, labels)
