"""Slippery places: CARLA's `static.trigger.friction`, boxes that set the tyre friction of the vehicles inside."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator.actors import Actor, Pose
from simulator.bodies import TYRE_FRICTION
from simulator.rpc import CallError

_CM_PER_M: Final = 100.0
"""CARLA takes the extents of these boxes in centimetres."""


@dataclass(frozen=True, slots=True)
class FrictionTrigger:
    """A box in the world: centre and half sizes in metres, tyre friction inside."""

    centre_m: tuple[float, float, float]
    yaw_rad: float
    extent_m: tuple[float, float, float]
    friction: float

    @classmethod
    def of(cls, actor: Actor, pose: Pose) -> FrictionTrigger:
        """The box of a trigger's attributes. Raises: CallError when one is no number or negative."""
        length, width, height = (_number(actor, f"extent_{axis}", 1.0) / _CM_PER_M for axis in "xyz")
        extent_m = (length, width, height)
        return cls(pose[:3], math.radians(pose[4]), extent_m, _number(actor, "friction", TYRE_FRICTION))

    def holds(self, position_m: np.ndarray) -> np.ndarray:
        """(n,) bool: which of (n, 3) points lie in the box."""
        dx, dy, dz = (position_m - self.centre_m).T
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        length, width, height = self.extent_m
        return (abs(dx * cos + dy * sin) <= length) & (abs(dy * cos - dx * sin) <= width) & (abs(dz) <= height)


def friction(triggers: Iterable[FrictionTrigger], position_m: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(n,) tyre friction in force at (n, 3) points: a vehicle's own (n,), or the least of the boxes around it."""
    imposed = np.full(len(position_m), np.inf)
    for trigger in triggers:
        inside = trigger.holds(position_m)
        imposed[inside] = np.minimum(imposed[inside], trigger.friction)
    return np.where(np.isinf(imposed), own, imposed)


def _number(actor: Actor, name: str, default: float) -> float:
    text = actor.attribute(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise CallError(f"{actor.type_id}: attribute {name} = {text!r} must be a number from 0 up")
    return value
