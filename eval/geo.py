"""World coordinates to GPS coordinates by the leaderboard's own formula.

Source: leaderboard 2.0 `route_manipulation`; the leaderboard uses this spherical Mercator for the plan on every server,
also where the server's own GNSS differs from it (CARLA 0.9.16).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypedDict

import defusedxml.ElementTree

EARTH_RADIUS_M = 6378137.0
DEFAULT_REFERENCE = (42.0, 2.0)  # what the leaderboard assumes for maps without a geoReference


class GpsPoint(TypedDict):
    """Latitude and longitude in degrees, height in metres, under the leaderboard's keys."""

    lat: float
    lon: float
    z: float


@lru_cache(maxsize=1)  # routes of one town follow each other, and a large map takes a tenth of a second
def geo_reference(opendrive: str) -> tuple[float, float]:
    """Latitude and longitude of the map's origin [deg] from an OpenDRIVE text's geoReference."""
    root = defusedxml.ElementTree.fromstring(opendrive.encode("utf-8"), forbid_dtd=True)
    latitude_deg, longitude_deg = DEFAULT_REFERENCE
    for element in root.iterfind("header/geoReference"):
        for item in (element.text or "").split(" "):
            if "+lat_0" in item:
                latitude_deg = float(item.split("=")[1])
            if "+lon_0" in item:
                longitude_deg = float(item.split("=")[1])
    return latitude_deg, longitude_deg


def gps_from_world(reference_deg: tuple[float, float], x_m: float, y_m: float, z_m: float) -> GpsPoint:
    """GPS position of a point in CARLA's frame (y points south on the map)."""
    latitude_deg, longitude_deg = reference_deg
    scaled_radius_m = math.cos(math.radians(latitude_deg)) * EARTH_RADIUS_M
    east_m = scaled_radius_m * math.radians(longitude_deg) + x_m
    north_m = scaled_radius_m * math.log(math.tan(math.radians(90.0 + latitude_deg) / 2.0)) - y_m
    return GpsPoint(
        lat=math.degrees(2.0 * math.atan(math.exp(north_m / scaled_radius_m))) - 90.0,
        lon=math.degrees(east_m / scaled_radius_m),
        z=z_m,
    )
