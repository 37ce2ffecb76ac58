"""Triangle soup builder, primitives, and packing into spatial tiles that the rasteriser culls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from simulator import labels

ASPHALT, MARKING, CONCRETE, GRASS, FACADE, PLAIN, EMISSIVE, FOLIAGE, PAINT, GLASS, ROOF, WALL = range(12)
"""Materials: how a triangle is shaded (see `shade.py`)."""

_LABELS = {
    ASPHALT: labels.ROADS,
    MARKING: labels.ROAD_LINES,
    GRASS: labels.TERRAIN,
    FOLIAGE: labels.VEGETATION,
}
"""Materials that tell what they are; of the others the builder's label does."""

PLASTER_WALL, BRICK_WALL, PANEL_WALL = 0, 1, 2
"""What a FACADE or WALL is made of; its style is `windows + WALL_STEP * this`."""

PUNCHED, RIBBON, CURTAIN, COTTAGE, SHOP, BLANK = range(6)
"""How windows are set into a FACADE."""

WALL_SHIFT = 3
WALL_STEP = 1 << WALL_SHIFT

SURFACE_SIZE = 12
"""Numbers per triangle: see `TileMesh.surfaces`."""

FAR, MIDDLE, NEAR = 0, 1, 2
VIEW_DISTANCE_M = (420.0, 150.0, 65.0)
"""Detail layers: things of a layer are left out beyond its distance."""

TILE_M = 40.0

Colour = Sequence[float] | np.ndarray
"""Linear RGB 0..1 (3,)"""


@dataclass(frozen=True)
class TileMesh:
    """Triangles sorted by tile. Winding: cross(b - a, c - a) is the outward normal in CARLA coordinates."""

    vertices: np.ndarray
    """(v, 3) float32, metres"""
    triangles: np.ndarray
    """(t, 3) int32 into vertices"""
    surfaces: np.ndarray
    """(t, SURFACE_SIZE) float32: linear RGB 0..1, unit normal, material, variant of the material (style), and the
    frame of a wall's pattern: height of its foot, start of its horizontal coordinate, window pitch, storey height"""
    names: np.ndarray
    """(t,) int32, the first of the triangles that look alike and lie in one plane: one surface for the shading"""
    bounds: np.ndarray
    """(k, 6) float32, minimum and maximum corner per tile"""
    ranges: np.ndarray
    """(k, 4) int32, first and end vertex, first and end triangle"""
    view_distances: np.ndarray
    """(k,) float32, metres"""
    labels: np.ndarray
    """(t,) uint8, CityObjectLabel"""

    def arrays(self) -> dict[str, np.ndarray]:
        """Field name to array, for saving."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class TownObjects:
    """Things that stand in a town, each with its box."""

    labels: np.ndarray
    """(n,) uint8, CityObjectLabel"""
    boxes: np.ndarray
    """(n, 7) float32: centre x, y, z and half length, width, height in metres, yaw in radians"""


@dataclass(frozen=True)
class TownSolids:
    """Upright boxes that bodies cannot pass."""

    labels: np.ndarray
    """(n,) uint8, CityObjectLabel"""
    boxes: np.ndarray
    """(n, 7) float32 as `TownObjects.boxes`"""
    signals: np.ndarray
    """(n,) text, OpenDRIVE's id of the light or sign that stands on it, empty for the rest"""


@dataclass
class Piece:
    """Something added with `MeshBuilder.whole` or `MeshBuilder.piece`."""

    kept: bool = True
    """False once it turned out to stand in the way, which is known when its block has ended"""


class Room(Protocol):
    """Tells what would stand in the way."""

    def overhung(self, points: np.ndarray) -> bool:
        """Whether something at points (n, 3) hangs or stands where vehicles drive."""
        ...

    def obstructed(self, centre: np.ndarray, half_m: np.ndarray, yaw_rad: float) -> bool:
        """Whether a solid box stands where vehicles drive or people walk."""
        ...


