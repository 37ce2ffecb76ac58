"""The border to CARLA: handedness, degrees, pictures, plans, and what broken input becomes."""

import math

import carla
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import carla_io
from agent.config import ConfigError
from agent.geodesy import Dialect
from agent.guard import Control
from agent.localization import wrap_rad
from agent.observation import CAMERA_NAMES
from agent.route import Command
from tests.agent.synthetic import RoadOption, SyntheticDrive


def test_sensors_are_within_the_leaderboards_limits() -> None:
    specs = carla_io.sensor_specs(carla_io.RigConfig())
    assert len({spec["id"] for spec in specs}) == len(specs) == 9
    assert sum(spec["type"] == "sensor.camera.rgb" for spec in specs) == 6
    for spec in specs:
        assert math.hypot(spec.get("x", 0.0), spec.get("y", 0.0), spec.get("z", 0.0)) <= 3.0
    left = next(spec for spec in specs if spec["id"] == "CAM_FRONT_LEFT")
    assert (left["x"], left["y"], left["z"]) == pytest.approx((0.27, -0.55, 1.60))
    assert (left["yaw"], left["fov"]) == pytest.approx((-55.0, 70.0))
    back = next(spec for spec in specs if spec["id"] == "CAM_BACK")
    assert (abs(back["yaw"]), back["fov"]) == pytest.approx((180.0, 110.0))


def test_observation_is_right_handed_and_in_radians() -> None:
    drive = SyntheticDrive(yaw_deg=30.0)
    drive.step(target_mps=4.0, yaw_rate_degps=10.0)
    seen = carla_io.read(drive.input_data(), drive.time_s)
    assert seen.faults == ()
    assert seen.now_s == pytest.approx(0.05)
    assert seen.camera_valid.all()
    assert seen.yaw_rate_radps == pytest.approx(-math.radians(10.0), abs=0.01)
    assert seen.heading_rad == pytest.approx(-math.radians(drive.yaw_deg))
    assert seen.speed_mps == pytest.approx(drive.speed_mps)
    assert seen.accel_mps2 == pytest.approx(3.0, abs=0.01)


@given(yaw_deg=st.floats(-720, 720))
def test_compass_is_the_heading(yaw_deg: float) -> None:
    imu = np.zeros(7)
    imu[6] = (math.radians(yaw_deg) + math.pi / 2) % (2 * math.pi)
    seen = carla_io.read({"IMU": (1, imu)}, 0.05)
    assert seen.heading_rad is not None
    assert math.cos(seen.heading_rad) == pytest.approx(math.cos(math.radians(yaw_deg)), abs=1e-9)
    assert math.sin(seen.heading_rad) == pytest.approx(-math.sin(math.radians(yaw_deg)), abs=1e-9)


def test_native_pictures_only_change_their_channels() -> None:
    bgra = np.random.default_rng(0).integers(0, 256, (128, 224, 4), dtype=np.uint8)
    np.testing.assert_array_equal(carla_io.network_image(bgra), bgra[:, :, [2, 1, 0]].transpose(2, 0, 1))


def test_large_pictures_are_averaged_and_padded_around_the_centre() -> None:
    bgra = np.zeros((900, 1600, 4), np.uint8)
    bgra[:, :, 0], bgra[:, :, 1], bgra[:, :, 2] = 10, 20, 30
    bgra[445:455, 795:805] = 255
    image = carla_io.network_image(bgra)
    assert image.shape == (3, 128, 224)
    assert image[:, 0].max() == image[:, -1].max() == 0
    assert image[:, 1, 50].tolist() == image[:, 126, 50].tolist() == [30, 20, 10]
    rows, columns = np.nonzero(image[0] > 60)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((64.0, 112.0), abs=0.01)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 4), dtype=np.uint8)
    assert carla_io.network_image(noise)[:, 1:127].mean() == pytest.approx(noise[:, :, :3].mean(), abs=0.5)


def test_six_large_pictures_are_scaled_side_by_side_each_to_its_place() -> None:
    random = np.random.default_rng(0)
    data = {name: (1, random.integers(0, 256, (900, 1600, 4), dtype=np.uint8)) for name in CAMERA_NAMES}
    data["CAM_BACK"] = (1, data["CAM_BACK"][1][:5])
    observation = carla_io.read(data, 0.05)
    assert observation.camera_valid.tolist() == [name != "CAM_BACK" for name in CAMERA_NAMES]
    for i, name in enumerate(CAMERA_NAMES):
        expected = carla_io.network_image(data[name][1]) if name != "CAM_BACK" else np.zeros((3, 128, 224))
        np.testing.assert_array_equal(observation.images[i], expected)


