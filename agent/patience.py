"""What breaks a stand for no reason: a cloned policy that stands goes on standing, because its teacher mostly did.

The longer the car stands, the less of the policy's probability is needed to set off. While it waits in earnest, for a
red light or a queue, that probability stays small; where it merely hangs, it grows with every change in the pictures.
"""

import math
from dataclasses import dataclass

STANDING_MPS = 0.1
HALF = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PatienceConfig:
    """When a standing car sets off although its policy would rather stand."""

    after_s: float = 12.0
    """Up to here the policy decides alone."""
    full_s: float = 35.0
    """From here on the smallest share suffices; the leaderboard gives up on a car that stands for 60 s."""
    least_share: float = 0.02
    """Probability of the actions that set off which suffices at `full_s`; it falls linearly from one half."""
    last_s: float | None = None
    """From here on any probability suffices: better one red light than the end of the route. None: never."""
    burst_s: float = 1.5
    """So long the car then keeps going before the policy may stop it again."""
    stand_m: float = 0.0
    """Within this way of where it began a stand goes on: a car that was stopped again has not begun to wait anew."""

    def __post_init__(self) -> None:
        if not 0.0 < self.after_s < self.full_s:
            raise ValueError(f"patience needs 0 < after_s < full_s, got {self.after_s} and {self.full_s}")
        if not 0.0 <= self.least_share <= HALF:
            raise ValueError(f"patience.least_share must lie in [0, {HALF}], got {self.least_share}")
        if self.last_s is not None and self.last_s < self.full_s:
            raise ValueError(f"patience.last_s must not lie before full_s, {self.full_s}; got {self.last_s}")
        if not 0.0 <= self.stand_m < math.inf:
            raise ValueError(f"patience.stand_m must be a way in metres, at least 0, got {self.stand_m}")


class Patience:
    """Counts how long the car has been standing."""

    def __init__(self, config: PatienceConfig) -> None:
        self._config = config
        self._stood_s = 0.0
        self._going_s = 0.0
        self._way_m = 0.0

    def is_over(self, speed_mps: float, share: float, elapsed_s: float) -> bool:
        """Whether the car should set off now; called once per decision.

        share: probability that the policy gives to setting off. elapsed_s: time since the last decision.
        """
        self._going_s = max(0.0, self._going_s - elapsed_s)
        standing = abs(speed_mps) < STANDING_MPS
        self._count(abs(speed_mps), elapsed_s, standing)
        if standing and self._stood_s > self._config.after_s and share > self._needed():
            self._going_s = self._config.burst_s
            if not self._config.stand_m:
                self._stood_s = 0.0
        return self._going_s > 0.0

    def _count(self, speed_mps: float, elapsed_s: float, standing: bool) -> None:
        """Time and way of a stand, until it ends."""
        if standing:
            self._stood_s += elapsed_s
        elif self._stood_s:
            self._way_m += speed_mps * elapsed_s
            if self._way_m >= self._config.stand_m:
                self._stood_s, self._way_m = 0.0, 0.0

    def _needed(self) -> float:
        config = self._config
        if config.last_s is not None and self._stood_s > config.last_s:
            return -1.0
        progress = (self._stood_s - config.after_s) / (config.full_s - config.after_s)
        return max(config.least_share, HALF + (config.least_share - HALF) * progress)
