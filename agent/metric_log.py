"""Bench2Drive's metric_info.json: the ego's true motion per tick, which its comfort score is computed from."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import strict_json

logger = logging.getLogger(__name__)


class MetricLog:
    """Collects what the evaluator's get_metric_info says and writes it at the end of the route.

    A disk that refuses switches the recording off; driving goes on.
    """

    def __init__(self, folder: Path, get_metric_info: Callable[[], Any]) -> None:
        self._folder = folder
        self._get_metric_info = get_metric_info
        self._ticks: dict[int, Any] = {}

    def record(self) -> None:
        """Adds one tick."""
        self._ticks[len(self._ticks)] = self._get_metric_info()

    def close(self) -> None:
        """Writes metric_info.json, {tick: info}."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "metric_info.json").write_text(strict_json.dumps(self._ticks), encoding="utf-8")
        except (OSError, TypeError, ValueError) as error:
            logger.error("%s: metrics of the route cannot be written: %s", self._folder, error)
