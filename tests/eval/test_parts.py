"""Sensors, weather, traffic and camera controls without a server."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import carla
import numpy as np
import pytest

from eval.agents import (
    AgentLoadError,
    CameraRecorder,
    ConstantThrottle,
    ReplayedCameras,
    black_cameras,
    load_agent,
)
from eval.routes import Weather, weather_parameters
from eval.sensors import (
    SensorConfigurationInvalid,
    forward_speed_mps,
    sensor_attributes,
    sensor_transform,
    validate_sensors,
)
from eval.traffic import CLEARANCE_M, choose_spawn_points, pin_core, pinned
from eval.weather import interpolated

POSE = {"x": 0.8, "y": 0.0, "z": 1.6, "roll": 0.0, "pitch": 0.0, "yaw": 55.0}
CAMERA = {"type": "sensor.camera.rgb", "id": "front", "width": 224, "height": 128, "fov": 70, **POSE}


def test_allowed_sensors_pass() -> None:
    specs = [{**CAMERA, "id": str(i)} for i in range(8)]
    specs += [{"type": f"sensor.other.{kind}", "id": kind, **POSE} for kind in ("gnss", "imu")]
    validate_sensors([*specs, {"type": "sensor.speedometer", "id": "speed"}], "SENSORS")
    validate_sensors([{"type": "sensor.opendrive_map", "id": "map"}], "MAP")


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([{**CAMERA, "id": str(i)} for i in range(9)], "more than 8"),
        ([CAMERA, CAMERA], "twice"),
        ([{**CAMERA, "type": "sensor.camera.depth"}], "not allowed"),
        ([{**CAMERA, "x": 4.0}], "4.31 m from"),
        ([{"type": "sensor.opendrive_map", "id": "map"}], "track SENSORS"),
    ],
)
def test_forbidden_sensors_are_named(specs, expected: str) -> None:
    with pytest.raises(SensorConfigurationInvalid, match=expected):
        validate_sensors(specs, "SENSORS")


def test_attributes_and_noise_are_the_leaderboards() -> None:
    assert sensor_attributes(CAMERA) == {"image_size_x": "224", "image_size_y": "128", "fov": "70"}
    gnss = sensor_attributes({"type": "sensor.other.gnss", "noise_lat_stddev": "9", **POSE})
    assert [float(gnss[f"noise_{axis}_stddev"]) for axis in ("lat", "lon", "alt")] == [5e-6] * 3
    imu = sensor_attributes({"type": "sensor.other.imu", **POSE})
    assert [float(imu[f"noise_accel_stddev_{axis}"]) for axis in "xyz"] == [0.001, 0.001, 0.015]
    assert [float(imu[f"noise_gyro_stddev_{axis}"]) for axis in "xyz"] == [0.001] * 3
    assert sensor_transform(CAMERA).rotation.yaw == 55.0
    assert sensor_transform({"type": "sensor.other.gnss", "x": 0.0, "y": 0.0, "z": 1.0}).rotation.yaw == 0.0


def test_speedometer_is_signed() -> None:
    west = carla.Transform(carla.Location(), carla.Rotation(yaw=180.0))
    assert forward_speed_mps(west, carla.Vector3D(-3.0, 0.0, 0.0)) == pytest.approx(3.0)
    assert forward_speed_mps(west, carla.Vector3D(2.0, 1.0, 0.0)) == pytest.approx(-2.0, abs=1e-5)


def test_weather_is_interpolated_between_its_keys() -> None:
    keys = [
        (p, weather_parameters(Weather(p, (("sun_altitude_angle", sun),)))) for p, sun in ((0.0, 90.0), (100.0, 15.0))
    ]
    assert [interpolated(keys, p).sun_altitude_angle for p in (0.0, 50.0, 100.0)] == [90.0, 52.5, 15.0]
    assert weather_parameters(None).cloudiness == 50.0


def test_traffic_starts_away_from_the_ego_and_the_same_way_each_time() -> None:
    points = [carla.Transform(carla.Location(10.0 * i, 0.0, 0.0)) for i in range(40)]
    ego = carla.Location(100.0, 0.0, 0.0)
    chosen = choose_spawn_points(points, ego, 12, random.Random(4))
    places = [point.location.x for point in chosen]
    assert len(set(places)) == 12
    assert min(abs(x - 100.0) for x in places) > CLEARANCE_M
    assert sum(abs(x - 100.0) < 90.0 for x in places) >= 6
    assert places == [p.location.x for p in choose_spawn_points(points, ego, 12, random.Random(4))]
    assert len(choose_spawn_points(points, ego, 99, random.Random(4))) == 37


def test_the_pin_is_taken_off_again() -> None:
    import os

    before = os.sched_getaffinity(0)
    with pinned(pin_core(1)):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with pinned(None):
        assert os.sched_getaffinity(0) == before


def frames(brightness: int) -> dict:
    image = np.full((128, 224, 4), brightness, dtype=np.uint8)
    image[:, :112, 0] = 200  # left half blue: channel order must survive
    image[..., 3] = 255
    return {"front": (7, image), "IMU": (7, np.zeros(7))}


def test_black_cameras_are_black_and_leave_the_rest() -> None:
    data = black_cameras(frames(90), 0)
    assert data["front"][1][..., :3].max() == 0 and data["front"][1].shape == (128, 224, 4)
    assert data["IMU"][1].shape == (7,)


def test_cameras_are_recorded_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "cameras" / "route_1.msgpack"
    recorder = CameraRecorder(path)
    for ticks in range(1, 7):
        recorder(SimpleNamespace(ticks=ticks), SimpleNamespace(data=frames(20 * ticks)))
    recorder.close()
    replay = ReplayedCameras(path)
    for index, brightness in ((0, 20), (1, 20), (2, 60), (4, 100), (6, 20)):
        shown = replay(frames(255), index)
        image = shown["front"][1]
        assert image[64, 200, 1] == pytest.approx(brightness, abs=4)
        assert image[64, 20, 0] == pytest.approx(200, abs=12)
        assert shown["IMU"][1].shape == (7,)


def test_missing_agents_and_recordings_are_named(tmp_path: Path) -> None:
    assert load_agent("constant-throttle") is ConstantThrottle
    with pytest.raises(AgentLoadError, match="no such file"):
        load_agent(str(tmp_path / "none.py"))
    broken = tmp_path / "broken_agent.py"
    broken.write_text("import a_module_that_does_not_exist")
    with pytest.raises(AgentLoadError, match="ModuleNotFoundError"):
        load_agent(str(broken))
    with pytest.raises(AgentLoadError, match="no camera recording"):
        ReplayedCameras(tmp_path / "none.msgpack")
