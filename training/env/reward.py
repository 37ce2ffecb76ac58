"""Rewards of one decision as pure functions: Think2Drive's terms and CaRL's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from eval.scoring import Infraction
from training.env.config import CarlConfig, EnvConfig, Think2DriveConfig
from training.expert import Scene
from training.forecast import Kind

LOOK_AHEAD_M = 30.0
"""Hazards farther along the route have no influence on the wanted speed."""
BESIDE_M = 1.2
"""Who reaches closer than this to the route's middle line stands on it."""


class End(str, Enum):
    """Why an episode ended."""

    FINISHED = "finished"
    OFFENCE = "offence"
    DEVIATION = "deviation"
    STANDING = "standing"
    BLOCKED = "blocked"
    TIME = "time"
    LOST = "lost"
    """The simulator failed."""


@dataclass(frozen=True, slots=True)
class Hazards:
    """Distance along the route from the ego's centre to the nearest of each kind [m]; inf if there is none."""

    light_m: float = math.inf
    """Stop line of a red or yellow light."""
    stop_sign_m: float = math.inf
    vehicle_m: float = math.inf
    bicycle_m: float = math.inf
    walker_m: float = math.inf


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision's tenth of a second, as the rewards see it."""

    speed_mps: float
    limit_mps: float
    hazards: Hazards
    advanced_m: float
    """Metres gained along the route, negative backwards."""
    advanced_percent: float
    """The same as a share of the route."""
    offset_m: float
    """Distance from the route's middle line."""
    steer: float
    previous_steer: float
    outside: bool
    """Outside the lanes of the route."""
    comfortable: bool
    time_to_collision_s: float
    end: End | None = None
    offence: Infraction | None = None
    """The infraction that ended the episode."""


def wanted_speed_mps(limit_mps: float, hazards: Hazards, config: Think2DriveConfig) -> float:
    """v* = min over the hazards of v0 clip(d - d0, 0, s) / s with v0 = 0.8 v_lim and s = 12.5 m."""
    room_m = min(
        hazards.light_m - config.light_m,
        hazards.stop_sign_m - config.stop_sign_m,
        hazards.vehicle_m - config.vehicle_m,
        hazards.bicycle_m - config.bicycle_m,
        hazards.walker_m - config.walker_m,
    )
    return config.limit_share * limit_mps * min(max(room_m / config.slowing_m, 0.0), 1.0)


def think2drive(decision: Decision, config: Think2DriveConfig) -> dict[str, float]:
    """Terms of the reward, to be summed: 1 - |v - v*| / 7.5, metres, -2 offset / 8, -0.5 |change of steer|.

    Where the configuration says so, being outside the route's lanes costs something, too.
    A decision that ends the episode has one term: -1 for being lost or standing, -1 - v for an offence, +1 at the goal.
    """
    if decision.end is End.FINISHED:
        return {"finish": config.finish}
    if decision.end is End.OFFENCE:
        return {"failure": config.failure - decision.speed_mps}
    if decision.end in (End.DEVIATION, End.STANDING, End.BLOCKED):
        return {"failure": config.failure}
    wanted_mps = wanted_speed_mps(decision.limit_mps, decision.hazards, config)
    terms = {
        "speed": config.speed * (1.0 - abs(decision.speed_mps - wanted_mps) / config.speed_scale_mps),
        "travel": config.travel * decision.advanced_m,
        "deviation": -config.deviation * abs(decision.offset_m) / config.deviation_scale_m,
        "steer": -config.steer * abs(decision.steer - decision.previous_steer),
    }
    if config.outside:
        terms["outside"] = -config.outside * decision.outside
    return terms


def carl(decision: Decision, config: CarlConfig) -> dict[str, float]:
    """Progress in percent times the soft factors; -1 for a collision or a red light, 0 for other bad endings."""
    if decision.end is End.OFFENCE:
        hard = decision.offence is not None and decision.offence is not Infraction.STOP_SIGN
        return {"failure": config.collision if hard else 0.0}
    if decision.end in (End.DEVIATION, End.STANDING, End.BLOCKED):
        return {"failure": 0.0}
    factor = config.outside if decision.outside else 1.0
    factor *= max(0.0, 1.0 - max(0.0, decision.speed_mps - decision.limit_mps) / config.overspeed_mps)
    factor *= config.time_to_collision if decision.time_to_collision_s < config.time_to_collision_s else 1.0
    factor *= 1.0 if decision.comfortable else config.comfort
    return {"progress": decision.advanced_percent * factor}


def reward_terms(decision: Decision, config: EnvConfig) -> dict[str, float]:
    """Terms of the configured reward; a decision in which the simulator failed is worth nothing."""
    if decision.end is End.LOST:
        return {}
    if config.reward == "think2drive":
        return think2drive(decision, config.think2drive)
    return carl(decision, config.carl)


def place_on_route(scene: Scene) -> tuple[float, float]:
    """Arc length of the ego along its route and its offset to the left [m]."""
    x, y, yaw = scene.corridor.points[scene.index]
    dx, dy = scene.pose[0] - x, scene.pose[1] - y
    along_m = dx * math.cos(yaw) + dy * math.sin(yaw)
    return float(scene.arc_m[scene.index] + along_m), float(dy * math.cos(yaw) - dx * math.sin(yaw))


