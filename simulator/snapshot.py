"""Copies bodies into the actor table and its vehicle states, all rows in one compiled pass. Frame: see `bodies`."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from simulator import wire
from simulator.actors import ActorTable
from simulator.bodies import Bodies

_FORWARD: Final = 1
_REVERSE: Final = -1
"""Gears that clients are told; 0 stands for no throttle."""


def copy_motion(bodies: Bodies, slots: np.ndarray, table: ActorTable, rows: np.ndarray) -> None:
    """Pose, velocity and acceleration of the bodies at (n,) slots into (n,) rows of the table."""
    _copy_motion(
        bodies.rows, slots, rows, table.position_m, table.rotation_deg,
        table.velocity_mps, table.angular_velocity_dps, table.acceleration_mps2,
    )  # fmt: skip


def copy_controls(bodies: Bodies, slots: np.ndarray, states: np.ndarray) -> None:
    """Controls and gear of the vehicles at (n,) slots into (n,) wire.VEHICLE_STATE."""
    _copy_controls(bodies.rows, slots, states)


def warm_up() -> None:
    """Compile what runs per step."""
    nothing = np.zeros(0, np.int64)
    copy_motion(Bodies(1), nothing, ActorTable(), nothing)
    copy_controls(Bodies(1), nothing, np.zeros(0, wire.VEHICLE_STATE))


@numba.njit(cache=True)
def _copy_motion(bodies, slots, rows, position, rotation, velocity, turning, acceleration):
    for i in range(slots.shape[0]):
        b, row = bodies[slots[i]], rows[i]
        position[row, 0], position[row, 1], position[row, 2] = b.x, b.y, b.z
        rotation[row, 0], rotation[row, 1], rotation[row, 2] = b.pitch, (b.yaw + 180.0) % 360.0 - 180.0, b.roll
        velocity[row, 0], velocity[row, 1], velocity[row, 2] = b.vx, b.vy, b.vz
        turning[row, 0], turning[row, 1], turning[row, 2] = b.wx, b.wy, b.wz
        acceleration[row, 0], acceleration[row, 1], acceleration[row, 2] = b.ax, b.ay, b.az


@numba.njit(cache=True)
def _copy_controls(bodies, slots, states):
    for i in range(slots.shape[0]):
        b, state = bodies[slots[i]], states[i]
        state.throttle, state.steer, state.brake = b.throttle, b.steer, b.brake
        state.hand_brake, state.reverse = b.hand_brake, b.reverse
        state.gear = _REVERSE if b.reverse else (_FORWARD if b.throttle > 0.0 else 0)
