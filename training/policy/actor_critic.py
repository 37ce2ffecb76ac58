"""Actor and critic trained on imagined rollouts. Source: Raw2Drive, Appendix E; DreamerV3."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.rssm import LatentState, full_precision, unimix_log_probs
from training.optim import move_towards
from training.policy.config import ActorCriticConfig
from training.policy.imagination import Imagined, IndexedNet, IndexedState, imagination_step, imagine
from training.policy.returns import ReturnScale, lambda_returns, replay_returns, trajectory_weights
from training.world_model.config import WorldModelConfig
from training.world_model.distributions import TwoHot
from training.world_model.layers import initialise, mlp, scale_last
from training.world_model.model import Replayed, WorldModel


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Actor and critic loss, the imagined returns of the starts, and measures for the log."""

    actor: Float[Tensor, ""]
    critic: Float[Tensor, ""]
    start_returns: Float[Tensor, " n"]
    metrics: dict[str, Tensor]


class Heads(Protocol):
    """A world model, as far as it tells rewards and continue flags."""

    two_hot: TwoHot
    reward_head: nn.Sequential
    continue_head: nn.Sequential


class ActorCritic(nn.Module):
    """Categorical policy over the discrete actions, two-hot critic, slow critic and the scale of returns."""

    def __init__(
        self, config: ActorCriticConfig, world: WorldModelConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config, self.world = config, world
        self.imagination_step = imagination_step
        self.two_hot = TwoHot(world.heads.two_hot)
        widths = {"units": config.units, "layers": config.layers}
        self.actor = mlp(world.features, world.rssm.actions, norm=world.norm, **widths)
        self.critic = mlp(world.features, len(self.two_hot.bins), norm=world.norm, **widths)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        low, high = config.return_percentiles
        self.scale = ReturnScale((low, high), config.return_decay, debias=config.return_debias)
        self.reinitialise(generator)

    @torch.no_grad()
    def reinitialise(self, generator: torch.Generator | None = None) -> None:
        """Start afresh: random actor, critic with value 0, forgotten returns. Source: Think2Drive, section 3."""
        for net in (self.actor, self.critic):
            initialise(net, self.world.norm, generator)
            for layer in net.modules():
                if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
                    layer.reset_parameters()
        scale_last(self.actor, self.config.actor_output_scale)
        scale_last(self.critic, 0.0)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.scale.reset()

    def update_slow_critic(self) -> None:
        """Move the slow critic by slow_rate towards the critic."""
        move_towards(self.slow_critic.parameters(), self.critic.parameters(), self.config.slow_rate)

    def log_policy(self, features: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch actions"]:
        """Log-probabilities of the actions in the state."""
        return unimix_log_probs(self.actor(features), self.config.actor_unimix)

    def value(self, features: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch"]:
        """Expected return in the state."""
        return self.two_hot.mean(self.critic(features))

    def starts(
        self, state: LatentState, terminal: Tensor, generator: torch.Generator | None = None
    ) -> tuple[IndexedState, Tensor]:
        """States to imagine from, cut from the graph, and whether the episode went on there (1) or had ended (0)."""
        flat = IndexedState.of(
            LatentState(state.deter.flatten(0, 1), state.stoch.flatten(0, 1)), self.world.rssm.groups
        )
        alive = 1.0 - terminal.flatten().float()
        chosen = self.chosen_starts(alive, generator)
        if chosen is None:
            return flat, alive
        return IndexedState(flat.deter[chosen], flat.index[chosen]), alive[chosen]

    def chosen_starts(
        self, alive: Float[Tensor, " n"], generator: torch.Generator | None
    ) -> Int64[Tensor, " starts"] | None:
        """Which of the replayed states to imagine from; None: from all."""
        count = self.config.starts
        if not 0 < count < alive.shape[0]:
            return None
        return torch.rand(alive.shape, generator=generator, device=alive.device).argsort()[:count]

    def loss(
        self,
        model: WorldModel,
        start: IndexedState,
        start_alive: Float[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> PolicyLoss:
        """Losses on one imagination from the given states; the world model gets no gradient."""
        rollout = imagine(
            model.rssm,
            self.actor,
            start,
            self.config.horizon,
            actor_unimix=self.config.actor_unimix,
            generator=generator,
            step=self.imagination_step,
        )
        reward, continuation = self.predict(model, rollout)
        return self.loss_on(rollout, reward, continuation, start_alive)

    def _indexed(self, net: nn.Sequential) -> IndexedNet:
        return IndexedNet(net, self.world.rssm.deter, self.world.rssm.classes)

    @torch.no_grad()
    def predict(self, model: Heads, rollout: Imagined) -> tuple[Float[Tensor, "h n"], Float[Tensor, "h+1 n"]]:
        """Rewards on arriving at steps 1 .. H, (h, n), and continue flags of steps 0 .. H, (h+1, n)."""
        states, shape = rollout.flat(), rollout.index.shape[:2]
        logits = self._indexed(model.reward_head)(states)
        reward = model.two_hot.mean(logits).unflatten(0, shape)[1:]
        logit = self._indexed(model.continue_head)(states)[..., 0]
        logit = full_precision(logit).unflatten(0, shape)
        return reward, (logit > 0.0).float() if self.config.continue_value == "mode" else logit.sigmoid()

    def loss_on(
        self,
        rollout: Imagined,
        reward: Float[Tensor, "h n"],
        continuation: Float[Tensor, "h+1 n"],
        start_alive: Float[Tensor, " n"],
    ) -> PolicyLoss:
        """Actor and critic loss of a rollout with given rewards and continue flags.

        Actor: -mean w_t (sg(A_t) ln pi(a_t) + eta H(pi)), A = (R - v) / max(1, S). Critic: mean w_t (NLL(R_t) +
        NLL(slow critic)). Source: Raw2Drive, Appendix E, equations 3 and 4, weighted as in DreamerV3.
        """
        config, horizon = self.config, reward.shape[0]
        gamma = 1.0 if self.world.discount.in_continue else self.world.discount.gamma
        before = rollout.deter[:-1].flatten(0, 1), rollout.index[:-1].flatten(0, 1)
        states, final = IndexedState(*before), IndexedState(rollout.deter[-1], rollout.index[-1])
        critic_net = self._indexed(self.critic)
        value_logits = full_precision(critic_net(states))
        with torch.no_grad():
            value = self.two_hot.mean(value_logits).unflatten(0, (horizon, -1))
            slow_value = self.two_hot.mean(self._indexed(self.slow_critic)(states))
            ahead = torch.cat([value[1:], self.two_hot.mean(critic_net(final))[None]])
            discount = gamma * continuation[1:]
            returns = lambda_returns(reward, discount, ahead, config.lam)
            first = start_alive if config.true_first_continue else continuation[0]
            weight = trajectory_weights(first, discount)
            scale = self.scale.update(returns)
            advantage = (returns - value) / scale
        log_policy = unimix_log_probs(self._indexed(self.actor)(states), config.actor_unimix)
        log_policy = log_policy.unflatten(0, (horizon, -1))
        chosen = log_policy.gather(-1, rollout.action[..., None])[..., 0]
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        actor = -(weight * (advantage * chosen + config.entropy * entropy)).mean()
        fit = self.two_hot.loss(value_logits, returns.flatten())
        anchor = self.two_hot.loss(value_logits, slow_value)
        critic = (weight.flatten() * (fit + config.slow_weight * anchor)).mean()
        metrics = {
            "return": returns.mean(),
            "return_scale": scale,
            "value": value.mean(),
            "advantage_std": advantage.std(),
            "entropy": entropy.detach().mean(),
            "imagined_reward": reward.mean(),
            "imagined_continue": continuation[1:].mean(),
            "weight": weight.mean(),
        }
        return PolicyLoss(actor, critic, returns[0], metrics)

    def imitation_loss(
        self, features: Float[Tensor, "b t f"], expert_action: Int64[Tensor, "b t"] | None
    ) -> Float[Tensor, ""]:
        """Cross-entropy to the expert's actions, the mean over the states that have one; 0 without any."""
        if expert_action is None:
            return features.new_zeros(())
        known = (expert_action >= 0).float()
        chosen = self.log_policy(features).gather(-1, expert_action.clamp(min=0)[..., None])[..., 0]
        return -(known * chosen).sum() / known.sum().clamp(min=1.0)

    def replay_loss(
        self, features: Float[Tensor, "b t f"], batch: Replayed, start_returns: Float[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """Critic's loss on replayed states; the gradient reaches the features. Source: Hafner et al. 2025.

        start_returns: imagined return of every replayed state, the bootstrap of the returns.
        """
        logits = full_precision(self.critic(features[:, :-1]))
        with torch.no_grad():
            returns = replay_returns(
                batch.reward.t(),
                batch.terminal.t(),
                batch.last.t(),
                start_returns.t(),
                self.world.discount.gamma,
                self.config.lam,
            ).t()
            slow = self.two_hot.mean(self.slow_critic(features[:, :-1]))
            weight = 1.0 - batch.last[:, :-1].float()
        fit = self.two_hot.loss(logits, returns) + self.config.slow_weight * self.two_hot.loss(logits, slow)
        return (weight * fit).mean()
