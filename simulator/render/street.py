"""What stands between kerbs and houses: street lamps, fences, hedges, benches, bins, parked cars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

from simulator import labels
from simulator.render.lanes import MOTORWAY, RURAL_ROAD, TOWN_ROAD
from simulator.render.mesh import CONCRETE, FOLIAGE, MIDDLE, NEAR, PAINT, PLAIN, MeshBuilder
from simulator.render.models import BodyModel
from simulator.render.models.kit import BODY, DOORS, EXTRAS, SECOND
from simulator.render.passages import Passages
from simulator.render.scenery import Frontage, Obstacles, TownStyle, rectangle
from simulator.render.terrain import CELL_M, Land, runs

LAMP_SPACING_M = 24.0
LAMP_CLEARANCE_M = 0.45
LAMP_HEIGHT_M = 7.0
LAMP_RADIUS_M = 0.08
LAMP_POOL_M = 10.0
POLE = (0.13, 0.13, 0.14)
STEEL = (0.33, 0.34, 0.35)
RAIL_AWAY_M, RAIL_POST_M = 0.5, 4.0
RAIL_THICKNESS_M, RAIL_HEIGHT_M = 0.12, 0.75

FENCE_CLEARANCE_M = 0.9
FENCE_PIECE_M = 2.5
FENCE_AWAY_M = 1.4
"""How far behind a sidewalk's edge fences run."""
VERGE_FENCE_AWAY_M = 2.7
"""The same where there is no sidewalk."""

PARKED_CLEARANCE_M = 1.3
PARKED_SIZE_M = (2.3, 0.95, 0.74)
"""Half sizes of a parked car."""

PARKED_MODELS = ("sedan", "hatchback", "suv", "sports", "van", "pickup")
PARKED_PAINTS = (
    (0.30, 0.31, 0.33), (0.02, 0.02, 0.022), (0.62, 0.62, 0.62), (0.30, 0.02, 0.02), (0.02, 0.05, 0.16),
    (0.10, 0.11, 0.12), (0.05, 0.12, 0.07), (0.35, 0.30, 0.22),
)  # fmt: skip


FURNITURE_AWAY_M = 0.95
"""From the sidewalk's outer edge: people who walk there pass by."""

FURNITURE = (
    ("bin", (0.28, 0.28, 0.5), (0.05, 0.09, 0.06)), ("bench", (0.8, 0.35, 0.48), (0.2, 0.12, 0.07)),
    ("post_box", (0.26, 0.22, 0.6), (0.03, 0.07, 0.30)), ("pot", (0.5, 0.5, 0.5), (0.06, 0.13, 0.04)),
)  # fmt: skip
"""Model, half sizes in metres, colour."""

WALL_FENCE = 2
"""Kind of fence that is a wall; 0 is pickets, 1 a hedge."""

FENCE_LABELS = (labels.FENCES, labels.VEGETATION, labels.WALLS)
FENCE_THICKNESS_M, FENCE_HEIGHT_M = (0.14, 0.7, 0.35), (1.1, 1.1, 0.9)
"""Per kind."""


