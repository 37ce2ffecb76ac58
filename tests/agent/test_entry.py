"""The agent under an evaluator: the leaderboard's import, its call order, its base class."""

import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.autonomous_agent import SensorInterface, SensorReceivedNoData, StandInAutonomousAgent
from agent.carla_io import VehicleControl
from agent.config import ConfigError
from agent.entry import LeaderboardAgent, get_entry_point
from agent.guard import Mode
from tests.agent.synthetic import SyntheticDrive

AGENT_FOLDER = Path(__file__).resolve().parents[2] / "agent"


def evaluate(agent: LeaderboardAgent, drive: SyntheticDrive, config: str, ticks: int) -> list[VehicleControl]:
    """Calls the agent as the leaderboard does, through its sensor barrier; the car follows the route by itself."""
    agent.set_global_plan(drive.gps_route, drive.route)
    agent.setup(config)
    assert agent.track.value == "SENSORS"
    specs = agent.sensors()
    assert specs == agent.sensors()  # asked once to validate and once to spawn
    for spec in specs:
        agent.sensor_interface.register_sensor(spec["id"], spec["type"], None)
    controls = []
    for _ in range(ticks):
        drive.follow()
        for name, (frame, data) in drive.input_data().items():
            agent.sensor_interface.update_sensor(name, "late", frame - 1)
            agent.sensor_interface.update_sensor(name, data, frame)
        agent.clock.frame, agent.clock.time_s = drive.frame, drive.time_s
        controls.append(agent())
    agent.destroy()
    return controls


@pytest.mark.skipif(
    not issubclass(LeaderboardAgent, StandInAutonomousAgent), reason="the official leaderboard is installed"
)
@pytest.mark.parametrize("suffix", ["", "+RouteScenario_1_rep0_Town12+RouteScenario_2_rep0_Town12"])
def test_a_route_in_the_leaderboards_call_order(driving_agent: Path, suffix: str) -> None:
    agent = LeaderboardAgent("localhost", 2000, False)
    controls = evaluate(agent, SyntheticDrive(), f"{driving_agent}{suffix}", ticks=40)
    assert len(controls) == 40
    assert all(type(control) is VehicleControl for control in controls)
    assert all(control.throttle == pytest.approx(0.7) for control in controls)
    assert not any(control.manual_gear_shift for control in controls)
    assert agent.guard.mode is Mode.NOMINAL
    assert agent.driver is None


def test_entry_point_and_ros() -> None:
    assert get_entry_point() == "LeaderboardAgent"
    assert LeaderboardAgent.get_ros_version() == -1


def test_imports_as_the_evaluator_does(tmp_path: Path, driving_agent: Path) -> None:
    script = f"""
import importlib, sys
sys.path.insert(0, {str(AGENT_FOLDER)!r})
module = importlib.import_module("entry")
agent = getattr(module, module.get_entry_point())("localhost", 2000, 0)
import queue, config, guard  # modules of agent/ seen under their bare names must not hurt
try:
    agent.setup({str(driving_agent)!r})
    print(len(agent.sensors()), agent.track.name)
finally:
    agent.destroy()
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH",)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "9 SENSORS"
    assert "global plan: 0 GPS points" in done.stderr


UNDER_THE_OFFICIAL_CLASS = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
module = importlib.import_module("entry")
agent_class = getattr(module, module.get_entry_point())
from leaderboard.autoagents.agent_wrapper import validate_sensor_configuration
from leaderboard.autoagents.autonomous_agent import AutonomousAgent
from agents.navigation.local_planner import RoadOption
from srunner.scenariomanager.timer import GameTime
from types import SimpleNamespace
sys.path.append(sys.argv[1] + "/..")
from tests.agent.synthetic import SyntheticDrive
assert issubclass(agent_class, AutonomousAgent)
drive = SyntheticDrive()
agent = agent_class("localhost", 2000, 0)
agent.set_global_plan(*([(p, RoadOption[o.name]) for p, o in plan] for plan in (drive.gps_route, drive.route)))
agent.setup(sys.argv[2])
validate_sensor_configuration(agent.sensors(), agent.track, "SENSORS")
for spec in agent.sensors():
    agent.sensor_interface.register_sensor(spec["id"], spec["type"], None)
GameTime.restart()
for _ in range(10):
    drive.follow()
    GameTime.on_carla_tick(
        SimpleNamespace(frame=drive.frame, elapsed_seconds=drive.time_s, delta_seconds=0.05, platform_timestamp=0.0)
    )
    for name, (_, data) in drive.input_data().items():
        agent.sensor_interface.update_sensor(name, data, GameTime.get_frame())
    control = agent()
agent.destroy()
print("throttle", round(control.throttle, 3), control.manual_gear_shift)
"""


