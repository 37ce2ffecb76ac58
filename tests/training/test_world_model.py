"""The whole world model and learner: parameter counts, parity with plain operations, learning, resuming."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from agent import config as configs
from agent.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tests.bench.plain import PlainWorldModel, mask_arrays
from tests.training.privileged import debug_config, random_batch
from training import optim
from training.learner import Learner
from training.optim import LaProp, Stepper
from training.policy.actor_critic import ActorCritic
from training.presets import RECIPES, SIZES, PrivilegedConfig, Recipe, Size, TricksConfig, preset
from training.world_model.config import VisionKind
from training.world_model.model import WorldModel


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# The open ports of both recipes, masks of 64 px with 43 channels and 39 actions, slow critic left out.
@pytest.mark.parametrize(("recipe", "expected"), [("paper", 8_310_129), ("strong", 10_573_585)])
def test_parameter_counts_equal_those_of_the_open_ports(recipe: Recipe, expected: int) -> None:
    with torch.device("meta"):
        assert count_only(preset(recipe, "10m")) == expected


def count_only(config: PrivilegedConfig) -> int:
    policy = ActorCritic(config.policy, config.world_model)
    return count(WorldModel(config.world_model), policy.actor, policy.critic)


def test_paper_100m_has_about_the_size_think2drive_reports() -> None:
    """Its 104 million parameters are for 34 masks and 30 actions."""
    with torch.device("meta"):
        assert count_only(preset("paper", "100m")) == pytest.approx(104e6, rel=0.1)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_presets_survive_their_yaml_form(recipe: Recipe, size: Size) -> None:
    config = preset(recipe, size)
    assert configs.parse(PrivilegedConfig, configs.to_plain(config), "preset") == config


def test_paper_preset_has_the_printed_constants() -> None:
    config = preset("paper", "10m")
    assert (config.model_optimizer.learning_rate, config.policy_optimizer.learning_rate) == (1e-5, 3e-5)
    assert config.model_optimizer.kind == "adamw" and config.model_optimizer.weight_decay == 0.0
    assert config.world_model.rssm.free_nats == 1.0
    assert (config.model_optimizer.clip_norm, config.policy_optimizer.clip_norm) == (1000.0, 100.0)
    assert (config.model_optimizer.epsilon, config.policy_optimizer.epsilon) == (1e-8, 1e-5)
    assert (config.world_model.loss.dynamics, config.world_model.loss.representation) == (0.5, 0.1)
    assert not config.joint and not config.policy.replay_critic
    assert config.policy.continue_value == "mode" and config.policy.true_first_continue
    assert config.tricks.planner_resets == (50_000,) and config.tricks.warmup_updates == 10_000
    assert preset("paper", "100m").world_model.observation.size_px == 128


def test_strong_preset_has_the_printed_constants() -> None:
    """Those of DreamerV3's configuration and optimiser as of 2025."""
    config = preset("strong", "10m")
    world, policy = config.world_model, config.policy
    assert config.joint and config.model_optimizer == config.policy_optimizer
    stepper = Stepper(config.model_optimizer, [nn.Parameter(torch.ones(1))])
    assert isinstance(stepper.optimizer, LaProp)
    assert stepper.optimizer.defaults == {
        "lr": 4e-5 / 1000,
        "betas": (0.9, 0.999),
        "eps": 1e-20,
        "weight_decay": 0.0,
    }
    rates = [config.model_optimizer.rate(update) for update in (499, 999, 10**6)]
    assert rates == pytest.approx([2e-5, 4e-5, 4e-5], rel=1e-12)
    assert (config.model_optimizer.adaptive_clip, optim.AGC_MIN_NORM) == (0.3, 1e-3)
    assert config.model_optimizer.clip_norm is None
    assert (world.rssm.recurrence, world.rssm.blocks, world.rssm.prior_layers, world.rssm.start) == (
        "block_gru",
        8,
        2,
        "zeros",
    )
    assert (world.rssm.norm, world.rssm.unimix, world.rssm.free_nats) == ("rms", 0.01, 1.0)
    assert (world.vision.kind, world.vision.multipliers, world.vision.space_blocks) == ("pooled", (2, 3, 4, 4), 8)
    assert world.vision.sigmoid_output and world.vision.likelihood == "squared" and world.heads.two_hot == "raw"
    assert (world.loss.dynamics, world.loss.representation, world.loss.reconstruction) == (1.0, 0.1, 1.0)
    assert (world.loss.reward, world.loss.continuation) == (1.0, 1.0)
    assert world.discount.in_continue and world.discount.gamma == 1.0 - 1.0 / 333.0
    assert (policy.horizon, policy.starts, policy.lam, policy.entropy) == (15, 0, 0.95, 3e-4)
    assert (policy.actor_unimix, policy.continue_value, policy.true_first_continue) == (0.0, "probability", False)
    assert (policy.return_decay, policy.return_percentiles, policy.return_debias) == (0.99, (0.05, 0.95), False)
    assert (policy.slow_rate, policy.slow_weight, policy.replay_critic) == (0.02, 1.0, 0.3)
    assert (config.batch, config.steps, config.replay.online, config.replay.carry_over) == (16, 64, True, True)


