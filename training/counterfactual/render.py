"""BEV masks from a log, around the logged ego or around one that goes another way."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, UInt8, UInt64

from eval.criteria import TICK_S
from training import bev
from training.counterfactual.log import ABSENT, HALF_LENGTH, YAW, EpisodeLog, X
from training.counterfactual.replay import Scene

SLICE_TICKS = tuple(round(age_s / TICK_S) for age_s in bev.HISTORY_S)
"""Ages of the slices, in ticks."""
CLASS_CHANNELS = (
    (bev.ROAD, bev.SHOULDER),
    (bev.VEHICLE, bev.EMERGENCY, bev.OBSTACLE),
    (bev.WALKER, bev.BICYCLE),
)
CLASSES = ("drivable", "vehicle", "vulnerable")
"""What occupancy tells apart; things on the road are vehicles."""
CELL_M = 1.0
AHEAD_M, BESIDE_M = (-8.0, 24.0), (-16.0, 16.0)
"""View of the future occupancy, around the ego as it will stand."""
ROWS = round((AHEAD_M[1] - AHEAD_M[0]) / CELL_M)
COLUMNS = round((BESIDE_M[1] - BESIDE_M[0]) / CELL_M)


def boxes_at(log: EpisodeLog, tick: int) -> tuple[Float64[np.ndarray, "n 5"], np.ndarray]:
    """Boxes and first channels of everybody and of the stop lines at a tick."""
    there = log.shown[tick] != ABSENT
    rows = log.bodies[tick, there].astype(np.float64)
    lit = log.signal_state[tick] != ABSENT
    boxes = np.concatenate([rows[:, [X, X + 1, YAW, HALF_LENGTH, HALF_LENGTH + 1]], log.signal_box[lit]])
    return boxes, np.concatenate([log.shown[tick, there], log.signal_state[tick, lit]]).astype(np.int64)


def logged_words(log: EpisodeLog, static: bev.StaticMap, tick: int) -> UInt64[np.ndarray, "128 128"]:
    """The words as they were painted during the drive."""
    slices = [boxes_at(log, max(tick - age, 0)) for age in SLICE_TICKS]
    return words_of(log, static, log.ego[tick, :3], int(log.route_index[tick]), slices)


def future_words(
    log: EpisodeLog, static: bev.StaticMap, scene: Scene, ego: np.ndarray, others: np.ndarray, step: int
) -> UInt64[np.ndarray, "128 128"]:
    """The words `step` ticks after the base of a scene for an ego that went another way.

    ego (t, >= 3) and others (t, n, 3): poses from the base on, as `replay` gives them.
    """
    base = scene.base
    slices = []
    for age in SLICE_TICKS:
        tick = max(base + step - age, 0)
        boxes, channels = boxes_at(log, tick)
        if tick >= base:
            there = log.shown[tick] != ABSENT
            boxes[: int(there.sum()), :3] = others[tick - base, there[scene.who]]
        slices.append((boxes, channels))
    index = nearest_point(log, ego[step, :2], int(log.route_index[base]))
    return words_of(log, static, ego[step, :3], index, slices)


def nearest_point(log: EpisodeLog, position: np.ndarray, start: int) -> int:
    """Route point nearest to a position, not far from one before it."""
    low, high = max(start - 5, 0), min(start + 80, len(log.corridor))
    return low + int(np.hypot(*(log.corridor[low:high, :2] - position).T).argmin())


def words_of(
    log: EpisodeLog,
    static: bev.StaticMap,
    pose: np.ndarray,
    route_index: int,
    slices: list[tuple[np.ndarray, np.ndarray]],
) -> UInt64[np.ndarray, "128 128"]:
    """Words seen from a pose; slices: boxes and first channels, youngest first."""
    boxes = np.concatenate([boxes for boxes, _ in slices])
    channels = np.concatenate([channels + age for age, (_, channels) in enumerate(slices)])
    x, y, yaw = (float(value) for value in pose[:3])
    half_m = (float(log.ego_half_m[0]), float(log.ego_half_m[1]))
    return bev.paint(static, (x, y, yaw), half_m, log.route(), route_index, bev.DynamicBoxes(boxes, channels))


def occupancy(words: UInt64[np.ndarray, "128 128"]) -> UInt8[np.ndarray, "rows columns"]:
    """One bit per class in cells of 1 m around the ego; row 0 is farthest ahead, column 0 farthest left."""
    view = bev.crop(words, AHEAD_M, BESIDE_M)
    view = bev.pool(view, view.shape[0] // ROWS)
    bits = np.zeros(view.shape, np.uint8)
    for k, channels in enumerate(CLASS_CHANNELS):
        wanted = np.uint64(sum(1 << channel for channel in channels))
        bits |= ((view & wanted) != 0).astype(np.uint8) << np.uint8(k)
    return bits
