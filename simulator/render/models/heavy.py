"""Vans, trucks, buses and the emergency vehicles built on them."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.render.mesh import GLASS, PAINT, Colour
from simulator.render.models.cars import CarShape, Section, light_bar, loft
from simulator.render.models.kit import (
    BLACK,
    BODY_COLOUR,
    BRAKE_LAMP,
    CHROME,
    FLASHER_A,
    FLASHER_B,
    HEAD_LAMP,
    LEFT_BLINKER,
    RED,
    REVERSE_LAMP,
    RIGHT_BLINKER,
    SECOND_COLOUR,
    STEEL,
    TRIM,
    WHITE,
    WINDOW,
    YELLOW,
    BodyBuilder,
    plate,
    stripe,
    wheels,
)

_S = Section
VAN = CarShape(
    (
        _S(-1.00, 0.28, 1.00, 1.94, 0.92, 0.96, 0.86), _S(-0.96, 0.24, 1.02, 2.00, 0.93, 0.97, 0.88),
        _S(0.34, 0.24, 1.02, 2.00, 0.93, 0.97, 0.88), _S(0.50, 0.24, 1.00, 1.92, 0.93, 0.97, 0.84),
        _S(0.76, 0.24, 0.94, 1.08, 0.92, 0.96, 0.86), _S(0.96, 0.30, 0.84, 0.90, 0.88, 0.92, 0.82),
        _S(1.00, 0.36, 0.62, 0.68, 0.80, 0.88, 0.78),
    ),
    (2, 3), (3,), (0.48,), (-0.56, 0.66), (0.118, 0.26), rear_lamp_z=0.80, front_lamp_z=0.72, doors=((0.32, 0.66),),
)  # fmt: skip
MICROBUS = CarShape(
    (
        _S(-1.00, 0.36, 1.06, 1.10, 0.80, 0.88, 0.84), _S(-0.97, 0.30, 1.10, 1.86, 0.88, 0.94, 0.80),
        _S(-0.88, 0.28, 1.10, 2.00, 0.90, 0.96, 0.80), _S(0.74, 0.28, 1.10, 2.00, 0.90, 0.96, 0.80),
        _S(0.84, 0.28, 1.10, 1.90, 0.88, 0.94, 0.78), _S(0.97, 0.32, 1.06, 1.12, 0.84, 0.90, 0.82),
        _S(1.00, 0.40, 0.70, 0.76, 0.76, 0.84, 0.78),
    ),
    (1, 2, 3, 4), (1, 4), (-0.55, -0.08, 0.40), (-0.58, 0.60), (0.145, 0.32), rear_lamp_z=0.80, front_lamp_z=0.66,
    doors=((0.40, 0.78),),
)  # fmt: skip


def _lamps(body: BodyBuilder, rear_z: float, front_z: float, y: float, *, back: float = -1.012) -> None:
    for side, blinker in ((-1.0, LEFT_BLINKER), (1.0, RIGHT_BLINKER)):
        body.lamp((back, side * y, rear_z), (0.11, 0.09), BRAKE_LAMP, front=False)
        body.lamp((back - 0.002, side * y, rear_z + 0.16), (0.10, 0.05), blinker, front=False)
        body.lamp((back - 0.002, side * (y - 0.2), rear_z), (0.06, 0.06), REVERSE_LAMP, front=False)
        body.lamp((1.012, side * y, front_z), (0.14, 0.07), HEAD_LAMP, radius_m=0.1, front=True)
        body.lamp((1.014, side * (y + 0.02), front_z + 0.12), (0.11, 0.035), blinker, front=True)


def _mirrors(body: BodyBuilder, x: float, y: float, z: float) -> None:
    for side in (-1.0, 1.0):
        low, high = sorted((side * y, side * (y + 0.12)))
        body.block((x, low, z), (x + 0.04, high, z + 0.26), TRIM)


def _van_body(shape: CarShape, *, paint: Colour = BODY_COLOUR, roof: Colour = BODY_COLOUR) -> BodyBuilder:
    body = BodyBuilder()
    loft(body, shape, paint=paint, roof=roof)
    wheels(body, shape.axles, shape.wheel, steered=shape.axles[1])
    _lamps(body, shape.rear_lamp_z, shape.front_lamp_z, 0.80)
    plate(body, -1.016, 0.5)
    plate(body, 1.016, 0.42)
    return body


def van() -> BodyBuilder:
    body = _van_body(VAN)
    _mirrors(body, 0.62, 0.94, 1.04)
    rear = [(-1.004, -0.74, 1.15), (-1.004, -0.05, 1.15), (-1.002, -0.05, 1.75), (-1.002, -0.70, 1.75)]
    for sign in (-1.0, 1.0):
        body.face([(x, sign * y, z) for x, y, z in rear], WINDOW, GLASS)
    body.both_sides([(0.28, 0.985, 0.4), (0.29, 0.985, 0.4), (0.29, 0.985, 1.6), (0.28, 0.985, 1.6)], TRIM)
    body.both_sides([(-0.9, 0.985, 0.42), (0.7, 0.985, 0.42), (0.7, 0.985, 0.52), (-0.9, 0.985, 0.52)], TRIM)
    return body


def microbus() -> BodyBuilder:
    body = _van_body(MICROBUS, roof=SECOND_COLOUR)
    stripe(body, (-0.94, 0.94), (1.02, 1.10), SECOND_COLOUR, y=0.975)
    return body


def ambulance() -> BodyBuilder:
    """A van's cab with a box, orange bands and flashers at all corners."""
    body = BodyBuilder()
    cab = CarShape(
        (
            _S(0.20, 0.24, 0.92, 1.62, 0.82, 0.86, 0.78), _S(0.46, 0.24, 0.92, 1.62, 0.82, 0.86, 0.76),
            _S(0.66, 0.24, 0.88, 1.00, 0.84, 0.88, 0.80), _S(0.95, 0.30, 0.82, 0.88, 0.84, 0.88, 0.80),
            _S(1.00, 0.36, 0.60, 0.66, 0.78, 0.84, 0.76),
        ),
        (0, 1), (1,), (), (0.0, 0.0), (0.1, 0.1),
    )  # fmt: skip
    loft(body, cab, paint=WHITE, roof=WHITE)
    body.block((-1.0, -0.99, 0.34), (0.26, 0.99, 1.90), WHITE, PAINT)
    stripe(body, (-1.0, 0.26), (0.80, 1.02), (0.75, 0.12, 0.02), y=0.996)
    stripe(body, (-1.0, 0.26), (1.05, 1.10), (0.03, 0.10, 0.45), y=0.996)
    stripe(body, (0.28, 0.94), (0.56, 0.72), (0.75, 0.12, 0.02), y=0.905)
    for x, low in ((-1.004, 0.34), (-1.003, 1.2)):
        colour = (0.75, 0.12, 0.02) if low < 1.0 else WHITE
        body.face([(x, -0.95, low), (x, 0.95, low), (x, 0.95, low + 0.3), (x, -0.95, low + 0.3)], colour)
    for bar in (((-0.55, 1.30), (-0.43, 1.74)), ((-0.60, 1.46), (-0.38, 1.58))):
        stripe(body, (bar[0][0], bar[1][0]), (bar[0][1], bar[1][1]), (0.03, 0.10, 0.55), y=0.998)
    wheels(body, (-0.52, 0.66), (0.118, 0.26), y=0.95, steered=0.66)
    _lamps(body, 0.58, 0.70, 0.78)
    _mirrors(body, 0.54, 0.86, 0.98)
    light_bar(body, (0.27, 0.38), 1.70, half_width=0.7)
    for x in (-1.0, 0.20):
        for side, code in ((-1.0, FLASHER_A), (1.0, FLASHER_B)):
            low, high = sorted((side * 0.70, side * 0.94))
            body.beacon((x - 0.02, low, 1.88), (x + 0.05, high, 1.99), code)
    return body


