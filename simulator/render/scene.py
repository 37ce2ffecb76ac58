"""What the renderer is asked to draw: cameras, poses, weather, actors, traffic lights. CARLA frame, degrees, metres."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LIGHT_POSITION = 1 << 0
LIGHT_LOW_BEAM = 1 << 1
LIGHT_HIGH_BEAM = 1 << 2
LIGHT_BRAKE = 1 << 3
LIGHT_RIGHT_BLINKER = 1 << 4
LIGHT_LEFT_BLINKER = 1 << 5
LIGHT_REVERSE = 1 << 6
LIGHT_SPECIAL_1, LIGHT_SPECIAL_2 = 1 << 9, 1 << 10
"""Bits of `carla.VehicleLightState`."""

SIGNAL_RED, SIGNAL_YELLOW, SIGNAL_GREEN, SIGNAL_OFF = 0, 1, 2, 3
"""Values of `carla.TrafficLightState`."""

NO_ACTOR = -1


class Pose(NamedTuple):
    """Position in metres and rotation in degrees, as `carla.Transform` (x forward, y right, z up, yaw clockwise)."""

    x_m: float
    y_m: float
    z_m: float
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0


@dataclass(frozen=True)
class Camera:
    """Ideal pinhole camera, principal point in the image centre, square pixels; `fov_deg` is horizontal."""

    width: int
    height: int
    fov_deg: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera image must be at least 1x1 pixels, got {self.width}x{self.height}")
        if not 0.0 < self.fov_deg < 180.0:
            raise ValueError(f"camera.fov_deg must lie in (0, 180), got {self.fov_deg}")

    @property
    def focal_px(self) -> float:
        """Focal length, the same for both axes."""
        return self.width / (2.0 * math.tan(math.radians(self.fov_deg) / 2.0))


class Weather(NamedTuple):
    """The 14 fields of `carla.WeatherParameters` in its order; percentages 0..100, angles in degrees."""

    cloudiness: float = 10.0
    precipitation: float = 0.0
    precipitation_deposits: float = 0.0
    wind_intensity: float = 0.0
    sun_azimuth_angle: float = 30.0
    sun_altitude_angle: float = 50.0
    fog_density: float = 0.0
    fog_distance: float = 0.0
    fog_falloff: float = 0.2
    wetness: float = 0.0
    scattering_intensity: float = 1.0
    mie_scattering_scale: float = 0.03
    rayleigh_scattering_scale: float = 0.0331
    dust_storm: float = 0.0


@dataclass(frozen=True)
class SceneActor:
    """A moving or placed thing.

    `pose` stands on the ground below the middle of the bounding box for vehicles and props, in the centre of the
    body for `walker.*`. `extent` holds half sizes (x, y, z) of what is seen in metres. `colour` is RGB 0..255,
    or None for the kind's default. `lights` are bits of `carla.VehicleLightState`.
    """

    type_id: str
    pose: Sequence[float]
    extent: tuple[float, float, float]
    colour: tuple[int, int, int] | None = None
    braking: bool = False
    lights: int = 0
    open_doors: int = 0
    """Bit k: door k of `carla.VehicleDoor` stands open"""
    steer_deg: float = 0.0
    """Of the front wheels, positive to the right"""
    speed_mps: float = 0.0
    travelled_m: float = 0.0
    """Way since it was spawned: walkers' and riders' legs follow it"""
    wheelchair: bool = False


@dataclass(frozen=True)
class Scene:
    """Everything that changes between frames. `traffic_light_states` maps OpenDRIVE signal id to 0 red .. 3 off."""

    weather: Sequence[float] = Weather()
    actors: Sequence[SceneActor] = ()
    traffic_light_states: Mapping[str, int] = field(default_factory=dict)
    time_s: float = 0.0
    """Simulated time: blinkers, flashers and rain follow it"""


def axes(pose: Sequence[float]) -> np.ndarray:
    """(3, 3) float64, rows forward, right, up of a pose in the world frame (the columns of CARLA's matrix)."""
    pitch, yaw, roll = (math.radians(a) for a in pose[3:6])
    sp, cp, sy, cy, sr, cr = (f(a) for a in (pitch, yaw, roll) for f in (math.sin, math.cos))
    return np.array(
        [
            [cp * cy, cp * sy, sp],
            [cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, -cp * sr],
            [-cy * sp * cr - sy * sr, -sy * sp * cr + cy * sr, cp * cr],
        ]
    )


def require_finite(what: str, values: Sequence[float]) -> None:
    """Refuse numbers that would lead the kernels astray.

    Raises: ValueError if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{what} must be finite, got {tuple(values)}; check where it comes from")
