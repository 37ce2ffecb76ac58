"""Data loading and the cloning loop on small made-up recordings."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.checkpoint import CheckpointError
from agent.driver import AgentConfig, load_model
from agent.localization import Pose
from agent.model.driving_model import AUXILIARY, MASKS, DrivingModelConfig, NeckConfig, small_encoder
from agent.model.rssm import RssmConfig
from agent.route import Command, Plan, RouteConfig, RouteTracker, route_vector
from training import bev, clone
from training.clone import CloneConfig, export, learning_rate, mask_loss, run
from training.dataset import (
    NoiseConfig,
    SamplingConfig,
    is_validation,
    mask_bits,
    move_route,
    step_weight,
    unpack_masks,
)
from training.replay import SegmentWriter, Step

ENCODER = replace(small_encoder(), backbone_width=8, embed_dims=16, heads=2, ffn_dims=16)
MODEL = DrivingModelConfig(
    encoder=ENCODER,
    neck=NeckConfig(width=16, embed=32),
    rssm=RssmConfig(deter=16, groups=4, classes=4, hidden=16),
    mask_hidden=8,
    latent_mask_hidden=16,
)
CONFIG = CloneConfig(
    model=MODEL,
    minutes=0.05,
    batch=2,
    steps=2,
    warmup_updates=2,
    validation_windows=4,
    validation_steps=3,
    threads=1,
    validation_share=0.5,
)


def record(folder: Path, episodes: int = 4, steps: int = 6) -> Path:
    """Episodes in which bright pictures mean brake and dark ones mean go."""
    for episode in range(episodes):
        writer = SegmentWriter(folder, {"episode": f"Gen02-{episode}", "town": "Gen02"})
        for n in range(steps):
            bright = (n // 2) % 2
            label = np.zeros(39, np.float32)
            label[0 if bright else 5] = 1.0
            words = np.full((128, 128), 1 << bev.ROAD, np.uint64)
            arrays = {
                "ego_motion": np.zeros(3, np.float32),
                "route": np.zeros((8, 2), np.float32),
                "vector": np.zeros(18, np.float32),
                "camera_valid": np.ones(6, np.float32),
                "label": label,
                "auxiliary": np.zeros(len(AUXILIARY), np.float32),
            }
            images = np.full((6, 3, 128, 224), 30 + 180 * bright, np.uint8)
            writer.add(Step(images, words, arrays, {"speed_mps": 5.0, "first": n == 0}))
        writer.publish()
    return folder


def test_masks_lie_on_the_encoders_grid() -> None:
    """A car 20 m ahead and 5 m to the left is in the mask row and column of that place; row 0 is the rear."""
    words = np.zeros((128, 128), np.uint64)
    row, column = bev.EGO_ROW_PX - 40, 64 - 10
    words[row - 4 : row + 4, column - 2 : column + 2] = np.uint64(1 << bev.VEHICLE)
    masks = unpack_masks(mask_bits(words, small_encoder()))
    assert masks.shape == (len(MASKS), 48, 32)
    rows, columns = np.nonzero(masks[MASKS.index("vehicle")])
    assert -8.0 + rows.mean() + 0.5 == pytest.approx(20.0, abs=0.6)
    assert 16.0 - columns.mean() - 0.5 == pytest.approx(5.0, abs=0.6)
    assert masks.sum() == len(rows), "no other mask is set"


def test_noise_on_the_route_equals_a_wrong_pose() -> None:
    """Moving the route's inputs rigidly gives exactly what the tracker would have said from the other pose."""
    points = np.array([[0.0, 0.0], [30.0, 1.0], [60.0, 20.0], [90.0, 60.0]])
    plan = Plan(points, (Command.LANEFOLLOW, Command.LEFT, Command.RIGHT, Command.LANEFOLLOW), points * 0.0, 0.0)
    truth = Pose(10.0, 0.3, 0.05)
    view = RouteTracker(RouteConfig(), plan).update(truth, 10.0)
    shift, yaw = np.array([0.8, -0.5]), 0.02
    route, vector = move_route(view.points_m[None].astype(np.float32), route_vector(view, 5.0)[None], shift, yaw)
    # Points seen from pose P are Q^-1 p; seen turned by yaw and shifted they are those of the pose P * (shift, yaw)^-1.
    c, s = math.cos(-yaw), math.sin(-yaw)
    back = np.array([c * -shift[0] - s * -shift[1], s * -shift[0] + c * -shift[1]])
    wrong = truth.moved(back[0], back[1], -yaw)
    expected = wrong.to_local(points[np.minimum(np.arange(8), 3)])
    np.testing.assert_allclose(route[0], expected, atol=1e-4)
    np.testing.assert_allclose(vector[0, 1:5], np.clip(expected[1:3].reshape(4) / 50.0, -2, 2), atol=1e-5)
    assert vector[0, 5] == pytest.approx(np.linalg.norm(expected[1]) / 50.0, abs=1e-5)
    np.testing.assert_array_equal(vector[0, 6:], route_vector(view, 5.0)[6:])