class MeshBuilder:
    """Collects triangles; every `add` may bring any number of vertices.

    They get `label`, a CityObjectLabel, unless their material tells what they are. Where `room` is given, pieces that
    stand in the way are left out.
    """

    def __init__(self) -> None:
        self.label = labels.STATIC
        self.room: Room | None = None
        self.left_out: list[tuple[int, float, float]] = []
        """Label, x and y of each piece that stood in the way"""
        self._solids: list[tuple[float, ...]] = []
        self._signals: list[str] = []
        self._objects: list[tuple[float, ...]] = []
        self._vertices: list[np.ndarray] = []
        self._triangles: list[np.ndarray] = []
        self._colours: list[np.ndarray] = []
        self._tags: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._count = 0

    @contextmanager
    def labelled(self, label: int) -> Iterator[None]:
        """What is added inside is labelled so."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    @contextmanager
    def piece(self, label: int) -> Iterator[Piece]:
        """What is added inside is labelled so, and taken back at the end if any of it stands in the way."""
        made, first, first_solid = Piece(), len(self._vertices), len(self._solids)
        with self.labelled(label):
            yield made
        if self.room is None or len(self._vertices) == first:
            return
        points = np.concatenate(self._vertices[first:])
        boxes = np.array(self._solids[first_solid:]).reshape(-1, 8)[:, 1:]
        if self.room.overhung(points) or any(self.room.obstructed(box[:3], box[3:6], box[6]) for box in boxes):
            self.left_out.append((label, *points[:, :2].mean(axis=0)))
            for column in (self._vertices, self._triangles, self._colours, self._tags, self._frames):
                del column[first:]
            del self._solids[first_solid:], self._signals[first_solid:]
            self._count -= len(points)
            made.kept = False

    @contextmanager
    def whole(self, label: int, yaw_rad: float = 0.0) -> Iterator[Piece]:
        """What is added inside is a `piece`, and one object with this label, whose box is turned by `yaw_rad`."""
        first = len(self._vertices)
        with self.piece(label) as made:
            yield made
        if len(self._vertices) == first:
            return
        points = turn(np.concatenate(self._vertices[first:]), -yaw_rad)
        low, high = points.min(axis=0), points.max(axis=0)
        centre = turn(((low + high) / 2.0)[None], yaw_rad)[0]
        self._objects.append((label, *centre, *((high - low) / 2.0), yaw_rad))

    def solid(
        self,
        centre: Sequence[float] | np.ndarray,
        size: Sequence[float] | np.ndarray,
        yaw_rad: float = 0.0,
        *,
        signal: str = "",
    ) -> None:
        """Make an upright box around `centre` (x, y, z of the bottom face) with full sizes impassable."""
        x, y, z = centre
        self._solids.append((self.label, x, y, z + size[2] / 2.0, *(side / 2.0 for side in size), yaw_rad))
        self._signals.append(signal)

    def solids(self) -> TownSolids:
        """The boxes that `solid` made, in order."""
        table = np.array(self._solids, np.float64).reshape(-1, 8)
        return TownSolids(
            table[:, 0].astype(np.uint8), table[:, 1:].astype(np.float32), np.array(self._signals, dtype="U64")
        )

    def objects(self) -> TownObjects:
        """The objects that `whole` made, in order."""
        table = np.array(self._objects, np.float64).reshape(-1, 8)
        return TownObjects(table[:, 0].astype(np.uint8), table[:, 1:].astype(np.float32))

    def add(
        self,
        vertices: np.ndarray,
        triangles: np.ndarray | Sequence[Sequence[int]],
        colour: Colour,
        material: int,
        *,
        layer: int = FAR,
        style: int = 0,
        frame: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    ) -> None:
        """Add `triangles` over `vertices` (n, 3); `colour` is one RGB or one per triangle.

        `frame` is that of a wall's pattern, see `TileMesh.surfaces`.
        """
        indices = np.asarray(triangles, np.int64).reshape(-1, 3)
        self._vertices.append(np.asarray(vertices, np.float64).reshape(-1, 3))
        self._triangles.append(indices + self._count)
        colours, tags = np.empty((len(indices), 3), np.float32), np.empty((len(indices), 4), np.int64)
        colours[:], tags[:] = colour, (material, layer, style, _LABELS.get(material, self.label))
        self._colours.append(colours)
        self._tags.append(tags)
        self._frames.append(np.broadcast_to(np.asarray(frame, np.float32), (len(indices), 4)))
        self._count += len(self._vertices[-1])

    def quads(self, corners: np.ndarray, colour: Colour, material: int, *, layer: int = FAR) -> None:
        """Add quads (n, 4, 3), wound so that they face up."""
        corners = np.asarray(corners, np.float64).reshape(-1, 4, 3)
        normal_z = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
        normal_z = normal_z + np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 0])[:, 2]
        corners = np.where((normal_z < 0)[:, None, None], corners[:, ::-1], corners)
        first = 4 * np.arange(len(corners))[:, None]
        triangles = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])], axis=1)
        colours = np.asarray(colour, np.float32)
        if colours.ndim == 2:
            colours = np.repeat(colours, 2, axis=0)
        self.add(corners.reshape(-1, 3), triangles, colours, material, layer=layer)

    def strip(
        self,
        left: np.ndarray,
        right: np.ndarray,
        colour: Colour,
        material: int,
        *,
        layer: int = FAR,
        toward: np.ndarray | None = None,
    ) -> None:
        """Add the band between two polylines (n, 3), facing up, or facing the points `toward` (n, 3) if given."""
        n = len(left)
        vertices = np.concatenate([left, right])
        i = np.arange(n - 1)
        triangles = np.concatenate(
            [np.stack([i, i + n, i + 1], axis=1), np.stack([i + n, i + n + 1, i + 1], axis=1)], axis=0
        )
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        normals = np.cross(b - a, c - a)
        aim = np.array([0.0, 0.0, 1.0]) if toward is None else toward[np.concatenate([i, i])] - a
        flip = (normals * aim).sum(axis=1) < 0
        self.add(vertices, np.where(flip[:, None], triangles[:, ::-1], triangles), colour, material, layer=layer)

    def convex(
        self,
        vertices: np.ndarray,
        triangles: Sequence[Sequence[int]],
        colour: Colour,
        material: int,
        *,
        layer: int = FAR,
        style: int = 0,
    ) -> None:
        """Add a convex body whose triangles are turned outwards, away from its centroid."""
        vertices = np.asarray(vertices, np.float64)
        indices = np.asarray(triangles, np.int64).reshape(-1, 3)
        a, b, c = (vertices[indices[:, k]] for k in range(3))
        outward = ((a + b + c) / 3.0 - vertices.mean(axis=0)) * np.cross(b - a, c - a)
        indices = np.where((outward.sum(axis=1) < 0)[:, None], indices[:, ::-1], indices)
        self.add(vertices, indices, colour, material, layer=layer, style=style)

    def box(  # noqa: PLR0913 - a box has that many properties
        self,
        centre: Sequence[float],
        size: Sequence[float],
        colour: Colour,
        material: int,
        *,
        yaw_rad: float = 0.0,
        layer: int = FAR,
        style: int = 0,
        open_bottom: bool = True,
        roof: tuple[Colour, int] | None = None,
    ) -> None:
        """Add an upright box around `centre` (x, y, z of the bottom face) with full sizes; `roof` colours the top."""
        corners = turn(_BOX_CORNERS * (size[0] / 2.0, size[1] / 2.0, size[2]), yaw_rad) + np.asarray(centre, np.float64)
        faces = _BOX_SIDES if open_bottom else _BOX_SIDES + _BOX_BOTTOM
        if roof is None:
            self.add(corners, faces + _BOX_TOP, colour, material, layer=layer, style=style)
        else:
            self.add(corners, faces, colour, material, layer=layer, style=style)
            self.add(corners, _BOX_TOP, roof[0], roof[1], layer=layer)

    def cylinder(  # noqa: PLR0913 - a frustum has that many properties
        self,
        base: Sequence[float],
        radius_m: float,
        height_m: float,
        colour: Colour,
        material: int,
        *,
        sides: int = 6,
        top_radius_m: float | None = None,
        layer: int = MIDDLE,
        cap: bool = False,
    ) -> None:
        """Add an upright prism or cone frustum around `base`, without a bottom."""
        angle = np.arange(sides) * 2.0 * math.pi / sides
        circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(sides)], axis=1)
        top_radius = radius_m if top_radius_m is None else top_radius_m
        vertices = np.concatenate([circle * radius_m, circle * top_radius + (0, 0, height_m)]) + np.asarray(base)
        faces = [(i, (i + 1) % sides, (i + 1) % sides + sides, i + sides) for i in range(sides)]
        triangles = split(faces)
        if cap:
            triangles += [(sides, sides + i, sides + i + 1) for i in range(1, sides - 1)]
        self.convex(vertices, triangles, colour, material, layer=layer)

    def pack(self, tile_m: float = TILE_M) -> TileMesh:
        """Sort all triangles into square tiles per layer."""
        if not self._vertices:
            raise ValueError("the mesh has no triangle; add at least one before packing")
        vertices = np.concatenate(self._vertices).astype(np.float32)
        triangles = np.concatenate(self._triangles)
        colours = np.concatenate(self._colours).astype(np.float32)
        tags, frames = np.concatenate(self._tags), np.concatenate(self._frames)
        a, b, c = (vertices[triangles[:, k]].astype(np.float64) for k in range(3))
        normals = np.cross(b - a, c - a)
        length = np.linalg.norm(normals, axis=1)
        keep = length > 1e-9
        triangles, colours, tags, frames = triangles[keep], colours[keep], tags[keep], frames[keep]
        normals = (normals[keep] / length[keep, None]).astype(np.float32)

        cell = np.floor(((a + b + c)[keep, :2] / 3.0) / tile_m).astype(np.int64)
        cell -= cell.min(axis=0)
        key = (tags[:, 1] * (cell[:, 0].max() + 1) + cell[:, 0]) * (cell[:, 1].max() + 1) + cell[:, 1]
        order = np.argsort(key, kind="stable")
        triangles, colours, tags, frames, normals, key = (
            x[order] for x in (triangles, colours, tags, frames, normals, key)
        )
        tile_first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        tile_end = np.r_[tile_first[1:], len(key)]
        tile = np.repeat(np.arange(len(tile_first)), tile_end - tile_first)

        pair, inverse = np.unique(tile[:, None] * np.int64(len(vertices)) + triangles, return_inverse=True)
        vertex_tile = pair // len(vertices)
        packed = vertices[pair % len(vertices)]
        vertex_first = np.searchsorted(vertex_tile, np.arange(len(tile_first)))
        vertex_end = np.r_[vertex_first[1:], len(packed)]
        surfaces = np.concatenate([colours, normals, tags[:, [0, 2]], frames], axis=1, dtype=np.float32)
        offsets = (normals * vertices[triangles[:, 0]]).sum(axis=1)
        return TileMesh(
            vertices=packed,
            triangles=inverse.reshape(-1, 3).astype(np.int32),
            surfaces=surfaces,
            names=surface_names(surfaces, offsets),
            bounds=np.concatenate(
                [np.minimum.reduceat(packed, vertex_first), np.maximum.reduceat(packed, vertex_first)], axis=1
            ),
            ranges=np.stack([vertex_first, vertex_end, tile_first, tile_end], axis=1).astype(np.int32),
            view_distances=np.array(VIEW_DISTANCE_M, np.float32)[tags[tile_first, 1]],
            labels=tags[:, 3].astype(np.uint8),
        )


def surface_names(surfaces: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(t,) int32: per triangle the first one with the same surface (t, SURFACE_SIZE) in the same plane.

    `offsets` (t,) are the planes' distances from the origin in metres, or whatever else tells parallel planes apart.
    """
    steps = np.array([1e-3] * 3 + [2e-3] * 3 + [1.0] * 2 + [1e-2] * 4)
    keys = np.column_stack([np.rint(surfaces / steps), np.rint(offsets / 0.02)]).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()].astype(np.int32)


def turn(points: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Points (n, 3) turned about z by CARLA's yaw."""
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    turned = np.array(points, np.float64)
    turned[:, 0] = points[:, 0] * cos - points[:, 1] * sin
    turned[:, 1] = points[:, 0] * sin + points[:, 1] * cos
    return turned


def split(faces: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    return [t for a, b, c, d in faces for t in ((a, b, c), (a, c, d))]


_BOX_CORNERS = np.array([(x, y, z) for z in (0, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))], np.float64)
_BOX_SIDES = split([(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])
_BOX_TOP, _BOX_BOTTOM = split([(4, 5, 6, 7)]), split([(0, 3, 2, 1)])
