"""Meshes of what lies on the ground along the lanes: surfaces, kerbs, markings, junction fill, crosswalks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import carla
import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from simulator.render.lanes import DRIVABLE, PAVED, RAISED, RoadMark, Section
from simulator.render.mesh import ASPHALT, CONCRETE, GRASS, MARKING, MIDDLE, MeshBuilder
from simulator.render.terrain import Land, runs

KERB_M = 0.13
MARK_LIFT_M = 0.02
"""Paint floats this far above the surface so that the depth test puts it in front."""

_MARK_LIFT = np.array([0.0, 0.0, MARK_LIFT_M])
_KERB_LIFT = np.array([0.0, 0.0, 0.004])

DASH_M, GAP_M = 3.0, 4.0
ZEBRA_STRIPE_M, ZEBRA_GAP_M = 0.5, 0.5
STALL_M = 6.0
FILL_CELL_M = 0.5
FILL_MARGIN_M, FILL_SINK_M = 6.0, 0.05
FILL_CLOSING_CELLS = 3
FILL_RECTANGLE_CELLS = 12
FILL_MAXIMUM_M2 = 500.0
"""Holes between junction lanes up to this size are paved; larger ones (roundabout islands) stay green."""

WHITE = (0.80, 0.80, 0.78)
YELLOW = (0.72, 0.48, 0.07)
ASPHALT_COLOUR = (0.070, 0.070, 0.074)
PARKING_COLOUR = (0.092, 0.090, 0.088)
BIKE_LANE_COLOUR = (0.150, 0.062, 0.048)
SHOULDER_COLOUR = (0.088, 0.086, 0.082)
SIDEWALK_COLOUR = (0.30, 0.285, 0.26)
KERB_COLOUR = (0.38, 0.375, 0.36)
MEDIAN_COLOUR = (0.22, 0.24, 0.15)


def point_index(points: np.ndarray) -> KDTree | None:
    """Nearest-neighbour index over the (x, y) of points (n, 3), None without points."""
    return KDTree(points[:, :2]) if len(points) else None


def add_surfaces(
    mesh: MeshBuilder, sections: Sequence[Section], covered: KDTree | None, brightness: float = 1.0
) -> None:
    """Lanes, raised sidewalks and medians with their kerbs. Sidewalks that cross a junction's lanes are left out.

    `brightness` is that of the asphalt. `covered` holds points (x, y) of the drivable surface inside junctions.
    """
    for section in sections:
        for k, kind in enumerate(section.lane_types):
            a, b = section.boundaries[k], section.boundaries[k + 1]
            if kind in RAISED:
                _add_raised(mesh, section, k, covered)
            elif kind in DRIVABLE:
                colour = np.array(PARKING_COLOUR if kind == "parking" else ASPHALT_COLOUR) * brightness
                mesh.strip(a, b, colour, ASPHALT)
            elif kind == "biking":
                mesh.strip(a, b, np.array(BIKE_LANE_COLOUR) * brightness, ASPHALT)
            elif kind == "shoulder":
                wide = float(np.median(np.linalg.norm((b - a)[:, :2], axis=1))) > 0.6
                mesh.strip(a, b, SHOULDER_COLOUR if wide else KERB_COLOUR, ASPHALT if wide else CONCRETE)
            elif not section.in_junction:
                mesh.strip(a, b, MEDIAN_COLOUR, GRASS)


def _add_raised(mesh: MeshBuilder, section: Section, k: int, covered: KDTree | None) -> None:
    a, b = section.boundaries[k], section.boundaries[k + 1]
    if section.in_junction and covered is not None:
        distance, _ = covered.query(((a + b) / 2.0)[:, :2])
        stretches = runs(distance > 1.0)
    else:
        stretches = [(0, len(a))]
    lift = np.array([0.0, 0.0, KERB_M])
    sidewalk = section.lane_types[k] == "sidewalk"
    for first, end in stretches:
        low_a, low_b = a[first:end], b[first:end]
        top_a, top_b = low_a + lift, low_b + lift
        mesh.strip(top_a, top_b, SIDEWALK_COLOUR if sidewalk else MEDIAN_COLOUR, CONCRETE if sidewalk else GRASS)
        for neighbour, low, top, other in ((k - 1, low_a, top_a, low_b), (k + 1, low_b, top_b, low_a)):
            if 0 <= neighbour < len(section.lane_types) and section.lane_types[neighbour] in RAISED:
                continue
            mesh.strip(top, low, KERB_COLOUR, CONCRETE, layer=MIDDLE, toward=2.0 * low - other)
            lip = top + (other - low) * (0.15 / max(float(np.linalg.norm((other - low)[0])), 0.15))
            mesh.strip(top + _KERB_LIFT, lip + _KERB_LIFT, KERB_COLOUR, CONCRETE, layer=MIDDLE)


# --- markings -----------------------------------------------------------------------------------------------------


def add_markings(mesh: MeshBuilder, sections: Sequence[Section]) -> None:
    """Lane lines from the road marks, and stall ticks in parking lanes."""
    for section in sections:
        if section.in_junction:
            continue
        for boundary, marks in zip(section.boundaries, section.marks, strict=True):
            for mark in marks:
                _add_mark(mesh, section.s_m, boundary, mark)
        for k, kind in enumerate(section.lane_types):
            if kind == "parking":
                _add_stalls(mesh, section, k)


def _add_mark(mesh: MeshBuilder, s_m: np.ndarray, line: np.ndarray, mark: RoadMark) -> None:
    colour = YELLOW if mark.yellow else WHITE
    kinds = mark.kind.split()
    for i, kind in enumerate(kinds):
        offset_m = 0.0 if len(kinds) == 1 else (i - 0.5) * 2.0 * mark.width_m
        for a, b in _dashes(kind, max(mark.start_s_m, s_m[0]), min(mark.end_s_m, s_m[-1])):
            inside = s_m[(s_m > a) & (s_m < b)]
            centre = _interpolate(np.r_[a, inside, b], s_m, line)
            side = _side(centre)
            left, right = (centre + side * (offset_m + d) + _MARK_LIFT for d in _half(mark.width_m))
            mesh.strip(left, right, colour, MARKING, layer=MIDDLE)


def _half(width_m: float) -> tuple[float, float]:
    return -width_m / 2.0, width_m / 2.0


def _dashes(kind: str, start_m: float, end_m: float) -> Iterable[tuple[float, float]]:
    if end_m - start_m < 0.3:
        return []
    if kind not in ("broken", "botts"):
        return [(start_m, end_m)]
    count = max(1, math.floor((end_m - start_m) / (DASH_M + GAP_M)))
    period = (end_m - start_m) / count
    first = start_m + (period - min(DASH_M, period / 2.0)) / 2.0
    return [(first + i * period, first + i * period + min(DASH_M, period / 2.0)) for i in range(count)]


def _interpolate(at: np.ndarray, s_m: np.ndarray, line: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(at, s_m, line[:, i]) for i in range(3)], axis=1)


def _side(line: np.ndarray) -> np.ndarray:
    """Horizontal unit vectors (n, 3) across a polyline."""
    along = np.gradient(line[:, :2], axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return np.stack([-along[:, 1], along[:, 0], np.zeros(len(along))], axis=1)


def _add_stalls(mesh: MeshBuilder, section: Section, k: int) -> None:
    stations = np.arange(section.s_m[0] + 1.0, section.s_m[-1] - 1.0, STALL_M)
    if len(stations) == 0:
        return
    a, b = (_interpolate(stations, section.s_m, section.boundaries[i]) for i in (k, k + 1))
    across = (b - a) / np.maximum(np.linalg.norm(b - a, axis=1, keepdims=True), 1e-6)
    along = np.stack([-across[:, 1], across[:, 0], np.zeros(len(across))], axis=1) * 0.05
    corners = np.stack([a - along, a + along, b + along, b - along], axis=1) + _MARK_LIFT
    mesh.quads(corners, WHITE, MARKING, layer=MIDDLE)


# --- crosswalks and stop lines ------------------------------------------------------------------------------------


def crosswalk_polygons(carla_map: carla.Map) -> list[np.ndarray]:
    """Corner polygons (n, 3) of the crosswalks, without the repeated last corner."""
    polygons, corners = [], []
    for location in carla_map.get_crosswalks():
        point = (location.x, location.y, location.z)
        if corners and math.dist(point, corners[0]) < 1e-3:
            if len(corners) >= 4:
                polygons.append(np.array(corners))
            corners = []
        else:
            corners.append(point)
    return polygons


def add_crosswalks(mesh: MeshBuilder, polygons: Sequence[np.ndarray], land: Land) -> None:
    """Zebra stripes, long along the road, side by side across it."""
    for polygon in polygons:
        centre = polygon.mean(axis=0)
        sides = np.roll(polygon, -1, axis=0)[:, :2] - polygon[:, :2]
        across = sides[np.linalg.norm(sides, axis=1).argmax()]
        across = across / np.linalg.norm(across)
        along = np.array([-across[1], across[0]])
        local = (polygon[:, :2] - centre[:2]) @ np.stack([across, along], axis=1)
        (low_u, low_v), (high_u, high_v) = local.min(axis=0), local.max(axis=0)
        starts = np.arange(low_u + 0.1, high_u - ZEBRA_STRIPE_M + 0.05, ZEBRA_STRIPE_M + ZEBRA_GAP_M)
        u = np.stack([starts, starts + ZEBRA_STRIPE_M, starts + ZEBRA_STRIPE_M, starts], axis=1)
        v = np.broadcast_to(np.array([low_v, low_v, high_v, high_v]), u.shape)
        xy = centre[:2] + u[..., None] * across + v[..., None] * along
        z = land.lane_height_m(xy.reshape(-1, 2)).reshape(u.shape) + 2.0 * MARK_LIFT_M
        mesh.quads(np.concatenate([xy, z[..., None]], axis=2), WHITE, MARKING, layer=MIDDLE)


def add_stop_line(mesh: MeshBuilder, x_m: float, y_m: float, z_m: float, yaw_rad: float, width_m: float) -> None:
    """A white bar across a lane of `width_m`, its far edge at the given point."""
    forward = np.array([math.cos(yaw_rad), math.sin(yaw_rad), 0.0])
    across = np.array([-forward[1], forward[0], 0.0]) * (width_m / 2.0 - 0.15)
    at = np.array([x_m, y_m, z_m + 1.2 * MARK_LIFT_M])
    back = at - 0.4 * forward
    mesh.quads(np.stack([back - across, back + across, at + across, at - across])[None], WHITE, MARKING, layer=MIDDLE)


# --- junction fill ------------------------------------------------------------------------------------------------


def surface_points(sections: Iterable[Section], kinds: frozenset[str], step_m: float) -> np.ndarray:
    """Points (n, 3) that cover the lanes of the given types at least every `step_m`."""
    clouds = [np.zeros((0, 3))]
    for section in sections:
        for k, kind in enumerate(section.lane_types):
            if kind not in kinds:
                continue
            a, b = section.boundaries[k], section.boundaries[k + 1]
            length = float(np.abs(np.diff(section.s_m)).max())
            n = max(1, math.ceil(length / step_m))
            t = np.linspace(section.s_m[0], section.s_m[-1], max(2, n * (len(section.s_m) - 1) + 1))
            a, b = _interpolate(t, section.s_m, a), _interpolate(t, section.s_m, b)
            m = max(2, math.ceil(float(np.linalg.norm(b - a, axis=1).max()) / step_m) + 1)
            f = np.linspace(0.0, 1.0, m)[:, None, None]
            clouds.append(((1.0 - f) * a + f * b).reshape(-1, 3))
    return np.concatenate(clouds)


def junction_fill(sections: Sequence[Section]) -> np.ndarray:
    """Quads (n, 4, 3) that pave the holes which the turning lanes of each junction enclose."""
    by_junction: dict[int, list[Section]] = defaultdict(list)
    for section in sections:
        if section.in_junction:
            by_junction[section.junction_id].append(section)
    outside = [surface_points([s], PAVED, FILL_CELL_M) for s in sections if not s.in_junction]
    boxes = np.array([(*c.min(axis=0), *c.max(axis=0)) for c in outside if len(c)]).reshape(-1, 6)
    outside = [cloud for cloud in outside if len(cloud)]
    quads = [np.zeros((0, 4, 3))]
    for members in by_junction.values():
        inside = surface_points(members, PAVED, FILL_CELL_M * 0.7)
        if len(inside) == 0:
            continue
        low, high = inside.min(axis=0) - FILL_MARGIN_M, inside.max(axis=0) + FILL_MARGIN_M
        near = np.flatnonzero((boxes[:, :3] < high).all(axis=1) & (boxes[:, 3:] > low).all(axis=1))
        points = np.concatenate([inside, *(outside[k] for k in near)])
        quads.append(_fill(points[((points > low) & (points < high)).all(axis=1)]))
    return np.concatenate(quads)


def add_junction_fill(mesh: MeshBuilder, quads: np.ndarray, brightness: float = 1.0) -> None:
    """Asphalt over the quads of `junction_fill`."""
    mesh.quads(quads, np.array(ASPHALT_COLOUR) * brightness, ASPHALT)


def quad_points(quads: np.ndarray) -> np.ndarray:
    """Points (n, 3) that cover quads (k, 4, 3) with sides up to `FILL_RECTANGLE_CELLS` at least every 0.8 m."""
    f = np.linspace(0.0, 1.0, math.ceil(FILL_RECTANGLE_CELLS * FILL_CELL_M / 0.8) + 1)
    u, v = (part.ravel()[:, None] for part in np.meshgrid(f, f))
    a, b, c, d = (quads[:, k, None] for k in range(4))
    return ((1 - u) * ((1 - v) * a + v * d) + u * ((1 - v) * b + v * c)).reshape(-1, 3)


def _fill(points: np.ndarray) -> np.ndarray:
    """Quads under everything that the lanes sampled by `points` (n, 3) cover or enclose."""
    low = points.min(axis=0) - 4.0 * FILL_CELL_M
    shape = tuple(((points.max(axis=0) - low)[:2] / FILL_CELL_M).astype(int) + 5)
    cells = ((points[:, :2] - low[:2]) / FILL_CELL_M).astype(int)
    painted = np.zeros(shape, bool)
    painted[cells[:, 0], cells[:, 1]] = True
    closed = np.asarray(ndimage.binary_closing(painted, iterations=FILL_CLOSING_CELLS), bool)
    whole = np.asarray(ndimage.binary_fill_holes(closed), bool)
    labels = np.zeros(shape, np.int32)
    ndimage.label(whole & ~closed, output=labels)
    sizes_m2 = np.bincount(labels.ravel()) * FILL_CELL_M**2
    islands = (labels > 0) & (sizes_m2 > FILL_MAXIMUM_M2)[labels]
    rectangles = _rectangles(np.asarray(ndimage.binary_erosion(whole & ~islands, iterations=1)))
    if not rectangles:
        return np.zeros((0, 4, 3))
    corners = np.array([[(i0, j0), (i1, j0), (i1, j1), (i0, j1)] for i0, j0, i1, j1 in rectangles], float)
    xy = low[:2] + corners.reshape(-1, 4, 2) * FILL_CELL_M
    found = KDTree(points[:, :2]).query(xy.reshape(-1, 2), k=min(6, len(points)))
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    weight = 1.0 / (distance.reshape(len(nearest), -1) + 0.3) ** 2
    z = (points[nearest.reshape(len(nearest), -1), 2] * weight).sum(axis=1) / weight.sum(axis=1) - FILL_SINK_M
    return np.concatenate([xy, z.reshape(-1, 4, 1)], axis=2)


def _rectangles(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Cover a mask with rectangles (i0, j0, i1, j1): runs along j, merged while neighbouring rows are the same.

    Sides stay within `FILL_RECTANGLE_CELLS`, so that the pavement follows slopes.
    """
    done, open_runs = [], {}
    columns = np.arange(mask.shape[1])
    for i in range(mask.shape[0] + 1):
        row = mask[i] if i < mask.shape[0] else np.zeros(mask.shape[1], bool)
        starts = row & (np.r_[False, ~row[:-1]] | (columns % FILL_RECTANGLE_CELLS == 0) | (columns == 0))
        ends = row & (np.r_[~row[1:], True] | (columns % FILL_RECTANGLE_CELLS == FILL_RECTANGLE_CELLS - 1))
        runs = {(int(a), int(b) + 1) for a, b in zip(np.flatnonzero(starts), np.flatnonzero(ends), strict=True)}
        for run, start in list(open_runs.items()):
            if run not in runs or i - start >= FILL_RECTANGLE_CELLS:
                done.append((start, run[0], i, run[1]))
                del open_runs[run]
        for run in runs:
            open_runs.setdefault(run, i)
    return done
