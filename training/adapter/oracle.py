"""A picker that sees everybody: candidates are judged by geometry among others that go straight on at their speed."""

from __future__ import annotations

import numpy as np

from agent.adapter import AdapterConfig, Proposals
from agent.motion import PLAN_TICKS, TICK_S
from training.adapter.truth import Truth, returns
from training.counterfactual import log as logs
from training.counterfactual.log import EpisodeLog
from training.counterfactual.surface import Surface
from training.scene import PrivilegedView

GAMMA = 0.97
"""Discount per quarter second of the returns it compares, that of the networks."""
TICKS = PLAN_TICKS + 2


class Oracle:
    """Picks for one drive; asked when the view is up to date."""

    def __init__(self, view: PrivilegedView, config: AdapterConfig) -> None:
        self._view = view
        self._weights = config.value_weights().numpy()
        self._surface = Surface.around(view.static, view.corridor.points[:, :2])

    def __call__(self, proposals: Proposals) -> int:
        """Index of the best candidate."""
        judged = Truth(foreseen(self._view), self._surface, 0).judge(proposals.motions[0])
        return int((returns(judged.rewards, GAMMA)[:, -1] @ self._weights).argmax())


def foreseen(view: PrivilegedView) -> EpisodeLog:
    """The next three seconds as a log, if everybody goes straight on and the lights stay."""
    scene, seen = view.scene(), view.seen()
    x, y, yaw = scene.pose
    after_s = TICK_S * np.arange(TICKS)
    velocity = scene.speed_mps * np.array([np.cos(yaw), np.sin(yaw)])
    ego = np.zeros((TICKS, 6))
    ego[:, :2] = np.array([x, y]) + after_s[:, None] * velocity
    ego[:, 2], ego[:, 3:5] = yaw, velocity
    bodies = np.repeat(seen.rows[None].astype(np.float32), TICKS, 0)
    moved = bodies[..., logs.VX : logs.VY + 1]
    bodies[..., :2] += (after_s[:, None, None] * moved).astype(np.float32)
    corridor = view.corridor
    return EpisodeLog(
        meta=dict.fromkeys(logs.META_TEXTS, "foreseen"),
        ego=ego,
        ego_half_m=np.array([scene.half_length_m, scene.half_width_m]),
        control=np.zeros((TICKS, 3), np.float32),
        action=np.full(TICKS, -1, np.int8),
        limit_mps=np.full(TICKS, scene.speed_limit_mps, np.float32),
        route_index=np.full(TICKS, view.index, np.int32),
        ids=seen.ids,
        bodies=bodies,
        shown=np.repeat(seen.channels[None].astype(np.int8), TICKS, 0),
        signal_box=seen.signal_boxes,
        signal_state=np.repeat(seen.signal_channels[None].astype(np.int8), TICKS, 0),
        corridor=np.column_stack([corridor.points, corridor.left_m, corridor.right_m]),
        commands=np.array(view.commands, np.int8),
        contacts=np.zeros((0, 2), np.int64),
        latent=np.zeros((0, 0), np.float32),
        latent_tick=np.zeros(0, np.int32),
    )
