"""Passenger cars: bodies lofted through cross-sections from the rear to the nose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simulator.render.mesh import GLASS, PAINT, Colour
from simulator.render.models.kit import (
    BLACK,
    BODY_COLOUR,
    BRAKE_LAMP,
    DOORS,
    DOORWAYS,
    FLASHER_A,
    FLASHER_B,
    HEAD_LAMP,
    LEFT_BLINKER,
    REVERSE_LAMP,
    RIGHT_BLINKER,
    SECOND_COLOUR,
    TRIM,
    WHITE,
    WINDOW,
    YELLOW,
    BodyBuilder,
    plate,
    stripe,
    wheels,
)


class Section(NamedTuple):
    """A cross-section: heights of sill, belt line and top, half widths there."""

    x: float
    sill: float
    belt: float
    top: float
    sill_width: float = 0.88
    belt_width: float = 0.96
    top_width: float = 0.72


@dataclass(frozen=True)
class CarShape:
    """A car body. `windows` are the spans between sections whose sides are glass, `panes` those whose tops are."""

    sections: tuple[Section, ...]
    windows: tuple[int, ...]
    panes: tuple[int, ...]
    pillars: tuple[float, ...]
    axles: tuple[float, float]
    wheel: tuple[float, float]
    rear_lamp_z: float = 1.02
    front_lamp_z: float = 0.84
    doors: tuple[tuple[float, float], ...] = ((-0.02, 0.42), (-0.40, -0.02))
    """x spans of the front and the rear doors"""


_S = Section
SEDAN = CarShape(
    (
        _S(-1.00, 0.44, 0.98, 1.04, 0.78, 0.84, 0.78), _S(-0.95, 0.34, 1.16, 1.25, 0.85, 0.92, 0.82),
        _S(-0.66, 0.30, 1.24, 1.32, 0.90, 0.96, 0.80), _S(-0.36, 0.28, 1.24, 1.90, 0.90, 0.96, 0.68),
        _S(-0.08, 0.28, 1.22, 2.00, 0.90, 0.96, 0.70), _S(0.15, 0.28, 1.21, 1.95, 0.90, 0.96, 0.68),
        _S(0.50, 0.28, 1.18, 1.25, 0.90, 0.96, 0.82), _S(0.86, 0.32, 1.02, 1.10, 0.86, 0.93, 0.78),
        _S(1.00, 0.42, 0.74, 0.80, 0.74, 0.82, 0.70),
    ),
    (2, 3, 4, 5), (2, 5), (-0.40, -0.05), (-0.58, 0.62), (0.148, 0.46),
)  # fmt: skip
HATCHBACK = CarShape(
    (
        _S(-1.00, 0.44, 1.06, 1.10, 0.80, 0.88, 0.84), _S(-0.97, 0.36, 1.22, 1.28, 0.86, 0.93, 0.82),
        _S(-0.80, 0.32, 1.26, 1.88, 0.90, 0.96, 0.72), _S(-0.55, 0.30, 1.26, 1.97, 0.90, 0.96, 0.72),
        _S(0.00, 0.28, 1.23, 2.00, 0.90, 0.96, 0.72), _S(0.24, 0.28, 1.21, 1.92, 0.90, 0.96, 0.70),
        _S(0.58, 0.28, 1.16, 1.22, 0.90, 0.95, 0.82), _S(0.90, 0.34, 1.00, 1.06, 0.86, 0.92, 0.78),
        _S(1.00, 0.44, 0.74, 0.80, 0.76, 0.84, 0.72),
    ),
    (2, 3, 4, 5), (1, 5), (-0.52, -0.05), (-0.64, 0.66), (0.165, 0.42), rear_lamp_z=1.10,
)  # fmt: skip
SUV = CarShape(
    (
        _S(-1.00, 0.46, 1.10, 1.14, 0.82, 0.90, 0.88), _S(-0.98, 0.38, 1.22, 1.27, 0.88, 0.94, 0.86),
        _S(-0.88, 0.36, 1.26, 1.90, 0.90, 0.96, 0.78), _S(-0.76, 0.34, 1.26, 1.98, 0.90, 0.96, 0.78),
        _S(0.10, 0.34, 1.24, 2.00, 0.90, 0.96, 0.78), _S(0.28, 0.34, 1.22, 1.92, 0.90, 0.96, 0.76),
        _S(0.54, 0.34, 1.20, 1.27, 0.90, 0.96, 0.86), _S(0.92, 0.38, 1.12, 1.17, 0.88, 0.94, 0.84),
        _S(1.00, 0.46, 0.80, 0.86, 0.80, 0.88, 0.80),
    ),
    (2, 3, 4, 5), (1, 5), (-0.48, -0.05), (-0.60, 0.63), (0.160, 0.42), rear_lamp_z=1.12, front_lamp_z=0.96,
)  # fmt: skip
JEEP = CarShape(
    (
        _S(-1.00, 0.50, 1.16, 1.18, 0.74, 0.80, 0.80), _S(-0.96, 0.46, 1.20, 1.96, 0.78, 0.82, 0.78),
        _S(-0.90, 0.44, 1.20, 2.00, 0.80, 0.84, 0.78), _S(0.16, 0.44, 1.20, 2.00, 0.80, 0.84, 0.78),
        _S(0.24, 0.44, 1.20, 1.94, 0.80, 0.84, 0.76), _S(0.36, 0.44, 1.20, 1.24, 0.80, 0.84, 0.80),
        _S(0.96, 0.50, 1.12, 1.18, 0.74, 0.76, 0.70), _S(1.00, 0.56, 0.84, 0.90, 0.66, 0.72, 0.68),
    ),
    (1, 2, 3, 4), (4,), (-0.42, -0.02), (-0.62, 0.62), (0.20, 0.44), rear_lamp_z=1.0, front_lamp_z=1.0,
)  # fmt: skip
SPORTS = CarShape(
    (
        _S(-1.00, 0.48, 1.06, 1.12, 0.80, 0.86, 0.80), _S(-0.94, 0.34, 1.22, 1.32, 0.88, 0.94, 0.82),
        _S(-0.74, 0.30, 1.30, 1.38, 0.92, 0.97, 0.80), _S(-0.26, 0.28, 1.28, 1.93, 0.90, 0.96, 0.64),
        _S(-0.06, 0.28, 1.26, 2.00, 0.90, 0.95, 0.64), _S(0.08, 0.28, 1.25, 1.95, 0.90, 0.95, 0.62),
        _S(0.46, 0.28, 1.20, 1.26, 0.90, 0.95, 0.80), _S(0.88, 0.30, 0.98, 1.06, 0.88, 0.94, 0.78),
        _S(1.00, 0.38, 0.66, 0.72, 0.76, 0.84, 0.70),
    ),
    (2, 3, 4, 5), (2, 5), (-0.24,), (-0.58, 0.62), (0.158, 0.50), front_lamp_z=0.78, doors=((-0.22, 0.38),),
)  # fmt: skip
PICKUP = CarShape(
    (
        _S(-1.00, 0.44, 1.18, 1.20, 0.80, 0.88, 0.86), _S(-0.97, 0.40, 1.26, 1.28, 0.88, 0.94, 0.86),
        _S(-0.30, 0.38, 1.22, 1.74, 0.90, 0.96, 0.70), _S(0.04, 0.38, 1.20, 2.00, 0.90, 0.96, 0.66),
        _S(0.12, 0.38, 1.19, 1.95, 0.90, 0.96, 0.66), _S(0.62, 0.38, 1.12, 1.34, 0.90, 0.95, 0.80),
        _S(0.96, 0.42, 1.00, 1.06, 0.88, 0.92, 0.84), _S(1.00, 0.50, 0.78, 0.84, 0.82, 0.88, 0.80),
    ),
    (2, 3, 4), (4,), (-0.28, 0.02), (-0.60, 0.62), (0.140, 0.42), rear_lamp_z=1.12, front_lamp_z=0.94,
)  # fmt: skip
MICRO = CarShape(
    (
        _S(-1.00, 0.40, 1.00, 1.04, 0.70, 0.80, 0.76), _S(-0.90, 0.34, 1.20, 1.70, 0.84, 0.92, 0.72),
        _S(-0.55, 0.32, 1.22, 1.97, 0.90, 0.96, 0.70), _S(0.15, 0.32, 1.18, 2.00, 0.90, 0.96, 0.70),
        _S(0.45, 0.32, 1.10, 1.82, 0.90, 0.94, 0.70), _S(0.86, 0.34, 0.92, 1.12, 0.84, 0.90, 0.76),
        _S(1.00, 0.44, 0.72, 0.80, 0.70, 0.78, 0.70),
    ),
    (1, 2, 3, 4), (1, 4), (-0.35, 0.30), (-0.62, 0.62), (0.24, 0.40),
)  # fmt: skip

UPPER_GLASS = 0.84
"""Share of the height above the belt line that side windows take; the roof's frame is above."""


