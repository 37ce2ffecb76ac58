"""A picker that sees everybody: candidates are judged by geometry among others that go straight on at their speed."""

from __future__ import annotations

import math

import numpy as np

from agent.adapter import AdapterConfig, Proposals
from agent.motion import KNOT_TICKS, KNOTS, PLAN_TICKS, TICK_S
from training import bev
from training.adapter.truth import (
    COLLISION,
    DISTANCE,
    DISTANCE_MPS,
    IMPACT_MPS,
    LEAST_LIMIT_MPS,
    ROUTE,
    ROUTE_M,
    SPEED,
    STOPPED_MPS,
    returns,
)
from training.counterfactual import log as logs
from training.counterfactual.replay import touching
from training.counterfactual.surface import OUTSIDE_SHARE, Surface, outside_share
from training.scene import PrivilegedView

GAMMA = 0.97
"""Discount per quarter second of the returns it compares, that of the networks."""
REACH_M = 80.0
"""Who is farther away is left out."""


class Oracle:
    """Picks for one drive; asked after the view is up to date."""

    def __init__(self, view: PrivilegedView, config: AdapterConfig) -> None:
        self._view = view
        self._weights = config.value_weights().numpy()
        points = view.corridor.points
        self._arc_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points[:, :2], axis=0).T))])
        self._surface = Surface.around(view.static, points[:, :2])

    def __call__(self, proposals: Proposals) -> int:
        """Index of the best candidate."""
        total = self.totals(proposals.motions[0])
        return int(total.argmax())

    def totals(self, motions: np.ndarray) -> np.ndarray:
        """Weighted returns of motions (k, 61, 4) from the ego's pose."""
        scene = self._view.scene()
        x, y, yaw = scene.pose
        c, s = math.cos(yaw), math.sin(yaw)
        placed = motions.copy()
        placed[..., 0] = x + c * motions[..., 0] - s * motions[..., 1]
        placed[..., 1] = y + s * motions[..., 0] + c * motions[..., 1]
        placed[..., 2] += yaw
        half = np.array([scene.half_length_m, scene.half_width_m])
        seen = self._view.seen()
        near = np.hypot(seen.rows[:, 0] - x, seen.rows[:, 1] - y) < REACH_M
        limit = max(float(scene.speed_limit_mps), LEAST_LIMIT_MPS)
        red = seen.signal_boxes[seen.signal_channels == bev.RED]
        rewards = np.stack([self._rewards(one, half, seen.rows[near], red, limit) for one in placed])
        return returns(rewards, GAMMA)[:, -1] @ self._weights

    def _rewards(
        self, motion: np.ndarray, half: np.ndarray, others: np.ndarray, red: np.ndarray, limit_mps: float
    ) -> np.ndarray:
        """As `training.adapter.truth` tells them, with others that are foreseen; stop signs are left out."""
        rewards = np.zeros((KNOTS, 4))
        points = self._view.corridor.points
        arc_before = self._place(motion[0], points)[0]
        over_red = [_over(motion[0], half, box) for box in red]
        for tick in range(1, PLAN_TICKS + 1):
            ego = motion[tick]
            step = (tick - 1) // KNOT_TICKS
            impact = _impact(ego, half, others, tick * TICK_S)
            if impact is not None:
                rewards[step] = 0.0
                rewards[step, COLLISION] = -(1.0 + impact / IMPACT_MPS)
                return rewards
            share = outside_share(
                self._surface.drivable, self._surface.origin_m, ego[0], ego[1], ego[2], half[0], half[1]
            )
            runs = any(
                not was and ego[3] > STOPPED_MPS and _over(ego, half, box)
                for was, box in zip(over_red, red, strict=True)
            )
            if share > OUTSIDE_SHARE or runs:
                rewards[step] = 0.0
                rewards[step, ROUTE] = -1.0
                return rewards
            if tick % KNOT_TICKS == 0:
                arc, offset = self._place(ego, points)
                rewards[step, ROUTE] = 1.0 - min(offset / ROUTE_M, 1.0)
                rewards[step, DISTANCE] = np.clip((arc - arc_before) / (DISTANCE_MPS * KNOT_TICKS * TICK_S), -1.0, 2.0)
                driven = ego[3] / limit_mps
                rewards[step, SPEED] = max(driven if driven <= 1.0 else 3.0 - 2.0 * driven, -1.0)
                arc_before = arc
        return rewards

    def _place(self, ego: np.ndarray, points: np.ndarray) -> tuple[float, float]:
        """Arc length on the route, near where the ego is now, and distance from it."""
        low = max(self._view.index - 5, 0)
        window = points[low : low + 150]
        k = int(np.hypot(window[:, 0] - ego[0], window[:, 1] - ego[1]).argmin())
        dx, dy = ego[0] - window[k, 0], ego[1] - window[k, 1]
        c, s = math.cos(window[k, 2]), math.sin(window[k, 2])
        return float(self._arc_m[low + k] + dx * c + dy * s), float(abs(dy * c - dx * s))


def _impact(ego: np.ndarray, half: np.ndarray, others: np.ndarray, after_s: float) -> float | None:
    """Relative speed of the first contact with others that went straight on; None without one."""
    where = others[:, :2] + after_s * others[:, logs.VX : logs.VY + 1]
    for k in np.flatnonzero(np.hypot(where[:, 0] - ego[0], where[:, 1] - ego[1]) < 20.0):
        pose = np.array([where[k, 0], where[k, 1], others[k, logs.YAW]])
        if touching(ego, half, pose, others[k, logs.HALF_LENGTH : logs.HALF_WIDTH + 1]) <= 0.0:
            vx, vy = ego[3] * math.cos(ego[2]) - others[k, logs.VX], ego[3] * math.sin(ego[2]) - others[k, logs.VY]
            return math.hypot(vx, vy)
    return None


def _over(ego: np.ndarray, half: np.ndarray, box: np.ndarray) -> bool:
    """Whether the ego's box touches a stop line's."""
    return bool(touching(ego, half, box[:3], box[3:5]) <= 0.0)
