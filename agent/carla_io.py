"""The border to CARLA: the only file of the agent that imports carla. Degrees and the left-handed frame end here."""

import logging
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import carla
import numpy as np
from PIL import Image

from agent.config import ConfigError
from agent.geodesy import Dialect
from agent.guard import Control
from agent.localization import wrap_rad
from agent.model.rig import BENCH2DRIVE_RIG
from agent.observation import CAMERA_NAMES, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX, GnssFix, Observation, SensorFault
from agent.route import Command, Plan

logger = logging.getLogger(__name__)

VehicleControl = carla.VehicleControl

IMU_ID, GNSS_ID, SPEED_ID = "IMU", "GPS", "SPEED"

MAX_SPEED_MPS = 100.0
"""Readings beyond these limits are faults of the sensor, not motions of a car."""
MAX_ACCEL_MPS2 = 100.0
MAX_YAW_RATE_RADPS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RigConfig:
    """Resolution of the six cameras; poses and fields of view are fixed (agent/model/rig.py)."""

    width: int = IMAGE_WIDTH_PX
    """The network's own size by default; 1600 is what Bench2Drive and most others use on real CARLA."""
    height: int = IMAGE_HEIGHT_PX

    def __post_init__(self) -> None:
        scaled_height_px = self.height * IMAGE_WIDTH_PX / max(self.width, 1)
        if self.width < IMAGE_WIDTH_PX or not 0.95 * IMAGE_HEIGHT_PX <= scaled_height_px <= IMAGE_HEIGHT_PX + 0.5:
            raise ValueError(
                f"rig {self.width} x {self.height} cannot be scaled to the network's {IMAGE_WIDTH_PX} x "
                f"{IMAGE_HEIGHT_PX}; use {IMAGE_WIDTH_PX} x {IMAGE_HEIGHT_PX} or 1600 x 900"
            )


def sensor_specs(rig: RigConfig) -> list[dict[str, Any]]:
    """The sensors in the leaderboard's format: six cameras, IMU, GNSS and speedometer."""
    level = {"roll": 0.0, "pitch": 0.0}
    origin = {"x": 0.0, "y": 0.0, "z": 0.0}
    cameras = [
        {
            "type": "sensor.camera.rgb",
            "id": mount.name,
            "x": mount.x_m,
            "y": 0.0 - mount.y_m,
            "z": mount.z_m,
            **level,
            "yaw": 0.0 - math.degrees(mount.yaw_rad),
            "width": rig.width,
            "height": rig.height,
            "fov": math.degrees(mount.fov_rad),
        }
        for mount in BENCH2DRIVE_RIG.mounts
    ]
    return [
        *cameras,
        {"type": "sensor.other.imu", "id": IMU_ID, **origin, **level, "yaw": 0.0},
        {"type": "sensor.other.gnss", "id": GNSS_ID, **origin, **level, "yaw": 0.0},
        {"type": "sensor.speedometer", "id": SPEED_ID, "reading_frequency": 20},
    ]


def read(input_data: Any, now_s: Any) -> Observation:
    """The observation in the leaderboard's input_data (id -> (frame, data)).

    Never raises on bad data: what is missing or broken becomes None, False or zeros, and a SensorFault.
    """
    faults: list[SensorFault] = []
    data = input_data if isinstance(input_data, dict) else {}
    images = np.zeros((len(CAMERA_NAMES), 3, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX), np.uint8)
    valid = np.zeros(len(CAMERA_NAMES), bool)
    frames = [_payload(data, name) for name in CAMERA_NAMES]
    for i, (name, frame) in enumerate(zip(CAMERA_NAMES, frames, strict=True)):
        problem = _frame_problem(frame)
        valid[i] = not problem
        if problem:
            faults.append(SensorFault(name, problem))
    good = np.flatnonzero(valid).tolist()
    for i, image in zip(good, _resize_all([frames[i] for i in good]), strict=True):
        images[i] = image
    accel, yaw_rate, heading = _read_imu(data, faults)
    return Observation(
        now_s=_number(now_s, -1e9, 1e9),
        images=images,
        camera_valid=valid,
        speed_mps=_read_speed(data, faults),
        accel_mps2=accel,
        yaw_rate_radps=yaw_rate,
        heading_rad=heading,
        gnss=_read_gnss(data, faults),
        faults=tuple(faults),
    )