def add_fences(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Runs of picket fence, hedge or wall along the gardens; returns the number of pieces."""
    count = 0
    for edge in edges:
        if edge.road_type == MOTORWAY:
            continue
        cursor = rng.uniform(0.0, 12.0)
        while cursor + FENCE_PIECE_M < edge.along_m[-1]:
            if rng.random() > style.fence_share:
                cursor += rng.uniform(8.0, 24.0)
                continue
            kind = style.fence_kind if rng.random() < 0.7 else int(rng.integers(3))
            for _ in range(int(rng.integers(3, 9))):
                if cursor + FENCE_PIECE_M >= edge.along_m[-1]:
                    break
                (a, out_a), (b, out_b) = edge.at(cursor), edge.at(cursor + FENCE_PIECE_M)
                away_m = FENCE_AWAY_M if edge.sidewalk else VERGE_FENCE_AWAY_M
                ends = np.array([a[:2] + away_m * out_a, b[:2] + away_m * out_b])
                line = ends[0] + np.linspace(0.0, 1.0, 5)[:, None] * (ends[1] - ends[0])
                cursor += FENCE_PIECE_M
                if obstacles.fits(line, FENCE_CLEARANCE_M):
                    ground = obstacles.land.height_m(ends[:, 0], ends[:, 1])
                    with mesh.piece(FENCE_LABELS[kind]) as piece:
                        _add_fence_piece(mesh, ends, ground, kind)
                    count += piece.kept
            cursor += rng.uniform(3.0, 10.0)
    return count


def add_guard_rails(mesh: MeshBuilder, edges: Sequence[Frontage], land: Land, room: Passages) -> int:
    """Steel rails along the edges of motorways, not across lanes; returns the number of pieces."""
    count = 0
    up = np.array([0.0, 0.0, 1.0])
    for edge in edges:
        if edge.road_type != MOTORWAY:
            continue
        stations = np.arange(
            0.0, edge.along_m[-1] + 1e-6, edge.along_m[-1] / max(1, round(edge.along_m[-1] / RAIL_POST_M))
        )
        found = [edge.at(s) for s in stations]
        line = np.array([p + RAIL_AWAY_M * np.array([*out, 0.0]) for p, out in found])
        outward = np.array([[*out, 0.0] for _, out in found])
        probe = line + 0.8 * outward
        clear = land.clearance_at(probe[:, 0], probe[:, 1]) > 0.5
        clear &= room.beside_lanes(line)
        for first, end in runs(clear):
            rail, out = line[first:end], outward[first:end]
            for side in (-1.0, 1.0):
                face = rail + 0.04 * side * out
                mesh.strip(
                    face + 0.75 * up, face + 0.45 * up, STEEL, PLAIN, layer=MIDDLE, toward=face + side * 9.0 * out
                )
            mesh.strip(rail - 0.04 * out + 0.75 * up, rail + 0.04 * out + 0.75 * up, STEEL, PLAIN, layer=NEAR)
            for a, b in itertools.pairwise(rail):
                along, low_m = b - a, min(a[2], b[2])
                size = (float(np.linalg.norm(along[:2])), RAIL_THICKNESS_M, RAIL_HEIGHT_M + abs(along[2]))
                mesh.solid((*(a + b)[:2] / 2.0, low_m), size, math.atan2(along[1], along[0]))
            for post in rail:
                mesh.box((post[0], post[1], post[2] - 0.5), (0.12, 0.12, 1.2), STEEL, PLAIN, layer=NEAR)
            count += end - first
    return count


def _add_fence_piece(mesh: MeshBuilder, ends: np.ndarray, ground: np.ndarray, kind: int) -> None:
    middle, along = ends.mean(axis=0), ends[1] - ends[0]
    yaw, length, z = math.atan2(along[1], along[0]), float(np.linalg.norm(along)), float(ground.min())
    mesh.solid((*middle, z - 0.2), (length, FENCE_THICKNESS_M[kind], FENCE_HEIGHT_M[kind] + 0.2), yaw)
    if kind == 1:
        mesh.box((*middle, z - 0.1), (length, 0.7, 1.2), (0.05, 0.10, 0.03), FOLIAGE, yaw_rad=yaw, layer=MIDDLE)
        return
    if kind == WALL_FENCE:
        mesh.box((*middle, z - 0.2), (length, 0.25, 1.0), (0.36, 0.34, 0.31), PLAIN, yaw_rad=yaw, layer=MIDDLE)
        mesh.box((*middle, z + 0.8), (length, 0.35, 0.1), (0.42, 0.40, 0.37), PLAIN, yaw_rad=yaw, layer=NEAR)
        return
    wood = (0.55, 0.54, 0.50)
    for height in (0.35, 0.85):
        mesh.box((*middle, z + height), (length, 0.04, 0.09), wood, PLAIN, yaw_rad=yaw, layer=MIDDLE)
    for k in range(6):
        spot = ends[0] + (k + 0.5) / 6.0 * along
        mesh.box((*spot, z - 0.1), (0.14, 0.05, 1.2), wood, PLAIN, yaw_rad=yaw, layer=NEAR)
    mesh.box((*ends[0], z - 0.2), (0.14, 0.14, 1.4), wood, PLAIN, yaw_rad=yaw, layer=MIDDLE)


def add_parked_cars(
    mesh: MeshBuilder,
    edges: Sequence[Frontage],
    obstacles: Obstacles,
    style: TownStyle,
    models: dict[str, BodyModel],
    rng: np.random.Generator,
) -> int:
    """Cars on paved spots beside houses, never where a vehicle may drive; returns their number."""
    count = 0
    for edge in edges:
        if edge.road_type != TOWN_ROAD:
            continue
        cursor = rng.uniform(0.0, style.parked_spacing_m)
        while cursor < edge.along_m[-1]:
            point, out = edge.at(cursor)
            cursor += style.parked_spacing_m * rng.uniform(0.5, 1.5)
            centre = point[:2] + out * rng.uniform(4.6, 8.0)
            spot = rectangle(centre, out, 5.6, 3.0)
            if not obstacles.fits(spot, PARKED_CLEARANCE_M):
                continue
            z = float(obstacles.land.height_m(spot[:, 0], spot[:, 1]).max()) + 0.06
            yaw = math.atan2(out[1], out[0]) + (math.pi if rng.random() < 0.5 else 0.0)
            name = PARKED_MODELS[int(rng.integers(len(PARKED_MODELS)))]
            paint = PARKED_PAINTS[int(rng.integers(len(PARKED_PAINTS)))]
            size = np.array(PARKED_SIZE_M) * ((1.0, 1.0, 1.35) if name in ("van", "suv") else (1.0, 1.0, 1.0))
            with mesh.whole(labels.CAR, yaw) as car:
                add_body(mesh, models[name], np.array([*centre, z]), yaw, size, paint)
                mesh.solid((*centre, z), 2.0 * size, yaw)
            if not car.kept:
                continue
            with mesh.labelled(labels.GROUND):
                mesh.box((*centre, z - 0.5), (5.6, 3.0, 0.5), (0.17, 0.165, 0.16), CONCRETE, yaw_rad=yaw, layer=MIDDLE)
            obstacles.raise_to(spot, 1.4)
            count += 1
    return count


def add_body(
    mesh: MeshBuilder, model: BodyModel, at: np.ndarray, yaw_rad: float, half_m: np.ndarray, paint: Sequence[float]
) -> None:
    """A body model as part of the static mesh, with its lamps off."""
    shown = ~((model.joints[model.triangles[:, 0]] >= DOORS) & (model.joints[model.triangles[:, 0]] < EXTRAS + 3))
    triangles, colours = model.triangles[shown], model.surfaces[shown, :3].copy()
    codes, materials = colours[:, 0], model.surfaces[shown, 6].astype(int)
    special = codes < 0.0
    lamp = special & (codes != BODY) & (codes != SECOND)
    colours[special] = paint
    colours[codes == SECOND] = (0.6, 0.6, 0.58)
    colours[lamp] = (0.17, 0.06, 0.05)
    materials = np.where(lamp, PLAIN, materials)
    local = model.vertices * half_m
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    world = np.column_stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]])
    for material in np.unique(materials):
        chosen = materials == material
        layer = MIDDLE if material == PAINT else NEAR
        mesh.add(world + at, triangles[chosen], colours[chosen], int(material), layer=layer)


def add_furniture(
    mesh: MeshBuilder,
    edges: Sequence[Frontage],
    obstacles: Obstacles,
    models: dict[str, BodyModel],
    rng: np.random.Generator,
) -> int:
    """Bins, benches, letter boxes and plants just behind the sidewalks; returns their number."""
    count = 0
    for edge in edges:
        cursor = rng.uniform(0.0, 60.0)
        while edge.sidewalk and cursor < edge.along_m[-1]:
            point, out = edge.at(cursor)
            cursor += rng.uniform(25.0, 90.0)
            name, half, paint = FURNITURE[int(rng.integers(len(FURNITURE)))]
            foot = point[:2] + out * FURNITURE_AWAY_M
            if not obstacles.fits(foot[None], 0.3):
                continue
            at = np.array([*foot, point[2] + 0.02])
            yaw = math.atan2(out[1], out[0]) + math.pi / 2
            with mesh.whole(labels.STATIC, yaw) as piece:
                add_body(mesh, models[name], at, yaw, np.array(half), paint)
                mesh.solid(at, 2.0 * np.array(half), yaw)
            if piece.kept:
                obstacles.raise_to(foot[None], 0.8)
                count += 1
    return count


def add_street_lamps(mesh: MeshBuilder, edges: Sequence[Frontage], roadway: KDTree) -> np.ndarray:
    """Lamp posts on the kerbs with an arm over the road; returns the lamps' positions (n, 3).

    `roadway` holds points (x, y) of everything vehicles may use.
    """
    lamps: list[np.ndarray] = []
    for edge in edges:
        count = int(edge.along_m[-1] // LAMP_SPACING_M) if edge.road_type != RURAL_ROAD else 0
        for i in range(count):
            point, out = edge.at((i + 0.5) * edge.along_m[-1] / count)
            foot = point[:2] + out * 0.6
            if roadway.query(foot)[0] < LAMP_CLEARANCE_M:
                continue
            if lamps and np.linalg.norm(np.array(lamps)[:, :2] - foot, axis=1).min() < LAMP_SPACING_M * 0.5:
                continue
            with mesh.whole(labels.POLES, math.atan2(out[1], out[0])) as lamp:
                head = _add_street_lamp(mesh, foot, float(point[2]), out)
            if lamp.kept:
                lamps.append(np.array([*head, point[2] + LAMP_HEIGHT_M - 0.15]))
    return np.array(lamps).reshape(-1, 3)


def _add_street_lamp(mesh: MeshBuilder, foot: np.ndarray, ground_m: float, out: np.ndarray) -> np.ndarray:
    """A post at `foot` (x, y) with an arm against `out`; returns the place (x, y) of its lamp."""
    mesh.cylinder((*foot, ground_m - 0.4), LAMP_RADIUS_M, LAMP_HEIGHT_M + 0.4, POLE, PLAIN, sides=4)
    mesh.solid((*foot, ground_m - 0.4), (2.0 * LAMP_RADIUS_M, 2.0 * LAMP_RADIUS_M, LAMP_HEIGHT_M + 0.4))
    arm, head = foot - out * 1.2, foot - out * 2.4
    yaw, top_m = math.atan2(out[1], out[0]), ground_m + LAMP_HEIGHT_M
    mesh.box((*arm, top_m), (2.4, 0.1, 0.1), POLE, PLAIN, yaw_rad=yaw, layer=MIDDLE)
    colour = (0.9, 0.8, 0.6)
    mesh.box((*head, top_m - 0.1), (0.7, 0.25, 0.12), colour, CONCRETE, yaw_rad=yaw, layer=MIDDLE, open_bottom=False)
    return head


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
