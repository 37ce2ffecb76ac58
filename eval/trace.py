"""A record of how a route was driven, for reports and plots: one row per tick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from eval.episode import Episode, Tick

COLUMNS = ("time_s", "x_m", "y_m", "z_m", "yaw_deg", "speed_mps", "throttle", "steer", "brake", "completion_percent")
"""Poses are in CARLA's frame."""


class TraceRecorder:
    """A hook that collects one row per tick; `save` writes them with the planned route."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._route: list[tuple[float, float]] = []

    def __call__(self, episode: Episode, tick: Tick) -> None:
        if not self._route:
            self._route = [(point.location.x, point.location.y) for point, _ in episode.plan.world]
        pose, control = tick.ego.transform, tick.control
        actions = (control.throttle, control.steer, control.brake) if control else (0.0, 0.0, 0.0)
        location = pose.location
        here = (tick.ego.time_s, location.x, location.y, location.z, pose.rotation.yaw, tick.ego.speed_mps)
        self._rows.append((*here, *actions, episode.criteria.completion.percent))

    def save(self, path: Path) -> None:
        """Write `ticks` (n, 10) float32 in the order of COLUMNS, and `route` (m, 2) [m]."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ticks = np.array(self._rows, dtype=np.float32).reshape(-1, len(COLUMNS))
        np.savez_compressed(path, columns=np.array(COLUMNS), ticks=ticks, route=np.array(self._route, dtype=np.float32))
