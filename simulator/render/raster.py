"""Numba kernels: visibility buffer (triangle id and 1/depth per sample) and cast shadows of actors.

One band of a view is drawn by one thread without the GIL. Depth is the distance along the optical axis; buffers hold
1/depth, 0 where nothing was drawn. Pixel (row, column) covers [column, column + 1) x [row, row + 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

NEAR_M = 0.15
NOTHING = -1
SHADOW_BIT = 1 << 30
"""Set in a triangle id where a cast shadow lies on the triangle."""
SHADOW_TOLERANCE = 0.06
SHADOW_DISTANCE_M = 90.0

_BEHIND = 16

HOT = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "_nrt": False}
"""Options of kernels that allocate nothing: without Numba's reference counting, whose atomic counters would cost more
than the arithmetic and make threads wait for each other."""


class View(NamedTuple):
    """One camera's pose and the sample buffers of a band of its rows; `focal` and all rows count samples."""

    eye: np.ndarray
    """(3,) float64"""
    axis: np.ndarray
    """(3, 3) float64, rows forward, right, up"""
    focal: float
    skip: int
    """Owner that is left out"""
    top: int
    """Row of the whole image at which the band begins"""
    full_rows: int
    """Rows of the whole image"""
    inverse_depth: np.ndarray
    """(rows, columns) float32"""
    ids: np.ndarray
    """(rows, columns) int32"""


class Tiles(NamedTuple):
    """Triangles in culling tiles: see `mesh.TileMesh`; `limits` are view distances, `owners` actor indices."""

    vertices: np.ndarray
    triangles: np.ndarray
    names: np.ndarray
    bounds: np.ndarray
    ranges: np.ndarray
    limits: np.ndarray
    owners: np.ndarray


@nb.njit(**HOT)
def _fill(x0, y0, i0, x1, y1, i1, x2, y2, i2, tri, top, inverse_depth, ids):  # noqa: PLR0913 - scalars stay in registers
    """Fill one triangle given by pixel positions and 1/depth, both sides."""
    height, width = ids.shape
    if y1 < y0:
        x0, y0, i0, x1, y1, i1 = x1, y1, i1, x0, y0, i0
    if y2 < y0:
        x0, y0, i0, x2, y2, i2 = x2, y2, i2, x0, y0, i0
    if y2 < y1:
        x1, y1, i1, x2, y2, i2 = x2, y2, i2, x1, y1, i1
    first = max(top, math.ceil(y0 - 0.5))
    last = min(top + height - 1, math.ceil(y2 - 0.5) - 1)
    if first > last:
        return
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if abs(area) < 1e-9:
        return
    inverse = 1.0 / area
    name = np.int32(tri)
    slope_x = ((i1 - i0) * (y2 - y0) - (i2 - i0) * (y1 - y0)) * inverse
    slope_y = ((i2 - i0) * (x1 - x0) - (i1 - i0) * (x2 - x0)) * inverse
    step = np.float32(slope_x)
    base = i0 - slope_x * x0 - slope_y * y0
    long_slope = (x2 - x0) / (y2 - y0)
    top_slope = (x1 - x0) / (y1 - y0) if y1 > y0 else 0.0
    bottom_slope = (x2 - x1) / (y2 - y1) if y2 > y1 else 0.0
    for row in range(first, last + 1):
        y = row + 0.5
        a = x0 + (y - y0) * long_slope
        b = x0 + (y - y0) * top_slope if y < y1 else x1 + (y - y1) * bottom_slope
        if a > b:
            a, b = b, a
        start = max(math.ceil(max(a, 0.0) - 0.5), 0)
        end = math.ceil(min(b, width) - 0.5)
        if end <= start:
            continue
        value = np.float32(base + slope_y * y + slope_x * (start + 0.5))
        depths, shown = inverse_depth[row - top, start:end], ids[row - top, start:end]
        for c in range(len(depths)):
            new, old = value + step * np.float32(c), depths[c]
            nearer = new > old
            depths[c] = new if nearer else old
            shown[c] = name if nearer else shown[c]