def loft(body: BodyBuilder, shape: CarShape, *, paint: Colour = BODY_COLOUR, roof: Colour = BODY_COLOUR) -> None:
    """The outer skin through the sections: sills, flanks, side windows, tops, ends."""
    for k, (a, b) in enumerate(zip(shape.sections, shape.sections[1:], strict=False)):
        inside = ((a.x + b.x) / 2.0, 0.0, 0.25 * (a.sill + b.sill + a.belt + b.belt))
        middle = [s.sill + 0.5 * (s.belt - s.sill) for s in (a, b)]
        widest = [min(1.0, s.belt_width + 0.02) for s in (a, b)]
        for side in (-1.0, 1.0):
            low = [(s.x, side * s.sill_width, s.sill) for s in (a, b)]
            mid = [(s.x, side * w, z) for s, w, z in zip((a, b), widest, middle, strict=True)]
            belt = [(s.x, side * s.belt_width, s.belt) for s in (a, b)]
            top = [(s.x, side * s.top_width, s.top) for s in (a, b)]
            body.face([*low, *mid[::-1]], paint, PAINT, inside=inside)
            body.face([*mid, *belt[::-1]], paint, PAINT, inside=inside)
            if k in shape.windows:
                edge = [
                    tuple(p + UPPER_GLASS * (q - p) for p, q in zip(b_, t_, strict=True))
                    for b_, t_ in zip(belt, top, strict=True)
                ]
                body.face([*belt, *edge[::-1]], WINDOW, GLASS, inside=inside)
                body.face([*edge, *top[::-1]], roof, PAINT, inside=inside)
            else:
                body.face([*belt, *top[::-1]], paint, PAINT, inside=inside)
        lid = [(a.x, -a.top_width, a.top), (b.x, -b.top_width, b.top), (b.x, b.top_width, b.top)]
        lid.append((a.x, a.top_width, a.top))
        glass = k in shape.panes
        colour = WINDOW if glass else roof if min(a.top, b.top) > 1.6 else paint
        body.face(lid, colour, GLASS if glass else PAINT, inside=inside)
    for s in (shape.sections[0], shape.sections[-1]):
        end = [(s.x, -s.sill_width, s.sill), (s.x, -s.belt_width, s.belt), (s.x, -s.top_width, s.top)]
        body.face([*end, *[(x, -y, z) for x, y, z in reversed(end)]], paint, PAINT)


