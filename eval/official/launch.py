"""Runs an unmodified official evaluator (Leaderboard 2.0, 2.1, Bench2Drive) on today's Python.

    python launch.py [--progress FILE] -- EVALUATOR ARGUMENTS

LEADERBOARD_ROOT, SCENARIO_RUNNER_ROOT and CARLA_ROOT (for PythonAPI/carla/agents; CARLA_AGENTS_ROOT takes precedence)
name the checkouts. Their files stay as they are; what has to be different is put right here, in memory:

- `Element.getchildren` left Python in 3.9: the pure Python Element gets it back, and its `items` is a list as that of
  the compiled one, which Bench2Drive's evaluator indexes.
- `RouteScenario._get_parking_slots` deletes from the town's list of parked cars, which all later routes of the process
  then lack: it works on a copy.
- Bench2Drive's evaluator sleeps 30 s after starting its server: it waits for the server's port instead.
- CARLA's GlobalRoutePlanner follows each segment of a town's topology until it is near the segment's end. Among lane
  sections of millimetres, as in Town05's file of 2019, it can miss it and walks on until the memory is full: such a
  segment has its end as its next waypoint.
- `BackgroundBehavior._get_complex_junctions` names roads that Town03 does not have in its file of 2019: a junction
  among such roads is left out.
- the carla wheel's thread pool for callbacks has as many threads as cores; with two, cameras that wait for each other
  can hold up the state of the world: it gets 16.

Needs nothing of this project and nothing beyond what the evaluators need, so a submission image can hold it alone.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.modules["_elementtree"] = None  # pyright: ignore[reportArgumentType]  # before anything imports ElementTree
import xml.etree.ElementTree as ElementTree  # noqa: E402

CLIENT_THREADS = 16
SERVER_START_S = 900.0
"""A first start compiles; while others keep the machine busy that takes minutes."""
LONG_SLEEP_S = 30.0
LONGEST_SEGMENT_M = 5000.0
"""No lane runs that far between two junctions."""
PROGRESS_PERIOD_S = 0.5
EXIT_BAD_INPUT = 2
AGENTS_FOLDERS = ("PythonAPI/carla", "PythonAPI", ".")
"""Where below CARLA_ROOT the package `agents` may lie."""


class LaunchError(ValueError):
    """The evaluator cannot be started as asked; the message says what to do."""


def main(argv: list[str]) -> None:
    """Patch what is needed and hand over to the evaluator's `main`, which ends the process."""
    parser = argparse.ArgumentParser(prog="launch.py", description="Run an official evaluator.")
    parser.add_argument("--progress", type=Path, help="file that tells how far the route is (JSON)")
    parser.add_argument("evaluator", nargs=argparse.REMAINDER, help="-- and the evaluator's own arguments")
    options = parser.parse_args(argv)
    leaderboard = _checkout("LEADERBOARD_ROOT", "leaderboard/leaderboard_evaluator.py")
    scenario_runner = _checkout("SCENARIO_RUNNER_ROOT", "srunner/scenariomanager/scenario_manager.py")
    sys.path[:0] = [str(leaderboard), str(scenario_runner), str(agents_folder())]
    # Scenario classes are looked for below this variable, Bench2Drive's weathers below the working folder.
    os.environ["SCENARIO_RUNNER_ROOT"] = str(scenario_runner)
    os.chdir(leaderboard.parent)
    ElementTree.Element.getchildren = _children  # pyright: ignore[reportAttributeAccessIssue]
    ElementTree.Element.items = _items  # pyright: ignore[reportAttributeAccessIssue]
    importlib.import_module("setuptools")  # brings `distutils` where Python no longer has it
    evaluator = importlib.import_module("leaderboard.leaderboard_evaluator")
    _give_threads(evaluator.carla)
    _keep_parked_cars()
    _end_endless_segments()
    _leave_out_missing_junctions()
    _wait_for_own_server(evaluator)
    if options.progress is not None:
        _tell_progress(evaluator, options.progress)
    sys.argv = ["leaderboard_evaluator.py", *(word for word in options.evaluator if word != "--")]
    evaluator.main()


def agents_folder() -> Path:
    """The folder that holds CARLA's package `agents`, which the wheel lacks. Raises: LaunchError."""
    name = "CARLA_AGENTS_ROOT" if os.environ.get("CARLA_AGENTS_ROOT") else "CARLA_ROOT"
    root = Path(os.environ.get(name) or "missing")
    for folder in AGENTS_FOLDERS:
        if (root / folder / "agents/navigation/global_route_planner.py").is_file():
            return (root / folder).resolve()
    raise LaunchError(
        f"{name}={os.environ.get(name, '')}: no PythonAPI/carla/agents below it; give CARLA's folder or its checkout"
    )


def _checkout(name: str, file: str) -> Path:
    root = os.environ.get(name, "")
    if not root or not (Path(root) / file).is_file():
        raise LaunchError(f"{name}={root}: holds no {file}; give the folder of a checkout")
    return Path(root).resolve()


def _children(element: ElementTree.Element) -> list[ElementTree.Element]:
    return list(element)


def _items(element: ElementTree.Element) -> list[tuple[str, str]]:
    return list(element.attrib.items())


def _give_threads(carla: Any) -> None:
    original = carla.Client.__init__

    @functools.wraps(original)
    def init(client: Any, host: str = "localhost", port: int = 2000, worker_threads: int = CLIENT_THREADS) -> None:
        original(client, host, port, worker_threads)

    carla.Client.__init__ = init


