"""What really comes of plans from a base state of a log: rewards of every quarter second, by geometry.

Four rewards, of which the Q-values of the adapter are discounted sums. After a failure all are 0.

route: 1 on the route, falling to 0 at ROUTE_M beside it; -1 for leaving the road or disobeying a signal.
distance: metres along the route over those of DISTANCE_MPS.
collision: -(1 + impact speed / IMPACT_MPS) in the quarter second of the first contact.
speed: share of the limit that is driven; above the limit it falls twice as fast, to -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float64, Int64

from agent.model.adapter import VALUES
from agent.motion import KNOT_S, KNOT_TICKS, KNOTS, PLAN_TICKS
from eval.criteria import TICK_S
from training import bev
from training.counterfactual.log import EpisodeLog
from training.counterfactual.outcome import accountable, usable
from training.counterfactual.replay import NO, Outcomes, Scene, make_scene, replay, separation
from training.counterfactual.surface import Surface

ROUTE_M = 4.0
DISTANCE_MPS = 10.0
IMPACT_MPS = 10.0
LEAST_LIMIT_MPS = 3.0
STOPPED_MPS = 0.5
"""Who is slower in the box of a stop sign has stopped."""
ROUTE, DISTANCE, COLLISION, SPEED = range(len(VALUES))


@dataclass(frozen=True, slots=True)
class Judged:
    """What comes of k plans."""

    rewards: Float64[np.ndarray, "k 12 4"]
    usable: Bool[np.ndarray, " k"]
    """Whether it follows from the base state; not for a contact that a follower makes, or with who was not there."""
    contact: Bool[np.ndarray, " k"]
    """Whether a contact is what fails first."""
    off_road: Bool[np.ndarray, " k"]
    """Likewise leaving the road."""
    disobeyed: Bool[np.ndarray, " k"]
    """Likewise passing a red light, or a stop sign without stopping."""
    failure_s: Float64[np.ndarray, " k"]
    """Time of the first of these; infinite without one."""
    touches: Bool[np.ndarray, " k"]
    """Whether it touches anybody by its own doing, whatever it has done before, off the road and at once included."""
    touch_mps: Float64[np.ndarray, " k"]
    """Relative speed of that contact; 0 without one."""
    leaves: Bool[np.ndarray, " k"]
    """Whether it leaves the road, whatever signals it has disobeyed; not after a contact: the replay drives through."""
    progress_m: Float64[np.ndarray, " k"]
    """Along the route until then."""
    offset_m: Float64[np.ndarray, " k"]
    """Mean distance from the route until then."""


@dataclass(frozen=True, slots=True)
class Task:
    """What can be told of k motions without knowing about anybody else."""

    progress_m: Float64[np.ndarray, " k"]
    """Along the route in 3 s."""
    offset_m: Float64[np.ndarray, " k"]
    """Mean distance from it."""
    disobeyed: Bool[np.ndarray, " k"]


class Truth:
    """One base state of a log and everybody around it."""

    def __init__(self, log: EpisodeLog, surface: Surface, base: int) -> None:
        """Raises: ValueError when the log ends before a plan does."""
        self.scene: Scene = make_scene(log, base)
        self._surface = surface
        self._pose = log.ego[base, :3].copy()
        self._limit_mps = max(float(log.limit_mps[base]), LEAST_LIMIT_MPS)
        ticks = slice(base, base + PLAN_TICKS + 1)
        self._signals = log.signal_box
        self._red = np.ascontiguousarray(log.signal_state[ticks] == bev.RED)
        self._sign = np.ascontiguousarray(log.signal_state[ticks] == bev.STOP_SIGN)

    def begins_free(self) -> bool:
        """Whether the ego touches nobody and is on the road now."""
        return self.judge(self.local(self.scene.logged[None])).failure_s[0] > 0.0

    def world(self, motions: Float64[np.ndarray, "k 61 4"]) -> Float64[np.ndarray, "k 61 4"]:
        """Motions from the ego's pose in the world."""
        x, y, yaw = self._pose
        c, s = math.cos(yaw), math.sin(yaw)
        placed = motions.copy()
        placed[..., 0] = x + c * motions[..., 0] - s * motions[..., 1]
        placed[..., 1] = y + s * motions[..., 0] + c * motions[..., 1]
        placed[..., 2] += yaw
        return placed

    def local(self, motions: Float64[np.ndarray, "k 61 4"]) -> Float64[np.ndarray, "k 61 4"]:
        """The inverse of `world`."""
        x, y, yaw = self._pose
        c, s = math.cos(yaw), math.sin(yaw)
        seen = motions.copy()
        dx, dy = motions[..., 0] - x, motions[..., 1] - y
        seen[..., 0], seen[..., 1] = c * dx + s * dy, c * dy - s * dx
        seen[..., 2] -= yaw
        return seen

    def judge(self, motions: Float64[np.ndarray, "k 61 4"]) -> Judged:
        """What comes of motions from the ego's pose."""
        placed = np.ascontiguousarray(self.world(motions))
        outcomes = replay(self.scene, self._surface, placed)
        disobeyed = _disobeyed(placed, self.scene.ego_half_m, self._signals, self._red, self._sign)
        return self._judged(placed, outcomes, disobeyed)

    def task(self, motions: Float64[np.ndarray, "k 61 4"]) -> Task:
        """What comes of motions as if nobody else were there: where they lead, and whether signals are obeyed."""
        placed = np.ascontiguousarray(self.world(motions))
        arc, offset = _on_route(self.scene, placed)
        disobeyed = _disobeyed(placed, self.scene.ego_half_m, self._signals, self._red, self._sign)
        return Task(arc[:, -1] - arc[:, 0], offset[:, 1:].mean(1), disobeyed != NO)

    def _judged(self, placed: np.ndarray, outcomes: Outcomes, disobeyed: Int64[np.ndarray, " k"]) -> Judged:
        never = np.iinfo(np.int64).max
        ticks = np.stack([outcomes.contact_tick, outcomes.off_road_tick, disobeyed])
        ticks = np.where(ticks == NO, never, ticks)
        first = ticks.min(0)
        happens = (ticks == first) & (first != never)
        step = np.where(first == never, KNOTS, np.maximum(first - 1, 0) // KNOT_TICKS)
        arc, offset = _on_route(self.scene, placed)
        rewards = np.zeros((len(placed), KNOTS, len(VALUES)))
        speed = placed[:, KNOT_TICKS::KNOT_TICKS, 3]
        rewards[..., ROUTE] = 1.0 - np.minimum(offset[:, 1:] / ROUTE_M, 1.0)
        rewards[..., DISTANCE] = np.clip(np.diff(arc, axis=1) / (DISTANCE_MPS * KNOT_S), -1.0, 2.0)
        share = speed / self._limit_mps
        rewards[..., SPEED] = np.maximum(np.where(share <= 1.0, share, 3.0 - 2.0 * share), -1.0)
        alive = np.arange(KNOTS) < step[:, None]
        rewards *= alive[..., None]
        rows = np.flatnonzero(happens.any(0))
        hit = rows[happens[0, rows]]
        rewards[hit, step[hit], COLLISION] = -(1.0 + outcomes.impact_mps[hit] / IMPACT_MPS)
        left = rows[happens[1:, rows].any(0)]
        rewards[left, step[left], ROUTE] = -1.0
        lasting = np.maximum(alive.sum(1), 1)
        touches = (outcomes.contact_tick != NO) & accountable(self.scene, outcomes)
        return Judged(
            rewards=rewards,
            usable=usable(self.scene, outcomes) & (first > 0),
            contact=happens[0],
            off_road=happens[1],
            disobeyed=happens[2],
            failure_s=np.where(first == never, np.inf, first * TICK_S),
            touches=touches,
            touch_mps=np.where(touches, outcomes.impact_mps, 0.0),
            leaves=(ticks[1] != never) & (ticks[1] < ticks[0]),
            progress_m=(np.diff(arc, axis=1) * alive).sum(1),
            offset_m=(offset[:, 1:] * alive).sum(1) / lasting,
        )


def returns(rewards: Float64[np.ndarray, "*b 12 4"], gamma: float) -> Float64[np.ndarray, "*b 12 4"]:
    """Q_i^n: discounted sums up to the end of every quarter second."""
    return np.cumsum(rewards * (gamma ** np.arange(KNOTS))[:, None], -2)


def _on_route(scene: Scene, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc length on the route (k, 13) and distance from it, every quarter second."""
    where = placed[:, ::KNOT_TICKS, :2]
    gap = np.hypot(
        where[..., None, 0] - scene.points[:, 0],
        where[..., None, 1] - scene.points[:, 1],
    )
    nearest = gap.argmin(-1)
    point = scene.points[nearest]
    dx, dy = where[..., 0] - point[..., 0], where[..., 1] - point[..., 1]
    c, s = np.cos(point[..., 2]), np.sin(point[..., 2])
    inside = (nearest > 0) & (nearest < len(scene.points) - 1)
    offset = np.where(inside, np.abs(dy * c - dx * s), np.hypot(dx, dy))
    return scene.route_arc_m[nearest] + dx * c + dy * s, offset


@numba.njit(cache=True, nogil=True)
def _disobeyed(motions, half, boxes, red, sign):  # pragma: no cover - compiled
    """(k,) first tick at which a red light's line is run over, or a stop sign's box is left without having stopped."""
    found = np.full(len(motions), NO)
    for k in range(len(motions)):
        first = len(motions[k])
        for i in range(len(boxes)):
            before, inside, slowest = False, False, 1e9
            for t in range(first):
                ego = motions[k, t]
                touches = False
                if abs(boxes[i, 0] - ego[0]) < 30.0 and abs(boxes[i, 1] - ego[1]) < 30.0:
                    touches = separation(ego, half[0], half[1], boxes[i, :3], boxes[i, 3], boxes[i, 4]) <= 0.0
                if red[t, i] and touches and not before and t > 0 and ego[3] > STOPPED_MPS:
                    first = t
                    break
                if sign[t, i] and touches:
                    slowest = min(slowest, ego[3])
                    inside = True
                elif inside and not touches:
                    if slowest > STOPPED_MPS:
                        first = t
                        break
                    inside = False
                before = touches
        if first < len(motions[k]):
            found[k] = first
    return found
