"""Refinement: group-relative advantages, the clipped surrogate, the distance to the base, and every critic's arm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from agent.checkpoint import load_checkpoint, save_checkpoint
from agent.config import ConfigError, to_plain
from agent.model.raw_model import RawModel
from agent.motion import KNOTS, follow_plan, start_state
from tests.agent.test_adapter import raw_model
from tests.training.counterfactual import BASE, Body, open_ground, road_log, road_map, with_line
from tests.training.test_adapter_train import agent_log
from training import bev, steady
from training.adapter.data import DataConfig
from training.adapter.truth import IMPACT_MPS, Truth
from training.commands import line
from training.learner import NonFiniteUpdateError
from training.optim import OptimizerConfig
from training.refine.critic import PROGRESS_M, Critic, Judge, ScoreConfig, feared, load_critic
from training.refine.policy import EPSILON, advantages, divergence, surrogate
from training.refine.states import RefineStates, gather
from training.refine.train import RefineConfig, RefineLearner, _card
from training.risk.data import Arm
from training.risk.model import Forecast, RiskConfig, RiskModel
from training.risk.train import RiskTrainConfig
from training.steady import Purpose, SteadyConfig

NUMBERS = st.floats(-50.0, 50.0)


# ----------------------------------------------------------------------------- equations


def test_advantages_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    found = advantages(scores)
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + 0 + 9) / 4)
    torch.testing.assert_close(found[0], (scores[0] - 3.0) / (deviation + EPSILON))
    assert (found[1] == 0.0).all()


@given(row=st.lists(NUMBERS, min_size=2, max_size=9), shift=NUMBERS)
def test_advantages_know_no_level_and_no_state(row: list[float], shift: float) -> None:
    """They sum up to 0, and a constant added to a group's scores changes nothing; equal scores give exactly 0."""
    scores = torch.tensor([row], dtype=torch.float64)
    found = advantages(scores)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(advantages(scores + shift), found, atol=1e-4, rtol=1e-4)
    assert (advantages(torch.full((1, len(row)), row[0])) == 0.0).all()


def test_by_the_spread_of_the_batch_a_large_difference_counts_more() -> None:
    """Ten times as far apart is ten times the advantage; by the group's own spread it would be as much."""
    scores = torch.tensor([[1.0, -1.0], [10.0, -10.0], [3.0, 3.0]])
    by_batch = advantages(scores, "batch")
    assert by_batch.square().mean() == pytest.approx(1.0, abs=1e-3) and (by_batch[2] == 0.0).all()
    torch.testing.assert_close(by_batch[1], 10.0 * by_batch[0])
    torch.testing.assert_close(advantages(scores)[1], advantages(scores)[0], atol=1e-3, rtol=0.0)


def test_the_surrogate_is_the_policy_gradient_and_stops_at_the_clip() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantage = torch.tensor([2.0, -0.5])
    surrogate(log_probs, log_probs.detach(), advantage, 0.2).backward()
    torch.testing.assert_close(log_probs.grad, -advantage[None] / 2.0)
    far = torch.tensor([[0.0, -3.0]], requires_grad=True)  # ratios e and 1 / e: both beyond the clip, on the good side
    loss = surrogate(far, torch.tensor([[-1.0, -2.0]]), advantage, 0.2)
    assert float(loss) == pytest.approx(-(1.2 * 2.0 - 0.8 * 0.5) / 2.0)
    loss.backward()
    assert (far.grad == 0.0).all()


