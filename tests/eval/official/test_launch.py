"""The launcher changes what it says it changes, in a process of its own, around an evaluator of the official layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import carla
import pytest

from eval.official import launch
from simulator.towns.town import load_town

EVALUATOR = """
import json, os, socket, sys, time
import xml.etree.ElementTree as ET
import carla
from leaderboard.scenarios.route_scenario import RouteScenario

class LeaderboardEvaluator:
    def _setup_simulation(self, args):
        started_s = time.time()
        class Server:
            @staticmethod
            def poll():
                return None
        self.server = Server
        time.sleep(30)
        return time.time() - started_s

class ScenarioManager:
    pass

def main():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    class args:
        host, port = listener.getsockname()
    scenario = RouteScenario()
    left = [len(scenario._get_parking_slots()) for _ in range(2)]
    slept_s = LeaderboardEvaluator()._setup_simulation(args)
    children = [child.tag for child in ET.fromstring("<a><b/><c/></a>").getchildren()]
    first = ET.fromstring('<case id="7" x="8"/>').items()[0][1]
    print(json.dumps({"children": children, "first": first, "left": left, "slept_s": slept_s, "argv": sys.argv[1:],
                      "folder": os.getcwd(), "agents": "agents" in os.listdir(sys.path[2])}))
"""
SCENARIO = """
class Map:
    name = "Carla/Maps/Town12"

class parked_vehicles:
    Town12 = [1, 2, 3, 4]

class RouteScenario:
    map = Map
    def _get_parking_slots(self):
        slots = getattr(parked_vehicles, "Town12")
        for slot in slots:
            slots.remove(slot)
        return slots
"""
PLANNER = """
class GlobalRoutePlanner:
    def __init__(self, wmap, sampling_resolution):
        self._wmap, self._sampling_resolution = wmap, sampling_resolution
    def _build_topology(self):
        self.topology = self._wmap.get_topology()
"""
BACKGROUND = """
class BackgroundBehavior:
    def _get_complex_junctions(self):
        return [[self._map.get_waypoint_xodr(*place).get_junction() for place in places] for places in self.places]
"""


@pytest.fixture
def checkouts(tmp_path: Path) -> dict[str, str]:
    files = {
        "leaderboard/leaderboard/__init__.py": "",
        "leaderboard/leaderboard/leaderboard_evaluator.py": EVALUATOR,
        "leaderboard/leaderboard/scenarios/__init__.py": "",
        "leaderboard/leaderboard/scenarios/route_scenario.py": SCENARIO,
        "scenario_runner/srunner/scenariomanager/scenario_manager.py": "",
        "scenario_runner/srunner/scenarios/background_activity.py": BACKGROUND,
        "carla/PythonAPI/carla/agents/__init__.py": "",
        "carla/PythonAPI/carla/agents/navigation/__init__.py": "",
        "carla/PythonAPI/carla/agents/navigation/global_route_planner.py": PLANNER,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {
        "LEADERBOARD_ROOT": str(tmp_path / "leaderboard"),
        "SCENARIO_RUNNER_ROOT": str(tmp_path / "scenario_runner"),
        "CARLA_ROOT": str(tmp_path / "carla"),
    }


def _launch(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(launch.__file__)), "--", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_ROOT")}
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, timeout=120)


def test_the_evaluator_finds_what_it_needs(checkouts: dict[str, str], tmp_path: Path) -> None:
    done = _launch(checkouts, "--routes=x.xml", "--gpu-rank", "0")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["children"] == ["b", "c"]
    assert seen["first"] == "7"
    assert seen["left"] == [2, 2]  # the second route finds as many parked cars as the first
    assert seen["slept_s"] < 10.0
    assert seen["argv"] == ["--routes=x.xml", "--gpu-rank", "0"]
    assert seen["folder"] == str(tmp_path)  # Bench2Drive reads leaderboard/data/weather.xml below it
    assert seen["agents"]


@pytest.mark.parametrize("step_m", [1.0, 2.0])
def test_who_follows_a_segment_of_a_town_arrives(shared_dir: Path, step_m: float) -> None:
    """As CARLA's planner follows them; of those of Town05, as the embedded server serves it, four do not end."""
    town = carla.Map("Town05", load_town("Town05", shared_dir / "towns").opendrive)
    finite = launch.FiniteTopology(town, step_m)
    assert finite.name == town.name
    strides, jumps = [], 0
    for (first, last), (plain, _) in zip(finite.get_topology(), town.get_topology(), strict=True):
        end, at, count = last.transform.location, first, 0
        while at.transform.location.distance(end) > step_m and count < 2000 and (ways := at.next(step_m)):
            at, count = ways[0], count + 1
        strides.append(count)
        jumps += type(first) is not type(plain)
        assert (first.road_id, first.lane_id) == (plain.road_id, plain.lane_id)
    assert max(strides) < 2000
    assert jumps == 4


def test_junctions_of_another_edition_of_a_town_are_left_out(
    checkouts: dict[str, str], shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Bench2Drive's background traffic looks them up: today's Town03 has a roundabout on roads that the file of
    2019 does not have.
    """
    monkeypatch.syspath_prepend(checkouts["SCENARIO_RUNNER_ROOT"])
    try:
        launch._leave_out_missing_junctions()
        behaviour = sys.modules["srunner.scenarios.background_activity"].BackgroundBehavior()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "srunner"]:
            del sys.modules[name]
    town = carla.Map("Town03", load_town("Town03", shared_dir / "towns").opendrive)
    first, _ = next(pair for pair in town.get_topology() if pair[0].is_junction)
    inside = (first.road_id, first.lane_id, first.s)
    roundabout = ((1100, -5, 16.6), (1624, -5, 25.3))
    assert town.get_waypoint_xodr(*roundabout[0]) is None
    behaviour._map, behaviour.places = town, (roundabout, (inside,), (inside, roundabout[1]))
    assert [[junction.id for junction in parts] for parts in behaviour._get_complex_junctions()] == [
        [first.get_junction().id]
    ]
    assert behaviour._map is town


@pytest.mark.parametrize("name", ["LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT", "CARLA_ROOT"])
def test_a_missing_checkout_is_named(checkouts: dict[str, str], name: str) -> None:
    del checkouts[name]
    done = _launch(checkouts)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}")
    assert len(done.stderr.splitlines()) == 1
