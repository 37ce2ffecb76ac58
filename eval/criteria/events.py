"""What criteria are given and what they give: the ego after a tick, and infractions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import carla

from eval.scoring import Infraction, Offence

TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class EgoState:
    """The ego after one tick, in CARLA's frame: metres, degrees, m/s; time since the route's start."""

    frame: int
    time_s: float
    transform: carla.Transform
    velocity: carla.Vector3D
    speed_limit_mps: float = 30.0 / 3.6

    @property
    def location(self) -> carla.Location:
        """Where the ego is."""
        return self.transform.location

    @property
    def speed_mps(self) -> float:
        """Magnitude of the velocity."""
        return math.sqrt(self.velocity.x**2 + self.velocity.y**2 + self.velocity.z**2)


@dataclass(frozen=True, slots=True)
class Event:
    """An infraction as it goes into the record; location x, y, z [m] in CARLA's frame."""

    kind: Infraction
    frame: int
    time_s: float
    location: tuple[float, float, float]
    message: str
    percentage: float = 0.0
    other_id: int | None = None
    other_type: str | None = None

    @property
    def offence(self) -> Offence:
        """The part of the event that counts for the score."""
        return Offence(self.kind, self.percentage)


def make_event(
    ego: EgoState,
    kind: Infraction,
    message: str,
    *,
    percentage: float = 0.0,
    other_id: int | None = None,
    other_type: str | None = None,
) -> Event:
    """An infraction of the ego here and now."""
    return Event(kind, ego.frame, ego.time_s, xyz(ego.location), message, percentage, other_id, other_type)


def at_text(location: carla.Location) -> str:
    """A location as the leaderboard's messages have it."""
    return f"(x={round(location.x, 3)}, y={round(location.y, 3)}, z={round(location.z, 3)})"


def xyz(location: carla.Location) -> tuple[float, float, float]:
    """A location as plain numbers [m]."""
    return location.x, location.y, location.z
