"""Buildings along the roads: houses with gardens, apartment blocks with shops, offices, halls, towers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from simulator import labels
from simulator.render.lanes import MOTORWAY, RURAL_ROAD, TOWN_ROAD
from simulator.render.mesh import (
    BLANK,
    BRICK_WALL,
    COTTAGE,
    CURTAIN,
    FACADE,
    FAR,
    MIDDLE,
    NEAR,
    PANEL_WALL,
    PLAIN,
    PLASTER_WALL,
    PUNCHED,
    RIBBON,
    ROOF,
    SHOP,
    WALL,
    WALL_STEP,
    Colour,
    MeshBuilder,
)
from simulator.render.scenery import Frontage, Obstacles, TownStyle, rectangle

BUILDING_CLEARANCE_M = 2.0
SHOP_STOREY_M = 3.9
PARAPET_M = 0.7
PODIUM_STEP_M = 0.3
BUILT_SHARE = {TOWN_ROAD: (1.0, 1.0), RURAL_ROAD: (0.12, 0.06), MOTORWAY: (0.0, 0.0)}
"""How often a place along a road is built on, in the first and in the second row."""

MOTORWAY_DISTANCE_M = 70.0
"""Roads in town have no buildings nearer to a motorway than this."""

FOOT_M = 0.6
"""Walls reach this far below the lowest corner of the ground."""

_BAY_M = (2.6, 3.2, 1.7, 3.6, 4.2, 4.0)
_STOREY_M = (3.1, 3.3, 3.5, 3.0, SHOP_STOREY_M, 3.5)
"""Usual window pitch and storey height per way of setting windows."""

FLAT_ROOF = (0.13, 0.13, 0.135)
STONE = (0.40, 0.39, 0.37)


@dataclass(frozen=True)
class Plot:
    """Where a building stands: its middle, the direction away from the road, depth along it, width, ground height."""

    centre: np.ndarray
    out: np.ndarray
    depth_m: float
    width_m: float
    ground_m: float

    @property
    def yaw_rad(self) -> float:
        """Heading of the direction away from the road."""
        return math.atan2(self.out[1], self.out[0])

    def corners(self, inset_m: float = 0.0) -> np.ndarray:
        """(4, 2) around the plot, so that the outside lies to the right of each side in CARLA's frame."""
        a, b = self.depth_m / 2.0 - inset_m, self.width_m / 2.0 - inset_m
        across = np.array([-self.out[1], self.out[0]])
        return np.array(
            [self.centre + i * a * self.out + j * b * across for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        )


def add_buildings(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Rows of buildings along the roads and a higher second row behind; returns their number."""
    count = 0
    beside = [edge.points[:, :2] for edge in edges if edge.road_type == MOTORWAY]
    motorway = KDTree(np.concatenate(beside)) if beside else None
    for row, (setback, spread) in enumerate(((style.setback_m, 5.0), (style.setback_m + 26.0, 18.0))):
        for edge in edges:
            cursor = rng.uniform(0.0, 8.0)
            while cursor < edge.along_m[-1]:
                if rng.random() > BUILT_SHARE[edge.road_type][row]:
                    cursor += rng.uniform(10.0, 40.0)
                    continue
                width, depth = rng.uniform(8.0, 22.0), rng.uniform(8.0, 17.0)
                point, out = edge.at(cursor + width / 2.0)
                centre = point[:2] + out * (setback + rng.uniform(0.0, spread) + depth / 2.0)
                if motorway and edge.road_type != MOTORWAY and motorway.query(centre)[0] < MOTORWAY_DISTANCE_M:
                    cursor += 12.0
                    continue
                placed = _add_building(mesh, obstacles, (centre, out, depth, width), row, style, rng)
                count += placed
                cursor += (width + rng.exponential(style.gap_m)) if placed else 6.0
    return count


def _add_building(
    mesh: MeshBuilder,
    obstacles: Obstacles,
    place: tuple[np.ndarray, np.ndarray, float, float],
    row: int,
    style: TownStyle,
    rng: np.random.Generator,
) -> bool:
    centre, out, depth, width = place
    if obstacles.land.clearance_at(centre[0], centre[1]) < min(depth, width) / 2.0 + BUILDING_CLEARANCE_M:
        return False
    footprint = rectangle(centre, out, depth + 2.0, width + 2.0)
    if not obstacles.fits(footprint, BUILDING_CLEARANCE_M):
        return False
    plot = Plot(centre, out, depth, width, float(obstacles.land.height_m(footprint[:, 0], footprint[:, 1]).min()))
    draw = rng.random()
    with mesh.whole(labels.BUILDINGS, plot.yaw_rad) as building:
        if draw < style.house_share and row == 0:
            height = _add_house(mesh, plot, style, rng)
        elif draw > 1.0 - style.tower_share - 0.2 * row:
            height = _add_tower(mesh, plot, style, rng)
        elif rng.random() < 0.12:
            height = _add_hall(mesh, plot, style, rng)
        else:
            height = _add_block(mesh, plot, style, rng)
        foot = (*plot.centre, plot.ground_m - FOOT_M)
        mesh.solid(foot, (plot.depth_m, plot.width_m, height + FOOT_M), plot.yaw_rad)
    if building.kept:
        obstacles.raise_to(rectangle(centre, out, depth, width), height)
    return building.kept


def add_walls(  # noqa: PLR0913 - a wall has that many properties
    mesh: MeshBuilder,
    corners: np.ndarray,
    base_m: float,
    height_m: float,
    colour: Colour,
    windows: int,
    wall: int = PLASTER_WALL,
    *,
    foot_m: float = 0.0,
    layer: int = FAR,
) -> None:
    """Walls around a convex outline (n, 2) with a whole number of bays per side; they reach `foot_m` below the base."""
    middle = corners.mean(axis=0)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        width = float(np.linalg.norm(b - a))
        normal = np.array([(b - a)[1], -(b - a)[0]]) / width
        if normal @ ((a + b) / 2.0 - middle) < 0:
            normal = -normal
        along = np.array([-normal[1], normal[0]])
        start = min(float(along @ a), float(along @ b))
        pitch = width / max(1, round(width / _BAY_M[windows]))
        quad = np.array(
            [(*a, base_m - foot_m), (*b, base_m - foot_m), (*b, base_m + height_m), (*a, base_m + height_m)]
        )
        if np.cross(quad[1] - quad[0], quad[2] - quad[0])[:2] @ normal < 0:
            quad = quad[::-1]
        material = WALL if windows == BLANK else FACADE
        frame = (base_m, start, pitch, _STOREY_M[windows])
        mesh.add(
            quad, [(0, 1, 2), (0, 2, 3)], colour, material, layer=layer, style=windows + WALL_STEP * wall, frame=frame
        )


def _flat(mesh: MeshBuilder, corners: np.ndarray, z: float, colour: Colour) -> None:
    mesh.quads(np.column_stack([corners, np.full(len(corners), z)])[None], colour, PLAIN)


def _wall(style: TownStyle, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A wall's colour and what it is made of."""
    if rng.random() < style.brick_share:
        return np.array([0.30, 0.13, 0.085]) * rng.uniform(0.7, 1.35) + rng.uniform(0.0, 0.05, 3), BRICK_WALL
    colour = style.walls[rng.integers(len(style.walls))] * rng.uniform(0.8, 1.15)
    return colour, PANEL_WALL if rng.random() < 0.2 else PLASTER_WALL


def _box(
    mesh: MeshBuilder, plot: Plot, local: Sequence[float], size: Sequence[float], colour: Colour, *, layer: int
) -> None:
    """A box at (away from the road, across, up) of the plot's middle on the ground."""
    across = np.array([-plot.out[1], plot.out[0]])
    xy = plot.centre + local[0] * plot.out + local[1] * across
    mesh.box((*xy, plot.ground_m + local[2]), size, colour, PLAIN, yaw_rad=plot.yaw_rad, layer=layer, open_bottom=False)


def _add_house(mesh: MeshBuilder, plot: Plot, style: TownStyle, rng: np.random.Generator) -> float:
    """One or two storeys under a gable or a hipped roof, with chimney and porch."""
    colour, wall = _wall(style, rng)
    storeys = 1 if rng.random() < 0.35 else 2
    height = 3.0 * storeys + 0.2
    add_walls(mesh, plot.corners(), plot.ground_m, height, colour, COTTAGE, wall, foot_m=FOOT_M)
    roof = style.roofs[rng.integers(len(style.roofs))] * rng.uniform(0.8, 1.2)
    rise = rng.uniform(0.24, 0.42) * min(plot.depth_m, plot.width_m)
    _add_roof(mesh, plot, height, rise, rng.random() < 0.4, roof, colour)
    if rng.random() < 0.7:
        chimney = (rng.uniform(-0.2, 0.2) * plot.depth_m, rng.uniform(-0.3, 0.3) * plot.width_m, height)
        _box(mesh, plot, chimney, (0.7, 0.7, rise + 0.8), (0.24, 0.11, 0.08), layer=MIDDLE)
    if rng.random() < 0.5:
        front = -plot.depth_m / 2.0 - 0.8
        _box(mesh, plot, (front, 0.0, 2.4), (1.6, 3.4, 0.18), roof, layer=MIDDLE)
        for side in (-1.5, 1.5):
            _box(mesh, plot, (front - 0.6, side, 0.0), (0.14, 0.14, 2.4), (0.6, 0.6, 0.58), layer=NEAR)
    return height + 0.5 * rise


def _add_roof(
    mesh: MeshBuilder,
    plot: Plot,
    height_m: float,
    rise_m: float,
    hipped: bool,
    colour: Colour,
    wall_colour: Colour,
) -> None:
    """A roof with its ridge along the longer side."""
    long_across = plot.width_m >= plot.depth_m
    a, b = plot.depth_m / 2.0 + 0.4, plot.width_m / 2.0 + 0.4
    inset = min(a, b) if hipped else 0.0
    ridge = [(0.0, -b + inset), (0.0, b - inset)] if long_across else [(-a + inset, 0.0), (a - inset, 0.0)]
    local = [(-a, -b, 0.0), (a, -b, 0.0), (a, b, 0.0), (-a, b, 0.0), *[(x, y, rise_m) for x, y in ridge]]
    across = np.array([-plot.out[1], plot.out[0]])
    world = np.array([(*(plot.centre + x * plot.out + y * across), plot.ground_m + height_m + z) for x, y, z in local])
    slopes = (
        [(0, 4, 5), (0, 5, 3), (1, 4, 5), (1, 5, 2)] if long_across else [(0, 1, 5), (0, 5, 4), (3, 2, 5), (3, 5, 4)]
    )
    ends = [(0, 1, 4), (3, 2, 5)] if long_across else [(0, 3, 4), (1, 2, 5)]
    mesh.convex(world, slopes, colour, ROOF)
    mesh.convex(world, ends, colour if hipped else wall_colour, ROOF if hipped else PLAIN)
    mesh.convex(world, [(0, 1, 2), (0, 2, 3)], (0.2, 0.18, 0.16), PLAIN, layer=MIDDLE)


def _add_block(mesh: MeshBuilder, plot: Plot, style: TownStyle, rng: np.random.Generator) -> float:
    """Flats or offices of two to six storeys, often above shops."""
    colour, wall = _wall(style, rng)
    windows = int(rng.choice([PUNCHED, RIBBON, CURTAIN], p=[0.6, 0.25, 0.15]))
    storeys = int(rng.integers(2, 7))
    base = plot.ground_m
    if rng.random() < style.shop_share:
        shop = colour * rng.uniform(0.45, 0.8)
        add_walls(mesh, plot.corners(-0.06), base, SHOP_STOREY_M, shop, SHOP, foot_m=FOOT_M)
        front = -plot.depth_m / 2.0 - 0.55
        if rng.random() < 0.6:
            awning = np.array(
                [(0.45, 0.05, 0.04), (0.05, 0.16, 0.08), (0.06, 0.09, 0.25), (0.5, 0.45, 0.36)][rng.integers(4)]
            )
            _box(mesh, plot, (front, 0.0, 2.9), (1.1, plot.width_m * 0.8, 0.14), awning, layer=MIDDLE)
        base += SHOP_STOREY_M
    height = storeys * _STOREY_M[windows]
    foot = FOOT_M if base == plot.ground_m else 0.0
    add_walls(mesh, plot.corners(), base, height + PARAPET_M, colour, windows, wall, foot_m=foot)
    top = base + height + 0.1
    _flat(mesh, plot.corners(0.25), top, FLAT_ROOF)
    ledge = plot.corners(-0.18)
    add_walls(mesh, ledge, base + height + PARAPET_M - 0.3, 0.4, colour * 0.85, BLANK, layer=MIDDLE)
    _flat(mesh, ledge, base + height + PARAPET_M + 0.1, STONE)
    if windows == PUNCHED and rng.random() < style.balcony_share:
        _add_balconies(mesh, plot, base, storeys, colour)
    if rng.random() < 0.6:
        spot = (rng.uniform(-0.2, 0.2) * plot.depth_m, rng.uniform(-0.2, 0.2) * plot.width_m, top - plot.ground_m)
        _box(
            mesh,
            plot,
            spot,
            (plot.depth_m * 0.35, plot.width_m * 0.3, rng.uniform(1.6, 3.2)),
            colour * 0.8,
            layer=MIDDLE,
        )
    return top - plot.ground_m


def _add_balconies(mesh: MeshBuilder, plot: Plot, base: float, storeys: int, colour: np.ndarray) -> None:
    bays = max(1, round(plot.width_m / _BAY_M[PUNCHED]))
    pitch = plot.width_m / bays
    front = -plot.depth_m / 2.0 - 0.6
    for storey in range(storeys):
        for bay in range(1, bays, 2):
            z = base - plot.ground_m + storey * _STOREY_M[PUNCHED] + 0.5
            _box(
                mesh,
                plot,
                (front, (bay + 0.5) * pitch - plot.width_m / 2.0, z),
                (1.2, pitch * 0.9, 1.0),
                colour * 0.9,
                layer=MIDDLE,
            )


def _add_tower(mesh: MeshBuilder, plot: Plot, style: TownStyle, rng: np.random.Generator) -> float:
    """A high-rise on a podium, sometimes stepped back."""
    colour, _ = _wall(style, rng)
    windows = int(rng.choice([PUNCHED, RIBBON, CURTAIN]))
    podium = SHOP_STOREY_M * int(rng.integers(1, 3))
    step = PODIUM_STEP_M
    add_walls(mesh, plot.corners(-step), plot.ground_m, podium, colour * 0.6, SHOP, PANEL_WALL, foot_m=FOOT_M)
    _flat(mesh, plot.corners(-step), plot.ground_m + podium, FLAT_ROOF)
    base = (plot.depth_m + 2.0 * step, plot.width_m + 2.0 * step, podium + FOOT_M)
    mesh.solid((*plot.centre, plot.ground_m - FOOT_M), base, plot.yaw_rad)
    z, inset = plot.ground_m + podium, 0.4
    for part in range(int(rng.integers(1, 3))):
        storeys = int(rng.integers(6, 15)) if part == 0 else int(rng.integers(3, 8))
        height = storeys * _STOREY_M[windows] + PARAPET_M
        add_walls(mesh, plot.corners(inset), z, height, colour, windows, PANEL_WALL)
        z += height
        _flat(mesh, plot.corners(inset), z, FLAT_ROOF)
        inset += 1.6
    _box(
        mesh,
        plot,
        (0.0, 0.0, z - plot.ground_m),
        (plot.depth_m * 0.3, plot.width_m * 0.3, 3.0),
        colour * 0.7,
        layer=FAR,
    )
    return z - plot.ground_m


def _add_hall(mesh: MeshBuilder, plot: Plot, style: TownStyle, rng: np.random.Generator) -> float:
    """A windowless hall with a gate: a garage, a supermarket, a workshop."""
    colour, _ = _wall(style, rng)
    height = rng.uniform(4.5, 8.0)
    add_walls(mesh, plot.corners(), plot.ground_m, height, colour, BLANK, PANEL_WALL, foot_m=FOOT_M)
    _flat(mesh, plot.corners(), plot.ground_m + height, FLAT_ROOF)
    front = -plot.depth_m / 2.0 - 0.05
    gate = min(4.0, 0.4 * plot.width_m)
    _box(
        mesh,
        plot,
        (front, -0.2 * plot.width_m, 0.0),
        (0.12, gate, min(3.6, height - 0.8)),
        (0.14, 0.15, 0.17),
        layer=MIDDLE,
    )
    sign = np.array([(0.5, 0.06, 0.05), (0.05, 0.12, 0.4), (0.6, 0.42, 0.05)][rng.integers(3)])
    _box(mesh, plot, (front, 0.15 * plot.width_m, height - 1.2), (0.16, 0.4 * plot.width_m, 0.9), sign, layer=MIDDLE)
    return height
