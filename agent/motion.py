"""What the car can do: a single-track model of the rear axle within the limits of tyres, steering and pedals, for many
motions at once; what the 39 actions make of it; and plans, which are wanted accelerations and curvatures.

A state is (x, y, yaw, speed, acceleration, curvature) of the rear axle; a motion has the poses of the box's middle and
the speed of the rear axle, (x, y, yaw, speed), one row per tick. `training.counterfactual.motion` is the same model,
compiled, for one motion at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE

TICK_S = 0.05
KNOT_TICKS = 5
"""A plan tells what is wanted every quarter of a second."""
KNOTS = 12
"""Of a plan: 3 s."""
PLAN_TICKS = KNOTS * KNOT_TICKS
KNOT_S = KNOT_TICKS * TICK_S
DECISION_TICKS = 2
X, Y, YAW, SPEED, ACCEL, CURVATURE = range(6)
"""Columns of a state; the last two are also those of a plan, without their offset."""

REAR_AXLE_M = 1.4178275
"""Rear axle behind the actor's origin. Source: bicycle model of World on Rails (Chen et al. 2021)."""
WHEELBASE_M = 1.4178275 - 0.09076902
"""Effective wheelbase of the same fit."""
STEER_GAIN_RAD = 0.36848336
"""Wheel angle at steer = 1 of the same fit."""
BRAKING_MPS2 = 8.0
"""Of the full brake; the embedded server's car reaches 7 to 9 above 8 m/s."""
STANDING_MPS = 0.5
"""Below this a yaw rate says nothing about the curvature."""
STEP_M = 0.02
"""Nor does a change of heading over less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VehicleLimits:
    """What a passenger car can do; all at the rear axle."""

    accel_mps2: float = 4.0
    decel_mps2: float = 8.0
    lateral_mps2: float = 7.0
    curvature_per_m: float = 0.19
    """Turning circle of 10.5 m."""
    jerk_mps3: float = 40.0
    """Full braking builds up in 0.2 s."""
    steering_per_m_s: float = 0.3
    """Rate of the curvature: half a turn of the wheel a second. Where the speed rises in a bend, the limit of the
    lateral acceleration unwinds it faster."""
    speed_mps: float = 25.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0.0:
                raise ValueError(f"limits.{name} must be positive, got {getattr(self, name)}")

    def array(self) -> Float64[np.ndarray, " limits"]:
        """As the compiled functions take them."""
        return np.array(
            [
                self.accel_mps2,
                self.decel_mps2,
                self.lateral_mps2,
                self.curvature_per_m,
                self.jerk_mps3,
                self.steering_per_m_s,
                self.speed_mps,
            ]
        )


LIMITS = VehicleLimits()


def throttle_accel_mps2(throttle: float, speed_mps: float) -> float:
    """Acceleration of the reference car. Source: PDM-Lite's fit, linearised; coasting 0.5 m/s2 below throttle 0.3."""
    if throttle > 0.5:
        return 3.2 - 0.11 * speed_mps
    soft = max(0.25 - 0.24 * speed_mps, -1.5)
    return soft if throttle > 0.15 else soft - 0.5


# ----------------------------------------------------------------------------- the single-track model


