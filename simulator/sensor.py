"""What all sensors have: attributes read from the blueprint, a period, a measurement per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.actors import Actor
from simulator.rpc import CallError
from simulator.world import Collision, World

if TYPE_CHECKING:
    from simulator.ray_sensors import Surroundings

TICK_SLACK_S: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in a step, and what can be looked at after it."""

    collisions: list[Collision]
    step_s: float
    surroundings: Callable[[], Surroundings]
    """The town and all bodies where they are now; made when first asked for"""


class Sensor:
    """One sensor and when it last measured."""

    def __init__(self, actor: Actor, world: World) -> None:
        self.actor = actor
        self.world = world
        self.last_s = -math.inf
        """When it measured, or should have"""
        self._period_s = self.number("sensor_tick", 0.0)

    def number(self, name: str, default: float) -> float:
        """An attribute. Raises: CallError unless it is a finite number."""
        text = self.actor.attribute(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise CallError(f"{self.actor.type_id}: attribute {name} = {text!r} is not a number")
        return value

    def within(self, name: str, default: float, least: float, most: float) -> float:
        """An attribute with limits. Raises: CallError outside of them."""
        value = self.number(name, default)
        if not least <= value <= most:
            raise CallError(f"{self.actor.type_id}: attribute {name} = {value:g} must lie in {least:g} to {most:g}")
        return value

    def flag(self, name: str) -> bool:
        """An attribute that is true or false, false by default. Raises: CallError for anything else."""
        text = self.actor.attribute(name, "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise CallError(f"{self.actor.type_id}: attribute {name} = {text!r} must be true or false")
        return text in ("true", "1")

    def is_due(self, elapsed_s: float) -> bool:
        return elapsed_s - self.last_s >= self._period_s - TICK_SLACK_S

    def ticked(self, elapsed_s: float) -> None:
        """It measures now. What a step is late is credited, so that the rate holds when no step falls on the period."""
        late_s = elapsed_s - self.last_s - self._period_s
        if self._period_s > 0.0 and math.isfinite(late_s):
            self.last_s = elapsed_s - math.fmod(max(late_s, 0.0), self._period_s)
        else:
            self.last_s = elapsed_s

    def measure(self, step: Step) -> Iterable[bytes]:
        """Payloads of this step, without their headers."""
        raise NotImplementedError