def test_the_divergence_is_the_kl_and_exactly_0_at_the_base() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 39, generator=generator)
    ours, base = logits.log_softmax(-1)
    expected = F.kl_div(base, ours, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(divergence(ours, base), expected, atol=1e-5, rtol=1e-4)
    leaf = logits[0].clone().requires_grad_(True)
    same = divergence(leaf.log_softmax(-1), logits[0].log_softmax(-1))
    assert (same == 0.0).all()
    same.sum().backward()
    assert (leaf.grad == 0.0).all()


def test_what_a_forecast_costs() -> None:
    """Against the chance tree walked step by step."""
    generator = torch.Generator().manual_seed(1)
    collision, off_road = torch.randn(2, 1, 2, 12, generator=generator)
    impact = 5.0 * torch.rand(1, 2, 12, generator=generator)
    found = feared(Forecast(collision, off_road, impact), ScoreConfig(collision=2.0, off_road=3.0))
    for k in range(2):
        alive, contact, on_road = 1.0, 0.0, 1.0
        for t in range(12):
            p = float(collision[0, k, t].sigmoid())
            contact += alive * p * (1.0 + float(impact[0, k, t]) / IMPACT_MPS)
            alive *= 1.0 - p
            on_road *= 1.0 - float(off_road[0, k, t].sigmoid())
        assert float(found[0, k]) == pytest.approx(2.0 * contact + 3.0 * (1.0 - on_road), rel=1e-4)


def test_the_card_says_who_was_refined_and_by_what(tmp_path: Path) -> None:
    config = RefineConfig(critic=Critic.IMPARTIAL, optimizer=OptimizerConfig(learning_rate=6e-4), kl=0.05)
    model = RiskModel(RiskConfig())
    plain = {"model": to_plain(model.config), "training": {"arm": "counterfactual", "updates": 1600}}
    save_checkpoint(tmp_path / "critic", plain, model.state_dict(), step=1600, created_by="tests")
    card = _card(config, one_state([]), Path("weights/raw"), tmp_path / "critic", 400, "refined")
    for told in ("# refined", "agent of raw", "impartial: a risk model of arm counterfactual, 1600 updates", "in Road"):
        assert told in card
    assert "400 updates of 64 states and 8 dreams each, learning rate 0.0006, weight of the KL to the base 0.05" in card
    assert "has not been measured" in card
    assert "critic | none |" in _card(RefineConfig(critic=Critic.NONE), one_state([]), Path("raw"), None, 1, "r")


# ----------------------------------------------------------------------------- critics


def one_state(bodies: list[Body], mps: float = 8.0, red_at_m: float | None = None) -> RefineStates:
    """With a red light's line across the road, if any."""
    log = road_log(bodies, mps)
    if red_at_m is not None:
        log = with_line(log, red_at_m, bev.RED)
    return RefineStates(
        np.zeros((1, 65), np.float32),
        start_state(mps, 0.0, 0.0)[None],
        [Truth(log, open_ground(), BASE)],
        np.zeros((1, 64, 64), np.uint64),
        np.array([[mps, 0.0, 0.0, 13.9]], np.float32),
        1,
        ["Road"],
    )


def going_and_braking(mps: float = 8.0) -> np.ndarray:
    plans = np.zeros((2, KNOTS, 2))
    plans[1, :, 0] = -8.0
    return follow_plan(np.repeat(start_state(mps, 0.0, 0.0)[None], 2, 0), plans)[None]


def test_without_a_critic_only_the_task_counts() -> None:
    """A wall of cars ahead changes nothing: going on scores its progress."""
    states = one_state([Body(20.0, 0.0)])
    judge = Judge(Critic.NONE, ScoreConfig())
    found = judge.scores(states, np.array([0]), going_and_braking())[0]
    assert found[0] == pytest.approx(24.0 / PROGRESS_M, abs=0.01) and found[0] > found[1]
    np.testing.assert_allclose(found, judge.scores(one_state([]), np.array([0]), going_and_braking())[0], atol=1e-9)


def test_the_true_critic_knows_the_contact() -> None:
    """With the car ahead braking wins, by the cost of a contact at 8 m/s; without it going on does."""
    judge = Judge(Critic.TRUE, ScoreConfig(collision=5.0))
    blocked = judge.scores(one_state([Body(20.0, 0.0)]), np.array([0]), going_and_braking())[0]
    free = judge.scores(one_state([]), np.array([0]), going_and_braking())[0]
    assert blocked[1] > blocked[0] and free[0] > free[1]
    assert free[0] - blocked[0] == pytest.approx(5.0 * 1.8, abs=0.1)


def test_a_red_light_does_not_hide_the_contact_behind_it_from_the_true_critic() -> None:
    judge = Judge(Critic.TRUE, ScoreConfig(collision=5.0, signal=3.0))
    free = judge.scores(one_state([]), np.array([0]), going_and_braking())[0]
    found = judge.scores(one_state([Body(20.0, 0.0)], red_at_m=10.0), np.array([0]), going_and_braking())[0]
    assert free[0] - found[0] == pytest.approx(3.0 + 5.0 * 1.8, abs=0.1)


@pytest.mark.parametrize("critic", [Critic.EXPERT, Critic.IMPARTIAL])
@pytest.mark.parametrize("source", ["masks", "latent"])
def test_a_models_fear_is_subtracted(critic: Critic, source: str) -> None:
    torch.manual_seed(0)
    config = RiskConfig(depth=8, features=4, units=16, source=source, latent=65 if source == "latent" else 0)  # type: ignore[arg-type]
    model = RiskModel(config).eval().requires_grad_(False)
    states = one_state([Body(20.0, 0.0)])
    task = Judge(Critic.NONE, ScoreConfig()).scores(states, np.array([0]), going_and_braking())
    found = Judge(critic, ScoreConfig(), model).scores(states, np.array([0]), going_and_braking())
    assert (found < task).all()
    with torch.no_grad():  # certain of a contact at once, which is then all that is expected
        model.head[-1].bias[:2] = torch.tensor([30.0, -30.0])  # type: ignore[union-attr, index]
        model.head[-1].weight.zero_()  # type: ignore[union-attr]
        model.head[-1].bias[2] = -30.0  # type: ignore[union-attr]
    sure = Judge(critic, ScoreConfig(collision=5.0), model).scores(states, np.array([0]), going_and_braking())
    np.testing.assert_allclose(sure, task - 5.0, atol=1e-3)


def test_critics_take_models_of_their_own_arm_and_agent_only(tmp_path: Path) -> None:
    config = RiskConfig(depth=8, features=4, units=16)
    latent = replace(config, source="latent", latent=48)
    about = {"arm": "expert", "states_of": "a" * 64}
    plain = {"model": to_plain(latent), "training": about}
    save_checkpoint(tmp_path / "latent", plain, RiskModel(latent).state_dict(), step=1, created_by="tests")
    assert load_critic(Critic.EXPERT, tmp_path / "latent", 48, "a" * 64) is not None
    for width, owner in ((48, "b" * 64), (49, "a" * 64)):
        with pytest.raises(ConfigError, match=r"48 numbers made by weights a{12}\.\.\., this agent's have"):
            load_critic(Critic.EXPERT, tmp_path / "latent", width, owner)
    for arm in (Arm.EXPERT, Arm.COUNTERFACTUAL):
        plain = {"model": to_plain(config), "training": {"arm": arm.value}}
        save_checkpoint(tmp_path / arm.value, plain, RiskModel(config).state_dict(), step=1, created_by="tests")
    assert load_critic(Critic.EXPERT, tmp_path / "expert", 48, "a" * 64) is not None
    assert load_critic(Critic.IMPARTIAL, tmp_path / "counterfactual", 48, "a" * 64) is not None
    with pytest.raises(ConfigError, match="was trained as arm 'expert', critic impartial needs 'counterfactual'"):
        load_critic(Critic.IMPARTIAL, tmp_path / "expert", 48, "a" * 64)
    with pytest.raises(ConfigError, match="needs --critic-model"):
        load_critic(Critic.EXPERT, None, 48, "a" * 64)
    with pytest.raises(ConfigError, match="has no model; leave it out"):
        load_critic(Critic.TRUE, tmp_path / "expert", 48, "a" * 64)
    with pytest.raises(ValueError, match="needs a model"):
        Judge(Critic.IMPARTIAL, ScoreConfig())
    assert RiskTrainConfig().arms  # the arms are those of the risk models


# ----------------------------------------------------------------------------- updates


@pytest.fixture(scope="module")
def states() -> RefineStates:
    model = raw_model()
    return gather([(agent_log(k, model), road_map()) for k in range(2)], DataConfig())


def learner_of(states: RefineStates, critic: Critic = Critic.TRUE, **options: object) -> RefineLearner:
    rate = OptimizerConfig(learning_rate=1e-2)
    config = RefineConfig(critic=critic, states=6, candidates=6, optimizer=rate, **options)  # type: ignore[arg-type]
    return RefineLearner(config, raw_model(), states, Judge(critic, config.score))


def weights(model: RawModel | torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_identical_candidates_change_nothing(states: RefineStates) -> None:
    """K equal scores: not a bit of the policy moves, and it is at no distance from its base."""
    learner = learner_of(states)
    before = weights(learner.model)
    dream = learner.dream(np.arange(6))
    metrics = learner.improve(dream, torch.full((6, 6), 1.2345678))
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert float(metrics["kl"]) == 0.0 and float(metrics["policy"]) == 0.0 and float(metrics["gradient_norm"]) == 0.0


def test_dreams_are_what_the_actions_do(states: RefineStates) -> None:
    learner = learner_of(states)
    dream = learner.dream(np.array([1, 4]))
    assert dream.motions.shape == (2, 6, 61, 4) and dream.rollout.action.shape == (30, 12)
    np.testing.assert_allclose(dream.motions[:, :, 0, 3], states.start[[1, 4], 3][:, None] * np.ones(6))
    assert len(np.unique(dream.motions[0, :, -1], axis=0)) > 1


def test_better_dreams_get_likelier_and_only_the_policy_moves(states: RefineStates) -> None:
    learner = learner_of(states, kl=0.0)
    before = weights(learner.model)
    dream = learner.dream(np.arange(6))
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))

    def likelihood() -> torch.Tensor:
        taken = learner._log_policy(learner.actor, dream.rollout).gather(-1, dream.rollout.action[..., None])[..., 0]
        return (taken.mean(0) * advantages(scores).flatten()).sum().detach()

    first = likelihood()
    learner.improve(dream, scores)
    assert likelihood() > first
    moved = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("actor.") for name in moved)


