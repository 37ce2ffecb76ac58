"""Bench2Drive's comfort (driving smoothness): the share of one-second windows within nuPlan's limits.

`as_coded` is what the official tool computes from metric_info.json. It differs from the limits' meaning: CARLA gives
angular velocity in degrees per second, which the tool compares with limits in radians and unwraps like an angle; it
takes the logged ticks for 0.1 s, which are 0.05 s; and it holds the smoothed yaw rate against the limit of the yaw
acceleration. `corrected` converts, differentiates and uses the true tick.
Source: Bench2Drive tools/efficiency_smoothness_benchmark.py; limits: nuPlan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.signal import savgol_filter

from eval.criteria.events import TICK_S
from eval.metrics.records import RouteResult

LON_ACCEL_MPS2 = (-4.05, 2.40)
LAT_ACCEL_MPS2 = 4.89
JERK_MPS3 = 8.37
LON_JERK_MPS3 = 4.13
YAW_ACCEL_RADPS2 = 1.93
YAW_RATE_RADPS = 0.95
CODED_TICK_S = 0.1
WINDOW_TICKS = 20
FILTER_TICKS = 7
FILTER_ORDER = 2
MAX_FILE_BYTES = 1 << 28

Series = Float[np.ndarray, "window tick"]
Verdicts = Bool[np.ndarray, "window"]
Vectors = Float[np.ndarray, "tick 3"]


@dataclass(frozen=True, slots=True)
class Motion:
    """The ego's true motion per tick in CARLA's frame, as metric_info.json has it."""

    acceleration_mps2: Vectors
    angular_velocity_degps: Vectors
    forward: Vectors
    right: Vectors


@dataclass(frozen=True, slots=True)
class Comfort:
    """Share of comfortable windows of one route [percent]."""

    as_coded_percent: float
    corrected_percent: float


class MotionError(ValueError):
    """A metric_info.json that cannot be used; one line."""


def motion_file(result: RouteResult, folders: list[Path]) -> Path | None:
    """The route's metric_info.json below the first folder that has it."""
    name = result.save_name
    if not name or name != Path(name).name or name == "..":  # a results file must not be able to name other folders
        return None
    paths = (folder / name / "metric_info.json" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def read_motion(path: Path) -> Motion:
    """The motion in a metric_info.json, in the order of the file. Raises: MotionError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MotionError(f"{path}: more than {MAX_FILE_BYTES >> 20} MiB")
        ticks = list(json.loads(path.read_text(encoding="utf-8")).values())
        fields = ("acceleration", "angular_velocity", "forward_vector", "right_vector")
        columns = [np.array([tick[name] for tick in ticks], dtype=np.float64) for name in fields]
    except OSError as error:
        raise MotionError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MotionError(f"{path}: not a metric_info.json ({type(error).__name__}: {error})") from error
    if len(ticks) <= FILTER_ORDER or any(column.shape != (len(ticks), 3) for column in columns):
        raise MotionError(f"{path}: needs more than {FILTER_ORDER} ticks of vectors of 3 numbers")
    if not all(np.isfinite(column).all() for column in columns):
        raise MotionError(f"{path}: holds numbers that are not finite")
    return Motion(*columns)


def comfort(motion: Motion) -> Comfort:
    """Both readings of the route's comfort."""
    return Comfort(100.0 * float(np.mean(_comfortable_as_coded(motion))), 100.0 * float(np.mean(_comfortable(motion))))


def _windows(values: np.ndarray) -> np.ndarray:
    """Whole windows of one second (window, tick, ...); a route of up to one is a window by itself."""
    ticks = min(len(values), WINDOW_TICKS)
    count = len(values) // ticks
    return values[: count * ticks].reshape(count, ticks, *values.shape[1:])


def _comfortable_as_coded(motion: Motion) -> Verdicts:
    lon, lat, magnitude = (_smooth(series) for series in _accelerations(motion))
    yaw_rate = _windows(motion.angular_velocity_degps[:, 2])
    turns = np.cumsum(np.round(np.diff(yaw_rate, axis=1, prepend=yaw_rate[:, :1]) / (2.0 * np.pi)), axis=1)
    yaw_rate = _smooth(yaw_rate - 2.0 * np.pi * turns)
    return (
        _inside_accelerations(lon, lat)
        & _inside(_slope(magnitude, CODED_TICK_S), JERK_MPS3)
        & _inside(_slope(lon, CODED_TICK_S), LON_JERK_MPS3)
        & _inside(yaw_rate, YAW_ACCEL_RADPS2)
        & _inside(yaw_rate, YAW_RATE_RADPS)
    )


def _comfortable(motion: Motion) -> Verdicts:
    lon, lat, magnitude = _accelerations(motion)
    yaw_rate = np.radians(_windows(motion.angular_velocity_degps[:, 2]))
    return (
        _inside_accelerations(_smooth(lon), _smooth(lat))
        & _inside(_slope(magnitude, TICK_S), JERK_MPS3)
        & _inside(_slope(lon, TICK_S), LON_JERK_MPS3)
        & _inside(_slope(yaw_rate, TICK_S), YAW_ACCEL_RADPS2)
        & _inside(_smooth(yaw_rate), YAW_RATE_RADPS)
    )


def _accelerations(motion: Motion) -> tuple[Series, Series, Series]:
    """Longitudinal, lateral and magnitude, in the ground plane [m/s2]."""
    plane = motion.acceleration_mps2[:, :2]
    lon = (plane * motion.forward[:, :2]).sum(axis=1)
    lat = (plane * motion.right[:, :2]).sum(axis=1)
    return _windows(lon), _windows(lat), _windows(np.hypot(plane[:, 0], plane[:, 1]))


def _inside_accelerations(lon: Series, lat: Series) -> Verdicts:
    lowest, highest = LON_ACCEL_MPS2
    return np.asarray(((lon > lowest) & (lon < highest)).all(axis=1)) & _inside(lat, LAT_ACCEL_MPS2)


def _inside(series: Series, limit: float) -> Verdicts:
    return np.asarray((np.abs(series) < limit).all(axis=1))


def _smooth(series: Series) -> Series:
    return np.asarray(savgol_filter(series, min(FILTER_TICKS, series.shape[1]), FILTER_ORDER))


def _slope(series: Series, tick_s: float) -> Series:
    return np.asarray(savgol_filter(series, min(FILTER_TICKS, series.shape[1]), FILTER_ORDER, deriv=1, delta=tick_s))
