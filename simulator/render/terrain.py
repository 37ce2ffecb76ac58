"""The land around the roads: occupancy of the ground, terrain heights, grass, verges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from simulator.render.lanes import Section
from simulator.render.mesh import CONCRETE, GRASS, Colour, MeshBuilder

if TYPE_CHECKING:
    from simulator.render.passages import Passages

CELL_M = 1.0
MARGIN_M = 140.0
"""The ground grid reaches this far beyond the outermost lanes; the grass goes on to the horizon."""

HORIZON_M = 900.0
SINK_M = 0.12
"""Terrain stays at least this far below every lane."""

BRIDGE_M = 2.5
"""Lanes at least this high above the land are a bridge."""

DECK_M, PARAPET_M = 0.8, 0.7
PARAPET_AWAY_M, PARAPET_THICKNESS_M = 0.5, 0.25
CONCRETE_COLOUR = (0.30, 0.30, 0.29)
VERGE_M, VERGE_DROP_M, VERGE_CLEARANCE_M = 1.6, 0.55, 0.6


@dataclass(frozen=True)
class Land:
    """Ground grid with nodes every `terrain_m`, and what occupies its cells of `CELL_M`."""

    origin_m: np.ndarray
    """(2,) lower corner of both grids"""
    clearance_m: np.ndarray
    """(nx, ny) distance of each cell to the nearest lane"""
    terrain_m: float
    terrain: np.ndarray
    """(mx, my) heights of the nodes"""
    lane_index: KDTree
    """over the (x, y) of the points that cover the lanes"""
    lane_z_m: np.ndarray
    """(n,) heights of these points"""

    def height_m(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Terrain height at points (n,); a single point gives one value."""
        u = (np.asarray(x) - self.origin_m[0]) / self.terrain_m
        v = (np.asarray(y) - self.origin_m[1]) / self.terrain_m
        return ndimage.map_coordinates(self.terrain, [np.atleast_1d(u), np.atleast_1d(v)], order=1, mode="nearest")

    def lane_height_m(self, xy: np.ndarray) -> np.ndarray:
        """Height of the nearest lane surface at points (n, 2)."""
        found = self.lane_index.query(xy, k=min(6, len(self.lane_z_m)))
        distance, nearest = (np.asarray(part).reshape(len(xy), -1) for part in found)
        weight = 1.0 / (distance + 0.05) ** 2
        return (self.lane_z_m[nearest] * weight).sum(axis=1) / weight.sum(axis=1)

    def clearance_at(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Distance to the nearest lane; 0 outside the grid, so that nothing is built there."""
        i = np.floor((np.asarray(x) - self.origin_m[0]) / CELL_M).astype(int)
        j = np.floor((np.asarray(y) - self.origin_m[1]) / CELL_M).astype(int)
        inside = (i >= 0) & (j >= 0) & (i < self.clearance_m.shape[0]) & (j < self.clearance_m.shape[1])
        shape = self.clearance_m.shape
        values = self.clearance_m[np.clip(i, 0, shape[0] - 1), np.clip(j, 0, shape[1] - 1)]
        return np.where(inside, values, 0.0)


def survey(lanes: np.ndarray, pavement: np.ndarray) -> Land:
    """The land around lanes and further pavement, each given by points (n, 3) that cover it."""
    points = np.concatenate([lanes, pavement])
    low, high = points.min(axis=0), points.max(axis=0)
    terrain_m = 10.0 if high[2] - low[2] > 1.0 else 20.0
    origin = np.floor((low[:2] - MARGIN_M) / terrain_m) * terrain_m
    nodes = np.ceil((high[:2] + MARGIN_M - origin) / terrain_m).astype(int) + 1
    cells = ((nodes - 1) * terrain_m / CELL_M).astype(int)
    occupied = np.zeros(tuple(cells), bool)
    at = ((points[:, :2] - origin) / CELL_M).astype(int)
    occupied[at[:, 0], at[:, 1]] = True
    occupied = np.asarray(ndimage.binary_closing(occupied), bool)
    clearance = np.asarray(ndimage.distance_transform_edt(~occupied)) * CELL_M

    limit = np.full(tuple(nodes), np.inf)
    node = ((points[:, :2] - origin) / terrain_m).astype(int)
    for di in (0, 1):
        for dj in (0, 1):
            np.minimum.at(limit, (node[:, 0] + di, node[:, 1] + dj), points[:, 2] - SINK_M)
    return Land(origin, clearance.astype(np.float32), terrain_m, _spread(limit), KDTree(lanes[:, :2]), lanes[:, 2])


def _spread(limit: np.ndarray) -> np.ndarray:
    """Fill the nodes without a limit smoothly from their neighbours."""
    known = np.isfinite(limit)
    nearest = np.asarray(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))
    heights = limit[nearest[0], nearest[1]]
    for _ in range(20):
        heights = np.where(known, limit, ndimage.uniform_filter(heights, 3, mode="nearest"))
    return heights


def add_terrain(mesh: MeshBuilder, land: Land, colour: Colour) -> None:
    """Grass over the grid, then a wide rim to the horizon."""
    mx, my = land.terrain.shape
    x = land.origin_m[0] + land.terrain_m * np.arange(mx)
    y = land.origin_m[1] + land.terrain_m * np.arange(my)
    vertices = np.stack([*np.meshgrid(x, y, indexing="ij"), land.terrain], axis=2).reshape(-1, 3)
    first = (np.arange(mx - 1)[:, None] * my + np.arange(my - 1)).ravel()
    quads = vertices[np.stack([first, first + my, first + my + 1, first + 1], axis=1)]
    mesh.quads(quads, colour, GRASS)
    rim_z = float(np.median(land.terrain)) - 0.3
    inner = [(x[0], y[0]), (x[-1], y[0]), (x[-1], y[-1]), (x[0], y[-1])]
    centre = np.array([(x[0] + x[-1]) / 2.0, (y[0] + y[-1]) / 2.0])
    for a, b in zip(inner, inner[1:] + inner[:1], strict=True):
        outer = [
            centre + (np.array(p) - centre) * (1.0 + HORIZON_M / np.abs(np.array(p) - centre).max()) for p in (a, b)
        ]
        ring = np.array([(*a, rim_z), (*b, rim_z), (*outer[1], rim_z), (*outer[0], rim_z)])
        mesh.quads(ring[None], colour, GRASS)


def add_verges(mesh: MeshBuilder, sections: Sequence[Section], land: Land, colour: Colour) -> None:
    """Grass slopes from the outer lane edges down below the terrain, so that no gap shows."""
    for section in sections:
        for edge, inner in (
            (section.boundaries[0], section.boundaries[1]),
            (section.boundaries[-1], section.boundaries[-2]),
        ):
            out = edge - inner
            out[:, 2] = 0.0
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
            probe = edge + 1.5 * out
            clear = land.clearance_at(probe[:, 0], probe[:, 1]) > VERGE_CLEARANCE_M
            for first, end in runs(clear):
                top, foot = edge[first:end] - [0, 0, 0.03], (edge + out * VERGE_M)[first:end] - [0, 0, VERGE_DROP_M]
                mesh.strip(top, foot, colour, GRASS)


def add_bridges(mesh: MeshBuilder, sections: Sequence[Section], land: Land, room: Passages) -> None:
    """Underside, fascias and, outside junctions, parapets where lanes lie high above the land.

    Parapets stand a little outside the lanes, and not across those of other roads.
    """
    down = np.array([0.0, 0.0, -DECK_M])
    for section in sections:
        line = section.boundaries.mean(axis=0)
        high = line[:, 2] - land.height_m(line[:, 0], line[:, 1]) > BRIDGE_M
        for first, end in runs(np.asarray(ndimage.binary_dilation(high), bool)):
            left, right = section.boundaries[0, first:end], section.boundaries[-1, first:end]
            mesh.strip(left + down, right + down, CONCRETE_COLOUR, CONCRETE, toward=left + 10.0 * down)
            for edge, other in ((left, right), (right, left)):
                mesh.strip(edge, edge + down, CONCRETE_COLOUR, CONCRETE, toward=2.0 * edge - other)
                if not section.in_junction:
                    _add_parapet(mesh, edge, other, room)


def _add_parapet(mesh: MeshBuilder, edge: np.ndarray, other: np.ndarray, room: Passages) -> None:
    """A low wall along the edge (n, 3) of a deck whose opposite edge is `other`, with what carries it."""
    out = edge - other
    out[:, 2] = 0.0
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    inner, up = edge + PARAPET_AWAY_M * out, np.array([0.0, 0.0, PARAPET_M])
    outer = inner + PARAPET_THICKNESS_M * out
    for first, end in runs(room.beside_lanes(inner)):
        a, b, kerb = inner[first:end], outer[first:end], edge[first:end]
        mesh.strip(kerb, b, CONCRETE_COLOUR, CONCRETE)
        mesh.strip(a + up, a, CONCRETE_COLOUR, CONCRETE, toward=kerb - out[first:end])
        mesh.strip(a + up, b + up, CONCRETE_COLOUR, CONCRETE)
        mesh.strip(b + up, b - [0.0, 0.0, DECK_M], CONCRETE_COLOUR, CONCRETE, toward=b + out[first:end])
        middle = (a + b) / 2.0
        for start, stop in itertools.pairwise(middle):
            along = stop - start
            size = (float(np.linalg.norm(along[:2])), PARAPET_THICKNESS_M, PARAPET_M + abs(along[2]))
            foot = (*(start + stop)[:2] / 2.0, min(start[2], stop[2]))
            mesh.solid(foot, size, math.atan2(along[1], along[0]))


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, end) of the stretches of at least two consecutive True entries."""
    padded = np.r_[False, mask, False].astype(int)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True) if b - a >= 2]
