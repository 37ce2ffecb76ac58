"""The expert's actions as a teacher beside reinforcement, and whose turn it is to drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.privileged import debug_config, random_batch
from training.learner import Learner
from training.optim import OptimizerConfig
from training.presets import ImitationConfig, PrivilegedConfig, Recipe
from training.privileged.collector import Turns
from training.privileged.config import DEMONSTRATIONS, RunConfig, with_demonstrations
from training.world_model.model import Replayed


def labelled(config: PrivilegedConfig, action: int) -> Replayed:
    """A batch in whose second half the expert wants one action."""
    batch = random_batch(config, windows=3, steps=6)
    expert = torch.full(batch.first.shape, -1)
    expert[:, 3:] = action
    return replace(batch, expert_action=expert)


def probability(learner: Learner, batch: Replayed, action: int) -> float:
    with torch.no_grad():
        state = learner.model.observe(batch, mode=True).state
        return float(learner.policy.log_policy(state.features())[:, 3:, action].exp().mean())


def test_cross_entropy_counts_labelled_states_only():
    learner = Learner(debug_config("paper"))
    features = torch.randn(2, 3, learner.config.world_model.features)
    expert = torch.tensor([[4, -1, -1], [-1, 7, -1]])
    log_policy = learner.policy.log_policy(features)
    expected = -(log_policy[0, 0, 4] + log_policy[1, 1, 7]) / 2.0
    assert learner.policy.imitation_loss(features, expert).item() == pytest.approx(expected.item(), rel=1e-6)
    nobody = torch.full_like(expert, -1)
    assert learner.policy.imitation_loss(features, nobody) == learner.policy.imitation_loss(features, None) == 0.0


@pytest.mark.parametrize("recipe", ["paper", "strong"])
def test_the_actor_learns_what_the_expert_does(recipe: Recipe):
    config = replace(debug_config(recipe), imitation=ImitationConfig(weight=5.0, alone_updates=100))
    quick = OptimizerConfig(learning_rate=1e-2)
    config = replace(config, model_optimizer=quick, policy_optimizer=quick)
    batch = labelled(config, action=11)
    learner = Learner(config)
    before = probability(learner, batch, 11)
    metrics = [learner.update(batch)[0] for _ in range(40)]
    assert probability(learner, batch, 11) > 2.0 * before
    assert metrics[-1]["imitation"] < metrics[0]["imitation"]


def actor_step(imitation: ImitationConfig, updates: int) -> torch.Tensor:
    """Change of an actor's weights by one update at a time when so many were made before."""
    config = replace(debug_config("paper"), imitation=imitation)
    learner = Learner(config)
    learner.updates = updates
    weights = torch.nn.utils.parameters_to_vector(learner.policy.actor.parameters()).detach().clone()
    learner.update(replace(labelled(config, 5), expert_action=torch.full((3, 6), -1)))
    return torch.nn.utils.parameters_to_vector(learner.policy.actor.parameters()).detach() - weights


def test_reinforcement_waits_until_the_expert_has_taught_alone():
    imitation = ImitationConfig(weight=1.0, alone_updates=10)
    assert not actor_step(imitation, 9).any()  # nothing to imitate and no reinforcement yet
    assert actor_step(imitation, 10).any()


def test_imitation_can_shape_the_world_model():
    def gradient(model_weight: float) -> torch.Tensor:
        config = replace(debug_config("paper"), imitation=ImitationConfig(weight=1.0, model_weight=model_weight))
        learner = Learner(config)
        learner.update(labelled(config, 5))
        return torch.nn.utils.parameters_to_vector(learner.model.parameters()).detach()

    assert not torch.equal(gradient(0.0), gradient(3.0))


def test_weight_falls_linearly():
    config = ImitationConfig(weight=1.0, final_weight=0.2, updates=100)
    assert [round(config.weight_at(update), 3) for update in (0, 50, 100, 1000)] == [1.0, 0.6, 0.2, 0.2]
    assert ImitationConfig(weight=0.5).weight_at(10**6) == 0.5
    assert not ImitationConfig().used
    with pytest.raises(ValueError, match=r"imitation\.weight"):
        ImitationConfig(weight=-1.0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_turns_take_their_share_of_the_time(share: float):
    turns = Turns(share, 10.0, np.random.default_rng(0))
    taken = np.array([turns.next() for _ in range(40_000)])
    assert taken.mean() == pytest.approx(share, abs=0.03)
    begins = np.count_nonzero(taken[1:] & ~taken[:-1])
    if share:
        assert taken.sum() / begins == pytest.approx(10.0, rel=0.15)


def test_demonstrations_leave_what_is_given():
    plain = with_demonstrations(RunConfig())
    assert {name: getattr(plain, name) for name in DEMONSTRATIONS} == DEMONSTRATIONS
    given = with_demonstrations(RunConfig(expert_share=0.5, collectors=3))
    assert (given.expert_share, given.collectors, given.imitation) == (0.5, 3, plain.imitation)
