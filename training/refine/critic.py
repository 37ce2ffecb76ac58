"""Scores of dreamt outcomes: what the task wants, minus what a critic fears.

R = progress / PROGRESS_M - w_r * distance from the route - w_s * [signal disobeyed]
    - w_c * sum_t p(first contact in t) (1 + impact_t / IMPACT_MPS) - w_o * p(off the road)

The first line is geometry and the same for all critics. The second is nothing (none), what a risk model foresees
(expert, impartial), or what the replay among the logged others tells (true). Form after AD-R1, whose weights are not
public; ours are fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from agent.config import ConfigError
from agent.motion import seen_from_start
from training.adapter.truth import IMPACT_MPS
from training.refine.states import RefineStates
from training.risk.data import Arm
from training.risk.model import Forecast, RiskModel
from training.risk.train import load_risk_model

PROGRESS_M = 10.0


class Critic(str, Enum):
    """Who judges danger."""

    NONE = "none"
    """Nobody: progress and route alone."""
    EXPERT = "expert-only"
    """A risk model that has only seen careful driving."""
    IMPARTIAL = "impartial"
    """A risk model that has learned from counterfactual futures."""
    TRUE = "true"
    """The replay of the log: labels by geometry."""


ARMS = {Critic.EXPERT: Arm.EXPERT, Critic.IMPARTIAL: Arm.COUNTERFACTUAL}
"""What a critic's model must have been trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Weights of a score."""

    route: float = 0.5
    """Per metre of mean distance from the route."""
    signal: float = 3.0
    collision: float = 5.0
    off_road: float = 3.0

    def __post_init__(self) -> None:
        if min(self.route, self.signal, self.collision, self.off_road) < 0.0:
            raise ValueError(f"score: weights must not be negative, got {self}")


def feared(forecast: Forecast, config: ScoreConfig) -> Float[Tensor, "b k"]:
    """What a forecast costs: expected contacts with their impacts, and leaving the road."""
    before = F.logsigmoid(-forecast.collision).cumsum(-1) - F.logsigmoid(-forecast.collision)
    first = (F.logsigmoid(forecast.collision) + before).exp()
    contact = (first * (1.0 + forecast.impact_mps / IMPACT_MPS)).sum(-1)
    return config.collision * contact + config.off_road * forecast.off_road_probability()


class Judge:
    """Scores motions of states."""

    def __init__(self, critic: Critic, config: ScoreConfig, model: RiskModel | None = None) -> None:
        """model: for the critics that have one."""
        if (critic in ARMS) != (model is not None):
            raise ValueError(f"critic {critic.value} {'needs a model' if critic in ARMS else 'has no model'}")
        self._critic, self._config, self._model = critic, config, model

    def scores(
        self, states: RefineStates, rows: np.ndarray, motions: Float64[np.ndarray, "b k 61 4"]
    ) -> Float64[np.ndarray, "b k"]:
        """R of k motions of each of some states."""
        found = np.stack([self._task(states, int(row), own) for row, own in zip(rows, motions, strict=True)])
        if self._model is not None:
            found -= self._foreseen(self._model, states, rows, motions)
        elif self._critic is Critic.TRUE:
            found -= np.stack([self._true(states, int(row), own) for row, own in zip(rows, motions, strict=True)])
        return found

    def _task(self, states: RefineStates, row: int, motions: np.ndarray) -> np.ndarray:
        task = states.truths[row].task(motions)
        config = self._config
        return task.progress_m / PROGRESS_M - config.route * task.offset_m - config.signal * task.disobeyed

    def _true(self, states: RefineStates, row: int, motions: np.ndarray) -> np.ndarray:
        judged = states.truths[row].judge(motions)
        cost = self._config.collision * judged.touches * (1.0 + judged.touch_mps / IMPACT_MPS)
        return cost + self._config.off_road * judged.leaves

    @torch.no_grad()
    def _foreseen(self, model: RiskModel, states: RefineStates, rows: np.ndarray, motions: np.ndarray) -> np.ndarray:
        b, k = motions.shape[:2]
        inputs = states.inputs(rows)
        way = seen_from_start(motions.reshape(b * k, -1, 4)).reshape(b, k, -1, 4)
        forecast = model.foresee(model.encode(inputs), inputs.vector, torch.from_numpy(way).float())
        return feared(forecast, self._config).double().numpy()


def load_critic(critic: Critic, folder: Path | None, features: int, identity: str) -> RiskModel | None:
    """The model of a critic, for an agent whose `feature_width` and `state_identity` these are.

    Raises: CheckpointError; ConfigError for none, one too many or one of another arm or agent.
    """
    if critic not in ARMS:
        if folder is not None:
            raise ConfigError(f"--critic-model {folder}: critic {critic.value} has no model; leave it out")
        return None
    if folder is None:
        raise ConfigError(f"critic {critic.value} needs --critic-model FOLDER, as `risk` writes it")
    model, about = load_risk_model(folder)
    if about.get("arm") != ARMS[critic].value:
        raise ConfigError(
            f"{folder}: was trained as arm {about.get('arm')!r}, critic {critic.value} needs {ARMS[critic].value!r}"
        )
    reads = (model.config.latent, about.get("states_of"))
    if model.config.source == "latent" and reads != (features, identity):
        raise ConfigError(
            f"{folder}: reads states of {reads[0]} numbers made by weights {str(reads[1])[:12]}..., this agent's have "
            f"{features}, made by {identity[:12]}...; train it on futures of this agent's logs"
        )
    return model