def _edge(shape: CarShape, x: float, share: float) -> tuple[float, float]:
    """Half width and height of the skin above the belt line at x."""
    xs = [s.x for s in shape.sections]
    belt, top, belt_width, top_width = (
        float(np.interp(x, xs, [getattr(s, name) for s in shape.sections]))
        for name in ("belt", "top", "belt_width", "top_width")
    )
    return belt_width + share * (top_width - belt_width), belt + share * (top - belt)


def _pillars(body: BodyBuilder, shape: CarShape, colour: Colour) -> None:
    for x in shape.pillars:
        rows = []
        for share, half in ((0.0, 0.045), (0.9, 0.03)):
            for dx in (-half, half):
                y, z = _edge(shape, x + dx, share)
                rows.append((x + dx, y + 0.008, z))
        body.both_sides([rows[0], rows[1], rows[3], rows[2]], colour, PAINT)


def _doors(body: BodyBuilder, shape: CarShape) -> None:
    """Door panels, shown when open, with the dark openings they leave."""
    for row, (rear, front) in enumerate(shape.doors):
        for side, column in ((-1.0, 0), (1.0, 1)):
            (y0, z0), (y1, z1) = _edge(shape, rear, 0.0), _edge(shape, rear, UPPER_GLASS)
            (y2, z2), (y3, z3) = _edge(shape, front, 0.0), _edge(shape, front, UPPER_GLASS)
            low = 0.42
            lower = [(rear, 0.96, low), (front, 0.96, low), (front, y2 + 0.02, z2), (rear, y0 + 0.02, z0)]
            upper = [(rear, y0 + 0.02, z0), (front, y2 + 0.02, z2), (front, y3, z3), (rear, y1, z1)]
            body.hang(DOORS + 2 * row + column, (front, side * 0.97, 1.0))
            for polygon, colour, material in ((lower, BODY_COLOUR, PAINT), (upper, WINDOW, GLASS)):
                points = np.array(polygon) * (1.0, side, 1.0)
                for facing in (-5.0, 5.0):
                    shown = colour if facing < 0 or material == GLASS else TRIM
                    body.face(
                        points + np.array([0.0, 0.012 * side * (facing < 0), 0.0]),
                        shown,
                        material,
                        inside=(0.2, facing * side, 1.0),
                    )
            body.hang(DOORWAYS + 2 * row + column, (front, side * 0.97, 1.0))
            opening = np.array([*lower[:2], *upper[2:]]) * (1.0, side, 1.0) + (0.0, 0.018 * side, 0.0)
            body.face(opening, BLACK, inside=(0.2, -5.0 * side, 1.0))
    body.hang(0, (0.0, 0.0, 0.0))


