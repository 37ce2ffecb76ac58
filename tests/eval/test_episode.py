"""Episodes and the command line on a real embedded server with the real client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import carla
import numpy as np
import pytest

from eval.__main__ import main
from eval.episode import Episode, EpisodeConfig, Tick
from eval.generate import generate_routes
from eval.metrics.records import read_runs
from eval.metrics.summary import Options, summarise
from eval.routes import Route, write_routes
from eval.scoring import Scoring
from eval.server import EmbeddedServer, EmbeddedServerConfig, ServerError, connect
from eval.watchdog import EXIT_SIMULATION_FROZEN

TOWN = "Gen03"
PATIENCE_S = 100.0
"""A process that was starting when its parent ended may take this long to notice."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(EmbeddedServerConfig(town=TOWN)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> carla.Client:
    return connect(server.host, server.port, 60.0)


@pytest.fixture(scope="module")
def route(generated_map: carla.Map) -> Route:
    return generate_routes(generated_map, 1, seed=3, town=TOWN)[0]


class SensingAgent:
    """Notes the order of calls and what arrives; drives ahead."""

    track = "SENSORS"
    calls: list[str] = []  # noqa: RUF012 - read by the test after the episode destroyed the agent

    def __init__(self, host: str, port: int, debug: bool) -> None:
        type(self).calls = ["construct"]
        self.frames: list[int] = []

    def set_global_plan(self, gps: list, world: list) -> None:
        self.calls.append("set_global_plan")
        assert len(gps) == len(world) > 300

    def setup(self, config: str) -> None:
        assert config == "the config"
        assert 2 <= len(self._global_plan) == len(self._global_plan_world_coord) < 40
        self.calls.append("setup")

    def sensors(self) -> list[dict]:
        self.calls.append("sensors")
        pose = {"x": 0.8, "y": 0.0, "z": 1.6, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
        camera = {"type": "sensor.camera.rgb", "width": 64, "height": 32, "fov": 70}
        return [
            {"id": "left", **camera, **pose},
            {"id": "right", **camera, **pose},
            {"id": "IMU", "type": "sensor.other.imu", **pose},
            {"id": "GPS", "type": "sensor.other.gnss", "x": 0.0, "y": 0.0, "z": 0.0},
            {"id": "SPEED", "type": "sensor.speedometer"},
        ]

    def run_step(self, data: dict, timestamp: float) -> carla.VehicleControl:
        assert set(data) == {"left", "right", "IMU", "GPS", "SPEED"}
        frames = {frame for frame, _ in data.values()}
        assert len(frames) == 1
        self.frames += frames
        assert timestamp == pytest.approx(0.05 * len(self.frames))
        assert data["left"][1].shape == (32, 64, 4) and data["left"][1].dtype == np.uint8
        assert data["IMU"][1].shape == (7,) and data["GPS"][1].shape == (3,)
        assert isinstance(data["SPEED"][1]["speed"], float)
        return carla.VehicleControl(throttle=0.5, manual_gear_shift=True)

    def destroy(self) -> None:
        self.calls.append("destroy")


def test_an_agent_is_called_in_the_leaderboards_order(client: carla.Client, route: Route) -> None:
    ticks: list[Tick] = []
    config = EpisodeConfig(traffic=5, seed=2, agent_config="the config", max_game_s=4.0)
    episode = Episode(client, route, SensingAgent, config, hooks=[lambda _, tick: ticks.append(tick)])
    record = episode.run()
    assert SensingAgent.calls == ["construct", "set_global_plan", "setup", "sensors", "sensors", "destroy"]
    assert record.status == "Failed - stopped after 4 s"
    assert len(ticks) == record.ticks == 80
    assert record.scores.score_route > 0.0
    assert [tick.ego.frame for tick in ticks] == list(range(ticks[0].ego.frame, ticks[0].ego.frame + 80))
    assert not ticks[-1].control.manual_gear_shift
    assert len(record.sensors) == 5
    left = [actor.type_id for actor in client.get_world().get_actors() if actor.type_id.startswith(("veh", "sensor"))]
    assert left == []


def test_the_caller_can_drive_and_the_world_repeats_itself(client: carla.Client, route: Route) -> None:
    def drive() -> list[tuple[float, float, float]]:
        episode = Episode(client, route, None, EpisodeConfig(traffic=8, seed=5))
        trace = []
        try:
            episode.start()
            assert episode.ego.get_location().distance(episode.plan.world[0][0].location) < 0.7
            for _ in range(100):
                assert episode.step(carla.VehicleControl(throttle=0.4))
                for actor in [episode.ego, *episode.traffic.vehicles]:
                    pose = actor.get_transform()
                    trace.append((pose.location.x, pose.location.y, pose.rotation.yaw))
        finally:
            episode.close()
        return trace

    first = drive()
    assert len(first) == 900
    assert first == drive()


class Failing(SensingAgent):
    where = "setup"

    def setup(self, config: str) -> None:
        if self.where == "setup":
            raise RuntimeError("no weights")

    def sensors(self) -> list[dict]:
        return [{"id": "x", "type": "sensor.camera.depth"}] if self.where == "sensors" else []

    def run_step(self, data: dict, timestamp: float) -> carla.VehicleControl:
        raise KeyError("lost")


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("setup", "Failed - Agent couldn't be set up"),
        ("sensors", "Failed - Agent's sensors were invalid"),
        ("step", "Failed - Agent crashed"),
    ],
)
def test_failing_agents_get_the_leaderboards_verdict(
    client: carla.Client, route: Route, where: str, status: str
) -> None:
    Failing.where = where
    record = Episode(client, route, Failing, EpisodeConfig(traffic=0, scoring=Scoring.LEADERBOARD_20)).run()
    assert record.status == status
    assert record.scores.score_composed == 0.0


