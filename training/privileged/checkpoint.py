"""The privileged model as a folder: world model and policy with their configuration, to drive or to imagine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent import config as configs
from agent.checkpoint import check_state, load_checkpoint
from training.policy.actor_critic import ActorCritic
from training.presets import PrivilegedConfig
from training.privileged.driver import PolicyDriver
from training.world_model.model import WorldModel


@dataclass(frozen=True, slots=True)
class PrivilegedModel:
    """What a run of the privileged stage leaves in `model`."""

    config: PrivilegedConfig
    world_model: WorldModel
    policy: ActorCritic

    def driver(self, seed: int = 0) -> PolicyDriver:
        """A driver with these weights."""
        driver = PolicyDriver(self.config, seed)
        driver.encoder.load_state_dict(self.world_model.encoder.state_dict())
        driver.rssm.load_state_dict(self.world_model.rssm.state_dict())
        driver.actor.load_state_dict(self.policy.actor.state_dict())
        return driver


def load_model(folder: Path) -> PrivilegedModel:
    """World model and policy of a checked folder, without gradients. Raises: CheckpointError, ConfigError."""
    plain, tensors = load_checkpoint(folder)
    config = configs.parse(PrivilegedConfig, plain, str(folder))
    model, policy = WorldModel(config.world_model), ActorCritic(config.policy, config.world_model)
    for prefix, module in (("model.", model), ("policy.", policy)):
        part = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        check_state(module.state_dict(), part, str(folder))
        module.load_state_dict(part)
        module.requires_grad_(False)
    return PrivilegedModel(config, model.eval(), policy.eval())
