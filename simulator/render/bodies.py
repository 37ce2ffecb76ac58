"""Low-polygon bodies of vehicles, walkers and props in the box [-1, 1] x [-1, 1] x [0, 2], by kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulator.render.mesh import (
    BODY,
    BRAKE_LAMP,
    EMISSIVE,
    GLASS,
    HEAD_LAMP,
    LEFT_BLINKER,
    PAINT,
    PLAIN,
    RIGHT_BLINKER,
    MeshBuilder,
    TileMesh,
)

BODY_COLOUR = (BODY, 0.0, 0.0)
WINDOW = (0.020, 0.026, 0.034)
TYRE = (0.012, 0.012, 0.012)
RIM = (0.20, 0.20, 0.21)
TRIM = (0.030, 0.030, 0.032)
SKIN = (0.42, 0.26, 0.18)
HAIR = (0.05, 0.035, 0.025)
TROUSERS = ((0.035, 0.045, 0.10), (0.05, 0.05, 0.05), (0.16, 0.13, 0.09))
SHOES = (0.03, 0.025, 0.02)


@dataclass(frozen=True)
class BodyModel:
    """A unit body. `lamps` (n, 8): position, normal in the unit box, radius m, kind (a colour code of `mesh`)."""

    vertices: np.ndarray
    triangles: np.ndarray
    surfaces: np.ndarray
    lamps: np.ndarray


def _profile_body(
    mesh: MeshBuilder, profile: Sequence[tuple[float, float]], beltline: float, tuck: float, glass: Sequence[int]
) -> None:
    """Extrude a side view (x, z), from rear bottom over the roof to front bottom; above the beltline it narrows."""
    outline = np.array(profile, float)
    half = 1.0 - tuck * np.maximum(outline[:, 1] - beltline, 0.0) / max(2.0 - beltline, 1e-6)
    left = np.stack([outline[:, 0], -half, outline[:, 1]], axis=1)
    right = left * [1, -1, 1]
    n = len(outline)
    for k in range(n - 1):
        quad = np.array([left[k], right[k], right[k + 1], left[k + 1]])
        _add_outward(mesh, quad, WINDOW if k in glass else BODY_COLOUR, GLASS if k in glass else PAINT)
    for side in (left, right):
        low = [k for k in range(n) if outline[k, 1] <= beltline + 1e-6]
        high = [k for k in range(n) if outline[k, 1] >= beltline - 1e-6]
        _add_outward(mesh, side[low], BODY_COLOUR, PAINT)
        if len(high) > 2:
            _add_outward(mesh, side[high], WINDOW, GLASS)


def _add_outward(mesh: MeshBuilder, polygon: np.ndarray, colour: Sequence[float], material: int) -> None:
    """A convex polygon facing away from the middle of the unit box."""
    normal = np.cross(polygon[1] - polygon[0], polygon[2] - polygon[0])
    if len(polygon) > 3 and np.linalg.norm(normal) < 1e-9:
        normal = np.cross(polygon[2] - polygon[0], polygon[3] - polygon[0])
    if normal @ (polygon.mean(axis=0) - [0.0, 0.0, 0.9]) < 0:
        polygon = polygon[::-1]
    mesh.add(polygon, [(0, k, k + 1) for k in range(1, len(polygon) - 1)], colour, material)


def _wheels(mesh: MeshBuilder, axles: Sequence[float], radius_x: float, radius_z: float) -> None:
    """Discs at the sides with a tread; radii in unit lengths, so that scaling makes them round."""
    angle = np.arange(10) * math.pi / 5.0
    for x in axles:
        for side in (-1.0, 1.0):
            circle = np.stack(
                [x + radius_x * np.cos(angle), np.full(10, side * 1.005), radius_z * (1 + np.sin(angle))], axis=1
            )
            _add_outward(mesh, circle, TYRE, PLAIN)
            rim = (circle - [x, 0, radius_z]) * [0.6, 1.0, 0.6] + [x, side * 0.006, radius_z]
            _add_outward(mesh, rim, RIM, PLAIN)
            inner = circle * [1, 0.72, 1]
            for k in range(10):
                quad = np.array([circle[k], circle[(k + 1) % 10], inner[(k + 1) % 10], inner[k]])
                normal = np.cross(quad[1] - quad[0], quad[2] - quad[0])
                out = quad.mean(axis=0) - [x, side * 0.86, radius_z]
                mesh.add(quad if normal @ out > 0 else quad[::-1], [(0, 1, 2), (0, 2, 3)], TYRE, PLAIN)


def _lamp_quad(
    mesh: MeshBuilder, x: float, y: float, z: float, half_y: float, half_z: float, code: float
) -> tuple[float, ...]:
    front = 1.0 if x > 0 else -1.0
    quad = np.array([(x, y + a * half_y, z + b * half_z) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    _add_outward(mesh, quad, (code, 0.0, 0.0), EMISSIVE)
    return (x + 0.01 * front, y, z, front, 0.0, 0.0, 0.08, code)


def _lamps(mesh: MeshBuilder, rear_z: float, front_z: float, y: float, *, third_z: float | None) -> np.ndarray:
    lamps = []
    for side, blinker in ((-1.0, LEFT_BLINKER), (1.0, RIGHT_BLINKER)):
        lamps.append(_lamp_quad(mesh, -1.012, side * y, rear_z, 0.17, 0.11, BRAKE_LAMP))
        lamps.append(_lamp_quad(mesh, -1.013, side * (y - 0.24), rear_z, 0.06, 0.07, blinker))
        lamps.append(_lamp_quad(mesh, 1.012, side * y, front_z, 0.16, 0.08, HEAD_LAMP))
        lamps.append(_lamp_quad(mesh, 1.013, side * (y - 0.22), front_z, 0.05, 0.06, blinker))
    if third_z is not None:
        lamps.append(_lamp_quad(mesh, -0.93, 0.0, third_z, 0.22, 0.035, BRAKE_LAMP))
    plate = np.array([(-1.011, a * 0.26, 0.62 + b * 0.07) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    _add_outward(mesh, plate, (0.6, 0.6, 0.58), PLAIN)
    return np.array(lamps)


def _car() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    profile = [
        (-1.0, 0.30), (-1.0, 1.10), (-0.93, 1.28), (-0.70, 1.30), (-0.42, 1.92), (-0.30, 2.0), (0.14, 2.0),
        (0.26, 1.92), (0.52, 1.30), (0.88, 1.14), (1.0, 0.86), (1.0, 0.30),
    ]  # fmt: skip
    _profile_body(mesh, profile, 1.30, 0.24, (3, 7))
    _wheels(mesh, (-0.60, 0.60), 0.145, 0.46)
    return mesh, _lamps(mesh, 1.02, 0.86, 0.74, third_z=1.36)


def _suv() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    profile = [
        (-1.0, 0.32), (-1.0, 1.22), (-0.92, 1.86), (-0.84, 1.98), (0.10, 2.0), (0.24, 1.90), (0.46, 1.22),
        (0.90, 1.10), (1.0, 0.90), (1.0, 0.32),
    ]  # fmt: skip
    _profile_body(mesh, profile, 1.22, 0.18, (1, 5))
    _wheels(mesh, (-0.60, 0.62), 0.16, 0.44)
    return mesh, _lamps(mesh, 1.02, 0.88, 0.76, third_z=1.82)


def _van() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    profile = [
        (-1.0, 0.24), (-1.0, 1.95), (-0.97, 2.0), (0.62, 2.0), (0.72, 1.92), (0.90, 1.12), (0.98, 0.98), (1.0, 0.24),
    ]  # fmt: skip
    _profile_body(mesh, profile, 2.0, 0.0, (4,))
    for side in (-1.004, 1.004):
        window = np.array([(0.30, side, 1.15), (0.80, side, 1.15), (0.70, side, 1.75), (0.30, side, 1.75)])
        _add_outward(mesh, window, WINDOW, GLASS)
    rear = np.array([(-1.004, -0.75, 1.15), (-1.004, 0.75, 1.15), (-1.004, 0.7, 1.75), (-1.004, -0.7, 1.75)])
    _add_outward(mesh, rear, WINDOW, GLASS)
    _wheels(mesh, (-0.62, 0.62), 0.125, 0.28)
    return mesh, _lamps(mesh, 0.80, 0.66, 0.82, third_z=None)


def _truck() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    profile = [(0.52, 0.22), (0.52, 1.62), (0.60, 1.70), (0.90, 1.68), (0.99, 1.05), (1.0, 0.22)]
    _profile_body(mesh, profile, 1.70, 0.0, (3,))
    for side in (-1.004, 1.004):
        window = np.array([(0.62, side, 1.05), (0.94, side, 1.05), (0.88, side, 1.55), (0.62, side, 1.55)])
        _add_outward(mesh, window, WINDOW, GLASS)
    mesh.box((-0.26, 0.0, 0.44), (1.48, 2.0, 1.56), BODY_COLOUR, PAINT, open_bottom=False)
    mesh.box((-0.2, 0.0, 0.26), (1.5, 1.3, 0.18), TRIM, PLAIN, open_bottom=False)
    _wheels(mesh, (-0.72, -0.46, 0.76), 0.125, 0.28)
    return mesh, _lamps(mesh, 0.54, 0.42, 0.78, third_z=None)


def _bus() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    mesh.box((0.0, 0.0, 0.2), (2.0, 2.0, 1.8), BODY_COLOUR, PAINT, open_bottom=False)
    for side in (-1.004, 1.004):
        band = np.array([(-0.94, side, 1.0), (0.94, side, 1.0), (0.94, side, 1.62), (-0.94, side, 1.62)])
        _add_outward(mesh, band, WINDOW, GLASS)
    for end, low in ((1.004, 0.85), (-1.004, 1.15)):
        pane = np.array([(end, -0.9, low), (end, 0.9, low), (end, 0.9, 1.7), (end, -0.9, 1.7)])
        _add_outward(mesh, pane, WINDOW, GLASS)
    _wheels(mesh, (-0.58, 0.62), 0.10, 0.24)
    return mesh, _lamps(mesh, 0.60, 0.52, 0.80, third_z=None)


def _two_wheeler() -> tuple[MeshBuilder, np.ndarray]:
    """Machine and rider; the rider fills the upper half of the box."""
    mesh = MeshBuilder()
    angle = np.arange(12) * math.pi / 6.0
    for x in (-0.66, 0.66):
        for side in (-0.09, 0.09):
            circle = np.stack([x + 0.32 * np.cos(angle), np.full(12, side), 0.38 + 0.38 * np.sin(angle)], axis=1)
            circle = circle if side * np.cross(circle[1] - circle[0], circle[2] - circle[0])[1] > 0 else circle[::-1]
            mesh.add(circle, [(0, k, k + 1) for k in range(1, 11)], TYRE, PLAIN)
        mesh.box((x, 0, 0.02), (0.3, 0.16, 0.72), TYRE, PLAIN, open_bottom=False)
    mesh.box((0.0, 0.0, 0.50), (1.1, 0.34, 0.36), BODY_COLOUR, PAINT, open_bottom=False)
    mesh.box((0.56, 0.0, 0.86), (0.1, 1.3, 0.08), TRIM, PLAIN, open_bottom=False)
    for side in (-1.0, 1.0):
        mesh.box((0.02, side * 0.3, 0.34), (0.3, 0.24, 0.6), TROUSERS[0], PLAIN, open_bottom=False)
        mesh.box((0.3, side * 0.62, 0.92), (0.55, 0.2, 0.14), TROUSERS[1], PLAIN, open_bottom=False)
    mesh.box((-0.1, 0.0, 0.84), (0.36, 0.95, 0.74), TROUSERS[1], PLAIN, open_bottom=False)
    mesh.box((0.0, 0.0, 1.60), (0.3, 0.55, 0.38), (0.55, 0.55, 0.5), PLAIN, open_bottom=False)
    lamps = np.array(
        [
            _lamp_quad(mesh, -0.98, 0.0, 0.72, 0.2, 0.08, BRAKE_LAMP),
            _lamp_quad(mesh, 0.9, 0.0, 0.8, 0.2, 0.1, HEAD_LAMP),
        ]
    )
    return mesh, lamps


def _walker(stride: float, trousers: Sequence[float]) -> tuple[MeshBuilder, np.ndarray]:
    """A standing or striding person; the box is a little wider than the shoulders."""
    mesh = MeshBuilder()
    for side in (-1.0, 1.0):
        step = stride * side
        hip, foot = np.array([0.0, side * 0.42, 0.98]), np.array([step, side * 0.42, 0.0])
        _limb(mesh, foot, hip, (0.40, 0.36), trousers)
        mesh.box((foot[0] + 0.15, foot[1], 0.0), (0.8, 0.36, 0.09), SHOES, PLAIN, open_bottom=False)
        shoulder, hand = np.array([0.0, side * 1.02, 1.60]), np.array([-0.8 * step + 0.1, side * 1.08, 0.92])
        _limb(mesh, hand, shoulder, (0.28, 0.24), BODY_COLOUR)
    mesh.box((0.0, 0.0, 0.94), (0.85, 1.75, 0.70), BODY_COLOUR, PLAIN, open_bottom=False)
    mesh.box((0.0, 0.0, 1.64), (0.3, 0.4, 0.1), SKIN, PLAIN)
    mesh.cylinder((0.05, 0.0, 1.70), 0.52, 0.24, SKIN, PLAIN, sides=7)
    mesh.cylinder((0.0, 0.0, 1.88), 0.56, 0.12, HAIR, PLAIN, sides=7, top_radius_m=0.36, cap=True)
    return mesh, np.zeros((0, 8))


def _limb(
    mesh: MeshBuilder, low: np.ndarray, high: np.ndarray, size: tuple[float, float], colour: Sequence[float]
) -> None:
    square = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * [size[0] / 2, size[1] / 2, 0]
    faces = [
        (0, 1, 5),
        (0, 5, 4),
        (1, 2, 6),
        (1, 6, 5),
        (2, 3, 7),
        (2, 7, 6),
        (3, 0, 4),
        (3, 4, 7),
        (4, 5, 6),
        (4, 6, 7),
        (0, 1, 2),
        (0, 2, 3),
    ]
    mesh.convex(np.concatenate([square + low, square + high]), faces, colour, PLAIN)


def _cone() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    mesh.box((0, 0, 0), (2.0, 2.0, 0.12), (0.03, 0.03, 0.03), PLAIN)
    for low, high, colour in (
        (0.12, 0.7, (0.75, 0.14, 0.02)),
        (0.7, 1.25, (0.8, 0.8, 0.8)),
        (1.25, 2.0, (0.75, 0.14, 0.02)),
    ):
        mesh.cylinder(
            (0, 0, low),
            0.72 * (1 - low / 2.3),
            high - low,
            colour,
            PLAIN,
            sides=8,
            top_radius_m=0.72 * (1 - high / 2.3),
            cap=True,
        )
    return mesh, np.zeros((0, 8))


def _barrier() -> tuple[MeshBuilder, np.ndarray]:
    """A striped board on two feet, seen from both sides."""
    mesh = MeshBuilder()
    for side in (-0.8, 0.8):
        mesh.box((0, side, 0), (2.0, 0.12, 1.9), (0.2, 0.2, 0.2), PLAIN)
    for k in range(8):
        colour = (0.70, 0.05, 0.03) if k % 2 else (0.85, 0.85, 0.85)
        mesh.box((0, -0.875 + 0.25 * k, 0.9), (0.5, 0.25, 0.9), colour, PLAIN, open_bottom=False)
    return mesh, np.zeros((0, 8))


def _box() -> tuple[MeshBuilder, np.ndarray]:
    mesh = MeshBuilder()
    mesh.box((0, 0, 0), (2.0, 2.0, 2.0), BODY_COLOUR, PLAIN, open_bottom=False)
    return mesh, np.zeros((0, 8))


def build_models() -> dict[str, BodyModel]:
    makers = {
        "car": _car(),
        "suv": _suv(),
        "van": _van(),
        "truck": _truck(),
        "bus": _bus(),
        "two_wheeler": _two_wheeler(),
        "cone": _cone(),
        "barrier": _barrier(),
        "box": _box(),
    }
    for phase, stride in enumerate(GAIT_STRIDES):
        makers[f"walker{phase}"] = _walker(stride, TROUSERS[0])
    return {name: _finish(*made) for name, made in makers.items()}


GAIT_STRIDES = (0.0, 0.75, 1.1, 0.75, 0.0, -0.75, -1.1, -0.75)
"""Foot positions over one gait cycle, in half depths of the body."""

GAIT_LENGTH_M = 1.5


def _finish(mesh: MeshBuilder, lamps: np.ndarray) -> BodyModel:
    packed: TileMesh = mesh.pack(tile_m=1e6)
    return BodyModel(packed.vertices, packed.triangles, packed.surfaces, lamps.astype(np.float32))


_TWO_WHEELERS = (
    *("crossbike", "century", "omafiets", "low_rider", "ninja", "vespa", "yamaha"),
    *("bicycle", "motorcycle"),
)
_KINDS = (
    (("firetruck", "carlacola", "hgv", "truck"), "truck", (0.45, 0.03, 0.02)),
    (("fusorosa", "bus"), "bus", (0.65, 0.62, 0.55)),
    (("sprinter", "ambulance", "volkswagen.t2", "van"), "van", (0.70, 0.70, 0.70)),
    (_TWO_WHEELERS, "two_wheeler", (0.10, 0.03, 0.03)),
    (("patrol", "wrangler", "etron", "cybertruck", "microlino", "cooper_s_2021"), "suv", (0.30, 0.31, 0.33)),
    (("cone",), "cone", (0.75, 0.14, 0.02)),
    (("barrier", "warning", "construction"), "barrier", (0.75, 0.75, 0.75)),
)  # fmt: skip


@lru_cache(maxsize=1024)
def classify(type_id: str) -> tuple[str, tuple[float, float, float]]:
    """Model name and default linear colour of a CARLA type id; walkers give `walker`, unknown props `box`."""
    if type_id.startswith("walker."):
        return "walker", (0.22, 0.10, 0.08)
    for words, model, colour in _KINDS:
        if any(word in type_id for word in words) and (
            model not in ("truck", "bus", "van", "suv") or type_id.startswith("vehicle.")
        ):
            return model, colour
    return ("car", (0.30, 0.31, 0.33)) if type_id.startswith("vehicle.") else ("box", (0.30, 0.22, 0.14))
