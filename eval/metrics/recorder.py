"""The ego's true motion of every tick, written as metric_info.json the way Bench2Drive's agents do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.metric_log import MetricLog

if TYPE_CHECKING:
    import carla

    from eval.episode import Episode, Tick

DIGITS = 6


def metrics_folder(run: Path) -> Path:
    """Where a run keeps a folder per drive (the official tool's --metric_dir)."""
    return run / "metrics"


class MotionRecorder:
    """A tick hook that keeps what Bench2Drive's `get_metric_info` gives, for any agent."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of this drive; metric_info.json is written there."""
        self._log = MetricLog(folder, self._info)
        self._ego: carla.Vehicle | None = None

    def __call__(self, episode: Episode, tick: Tick) -> None:
        self._ego = episode.ego
        self._log.record()

    def close(self) -> None:
        """Write the file; a drive that never ticked has none."""
        if self._ego is not None:
            self._log.close()

    def _info(self) -> dict[str, list[float]]:
        """CARLA's frame: m/s2, degrees/s, metres, degrees (roll, pitch, yaw)."""
        ego = self._ego
        assert ego is not None
        transform = ego.get_transform()
        rotation = transform.rotation
        return {
            "acceleration": _numbers(ego.get_acceleration()),
            "angular_velocity": _numbers(ego.get_angular_velocity()),
            "forward_vector": _numbers(transform.get_forward_vector()),
            "right_vector": _numbers(transform.get_right_vector()),
            "location": _numbers(transform.location),
            "rotation": [round(value, DIGITS) for value in (rotation.roll, rotation.pitch, rotation.yaw)],
        }


def _numbers(vector: Any) -> list[float]:
    return [round(value, DIGITS) for value in (vector.x, vector.y, vector.z)]
