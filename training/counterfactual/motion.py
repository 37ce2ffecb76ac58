"""Ego motions that a car could drive: a kinematic single-track model of the rear axle, bounded in what tyres, steering
and pedals can do.

A state is (x, y, yaw, speed, acceleration, curvature) of the rear axle; a motion has the poses of the box's middle and
the speed of the rear axle, (x, y, yaw, speed), one row per tick. Compiled: thousands of motions a second.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from jaxtyping import Float64

from agent.motion import REAR_AXLE_M, VehicleLimits
from eval.criteria import TICK_S

STATE = 6
"""Numbers of a state."""
MOTION = 4
"""Numbers of a motion's row."""
STANDING_MPS = 0.5
"""Below this a logged yaw rate says nothing about the curvature."""
SEARCH_STEPS = 24
"""Halvings in the search for the hardest braking that still can end without a jolt."""
SPEED_GAIN_PER_S = 4.0
LOOKAHEAD_S, LOOKAHEAD_MIN_M, LOOKAHEAD_MAX_M = 0.4, 3.5, 9.0
PURSUIT_MIN_M = 2.0
"""Nearer to its goal than this a chase holds the wheel."""


_ACCEL, _DECEL, _LATERAL, _CURVATURE, _JERK, _STEERING, _SPEED = range(7)


@numba.njit(cache=True, nogil=True)
def _stopping_mps(accel, jerk_step):  # pragma: no cover - compiled
    """Speed that is lost while a deceleration is let go step by step, the present step included, over TICK_S."""
    lost = 0.0
    decel = -accel
    while decel > 0.0:
        lost += decel
        decel -= jerk_step
    return lost * TICK_S


@numba.njit(cache=True, nogil=True)
def next_accel(speed, accel, wanted, limits):  # pragma: no cover - compiled
    """The acceleration nearest to the wanted one that keeps all limits now and can keep them later.

    Braking must be let go before the car stands, as a driver does: else standing still would be a jolt.
    """
    step = limits[_JERK] * TICK_S
    low = max(accel - step, -limits[_DECEL])
    high = min(accel + step, limits[_ACCEL])
    high = max(min(high, (limits[_SPEED] - speed) / TICK_S), low)
    value = min(max(wanted, low), high)
    if value < 0.0 and _stopping_mps(value, step) > speed:
        good = high
        for _ in range(SEARCH_STEPS):
            middle = 0.5 * (value + good)
            if middle < 0.0 and _stopping_mps(middle, step) > speed:
                value = middle
            else:
                good = middle
        value = good
    return value


@numba.njit(cache=True, nogil=True)
def advance(state, wanted_accel, wanted_curvature, limits):  # pragma: no cover - compiled
    """One tick, in place."""
    speed = state[3]
    accel = next_accel(speed, state[4], wanted_accel, limits)
    faster = max(speed + accel * TICK_S, 0.0)
    step = limits[_STEERING] * TICK_S
    curvature = min(max(wanted_curvature, state[5] - step), state[5] + step)
    bound = min(limits[_CURVATURE], limits[_LATERAL] / max(max(speed, faster) ** 2, 1e-6))
    curvature = min(max(curvature, -bound), bound)
    way = 0.5 * (speed + faster) * TICK_S
    middle = state[2] + 0.5 * way * curvature
    state[0] += way * math.cos(middle)
    state[1] += way * math.sin(middle)
    state[2] += way * curvature
    state[3], state[4], state[5] = faster, accel, curvature


@numba.njit(cache=True, nogil=True)
def _write(row, state):  # pragma: no cover - compiled
    row[0] = state[0] + REAR_AXLE_M * math.cos(state[2])
    row[1] = state[1] + REAR_AXLE_M * math.sin(state[2])
    row[2] = state[2]
    row[3] = state[3]


@numba.njit(cache=True, nogil=True)
def integrate(start, accels, curvatures, limits):  # pragma: no cover - compiled
    """Motion (t + 1, 4) and last state under wanted accelerations and curvatures, one of each per tick."""
    state = start.copy()
    motion = np.empty((len(accels) + 1, MOTION))
    _write(motion[0], state)
    for t in range(len(accels)):
        advance(state, accels[t], curvatures[t], limits)
        _write(motion[t + 1], state)
    return motion, state


