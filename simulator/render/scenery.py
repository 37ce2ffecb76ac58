"""Buildings, trees and street lamps along the roads; different per seed, never on a lane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from simulator.render.lanes import Section
from simulator.render.mesh import CONCRETE, FACADE, FOLIAGE, MIDDLE, PLAIN, MeshBuilder
from simulator.render.terrain import CELL_M, Land

BUILDING_CLEARANCE_M = 2.0
TREE_CLEARANCE_M = 1.6
LAMP_SPACING_M = 24.0
LAMP_CLEARANCE_M = 0.45
LAMP_HEIGHT_M = 7.0
LAMP_POOL_M = 10.0

WALLS = (
    (0.42, 0.33, 0.25), (0.34, 0.17, 0.12), (0.48, 0.45, 0.40), (0.26, 0.27, 0.29), (0.55, 0.50, 0.38),
    (0.36, 0.40, 0.44), (0.50, 0.38, 0.30), (0.20, 0.22, 0.26), (0.58, 0.57, 0.55), (0.30, 0.22, 0.18),
)  # fmt: skip
ROOFS = ((0.16, 0.08, 0.06), (0.12, 0.12, 0.13), (0.20, 0.15, 0.11), (0.10, 0.13, 0.12))
LEAVES = ((0.060, 0.120, 0.030), (0.085, 0.135, 0.035), (0.045, 0.095, 0.035), (0.120, 0.130, 0.040))
TRUNK = (0.09, 0.06, 0.04)
POLE = (0.13, 0.13, 0.14)


@dataclass(frozen=True)
class TownStyle:
    """How a town looks; drawn from its seed."""

    grass: tuple[float, float, float]
    walls: np.ndarray
    gap_m: float
    setback_m: float
    tower_share: float
    house_share: float
    tree_spacing_m: float
    conifer_share: float

    @staticmethod
    def draw(rng: np.random.Generator) -> TownStyle:
        """A style from the generator."""
        dry = rng.uniform(0.0, 1.0)
        chosen = rng.permutation(len(WALLS))[:6]
        return TownStyle(
            grass=(0.070 + 0.075 * dry, 0.115 + 0.015 * dry, 0.035 + 0.01 * dry),
            walls=np.array(WALLS)[chosen],
            gap_m=float(rng.uniform(1.5, 12.0)),
            setback_m=float(rng.uniform(2.5, 7.0)),
            tower_share=float(rng.uniform(0.0, 0.35)),
            house_share=float(rng.uniform(0.1, 0.7)),
            tree_spacing_m=float(rng.uniform(10.0, 26.0)),
            conifer_share=float(rng.uniform(0.0, 0.6)),
        )


class Obstacles:
    """Heights above ground of what stands on the land, for spacing and for cast shadows."""

    def __init__(self, land: Land) -> None:
        self.land = land
        self.height_m = np.zeros(land.clearance_m.shape, np.float32)

    def fits(self, points: np.ndarray, clearance_m: float) -> bool:
        """Whether all points (n, 2) are far enough from lanes and not built over."""
        if (self.land.clearance_at(points[:, 0], points[:, 1]) < clearance_m).any():
            return False
        i, j = self._cells(points)
        return not self.height_m[i, j].any()

    def raise_to(self, points: np.ndarray, height_m: float) -> None:
        """Set at least this height in the cells of the points."""
        i, j = self._cells(points)
        np.maximum.at(self.height_m, (i, j), np.float32(height_m))

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = np.floor((points[:, :2] - self.land.origin_m) / CELL_M).astype(int)
        shape = self.land.clearance_m.shape
        return np.clip(cells[:, 0], 0, shape[0] - 1), np.clip(cells[:, 1], 0, shape[1] - 1)


@dataclass(frozen=True)
class Frontage:
    """The outer edge of a road side, with unit vectors pointing away from the road."""

    points: np.ndarray
    outward: np.ndarray
    along_m: np.ndarray

    def at(self, along_m: float) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and outward direction (2,) at a distance along the edge."""
        point = np.array([np.interp(along_m, self.along_m, self.points[:, k]) for k in range(3)])
        out = np.array([np.interp(along_m, self.along_m, self.outward[:, k]) for k in range(2)])
        return point, out / max(float(np.linalg.norm(out)), 1e-9)


