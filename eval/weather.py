"""Weather along a route: interpolated between the route's keypoints as the ego advances, as the leaderboard does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import carla

from eval.criteria import RouteTrack
from eval.routes import WEATHER_FIELDS, Weather, weather_parameters


class RouteWeather:
    """Sets the weather of a route; call `update` every tick."""

    WINDOW = 3

    def __init__(self, world: carla.World, track: RouteTrack, weathers: Sequence[Weather]) -> None:
        self._world = world
        self._track = track
        self._keys = [(weather.route_percentage, weather_parameters(weather)) for weather in weathers]
        self._keys = self._keys or [(0.0, weather_parameters(None))]
        self._index = 0
        world.set_weather(self._keys[0][1])

    def update(self, location: carla.Location) -> None:
        """Adapt the weather to the ego's progress (only routes with several weathers change)."""
        if len(self._keys) == 1:
            return
        index = self._track.last_passed(self._index, location, self.WINDOW)
        if index > self._index:
            percent = self._track.travelled_m[index] / self._track.length_m * 100.0
            self._world.set_weather(interpolated(self._keys, percent))
        self._index = index


def interpolated(keys: Sequence[tuple[float, carla.WeatherParameters]], percent: float) -> carla.WeatherParameters:
    """Weather at `percent` of the route, linear between the keys and constant outside them."""
    if percent <= keys[0][0]:
        return keys[0][1]
    for (start, before), (end, after) in pairwise(keys):
        if percent <= end:
            share = (percent - start) / (end - start)
            weather = carla.WeatherParameters()
            for name in WEATHER_FIELDS:
                first, last = getattr(before, name), getattr(after, name)
                setattr(weather, name, first + (last - first) * share)
            return weather
    return keys[-1][1]