def _lamps(body: BodyBuilder, shape: CarShape) -> None:
    rear, front = shape.sections[0], shape.sections[-1]
    back, nose = -1.012, 1.012
    for side, blinker in ((-1.0, LEFT_BLINKER), (1.0, RIGHT_BLINKER)):
        y = side * (rear.belt_width - 0.17)
        body.lamp((back, y, shape.rear_lamp_z), (0.17, 0.11), BRAKE_LAMP, front=False)
        body.lamp((back - 0.002, y - side * 0.24, shape.rear_lamp_z), (0.06, 0.08), blinker, front=False)
        body.lamp((back - 0.002, y - side * 0.36, shape.rear_lamp_z), (0.05, 0.07), REVERSE_LAMP, front=False)
        y = side * (front.belt_width - 0.15)
        body.lamp((nose, y, shape.front_lamp_z), (0.16, 0.085), HEAD_LAMP, radius_m=0.09, front=True)
        body.lamp((nose + 0.002, y - side * 0.21, shape.front_lamp_z - 0.02), (0.05, 0.06), blinker, front=True)
    pane = next(s for s in shape.sections if s.top > 1.7)
    body.lamp((pane.x - 0.03, 0.0, pane.top - 0.06), (0.20, 0.03), BRAKE_LAMP, radius_m=0.05, front=False)


def _trim(body: BodyBuilder, shape: CarShape) -> None:
    """Bumpers' lower halves, grille, plates, mirrors, door seams."""
    rear, front = shape.sections[0], shape.sections[-1]
    for s, x in ((rear, -1.008), (front, 1.008)):
        low = [(x, -s.sill_width, s.sill), (x, s.sill_width, s.sill)]
        high = [(x, s.sill_width + 0.02, s.sill + 0.16), (x, -s.sill_width - 0.02, s.sill + 0.16)]
        body.face([*low, *high], TRIM)
    z = shape.front_lamp_z
    grille = [(1.010, -0.42, z - 0.10), (1.010, 0.42, z - 0.10), (1.010, 0.46, z + 0.05), (1.010, -0.46, z + 0.05)]
    body.face(grille, TRIM)
    plate(body, -1.016, 0.70)
    plate(body, 1.016, 0.56)
    cowl = shape.doors[0][1]
    y, z = _edge(shape, cowl, 0.05)
    for side in (-1.0, 1.0):
        body.block(
            *_spanned((cowl - 0.05, side * y, z), (cowl + 0.03, side * min(y + 0.14, 1.08), z + 0.16)),
            BODY_COLOUR,
            PAINT,
        )
    seams = sorted({x for span in shape.doors for x in span})
    for x in seams:
        strip = [(x - 0.006, 0.985, 0.42), (x + 0.006, 0.985, 0.42), (x + 0.006, 0.975, 1.18), (x - 0.006, 0.975, 1.18)]
        body.both_sides(strip, TRIM)


