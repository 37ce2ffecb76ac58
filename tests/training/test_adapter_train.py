"""The adapter's data, losses and runs: what is read off logs, what is learned, and going on after a stop."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.adapter import AdapterConfig, Proposer, load_adapter
from agent.base_plan import feature_width, state_identity
from agent.checkpoint import load_checkpoint, save_checkpoint
from agent.config import ConfigError, to_plain
from agent.model.adapter import AdapterNetConfig
from agent.model.raw_model import RawModel
from agent.motion import KNOTS, follow_plan, seen_from_start
from agent.route import Command
from tests.agent.test_adapter import net_of, raw_model, situation
from tests.training.counterfactual import Body, road_log, road_map
from training import bev, steady
from training.adapter.data import AROUND, BASE, AdapterData, DataConfig, assemble, check_states, part, route_inputs
from training.adapter.train import AdapterLearner, AdapterTrainConfig, adapter_loss, value_loss
from training.counterfactual.candidates import Family
from training.counterfactual.log import EpisodeLog
from training.optim import OptimizerConfig
from training.privileged.guard import RunStoppedError
from training.steady import Purpose, SteadyConfig

NET = AdapterNetConfig(code=16, hidden=16, channels=8, modes=2, train_steps=20, value_units=16)


def agent_log(k: int, model: RawModel) -> EpisodeLog:
    """A drive along the road with a few others and random states of an agent."""
    place = np.random.default_rng(k)
    bodies = [
        Body(float(place.uniform(12, 40)), 0.0, speed=float(place.uniform(0, 6))),
        Body(float(place.uniform(10, 25)), float(place.uniform(-12, -6)), math.pi / 2, 5.0),
        Body(float(place.uniform(5, 30)), 4.5, half=(0.3, 0.3), channel=bev.WALKER),
    ]
    log = road_log(bodies, float(place.uniform(4, 10)))
    ticks = np.arange(0, log.ticks, 2, dtype=np.int32)
    features = place.normal(size=(len(ticks), feature_width(model))).astype(np.float32)
    meta = {**log.meta, "episode": f"Road-{k}", "town": "Road"}
    return replace(log, meta=meta, latent=features, latent_tick=ticks)


@pytest.fixture(scope="module")
def model() -> RawModel:
    return raw_model()


@pytest.fixture(scope="module")
def data(model: RawModel) -> AdapterData:
    return assemble([(agent_log(k, model), road_map()) for k in range(4)], model, DataConfig(around=4))


def config_for(data: AdapterData, **options: object) -> AdapterTrainConfig:
    net = replace(NET, features=data.seen.features.shape[1])
    fast = OptimizerConfig(learning_rate=3e-3, clip_norm=1.0)
    return AdapterTrainConfig(net=net, optimizer=fast, states=8, futures=4, levels=2, **options)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------- data


def test_states_and_futures(data: AdapterData) -> None:
    """Every state has its base plan and plans around it; motions are those of the plans by the agent's own model."""
    assert len(data.truths) > 20 and len(data.names) == 4
    for own in data.futures_of():
        families = data.family[own].tolist()
        assert families.count(BASE) <= 1 and families.count(AROUND) <= 4 and len(own) >= 6
    assert {int(Family.LOGGED), int(Family.AIMED), AROUND} <= set(data.family.tolist())
    row = int(np.flatnonzero(data.family == BASE)[3])
    state = int(data.state[row])
    again = follow_plan(data.start[state : state + 1].astype(float), data.seen.plan[state][None].double().numpy())
    np.testing.assert_allclose(data.motion[row], seen_from_start(again)[0], atol=2e-2)
    np.testing.assert_allclose(data.motion[row], data.seen.motion[state].numpy(), atol=2e-2)
    assert data.failed.any() and not data.failed.all()


def test_the_logged_future_is_the_drive(data: AdapterData, model: RawModel) -> None:
    """Read off as a plan and driven again it is where the log was, at constant speed, 3 s later."""
    for row in np.flatnonzero(data.family == int(Family.LOGGED))[::7]:
        speed = data.seen.numbers[int(data.state[row]), 0]
        assert data.motion[row, -1, 0] == pytest.approx(3.0 * float(speed), abs=0.3)
        assert abs(data.motion[row, -1, 1]) < 0.05