def test_the_base_pulls_back(states: RefineStates) -> None:
    """Away from its base and without anything to gain, the policy comes nearer to it."""
    learner = learner_of(states, kl=1.0)
    with torch.no_grad():
        for parameter in learner.actor.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    dream = learner.dream(np.arange(6))
    found = [float(learner.improve(dream, torch.zeros(6, 6))["kl"]) for _ in range(30)]
    assert found[0] > 0.01 and found[-1] < 0.5 * found[0]


def test_several_steps_on_the_same_dreams(states: RefineStates) -> None:
    """The ratio is to the policy that dreamt: the second step's loss differs from the first one's, which is 0."""
    learner = learner_of(states, epochs=2, kl=0.0)
    dream = learner.dream(np.arange(6))
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert float(learner.improve(dream, scores)["policy"]) < -1e-4
    single = learner_of(states, kl=0.0)
    assert abs(float(single.improve(single.dream(np.arange(6)), scores)["policy"])) < 1e-5


def test_with_the_true_critic_the_policy_learns_not_to_hit_the_car_ahead() -> None:
    """One state before a standing car: contacts become rarer, which without a critic they do not have to."""
    states = one_state([Body(20.0, 0.0)])
    rate = OptimizerConfig(learning_rate=1e-2)
    config = RefineConfig(critic=Critic.TRUE, states=1, candidates=48, optimizer=rate, kl=0.0)
    learner = RefineLearner(config, raw_model(), states, Judge(Critic.TRUE, config.score))

    def contacts() -> float:
        return float(states.truths[0].judge(learner.dream(np.array([0])).motions[0]).touches.mean())

    first = np.mean([contacts() for _ in range(4)])
    for _ in range(40):
        learner.step()
    assert first > 0.2 and np.mean([contacts() for _ in range(4)]) < 0.5 * first


