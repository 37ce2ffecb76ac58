"""Puts actor bodies into the world for one frame: triangles, lamps, head lamp beams and cast shadow outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numba as nb
import numpy as np

from simulator.render.mesh import EMISSIVE, PLAIN, SURFACE_SIZE, Colour
from simulator.render.models import BodyModel, classify
from simulator.render.models.kit import (
    BODY,
    BRAKE_LAMP,
    DOORS,
    DOORWAYS,
    EXTRAS,
    FLASHER_A,
    FLASHER_B,
    HAIR,
    HEAD_LAMP,
    JOINTS,
    LEFT_ARM,
    LEFT_BLINKER,
    LEFT_LEG,
    LEFT_WHEEL,
    PALETTE_SIZE,
    REVERSE_LAMP,
    RIGHT_ARM,
    RIGHT_BLINKER,
    RIGHT_LEG,
    RIGHT_WHEEL,
    SECOND,
    SKIN,
    SWINGING,
)
from simulator.render.models.people import BACKPACK, HAT, HIP_Z, SKIRT
from simulator.render.raster import Tiles
from simulator.render.scene import (
    LIGHT_BRAKE,
    LIGHT_HIGH_BEAM,
    LIGHT_LEFT_BLINKER,
    LIGHT_LOW_BEAM,
    LIGHT_POSITION,
    LIGHT_REVERSE,
    LIGHT_RIGHT_BLINKER,
    LIGHT_SPECIAL_1,
    LIGHT_SPECIAL_2,
    SceneActor,
    axes,
    require_finite,
)
from simulator.render.shade import developed
from simulator.render.sprites import LAMP_COLUMNS

ACTOR_DISTANCE_M: Final = 220.0
LONGEST_SHADOW_M: Final = 9.0
GAIT_LENGTH_M: Final = 1.55
"""Way of two steps of an adult; shorter people take shorter steps."""

ADULT_HEIGHT_M: Final = 1.86
SWING_RAD_PER_MPS, SWING_MAXIMUM_RAD = 0.32, 0.62
ADULT_HALF_DEPTH_M, ADULT_HALF_WIDTH_M = 0.20, 0.245
DOOR_RAD: Final = 1.15
BLINK_HZ, FLASH_HZ = 1.5, 2.2
LOW_BEAM_M, HIGH_BEAM_M = 42.0, 75.0

_BRAKE_RGB, _TAIL_RGB, _AMBER_RGB = (1.0, 0.018, 0.010), (0.30, 0.006, 0.005), (1.0, 0.27, 0.01)
_HEAD_RGB, _BLUE_RGB, _RED_RGB = (1.0, 0.96, 0.85), (0.02, 0.06, 1.0), (1.0, 0.02, 0.015)
_RED_OFF, _AMBER_OFF, _WHITE_OFF = (0.17, 0.008, 0.010), (0.20, 0.08, 0.01), (0.45, 0.45, 0.45)
_BLUE_OFF = (0.02, 0.04, 0.16)
_SKINS = ((0.44, 0.28, 0.20), (0.36, 0.21, 0.14), (0.24, 0.13, 0.08), (0.10, 0.055, 0.035), (0.48, 0.33, 0.26))
_HAIRS = ((0.02, 0.016, 0.013), (0.07, 0.04, 0.022), (0.30, 0.20, 0.08), (0.30, 0.30, 0.29), (0.16, 0.06, 0.02))
_TOPS = (
    (0.42, 0.04, 0.04), (0.05, 0.11, 0.32), (0.55, 0.55, 0.53), (0.05, 0.05, 0.055), (0.08, 0.24, 0.10),
    (0.50, 0.34, 0.06), (0.30, 0.10, 0.24), (0.12, 0.30, 0.36), (0.22, 0.22, 0.23), (0.45, 0.20, 0.08),
    (0.16, 0.10, 0.06), (0.50, 0.26, 0.28),
)  # fmt: skip
_TROUSERS = (
    (0.035, 0.05, 0.12), (0.03, 0.03, 0.033), (0.16, 0.13, 0.09), (0.10, 0.10, 0.11), (0.30, 0.29, 0.26),
    (0.07, 0.04, 0.03), (0.06, 0.09, 0.05), (0.08, 0.11, 0.18),
)  # fmt: skip


@dataclass(frozen=True)
class Instances:
    """What a renderer needs to draw the actors: a model per actor, and how it is placed, bent and coloured."""

    models: np.ndarray
    """(k,) int64 into the models"""
    origins: np.ndarray
    """(k, 3) world position of the unit body's origin"""
    frames: np.ndarray
    """(k, 3, 3) rows forward, right, up"""
    extents: np.ndarray
    """(k, 3) metres per unit of the unit body"""
    angles: np.ndarray
    """(k, JOINTS) radians each joint is turned by"""
    scales: np.ndarray
    """(k, JOINTS) 1, or 0 where what hangs on the joint does not show"""
    palette: np.ndarray
    """(k, PALETTE_SIZE, 3) linear RGB of the colour codes"""
    lit: np.ndarray
    """(k, PALETTE_SIZE) bool: this colour shines"""


@dataclass(frozen=True)
class Bodies:
    """All actors of one frame: the instances, and their triangles in world coordinates."""

    instances: Instances
    tiles: Tiles
    """tile k is actor k of the scene"""
    surfaces: np.ndarray
    """(t, SURFACE_SIZE) as in `mesh.TileMesh`"""
    lamps: np.ndarray
    """(n, LAMP_COLUMNS) as `sprites.lamp_discs` wants them"""
    beams: np.ndarray
    """(n, 5) head lamps: x, y, heading (x, y), reach in metres"""
    shadows: np.ndarray
    """(k, 6, 3) ground polygons"""
    shadow_normals: np.ndarray
    """(k, 3) normals of their planes"""


class Wardrobe:
    """The body models in one set of arrays, so that a kernel can place them; `salt` varies clothes and paints."""

    def __init__(self, models: dict[str, BodyModel], salt: int = 0) -> None:
        self.index = {name: i for i, name in enumerate(models)}
        bodies = list(models.values())
        self.vertices = np.concatenate([body.vertices for body in bodies])
        self.joints = np.concatenate([body.joints for body in bodies])
        self.pivots = np.stack([body.pivots for body in bodies]).astype(np.float64)
        self.triangles = np.concatenate([body.triangles for body in bodies])
        self.names = np.concatenate([body.names for body in bodies])
        self.surfaces = np.concatenate([body.surfaces for body in bodies])
        self.lamps = [body.lamps for body in bodies]
        self.vertex_first = np.r_[0, np.cumsum([len(body.vertices) for body in bodies])].astype(np.int64)
        self.triangle_first = np.r_[0, np.cumsum([len(body.triangles) for body in bodies])].astype(np.int64)
        self._salt = salt

    def place(self, actors: Sequence[SceneActor], sun: np.ndarray, time_s: float = 0.0) -> Bodies:
        """World triangles, lamps and shadows of the actors at a time, under a sun in direction `sun` (3,)."""
        count = len(actors)
        made = Instances(
            models=np.zeros(count, np.int64),
            origins=np.zeros((count, 3)),
            frames=np.zeros((count, 3, 3)),
            extents=np.zeros((count, 3)),
            angles=np.zeros((count, JOINTS)),
            scales=np.ones((count, JOINTS)),
            palette=np.zeros((count, PALETTE_SIZE, 3), np.float32),
            lit=np.zeros((count, PALETTE_SIZE), np.bool_),
        )
        lamps, beams = [np.zeros((0, LAMP_COLUMNS), np.float32)], []
        for k, actor in enumerate(actors):
            require_finite(f"pose of {actor.type_id}", actor.pose)
            self._dress(made, k, actor, time_s)
            lamps.append(self._lamps(made, k))
            if made.lit[k, _place(HEAD_LAMP)]:
                reach = HIGH_BEAM_M if actor.lights & LIGHT_HIGH_BEAM else LOW_BEAM_M
                nose = made.origins[k] + made.frames[k, 0] * made.extents[k, 0]
                beams.append((nose[0], nose[1], made.frames[k, 0, 0], made.frames[k, 0, 1], reach))
        tiles, surfaces = self._assemble(made)
        return Bodies(
            instances=made,
            tiles=tiles,
            surfaces=surfaces,
            lamps=np.concatenate(lamps),
            beams=np.array(beams, np.float64).reshape(-1, 5),
            shadows=np.ascontiguousarray(_shadow_outlines(made.origins, made.frames, made.extents, sun)),
            shadow_normals=np.ascontiguousarray(made.frames[:, 2]),
        )

    def _dress(self, made: Instances, k: int, actor: SceneActor, time_s: float) -> None:
        """Fill entry k: model, size, joints and colours."""
        look = classify(actor.type_id)
        made.frames[k] = axes(actor.pose)
        made.extents[k] = np.maximum(actor.extent, 0.005)
        made.origins[k] = actor.pose[:3]
        made.scales[k, DOORS : EXTRAS + 3] = 0.0
        name = look.model
        if name == "walker":
            name = self._dress_walker(made, k, actor)
        elif actor.type_id.startswith("vehicle."):
            _bend_vehicle(made, k, actor)
            made.palette[k, _place(SECOND)] = look.second
        _colour(made, k, actor, look.colour if name in self.index and look.model != "walker" else None, time_s)
        if look.model in ("bicycle", "scooter", "motorcycle", "sport_motorcycle"):
            self._dress_rider(made, k, actor, look.model)
        made.models[k] = self.index[name]

    def _dress_walker(self, made: Instances, k: int, actor: SceneActor) -> str:
        """Clothes and gait of a walker; returns the model's name."""
        chance = _hashes(actor.type_id, self._salt, 8)
        height_m = 2.0 * made.extents[k, 2]
        made.origins[k] -= made.frames[k, 2] * made.extents[k, 2]
        size = height_m / ADULT_HEIGHT_M
        made.extents[k, :2] = ADULT_HALF_DEPTH_M * size, ADULT_HALF_WIDTH_M * size
        child = height_m < 1.45
        long_hair = chance[0] > 0.5
        if child:
            made.extents[k, :2] *= 1.15
        _pick(made, k, chance)
        if actor.colour is not None:
            made.palette[k, _place(BODY)] = _linear(actor.colour)
        if actor.wheelchair:
            return "wheelchair"
        made.scales[k, BACKPACK] = chance[5] > 0.75
        made.scales[k, SKIRT] = long_hair and chance[6] > 0.6
        made.scales[k, HAT] = chance[7] > 0.82
        swing = min(SWING_RAD_PER_MPS * actor.speed_mps, SWING_MAXIMUM_RAD)
        phase = 2.0 * math.pi * actor.travelled_m / (GAIT_LENGTH_M * size)
        stride = swing * math.sin(phase)
        made.angles[k, LEFT_LEG], made.angles[k, RIGHT_LEG] = stride, -stride
        made.angles[k, LEFT_ARM], made.angles[k, RIGHT_ARM] = -0.8 * stride, 0.8 * stride
        leg_m = HIP_Z * made.extents[k, 2]
        made.origins[k] -= made.frames[k, 2] * leg_m * (1.0 - math.cos(stride))
        return "walker_child" if child else "walker_long_hair" if long_hair else "walker"

    def _dress_rider(self, made: Instances, k: int, actor: SceneActor, model: str) -> None:
        chance = _hashes(actor.type_id + str(actor.colour), self._salt, 8)
        machine = made.palette[k, _place(BODY)].copy()
        _pick(made, k, chance)
        made.palette[k, _place(BODY)] = machine
        if model == "bicycle" and actor.speed_mps > 0.1:
            turn = 0.42 * math.sin(2.0 * math.pi * actor.travelled_m / 5.0)
            made.angles[k, LEFT_LEG], made.angles[k, RIGHT_LEG] = turn, -turn

    def _lamps(self, made: Instances, k: int) -> np.ndarray:
        """The shining lamps of actor k as sprites (n, LAMP_COLUMNS)."""
        rows = []
        for lamp in self.lamps[made.models[k]]:
            place = _place(float(lamp[7]))
            if made.lit[k, place]:
                local = lamp[:3] * made.extents[k]
                position = made.origins[k] + local @ made.frames[k]
                normal = lamp[3:6] @ made.frames[k]
                rows.append((*position, *normal, lamp[6], *developed(made.palette[k, place]), k, local[2]))
        return np.array(rows, np.float32).reshape(-1, LAMP_COLUMNS)

    def _assemble(self, made: Instances) -> tuple[Tiles, np.ndarray]:
        """Triangles of all instances in world coordinates, with their surfaces."""
        models, count = made.models, len(made.models)
        vertex_count = int((self.vertex_first[models + 1] - self.vertex_first[models]).sum())
        triangle_count = int((self.triangle_first[models + 1] - self.triangle_first[models]).sum())
        vertices = np.empty((vertex_count, 3), np.float32)
        triangles = np.empty((triangle_count, 3), np.int32)
        names = np.empty(triangle_count, np.int32)
        surfaces = np.zeros((triangle_count, SURFACE_SIZE), np.float32)
        bounds, ranges = np.empty((count, 6), np.float32), np.empty((count, 4), np.int32)
        limits = np.full(count, ACTOR_DISTANCE_M, np.float32)
        if count:
            source = (
                *(self.vertices, self.joints, self.pivots, self.triangles, self.names, self.surfaces),
                *(self.vertex_first, self.triangle_first),
            )
            pose = (models, made.origins, made.frames, made.extents, made.angles, made.scales)
            place_bodies(source, pose, made.palette, made.lit, (vertices, triangles, names, surfaces, bounds, ranges))
        return Tiles(vertices, triangles, names, bounds, ranges, limits, np.arange(count, dtype=np.int32)), surfaces


