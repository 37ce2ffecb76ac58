"""A frozen backbone's features beside the replay: what is stored, when it is used, and that learning is the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.model.front_view import FRONT, FrontViewConfig
from agent.model.image_encoder import ImageEncoder
from tests.training.raw import ENCODER, batch_for, config_for, teacher
from tests.training.test_raw_run import SIZE, record, save_teacher
from training.experience.batches import Batches
from training.experience.features import SUFFIX, FeatureSource, FeatureStore
from training.experience.index import segment_path
from training.privileged.checkpoint import load_model as load_teacher
from training.raw.backbone import backbone_key, feature_source, pack, unpack, values_per_decision
from training.raw.config import RawRunConfig
from training.raw.learner import RawLearner
from training.raw.trainer import configured, train
from training.replay import read_layout


def greys(images: np.ndarray) -> np.ndarray:
    """A backbone: the mean of every camera's image."""
    return images.mean((2, 3, 4)).astype(np.float16)


def source(key: str = "a") -> FeatureSource:
    return FeatureSource(key, 6, SIZE, greys)


def test_features_are_computed_once_and_are_those_of_their_steps(tmp_path: Path) -> None:
    record(tmp_path / "replay", steps=16)
    path = segment_path(tmp_path / "replay", "s0-00000001")
    layout = read_layout(path)
    store = FeatureStore(tmp_path / "features", source(), 1.0)
    found = store.read(path, layout, 2, 5)
    expected = (10 * np.arange(10, 13)[:, None] + np.arange(6)) % 256
    assert np.abs(found - expected).max() < 2.0  # JPEG
    assert store.computed == 8  # the whole segment
    again = FeatureStore(tmp_path / "features", source(), 1.0)
    assert np.array_equal(again.read(path, layout, 2, 5), found)
    assert again.computed == 0


def test_features_of_another_backbone_or_segment_and_damaged_ones_are_made_anew(tmp_path: Path) -> None:
    record(tmp_path / "replay", steps=16)
    first, second = (segment_path(tmp_path / "replay", f"s0-{k:08d}") for k in range(2))
    layout = read_layout(first)
    right = FeatureStore(tmp_path / "features", source(), 1.0).read(first, layout, 0, 8)
    file = tmp_path / "features" / "a" / f"{first.stem}{SUFFIX}"
    other = FeatureStore(tmp_path / "features", source("b"), 1.0)
    other.read(first, layout, 0, 8)
    assert other.computed == 8
    moved = tmp_path / "features" / "b" / file.name
    moved.write_bytes(file.read_bytes())
    misled = FeatureStore(tmp_path / "features", source("b"), 1.0)
    misled.read(first, layout, 0, 8)
    assert misled.computed == 8
    bent = bytearray(file.read_bytes())
    bent[-3] ^= 1
    for content in (bytes(bent), b"nonsense", b"", file.read_bytes()[:40], file.read_bytes()[:-20]):
        file.write_bytes(content)
        store = FeatureStore(tmp_path / "features", source(), 1.0)
        assert np.array_equal(store.read(first, layout, 0, 8), right)
        assert store.computed == 8
    shutil.copy(tmp_path / "features" / "a" / file.name, file.with_name(f"{second.stem}{SUFFIX}"))
    store = FeatureStore(tmp_path / "features", source(), 1.0)
    there = store.read(second, read_layout(second), 0, 8)
    assert store.computed == (8 if second.stat().st_size != first.stat().st_size else 0)
    assert not np.array_equal(there, right)


def test_beyond_the_limit_nothing_is_kept_and_the_values_are_the_same(tmp_path: Path) -> None:
    record(tmp_path / "replay", steps=8)
    path = segment_path(tmp_path / "replay", "s0-00000000")
    layout = read_layout(path)
    kept = FeatureStore(tmp_path / "kept", source(), 1.0).read(path, layout, 1, 4)
    store = FeatureStore(tmp_path / "none", source(), 0.0)
    assert np.array_equal(store.read(path, layout, 1, 4), kept)
    assert store.computed == 3
    assert not list((tmp_path / "none").rglob(f"*{SUFFIX}"))


def test_deleted_segments_lose_their_features(tmp_path: Path) -> None:
    record(tmp_path / "replay", steps=8)
    path = segment_path(tmp_path / "replay", "s0-00000000")
    store = FeatureStore(tmp_path / "features", source(), 1.0)
    store.read(path, read_layout(path), 0, 1)
    store.forget([path.stem])
    assert not list((tmp_path / "features").rglob(f"*{SUFFIX}"))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "replay", steps=8)
    path = segment_path(tmp_path / "replay", "s0-00000000")
    store = FeatureStore(tmp_path / "features", replace(source(), image_hw=(64, 64)), 1.0)
    with pytest.raises(ValueError, match=r"images of shape \(64, 64\) are wanted"):
        store.read(path, read_layout(path), 0, 1)


def test_the_key_tells_backbones_apart_and_nothing_else() -> None:
    encoder = ImageEncoder(ENCODER)
    before = backbone_key(encoder)
    with torch.no_grad():
        next(iter(encoder.neck.parameters())).add_(1.0)
    assert backbone_key(encoder) == before
    with torch.no_grad():
        next(iter(encoder.backbone.parameters()))[0, 0, 0, 0] += 1e-3
    assert backbone_key(encoder) != before
    assert backbone_key(ImageEncoder(replace(ENCODER, image_width=96))) != before


