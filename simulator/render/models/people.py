"""Walkers, and the two-wheelers with their riders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simulator.render.mesh import PAINT, Colour
from simulator.render.models.kit import (
    BLACK,
    BODY_COLOUR,
    BRAKE_LAMP,
    CHROME,
    EXTRAS,
    HAIR_COLOUR,
    HEAD_LAMP,
    LEFT_ARM,
    LEFT_BLINKER,
    LEFT_LEG,
    RIGHT_ARM,
    RIGHT_BLINKER,
    RIGHT_LEG,
    RIGID,
    RIM,
    SECOND_COLOUR,
    SKIN_COLOUR,
    STEEL,
    TRIM,
    TYRE,
    BodyBuilder,
)

HIP_Z, SHOULDER_Z = 0.98, 1.60
"""Heights of the joints in an adult's unit box."""

BACKPACK, SKIRT, HAT = EXTRAS, EXTRAS + 1, EXTRAS + 2
SHOE = (0.03, 0.025, 0.02)
RIDER_CLOTHES = ((0.05, 0.06, 0.09), (0.03, 0.03, 0.035))


def walker(*, child: bool = False, long_hair: bool = False) -> BodyBuilder:
    """A person whose legs and arms swing; the box is as deep as it is wide (CARLA's), a body is not."""
    body = BodyBuilder()
    hip, shoulder = (0.86, 1.42) if child else (HIP_Z, SHOULDER_Z)
    head = 0.30 if child else 0.0
    for side, leg, arm in ((-1.0, LEFT_LEG, LEFT_ARM), (1.0, RIGHT_LEG, RIGHT_ARM)):
        body.hang(leg, (0.0, side * 0.36, hip))
        body.limb((0.02, side * 0.36, 0.06), (0.0, side * 0.38, hip + 0.04), (0.40, 0.38, 0.62, 0.56), SECOND_COLOUR)
        body.block((-0.22, side * 0.36 - 0.2, 0.0), (0.62, side * 0.36 + 0.2, 0.09), SHOE)
        body.hang(arm, (0.0, side * 0.94, shoulder - 0.04))
        elbow = shoulder - 0.36
        body.limb((0.0, side * 1.0, elbow), (0.0, side * 0.94, shoulder), (0.36, 0.30, 0.40, 0.34), BODY_COLOUR)
        body.limb((0.16, side * 0.98, elbow - 0.24), (0.0, side * 1.0, elbow), (0.26, 0.22, 0.34, 0.28), BODY_COLOUR)
        body.limb(
            (0.22, side * 0.98, elbow - 0.36), (0.16, side * 0.98, elbow - 0.23), (0.26, 0.16, 0.24, 0.18), SKIN_COLOUR
        )
    body.joint = RIGID
    waist = hip + 0.18
    body.limb((0.0, 0.0, hip - 0.06), (0.0, 0.0, waist), (0.72, 1.36, 0.66, 1.22), SECOND_COLOUR)
    body.limb((0.0, 0.0, waist), (0.0, 0.0, shoulder - 0.12), (0.68, 1.24, 0.78, 1.66), BODY_COLOUR)
    body.limb((0.0, 0.0, shoulder - 0.12), (0.0, 0.0, shoulder + 0.06), (0.78, 1.66, 0.40, 0.60), BODY_COLOUR)
    body.limb((0.02, 0.0, shoulder + 0.02), (0.02, 0.0, shoulder + 0.14), (0.34, 0.32, 0.32, 0.30), SKIN_COLOUR)
    chin, top = shoulder + 0.09, 2.0
    wide = 0.50 + 0.4 * head
    body.limb((0.10, 0.0, chin), (0.06, 0.0, top - 0.10), (0.48, 0.46, wide + 0.16, wide), SKIN_COLOUR)
    body.limb((-0.06, 0.0, top - 0.14), (-0.02, 0.0, top), (wide + 0.22, wide + 0.10, 0.36, 0.34), HAIR_COLOUR)
    low = chin - 0.14 if long_hair else chin + 0.12
    body.limb((-0.26, 0.0, low), (-0.18, 0.0, top - 0.06), (0.16, wide + 0.06, 0.36, wide + 0.10), HAIR_COLOUR)
    body.hang(BACKPACK, (0.0, 0.0, 1.0))
    body.block((-0.86, -0.56, waist + 0.02), (-0.36, 0.56, shoulder - 0.02), (0.06, 0.07, 0.10))
    body.hang(SKIRT, (0.0, 0.0, 1.0))
    body.limb((0.0, 0.0, hip - 0.44), (0.0, 0.0, waist), (1.20, 1.66, 0.72, 1.26), SECOND_COLOUR)
    body.hang(HAT, (0.0, 0.0, 1.0))
    body.limb((0.02, 0.0, top - 0.09), (0.0, 0.0, top + 0.03), (wide + 0.26, wide + 0.16, 0.5, 0.46), BLACK)
    body.block((0.2, -0.25, top - 0.10), (0.62, 0.25, top - 0.07), BLACK)
    body.joint = RIGID
    return body