def frontages(sections: Sequence[Section]) -> list[Frontage]:
    """Both outer edges of every section outside junctions."""
    found = []
    for section in sections:
        if not section.in_junction:
            found += [_frontage(section, 0, 1), _frontage(section, -1, -2)]
    return found


def kerbs(sections: Sequence[Section]) -> list[Frontage]:
    """The edges beside the outermost lanes that are not sidewalks, outside junctions."""
    found = []
    for section in sections:
        paved = [k for k, kind in enumerate(section.lane_types) if kind != "sidewalk"]
        if paved and not section.in_junction:
            found += [_frontage(section, paved[0], paved[0] + 1), _frontage(section, paved[-1] + 1, paved[-1])]
    return found


def _frontage(section: Section, edge: int, inner: int) -> Frontage:
    points = section.boundaries[edge]
    out = (points - section.boundaries[inner])[:, :2]
    out = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    steps = np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1)
    return Frontage(points, out, np.r_[0.0, np.cumsum(steps)])


# --- buildings ----------------------------------------------------------------------------------------------------


def add_buildings(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Rows of buildings along the roads and a higher second row behind; returns their number."""
    count = 0
    for row, (setback, spread) in enumerate(((style.setback_m, 5.0), (style.setback_m + 26.0, 18.0))):
        for edge in edges:
            cursor = rng.uniform(0.0, 8.0)
            while cursor < edge.along_m[-1]:
                width = rng.uniform(8.0, 22.0)
                depth = rng.uniform(8.0, 17.0)
                point, out = edge.at(cursor + width / 2.0)
                centre = point[:2] + out * (setback + rng.uniform(0.0, spread) + depth / 2.0)
                placed = _add_building(mesh, obstacles, centre, out, (depth, width), row, style, rng)
                count += placed
                cursor += (width + rng.exponential(style.gap_m)) if placed else 6.0
    return count


def _add_building(
    mesh: MeshBuilder,
    obstacles: Obstacles,
    centre: np.ndarray,
    out: np.ndarray,
    size: tuple[float, float],
    row: int,
    style: TownStyle,
    rng: np.random.Generator,
) -> bool:
    depth, width = size
    if obstacles.land.clearance_at(centre[0], centre[1]) < min(depth, width) / 2.0 + BUILDING_CLEARANCE_M:
        return False
    footprint = _rectangle(centre, out, depth + 2.0, width + 2.0)
    if not obstacles.fits(footprint, BUILDING_CLEARANCE_M):
        return False
    draw = rng.random()
    wall = style.walls[rng.integers(len(style.walls))] * rng.uniform(0.8, 1.15)
    ground = float(obstacles.land.height_m(footprint[:, 0], footprint[:, 1]).min())
    yaw = math.atan2(out[1], out[0])
    house = draw < style.house_share and row == 0
    if house:
        height = rng.uniform(4.5, 7.5)
    elif draw > 1.0 - style.tower_share - 0.2 * row:
        height = rng.uniform(24.0, 60.0)
    else:
        height = rng.uniform(8.0, 22.0)
    facade = 3 if house else int(rng.integers(3))
    flat_roof = (ROOFS[int(rng.integers(len(ROOFS)))], PLAIN)
    mesh.box(
        (*centre, ground - 0.5), (depth, width, height + 0.5), wall, FACADE, yaw_rad=yaw, style=facade, roof=flat_roof
    )
    if house:
        _add_gable(mesh, centre, ground + height, yaw, depth, width, ROOFS[int(rng.integers(len(ROOFS)))])
    elif rng.random() < 0.6:
        box = (*(centre + rng.uniform(-1.5, 1.5, 2)), ground + height)
        mesh.box(box, (depth * 0.4, width * 0.35, rng.uniform(1.5, 4.0)), wall * 0.8, PLAIN, yaw_rad=yaw, layer=MIDDLE)
    if not house and rng.random() < 0.7:
        front = centre - out * (depth / 2.0 + 0.1)
        mesh.box(
            (*front, ground - 0.5), (0.3, width * 0.98, 3.6), wall * 0.5, FACADE, yaw_rad=yaw, style=1, layer=MIDDLE
        )
    obstacles.raise_to(_rectangle(centre, out, depth, width), height)
    return True


def _rectangle(centre: np.ndarray, out: np.ndarray, depth: float, width: float) -> np.ndarray:
    """Points (n, 2) that cover a turned rectangle at least every 0.8 m."""
    u = np.linspace(-depth / 2.0, depth / 2.0, max(2, math.ceil(depth / 0.8)))
    v = np.linspace(-width / 2.0, width / 2.0, max(2, math.ceil(width / 0.8)))
    across = np.array([-out[1], out[0]])
    return (centre + u[:, None, None] * out + v[None, :, None] * across).reshape(-1, 2)


def _add_gable(
    mesh: MeshBuilder, centre: np.ndarray, z: float, yaw: float, depth: float, width: float, colour: Sequence[float]
) -> None:
    a, b, rise = depth / 2.0 + 0.4, width / 2.0 + 0.4, 0.32 * depth
    local = np.array([(-a, -b, 0), (a, -b, 0), (a, b, 0), (-a, b, 0), (0, -b, rise), (0, b, rise)], float)
    cos, sin = math.cos(yaw), math.sin(yaw)
    world = local.copy()
    world[:, 0] = centre[0] + local[:, 0] * cos - local[:, 1] * sin
    world[:, 1] = centre[1] + local[:, 0] * sin + local[:, 1] * cos
    world[:, 2] += z
    mesh.convex(world, [(0, 4, 5), (0, 5, 3), (1, 4, 5), (1, 5, 2), (0, 1, 4), (3, 2, 5)], colour, PLAIN)


# --- trees and lamps ----------------------------------------------------------------------------------------------


def add_trees(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Trees near the road edges and scattered behind; returns their number."""
    count = 0
    for edge in edges:
        cursor = rng.uniform(0.0, style.tree_spacing_m)
        while cursor < edge.along_m[-1]:
            point, out = edge.at(cursor)
            near = rng.random() < 0.7
            xy = point[:2] + out * (rng.uniform(2.2, 5.0) if near else rng.uniform(6.0, 40.0))
            cursor += style.tree_spacing_m * rng.uniform(0.5, 1.5)
            if obstacles.fits(xy[None] + _CROSS, TREE_CLEARANCE_M):
                z = float(obstacles.land.height_m(xy[0], xy[1])[0])
                _add_tree(mesh, xy, z, rng.random() < style.conifer_share, rng)
                obstacles.raise_to(xy[None] + _CROSS * 1.4, 4.5)
                count += 1
    return count


_CROSS = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], float)