@pytest.mark.parametrize(("recipe", "scale"), [("paper", 1.0), ("strong", 0.01)])
def test_last_layers_start_as_printed(recipe: Recipe, scale: float) -> None:
    """Reward and critic at 0; the actor at a hundredth of the usual deviation in 2025."""
    config = preset(recipe, "debug")
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(config.policy, config.world_model, generator)
    model = WorldModel(config.world_model, generator)
    actor = policy.actor[-1].weight
    fan = actor.shape[1] if recipe == "strong" else sum(actor.shape) / 2.0
    assert actor.std().item() == pytest.approx(scale / math.sqrt(fan), rel=0.1)
    last = (policy.critic[-1].weight, policy.slow_critic[-1].weight, model.reward_head[-1].weight)
    assert not any(bool(weight.any()) for weight in last)
    assert model.continue_head[-1].weight.std().item() > 0.1


@pytest.mark.parametrize(("recipe", "alive"), [("paper", 1.0), ("strong", 1.0 - 1.0 / 333.0)])
def test_continue_head_learns_the_end_and_in_2025_the_discount(recipe: Recipe, alive: float) -> None:
    """Target (1 - terminal), times gamma in 2025; the loss is the binary cross-entropy to it in float64."""
    config = debug_config(recipe)
    model = WorldModel(config.world_model, torch.Generator().manual_seed(0))
    batch = random_batch(config, 2, 6)
    assert batch.terminal.any() and (batch.last & ~batch.terminal).any(), "one end and one cut"
    target = np.where(batch.terminal.numpy(), 0.0, alive)
    np.testing.assert_allclose(model.continue_target(batch).numpy(), target, rtol=1e-6, atol=0.0)
    loss = model.loss(batch, mode=True)
    logits = model.continue_logits(loss.belief.state.features()).detach().double().numpy()
    probability = 1.0 / (1.0 + np.exp(-logits))
    expected = -(target * np.log(probability) + (1.0 - target) * np.log1p(-probability)).mean()
    assert loss.terms["continuation"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "vector", "likelihood"),
    [("strided", 0, "squared"), ("pooled", 3, "bernoulli"), ("patch", 3, "squared"), ("patch", 0, "bernoulli")],
)
def test_every_encoder_trains_all_its_parameters(kind: VisionKind, vector: int, likelihood: str) -> None:
    config = debug_config("strong", kind, vector)
    world = replace(
        config.world_model,
        vision=replace(config.world_model.vision, likelihood=likelihood, sigmoid_output=False),
    )
    model = WorldModel(world, torch.Generator().manual_seed(0))
    nn.init.normal_(model.reward_head[-1].weight, std=0.1)
    loss = model.loss(random_batch(config, 2, 4), generator=torch.Generator().manual_seed(1))
    loss.total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    masks = model.decoder.probabilities(loss.belief.state.features()[:, 0])
    size = world.observation.size_px
    assert masks.shape == (2, 43, size, size) and masks.min() >= 0.0 and masks.max() <= 1.0


def test_loss_and_every_gradient_equal_the_plain_operations() -> None:
    config = debug_config("paper", "strided")
    model = WorldModel(config.world_model, torch.Generator().manual_seed(0)).double()
    nn.init.normal_(model.reward_head[-1].weight, std=0.1)
    nn.init.normal_(model.rssm.initial_deter)
    batch = random_batch(config, 3, 6)
    batch = replace(batch, reward=batch.reward.double())
    torch.set_default_dtype(torch.float64)
    try:
        plain, _ = PlainWorldModel(model).loss(mask_arrays(batch, 43), batch, mode=True)
    finally:
        torch.set_default_dtype(torch.float32)
    fast = model.loss(batch, mode=True).total
    assert fast.item() == pytest.approx(plain.item(), rel=1e-9)
    expected = torch.autograd.grad(plain, list(model.parameters()))
    actual = torch.autograd.grad(fast, list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * float(b.abs().max() + 1.0), msg=name)


def test_decoding_part_of_the_steps_is_unbiased() -> None:
    config = debug_config("paper", "patch")
    world = config.world_model
    full = WorldModel(world, torch.Generator().manual_seed(0))
    part = WorldModel(replace(world, vision=replace(world.vision, decode_share=0.25)))
    part.load_state_dict(full.state_dict())
    batch = random_batch(config, 2, 8)
    exact = full.loss(batch, mode=True).terms["masks"].item()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = torch.stack([part.loss(batch, mode=True, generator=generator).terms["masks"] for _ in range(40)])
    assert drawn.mean().item() == pytest.approx(exact, abs=5 * drawn.std().item() / math.sqrt(40))
    assert drawn.std() > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tiny_batch_is_overfitted(recipe: Recipe) -> None:
    config = debug_config(recipe)
    rate = replace(config.model_optimizer, learning_rate=1e-2, warmup_updates=0, final_learning_rate=None)
    learner = Learner(replace(config, model_optimizer=rate, policy=replace(config.policy, horizon=2)))
    batch = random_batch(config, 2, 4)
    first, _ = learner.update(batch)
    for _ in range(60):
        metrics, _ = learner.update(batch)
    assert all(bool(torch.isfinite(value)) for value in metrics.values())
    assert metrics["masks"] < 0.6 * first["masks"]
    assert metrics["reward"] < 0.6 * first["reward"]
    assert metrics["continuation"] < 0.6 * first["continuation"]


