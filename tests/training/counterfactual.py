"""A straight road with chosen actors as an episode log."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training import bev
from training.counterfactual import log as logs
from training.counterfactual.log import TICK_S, EpisodeLog
from training.counterfactual.surface import Surface

TICKS = 160
BASE = 20
ROAD_HALF_WIDTH_M = 8.0
CAR = (2.4, 1.0)
EGO_HALF = np.array([2.4, 1.0])


@dataclass(frozen=True)
class Body:
    """An actor with constant velocity; position at the base tick."""

    x: float
    y: float
    yaw: float = 0.0
    speed: float = 0.0
    half: tuple[float, float] = CAR
    channel: int = bev.VEHICLE
    since: int = 0
    """First tick at which it is there."""


def road_log(bodies: list[Body], ego_mps: float = 8.0, ego_accel_mps2: float = 0.0) -> EpisodeLog:
    """The ego is at the origin at tick BASE, heading along x."""
    t = TICK_S * (np.arange(TICKS) - BASE)
    ego = np.zeros((TICKS, 6))
    speed = np.maximum(ego_mps + ego_accel_mps2 * t, 0.0)
    ego[:, 0] = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * TICK_S)])
    ego[:, 0] -= ego[BASE, 0]
    ego[:, 3] = speed
    rows = np.zeros((TICKS, len(bodies), 8), np.float32)
    shown = np.full((TICKS, len(bodies)), logs.ABSENT, np.int8)
    for i, body in enumerate(bodies):
        vx, vy = body.speed * np.cos(body.yaw), body.speed * np.sin(body.yaw)
        rows[:, i, 0], rows[:, i, 1], rows[:, i, 2] = body.x + vx * t, body.y + vy * t, body.yaw
        rows[:, i, 3], rows[:, i, 4] = vx, vy
        rows[:, i, 6], rows[:, i, 7] = body.half
        shown[body.since :, i] = body.channel
    points = np.arange(-60.0, 260.0)
    corridor = np.column_stack([points, *(np.zeros(len(points)) for _ in range(2)), *(np.full((2, len(points)), 4.0))])
    texts = dict.fromkeys(logs.META_TEXTS, "x") | {"episode": "road-1", "town": "Road", "kind": "test"}
    return EpisodeLog(
        meta=texts,
        ego=ego,
        ego_half_m=EGO_HALF,
        control=np.zeros((TICKS, 3), np.float32),
        action=np.full(TICKS, -1, np.int8),
        limit_mps=np.full(TICKS, 13.9, np.float32),
        route_index=np.clip(np.round(ego[:, 0] + 60.0), 0, len(points) - 1).astype(np.int32),
        ids=np.arange(1, len(bodies) + 1),
        bodies=rows,
        shown=shown,
        signal_box=np.zeros((0, 5)),
        signal_state=np.zeros((TICKS, 0), np.int8),
        corridor=corridor,
        commands=np.full(len(points), 4, np.int8),
        contacts=np.zeros((0, 2), np.int64),
        latent=np.zeros((0, 0), np.float32),
        latent_tick=np.zeros(0, np.int32),
    )


def with_line(log: EpisodeLog, x: float, channel: int) -> EpisodeLog:
    """A stop line across the road."""
    state = np.full((TICKS, 1), channel, np.int8)
    return replace(log, signal_box=np.array([[x, 0.0, 0.0, 0.6, 1.75]]), signal_state=state)


def road_map() -> bev.StaticMap:
    """Asphalt from x = -100 to 300 m, 16 m wide."""
    bits = np.zeros((round(60 * bev.MAP_PIXELS_PER_M), round(400 * bev.MAP_PIXELS_PER_M)), np.uint8)
    low = round((30.0 - ROAD_HALF_WIDTH_M) * bev.MAP_PIXELS_PER_M)
    bits[low : len(bits) - low] = 1
    return bev.StaticMap(bits, np.array([-100.0, -30.0]))


def open_ground() -> Surface:
    """Nothing but asphalt for a kilometre around."""
    return Surface(np.ones((8000, 8000), bool), np.array([-1000.0, -1000.0]))


def moved(log: EpisodeLog, x: float, y: float, yaw: float) -> EpisodeLog:
    """The whole world of a log turned by yaw about the origin and moved."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, s], [-s, c]])

    def poses(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        rows[..., :2] = rows[..., :2] @ turn + np.array([x, y])
        rows[..., 2] += yaw
        return rows

    ego, bodies = poses(log.ego), poses(log.bodies)
    ego[:, 3:5] = log.ego[:, 3:5] @ turn
    bodies[..., 3:5] = log.bodies[..., 3:5] @ turn
    return replace(log, ego=ego, bodies=bodies, corridor=poses(log.corridor), signal_box=poses(log.signal_box))