def _place(code: float) -> int:
    """Where a colour code's entry stands in the palette."""
    return int(-code) - 1


def _hashes(text: str, salt: int, count: int) -> list[float]:
    """Numbers in 0..1 that follow from a text (FNV-1a) and a salt."""
    value = 2166136261 ^ (salt * 2654435761 & 0xFFFFFFFF)
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    found = []
    for _ in range(count):
        value = (value * 1664525 + 1013904223) & 0xFFFFFFFF
        found.append((value >> 8) / 16777216.0)
    return found


def _linear(colour: Sequence[int]) -> tuple[float, ...]:
    """Linear RGB of a colour 0..255 as paint."""
    return tuple((c / 255.0) ** 2 * 0.85 + 0.006 for c in colour)


def _pick(made: Instances, k: int, chance: Sequence[float]) -> None:
    """Skin, hair and clothes of a person."""
    for code, tones, share in ((SKIN, _SKINS, 1), (HAIR, _HAIRS, 2), (BODY, _TOPS, 3), (SECOND, _TROUSERS, 4)):
        made.palette[k, _place(code)] = tones[int(chance[share] * len(tones)) % len(tones)]


def _bend_vehicle(made: Instances, k: int, actor: SceneActor) -> None:
    """Steered wheels and open doors."""
    made.angles[k, LEFT_WHEEL] = made.angles[k, RIGHT_WHEEL] = math.radians(actor.steer_deg)
    for door in range(4):
        if actor.open_doors >> door & 1:
            made.scales[k, DOORS + door] = made.scales[k, DOORWAYS + door] = 1.0
            made.angles[k, DOORS + door] = DOOR_RAD if door % 2 == 0 else -DOOR_RAD