@nb.njit(**HOT)
def _draw_range(vertices, triangles, names, place, first_id, eye, axis, frame, scratch):  # noqa: PLR0913 - hot path
    """Transform one tile's vertices and fill its triangles that face the camera. `place` is a row of the ranges."""
    v0, v1, t0, t1 = place
    focal, half_h, top, inverse_depth, ids = frame
    corners, codes, clipped = scratch
    height, width = ids.shape
    half_w = 0.5 * width
    for v in range(v0, v1):
        k = v - v0
        dx = vertices[v, 0] - eye[0]
        dy = vertices[v, 1] - eye[1]
        dz = vertices[v, 2] - eye[2]
        depth = axis[0, 0] * dx + axis[0, 1] * dy + axis[0, 2] * dz
        right = axis[1, 0] * dx + axis[1, 1] * dy + axis[1, 2] * dz
        up = axis[2, 0] * dx + axis[2, 1] * dy + axis[2, 2] * dz
        corners[k, 0] = depth
        corners[k, 1] = right
        corners[k, 2] = up
        if depth < NEAR_M:
            codes[k] = _BEHIND
            continue
        inverse = 1.0 / depth
        x = half_w + focal * right * inverse
        y = half_h - focal * up * inverse
        corners[k, 3] = x
        corners[k, 4] = y
        corners[k, 5] = inverse
        codes[k] = (x < 0.0) * 1 + (x > width) * 2 + (y < top) * 4 + (y > top + height) * 8
    for t in range(t0, t1):
        a, b, c = triangles[t, 0] - v0, triangles[t, 1] - v0, triangles[t, 2] - v0
        code_a, code_b, code_c = codes[a], codes[b], codes[c]
        if code_a & code_b & code_c:
            continue
        if (code_a | code_b | code_c) & _BEHIND:
            _fill_clipped(corners, (a, b, c), first_id + names[t], frame, clipped)
            continue
        x0, y0 = corners[a, 3], corners[a, 4]
        x1, y1 = corners[b, 3], corners[b, 4]
        x2, y2 = corners[c, 3], corners[c, 4]
        if (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) <= 0.0:
            continue
        # Most distant triangles lie between the sample points.
        if math.ceil(min(y0, y1, y2) - 0.5) >= math.ceil(max(y0, y1, y2) - 0.5):
            continue
        if math.ceil(min(x0, x1, x2) - 0.5) >= math.ceil(max(x0, x1, x2) - 0.5):
            continue
        i0, i1, i2 = corners[a, 5], corners[b, 5], corners[c, 5]
        _fill(x0, y0, i0, x1, y1, i1, x2, y2, i2, first_id + names[t], top, inverse_depth, ids)


@nb.njit(**HOT)
def _fill_clipped(corners, triple, tri, frame, clipped):
    """Clip a triangle at the near plane and fill what is left, if it faces the camera."""
    focal, half_h, top, inverse_depth, ids = frame
    px, py, pi = clipped[0], clipped[1], clipped[2]
    width = ids.shape[1]
    n = 0
    for k in range(3):
        p, q = triple[k], triple[(k + 1) % 3]
        dp, dq = corners[p, 0], corners[q, 0]
        if dp >= NEAR_M:
            px[n] = 0.5 * width + focal * corners[p, 1] / dp
            py[n] = half_h - focal * corners[p, 2] / dp
            pi[n] = 1.0 / dp
            n += 1
        if (dp >= NEAR_M) != (dq >= NEAR_M):
            f = (NEAR_M - dp) / (dq - dp)
            px[n] = 0.5 * width + focal * (corners[p, 1] + f * (corners[q, 1] - corners[p, 1])) / NEAR_M
            py[n] = half_h - focal * (corners[p, 2] + f * (corners[q, 2] - corners[p, 2])) / NEAR_M
            pi[n] = 1.0 / NEAR_M
            n += 1
    if n < 3 or (px[1] - px[0]) * (py[2] - py[0]) - (px[2] - px[0]) * (py[1] - py[0]) <= 0.0:
        return
    for k in range(1, n - 1):
        _fill(px[0], py[0], pi[0], px[k], py[k], pi[k], px[k + 1], py[k + 1], pi[k + 1], tri, top, inverse_depth, ids)


