"""A neck that tells masks and reads them as the privileged encoder does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.actions import ACTIONS
from agent.config import parse, to_plain
from agent.ego_vector import MANOEUVRE_SIZE, SEEN_SIZE
from agent.model.raw_model import RawNeck
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from tests.training.raw import batch_for, config_for, teacher
from training.env.gaps import GAP_SIZE
from training.policy.actor_critic import ActorCritic
from training.privileged.checkpoint import PrivilegedModel
from training.raw.config import RawConfig, told_masks
from training.raw.learner import RawLearner
from training.raw.model import LEAST_TOLD, RawWorldModel, told_loss
from training.raw.told import _plain, mask_cross_entropy
from training.raw.trainer import _load_part
from training.world_model.model import WorldModel

SURE = 40.0


@pytest.fixture(name="guide", scope="module")
def _guide() -> PrivilegedModel:
    """A teacher whose mask encoder is of the kind `patch`, on masks twice as fine as the canvas."""
    plain = teacher()
    world = plain.config.world_model
    vision, observation = replace(world.vision, kind="patch"), replace(world.observation, size_px=64)
    world = replace(world, vision=vision, observation=observation)
    config = replace(plain.config, world_model=world)
    weights = torch.Generator().manual_seed(3)
    return PrivilegedModel(config, WorldModel(world, weights).eval(), ActorCritic(config.policy, world, weights).eval())


@pytest.fixture(name="config", scope="module")
def _config(guide: PrivilegedModel) -> RawConfig:
    return config_for(guide, told=True)


def logits_of(words: torch.Tensor, channels: int) -> torch.Tensor:
    """Beyond doubt."""
    bits = (words[:, None] >> torch.arange(channels)[:, None, None]) & 1
    return SURE * (2.0 * bits.float() - 1.0)


def test_true_masks_are_read_as_the_privileged_encoder_reads_them(guide: PrivilegedModel, config: RawConfig) -> None:
    model = RawWorldModel(config, torch.Generator().manual_seed(0))
    model.begin_with(guide.world_model)
    words = batch_for(config).words.flatten(0, 1)
    assert model.neck.masks is not None
    masks = logits_of(words, config.world_model.observation.channels).sigmoid()
    found = model.neck.masks.reader(masks)
    torch.testing.assert_close(found, guide.world_model.encoder.masks(words), atol=1e-5, rtol=1e-4)


def test_the_loss_by_hand(config: RawConfig) -> None:
    world = config.world_model
    words = batch_for(config).words
    channels = world.observation.channels
    told = logits_of(words.flatten(0, 1), channels).unflatten(0, words.shape[:2])
    assert float(told_loss(told, words, world)) == pytest.approx(0.0, abs=1e-3)
    nothing = torch.zeros_like(told)
    weights = [max(weight, LEAST_TOLD) for weight in world.vision.channel_weights] or [1.0] * channels
    expected = sum(weights) * words[0, 0].numel() * 0.6931472
    assert float(told_loss(nothing, words, world)) == pytest.approx(expected, rel=1e-5)
    wrong = told.clone()
    wrong[0, 0, 7, 3, 5] *= -1.0
    assert float(told_loss(wrong, words, world)) == pytest.approx(
        weights[7] * SURE / words[..., 0, 0].numel(), rel=1e-3
    )


def test_one_pass_on_a_cpu_is_the_plain_loss_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**63), 2**63 - 1, (3, 8, 16), generator=generator)  # bits beyond the channels are nobody's
    logits = 6.0 * torch.randn(3, 43, 8, 16, generator=generator)
    logits[0, :, 0, 0], logits[1, :, 0, 0] = 300.0, -300.0
    weights = torch.rand(43, generator=generator)
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = mask_cross_entropy(found, words, weights)
    plain = _plain(expected, words, weights)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-3)
    (3.0 * loss).backward()
    (3.0 * plain).backward()
    torch.testing.assert_close(found.grad, expected.grad)
    half = logits.bfloat16().requires_grad_()
    (3.0 * mask_cross_entropy(half, words, weights)).backward()
    assert half.grad is not None
    torch.testing.assert_close(half.grad.float(), expected.grad, atol=0.02, rtol=0.1)


def test_masks_are_told_better_and_teach_the_image_encoder(guide: PrivilegedModel, config: RawConfig) -> None:
    learner = RawLearner(config, guide, seed=0)
    batch = batch_for(config)
    before = [parameter.clone() for parameter in learner.model.encoder.parameters()]
    told = [float(learner.update(batch)[0]["told"]) for _ in range(12)]
    assert told[-1] < 0.9 * told[0]
    assert any(not torch.equal(*pair) for pair in zip(before, learner.model.encoder.parameters(), strict=True))
    sight = learner.model.see(batch.sensors, guide.world_model.one_hot(batch.previous_action))  # pyright: ignore
    assert sight.masks is not None
    assert sight.masks.shape == (*batch.first.shape, config.world_model.observation.channels, *batch.words.shape[2:])
    assert sight.embed.shape[-1] == config.model.embed


def test_an_agent_without_told_masks_gives_the_rest_of_its_neck(guide: PrivilegedModel, config: RawConfig) -> None:
    plain = RawWorldModel(config_for(guide), torch.Generator().manual_seed(5))
    model = RawWorldModel(config, torch.Generator().manual_seed(6))
    own = {name: value.clone() for name, value in model.neck.state_dict().items()}
    _load_part(model.neck, {f"neck.{name}": value for name, value in plain.neck.state_dict().items()}, "neck", "test")
    for name, value in model.neck.state_dict().items():
        if name in ("seen.2.weight", "seen.2.bias"):  # the gaps behind the other numbers are told along the way now
            assert torch.equal(value, plain.neck.state_dict()[name][:SEEN_SIZE]), name
            continue
        expected = own if name.startswith(("masks.", "way.", "gaps.")) else plain.neck.state_dict()
        assert torch.equal(value, expected[name]), name


def test_gaps_are_told_along_the_way_and_do_not_bend_the_masks(guide: PrivilegedModel, config: RawConfig) -> None:
    neck = config.model.neck
    assert neck.masks is not None
    if not neck.gaps:
        neck = replace(neck, gaps=GAP_SIZE, masks=replace(neck.masks, way_units=8))
    model = RawNeck(neck, config.model.encoder, config.model.norm)
    n = 2
    bev = torch.randn(n, config.model.encoder.grid.cells, config.model.encoder.embed_dims, requires_grad=True)
    image = torch.zeros(n, 3, config.model.encoder.image_height, config.model.encoder.image_width, dtype=torch.uint8)
    known = torch.randn(n, ROUTE_POINTS, 2), torch.randn(n, VECTOR_SIZE + MANOEUVRE_SIZE), torch.zeros(n, len(ACTIONS))
    sight = model(bev, *known, image, torch.ones(n, dtype=torch.bool))
    assert sight.seen.shape == (n, SEEN_SIZE + neck.gaps)
    sight.seen[:, SEEN_SIZE:].sum().backward()
    told = {name for name, value in model.named_parameters() if value.grad is not None and bool(value.grad.any())}
    assert {name.split(".")[0] for name in told} >= {"way", "gaps"}
    assert not any(name.startswith(("masks.", "seen.")) for name in told)


def test_only_masks_that_the_privileged_encoder_reads(guide: PrivilegedModel, config: RawConfig) -> None:
    world = guide.config.world_model
    with pytest.raises(ValueError, match="has to be of kind patch"):
        told_masks(replace(world, vision=replace(world.vision, kind="strided")))
    masks = config.model.neck.masks
    assert masks is not None
    with pytest.raises(ValueError, match="not what the privileged encoder reads"):
        replace(config, model=replace(config.model, neck=replace(config.model.neck, masks=replace(masks, depth=7))))
    assert parse(RawConfig, to_plain(config), "test") == config
