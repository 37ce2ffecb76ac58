"""What a base agent means to do in the next three seconds, as a plan of accelerations and curvatures.

The raw agent's plan goes along the road that it sees, at the accelerations that its policy wants in its world model: a
quarter of the plans that steered as they dreamt left the road within three seconds. The cloned agent's recurrence does
not see actions, so nothing can be rolled out in it: its plan is the path and the speed that its embedding tells. Both
begin with the agent's own action.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from agent.ego_vector import ROUTE_AHEAD_M, SEEN_SIZE
from agent.model.driving_model import AUXILIARY, AUXILIARY_SCALE, PATH_DISTANCES_M, DrivingModel, ModelInput, ModelState
from agent.model.likeliest import LikeliestDream, can_dream
from agent.model.policy import pedals_first
from agent.model.raw_model import RawModel
from agent.model.rssm import LatentState, unimix_log_probs
from agent.motion import (
    DECISION_TICKS,
    KNOT_TICKS,
    KNOTS,
    PLAN_TICKS,
    SPEED,
    YAW,
    advance,
    follow_plan,
    hold_actions,
    motions_of,
    plan_of,
    response,
)

Choice = Literal["greedy", "pedal_first", "sampled"]
PLAN_DECISIONS = PLAN_TICKS // DECISION_TICKS
PATH_STEP_M = 1.0
LOOKAHEAD_S, LOOKAHEAD_FROM_M = 0.4, 2.0
LOOKAHEAD_M = (3.5, 9.0)
SPEED_GAIN_PER_S = 1.0
PLANNED_MPS2 = (-5.0, 2.5)
"""Accelerations with which a cloned agent's plan goes to the speed it wants."""


def state_features(model: DrivingModel | RawModel, inputs: ModelInput, state: ModelState) -> Float[Tensor, "b d"]:
    """What an agent knows after a decision: (h, z), with what the raw one has seen of its ego vector, or e_t of the
    cloned one, which its policy reads, too.
    """
    if isinstance(model, RawModel):
        assert state.seen is not None
        return torch.cat([state.latent.features(), state.seen], -1)
    bev = state.memory.transpose(1, 2).unflatten(2, (model.config.encoder.bev_rows, model.config.encoder.bev_columns))
    embed = model.neck(bev, inputs.route, inputs.vector)
    return torch.cat([state.latent.features(), embed.float()], -1)


def feature_width(model: DrivingModel | RawModel) -> int:
    """Numbers that `state_features` gives."""
    rssm = model.config.rssm
    told = SEEN_SIZE + model.config.neck.gaps if isinstance(model, RawModel) else model.config.neck.embed
    return rssm.deter + rssm.stoch + told


NOT_FELT = ("actor.", "policy.", "mask_head.", "latent_mask_head.", "auxiliary_head.")
"""Weights that `state_features` do not depend on: who acts on a state, and what is told from it."""


def state_identity(model: DrivingModel | RawModel) -> str:
    """sha256 of the weights that make states, as stored; that of agents with another policy is the same."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(NOT_FELT):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def split(model: DrivingModel | RawModel, features: Float[Tensor, "b d"]) -> tuple[LatentState, Tensor]:
    """(h, z), and what was seen or e_t, from features."""
    deter, latent = model.config.rssm.deter, model.config.rssm.deter + model.config.rssm.stoch
    return LatentState(features[:, :deter], features[:, deter:latent]), features[:, latent:]


@torch.no_grad()
def policy_logits(model: DrivingModel | RawModel, features: Float[Tensor, "b d"]) -> Float[Tensor, "b actions"]:
    """What the policy gives in states."""
    state, embed = split(model, features)
    if isinstance(model, RawModel):
        return unimix_log_probs(model.actor(state.features()), model.config.actor.unimix)
    return model.policy(embed, state)


def chosen(logits: Float[Tensor, "b actions"], choice: Choice) -> Int64[Tensor, " b"]:
    """Actions as the agent chooses them; where it draws them, the likeliest pedal stands for the draw."""
    return logits.argmax(-1) if choice == "greedy" else pedals_first(logits)


@torch.no_grad()
def base_plans(
    model: DrivingModel | RawModel,
    features: Float[Tensor, "b d"],
    action: Int64[Tensor, " b"],
    start: Float64[np.ndarray, "b 6"],
    choice: Choice = "pedal_first",
) -> Float64[np.ndarray, "b 12 2"]:
    """Plans of an agent that takes an action now, brought within what the car can do."""
    if isinstance(model, RawModel):
        actions = imagined_actions(model, features, action, choice).cpu().numpy()
        return plan_of(drive_actions(model, features, actions, start))
    return _told_plans(model, features, action, start)


class Planner:
    """Base plans of one agent, one state at a time; its weights must not change."""

    def __init__(self, model: DrivingModel | RawModel, choice: Choice = "pedal_first") -> None:
        self.model = model
        self._choice: Choice = choice
        self._dream = LikeliestDream(model) if isinstance(model, RawModel) and can_dream(model) else None

    @torch.no_grad()
    def plan(
        self, features: Float[Tensor, "1 d"], action: int, start: Float64[np.ndarray, "1 6"]
    ) -> Float64[np.ndarray, "1 12 2"]:
        """As `base_plans`."""
        if self._dream is None:
            return base_plans(self.model, features, torch.tensor([action], device=features.device), start, self._choice)
        choice = "greedy" if self._choice == "greedy" else "pedal_first"
        actions = self._dream.actions(features[0].numpy(), action, PLAN_DECISIONS, choice)
        assert isinstance(self.model, RawModel)
        return plan_of(drive_actions(self.model, features, actions[None], start))


def drive_actions(
    model: RawModel,
    features: Float[Tensor, "b d"],
    actions: Int64[np.ndarray, "b d"],
    start: Float64[np.ndarray, "b 6"],
) -> Float64[np.ndarray, "b t 4"]:
    """Motions of dreamt actions, t = 2 d + 1: their pedals along the road that is seen, after the first one's steering.

    An agent that tells no road steers as it dreams.
    """
    if not model.config.neck.vector_units:
        return hold_actions(start, actions)
    path = _dense(model.told_road(split(model, features)[1]).double().cpu().numpy(), ROUTE_AHEAD_M)
    state, states, curvature = start, [start], np.zeros(len(start))
    for tick in range(DECISION_TICKS * actions.shape[1]):
        accel, steered = response(actions[:, tick // DECISION_TICKS], state[:, SPEED])
        if tick % DECISION_TICKS == 0:
            curvature = _pursuit(state, path, curvature) if tick else steered
        state = advance(state, accel, curvature)
        states.append(state)
    return motions_of(np.stack(states, 1))


def _told_plans(
    model: DrivingModel, features: Float[Tensor, "b d"], action: Int64[Tensor, " b"], start: Float64[np.ndarray, "b 6"]
) -> Float64[np.ndarray, "b 12 2"]:
    """The cloned agent's plans."""
    embed = split(model, features)[1]
    told = (model.auxiliary_head(embed) * torch.tensor(AUXILIARY_SCALE, device=embed.device)).cpu().numpy()
    return clone_plans(told.astype(np.float64), action.cpu().numpy(), start)


