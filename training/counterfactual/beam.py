"""Beam search for ego motions: pieces of constant pedal and wheel, of which the best few are kept after each piece."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import product

import numba
import numpy as np
from jaxtyping import Float64

from training.counterfactual.motion import MOTION, STATE, integrate
from training.counterfactual.replay import HORIZON_TICKS, REACH_M, Scene, distance
from training.counterfactual.surface import Surface, outside_share

PIECE_TICKS = 10
PROBE_TICKS = 2
"""Clearance is measured every so many ticks."""
FAR_M = 30.0
"""Clearance where nobody is near."""
NARROW_M = 0.6
CONTACT_COST, OFF_ROAD_COST = 100.0, 60.0
CLOSE_COST, NARROW_COST = 1.0, 6.0
TIE = 0.5
"""Deviation of the noise on scores, so that searches from one state differ."""


class Goal(IntEnum):
    """What is searched for."""

    PROGRESS = 0
    """Far ahead without touching anybody or leaving the road: the good branches."""
    DANGER = 1
    """Touching somebody on the road."""
    NARROW = 2
    """Ahead with a small clearance to somebody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamConfig:
    """Width of the search, and the pieces it is made of."""

    width: int = 4
    accels_mps2: tuple[float, ...] = (-5.0, -1.5, 0.0, 2.5)
    curvatures_per_m: tuple[float, ...] = (-0.06, -0.02, 0.0, 0.02, 0.06)
    """Added to the logged curvature."""

    def __post_init__(self) -> None:
        if self.width < 1 or not self.accels_mps2 or not self.curvatures_per_m:
            raise ValueError("beam: width must be at least 1 and both lists of pieces must not be empty")


@numba.njit(cache=True, nogil=True)
def _expand(  # noqa: PLR0913  # pragma: no cover - compiled
    states, pieces, curvatures, limits, pose, half_other, present, half, drivable, origin, motions, ends, found
):
    """Every state with every piece. found: clearance, share outside, distance gone; over the ticks of the piece."""
    accels = np.empty(len(curvatures))
    wanted = np.empty(len(curvatures))
    for s in range(len(states)):
        for p in range(len(pieces)):
            row = s * len(pieces) + p
            accels[:] = pieces[p, 0]
            wanted[:] = curvatures + pieces[p, 1]
            motion, end = integrate(states[s], accels, wanted, limits)
            motions[row] = motion
            ends[row] = end
            clearance = FAR_M
            outside = 0.0
            for t in range(PROBE_TICKS, len(motion), PROBE_TICKS):
                ego = motion[t]
                for i in range(pose.shape[1]):
                    reach = REACH_M + half_other[t, i, 0]
                    dx, dy = pose[t, i, 0] - ego[0], pose[t, i, 1] - ego[1]
                    if not present[t, i]:
                        continue
                    if abs(dx) > reach or abs(dy) > reach:
                        clearance = min(clearance, np.hypot(dx, dy) - half[0] - half_other[t, i, 0])
                        continue
                    gap = distance(ego, half[0], half[1], pose[t, i], half_other[t, i, 0], half_other[t, i, 1])
                    clearance = min(clearance, gap)
                outside = max(outside, outside_share(drivable, origin, ego[0], ego[1], ego[2], half[0], half[1]))
            found[row, 0], found[row, 1] = max(clearance, 0.0), outside
            found[row, 2] = np.hypot(end[0] - states[s, 0], end[1] - states[s, 1])


def search(
    scene: Scene,
    surface: Surface,
    start: Float64[np.ndarray, " 6"],
    limits: Float64[np.ndarray, " limits"],
    curvatures: Float64[np.ndarray, " t"],
    config: BeamConfig,
    generator: np.random.Generator,
) -> Float64[np.ndarray, "t+1 4"]:
    """The best motion found for a random goal."""
    goal = Goal(int(generator.integers(len(Goal))))
    pieces = np.array(list(product(config.accels_mps2, config.curvatures_per_m)))
    states, scores = start[None].copy(), np.zeros(1)
    histories = np.empty((1, 0, MOTION))
    closest = np.full(1, FAR_M)
    for first in range(0, HORIZON_TICKS, PIECE_TICKS):
        piece = slice(first, min(first + PIECE_TICKS, HORIZON_TICKS))
        view = slice(piece.start, piece.stop + 1)
        count = len(states) * len(pieces)
        ticks = piece.stop - piece.start
        motions, ends = np.empty((count, ticks + 1, MOTION)), np.empty((count, STATE))
        found = np.empty((count, 3))
        _expand(
            states,
            pieces,
            np.ascontiguousarray(curvatures[piece]),
            limits,
            scene.pose[view],
            scene.half_m[view],
            scene.present[view],
            scene.ego_half_m,
            surface.drivable,
            surface.origin_m,
            motions,
            ends,
            found,
        )
        parents = np.repeat(np.arange(len(states)), len(pieces))
        touched = closest[parents] <= 0.0
        closest_now = np.minimum(closest[parents], found[:, 0])
        total = scores[parents] + np.where(touched, 0.0, _score(goal, found, closest[parents]))
        order = np.argsort(-(total + generator.normal(scale=TIE, size=count)))[: config.width]
        histories = np.concatenate([histories[parents[order]], motions[order, :-1]], 1)
        last = motions[order, -1:]
        states, scores, closest = ends[order], total[order], closest_now[order]
    return np.concatenate([histories[:1], last[:1]], 1)[0]


def _score(goal: Goal, found: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What a piece adds to a branch; `before`: the branch's smallest clearance until then."""
    clearance, outside, gone = found.T
    off_road = OFF_ROAD_COST * outside
    contact = clearance <= 0.0
    if goal is Goal.DANGER:
        return CONTACT_COST * contact + CLOSE_COST * (before - np.minimum(clearance, before)) - off_road
    nearer = np.minimum(clearance, before)
    narrow = NARROW_COST * (np.abs(before - NARROW_M) - np.abs(nearer - NARROW_M)) if goal is Goal.NARROW else 0.0
    return gone + narrow - CONTACT_COST * contact - off_road
