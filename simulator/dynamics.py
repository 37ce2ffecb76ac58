"""How bodies move, all rows of `Bodies` at once. Frame and units: see `bodies`.

The vehicle model is measured, not derived. Steering is the kinematic bicycle fitted to CARLA's driving by World on
Rails (Chen et al. 2021), scaled by wheelbase and largest steering angle for other vehicles. Speed follows the
polynomials PDM-Lite fitted to CARLA at 20 Hz, scaled in time and speed for other vehicles (`drives`); what is done
where those fits end stands at the constants below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numba
import numpy as np

from simulator.bodies import (
    PROP,
    REFERENCE_MAX_STEER_DEG,
    REFERENCE_TOP_SPEED_MPS,
    REFERENCE_WHEELBASE_M,
    VEHICLE,
    WALKER,
    Bodies,
    BodySpec,
    Floats,
)
from simulator.collisions import Contacts, overlaps_any
from simulator.grid import Grid
from simulator.impacts import boxes, collide

__all__ = [
    "PROP",
    "VEHICLE",
    "WALKER",
    "Bodies",
    "BodySpec",
    "Contacts",
    "Ground",
    "boxes",
    "collide",
    "fitted_acceleration_mps2",
    "fitted_braking_mps2",
    "step",
    "warm_up",
]

Ground = Callable[[Floats, Floats, Floats], Floats]
"""Height of the ground in metres at arrays of x and y, on the level that a body at height z stands on.

NaN where there is none (the body keeps its height).
"""

GRAVITY_MPS2: Final = 9.81

FRONT_M: Final = -0.09076902
REAR_M: Final = 1.4178275
STEER_GAIN_RAD: Final = 0.36848336
"""World on Rails' fitted bicycle: distances of the axles to the reference point and steering angle at steer = 1."""
FIT_STEP_S: Final = 0.05
"""The polynomials map the speed in km/h to the speed one such step later."""
THROTTLE_FIT: Final = (
    9.63873001e-01, 4.37535692e-04, -3.80192912e-01, 1.74950069,
    9.16787414e-02, -7.05461530e-02, -1.05996152e-03, 6.71079346e-04,
)  # fmt: skip
"""PDM-Lite, on (s, s^2, t, t^2, s t, s t^2, s^2 t, s^2 t^2); s in km/h, t throttle. Unfit below t = 0.3."""
BRAKE_FIT: Final = (
    9.31711370e-03, 8.20967431e-02, -2.83832427e-03, 5.06587474e-05,
    -4.90357228e-07, 2.44419284e-09, -4.91381935e-12,
)  # fmt: skip
"""PDM-Lite, full brake, on s^1 .. s^7."""
BRAKE_FIT_TOP_KMH: Final = 108.0
"""The brake polynomial turns over above this speed; the deceleration found here is used for all higher ones."""
MIN_FITTED_THROTTLE: Final = 0.3
COAST_DROP_MPS2: Final = 0.5
"""Acceleration at throttle 0 lies this much below the one at throttle 0.3 (engine brake); linear in between."""
AIR_DRAG_PER_M: Final = 2.5e-4
"""rho cw A / 2 m of a saloon. Replaces the throttle polynomial beyond its minimum over speed, where the fit wrongly
rises again, and beyond THROTTLE_FIT_TOP_KMH."""
THROTTLE_FIT_TOP_KMH: Final = 100.0
"""Above this speed the fit would let less throttle accelerate more."""
BRAKE_HOLD_MPS2: Final = 6.0
"""Least deceleration of a full brake: stops the car for good where the fit only decays, and holds it on a slope."""
HAND_BRAKE_MPS2: Final = 6.0
REVERSE_TOP_SPEED_MPS: Final = 10.0
GROUND_FRICTION: Final = 0.7
"""Of Unreal's default surface. Times the tyre friction of 3.5 it allows the 24 m/s2 that the brake fit reaches."""
ROLLING_DRAG_MPS2: Final = 0.15
"""Rolling resistance of a car out of gear."""
SLIDE_DECEL_MPS2: Final = 6.0
SPIN_DECEL_DEG_S2: Final = 240.0
"""How fast tyres stop the sideways motion and the spin left by a collision."""
LONGEST_SUBSTEP_S: Final = FIT_STEP_S
MAX_STEP_S: Final = 0.2
DROP_M: Final = 0.3
"""A body higher above the ground than this falls; below, it follows the ground."""
CLIMB_M: Final = 1.5
"""Ground higher above a body than this is a bridge overhead and ignored."""


