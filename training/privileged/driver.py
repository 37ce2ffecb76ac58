"""The policy as it drives: filters the observations of one episode and acts; its weights as versioned files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from agent.checkpoint import check_state
from agent.ego_vector import FIELDS, SPEED_SCALE_MPS
from agent.model.policy import pedal_first, setting_off
from agent.model.rssm import LatentState, Rssm, unimix_log_probs
from agent.patience import Patience, PatienceConfig
from training import bev
from training.env.environment import DECISION_S
from training.learner import BaseLearner
from training.policy.actor_critic import ActorCritic
from training.presets import PrivilegedConfig
from training.world_model.encoder import Encoder

GREEDY_PATIENCE = PatienceConfig(after_s=5.0, full_s=25.0)
"""A greedy driver stands for ever where setting off is never the likeliest; a sampled one does not."""
KEPT_VERSIONS = 2
"""Older weight files are deleted: a reader may still be opening the one before the newest."""


class PolicyDriver(nn.Module):
    """Encoder, recurrence and actor, one episode at a time."""

    def __init__(self, config: PrivilegedConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.world_model)
        self.rssm = Rssm(config.world_model.rssm, self.encoder.outputs)
        self.actor = ActorCritic(config.policy, config.world_model).actor
        self.generator = torch.Generator().manual_seed(seed)
        self.requires_grad_(False)
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self._state: LatentState | None = None
        self._action = 0
        self._patience = Patience(GREEDY_PATIENCE)

    @torch.inference_mode()
    def act(self, observation: Mapping[str, np.ndarray], *, greedy: bool = False) -> int:
        """The action for the next observation: sampled, or greedy under the likeliest state.

        Greedy: the likeliest pedal, then the mean steering with it. A throttle's probability is spread over ten
        steering angles and a brake's over one, so the likeliest single action is the brake far too often. Where the
        car has been standing for a while, less and less probability of a throttle suffices to set off.
        """
        world = self.config.world_model
        words = observation["words"]
        factor = words.shape[0] // world.observation.size_px
        pooled = bev.pool(words, factor) if factor > 1 else np.ascontiguousarray(words)
        masks = torch.from_numpy(pooled.view(np.int64))[None]
        vector = torch.from_numpy(np.array(observation["vector"]))[None] if world.observation.vector else None
        first = torch.tensor([self._state is None])
        state = self._state
        if state is None:
            state = LatentState(torch.zeros(1, world.rssm.deter), torch.zeros(1, world.rssm.stoch))
        previous = F.one_hot(torch.tensor([self._action]), world.rssm.actions).float()
        self._state, _ = self.rssm.observe_step(
            state, previous, self.encoder(masks, vector), first, mode=greedy, generator=self.generator
        )
        log_policy = unimix_log_probs(self.actor(self._state.features()), self.config.policy.actor_unimix)[0]
        if greedy:
            share, start = setting_off(log_policy)
            speed_mps = float(observation["vector"][FIELDS["speed"]][0]) * SPEED_SCALE_MPS
            over = self._patience.is_over(speed_mps, share, DECISION_S)
            self._action = start if over else pedal_first(log_policy)
        else:
            self._action = int(torch.multinomial(log_policy.exp(), 1, generator=self.generator))
        return self._action

    @property
    def state(self) -> LatentState:
        """The filtered state (batch of one) after the last `act`. Raises: RuntimeError before the first."""
        if self._state is None:
            raise RuntimeError("no observation has been filtered yet; call act() first")
        return self._state

    def follow(self, action: int) -> None:
        """Another driver chose this action instead of the one `act` gave."""
        self._action = action


def driver_tensors(learner: BaseLearner) -> dict[str, Tensor]:
    """What a driver needs of a learner of the privileged stage."""
    parts = {"encoder": learner.judge.encoder, "rssm": learner.judge.rssm, "actor": learner.policy.actor}
    return {f"{name}.{key}": value for name, module in parts.items() for key, value in module.state_dict().items()}


def publish(folder: Path, learner: BaseLearner) -> Path:
    """Write the weights that drive, complete or not at all, and delete old ones."""
    return write_weights(folder, driver_tensors(learner), learner.updates)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], updates: int) -> Path:
    """Write a driver's weights after so many updates, complete or not at all, and delete old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{updates:09d}.safetensors"
    partial = target.with_suffix(".partial")
    partial.write_bytes(save_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    partial.replace(target)
    for old in sorted(folder.glob("*.safetensors"))[:-KEPT_VERSIONS]:
        old.unlink(missing_ok=True)
    return target


def newest(folder: Path) -> Path | None:
    """The weight file after the most updates; None before the first."""
    return max(folder.glob("*.safetensors"), default=None)


def version_of(path: Path) -> int:
    """Updates after which a weight file was written."""
    return int(path.stem)


def take_over(driver: nn.Module, path: Path) -> None:
    """Load a weight file. Raises: FileNotFoundError when it was replaced meanwhile, CheckpointError, ValueError."""
    try:
        tensors = load_tensors(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); delete it") from error
    check_state(driver.state_dict(), tensors, str(path))
    driver.load_state_dict(tensors)