def test_the_route_is_the_agents_own(model: RawModel) -> None:
    """A straight route: points ahead on the x axis, the first one behind, the command that of the log."""
    points, vector = route_inputs(agent_log(0, model))[60]
    assert (np.abs(points[:, 1]) < 1e-5).all() and points[0, 0] <= 0.0 < points[1, 0]
    assert (np.diff(points[:, 0]) >= -1e-6).all() and points[2, 0] - points[1, 0] <= 54.0
    assert vector.shape == (31,) and vector[6 + Command.LANEFOLLOW] == 1.0


def test_logs_of_other_agents_are_refused(model: RawModel) -> None:
    log = agent_log(0, model)
    path, width, own = Path("a.log.npz"), feature_width(model), state_identity(model)
    check_states(path, with_owner(log, own), width, own)
    with pytest.raises(
        ValueError, match=r"states of 5 numbers, made by weights [0-9a-f]{12}\.\.\.; this agent's have 65"
    ):
        check_states(path, replace(with_owner(log, own), latent=log.latent[:, :5]), width, own)
    with pytest.raises(ValueError, match="has no states of an agent"):
        check_states(path, replace(log, latent=log.latent[:, :0]), width, own)
    with pytest.raises(ValueError, match=rf"made by weights unknown; .* made by {own[:12]}"):
        check_states(path, log, width, own)
    with pytest.raises(ValueError, match="no log has a base state"):
        assemble([], model, DataConfig())


def with_owner(log: EpisodeLog, owner: str) -> EpisodeLog:
    return replace(log, meta={**log.meta, "states_of": owner})


def test_states_belong_to_the_world_model_whoever_acts_on_them(model: RawModel) -> None:
    own, other = state_identity(model), copy.deepcopy(model)
    with torch.no_grad():
        next(other.actor.parameters()).add_(1.0)
    assert state_identity(other) == own
    with torch.no_grad():
        next(other.rssm.parameters()).add_(1e-6)
    assert state_identity(other) != own


def test_a_part_keeps_its_futures(data: AdapterData) -> None:
    few = part(data, np.array([5, 2]))
    assert torch.equal(few.seen.features, data.seen.features[[5, 2]])
    for k, state in enumerate((5, 2)):
        np.testing.assert_array_equal(few.rewards[few.state == k], data.rewards[data.state == state])


# ----------------------------------------------------------------------------- losses


def test_the_best_of_the_modes_counts() -> None:
    """Against the loss written out: noise, every mode's squared error, the smallest, the mean."""
    seen, _ = situation(5)
    net = net_of().denoiser
    clean = 0.5 * torch.randn(5, KNOTS, 2, generator=torch.Generator().manual_seed(1))
    loss = adapter_loss(net, seen, clean, torch.Generator().manual_seed(9), levels=1)
    draws = torch.Generator().manual_seed(9)
    level = torch.randint(1, 21, (5,), generator=draws)
    noise = torch.randn(5, KNOTS, 2, generator=draws)
    code = net.encoder(seen)
    expected = []
    for k in range(5):
        a = net.alpha_bar[level[k]]
        x = a.sqrt() * clean[k] + (1 - a).sqrt() * noise[k]
        base, row = net.context(seen.at(torch.tensor([k])), code[k : k + 1])
        guess = net(x[None], level[k : k + 1], (base, row))[0]
        expected.append(min(float(((mode - clean[k]) ** 2).mean()) for mode in guess))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4)


def test_values_are_regressed_to_discounted_sums() -> None:
    seen, _ = situation(2)
    net = net_of().values
    plan, motion = torch.randn(2, 3, KNOTS, 2), torch.randn(2, 3, KNOTS, 4)
    rewards = torch.randn(2, 3, KNOTS, 4)
    foreseen = net(seen, net.encoder(seen), plan, motion)
    error = torch.zeros(4)
    for n in range(KNOTS):
        sums = sum(net.config.gamma**k * rewards[:, :, k] for k in range(n + 1))
        error += ((foreseen[:, :, n] - sums) ** 2).mean((0, 1)) / (n + 1) / KNOTS
    torch.testing.assert_close(value_loss(net, seen, plan, motion, rewards), error, atol=1e-5, rtol=1e-4)
    own = net.rewards(seen, net.encoder(seen), plan, motion)
    assert float(value_loss(net, seen, plan, motion, own).sum()) < 1e-8