def losses(learner: Learner, batch: object, updates: int) -> list[dict[str, torch.Tensor]]:
    return [learner.update(batch)[0] for _ in range(updates)]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_seed_fixes_everything(recipe: Recipe) -> None:
    config = debug_config(recipe)
    batch = random_batch(config, 2, 5)
    runs = [losses(Learner(config, seed=seed), batch, 3) for seed in (0, 0, 1)]
    assert all(torch.equal(a[name], b[name]) for a, b in zip(runs[0], runs[1], strict=True) for name in a)
    assert not torch.equal(runs[0][0]["masks"], runs[2][0]["masks"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_learner_goes_on_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    config = debug_config(recipe)
    batch = random_batch(config, 2, 5)
    learner = Learner(config)
    losses(learner, batch, 3)
    save_checkpoint(tmp_path / "c", configs.to_plain(config), learner.tensors(), step=3, created_by="test")
    saved, tensors = load_checkpoint(tmp_path / "c")
    resumed = Learner(configs.parse(PrivilegedConfig, saved, "saved"), seed=9)
    resumed.load(tensors, "c")
    for a, b in zip(losses(learner, batch, 3), losses(resumed, batch, 3), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    tensors.pop("model.reward_head.0.weight")
    with pytest.raises(CheckpointError, match=r"reward_head\.0\.weight"):
        resumed.load(tensors, "c")


def test_stored_latents_start_a_window() -> None:
    config = debug_config("strong")
    model = WorldModel(config.world_model, torch.Generator().manual_seed(0))
    batch = random_batch(config, 2, 6)
    whole = model.observe(batch, mode=True).state
    late = {
        name: getattr(batch, name)[:, 2:]
        for name in ("words", "previous_action", "reward", "first", "last", "terminal")
    }
    start = type(whole)(whole.deter[:, 1], whole.stoch[:, 1])
    carried = model.observe(replace(batch, **late, start=start), mode=True).state
    torch.testing.assert_close(carried.deter, whole.deter[:, 2:])
    fresh = model.observe(replace(batch, **late), mode=True).state
    assert not torch.allclose(fresh.deter, whole.deter[:, 2:])


def test_planner_reset_keeps_the_world_model() -> None:
    config = debug_config("paper")
    config = replace(config, tricks=TricksConfig(planner_resets=(2,)))
    learner = Learner(config)
    batch = random_batch(config, 2, 5)
    losses(learner, batch, 2)
    world = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.reset_planner()
    assert all(torch.equal(value, world[name]) for name, value in learner.model.state_dict().items())
    assert not learner.policy.critic[-1].weight.any()
    assert not learner.steppers["actor"].optimizer.state and learner.steppers["model"].optimizer.state
    assert learner.policy.scale.updates == 0
    learner.policy.critic[-1].bias.data.fill_(3.0)
    losses(learner, batch, 1)  # the configured reset comes before update 2
    assert learner.policy.critic[-1].bias.abs().max() < 0.1


def test_planner_ratio_rises() -> None:
    tricks = TricksConfig(planner_ratio=1, final_planner_ratio=4, planner_ratio_updates=300, warmup_updates=7)
    assert [tricks.ratio(update) for update in (0, 100, 300, 900)] == [1, 2, 4, 4]
    assert not tricks.scenarios_on(6) and tricks.scenarios_on(7)
    config = replace(debug_config("strong"), tricks=TricksConfig(planner_ratio=3))
    learner = Learner(config)
    losses(learner, random_batch(config, 2, 4), 1)
    assert learner.policy.scale.updates == 3


def test_bad_settings_name_the_field() -> None:
    config = preset("paper", "10m")
    with pytest.raises(ValueError, match=r"observation\.size_px 60"):
        replace(config.world_model, observation=replace(config.world_model.observation, size_px=60))
    with pytest.raises(ValueError, match=r"channel_weights has 2 entries"):
        replace(config.world_model, vision=replace(config.world_model.vision, channel_weights=(1.0, 2.0)))
    with pytest.raises(ValueError, match=r"policy\.replay_critic"):
        replace(config, policy=replace(config.policy, replay_critic=0.3))
    with pytest.raises(ValueError, match=r"decode_share"):
        replace(config.world_model.vision, decode_share=0.0)