def network_image(frame_bgra: np.ndarray) -> np.ndarray:
    """A camera frame (h, w, 4) as (3, 128, 224) RGB: area-resized to the width, rows padded equally above and below.

    The horizontal field of view and the centred principal point are kept, so focal length scales with the width.
    """
    height_px, width_px = frame_bgra.shape[:2]
    if (width_px, height_px) == (IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX):
        return frame_bgra[:, :, 2::-1].transpose(2, 0, 1)
    scaled_px = min(round(height_px * IMAGE_WIDTH_PX / width_px), IMAGE_HEIGHT_PX)
    # Pillow is told "RGBX" for BGRA: it scales the four channels alike, and the order is put right on the small image.
    picture = Image.frombuffer("RGBX", (width_px, height_px), np.ascontiguousarray(frame_bgra), "raw", "RGBX", 0, 1)
    resized = np.asarray(picture.resize((IMAGE_WIDTH_PX, scaled_px), Image.Resampling.BOX))
    rgb = np.zeros((IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX, 3), np.uint8)
    above_px = (IMAGE_HEIGHT_PX - scaled_px) // 2
    rgb[above_px : above_px + scaled_px] = resized[:, :, 2::-1]
    return rgb.transpose(2, 0, 1)


def _resize_all(frames: list[np.ndarray]) -> Iterable[np.ndarray]:
    """`network_image` of every frame; large frames in threads, for Pillow works without holding the interpreter."""
    if all(frame.shape[1] == IMAGE_WIDTH_PX for frame in frames):
        return map(network_image, frames)
    return _resizers().map(network_image, frames)


@cache
def _resizers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(len(CAMERA_NAMES), os.cpu_count() or 1), thread_name_prefix="resize")


def read_plan(global_plan_gps: Any, global_plan_world: Any) -> Plan:
    """The leaderboard's two down-sampled plans as one Plan in the world frame.

    Raises: ConfigError for plans that cannot be driven: empty, of different lengths, with broken points.
    """
    gps: list[Any] = list(global_plan_gps or ())
    world: list[Any] = list(global_plan_world or ())
    if not gps or len(gps) != len(world):
        raise ConfigError(
            f"global plan: {len(gps)} GPS points and {len(world)} world points; both must hold the same route, with "
            "at least two points (was set_global_plan called before setup?)"
        )
    points, geo, commands = [], [], []
    for i, (gps_point, world_point) in enumerate(zip(gps, world, strict=True)):
        try:
            (position, _), (transform, option) = gps_point, world_point
            latitude, longitude = _number(position["lat"], -90.0, 90.0), _number(position["lon"], -180.0, 180.0)
            x_m, y_m = _number(transform.location.x, -1e6, 1e6), _number(-transform.location.y, -1e6, 1e6)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"global plan: point {i} is malformed: {gps_point!r}, {world_point!r}") from error
        if latitude is None or longitude is None or x_m is None or y_m is None:
            raise ConfigError(
                f"global plan: point {i} is not finite or out of range: {position!r}, {transform.location}"
            )
        points.append((x_m, y_m))
        geo.append((math.radians(latitude), math.radians(longitude)))
        commands.append(_command(option))
    start_yaw_rad = wrap_rad(-math.radians(world[0][0].rotation.yaw))
    return Plan(np.array(points), tuple(commands), np.array(geo), start_yaw_rad)


def default_dialect() -> Dialect:
    """The GNSS dialect of the installed carla client: the best guess about the server's."""
    latitude = carla.Map("probe", _PROBE_MAP).transform_to_geolocation(carla.Location(x=0.0, y=1000.0)).latitude
    return Dialect.CARLA_0_9_16 if latitude > 0.0 else Dialect.CARLA_0_9_15


def to_vehicle_control(control: Control) -> VehicleControl:
    """CARLA's control; the steering sign is CARLA's already."""
    return VehicleControl(
        throttle=float(control.throttle),
        steer=float(control.steer),
        brake=float(control.brake),
        hand_brake=False,
        reverse=bool(control.reverse),
        manual_gear_shift=False,
    )


def _payload(data: dict[Any, Any], sensor: str) -> Any:
    """The data of a sensor, or None."""
    entry = data.get(sensor)
    return entry[1] if isinstance(entry, (tuple, list)) and len(entry) == 2 else None