@nb.njit(**HOT)
def _visible(bounds, limit_m, eye, axis, tan_x, tan_up, tan_down):
    """Whether a bounding box may show: nearer than the limit and not wholly outside one frustum plane."""
    cx, cy, cz = (
        0.5 * (bounds[0] + bounds[3]) - eye[0],
        0.5 * (bounds[1] + bounds[4]) - eye[1],
        0.5 * (bounds[2] + bounds[5]) - eye[2],
    )
    hx, hy, hz = 0.5 * (bounds[3] - bounds[0]), 0.5 * (bounds[4] - bounds[1]), 0.5 * (bounds[5] - bounds[2])
    gap_x, gap_y = max(abs(cx) - hx, 0.0), max(abs(cy) - hy, 0.0)
    if gap_x * gap_x + gap_y * gap_y > limit_m * limit_m:
        return False
    for plane in range(5):
        if plane == 0:
            nx, ny, nz = axis[0, 0], axis[0, 1], axis[0, 2]
        else:
            row = 1 if plane < 3 else 2
            sign = 1.0 if plane % 2 == 1 else -1.0
            # The band may lie above or below the axis: its upper and lower planes differ.
            tan = tan_x if plane < 3 else (tan_down if plane % 2 == 1 else tan_up)
            nx = axis[0, 0] * tan + sign * axis[row, 0]
            ny = axis[0, 1] * tan + sign * axis[row, 1]
            nz = axis[0, 2] * tan + sign * axis[row, 2]
        reach = abs(nx) * hx + abs(ny) * hy + abs(nz) * hz
        if nx * cx + ny * cy + nz * cz + reach < 0.0:
            return False
    return True


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def visible_tiles(tiles, lens, rows):
    """Indices of the tiles that may show, nearest first.

    `lens` is the eye, the axes, the focal length, the width and the owner that is left out; `rows` are the first and
    the last row of a band, counted from the middle of the image upwards and downwards.
    """
    _, _, _, bounds, ranges, limits, owners = tiles
    eye, axis, focal, width, skip = lens
    tan_x, tan_up, tan_down = 0.5 * width / focal, rows[0] / focal, rows[1] / focal
    count = len(ranges)
    distance = np.empty(count, np.float32)
    chosen = np.empty(count, np.int32)
    n = 0
    for k in range(count):
        if owners[k] == skip or not _visible(bounds[k], limits[k], eye, axis, tan_x, tan_up, tan_down):
            continue
        dx = 0.5 * (bounds[k, 0] + bounds[k, 3]) - eye[0]
        dy = 0.5 * (bounds[k, 1] + bounds[k, 4]) - eye[1]
        distance[n] = dx * dx + dy * dy
        chosen[n] = k
        n += 1
    return chosen[np.argsort(distance[:n], kind="mergesort")]


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def draw_tiles(tiles, first_id, view):
    """Draw the visible tiles, nearest first; tiles owned by `view.skip` are left out. Returns triangles tried."""
    vertices, triangles, names, _, ranges, _, _ = tiles
    eye, axis, focal, skip, top, full_rows, inverse_depth, ids = view
    height, width = ids.shape
    half_h = 0.5 * full_rows
    shown = visible_tiles(tiles, (eye, axis, focal, width, skip), (half_h - top, height + top - half_h))
    most = 0
    for k in shown:
        most = max(most, ranges[k, 1] - ranges[k, 0])
    scratch = (np.empty((most, 6), np.float32), np.empty(most, np.uint8), np.empty((3, 4)))
    tried = 0
    for k in shown:
        place = (ranges[k, 0], ranges[k, 1], ranges[k, 2], ranges[k, 3])
        _draw_range(
            vertices, triangles, names, place, first_id, eye, axis, (focal, half_h, top, inverse_depth, ids), scratch
        )
        tried += place[3] - place[2]
    return tried