def _spanned(a: Sequence[float], b: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper corner of the box between two points."""
    return tuple(map(min, zip(a, b, strict=True))), tuple(map(max, zip(a, b, strict=True)))


def car(shape: CarShape, *, roof: Colour = BODY_COLOUR) -> BodyBuilder:
    """A complete car of a shape."""
    body = BodyBuilder()
    loft(body, shape, roof=roof)
    _pillars(body, shape, roof)
    _doors(body, shape)
    wheels(body, shape.axles, shape.wheel, steered=shape.axles[1])
    _lamps(body, shape)
    _trim(body, shape)
    return body


def jeep() -> BodyBuilder:
    """An off-road car with fenders and a spare wheel."""
    body = car(JEEP, roof=SECOND_COLOUR)
    body.block((-1.05, -0.3, 0.8), (-0.99, 0.3, 1.5), BLACK)
    for x in JEEP.axles:
        for low, high in (
            ((x - 0.24, -0.99, 0.84), (x + 0.24, -0.78, 0.92)),
            ((x - 0.24, 0.78, 0.84), (x + 0.24, 0.99, 0.92)),
        ):
            body.block(low, high, TRIM)
    return body


def pickup() -> BodyBuilder:
    """A wedge-shaped pickup with an open bed."""
    body = car(PICKUP)
    body.face([(-0.96, -0.74, 1.30), (-0.36, -0.74, 1.62), (-0.36, 0.74, 1.62), (-0.96, 0.74, 1.30)], TRIM)
    return body


def police() -> BodyBuilder:
    """A saloon with black ends, white doors and a light bar."""
    body = car(SEDAN)
    for x in ((0.52, 0.97), (-0.97, -0.46)):
        stripe(body, x, (0.46, 1.02), BLACK, y=0.988)
    hood = [(0.52, -0.80, 1.262), (0.86, -0.76, 1.12), (0.86, 0.76, 1.12), (0.52, 0.80, 1.262)]
    body.face(hood, BLACK, PAINT)
    stripe(body, (-0.40, 0.42), (0.72, 0.80), (0.03, 0.08, 0.45), y=0.99)
    light_bar(body, (-0.10, 0.04), 2.0)
    return body


def light_bar(body: BodyBuilder, x: tuple[float, float], z: float, *, half_width: float = 0.58) -> None:
    """Flashers on the roof, red on the left and blue on the right."""
    body.block((x[0] - 0.01, -half_width, z - 0.03), (x[1] + 0.01, half_width, z + 0.03), BLACK)
    body.beacon((x[0], -half_width, z + 0.03), (x[1], -0.08, z + 0.14), FLASHER_A)
    body.beacon((x[0], 0.08, z + 0.03), (x[1], half_width, z + 0.14), FLASHER_B)


def taxi() -> BodyBuilder:
    """A saloon with a roof sign and a chequered band."""
    body = car(SEDAN)
    body.block((-0.07, -0.24, 1.98), (0.03, 0.24, 2.14), YELLOW)
    for x in (-0.071, 0.031):
        sign = [(x, -0.2, 2.01), (x, 0.2, 2.01), (x, 0.2, 2.11), (x, -0.2, 2.11)]
        body.face(sign, WHITE, inside=(-0.02, 0.0, 2.06))
    for k in range(10):
        stripe(body, (-0.40 + 0.08 * k, -0.36 + 0.08 * k), (0.80, 0.86) if k % 2 else (0.86, 0.92), BLACK, y=0.99)
    return body
