"""Meetings of upright oriented boxes: sort on x, then the separating axis test (SAT), at rest or along their way.

Boxes are upright (pitch and roll are ignored) and stand in CARLA's frame: x forward, y right, z up, yaw in degrees
clockwise seen from above. All lengths in metres; `z` is the height of the box centre.
"""

from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

PAIRS_PER_BOX: Final = 4
"""Space first set aside for contacts; more is taken when a crowd needs it."""
_TOUCH_M: Final = 1e-3
"""A corner this far outside the other box still counts as touching it."""
_STILL_M: Final = 1e-12
"""Relative motion in a step that counts as none."""


@dataclass(frozen=True)
class Contacts:
    """Touching pairs of boxes, sorted by (first, second); k rows each."""

    pairs: NDArray[np.int64]
    """(k, 2) int64 indices into the box arrays, first < second."""
    normal: NDArray[np.float64]
    """(k, 2) unit vector in the ground plane, pointing from the first box to the second."""
    depth_m: NDArray[np.float64]
    """(k,) penetration along the normal, >= 0."""
    point: NDArray[np.float64]
    """(k, 3) contact point in the world."""

    def __len__(self) -> int:
        return len(self.pairs)


@numba.njit(cache=True)
def _reach(axis, c1, s1, l1, w1, c2, s2, l2, w2):  # noqa: PLR0913 - plain numbers are fastest
    """One of the four separating axes of two boxes and half the length that both cover on it."""
    cc, ss = abs(c1 * c2 + s1 * s2), abs(s1 * c2 - c1 * s2)
    if axis == 0:
        return c1, s1, l1 + l2 * cc + w2 * ss
    if axis == 1:
        return -s1, c1, w1 + l2 * ss + w2 * cc
    if axis == 2:
        return c2, s2, l2 + l1 * cc + w1 * ss
    return -s2, c2, w2 + l1 * ss + w1 * cc


@numba.njit(cache=True)
def _separation(dx, dy, c1, s1, l1, w1, c2, s2, l2, w2):  # noqa: PLR0913 - plain numbers are fastest
    """Depth and unit normal (first to second) of the axis of least penetration; negative depth: apart."""
    best, nx, ny = np.inf, 1.0, 0.0
    for axis in range(4):
        ux, uy, reach = _reach(axis, c1, s1, l1, w1, c2, s2, l2, w2)
        distance = dx * ux + dy * uy
        depth = reach - abs(distance)
        if depth < best:
            sign = 1.0 if distance >= 0.0 else -1.0
            best, nx, ny = depth, sign * ux, sign * uy
            if depth < 0.0:
                return best, nx, ny
    return best, nx, ny


@numba.njit(cache=True)
def meeting(dx, dy, mx, my, c1, s1, l1, w1, c2, s2, l2, w2):  # noqa: PLR0913 - plain numbers are fastest
    """Depth, unit normal (first to second) and when in the last step two boxes met, 0 now to 1 at its start.

    (mx, my) is the way of the first box relative to the second. The normal is that of the faces that met, or, for
    boxes that overlapped all the step, of the least penetration. Depth is negative for boxes that did not meet.
    """
    latest, earliest, depth, nx, ny = 0.0, 1.0, -1.0, 1.0, 0.0
    for axis in range(4):
        ux, uy, reach = _reach(axis, c1, s1, l1, w1, c2, s2, l2, w2)
        distance, speed = dx * ux + dy * uy, mx * ux + my * uy
        if abs(speed) < _STILL_M:
            if abs(distance) > reach:
                return -1.0, 1.0, 0.0, 0.0
            continue
        start, end = (-reach - distance) / speed, (reach - distance) / speed
        if start > end:
            start, end = end, start
        latest = max(latest, start)
        if end < earliest:
            sign = 1.0 if speed > 0.0 else -1.0
            earliest, depth, nx, ny = end, reach - sign * distance, sign * ux, sign * uy
        if latest > earliest:
            return -1.0, 1.0, 0.0, 0.0
    if earliest == 1.0:
        depth, nx, ny = _separation(dx, dy, c1, s1, l1, w1, c2, s2, l2, w2)
        return depth, nx, ny, 0.0
    return depth, nx, ny, earliest


@numba.njit(cache=True)
def find_pairs(box, motion, solid, movable, pairs, normal, depth, ago):
    """Fill pairs, normal, depth and ago with the pairs that met, sorted; returns their number, maybe above the space.

    Args: box (7, n) rows x, y, z, yaw, half_length, half_width, half_height; motion (2, n) way in x and y that each
    went in the last step; solid, movable (n,): only pairs of two solid boxes count, of which one or both are movable;
    ago (k,) the part of the last step that passed since the meeting, 0 for boxes that overlapped all the time.
    """
    n, found = box.shape[1], 0
    cos, sin, low, high = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        heading = np.radians(box[3, i])
        cos[i], sin[i] = np.cos(heading), np.sin(heading)
        reach = abs(box[4, i] * cos[i]) + abs(box[5, i] * sin[i])
        low[i] = min(box[0, i], box[0, i] - motion[0, i]) - reach
        high[i] = max(box[0, i], box[0, i] - motion[0, i]) + reach
    order = np.argsort(low, kind="mergesort")
    for a in range(n):
        i = order[a]
        if not solid[i]:
            continue
        for b in range(a + 1, n):
            j = order[b]
            if low[j] > high[i]:
                break
            if not solid[j] or not (movable[i] or movable[j]):
                continue
            if abs(box[2, i] - box[2, j]) > box[6, i] + box[6, j]:
                continue
            p, q = min(i, j), max(i, j)
            overlap, nx, ny, when = meeting(
                box[0, q] - box[0, p], box[1, q] - box[1, p],
                motion[0, p] - motion[0, q], motion[1, p] - motion[1, q],
                cos[p], sin[p], box[4, p], box[5, p], cos[q], sin[q], box[4, q], box[5, q],
            )  # fmt: skip
            if overlap < 0.0:
                continue
            if found < pairs.shape[0]:
                pairs[found, 0], pairs[found, 1] = p, q
                normal[found, 0], normal[found, 1], depth[found], ago[found] = nx, ny, overlap, when
            found += 1
    if found <= pairs.shape[0]:
        order = np.argsort(pairs[:found, 0] * n + pairs[:found, 1], kind="mergesort")
        pairs[:found], normal[:found] = pairs[:found][order], normal[:found][order]
        depth[:found], ago[:found] = depth[:found][order], ago[:found][order]
    return found


