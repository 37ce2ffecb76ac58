"""HD-score of a drive, from its log and what the driver meant to do: mean over key frames of PDMS, times completion.

PDMS = NC * DAC * (5 TTC + 2 C) / 7 of the plan at a key frame. NC: it touches nobody. DAC: it stays on the road. TTC:
nor does it touch anybody when it goes straight on at its speed for TTC_S from any of its places. C: comfort, with the
limits of nuPlan. Source: the score of HUGSIM as MPA uses it; here with the boxes of a log instead of its scenes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from agent.motion import TICK_S
from training import bev
from training.adapter.truth import Truth
from training.counterfactual.log import EpisodeLog
from training.counterfactual.replay import HORIZON_TICKS
from training.counterfactual.surface import Surface

TTC_S = (0.3, 0.6, 0.95)
KEY_TICKS = 10
LON_MPS2, LAT_MPS2 = (-4.05, 2.40), 4.89
JERK_MPS3, LON_JERK_MPS3 = 8.37, 4.13
YAW_RATE_RADPS, YAW_ACCEL_RADPS2 = 0.95, 1.93
SMOOTHED_TICKS = 8
"""Derivatives are taken over so many ticks: nuPlan smooths before it differentiates."""
TTC_WEIGHT, COMFORT_WEIGHT = 5.0, 2.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One plan: 1 where it keeps a rule."""

    no_collision: float
    on_road: float
    time_to_collision: float
    comfort: float

    @property
    def pdms(self) -> float:
        """The frame's score."""
        kept = TTC_WEIGHT * self.time_to_collision + COMFORT_WEIGHT * self.comfort
        return self.no_collision * self.on_road * kept / (TTC_WEIGHT + COMFORT_WEIGHT)


def comfortable(motion: Float64[np.ndarray, "61 4"]) -> bool:
    """Whether a plan keeps nuPlan's limits of accelerations, jerks and turning."""
    step_s = SMOOTHED_TICKS * TICK_S
    rows = motion[::SMOOTHED_TICKS]
    speed, yaw = rows[:, 3], np.unwrap(rows[:, 2])
    rate = np.diff(yaw) / step_s
    lon = np.diff(speed) / step_s
    lat = 0.5 * (speed[1:] + speed[:-1]) * rate
    lon_jerk, lat_jerk = np.diff(lon) / step_s, np.diff(lat) / step_s
    checks = (
        (lon >= LON_MPS2[0]) & (lon <= LON_MPS2[1]),
        np.abs(lat) <= LAT_MPS2,
        np.abs(lon_jerk) <= LON_JERK_MPS3,
        np.hypot(lon_jerk, lat_jerk) <= JERK_MPS3,
        np.abs(rate) <= YAW_RATE_RADPS,
        np.abs(np.diff(rate) / step_s) <= YAW_ACCEL_RADPS2,
    )
    return all(bool(check.all()) for check in checks)


def straight_on(motion: Float64[np.ndarray, "61 4"], seconds: float) -> Float64[np.ndarray, "61 4"]:
    """Where a plan would be at every tick had it gone straight on at its speed for so long."""
    late = round(seconds / TICK_S)
    ahead = motion.copy()
    reach = motion[:-late, 3] * late * TICK_S
    ahead[late:] = motion[:-late]
    ahead[late:, 0] += reach * np.cos(motion[:-late, 2])
    ahead[late:, 1] += reach * np.sin(motion[:-late, 2])
    return ahead


def frame_of(truth: Truth, motion: Float64[np.ndarray, "61 4"]) -> Frame:
    """A plan's frame. Its rules are kept or broken each for itself: a contact after a red light counts as well, and so
    does one that is there already; not a follower's, nor one with who was not there yet."""
    motions = np.stack([motion, *(straight_on(motion, seconds) for seconds in TTC_S)])
    judged = truth.judge(motions)
    return Frame(
        no_collision=float(not judged.touches[0]),
        on_road=float(not judged.leaves[0]),
        time_to_collision=float(not judged.touches.any()),
        comfort=float(comfortable(motion)),
    )


def hd_score(
    log: EpisodeLog, static: bev.StaticMap, plans: Mapping[int, Float64[np.ndarray, "61 4"]], completion: float
) -> dict[str, float]:
    """HD-score (0 to 100) and means of its parts; plans by tick, each from the ego's pose; completion in 0 to 1.

    Key frames without 3 s of log after them are left out. Raises: ValueError when that leaves none.
    """
    surface = Surface.around(static, log.ego[:, :2])
    ticks = [tick for tick in sorted(plans) if tick % KEY_TICKS == 0 and tick + HORIZON_TICKS < log.ticks]
    if not ticks:
        raise ValueError(f"{log.name}: {log.ticks} ticks hold no plan with 3 s after it")
    frames = [frame_of(Truth(log, surface, tick), plans[tick]) for tick in ticks]
    means = {
        name: float(np.mean([getattr(frame, name) for frame in frames]))
        for name in ("no_collision", "on_road", "time_to_collision", "comfort", "pdms")
    }
    return means | {"frames": float(len(frames)), "hd_score": 100.0 * means["pdms"] * completion}
