"""The raw policy as it drives while experience is collected, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agent.inputs import model_input
from agent.model.driving_model import ModelState
from agent.model.policy import pedal_first
from agent.model.raw_model import RawModel, RawModelConfig
from training.experience.writer import SENSOR_ARRAYS
from training.raw.learner import RawLearner

CPU = torch.device("cpu")


class RawDriver(RawModel):
    """The agent's network, one episode at a time."""

    def __init__(self, config: RawModelConfig, seed: int = 0) -> None:
        super().__init__(config)
        self.generator = torch.Generator().manual_seed(seed)
        self.requires_grad_(False).eval()
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self._state: ModelState | None = None
        self._action = 0

    def act(self, observation: Mapping[str, Any], *, greedy: bool = False) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The action for the next observation: sampled, or greedy (the likeliest pedal) under the likeliest state."""
        frame = observation["sensors"]
        arrays = {name: getattr(frame, name) for name in ("images", *SENSOR_ARRAYS)}
        inputs = model_input(arrays | {"first": self._state is None}, CPU)
        state = self._state or self.initial(1)
        previous = F.one_hot(torch.tensor([self._action]), self.config.rssm.actions).float()
        log_policy, self._state = super().act(inputs, state, previous, mode=greedy, generator=self.generator)
        if greedy:
            self._action = pedal_first(log_policy[0])
        else:
            self._action = int(torch.multinomial(log_policy[0].exp(), 1, generator=self.generator))
        return self._action

    def follow(self, action: int) -> None:
        """Another driver chose this action instead of the one `act` gave."""
        self._action = action


def agent_tensors(learner: RawLearner) -> dict[str, Tensor]:
    """The weights of the agent, as `RawModel` names them."""
    model = learner.model
    parts = {
        "encoder": model.encoder,
        "neck": model.neck,
        "rssm": model.recurrence(learner.teacher),
        "actor": learner.policy.actor,
    }
    return {f"{name}.{key}": value for name, module in parts.items() for key, value in module.state_dict().items()}