def test_targets_are_good_futures(data: AdapterData) -> None:
    """Failing futures are never targets where there is another one; better ones are likelier."""
    learner = AdapterLearner(config_for(data), data)
    for own, weights in zip(learner._futures, learner._targets, strict=True):
        failed = torch.from_numpy(data.failed[own])
        if not failed.all():
            assert float(weights[failed].sum()) == 0.0
        assert float(weights.sum()) == pytest.approx(1.0)


# ----------------------------------------------------------------------------- runs


def run_of(data: AdapterData, folder: Path, updates: int, **options: object) -> AdapterLearner:
    config = config_for(data, **options)
    learner = AdapterLearner(config, data)
    purpose = Purpose("tests", {"seed": config.seed}, lambda _: None)
    steady.run(learner, purpose, SteadyConfig(updates=updates, log_updates=5), folder)
    return learner


def test_learning_ranks_futures_and_goes_on_as_if_never_stopped(data: AdapterData, tmp_path: Path) -> None:
    whole = run_of(data, tmp_path / "whole", 60)
    run_of(data, tmp_path / "parts", 23)
    parts = run_of(data, tmp_path / "parts", 60)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, parts.net.state_dict()[name]), name
    lines = (tmp_path / "whole" / "events.jsonl").read_text().splitlines()
    assert sum('"kind": "update"' in line or '"update"' in line for line in lines) >= 10
    with torch.no_grad():
        first = AdapterLearner(config_for(data), data).net.values
        rows = np.concatenate(data.futures_of()[:4])
        seen = data.seen.at(torch.from_numpy(data.state[rows]))
        told = [torch.from_numpy(array[rows][:, None]) for array in (data.plan, data.motion, data.rewards)]
        before, after = (float(value_loss(net, seen, *told).sum()) for net in (first, whole.net.values))
    assert after < 0.5 * before


def test_another_configuration_and_a_finished_run_are_refused(data: AdapterData, tmp_path: Path) -> None:
    run_of(data, tmp_path, 2)
    with pytest.raises(ConfigError, match="has 2 updates; give more than 2"):
        run_of(data, tmp_path, 2)
    with pytest.raises(ConfigError, match="another configuration: seed: 0 -> 1"):
        run_of(data, tmp_path, 4, seed=1)


def test_a_signal_ends_a_run_with_a_checkpoint(data: AdapterData, tmp_path: Path) -> None:
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    learner = run_of(data, tmp_path, 1_000_000)
    timer.join()
    found = sorted((tmp_path / "checkpoints").iterdir())
    assert len(found) == 1 and int(found[0].name) == learner.updates > 0
    assert int(load_checkpoint(found[0])[1]["updates"]) == learner.updates


def test_updates_that_are_not_finite_change_nothing_and_end_the_run(data: AdapterData, tmp_path: Path) -> None:
    broken = replace(data, plan=np.full_like(data.plan, np.nan))
    with pytest.raises(RunStoppedError, match="were not finite"):
        run_of(broken, tmp_path, 10)
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_trained_is_what_the_agent_loads(data: AdapterData, model: RawModel, tmp_path: Path) -> None:
    learner = run_of(data, tmp_path, 3)
    config = config_for(data).net
    plain = {"adapter": to_plain(config), "training": {"updates": 3}}
    save_checkpoint(tmp_path / "adapter", plain, learner.net.state_dict(), step=3, created_by="tests")
    net, about = load_adapter(tmp_path / "adapter")
    assert about == {"updates": 3} and net.config == config
    few = data.seen.at(torch.arange(3))
    found = Proposer(net, AdapterConfig(candidates=4)).propose(few, data.start[:3].astype(np.float64))
    again = Proposer(learner.net.eval(), AdapterConfig(candidates=4)).propose(few, data.start[:3].astype(np.float64))
    np.testing.assert_array_equal(found.plans, again.plans)
