"""Weather to light: sun, sky, fog and wetness as the vector that `shade.py` reads; shadows of the static scene."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from simulator.render import shade
from simulator.render.scene import Weather

SUN_STEP_DEG = 2.0
"""The sun that casts the static shadows moves in steps of this size, so that they depend on the scene alone."""

SHADOW_REACH_M = 90.0
_RAIN_EXTINCTION = 0.006
_FOG_EXTINCTION = 0.032
_DUST_EXTINCTION = 0.03


def sun_direction(azimuth_deg: float, altitude_deg: float) -> np.ndarray:
    """(3,) unit vector towards the sun; azimuth as a CARLA yaw."""
    azimuth, altitude = math.radians(azimuth_deg), math.radians(altitude_deg)
    return np.array(
        [math.cos(altitude) * math.cos(azimuth), math.cos(altitude) * math.sin(azimuth), math.sin(altitude)]
    )


def light_vector(weather: Weather) -> np.ndarray:
    """(LIGHT_SIZE,) float64 for `shade.shade_view`."""
    rain, fog = _share(weather.precipitation), _share(weather.fog_density)
    clouds = max(_share(weather.cloudiness), 0.7 * rain)
    dust = _share(weather.dust_storm)
    altitude = min(max(weather.sun_altitude_angle, -90.0), 90.0)
    day = _smooth(-6.0, 10.0, altitude)
    low_sun = 1.0 - _smooth(2.0, 28.0, altitude)

    warm = np.array([1.0, 0.97, 0.92]) * (1.0 - low_sun) + np.array([1.0, 0.62, 0.32]) * low_sun
    sun_rgb = 1.75 * _smooth(-1.0, 14.0, altitude) * (1.0 - 0.88 * clouds**1.5) * (1.0 - 0.8 * fog) * warm
    blue, grey = np.array([0.50, 0.62, 0.85]), np.array([0.62, 0.64, 0.67])
    veil = 1.0 - 0.18 * clouds - 0.22 * clouds * rain
    sky_rgb = (0.10 + 0.75 * day) * (blue * (1.0 - clouds) + grey * clouds) * veil
    night_rgb = np.array([0.115, 0.135, 0.195])
    sky_rgb = sky_rgb * day + night_rgb * (1.0 - day)

    horizon = np.array([0.55, 0.64, 0.76]) * (1.0 - clouds) + np.array([0.52, 0.54, 0.57]) * clouds
    horizon = horizon * (1.0 - 0.45 * rain)
    horizon = horizon * (1.0 - low_sun * 0.6 * (1.0 - clouds)) + warm * 0.45 * low_sun * (1.0 - clouds) * day
    zenith = np.array([0.10, 0.24, 0.60]) * (1.0 - clouds) + np.array([0.36, 0.38, 0.42]) * clouds
    zenith = zenith * (1.0 - 0.4 * rain)
    horizon = horizon * day + np.array([0.018, 0.024, 0.042]) * (1.0 - day)
    zenith = zenith * day + np.array([0.005, 0.008, 0.020]) * (1.0 - day)
    sand = np.array([0.55, 0.38, 0.20]) * (0.1 + 0.9 * day)
    horizon, zenith = horizon * (1.0 - dust) + sand * dust, zenith * (1.0 - dust) + sand * dust
    zenith = zenith * (1.0 - fog) + horizon * fog

    vector = np.zeros(shade.LIGHT_SIZE)
    vector[shade.SUN : shade.SUN + 3] = sun_direction(weather.sun_azimuth_angle, altitude)
    vector[shade.SUN_RGB : shade.SUN_RGB + 3] = sun_rgb * (1.0 - 0.6 * dust)
    vector[shade.SKY_RGB : shade.SKY_RGB + 3] = sky_rgb
    vector[shade.GROUND_RGB : shade.GROUND_RGB + 3] = 0.22 * (
        sky_rgb + sun_rgb * max(0.0, math.sin(math.radians(altitude)))
    )
    vector[shade.HORIZON : shade.HORIZON + 3] = horizon
    vector[shade.ZENITH : shade.ZENITH + 3] = zenith
    vector[shade.FOG_START] = max(0.0, weather.fog_distance) if fog > 0.0 and rain == 0.0 and dust == 0.0 else 0.0
    vector[shade.FOG_EXTINCTION] = _FOG_EXTINCTION * fog**1.5 + _RAIN_EXTINCTION * rain + _DUST_EXTINCTION * dust
    puddles = _share(weather.precipitation_deposits)
    vector[shade.WETNESS] = min(1.0, max(_share(weather.wetness), 0.5 * rain, 0.7 * puddles) + 0.3 * rain)
    vector[shade.PUDDLES] = puddles
    vector[shade.NIGHT] = 1.0 - _smooth(-4.0, 6.0, altitude)
    vector[shade.CLOUDS] = clouds
    vector[shade.BRIGHTNESS] = 1.0
    vector[shade.RAIN] = rain
    return vector


def snapped_sun(weather: Weather) -> tuple[float, float]:
    """Azimuth and altitude rounded to the grid of static shadows."""
    return (
        round(weather.sun_azimuth_angle / SUN_STEP_DEG) * SUN_STEP_DEG,
        round(weather.sun_altitude_angle / SUN_STEP_DEG) * SUN_STEP_DEG,
    )


@nb.njit(nogil=True, cache=True)
def cast_static_shadows(heights, cell_m, sun, lit):
    """Fill `lit` (nx, ny) uint8: 0 where an obstacle of `heights` (metres) stands before the sun, else 255."""
    lit[:] = 255
    horizontal = math.hypot(sun[0], sun[1])
    if sun[2] < 0.03 or horizontal < 1e-3:
        return
    nx, ny = heights.shape
    drop = sun[2] / horizontal * cell_m
    ux, uy = sun[0] / horizontal, sun[1] / horizontal
    for i in range(nx):
        for j in range(ny):
            height = min(heights[i, j], SHADOW_REACH_M / cell_m * drop)
            k = 1
            while height > k * drop:
                p, q = i + math.floor(0.5 - ux * k), j + math.floor(0.5 - uy * k)
                if p < 0 or q < 0 or p >= nx or q >= ny:
                    break
                lit[p, q] = 0
                k += 1


def _share(percent: float) -> float:
    return min(max(percent, 0.0), 100.0) / 100.0


def _smooth(low: float, high: float, value: float) -> float:
    """0 below low, 1 above high, smooth between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)