def hardest_mps2(speed_mps: Float64[np.ndarray, " n"], jerk_step_mps2: float) -> Float64[np.ndarray, " n"]:
    """The deceleration that, let go by `jerk_step_mps2` every tick from now on, ends just when the car stands.

    With n ticks of braking left, d + (d - s) + ... = n d - s n (n - 1) / 2 is lost per tick length.
    """
    lost = np.maximum(speed_mps, 0.0) / TICK_S
    n = np.ceil(0.5 * (np.sqrt(1.0 + 8.0 * lost / jerk_step_mps2) - 1.0))
    return np.where(n > 0, (lost + 0.5 * jerk_step_mps2 * n * (n - 1.0)) / np.maximum(n, 1.0), 0.0)


Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Those of states, apart: what is worked out for a dozen cars at a time is mostly the handling of arrays."""


def _advanced(columns: Columns, accel: np.ndarray, curvature: np.ndarray, limits: VehicleLimits) -> Columns:
    x, y, yaw, speed, before, bent = columns
    step, turn = limits.jerk_mps3 * TICK_S, limits.steering_per_m_s * TICK_S
    low = np.maximum(before - step, -limits.decel_mps2)
    high = np.minimum(before + step, limits.accel_mps2)
    high = np.maximum(np.minimum(high, (limits.speed_mps - speed) / TICK_S), low)
    value = np.minimum(np.maximum(accel, low), high)
    braking = value < 0.0
    if braking.any():
        let_go = np.minimum(np.maximum(value, -hardest_mps2(speed, step)), high)
        value = np.where(braking, let_go, value)
    faster = np.maximum(speed + value * TICK_S, 0.0)
    bend = np.minimum(np.maximum(curvature, bent - turn), bent + turn)
    bound = np.minimum(limits.curvature_per_m, limits.lateral_mps2 / np.maximum(np.maximum(speed, faster) ** 2, 1e-6))
    bend = np.minimum(np.maximum(bend, -bound), bound)
    way = 0.5 * (speed + faster) * TICK_S
    turned = way * bend
    middle = yaw + 0.5 * turned
    return x + way * np.cos(middle), y + way * np.sin(middle), yaw + turned, faster, value, bend


def advance(
    state: Float64[np.ndarray, "n 6"],
    accel: Float64[np.ndarray, " n"],
    curvature: Float64[np.ndarray, " n"],
    limits: VehicleLimits = LIMITS,
) -> Float64[np.ndarray, "n 6"]:
    """One tick under wanted accelerations and curvatures. Braking is let go before the car stands, as a driver does."""
    return np.stack(_advanced(_columns(state), accel, curvature, limits), 1)


def _columns(state: Float64[np.ndarray, "n 6"]) -> Columns:
    x, y, yaw, speed, accel, curvature = state.T
    return x, y, yaw, speed, accel, curvature


def start_state(speed_mps: float, accel_mps2: float, yaw_rate_radps: float) -> Float64[np.ndarray, " 6"]:
    """State of a car whose box's middle is the origin, heading along x, brought within the limits."""
    speed = min(max(speed_mps, 0.0), LIMITS.speed_mps)
    accel = min(max(accel_mps2, -LIMITS.decel_mps2), LIMITS.accel_mps2)
    accel = max(accel, -float(hardest_mps2(np.array([speed]), LIMITS.jerk_mps3 * TICK_S)[0]))
    bound = min(LIMITS.curvature_per_m, LIMITS.lateral_mps2 / max(speed**2, 1e-6))
    curvature = min(max(yaw_rate_radps / speed, -bound), bound) if speed > STANDING_MPS else 0.0
    return np.array([-REAR_AXLE_M, 0.0, 0.0, speed, accel, curvature])


def motions_of(states: Float64[np.ndarray, "*b 6"]) -> Float64[np.ndarray, "*b 4"]:
    """Poses of the box's middle, and speeds, of states of the rear axle."""
    yaw = states[..., YAW]
    middle = states[..., :2] + REAR_AXLE_M * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    return np.concatenate([middle, states[..., YAW : SPEED + 1]], -1)


# ----------------------------------------------------------------------------- plans


def follow_plan(
    start: Float64[np.ndarray, "n 6"], plan: Float64[np.ndarray, "n 12 2"], limits: VehicleLimits = LIMITS
) -> Float64[np.ndarray, "n 61 4"]:
    """Motions under wanted accelerations and curvatures, each held for a quarter of a second."""
    columns = _columns(start)
    ticks = [columns]
    for knot in range(KNOTS):
        accel, curvature = plan[:, knot, 0], plan[:, knot, 1]
        for _ in range(KNOT_TICKS):
            columns = _advanced(columns, accel, curvature, limits)
            ticks.append(columns)
    return motions_of(np.array(ticks).transpose(2, 0, 1))


def plan_of(motions: Float64[np.ndarray, "n 61 4"]) -> Float64[np.ndarray, "n 12 2"]:
    """Mean acceleration and curvature of every quarter second of motions; while it stands the curvature is 0."""
    speed = motions[..., 3]
    ends = speed[:, ::KNOT_TICKS]
    accel = np.diff(ends, axis=1) / KNOT_S
    way = 0.5 * (speed[:, 1:] + speed[:, :-1]) * TICK_S
    way = np.abs(way).reshape(len(motions), KNOTS, KNOT_TICKS).sum(-1)
    yaw = np.unwrap(motions[..., 2], axis=1)[:, ::KNOT_TICKS]
    curvature = np.where(way > STEP_M, np.diff(yaw, axis=1) / np.maximum(way, STEP_M), 0.0)
    bound = LIMITS.curvature_per_m
    return np.stack([accel, np.clip(curvature, -bound, bound)], -1)