def _frame_problem(frame: Any) -> str:
    """Why a camera frame cannot be used; empty if it can."""
    if frame is None:
        return "missing"
    if not isinstance(frame, np.ndarray):
        return f"not an array but {type(frame).__name__}"
    if frame.dtype != np.uint8:
        return f"values are {frame.dtype}, not uint8"
    if frame.ndim != 3 or frame.shape[2] != 4:
        return f"shape {frame.shape}, not (height, width, 4)"
    try:
        RigConfig(width=frame.shape[1], height=frame.shape[0])
    except ValueError:
        return f"size {frame.shape[1]} x {frame.shape[0]} is not the rig's"
    return ""


def _read_imu(data: dict[Any, Any], faults: list[SensorFault]) -> tuple[float | None, float | None, float | None]:
    """Forward acceleration, yaw rate and heading; each None where unusable."""
    values = _vector(_payload(data, IMU_ID), 7)
    if values is None:
        faults.append(SensorFault(IMU_ID, "missing or malformed"))
        return None, None, None
    accel = _number(values[0], -MAX_ACCEL_MPS2, MAX_ACCEL_MPS2)
    clockwise_radps = _number(values[5], -MAX_YAW_RATE_RADPS, MAX_YAW_RATE_RADPS)
    compass_rad = _number(values[6], -1e3, 1e3)
    for name, value in (("acceleration", accel), ("gyroscope", clockwise_radps), ("compass", compass_rad)):
        if value is None:
            faults.append(SensorFault(IMU_ID, f"{name} not usable"))
    # The compass is 0 to the north, which is -y of CARLA, and grows clockwise like CARLA's yaw.
    heading = None if compass_rad is None else wrap_rad(0.5 * math.pi - compass_rad)
    return accel, None if clockwise_radps is None else -clockwise_radps, heading


def _read_speed(data: dict[Any, Any], faults: list[SensorFault]) -> float | None:
    payload = _payload(data, SPEED_ID)
    value = payload.get("speed") if isinstance(payload, dict) else None
    speed_mps = _number(value, -MAX_SPEED_MPS, MAX_SPEED_MPS)
    if speed_mps is None:
        faults.append(SensorFault(SPEED_ID, "missing or not usable"))
    return speed_mps


def _read_gnss(data: dict[Any, Any], faults: list[SensorFault]) -> GnssFix | None:
    values = _vector(_payload(data, GNSS_ID), 3)
    latitude = None if values is None else _number(values[0], -90.0, 90.0)
    longitude = None if values is None else _number(values[1], -180.0, 180.0)
    if latitude is None or longitude is None:
        faults.append(SensorFault(GNSS_ID, "missing or not usable"))
        return None
    return GnssFix(math.radians(latitude), math.radians(longitude))


def _vector(payload: Any, size: int) -> np.ndarray | None:
    if not isinstance(payload, (np.ndarray, list, tuple)) or len(payload) != size:
        return None
    try:
        values = np.asarray(payload, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (size,) else None


def _number(value: Any, low: float, high: float) -> float | None:
    """The value as a float if it is a finite number within its limits."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return float(value) if low <= value <= high else None


def _command(option: Any) -> Command:
    """The command of a RoadOption; an option this agent does not know means: follow the lane."""
    name = getattr(option, "name", option)
    if isinstance(name, str) and name in Command.__members__:
        return Command[name]
    if name != "VOID":
        logger.warning("global plan: unknown road option %r, taken as LANEFOLLOW", option)
    return Command.LANEFOLLOW


def raised_by_evaluator(error: BaseException) -> bool:
    """Whether the evaluator's watchdog raised this inside our code, from its signal handler: it must pass through."""
    trace = error.__traceback__
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return isinstance(error, RuntimeError) and name in ("signal_handler", "_signal_handler")


_PROBE_MAP = """<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4" name="probe" version="1">
<geoReference><![CDATA[+proj=tmerc +lat_0=0 +lon_0=0 +k=1]]></geoReference></header>
<road name="probe" length="10" id="0" junction="-1"><planView>
<geometry s="0" x="0" y="0" hdg="0" length="10"><line/></geometry></planView>
<lanes><laneSection s="0"><center><lane id="0" type="none" level="false"/></center><right>
<lane id="-1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/></lane>
</right></laneSection></lanes></road></OpenDRIVE>"""
