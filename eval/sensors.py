"""The agent's sensors: checked, spawned with the leaderboard's attributes, and delivered frame by frame.

Source: leaderboard 2.0 `agent_wrapper` and `sensor_interface`.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import carla
import numpy as np

MAX_MOUNT_RADIUS_M = 3.0
LIMITS = {
    "sensor.camera.rgb": 8,
    "sensor.lidar.ray_cast": 2,
    "sensor.other.radar": 4,
    "sensor.other.gnss": 1,
    "sensor.other.imu": 1,
    "sensor.opendrive_map": 1,
    "sensor.speedometer": 1,
}
PSEUDO_SENSORS = ("sensor.speedometer", "sensor.opendrive_map")
FIXED_ATTRIBUTES: dict[str, dict[str, str]] = {
    "sensor.lidar.ray_cast": {
        "range": "85",
        "rotation_frequency": "10",
        "channels": "64",
        "upper_fov": "10",
        "lower_fov": "-30",
        "points_per_second": "600000",
        "atmosphere_attenuation_rate": "0.004",
        "dropoff_general_rate": "0.45",
        "dropoff_intensity_limit": "0.8",
        "dropoff_zero_intensity": "0.4",
    },
    "sensor.other.radar": {"points_per_second": "1500", "range": "100"},
    "sensor.other.gnss": {
        **{f"noise_{axis}_stddev": "5e-06" for axis in ("alt", "lat", "lon")},
        **{f"noise_{axis}_bias": "0.0" for axis in ("alt", "lat", "lon")},
    },
    "sensor.other.imu": {
        "noise_accel_stddev_x": "0.001",
        "noise_accel_stddev_y": "0.001",
        "noise_accel_stddev_z": "0.015",
        **{f"noise_gyro_stddev_{axis}": "0.001" for axis in "xyz"},
    },
}
"""What the leaderboard sets regardless of the agent's wishes (noise in degrees, m/s2 and rad/s)."""

SensorSpec = Mapping[str, Any]
InputData = dict[str, tuple[int, Any]]
"""What `run_step` gets: sensor id to (frame, data)."""


class SensorConfigurationInvalid(ValueError):
    """The agent asks for sensors that its track does not allow."""


class SensorTimeout(RuntimeError):
    """A sensor did not deliver the current frame in time."""


def validate_sensors(specs: Sequence[SensorSpec], track: str) -> None:
    """Check an agent's sensors against the rules of its track (`SENSORS` or `MAP`).

    Raises: SensorConfigurationInvalid.
    """
    counts: dict[str, int] = {}
    ids: set[str] = set()
    for spec in specs:
        kind, sensor_id = str(spec.get("type")), str(spec.get("id"))
        if sensor_id in ids:
            raise SensorConfigurationInvalid(f"sensor id {sensor_id} is used twice; ids must be unique")
        ids.add(sensor_id)
        if kind not in LIMITS:
            raise SensorConfigurationInvalid(f"sensor {sensor_id}: type {kind} is not allowed; {', '.join(LIMITS)} are")
        if kind == "sensor.opendrive_map" and track == "SENSORS":
            raise SensorConfigurationInvalid(f"sensor {sensor_id}: the map is not allowed on track SENSORS")
        if all(axis in spec for axis in "xyz"):
            radius_m = math.hypot(spec["x"], spec["y"], spec["z"])
            if radius_m > MAX_MOUNT_RADIUS_M:
                raise SensorConfigurationInvalid(
                    f"sensor {sensor_id} is mounted {radius_m:.2f} m from the ego's origin, at most "
                    f"{MAX_MOUNT_RADIUS_M} m are allowed"
                )
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > LIMITS[kind]:
            raise SensorConfigurationInvalid(f"more than {LIMITS[kind]} sensors of type {kind}")


