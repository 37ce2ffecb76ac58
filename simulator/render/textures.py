"""Tileable grey textures that modulate the colours of surfaces, with their reduced copies (mip levels)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from simulator.render import mesh

SIDE = 512
"""Texels along each side of the finest level."""

LEVELS = 10
NEUTRAL = 128.0
"""Texel value that leaves a colour as it is."""

NO_TEXTURE, ASPHALT, GRASS, SLABS, LEAVES, PLASTER, BRICK, PAINTWORK, TILES, PANELS = range(10)

TILE_M = (1.0, 12.8, 9.6, 12.0, 6.0, 8.0, 3.2, 4.8, 4.8, 12.0)
"""Side of a tile on the surface, per texture."""


class Textures(NamedTuple):
    """All textures with all levels, as the shading kernel reads them."""

    texels: np.ndarray
    """(textures, texels of all levels) uint8, value / NEUTRAL is a factor"""
    offsets: np.ndarray
    """(LEVELS,) int64, first texel of a level"""
    tile_m: np.ndarray
    """(textures,) float64"""
    of_material: np.ndarray
    """(materials,) int64 texture of a material"""


@lru_cache(maxsize=4)
def make_textures(seed: int, contrast: float = 1.0) -> Textures:
    """All textures of a seed; `contrast` scales how far they differ from grey."""
    rng = np.random.default_rng(seed)
    makers = (_neutral, _asphalt, _grass, _slabs, _leaves, _plaster, _brick, _paintwork, _tiles, _panels)
    rows = [_pyramid(1.0 + contrast * (make(child) - 1.0)) for make, child in zip(makers, rng.spawn(10), strict=True)]
    sizes = [(SIDE >> level) ** 2 for level in range(LEVELS)]
    of_material = np.zeros(mesh.WALL + 1, np.int64)
    for material, texture in (
        (mesh.ASPHALT, ASPHALT), (mesh.MARKING, PAINTWORK), (mesh.CONCRETE, SLABS), (mesh.GRASS, GRASS),
        (mesh.FOLIAGE, LEAVES), (mesh.ROOF, TILES), (mesh.FACADE, PLASTER), (mesh.WALL, PLASTER),
    ):  # fmt: skip
        of_material[material] = texture
    return Textures(
        np.stack(rows), np.cumsum([0, *sizes[:-1]]).astype(np.int64), np.array(TILE_M, np.float64), of_material
    )


def _pyramid(factor: np.ndarray) -> np.ndarray:
    """All levels of a texture (SIDE, SIDE) with mean 1, one after the other, as uint8."""
    level, parts = factor / factor.mean(), []
    for _ in range(LEVELS):
        parts.append(np.clip(np.rint(level * NEUTRAL), 0, 255).astype(np.uint8).ravel())
        if len(level) > 1:
            level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])
    return np.concatenate(parts)


def smooth_noise(rng: np.random.Generator, side: int, octaves: tuple[tuple[int, float], ...]) -> np.ndarray:
    """(side, side) tileable noise around 0; an octave is (cells along the side, amplitude)."""
    total = np.zeros((side, side))
    grid = np.arange(side)
    for cells, weight in octaves:
        values = rng.random((cells, cells)) - 0.5
        at = grid * cells / side
        i, f = at.astype(int), at - at.astype(int)
        f = f * f * (3 - 2 * f)
        j = (i + 1) % cells
        rows = values[i] * (1 - f)[:, None] + values[j] * f[:, None]
        total += weight * (rows[:, i] * (1 - f) + rows[:, j] * f)
    return total


def _neutral(_: np.random.Generator) -> np.ndarray:
    return np.ones((SIDE, SIDE))


def _grain(rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Tileable speckles with standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma_px, mode="wrap")
    return noise / noise.std()


def _asphalt(rng: np.random.Generator) -> np.ndarray:
    """Aggregate, stains, mended patches with darker seams, and sealed cracks."""
    factor = 1.0 + 0.13 * _grain(rng, 0.8) + smooth_noise(rng, SIDE, ((6, 0.22), (16, 0.16), (48, 0.12)))
    for _ in range(3):
        size, at = rng.integers(50, 150, 2), rng.integers(0, SIDE, 2)
        patch = np.zeros((SIDE, SIDE))
        patch[: size[0], : size[1]] = 1.0
        rim = patch - ndimage.binary_erosion(patch, iterations=2)
        factor *= np.roll(1.0 + patch * rng.uniform(-0.16, 0.12) - 0.22 * rim, at, (0, 1))
    crack = np.zeros((SIDE, SIDE))
    for _ in range(4):
        steps = np.cumsum(rng.normal(0.0, 0.7, (260, 2)) + rng.normal(0.0, 0.6, 2), axis=0)
        cells = (steps + rng.integers(0, SIDE, 2)).astype(int) % SIDE
        crack[cells[:, 0], cells[:, 1]] = 1.0
    return np.clip(factor * (1.0 - 0.42 * ndimage.gaussian_filter(crack, 0.9, mode="wrap")), 0.35, 1.9)


def _grass(rng: np.random.Generator) -> np.ndarray:
    return np.clip(1.0 + 0.22 * _grain(rng, 1.0) + smooth_noise(rng, SIDE, ((8, 0.25), (24, 0.3), (80, 0.3))), 0.3, 1.9)


def _slabs(rng: np.random.Generator) -> np.ndarray:
    """Paving slabs of 1.5 m with dark joints."""
    slabs, wide = 8, SIDE // 8
    factor = np.kron(rng.uniform(0.92, 1.08, (slabs, slabs)), np.ones((wide, wide)))
    factor *= 1.0 + 0.04 * _grain(rng, 0.8) + smooth_noise(rng, SIDE, ((10, 0.12), (40, 0.1)))
    joint = np.arange(SIDE) % wide < 2
    factor[joint] *= 0.66
    factor[:, joint] *= 0.66
    return factor


def _leaves(rng: np.random.Generator) -> np.ndarray:
    return np.clip(1.0 + 0.30 * _grain(rng, 3.0) + 0.28 * _grain(rng, 7.0) + 0.12 * _grain(rng, 1.2), 0.25, 1.95)


def _plaster(rng: np.random.Generator) -> np.ndarray:
    streaks = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), (2.0, 30.0), mode="wrap")
    return 1.0 + 0.03 * _grain(rng, 0.9) + 0.04 * streaks / streaks.std() + smooth_noise(rng, SIDE, ((8, 0.14),))


def _brick(rng: np.random.Generator) -> np.ndarray:
    """Bricks of 0.2 m x 0.1 m (s runs along axis 0, t along axis 1), every other course shifted by half."""
    long, high = SIDE // 16, SIDE // 32
    s, t = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    course = t // high
    along = (s + (course % 2) * (long // 2)) % SIDE
    shade = rng.uniform(0.78, 1.2, (16, 32))[along // long, course]
    mortar = (along % long < 2) | (t % high < 2)
    return np.where(mortar, 1.28, shade) + 0.05 * _grain(rng, 0.8)


def _paintwork(rng: np.random.Generator) -> np.ndarray:
    """Road paint, worn in spots."""
    worn = smooth_noise(rng, SIDE, ((24, 1.0), (90, 0.9))) + 0.25 * _grain(rng, 0.8)
    return 1.0 - 0.45 * np.clip((worn - 0.42) * 4.0, 0.0, 1.0) + 0.03 * _grain(rng, 0.8)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    rows, columns = 16, 24
    s, t = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    row, column = t * rows // SIDE, s * columns // SIDE
    within = (t * rows / SIDE) % 1.0
    return rng.uniform(0.85, 1.12, (columns, rows))[column, row] * (0.8 + 0.35 * within) + 0.04 * _grain(rng, 0.9)


def _panels(rng: np.random.Generator) -> np.ndarray:
    """Storey-high concrete or metal panels."""
    wide, high = SIDE // 4, SIDE // 4
    factor = np.kron(rng.uniform(0.94, 1.06, (4, 4)), np.ones((wide, high)))
    factor[np.arange(SIDE) % wide < 2] *= 0.72
    factor[:, np.arange(SIDE) % high < 2] *= 0.72
    return factor + 0.02 * _grain(rng, 1.0)