def seen_from_start(motions: Float64[np.ndarray, "n 61 4"]) -> Float64[np.ndarray, "n 12 4"]:
    """x, y, yaw from the first pose, and speed, at the end of every quarter second."""
    first, rows = motions[:, :1], motions[:, KNOT_TICKS::KNOT_TICKS]
    c, s = np.cos(first[..., 2]), np.sin(first[..., 2])
    dx, dy = rows[..., 0] - first[..., 0], rows[..., 1] - first[..., 1]
    turn = (rows[..., 2] - first[..., 2] + np.pi) % (2.0 * np.pi) - np.pi
    return np.stack([dx * c + dy * s, dy * c - dx * s, turn, rows[..., 3]], -1)


# ----------------------------------------------------------------------------- the 39 actions


_CURVATURE = -np.tan(ACTIONS[:, STEER].astype(np.float64) * STEER_GAIN_RAD) / WHEELBASE_M
_STOPS = (ACTIONS[:, BRAKE] > 0.0) | (ACTIONS[:, REVERSE] > 0.0)
_FORWARD = np.flatnonzero(ACTIONS[:, REVERSE] == 0.0)
_HARD, _SOFT = ACTIONS[:, THROTTLE] > 0.5, ACTIONS[:, THROTTLE] > 0.15


def response(
    action: Int64[np.ndarray, " n"], speed_mps: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Acceleration and curvature that actions make the car want. Reverse gear brakes a car that goes forward."""
    soft = np.maximum(0.25 - 0.24 * speed_mps, -1.5)
    accel = np.where(_HARD[action], 3.2 - 0.11 * speed_mps, np.where(_SOFT[action], soft, soft - 0.5))
    return np.where(_STOPS[action], -BRAKING_MPS2, accel), _CURVATURE[action]


def hold_actions(
    start: Float64[np.ndarray, "n 6"], actions: Int64[np.ndarray, "n d"], limits: VehicleLimits = LIMITS
) -> Float64[np.ndarray, "n t 4"]:
    """Motions under actions held for a tenth of a second each; t = 2 d + 1."""
    columns = _columns(start)
    ticks = [columns]
    for tick in range(DECISION_TICKS * actions.shape[1]):
        accel, curvature = response(actions[:, tick // DECISION_TICKS], columns[SPEED])
        columns = _advanced(columns, accel, curvature, limits)
        ticks.append(columns)
    return motions_of(np.array(ticks).transpose(2, 0, 1))


class ActionChooser:
    """Turns a wanted acceleration and curvature into one of the 39 actions; what one misses, the next ones make up."""

    LATERAL_WEIGHT = 0.5
    """Of an error of the lateral acceleration against one of the acceleration."""
    SLOW_MPS = 4.0
    """Steering counts as at this speed at least."""
    CARRIED = (8.0, 0.03)
    """Largest acceleration [m/s2] and curvature [1/m] that are owed."""

    def __init__(self) -> None:
        self._owed = np.zeros(2)

    def forget(self) -> None:
        """Another driver has chosen."""
        self._owed[:] = 0.0

    def choose(self, accel_mps2: float, curvature_per_m: float, speed_mps: float) -> int:
        """Index of the action; reverse gear is never chosen."""
        wanted = np.array([accel_mps2, curvature_per_m]) + self._owed
        accel, curvature = response(_FORWARD, np.full(len(_FORWARD), max(speed_mps, 0.0)))
        lateral = self.LATERAL_WEIGHT * max(speed_mps, self.SLOW_MPS) ** 2
        best = int(np.argmin(np.abs(accel - wanted[0]) + lateral * np.abs(curvature - wanted[1])))
        limit = np.array(self.CARRIED)
        self._owed = np.clip(wanted - (accel[best], curvature[best]), -limit, limit)
        if not math.isfinite(self._owed.sum()):
            self.forget()
        return int(_FORWARD[best])