class SensorRig:
    """The sensors of one agent on one ego vehicle."""

    def __init__(self, world: carla.World, ego: carla.Vehicle, specs: Sequence[SensorSpec], timeout_s: float) -> None:
        self._world = world
        self._ego = ego
        self._timeout_s = timeout_s
        self._actors: list[carla.Sensor] = []
        self._arrivals: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self._pseudo = [spec for spec in specs if spec["type"] in PSEUDO_SENSORS]
        self._waited_for = [str(spec["id"]) for spec in specs if spec["type"] not in PSEUDO_SENSORS]
        library = world.get_blueprint_library()
        for spec in specs:
            if spec["type"] not in PSEUDO_SENSORS:
                self._actors.append(self._spawn(library, spec))

    def read(self, frame: int) -> InputData:
        """All sensors' data of `frame`, waiting for it. Raises: SensorTimeout."""
        data: InputData = {}
        deadline_s = time.monotonic() + self._timeout_s
        while len(data) < len(self._waited_for):
            try:
                sensor_id, sensor_frame, value = self._arrivals.get(timeout=max(deadline_s - time.monotonic(), 0.001))
            except queue.Empty:
                missing = sorted(set(self._waited_for) - set(data))
                raise SensorTimeout(
                    f"no data of frame {frame} from {', '.join(missing)} within {self._timeout_s:.0f} s"
                ) from None
            if sensor_frame == frame:
                data[sensor_id] = (frame, value)
        for spec in self._pseudo:
            data[str(spec["id"])] = (frame, self._read_pseudo(spec))
        return data

    def destroy(self) -> None:
        """Stop and remove the sensors; safe to call twice."""
        for actor in self._actors:
            actor.stop()
            actor.destroy()
        self._actors = []

    def _spawn(self, library: carla.BlueprintLibrary, spec: SensorSpec) -> carla.Sensor:
        blueprint = library.find(spec["type"])
        for key, value in sensor_attributes(spec).items():
            blueprint.set_attribute(key, value)
        actor = self._world.spawn_actor(blueprint, sensor_transform(spec), attach_to=self._ego)
        sensor = cast("carla.Sensor", actor)
        sensor.listen(self._receiver(str(spec["id"]), _PARSERS[spec["type"]]))
        return sensor

    def _receiver(self, sensor_id: str, parse: Callable[[Any], Any]) -> Callable[[Any], None]:
        arrivals = self._arrivals

        def receive(measurement: Any) -> None:
            arrivals.put((sensor_id, measurement.frame, parse(measurement)))

        return receive

    def _read_pseudo(self, spec: SensorSpec) -> dict[str, Any]:
        if spec["type"] == "sensor.speedometer":
            return {"speed": forward_speed_mps(self._ego.get_transform(), self._ego.get_velocity())}
        return {"opendrive": self._world.get_map().to_opendrive()}


def sensor_attributes(spec: SensorSpec) -> dict[str, str]:
    """Blueprint attributes of a sensor: the agent's own choice and what the leaderboard fixes."""
    attributes = dict(FIXED_ATTRIBUTES.get(spec["type"], {}))
    if spec["type"] == "sensor.camera.rgb":
        attributes.update(image_size_x=str(spec["width"]), image_size_y=str(spec["height"]), fov=str(spec["fov"]))
    if spec["type"] == "sensor.other.radar":
        attributes.update(horizontal_fov=str(spec["horizontal_fov"]), vertical_fov=str(spec["vertical_fov"]))
    return attributes


def sensor_transform(spec: SensorSpec) -> carla.Transform:
    """Mounting pose in the ego's frame (GNSS has no orientation)."""
    location = carla.Location(x=float(spec["x"]), y=float(spec["y"]), z=float(spec["z"]))
    if spec["type"] == "sensor.other.gnss":
        return carla.Transform(location, carla.Rotation())
    angles = {axis: float(spec[axis]) for axis in ("pitch", "roll", "yaw")}
    return carla.Transform(location, carla.Rotation(**angles))


def forward_speed_mps(transform: carla.Transform, velocity: carla.Vector3D) -> float:
    """Signed speed along the ego's heading."""
    heading = transform.get_forward_vector()
    return heading.x * velocity.x + heading.y * velocity.y + heading.z * velocity.z


def _parse_image(image: carla.Image) -> np.ndarray:
    """Pixels as uint8 (height, width, 4), blue first."""
    return np.frombuffer(image.raw_data, dtype=np.uint8).reshape(image.height, image.width, 4).copy()


def _parse_lidar(points: carla.LidarMeasurement) -> np.ndarray:
    """Points as float32 (n, 4): x, y, z [m] in the sensor's frame, intensity."""
    return np.frombuffer(points.raw_data, dtype=np.float32).reshape(-1, 4).copy()


def _parse_radar(points: carla.RadarMeasurement) -> np.ndarray:
    """Detections as float32 (n, 4): depth [m], altitude [rad], azimuth [rad], velocity [m/s]."""
    return np.flip(np.frombuffer(points.raw_data, dtype=np.float32).reshape(-1, 4), 1).copy()


def _parse_gnss(fix: carla.GnssMeasurement) -> np.ndarray:
    """Latitude, longitude [deg], altitude [m]."""
    return np.array([fix.latitude, fix.longitude, fix.altitude], dtype=np.float64)


def _parse_imu(imu: carla.IMUMeasurement) -> np.ndarray:
    """Acceleration x, y, z [m/s2], angular velocity x, y, z [rad/s], compass [rad]."""
    acceleration, rate = imu.accelerometer, imu.gyroscope
    values = [acceleration.x, acceleration.y, acceleration.z, rate.x, rate.y, rate.z, imu.compass]
    return np.array(values, dtype=np.float64)


_PARSERS: dict[str, Callable[[Any], np.ndarray]] = {
    "sensor.camera.rgb": _parse_image,
    "sensor.lidar.ray_cast": _parse_lidar,
    "sensor.other.radar": _parse_radar,
    "sensor.other.gnss": _parse_gnss,
    "sensor.other.imu": _parse_imu,
}
