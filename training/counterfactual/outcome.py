"""Kinds of futures, and which of them may be learnt from."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int64

from training import bev
from training.counterfactual.log import EpisodeLog
from training.counterfactual.replay import HORIZON_TICKS, NO, SAME_WAY_COS, Outcomes, Scene

NEAR_MISS_M = 0.8
"""Passing anybody closer than this, without touching, is a near miss."""
STANDING_MPS = 0.5
"""Whoever is slower when touched was an obstacle that stands."""
PASSING_MPS = 1.0
"""A near miss needs an ego that moves at least so fast on the way."""


class FutureKind(IntEnum):
    """What comes of a future; a failing one is named by its first failure."""

    SAFE = 0
    NEAR_MISS = 1
    REAR_END = 2
    """Contact with a moving vehicle that goes about the same way."""
    CROSSING = 3
    """Contact with a moving vehicle that goes another way, oncoming ones included."""
    WALKER = 4
    """Contact with a walker or cyclist."""
    STATIC = 5
    """Contact with somebody or something that stands."""
    OFF_ROAD = 6


FAILURES = (FutureKind.REAR_END, FutureKind.CROSSING, FutureKind.WALKER, FutureKind.STATIC, FutureKind.OFF_ROAD)


def kinds(log: EpisodeLog, scene: Scene, motions: np.ndarray, outcomes: Outcomes) -> Int64[np.ndarray, " k"]:
    """`FutureKind` of each motion."""
    channel = log.shown[scene.base : scene.base + HORIZON_TICKS + 1, scene.who].max(0)
    way_m = np.hypot(*np.diff(motions[:, :, :2], axis=1).transpose(2, 0, 1)).sum(1)
    found = np.full(len(motions), FutureKind.SAFE, np.int64)
    found[(outcomes.clearance_m < NEAR_MISS_M) & (way_m > PASSING_MPS)] = FutureKind.NEAR_MISS
    failed = outcomes.failure_tick()
    for k in np.flatnonzero(failed != NO):
        tick, partner = int(failed[k]), int(outcomes.partner[k])
        if outcomes.contact_tick[k] != tick:
            found[k] = FutureKind.OFF_ROAD
            continue
        speed = np.hypot(*(np.diff(outcomes.others[k, max(tick - 5, 0) : tick + 1, partner, :2], axis=0).sum(0)))
        speed /= 0.05 * max(min(tick, 5), 1)
        along = np.cos(outcomes.others[k, tick, partner, 2] - motions[k, tick, 2])
        if channel[partner] in (bev.WALKER, bev.BICYCLE):
            found[k] = FutureKind.WALKER
        elif speed < STANDING_MPS:
            found[k] = FutureKind.STATIC
        else:
            found[k] = FutureKind.REAR_END if along > SAME_WAY_COS else FutureKind.CROSSING
    return found


def accountable(scene: Scene, outcomes: Outcomes) -> Bool[np.ndarray, " k"]:
    """Whose contact, if there is one, is the ego's: no follower's from behind, with nobody who was not there yet."""
    touched = outcomes.contact_tick != NO
    unseen = touched & ~scene.present[0, np.maximum(outcomes.partner, 0)] if scene.present.shape[1] else touched
    return ~outcomes.struck & ~unseen


def usable(scene: Scene, outcomes: Outcomes) -> Bool[np.ndarray, " k"]:
    """Which futures follow from the base state: the contact is accountable, and nothing has failed already."""
    return accountable(scene, outcomes) & (outcomes.failure_tick() != 0)
