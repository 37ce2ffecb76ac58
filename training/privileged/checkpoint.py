"""The privileged model as a folder: world model and policy with their configuration, to drive or to imagine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent import config as configs
from agent.checkpoint import check_state, load_checkpoint, read_manifest, save_checkpoint
from training.learner import BaseLearner
from training.policy.actor_critic import ActorCritic
from training.presets import PrivilegedConfig
from training.privileged.driver import PolicyDriver
from training.world_model.model import WorldModel

CREATED_BY = "python -m training export-privileged"


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


def begin_with(learner: BaseLearner, folder: Path) -> None:
    """Take over the weights of a model's folder; moments and counts stay those of a new run.

    Raises: CheckpointError, ConfigError for a folder or shapes that do not fit.
    """
    _, tensors = load_checkpoint(folder)
    for prefix, module in (("model.", learner.model), ("policy.", learner.policy)):
        part = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        check_state(module.state_dict(), part, str(folder))
        module.load_state_dict(part)


def export(source: Path, out: Path, card: str) -> None:
    """Copy a run's model as float16, a third of what would be needed to go on, with its card.

    Raises: CheckpointError, ConfigError.
    """
    load_model(source)
    plain, tensors = load_checkpoint(source)
    step = int(read_manifest(source)["step"])
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    texts = {"model_card.md": card}
    save_checkpoint(out, plain, half, step=step, created_by=CREATED_BY, extra_files=texts)


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