@numba.njit(cache=True, nogil=True)
def _pursuit(state, x, y):  # pragma: no cover - compiled
    """Curvature of the arc from the rear axle through a point."""
    dx, dy = x - state[0], y - state[1]
    left = dy * math.cos(state[2]) - dx * math.sin(state[2])
    return 2.0 * left / max(dx * dx + dy * dy, 1.0)


@numba.njit(cache=True, nogil=True)
def follow(start, path, speeds, accels, curvatures, limits):  # pragma: no cover - compiled
    """Motion along a path (points, 2) with wanted speeds (t + 1); accels and curvatures (t) are added on top."""
    state = start.copy()
    motion = np.empty((len(speeds), MOTION))
    _write(motion[0], state)
    nearest = 0
    for t in range(len(speeds) - 1):
        best = 1e18
        for k in range(nearest, min(nearest + 40, len(path))):
            distance = (path[k, 0] - state[0]) ** 2 + (path[k, 1] - state[1]) ** 2
            if distance < best:
                best = distance
                nearest = k
        lookahead = min(max(LOOKAHEAD_S * state[3] + 2.0, LOOKAHEAD_MIN_M), LOOKAHEAD_MAX_M)
        k = nearest
        ahead = 0.0
        while k + 1 < len(path) and ahead < lookahead:
            ahead += math.hypot(path[k + 1, 0] - path[k, 0], path[k + 1, 1] - path[k, 1])
            k += 1
        wanted = (speeds[t + 1] - speeds[t]) / TICK_S + SPEED_GAIN_PER_S * (speeds[t] - state[3])
        curvature = _pursuit(state, path[k, 0], path[k, 1]) if ahead > PURSUIT_MIN_M else state[5]
        advance(state, wanted + accels[t], curvature + curvatures[t], limits)
        _write(motion[t + 1], state)
    return motion


@numba.njit(cache=True, nogil=True)
def chase(start, goals, speeds, limits):  # pragma: no cover - compiled
    """Motion towards a goal (t + 1, 2) that may move, with wanted speeds (t + 1)."""
    state = start.copy()
    motion = np.empty((len(speeds), MOTION))
    _write(motion[0], state)
    held = state[5]
    for t in range(len(speeds) - 1):
        dx, dy = goals[t, 0] - state[0], goals[t, 1] - state[1]
        ahead = dx * math.cos(state[2]) + dy * math.sin(state[2])
        if ahead > PURSUIT_MIN_M:
            held = _pursuit(state, goals[t, 0], goals[t, 1])
        wanted = (speeds[t + 1] - speeds[t]) / TICK_S + SPEED_GAIN_PER_S * (speeds[t] - state[3])
        advance(state, wanted, held, limits)
        _write(motion[t + 1], state)
    return motion


def logged_motion(ego: Float64[np.ndarray, "t 6"]) -> Float64[np.ndarray, "t 4"]:
    """The motion that was driven, from a log's rows: poses as they are, speed along the heading."""
    speed = ego[:, 3] * np.cos(ego[:, 2]) + ego[:, 4] * np.sin(ego[:, 2])
    return np.column_stack([ego[:, :3], speed])


def start_state(ego: Float64[np.ndarray, "t 6"], tick: int, limits: VehicleLimits) -> Float64[np.ndarray, " 6"]:
    """State of the rear axle at a tick of a log, brought within the limits."""
    x, y, yaw, _, _, yaw_rate = ego[tick]
    speeds = logged_motion(ego[max(tick - 1, 0) : tick + 1])[:, 3]
    speed = float(np.clip(speeds[-1], 0.0, limits.speed_mps))
    accel = float(np.clip((speeds[-1] - speeds[0]) / TICK_S, -limits.decel_mps2, limits.accel_mps2))
    bound = min(limits.curvature_per_m, limits.lateral_mps2 / max(speed**2, 1e-6))
    curvature = float(np.clip(yaw_rate / speed, -bound, bound)) if speed > STANDING_MPS else 0.0
    while accel < 0.0 and _stopping_mps(accel, limits.jerk_mps3 * TICK_S) > speed:
        accel = min(accel + limits.jerk_mps3 * TICK_S, 0.0)
    rear = (x - REAR_AXLE_M * math.cos(yaw), y - REAR_AXLE_M * math.sin(yaw))
    return np.array([*rear, yaw, speed, accel, curvature])
