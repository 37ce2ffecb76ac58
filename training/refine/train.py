"""Refinement: the agent dreams K rollouts from logged states, a critic scores them, the policy moves towards the better
ones and stays near its base. World model and encoder stay as they are.

Source: AD-R1 (arXiv 2511.20325) for the loop; its K, weights and KL are not public (docs/refinement.md).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from agent.base_plan import PLAN_DECISIONS, drive_actions, feature_width, split, state_identity
from agent.checkpoint import check_state, load_checkpoint, read_manifest, save_checkpoint
from agent.config import ConfigError, to_plain
from agent.driver import load_model
from agent.model.raw_model import RawModel
from agent.model.rssm import unimix_log_probs
from training import steady
from training.adapter.data import DataConfig
from training.learner import NonFiniteUpdateError
from training.optim import OptimizerConfig, Stepper
from training.policy.imagination import Imagined, IndexedNet, IndexedState, imagine
from training.refine.critic import Critic, Judge, ScoreConfig, load_critic
from training.refine.policy import Scale, advantages, divergence, surrogate
from training.refine.states import RefineStates, read_states
from training.risk.train import load_risk_model
from training.steady import Purpose, SteadyConfig

CREATED_BY = "python -m training refine"
ACTOR = "actor."
CARD_FILE = "model_card.md"
CARD = """\
# {name}

The agent of {agent} with its policy refined by dreams (AD-R1; `{created_by}`, docs/refinement.md). Encoder, neck and
world model are that agent's; only the actor is another one.

| | |
|---|---|
| critic | {critic} |
| data | {states} states of {episodes} logged drives in {towns} |
| training | {updates} updates of {batch} states and {candidates} dreams each, learning rate {rate:g}, weight of the \
KL to the base {kl:g} |

How it drives has not been measured. `python -m training closed-loop` compares it with its base.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineConfig:
    """How a policy is refined."""

    critic: Critic = Critic.IMPARTIAL
    run: SteadyConfig = field(default_factory=lambda: SteadyConfig(updates=300))
    data: DataConfig = field(default_factory=DataConfig)
    """`around` and `candidates` are not used here."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-5, warmup_updates=10, clip_norm=1.0)
    )
    states: int = 64
    """Logged states of an update."""
    candidates: int = 8
    """K: rollouts of each."""
    epochs: int = 1
    """Steps on the same rollouts."""
    scale: Scale = "batch"
    """What scores are divided by: the spread of all dreams of an update, or within each state (group), as GRPO does.
    Then a state where nothing can go wrong pulls towards speed as strongly as one with a collision away from it."""
    clip: float = 0.2
    """Of the ratio of probabilities."""
    kl: float = 0.1
    """beta: weight of KL(policy || base)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.states, self.epochs) < 1 or self.candidates < 2 or not 0.0 < self.clip < 1.0 or self.kl < 0.0:
            raise ValueError(
                "states and epochs must be at least 1, candidates at least 2, clip in (0, 1), kl not negative, got "
                f"{self.states}, {self.epochs}, {self.candidates}, {self.clip}, {self.kl}"
            )


@dataclass(frozen=True, slots=True)
class Dream:
    """K rollouts of each of b states."""

    rollout: Imagined
    """n = b K rollouts, those of a state side by side."""
    motions: Float64[np.ndarray, "b k 61 4"]


