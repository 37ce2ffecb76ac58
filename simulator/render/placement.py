"""Puts actor bodies into the world for one frame: triangles, lamps and cast shadow outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np

from simulator.render.bodies import GAIT_LENGTH_M, GAIT_STRIDES, BodyModel, classify
from simulator.render.mesh import BRAKE_LAMP, EMISSIVE, HEAD_LAMP, LEFT_BLINKER, PLAIN, RIGHT_BLINKER
from simulator.render.raster import Tiles
from simulator.render.scene import (
    LIGHT_BRAKE,
    LIGHT_HIGH_BEAM,
    LIGHT_LEFT_BLINKER,
    LIGHT_LOW_BEAM,
    LIGHT_POSITION,
    LIGHT_RIGHT_BLINKER,
    SceneActor,
    axes,
    require_finite,
)

ACTOR_DISTANCE_M = 220.0
LONGEST_SHADOW_M = 9.0

_BRAKE_RGB, _TAIL_RGB, _AMBER_RGB, _HEAD_RGB = (
    (1.0, 0.045, 0.025),
    (0.38, 0.012, 0.012),
    (1.0, 0.42, 0.02),
    (1.0, 0.96, 0.85),
)
_RED_OFF, _AMBER_OFF, _HEAD_OFF = (0.17, 0.008, 0.010), (0.20, 0.08, 0.01), (0.45, 0.45, 0.45)


@dataclass(frozen=True)
class Bodies:
    """All actors' triangles of one frame."""

    tiles: Tiles
    """tile k is actor k of the scene"""
    surfaces: np.ndarray
    """(t, 8) as in `mesh.TileMesh`"""
    lamps: np.ndarray
    """(n, 11) as `raster.splat_lamps` wants them"""
    shadows: np.ndarray
    """(k, 6, 3) ground polygons"""
    shadow_normals: np.ndarray
    """(k, 3) normals of their planes"""


class Wardrobe:
    """The body models in one set of arrays, so that a kernel can place them."""

    def __init__(self, models: dict[str, BodyModel]) -> None:
        self.index = {name: i for i, name in enumerate(models)}
        bodies = list(models.values())
        self.vertices = np.concatenate([body.vertices for body in bodies])
        self.triangles = np.concatenate([body.triangles for body in bodies])
        self.surfaces = np.concatenate([body.surfaces for body in bodies])
        self.lamps = [body.lamps for body in bodies]
        self.vertex_first = np.r_[0, np.cumsum([len(body.vertices) for body in bodies])].astype(np.int64)
        self.triangle_first = np.r_[0, np.cumsum([len(body.triangles) for body in bodies])].astype(np.int64)

    def place(self, actors: Sequence[SceneActor], sun: np.ndarray) -> Bodies:
        """World triangles, lamps and shadows of the actors under a sun in direction `sun` (3,)."""
        count = len(actors)
        models = np.zeros(count, np.int64)
        origins = np.zeros((count, 3))
        frames = np.zeros((count, 3, 3))
        extents = np.zeros((count, 3))
        palette = np.zeros((count, 5, 3), np.float32)
        lit = np.zeros((count, 5), np.bool_)
        lamps: list[np.ndarray] = []
        for k, actor in enumerate(actors):
            require_finite(f"pose of {actor.type_id}", actor.pose)
            name, default = classify(actor.type_id)
            frames[k] = axes(actor.pose)
            extents[k] = np.maximum(actor.extent, 0.02)
            origins[k] = actor.pose[:3]
            if name == "walker":
                origins[k] -= frames[k, 2] * extents[k, 2]
                extents[k, :2] = np.minimum(extents[k, :2], (0.2, 0.26))
                name = f"walker{_gait_phase(actor, frames[k])}"
            models[k] = self.index[name]
            palette[k], lit[k] = _colours(actor, default)
            lamps.append(_actor_lamps(self.lamps[models[k]], palette[k], lit[k], k, origins[k], frames[k], extents[k]))
        shadows = _shadow_outlines(origins, frames, extents, sun)
        return self._assemble(models, origins, frames, extents, palette, lit, lamps, shadows)

    def _assemble(
        self,
        models: np.ndarray,
        origins: np.ndarray,
        frames: np.ndarray,
        extents: np.ndarray,
        palette: np.ndarray,
        lit: np.ndarray,
        lamps: list[np.ndarray],
        shadows: np.ndarray,
    ) -> Bodies:
        count = len(models)
        vertex_end = np.cumsum(self.vertex_first[models + 1] - self.vertex_first[models])
        triangle_end = np.cumsum(self.triangle_first[models + 1] - self.triangle_first[models])
        vertices = np.empty((int(vertex_end[-1]) if count else 0, 3), np.float32)
        triangles = np.empty((int(triangle_end[-1]) if count else 0, 3), np.int32)
        surfaces = np.empty((len(triangles), 8), np.float32)
        bounds, ranges = np.empty((count, 6), np.float32), np.empty((count, 4), np.int32)
        limits = np.full(count, ACTOR_DISTANCE_M, np.float32)
        if count:
            source = (self.vertices, self.triangles, self.surfaces, self.vertex_first, self.triangle_first)
            target = (vertices, triangles, surfaces, bounds, ranges)
            _place(source, models, origins, frames, extents, palette, lit, target)
        return Bodies(
            tiles=Tiles(vertices, triangles, bounds, ranges, limits, np.arange(count, dtype=np.int32)),
            surfaces=surfaces,
            lamps=np.concatenate([*lamps, np.zeros((0, 11), np.float32)]),
            shadows=np.ascontiguousarray(shadows),
            shadow_normals=np.ascontiguousarray(frames[:, 2]),
        )


