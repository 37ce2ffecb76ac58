"""Training of the adapter: the diffusion model on the good futures of a state, the Q-values on all of them.

Adapter: E min_i || f_i(x_k, k, z, a_base) - x_0 ||^2, the best of the modes (MPA). Q-values: squared error of the
discounted sums of rewards up to every horizon. Good futures are drawn with probability proportional to
exp(return / temperature) among those that do not fail; that is our reading, MPA does not tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agent.adapter import MAX_PARAMETERS, AdapterConfig
from agent.base_plan import feature_width, state_identity
from agent.checkpoint import check_state, read_manifest, save_checkpoint
from agent.config import ConfigError, to_plain
from agent.decider import Network
from agent.driver import load_model
from agent.model.adapter import AdapterNet, AdapterNetConfig, Denoiser, QValues, Situated, plan_scale
from agent.model.diffusion import noised
from agent.motion import KNOTS
from training import steady
from training.adapter.data import AdapterData, DataConfig, read
from training.adapter.truth import returns
from training.learner import NonFiniteUpdateError
from training.optim import OptimizerConfig, Stepper
from training.steady import Purpose, SteadyConfig

CREATED_BY = "python -m training adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterTrainConfig:
    """What is trained, on what."""

    run: SteadyConfig = field(default_factory=SteadyConfig)
    net: AdapterNetConfig = field(default_factory=AdapterNetConfig)
    """Its `features` are set to those of the agent."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=1e-3,
            final_learning_rate=5e-5,
            decay_updates=10_000,
            warmup_updates=100,
            weight_decay=1e-3,
            clip_norm=1.0,
        )
    )
    states: int = 64
    """Base states in a batch."""
    futures: int = 8
    """Of each, for the Q-values."""
    levels: int = 4
    """Noise levels of each base state's target."""
    temperature: float = 1.0
    """Of the draw among good futures, in units of the weighted return."""
    weights: tuple[float, float, float, float] = AdapterConfig().weights
    """Of route, distance, collision and speed in that return."""
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.states, self.futures, self.levels) < 1 or self.temperature <= 0.0:
            raise ValueError(f"states, futures and levels must be at least 1, temperature positive, got {self}")


def adapter_loss(
    denoiser: Denoiser,
    seen: Situated,
    clean: Float[Tensor, "b 12 2"],
    generator: torch.Generator,
    levels: int = 1,
) -> Float[Tensor, ""]:
    """Best-of-modes squared error of the clean addition at random noise levels; clean: in units of `plan_scale`."""
    b, device = len(clean), clean.device
    level = torch.randint(1, denoiser.config.train_steps + 1, (levels * b,), generator=generator, device=device)
    noise = torch.randn(levels * b, *clean.shape[1:], generator=generator, device=device)
    base, code = denoiser.context(seen, denoiser.encoder(seen))
    target = clean.repeat(levels, 1, 1)
    x = noised(target, noise, denoiser.alpha_bar[level])
    guess = denoiser(x, level, (base.repeat(levels, 1, 1), code.repeat(levels, 1)))
    return (guess - target[:, None]).square().mean((-2, -1)).amin(1).mean()


def value_loss(
    values: QValues,
    seen: Situated,
    plan: Float[Tensor, "b k 12 2"],
    motion: Float[Tensor, "b k 12 4"],
    rewards: Float[Tensor, "b k 12 4"],
) -> Float[Tensor, " 4"]:
    """Mean squared error of each Q-value over futures and horizons; that of n quarter seconds is divided by n."""
    error = values(seen, values.encoder(seen), plan, motion) - values.accumulate(rewards)
    return (error.square() / values.counts[:, None]).mean((0, 1, 2))


