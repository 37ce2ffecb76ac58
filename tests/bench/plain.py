"""A plain DreamerV3 (2023) update with the operations of the usual PyTorch ports, on the parameters of our modules.

The yardstick of `python -m training bench` and of the gradient parity test: operation by operation the update of
NM512/dreamerv3-torch for discrete actions. Masks are uint8 images turned into floats, feature maps are channels-first
with a permutation around every norm, the recurrence concatenates its inputs and grows its outputs step by step and
samples the prior nobody reads, distributions are objects that check their arguments, the two-hot loss is a full
product, imagination keeps its graph and all its states, nets run once per use, and every update takes statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as torchd

from training.bev import unpack
from training.learner import Learner
from training.world_model.decoder import StridedDecoder
from training.world_model.encoder import StridedEncoder
from training.world_model.model import Replayed, WorldModel

State = dict[str, Tensor]
SHIFT = 0.0
"""Taken from the image in front of the encoder and added behind the decoder. The ports do so with 0.5; with 0 the
operations are theirs and the numbers ours."""


def mask_arrays(batch: Replayed, channels: int) -> np.ndarray:
    """(b, t, h, w, channels) uint8, 0 or 255: how a usual replay holds images."""
    masks = unpack(batch.words.numpy().astype(np.uint64), range(channels))
    return np.ascontiguousarray(np.moveaxis(masks, 0, -1)) * np.uint8(255)


def statistics(x: Tensor) -> list[np.ndarray]:
    """What a port logs of a tensor."""
    return [number.detach().numpy() for number in (x.mean(), x.std(), x.min(), x.max())]


class OneHot(torchd.OneHotCategorical):
    """One-hot categorical with a share of the uniform distribution and straight-through samples."""

    def __init__(self, logits: Tensor, unimix: float) -> None:
        probs = F.softmax(logits, -1) * (1.0 - unimix) + unimix / logits.shape[-1]
        super().__init__(logits=torch.log(probs))

    def straight(self, mode: bool) -> Tensor:
        """Sample or mode with the gradient of the probabilities."""
        one_hot = F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits) if mode else self.sample()
        return one_hot.detach() + (self.probs - self.probs.detach())


def scan(step: Callable[..., tuple[State, ...]], inputs: tuple[Tensor, ...], length: int) -> list[State]:
    """Run step(*inputs[t]) over time; every output grows by concatenation."""
    outputs: list[State] = []
    for t in range(length):
        results = step(*(x[t] for x in inputs))
        if not outputs:
            outputs = [{name: value.clone()[None] for name, value in result.items()} for result in results]
        else:
            outputs = [
                {name: torch.cat([grown[name], value[None]]) for name, value in result.items()}
                for grown, result in zip(outputs, results, strict=True)
            ]
    return outputs


class PlainWorldModel:
    """The world model's loss in plain operations, on the parameters of a WorldModel of the 2023 recipe."""

    def __init__(self, model: WorldModel) -> None:
        self.model, self.config = model, model.config
        self.rssm = model.rssm

    def loss(self, masks: np.ndarray, batch: Replayed, *, mode: bool = False) -> tuple[Tensor, tuple[State, State]]:
        """Total loss, posterior and prior states (t, b); mode: the mode of the posterior instead of samples."""
        image = torch.tensor(masks, dtype=torch.get_default_dtype()) / 255.0
        actions = F.one_hot(batch.previous_action, self.config.rssm.actions).float()
        first = batch.first.float().clone()
        first[:, 0] = 1.0
        embed = self.encode(image)
        posterior, prior = self.observe(embed, actions, first, mode)
        features = self.features(posterior).transpose(0, 1)
        reconstruction = ((self.decode(features) - image) ** 2).sum((2, 3, 4))
        reward = self.two_hot_loss(self.model.reward_head(features), batch.reward)
        continuation = torchd.Bernoulli(logits=self.model.continue_head(features)[..., 0])
        alive = 1.0 - batch.terminal.float()
        free, distribution = self.config.rssm.free_nats, self.distribution
        held = {name: {k: v.detach() for k, v in state.items()} for name, state in (("q", posterior), ("p", prior))}
        dynamics = torchd.kl_divergence(distribution(held["q"]), distribution(prior)).clip(min=free).mean()
        representation = torchd.kl_divergence(distribution(posterior), distribution(held["p"])).clip(min=free).mean()
        weights = self.config.loss
        total = (
            reconstruction.mean()
            + reward.mean()
            - continuation.log_prob(alive).mean()
            + weights.dynamics * dynamics
            + weights.representation * representation
        )
        return total, (posterior, prior)

    def encode(self, image: Tensor) -> Tensor:
        """(b, t, h, w, c) to (b, t, e)."""
        x = torch.cat([image], -1)
        x -= SHIFT
        x = x.reshape(-1, *image.shape[2:]).permute(0, 3, 1, 2)
        encoder = self.model.encoder.masks
        assert isinstance(encoder, StridedEncoder)
        for layer in encoder.layers:
            x = F.conv2d(F.pad(x, [1, 1, 1, 1]), layer.conv.weight, stride=2)
            x = F.silu(layer.act.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return x.permute(0, 2, 3, 1).reshape(*image.shape[:2], -1)

    def decode(self, features: Tensor) -> Tensor:
        """(b, t, f) to (b, t, h, w, c)."""
        decoder = self.model.decoder.masks
        assert isinstance(decoder, StridedDecoder)
        x = decoder.space(features).reshape(-1, 4, 4, decoder.width).permute(0, 3, 1, 2)
        for layer in decoder.layers:
            x = layer.conv(x)
            x = F.silu(layer.act.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = decoder.out.conv(x)
        x = x.reshape(*features.shape[:2], *x.shape[1:]).permute(0, 1, 3, 4, 2)
        x += SHIFT
        return x

    def observe(self, embed: Tensor, actions: Tensor, first: Tensor, mode: bool) -> tuple[State, State]:
        """Posterior and prior states, time first."""
        state = self.initial(embed.shape[0])

        def step(action: Tensor, e: Tensor, reset: Tensor) -> tuple[State, State]:
            nonlocal state
            if reset.sum() > 0:
                action = action * (1.0 - reset[:, None])
                start = self.initial(len(reset))
                state = {
                    name: value * (1.0 - reset.reshape(-1, *[1] * (value.ndim - 1)))
                    + start[name] * reset.reshape(-1, *[1] * (value.ndim - 1))
                    for name, value in state.items()
                }
            prior = self.imagine_step(state, action, mode)
            logit = self.rssm.posterior_head(torch.cat([prior["deter"], e], -1))
            state = self.with_sample(prior["deter"], logit, mode)
            return state, prior

        swap = lambda x: x.transpose(0, 1)  # noqa: E731
        posterior, prior = scan(step, (swap(actions), swap(embed), swap(first)), embed.shape[1])
        return posterior, prior

    def initial(self, batch: int) -> State:
        """Learned start."""
        deter = torch.tanh(self.rssm.initial_deter).repeat(batch, 1)
        return self.with_sample(deter, self.rssm.prior_head(deter), True)

    def imagine_step(self, state: State, action: Tensor, mode: bool = False) -> State:
        """Prior state after an action."""
        x = torch.cat([state["stoch"].flatten(1), action], -1)
        for layer in self.rssm.input:
            x = layer(x)
        deter = self.rssm.cell(x, state["deter"])
        return self.with_sample(deter, self.rssm.prior_head(deter), mode)

    def with_sample(self, deter: Tensor, logit: Tensor, mode: bool) -> State:
        """A state with z drawn from the logits."""
        logit = logit.unflatten(-1, (self.config.rssm.groups, self.config.rssm.classes))
        return {"deter": deter, "logit": logit, "stoch": OneHot(logit, self.config.rssm.unimix).straight(mode)}

    def distribution(self, state: State) -> torchd.Independent:
        """Of z."""
        return torchd.Independent(OneHot(state["logit"], self.config.rssm.unimix), 1)

    @staticmethod
    def features(state: State) -> Tensor:
        """[h, z]."""
        return torch.cat([state["deter"], state["stoch"].flatten(-2)], -1)

    def two_hot_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of a dense two-hot target."""
        bins = self.model.two_hot.bins
        y = torch.sign(target) * torch.log1p(torch.abs(target))
        below = (bins <= y[..., None]).sum(-1) - 1
        above = len(bins) - (bins > y[..., None]).sum(-1)
        below, above = below.clip(0, len(bins) - 1), above.clip(0, len(bins) - 1)
        equal = below == above
        to_below = torch.where(equal, torch.ones_like(y), torch.abs(bins[below] - y))
        to_above = torch.where(equal, torch.ones_like(y), torch.abs(bins[above] - y))
        share = (to_above / (to_below + to_above))[..., None], (to_below / (to_below + to_above))[..., None]
        dense = F.one_hot(below, len(bins)) * share[0] + F.one_hot(above, len(bins)) * share[1]
        return -(dense * (logits - torch.logsumexp(logits, -1, keepdim=True))).sum(-1)


class PlainLearner:
    """A whole plain update: world model, actor and critic with three optimisers, on a Learner's parameters."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.plain = PlainWorldModel(learner.model)
        model, policy = learner.config.model_optimizer, learner.config.policy_optimizer
        modules = {"model": learner.model, "actor": learner.policy.actor, "critic": learner.policy.critic}
        self.modules: dict[str, nn.Module] = modules
        self.optimizers = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=(model if name == "model" else policy).learning_rate,
                eps=(model if name == "model" else policy).epsilon,
                weight_decay=0.0,
                foreach=False,
            )
            for name, module in modules.items()
        }
        self.averages = torch.zeros(2)

    def update(self, masks: np.ndarray, batch: Replayed) -> dict[str, float]:
        """One update; metrics are converted to numbers at once."""
        total, (posterior, prior) = self.plain.loss(masks, batch)
        self.apply("model", total, 1000.0)
        entropies = [self.plain.distribution(each).entropy().mean() for each in (prior, posterior)]
        self.plain.distribution(posterior).entropy()  # a port hands it on to explorers, read or not
        state = {name: value.detach().flatten(0, 1) for name, value in posterior.items()}
        metrics = self.behave(state)
        entropy = {name: float(x.detach()) for name, x in zip(("prior", "posterior"), entropies, strict=True)}
        return metrics | entropy | {"model": float(total.detach())}

    def apply(self, name: str, loss: Tensor, clip: float) -> None:
        """One optimiser step."""
        self.optimizers[name].zero_grad()
        loss.backward(retain_graph=True)
        nn.utils.clip_grad_norm_(self.modules[name].parameters(), clip)
        self.optimizers[name].step()

    def behave(self, state: State) -> dict[str, float]:
        """Imagination with its graph, actor and critic losses and their steps."""
        self.learner.model.requires_grad_(False)
        states, rollout = self.imagine(state)
        actor, critic = self.losses(**rollout, told=lambda: self.plain.features(states))
        metrics = self.step(actor, critic)
        self.learner.model.requires_grad_(True)
        return metrics

    def imagine(self, state: State) -> tuple[State, State]:
        """All states, and features (h+1, n, f) with one-hot actions (h+1, n, a); the graph runs through all steps."""
        policy, config, plain = self.learner.policy, self.learner.config.policy, self.plain
        start = state

        def step(_: Tensor) -> tuple[State, State]:
            nonlocal state
            features = plain.features(state)
            action = OneHot(policy.actor(features.detach()), config.actor_unimix).straight(False)
            state = plain.imagine_step(state, action)
            return state, {"features": features, "action": action}

        following, rollout = scan(step, (torch.arange(config.horizon + 1),), config.horizon + 1)
        states = {name: torch.cat([start[name][None], value[:-1]]) for name, value in following.items()}
        plain.distribution(states).entropy()
        return states, rollout

    def losses(
        self, features: Tensor, action: Tensor, told: Callable[[], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actor's and critic's loss on an imagination.

        Continue flags are probabilities and every start weighs 1. Where `features` have a graph, the actor's gradient
        also runs through the dynamics, as in the ports, which also put the features together anew for either head
        (told).
        """
        policy, config = self.learner.policy, self.learner.config.policy
        model, plain = self.learner.model, self.plain
        told = told or (lambda: features)
        bins = model.two_hot.bins
        expect = lambda logits: torch.sign(x := (logits.softmax(-1) * bins).sum(-1)) * torch.expm1(torch.abs(x))  # noqa: E731
        reward = expect(model.reward_head(told()))
        entropy = OneHot(policy.actor(features), config.actor_unimix).entropy()
        discount = self.learner.config.world_model.discount.gamma * torch.sigmoid(model.continue_head(told())[..., 0])
        value = expect(policy.critic(features))
        target = self.returns(reward, discount, value)
        weight = torch.cumprod(torch.cat([torch.ones_like(discount[:1]), discount[1:-1]]), 0).detach()
        distribution = OneHot(policy.actor(features.detach()), config.actor_unimix)
        quantiles = torch.quantile(target.detach().flatten(), torch.tensor([0.05, 0.95]))
        self.averages = 0.01 * quantiles + 0.99 * self.averages
        scale = torch.clip(self.averages[1] - self.averages[0], min=1.0)
        normed = (target - self.averages[0]) / scale, (value[:-1] - self.averages[0]) / scale
        logged = statistics(normed[0])
        advantage = ((target - expect(policy.critic(features[:-1]))) / scale).detach()
        objective = advantage * distribution.log_prob(action)[:-1] + config.entropy * entropy[:-1]
        actor = -(weight * objective).mean()
        logits = policy.critic(features[:-1].detach())
        slow = expect(policy.slow_critic(features[:-1].detach())).detach()
        critic = plain.two_hot_loss(logits, target.detach()) + plain.two_hot_loss(logits, slow)
        for tensor in (expect(logits), target, reward, action.argmax(-1).float()):
            logged += statistics(tensor)
        return actor, (weight * critic).mean()

    def step(self, actor: Tensor, critic: Tensor) -> dict[str, float]:
        """Both optimisers' steps and the slow critic's."""
        policy = self.learner.policy
        self.apply("actor", actor, 100.0)
        self.apply("critic", critic, 100.0)
        with torch.no_grad():
            for average, new in zip(policy.slow_critic.parameters(), policy.critic.parameters(), strict=True):
                average.copy_(0.98 * average + 0.02 * new)
        return {"actor": float(actor.detach()), "critic": float(critic.detach())}

    def returns(self, reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
        """Lambda returns of all steps but the last."""
        lam, following, returns = self.learner.config.policy.lam, value[-1], []
        for t in reversed(range(len(value) - 1)):
            ahead = (1.0 - lam) * value[t + 1] + lam * following
            following = reward[t + 1] + discount[t + 1] * ahead
            returns.append(following)
        return torch.stack(returns[::-1])