class RefineLearner:
    """The policy, its base, and the draws."""

    def __init__(self, config: RefineConfig, model: RawModel, states: RefineStates, judge: Judge) -> None:
        self._config, self._states, self._judge = config, states, judge
        self.model = model.requires_grad_(False)
        self.actor = model.actor.requires_grad_(True)
        self.base = copy.deepcopy(model.actor).requires_grad_(False)
        self._stepper = Stepper(config.optimizer, self.actor.parameters())
        self._generator = torch.Generator().manual_seed(config.seed)
        self.updates = 0

    def step(self) -> dict[str, Tensor]:
        """One update. Raises: NonFiniteUpdateError before any weight changes."""
        config = self._config
        count = min(config.states, len(self._states.features))
        rows = torch.randperm(len(self._states.features), generator=self._generator)[:count].numpy()
        dream = self.dream(rows)
        scores = torch.from_numpy(self._judge.scores(self._states, rows, dream.motions)).float()
        metrics = self.improve(dream, scores)
        self.updates += 1
        return metrics | {"score": scores.mean(), "score_best": scores.amax(-1).mean()}

    @torch.no_grad()
    def dream(self, rows: np.ndarray) -> Dream:
        """Rollouts of the present policy in the world model, and what the car does under their actions."""
        config, model = self._config, self.model
        rssm = model.config.rssm
        state, _ = split(model, torch.from_numpy(self._states.features[rows]))
        start = IndexedState.of(state, rssm.groups)
        k = config.candidates
        start = IndexedState(start.deter.repeat_interleave(k, 0), start.index.repeat_interleave(k, 0))
        rollout = imagine(
            model.rssm,
            self.actor,
            start,
            PLAN_DECISIONS,
            actor_unimix=model.config.actor.unimix,
            generator=self._generator,
        )
        cars = np.repeat(self._states.start[rows], k, 0)
        known = torch.from_numpy(self._states.features[rows]).repeat_interleave(k, 0)
        motions = drive_actions(model, known, rollout.action.t().numpy(), cars)
        return Dream(rollout, motions.reshape(len(rows), k, -1, 4))

    def improve(self, dream: Dream, scores: Float[Tensor, "b k"]) -> dict[str, Tensor]:
        """Step(s) on scored rollouts; gives metrics. Raises: NonFiniteUpdateError before any weight changes."""
        config, rollout = self._config, dream.rollout
        if not bool(torch.isfinite(scores).all()):
            raise NonFiniteUpdateError(f"{int((~torch.isfinite(scores)).sum())} scores of dreams are not finite")
        advantage = advantages(scores, config.scale).flatten()
        before, metrics = None, {}
        for _ in range(config.epochs):
            self._stepper.zero_grad()
            log_policy = self._log_policy(self.actor, rollout)
            with torch.no_grad():
                log_base = self._log_policy(self.base, rollout)
            taken = _taken(log_policy, rollout.action)
            before = taken.detach() if before is None else before
            policy = surrogate(taken, before, advantage, config.clip)
            kl = divergence(log_policy, log_base).mean()
            (policy + config.kl * kl).backward()
            norm = self._stepper.gradient_norm()
            everything = torch.stack([policy.detach(), kl.detach(), norm])
            if not bool(torch.isfinite(everything).all()):
                raise NonFiniteUpdateError(f"loss, KL and gradient norm: {', '.join(f'{v:g}' for v in everything)}")
            self._stepper.step(norm)
            metrics = {"policy": policy.detach(), "kl": kl.detach(), "gradient_norm": norm}
        entropy = -(log_policy.exp() * log_policy).sum(-1).mean().detach()
        return metrics | {"entropy": entropy, "advantage_std": advantage.std()}

    def _log_policy(self, actor: torch.nn.Module, rollout: Imagined) -> Float[Tensor, "h n actions"]:
        """Log-probabilities of all actions in the states in which one was taken."""
        assert isinstance(actor, torch.nn.Sequential)
        rssm = self.model.config.rssm
        states = IndexedState(rollout.deter[:-1].flatten(0, 1), rollout.index[:-1].flatten(0, 1))
        logits = IndexedNet(actor, rssm.deter, rssm.classes)(states)
        return unimix_log_probs(logits, self.model.config.actor.unimix).unflatten(0, rollout.action.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        tensors = {f"actor.{name}": value for name, value in self.actor.state_dict().items()}
        tensors |= {f"base.{name}": value for name, value in self.base.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in self._stepper.tensors().items()}
        return tensors | {"generator": self._generator.get_state(), "updates": torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from `tensors`. Raises: CheckpointError naming `where`."""
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        for module, prefix in ((self.actor, "actor."), (self.base, "base.")):
            check_state(module.state_dict(), part(prefix), where)
            module.load_state_dict(part(prefix))
        self._stepper.load(part("optimizer."))
        self._generator.set_state(tensors["generator"])
        self.updates = int(tensors["updates"])


def _taken(log_policy: Float[Tensor, "h n actions"], action: Int64[Tensor, "h n"]) -> Float[Tensor, "h n"]:
    return log_policy.gather(-1, action[..., None])[..., 0]


def refine(config: RefineConfig, logs: tuple[Path, ...], agent: Path, critic_model: Path | None, out: Path) -> int:
    """Refine the policy of a raw agent on logs with its states; a run that exists goes on. Gives the updates.

    `out/model` is a folder to drive with. Raises: ArrayFileError, CheckpointError, ConfigError, RunStoppedError.
    """
    torch.set_num_threads(config.run.threads)
    model = load_model(agent, "cpu")
    if not isinstance(model, RawModel):
        raise ConfigError(
            f"{agent}: a cloned agent's world model does not see actions, so it cannot dream of them; give a raw agent"
        )
    critic = load_critic(config.critic, critic_model, feature_width(model), state_identity(model))
    states = read_states(logs, model, config.data)
    learner = RefineLearner(config, model, states, Judge(config.critic, config.score, critic))
    about = _about(states, agent, critic_model)

    def publish(folder: Path) -> None:
        plain, tensors = load_checkpoint(agent)
        tensors |= {
            f"{ACTOR}{name}": value.to(tensors[f"{ACTOR}{name}"].dtype)
            for name, value in learner.actor.state_dict().items()
        }
        texts = {name: (agent / name).read_text(encoding="utf-8") for name in _texts(agent)}
        texts[CARD_FILE] = _card(config, states, agent, critic_model, learner.updates, out.name)
        save_checkpoint(folder, plain, tensors, step=learner.updates, created_by=CREATED_BY, extra_files=texts)

    purpose = Purpose(CREATED_BY, to_plain(config) | {"critic": config.critic.value, "about": about}, publish)
    return steady.run(learner, purpose, config.run, out)


def _texts(agent: Path) -> list[str]:
    """Files of an agent's folder that say how it drives."""
    return [name for name in read_manifest(agent)["files"] if name.endswith(".yaml") and name != "config.yaml"]


def _card(
    config: RefineConfig, states: RefineStates, agent: Path, critic_model: Path | None, updates: int, name: str
) -> str:
    """The refined agent's own model card."""
    critic = config.critic.value
    if critic_model is not None:
        about = load_risk_model(critic_model)[1]
        critic += f": a risk model of arm {about.get('arm')}, {about.get('updates')} updates (docs/counterfactual.md)"
    return CARD.format(
        name=name,
        agent=agent.name,
        created_by=CREATED_BY,
        critic=critic,
        states=len(states.truths),
        episodes=states.episodes,
        towns=", ".join(states.towns),
        updates=updates,
        batch=config.states,
        candidates=config.candidates,
        rate=config.optimizer.learning_rate,
        kl=config.kl,
    )


def _about(states: RefineStates, agent: Path, critic_model: Path | None) -> dict[str, Any]:
    """What the run is about: the same when it is gone on with."""
    hashes = lambda folder: sorted(entry["sha256"] for entry in read_manifest(folder)["files"].values())  # noqa: E731
    return {
        "agent": hashes(agent),
        "critic": [] if critic_model is None else hashes(critic_model),
        "states": len(states.truths),
        "episodes": states.episodes,
        "towns": states.towns,
    }
