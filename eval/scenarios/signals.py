"""Traffic lights of one junction, held for a scenario."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import carla

from eval.criteria import SignalBox, stop_line
from eval.scenarios.crossroads import lane_key
from eval.scenarios.stage import Stage

HOLD_S = 10000.0
"""As good as for ever."""
GREEN, RED = carla.TrafficLightState.Green, carla.TrafficLightState.Red


@dataclass(frozen=True, slots=True)
class _Light:
    """A light as it was found."""

    actor: carla.TrafficLight
    state: carla.TrafficLightState
    times_s: tuple[float, float, float]
    """Green, yellow, red."""
    lines: tuple[carla.Waypoint, ...]
    """Where the lanes under it end."""


class Signals:
    """The lights of a junction, if it has any. They are given back as they were at `release` or when the stage closes.

    A frozen light would freeze the town's; so, as the leaderboard does, states are set and their times made long.
    """

    def __init__(self, stage: Stage, junction: carla.Junction | None) -> None:
        """None: nothing to hold."""
        actors = stage.world.get_traffic_lights_in_junction(junction.id) if junction is not None else []
        self._lights = [_found(stage.map, cast("carla.TrafficLight", actor)) for actor in actors]
        self._held = False
        stage.at_close(self.release)

    @property
    def present(self) -> bool:
        """Whether there are any."""
        return bool(self._lights)

    def hold(self, green: Iterable[carla.Waypoint] = ()) -> None:
        """Green for lanes that enter the junction at these waypoints, red for all others, until told otherwise."""
        chosen = {self._over(entry) for entry in green} if self.present else set()
        for light in self._lights:
            light.actor.set_state(GREEN if light.actor.id in chosen else RED)
            if not self._held:
                _set_times(light.actor, (HOLD_S, HOLD_S, HOLD_S))
        self._held = True

    def release(self) -> None:
        """Let the lights go on as if nothing had been; safe to call twice."""
        if not self._held:
            return
        self._held = False
        for light in self._lights:
            light.actor.set_state(light.state)
            _set_times(light.actor, light.times_s)

    def _over(self, entry: carla.Waypoint) -> int:
        """Id of the light for a lane: the one whose stop line lies on it, else the one with the nearest line."""
        location = entry.transform.location

        def rank(light: _Light) -> tuple[bool, float]:
            own = [line for line in light.lines if lane_key(line) == lane_key(entry)]
            lines = own or light.lines
            return not own, min((line.transform.location.distance(location) for line in lines), default=1e6)

        return min(self._lights, key=rank).actor.id


def _found(carla_map: carla.Map, actor: carla.TrafficLight) -> _Light:
    times_s = (actor.get_green_time(), actor.get_yellow_time(), actor.get_red_time())
    box = SignalBox(actor.id, actor.get_transform(), actor.trigger_volume)
    return _Light(actor, actor.get_state(), times_s, tuple(stop_line(carla_map, box)[1]))


def _set_times(light: carla.TrafficLight, times_s: tuple[float, float, float]) -> None:
    green_s, yellow_s, red_s = times_s
    light.set_green_time(green_s)
    light.set_yellow_time(yellow_s)
    light.set_red_time(red_s)