def _colour(made: Instances, k: int, actor: SceneActor, default: Colour | None, time_s: float) -> None:
    """Palette and shining of entry k: body, lamps."""
    lights, palette, lit = actor.lights, made.palette[k], made.lit[k]
    if default is not None:
        palette[_place(BODY)] = default if actor.colour is None else _linear(actor.colour)
    blink = (time_s * BLINK_HZ) % 1.0 < 0.5
    tail, braking = bool(lights & LIGHT_POSITION), actor.braking or bool(lights & LIGHT_BRAKE)
    flash = bool(lights & (LIGHT_SPECIAL_1 | LIGHT_SPECIAL_2)) or actor.type_id.startswith("static.")
    first = (time_s * FLASH_HZ) % 1.0 < 0.5
    signal = actor.type_id.startswith("static.")
    shining = (_AMBER_RGB, _AMBER_RGB) if signal else (_RED_RGB, _BLUE_RGB)
    for code, on, off, shines in (
        (BRAKE_LAMP, _BRAKE_RGB if braking else _TAIL_RGB, _RED_OFF, braking or tail),
        (LEFT_BLINKER, _AMBER_RGB, _AMBER_OFF, bool(lights & LIGHT_LEFT_BLINKER) and blink),
        (RIGHT_BLINKER, _AMBER_RGB, _AMBER_OFF, bool(lights & LIGHT_RIGHT_BLINKER) and blink),
        (HEAD_LAMP, _HEAD_RGB, _WHITE_OFF, bool(lights & (LIGHT_LOW_BEAM | LIGHT_HIGH_BEAM))),
        (REVERSE_LAMP, _HEAD_RGB, _WHITE_OFF, bool(lights & LIGHT_REVERSE)),
        (FLASHER_A, shining[0], _RED_OFF, flash and first),
        (FLASHER_B, shining[1], _BLUE_OFF if not signal else _AMBER_OFF, flash and not first),
    ):
        palette[_place(code)] = on if shines else off
        lit[_place(code)] = shines


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


