"""BEV memories of one episode with their time and place: a model reads one as old as those it was trained on."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Pose of the ego origin in any frame that stays fixed over the episode (odometry will do)."""

    x_m: float
    y_m: float
    yaw_rad: float
    """Counter-clockwise."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.x_m, self.y_m, self.yaw_rad)):
            raise ValueError(f"a placement needs finite numbers, got {self}")

    def motion_to(self, later: "Placement", origin_ego_m: tuple[float, float] = (0.0, 0.0)) -> tuple[float, ...]:
        """One rigid motion (dx, dy [m, own frame: x forward, y left], dyaw [rad, in -pi to pi]) to a later placement.

        origin_ego_m: the point of the car that moves and turns, such as the origin of a grid laid around its lidar.
        """
        own_x, own_y = self._point(origin_ego_m)
        later_x, later_y = later._point(origin_ego_m)
        dx, dy = later_x - own_x, later_y - own_y
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        turn = math.remainder(later.yaw_rad - self.yaw_rad, 2.0 * math.pi)
        return c * dx + s * dy, c * dy - s * dx, turn

    def _point(self, ego_m: tuple[float, float]) -> tuple[float, float]:
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return self.x_m + c * ego_m[0] - s * ego_m[1], self.y_m + s * ego_m[0] + c * ego_m[1]


@dataclass(frozen=True)
class Recalled:
    """A memory with the motion of the car since it was made."""

    bev: Tensor
    """(b, cells, d)"""
    motion: Tensor
    """(b, 3) float32: dx, dy [m, ego frame of the memory: x forward, y left], dyaw [rad, counter-clockwise]"""
    age_s: float


class MemoryRing:
    """The last BEV features of one episode, oldest first.

    A model trained on memories `interval_s` old but called more often than that reads, of those kept, the one whose age
    comes closest. Early in an episode that is the oldest one.
    """

    def __init__(
        self, interval_s: float, period_s: float, origin_ego_m: tuple[float, float] = (0.0, 0.0), slack: int = 1
    ) -> None:
        """period_s: time between two calls. slack: memories kept beyond those needed, for calls that come late."""
        if not (0.0 < period_s <= interval_s < math.inf):
            raise ValueError(f"a memory ring needs 0 < period_s <= interval_s, got {period_s} and {interval_s}")
        self.interval_s = interval_s
        self.origin_ego_m = origin_ego_m
        self._entries: deque[tuple[float, Placement, Tensor]] = deque(maxlen=round(interval_s / period_s) + slack)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def capacity(self) -> int:
        """Memories kept at most."""
        return self._entries.maxlen or 0

    def reset(self) -> None:
        """Forget everything: a new route, or the car was put elsewhere."""
        self._entries.clear()

    def push(self, time_s: float, placement: Placement, bev: Tensor) -> None:
        """Keep bev (b, cells, d) made at a simulation time. Raises: ValueError unless later than the last one."""
        if self._entries and time_s <= self._entries[-1][0]:
            raise ValueError(
                f"memory at {time_s} s is not later than the last one at {self._entries[-1][0]} s; "
                "reset the ring at the start of an episode"
            )
        self._entries.append((time_s, placement, bev.detach()))

    def recall(self, now_s: float, placement: Placement) -> Recalled | None:
        """The memory whose age is closest to the interval, the younger of two; None if there is none."""
        if not self._entries:
            return None
        made_s, place, bev = min(reversed(self._entries), key=lambda entry: abs(now_s - entry[0] - self.interval_s))
        motion = torch.tensor(place.motion_to(placement, self.origin_ego_m), device=bev.device)
        return Recalled(bev, motion.expand(bev.shape[0], -1), now_s - made_s)
