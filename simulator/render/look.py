"""Randomised looks for training: colours, patterns and light that follow from one seed. Seed 0 changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.render import mesh, shade

TEXTURE_SEED = 20240601
NO_LOOK = 0

_TINTED = (
    mesh.ASPHALT, mesh.CONCRETE, mesh.GRASS, mesh.FACADE, mesh.WALL, mesh.PLAIN, mesh.FOLIAGE, mesh.ROOF,
)  # fmt: skip
"""Materials whose colours vary; paint, markings and lamps keep theirs, they mean something."""


@dataclass(frozen=True)
class Look:
    """How a world's look differs from the usual."""

    seed: int
    texture_seed: int
    texture_contrast: float
    tints: np.ndarray
    """(materials, 3) factors on linear colours"""
    sun: np.ndarray
    """(3,) factors on the sun's light"""
    sky: np.ndarray
    """(3,) factors on the sky's light and colour"""
    brightness: float

    @staticmethod
    def draw(seed: int) -> Look:
        """The look of a seed; `NO_LOOK` is the usual one."""
        tints, one = np.ones((mesh.WALL + 1, 3)), np.ones(3)
        if seed == NO_LOOK:
            return Look(seed, TEXTURE_SEED, 1.0, tints, one, one, 1.0)
        rng = np.random.default_rng(seed)
        for material in _TINTED:
            tints[material] = rng.uniform(0.7, 1.3) * rng.uniform(0.88, 1.12, 3)
        warmth = rng.uniform(-0.12, 0.12)
        return Look(
            seed=seed,
            texture_seed=int(rng.integers(1 << 31)),
            texture_contrast=float(rng.uniform(0.4, 1.5)),
            tints=tints,
            sun=np.array([1.0 + warmth, 1.0, 1.0 - warmth]) * rng.uniform(0.8, 1.2),
            sky=rng.uniform(0.88, 1.12) * rng.uniform(0.94, 1.06, 3),
            brightness=float(rng.uniform(0.82, 1.2)),
        )

    def tint(self, surfaces: np.ndarray) -> np.ndarray:
        """Surfaces (n, SURFACE_SIZE) with tinted colours."""
        if self.seed == NO_LOOK:
            return surfaces
        tinted = surfaces.copy()
        tinted[:, :3] = np.minimum(surfaces[:, :3] * self.tints[surfaces[:, 6].astype(int)], 0.95)
        return tinted

    def relight(self, light: np.ndarray) -> np.ndarray:
        """A light vector with changed sun, sky and brightness."""
        changed = light.copy()
        changed[shade.SUN_RGB : shade.SUN_RGB + 3] *= self.sun
        for first in (shade.SKY_RGB, shade.GROUND_RGB, shade.HORIZON, shade.ZENITH):
            changed[first : first + 3] *= self.sky
        changed[shade.BRIGHTNESS] *= self.brightness
        return changed