def _add_tree(mesh: MeshBuilder, xy: np.ndarray, z: float, conifer: bool, rng: np.random.Generator) -> None:
    leaf = np.array(LEAVES[int(rng.integers(len(LEAVES)))]) * rng.uniform(0.75, 1.25)
    scale = rng.uniform(0.75, 1.45)
    trunk = 1.2 * scale if conifer else 2.2 * scale
    mesh.cylinder((*xy, z - 0.3), 0.16 * scale, trunk + 0.8, TRUNK, PLAIN, sides=4)
    angle = rng.uniform(0.0, 6.28) + np.arange(6) * math.pi / 3.0
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(6)], axis=1) * rng.uniform(0.8, 1.2, (6, 1))
    if conifer:
        vertices = np.concatenate([circle * 1.7 * scale, [[0, 0, 6.2 * scale]]])
        faces = [(i, (i + 1) % 6, 6) for i in range(6)] + [(0, i + 1, i) for i in range(1, 5)]
    else:
        wide = circle * 2.1 * scale + [0, 0, 1.5 * scale]
        bottom, top = circle * 1.0 * scale, circle * 1.2 * scale + [0, 0, 3.3 * scale]
        vertices = np.concatenate([bottom, wide, top, [[0, 0, 3.9 * scale], [0, 0, -0.2]]])
        faces = [(18, (i + 1) % 6 + 12, i + 12) for i in range(6)] + [(19, i, (i + 1) % 6) for i in range(6)]
        for low in (0, 6):
            for i in range(6):
                j = (i + 1) % 6
                faces += [(low + i, low + j, low + 6 + j), (low + i, low + 6 + j, low + 6 + i)]
    shades = leaf * rng.uniform(0.8, 1.2, (len(faces), 1))
    mesh.convex(vertices + np.array([*xy, z + trunk]), faces, shades, FOLIAGE)