def _cab_over(
    body: BodyBuilder, rear: float, paint: Colour, *, top: float, glass_low: float = 0.95, low: float = 0.24
) -> None:
    """A flat-fronted driver's cab from x = rear to the nose."""
    shape = CarShape(
        (
            _S(rear, low, glass_low, top, 0.94, 0.97, 0.95), _S(0.90, low, glass_low, top, 0.94, 0.97, 0.93),
            _S(0.99, low, glass_low, glass_low + 0.06, 0.92, 0.95, 0.93), _S(1.00, low, 0.5, 0.6, 0.90, 0.94, 0.93),
        ),
        (1,), (1,), (), (0.0, 0.0), (0.1, 0.1),
    )  # fmt: skip
    loft(body, shape, paint=paint, roof=paint)
    middle = (rear + 0.90) / 2.0
    height = glass_low + 0.75 * (top - glass_low)
    pane = [(middle - 0.02, 0.965, glass_low), (0.88, 0.972, glass_low), (0.86, 0.968, height)]
    body.both_sides([*pane, (middle - 0.02, 0.965, height)], WINDOW, GLASS)
    grille = [(1.006, -0.5, low + 0.1), (1.006, 0.5, low + 0.1), (1.004, 0.5, low + 0.32), (1.004, -0.5, low + 0.32)]
    body.face(grille, TRIM)
    _mirrors(body, 0.90, 0.96, glass_low + 0.1)


