"""Speed limits of roads, read from a town's OpenDRIVE text: `carla.Map` does not tell them.

CARLA's own towns carry design speeds in mph, which no vehicle there obeys: what counts are signs, and 30 km/h before
the first one.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

import carla
import defusedxml.ElementTree

UNITS_MPS = {"km/h": 1.0 / 3.6, "m/s": 1.0}
DESIGN_SPEED_UNIT = "mph"
UNSIGNED_MPS = 30.0 / 3.6
DEFAULT_MPS = 50.0 / 3.6
"""Where a road has none."""


def speed_limit_mps(carla_map: carla.Map, waypoint: carla.Waypoint) -> float:
    """The limit on the waypoint's road."""
    return _limits_mps(carla_map).get(waypoint.road_id, DEFAULT_MPS)


def speed_near_limit(
    carla_map: carla.Map, waypoint: carla.Waypoint, shares: tuple[float, float], random: Random
) -> float:
    """A speed between two shares of the limit, rounded to m/s: what others drive on a generated route."""
    return float(round(random.uniform(*shares) * speed_limit_mps(carla_map, waypoint)))


@lru_cache(maxsize=2)
def _limits_mps(carla_map: carla.Map) -> dict[int, float]:
    """The first limit of each road, by its id."""
    limits = {}
    root = defusedxml.ElementTree.fromstring(carla_map.to_opendrive().encode("utf-8"), forbid_dtd=True)
    for road in root.iter("road"):
        speed = road.find("type/speed")
        if speed is not None and (limit := _mps(speed.get("max", ""), speed.get("unit", "m/s"))) is not None:
            limits[int(road.get("id", "-1"))] = limit
    return limits


def _mps(value: str, unit: str) -> float | None:
    if unit == DESIGN_SPEED_UNIT:
        return UNSIGNED_MPS
    try:
        return float(value) * UNITS_MPS[unit]
    except (ValueError, KeyError):
        return None  # "no limit", or a unit that OpenDRIVE does not know
