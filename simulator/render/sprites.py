"""What is laid over a shaded image: shining lamps with their glow, their reflections on a wet road, rain."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from simulator.render.mesh import ASPHALT, CONCRETE, MARKING
from simulator.render.raster import HOT, SHADOW_BIT

LAMP_COLUMNS = 12
"""x y z, normal, radius m, r g b 0..1, owner (an actor's index or NO_ACTOR), height above the ground."""

NEAR_BLOOM_RAD_PER_M, FAR_BLOOM_RAD_PER_M, GLARE = 0.045, 0.025, 2.0
"""A lamp shows at least this large per metre of its radius, as in a camera whose lens blooms, so that the colour of a
traffic light survives in a small image: as large as the first where that is not more than `GLARE` times its own size,
and never smaller than the second."""

LAMP_MINIMUM_PX = 0.55
LAMP_REACH_M = 200.0
FAINTEST = 0.004
"""Shares of a lamp's colour below this are left out."""

STREAKS = 420
"""Rain streaks in a picture at full precipitation."""

STREAK_WIDTH = 0.0024
"""Of the picture's width."""


DISC_COLUMNS = 10
"""x y, radius, reach across, reach down in pixels, strength, largest 1/depth it is seen through (negative for a
reflection on the road), r g b 0..255."""

STREAK_COLUMNS = 5
"""x y of the upper end, length, half width in pixels, strength."""


@nb.njit(**HOT)
def lamp_discs(lamps, weather, lens, discs):
    """Write the discs that lamps (n, LAMP_COLUMNS) and their reflections make in an image; returns their number.

    `weather` holds the fog extinction per metre, the strength of the glow and the wetness of the road; `lens` the eye,
    the axes, the focal length and the size of the image in pixels, and the owner whose lamps are left out.
    """
    haze, halo, wetness = weather
    eye, axis, focal, width, height, skip = lens
    count = 0
    for n in range(len(lamps)):
        if skip >= 0 and lamps[n, 10] == skip:
            continue
        dx, dy = lamps[n, 0] - eye[0], lamps[n, 1] - eye[1]
        for image_of in range(2 if wetness > 0.0 else 1):
            dz = lamps[n, 2] - eye[2] - (2.0 * lamps[n, 11] if image_of else 0.0)
            depth = axis[0, 0] * dx + axis[0, 1] * dy + axis[0, 2] * dz
            if depth < 0.3 or depth > LAMP_REACH_M:
                continue
            distance = math.sqrt(dx * dx + dy * dy + dz * dz)
            facing = -(lamps[n, 3] * dx + lamps[n, 4] * dy + lamps[n, 5] * dz * (-1.0 if image_of else 1.0)) / distance
            if facing < 0.08:
                continue
            x = 0.5 * width + focal * (axis[1, 0] * dx + axis[1, 1] * dy + axis[1, 2] * dz) / depth
            y = 0.5 * height - focal * (axis[2, 0] * dx + axis[2, 1] * dy + axis[2, 2] * dz) / depth
            bloom = max(FAR_BLOOM_RAD_PER_M, min(NEAR_BLOOM_RAD_PER_M, GLARE / depth))
            radius = max(focal * lamps[n, 6] * max(1.0 / depth, bloom), LAMP_MINIMUM_PX)
            strength = math.exp(-0.6 * haze * distance) * min(1.0, 4.0 * facing)
            reach_x, reach_y = radius * 2.6 + 0.5, radius * 2.6 + 0.5
            if image_of:
                reach_x, reach_y = radius * 2.0 + 0.5, radius * 7.0 + 0.5
                strength *= 0.75 * wetness * (0.35 + 0.65 * halo)
            if x + reach_x < 0.0 or x - reach_x > width or y + reach_y < 0.0 or y - reach_y > height:
                continue
            discs[count, 0], discs[count, 1], discs[count, 2] = x, y, radius
            discs[count, 3], discs[count, 4], discs[count, 5] = reach_x, reach_y, strength
            discs[count, 6] = -1.0 if image_of else 1.03 / depth + 1e-6
            for k in range(3):
                discs[count, 7 + k] = 255.0 * lamps[n, 7 + k]
            count += 1
    return count


@nb.njit(**HOT, inline="always")
def mirrors_lamps(material, normal_z):
    """Whether a surface shows the reflection of a lamp when it is wet."""
    return normal_z >= 0.9 and material in (ASPHALT, MARKING, CONCRETE)


@nb.njit(**HOT, inline="always")
def reflection_glow(ex, ey):
    """Share of a reflection's colour at a place in units of its reach."""
    glow = max(0.0, 1.0 - ex * ex) * max(0.0, 1.0 - ey * ey)
    return glow * glow


@nb.njit(**HOT, inline="always")
def lamp_glow(ex, ey, reach, radius, halo):
    """Share of a lamp's colour at a place in units of its reach: the lamp itself and the glow around it."""
    d = math.sqrt(ex * ex + ey * ey) * reach
    core = min(1.0, max(0.0, radius + 0.5 - d))
    glow = max(0.0, 1.0 - d / reach)
    return max(core, halo * glow * glow)


@nb.njit(**HOT)
def blend_discs(discs, halo, samples, surfaces, view, image):
    """Blend discs (n, DISC_COLUMNS) over the finished band (h, w, 4); `surfaces` are those of the static triangles.

    A lamp is hidden where something stands in front of it.
    """
    top, inverse_depth, ids = view[4], view[6], view[7]
    first = top // samples
    height, width = image.shape[:2]
    middle = samples // 2
    for n in range(len(discs)):
        x, y, radius, reach_x, reach_y = discs[n, 0], discs[n, 1], discs[n, 2], discs[n, 3], discs[n, 4]
        strength, limit = discs[n, 5], discs[n, 6]
        for row in range(max(first, int(y - reach_y)), min(first + height - 1, int(y + reach_y)) + 1):
            for column in range(max(0, int(x - reach_x)), min(width - 1, int(x + reach_x)) + 1):
                i, j = (row - first) * samples + middle, column * samples + middle
                ex, ey = (column + 0.5 - x) / reach_x, (row + 0.5 - y) / reach_y
                if limit < 0.0:
                    tri = ids[i, j] & (SHADOW_BIT - 1)
                    if ids[i, j] < 0 or tri >= len(surfaces) or not mirrors_lamps(surfaces[tri, 6], surfaces[tri, 5]):
                        continue
                    alpha = strength * reflection_glow(ex, ey)
                else:
                    if inverse_depth[i, j] > limit:
                        continue
                    alpha = strength * lamp_glow(ex, ey, reach_x, radius, halo)
                if alpha <= FAINTEST:
                    continue
                for k in range(3):
                    old = image[row - first, column, k]
                    image[row - first, column, k] = np.uint8(
                        old + alpha * max(discs[n, 9 - k] - old, 0.0 if limit < 0.0 else -255.0)
                    )


_MASK, _RANGE = 0xFFFFFFFF, 16777216.0


@nb.njit(nogil=True, cache=True, inline="always")
def _next(state):
    """A linear congruential generator of 32 bits (Numerical Recipes)."""
    return (state * 1664525 + 1013904223) & _MASK


@nb.njit(**HOT)
def rain_streaks(rain, time_step, axis, width, height, streaks):
    """Write the streaks of rain (n, STREAK_COLUMNS) in an image of a size; returns their number.

    They are others at every `time_step` and in every direction.
    """
    half_width = 0.5 * STREAK_WIDTH * width
    state = (
        time_step * 7919 + int((axis[0, 0] + 2.0) * 1000.0) * 104729 + int((axis[0, 1] + 2.0) * 1000.0) * 31
    ) & _MASK
    count = min(int(STREAKS * math.sqrt(rain)), len(streaks))
    for n in range(count):
        a = _next(state)
        b = _next(a)
        state = _next(b)
        across, down, near = float(a >> 8) / _RANGE, float(b >> 8) / _RANGE, float(state >> 8) / _RANGE
        thick = half_width * (0.6 + 0.8 * near)
        streaks[n, 0], streaks[n, 1] = across * width, down * 1.1 * height - 0.1 * height
        streaks[n, 2], streaks[n, 3] = (0.02 + 0.09 * near * near) * height, thick
        streaks[n, 4] = (0.10 + 0.16 * near) * min(1.0, 2.0 * thick)
    return count


@nb.njit(**HOT)
def blend_streaks(streaks, lean, brightness, first, image):
    """Blend streaks (n, STREAK_COLUMNS) over a band (h, w, 4) that begins at row `first`.

    `lean` is how many pixels they shift per row.
    """
    height, width = image.shape[:2]
    for n in range(len(streaks)):
        x0, y0, length, thick, alpha = streaks[n, 0], streaks[n, 1], streaks[n, 2], streaks[n, 3], streaks[n, 4]
        for row in range(max(first, int(y0)), min(first + height, int(y0 + length) + 1)):
            x = x0 + (row + 0.5 - y0) * lean
            for column in range(max(0, int(x - thick)), min(width - 1, int(x + thick)) + 1):
                for k in range(3):
                    old = image[row - first, column, k]
                    image[row - first, column, k] = np.uint8(old + alpha * max(0.0, brightness - old))