def _chassis(body: BodyBuilder, axles: Sequence[float], wheel: tuple[float, float], rear: float) -> None:
    body.block((rear, -0.7, wheel[1] * 0.8), (0.7, 0.7, wheel[1] * 1.5), TRIM)
    wheels(body, axles, wheel, y=0.94, steered=axles[-1])
    for side in (-1.0, 1.0):
        low, high = sorted((side * 0.72, side * 0.92))
        body.block((-0.30, low, 0.16), (0.40, high, 0.34), STEEL)


def box_truck() -> BodyBuilder:
    """A lorry with a closed cargo box."""
    body = BodyBuilder()
    _cab_over(body, 0.52, BODY_COLOUR, top=1.66)
    body.block((-1.0, -1.0, 0.40), (0.46, 1.0, 2.0), SECOND_COLOUR, PAINT)
    stripe(body, (-0.9, 0.36), (1.15, 1.45), BODY_COLOUR, y=1.004)
    body.face([(-1.004, y, z) for y, z in ((-0.03, 0.42), (0.03, 0.42), (0.03, 1.96), (-0.03, 1.96))], TRIM)
    bar = ((-0.95, 0.26), (0.95, 0.26), (0.95, 0.38), (-0.95, 0.38))
    body.face([(-1.004, y, z) for y, z in bar], RED)
    _chassis(body, (-0.66, 0.72), (0.118, 0.28), -0.98)
    _lamps(body, 0.32, 0.40, 0.78)
    plate(body, -1.02, 0.33)
    return body


def cola_truck() -> BodyBuilder:
    """A delivery lorry in red with a white wave."""
    body = BodyBuilder()
    _cab_over(body, 0.50, BODY_COLOUR, top=1.70)
    body.block((-1.0, -1.0, 0.36), (0.46, 1.0, 2.0), BODY_COLOUR, PAINT)
    for k in range(6):
        rise = (0.0, 0.10, 0.16, 0.12, 0.04, 0.0)[k]
        stripe(body, (-0.92 + 0.22 * k, -0.70 + 0.22 * k), (1.05 + rise, 1.26 + rise), WHITE, y=1.004)
    for k in range(5):
        x = -0.92 + 0.27 * k
        strip = [(x, 1.006, 0.40), (x + 0.02, 1.006, 0.40), (x + 0.02, 1.006, 1.0), (x, 1.006, 1.0)]
        body.both_sides(strip, CHROME)
    _chassis(body, (-0.60, 0.66), (0.17, 0.36), -0.98)
    _lamps(body, 0.46, 0.52, 0.78)
    return body


