"""One update of the privileged stage: world model, then actor and critic inside it, with Think2Drive's tricks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from agent.checkpoint import check_state
from agent.model.rssm import Belief, LatentState
from training.compiled import compile_steps
from training.distributed import ALONE, Ranks
from training.optim import Stepper
from training.policy.actor_critic import ActorCritic, PolicyLoss
from training.presets import PrivilegedConfig
from training.world_model.model import Replayed, WorldModel


class NonFiniteUpdateError(RuntimeError):
    """An update with a loss or gradient that is not finite; nothing was changed by it."""


class BaseLearner(ABC):
    """A model, a policy and their optimisers: taking steps together or not at all, saving and restoring.

    The metrics of an update stay tensors on the device, so that an update does not wait for it.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: ActorCritic,
        steppers: dict[str, Stepper],
        generator: torch.Generator,
        ranks: Ranks,
    ) -> None:
        self.model, self.policy, self.steppers = model, policy, steppers
        self.generator, self.ranks = generator, ranks
        self.policy.scale.ranks = ranks
        self.updates = 0

    @property
    @abstractmethod
    def judge(self) -> WorldModel:
        """Whose heads tell rewards and endings."""

    @abstractmethod
    def update(self, batch: Replayed) -> tuple[dict[str, Tensor], LatentState]:
        """One update; gives its metrics and the filtered states (b, t), which the replay may keep for carry-over."""

    def judged(self, state: LatentState) -> LatentState:
        """What of filtered states `judge` judges."""
        return state

    @abstractmethod
    def rehearse(self, batch: Replayed) -> None:
        """Go through an update's forward and backward passes and change nothing: shows whether they fit into memory."""

    @contextlib.contextmanager
    def undone_by_errors(self) -> Iterator[None]:
        """Forgets what a failed update has left besides weights: gradients, and its returns in their scale."""
        scale = {name: value.clone() for name, value in self.policy.scale.state_dict().items()}
        try:
            yield
        except RuntimeError:
            self.forget_update(scale)
            raise

    def forget_update(self, scale: Mapping[str, Tensor]) -> None:
        """Drop gradients, and set the scale of returns back to `scale`."""
        self.policy.scale.load_state_dict(scale)
        for stepper in self.steppers.values():
            stepper.zero_grad()

    def apply(self, names: Sequence[str], *losses: Tensor) -> Tensor:
        """Let optimisers take a step, all or none; gives the first one's gradient norm.

        Raises: NonFiniteUpdateError before any weight changes.
        """
        for name in names:
            self.ranks.average_gradients(self.steppers[name].parameters)
        norms = [self.steppers[name].gradient_norm() for name in names]
        values = self.ranks.mean(torch.stack([*norms, *(loss.detach() for loss in losses)]))  # all judge alike
        if not bool(torch.isfinite(values).all()):
            shown = ", ".join(f"{float(value):g}" for value in values)
            raise NonFiniteUpdateError(f"gradient norms of {', '.join(names)} and losses: {shown}")
        for name, norm in zip(names, norms, strict=True):
            self.steppers[name].step(norm)
        return norms[0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name, for a checkpoint."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        for name, stepper in self.steppers.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in stepper.tensors().items()}
        return tensors | {"updates": torch.tensor(self.updates), "generator": self.generator.get_state()}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from `tensors`. Raises: CheckpointError naming `where` for missing, unknown or misshapen entries."""
        modules: dict[str, nn.Module] = {"model.": self.model, "policy.": self.policy}
        for prefix, module in modules.items():
            part = _part(tensors, prefix)
            check_state(module.state_dict(), part, where)
            module.load_state_dict(part)
        for name, stepper in self.steppers.items():
            stepper.load(_part(tensors, f"optimizer.{name}."))
        self.updates = int(tensors["updates"])
        if self.ranks.leads:
            self.generator.set_state(tensors["generator"])
        else:  # only the first one's is saved
            self.generator.manual_seed(self.ranks.seed(self.generator.initial_seed(), self.updates))


class Learner(BaseLearner):
    """World model, policy and optimisers of the privileged stage."""

    model: WorldModel

    def __init__(
        self,
        config: PrivilegedConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
        compiled: bool = False,
    ) -> None:
        """seed: the same for all of several learners, which start with the same weights and draw noise of their own.

        compiled: whether the recurrent steps are compiled. Raises: ConfigError where they cannot be.
        """
        self.config = config
        weights = torch.Generator().manual_seed(seed)
        model = WorldModel(config.world_model, weights).to(device)
        policy = ActorCritic(config.policy, config.world_model, weights).to(device)
        if compiled:
            compile_steps(model, policy, device)
        actor, critic = list(policy.actor.parameters()), list(policy.critic.parameters())
        if config.joint:
            steppers = {"model": Stepper(config.model_optimizer, [*model.parameters(), *actor, *critic])}
        else:
            steppers = {
                "model": Stepper(config.model_optimizer, model.parameters()),
                "actor": Stepper(config.policy_optimizer, actor),
                "critic": Stepper(config.policy_optimizer, critic),
            }
        super().__init__(model, policy, steppers, torch.Generator(device).manual_seed(ranks.seed(seed)), ranks)

    @property
    def judge(self) -> WorldModel:
        """Whose heads tell rewards and endings."""
        return self.model

    def update(self, batch: Replayed) -> tuple[dict[str, Tensor], LatentState]:
        """One update; gives its metrics and the filtered states (b, t), which the replay may keep for carry-over."""
        if self.updates in self.config.tricks.planner_resets:
            self.reset_planner()
        with self.undone_by_errors():
            metrics, belief = self._update_jointly(batch) if self.config.joint else self._update_model(batch)
            state = belief.state.detach()
            together = 1 if self.config.joint else 0
            for _ in range(self.config.tricks.ratio(self.updates) - together):
                metrics |= self.update_policy(state, batch.terminal, batch.expert_action)
        self.updates += 1
        return metrics, state

    def rehearse(self, batch: Replayed) -> None:
        """Go through an update's forward and backward passes and change nothing: shows whether they fit into memory."""
        state = self.generator.get_state()
        scale = {name: value.clone() for name, value in self.policy.scale.state_dict().items()}
        moments = [torch.zeros_like(p) for s in self.steppers.values() for p in s.parameters_without_moments() * 2]
        try:
            model = self.model.loss(batch, generator=self.generator)
            if not self.config.joint:
                model.total.backward()
            policy = self._imagine(
                model.belief.state if self.config.joint else model.belief.state.detach(), batch.terminal
            )
            planner = policy.actor + policy.critic
            (model.total + planner if self.config.joint else planner).backward()
        finally:
            del moments
            self.forget_update(scale)
            self.generator.set_state(state)

    def _update_model(self, batch: Replayed) -> tuple[dict[str, Tensor], Belief]:
        stepper = self.steppers["model"]
        stepper.zero_grad()
        loss = self.model.loss(batch, generator=self.generator)
        total, imitation = loss.total, self.config.imitation
        if imitation.model_weight:
            shaping = self.policy.imitation_loss(loss.belief.state.features(), batch.expert_action)
            total = total + imitation.model_weight * imitation.weight_at(self.updates) * shaping
        total.backward()
        norm = self.apply(("model",), total)
        return detached(loss.terms) | {"model_gradient_norm": norm}, loss.belief

    def update_policy(
        self, state: LatentState, terminal: Tensor, expert_action: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One actor-critic update on a fresh imagination from the replayed states; the world model is kept.

        expert_action: (b, t), for `config.imitation`.
        """
        loss = self._imagine(state, terminal)
        names = ("model",) if self.config.joint else ("actor", "critic")
        for name in names:
            self.steppers[name].zero_grad()
        actor, metrics = self._actor_loss(loss, state, expert_action)
        (actor + loss.critic).backward()
        self.apply(names, actor, loss.critic)
        self.policy.update_slow_critic()
        return policy_metrics(loss) | metrics

    def _actor_loss(
        self, loss: PolicyLoss, state: LatentState, expert_action: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Reinforcement and imitation with their weights, and the latter for the log."""
        imitation = self.config.imitation
        if not imitation.used:
            return loss.actor, {}
        cloning = self.policy.imitation_loss(state.features(), expert_action)
        reinforcement = 0.0 if self.updates < imitation.alone_updates else 1.0
        total = reinforcement * loss.actor + imitation.weight_at(self.updates) * cloning
        return total, {"imitation": cloning.detach()}

    def _update_jointly(self, batch: Replayed) -> tuple[dict[str, Tensor], Belief]:
        stepper = self.steppers["model"]
        stepper.zero_grad()
        model = self.model.loss(batch, generator=self.generator)
        policy = self._imagine(model.belief.state, batch.terminal)
        imitated = model.belief.state if self.config.imitation.model_weight else model.belief.state.detach()
        actor, cloned = self._actor_loss(policy, imitated, batch.expert_action)
        total = model.total + actor + policy.critic
        metrics = detached(model.terms) | policy_metrics(policy) | cloned
        if self.config.policy.replay_critic:
            returns = policy.start_returns.unflatten(0, batch.first.shape)
            replay = self.policy.replay_loss(model.belief.state.features(), batch, returns)
            total = total + self.config.policy.replay_critic * replay
            metrics["replay_critic"] = replay.detach()
        total.backward()
        metrics["model_gradient_norm"] = self.apply(("model",), total)
        self.policy.update_slow_critic()
        return metrics, model.belief

    def _imagine(self, state: LatentState, terminal: Tensor) -> PolicyLoss:
        start, alive = self.policy.starts(state, terminal, self.generator)
        return self.policy.loss(self.model, start, alive, self.generator)

    def reset_planner(self) -> None:
        """Actor, critic and their moments start afresh; the world model is kept. Source: Think2Drive, section 3."""
        device = self.generator.device
        seed = int(torch.randint(2**31, (1,), generator=self.generator, device=device))  # a resumed run draws the same
        fresh = ActorCritic(self.config.policy, self.config.world_model, torch.Generator().manual_seed(seed))
        self.policy.load_state_dict(fresh.to(device).state_dict())
        self.ranks.copy_first(self.policy.state_dict().values())
        planner = [*self.policy.actor.parameters(), *self.policy.critic.parameters()]
        for stepper in self.steppers.values():
            stepper.forget(planner)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss terms for the log."""
    return {name: value.detach() for name, value in terms.items()}


def policy_metrics(loss: PolicyLoss) -> dict[str, Tensor]:
    """Both losses and their measures for the log."""
    return detached({"actor": loss.actor, "critic": loss.critic}) | loss.metrics
