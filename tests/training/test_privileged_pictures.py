"""Pictures of a run: its curves, and what its world model imagines beside what came."""

from __future__ import annotations

import json
from pathlib import Path

import carla
import numpy as np
import pytest
import torch
from PIL import Image

from agent import config as configs
from agent.checkpoint import CheckpointError, save_checkpoint
from agent.model.policy import pedal_first
from eval.generate import generate_routes
from eval.routes import write_routes
from simulator.towns.generate import generate
from tests.training.privileged import debug_config
from training import bev
from training.env.observation import VECTOR_SIZE
from training.learner import Learner
from training.privileged import checkpoint, curves, dream
from training.privileged.checkpoint import load_model

TOWN = "Gen02"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model as a run leaves it."""
    folder = tmp_path_factory.mktemp("run") / "model"
    config = debug_config("paper", vector=VECTOR_SIZE)
    tensors = Learner(config, seed=3).tensors()
    kept = {name: value for name, value in tensors.items() if name.startswith(("model.", "policy."))}
    save_checkpoint(folder, configs.to_plain(config), kept, step=0, created_by="test")
    return folder


def test_a_saved_model_drives_as_the_learner_would(model: Path):
    learner = Learner(debug_config("paper", vector=VECTOR_SIZE), seed=3)
    observation = {"words": np.zeros((128, 128), np.uint64), "vector": np.zeros(VECTOR_SIZE, np.float32)}
    driver = load_model(model).driver()
    action = driver.act(observation, greedy=True)
    log_policy = learner.policy.log_policy(driver.state.features())
    assert action == pedal_first(log_policy[0])


def test_an_exported_model_is_small_and_another_run_begins_with_it(model: Path, tmp_path: Path):
    checkpoint.export(model, tmp_path / "out", "# card\n")
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert size < 0.6 * sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert (tmp_path / "out" / "model_card.md").read_text(encoding="utf-8") == "# card\n"
    learner = Learner(debug_config("paper", vector=VECTOR_SIZE), seed=9)
    checkpoint.begin_with(learner, tmp_path / "out")
    wanted = load_model(model).world_model.state_dict()
    for name, value in learner.model.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-6)
    assert learner.updates == 0
    with pytest.raises(CheckpointError, match="out"):
        checkpoint.begin_with(Learner(debug_config("paper", vector=VECTOR_SIZE + 1)), tmp_path / "out")


def test_another_models_folder_is_refused(model: Path, tmp_path: Path):
    config = debug_config("strong", vector=VECTOR_SIZE)
    tensors = Learner(debug_config("paper", vector=VECTOR_SIZE)).tensors()
    save_checkpoint(tmp_path / "model", configs.to_plain(config), tensors, step=0, created_by="test")
    with pytest.raises(CheckpointError, match="model"):
        load_model(tmp_path / "model")


def test_imagination_begins_with_what_was_seen(model: Path):
    loaded = load_model(model)
    driver = loaded.driver()
    driver.act({"words": np.zeros((128, 128), np.uint64), "vector": np.zeros(VECTOR_SIZE, np.float32)}, greedy=True)
    imagined = dream.imagine(loaded, driver.state, [3, 4])
    assert imagined.shape == (3, bev.CHANNELS, 16, 16)
    torch.testing.assert_close(imagined[:1], loaded.world_model.decoder.probabilities(driver.state.features()))
    assert not torch.equal(imagined[1], imagined[2])


def test_words_of_masks_and_back():
    words = np.array([[[5, 0], [1 << 42, 7]]], np.uint64)
    masks = torch.from_numpy(bev.unpack(words, range(bev.CHANNELS)).swapaxes(0, 1).astype(np.float32))
    assert np.array_equal(dream.as_words(masks), words)
    same = dream.Dream(title="", real=words, imagined=masks)
    assert same.overlap([0, 2]) == pytest.approx([1.0])
    assert np.isnan(same.overlap([20])).all()
    nothing = dream.Dream(title="", real=words, imagined=torch.zeros_like(masks))
    table = dream.overlaps([same, nothing]).splitlines()
    assert table[0] == "| IoU, 2 dreams | step 0 |" and "| road | 0.50 |" in table
    assert "| obstacles | none there |" in table


def test_a_drive_is_drawn(model: Path, tmp_path: Path):
    routes = generate_routes(carla.Map(TOWN, generate(2)), 1, seed=3, town=TOWN, min_length_m=150.0, min_turns=0)
    write_routes(routes, tmp_path / "routes.xml")
    config = dream.DreamConfig(
        model=model, routes=tmp_path / "routes.xml", out=tmp_path / "dream.png", seen=4, imagined=3, traffic=0
    )
    shown = dream.draw(config).splitlines()
    assert shown[-1] == str(config.out) and shown[0].startswith("| IoU, 1 dreams")
    with Image.open(config.out) as image:
        assert image.width > 4 * dream.TILE_PX and len(image.getcolors(1 << 20) or []) > 5


def test_curves_of_a_run_are_drawn(tmp_path: Path):
    events = [{"kind": "update", "update": k, "return": 0.1 * k, "value": 0.1 * k, "kl": 1.0} for k in range(60)]
    events += [
        {"kind": "episode", "update": k, "success": k > 30, "completion_percent": k, "reward": k, "version": k or None}
        for k in range(60)
    ]
    text = "".join(json.dumps(event) + "\n" for event in events) + '{"kind": "upd'
    (tmp_path / curves.EVENTS).write_text(text, encoding="utf-8")
    updates, means = curves.series(list(curves.read_events(tmp_path)), "episode", "completion_percent", 10)
    assert updates[0] == 10 and means[0] == pytest.approx(np.mean(range(1, 11)))  # the first one had no policy
    with Image.open(curves.draw([tmp_path], tmp_path / "curves.png")) as image:
        assert image.width > 500
    with pytest.raises(ValueError, match="no events"):
        curves.draw([tmp_path / "nowhere"], tmp_path / "curves.png")
