"""What the agent perceives in one tick, in SI units and right-handed frames; validated where it was made."""

from dataclasses import dataclass

import numpy as np

from agent.model.rig import BENCH2DRIVE_RIG

CAMERA_NAMES: tuple[str, ...] = tuple(mount.name for mount in BENCH2DRIVE_RIG.mounts)
IMAGE_WIDTH_PX = 224
IMAGE_HEIGHT_PX = 128
"""Size of the images the network sees."""


@dataclass(frozen=True, slots=True)
class SensorFault:
    """One thing that was wrong with one sensor in one tick."""

    sensor: str
    problem: str


@dataclass(frozen=True, slots=True)
class GnssFix:
    """Satellite position in radians, as the sensor said it: its dialect is found by the localizer."""

    latitude_rad: float
    longitude_rad: float


@dataclass(frozen=True, slots=True)
class Observation:
    """Measurements of one tick; None and False mark what was missing or unusable. Every number in it is finite."""

    now_s: float | None
    """Simulation time since the start of the route."""
    images: np.ndarray
    """(6, 3, 128, 224) uint8 RGB in the order of CAMERA_NAMES; zeros where no usable frame came."""
    camera_valid: np.ndarray
    """(6,) bool: a frame of the right shape and type arrived."""
    speed_mps: float | None
    """Signed speed along the car."""
    accel_mps2: float | None
    """Acceleration along the car as the IMU feels it (the share of gravity on slopes included)."""
    yaw_rate_radps: float | None
    """Counter-clockwise."""
    heading_rad: float | None
    """Heading in the world frame, counter-clockwise from +x, in (-pi, pi]."""
    gnss: GnssFix | None
    faults: tuple[SensorFault, ...] = ()