def wheelchair() -> BodyBuilder:
    """A seated person in a wheelchair; the box is that of a standing walker."""
    body = BodyBuilder()
    for side in (-1.0, 1.0):
        _ring(body, (-0.2, side * 1.15, 0.34), (1.55, 0.34), 0.10, 0.08)
        body.limb((0.1, side * 0.4, 0.60), (1.7, side * 0.4, 0.60), (0.1, 0.1, 0.1, 0.1), SECOND_COLOUR)
        body.block((0.0, side * 0.4 - 0.25, 0.50), (1.9, side * 0.4 + 0.25, 0.68), SECOND_COLOUR)
        body.limb((1.9, side * 0.4, 0.10), (1.75, side * 0.4, 0.62), (0.4, 0.36, 0.5, 0.4), SECOND_COLOUR)
        body.limb((0.9, side * 0.9, 0.76), (0.0, side * 0.95, 1.18), (0.3, 0.3, 0.4, 0.3), BODY_COLOUR)
    body.block((-0.6, -0.95, 0.44), (1.0, 0.95, 0.52), BLACK)
    body.block((-0.75, -0.95, 0.50), (-0.5, 0.95, 1.10), BLACK)
    body.limb((-0.1, 0.0, 0.56), (-0.15, 0.0, 1.24), (0.75, 1.3, 0.8, 1.6), BODY_COLOUR)
    body.limb((-0.1, 0.0, 1.27), (-0.1, 0.0, 1.55), (0.5, 0.48, 0.6, 0.5), SKIN_COLOUR)
    body.limb((-0.2, 0.0, 1.48), (-0.15, 0.0, 1.60), (0.7, 0.6, 0.4, 0.4), HAIR_COLOUR)
    return body


def _ring(
    body: BodyBuilder, centre: Sequence[float], radii: Sequence[float], width: float, tube: float, *, sides: int = 14
) -> None:
    """A tyre in the x-z plane: bands and flanks; `tube` is its thickness as share of the radius."""
    angle = np.arange(sides + 1) * 2.0 * math.pi / sides
    x, y, z = centre
    outer = np.stack([x + radii[0] * np.cos(angle), z + radii[1] * np.sin(angle)], axis=1)
    inner = np.stack([x + (1 - tube) * radii[0] * np.cos(angle), z + (1 - tube) * radii[1] * np.sin(angle)], axis=1)
    for k in range(sides):
        a, b, c, d = outer[k], outer[k + 1], inner[k + 1], inner[k]
        middle = ((a[0] + c[0]) / 2.0, y, (a[1] + c[1]) / 2.0)
        for side in (-1.0, 1.0):
            body.face([(p[0], y + side * width / 2.0, p[1]) for p in (a, b, c, d)], TYRE, inside=middle)
        for p, q in ((a, b), (d, c)):
            band = [(p[0], y - width / 2, p[1]), (q[0], y - width / 2, q[1]), (q[0], y + width / 2, q[1])]
            body.face([*band, (p[0], y + width / 2, p[1])], TYRE, inside=middle)