def _gait_phase(actor: SceneActor, frame: np.ndarray) -> int:
    """Which stride to show: the feet follow the distance walked along the heading."""
    along = float(np.dot(actor.pose[:3], frame[0]))
    return math.floor(along / GAIT_LENGTH_M * len(GAIT_STRIDES)) % len(GAIT_STRIDES)


def _colours(actor: SceneActor, default: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Linear RGB (5, 3) and whether it shines, for body, brake lamps, left and right blinker, head lamps."""
    body = default if actor.colour is None else tuple((c / 255.0) ** 2 * 0.85 + 0.006 for c in actor.colour)
    braking = actor.braking or bool(actor.lights & LIGHT_BRAKE)
    tail = bool(actor.lights & LIGHT_POSITION)
    left, right = bool(actor.lights & LIGHT_LEFT_BLINKER), bool(actor.lights & LIGHT_RIGHT_BLINKER)
    head = bool(actor.lights & (LIGHT_LOW_BEAM | LIGHT_HIGH_BEAM))
    rgb = np.array(
        [
            body,
            _BRAKE_RGB if braking else _TAIL_RGB if tail else _RED_OFF,
            _AMBER_RGB if left else _AMBER_OFF,
            _AMBER_RGB if right else _AMBER_OFF,
            _HEAD_RGB if head else _HEAD_OFF,
        ],
        np.float32,
    )
    return rgb, np.array([False, braking or tail, left, right, head])


_SHINE = {BRAKE_LAMP: 1, LEFT_BLINKER: 2, RIGHT_BLINKER: 3, HEAD_LAMP: 4}


def _actor_lamps(
    lamps: np.ndarray,
    palette: np.ndarray,
    lit: np.ndarray,
    owner: int,
    origin: np.ndarray,
    frame: np.ndarray,
    extent: np.ndarray,
) -> np.ndarray:
    """The shining lamps of an actor as sprites (n, 11)."""
    rows = []
    for lamp in lamps:
        place = _SHINE[float(lamp[7])]
        if lit[place]:
            position = origin + (lamp[:3] * extent) @ frame
            rows.append((*position, *(lamp[3:6] @ frame), lamp[6], *palette[place], owner))
    return np.array(rows, np.float32).reshape(-1, 11)


def _shadow_outlines(origins: np.ndarray, frames: np.ndarray, extents: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """(n, 6, 3) outlines of the boxes' shadows on their own ground planes; without sun the footprint."""
    if len(origins) == 0:
        return np.zeros((0, 6, 3))
    local_sun = frames @ sun
    height = 1.5 * extents[:, 2]
    shift = np.zeros((len(origins), 2))
    up = local_sun[:, 2] > 0.05
    shift[up] = -local_sun[up, :2] / local_sun[up, 2:3] * height[up, None]
    length = np.linalg.norm(shift, axis=1, keepdims=True)
    shift *= np.minimum(1.0, LONGEST_SHADOW_M / np.maximum(length, 1e-9))
    sign = np.where(shift < 0, -1.0, 1.0)
    half = extents[:, :2]
    # The hull of a rectangle and its shifted copy, written for a shift towards +x, +y and mirrored.
    corners = np.array([(-1, -1), (1, -1), (1, -1), (1, 1), (-1, 1), (-1, 1)], float)
    moved = np.array([0, 0, 1, 1, 1, 0], float)
    flat = sign[:, None] * (corners * half[:, None] + moved[:, None] * np.abs(shift)[:, None])
    return origins[:, None] + flat @ frames[:, :2] + 0.02 * frames[:, None, 2]


@nb.njit(nogil=True, cache=True)
def _place(source, models, origins, frames, extents, palette, lit, target):
    """Scale, turn and move the model of every actor into the target arrays."""
    model_vertices, model_triangles, model_surfaces, vertex_first, triangle_first = source
    vertices, triangles, surfaces, bounds, ranges = target
    v, t = 0, 0
    for k in range(len(models)):
        m = models[k]
        ranges[k, 0], ranges[k, 2] = v, t
        for axis in range(3):
            bounds[k, axis], bounds[k, 3 + axis] = 1e9, -1e9
        base = v
        for i in range(vertex_first[m], vertex_first[m + 1]):
            for axis in range(3):
                value = origins[k, axis]
                for j in range(3):
                    value += model_vertices[i, j] * extents[k, j] * frames[k, j, axis]
                vertices[v, axis] = value
                bounds[k, axis] = min(bounds[k, axis], value)
                bounds[k, 3 + axis] = max(bounds[k, 3 + axis], value)
            v += 1
        for i in range(triangle_first[m], triangle_first[m + 1]):
            a, b, c = (
                base + model_triangles[i, 0],
                base + model_triangles[i, 1],
                base + model_triangles[i, 2],
            )
            triangles[t, 0], triangles[t, 1], triangles[t, 2] = a, b, c
            ux, uy, uz = (
                vertices[b, 0] - vertices[a, 0],
                vertices[b, 1] - vertices[a, 1],
                vertices[b, 2] - vertices[a, 2],
            )
            wx, wy, wz = (
                vertices[c, 0] - vertices[a, 0],
                vertices[c, 1] - vertices[a, 1],
                vertices[c, 2] - vertices[a, 2],
            )
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            scale = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
            surfaces[t, 3], surfaces[t, 4], surfaces[t, 5] = nx * scale, ny * scale, nz * scale
            code = model_surfaces[i, 0]
            surfaces[t, 6], surfaces[t, 7] = model_surfaces[i, 6], 0.0
            place = int(-code) - 1
            for axis in range(3):
                surfaces[t, axis] = palette[k, place, axis] if code < 0.0 else model_surfaces[i, axis]
            if place > 0:
                surfaces[t, 6] = EMISSIVE if lit[k, place] else PLAIN
            t += 1
        ranges[k, 1], ranges[k, 3] = v, t
