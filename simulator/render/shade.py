"""Shading of a visibility buffer: materials, sun, sky, fog, wetness, night. Linear RGB, written as gamma-2 BGRA.

A row of the image is cut into runs of pixels that show one triangle. Along a run the light, the fog and the
reflections are worked out at anchor columns and interpolated; only the surface's pattern is looked up per pixel.
Pixels whose samples show several triangles are shaded sample by sample.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from simulator.render.mesh import (
    ASPHALT,
    BRICK_WALL,
    CONCRETE,
    COTTAGE,
    EMISSIVE,
    FACADE,
    FOLIAGE,
    GLASS,
    GRASS,
    MARKING,
    PAINT,
    PANEL_WALL,
    ROOF,
    SHOP,
    WALL,
    WALL_SHIFT,
    WALL_STEP,
)
from simulator.render.raster import HOT, SHADOW_BIT
from simulator.render.textures import BRICK, LEVELS, NEUTRAL, NO_TEXTURE, PANELS, SIDE, Textures, smooth_noise

NOISE_SIZE = 256
SUN, SUN_RGB, SKY_RGB, GROUND_RGB, HORIZON, ZENITH = 0, 3, 6, 9, 12, 15
FOG_START, FOG_EXTINCTION, WETNESS, PUDDLES, NIGHT, CLOUDS, BRIGHTNESS, RAIN = 18, 19, 20, 21, 22, 23, 24, 25
LIGHT_SIZE = 26
"""Places in the light vector that `light.py` fills."""

STREET_RGB = (0.95, 0.76, 0.50)
"""Light on the ground under a street lamp."""

BEAM_RGB = (1.25, 1.2, 1.05)
"""Light on the ground before a car with its head lamps on."""

SHADOW_DEPTH = 0.78
"""Share of the sun (or of the sky light, under clouds a part of it) that a cast shadow takes away."""

EMISSION = 1.7
"""Brightness of a lamp's surface at colour 1."""

ANCHOR_STEP = 16
"""Columns between the anchors, a power of two; fewer where a pixel covers more ground."""

ANCHOR_SPAN_M, WALL_ANCHOR_SPAN_M = 0.8, 3.2
"""Farthest that anchors lie apart, on what shadows of the static scene fall on and on what they do not."""

_WINDOW_WIDE = (0.46, 0.84, 0.90, 0.36, 0.88, 0.0)
_WINDOW_TALL = (0.50, 0.46, 0.84, 0.42, 0.60, 0.0)
_WINDOW_RISE = (0.55, 0.55, 0.52, 0.55, 0.42, 0.5)
"""Share of the bay and of the storey a window takes, and where its middle is, per way of setting windows."""

_WINDOW_FRAME_M = 0.07
WINDOW_RGB = (0.62, 0.70, 0.36)
"""Light of a window at night: red, and green and blue as shares of it."""

GAIN, SHOULDER = np.float32(1.3), np.float32(0.6)
"""Exposure: linear x becomes GAIN x / (1 + SHOULDER x) before the gamma."""

_HORIZON_HAZE_PER_M = 0.0004


class Surroundings(NamedTuple):
    """What lights a view, and the patterns of surfaces."""

    light: np.ndarray
    """(LIGHT_SIZE,) float64"""
    noise: np.ndarray
    """(256, 256) float32"""
    textures: Textures
    ground: np.ndarray
    """(nx, ny, 2) uint8: share of the sun, share of the street lamps"""
    beams: np.ndarray
    """(nx, ny) uint8: share of the head lamps"""
    origin_m: np.ndarray
    """(2,) lower corner of the ground grids"""
    cell_m: float


def noise_texture() -> np.ndarray:
    """(256, 256) float32 in 0..1, tileable smooth noise of several octaves; always the same."""
    octaves = ((8, 0.35), (16, 0.25), (32, 0.2), (64, 0.2), (128, 0.2))
    total = smooth_noise(np.random.default_rng(20240501), NOISE_SIZE, octaves)
    total -= total.min()
    return (total / total.max()).astype(np.float32)


def developed(colour: np.ndarray) -> np.ndarray:
    """How bright 0..1 a lamp's surface of linear RGB (3,) comes out in an image, see `_develop`."""
    light = EMISSION * np.asarray(colour)
    return np.sqrt(np.clip(GAIN * light / (1.0 + SHOULDER * light), 0.0, 1.0))


