"""Logged states to refine a policy in: what the agent knew there, where the car was, and everybody around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64

from agent.decider import Network
from agent.motion import start_state
from training import bev
from training.adapter.data import DataConfig, base_states, opened
from training.adapter.truth import Truth
from training.counterfactual.log import EpisodeLog
from training.counterfactual.surface import Surface
from training.counterfactual.synthesis import state_of
from training.risk.data import Inputs


@dataclass(frozen=True, slots=True)
class RefineStates:
    """s states."""

    features: Float32[np.ndarray, "s d"]
    """(h, z) of the agent."""
    start: Float64[np.ndarray, "s 6"]
    """States of the car, each from its own pose."""
    truths: list[Truth]
    words: np.ndarray
    """(s, 64, 64) masks, for a critic that sees them."""
    vector: Float32[np.ndarray, "s 4"]
    episodes: int
    """From so many logged drives."""
    towns: list[str]

    def inputs(self, rows: np.ndarray) -> Inputs:
        """What a critic sees of some states."""
        return Inputs(
            torch.from_numpy(self.words[rows].view(np.int64)),
            torch.from_numpy(self.vector[rows]),
            torch.from_numpy(self.features[rows]),
        )


def read_states(folders: Sequence[Path], model: Network, config: DataConfig) -> RefineStates:
    """States of all logs in some folders. Raises: ArrayFileError, ValueError."""
    return gather(opened(folders, model), config)


def gather(logs: Iterable[tuple[EpisodeLog, bev.StaticMap]], config: DataConfig) -> RefineStates:
    """States of logs on their maps. Raises: ValueError without any."""
    found, seen, towns = [], [], set()
    for number, (log, static) in enumerate(logs):
        surface = Surface.around(static, log.ego[:, :2])
        for one in base_states(log, surface, config, number):
            found.append(one)
            seen.append(state_of(log, static, one.base))
        towns.add(str(log.meta["town"]))
    if not found:
        raise ValueError("no log has a base state that can be used; record longer ones with --config.raw")
    return RefineStates(
        features=np.stack([one.features for one in found]).astype(np.float32),
        start=np.stack([start_state(*one.numbers) for one in found]),
        truths=[one.truth for one in found],
        words=np.concatenate([one["words"] for one in seen]),
        vector=np.concatenate([one["vector"] for one in seen]),
        episodes=len({one.episode for one in found}),
        towns=sorted(towns),
    )
