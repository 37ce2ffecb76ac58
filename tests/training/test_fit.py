"""Mask encoders compared on recorded windows: what is learned, what is measured on held-out ones, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.experience import transition
from training import bev, fit
from training.experience.writer import ExperienceWriter
from training.fit import FitConfig
from training.presets import preset
from training.world_model.decoder import Decoder

SIZE_PX = 16
UPPER, LEFT = 3, 40
"""Channels."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FitConfig:
    """The debug size on a recorded stream, held out another one: one mask over the upper half, and in every other step
    one over the left half."""
    monkeypatch.setattr(fit, "preset", lambda recipe, _: preset(recipe, "debug"))
    for folder, steps in ((tmp_path / "replay", 24), (tmp_path / "held_out", 16)):
        with ExperienceWriter(folder, stream="s0", segment_steps=8) as writer:
            for step in range(steps):
                words = np.zeros((bev.SIZE_PX, bev.SIZE_PX), np.uint64)
                words[: bev.SIZE_PX // 2] |= np.uint64(1 << UPPER)
                words[:, : bev.SIZE_PX // 2] |= np.uint64((step % 2) << LEFT)
                writer.add(replace(transition(0, step), words=words))
    return FitConfig(
        replay=tmp_path / "replay",
        held_out=tmp_path / "held_out",
        kinds=("strided", "patch"),
        updates=40,
        batch=2,
        steps=3,
        size_px=SIZE_PX,
        learning_rate=1e-2,
        held_out_batches=2,
        threads=torch.get_num_threads(),
    )


def test_every_kind_learns_and_the_table_says_how_well(config: FitConfig) -> None:
    """Of held-out windows, and of the masks that occur in them alone."""
    result = fit.run(config)
    assert list(result["models"]) == ["strided", "patch"]
    for model in result["models"].values():
        assert list(model["iou"]) == [bev.CHANNEL_NAMES[UPPER], bev.CHANNEL_NAMES[LEFT]]
        upper, left = model["iou"].values()
        assert 0.9 < upper <= 1.0 and 0.0 <= left <= 1.0
        assert model["mean_iou"] == pytest.approx((upper + left) / 2.0)
        assert model["parameters"] > 1000 and model["cpu_s_per_update"] > 0.0
    assert json.loads(json.dumps(result))["config"]["held_out"] == str(config.held_out)
    header, _, *rows = fit.table(result).splitlines()
    assert header == "| channel | IoU strided | IoU patch |"
    assert [row.split("|")[1].strip() for row in rows] == [
        bev.CHANNEL_NAMES[UPPER],
        bev.CHANNEL_NAMES[LEFT],
        "**mean**",
        "CPU seconds per update",
    ]
    assert rows[-2].endswith(f"| {result['models']['patch']['mean_iou']:.3f} |")


def test_overlap_is_intersection_over_union_of_all_frames(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that always draws the same, with some doubt: the first mask everywhere, of the other one a half."""
    prediction = torch.full((bev.CHANNELS, SIZE_PX, SIZE_PX), 0.45)
    prediction[UPPER] = 0.55
    prediction[LEFT, : SIZE_PX // 2, : SIZE_PX // 2] = 0.55

    def probabilities(_: Decoder, features: Tensor) -> Tensor:
        return prediction.expand(len(features), -1, -1, -1)

    monkeypatch.setattr(Decoder, "probabilities", probabilities)
    config = replace(config, updates=1, kinds=("patch",))
    (model,) = fit.run(config)["models"].values()
    words = torch.cat([batch.words for batch in islice(fit._windows(config, config.held_out), 2)]).flatten(0, 1)
    share = (words[:, 0, 0] >> LEFT & 1).double().mean().item()
    assert 0.0 < share < 1.0
    assert model["iou"][bev.CHANNEL_NAMES[UPPER]] == 0.5
    union = 0.5 * share + 0.25 * (1.0 - share)
    assert model["iou"][bev.CHANNEL_NAMES[LEFT]] == pytest.approx(0.25 * share / union)


def test_an_empty_folder_is_refused(config: FitConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        fit.run(replace(config, held_out=tmp_path / "empty"))
    with pytest.raises(ValueError, match="kinds not empty"):
        replace(config, kinds=())