@nb.njit(**HOT, inline="always")
def _noise(noise, u, v):
    """Bilinear look-up, one texel per unit."""
    iu, iv = math.floor(u), math.floor(v)
    fu, fv = u - iu, v - iv
    i0, j0 = int(iu) & 255, int(iv) & 255
    i1, j1 = (i0 + 1) & 255, (j0 + 1) & 255
    a = noise[i0, j0] + (noise[i0, j1] - noise[i0, j0]) * fv
    b = noise[i1, j0] + (noise[i1, j1] - noise[i1, j0]) * fv
    return a + (b - a) * fu


@nb.njit(**HOT, inline="always")
def _hash01(i, j, k):
    """Pseudo-random number in 0..1 of three integers; 31 bits, which numbers of any width agree on."""
    h = ((i * 73856093) ^ (j * 19349663) ^ (k * 83492791)) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    return ((h ^ (h >> 16)) & 1023) / 1023.0


@nb.njit(**HOT, inline="always")
def _clamp01(value):
    return min(1.0, max(0.0, value))


@nb.njit(**HOT, inline="always")
def _haze(depth):
    """Nearly exp(-depth), for an optical depth of at least 0."""
    share = max(0.0, 1.0 - depth * (1.0 / 32.0))
    share *= share
    share *= share
    share *= share
    share *= share
    return share * share


@nb.njit(**HOT, inline="always")
def _sky(dx, dy, dz, light, noise):
    """Colour of the sky in a unit direction."""
    rise = 1.0 - _clamp01(dz)
    blend = 1.0 - rise * rise * rise
    r = light[HORIZON] + (light[ZENITH] - light[HORIZON]) * blend
    g = light[HORIZON + 1] + (light[ZENITH + 1] - light[HORIZON + 1]) * blend
    b = light[HORIZON + 2] + (light[ZENITH + 2] - light[HORIZON + 2]) * blend
    if dz > 0.02:
        scale = 26.0 / (dz + 0.12)
        n = _noise(noise, dx * scale + 40.0, dy * scale + 17.0)
        cover = _clamp01((n - 0.95 + 0.75 * light[CLOUDS]) * 3.0) * min(1.0, dz * 6.0) * 0.8
        white = 0.35 * (light[HORIZON] + light[HORIZON + 1] + light[HORIZON + 2]) * (1.15 - 0.45 * light[CLOUDS])
        shade = white * (1.0 - 0.35 * _clamp01((n - 0.6) * 2.0) * light[CLOUDS])
        r += (shade - r) * cover
        g += (shade - g) * cover
        b += (shade - b) * cover
    towards = dx * light[SUN] + dy * light[SUN + 1] + dz * light[SUN + 2]
    if towards > 0.5 and light[SUN + 2] > -0.05:
        glow = towards * towards
        for _ in range(5):
            glow *= glow
        glow *= 0.5 * (1.0 - 0.8 * light[CLOUDS])
        glow += 2.0 * (1.0 - light[CLOUDS]) * _clamp01((towards - 0.9995) * 5000.0)
        r += glow * light[SUN_RGB]
        g += glow * light[SUN_RGB + 1]
        b += glow * light[SUN_RGB + 2]
    return r, g, b