_LAST_SWINGING: Final = max(SWINGING)


@nb.njit(nogil=True, cache=True)
def place_bodies(source, pose, palette, lit, target):
    """Scale, bend, turn, move and colour the model of every actor into the target arrays."""
    model_vertices, joints, pivots, model_triangles, model_names, model_surfaces, vertex_first, triangle_first = source
    models, origins, frames, extents, angles, scales = pose
    vertices, triangles, names, surfaces, bounds, ranges = target
    cosines, sines = np.cos(angles), np.sin(angles)
    local = np.zeros(3)
    v, t = 0, 0
    for k in range(len(models)):
        m = models[k]
        ranges[k, 0], ranges[k, 2] = v, t
        first = t
        for axis in range(3):
            bounds[k, axis], bounds[k, 3 + axis] = 1e9, -1e9
        base = v
        for i in range(vertex_first[m], vertex_first[m + 1]):
            for axis in range(3):
                local[axis] = model_vertices[i, axis] * extents[k, axis]
            joint = joints[i]
            if joint > 0:
                px, py, pz = (
                    pivots[m, joint, 0] * extents[k, 0],
                    pivots[m, joint, 1] * extents[k, 1],
                    pivots[m, joint, 2] * extents[k, 2],
                )
                size, cosine, sine = scales[k, joint], cosines[k, joint], sines[k, joint]
                x, y, z = size * (local[0] - px), size * (local[1] - py), size * (local[2] - pz)
                if joint <= _LAST_SWINGING:
                    local[0], local[1], local[2] = px + x * cosine - z * sine, py + y, pz + x * sine + z * cosine
                else:
                    local[0], local[1], local[2] = px + x * cosine - y * sine, py + x * sine + y * cosine, pz + z
            for axis in range(3):
                value = origins[k, axis]
                for j in range(3):
                    value += local[j] * frames[k, j, axis]
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
            # What hangs on a joint that does not show has no area and is not drawn.
            length = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
            names[t] = first + model_names[i]
            triangles[t, 0], triangles[t, 1], triangles[t, 2] = a, b, c
            surfaces[t, 3], surfaces[t, 4], surfaces[t, 5] = nx / length, ny / length, nz / length
            code = model_surfaces[i, 0]
            surfaces[t, 6], surfaces[t, 7] = model_surfaces[i, 6], model_surfaces[i, 7]
            place = int(-code) - 1
            for axis in range(3):
                surfaces[t, axis] = palette[k, place, axis] if code < 0.0 else model_surfaces[i, axis]
            if code < 0.0 and model_surfaces[i, 6] == EMISSIVE:
                surfaces[t, 6] = EMISSIVE if lit[k, place] else PLAIN
            t += 1
        ranges[k, 1], ranges[k, 3] = v, t
