"""Compiled recurrent steps give what the steps as they are give."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.config import ConfigError
from tests.training.privileged import debug_config, random_batch
from training import compiled
from training.bench import BenchConfig
from training.experience.batches import to_device
from training.learner import Learner
from training.presets import RECIPES, Recipe, preset
from training.raw.config import RawRunConfig
from training.throughput import table, time_learner

needs_compiler = pytest.mark.skipif(shutil.which(compiled.CPU_COMPILER) is None, reason="there is no C++ compiler")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def losses_and_gradients(learner: Learner) -> dict[str, Tensor]:
    """All losses of an update and the gradients of their sums, by name."""
    device = learner.generator.device
    batch = to_device(random_batch(learner.config, 2, 4), device)
    learner.generator.manual_seed(3)
    model = learner.model.loss(batch, generator=learner.generator)
    start, alive = learner.policy.starts(model.belief.state, batch.terminal, learner.generator)
    policy = learner.policy.loss(learner.model, start, alive, learner.generator)
    (model.total + policy.actor + policy.critic).backward()
    values = model.terms | {"actor": policy.actor, "critic": policy.critic} | policy.metrics
    for part in (learner.model, learner.policy):
        values |= {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in values.items()}


@needs_compiler
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", RECIPES)
def test_compiled_steps_give_the_same_loss_and_gradients(recipe: Recipe) -> None:
    config = debug_config(recipe)
    config = replace(config, policy=replace(config.policy, horizon=3))
    expected = losses_and_gradients(Learner(config, seed=1))
    found = losses_and_gradients(Learner(config, seed=1, compiled=True))
    assert expected.keys() == found.keys() and len(expected) > 30
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * (1.0 + scale), msg=name)


@needs_cuda
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", RECIPES)
def test_compiled_updates_on_a_gpu(recipe: Recipe) -> None:
    """Loss and gradients as without compiling, and updates that replay the recorded graphs."""
    config = debug_config(recipe)
    expected = losses_and_gradients(Learner(config, seed=1, device="cuda"))
    found = losses_and_gradients(Learner(config, seed=1, device="cuda", compiled=True))
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * (1.0 + scale), msg=name)
    learner = Learner(config, seed=1, device="cuda", compiled=True)
    batch = to_device(random_batch(config, 2, 4), "cuda")
    for _ in range(4):
        metrics, state = learner.update(batch)
        assert all(bool(value.isfinite().all()) for value in (*metrics.values(), state.deter))
    timing = time_learner(
        preset(recipe, "debug"), BenchConfig(batch=2, steps=4, rounds=1, threads=1), "cuda", compiled=True
    )
    assert timing.peak_mib is not None and timing.peak_mib > 0.0


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        Learner(debug_config("paper"), compiled=True)


def test_an_update_is_timed() -> None:
    timing = time_learner(
        preset("paper", "debug"), BenchConfig(batch=2, steps=4, rounds=2, threads=1), "cpu", compiled=False
    )
    assert len(timing.wall_s) == 2 and timing.frames_per_s > 0.0 and timing.peak_mib is None
    assert "frames per second" in table(timing)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            time_learner(preset("paper", "debug"), BenchConfig(threads=1), "cuda", compiled=False)


def test_the_raw_stage_refuses_it() -> None:
    with pytest.raises(ValueError, match="raw stage"):
        RawRunConfig(compile=True)