@nb.njit(**HOT, inline="always")
def _light_at(  # noqa: PLR0913 - inlined
    x, y, z, ux, uy, uz, distance, nx, ny, nz, material, shadowed, eye_z, around
):  # fmt: skip
    """Light on a surface point seen along the unit direction u: (factors on its colour, colour added, clearness).

    A surface of colour c appears as c * factor + added; clearness is what the fog leaves of a lamp there.
    """
    light, noise, _, ground, beams, origin, cell_m = around
    haze = _haze(light[FOG_EXTINCTION] * max(0.0, distance - light[FOG_START]) + _HORIZON_HAZE_PER_M * distance)
    if material == EMISSIVE:
        fog = 1.0 - haze
        factor = EMISSION * haze
        return (
            factor, factor, factor, light[HORIZON] * fog, light[HORIZON + 1] * fog, light[HORIZON + 2] * fog, haze
        )  # fmt: skip
    u = min(max((x - origin[0]) / cell_m - 0.5, 0.0), ground.shape[0] - 1.001)
    v = min(max((y - origin[1]) / cell_m - 0.5, 0.0), ground.shape[1] - 1.001)
    i, j = int(u), int(v)
    fu, fv = u - i, v - j
    w00, w01, w10, w11 = (1.0 - fu) * (1.0 - fv), (1.0 - fu) * fv, fu * (1.0 - fv), fu * fv
    sun = max(0.0, nx * light[SUN] + ny * light[SUN + 1] + nz * light[SUN + 2])
    if material == FOLIAGE:
        sun = 0.35 + 0.65 * sun
    elif material != FACADE and material != WALL and material != ROOF:
        lit = (
            ground[i, j, 0] * w00
            + ground[i, j + 1, 0] * w01
            + ground[i + 1, j, 0] * w10
            + ground[i + 1, j + 1, 0] * w11
        )
        sun *= lit * (1.0 / 255.0)
    open_sky = 0.5 + 0.5 * nz
    if shadowed:
        sun *= 1.0 - SHADOW_DEPTH
        open_sky *= 0.5
    r = light[SUN_RGB] * sun + light[GROUND_RGB] * (1 - open_sky) + light[SKY_RGB] * open_sky
    g = light[SUN_RGB + 1] * sun + light[GROUND_RGB + 1] * (1 - open_sky) + light[SKY_RGB + 1] * open_sky
    b = light[SUN_RGB + 2] * sun + light[GROUND_RGB + 2] * (1 - open_sky) + light[SKY_RGB + 2] * open_sky
    night = light[NIGHT]
    if night > 0.0:
        lamp = (
            ground[i, j, 1] * w00
            + ground[i, j + 1, 1] * w01
            + ground[i + 1, j, 1] * w10
            + ground[i + 1, j + 1, 1] * w11
        )
        beam = beams[i, j] * w00 + beams[i, j + 1] * w01 + beams[i + 1, j] * w10 + beams[i + 1, j + 1] * w11
        lamp *= night * (0.45 + 0.55 * abs(nz)) * (1.0 / 255.0)
        beam *= night * (1.0 / 255.0) * (0.85 if nz < 0.7 else 1.0) * _clamp01(1.4 - 0.4 * (z - eye_z + 1.6))
        r += STREET_RGB[0] * lamp + BEAM_RGB[0] * beam
        g += STREET_RGB[1] * lamp + BEAM_RGB[1] * beam
        b += STREET_RGB[2] * lamp + BEAM_RGB[2] * beam
    cosine = -(nx * ux + ny * uy + nz * uz)
    flat = nz > 0.7 and material in (ASPHALT, MARKING, CONCRETE)
    if material == ASPHALT:
        tone = 0.86 + 0.28 * _noise(noise, x * 0.11 + 31.0, y * 0.11)
        r, g, b = r * tone, g * tone, b * tone
    elif material == GRASS:
        hue = _noise(noise, x * 0.09, y * 0.09)
        r, g, b = r * (0.65 + 0.7 * hue), g * (0.8 + 0.4 * hue), b * (0.8 + 0.4 * hue)
    if flat or material == GRASS:
        dark = 1.0 - (0.5 if flat else 0.3) * light[WETNESS]
        r, g, b = r * dark, g * dark, b * dark
    mirror = 0.0
    away = 1.0 - abs(cosine)
    if flat and light[WETNESS] > 0.0:
        film = light[WETNESS] * 0.5
        if light[PUDDLES] > 0.0:
            pool = (_noise(noise, x * 0.45 + 7.0, y * 0.45 + 3.0) - 1.0 + 0.9 * light[PUDDLES]) * 6.0
            film = max(film, _clamp01(pool))
        mirror = film * (0.03 + 0.65 * away * away * away * away)
    elif material == PAINT:
        mirror = 0.05 + 0.45 * away * away * away
    elif material == GLASS:
        mirror = 0.14 + 0.6 * away * away * away
    sr = sg = sb = 0.0
    if mirror > 0.0:
        rx, ry, rz = ux + 2.0 * cosine * nx, uy + 2.0 * cosine * ny, uz + 2.0 * cosine * nz
        rise = 1.0 - _clamp01(rz)
        blend = 1.0 - rise * rise * rise
        below = _clamp01(0.5 - 6.0 * rz) * 0.75 if not flat else 0.0
        sr = (light[HORIZON] + (light[ZENITH] - light[HORIZON]) * blend) * (1.0 - below) + light[
            GROUND_RGB
        ] * 0.3 * below
        sg = light[HORIZON + 1] + (light[ZENITH + 1] - light[HORIZON + 1]) * blend
        sb = light[HORIZON + 2] + (light[ZENITH + 2] - light[HORIZON + 2]) * blend
        sg = sg * (1.0 - below) + light[GROUND_RGB + 1] * 0.3 * below
        sb = sb * (1.0 - below) + light[GROUND_RGB + 2] * 0.3 * below
        shine = rx * light[SUN] + ry * light[SUN + 1] + rz * light[SUN + 2]
        if shine > 0.8 and not shadowed:
            shine *= shine
            shine *= shine
            shine *= shine
            shine *= shine * (0.0 if light[SUN + 2] < 0.0 else 1.5)
            sr, sg, sb = sr + shine * light[SUN_RGB], sg + shine * light[SUN_RGB + 1], sb + shine * light[SUN_RGB + 2]
    keep = (1.0 - mirror) * haze
    mirror *= haze
    fog = 1.0 - haze
    return (
        r * keep, g * keep, b * keep,
        sr * mirror + light[HORIZON] * fog, sg * mirror + light[HORIZON + 1] * fog,
        sb * mirror + light[HORIZON + 2] * fog, haze,
    )  # fmt: skip


