"""Bench2Drive's driving efficiency: the ego's speed relative to the traffic around it.

Source: `read_from_json` in Bench2Drive's tools/efficiency_smoothness_benchmark.py.
"""

from __future__ import annotations

import statistics

from eval.metrics.records import RouteResult, percentage
from eval.scoring import Infraction

LARGEST_PERCENT = 1000.0
"""Checkpoints above are left out: the traffic stood."""


def route_efficiency_percent(result: RouteResult) -> float | None:
    """Mean over the route's minimum-speed checkpoints; None if it has none that counts."""
    values = [percentage(message) for message in result.messages(Infraction.MIN_SPEED)]
    counted = [value for value in values if value is not None and value <= LARGEST_PERCENT]
    return statistics.fmean(counted) if counted else None
