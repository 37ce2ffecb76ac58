"""Collection on a real embedded server: the expert's and the agent's frames are complete, true and in step."""

import math
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import carla
import numpy as np
import pytest
import torch

from agent.actions import ACTIONS
from agent.checkpoint import CheckpointError
from agent.model.driving_model import AUXILIARY, DrivingModel
from eval.server import ServerError
from training import bev, collect
from training.clone import CloneConfig
from training.collect import CollectConfig, Disturbance, DisturbanceConfig, Shift, random_weather
from training.expert import Decision
from training.replay import Segment, read_segments

CONFIG = CollectConfig(
    towns=("Gen02",), frames=40, workers=1, max_traffic=4, disturbance=DisturbanceConfig(stops_per_s=0.0)
)


def record(folder: Path, model: DrivingModel | None, config: CollectConfig = CONFIG) -> list[Segment]:
    budget = get_context("spawn").Value("q", config.frames)
    collect._episodes("Gen02", config, 0, 0, folder, model, budget)
    return list(read_segments([folder]))


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    return record(tmp_path_factory.mktemp("expert"), None)


def test_frames_are_complete(segments: list[Segment]) -> None:
    steps = [step for segment in segments for step in segment.steps]
    assert len(steps) == CONFIG.frames
    assert segments[0].metadata["town"] == "Gen02" and segments[0].metadata["driver"] == "expert"
    for step in steps:
        images = step.images()
        assert images.shape == (6, 3, 128, 224) and images.std() > 10.0
        assert step.arrays["vector"].shape == (18,) and step.arrays["route"].shape == (8, 2)
        assert step.arrays["auxiliary"].shape == (len(AUXILIARY),)
        assert step.arrays["label"].sum() == pytest.approx(1.0, abs=1e-4)
        assert bev.unpack(step.words(), [bev.ROAD, bev.ROUTE, bev.EGO]).any((1, 2)).all()
    assert [step.scalars["first"] for step in steps] == [True] + [False] * (len(steps) - 1)


def test_what_the_car_believes_fits_the_truth(segments: list[Segment]) -> None:
    """Ego motion from odometry equals the true motion; the pictures move when the car does."""
    steps = [step for segment in segments for step in segment.steps]
    for before, after in pairwise(steps):
        (x, y, yaw), (u, v, turned) = before.arrays["pose"], after.arrays["pose"]
        true = math.cos(yaw) * (u - x) + math.sin(yaw) * (v - y), math.cos(yaw) * (v - y) - math.sin(yaw) * (u - x)
        np.testing.assert_allclose(after.arrays["ego_motion"][:2], true, atol=0.06)
        assert after.arrays["ego_motion"][2] == pytest.approx(turned - yaw, abs=0.01)
    moved = np.abs(steps[-1].images().astype(int) - steps[-2].images().astype(int)).mean()
    assert steps[-1].scalars["speed_mps"] > 2.0 and moved > 1.0


def test_the_expert_sets_off(segments: list[Segment]) -> None:
    speeds = [step.scalars["speed_mps"] for segment in segments for step in segment.steps]
    assert speeds[0] < 0.5 and max(speeds) > 3.0


def test_agent_drives_and_expert_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DrivingModel.build(CloneConfig().model).eval().requires_grad_(False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers do
    steps = [step for segment in record(tmp_path, model, replace(CONFIG, beta=0.0)) for step in segment.steps]
    torch.set_num_threads(threads)
    assert {step.scalars["expert_drives"] for step in steps} <= {True, False}
    assert any(not step.scalars["expert_drives"] for step in steps)
    for step in steps:
        assert int(np.argmax(step.arrays["label"])) == step.scalars["expert_action"]


def test_bad_input_ends_at_once_with_one_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no town 'Nowhere9'"):
        collect.run(replace(CONFIG, towns=("Nowhere9",)), tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        collect.run(CONFIG, tmp_path, tmp_path / "absent")


def test_rescue_lasts_until_the_car_is_back_in_its_lane() -> None:
    shift = Shift(replace(CONFIG, beta=0.0), np.random.default_rng(0))
    decision = Decision(0, np.zeros(len(ACTIONS), np.float32), 0.0, 0.0, 5.0, np.zeros(len(AUXILIARY), np.float32))
    assert not shift.expert_drives(0.5, 0.0, 5.0, decision)
    assert shift.expert_drives(2.5, 0.0, 5.0, decision)
    assert shift.expert_drives(1.0, 0.0, 5.0, decision), "not back yet"
    assert not shift.expert_drives(0.3, 0.0, 5.0, decision)


def test_the_expert_drives_on_when_the_agent_is_stuck() -> None:
    shift = Shift(replace(CONFIG, beta=0.0), np.random.default_rng(0))
    decision = Decision(0, np.zeros(len(ACTIONS), np.float32), 0.0, 0.0, 5.0, np.zeros(len(AUXILIARY), np.float32))
    driven = [shift.expert_drives(0.0, 0.0, 0.0, decision) for _ in range(60)]
    assert not any(driven[:39]) and any(driven[39:])


def test_weathers_differ_and_stay_in_range() -> None:
    generator = np.random.default_rng(0)
    weathers = [dict(random_weather(generator).parameters) for _ in range(50)]
    assert all(0.0 < weather["sun_altitude_angle"] <= 90.0 for weather in weathers)
    assert any(weather["precipitation"] > 0.0 for weather in weathers)
    assert len({weather["cloudiness"] for weather in weathers}) == 50


def test_disturbance_steers_and_stops_now_and_then() -> None:
    disturbance = Disturbance(DisturbanceConfig(), np.random.default_rng(0))
    wanted = carla.VehicleControl(throttle=0.7, steer=0.1)
    controls = [disturbance.apply(wanted) for _ in range(6000)]
    stopped = np.mean([control.brake > 0.0 for control in controls])
    steered = np.mean([control.brake == 0.0 and abs(control.steer - 0.1) > 1e-3 for control in controls])
    assert 0.05 < stopped < 0.25 and 0.03 < steered < 0.15
    assert all(abs(control.steer) <= 0.46 for control in controls)