def test_a_run_goes_on_as_if_never_stopped(states: RefineStates, tmp_path: Path) -> None:
    def run(folder: Path, updates: int) -> RefineLearner:
        learner = learner_of(states)
        purpose = Purpose("tests", {"critic": "true"}, lambda _: None)
        steady.run(learner, purpose, SteadyConfig(updates=updates), folder)
        return learner

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    parts = run(tmp_path / "parts", 6)
    for name, value in whole.tensors().items():
        assert torch.equal(value, parts.tensors()[name]), name
    saved = load_checkpoint(next((tmp_path / "parts" / "checkpoints").iterdir()))[1]
    assert {name.split(".")[0] for name in saved} == {"actor", "base", "optimizer", "generator", "updates"}


def test_scores_of_dreams_that_are_no_numbers_change_nothing(states: RefineStates) -> None:
    learner = learner_of(states)
    before = weights(learner.model)
    dream = learner.dream(np.arange(6))
    with pytest.raises(NonFiniteUpdateError):
        learner.improve(dream, torch.tensor([[math.nan, *[1.0] * 5]] * 6))
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())


def test_the_command_line_takes_critics_and_arms_as_the_documents_write_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What it then complains about are the folders."""
    nothing = str(tmp_path / "nothing")
    for words in (
        ["refine", "--logs", nothing, "--agent", nothing, "--out", nothing, "--config.critic", "expert-only"],
        ["risk", "--futures", nothing, "--out", nothing, "--config.arms", "counterfactual", "shuffled"],
    ):
        monkeypatch.setattr("sys.argv", ["training", *words])
        assert line.main() == line.BAD_INPUT
        assert nothing in capsys.readouterr().err