@nb.njit(**HOT, inline="always")
def _texel(texels, texture, base, side, smooth, s, t):
    """Factor of a texture level that starts at `base`, interpolated if `smooth`; s and t count tiles."""
    mask = side - 1
    if not smooth:
        i, j = math.floor(s * side) & mask, math.floor(t * side) & mask
        return texels[texture, base + i * side + j] * (1.0 / NEUTRAL)
    u, v = s * side - 0.5, t * side - 0.5
    iu, iv = math.floor(u), math.floor(v)
    fu, fv = u - iu, v - iv
    i0, j0 = int(iu) & mask, int(iv) & mask
    i1, j1 = (i0 + 1) & mask, (j0 + 1) & mask
    i0, i1 = base + i0 * side, base + i1 * side
    a = texels[texture, i0 + j0] * (1.0 - fv) + texels[texture, i0 + j1] * fv
    b = texels[texture, i1 + j0] * (1.0 - fv) + texels[texture, i1 + j1] * fv
    return (a + (b - a) * fu) * (1.0 / NEUTRAL)


@nb.njit(**HOT, inline="always")
def _window(  # noqa: PLR0913 - inlined
    s, t, pitch_m, storey_m, per_bay, per_storey, windows, sharp, seed, night, r, g, b
):  # fmt: skip
    """Wall colour with the window, door or shop front at (s, t) metres blended in, and the light it gives."""
    iq, ir = math.floor(s * per_bay), math.floor(t * per_storey)
    q = s - (iq + 0.5) * pitch_m
    h = t - (ir + _WINDOW_RISE[windows]) * storey_m
    half_w, half_h = 0.5 * _WINDOW_WIDE[windows] * pitch_m, 0.5 * _WINDOW_TALL[windows] * storey_m
    chance = _hash01(int(iq), int(ir), seed)
    door = windows == COTTAGE and ir == 0 and chance > 0.62
    if door:
        half_w, half_h = 0.55, 1.1
        h = t - 1.1
    gap_w, gap_h = half_w - abs(q), half_h - abs(h)
    hole = _clamp01(gap_w * sharp + 0.5) * _clamp01(gap_h * sharp + 0.5)
    glow = 0.0
    if hole > 0.0:
        pane = _clamp01((gap_w - _WINDOW_FRAME_M) * sharp + 0.5) * _clamp01((gap_h - _WINDOW_FRAME_M) * sharp + 0.5)
        frame = 0.55 if seed & 1 else 0.10
        r, g, b = r + (frame - r) * hole, g + (frame - g) * hole, b + (frame - b) * hole
        if door:
            r, g, b = r + (0.22 * chance - r) * pane, g + (0.10 - g) * pane, b + (0.16 * (1 - chance) - b) * pane
        else:
            if night > 0.3 and chance > 0.66:
                glow = pane
            tint = (0.35 + 0.5 * chance) * (0.4 + 0.6 * _clamp01(0.5 + h / max(half_h, 0.1) * 0.5))
            r, g, b = r + (0.16 * tint - r) * pane, g + (0.20 * tint - g) * pane, b + (0.24 * tint - b) * pane
    elif windows == SHOP and t > 0.78 * storey_m and t < 0.96 * storey_m:
        tone = 0.12 + 0.3 * _hash01(seed, 7, 1)
        r, g, b = tone * (0.4 + 1.2 * _hash01(seed, 1, 5)), tone * (0.3 + _hash01(seed, 2, 3)), tone * 1.1
    return r, g, b, glow


