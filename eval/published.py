"""Results that others published on Bench2Drive's 220 routes (version 0.0.3), driven on CARLA 0.9.15.

Every figure stands where its source says; a metric that the source does not give is left out. Nothing here was
measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from eval.metrics.tables import (
    ABILITIES_MEAN,
    ABILITY_KEYS,
    COMFORT_AS_CODED,
    DRIVING_SCORE,
    EFFICIENCY,
    SUCCESS_RATE,
)

ROUTES = 220
ROUTE_FILE_SHA256 = "ffff24b3a2b8584632730fb42de7cb6036af780c3952cfef08ee8cf96a712f88"
"""Of bench2drive220.xml, version 0.0.3."""
CARLA_RELEASE = "0.9.15"
COLUMNS = (DRIVING_SCORE, SUCCESS_RATE, EFFICIENCY, COMFORT_AS_CODED, *ABILITY_KEYS, ABILITIES_MEAN)


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures come from."""

    mark: str
    text: str


BOARD = Source(
    "a",
    "Board of github.com/autonomousvision/Bench2Drive-Leaderboard, README of 7 January 2026; reported by the authors "
    "of each method, who differ in data, expert and compute",
)
PAPER = Source("b", "Raw2Drive, arXiv 2505.16394 (May 2025), Tables 4 and 5")


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One method's results. `values`: by the metrics' keys."""

    method: str
    values: Mapping[str, float]
    source: Source
    privileged: bool = False
    """Drives by the simulator's own state instead of sensors."""


def _result(
    method: str,
    means: Sequence[float],
    source: Source,
    abilities: Sequence[float] = (),
    mean: float | None = None,
    *,
    privileged: bool = False,
) -> PublishedResult:
    """`means`: driving score, success rate, efficiency, comfort; `abilities`: overtaking, merging, emergency brake,
    give way, traffic signs; `mean`: as printed (default: of the five)."""
    values = dict(zip(COLUMNS, means, strict=False))
    if abilities:
        values.update(zip(ABILITY_KEYS, abilities, strict=True))
        values[ABILITIES_MEAN] = fmean(abilities) if mean is None else mean
    return PublishedResult(method, values, source, privileged)


RAW2DRIVE = _result("Raw2Drive", (71.36, 50.24, 214.17, 22.42), PAPER, (51.11, 43.35, 60.00, 50.00, 62.26), 53.34)
RESULTS = (
    _result("TFv6 (LEAD)", (95.28, 86.80), BOARD, (97.77, 72.50, 91.66, 40.00, 89.47)),
    _result(
        "Think2Drive",
        (91.85, 85.41, 269.14, 25.97),
        PAPER,
        (83.92, 81.27, 90.24, 90.00, 87.67),
        86.26,
        privileged=True,
    ),
    _result("SimLingo", (85.07, 67.27), BOARD, (57.04, 54.01, 88.33, 53.33, 82.45)),
    _result("ORION", (77.74, 54.62), BOARD),
    RAW2DRIVE,
    _result("DriveAdapter", (64.22, 33.08, 70.22, 16.01), PAPER, (26.38, 28.82, 48.76, 50.00, 56.43), 42.08),
    _result("UniAD-Base", (45.81, 16.36, 129.21, 43.58), PAPER, (17.78, 14.10, 21.67, 10.00, 14.21), 15.55),
    _result("VAD", (42.35, 15.00, 157.94, 46.01), PAPER, (24.44, 8.11, 18.64, 20.00, 19.15), 18.07),
)
"""Best first."""