def step(bodies: Bodies, count: int, dt_s: float, ground: Ground) -> None:
    """Advance the first `count` slots (normally `bodies.count`) by dt_s.

    Raises: ValueError if dt_s is outside (0, 0.2].
    """
    if not 0.0 < dt_s <= MAX_STEP_S:
        raise ValueError(f"dt_s must lie in (0, {MAX_STEP_S}] s, got {dt_s}; use a smaller fixed_delta_seconds")
    rows = bodies.rows[:count]
    bodies.last_step_s = dt_s
    moved = np.empty(count, np.int64)
    points = np.empty((3, _GROUND_POINTS * count))
    number = _move(rows, dt_s, moved, points)
    if number:
        x, y, z = points[:, : _GROUND_POINTS * number]
        heights = ground(x, y, z)
        _settle(rows, dt_s, moved[:number], np.asarray(heights, np.float64))


def warm_up() -> None:
    """Compile everything that runs per step (seconds once per machine, then read from numba's cache)."""
    bodies = Bodies(2)
    spec = BodySpec(kind=VEHICLE, half_length_m=2.0, half_width_m=1.0, half_height_m=1.0, mass_kg=1000.0, box_up_m=1.0)
    for _ in range(2):
        bodies.add(spec, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    step(bodies, bodies.count, FIT_STEP_S, lambda x, y, z: np.zeros_like(x))
    collide(bodies, bodies.count, Grid.of(np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]])))
    overlaps_any((0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0), *boxes(bodies, bodies.count), bodies.active)


def fitted_acceleration_mps2(speed_mps: float, throttle: float) -> float:
    """Acceleration of the reference car at a speed >= 0, brake off; negative where it coasts. Source: THROTTLE_FIT."""
    return float(_acceleration(speed_mps, throttle))


def fitted_braking_mps2(speed_mps: float) -> float:
    """Deceleration of a full brake at a speed >= 0. Source: BRAKE_FIT."""
    return float(_braking(speed_mps))


_GROUND_POINTS: Final = 3
"""Front left, front right, rear centre."""
_KMH: Final = 3.6


@numba.njit(cache=True)
def _acceleration(speed, throttle):
    t = max(throttle, MIN_FITTED_THROTTLE)
    constant = THROTTLE_FIT[2] * t + THROTTLE_FIT[3] * t * t
    linear = THROTTLE_FIT[0] - 1.0 + THROTTLE_FIT[4] * t + THROTTLE_FIT[5] * t * t
    quadratic = THROTTLE_FIT[1] + THROTTLE_FIT[6] * t + THROTTLE_FIT[7] * t * t
    lowest = -linear / (2.0 * quadratic)
    v = min(speed, min(lowest, THROTTLE_FIT_TOP_KMH) / _KMH)
    gain = constant + v * _KMH * (linear + quadratic * v * _KMH)
    coast = COAST_DROP_MPS2 * max(1.0 - throttle / MIN_FITTED_THROTTLE, 0.0)
    return gain / (_KMH * FIT_STEP_S) - AIR_DRAG_PER_M * (speed * speed - v * v) - coast


@numba.njit(cache=True)
def _braking(speed):
    s = min(speed * _KMH, BRAKE_FIT_TOP_KMH)
    after, power = 0.0, 1.0
    for coefficient in BRAKE_FIT:
        power *= s
        after += coefficient * power
    return max((s - after) / (_KMH * FIT_STEP_S), BRAKE_HOLD_MPS2)


@numba.njit(cache=True)
def _tyre_limit(b):
    """Largest acceleration in m/s2 that the tyres pass on to the ground."""
    return GROUND_FRICTION * GRAVITY_MPS2 * b.friction


