"""The driver with the real network: when it decides, what the network is given, what it leaves for viewers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agent import carla_io
from agent.actions import ACTIONS
from agent.config import ConfigError
from agent.driver import ActionConfig, AgentConfig, Driver, action_control, load_model
from agent.geodesy import Dialect
from agent.guard import Control, Request, is_valid
from tests.agent.synthetic import FULL_THROTTLE, SyntheticDrive, save_agent


def make_driver(path: Path, drive: SyntheticDrive) -> Driver:
    return Driver.load(path, carla_io.read_plan(drive.gps_route, drive.route), Dialect.CARLA_0_9_16)


def test_decides_every_second_tick_and_repeats_in_between(random_agent: Path) -> None:
    drive = SyntheticDrive()
    driver = make_driver(random_agent, drive)
    decisions, controls = [], []
    for _ in range(8):
        controls.append(driver.act(carla_io.read(drive.input_data(), drive.time_s)).control)
        assert driver.last_decision is not None
        decisions.append(driver.last_decision.now_s)
        drive.follow()
    assert decisions == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    assert all(is_valid(control) for control in controls)
    assert controls[0::2] == controls[1::2]


def test_the_network_is_given_what_the_contract_says(random_agent: Path) -> None:
    drive = SyntheticDrive(yaw_deg=30.0)
    driver = make_driver(random_agent, drive)
    for tick in range(41):
        driver.act(carla_io.read(drive.input_data(), drive.time_s))
        if tick == 38:
            before = drive.x_m, drive.y_m, drive.yaw_deg
        if tick < 40:
            drive.step(target_mps=6.0, yaw_rate_degps=10.0 if tick > 30 else 0.0)
    decision = driver.last_decision
    assert decision is not None
    inputs = decision.inputs
    assert inputs.images.shape == (1, 6, 3, 128, 224)
    assert inputs.images.dtype == torch.uint8
    assert inputs.camera_valid.tolist() == [[True] * 6]
    assert inputs.first.tolist() == [False]
    yaw = math.radians(before[2])
    east, south = drive.x_m - before[0], drive.y_m - before[1]
    forward = east * math.cos(yaw) + south * math.sin(yaw)
    left = -(south * math.cos(yaw) - east * math.sin(yaw))
    turn = -math.radians(drive.yaw_deg - before[2])
    np.testing.assert_allclose(inputs.ego_motion[0], [forward, left, turn], atol=0.01)
    assert inputs.route.shape == (1, 8, 2)
    assert inputs.vector.shape == (1, 18 + 13)  # of the clone, then the manoeuvres of the plan
    assert float(inputs.vector[0, 0]) == pytest.approx(drive.speed_mps / 10.0, abs=1e-3)
    assert float(inputs.vector[0, 5]) == pytest.approx(decision.route.distance_m / 50.0, abs=1e-4)
    assert decision.logits.shape == (39,)
    assert decision.action == int(decision.logits.argmax())


def test_first_decision_resets_the_memory(random_agent: Path) -> None:
    drive = SyntheticDrive()
    driver = make_driver(random_agent, drive)
    firsts = []
    for _ in range(4):
        driver.act(carla_io.read(drive.input_data(), drive.time_s))
        assert driver.last_decision is not None
        firsts.append(bool(driver.last_decision.inputs.first[0]))
        drive.step()
    assert firsts == [True, True, False, False]


def test_same_inputs_give_the_same_drive(random_agent: Path) -> None:
    traces = []
    for _ in range(2):
        drive = SyntheticDrive()
        driver = make_driver(random_agent, drive)
        trace = []
        for _ in range(6):
            driver.act(carla_io.read(drive.input_data(), drive.time_s))
            assert driver.last_decision is not None
            trace.append(driver.last_decision.logits)
            drive.step()
        traces.append(torch.stack(trace))
    assert torch.equal(*traces)


def test_sampled_actions_follow_the_seed(random_agent: Path) -> None:
    model = load_model(random_agent.parent, "cpu")

    def actions(seed: int) -> list[int | None]:
        drive = SyntheticDrive()
        plan = carla_io.read_plan(drive.gps_route, drive.route)
        config = AgentConfig(action=ActionConfig(choice="sampled", seed=seed))
        driver = Driver(config, model, plan, Dialect.CARLA_0_9_16)
        taken = []
        for _ in range(16):
            driver.act(carla_io.read(drive.input_data(), drive.time_s))
            assert driver.last_decision is not None
            taken.append(driver.last_decision.action)
            drive.step()
        return taken

    assert actions(1) == actions(1)
    assert len(set(actions(1))) > 2
    assert actions(1) != actions(2)


def test_the_folded_network_decides_as_the_one_on_disk(random_agent: Path) -> None:
    drive = SyntheticDrive()
    driver = make_driver(random_agent, drive)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in driver.model.encoder.backbone.modules())
    on_disk = load_model(random_agent.parent, "cpu")
    state = on_disk.initial(1)
    for _ in range(6):
        drive.follow()
        driver.act(carla_io.read(drive.input_data(), drive.time_s))
        decision = driver.last_decision
        if driver.last_situation.now_s == decision.now_s:
            logits, state = on_disk.act(decision.inputs, state)
            torch.testing.assert_close(decision.logits, logits[0], atol=1e-4, rtol=0.0)


def test_ends_with_a_stop_at_the_end_of_the_route(driving_agent: Path) -> None:
    drive = SyntheticDrive(metres=40)
    driver = make_driver(driving_agent, drive)
    requests = []
    while drive.frame < 160:
        proposal = driver.act(carla_io.read(drive.input_data(), drive.time_s))
        requests.append(proposal.request)
        drive.follow(target_mps=0.0 if proposal.request is Request.STOP else 6.0)
    assert requests[0] is Request.DRIVE
    assert requests[-1] is Request.STOP
    assert proposal.reason == "end of the route"
    end = drive.route[-1][0].location
    assert math.hypot(drive.x_m - end.x, drive.y_m - end.y) < 6.0


def test_actions_become_controls() -> None:
    assert action_control(0) == Control(brake=1.0)
    for action in range(len(ACTIONS)):
        assert is_valid(action_control(action))
    straight = action_control(FULL_THROTTLE)
    assert (straight.throttle, straight.steer) == (pytest.approx(0.7), 0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_named_or_replaced_when_allowed(tmp_path: Path) -> None:
    drive = SyntheticDrive()
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        make_driver(save_agent(tmp_path / "a", yaml_text="device: cuda\n"), drive)
    make_driver(save_agent(tmp_path / "b", yaml_text="device: cuda\ncpu_fallback: true\n"), drive)