@torch.no_grad()
def imagined_actions(
    model: RawModel, features: Float[Tensor, "b d"], action: Int64[Tensor, " b"], choice: Choice
) -> Int64[Tensor, "b 30"]:
    """The action and those that the policy then takes in the likeliest states of the world model."""
    state, _ = split(model, features)
    actions = [action]
    for _ in range(PLAN_DECISIONS - 1):
        taken = F.one_hot(actions[-1], model.config.rssm.actions).to(state.deter.dtype)
        state = model.rssm.imagine_step(state, taken, mode=True)
        actions.append(chosen(unimix_log_probs(model.actor(state.features()), model.config.actor.unimix), choice))
    return torch.stack(actions, 1)


_PATH = [AUXILIARY.index(f"path_x_{distance:.0f}_m") for distance in PATH_DISTANCES_M]
_TARGET = AUXILIARY.index("target_speed_mps")


def clone_plans(
    told: Float64[np.ndarray, "b auxiliary"], action: Int64[np.ndarray, " b"], start: Float64[np.ndarray, "b 6"]
) -> Float64[np.ndarray, "b 12 2"]:
    """Along the path that is told, towards the speed that is told; the first quarter second is the action's."""
    path = _dense(np.stack([told[:, _PATH], told[:, [k + 1 for k in _PATH]]], -1), PATH_DISTANCES_M)
    wanted_mps = np.maximum(told[:, _TARGET], 0.0)
    state, plan = start, np.zeros((len(start), KNOTS, 2))
    curvature = np.zeros(len(start))
    for knot in range(KNOTS):
        accel = np.clip(SPEED_GAIN_PER_S * (wanted_mps - state[:, SPEED]), *PLANNED_MPS2)
        curvature = _pursuit(state, path, curvature)
        if knot == 0:
            accel, curvature = response(action, state[:, SPEED])
        plan[:, knot] = np.stack([accel, curvature], -1)
        for _ in range(KNOT_TICKS):
            state = advance(state, accel, curvature)
    return plan_of(follow_plan(start, plan))


def _dense(points: Float64[np.ndarray, "b p 2"], distances_m: Sequence[float]) -> Float64[np.ndarray, "b q 2"]:
    """A path in steps of about a metre, from the origin on; points: on it, in those distances."""
    points = np.concatenate([np.zeros((len(points), 1, 2)), points], 1)
    knots = np.array([0.0, *distances_m])
    at = np.arange(0.0, knots[-1] + 0.5 * PATH_STEP_M, PATH_STEP_M)
    left = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = ((at - knots[left]) / (knots[left + 1] - knots[left]))[None, :, None]
    return points[:, left] * (1.0 - share) + points[:, left + 1] * share


def _pursuit(state: np.ndarray, path: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Curvature of the arc from the rear axle to the path a look-ahead away; behind the path's end the last one."""
    away = np.hypot(path[..., 0] - state[:, None, 0], path[..., 1] - state[:, None, 1])
    nearest = away.argmin(1)
    ahead = np.clip(LOOKAHEAD_S * state[:, SPEED] + LOOKAHEAD_FROM_M, *LOOKAHEAD_M)
    index = nearest + np.round(ahead / PATH_STEP_M).astype(int)
    inside = index < path.shape[1]
    goal = path[np.arange(len(path)), np.minimum(index, path.shape[1] - 1)] - state[:, :2]
    left = goal[:, 1] * np.cos(state[:, YAW]) - goal[:, 0] * np.sin(state[:, YAW])
    return np.where(inside, 2.0 * left / np.maximum((goal**2).sum(-1), 1.0), held)