def _keep_parked_cars() -> None:
    scenarios = importlib.import_module("leaderboard.scenarios.route_scenario")
    parked = scenarios.parked_vehicles
    original = scenarios.RouteScenario._get_parking_slots

    @functools.wraps(original)
    def slots(scenario: Any, *args: Any, **kwargs: Any) -> Any:
        town = scenario.map.name.split("/")[-1]
        kept = getattr(parked, town, None)
        if kept is None:
            return original(scenario, *args, **kwargs)
        setattr(parked, town, copy.deepcopy(kept))
        try:
            return original(scenario, *args, **kwargs)
        finally:
            setattr(parked, town, kept)

    scenarios.RouteScenario._get_parking_slots = slots


def _end_endless_segments() -> None:
    planner = importlib.import_module("agents.navigation.global_route_planner").GlobalRoutePlanner
    original = planner._build_topology

    @functools.wraps(original)
    def build(instance: Any) -> None:
        town = instance._wmap
        instance._wmap = FiniteTopology(town, instance._sampling_resolution)
        try:
            original(instance)
        finally:
            instance._wmap = town

    planner._build_topology = build


class FiniteTopology:
    """A `carla.Map`, except that every segment of its topology ends for who follows it in steps of `step_m`."""

    def __init__(self, town: Any, step_m: float) -> None:
        self._town, self._step_m = town, step_m

    def __getattr__(self, name: str) -> Any:
        return getattr(self._town, name)

    def get_topology(self) -> list[tuple[Any, Any]]:
        """As that of `carla.Map`."""
        return [(a if self._ends(a, b) else _Jump(a, b), b) for a, b in self._town.get_topology()]

    def _ends(self, first: Any, last: Any) -> bool:
        end = last.transform.location
        at, ways = first, [first]
        if first.transform.location.distance(end) <= self._step_m:
            return True
        for _ in range(round(LONGEST_SEGMENT_M / self._step_m)):
            ways = at.next(self._step_m)
            if not ways or ways[0].transform.location.distance(end) <= self._step_m:
                return True
            at = ways[0]
        return False


class _Jump:
    """A waypoint that is followed by another one, wherever that is."""

    def __init__(self, waypoint: Any, following: Any) -> None:
        self._waypoint, self._following = waypoint, following

    def __getattr__(self, name: str) -> Any:
        return getattr(self._waypoint, name)

    def next(self, distance_m: float) -> list[Any]:
        """The other one."""
        return [self._following]


def _leave_out_missing_junctions() -> None:
    behaviour = importlib.import_module("srunner.scenarios.background_activity").BackgroundBehavior
    original = behaviour._get_complex_junctions

    @functools.wraps(original)
    def junctions(instance: Any) -> list[list[Any]]:
        town = instance._map
        instance._map = OtherRoads(town)
        try:
            found = original(instance)
        finally:
            instance._map = town
        return [parts for parts in found if None not in parts]

    behaviour._get_complex_junctions = junctions


class OtherRoads:
    """A `carla.Map` that may be asked for places on roads that it does not have."""

    def __init__(self, town: Any) -> None:
        self._town = town

    def __getattr__(self, name: str) -> Any:
        return getattr(self._town, name)

    def get_waypoint_xodr(self, road_id: int, lane_id: int, s_m: float) -> Any:
        """As that of `carla.Map`; where there is no such place, something that lies in no junction."""
        return self._town.get_waypoint_xodr(road_id, lane_id, s_m) or _Nowhere()


class _Nowhere:
    def get_junction(self) -> None:
        """None, as for a waypoint outside junctions."""


class _ImpatientTime:
    """The module `time`, except that a long sleep ends as soon as `ready` says so."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        if seconds < LONG_SLEEP_S:
            time.sleep(seconds)
            return
        deadline_s = time.monotonic() + max(seconds, SERVER_START_S)
        while time.monotonic() < deadline_s and not self._ready():
            time.sleep(0.2)


def _wait_for_own_server(evaluator: Any) -> None:
    """Only Bench2Drive's evaluator starts a server; it keeps the process in `server`."""
    original = evaluator.LeaderboardEvaluator._setup_simulation

    @functools.wraps(original)
    def setup(instance: Any, args: Any) -> Any:
        def ready() -> bool:
            if instance.server.poll() is not None:
                raise RuntimeError(f"the server did not start (exit code {instance.server.returncode})")
            with socket.socket() as probe:
                return probe.connect_ex((args.host, args.port)) == 0

        if not hasattr(evaluator, "time"):
            return original(instance, args)
        evaluator.time = _ImpatientTime(ready)
        try:
            return original(instance, args)
        finally:
            evaluator.time = time

    evaluator.LeaderboardEvaluator._setup_simulation = setup


def _tell_progress(evaluator: Any, path: Path) -> None:
    original = evaluator.ScenarioManager._tick_scenario
    started_s = time.monotonic()
    next_s = 0.0

    @functools.wraps(original)
    def tick(manager: Any) -> None:
        nonlocal next_s
        original(manager)
        now_s = time.monotonic()
        if now_s < next_s or manager._agent_wrapper is None:
            return
        next_s = now_s + PROGRESS_PERIOD_S
        route = next((node for node in manager.scenario.get_criteria() if node.name == "RouteCompletionTest"), None)
        status = {
            "completion_percent": float(route.actual_value) if route is not None else 0.0,
            "length_m": float(manager._statistics_manager._route_length),
            "game_s": float(evaluator.GameTime.get_time()),
            "speed_mps": float(manager.ego_vehicles[0].get_velocity().length()),
            "wall_s": round(now_s - started_s, 3),
        }
        aside = path.with_suffix(".partial")
        aside.write_text(json.dumps(status))
        aside.replace(path)

    evaluator.ScenarioManager._tick_scenario = tick


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
