"""An agent in an environment of its own process: what it does, and what it means to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64

from agent.adapter import Adapter, car_numbers
from agent.base_plan import Planner, state_features
from agent.decider import Network
from agent.driver import ActionChoice, AgentConfig
from agent.ego_vector import SPEED_SCALE_MPS
from agent.inputs import model_input
from agent.model.driving_model import ModelInput
from agent.motion import follow_plan, start_state
from training.experience.writer import SENSOR_ARRAYS, SensorFrame

CPU = torch.device("cpu")


class Pilot:
    """The agent behind its inputs: network, choice of actions, and an adapter if it has one. For one drive."""

    def __init__(self, model: Network, own: AgentConfig, adapter: Adapter | None) -> None:
        self._model, self._own, self._adapter = model, own, adapter
        self._choice = ActionChoice(own.action)
        self._planner = Planner(model, own.action.choice)
        self._state = model.initial(1)
        self._previous: int | None = None
        self._speed_mps: float | None = None

    @torch.no_grad()
    def act(self, frame: SensorFrame, *, explain: bool) -> tuple[int, Float64[np.ndarray, "61 4"] | None]:
        """The action after the next decision's sensor frame, and what is meant to be driven from the ego's pose.

        explain: whether the plan is wanted; a policy alone has to dream it first.
        """
        arrays: dict[str, Any] = {name: getattr(frame, name) for name in ("images", *SENSOR_ARRAYS)}
        inputs = model_input(arrays | {"first": self._previous is None}, CPU)
        logits, self._state = self._model.act(inputs, self._state, self._action_input())
        speed_mps = float(inputs.vector[0, 0]) * SPEED_SCALE_MPS
        action, plan = self._choice.choose(logits[0], speed_mps), None
        if self._adapter is not None:
            picked = self._adapter.decide(self._model, inputs, self._state, speed_mps, action)
            plan, action = picked.motions[picked.index], picked.action
        elif explain:
            plan = self._plan(inputs, speed_mps, action)
        self._previous, self._speed_mps = action, speed_mps
        return action, plan

    def _action_input(self) -> torch.Tensor | None:
        rssm = self._model.config.rssm
        if not rssm.action_input:
            return None
        if self._previous is None:
            return torch.zeros(1, rssm.actions)
        return F.one_hot(torch.tensor([self._previous]), rssm.actions).float()

    def _plan(self, inputs: ModelInput, speed_mps: float, action: int) -> Float64[np.ndarray, "61 4"]:
        features = state_features(self._model, inputs, self._state)
        start = start_state(*car_numbers(inputs, speed_mps, self._speed_mps))[None]
        plan = self._planner.plan(features, action, start)
        return follow_plan(start, plan)[0]
