"""One update of the raw stage: the raw world model under guidance, then actor and critic in dual imagination."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.model.rssm import LatentState
from training.distributed import ALONE, Ranks
from training.learner import BaseLearner, detached, policy_metrics
from training.optim import Stepper
from training.policy.actor_critic import ActorCritic
from training.privileged.checkpoint import PrivilegedModel
from training.raw.config import RawConfig
from training.raw.guidance import distillation
from training.raw.imagination import DualImagined, DualStart, imagine_both
from training.raw.model import RawLoss, RawWorldModel
from training.raw.streams import Streams, apart, likeliest, side_by_side
from training.world_model.model import Replayed, WorldModel


class RawLearner(BaseLearner):
    """Raw world model, raw policy and their optimisers, guided by a privileged model that stays as it is."""

    model: RawWorldModel

    def __init__(
        self,
        config: RawConfig,
        teacher: PrivilegedModel,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        """teacher: its weights are kept here and not in checkpoints; they get no gradient."""
        self.config = config
        weights = torch.Generator().manual_seed(seed)
        self.teacher: WorldModel = teacher.world_model.requires_grad_(False).to(device)
        self.teacher_policy: ActorCritic = teacher.policy.requires_grad_(False).to(device)
        model = RawWorldModel(config, weights)
        model.begin_with(teacher.world_model)
        policy = ActorCritic(config.policy, config.world_model, weights)
        if config.policy_start == "copy":
            policy.load_state_dict(teacher.policy.state_dict())
        model, policy = model.to(device), policy.to(device)
        steppers = {
            "model": Stepper(config.model_optimizer, (p for p in model.parameters() if p.requires_grad)),
            "actor": Stepper(config.policy_optimizer, policy.actor.parameters()),
            "critic": Stepper(config.policy_optimizer, policy.critic.parameters()),
        }
        super().__init__(model, policy, steppers, torch.Generator(device).manual_seed(ranks.seed(seed)), ranks)

    @property
    def judge(self) -> WorldModel:
        """Whose heads tell rewards and endings."""
        return self.teacher

    def update(self, batch: Replayed) -> tuple[dict[str, Tensor], LatentState]:
        """One update; gives its metrics and both streams' filtered states (b, t), side by side."""
        with self.undone_by_errors():
            metrics, streams = self._update_model(batch)
            if self.config.fine_tuned:
                for _ in range(self.config.tricks.ratio(self.updates)):
                    metrics |= self.update_policy(streams, batch.terminal)
        self.updates += 1
        return metrics, side_by_side(streams)

    def judged(self, state: LatentState) -> LatentState:
        """The privileged half of filtered states."""
        return apart(state)[1]

    def _update_model(self, batch: Replayed) -> tuple[dict[str, Tensor], Streams]:
        self.steppers["model"].zero_grad()
        loss = self.model.loss(self.teacher, batch, self.teacher_policy, generator=self.generator)
        loss.total.backward()
        norm = self.apply(("model",), loss.total)
        return detached(loss.terms) | {"model_gradient_norm": norm}, loss.streams

    def update_policy(self, streams: Streams, terminal: Tensor) -> dict[str, Tensor]:
        """One actor-critic update on a fresh dual imagination from the replayed states; both world models are kept."""
        for name in ("actor", "critic"):
            self.steppers[name].zero_grad()
        rollout, alive = self.imagine(streams, terminal)
        if self.config.heads.guidance:
            reward, continuation = self.policy.predict(self.teacher, rollout.privileged)
        else:
            reward, continuation = self.policy.predict(_OwnHeads(self.model), rollout.raw)
        loss = self.policy.loss_on(rollout.raw, reward, continuation, alive)
        weight = self.config.distillation.weight_at(self.updates)
        imitation = self.distillation(streams, rollout)
        actor = loss.actor + weight * imitation
        (actor + loss.critic).backward()
        self.apply(("actor", "critic"), actor, loss.critic)
        self.policy.update_slow_critic()
        drift = (rollout.raw.deter[-1] - rollout.privileged.deter[-1]).square().mean()
        return policy_metrics(loss) | {"distillation": imitation.detach(), "imagined_drift": drift}

    def imagine(self, streams: Streams, terminal: Tensor) -> tuple[DualImagined, Float[Tensor, " n"]]:
        """Roll out from the replayed states, and whether the episode went on there (1) or had ended (0)."""
        raw, privileged = streams.raw.state, streams.privileged.state
        groups, classes = self.config.world_model.rssm.groups, self.config.world_model.rssm.classes
        index = raw.stoch.detach().flatten(0, 1).unflatten(-1, (groups, classes)).argmax(-1)
        start = DualStart(raw.deter.detach().flatten(0, 1), privileged.deter.flatten(0, 1), index)
        alive = 1.0 - terminal.flatten().float()
        chosen = self.policy.chosen_starts(alive, self.generator)
        if chosen is not None:
            start = DualStart(start.raw[chosen], start.privileged[chosen], start.index[chosen])
            alive = alive[chosen]
        rollout = imagine_both(
            self.model.recurrence(self.teacher),
            self.teacher.rssm,
            self.policy.actor,
            start,
            self.config.policy.horizon,
            actor_unimix=self.config.policy.actor_unimix,
            generator=self.generator,
        )
        return rollout, alive

    def distillation(self, streams: Streams, rollout: DualImagined) -> Float[Tensor, ""]:
        """KL(pi || pi^) on replayed and imagined states by their shares; the raw states get no gradient."""
        config, classes = self.config.distillation, self.config.world_model.rssm.classes
        share = config.imagined
        total = streams.raw.state.deter.new_zeros(())
        if share < 1.0:
            raw = self.policy.log_policy(streams.raw.state.detach().features())
            with torch.no_grad():
                known = streams.privileged
                states = likeliest(known) if config.target == "posterior" else known.state
                target = self.teacher_policy.log_policy(states.features())
            total = total + (1.0 - share) * distillation(raw, target).mean()
        if share > 0.0:
            raw = self.policy.log_policy(rollout.raw.flat().features(classes))
            with torch.no_grad():
                target = self.teacher_policy.log_policy(rollout.privileged.flat().features(classes))
            total = total + share * distillation(raw, target).mean()
        return total

    def rehearse(self, batch: Replayed) -> None:
        """Go through an update's forward and backward passes and change nothing: shows whether they fit into memory."""
        state = self.generator.get_state()
        scale = {name: value.clone() for name, value in self.policy.scale.state_dict().items()}
        moments = [torch.zeros_like(p) for s in self.steppers.values() for p in s.parameters_without_moments() * 2]
        try:
            loss: RawLoss = self.model.loss(self.teacher, batch, self.teacher_policy, generator=self.generator)
            loss.total.backward()
        finally:
            del moments
            self.forget_update(scale)
            self.generator.set_state(state)


class _OwnHeads:
    """Reward and continue head of the raw world model."""

    def __init__(self, model: RawWorldModel) -> None:
        assert model.reward_head is not None and model.continue_head is not None  # RawHeadConfig demands it
        self.two_hot, self.reward_head, self.continue_head = model.two_hot, model.reward_head, model.continue_head
