"""How a town looks beside its roads: its style, what stands where, and the edges things are placed along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.render.lanes import Section
from simulator.render.terrain import CELL_M, Land

WALLS = (
    (0.42, 0.33, 0.25), (0.34, 0.17, 0.12), (0.48, 0.45, 0.40), (0.26, 0.27, 0.29), (0.55, 0.50, 0.38),
    (0.36, 0.40, 0.44), (0.50, 0.38, 0.30), (0.20, 0.22, 0.26), (0.58, 0.57, 0.55), (0.30, 0.22, 0.18),
    (0.50, 0.42, 0.22), (0.32, 0.42, 0.34), (0.46, 0.28, 0.24), (0.28, 0.34, 0.46),
)  # fmt: skip
ROOFS = (
    (0.22, 0.09, 0.06), (0.10, 0.10, 0.11), (0.20, 0.14, 0.10), (0.09, 0.13, 0.12), (0.28, 0.13, 0.08),
    (0.14, 0.15, 0.18),
)  # fmt: skip
TREE_KINDS = ("broadleaf", "round", "conifer", "poplar", "birch", "palm")


@dataclass(frozen=True)
class TownStyle:
    """How a town looks; drawn from its seed."""

    grass: tuple[float, float, float]
    walls: np.ndarray
    roofs: np.ndarray
    brick_share: float
    shop_share: float
    balcony_share: float
    gap_m: float
    setback_m: float
    tower_share: float
    house_share: float
    tree_spacing_m: float
    tree_shares: np.ndarray
    """(len(TREE_KINDS),) probabilities"""
    leaf_rgb: np.ndarray
    """(3,) usual colour of leaves"""
    bush_spacing_m: float
    fence_share: float
    fence_kind: int
    parked_spacing_m: float
    asphalt: float
    """Brightness of the asphalt relative to the usual"""

    @staticmethod
    def draw(rng: np.random.Generator) -> TownStyle:
        """A style from the generator."""
        dry = rng.uniform(0.0, 1.0)
        return TownStyle(
            grass=(0.070 + 0.075 * dry, 0.115 + 0.015 * dry, 0.035 + 0.01 * dry),
            walls=np.array(WALLS)[rng.permutation(len(WALLS))[:7]],
            roofs=np.array(ROOFS)[rng.permutation(len(ROOFS))[:3]],
            brick_share=float(rng.uniform(0.1, 0.7)),
            shop_share=float(rng.uniform(0.3, 0.9)),
            balcony_share=float(rng.uniform(0.0, 0.6)),
            gap_m=float(rng.uniform(1.5, 12.0)),
            setback_m=float(rng.uniform(2.5, 7.0)),
            tower_share=float(rng.uniform(0.0, 0.35)),
            house_share=float(rng.uniform(0.1, 0.7)),
            tree_spacing_m=float(rng.uniform(10.0, 24.0)),
            tree_shares=_tree_shares(rng, dry),
            leaf_rgb=np.array([0.060, 0.120, 0.030]) + dry * np.array([0.045, 0.010, 0.005]),
            bush_spacing_m=float(rng.uniform(9.0, 30.0)),
            fence_share=float(rng.uniform(0.1, 0.7)),
            fence_kind=int(rng.integers(3)),
            parked_spacing_m=float(rng.uniform(90.0, 260.0)),
            asphalt=float(rng.uniform(0.82, 1.22)),
        )


def _tree_shares(rng: np.random.Generator, dry: float) -> np.ndarray:
    """Two to four kinds of trees; palms only where it is dry."""
    weights = rng.exponential(1.0, len(TREE_KINDS)) ** 1.5
    weights[TREE_KINDS.index("palm")] *= 1.5 if dry > 0.7 else 0.0
    return weights / weights.sum()


class Obstacles:
    """Heights above ground of what stands on the land, for spacing and for cast shadows."""

    def __init__(self, land: Land) -> None:
        self.land = land
        self.height_m = np.zeros(land.clearance_m.shape, np.float32)

    def fits(self, points: np.ndarray, clearance_m: float) -> bool:
        """Whether all points (n, 2) are far enough from lanes and not built over."""
        if (self.land.clearance_at(points[:, 0], points[:, 1]) < clearance_m).any():
            return False
        i, j = self._cells(points)
        return not self.height_m[i, j].any()

    def raise_to(self, points: np.ndarray, height_m: float) -> None:
        """Set at least this height in the cells of the points."""
        i, j = self._cells(points)
        np.maximum.at(self.height_m, (i, j), np.float32(height_m))

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = np.floor((points[:, :2] - self.land.origin_m) / CELL_M).astype(int)
        shape = self.land.clearance_m.shape
        return np.clip(cells[:, 0], 0, shape[0] - 1), np.clip(cells[:, 1], 0, shape[1] - 1)


@dataclass(frozen=True)
class Frontage:
    """The outer edge of a road side, with unit vectors pointing away from the road."""

    points: np.ndarray
    outward: np.ndarray
    along_m: np.ndarray
    road_type: str
    sidewalk: bool
    """Whether a sidewalk lies along it"""

    def at(self, along_m: float) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and outward direction (2,) at a distance along the edge."""
        point = np.array([np.interp(along_m, self.along_m, self.points[:, k]) for k in range(3)])
        out = np.array([np.interp(along_m, self.along_m, self.outward[:, k]) for k in range(2)])
        return point, out / max(float(np.linalg.norm(out)), 1e-9)


def frontages(sections: Sequence[Section]) -> list[Frontage]:
    """Both outer edges of every section outside junctions."""
    found = []
    for section in sections:
        if not section.in_junction:
            found += [_frontage(section, 0, 1), _frontage(section, -1, -2)]
    return found


def kerbs(sections: Sequence[Section]) -> list[Frontage]:
    """The edges beside the outermost lanes that are not sidewalks, outside junctions."""
    found = []
    for section in sections:
        paved = [k for k, kind in enumerate(section.lane_types) if kind != "sidewalk"]
        if paved and not section.in_junction:
            found += [_frontage(section, paved[0], paved[0] + 1), _frontage(section, paved[-1] + 1, paved[-1])]
    return found


def _frontage(section: Section, edge: int, inner: int) -> Frontage:
    points = section.boundaries[edge]
    out = (points - section.boundaries[inner])[:, :2]
    out = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    steps = np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1)
    lane = min(edge, inner) if edge >= 0 else len(section.lane_types) - 1
    beside = section.lane_types[lane] == "sidewalk"
    return Frontage(points, out, np.r_[0.0, np.cumsum(steps)], section.road_type, beside)


def rectangle(centre: np.ndarray, out: np.ndarray, depth: float, width: float) -> np.ndarray:
    """Points (n, 2) that cover a turned rectangle at least every 0.8 m; `depth` runs along the unit vector `out`."""
    u = np.linspace(-depth / 2.0, depth / 2.0, max(2, math.ceil(depth / 0.8)))
    v = np.linspace(-width / 2.0, width / 2.0, max(2, math.ceil(width / 0.8)))
    across = np.array([-out[1], out[0]])
    return (centre + u[:, None, None] * out + v[None, :, None] * across).reshape(-1, 2)
