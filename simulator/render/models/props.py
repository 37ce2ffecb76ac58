"""Street furniture, barriers, signs, containers, litter: the static props of the blueprint library."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simulator.render.mesh import FOLIAGE, GLASS, PAINT, PLAIN, Colour
from simulator.render.models.kit import (
    BLACK,
    BODY_COLOUR,
    CARDBOARD,
    CHROME,
    FLASHER_A,
    FLASHER_B,
    ORANGE,
    RED,
    STEEL,
    TRIM,
    WHITE,
    WINDOW,
    WOOD,
    YELLOW,
    BodyBuilder,
)

GREEN: Colour = (0.03, 0.14, 0.05)
BLUE: Colour = (0.03, 0.08, 0.28)
STONE: Colour = (0.30, 0.29, 0.27)
SOIL: Colour = (0.12, 0.085, 0.055)
LEAF: Colour = (0.06, 0.13, 0.035)
GLOW: Colour = (0.75, 0.80, 0.85)


def _cone(body: BodyBuilder) -> None:
    body.block((-1.0, -1.0, 0.0), (1.0, 1.0, 0.10), BLACK)
    rings = ((0.10, 0.62, ORANGE), (0.62, 1.02, WHITE), (1.02, 1.32, ORANGE), (1.32, 1.62, WHITE), (1.62, 2.0, ORANGE))
    for low, high, colour in rings:
        radius, top = (0.74 * (1 - z / 2.35) for z in (low, high))
        body.cylinder((0, 0, low), radius, high - low, colour, PLAIN, sides=10, top_radius_m=top, cap=True)


def _barrier(body: BodyBuilder) -> None:
    """A board with slanted red and white bands on two feet."""
    for y in (-0.8, 0.8):
        body.block((-1.0, y - 0.05, 0.0), (1.0, y + 0.05, 0.10), TRIM)
        body.block((-0.15, y - 0.05, 0.0), (0.15, y + 0.05, 1.9), STEEL)
    for low in (0.72, 1.38):
        for k in range(8):
            colour = RED if k % 2 else WHITE
            body.block((-0.3, -1.0 + 0.25 * k, low), (0.3, -0.75 + 0.25 * k, low + 0.5), colour)


def _barrier_lengthwise(body: BodyBuilder) -> None:
    """The same for boxes that are longer than wide."""
    for x in (-0.8, 0.8):
        body.block((x - 0.05, -1.0, 0.0), (x + 0.05, 1.0, 0.10), TRIM)
        body.block((x - 0.05, -0.15, 0.0), (x + 0.05, 0.15, 1.9), STEEL)
    for low in (0.72, 1.38):
        for k in range(8):
            colour = RED if k % 2 else WHITE
            body.block((-1.0 + 0.25 * k, -0.3, low), (-0.75 + 0.25 * k, 0.3, low + 0.5), colour)


def _chain(body: BodyBuilder) -> None:
    for x in (-0.92, 0.92):
        body.block((x - 0.06, -0.4, 0.0), (x + 0.06, 0.4, 2.0), RED)
        body.block((x - 0.065, -0.42, 1.2), (x + 0.065, 0.42, 1.6), WHITE)
    for k in range(8):
        sag = [1.7 - 0.5 * math.sin(math.pi * i / 8.0) for i in (k, k + 1)]
        a, b = ((-0.9 + 0.225 * i, 0.0, z) for i, z in zip((k, k + 1), sag, strict=True))
        body.tube(a, b, 0.04, STEEL)


def _warning(body: BodyBuilder) -> None:
    """A folding stand with a warning triangle on an orange board, seen from both sides."""
    for x in (-0.9, 0.9):
        body.tube((x, -0.6, 0.0), (0.0, -0.2, 1.4), 0.04, STEEL)
        body.tube((x, 0.6, 0.0), (0.0, 0.2, 1.4), 0.04, STEEL)
    for side in (-1.0, 1.0):
        x = 0.06 * side
        outer = [(x, -1.0, 0.55), (x, 1.0, 0.55), (x, 0.0, 2.0)]
        inner = [(1.3 * x, -0.72, 0.66), (1.3 * x, 0.72, 0.66), (1.3 * x, 0.0, 1.72)]
        mark = [(1.5 * x, -0.09, 0.95), (1.5 * x, 0.09, 0.95), (1.5 * x, 0.09, 1.35), (1.5 * x, -0.09, 1.35)]
        dot = [(1.5 * x, -0.09, 0.76), (1.5 * x, 0.09, 0.76), (1.5 * x, 0.09, 0.86), (1.5 * x, -0.09, 0.86)]
        for shape, colour in ((outer, RED), (inner, YELLOW), (mark, BLACK), (dot, BLACK)):
            body.face(shape, colour, inside=(-5.0 * side, 0.0, 1.0))


def _arrow_trailer(body: BodyBuilder) -> None:
    """A trailer with a large board: an arrow of lamps, warning bands and two flashers."""
    body.block((-0.9, -0.5, 0.16), (0.9, 0.5, 0.26), ORANGE)
    for x in (-0.5, 0.5):
        for y in (-0.62, 0.62):
            body.disc((x, y, 0.14), (0.22, 0.14), BLACK)
    for y in (-0.5, 0.5):
        body.block((-0.06, y - 0.03, 0.2), (0.06, y + 0.03, 0.7), STEEL)
    body.block((-0.05, -1.0, 0.62), (0.05, 1.0, 1.92), YELLOW)
    for side in (-1.0, 1.0):
        x = 0.065 * side
        body.face([(x, -0.92, 0.98), (x, 0.92, 0.98), (x, 0.92, 1.84), (x, -0.92, 1.84)], BLACK, inside=(-side, 0, 1))
        for k in range(8):
            quad = [(x, -0.96 + 0.24 * k, 0.66), (x, -0.84 + 0.24 * k, 0.66)]
            quad += [(x, -0.72 + 0.24 * k, 0.92), (x, -0.84 + 0.24 * k, 0.92)]
            body.face(quad, RED, inside=(-side, 0.0, 0.8))
        shaft = [(1.2 * x, -0.2, 1.34), (1.2 * x, 0.7, 1.34), (1.2 * x, 0.7, 1.48), (1.2 * x, -0.2, 1.48)]
        tip = [(1.2 * x, -0.75, 1.41), (1.2 * x, -0.2, 1.16), (1.2 * x, -0.2, 1.66)]
        for shape in (shaft, tip):
            body.face(shape, (0.95, 0.60, 0.05), inside=(-side, 0.0, 1.4))
    for y, code in ((-0.8, FLASHER_A), (0.8, FLASHER_B)):
        body.beacon((-0.08, y - 0.12, 1.90), (0.08, y + 0.12, 2.0), code, radius_m=0.2)


def _crate(body: BodyBuilder) -> None:
    body.block((-1.0, -1.0, 0.0), (1.0, 1.0, 2.0), BODY_COLOUR)
    tape: Colour = (0.42, 0.34, 0.22)
    body.face([(-1.0, -0.1, 2.005), (1.0, -0.1, 2.005), (1.0, 0.1, 2.005), (-1.0, 0.1, 2.005)], tape)
    for x in (-1.005, 1.005):
        body.face([(x, -0.1, 1.2), (x, 0.1, 1.2), (x, 0.1, 2.0), (x, -0.1, 2.0)], tape)


def _heap(body: BodyBuilder) -> None:
    """An irregular flat heap."""
    angle = np.arange(9) * 2.0 * math.pi / 9
    wobble = 1.0 + 0.12 * np.sin(3.0 * angle + 0.5) - 0.10 * np.cos(2.0 * angle)
    low = np.stack([0.85 * wobble * np.cos(angle), 0.85 * wobble * np.sin(angle), np.zeros(9)], axis=1)
    high = low * 0.5 + np.stack(
        [0.1 * np.cos(2 * angle), 0.1 * np.sin(3 * angle), 1.5 + 0.3 * np.cos(3 * angle)], axis=1
    )
    vertices = np.concatenate([low, high, [[0.05, -0.05, 2.0]]])
    faces = [f for k in range(9) for f in ((k, (k + 1) % 9, k + 9), ((k + 1) % 9, (k + 1) % 9 + 9, k + 9))]
    faces += [(k + 9, (k + 1) % 9 + 9, 18) for k in range(9)]
    shades = np.array(SOIL) * (0.75 + 0.5 * ((np.arange(len(faces)) * 7) % 10)[:, None] / 10)
    body.convex(vertices, faces, shades, PLAIN)


def _sheet(body: BodyBuilder) -> None:
    """Something flat that lies on the road."""
    body.block((-1.0, -1.0, 0.0), (1.0, 1.0, 2.0), BODY_COLOUR)
    body.face([(-0.6, -0.9, 2.02), (0.9, -0.4, 2.02), (0.5, 0.8, 2.02), (-0.8, 0.6, 2.02)], (0.22, 0.15, 0.09))


def _barrel(body: BodyBuilder) -> None:
    for low, high, colour in ((0.0, 0.45, ORANGE), (0.45, 0.8, WHITE), (0.8, 1.25, ORANGE), (1.25, 1.6, WHITE)):
        body.cylinder((0, 0, low), 0.98, high - low, colour, PLAIN, sides=12)
    body.cylinder((0, 0, 1.6), 0.98, 0.4, ORANGE, PLAIN, sides=12, top_radius_m=0.9, cap=True)


def _bench(body: BodyBuilder) -> None:
    for x in (-0.75, 0.75):
        body.block((x - 0.06, -0.8, 0.0), (x + 0.06, 0.8, 0.9), STEEL)
    for y in (-0.6, -0.1, 0.4):
        body.block((-1.0, y, 0.90), (1.0, y + 0.4, 1.0), WOOD)
    for z in (1.25, 1.65):
        body.block((-1.0, -0.98, z), (1.0, -0.84, z + 0.3), WOOD)
    for x in (-0.75, 0.75):
        body.block((x - 0.05, -0.98, 0.9), (x + 0.05, -0.86, 1.95), STEEL)


def _stool(body: BodyBuilder) -> None:
    for x in (-0.75, 0.75):
        body.block((x - 0.12, -0.8, 0.0), (x + 0.12, 0.8, 1.7), STONE)
    body.block((-1.0, -1.0, 1.7), (1.0, 1.0, 2.0), WOOD)


def _bin(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0.05), 0.85, 1.6, BODY_COLOUR, PLAIN, sides=10, top_radius_m=0.95)
    body.cylinder((0, 0, 1.65), 1.0, 0.15, BLACK, PLAIN, sides=10)
    body.cylinder((0, 0, 1.80), 1.0, 0.2, BODY_COLOUR, PLAIN, sides=10, top_radius_m=0.5, cap=True)


def _container(body: BodyBuilder) -> None:
    """A large waste container with ribs and a lid."""
    body.block((-0.94, -0.94, 0.12), (0.94, 0.94, 1.6), BODY_COLOUR, PAINT)
    for k in range(5):
        x = -0.8 + 0.4 * k
        for y in (-0.99, 0.97):
            body.block((x - 0.05, y, 0.2), (x + 0.05, y + 0.02, 1.55), TRIM)
    body.block((-1.0, -1.0, 1.6), (1.0, 1.0, 1.72), TRIM)
    body.limb((0.0, 0.0, 1.72), (0.0, 0.0, 2.0), (1.96, 1.96, 1.7, 1.2), BODY_COLOUR)
    for x in (-0.8, 0.8):
        for y in (-0.8, 0.8):
            body.block((x - 0.1, y - 0.1, 0.0), (x + 0.1, y + 0.1, 0.12), BLACK)


def _bag(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 0.8, 0.8, BODY_COLOUR, PAINT, sides=8, top_radius_m=1.0)
    body.cylinder((0, 0, 0.8), 1.0, 0.7, BODY_COLOUR, PAINT, sides=8, top_radius_m=0.3)
    body.cylinder((0, 0, 1.5), 0.15, 0.5, BODY_COLOUR, PAINT, sides=6, top_radius_m=0.4, cap=True)


def _machine(body: BodyBuilder) -> None:
    """A vending machine or cash dispenser with a lit front (towards +x)."""
    body.block((-1.0, -1.0, 0.0), (0.96, 1.0, 2.0), BODY_COLOUR, PAINT)
    body.face([(0.98, -0.85, 0.5), (0.98, 0.5, 0.5), (0.98, 0.5, 1.75), (0.98, -0.85, 1.75)], GLOW)
    for row in range(4):
        for column in range(4):
            y, z = -0.78 + 0.32 * column, 0.6 + 0.28 * row
            colour = (RED, BLUE, GREEN, YELLOW)[(row + column) % 4]
            body.face([(0.99, y, z), (0.99, y + 0.2, z), (0.99, y + 0.2, z + 0.2), (0.99, y, z + 0.2)], colour)
    body.face([(0.98, 0.6, 0.9), (0.98, 0.9, 0.9), (0.98, 0.9, 1.5), (0.98, 0.6, 1.5)], BLACK)
    body.face([(0.98, -0.7, 0.15), (0.98, 0.4, 0.15), (0.98, 0.4, 0.35), (0.98, -0.7, 0.35)], BLACK)


def _kiosk(body: BodyBuilder) -> None:
    body.block((-0.9, -0.9, 0.0), (0.9, 0.9, 1.7), BODY_COLOUR, PAINT)
    for side in (-1.0, 1.0):
        body.face(
            [(-0.7, side * 0.91, 0.75), (0.7, side * 0.91, 0.75), (0.7, side * 0.91, 1.4), (-0.7, side * 0.91, 1.4)],
            WINDOW,
            GLASS,
            inside=(0, 0, 1),
        )
        body.face(
            [(side * 0.91, -0.7, 0.75), (side * 0.91, 0.7, 0.75), (side * 0.91, 0.7, 1.4), (side * 0.91, -0.7, 1.4)],
            WINDOW,
            GLASS,
            inside=(0, 0, 1),
        )
    body.limb((0.0, 0.0, 1.66), (0.0, 0.0, 2.0), (2.0, 2.0, 0.8, 0.8), RED)


def _shelter(body: BodyBuilder) -> None:
    """A bus stop: glass walls, a roof, a bench, a lit poster."""
    for x in (-0.95, 0.0, 0.95):
        for y in (-0.9, 0.5):
            body.block((x - 0.02, y - 0.04, 0.0), (x + 0.02, y + 0.04, 1.85), STEEL)
    body.block((-1.0, -1.0, 1.85), (1.0, 0.9, 2.0), TRIM)
    body.block((-0.95, -0.92, 0.25), (0.95, -0.88, 1.7), (0.20, 0.24, 0.26), GLASS)
    body.block((-0.96, -0.9, 0.2), (-0.94, 0.3, 1.7), GLOW)
    body.block((-0.6, -0.75, 0.35), (0.6, -0.4, 0.42), WOOD)


def _post_box(body: BodyBuilder) -> None:
    body.block((-0.4, -0.4, 0.0), (0.4, 0.4, 0.8), STEEL)
    body.block((-1.0, -1.0, 0.8), (1.0, 1.0, 1.9), BODY_COLOUR, PAINT)
    body.limb((0.0, 0.0, 1.9), (0.0, 0.0, 2.0), (2.0, 2.0, 1.4, 1.6), BODY_COLOUR)
    body.face([(1.01, -0.6, 1.5), (1.01, 0.6, 1.5), (1.01, 0.6, 1.62), (1.01, -0.6, 1.62)], BLACK)


def _pot(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 0.72, 1.0, (0.34, 0.17, 0.10), PLAIN, sides=8, top_radius_m=0.98, cap=True)
    body.cylinder((0, 0, 0.9), 0.7, 0.6, LEAF, FOLIAGE, sides=8, top_radius_m=0.95)
    body.cylinder((0, 0, 1.5), 0.95, 0.5, LEAF, FOLIAGE, sides=8, top_radius_m=0.3, cap=True)


def _planter(body: BodyBuilder) -> None:
    body.block((-1.0, -1.0, 0.0), (1.0, 1.0, 1.2), STONE)
    for k in range(5):
        x = -0.8 + 0.4 * k
        body.cylinder((x, 0.0, 1.1), 0.24, 0.9, LEAF, FOLIAGE, sides=6, top_radius_m=0.10, cap=True)


def _table(body: BodyBuilder) -> None:
    body.block((-1.0, -1.0, 1.75), (1.0, 1.0, 2.0), BODY_COLOUR)
    for x in (-0.85, 0.85):
        for y in (-0.85, 0.85):
            body.block((x - 0.07, y - 0.07, 0.0), (x + 0.07, y + 0.07, 1.75), STEEL)


def _parasol(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 0.05, 2.0, STEEL, PLAIN, sides=6)
    body.cylinder((0, 0, 0.55), 0.55, 0.08, WHITE, PLAIN, sides=10, cap=True)
    body.cylinder((0, 0, 1.55), 1.0, 0.45, BODY_COLOUR, PLAIN, sides=10, top_radius_m=0.05)


def _chair(body: BodyBuilder) -> None:
    for x in (-0.8, 0.8):
        for y in (-0.8, 0.8):
            body.block((x - 0.1, y - 0.1, 0.0), (x + 0.1, y + 0.1, 0.75), BODY_COLOUR)
    body.block((-0.9, -0.9, 0.72), (0.9, 0.9, 0.84), BODY_COLOUR)
    body.block((-0.95, -0.9, 0.8), (-0.75, 0.9, 2.0), BODY_COLOUR)


def _cart(body: BodyBuilder) -> None:
    for x in (-0.85, 0.85):
        for z in (0.7, 1.1, 1.5):
            body.tube((x, -0.9, z), (x, 0.9, z), 0.02, CHROME)
    for y in (-0.9, -0.3, 0.3, 0.9):
        for z in (0.7, 1.1, 1.5):
            body.tube((-0.85, y, z), (0.85, y, z), 0.02, CHROME)
        for x in (-0.85, 0.85):
            body.tube((x, y, 0.65), (x, y, 1.55), 0.02, CHROME)
    body.block((-0.8, -0.9, 0.64), (0.8, 0.9, 0.68), STEEL)
    body.block((-0.9, 0.92, 1.7), (0.9, 1.0, 1.8), RED)
    for x in (-0.7, 0.7):
        for y in (-0.7, 0.7):
            body.disc((x, y, 0.12), (0.15, 0.12), BLACK, sides=8)
            body.tube((x, y, 0.12), (x, y, 0.68), 0.03, CHROME)


def _bale(body: BodyBuilder) -> None:
    angle = np.arange(14) * 2.0 * math.pi / 14
    for k in range(14):
        a, b = angle[k], angle[(k + 1) % 14]
        quad = [(math.cos(t), y, 1.0 + math.sin(t)) for t, y in ((a, -1.0), (b, -1.0), (b, 1.0), (a, 1.0))]
        body.face(quad, (0.42, 0.31, 0.10), inside=(0, 0, 1))
    for y in (-1.0, 1.0):
        body.disc((0.0, y, 1.0), (1.0, 1.0), (0.36, 0.27, 0.09), sides=14)


def _fountain(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 1.0, 0.16, STONE, PLAIN, sides=16, cap=True)
    body.cylinder((0, 0, 0.16), 0.92, 0.01, (0.10, 0.16, 0.20), GLASS, sides=16, cap=True)
    body.cylinder((0, 0, 0.1), 0.16, 1.0, STONE, PLAIN, sides=8, top_radius_m=0.1)
    body.cylinder((0, 0, 1.0), 0.15, 0.14, STONE, PLAIN, sides=12, top_radius_m=0.5, cap=True)
    body.cylinder((0, 0, 1.1), 0.08, 0.9, STONE, PLAIN, sides=8, top_radius_m=0.02, cap=True)


def _poster(body: BodyBuilder) -> None:
    """An advertisement on two posts; its picture faces both ways across the narrow side."""
    for x in (-0.85, 0.85):
        body.block((x - 0.05, -0.3, 0.0), (x + 0.05, 0.3, 0.5), STEEL)
    body.block((-1.0, -0.8, 0.4), (1.0, 0.8, 2.0), TRIM)
    for side in (-1.0, 1.0):
        y = 0.82 * side
        body.face([(-0.9, y, 0.5), (0.9, y, 0.5), (0.9, y, 1.9), (-0.9, y, 1.9)], BODY_COLOUR, inside=(0, -side, 1))
        disc = [(-0.2 + 0.5 * math.cos(t), 1.03 * y, 1.4 + 0.3 * math.sin(t)) for t in np.arange(10) * 0.628]
        body.face(disc, YELLOW, inside=(0, -side, 1))
        body.face(
            [(-0.7, 1.03 * y, 0.65), (0.7, 1.03 * y, 0.65), (0.7, 1.03 * y, 0.85), (-0.7, 1.03 * y, 0.85)],
            WHITE,
            inside=(0, -side, 1),
        )


def _sign(body: BodyBuilder) -> None:
    """A direction board on a post."""
    body.block((-0.05, -0.5, 0.0), (0.05, 0.5, 2.0), STEEL)
    body.block((-1.0, -1.0, 1.3), (1.0, 1.0, 1.95), BLUE)
    for side in (-1.0, 1.0):
        y = 1.05 * side
        for z in (1.42, 1.70):
            body.face([(-0.8, y, z), (0.6, y, z), (0.6, y, z + 0.1), (-0.8, y, z + 0.1)], WHITE, inside=(0, -side, 1))


def _lamp(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 0.3, 1.5, TRIM, PLAIN, sides=6)
    body.cylinder((0, 0, 1.4), 0.7, 0.45, GLOW, PLAIN, sides=8)
    body.cylinder((0, 0, 1.85), 0.95, 0.15, TRIM, PLAIN, sides=8, top_radius_m=0.3, cap=True)


def _figure(body: BodyBuilder) -> None:
    """A garden gnome."""
    body.cylinder((0, 0, 0), 0.9, 0.9, BLUE, PLAIN, sides=8, top_radius_m=0.7)
    body.cylinder((0, 0, 0.9), 0.55, 0.45, (0.45, 0.28, 0.20), PLAIN, sides=8)
    body.cylinder((0, 0, 1.3), 0.62, 0.7, RED, PLAIN, sides=8, top_radius_m=0.02)


def _canopy(body: BodyBuilder) -> None:
    """Posts with a slatted or cloth roof: pergola, food cart, clothes line, swing."""
    for x in (-0.92, 0.92):
        for y in (-0.92, 0.92):
            body.block((x - 0.04, y - 0.04, 0.0), (x + 0.04, y + 0.04, 1.9), WOOD)
    for k in range(9):
        x = -0.96 + 0.24 * k
        body.block((x - 0.05, -1.0, 1.86), (x + 0.05, 1.0, 2.0), WOOD)
    body.block((-0.9, -0.5, 0.3), (0.9, -0.3, 0.42), WOOD)


def _cart_stall(body: BodyBuilder) -> None:
    body.block((-0.8, -0.8, 0.2), (0.8, 0.8, 0.8), BODY_COLOUR)
    for x in (-0.85, 0.85):
        for y in (-0.85, 0.85):
            body.block((x - 0.03, y - 0.03, 0.1), (x + 0.03, y + 0.03, 1.6), STEEL)
    for k in range(6):
        low = -1.0 + k / 3.0
        colour = RED if k % 2 else WHITE
        body.block((-1.0, low, 1.6), (1.0, low + 1.0 / 3.0, 1.75), colour)
    body.limb((0.0, 0.0, 1.75), (0.0, 0.0, 2.0), (2.0, 2.0, 0.3, 1.6), RED)


def _frame(body: BodyBuilder) -> None:
    """A climbing frame, swing or slide: slanted legs, a beam, seats."""
    for y in (-0.95, 0.95):
        for x in (-0.95, 0.95):
            body.tube((x, y, 0.0), (0.0, y, 1.95), 0.03, RED)
    body.tube((0.0, -1.0, 1.95), (0.0, 1.0, 1.95), 0.03, YELLOW)
    for y in (-0.45, 0.45):
        body.block((-0.2, y - 0.12, 0.45), (0.2, y + 0.12, 0.5), BLUE)
        for dy in (-0.1, 0.1):
            body.tube((0.0, y + dy, 0.5), (0.0, y + dy, 1.95), 0.008, STEEL)


def _trampoline(body: BodyBuilder) -> None:
    for k in range(8):
        angle = k * math.pi / 4.0
        x, y = 0.94 * math.cos(angle), 0.94 * math.sin(angle)
        body.block((x - 0.02, y - 0.02, 0.0), (x + 0.02, y + 0.02, 2.0), BLUE)
    body.cylinder((0, 0, 0.55), 0.96, 0.05, BLUE, PLAIN, sides=16, cap=True)
    body.cylinder((0, 0, 0.61), 0.8, 0.01, BLACK, PLAIN, sides=16, cap=True)


def _hut(body: BodyBuilder) -> None:
    body.block((-0.85, -0.85, 0.0), (0.85, 0.85, 1.2), WOOD)
    roof = [(-1, -1, 1.1), (1, -1, 1.1), (1, 1, 1.1), (-1, 1, 1.1), (-1, 0, 2.0), (1, 0, 2.0)]
    faces = [(0, 1, 5), (0, 5, 4), (2, 3, 4), (2, 4, 5), (0, 4, 3), (1, 2, 5)]
    body.convex(np.array(roof, float), faces, RED, PLAIN)
    body.face([(0.87, -0.4, 0.0), (0.87, 0.4, 0.0), (0.87, 0.4, 0.8), (0.87, -0.4, 0.8)], BLACK)


def _case(body: BodyBuilder) -> None:
    body.block((-1.0, -1.0, 0.08), (1.0, 1.0, 1.7), BODY_COLOUR, PAINT)
    body.block((-0.5, -0.15, 1.7), (-0.4, 0.15, 2.0), STEEL)
    body.block((0.4, -0.15, 1.7), (0.5, 0.15, 2.0), STEEL)
    body.block((-0.5, -0.15, 1.94), (0.5, 0.15, 2.0), STEEL)


def _can(body: BodyBuilder) -> None:
    body.cylinder((0, 0, 0), 0.95, 2.0, BODY_COLOUR, PAINT, sides=8, cap=True)


PROPS: dict[str, tuple[Callable[[BodyBuilder], None], Colour]] = {
    "cone": (_cone, ORANGE), "barrier": (_barrier, WHITE), "barrier_long": (_barrier_lengthwise, WHITE),
    "chain": (_chain, RED), "warning": (_warning, ORANGE), "arrow_trailer": (_arrow_trailer, YELLOW),
    "box": (_crate, CARDBOARD), "heap": (_heap, SOIL), "sheet": (_sheet, CARDBOARD), "barrel": (_barrel, ORANGE),
    "bench": (_bench, WOOD), "stool": (_stool, WOOD), "bin": (_bin, (0.06, 0.10, 0.07)),
    "container": (_container, (0.05, 0.16, 0.07)), "bag": (_bag, (0.02, 0.02, 0.022)),
    "machine": (_machine, (0.42, 0.02, 0.02)), "kiosk": (_kiosk, (0.20, 0.26, 0.24)), "shelter": (_shelter, STEEL),
    "post_box": (_post_box, (0.03, 0.07, 0.30)), "pot": (_pot, LEAF), "planter": (_planter, LEAF),
    "table": (_table, WOOD), "parasol": (_parasol, (0.50, 0.10, 0.06)), "chair": (_chair, (0.6, 0.6, 0.58)),
    "cart": (_cart, CHROME), "bale": (_bale, YELLOW), "fountain": (_fountain, STONE),
    "poster": (_poster, (0.08, 0.20, 0.40)), "sign": (_sign, BLUE), "lamp": (_lamp, TRIM), "figure": (_figure, BLUE),
    "canopy": (_canopy, WOOD), "stall": (_cart_stall, (0.5, 0.45, 0.3)), "frame": (_frame, RED),
    "trampoline": (_trampoline, BLUE), "hut": (_hut, WOOD), "case": (_case, (0.10, 0.05, 0.06)),
    "can": (_can, (0.5, 0.03, 0.03)),
}  # fmt: skip
"""Makers and default colours of the prop models."""

NAMES = (
    ("constructioncone", "cone"), ("trafficcone", "cone"), ("chainbarrier", "chain"), ("streetbarrier", "barrier_long"),
    ("barrier", "barrier"), ("trafficwarning", "arrow_trailer"), ("warning", "warning"), ("creasedbox", "sheet"),
    ("ironplank", "sheet"), ("brokentile", "sheet"), ("calibrator", "sheet"), ("dirtdebris", "heap"),
    ("platformgarbage", "heap"), ("barrel", "barrel"), ("bench01", "bench"), ("bench", "stool"),
    ("swingcouch", "canopy"), ("trashbag", "bag"), ("plasticbag", "bag"), ("shoppingbag", "bag"), ("purse", "bag"),
    ("trashcan", "bin"), ("bin", "bin"), ("garbage", "can"), ("colacan", "can"), ("wateringcan", "can"),
    ("container", "container"), ("vendingmachine", "machine"), ("atm", "machine"), ("kiosk", "kiosk"),
    ("busstop", "shelter"), ("mailbox", "post_box"), ("plantpot04", "planter"), ("plantpot", "pot"),
    ("plastictable", "parasol"), ("maptable", "poster"), ("table", "table"), ("chair", "chair"),
    ("shoppingcart", "cart"), ("shoppingtrolley", "cart"), ("haybale", "bale"), ("streetfountain", "post_box"),
    ("fountain", "fountain"), ("advertisement", "poster"), ("streetsign", "sign"), ("gardenlamp", "lamp"),
    ("gnome", "figure"), ("pergola", "canopy"), ("clothesline", "canopy"), ("foodcart", "stall"), ("swing", "frame"),
    ("slide", "frame"), ("trampoline", "trampoline"), ("doghouse", "hut"), ("barbeque", "bin"), ("case", "case"),
    ("helmet", "can"), ("mobile", "sheet"), ("box", "box"),
)  # fmt: skip
"""Parts of prop names and the model that stands for them; the first that fits counts."""