def test_a_route_under_the_official_class(driving_agent: Path) -> None:
    roots = [os.environ.get(name) for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT")]
    if None in roots:
        pytest.skip("needs LEADERBOARD_ROOT and SCENARIO_RUNNER_ROOT")
    carla_root = os.environ.get("CARLA_ROOT")
    paths = [*roots, os.environ.get("PYTHONPATH"), f"{carla_root}/PythonAPI/carla" if carla_root else None]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_THE_OFFICIAL_CLASS, str(AGENT_FOLDER), str(driving_agent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "throttle 0.7 False"


def test_no_file_of_the_agent_shadows_another_module() -> None:
    names = {path.stem for path in AGENT_FOLDER.glob("*.py")} | {
        path.name for path in AGENT_FOLDER.iterdir() if path.is_dir()
    }
    installed = set(importlib.metadata.packages_distributions())
    forbidden = set(sys.stdlib_module_names) | installed | {"agent", "eval", "training", "simulator", "leaderboard"}
    assert not (names - {"__init__", "__pycache__"}) & forbidden


def test_only_one_file_imports_carla() -> None:
    importing = [
        path.relative_to(AGENT_FOLDER).as_posix()
        for path in AGENT_FOLDER.rglob("*.py")
        if any(line.split()[:2] in (["import", "carla"], ["from", "carla"]) for line in path.read_text().splitlines())
    ]
    assert importing == ["carla_io.py"]


def test_calls_in_the_wrong_order_are_named() -> None:
    agent = LeaderboardAgent("localhost", 2000)
    with pytest.raises(ConfigError, match=r"before setup\(\)"):
        agent.sensors()
    with pytest.raises(ConfigError, match=r"before setup\(\)"):
        agent.run_step({}, 0.05)


def test_stand_in_down_samples_the_plan() -> None:
    drive = SyntheticDrive(metres=600)
    agent = StandInAutonomousAgent("localhost", 2000)
    agent.set_global_plan(drive.gps_route, drive.route)
    kept = [drive.route.index(point) for point in agent._global_plan_world_coord]
    assert kept[0] == 0
    assert kept[-1] == 599
    assert {300, 316} <= set(kept)
    assert max(np.diff(kept)) <= 203
    assert agent._global_plan == [drive.gps_route[i] for i in kept]


def test_sensor_barrier_waits_for_every_sensor_of_the_frame() -> None:
    barrier = SensorInterface(timeout_s=0.01)
    for tag in ("a", "b"):
        barrier.register_sensor(tag, "sensor.test", None)
    with pytest.raises(ValueError, match="used twice"):
        barrier.register_sensor("a", "sensor.test", None)
    with pytest.raises(ValueError, match="not registered"):
        barrier.update_sensor("c", 0, 1)
    barrier.update_sensor("a", "old", 1)
    barrier.update_sensor("a", "new", 2)
    with pytest.raises(SensorReceivedNoData, match="from b"):
        barrier.get_data(2)
    for tag in ("b", "a"):
        barrier.update_sensor(tag, tag, 3)
    assert barrier.get_data(3) == {"a": (3, "a"), "b": (3, "b")}


def test_watchdog_of_the_evaluator_passes_through(driving_agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the leaderboard: its timer sends SIGINT, its handler raises RuntimeError inside our frames."""
    drive = SyntheticDrive()
    agent = LeaderboardAgent("localhost", 2000)
    agent.set_global_plan(drive.gps_route, drive.route)
    agent.setup(str(driving_agent))
    assert agent.driver is not None

    def signal_handler(*_: object) -> None:
        raise RuntimeError("Agent took longer than 300.0s to send its command")

    def hang(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5.0)

    previous = signal.signal(signal.SIGINT, signal_handler)
    try:
        monkeypatch.setattr(agent.driver, "_decide", hang)
        with pytest.raises(RuntimeError, match="Agent took longer"):
            agent.run_step(drive.input_data(), 0.05)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_metrics_for_bench2drive(driving_agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bench2DriveAgent(LeaderboardAgent):
        def get_metric_info(self) -> dict[str, list[float]]:
            return {"location": [1.0, 2.0, 3.0]}

    monkeypatch.setenv("SAVE_PATH", str(tmp_path))
    drive = SyntheticDrive()
    agent = Bench2DriveAgent("localhost", 2000)
    agent.set_global_plan(drive.gps_route, drive.route)
    agent.setup(f"{driving_agent}+first+second")
    for _ in range(3):
        drive.follow()
        agent.run_step(drive.input_data(), drive.time_s)
    agent.destroy()
    written = json.loads((tmp_path / "second" / "metric_info.json").read_text())
    assert written == {str(i): {"location": [1.0, 2.0, 3.0]} for i in range(3)}