def _rider(body: BodyBuilder, seat: Sequence[float], hands: Sequence[float], *, helmet: Colour, pedals: float) -> None:
    """A rider on the saddle with hands on the bar; the legs turn at the hips, `pedals` is the feet's height."""
    sx, sz = seat
    hx, hy, hz = hands
    shoulder = (sx + 0.42 * (hx - sx), 1.56)
    for side, leg in ((-1.0, LEFT_LEG), (1.0, RIGHT_LEG)):
        body.hang(leg, (sx, side * 0.24, sz + 0.04))
        knee = (sx + 0.34, side * 0.34, (sz + pedals) / 2.0 + 0.16)
        body.limb(knee, (sx, side * 0.24, sz + 0.10), (0.22, 0.26, 0.26, 0.34), SECOND_COLOUR)
        body.limb(
            (sx + 0.22, side * 0.30, pedals), (knee[0], knee[1], knee[2] + 0.06), (0.15, 0.18, 0.2, 0.24), SECOND_COLOUR
        )
        body.block((sx + 0.14, side * 0.30 - 0.12, pedals - 0.05), (sx + 0.42, side * 0.30 + 0.12, pedals + 0.02), SHOE)
        body.joint = RIGID
        body.limb((hx, side * hy, hz), (shoulder[0], side * 0.56, shoulder[1]), (0.10, 0.14, 0.14, 0.20), BODY_COLOUR)
    body.limb((sx, 0.0, sz), (shoulder[0], 0.0, shoulder[1] + 0.06), (0.30, 0.62, 0.26, 1.10), BODY_COLOUR)
    top = (shoulder[0] + 0.10, 2.0)
    body.limb((top[0], 0.0, shoulder[1] + 0.08), (top[0], 0.0, 1.88), (0.20, 0.34, 0.24, 0.40), SKIN_COLOUR)
    body.limb((top[0] - 0.02, 0.0, 1.80), (top[0] - 0.04, 0.0, 2.0), (0.32, 0.52, 0.20, 0.32), helmet)


def bicycle() -> BodyBuilder:
    """A bicycle with a rider who pedals."""
    body = BodyBuilder()
    for x in (-0.60, 0.60):
        _ring(body, (x, 0.0, 0.40), (0.40, 0.40), 0.10, 0.10)
        for angle in (0.4, 1.45, 2.5):
            dx, dz = 0.37 * math.cos(angle), 0.37 * math.sin(angle)
            body.tube((x - dx, 0.0, 0.40 - dz), (x + dx, 0.0, 0.40 + dz), 0.008, CHROME)
    crank, saddle, head = (-0.10, 0.0, 0.38), (-0.26, 0.0, 1.02), (0.42, 0.0, 0.94)
    for a, b in (
        (crank, saddle), (crank, head), ((-0.24, 0.0, 0.94), head), ((-0.60, 0.0, 0.40), crank),
        ((-0.60, 0.0, 0.40), (-0.24, 0.0, 0.94)), ((0.60, 0.0, 0.40), (0.40, 0.0, 1.06)),
    ):  # fmt: skip
        body.tube(a, b, 0.030, BODY_COLOUR)
    body.block((-0.40, -0.16, 1.02), (-0.12, 0.16, 1.08), BLACK)
    body.tube((0.42, -0.9, 1.08), (0.42, 0.9, 1.08), 0.025, TRIM)
    body.tube((-0.10, -0.3, 0.38), (-0.10, 0.3, 0.38), 0.03, STEEL)
    _rider(body, (-0.26, 1.06), (0.42, 0.80, 1.08), helmet=(0.55, 0.52, 0.08), pedals=0.34)
    body.joint = RIGID
    body.lamp((-0.72, 0.0, 0.86), (0.12, 0.05), BRAKE_LAMP, radius_m=0.04, front=False)
    body.lamp((0.50, 0.0, 0.98), (0.12, 0.05), HEAD_LAMP, radius_m=0.04, front=True)
    return body


