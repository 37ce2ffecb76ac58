"""What the privileged policy sees at a decision: the mask words and a vector of the ego's own numbers."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from agent.actions import ACTIONS
from agent.ego_vector import (
    COMMAND_AHEAD_M,
    FIELDS,
    POINT_SCALE_M,
    ROUTE_AHEAD_M,
    SPEED_SCALE_MPS,
    VECTOR_SIZE,
)
from eval.planner import RoadOption
from training import bev
from training.env.gaps import GAP_SIZE, gap_vector
from training.expert import Scene
from training.scene import PrivilegedView

COMMANDS = (
    RoadOption.LEFT,
    RoadOption.RIGHT,
    RoadOption.STRAIGHT,
    RoadOption.LANEFOLLOW,
    RoadOption.CHANGELANELEFT,
    RoadOption.CHANGELANERIGHT,
)
VECTOR_LIMIT = 10.0
"""No number in the vector is larger."""


def vector_size(*, gaps: bool) -> int:
    """Width of the vector."""
    return VECTOR_SIZE + (GAP_SIZE if gaps else 0)


def observation_space(size_px: int, *, gaps: bool = False) -> spaces.Dict:
    """words: one bit per channel; vector: see `agent.ego_vector.FIELDS`, then `training.env.gaps.GAP_FIELDS`."""
    return spaces.Dict(
        {
            "words": spaces.Box(0, 2**bev.CHANNELS - 1, (size_px, size_px), np.uint64),
            "vector": spaces.Box(-VECTOR_LIMIT, VECTOR_LIMIT, (vector_size(gaps=gaps),), np.float32),
        }
    )


def ego_vector(scene: Scene, commands: list[RoadOption], action: int) -> Float32[np.ndarray, " fields"]:
    """The vector for a scene; `commands` belong to the corridor's points, `action` is the last one taken."""
    vector = np.zeros(VECTOR_SIZE, np.float32)
    vector[FIELDS["speed"]] = scene.speed_mps / SPEED_SCALE_MPS
    vector[FIELDS["limit"]] = scene.speed_limit_mps / SPEED_SCALE_MPS
    vector[FIELDS["action"]] = ACTIONS[action]
    vector[FIELDS["route"]] = _route_points(scene).ravel() / POINT_SCALE_M
    now, following, distance_m = commands_ahead(scene, commands)
    vector[FIELDS["command"]] = _one_hot(now)
    if following is not None:
        vector[FIELDS["next_command"]] = _one_hot(following)
    vector[FIELDS["next_command_distance"]] = min(distance_m / COMMAND_AHEAD_M, 1.0)
    return np.clip(vector, -VECTOR_LIMIT, VECTOR_LIMIT)


def commands_ahead(scene: Scene, commands: list[RoadOption]) -> tuple[RoadOption, RoadOption | None, float]:
    """The command here, the next other one that is more than lane following, and how far ahead it begins [m]."""
    here = scene.index
    start = here
    for command, group in groupby(commands[here:]):
        distance_m = float(scene.arc_m[start] - scene.arc_m[here])
        if distance_m > COMMAND_AHEAD_M:
            break
        if start > here and command is not RoadOption.LANEFOLLOW:
            return commands[here], command, distance_m
        start += sum(1 for _ in group)
        if start >= len(commands):
            break
    return commands[here], None, COMMAND_AHEAD_M


def _route_points(scene: Scene) -> np.ndarray:
    """Route points (8, 2) in the ego frame; behind the route's end its last point is repeated."""
    x, y, yaw = scene.pose
    wanted_m = scene.arc_m[scene.index] + np.array(ROUTE_AHEAD_M)
    dx = np.interp(wanted_m, scene.arc_m, scene.corridor.points[:, 0]) - x
    dy = np.interp(wanted_m, scene.arc_m, scene.corridor.points[:, 1]) - y
    return np.stack([dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)], 1)


def _one_hot(command: RoadOption) -> np.ndarray:
    values = np.zeros(len(COMMANDS), np.float32)
    if command in COMMANDS:
        values[COMMANDS.index(command)] = 1.0
    return values


def observe(
    view: PrivilegedView, scene: Scene, action: int, size_px: int, *, gaps: bool = False
) -> dict[str, np.ndarray]:
    """The observation now; gaps are read off a scene whose others know their lanes."""
    words = view.words()
    factor = bev.SIZE_PX // size_px
    vector = ego_vector(scene, view.commands, action)
    return {
        "words": bev.pool(words, factor) if factor > 1 else words,
        "vector": np.concatenate([vector, gap_vector(scene)]) if gaps else vector,
    }