@nb.njit(**HOT, inline="always")
def _pattern(table, k, of_material, tile_m):
    """How the pattern of triangle k lies: texture, style of its windows (or -1), number, and per axis of the pattern
    the direction on which positions are projected and the shift, both in tiles."""
    nx, ny, nz = table[k, 3], table[k, 4], table[k, 5]
    material, style = int(table[k, 6]), int(table[k, 7])
    texture = of_material[material]
    upright = abs(nz) < 0.95 and material in (FACADE, WALL, ROOF, CONCRETE)
    ax, ay, az, a0, cx, cy, cz, c0 = 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0
    if upright:
        level_out = 1.0 / math.sqrt(nx * nx + ny * ny)
        ax, ay, a0 = -ny * level_out, nx * level_out, -table[k, 9]
        cx, cy, cz, c0 = 0.0, 0.0, 1.0, -table[k, 8]
        if material in (FACADE, WALL):
            wall = style >> WALL_SHIFT
            texture = BRICK if wall == BRICK_WALL else (PANELS if wall == PANEL_WALL else texture)
    elif material == FOLIAGE and abs(nz) < 0.7:
        # From the side: along the horizontal axis that is seen more, and up.
        if abs(nx) > abs(ny):
            ax, ay = 0.0, 1.0
        cx, cy, cz = 0.0, 0.0, 1.0
    windows = style & (WALL_STEP - 1)
    if material != FACADE or windows > SHOP or not upright:
        windows = -1
    seed = int(table[k, 8] * 7.0) + 13 * int(abs(table[k, 9]) * 3.0)
    scale = 1.0 / tile_m[texture]
    return (
        texture, windows, seed, ax * scale, ay * scale, az * scale, a0 * scale,
        cx * scale, cy * scale, cz * scale, c0 * scale,
    )  # fmt: skip


@nb.njit(**HOT, inline="always")
def _level(tile, footprint_m):
    """Coarsest level of a texture whose texels are not much larger than what a pixel covers."""
    level, texel_m = 0, 1.3 * tile / SIDE
    while texel_m < footprint_m and level < LEVELS - 1:
        level += 1
        texel_m *= 2.0
    return level


