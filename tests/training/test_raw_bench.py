"""The raw stage at full size: BEVFormer-base's shape, what an update costs, and steps that are computed again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from agent.config import ConfigError
from agent.model.bevformer import BEVFormer
from agent.model.driving_model import base_encoder
from agent.model.official import OFFICIAL_MODELS, build_official
from tests.training.raw import batch_for, config_for, teacher
from training import throughput
from training.bench import BenchConfig
from training.presets import preset
from training.raw import bench
from training.raw.config import RawRunConfig
from training.raw.model import RawWorldModel

HEAD = "pts_bbox_head."
SHORT = BenchConfig(batch=1, steps=4, rounds=1, threads=1)


def test_the_base_encoder_is_bevformer_base() -> None:
    """The BEV encoder has the published names and shapes; the backbone is as deep and wide."""
    config, official = base_encoder(), OFFICIAL_MODELS["base"]
    with torch.device("meta"):
        own = BEVFormer(config.bevformer).state_dict()
    published = build_official("base").state_dict()
    expected = {name[len(HEAD) :]: value.shape for name, value in published.items() if name.startswith(HEAD)}
    assert {name: value.shape for name, value in own.items()} == expected and len(expected) > 100
    assert config.backbone.out_channels == official.backbone.out_channels
    assert (config.bev_rows, config.bev_columns, config.layers, config.levels) == (200, 200, 6, 4)


@pytest.mark.parametrize("image_gradients", [1.0, 0.5])
def test_steps_that_are_computed_again_teach_the_same(image_gradients: float) -> None:
    """Loss and every gradient, whether the inside of the BEV encoder's steps is kept or not."""
    privileged = teacher()
    world = privileged.world_model.requires_grad_(False)
    found = []
    for recompute in (False, True):
        config = config_for(privileged, recompute=recompute, image_gradients=image_gradients)
        model = RawWorldModel(config, torch.Generator().manual_seed(3))
        scatter(model, torch.Generator().manual_seed(5))
        generator = torch.Generator().manual_seed(4)
        loss = model.loss(world, batch_for(config), privileged.policy, generator=generator).total
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    (kept, known), (again, other) = found
    torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-5)
    assert known.keys() == other.keys() and any("bevformer" in name for name in known)
    for name, gradient in known.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=name)


def scatter(model: RawWorldModel, generator: torch.Generator) -> None:
    """Read the images off the middle of pixels, where a gradient has no side."""
    for name, parameter in model.encoder.bevformer.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)


def test_what_is_counted_is_what_a_cpu_does() -> None:
    """The parts add up to the operations that the same loss makes on a CPU, and to its parameters."""
    config = bench.full_config("paper", "debug", "small")
    counted = bench.count(config)
    model = RawWorldModel(config)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    drives = bench.random_drives(config, replace(SHORT, steps=bench.COUNTED_STEPS))
    known = bench.random_teacher(config)
    general = RawWorldModel(replace(config, recompute=True))  # the path that GPUs take
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        general.loss(known.world_model.requires_grad_(False), drives, known.policy.requires_grad_(False))
    forwards = sum(part.forward_gflop for part in counted.parts.values())
    assert counter.get_total_flops() / 1e9 / bench.COUNTED_STEPS == pytest.approx(forwards, rel=0.01)
    assert all(part.kept_gib > 0.0 and part.gflop > part.forward_gflop > 0.0 for part in counted.parts.values())


def test_an_update_computed_again_works_more_and_keeps_less() -> None:
    parts = {name: bench.PartCost(1_000_000, 1.0, 3.0, kept) for name, kept in (("images", 0.5), ("lift", 10.0))}
    cost = bench.UpdateCost(parts, teacher=2_000_000, memory_gib=0.25)
    assert cost.kept_gib(2, 8, recompute=False) == 2 * 8 * 10.5
    assert cost.kept_gib(2, 8, recompute=True) == 2 * (8 * 0.75 + 10.0)
    assert cost.tflop(2, 8, recompute=False) == pytest.approx(0.096)
    assert cost.tflop(2, 8, recompute=True) == pytest.approx(0.112)
    assert cost.weights_gib() == pytest.approx(4 * (4 * 2_000_000 + 2_000_000) / 2**30)
    text = bench.table(cost, 2, 8)
    assert "| recomputed | 0.1 | 32.0 |" in text and "| lift | 1.0 | 1.0 | 3.0 | 10.000 |" in text
    assert json.loads(json.dumps(bench.report(cost, 2, 8)))["update"]["kept"]["kept_gib"] == 168.0


def test_updates_are_timed() -> None:
    config = bench.full_config("paper", "debug", "small", recompute=True)
    timing = bench.time_raw(config, replace(SHORT, threads=torch.get_num_threads()), "cpu")
    assert len(timing.cpu_s) == 1 and timing.cpu_s[0] > 0.0 and timing.peak_mib is None
    assert "replayed frames per second" in throughput.table(timing)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees no GPU"):
            bench.time_raw(config, SHORT, "cuda")


def test_the_finer_map_is_for_the_small_encoder() -> None:
    assert RawRunConfig(encoder_size="base", encoder=None).encoder_size == "base"
    with pytest.raises(ValueError, match="image_stride 8 is for encoder_size small"):
        RawRunConfig(encoder_size="base", image_stride=8)
    assert preset("paper", "100m").world_model.observation.size_px == 128
