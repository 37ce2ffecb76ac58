"""Which camera frames may be used: bridges short gaps, finds frozen and black cameras."""

import zlib
from dataclasses import dataclass

import numpy as np

from agent.observation import CAMERA_NAMES, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX, Observation, SensorFault

FRONT = 0
"""Index of the front camera in CAMERA_NAMES."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraConfig:
    """When a camera frame is no longer trusted."""

    max_age_s: float = 0.2
    """A missing frame is replaced by the last one for so long; then the car stops."""
    frozen_ticks: int = 10
    """So many identical frames in a row while the car moves ..."""
    frozen_travel_m: float = 3.0
    """... and drives this far: the camera is frozen."""
    frozen_stop_s: float = 3.0
    """A frozen camera stops the car for so long; if others still see, it goes on slowly without that one."""
    black_level: int = 8
    """A frame without any value above this is black (0..255)."""
    degraded_speed_mps: float = 5.0
    """Speed cap while a camera is masked."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_age_s <= 1.0:
            raise ValueError(f"cameras.max_age_s must lie in [0, 1] s, got {self.max_age_s}")
        if self.frozen_ticks < 1:
            raise ValueError(f"cameras.frozen_ticks must be at least 1, got {self.frozen_ticks}")
        if self.degraded_speed_mps <= 0.0:
            raise ValueError(f"cameras.degraded_speed_mps must be positive, got {self.degraded_speed_mps}")


@dataclass(frozen=True, slots=True)
class CameraView:
    """What the network may look at this tick."""

    images: np.ndarray
    """(6, 3, 128, 224) uint8 RGB; the bank's own buffer, valid until the next update."""
    valid: np.ndarray
    """(6,) bool."""
    must_stop: bool
    speed_cap_mps: float | None
    faults: tuple[SensorFault, ...]


class CameraBank:
    """Remembers the last good frame of every camera."""

    def __init__(self, config: CameraConfig) -> None:
        count = len(CAMERA_NAMES)
        self._config = config
        self._images = np.zeros((count, 3, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX), np.uint8)
        self._age_s = np.full(count, np.inf)
        self._checksums: list[int | None] = [None] * count
        self._same_ticks = np.zeros(count, np.int64)
        self._same_travel_m = np.zeros(count)
        self._frozen_s = np.zeros(count)
        self._frozen = np.zeros(count, bool)

    def update(self, observation: Observation, elapsed_s: float, travelled_m: float) -> CameraView:
        """Takes in one tick's frames; travelled_m is the distance driven in it."""
        self._age_s += elapsed_s
        for i in np.flatnonzero(observation.camera_valid).tolist():
            self._take(i, observation.images[i], abs(travelled_m))
        self._frozen_s = np.where(self._frozen, self._frozen_s + elapsed_s, 0.0)
        config = self._config
        # Ages are sums of ticks: half a millisecond of slack keeps "at most 0.2 s" true for four ticks of 0.05 s.
        lost = self._age_s > config.max_age_s + 5e-4
        black = ~lost & (self._images.max(axis=(1, 2, 3)) <= config.black_level)
        frozen = ~lost & ~black & self._frozen
        valid = ~lost & ~black & ~frozen
        frozen_too_new = frozen & (self._frozen_s < config.frozen_stop_s)
        must_stop = bool(lost.any() or frozen_too_new.any() or frozen[FRONT] or not valid.any())
        faults = [
            SensorFault(CAMERA_NAMES[i], problem)
            for mask, problem in ((lost, "no frame"), (black, "black"), (frozen, "frozen"))
            for i in np.flatnonzero(mask)
        ]
        cap_mps = None if valid.all() else config.degraded_speed_mps
        return CameraView(self._images, valid, must_stop, cap_mps, tuple(faults))

    def _take(self, i: int, image: np.ndarray, travelled_m: float) -> None:
        self._age_s[i] = 0.0
        checksum = zlib.crc32(image.tobytes())
        if checksum != self._checksums[i]:
            self._checksums[i] = checksum
            self._images[i] = image
            self._same_ticks[i], self._same_travel_m[i], self._frozen[i] = 0, 0.0, False
            return
        moving = travelled_m > 0.0
        self._same_ticks[i] += int(moving)
        self._same_travel_m[i] += travelled_m
        far = self._same_travel_m[i] >= self._config.frozen_travel_m
        self._frozen[i] |= bool(far and self._same_ticks[i] >= self._config.frozen_ticks)
