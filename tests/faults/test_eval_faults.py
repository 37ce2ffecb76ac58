"""Faults of an evaluation, each provoked on real processes: what must be survived, and what must not be washed away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import carla
import pytest

from eval.generate import generate_routes
from eval.processes import descendants
from eval.routes import write_routes
from simulator.towns.generate import generate
from tests.faults.runs import command_line

TOWN = "Gen03"
PATIENCE_S = 100.0
SLOW_AGENT = """
import time
from eval.agents import ConstantThrottle

def get_entry_point():
    return "SlowAgent"

class SlowAgent(ConstantThrottle):
    def run_step(self, input_data, timestamp):
        time.sleep(0.04)
        return super().run_step(input_data, timestamp)
"""
"""Gives the test time to strike before the route is over."""
UNWILLING_AGENT = """
from eval.agents import ConstantThrottle

def get_entry_point():
    return "UnwillingAgent"

class UnwillingAgent(ConstantThrottle):
    def setup(self, path_to_conf_file):
        raise RuntimeError("no\\nweights")
"""


@pytest.fixture(scope="module")
def route_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routes") / "routes.xml"
    write_routes(generate_routes(carla.Map(TOWN, generate(3)), 1, seed=3, town=TOWN), path)
    return path


def run_command(route_file: Path, out: Path, agent_code: str) -> list[str]:
    agent = out.with_name("test_agent.py")
    agent.write_text(agent_code)
    command = [sys.executable, "-m", "eval", "run", "--routes", str(route_file), "--out", str(out)]
    return [*command, "--agent", str(agent), "--weights", str(agent), "--traffic", "3", "--max-game-s", "5"]


def run_and_kill(route_file: Path, out: Path, is_victim: Callable[[str], bool]) -> tuple[int, dict]:
    """Exit code and only record of a run in which the first process that `is_victim` names is killed while driving."""
    command = run_command(route_file, out, SLOW_AGENT)
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = out / "jobs" / "route_1.status.json"
    deadline_s = time.monotonic() + PATIENCE_S
    while not status.exists() and time.monotonic() < deadline_s and runner.poll() is None:
        time.sleep(0.01)
    victims = [pid for pid in descendants(runner.pid) if is_victim(command_line(pid))]
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    code = runner.wait(PATIENCE_S)
    return code, json.loads((out / "results.jsonl").read_text())


def test_E01_a_dead_simulator_means_the_same_route_again(route_file: Path, tmp_path: Path) -> None:
    code, record = run_and_kill(route_file, tmp_path / "run", lambda line: "simulator serve" in line)
    assert code == 0
    assert record["provenance"]["tries"] == 2
    assert record["scores"]["score_route"] > 0.0
    assert record["status"] != "Failed - Simulation crashed"


def test_E03_a_killed_agent_is_scored_and_not_tried_again(route_file: Path, tmp_path: Path) -> None:
    code, record = run_and_kill(route_file, tmp_path / "run", lambda line: "-m eval.job" in line)
    assert code == 0
    assert record["status"] == "Failed - Agent crashed"
    assert record["provenance"]["tries"] == 1
    assert record["scores"]["score_composed"] == 0.0


def test_a_failed_setup_is_recorded_with_its_reason(route_file: Path, tmp_path: Path) -> None:
    command = run_command(route_file, tmp_path / "run", UNWILLING_AGENT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    told = "Failed - Agent couldn't be set up: RuntimeError: no weights"
    assert done.returncode == 0 and done.stdout.count(told) == 2  # when it ended, and below the table
    text = (tmp_path / "run" / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    exceptions = results["_checkpoint"]["global_record"]["meta"]["exceptions"]
    assert exceptions == [["RouteScenario_1_rep0", 0, told]]
    assert results["evaluation"]["routes"][0]["timings_ms"]["agent"] is None
