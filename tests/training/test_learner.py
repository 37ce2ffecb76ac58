"""A whole update of the learner: its parts' weights, the slow critic, parity with plain operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from agent.model.rssm import LatentState
from tests.bench.plain import PlainLearner
from tests.training.privileged import debug_config, random_batch
from training.learner import Learner
from training.policy.imagination import Imagined, IndexedState, imagine
from training.presets import RECIPES, PrivilegedConfig, Recipe, TricksConfig
from training.world_model.model import Replayed


def stirred(config: PrivilegedConfig) -> Learner:
    """A learner in float64 whose heads, which start at 0, predict something; the slow critic lags behind."""
    learner = Learner(config)
    learner.model.double()
    learner.policy.double()
    generator = torch.Generator().manual_seed(1)
    for net in (learner.policy.critic, learner.policy.slow_critic, learner.model.reward_head, learner.policy.actor):
        nn.init.normal_(net[-1].weight, std=0.3, generator=generator)
    return learner


def in_float64(batch: Replayed) -> Replayed:
    return batch.map(lambda x: x.double() if x.is_floating_point() else x)


def test_replay_critic_weighs_three_tenths_and_trains_the_world_model() -> None:
    """The gradient of an update minus that of one without it is 0.3 times its own, down to the encoder."""
    config = debug_config("strong")
    config = replace(config, model_optimizer=replace(config.model_optimizer, adaptive_clip=None))
    batch = in_float64(random_batch(config, 2, 6))
    gradients: list[list[Tensor]] = []
    for weight in (config.policy.replay_critic, 0.0):
        learner = stirred(replace(config, policy=replace(config.policy, replay_critic=weight)))
        learner.update(batch)
        gradients.append([p.grad for p in learner.steppers["model"].parameters if p.grad is not None])

    learner = stirred(config)
    named = dict(learner.model.named_parameters()) | dict(learner.policy.critic.named_parameters(prefix="critic"))
    belief = learner.model.observe(batch, generator=learner.generator)
    start, alive = learner.policy.starts(belief.state, batch.terminal)
    returns = learner.policy.loss(learner.model, start, alive, learner.generator).start_returns
    replay = learner.policy.replay_loss(belief.state.features(), batch, returns.unflatten(0, batch.first.shape))
    own = torch.autograd.grad(replay, list(named.values()), allow_unused=True)
    by_id = {id(p): k for k, p in enumerate(learner.steppers["model"].parameters)}
    for (name, parameter), gradient in zip(named.items(), own, strict=True):
        k = by_id[id(parameter)]
        expected = torch.zeros_like(parameter) if gradient is None else 0.3 * gradient
        torch.testing.assert_close(gradients[0][k] - gradients[1][k], expected, rtol=1e-6, atol=1e-9, msg=name)
    touched = {name for (name, _), gradient in zip(named.items(), own, strict=True) if gradient is not None}
    assert any(name.startswith("encoder.") for name in touched) and any(name.startswith("rssm.") for name in touched)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("ratio", [1, 2])
def test_the_slow_critic_follows_at_every_update(recipe: Recipe, ratio: int) -> None:
    """0.98 of itself and 0.02 of the critic, once for each step of the critic."""
    config = replace(debug_config(recipe), tricks=TricksConfig(planner_ratio=ratio))
    learner = stirred(config)
    batch = in_float64(random_batch(config, 2, 5))
    slow = {name: value.clone() for name, value in learner.policy.slow_critic.state_dict().items()}
    taken: list[dict[str, Tensor]] = []
    stepper = learner.steppers["model" if config.joint else "critic"]
    step = stepper.step

    def recorded(norm: Tensor | None = None) -> Tensor:
        total = step(norm)
        taken.append({name: value.clone() for name, value in learner.policy.critic.state_dict().items()})
        return total

    stepper.step = recorded  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(2):
        learner.update(batch)
    assert len(taken) == 2 * ratio
    for critic in taken:
        slow = {name: 0.98 * value + 0.02 * critic[name] for name, value in slow.items()}
    for name, value in learner.policy.slow_critic.state_dict().items():
        torch.testing.assert_close(value, slow[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_actor_and_critic_update_equals_the_plain_operations() -> None:
    """On one rollout: both losses, every gradient, and the weights after the optimisers' steps.

    The plain update takes continue flags as probabilities and starts with weight 1, so the exact one is told to. Its
    rollout comes without a graph here: with one, the plain actor's gradient also runs through the dynamics.
    """
    config = debug_config("paper", "strided")
    config = replace(config, policy=replace(config.policy, continue_value="probability", horizon=5))
    exact, other = stirred(config), stirred(config)
    plain = PlainLearner(other)
    classes, groups = config.world_model.rssm.classes, config.world_model.rssm.groups
    generator = torch.Generator().manual_seed(2)
    start = LatentState(
        torch.randn(12, config.world_model.rssm.deter, generator=generator),
        torch.eye(classes)[torch.randint(classes, (12, groups), generator=generator)].flatten(1),
    )
    rollout: Imagined = imagine(
        exact.model.rssm,
        exact.policy.actor,
        IndexedState.of(start, groups),
        config.policy.horizon,
        actor_unimix=config.policy.actor_unimix,
        generator=generator,
    )
    averages = torch.tensor([-300.0, 400.0])  # so that the advantage is scaled
    exact.policy.scale.averages.copy_(averages)
    plain.averages = averages.clone()

    loss = exact.policy.loss_on(rollout, *exact.policy.predict(exact.model, rollout), torch.ones(12))
    features = IndexedState(rollout.deter, rollout.index).features(classes)
    actions = nn.functional.one_hot(rollout.action, config.world_model.rssm.actions).double()
    actions = torch.cat([actions, actions[-1:]])  # what is done in the last state counts nowhere
    actor, critic = plain.losses(features, actions)
    assert loss.metrics["return_scale"] > 100.0 and loss.metrics["entropy"] > 0.1
    assert loss.actor.item() == pytest.approx(actor.item(), rel=1e-6)
    assert loss.critic.item() == pytest.approx(critic.item(), rel=1e-6)

    (loss.actor + loss.critic).backward()
    nets = (exact.policy.actor, exact.policy.critic)
    gradients = {id(p): p.grad.clone() for net in nets for p in net.parameters() if p.grad is not None}
    exact.apply(("actor", "critic"), loss.actor, loss.critic)
    exact.policy.update_slow_critic()
    other.model.requires_grad_(False)
    for net, value, own in zip(("actor", "critic"), (actor, critic), nets, strict=True):
        wanted = torch.autograd.grad(value, list(plain.modules[net].parameters()), retain_graph=True)
        for parameter, expected in zip(own.parameters(), wanted, strict=True):
            scale = float(expected.abs().max())
            assert scale > 0.0
            torch.testing.assert_close(gradients[id(parameter)], expected, rtol=1e-5, atol=1e-8 * scale)
    plain.step(actor, critic)
    for name, value in exact.policy.state_dict().items():
        if not name.startswith("scale."):
            torch.testing.assert_close(value, other.policy.state_dict()[name], rtol=1e-7, atol=1e-9, msg=name)
