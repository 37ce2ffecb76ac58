"""What GNSS and IMU report: CARLA's formulas, in the dialects of 0.9.15 and 0.9.16, and its Gaussian noise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_M: Final = 6378137.0
TRANSVERSE_MERCATOR_SCALE: Final = 0.9996
"""0.9.16 divides by this, whatever projection and scale the map names."""
GRAVITY_MPS2: Final = 9.81

_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class GeoReference:
    """Latitude and longitude of the map origin in degrees; the defaults are CARLA's for maps that name none."""

    latitude_deg: float = 42.0
    longitude_deg: float = 2.0


def geo_reference(opendrive: str) -> GeoReference:
    """The map origin named by +lat_0 and +lon_0 in the OpenDRIVE header; the default where either is missing."""
    match = re.search(r"<geoReference>(.*?)</geoReference>", opendrive, re.DOTALL)
    found = dict(re.findall(rf"\+(lat_0|lon_0)=({_NUMBER})(?![^\s\]])", match.group(1))) if match else {}
    if len(found) < len(("lat_0", "lon_0")):
        return GeoReference()
    return GeoReference(float(found["lat_0"]), float(found["lon_0"]))


def gnss(location: tuple[float, float, float], version: str, reference: GeoReference) -> tuple[float, float, float]:
    """(latitude deg, longitude deg, altitude m) of a CARLA location (x, y, z) as `version`'s GNSS gives it, noiseless.

    0.9.15: spherical Mercator, +y is south. 0.9.16: spherical transverse Mercator, +y is north.
    """
    x, y, z = location
    if version == "0.9.15":
        return *_mercator(x, -y, reference), z
    return *_transverse_mercator(x, y, reference), z


def _mercator(east_m: float, north_m: float, reference: GeoReference) -> tuple[float, float]:
    scale = math.cos(math.radians(reference.latitude_deg)) * EARTH_RADIUS_M
    north_m += scale * math.log(math.tan(math.radians(90.0 + reference.latitude_deg) / 2.0))
    latitude = 2.0 * math.degrees(math.atan(math.exp(north_m / scale))) - 90.0
    return latitude, reference.longitude_deg + math.degrees(east_m / scale)


def _transverse_mercator(east_m: float, north_m: float, reference: GeoReference) -> tuple[float, float]:
    radius = EARTH_RADIUS_M * TRANSVERSE_MERCATOR_SCALE
    east, north = east_m / radius, north_m / radius + math.radians(reference.latitude_deg)
    latitude = math.asin(math.sin(north) / math.cosh(east))
    return math.degrees(latitude), reference.longitude_deg + math.degrees(math.atan2(math.sinh(east), math.cos(north)))


class SensorNoise:
    """Gaussian noise of one sensor; the draws depend on its `noise_seed` attribute and its spawn order alone."""

    def __init__(self, noise_seed: int, spawn_order: int) -> None:
        self._random = np.random.default_rng([abs(noise_seed), int(noise_seed < 0), spawn_order])

    def sample(self, stddev: tuple[float, ...], bias: tuple[float, ...] = ()) -> NDArray[np.float64]:
        """One draw per entry of `stddev`, plus `bias` where given; a sensor without noise draws all the same."""
        draw = self._random.standard_normal(len(stddev)) * np.asarray(stddev)
        return draw + np.asarray(bias) if bias else draw


class ImuReading(NamedTuple):
    """In the sensor's frame (x forward, y right, z up)."""

    accelerometer_mps2: NDArray[np.float64]
    """(3,) includes the reaction to gravity: +9.81 along z at rest on level ground."""
    gyroscope_radps: NDArray[np.float64]
    """(3,) z is the yaw rate, positive when turning right."""
    compass_rad: float
    """Heading in [0, 2 pi): 0 is north (-y), pi/2 is east (+x)."""


def imu(
    rotation_deg: tuple[float, float, float],
    acceleration_mps2: tuple[float, float, float],
    angular_velocity_dps: tuple[float, float, float],
) -> ImuReading:
    """What an IMU with this world rotation (pitch, yaw, roll) measures, noiseless; the other arguments in the world."""
    sensor_from_world = _world_from_body(rotation_deg).T
    felt = np.asarray(acceleration_mps2, np.float64) + np.array([0.0, 0.0, GRAVITY_MPS2])
    compass = math.fmod(math.radians(rotation_deg[1]) + math.pi / 2.0, math.tau)
    return ImuReading(
        sensor_from_world @ felt,
        sensor_from_world @ np.radians(angular_velocity_dps),
        compass + math.tau if compass < 0.0 else compass,
    )


def _world_from_body(rotation_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    """(3, 3) columns: forward, right, up of a body in CARLA's left-handed world."""
    pitch, yaw, roll = (math.radians(angle) for angle in rotation_deg)
    cp, cy, cr = math.cos(pitch), math.cos(yaw), math.cos(roll)
    sp, sy, sr = math.sin(pitch), math.sin(yaw), math.sin(roll)
    return np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )
