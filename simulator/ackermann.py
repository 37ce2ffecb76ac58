"""A vehicle that is told a speed and an angle of its wheels, and finds the pedals itself.

Facts (cascade of two controllers, gains, limits, thresholds): CARLA's `FAckermannController`. Each step the speed
controller moves a wanted acceleration, and the acceleration controller moves the pedals. Jerk is not used, as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulator.actors import VehicleControl

STANDSTILL_MPS: Final = 0.1
"""Slower than this the gear may change, and a vehicle that is told to stand brakes fully."""
MAX_ACCELERATION_MPS2: Final = 3.0
MAX_DECELERATION_MPS2: Final = 8.0
"""Where the command names no acceleration."""
MIN_STEER_SPEED_RADPS: Final = 1e-3
MIN_ACCELERATION_MPS2: Final = 1e-4
"""Less counts as not named."""
FILTER: Final = 0.2
"""Share of the newest acceleration in the one that is controlled."""


@dataclass(frozen=True, slots=True)
class AckermannTarget:
    """CARLA's VehicleAckermannControl without its jerk."""

    steer_rad: float
    """Angle of the front wheels, right positive."""
    steer_speed_radps: float
    """0: at once."""
    speed_mps: float
    """Negative: backwards."""
    acceleration_mps2: float
    """The most in either direction; 0: 3 up, 8 down."""


class Ackermann:
    """Drives one vehicle towards its target, step by step."""

    def __init__(self, target: AckermannTarget) -> None:
        self.target = target
        self._speed_loop, self._acceleration_loop = _Loop(), _Loop()
        self._speed_mps = self._acceleration_mps2 = 0.0
        self._wanted_mps2 = self._pedal = 0.0
        self._reverse = False

    def step(
        self, speed_mps: float, steer_rad: float, max_steer_rad: float, gains: Sequence[float], dt_s: float
    ) -> VehicleControl:
        """The control for the next step, from the signed speed and the wheels' angle now.

        `gains`: proportional, integral and derivative of the speed's controller, then of the acceleration's.
        """
        now_mps2 = (speed_mps - self._speed_mps) / dt_s
        self._acceleration_mps2 += FILTER * (now_mps2 - self._acceleration_mps2)
        self._speed_mps = speed_mps
        steer = self._steer_rad(steer_rad, max_steer_rad, dt_s) / max_steer_rad
        wanted_mps = self.target.speed_mps
        if abs(speed_mps) < STANDSTILL_MPS:
            if abs(wanted_mps) < STANDSTILL_MPS:
                return VehicleControl(0.0, steer, 1.0, reverse=self._reverse)
            self._reverse = wanted_mps < 0.0
        elif speed_mps * wanted_mps < 0.0:
            wanted_mps = 0.0  # it stops before it turns round
        self._run(wanted_mps, gains, dt_s)
        forwards = -self._pedal if self._reverse else self._pedal
        return VehicleControl(max(forwards, 0.0), steer, max(-forwards, 0.0), reverse=self._reverse)

    def _steer_rad(self, now_rad: float, most_rad: float, dt_s: float) -> float:
        wanted = min(max(self.target.steer_rad, -most_rad), most_rad)
        if self.target.steer_speed_radps < MIN_STEER_SPEED_RADPS:
            return wanted
        reach = self.target.steer_speed_radps * dt_s
        return now_rad + min(max(wanted - now_rad, -reach), reach)

    def _run(self, wanted_mps: float, gains: Sequence[float], dt_s: float) -> None:
        named = self.target.acceleration_mps2
        most, least = (named, -named) if named >= MIN_ACCELERATION_MPS2 else _OWN_LIMITS
        change = self._speed_loop.run(wanted_mps, self._speed_mps, gains[:3], dt_s)
        self._wanted_mps2 = min(max(self._wanted_mps2 + change, least), most)
        change = self._acceleration_loop.run(self._wanted_mps2, self._acceleration_mps2, gains[3:], dt_s)
        self._pedal = min(max(self._pedal + change, -1.0), 1.0)


_OWN_LIMITS: Final = (MAX_ACCELERATION_MPS2, -MAX_DECELERATION_MPS2)


class _Loop:
    """A PID controller whose output and integral stay within 1; the derivative is that of the measurement."""

    def __init__(self) -> None:
        self._integral = self._last = 0.0

    def run(self, wanted: float, measured: float, gains: Sequence[float], dt_s: float) -> float:
        proportional, integral, derivative = gains
        error = wanted - measured
        self._integral = _within_one(self._integral + integral * error * dt_s)
        slope = (measured - self._last) / dt_s
        self._last = measured
        return _within_one(proportional * error + self._integral - derivative * slope)


def _within_one(value: float) -> float:
    return math.copysign(min(abs(value), 1.0), value)
