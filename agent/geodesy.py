"""Latitude and longitude to world metres in the dialects that CARLA and the leaderboard speak.

The leaderboard computes the GPS plan with a spherical Mercator formula. CARLA up to 0.9.15 computes its GNSS readings
with the same formula; 0.9.16 uses a transverse Mercator scaled by 0.9996 and, seen from CARLA's y axis, the opposite
sign of latitude. All angles here are radians; `world` is right-handed (y_m = -carla.y).
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

EARTH_RADIUS_M = 6378137.0
"""Equatorial radius; both formulas treat the earth as this sphere. Source: CARLA's GeoLocation."""
TRANSVERSE_SCALE = 0.9996
"""Scale on the central meridian in CARLA 0.9.16, whatever the map's own `+k` says. Measured on the 0.9.16 wheel."""

_MAX_TANH = 1.0 - 1e-12
"""A quarter turn of longitude away the projection is infinite; there it is merely very far."""


class Dialect(Enum):
    """How a GNSS reading relates to the world."""

    CARLA_0_9_15 = "0.9.15"
    CARLA_0_9_16 = "0.9.16"


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Latitude and longitude of the world origin."""

    latitude_rad: float
    longitude_rad: float


def world_from_geo(
    latitude_rad: float, longitude_rad: float, reference: GeoReference, dialect: Dialect
) -> tuple[float, float]:
    """World position (x_m, y_m) of a geographic position."""
    if dialect is Dialect.CARLA_0_9_15:
        scale_m = EARTH_RADIUS_M * math.cos(reference.latitude_rad)
        north_m = scale_m * (_mercator(latitude_rad) - _mercator(reference.latitude_rad))
        return scale_m * (longitude_rad - reference.longitude_rad), north_m
    scale_m = EARTH_RADIUS_M * TRANSVERSE_SCALE
    delta_rad = longitude_rad - reference.longitude_rad
    easting = math.atanh(min(max(math.cos(latitude_rad) * math.sin(delta_rad), -_MAX_TANH), _MAX_TANH))
    northing = math.atan2(math.tan(latitude_rad), math.cos(delta_rad)) - reference.latitude_rad
    return scale_m * easting, -scale_m * northing


def geo_from_world(x_m: float, y_m: float, reference: GeoReference, dialect: Dialect) -> tuple[float, float]:
    """Latitude and longitude [rad] of a world position: the inverse of `world_from_geo`."""
    if dialect is Dialect.CARLA_0_9_15:
        scale_m = EARTH_RADIUS_M * math.cos(reference.latitude_rad)
        mercator = _mercator(reference.latitude_rad) + y_m / scale_m
        return 2.0 * math.atan(math.exp(mercator)) - 0.5 * math.pi, reference.longitude_rad + x_m / scale_m
    scale_m = EARTH_RADIUS_M * TRANSVERSE_SCALE
    easting, northing = x_m / scale_m, reference.latitude_rad - y_m / scale_m
    latitude_rad = math.asin(math.sin(northing) / math.cosh(easting))
    return latitude_rad, reference.longitude_rad + math.atan2(math.sinh(easting), math.cos(northing))


def solve_reference(points_m: np.ndarray, geo_rad: np.ndarray) -> tuple[GeoReference, float]:
    """The geo-reference that maps plan positions (n, 2) to their latitudes and longitudes (n, 2), and its residual [m].

    The residual is the largest distance between a point and its converted position; the caller judges it.
    Both dialects are tried, because an evaluator may compute its GPS plan with either.
    """
    candidates = []
    for dialect in Dialect:
        reference = _reference_from_point(points_m[0], geo_rad[0], dialect)
        converted = np.array([world_from_geo(lat, lon, reference, dialect) for lat, lon in geo_rad])
        residual_m = float(np.abs(np.hypot(*(converted - points_m).T)).max())
        candidates.append((residual_m, reference))
    residual_m, reference = min(candidates, key=lambda candidate: candidate[0])
    return reference, residual_m


def _reference_from_point(point_m: np.ndarray, geo_rad: np.ndarray, dialect: Dialect) -> GeoReference:
    """The reference under which one point converts exactly; a fixed-point iteration on the latitude."""
    x_m, y_m = float(point_m[0]), float(point_m[1])
    latitude_rad, longitude_rad = float(geo_rad[0]), float(geo_rad[1])
    reference = GeoReference(latitude_rad, longitude_rad)
    for _ in range(20):  # the offset is tiny against the earth: each round gains three digits or more
        latitude, longitude = geo_from_world(x_m, y_m, reference, dialect)
        reference = GeoReference(
            _clamped_latitude(reference.latitude_rad + latitude_rad - latitude),
            reference.longitude_rad + longitude_rad - longitude,
        )
    return reference


def _mercator(latitude_rad: float) -> float:
    return math.log(math.tan(0.25 * math.pi + 0.5 * _clamped_latitude(latitude_rad)))


def _clamped_latitude(latitude_rad: float) -> float:
    """Both projections end before the poles; a reading beyond 89.9 degrees is wrong and will be gated as far away."""
    limit_rad = math.radians(89.9)
    return min(max(latitude_rad, -limit_rad), limit_rad)
