"""Trees of several kinds, bushes and hedges beside the roads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simulator import labels
from simulator.render.mesh import FOLIAGE, MIDDLE, PLAIN, Colour, MeshBuilder
from simulator.render.scenery import TREE_KINDS, Frontage, Obstacles, TownStyle

TREE_CLEARANCE_M = 1.6
BUSH_CLEARANCE_M = 1.2
TRUNK, BIRCH_BARK, PALM_BARK = (0.09, 0.06, 0.04), (0.42, 0.41, 0.38), (0.16, 0.12, 0.08)
_CROSS = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], float)


def add_trees(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Trees near the road edges and scattered behind; returns their number."""
    count = 0
    for edge in edges:
        kind = TREE_KINDS[int(rng.choice(len(TREE_KINDS), p=style.tree_shares))]
        cursor = rng.uniform(0.0, style.tree_spacing_m)
        while cursor < edge.along_m[-1]:
            point, out = edge.at(cursor)
            near = rng.random() < 0.7
            xy = point[:2] + out * (rng.uniform(2.2, 5.0) if near else rng.uniform(6.0, 40.0))
            cursor += style.tree_spacing_m * rng.uniform(0.5, 1.5)
            if rng.random() < 0.4:
                kind = TREE_KINDS[int(rng.choice(len(TREE_KINDS), p=style.tree_shares))]
            if obstacles.fits(xy[None] + _CROSS, TREE_CLEARANCE_M):
                z = float(obstacles.land.height_m(xy[0], xy[1])[0])
                with mesh.whole(labels.VEGETATION) as tree:
                    _add_tree(mesh, np.array([*xy, z]), kind, style, rng)
                if tree.kept:
                    obstacles.raise_to(xy[None] + _CROSS * 1.4, 4.5)
                    count += 1
    return count


def add_bushes(
    mesh: MeshBuilder, edges: Sequence[Frontage], obstacles: Obstacles, style: TownStyle, rng: np.random.Generator
) -> int:
    """Single bushes and short hedges on the grass; returns their number."""
    count = 0
    for edge in edges:
        cursor = rng.uniform(0.0, style.bush_spacing_m)
        while cursor < edge.along_m[-1]:
            point, out = edge.at(cursor)
            cursor += style.bush_spacing_m * rng.uniform(0.4, 1.6)
            xy = point[:2] + out * rng.uniform(1.6, 7.0)
            if not obstacles.fits(xy[None] + 0.7 * _CROSS, BUSH_CLEARANCE_M):
                continue
            z = float(obstacles.land.height_m(xy[0], xy[1])[0])
            size = rng.uniform(0.5, 1.1)
            leaf = style.leaf_rgb * rng.uniform(0.7, 1.35)
            with mesh.whole(labels.VEGETATION) as bush:
                mesh.solid((*xy, z - 0.1), (1.4 * size, 1.4 * size, 1.3 * size))
                for _ in range(int(rng.integers(1, 4))):
                    spot = np.array([*(xy + rng.uniform(-0.8, 0.8, 2) * size), z - 0.1])
                    _blob(mesh, spot, (size, size, 1.3 * size), leaf, rng, layer=MIDDLE)
            if bush.kept:
                obstacles.raise_to(xy[None] + 0.7 * _CROSS, 0.8)
                count += 1
    return count


def _add_tree(mesh: MeshBuilder, foot: np.ndarray, kind: str, style: TownStyle, rng: np.random.Generator) -> None:
    scale = rng.uniform(0.75, 1.4)
    leaf = style.leaf_rgb * rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
    if kind == "conifer":
        _trunk(mesh, foot, 0.17 * scale, 1.6 * scale, TRUNK)
        dark = leaf * (0.62, 0.78, 0.95)
        for k in range(3):
            base = _above(foot, (1.1 + 1.9 * k) * scale)
            _cone(mesh, base, (1.9 - 0.45 * k) * scale, 3.2 * scale, dark, rng)
        return
    if kind == "palm":
        _palm(mesh, foot, scale, leaf, rng)
        return
    if kind == "poplar":
        _trunk(mesh, foot, 0.16 * scale, 2.0 * scale, TRUNK)
        _blob(mesh, _above(foot, 1.3 * scale), (1.1 * scale, 1.1 * scale, 8.0 * scale), leaf * 0.9, rng)
        return
    birch = kind == "birch"
    trunk = (2.6 if birch else 2.2) * scale
    _trunk(mesh, foot, (0.11 if birch else 0.17) * scale, trunk + 0.9, BIRCH_BARK if birch else TRUNK)
    tone = leaf * (1.25, 1.15, 1.0) if birch else leaf
    if kind == "round":
        _blob(mesh, _above(foot, trunk - 0.3), (1.9 * scale, 1.9 * scale, 3.8 * scale), tone, rng)
        return
    for k in range(3 if kind == "broadleaf" else 2):
        angle = rng.uniform(0.0, 6.28)
        away = (0.0 if k == 0 else 0.8) * scale
        spot = _above(foot, trunk - 0.3 + 0.35 * k * scale) + away * np.array([math.cos(angle), math.sin(angle), 0.0])
        size = (1.9 - 0.25 * k) * scale * (0.75 if birch else 1.0)
        _blob(mesh, spot, (size, size, (3.2 if birch else 2.7) * scale), tone * (1.0 + 0.12 * k), rng)


def _above(point: np.ndarray, height_m: float) -> np.ndarray:
    return np.array([point[0], point[1], point[2] + height_m])


def _trunk(mesh: MeshBuilder, foot: np.ndarray, radius_m: float, height_m: float, colour: Colour) -> None:
    base = (foot[0], foot[1], foot[2] - 0.3)
    mesh.solid(base, (2.0 * radius_m, 2.0 * radius_m, height_m + 0.3))
    mesh.cylinder(base, radius_m, height_m + 0.3, colour, PLAIN, sides=5, top_radius_m=0.7 * radius_m)


def _blob(
    mesh: MeshBuilder,
    base: np.ndarray,
    size: Sequence[float],
    colour: np.ndarray,
    rng: np.random.Generator,
    *,
    layer: int = 0,
) -> None:
    """A lumpy body of leaves above `base`: half sizes along x and y, full height."""
    sides = 7
    rings, start = [], rng.uniform(0.0, 6.28)
    for share, width in ((0.08, 0.66), (0.38, 1.0), (0.78, 0.76)):
        angle = start + (np.arange(sides) + rng.uniform(-0.2, 0.2)) * 2.0 * math.pi / sides
        reach = width * rng.uniform(0.82, 1.15, sides)
        z = share * size[2] * rng.uniform(0.9, 1.1, sides)
        rings.append(np.stack([size[0] * reach * np.cos(angle), size[1] * reach * np.sin(angle), z], axis=1))
    vertices = np.concatenate([*rings, [[0.0, 0.0, 0.0], [0.0, 0.0, size[2]]]]) + base
    faces = [(3 * sides, i, (i + 1) % sides) for i in range(sides)]
    faces += [(3 * sides + 1, 2 * sides + i, 2 * sides + (i + 1) % sides) for i in range(sides)]
    for low in (0, sides):
        for i in range(sides):
            j = (i + 1) % sides
            faces += [(low + i, low + j, low + sides + j), (low + i, low + sides + j, low + sides + i)]
    shades = colour * rng.uniform(0.82, 1.18, (len(faces), 1))
    mesh.convex(vertices, faces, shades, FOLIAGE, layer=layer)


def _cone(
    mesh: MeshBuilder, base: np.ndarray, radius_m: float, height_m: float, colour: np.ndarray, rng: np.random.Generator
) -> None:
    sides = 7
    angle = rng.uniform(0.0, 6.28) + np.arange(sides) * 2.0 * math.pi / sides
    reach = radius_m * rng.uniform(0.85, 1.12, sides)
    ring = np.stack([reach * np.cos(angle), reach * np.sin(angle), np.zeros(sides)], axis=1)
    vertices = np.concatenate([ring, [[0.0, 0.0, height_m], [0.0, 0.0, 0.25 * height_m]]]) + base
    faces = [(i, (i + 1) % sides, sides) for i in range(sides)]
    shades = colour * rng.uniform(0.82, 1.18, (sides, 1))
    mesh.convex(vertices, faces, shades, FOLIAGE)
    under = [(i, (i + 1) % sides, sides + 1) for i in range(sides)]
    mesh.add(vertices, [(b, a, c) for a, b, c in under], colour * 0.6, FOLIAGE, layer=MIDDLE)


def _palm(mesh: MeshBuilder, foot: np.ndarray, scale: float, leaf: np.ndarray, rng: np.random.Generator) -> None:
    height = rng.uniform(5.5, 8.0) * scale
    _trunk(mesh, foot, 0.18 * scale, height, PALM_BARK)
    top = _above(foot, height)
    for k in range(8):
        angle = (k + rng.uniform(-0.3, 0.3)) * math.pi / 4.0
        out, side = (
            np.array([math.cos(angle), math.sin(angle), 0.0]),
            np.array([-math.sin(angle), math.cos(angle), 0.0]),
        )
        middle = top + out * 1.3 * scale + (0.0, 0.0, 0.45 * scale)
        end = top + out * 2.5 * scale - (0.0, 0.0, 0.6 * scale)
        wide = 0.35 * scale * side
        vertices = np.array([top, middle - wide, end, middle + wide])
        shade = leaf * rng.uniform(0.8, 1.2)
        faces = [(0, 1, 3), (1, 2, 3)]
        mesh.add(vertices, faces, shade, FOLIAGE)
        mesh.add(vertices, [(a, c, b) for a, b, c in faces], shade * 0.7, FOLIAGE)