def test_starts_and_bends_are_drawn_more_often() -> None:
    sampling = SamplingConfig()
    one_hot = lambda action: np.eye(39, dtype=np.float32)[action]  # noqa: E731
    assert step_weight(sampling, 0.0, one_hot(0)) == sampling.standing
    assert step_weight(sampling, 0.0, one_hot(5)) == sampling.starting
    assert step_weight(sampling, 6.0, one_hot(1)) == sampling.turning
    assert step_weight(sampling, 6.0, one_hot(0)) == sampling.braking
    assert step_weight(sampling, 6.0, one_hot(5)) == 1.0


def test_split_depends_on_the_name_only() -> None:
    names = [f"Gen02-{n}" for n in range(2000)]
    chosen = [is_validation(name, 0.1) for name in names]
    assert chosen == [is_validation(name, 0.1) for name in names]
    assert 0.07 < np.mean(chosen) < 0.13


def test_mask_loss_matches_float64_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, len(MASKS), 4, 5, generator=generator)
    target = (torch.rand(2, 3, len(MASKS), 4, 5, generator=generator) > 0.7).float()
    x, y = logits.double().numpy(), target.double().numpy()
    weight = np.array(clone.MASK_WEIGHTS)[:, None, None]
    exact = weight * y * np.log1p(np.exp(-x)) + (1.0 - y) * np.log1p(np.exp(x))
    assert mask_loss(logits, target).item() == pytest.approx(exact.mean((0, 1, 3, 4)).sum(), rel=1e-5)


def test_learning_rate_warms_up_and_decays() -> None:
    config = CloneConfig()
    assert learning_rate(config, 0, 0.0) < 0.02 * config.learning_rate
    assert learning_rate(config, 1000, 0.0) == pytest.approx(config.learning_rate)
    assert learning_rate(config, 1000, 1.0) == pytest.approx(config.final_learning_rate)


def test_trains_resumes_and_exports(tmp_path: Path) -> None:
    data = record(tmp_path / "data")
    metrics = run(CONFIG, (data,), tmp_path / "run")
    assert {"accuracy", "iou_road", "error_lateral_offset_m"} <= set(metrics)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events[0]["kind"] == "start" and not events[0]["resumed"]
    updates = events[-1]["update"]
    longer = replace(CONFIG, minutes=0.08)
    run(longer, (data,), tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any(event["kind"] == "start" and event["resumed"] for event in events)
    assert events[-1]["update"] > updates
    folder = export(tmp_path / "run", tmp_path / "weights", half=True, card="card")
    model = load_model(folder, "cpu")
    assert next(model.parameters()).dtype == torch.float32 and model.config == MODEL
    assert AgentConfig.read(folder / "agent.yaml").checkpoint == "."
    assert (folder / "model_card.md").read_text() == "card"


def test_init_from_other_sizes_is_refused(tmp_path: Path) -> None:
    data = record(tmp_path / "data", episodes=2)
    run(replace(CONFIG, minutes=0.005), (data,), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "weights", half=False, card="card")
    other = replace(CONFIG, model=replace(MODEL, neck=NeckConfig(width=16, embed=48)))
    with pytest.raises(CheckpointError, match="do not fit"):
        run(other, (data,), tmp_path / "other", init=tmp_path / "weights")


def test_learns_a_tiny_task() -> None:
    """Bright means brake, dark means go: a few updates on four frames suffice."""
    torch.manual_seed(0)
    trainer = clone._Trainer.fresh(replace(CONFIG, learning_rate=5e-3, bfloat16=False))
    from concurrent.futures import ThreadPoolExecutor
    from tempfile import TemporaryDirectory

    from training.dataset import StateCache, WindowDataset, load_episode
    from training.replay import read_segments

    with TemporaryDirectory() as name:
        segments = list(read_segments([record(Path(name), episodes=1)]))
    dataset = WindowDataset([load_episode(segments[0], ENCODER, SamplingConfig())], 2)
    with ThreadPoolExecutor(1) as pool:
        batch = dataset.batch([(0, 0), (0, 2)], NoiseConfig(camera_loss=0.0), np.random.default_rng(0), pool)
    cache = StateCache(dataset, MODEL.rssm, ENCODER)
    assert cache.before([(0, 0), (0, 2)]).has_memory.tolist() == [False, False]
    reports = [trainer.step(batch, cache) for _ in range(15)]
    assert cache.before([(0, 0), (0, 2)]).has_memory.tolist() == [False, True], "an episode's first step has no past"
    assert reports[-1]["action"] < 0.3 * reports[0]["action"]
    assert reports[-1]["masks"] < reports[0]["masks"]
