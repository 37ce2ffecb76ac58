"""Traffic lights: groups of lights that take turns, as CARLA's junction controllers do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numba
import numpy as np

from simulator.actors import Actor
from simulator.towns.town import TrafficLight

GREEN_S: Final = 10.0
YELLOW_S: Final = 3.0
RED_S: Final = 2.0
"""CARLA's default times. `red` is the pause in which all lights of a group are red before the next gets green."""

REACH_AHEAD_M: Final = 8.0
REACH_BEHIND_M: Final = 1.5
HALF_LANE_M: Final = 1.8
"""A vehicle is at a light when a stop point of its lane lies in this window before it."""

ALIGNED_COSINE: Final = 0.7


class LightState(IntEnum):
    RED = 0
    YELLOW = 1
    GREEN = 2
    OFF = 3
    UNKNOWN = 4


@dataclass(slots=True)
class Light:
    """One light and its timing."""

    actor: Actor
    place: TrafficLight
    state: LightState = LightState.RED
    green_s: float = GREEN_S
    yellow_s: float = YELLOW_S
    red_s: float = RED_S
    elapsed_s: float = 0.0


@dataclass(slots=True)
class Group:
    """The lights of one junction; lights of the same phase are green together.

    A state that a client sets on a single light stands until the group's next change, as in CARLA.
    """

    phases: list[list[Light]]
    phase: int = 0
    elapsed_s: float = 0.0
    _shown: tuple[int, LightState] | None = None

    @property
    def lights(self) -> list[Light]:
        return [light for lights in self.phases for light in lights]

    def restart(self) -> None:
        self.phase, self.elapsed_s, self._shown = 0, 0.0, None
        self._show()

    def advance(self, dt_s: float) -> None:
        self.elapsed_s += dt_s
        lead = self.phases[self.phase][0]
        if self.elapsed_s >= lead.green_s + lead.yellow_s + lead.red_s:
            self.elapsed_s = 0.0
            self.phase = (self.phase + 1) % len(self.phases)
        self._show()
        for lights in self.phases:
            for light in lights:
                light.elapsed_s += dt_s

    def _show(self) -> None:
        lead = self.phases[self.phase][0]
        if self.elapsed_s < lead.green_s:
            active = LightState.GREEN
        elif self.elapsed_s < lead.green_s + lead.yellow_s:
            active = LightState.YELLOW
        else:
            active = LightState.RED
        if self._shown == (self.phase, active):
            return
        self._shown = (self.phase, active)
        for index, lights in enumerate(self.phases):
            state = active if index == self.phase else LightState.RED
            for light in lights:
                if light.state is not state:
                    light.state, light.elapsed_s = state, 0.0


class TrafficLights:
    """All lights of a world."""

    def __init__(self, placed: Iterable[tuple[Actor, TrafficLight]]) -> None:
        self.by_id = {actor.id: Light(actor, place) for actor, place in placed}
        self._groups = self._grouped()
        self._group_of = {light.actor.id: group for group in self._groups for light in group.lights}
        self.frozen = False
        stops = [
            (x, y, math.cos(math.radians(yaw)), math.sin(math.radians(yaw)), light.actor.id)
            for light in self.by_id.values()
            for x, y, yaw, *_ in light.place.stop_points
        ]
        self._stops = np.array([stop[:4] for stop in stops]).reshape(-1, 4)
        self._stop_light = np.array([stop[4] for stop in stops], np.int64)
        self.reset_all()

    def _grouped(self) -> list[Group]:
        groups: dict[int, dict[int, list[Light]]] = {}
        for light in self.by_id.values():
            groups.setdefault(light.place.group, {}).setdefault(light.place.phase, []).append(light)
        result = []
        for phases in groups.values():
            ordered = [phases[key] for key in sorted(phases)]
            result.append(Group(ordered))
        return result

    def advance(self, dt_s: float) -> None:
        if self.frozen:
            return
        for group in self._groups:
            group.advance(dt_s)

    def group_ids(self, light_id: int) -> list[int]:
        return [light.actor.id for light in self._group_of[light_id].lights]

    def phase_of(self, light: Light) -> list[Light]:
        """The lights that are green together with this one, itself included."""
        return next(lights for lights in self._group_of[light.actor.id].phases if light in lights)

    def reset_group(self, light_id: int) -> None:
        self._group_of[light_id].restart()

    def reset_all(self) -> None:
        for group in self._groups:
            group.restart()

    def affecting(self, position_m: np.ndarray, yaw_deg: np.ndarray) -> np.ndarray:
        """(n,) id of the light that holds each vehicle at (n, 3) positions, 0 for none."""
        found = _stop_ahead(self._stops, position_m, np.radians(yaw_deg))
        ids = np.zeros(len(found), np.int64)
        at_light = found >= 0
        ids[at_light] = self._stop_light[found[at_light]]
        return ids


@numba.njit(cache=True)
def _stop_ahead(stops: np.ndarray, position_m: np.ndarray, yaw_rad: np.ndarray) -> np.ndarray:
    """Index of the nearest stop point whose window holds each vehicle, -1 for none."""
    found = np.full(len(position_m), -1, np.int64)
    for i in range(len(position_m)):
        nearest = REACH_AHEAD_M
        cos_yaw, sin_yaw = math.cos(yaw_rad[i]), math.sin(yaw_rad[i])
        for k in range(len(stops)):
            dx, dy = stops[k, 0] - position_m[i, 0], stops[k, 1] - position_m[i, 1]
            if abs(dx) > 12.0 or abs(dy) > 12.0:
                continue
            ahead = dx * stops[k, 2] + dy * stops[k, 3]
            aside = -dx * stops[k, 3] + dy * stops[k, 2]
            aligned = cos_yaw * stops[k, 2] + sin_yaw * stops[k, 3]
            inside = -REACH_BEHIND_M < ahead < nearest and abs(aside) < HALF_LANE_M
            if inside and aligned > ALIGNED_COSINE:
                nearest = ahead
                found[i] = k
    return found
