"""Overlap of upright oriented boxes: sort on x, then the separating axis test (SAT) with contact data.

Boxes are upright (pitch and roll are ignored) and stand in CARLA's frame: x forward, y right, z up, yaw in degrees clockwise
seen from above. All lengths in metres; `z` is the height of the box centre.
"""

from dataclasses import dataclass

import numba
import numpy as np

_PAIRS_PER_BOX = 16


@dataclass(frozen=True)
class Contacts:
    """Touching pairs of boxes, sorted by (first, second); k rows each."""

    pairs: np.ndarray
    """(k, 2) int64 indices into the box arrays, first < second."""
    normal: np.ndarray
    """(k, 2) unit vector in the ground plane, pointing from the first box to the second."""
    depth_m: np.ndarray
    """(k,) penetration along the normal, >= 0."""
    point: np.ndarray
    """(k, 3) contact point in the world."""

    def __len__(self) -> int:
        return len(self.pairs)


@numba.njit(cache=True)
def _separation(dx, dy, c1, s1, l1, w1, c2, s2, l2, w2):
    """Depth and unit normal (first to second) of the axis of least penetration; negative depth: apart."""
    cc, ss = abs(c1 * c2 + s1 * s2), abs(s1 * c2 - c1 * s2)
    best, nx, ny = np.inf, 1.0, 0.0
    for axis in range(4):
        if axis == 0:
            ux, uy, reach = c1, s1, l1 + l2 * cc + w2 * ss
        elif axis == 1:
            ux, uy, reach = -s1, c1, w1 + l2 * ss + w2 * cc
        elif axis == 2:
            ux, uy, reach = c2, s2, l2 + l1 * cc + w1 * ss
        else:
            ux, uy, reach = -s2, c2, w2 + l1 * ss + w1 * cc
        distance = dx * ux + dy * uy
        depth = reach - abs(distance)
        if depth < best:
            sign = 1.0 if distance >= 0.0 else -1.0
            best, nx, ny = depth, sign * ux, sign * uy
            if depth < 0.0:
                return best, nx, ny
    return best, nx, ny


@numba.njit(cache=True)
def _find(x, y, z, yaw, length, width, height, solid, pairs, normals, depths):
    n, found = x.shape[0], 0
    cos, sin, reach = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        a = np.radians(yaw[i])
        cos[i], sin[i] = np.cos(a), np.sin(a)
        reach[i] = abs(length[i] * cos[i]) + abs(width[i] * sin[i])
    low = x - reach
    order = np.argsort(low, kind="mergesort")
    for a in range(n):
        i = order[a]
        if not solid[i]:
            continue
        for b in range(a + 1, n):
            j = order[b]
            if low[j] > x[i] + reach[i]:
                break
            if not solid[j] or abs(z[i] - z[j]) > height[i] + height[j]:
                continue
            first, second = min(i, j), max(i, j)
            depth, nx, ny = _separation(
                x[second] - x[first], y[second] - y[first], cos[first], sin[first], length[first], width[first],
                cos[second], sin[second], length[second], width[second],
            )  # fmt: skip
            if depth < 0.0:
                continue
            if found < pairs.shape[0]:
                pairs[found, 0], pairs[found, 1] = first, second
                normals[found, 0], normals[found, 1], depths[found] = nx, ny, depth
            found += 1
    return found


def find_contacts(x, y, z, yaw, half_length, half_width, half_height, solid=None) -> Contacts:
    """Every pair of boxes that overlaps or touches; boxes whose `solid` is False take no part.

    Args: arrays of n float64 (z: box centres, yaw in degrees), `solid` n bool or None for all.
    """
    n = len(x)
    if solid is None:
        solid = np.ones(n, np.bool_)
    size = max(n * _PAIRS_PER_BOX, 1)
    while True:
        pairs, normal, depth = np.empty((size, 2), np.int64), np.empty((size, 2)), np.empty(size)
        found = _find(x, y, z, yaw, half_length, half_width, half_height, solid, pairs, normal, depth)
        if found <= size:
            break
        size = found
    order = np.lexsort((pairs[:found, 1], pairs[:found, 0]))
    pairs, normal, depth = pairs[order], normal[order], depth[order]
    first, second = pairs[:, 0], pairs[:, 1]
    point = np.stack([(x[first] + x[second]) / 2, (y[first] + y[second]) / 2, (z[first] + z[second]) / 2], axis=1)
    return Contacts(pairs, normal, depth, point)


def overlapping_pairs(x, y, z, yaw, half_length, half_width, half_height) -> np.ndarray:
    """(k, 2) int64 index pairs (first < second, sorted) of boxes that overlap or touch. Arguments as `find_contacts`."""
    return find_contacts(x, y, z, yaw, half_length, half_width, half_height).pairs


def overlaps_any(box, x, y, z, yaw, half_length, half_width, half_height, solid=None) -> int:
    """Index of the first box that overlaps `box` = (x, y, z, yaw, half_length, half_width, half_height), or -1."""
    columns = [np.append(column, value) for column, value in zip((x, y, z, yaw, half_length, half_width, half_height), box)]
    new = len(x)
    pairs = find_contacts(*columns, None if solid is None else np.append(solid, True)).pairs
    hits = pairs[pairs[:, 1] == new, 0]
    return int(hits[0]) if len(hits) else -1