@nb.njit(**HOT)
def _shade_run(table, k, shadowed, depths, direction, span, out, frame, around):  # noqa: PLR0913 - hot path
    """Add the colours of the pixels that show triangle k of `table` to the row `out` (3, width).

    `span` is the first column and the number of pixels; `depths` are 1/depth in the middle of the first pixel and its
    change per pixel; `direction` is that of the first pixel, right and up in units of the forward axis.
    """
    (inverse, slope), (u0, v), (column, count) = depths, direction, span
    eye_x, eye_y, eye_z, axis, pixel = frame
    light, _, textures, _, _, _, _ = around
    texels, offsets, tile_m, of_material = textures
    r, g, b = table[k, 0], table[k, 1], table[k, 2]
    nx, ny, nz = table[k, 3], table[k, 4], table[k, 5]
    material = int(table[k, 6])
    bx = axis[0, 0] + u0 * axis[1, 0] + v * axis[2, 0]
    by = axis[0, 1] + u0 * axis[1, 1] + v * axis[2, 1]
    bz = axis[0, 2] + u0 * axis[1, 2] + v * axis[2, 2]
    sx, sy, sz = pixel * axis[1, 0], pixel * axis[1, 1], pixel * axis[1, 2]
    texture, windows, seed, ax, ay, az, a0, cx, cy, cz, c0 = _pattern(table, k, of_material, tile_m)
    se, te = ax * eye_x + ay * eye_y + az * eye_z + a0, cx * eye_x + cy * eye_y + cz * eye_z + c0
    sb, tb = ax * bx + ay * by + az * bz, cx * bx + cy * by + cz * bz
    ss, ts = ax * sx + ay * sy + az * sz, cx * sx + cy * sy + cz * sz
    pitch_m, storey_m = table[k, 10], table[k, 11]
    per_bay, per_storey = (1.0 / pitch_m, 1.0 / storey_m) if windows >= 0 else (0.0, 0.0)
    tile, night = tile_m[texture], light[NIGHT]

    span_m = WALL_ANCHOR_SPAN_M if material in (FACADE, WALL, ROOF) else ANCHOR_SPAN_M
    # The light is worked out at anchors; a segment reaches from the last one (a, b) to this one (e, f).
    place, stop, begun = 0, 0, False
    ar = ag = ab = br = bg = bb = 0.0
    footprint_m = 0.0
    while place < count:
        px, py, pz = bx + stop * sx, by + stop * sy, bz + stop * sz
        depth = 1.0 / (inverse + stop * slope)
        length = math.sqrt(px * px + py * py + pz * pz)
        ux, uy, uz = px / length, py / length, pz / length
        er, eg, eb, fr, fg, fb, haze = _light_at(
            eye_x + px * depth, eye_y + py * depth, eye_z + pz * depth, ux, uy, uz, depth * length,
            nx, ny, nz, material, shadowed, eye_z, around,
        )  # fmt: skip
        slant = max(0.02, abs(nx * ux + ny * uy + nz * uz))
        next_footprint_m = pixel * length * depth / math.sqrt(slant)
        if count == 1:
            ar, ag, ab, br, bg, bb, footprint_m = er, eg, eb, fr, fg, fb, next_footprint_m
        if begun or count == 1:
            f = 1.0 / max(stop - place, 1)
            dar, dag, dab = (er - ar) * f, (eg - ag) * f, (eb - ab) * f
            dbr, dbg, dbb = (fr - br) * f, (fg - bg) * f, (fb - bb) * f
            # The last segment takes the pixel of its end anchor along.
            end = stop if stop < count - 1 else count
            if texture == NO_TEXTURE:
                for c in range(place, end):
                    f = c - place
                    out[0, column + c] += r * (ar + f * dar) + br + f * dbr
                    out[1, column + c] += g * (ag + f * dag) + bg + f * dbg
                    out[2, column + c] += b * (ab + f * dab) + bb + f * dbb
            else:
                level, sharp = _level(tile, footprint_m), 1.0 / max(footprint_m, 1e-4)
                # Only a magnified pattern needs interpolation: elsewhere a pixel is about as large as a texel.
                base, side, smooth = offsets[level], SIDE >> level, level == 0
                for c in range(place, end):
                    f = c - place
                    far = 1.0 / (inverse + c * slope)
                    s, t = se + far * (sb + c * ss), te + far * (tb + c * ts)
                    factor = _texel(texels, texture, base, side, smooth, s, t)
                    qr, qg, qb, glow = r * factor, g * factor, b * factor, 0.0
                    if windows >= 0:
                        qr, qg, qb, glow = _window(
                            s * tile, t * tile, pitch_m, storey_m, per_bay, per_storey, windows, sharp, seed, night,
                            qr, qg, qb,
                        )  # fmt: skip
                        glow *= haze * WINDOW_RGB[0]
                    out[0, column + c] += qr * (ar + f * dar) + br + f * dbr + glow
                    out[1, column + c] += qg * (ag + f * dag) + bg + f * dbg + WINDOW_RGB[1] * glow
                    out[2, column + c] += qb * (ab + f * dab) + bb + f * dbb + WINDOW_RGB[2] * glow
            place = end
        ar, ag, ab, br, bg, bb, footprint_m = er, eg, eb, fr, fg, fb, next_footprint_m
        begun = True
        # How far the surface point moves from one pixel to the next.
        mx, my, mz = sx - px * slope * depth, sy - py * slope * depth, sz - pz * slope * depth
        moved_m = depth * math.sqrt(mx * mx + my * my + mz * mz)
        step = ANCHOR_STEP
        while moved_m * step > span_m and step > 2:
            step >>= 1
        stop = min(((column + place) | (step - 1)) + 1 - column, count - 1)