def test_unknown_towns_are_named(client: carla.Client, route: Route) -> None:
    elsewhere = Route("1", "Nowhere", route.keypoints)
    with pytest.raises(ServerError, match="no town Nowhere"):
        Episode(client, elsewhere, None, EpisodeConfig(traffic=0)).run()
    with pytest.raises(ServerError, match="did not start"), EmbeddedServer(EmbeddedServerConfig(town="Nowhere")):
        pass


def test_another_versions_server_is_refused() -> None:
    other = "0.9.15" if "0.9.16" in carla.__file__ + _wheel() else "0.9.16"
    config = EmbeddedServerConfig(town=TOWN, version=other, render=False)
    with EmbeddedServer(config) as running, pytest.raises(ServerError, match=f"speaks CARLA {other}"):
        connect(running.host, running.port, 10.0)


def _wheel() -> str:
    from eval.server import wheel_version

    return wheel_version()


def test_a_frozen_process_ends_itself() -> None:
    code = (
        "import time\nfrom eval.watchdog import Watchdog\n"
        "with Watchdog().phase('world.tick()', 0.2):\n    time.sleep(30)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == EXIT_SIMULATION_FROZEN
    assert "world.tick() hangs" in ended.stderr and "Thread" in ended.stderr


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_routes_are_driven_scored_and_resumed(tmp_path: Path, generated_map: carla.Map) -> None:
    routes = generate_routes(generated_map, 2, seed=3, town=TOWN)
    write_routes(routes, tmp_path / "routes.xml")
    arguments = ["--routes", str(tmp_path / "routes.xml"), "--agent", "constant-throttle", "--max-game-s", "5"]
    arguments += ["--out", str(tmp_path / "run"), "--traffic", "5", "--workers", "2"]
    done = evaluate(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Driving score" in done.stdout
    assert re.search(r"driven [\d.]+ times real time, [\d.]+ CPU s per simulated s", done.stdout), done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["entry_status"] == "Finished"
    assert [r["route_id"] for r in results["_checkpoint"]["records"]] == [
        "RouteScenario_1_rep0",
        "RouteScenario_2_rep0",
    ]
    assert all(r["meta"]["duration_game"] == 5.0 for r in results["_checkpoint"]["records"])
    for driven in results["_checkpoint"]["records"]:
        motion = json.loads((tmp_path / "run" / "metrics" / driven["save_name"] / "metric_info.json").read_text())
        assert len(motion) == 100  # ticks of 5 s, with the fields of Bench2Drive's agents
        assert set(motion["0"]) == {
            "acceleration",
            "angular_velocity",
            "forward_vector",
            "right_vector",
            "location",
            "rotation",
        }
        assert motion["99"]["location"] != motion["0"]["location"]
    (own,) = read_runs([tmp_path / "run"])
    assert summarise([own], Options(resamples=10)).values["comfort_as_coded_percent"] is not None
    left = sorted(path.name for path in (tmp_path / "run" / "moments").glob("*.[mf][pr]*"))
    assert left == ["1.mp4", "2.mp4"], "routes that fail leave a film, and nothing of what it was made of"
    provenance = results["evaluation"]["routes"][0]
    assert provenance["recording_s"] > 0.0 and provenance["timings_ms"]["decision"] is not None
    assert set(provenance["cpu_per_game_s"]) == {"agent", "server"} and min(provenance["cpu_per_game_s"].values()) > 0.0
    assert provenance["server"] == "embedded" and len(provenance["route_file_sha256"]) == 64

    again = evaluate(*arguments)
    assert again.returncode == 0 and "2 routes are already" in again.stdout
    other = evaluate(*arguments, "--seed", "1")
    assert other.returncode == 2 and "other settings" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--routes", "none.xml"], "no such route file"),
        (["--routes", "{routes}", "--agent", "none.py"], "--agent none.py: no such file"),
        (["--routes", "{routes}", "--weights", "none.yaml"], "--weights none.yaml: no such file"),
        (["--routes", "{routes}", "--towns", "Town99"], "no route with town Town99"),
        (
            ["--routes", "{routes}", "--agent", "constant-throttle", "--server", "127.0.0.1:9"],
            "no CARLA server listens",
        ),
        (["--routes", "{routes}", "--agent", "constant-throttle"], "no town 'Nowhere'"),
        (["--routes", "{routes}", "--agent", "README.md"], "is no Python file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    path = tmp_path / "routes.xml"
    write_routes([Route("1", "Nowhere", ((0.0, 0.0, 0.0), (9.0, 0.0, 0.0)))], path)
    command = ["eval", "run", *[a.format(routes=path) for a in arguments], "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and expected in errors[0]


def test_a_route_off_the_road_is_left_out_and_the_others_are_driven(tmp_path: Path, generated_map: carla.Map) -> None:
    good = generate_routes(generated_map, 1, seed=3, town=TOWN)[0]
    (x, y, z), *rest = good.keypoints
    bad = Route("77", TOWN, ((x, y + 900.0, z), *rest))
    write_routes([good, bad], tmp_path / "routes.xml")
    arguments = ["--routes", str(tmp_path / "routes.xml"), "--agent", "constant-throttle", "--max-game-s", "2"]
    arguments += ["--traffic", "0", "--repetitions", "2", "--film", "none"]
    done = evaluate(*arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "route 77 of" in error and "keypoint" in error and "missing in every mean" in error
    assert done.stdout.count("left out: route 77") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [record["route_id"] for record in results["_checkpoint"]["records"]] == [
        f"RouteScenario_{good.id}_rep0",
        f"RouteScenario_{good.id}_rep1",
    ]
    alone = evaluate(*arguments, "--ids", "77", "--out", str(tmp_path / "alone"))
    assert alone.returncode == 2 and alone.stderr.strip().splitlines()[-1].startswith("error: route 77")


def test_a_missing_map_is_told_before_anything_is_driven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    routes, out, maps = tmp_path / "routes.xml", tmp_path / "run", tmp_path / "Maps" / "Town01" / "OpenDrive"
    line = ((0.0, 0.0, 0.0), (9.0, 0.0, 0.0))
    write_routes([Route("1", "Town01", line), Route("2", "Town12", line)], routes)
    maps.mkdir(parents=True)
    (maps / "Town01.xodr").write_text("<OpenDRIVE/>")
    command = ["eval", "run", "--routes", str(routes), "--agent", "constant-throttle", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--town-dir", str(tmp_path / "Maps")])
    assert main() == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "no map of Town12;" in error and "--towns Town01" in error
    assert not out.exists()


def test_a_route_of_bench2drive_reaches_its_verdict(shared_dir: Path, tmp_path: Path) -> None:
    ended = evaluate(
        "--routes", str(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml"),
        "--town-dir", str(shared_dir / "towns"),
        "--ids", "24211",
        "--agent", "constant-throttle",
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "1 scenario to play" in ended.stdout
    record = json.loads((tmp_path / "run" / "results.json").read_text())["_checkpoint"]["records"][0]
    assert record["town_name"] == "Town01"
    assert record["status"] == "Completed" or record["status"].startswith("Failed - Agent")
    assert [path.name for path in (tmp_path / "run" / "traces").iterdir()] == ["route_24211.npz"]