def motorcycle(*, scooter: bool = False, sport: bool = False) -> BodyBuilder:
    """A motorcycle or scooter with a rider in a full helmet."""
    body = BodyBuilder()
    wheel = (0.24, 0.30) if scooter else (0.31, 0.38)
    for x in (-0.66, 0.68):
        _ring(body, (x, 0.0, wheel[1]), wheel, 0.26, 0.34, sides=12)
        body.disc((x, 0.07, wheel[1]), [0.6 * r for r in wheel], RIM, sides=8)
        body.disc((x, -0.07, wheel[1]), [0.6 * r for r in wheel], RIM, sides=8)
    if scooter:
        body.limb((-0.45, 0.0, 0.30), (-0.40, 0.0, 0.86), (0.72, 0.62, 0.62, 0.56), BODY_COLOUR)
        body.block((-0.2, -0.40, 0.26), (0.45, 0.40, 0.36), BODY_COLOUR, PAINT)
        body.limb((0.50, 0.0, 0.30), (0.42, 0.0, 1.02), (0.10, 0.80, 0.10, 0.60), BODY_COLOUR)
        body.limb((0.68, 0.0, 0.34), (0.66, 0.0, 0.66), (0.42, 0.20, 0.30, 0.18), BODY_COLOUR)
        body.block((-0.66, -0.28, 0.86), (-0.06, 0.28, 0.95), BLACK)
        seat, bar = (-0.28, 0.96), (0.40, 0.85, 1.12)
    else:
        body.limb((0.02, 0.0, 0.30), (0.04, 0.0, 0.74), (0.56, 0.46, 0.60, 0.38), STEEL)
        body.limb((0.12, 0.0, 0.72), (0.10, 0.0, 0.98), (0.52, 0.40, 0.40, 0.34), BODY_COLOUR)
        body.limb((-0.62, 0.0, 0.84), (-0.40, 0.0, 0.92), (0.46, 0.30, 0.30, 0.36), BODY_COLOUR)
        body.block((-0.55, -0.24, 0.90), (-0.08, 0.24, 0.97), BLACK)
        body.tube((0.68, 0.14, 0.40), (0.44, 0.14, 1.04), 0.03, CHROME)
        body.tube((0.68, -0.14, 0.40), (0.44, -0.14, 1.04), 0.03, CHROME)
        body.tube((-0.84, 0.3, 0.40), (0.0, 0.3, 0.34), 0.05, CHROME)
        if sport:
            body.limb((0.52, 0.0, 0.50), (0.50, 0.0, 1.14), (0.50, 0.50, 0.18, 0.34), BODY_COLOUR)
        seat, bar = (-0.30, 0.98), (0.40, 0.85, 1.08)
    body.tube((bar[0], -0.95, bar[2]), (bar[0], 0.95, bar[2]), 0.03, TRIM)
    _rider(body, seat, bar, helmet=BODY_COLOUR if sport else (0.03, 0.03, 0.03), pedals=0.36)
    body.joint = RIGID
    body.lamp((-0.90, 0.0, 0.84), (0.20, 0.07), BRAKE_LAMP, front=False)
    body.lamp((0.66 if sport else 0.58, 0.0, 0.96), (0.24, 0.10), HEAD_LAMP, front=True)
    for side, blinker in ((-1.0, LEFT_BLINKER), (1.0, RIGHT_BLINKER)):
        body.lamp((-0.86, side * 0.36, 0.84), (0.09, 0.05), blinker, radius_m=0.04, front=False)
        body.lamp((0.56, side * 0.42, 0.92), (0.09, 0.05), blinker, radius_m=0.04, front=True)
    return body
