"""What body models are made with: colour codes, joints, and a builder in the box [-1, 1] x [-1, 1] x [0, 2].

x points forward, y right, z up; the box is scaled to an actor's bounding box when it is placed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.render.mesh import EMISSIVE, PAINT, PLAIN, SURFACE_SIZE, Colour, MeshBuilder, split, surface_names

BODY, BRAKE_LAMP, LEFT_BLINKER, RIGHT_BLINKER, HEAD_LAMP, REVERSE_LAMP = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0
FLASHER_A, FLASHER_B, SECOND, SKIN, HAIR = -7.0, -8.0, -9.0, -10.0, -11.0
"""Values of the red component that stand for a colour filled in per actor: entry -code - 1 of its palette."""

PALETTE_SIZE = 11

RIGID, LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM, LEFT_WHEEL, RIGHT_WHEEL = range(7)
DOORS, DOORWAYS, EXTRAS = 7, 11, 15
"""First of four doors (front left, front right, rear left, rear right), of their dark openings, of three extras."""

JOINTS = 18
SWINGING = (LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM)
"""Joints that turn about the y axis, positive angles forward; the others about z, clockwise seen from above."""

BODY_COLOUR: Colour = (BODY, 0.0, 0.0)
SECOND_COLOUR: Colour = (SECOND, 0.0, 0.0)
SKIN_COLOUR: Colour = (SKIN, 0.0, 0.0)
HAIR_COLOUR: Colour = (HAIR, 0.0, 0.0)
WINDOW: Colour = (0.020, 0.026, 0.034)
TYRE: Colour = (0.012, 0.012, 0.012)
RIM: Colour = (0.24, 0.24, 0.25)
TRIM: Colour = (0.022, 0.022, 0.024)
CHROME: Colour = (0.36, 0.36, 0.37)
STEEL: Colour = (0.20, 0.20, 0.21)
WHITE: Colour = (0.72, 0.72, 0.70)
RED: Colour = (0.55, 0.02, 0.02)
ORANGE: Colour = (0.75, 0.20, 0.02)
YELLOW: Colour = (0.75, 0.52, 0.03)
BLACK: Colour = (0.02, 0.02, 0.02)
WOOD: Colour = (0.22, 0.13, 0.07)
CARDBOARD: Colour = (0.34, 0.23, 0.13)


@dataclass(frozen=True)
class BodyModel:
    """A unit body that a renderer scales, bends at its joints and colours per actor."""

    vertices: np.ndarray
    """(v, 3) float32 in the unit box"""
    joints: np.ndarray
    """(v,) int64, the joint each vertex hangs on"""
    pivots: np.ndarray
    """(JOINTS, 3) where the joints are, in the unit box"""
    triangles: np.ndarray
    """(t, 3) int32, wound as in `mesh.TileMesh`"""
    names: np.ndarray
    """(t,) int32 as in `mesh.TileMesh`"""
    surfaces: np.ndarray
    """(t, SURFACE_SIZE) as in `mesh.TileMesh`, without normals; a negative red is a colour code"""
    lamps: np.ndarray
    """(n, 8) float32: position and normal in the unit box, radius in metres, colour code"""


class BodyBuilder(MeshBuilder):
    """A mesh whose vertices hang on `joint`, the one set last."""

    def __init__(self) -> None:
        super().__init__()
        self.joint = RIGID
        self._joints: list[np.ndarray] = []
        self._pivots = np.zeros((JOINTS, 3))
        self._lamps: list[tuple[float, ...]] = []

    def add(self, vertices: np.ndarray, *arguments, **named) -> None:
        super().add(vertices, *arguments, **named)
        self._joints.append(np.full(len(np.asarray(vertices).reshape(-1, 3)), self.joint, np.int64))

    def hang(self, joint: int, pivot: Sequence[float]) -> None:
        """What is added from now on turns with `joint` about `pivot`."""
        self.joint = joint
        self._pivots[joint] = pivot

    def face(
        self,
        polygon: Sequence[Sequence[float]] | np.ndarray,
        colour: Colour,
        material: int = PLAIN,
        *,
        inside: Sequence[float] = (0.0, 0.0, 0.9),
    ) -> None:
        """A convex polygon that faces away from the point `inside`."""
        points = np.asarray(polygon, np.float64)
        normal = np.zeros(3)
        for a, b in itertools.pairwise(points[1:]):
            normal += np.cross(a - points[0], b - points[0])
        if normal @ (points.mean(axis=0) - np.asarray(inside)) < 0:
            points = points[::-1]
        self.add(points, [(0, k, k + 1) for k in range(1, len(points) - 1)], colour, material)

    def both_sides(self, polygon: Sequence[Sequence[float]], colour: Colour, material: int = PLAIN) -> None:
        """The polygon on the right side (y > 0) and mirrored on the left, both facing outwards."""
        for sign in (1.0, -1.0):
            points = np.asarray(polygon, np.float64) * (1.0, sign, 1.0)
            self.face(points, colour, material, inside=points.mean(axis=0) - (0.0, sign, 0.0))

    def block(
        self,
        low: Sequence[float],
        high: Sequence[float],
        colour: Colour,
        material: int = PLAIN,
    ) -> None:
        """A closed box between two corners."""
        centre = [(a + b) / 2.0 for a, b in zip(low[:2], high[:2], strict=True)]
        size = [b - a for a, b in zip(low, high, strict=True)]
        self.box((*centre, low[2]), size, colour, material, open_bottom=False)

    def limb(self, low: Sequence[float], high: Sequence[float], size: Sequence[float], colour: Colour) -> None:
        """A bar with rectangular ends of full sizes (x, y) below and (x, y) above, between two points."""
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64) / 2.0
        ends = [
            np.column_stack([square * size[2 * k : 2 * k + 2], np.zeros(4)]) + np.asarray(at)
            for k, at in enumerate((low, high))
        ]
        sides = [(k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4) for k in range(4)]
        self.convex(np.concatenate(ends), split([*sides, (4, 5, 6, 7), (3, 2, 1, 0)]), colour, PLAIN)

    def tube(self, a: Sequence[float], b: Sequence[float], size: float, colour: Colour) -> None:
        """A thin square bar between two points of the x-z plane or along y; sizes are unit lengths."""
        start, end = np.asarray(a, np.float64), np.asarray(b, np.float64)
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
        side = np.array([0.0, 1.0, 0.0]) if abs(along[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        up = np.cross(along, side)
        corners = [s * side * size + u * up * size for s, u in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        vertices = np.array([start + c for c in corners] + [end + c for c in corners])
        self.convex(vertices, split([(k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4) for k in range(4)]), colour, PLAIN)

    def disc(
        self, centre: Sequence[float], radii: Sequence[float], colour: Colour, *, sides: int = 10, material: int = PLAIN
    ) -> None:
        """A disc in the x-z plane that faces away from the body's middle plane; radii along x and z."""
        angle = (np.arange(sides) + 0.5) * 2.0 * math.pi / sides
        x, y, z = centre
        points = np.stack([x + radii[0] * np.cos(angle), np.full(sides, y), z + radii[1] * np.sin(angle)], axis=1)
        self.face(points, colour, material, inside=(x, y - math.copysign(1.0, y), z))

    def lamp(
        self, centre: Sequence[float], half: Sequence[float], code: float, *, radius_m: float = 0.08, front: bool
    ) -> None:
        """A lamp pane that faces forward or backward, with its glow; `half` sizes along y and z."""
        x, y, z = centre
        pane = [(x, y + a * half[0], z + b * half[1]) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        aim = 1.0 if front else -1.0
        self.face(pane, (code, 0.0, 0.0), EMISSIVE, inside=(x - aim, y, z))
        self._lamps.append((x + 0.01 * aim, y, z, aim, 0.0, 0.0, radius_m, code))

    def beacon(self, low: Sequence[float], high: Sequence[float], code: float, *, radius_m: float = 0.14) -> None:
        """A lamp body seen from all sides, as on emergency vehicles."""
        self.block(low, high, (code, 0.0, 0.0), EMISSIVE)
        middle = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
        for aim in (1.0, -1.0):
            self._lamps.append((*middle, aim, 0.0, 0.0, radius_m, code))

    def finish(self) -> BodyModel:
        """The model of everything added."""
        vertices, triangles = np.concatenate(self._vertices), np.concatenate(self._triangles)
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        keep = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-9
        surfaces = np.zeros((int(keep.sum()), SURFACE_SIZE), np.float32)
        surfaces[:, :3] = np.concatenate(self._colours)[keep]
        surfaces[:, 6:8] = np.concatenate(self._tags)[keep][:, [0, 2]]
        joints = np.concatenate(self._joints)
        normals = np.cross(b - a, c - a)[keep]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        planes = surfaces.copy()  # what hangs on another joint moves out of the plane
        planes[:, 3:6], planes[:, 8] = normals, joints[triangles[keep, 0]]
        return BodyModel(
            vertices=vertices.astype(np.float32),
            joints=joints,
            pivots=self._pivots,
            triangles=triangles[keep].astype(np.int32),
            names=surface_names(planes, (normals * a[keep]).sum(axis=1)),
            surfaces=surfaces,
            lamps=np.array(self._lamps, np.float32).reshape(-1, 8),
        )


def wheels(
    body: BodyBuilder,
    axles: Sequence[float],
    radius: Sequence[float],
    *,
    y: float = 0.97,
    steered: float | None = None,
    arch: Colour | None = TRIM,
) -> None:
    """Wheels at both sides of every axle; radii along x and z in unit lengths, so that scaling makes them round.

    The axle at `steered` turns with the steering; `arch` colours the wheel houses.
    """
    angle = (np.arange(10) + 0.5) * math.pi / 5.0
    for x in axles:
        for side, joint in ((-1.0, LEFT_WHEEL), (1.0, RIGHT_WHEEL)):
            if arch is not None:
                body.joint = RIGID
                body.disc((x, side * (y + 0.012), radius[1] * 1.17), [1.16 * r for r in radius], arch, sides=12)
            if x == steered:
                body.hang(joint, (x, side * 0.85, radius[1]))
            centre = (x, side * (y + 0.02), radius[1])
            body.disc(centre, radius, TYRE)
            body.disc((x, side * (y + 0.026), radius[1]), [0.62 * r for r in radius], RIM, sides=8)
            body.disc((x, side * (y + 0.032), radius[1]), [0.20 * r for r in radius], TRIM, sides=5)
            rim = np.stack([x + radius[0] * np.cos(angle), np.full(10, centre[1]), radius[1] * (1 + np.sin(angle))], 1)
            inner = rim * (1.0, 0.74, 1.0)
            for k in range(10):
                quad = (rim[k], rim[(k + 1) % 10], inner[(k + 1) % 10], inner[k])
                body.face(quad, TYRE, inside=(x, side * 0.86, radius[1]))
            body.joint = RIGID


def plate(body: BodyBuilder, x: float, z: float) -> None:
    """A number plate on the front or the back."""
    corners = [(x, a * 0.24, z + b * 0.065) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    body.face(corners, (0.6, 0.6, 0.58), inside=(x - math.copysign(1.0, x), 0.0, z))


def stripe(body: BodyBuilder, x: Sequence[float], z: Sequence[float], colour: Colour, *, y: float = 1.0) -> None:
    """A coloured band along both sides between x[0]..x[1] and z[0]..z[1]."""
    body.both_sides([(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])], colour, PAINT)