def test_maps_survive_being_stored_up_to_half_precision() -> None:
    encoder = ImageEncoder(ENCODER).eval()
    images = torch.randint(0, 255, (3, 6, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = encoder.backbone_maps(images)
    stored = torch.from_numpy(feature_source(encoder).extract(images.numpy()))
    assert stored.shape == (3, values_per_decision(ENCODER)) and stored.dtype == torch.float16
    for back, own in zip(unpack(stored, ENCODER), maps, strict=True):
        assert back.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(back, own, rtol=1e-3, atol=1e-3)
    assert torch.equal(pack(unpack(stored, ENCODER)), stored)


@pytest.mark.parametrize("front", [None, FrontViewConfig(bottom_px=24, width_px=64)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_an_update_from_features_is_that_from_images(bfloat16: bool, front: FrontViewConfig | None) -> None:
    guide = teacher()
    config = config_for(guide, backbone="frozen", bfloat16=bfloat16, front=front)
    losses, weights = [], []
    for stored in (False, True):
        learner = RawLearner(config, teacher(), seed=3)
        batch = batch_for(config)
        assert batch.sensors is not None
        if stored:
            extract = feature_source(learner.model.encoder).extract
            features = torch.from_numpy(extract(batch.sensors.images.flatten(0, 1).numpy())).unflatten(0, (2, 6))
            blank = batch.sensors.images[..., :0, :0]
            batch = replace(
                batch,
                image_features=features,
                sensors=replace(batch.sensors, images=blank),
                front_images=None if front is None else batch.sensors.images[:, :, FRONT],
            )
        before = {name: value.clone() for name, value in learner.model.state_dict().items()}
        metrics, _ = learner.update(batch)
        after = learner.model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before if ".backbone." in name)
        assert not torch.equal(
            after["encoder.neck.fpn_convs.0.conv.weight"], before["encoder.neck.fpn_convs.0.conv.weight"]
        )
        looked = [name for name in before if "neck.front.convolutions.0.conv" in name]
        assert bool(looked) == (front is not None)
        assert not any(torch.equal(after[name], before[name]) for name in looked)
        losses.append({name: float(metrics[name]) for name in ("world_model", "align_embed", "align_deter", "seen")})
        weights.append(after)
    tolerance = 2e-2 if bfloat16 else 1e-3
    assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=tolerance)


def test_a_run_learns_from_stored_features_and_goes_on(tmp_path: Path) -> None:
    record(tmp_path / "data" / "replay")
    run = RawRunConfig(
        teacher=save_teacher(tmp_path / "privileged"),
        collectors=0,
        replay=tmp_path / "data" / "replay",
        evaluate_minutes=0.0,
        updates=1,
        batch=2,
        steps=3,
        log_updates=1,
        backbone="frozen",
        bfloat16=True,
    )
    assert train(run, tmp_path / "run", minutes=10.0) == 1
    files = sorted((tmp_path / "data" / "features").rglob(f"*{SUFFIX}"))
    assert files
    learner = RawLearner(configured(run, tmp_path / "run" / "teacher"), load_teacher(run.teacher))
    assert learner.model.encoder.config.image_height == SIZE[0]
    assert train(replace(run, updates=2, features_gib=1.0), tmp_path / "run", minutes=20.0) == 2
    assert {path.parent.name for path in (tmp_path / "data" / "features").rglob(f"*{SUFFIX}")} == {files[0].parent.name}
    with pytest.raises(ValueError, match="backbone"):
        train(replace(run, updates=3, backbone="learned"), tmp_path / "run", minutes=20.0)


def test_batches_bring_features_instead_of_pixels(tmp_path: Path) -> None:
    record(tmp_path / "replay")
    guide = load_teacher(save_teacher(tmp_path / "privileged"))
    config = replace(guide.config, batch=2, steps=5, replay=replace(guide.config.replay, refresh_s=0.0))
    store = FeatureStore(tmp_path / "features", source(), 1.0)
    with Batches(tmp_path / "replay", config, ahead=0, threads=1, images=store) as batches:
        batch = batches.next().replayed
    assert batch.sensors is not None and batch.image_features is not None
    assert batch.sensors.images.shape == (2, 5, 6, 3, 0, 0)
    expected = (10 * batch.reward.long()[..., None] + torch.arange(6)) % 256
    assert float((batch.image_features.float() - expected).abs().max()) < 2.0
    assert torch.equal(batch.sensors.ego_motion[..., 0], batch.reward)
    assert batch.front_images is None


def test_the_front_images_come_beside_features_where_they_are_wanted(tmp_path: Path) -> None:
    record(tmp_path / "replay")
    guide = load_teacher(save_teacher(tmp_path / "privileged"))
    config = replace(guide.config, batch=2, steps=5, replay=replace(guide.config.replay, refresh_s=0.0))
    store = FeatureStore(tmp_path / "features", source(), 1.0, front=True)
    found = []
    for images in (store, SIZE):
        with Batches(tmp_path / "replay", config, ahead=0, threads=1, images=images) as batches:
            found.append(batches.next().replayed)
    assert found[0].image_features is not None and found[1].sensors is not None
    assert found[0].front_images is not None and found[1].front_images is None
    assert torch.equal(found[0].front_images, found[1].sensors.images[:, :, FRONT])


def test_a_frozen_backbone_needs_a_source_and_no_share_of_images() -> None:
    with pytest.raises(ValueError, match=r"config\.encoder"):
        RawRunConfig(backbone="frozen", encoder=None)
    with pytest.raises(ValueError, match="image_gradients"):
        config_for(teacher(), backbone="frozen", image_gradients=0.5)