@numba.njit(cache=True)
def _pedal(b, u):
    """Acceleration that the engine gives at speed u in gear direction: the reference car's at the same share of top."""
    share = REFERENCE_TOP_SPEED_MPS / b.top_speed
    return b.acceleration_scale * _acceleration(max(u, 0.0) * share, b.throttle)


@numba.njit(cache=True)
def _next_speed(b, slope_mps2, h):
    """Signed speed h seconds later: the pedals act in the direction of the gear, resistance against the motion."""
    gear = -1.0 if b.reverse else 1.0
    u = gear * b.speed
    top = min(b.top_speed, REVERSE_TOP_SPEED_MPS) if b.reverse else b.top_speed
    pedal = _pedal(b, u)
    push, resist = max(pedal, 0.0), max(-pedal, 0.0)
    if b.neutral:
        push, resist = 0.0, ROLLING_DRAG_MPS2 + AIR_DRAG_PER_M * u * u
    if b.hand_brake:
        push = 0.0
    push = (1.0 - b.brake) * min(push, b.grip, _tyre_limit(b), max(top - u, 0.0) / h) + gear * slope_mps2
    resist = (1.0 - b.brake) * resist + b.brake * b.brake_scale * _braking(abs(u))
    if b.hand_brake:
        resist = max(resist, HAND_BRAKE_MPS2)
    resist = min(resist, _tyre_limit(b))
    u += push * h
    u = max(u - resist * h, 0.0) if u > 0.0 else min(u + resist * h, 0.0)
    return gear * u


@numba.njit(cache=True)
def _decayed(value, decrease):
    return max(value - decrease, 0.0) if value > 0.0 else min(value + decrease, 0.0)


@numba.njit(cache=True)
def _slip_angle(b):
    """Angle in radians from the heading to the course of the reference point, after the grip limit."""
    wheel = STEER_GAIN_RAD * b.steer * b.max_steer / REFERENCE_MAX_STEER_DEG
    sine = np.sin(np.arctan(REAR_M / (FRONT_M + REAR_M) * np.tan(wheel)))
    rear = REAR_M * b.wheelbase / REFERENCE_WHEELBASE_M
    most = min(b.grip, _tyre_limit(b)) * rear / max(b.speed * b.speed, 1e-6)
    return np.arcsin(min(max(sine, -most), most))


@numba.njit(cache=True)
def _keep_course(b, h):
    """A car that a collision spins turns below its motion: the world velocity stays, its parts in the body change."""
    if b.spin == 0.0:
        return
    turned = np.radians(b.spin * h)
    cos, sin = np.cos(turned), np.sin(turned)
    b.speed, b.slide = b.speed * cos + b.slide * sin, b.slide * cos - b.speed * sin


@numba.njit(cache=True)
def _walk(b, h):
    """One step of a walker: as commanded, or sliding after a hit until it stands again."""
    push = np.hypot(b.push_x, b.push_y)
    if push > 0.0:
        left = max(push - SLIDE_DECEL_MPS2 * h, 0.0) / push
        b.push_x *= left
        b.push_y *= left
        b.vx, b.vy = b.push_x, b.push_y
    else:
        b.vx, b.vy = b.walk_speed * b.walk_x, b.walk_speed * b.walk_y
    b.x += b.vx * h
    b.y += b.vy * h