@pytest.mark.parametrize("size", [(100, 60), (1600, 1200), (1920, 300)])
def test_other_aspect_ratios_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be scaled"):
        carla_io.RigConfig(width=size[0], height=size[1])


BROKEN_FRAMES = {
    "none": None,
    "text": "frame",
    "float": np.zeros((128, 224, 4), np.float32),
    "rgb": np.zeros((128, 224, 3), np.uint8),
    "small": np.zeros((64, 64, 4), np.uint8),
    "empty": np.zeros((0, 0, 4), np.uint8),
    "flat": np.zeros(128 * 224 * 4, np.uint8),
}


@pytest.mark.parametrize("kind", BROKEN_FRAMES)
def test_broken_frames_become_invalid_cameras(kind: str) -> None:
    data = SyntheticDrive().input_data()
    data["CAM_BACK"] = (0, BROKEN_FRAMES[kind])
    seen = carla_io.read(data, 0.0)
    assert seen.camera_valid.tolist() == [True, True, True, False, True, True]
    assert [fault.sensor for fault in seen.faults] == ["CAM_BACK"]
    assert not seen.images[CAMERA_NAMES.index("CAM_BACK")].any()


def test_plan_is_mirrored_to_the_world_frame() -> None:
    drive = SyntheticDrive(start=(10.0, 20.0), yaw_deg=30.0)
    plan = carla_io.read_plan(drive.gps_route, drive.route)
    assert plan.points_m[0].tolist() == [10.0, -20.0]
    assert plan.start_yaw_rad == pytest.approx(wrap_rad(-math.radians(30.0)))
    assert math.degrees(plan.geo_rad[0, 0]) == pytest.approx(drive.gps_route[0][0]["lat"])
    assert Command.LEFT in plan.commands


@pytest.mark.parametrize(
    ("option", "command"),
    [
        (RoadOption.VOID, Command.LANEFOLLOW),
        (RoadOption.CHANGELANERIGHT, Command.CHANGELANERIGHT),
        ("TELEPORT", Command.LANEFOLLOW),
        (None, Command.LANEFOLLOW),
        (99, Command.LANEFOLLOW),
    ],
)
def test_road_options(option: object, command: Command) -> None:
    drive = SyntheticDrive()
    world = [(transform, option) for transform, _ in drive.route[:3]]
    assert carla_io.read_plan(drive.gps_route[:3], world).commands == (command,) * 3


@pytest.mark.parametrize(
    "plans",
    [
        ([], []),
        (None, None),
        ([({"lat": 0.0, "lon": 0.0}, 4)], []),
        ([({"lat": math.nan, "lon": 0.0}, 4)], [(carla.Transform(), 4)]),
        ([({"lat": 0.0}, 4)], [(carla.Transform(), 4)]),
        ([({"lat": 0.0, "lon": 0.0}, 4)], [("here", 4)]),
        ([({"lat": 0.0, "lon": 0.0}, 4)], [(carla.Transform(carla.Location(x=math.inf)), 4)]),
    ],
)
def test_undrivable_plans_are_named(plans: tuple[object, object]) -> None:
    with pytest.raises(ConfigError, match="global plan"):
        carla_io.read_plan(*plans)


def test_control_keeps_values_and_sign() -> None:
    control = carla_io.to_vehicle_control(Control(throttle=0.3, steer=-0.5, brake=0.0, reverse=True))
    assert (control.throttle, control.steer, control.brake) == pytest.approx((0.3, -0.5, 0.0))
    assert control.reverse
    assert not control.hand_brake
    assert not control.manual_gear_shift


def test_default_dialect_is_the_wheels() -> None:
    assert carla_io.default_dialect() in Dialect


def test_watchdog_errors_are_recognised_by_their_innermost_frame() -> None:
    def signal_handler() -> None:
        raise RuntimeError("Agent took longer than 300s")

    def _signal_handler() -> None:
        raise RuntimeError("Timeout: Agent took longer than 300s to setup")

    def wrapped() -> None:
        try:
            signal_handler()
        except RuntimeError as error:
            raise RuntimeError("another place") from error

    def ours() -> None:
        raise RuntimeError("our own")

    for function, expected in ((signal_handler, True), (_signal_handler, True), (wrapped, False), (ours, False)):
        with pytest.raises(RuntimeError) as caught:
            function()
        assert carla_io.raised_by_evaluator(caught.value) is expected
    assert not carla_io.raised_by_evaluator(ValueError("never raised"))