@nb.njit(**HOT)
def _shade_points(surfaces, count, parts, rays, out, frame, around):
    """Add samples of pixels that show several triangles to the row `out` (3, width).

    The first `count` of `parts` (n, 3) hold column, id and the table of `surfaces` the id counts in; those of `rays`
    (n, 4) the share of the pixel, 1/depth, and the direction right and up in units of the forward axis.
    """
    eye_x, eye_y, eye_z, axis, pixel = frame
    light, noise, textures, _, _, _, _ = around
    texels, offsets, tile_m, of_material = textures
    night = light[NIGHT]
    still_surfaces, body_surfaces = surfaces
    for n in range(count):
        column, tri, moving = parts[n, 0], parts[n, 1], parts[n, 2]
        share, inverse, u, v = rays[n, 0], rays[n, 1], rays[n, 2], rays[n, 3]
        px = axis[0, 0] + u * axis[1, 0] + v * axis[2, 0]
        py = axis[0, 1] + u * axis[1, 1] + v * axis[2, 1]
        pz = axis[0, 2] + u * axis[1, 2] + v * axis[2, 2]
        length = math.sqrt(px * px + py * py + pz * pz)
        ux, uy, uz = px / length, py / length, pz / length
        if tri < 0:
            r, g, b = _sky(ux, uy, uz, light, noise)
            out[0, column] += share * r
            out[1, column] += share * g
            out[2, column] += share * b
            continue
        k, shadowed = tri & (SHADOW_BIT - 1), (tri & SHADOW_BIT) != 0
        table = body_surfaces if moving else still_surfaces
        r, g, b = table[k, 0], table[k, 1], table[k, 2]
        nx, ny, nz = table[k, 3], table[k, 4], table[k, 5]
        material = int(table[k, 6])
        depth = 1.0 / inverse
        x, y, z = eye_x + px * depth, eye_y + py * depth, eye_z + pz * depth
        ar, ag, ab, br, bg, bb, haze = _light_at(
            x, y, z, ux, uy, uz, depth * length, nx, ny, nz, material, shadowed, eye_z, around,
        )  # fmt: skip
        texture, windows, seed, ax, ay, az, a0, cx, cy, cz, c0 = _pattern(table, k, of_material, tile_m)
        glow = 0.0
        if texture != NO_TEXTURE:
            s, t = ax * x + ay * y + az * z + a0, cx * x + cy * y + cz * z + c0
            tile = tile_m[texture]
            slant = max(0.02, abs(nx * ux + ny * uy + nz * uz))
            footprint_m = pixel * length * depth / math.sqrt(slant)
            level = _level(tile, footprint_m)
            factor = _texel(texels, texture, offsets[level], SIDE >> level, level == 0, s, t)
            r, g, b = r * factor, g * factor, b * factor
            if windows >= 0:
                pitch_m, storey_m = table[k, 10], table[k, 11]
                r, g, b, glow = _window(
                    s * tile, t * tile, pitch_m, storey_m, 1.0 / pitch_m, 1.0 / storey_m, windows,
                    1.0 / max(footprint_m, 1e-4), seed, night, r, g, b,
                )  # fmt: skip
                glow *= haze * WINDOW_RGB[0]
        out[0, column] += share * (r * ar + br + glow)
        out[1, column] += share * (g * ag + bg + WINDOW_RGB[1] * glow)
        out[2, column] += share * (b * ab + bb + WINDOW_RGB[2] * glow)


@nb.njit(**HOT)
def _sky_run(direction, span, out, frame, around):
    """Add the sky's colours to the row `out` (3, width); `direction` and `span` as in `_shade_run`."""
    (u0, v), (column, count) = direction, span
    _, _, _, axis, pixel = frame
    light, noise = around[0], around[1]
    step = 8 if pixel < 0.004 else 4
    place = 0
    ar = ag = ab = 0.0
    while place < count:
        stop = min(((column + place) | (step - 1)) + 1 - column, count - 1)
        part = max(stop - place, 1)
        er = eg = eb = 0.0
        for anchor in range(2):
            if (anchor == 0 and place > 0) or (anchor == 1 and stop == place):
                continue
            u = u0 + pixel * (stop if anchor else place)
            dx = axis[0, 0] + u * axis[1, 0] + v * axis[2, 0]
            dy = axis[0, 1] + u * axis[1, 1] + v * axis[2, 1]
            dz = axis[0, 2] + u * axis[1, 2] + v * axis[2, 2]
            scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            er, eg, eb = _sky(dx * scale, dy * scale, dz * scale, light, noise)
            if anchor == 0:
                ar, ag, ab = er, eg, eb
        f = 1.0 / part
        dr, dg, db = (er - ar) * f, (eg - ag) * f, (eb - ab) * f
        end = place + part if stop < count - 1 else count
        for c in range(place, end):
            out[0, column + c] += ar + (c - place) * dr
            out[1, column + c] += ag + (c - place) * dg
            out[2, column + c] += ab + (c - place) * db
        ar, ag, ab = er, eg, eb
        place = end


@nb.njit(**HOT, inline="always")
def _whole(ids, row, column, samples):
    """The id that all samples of a pixel show, or a number below NOTHING where they differ."""
    i, j = row * samples, column * samples
    first = ids[i, j]
    for a in range(samples):
        for b in range(samples):
            if ids[i + a, j + b] != first:
                return -2
    return first


@nb.njit(**HOT, inline="always")
def _middle(inverse_depth, row, column, samples):
    """1/depth in the middle of a pixel that shows one triangle."""
    i, j, far = row * samples, column * samples, samples - 1
    if samples == 1:
        return inverse_depth[i, j]
    return 0.25 * (
        inverse_depth[i, j] + inverse_depth[i, j + far] + inverse_depth[i + far, j] + inverse_depth[i + far, j + far]
    )