@nb.njit(**HOT)
def _extent(values):
    """Smallest and largest value."""
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    return low, high


@nb.njit(**HOT)
def draw_shadows(polygons, normals, static_count, view, scratch):
    """Mark the static samples under convex ground polygons (n, corners, 3) with plane `normals` (n, 3).

    `scratch` is (2 * corners, 5) float64. A sample belongs to the ground when its depth agrees with the plane's within
    `SHADOW_TOLERANCE` (relative).
    """
    eye, axis, focal, skip, top, full_rows, inverse_depth, ids = view
    height, width = ids.shape
    half_h = 0.5 * full_rows
    corners = polygons.shape[1]
    camera, px, py = scratch[:, 2:], scratch[:, 0], scratch[:, 1]
    for n in range(len(polygons)):
        if n == skip:
            continue
        nx, ny, nz = normals[n, 0], normals[n, 1], normals[n, 2]
        for k in range(corners):
            dx, dy, dz = polygons[n, k, 0] - eye[0], polygons[n, k, 1] - eye[1], polygons[n, k, 2] - eye[2]
            for row in range(3):
                camera[k, row] = axis[row, 0] * dx + axis[row, 1] * dy + axis[row, 2] * dz
        offset = (
            nx * (polygons[n, 0, 0] - eye[0]) + ny * (polygons[n, 0, 1] - eye[1]) + nz * (polygons[n, 0, 2] - eye[2])
        )
        nearest, farthest = _extent(camera[:corners, 0])
        if offset > -0.05 or farthest < NEAR_M or nearest > SHADOW_DISTANCE_M:
            continue
        m = 0
        for k in range(corners):
            q = (k + 1) % corners
            a, b = camera[k, 0], camera[q, 0]
            if a >= NEAR_M:
                px[m] = 0.5 * width + focal * camera[k, 1] / a
                py[m] = half_h - focal * camera[k, 2] / a
                m += 1
            if (a >= NEAR_M) != (b >= NEAR_M):
                f = (NEAR_M - a) / (b - a)
                px[m] = 0.5 * width + focal * (camera[k, 1] + f * (camera[q, 1] - camera[k, 1])) / NEAR_M
                py[m] = half_h - focal * (camera[k, 2] + f * (camera[q, 2] - camera[k, 2])) / NEAR_M
                m += 1
        # 1/depth of the plane at a pixel is n . direction / offset, linear in the pixel
        slope_x = (nx * axis[1, 0] + ny * axis[1, 1] + nz * axis[1, 2]) / (focal * offset)
        slope_y = -(nx * axis[2, 0] + ny * axis[2, 1] + nz * axis[2, 2]) / (focal * offset)
        base = (nx * axis[0, 0] + ny * axis[0, 1] + nz * axis[0, 2]) / offset
        base -= 0.5 * width * slope_x + half_h * slope_y
        low, high = _extent(py[:m])
        first, last = max(top, math.ceil(low - 0.5)), min(top + height - 1, math.ceil(high - 0.5) - 1)
        for row in range(first, last + 1):
            y = row + 0.5
            left, right = 1e9, -1e9
            for k in range(m):
                q = (k + 1) % m
                if (py[k] <= y) != (py[q] <= y):
                    x = px[k] + (y - py[k]) * (px[q] - px[k]) / (py[q] - py[k])
                    left, right = min(left, x), max(right, x)
            for column in range(math.ceil(max(left, 0.0) - 0.5), math.ceil(min(right, width) - 0.5)):
                tri = ids[row - top, max(column, 0)]
                if tri < 0 or (tri & (SHADOW_BIT - 1)) >= static_count:
                    continue
                value = base + slope_y * y + slope_x * (column + 0.5)
                if abs(inverse_depth[row - top, column] - value) < SHADOW_TOLERANCE * value:
                    ids[row - top, column] = tri | SHADOW_BIT