@numba.njit(cache=True)
def contact_point(box, motion, first, second, ago, out):
    """Write into out (3,) the middle of the corners of each box that lay in the other; without any, of the boxes.

    Both are looked at when they met, the part `ago` of the last step before now.
    """
    total, x, y = 0, 0.0, 0.0
    for turn in range(2):
        inner, outer = (first, second) if turn == 0 else (second, first)
        heading, other = np.radians(box[3, inner]), np.radians(box[3, outer])
        cos, sin, c, s = np.cos(heading), np.sin(heading), np.cos(other), np.sin(other)
        for corner in range(4):
            forward = box[4, inner] if corner < 2 else -box[4, inner]
            right = box[5, inner] if corner % 2 else -box[5, inner]
            px = box[0, inner] - ago * motion[0, inner] + forward * cos - right * sin
            py = box[1, inner] - ago * motion[1, inner] + forward * sin + right * cos
            dx, dy = px - box[0, outer] + ago * motion[0, outer], py - box[1, outer] + ago * motion[1, outer]
            if abs(dx * c + dy * s) <= box[4, outer] + _TOUCH_M and abs(dy * c - dx * s) <= box[5, outer] + _TOUCH_M:
                total, x, y = total + 1, x + px, y + py
    if total == 0:
        total = 2
        x = box[0, first] + box[0, second] - ago * (motion[0, first] + motion[0, second])
        y = box[1, first] + box[1, second] - ago * (motion[1, first] + motion[1, second])
    bottom = max(box[2, first] - box[6, first], box[2, second] - box[6, second])
    top = min(box[2, first] + box[6, first], box[2, second] + box[6, second])
    out[0], out[1], out[2] = x / total, y / total, 0.5 * (bottom + top)


def find_contacts(
    x, y, z, yaw, half_length, half_width, half_height, solid: NDArray[np.bool_] | None = None
) -> Contacts:
    """Every pair of boxes that overlaps or touches; boxes whose `solid` is False take no part.

    Args: arrays of n float64 (z: box centres, yaw in degrees), `solid` n bool or None for all.
    """
    box = np.stack([x, y, z, yaw, half_length, half_width, half_height]).astype(np.float64, copy=False)
    count = box.shape[1]
    everything, still = np.ones(count, np.bool_), np.zeros((2, count))
    size = PAIRS_PER_BOX * count
    while True:
        pairs, normal, depth, ago = np.empty((size, 2), np.int64), np.empty((size, 2)), np.empty(size), np.empty(size)
        found = find_pairs(box, still, everything if solid is None else solid, everything, pairs, normal, depth, ago)
        if found <= size:
            break
        size = found
    point = np.empty((found, 3))
    for pair, out in zip(pairs[:found], point, strict=True):
        contact_point(box, still, pair[0], pair[1], 0.0, out)
    return Contacts(pairs[:found], normal[:found], depth[:found], point)


def overlapping_pairs(x, y, z, yaw, half_length, half_width, half_height) -> NDArray[np.int64]:
    """(k, 2) index pairs (first < second, sorted) of boxes that overlap or touch. Arguments as `find_contacts`."""
    return find_contacts(x, y, z, yaw, half_length, half_width, half_height).pairs


def overlaps_any(  # noqa: PLR0913 - the columns of the boxes
    box: tuple[float, ...], x, y, z, yaw, half_length, half_width, half_height, solid: NDArray[np.bool_] | None = None
) -> int:
    """Index of the first box that overlaps `box` = (x, y, z, yaw, half_length, half_width, half_height), or -1.

    Arguments as `find_contacts`; the box itself may be of any size.
    """
    boxes = np.stack([x, y, z, yaw, half_length, half_width, half_height]).astype(np.float64, copy=False)
    if solid is None:
        solid = np.ones(boxes.shape[1], np.bool_)
    return int(_first_overlap(np.array(box, np.float64), boxes, solid))


@numba.njit(cache=True)
def _first_overlap(box, boxes, solid):
    heading = np.radians(box[3])
    cos, sin = np.cos(heading), np.sin(heading)
    for i in range(boxes.shape[1]):
        if not solid[i] or abs(boxes[2, i] - box[2]) > boxes[6, i] + box[6]:
            continue
        other = np.radians(boxes[3, i])
        depth, _, _ = _separation(
            boxes[0, i] - box[0], boxes[1, i] - box[1],
            cos, sin, box[4], box[5], np.cos(other), np.sin(other), boxes[4, i], boxes[5, i],
        )  # fmt: skip
        if depth >= 0.0:
            return i
    return -1
