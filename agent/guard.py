"""The last thing before the car: a small pure state machine that turns any proposal into a valid control.

NOMINAL: the proposed control. HOLD: the last steering without throttle, while a proposal is missing for a moment.
STOP: comfortable braking, last steering. EMERGENCY: full brake. Nothing latches: good proposals lead back to NOMINAL.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum


class Mode(Enum):
    """How the guard drives."""

    NOMINAL = "nominal"
    HOLD = "hold"
    STOP = "stop"
    EMERGENCY = "emergency"


class Request(Enum):
    """What the driver asks of the guard besides the control itself."""

    DRIVE = "drive"
    STOP = "stop"
    EMERGENCY = "emergency"


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """Pedals and wheel; steer in -1..1 with the sign of the action table (+ = right), the pedals in 0..1."""

    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0
    reverse: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What the driver wants this tick. A missing or invalid control is bridged by the guard."""

    control: Control | None
    request: Request = Request.DRIVE
    speed_mps: float | None = None
    """Estimated speed, for the speed cap and for standing still."""
    speed_cap_mps: float | None = None
    """No throttle above this speed, braking well above it."""
    lateral_mps2: float | None = None
    """How fast the car is being turned now, to the left: speed times yaw rate."""
    reason: str = ""
    """Why the request is not DRIVE, or why there is no control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """Limits of the guard."""

    hold_s: float = 0.2
    """How long a missing proposal is bridged by the last steering before the car stops."""
    stop_brake: float = 0.3
    """Brake pedal of STOP: about 3 m/s2 on CARLA's cars, whose full brake gives about 10 m/s2."""
    stop_limit_s: float = 10.0
    """A car still moving after so long a STOP gets the full brake."""
    recovery_ticks: int = 5
    """Good proposals in a row that end STOP and EMERGENCY."""
    standstill_mps: float = 0.3
    """Below this speed a stopped car is held with the full brake (slopes)."""
    cap_margin_mps: float = 1.0
    """Above the speed cap by more than this the guard brakes."""
    lateral_limit_mps2: float = 6.0
    """A car turning this hard, about where its tyres begin to slide, is not steered further into the turn."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.hold_s <= 1.0:
            raise ValueError(f"guard.hold_s must lie in [0, 1] s, got {self.hold_s}")
        if not 0.0 < self.stop_brake <= 1.0:
            raise ValueError(f"guard.stop_brake must lie in (0, 1], got {self.stop_brake}")
        if not self.lateral_limit_mps2 > 0.0:
            raise ValueError(f"guard.lateral_limit_mps2 must be positive, got {self.lateral_limit_mps2}")
        if self.recovery_ticks < 1:
            raise ValueError(f"guard.recovery_ticks must be at least 1, got {self.recovery_ticks}")


TICK_S = 0.05
"""The leaderboard simulates at 20 Hz. A tick counts at least this much: a clock that stands still must not hold on."""
MAX_TICK_S = 0.2
"""A tick counts at most this much, whatever the clock says."""


class Guard:
    """Turns proposals into controls. `step` never raises and always returns a control within its limits."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._mode = Mode.NOMINAL
        self._in_mode_s = 0.0
        self._good_ticks = 0
        self._last_steer = 0.0
        self._last_reverse = False
        self._last_now_s: float | None = None

    @property
    def mode(self) -> Mode:
        """The mode of the last step."""
        return self._mode

    def step(self, proposal: Proposal, now_s: float) -> Control:
        """The control for this tick; now_s is simulation time and may be anything."""
        tick_s = self._tick_s(now_s)
        good = proposal.request is Request.DRIVE and is_valid(proposal.control)
        self._good_ticks = self._good_ticks + 1 if good else 0
        mode = self._next_mode(proposal, good)
        self._in_mode_s = self._in_mode_s + tick_s if mode is self._mode else 0.0
        self._mode = mode
        speed_mps = _finite_or_none(proposal.speed_mps)
        if mode is Mode.NOMINAL and proposal.control is not None:
            control = self._steadied(proposal.control, _finite_or_none(proposal.lateral_mps2))
            return self._capped(control, speed_mps, _finite_or_none(proposal.speed_cap_mps))
        return self._fallback(mode, speed_mps)

    def _next_mode(self, proposal: Proposal, good: bool) -> Mode:
        config = self._config
        if proposal.request is Request.EMERGENCY:
            return Mode.EMERGENCY
        if self._mode is Mode.EMERGENCY:
            return Mode.NOMINAL if self._good_ticks >= config.recovery_ticks else Mode.EMERGENCY
        if self._mode is Mode.STOP:
            if self._good_ticks >= config.recovery_ticks:
                return Mode.NOMINAL
            speed_mps = _finite_or_none(proposal.speed_mps)
            stands = speed_mps is not None and abs(speed_mps) < config.standstill_mps
            return Mode.EMERGENCY if self._in_mode_s >= config.stop_limit_s and not stands else Mode.STOP
        if proposal.request is Request.STOP:
            return Mode.STOP
        if good:
            return Mode.NOMINAL
        if self._mode is Mode.HOLD and self._in_mode_s + TICK_S >= config.hold_s:
            return Mode.STOP
        return Mode.HOLD

    def _steadied(self, control: Control, lateral_mps2: float | None) -> Control:
        """Steering grows to the right, lateral acceleration to the left: of opposite signs they are the same turn."""
        hard = lateral_mps2 is not None and abs(lateral_mps2) > self._config.lateral_limit_mps2
        if lateral_mps2 is None or not hard or control.steer * lateral_mps2 >= 0.0:
            return control
        return replace(control, steer=0.0)

    def _capped(self, control: Control, speed_mps: float | None, cap_mps: float | None) -> Control:
        self._last_steer = control.steer
        self._last_reverse = control.reverse
        if cap_mps is None or speed_mps is None or abs(speed_mps) <= cap_mps:
            return control
        too_fast = abs(speed_mps) > cap_mps + self._config.cap_margin_mps
        brake = max(control.brake, self._config.stop_brake) if too_fast else control.brake
        return Control(throttle=0.0, steer=control.steer, brake=brake, reverse=control.reverse)

    def _fallback(self, mode: Mode, speed_mps: float | None) -> Control:
        stands = speed_mps is not None and abs(speed_mps) < self._config.standstill_mps
        brake = {Mode.HOLD: 0.0, Mode.STOP: 1.0 if stands else self._config.stop_brake}.get(mode, 1.0)
        return Control(throttle=0.0, steer=self._last_steer, brake=brake, reverse=self._last_reverse)

    def _tick_s(self, now_s: float) -> float:
        now = _finite_or_none(now_s)
        last, self._last_now_s = self._last_now_s, now
        if now is None or last is None:
            return TICK_S
        return min(max(now - last, TICK_S), MAX_TICK_S)


def is_valid(control: Control | None) -> bool:
    """Whether every part of the control is a finite number (or flag) within its limits."""
    if not isinstance(control, Control) or not isinstance(control.reverse, bool):
        return False
    limits = ((control.throttle, 0.0, 1.0), (control.steer, -1.0, 1.0), (control.brake, 0.0, 1.0))
    return all(_finite_or_none(value) is not None and low <= value <= high for value, low, high in limits)


def _finite_or_none(value: float | None) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