def add_street_lamps(mesh: MeshBuilder, edges: Sequence[Frontage], roadway: KDTree) -> np.ndarray:
    """Lamp posts on the kerbs with an arm over the road; returns the lamps' positions (n, 3).

    `roadway` holds points (x, y) of everything vehicles may use.
    """
    lamps: list[np.ndarray] = []
    for edge in edges:
        count = int(edge.along_m[-1] // LAMP_SPACING_M)
        for i in range(count):
            point, out = edge.at((i + 0.5) * edge.along_m[-1] / count)
            foot = point[:2] + out * 0.6
            if roadway.query(foot)[0] < LAMP_CLEARANCE_M:
                continue
            if lamps and np.linalg.norm(np.array(lamps)[:, :2] - foot, axis=1).min() < LAMP_SPACING_M * 0.5:
                continue
            mesh.cylinder((*foot, point[2] - 0.4), 0.08, LAMP_HEIGHT_M + 0.4, POLE, PLAIN, sides=4)
            arm = foot - out * 1.2
            yaw = math.atan2(out[1], out[0])
            mesh.box((*arm, point[2] + LAMP_HEIGHT_M), (2.4, 0.1, 0.1), POLE, PLAIN, yaw_rad=yaw, layer=MIDDLE)
            head = foot - out * 2.4
            mesh.box(
                (*head, point[2] + LAMP_HEIGHT_M - 0.1),
                (0.7, 0.25, 0.12),
                (0.9, 0.8, 0.6),
                CONCRETE,
                yaw_rad=yaw,
                layer=MIDDLE,
                open_bottom=False,
            )
            lamps.append(np.array([*head, point[2] + LAMP_HEIGHT_M - 0.15]))
    return np.array(lamps).reshape(-1, 3)


def lamp_pools(lamps: np.ndarray, land: Land) -> np.ndarray:
    """(nx, ny) uint8 light of the street lamps on the ground."""
    nx, ny = land.clearance_m.shape
    pools = np.zeros((nx, ny), np.float32)
    reach = math.ceil(2.5 * LAMP_POOL_M / CELL_M)
    span = np.arange(-reach, reach + 1)
    for x, y, _ in lamps:
        i, j = (int((v - o) / CELL_M) for v, o in zip((x, y), land.origin_m, strict=True))
        rows, columns = i + span, j + span
        rows, columns = (
            rows[(rows >= 0) & (rows < nx)],
            columns[(columns >= 0) & (columns < ny)],
        )
        square = ((rows - i) ** 2)[:, None] + ((columns - j) ** 2)[None]
        pools[np.ix_(rows, columns)] += np.exp(-square * CELL_M**2 / LAMP_POOL_M**2)
    return (255.0 * np.clip(pools, 0.0, 1.0)).astype(np.uint8)