class AdapterLearner:
    """Both networks with an optimiser each, and the draws of their batches."""

    def __init__(self, config: AdapterTrainConfig, data: AdapterData) -> None:
        """config.net.features: that of the data."""
        self._config, self._data = config, data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = AdapterNet(config.net).to(config.device)
        self._steppers = {
            "denoiser": Stepper(config.optimizer, self.net.denoiser.parameters()),
            "values": Stepper(config.optimizer, self.net.values.parameters()),
        }
        self._generator = torch.Generator(config.device).manual_seed(config.seed)
        self._draws = torch.Generator().manual_seed(config.seed)
        self._futures = data.futures_of()
        self._targets = [self._target_weights(own) for own in self._futures]
        self._usable = torch.tensor([k for k, own in enumerate(self._futures) if len(own)])
        self.updates = 0

    def _target_weights(self, own: np.ndarray) -> Tensor:
        """Probabilities of a state's futures as targets."""
        if not len(own):
            return torch.zeros(0)
        total = returns(self._data.rewards[own], self._config.net.gamma)[:, -1] @ np.array(self._config.weights)
        good = ~self._data.failed[own] if (~self._data.failed[own]).any() else np.ones(len(own), bool)
        logits = np.where(good, total / self._config.temperature, -np.inf)
        return torch.from_numpy(logits).softmax(-1)

    def step(self) -> dict[str, Tensor]:
        """One update of both. Raises: NonFiniteUpdateError before any weight changes."""
        config, data = self._config, self._data
        chosen = self._usable[torch.randint(len(self._usable), (config.states,), generator=self._draws)]
        seen = data.seen.at(chosen).to(config.device)
        rows = np.stack([self._drawn(int(k)) for k in chosen])
        told = lambda array: torch.from_numpy(array[rows[:, 1:]]).to(config.device)  # noqa: E731
        target = torch.from_numpy(data.plan[rows[:, 0]]).to(config.device)
        clean = (target - seen.plan) / plan_scale(seen.numbers[:, 0])
        for stepper in self._steppers.values():
            stepper.zero_grad()
        adapter = adapter_loss(self.net.denoiser, seen, clean, self._generator, config.levels)
        errors = value_loss(self.net.values, seen, told(data.plan), told(data.motion), told(data.rewards))
        (adapter + errors.sum()).backward()
        norms = {name: stepper.gradient_norm() for name, stepper in self._steppers.items()}
        everything = torch.stack([adapter.detach(), errors.sum().detach(), *norms.values()])
        if not bool(torch.isfinite(everything).all()):
            raise NonFiniteUpdateError(f"losses and gradient norms: {', '.join(f'{v:g}' for v in everything.tolist())}")
        for name, stepper in self._steppers.items():
            stepper.step(norms[name])
        self.updates += 1
        named = zip(("route", "distance", "collision", "speed"), errors.detach(), strict=True)
        return {"adapter": adapter.detach(), **{f"value_{name}": value for name, value in named}}

    def _drawn(self, state: int) -> np.ndarray:
        """A target, and futures for the Q-values, of a state."""
        own, weights = self._futures[state], self._targets[state]
        target = torch.multinomial(weights, 1, generator=self._draws)
        others = torch.randint(len(own), (self._config.futures,), generator=self._draws)
        return own[torch.cat([target, others]).numpy()]

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for name, stepper in self._steppers.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in stepper.tensors().items()}
        states = {"generator": self._generator.get_state(), "draws": self._draws.get_state()}
        return tensors | states | {"updates": torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from `tensors`. Raises: CheckpointError naming `where`."""
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        check_state(self.net.state_dict(), part("net."), where)
        self.net.load_state_dict(part("net."))
        for name, stepper in self._steppers.items():
            stepper.load(part(f"optimizer.{name}."))
        self._generator.set_state(tensors["generator"])
        self._draws.set_state(tensors["draws"])
        self.updates = int(tensors["updates"])


def train(config: AdapterTrainConfig, logs: tuple[Path, ...], agent: Path, out: Path) -> int:
    """Train an adapter of an agent on logs with its states; a run that exists goes on. Gives the number of updates.

    Raises: ArrayFileError, CheckpointError, ConfigError, RunStoppedError, ValueError.
    """
    torch.set_num_threads(config.run.threads)
    model = load_model(agent, "cpu")
    config = with_features(config, model)
    data = read(logs, model, config.data)
    learner = AdapterLearner(config, data)
    about = _about(config, data, agent, state_identity(model))

    def publish(folder: Path) -> None:
        training = about | {"updates": learner.updates}
        plain = {"adapter": to_plain(config.net), "training": training}
        save_checkpoint(folder, plain, learner.net.state_dict(), step=learner.updates, created_by=CREATED_BY)

    plain = to_plain(config) | {"about": about}
    return steady.run(learner, Purpose(CREATED_BY, plain, publish), config.run, out)


def with_features(config: AdapterTrainConfig, model: Network) -> AdapterTrainConfig:
    """The configuration for an agent. Raises: ConfigError for networks that are too large."""
    config = replace(config, net=replace(config.net, features=feature_width(model)))
    size = sum(parameter.numel() for parameter in AdapterNet(config.net).parameters())
    if size > MAX_PARAMETERS:
        raise ConfigError(f"config.net: {size} parameters, at most {MAX_PARAMETERS} are allowed; make it smaller")
    return config


def _about(config: AdapterTrainConfig, data: AdapterData, agent: Path, identity: str) -> dict[str, Any]:
    """What the adapter is for and has learned from."""
    files = read_manifest(agent)["files"]
    weights = sorted(entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors"))
    return {
        "agent": agent.name,
        "agent_sha256": weights,
        "states_of": identity,
        "towns": data.towns,
        "episodes": len(data.names),
        "states": len(data.truths),
        "futures": len(data.state),
        "knots": KNOTS,
        "seed": config.seed,
    }