@numba.njit(cache=True)
def _drive(b, h):
    """One sub-step of a vehicle on the ground; the path is driven at the new speed, as PhysX does."""
    pitch = np.radians(b.pitch)
    held = min(_tyre_limit(b) / SLIDE_DECEL_MPS2, 1.0)
    if b.constant_velocity:
        b.speed, b.slide, beta = b.constant_vx, b.constant_vy, 0.0
        turn = np.sin(_slip_angle(b))
    else:
        _keep_course(b, h)
        b.speed = _next_speed(b, -GRAVITY_MPS2 * np.sin(pitch), h)
        b.slide = _decayed(b.slide, held * SLIDE_DECEL_MPS2 * h)
        beta = _slip_angle(b)
        turn = np.sin(beta)
    b.spin = _decayed(b.spin, held * SPIN_DECEL_DEG_S2 * h)
    b.wz = np.degrees(b.speed * turn * REFERENCE_WHEELBASE_M / (REAR_M * b.wheelbase)) + b.spin
    middle = np.radians(b.yaw + 0.5 * b.wz * h)
    level = np.cos(pitch)
    b.x += (b.speed * np.cos(middle + beta) - b.slide * np.sin(middle)) * level * h
    b.y += (b.speed * np.sin(middle + beta) + b.slide * np.cos(middle)) * level * h
    b.yaw += b.wz * h
    heading = np.radians(b.yaw)
    b.vx = (b.speed * np.cos(heading + beta) - b.slide * np.sin(heading)) * level
    b.vy = (b.speed * np.sin(heading + beta) + b.slide * np.cos(heading)) * level


@numba.njit(cache=True)
def _move(rows, dt, moved, points):
    """Advance poses in the plane; returns how many bodies need the ground and fills their slots and ground points."""
    substeps = int(np.ceil(dt / LONGEST_SUBSTEP_S - 1e-9))
    number = 0
    for i in range(rows.shape[0]):
        b = rows[i]
        if not b.active or not b.physics:
            continue
        x, y, vx, vy = b.x, b.y, b.vx, b.vy
        if b.airborne:
            b.x += b.vx * dt
            b.y += b.vy * dt
            b.yaw += b.wz * dt
        elif b.kind == VEHICLE:
            for _ in range(substeps):
                _drive(b, dt / substeps)
        else:
            _walk(b, dt)
        b.way_x, b.way_y = b.x - x, b.y - y
        b.ax, b.ay = (b.vx - vx) / dt, (b.vy - vy) / dt
        if b.settled and b.vx == 0.0 and b.vy == 0.0:
            continue
        heading = np.radians(b.yaw)
        cos, sin = np.cos(heading), np.sin(heading)
        front, side = 0.5 * b.wheelbase, b.half_width
        if b.kind == WALKER:
            front, side = 0.0, 0.0
        k = _GROUND_POINTS * number
        points[0, k], points[1, k] = b.x + front * cos + side * sin, b.y + front * sin - side * cos
        points[0, k + 1], points[1, k + 1] = b.x + front * cos - side * sin, b.y + front * sin + side * cos
        points[0, k + 2], points[1, k + 2] = b.x - front * cos, b.y - front * sin
        points[2, k : k + _GROUND_POINTS] = b.z
        moved[number] = i
        number += 1
    return number


@numba.njit(cache=True)
def _settle(rows, dt, moved, heights):
    """Let bodies follow the ground, or fall to it."""
    for n in range(moved.shape[0]):
        b = rows[moved[n]]
        left, right, rear = heights[3 * n], heights[3 * n + 1], heights[3 * n + 2]
        ground = 0.25 * (left + right) + 0.5 * rear
        base = b.z - b.origin_height
        vz = 0.0
        if np.isnan(ground) or ground > base + CLIMB_M:
            b.airborne = False
        elif not b.gravity:
            vz = b.vz
            b.airborne = base + vz * dt > ground + DROP_M
            b.z = max(base + vz * dt, ground) + b.origin_height
        elif base > ground + DROP_M or (b.airborne and base + b.vz * dt > ground):
            vz = b.vz - GRAVITY_MPS2 * dt
            b.airborne = base + vz * dt > ground
            b.z = max(base + vz * dt, ground) + b.origin_height
        else:
            b.airborne = False
            b.z = ground + b.origin_height
            if b.kind == VEHICLE:
                b.pitch = np.degrees(np.arctan2(0.5 * (left + right) - rear, b.wheelbase))
                b.roll = np.degrees(np.arctan2(left - right, 2.0 * b.half_width))
                heading = np.radians(b.yaw)
                vz = (b.vx * np.cos(heading) + b.vy * np.sin(heading)) * np.tan(np.radians(b.pitch))
        b.az, b.vz = (vz - b.vz) / dt, vz
        b.settled = not b.airborne and b.vx == 0.0 and b.vy == 0.0 and b.az == 0.0
