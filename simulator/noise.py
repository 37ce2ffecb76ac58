"""What GNSS and IMU report: CARLA's formulas, in the dialects of 0.9.15 and 0.9.16, with its Gaussian noise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np

EARTH_RADIUS_M: Final = 6378137.0
TRANSVERSE_MERCATOR_SCALE: Final = 0.9996
"""0.9.16 divides by this whatever the map says."""
GRAVITY_MPS2: Final = 9.81


@dataclass(frozen=True)
class GeoReference:
    """Latitude and longitude of the map origin in degrees."""

    latitude_deg: float = 0.0
    longitude_deg: float = 0.0


def geo_reference(opendrive: str) -> GeoReference:
    """The map origin named by +lat_0 and +lon_0 in the OpenDRIVE header; (0, 0) where it names none."""
    match = re.search(r"<geoReference>(.*?)</geoReference>", opendrive, re.DOTALL)
    text = match.group(1) if match else ""
    values = {key: float(value) for key, value in re.findall(r"\+(lat_0|lon_0)=([-+.\deE]+)", text)}
    return GeoReference(values.get("lat_0", 0.0), values.get("lon_0", 0.0))


def gnss(location: tuple[float, float, float], version: str, reference: GeoReference) -> tuple[float, float, float]:
    """(latitude deg, longitude deg, altitude m) of a CARLA location (x, y, z) as `version`'s GNSS sensor gives it, without noise.

    0.9.15: spherical Mercator, y counts southwards. 0.9.16: spherical transverse Mercator, y counts northwards.
    """
    x, y, z = location
    if version == "0.9.15":
        scale = math.cos(math.radians(reference.latitude_deg)) * EARTH_RADIUS_M
        east = math.radians(reference.longitude_deg) * scale + x
        north = scale * math.log(math.tan(math.radians(90.0 + reference.latitude_deg) / 2.0)) - y
        return 2.0 * math.degrees(math.atan(math.exp(north / scale))) - 90.0, math.degrees(east / scale), z
    radius = EARTH_RADIUS_M * TRANSVERSE_MERCATOR_SCALE
    east, north = x / radius, y / radius + math.radians(reference.latitude_deg)
    latitude = math.asin(math.sin(north) / math.cosh(east))
    longitude = math.atan2(math.sinh(east), math.cos(north))
    return math.degrees(latitude), reference.longitude_deg + math.degrees(longitude), z


class SensorNoise:
    """Gaussian noise of one sensor: draws depend on its `noise_seed` attribute and its spawn order only."""

    def __init__(self, noise_seed: int, spawn_order: int) -> None:
        self._random = np.random.default_rng([noise_seed, spawn_order])

    def sample(self, stddev: tuple[float, ...], bias: tuple[float, ...] = ()) -> np.ndarray:
        """One draw per entry of `stddev`, plus `bias` where given."""
        draw = self._random.standard_normal(len(stddev)) * np.asarray(stddev)
        return draw + np.asarray(bias) if bias else draw


def imu(rotation: tuple[float, float, float], acceleration: tuple[float, float, float], angular_velocity_deg_s: tuple[float, float, float]):
    """(accelerometer (3,) m/s2, gyroscope (3,) rad/s, compass rad) in the sensor's frame, without noise.

    Args: rotation (pitch, yaw, roll) in degrees, acceleration and angular velocity in the world.
    """
    pitch, yaw, roll = np.radians(rotation)
    cp, sp, cy, sy, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    axes = np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )
    accelerometer = axes.T @ (np.asarray(acceleration) + np.array([0.0, 0.0, GRAVITY_MPS2]))
    return accelerometer, np.radians(angular_velocity_deg_s), float((yaw + math.pi / 2.0) % (2.0 * math.pi))
