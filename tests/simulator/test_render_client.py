"""Camera images as the real client receives them: weather."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import carla
import numpy as np
import pytest

from tests.simulator.conftest import ServerProcess, make_synchronous, start_server
from tests.simulator.test_sensors import after_frame, attach, warm_up

PRESETS = (
    "ClearNoon", "CloudyNoon", "WetNoon", "WetCloudyNoon", "SoftRainNoon", "MidRainyNoon", "HardRainNoon",
    "ClearSunset", "CloudySunset", "WetSunset", "WetCloudySunset", "SoftRainSunset", "MidRainSunset", "HardRainSunset",
    "ClearNight", "CloudyNight", "WetNight", "WetCloudyNight", "SoftRainNight", "MidRainyNight", "HardRainNight",
)  # fmt: skip
"""CARLA's 14 presets of the day and their 7 night twins."""

WEATHER_FIELDS = [name for name in dir(carla.WeatherParameters()) if name[0].islower()]


@pytest.fixture(scope="module")
def drawing_server() -> Iterator[ServerProcess]:
    running = start_server()
    yield running
    running.stop()


def test_every_weather_preset_is_accepted_and_looks_different(drawing_server: ServerProcess) -> None:
    """Mean difference of the closest pair, cloudy and wet night against soft rain at night: 1.3 grey levels."""
    world = drawing_server.client.get_world()
    make_synchronous(world)
    car = world.spawn_actor(
        world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), world.get_map().get_spawn_points()[0]
    )
    mount = carla.Transform(carla.Location(x=0.8, z=1.6))
    images = attach(world, car, "sensor.camera.rgb", mount, image_size_x=160, image_size_y=90, fov=70)
    warm_up(world, images)
    for _ in range(20):  # the car comes to rest
        world.tick()
    shown = {}
    for name in PRESETS:
        wanted = getattr(carla.WeatherParameters, name)
        world.set_weather(wanted)
        frame = world.tick()
        image = after_frame(images, frame)
        shown[name] = np.frombuffer(image.raw_data, np.uint8).reshape(90, 160, 4)[..., :3].astype(int)
        kept = world.get_weather()
        assert all(
            getattr(kept, field) == pytest.approx(getattr(wanted, field), abs=1e-5) for field in WEATHER_FIELDS
        ), name
    difference = {(a, b): float(np.abs(shown[a] - shown[b]).mean()) for a, b in itertools.combinations(PRESETS, 2)}
    closest = min(difference, key=difference.__getitem__)
    assert difference[closest] > 1.0, f"{closest} differ by {difference[closest]:.2f} grey levels"
    brightness = {name: image.mean() for name, image in shown.items()}
    for weather in ("Clear", "Cloudy", "Wet", "HardRain"):
        assert brightness[weather + "Noon"] > brightness[weather + "Night"] + 20.0