def find_hazards(scene: Scene) -> Hazards:
    """The nearest hazards on the route ahead.

    Parked vehicles and things are not among them: they do not give way, the reward for waiting must not keep the ego
    behind them (our reading of "lead vehicle").
    """
    here_m, _ = place_on_route(scene)
    lights_m = [arc_m - here_m for arc_m in scene.red_stop_m if 0.0 < arc_m - here_m < LOOK_AHEAD_M]
    signs_m = [arc_m - here_m for arc_m in scene.sign_stop_m if 0.0 < arc_m - here_m < LOOK_AHEAD_M]
    nearest = {Kind.VEHICLE: math.inf, Kind.BICYCLE: math.inf, Kind.WALKER: math.inf}
    for kind, distance_m in _on_route(scene, here_m):
        kind = Kind.VEHICLE if kind is Kind.EMERGENCY else kind
        nearest[kind] = min(nearest[kind], distance_m)
    return Hazards(
        light_m=min(lights_m, default=math.inf),
        stop_sign_m=min(signs_m, default=math.inf),
        vehicle_m=nearest[Kind.VEHICLE],
        bicycle_m=nearest[Kind.BICYCLE],
        walker_m=nearest[Kind.WALKER],
    )


def _on_route(scene: Scene, here_m: float) -> list[tuple[Kind, float]]:
    """Kind and distance of those on the route ahead."""
    others = scene.others
    last = int(np.searchsorted(scene.arc_m, here_m + LOOK_AHEAD_M))
    points = scene.corridor.points[scene.index : last + 1]
    if not len(others.pose) or not len(points):
        return []
    dx = others.pose[:, None, 0] - points[None, :, 0]
    dy = others.pose[:, None, 1] - points[None, :, 1]
    nearest = np.argmin(dx**2 + dy**2, axis=1)
    rows = np.arange(len(nearest))
    dx, dy, yaw = dx[rows, nearest], dy[rows, nearest], points[nearest, 2]
    offset_m = np.abs(dy * np.cos(yaw) - dx * np.sin(yaw))
    ahead_m = scene.arc_m[scene.index + nearest] + dx * np.cos(yaw) + dy * np.sin(yaw) - here_m
    turn = others.pose[:, 2] - yaw
    reach_m = np.abs(np.cos(turn)) * others.half_width_m + np.abs(np.sin(turn)) * others.half_length_m
    meant = (ahead_m > 0.0) & (ahead_m < LOOK_AHEAD_M) & (offset_m - reach_m < BESIDE_M) & ~others.parked
    return [(Kind(others.kind[k]), float(ahead_m[k])) for k in np.flatnonzero(meant)]


def time_to_collision_s(scene: Scene, horizon_s: float, step_s: float = 0.1) -> float:
    """When the ego first overlaps somebody if all keep speed and turn rate nil; inf if not within the horizon."""
    others = scene.others
    if not len(others.pose):
        return math.inf
    x, y, yaw = scene.pose
    near = np.hypot(others.pose[:, 0] - x, others.pose[:, 1] - y) < 40.0
    pose, speed_mps = others.pose[near], others.speed_mps[near]
    half_m = np.stack([others.half_length_m[near], others.half_width_m[near]], 1)
    for t_s in np.arange(0.0, horizon_s + 1e-9, step_s):
        ahead_m = scene.speed_mps * t_s
        ego = (x + ahead_m * math.cos(yaw), y + ahead_m * math.sin(yaw), yaw)
        moved = pose.copy()
        moved[:, 0] += speed_mps * t_s * np.cos(pose[:, 2])
        moved[:, 1] += speed_mps * t_s * np.sin(pose[:, 2])
        if _overlap(ego, (scene.half_length_m, scene.half_width_m), moved, half_m).any():
            return float(t_s)
    return math.inf


def _overlap(
    ego: tuple[float, float, float], ego_half_m: tuple[float, float], pose: np.ndarray, half_m: np.ndarray
) -> np.ndarray:
    """Which boxes overlap the ego's: separating axes, the two of the ego and the two of each other."""
    c, s = math.cos(ego[2]), math.sin(ego[2])
    dx, dy = pose[:, 0] - ego[0], pose[:, 1] - ego[1]
    ahead, left = dx * c + dy * s, dy * c - dx * s
    cb, sb = np.cos(pose[:, 2] - ego[2]), np.sin(pose[:, 2] - ego[2])
    abs_c, abs_s = np.abs(cb), np.abs(sb)
    length, width = half_m[:, 0], half_m[:, 1]
    apart = np.abs(ahead) > ego_half_m[0] + abs_c * length + abs_s * width
    apart |= np.abs(left) > ego_half_m[1] + abs_s * length + abs_c * width
    apart |= np.abs(ahead * cb + left * sb) > length + abs_c * ego_half_m[0] + abs_s * ego_half_m[1]
    apart |= np.abs(left * cb - ahead * sb) > width + abs_s * ego_half_m[0] + abs_c * ego_half_m[1]
    return ~apart