def fire_engine() -> BodyBuilder:
    """Red, with silver shutters, a white band, a ladder on the roof and flashers."""
    body = BodyBuilder()
    red: Colour = (0.52, 0.015, 0.012)
    _cab_over(body, 0.28, red, top=1.66, glass_low=0.92)
    body.block((-1.0, -1.0, 0.34), (0.29, 1.0, 1.62), red, PAINT)
    for k in range(4):
        x = -0.94 + 0.29 * k
        stripe(body, (x, x + 0.25), (0.62, 1.48), CHROME, y=1.004)
        for line in range(4):
            stripe(body, (x, x + 0.25), (0.74 + 0.2 * line, 0.765 + 0.2 * line), STEEL, y=1.006)
    stripe(body, (-0.98, 0.98), (0.48, 0.58), WHITE, y=1.005)
    stripe(body, (0.30, 0.94), (0.66, 0.78), YELLOW, y=0.985)
    for k in range(6):
        y = -0.95 + 0.32 * k
        pane = [(-1.004, y, 0.45), (-1.004, y + 0.16, 0.45), (-1.004, y + 0.32, 0.95), (-1.004, y + 0.16, 0.95)]
        body.face(pane, YELLOW)
    for y in (-0.34, 0.34):
        body.block((-0.96, y - 0.03, 1.72), (0.66, y + 0.03, 1.80), CHROME)
    for k in range(12):
        x = -0.92 + 0.135 * k
        body.block((x, -0.34, 1.74), (x + 0.025, 0.34, 1.77), CHROME)
    body.block((-0.8, -0.2, 1.60), (-0.6, 0.2, 1.74), STEEL)
    _chassis(body, (-0.56, 0.62), (0.125, 0.27), -0.98)
    _lamps(body, 0.52, 0.42, 0.80)
    light_bar(body, (0.62, 0.72), 1.72, half_width=0.8)
    for side, code in ((-1.0, FLASHER_A), (1.0, FLASHER_B)):
        low, high = sorted((side * 0.74, side * 0.92))
        body.beacon((-0.99, low, 1.62), (-0.93, high, 1.76), code)
    return body


def bus() -> BodyBuilder:
    """A town bus: a band of windows, doors on the right, a lit destination board."""
    body = BodyBuilder()
    shape = CarShape(
        (
            _S(-1.00, 0.24, 0.95, 1.90, 0.94, 0.97, 0.92), _S(-0.97, 0.20, 0.95, 2.00, 0.95, 0.98, 0.92),
            _S(0.95, 0.20, 0.95, 2.00, 0.95, 0.98, 0.92), _S(0.99, 0.22, 0.85, 1.70, 0.94, 0.97, 0.93),
            _S(1.00, 0.24, 0.62, 0.80, 0.92, 0.95, 0.93),
        ),
        (), (), (), (0.0, 0.0), (0.1, 0.1),
    )  # fmt: skip
    loft(body, shape)
    y0, y1 = 0.984, 0.950
    for k in range(7):
        x = -0.93 + 0.265 * k
        body.both_sides([(x, y0, 0.98), (x + 0.245, y0, 0.98), (x + 0.245, y1, 1.62), (x, y1, 1.62)], WINDOW, GLASS)
    stripe(body, (-0.97, 0.94), (0.56, 0.70), SECOND_COLOUR, y=0.992)
    for x in (0.66, -0.12):
        door = [(x, 0.998, 0.26), (x + 0.2, 0.998, 0.26), (x + 0.2, 0.965, 1.60), (x, 0.965, 1.60)]
        body.face(door, BLACK, GLASS, inside=(x, 0.0, 0.9))
    front = [(1.002, -0.88, 0.86), (1.002, 0.88, 0.86), (0.996, 0.86, 1.66), (0.996, -0.86, 1.66)]
    body.face(front, WINDOW, GLASS)
    body.face([(-1.006, -0.8, 1.1), (-1.006, 0.8, 1.1), (-1.004, 0.78, 1.7), (-1.004, -0.78, 1.7)], WINDOW, GLASS)
    board = [(0.985, -0.7, 1.74), (0.985, 0.7, 1.74), (0.965, 0.7, 1.92), (0.965, -0.7, 1.92)]
    body.face(board, BLACK)
    text = [(0.988, -0.5, 1.78), (0.988, 0.5, 1.78), (0.972, 0.5, 1.88), (0.972, -0.5, 1.88)]
    body.face(text, (0.85, 0.45, 0.02), inside=(0.0, 0.0, 1.8))
    _mirrors(body, 0.97, 0.96, 1.2)
    wheels(body, (-0.58, 0.56), (0.095, 0.24), y=0.95, steered=0.56)
    _lamps(body, 0.52, 0.46, 0.80)
    plate(body, -1.016, 0.36)
    return body