@nb.njit(**HOT)
def shade_view(still_surfaces, body_surfaces, samples, view, around, image, scratch, pairs):
    """Write a band (h, w) uint32 of BGRA bytes from sample buffers (h * samples, w * samples).

    Surfaces (n, SURFACE_SIZE) are those of `mesh.TileMesh`; ids count on from the still to the bodies'. `scratch` is
    that of `scratch_of`; `pairs` are the ids of two samples side by side as one number, used with 2 x 2 samples only.
    """
    out, parts, rays = scratch
    eye, axis, focal, _, top, full_rows, inverse_depth, ids = view
    height, width = image.shape
    pixel = samples / focal
    frame = (eye[0], eye[1], eye[2], axis, pixel)
    still_count = len(still_surfaces)
    out[:] = 0.0
    # The casts keep one type per argument, or each helper would be compiled several times.
    weight = 1.0 / (samples * samples)
    for row in range(height):
        v = (0.5 * full_rows - top - (row + 0.5) * samples) / focal
        column = 0
        mixed = 0
        while column < width:
            first = _whole(ids, row, column, samples)
            if first < -1:
                for part in range(samples * samples):
                    i, j = row * samples + part // samples, column * samples + part % samples
                    tri = ids[i, j]
                    share = 0.0
                    seen = False
                    for other in range(samples * samples):
                        if ids[row * samples + other // samples, column * samples + other % samples] == tri:
                            seen = seen or other < part
                            share += weight
                    if seen:
                        continue
                    moving = tri >= 0 and (tri & (SHADOW_BIT - 1)) >= still_count
                    parts[mixed, 0], parts[mixed, 1] = column, tri - still_count if moving else tri
                    parts[mixed, 2] = moving
                    rays[mixed, 0], rays[mixed, 1] = share, inverse_depth[i, j]
                    rays[mixed, 2] = (j + 0.5) / focal - 0.5 * width * pixel
                    rays[mixed, 3] = (0.5 * full_rows - top - i - 0.5) / focal
                    mixed += 1
                column += 1
                continue
            end = column + 1
            if samples == 2:
                both = pairs[2 * row, column]
                while end < width and pairs[2 * row, end] == both and pairs[2 * row + 1, end] == both:
                    end += 1
            else:
                while end < width and _whole(ids, row, end, samples) == first:
                    end += 1
            span = (np.int64(column), np.int64(end - column))
            u = (column + 0.5 - 0.5 * width) * pixel
            if first < 0:
                _sky_run((u, v), span, out, frame, around)
            else:
                k, shadowed = first & (SHADOW_BIT - 1), (first & SHADOW_BIT) != 0
                inverse = _middle(inverse_depth, row, column, samples)
                slope = 0.0
                if end - column > 1:
                    slope = (_middle(inverse_depth, row, end - 1, samples) - inverse) / (end - column - 1)
                table = still_surfaces if k < still_count else body_surfaces
                k = k if k < still_count else k - still_count
                depth = (np.float64(inverse), np.float64(slope))
                _shade_run(table, np.int64(k), shadowed, depth, (u, v), span, out, frame, around)
            column = end
        if mixed:
            _shade_points((still_surfaces, body_surfaces), mixed, parts, rays, out, frame, around)
        _develop(out, image[row], np.float32(around[0][BRIGHTNESS]))


def scratch_of(width: int, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for a row of `shade_view`: colours, and the samples of pixels that show several triangles."""
    most = width * samples * samples
    return np.empty((3, width), np.float32), np.empty((most, 3), np.int64), np.empty((most, 4), np.float64)


@nb.njit(**HOT)
def _develop(out, pixels, brightness):
    """Turn a row of linear RGB into BGRA bytes with a soft shoulder and gamma 2, and clear it."""
    one, half, top = np.float32(1.0), np.float32(0.5), np.float32(255.0)
    zero = np.float32(0.0)
    for c in range(len(pixels)):
        r, g, b = out[0, c] * brightness, out[1, c] * brightness, out[2, c] * brightness
        r, g, b = GAIN * r / (one + SHOULDER * r), GAIN * g / (one + SHOULDER * g), GAIN * b / (one + SHOULDER * b)
        red = np.uint32(top * np.sqrt(min(one, max(zero, r))) + half)
        green = np.uint32(top * np.sqrt(min(one, max(zero, g))) + half)
        blue = np.uint32(top * np.sqrt(min(one, max(zero, b))) + half)
        pixels[c] = blue | (green << np.uint32(8)) | (red << np.uint32(16)) | np.uint32(0xFF000000)
    out[:] = zero
