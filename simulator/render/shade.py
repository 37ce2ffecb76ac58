"""Shading of a visibility buffer: materials, sun, sky, fog, wetness, night. Linear RGB, written as gamma-2 BGRA."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from simulator.render.mesh import ASPHALT, CONCRETE, EMISSIVE, FACADE, FOLIAGE, GLASS, GRASS, MARKING, PAINT
from simulator.render.raster import SHADOW_BIT

NOISE_SIZE = 256
SUN, SUN_RGB, SKY_RGB, GROUND_RGB, HORIZON, ZENITH = 0, 3, 6, 9, 12, 15
FOG_START, FOG_EXTINCTION, WETNESS, PUDDLES, NIGHT, CLOUDS, BRIGHTNESS = 18, 19, 20, 21, 22, 23, 24
LIGHT_SIZE = 25
"""Places in the light vector that `light.py` fills."""

STREET_RGB = (1.25, 0.98, 0.62)
"""Light on the ground under a street lamp."""

FINE_PIXEL_M = 0.25
"""Ground grain is drawn where a pixel covers less than this, so that it does not flicker."""

SHADOW_DEPTH = 0.78
"""Share of the sun (or of the sky light, under clouds a part of it) that a cast shadow takes away."""


class Surroundings(NamedTuple):
    """What lights a view."""

    light: np.ndarray
    """(LIGHT_SIZE,) float64"""
    noise: np.ndarray
    """(256, 256) float32"""
    ground: np.ndarray
    """(nx, ny, 2) uint8: share of the sun, share of the street lamps"""
    origin_m: np.ndarray
    """(2,) lower corner of the ground grid"""
    cell_m: float


def noise_texture() -> np.ndarray:
    """(256, 256) float32 in 0..1, tileable smooth noise of several octaves; always the same."""
    rng = np.random.default_rng(20240501)
    total = np.zeros((NOISE_SIZE, NOISE_SIZE))
    grid = np.arange(NOISE_SIZE)
    for cells, weight in ((8, 0.35), (16, 0.25), (32, 0.2), (64, 0.2), (128, 0.2)):
        values = rng.random((cells, cells))
        at = grid * cells / NOISE_SIZE
        i, f = at.astype(int), at - at.astype(int)
        f = f * f * (3 - 2 * f)
        j = (i + 1) % cells
        rows = values[i] * (1 - f)[:, None] + values[j] * f[:, None]
        total += weight * (rows[:, i] * (1 - f) + rows[:, j] * f)
    total -= total.min()
    return (total / total.max()).astype(np.float32)


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _noise(noise, u, v):
    """Bilinear look-up, one texel per unit."""
    iu, iv = math.floor(u), math.floor(v)
    fu, fv = u - iu, v - iv
    i0, j0 = int(iu) & 255, int(iv) & 255
    i1, j1 = (i0 + 1) & 255, (j0 + 1) & 255
    a = noise[i0, j0] + (noise[i0, j1] - noise[i0, j0]) * fv
    b = noise[i1, j0] + (noise[i1, j1] - noise[i1, j0]) * fv
    return a + (b - a) * fu


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _hash01(a, b, c):
    """Pseudo-random number in 0..1 of three integers."""
    h = (a * 73856093) ^ (b * 19349663) ^ (c * 83492791)
    h = (h ^ (h >> 13)) * 1274126177
    return ((h ^ (h >> 16)) & 1023) / 1023.0


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _grid_value(grid, origin, cell_m, channel, x, y):
    """Bilinear value 0..1 of a ground grid; the border value outside."""
    u = min(max((x - origin[0]) / cell_m - 0.5, 0.0), grid.shape[0] - 1.001)
    v = min(max((y - origin[1]) / cell_m - 0.5, 0.0), grid.shape[1] - 1.001)
    i, j = int(u), int(v)
    fu, fv = u - i, v - j
    a = grid[i, j, channel] * (1.0 - fv) + grid[i, j + 1, channel] * fv
    b = grid[i + 1, j, channel] * (1.0 - fv) + grid[i + 1, j + 1, channel] * fv
    return (a + (b - a) * fu) * (1.0 / 255.0)


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _sky(dx, dy, dz, light, noise):
    """Colour of the sky in a unit direction."""
    rise = min(1.0, max(0.0, dz))
    blend = 1.0 - (1.0 - rise) ** 3
    r = light[HORIZON] + (light[ZENITH] - light[HORIZON]) * blend
    g = light[HORIZON + 1] + (light[ZENITH + 1] - light[HORIZON + 1]) * blend
    b = light[HORIZON + 2] + (light[ZENITH + 2] - light[HORIZON + 2]) * blend
    if dz > 0.02:
        scale = 26.0 / (dz + 0.12)
        n = _noise(noise, dx * scale + 40.0, dy * scale + 17.0)
        cover = min(1.0, max(0.0, (n - 0.95 + 0.75 * light[CLOUDS]) * 3.0)) * min(1.0, dz * 6.0) * 0.8
        white = 0.35 * (light[HORIZON] + light[HORIZON + 1] + light[HORIZON + 2]) * (1.15 - 0.45 * light[CLOUDS])
        r += (white - r) * cover
        g += (white - g) * cover
        b += (white - b) * cover
    towards = dx * light[SUN] + dy * light[SUN + 1] + dz * light[SUN + 2]
    if towards > 0.0 and light[SUN + 2] > -0.05:
        glow = towards**64 * 0.5 * (1.0 - 0.8 * light[CLOUDS])
        if towards > 0.9993:
            glow += 2.0 * (1.0 - light[CLOUDS])
        r += glow * light[SUN_RGB]
        g += glow * light[SUN_RGB + 1]
        b += glow * light[SUN_RGB + 2]
    return r, g, b


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _window(x, y, z, nx, ny, style, night):
    """Window look-up on a facade: (kind, shade); kind 0 wall, 1 dark glass, 2 lit glass."""
    if style == 0:
        pitch, floor, wide, tall = 2.6, 3.1, 0.46, 0.5
    elif style == 1:
        pitch, floor, wide, tall = 3.4, 3.3, 0.8, 0.42
    elif style == 2:
        pitch, floor, wide, tall = 1.6, 3.5, 0.88, 0.84
    else:
        pitch, floor, wide, tall = 4.4, 3.0, 0.36, 0.45
    q, s = (nx * y - ny * x) / pitch, z / floor
    iq, i_s = math.floor(q), math.floor(s)
    fq, fs = q - iq, s - i_s
    if abs(fq - 0.5) > 0.5 * wide or abs(fs - 0.55) > 0.5 * tall:
        return 0, 1.0
    chance = _hash01(int(iq), int(i_s), int(nx * 7.0) + 3 * int(ny * 7.0))
    if night > 0.3 and chance > 0.72:
        return 2, chance
    return 1, 0.6 + 0.8 * chance


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _surface(x, y, z, pixel_m, nx, ny, nz, r, g, b, material, style, light, noise):  # noqa: PLR0913 - inlined
    """Albedo with the material's texture; the last value is added light (lit windows)."""
    glow = 0.0
    if material == ASPHALT:
        k = 0.775 + 0.45 * _noise(noise, x * 0.9 + 31.0, y * 0.9)
        if pixel_m < FINE_PIXEL_M:
            grain = noise[math.floor(x * 33.0) & 255, math.floor(y * 33.0) & 255]
            k += 0.4 * (grain - 0.5) * (1.0 - pixel_m / FINE_PIXEL_M)
        r, g, b = r * k, g * k, b * k
    elif material == MARKING:
        k = 0.82 + 0.3 * _noise(noise, x * 5.0, y * 5.0)
        r, g, b = r * k, g * k, b * k
    elif material == GRASS:
        hue = _noise(noise, x * 0.31, y * 0.31)
        k = 0.75 + 0.5 * hue
        if pixel_m < FINE_PIXEL_M:
            blade = noise[math.floor(x * 21.0) & 255, math.floor(y * 21.0) & 255]
            k += 0.7 * (blade - 0.5) * (1.0 - pixel_m / FINE_PIXEL_M)
        r, g, b = r * k * (0.8 + 0.4 * hue), g * k, b * k
    elif material == CONCRETE:
        k = 0.85 + 0.3 * _noise(noise, x * 2.3, y * 2.3)
        if pixel_m < 0.06:
            fx, fy = x / 1.5 - math.floor(x / 1.5), y / 1.5 - math.floor(y / 1.5)
            if fx < 0.03 or fy < 0.03:
                k *= 0.78
        r, g, b = r * k, g * k, b * k
    elif material == FACADE:
        k = 0.9 + 0.2 * _noise(noise, (nx * y - ny * x) * 0.8, z * 0.8)
        fade = min(1.0, max(0.0, 1.6 - 2.2 * pixel_m))
        kind, shade = _window(x, y, z, nx, ny, style, light[NIGHT])
        if kind == 2:
            r, g, b, glow = r + (0.9 - r) * fade, g + (0.62 - g) * fade, b + (0.3 - b) * fade, 0.55 * fade
        elif kind == 1:
            r = r * k * (1.0 - fade) + fade * shade * (0.03 + 0.16 * light[HORIZON])
            g = g * k * (1.0 - fade) + fade * shade * (0.04 + 0.17 * light[HORIZON + 1])
            b = b * k * (1.0 - fade) + fade * shade * (0.05 + 0.2 * light[HORIZON + 2])
        else:
            r, g, b = r * k, g * k, b * k
    elif material == FOLIAGE:
        k = 0.45 + 1.1 * _noise(noise, (x + z) * 3.0, (y - 0.7 * z) * 3.0)
        r, g, b = r * k, g * k, b * k
    return r, g, b, glow


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy", inline="always")
def _shade_point(  # noqa: PLR0913 - inlined
    r, g, b, nx, ny, nz, material, style, still, shadowed,
    depth, dx, dy, dz, eye, pixel, light, noise, ground, origin, cell_m,
):  # fmt: skip
    """Colour of the surface point at `depth` along the direction (dx, dy, dz), whose forward part is 1."""
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    distance = depth * length
    x, y, z = eye[0] + dx * depth, eye[1] + dy * depth, eye[2] + dz * depth
    if material != EMISSIVE:
        slant = max(0.15, abs(nx * dx + ny * dy + nz * dz) / length)
        r, g, b, glow = _surface(x, y, z, distance * pixel / slant, nx, ny, nz, r, g, b, material, style, light, noise)
        flat = nz > 0.7 and material in (ASPHALT, MARKING, CONCRETE)
        if flat or material == GRASS:
            dark = 1.0 - 0.45 * light[WETNESS]
            r, g, b = r * dark, g * dark, b * dark
        sun = max(0.0, nx * light[SUN] + ny * light[SUN + 1] + nz * light[SUN + 2])
        if material == FOLIAGE:
            sun = 0.35 + 0.65 * sun
        open_sky = 0.5 + 0.5 * nz
        if nz > 0.3 and still:
            sun *= _grid_value(ground, origin, cell_m, 0, x, y) if material != FACADE else 1.0
        if shadowed:
            sun *= 1.0 - SHADOW_DEPTH
            open_sky *= 0.5
        lamp = 0.0
        if light[NIGHT] > 0.0:
            lamp = light[NIGHT] * _grid_value(ground, origin, cell_m, 1, x, y) * (0.45 + 0.55 * abs(nz))
        lit_r = (
            light[SUN_RGB] * sun + light[GROUND_RGB] * (1 - open_sky) + light[SKY_RGB] * open_sky + STREET_RGB[0] * lamp
        )
        lit_g = light[SUN_RGB + 1] * sun + light[GROUND_RGB + 1] * (1 - open_sky) + light[SKY_RGB + 1] * open_sky
        lit_b = light[SUN_RGB + 2] * sun + light[GROUND_RGB + 2] * (1 - open_sky) + light[SKY_RGB + 2] * open_sky
        lit_g += STREET_RGB[1] * lamp
        lit_b += STREET_RGB[2] * lamp
        r = r * (lit_r + glow)
        g = g * (lit_g + glow)
        b = b * (lit_b + glow)
        cosine = abs(nx * dx + ny * dy + nz * dz) / length
        mirror = 0.0
        if flat and light[WETNESS] > 0.0:
            film = light[WETNESS] * 0.45
            if light[PUDDLES] > 0.0:
                pool = (_noise(noise, x * 0.45 + 7.0, y * 0.45 + 3.0) - 1.0 + 0.9 * light[PUDDLES]) * 6.0
                film = max(film, min(1.0, max(0.0, pool)))
            mirror = film * (0.02 + 0.6 * (1.0 - cosine) ** 5)
        elif material == PAINT:
            mirror = 0.04 + 0.4 * (1.0 - cosine) ** 4
        elif material == GLASS:
            mirror = 0.12 + 0.6 * (1.0 - cosine) ** 3
        if mirror > 0.0:
            r += (light[HORIZON] * 0.9 - r) * mirror
            g += (light[HORIZON + 1] * 0.9 - g) * mirror
            b += (light[HORIZON + 2] * 0.9 - b) * mirror
    haze = math.exp(-light[FOG_EXTINCTION] * max(0.0, distance - light[FOG_START]) - 0.0004 * distance)
    return (
        light[HORIZON] + (r - light[HORIZON]) * haze,
        light[HORIZON + 1] + (g - light[HORIZON + 1]) * haze,
        light[HORIZON + 2] + (b - light[HORIZON + 2]) * haze,
    )


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def shade_view(still_surfaces, body_surfaces, samples, view, surroundings, image):
    """Write the image (h, w, 4) from sample buffers (h * samples, w * samples); samples of one triangle share work.

    Surfaces (n, 8) hold colour, normal, material and style per triangle; ids count on from the still to the bodies'.
    """
    eye, axis, focal, _, inverse_depth, ids = view
    light, noise, ground, origin, cell_m = surroundings
    height, width = image.shape[:2]
    rows, columns = ids.shape
    step = 1.0 / focal
    pixel = step * samples
    still_count = len(still_surfaces)
    for row in range(height):
        for column in range(width):
            red = green = blue = 0.0
            first = ids[row * samples, column * samples]
            inverse = inverse_depth[row * samples, column * samples]
            parts = 1
            if samples == 2:
                i, j = 2 * row, 2 * column
                if ids[i, j + 1] != first or ids[i + 1, j] != first or ids[i + 1, j + 1] != first:
                    parts = 4
                else:
                    inverse = 0.25 * (
                        inverse + inverse_depth[i, j + 1] + inverse_depth[i + 1, j] + inverse_depth[i + 1, j + 1]
                    )
            for part in range(parts):
                share = 1.0
                if parts == 1:
                    tri = first
                    u = ((column + 0.5) * samples - 0.5 * columns) * step
                    v = (0.5 * rows - (row + 0.5) * samples) * step
                else:
                    i, j = 2 * row + part // 2, 2 * column + part % 2
                    tri, inverse = ids[i, j], inverse_depth[i, j]
                    seen = False
                    share = 0.0
                    for other in range(4):
                        if ids[2 * row + other // 2, 2 * column + other % 2] == tri:
                            seen = seen or other < part
                            share += 0.25
                    if seen:
                        continue
                    u = (j + 0.5 - 0.5 * columns) * step
                    v = (0.5 * rows - i - 0.5) * step
                dx = axis[0, 0] + u * axis[1, 0] + v * axis[2, 0]
                dy = axis[0, 1] + u * axis[1, 1] + v * axis[2, 1]
                dz = axis[0, 2] + u * axis[1, 2] + v * axis[2, 2]
                if tri < 0:
                    scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                    r, g, b = _sky(dx * scale, dy * scale, dz * scale, light, noise)
                else:
                    shadowed = (tri & SHADOW_BIT) != 0
                    k = tri & (SHADOW_BIT - 1)
                    still = k < still_count
                    if still:
                        r, g, b = still_surfaces[k, 0], still_surfaces[k, 1], still_surfaces[k, 2]
                        nx, ny, nz = still_surfaces[k, 3], still_surfaces[k, 4], still_surfaces[k, 5]
                        material, style = int(still_surfaces[k, 6]), int(still_surfaces[k, 7])
                    else:
                        k -= still_count
                        r, g, b = body_surfaces[k, 0], body_surfaces[k, 1], body_surfaces[k, 2]
                        nx, ny, nz = body_surfaces[k, 3], body_surfaces[k, 4], body_surfaces[k, 5]
                        material, style = int(body_surfaces[k, 6]), int(body_surfaces[k, 7])
                    r, g, b = _shade_point(
                        r, g, b, nx, ny, nz, material, style, still, shadowed,
                        1.0 / inverse, dx, dy, dz, eye, pixel, light, noise, ground, origin, cell_m,
                    )  # fmt: skip
                red += share * r
                green += share * g
                blue += share * b
            scale = light[BRIGHTNESS]
            image[row, column, 0] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, blue * scale))))
            image[row, column, 1] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, green * scale))))
            image[row, column, 2] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, red * scale))))
            image[row, column, 3] = 255
