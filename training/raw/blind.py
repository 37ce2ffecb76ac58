"""What the cameras cannot see of the masks: places behind somebody else, and places beyond the encoder's map.

Everybody counts as taller than the cameras, so what is marked is at least what a car's cameras miss behind other cars;
buildings are not in the masks and hide nothing here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64
from scipy import ndimage

from training import bev

BODIES = (bev.VEHICLE, bev.WALKER, bev.BICYCLE, bev.EMERGENCY, bev.OBSTACLE)
"""Masks of what can be hidden."""
SCREENS = (bev.VEHICLE, bev.EMERGENCY, bev.OBSTACLE)
"""Masks of what hides others."""
RAY_STEP_PX = 0.5


def behind_others(words: UInt64[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Pixels that the ego sees nothing of: somebody else stands between. A body of which a part is seen is seen."""
    labels = _bodies(words, SCREENS)
    rays = _rays(words.shape[0])
    crossed = np.where(rays >= 0, labels.ravel()[rays], 0)
    hidden = ((crossed > 0) & (crossed != labels.reshape(-1, 1))).any(1).reshape(words.shape)
    for number in range(1, int(labels.max()) + 1):
        own = labels == number
        hidden[own] = hidden[own].all()
    return hidden


def _bodies(words: UInt64[np.ndarray, "rows columns"], channels: tuple[int, ...]) -> Int64[np.ndarray, "rows columns"]:
    """Number of the connected body at every pixel; 0 where there is none, and at the ego."""
    masks = bev.unpack(words, (*channels, bev.EGO)).astype(bool)
    labels = np.empty(words.shape, np.int64)
    ndimage.label(masks[:-1].any(0) & ~masks[-1], output=labels)
    return labels


@lru_cache(maxsize=4)
def _rays(size_px: int) -> Int64[np.ndarray, "pixels samples"]:
    """Pixels, as flat indices, on the way from the ego to every pixel; -1 behind the end of the way."""
    ego = np.array([bev.EGO_ROW_PX, bev.SIZE_PX / 2]) * size_px / bev.SIZE_PX
    places = np.stack(np.meshgrid(np.arange(size_px), np.arange(size_px), indexing="ij"), -1).reshape(-1, 2) + 0.5
    away = places - ego
    length = np.linalg.norm(away, axis=1)
    at = RAY_STEP_PX * np.arange(1, int(length.max() / RAY_STEP_PX) + 1)
    points = ego + away[:, None] / np.maximum(length, RAY_STEP_PX)[:, None, None] * at[:, None]
    cells = np.clip(points.astype(np.int64), 0, size_px - 1)
    return np.where(at < length[:, None] - RAY_STEP_PX, cells[..., 0] * size_px + cells[..., 1], -1)


def outside(size_px: int, bev_range_m: tuple[float, ...]) -> Bool[np.ndarray, "rows columns"]:
    """Pixels that the image encoder's map does not reach. bev_range_m: right, ahead, up; lowest and highest."""
    m_per_px = bev.SIZE_PX / bev.PIXELS_PER_M / size_px
    row, column = np.arange(size_px) + 0.5, np.arange(size_px) + 0.5
    ahead_m = bev.EGO_ROW_PX / bev.PIXELS_PER_M - m_per_px * row[:, None]
    right_m = m_per_px * column[None] - 0.5 * bev.SIZE_PX / bev.PIXELS_PER_M
    right_min, ahead_min, _, right_max, ahead_max, _ = bev_range_m
    return (ahead_m < ahead_min) | (ahead_m > ahead_max) | (right_m < right_min) | (right_m > right_max)


def hidden_bodies(
    words: UInt64[np.ndarray, "rows columns"], blind: Bool[np.ndarray, "rows columns"], smallest_px: int = 2
) -> list[tuple[float, float, float]]:
    """Row, column and radius [px] of circles around bodies that lie in the blind spots."""
    labels = _bodies(words, BODIES)
    circles = []
    for number, part in enumerate(ndimage.find_objects(labels), start=1):
        own = labels[part] == number
        if own.sum() < smallest_px or not blind[part][own].all():
            continue
        rows, columns = ((piece.start + piece.stop) / 2.0 for piece in part)
        radius = 0.5 * float(np.hypot(*(piece.stop - piece.start for piece in part))) + 1.5
        circles.append((rows, columns, radius))
    return circles


def overlap(
    truth: Bool[np.ndarray, "*shape"], thought: Bool[np.ndarray, "*shape"], where: Bool[np.ndarray, "*shape"]
) -> Float[np.ndarray, 2]:
    """Pixels in both and in either, where asked for: the parts of an intersection over union."""
    return np.array([(truth & thought & where).sum(), ((truth | thought) & where).sum()], np.float64)
