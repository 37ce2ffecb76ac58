"""Faults around the runner: servers that do not start, kills, full disks, foreign lines, ports, hangs, signals."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import carla
import pytest

from eval.__main__ import main
from eval.generate import generate_routes
from eval.ports import BLOCK, FIRST_PORT, is_free, lease_ports
from eval.processes import ProcessIdentity
from eval.results import ResultsFolder, read_records
from eval.routes import read_routes, write_routes
from eval.runner import RunConfig
from eval.supervised import JobEnd, end_orphans
from eval.verdict import crash_record, make_record, run_settings
from eval.work import make_tasks
from simulator.towns.generate import generate
from tests.faults.runs import (
    DIES,
    NEVER_READY,
    PATIENCE_S,
    READY,
    TOWN,
    family,
    finished,
    launcher,
    lines,
    run_command,
    survivors,
    wait_until,
)

SHORT = ("--traffic", "0", "--max-game-s", "1", "--threads", "1")
LONG = ("--traffic", "0", "--scoring", "2.0")
MIB = 1 << 20
HANGING_AGENT = """
import ctypes
from eval.agents import ConstantThrottle

def get_entry_point():
    return "HangingAgent"

class HangingAgent(ConstantThrottle):
    def run_step(self, input_data, timestamp):
        while timestamp > 0.3:
            ctypes.PyDLL(None).sleep(60)  # keeps the interpreter to itself: no thread of the process can help
        return super().run_step(input_data, timestamp)
"""


@pytest.fixture(scope="module")
def two_routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routes") / "routes.xml"
    write_routes(generate_routes(carla.Map(TOWN, generate(3)), 2, seed=3, town=TOWN), path)
    return path


@pytest.fixture
def one_route(two_routes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "one.xml"
    write_routes(read_routes(two_routes)[:1], path)
    return path


@pytest.mark.parametrize(("script", "told"), [(NEVER_READY, "not ready after 1 s"), (DIES, "exit code 11")])
def test_E02_a_simulator_that_does_not_start_ends_the_run_with_its_words(
    one_route: Path, tmp_path: Path, script: str, told: str
) -> None:
    root = launcher(tmp_path / "carla", script)
    more = ("--carla-root", str(root), "--start-timeout-s", "1")
    runner = subprocess.Popen(
        run_command(one_route, tmp_path / "run", *SHORT, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seen: set[ProcessIdentity] = set()
    wait_until(lambda: seen.update(family(runner.pid)) or False, runner)
    _, errors = runner.communicate(timeout=PATIENCE_S)
    error = errors.decode().strip().splitlines()[-1]
    said = "waiting for a GPU" if script is NEVER_READY else "Failed to find a Vulkan device"
    assert runner.returncode == 1
    assert error.startswith("error: 3 servers in a row did not start") and told in error and said in error
    assert len(lines(tmp_path / "run" / "crashes.jsonl")) == 3
    assert not (tmp_path / "run" / "results.jsonl").exists()  # nothing was decided about the agent
    assert len(seen) >= 6  # three jobs, each with a sentinel; a launcher may be gone before it is seen
    assert survivors(list(seen)) == []


def test_E02_a_started_simulator_is_used_as_soon_as_it_answers(two_routes: Path, tmp_path: Path) -> None:
    root = launcher(tmp_path / "carla", READY)
    done = finished(run_command(two_routes, tmp_path / "run", *SHORT, "--carla-root", str(root), "--workers", "2"))
    assert done.returncode == 0, done.stderr
    records = lines(tmp_path / "run" / "results.jsonl")
    assert [record["provenance"]["server"] for record in records] == ["embedded", "embedded"], "the stand-in is known"
    assert all(record["duration_game_s"] == 1.0 and record["provenance"]["tries"] == 1 for record in records)


def test_E04_a_killed_runner_leaves_nothing_and_its_run_goes_on(two_routes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run_with_first_route_done(two_routes, out)
    command = run_command(two_routes, out, *SHORT)
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(family(runner.pid)) >= 3, runner)  # job, sentinel, server
    children = family(runner.pid)
    runner.kill()
    runner.wait()
    assert survivors(children) == []
    assert finished(command).returncode == 0
    text = (out / "results.jsonl").read_text()
    assert text.startswith(first)
    assert [record["route_id"] for record in lines(out / "results.jsonl")] == ["1", "2"]


def test_E04_orphans_are_known_by_pid_and_start_time(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    orphan, stranger = (subprocess.Popen(["sleep", "100"], start_new_session=True) for _ in range(2))
    identities = [ProcessIdentity.of(process.pid) for process in (orphan, stranger)]
    assert identities[0] is not None and identities[1] is not None
    for name, pid, start in (("1", orphan.pid, identities[0].start_ticks), ("2", stranger.pid, 1)):
        (jobs / f"route_{name}.process.json").write_text(json.dumps({"pid": pid, "start_ticks": start}))
    (jobs / "route_3.process.json").write_text("torn")
    try:
        assert end_orphans(tmp_path) == 1
        assert orphan.wait(5.0) == -signal.SIGKILL
        assert stranger.poll() is None  # the pid is the same, the process another
        assert list(jobs.iterdir()) == []
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


def test_E05_a_full_disk_ends_the_run_cleanly_and_costs_nothing(one_route: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = RunConfig(routes=one_route, agent="constant-throttle", traffic=0, max_game_s=1.0)
    ResultsFolder(out, run_settings(config)).close()
    padding = "\n" * (4 * MIB - 100)  # room for a hundred bytes: the line is cut off in its middle
    (out / "results.jsonl").write_text(padding)
    full = subprocess.run(
        run_command(one_route, out, *SHORT),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB)),
    )
    assert full.returncode == 3
    assert len(full.stderr.strip().splitlines()) == 1 and "make room" in full.stderr
    assert (out / "results.jsonl").read_text() == padding


def test_E06_a_corrupt_line_means_the_route_again_and_foreign_settings_are_refused(
    two_routes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = run_command(two_routes, out, *SHORT)
    run_with_first_route_done(two_routes, out)
    with (out / "results.jsonl").open("a") as file:
        file.write('{"format": 1, "route_id": "2", "town": "Gen0')
    done = finished(command)
    assert done.returncode == 0 and "line 2 skipped" in done.stderr and "1 route is already" in done.stdout
    assert [record.route_id for record in read_records(out / "results.jsonl")] == ["1", "2"]
    summary = json.loads((out / "results.json").read_text())
    assert summary["_checkpoint"]["progress"] == [2, 2]
    other = finished([*command, "--scoring", "2.1"])
    assert other.returncode == 2 and "other settings (scoring)" in other.stderr


def test_E07_leases_never_collide_and_end_with_their_holder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from eval.ports import lease_ports\n"
        "leases = [lease_ports(pathlib.Path(sys.argv[1])) for _ in range(5)]\n"
        "print(*[lease.first for lease in leases], flush=True); time.sleep(100)"
    )
    with socket.socket() as foreign:  # a program that knows nothing of leases
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken = next(port for port in range(FIRST_PORT + 1, FIRST_PORT + 1000, BLOCK) if is_free(port))
        foreign.bind(("127.0.0.1", taken))
        foreign.listen()
        command = [sys.executable, "-c", code, str(tmp_path)]
        holders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        try:
            ports = [int(port) for holder in holders for port in holder.stdout.readline().split()]
            assert len(ports) == len(set(ports)) == 20
            assert taken - 1 not in ports
            held = min(ports)
            assert lease_ports(tmp_path).first not in ports
        finally:
            for holder in holders:
                holder.kill()
                holder.wait()
                holder.stdout.close()
    with lease_ports(tmp_path) as lease:
        assert lease.first == min(held, taken - 1)


def test_E08_a_job_that_hangs_as_a_whole_is_ended_and_shows_its_stacks(one_route: Path, tmp_path: Path) -> None:
    agent = tmp_path / "hanging_agent.py"
    agent.write_text(HANGING_AGENT)
    done = finished(run_command(one_route, tmp_path / "run", *SHORT, "--stall-s", "4", agent=agent))
    assert done.returncode == 0, done.stderr
    (record,) = lines(tmp_path / "run" / "results.jsonl")
    assert record["status"] == "Failed - Agent crashed"  # it had the word: no second try
    assert record["provenance"]["tries"] == 1 and "no progress" in record["failure_message"]
    assert "in run_step" in (tmp_path / "run" / "jobs" / "route_1.log").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "<routes><route id='1' town='Gen03'>",
        "<!DOCTYPE a [<!ENTITY b 'c'><!ENTITY d '&b;&b;'>]><routes>&d;</routes>",
        "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><routes>&b;</routes>",
        "<routes><route id='1' town='../../etc/passwd'><waypoints/></route></routes>",
        "<routes><route id='1' town='Gen03'><waypoints><position x='nan' y='0' z='0'/></waypoints></route></routes>",
        "\0\1\2",
    ],
)
def test_E09_a_hostile_route_file_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "routes.xml"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["eval", *run_command(path, tmp_path / "run")[3:]])
    assert main() == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and str(path) in errors[0] and "root:" not in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_E10_signals_end_everything_and_keep_the_run(
    one_route: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    more = ("--carla-root", str(launcher(tmp_path / "carla", READY))) if number == signal.SIGTERM else ()
    runner = subprocess.Popen(
        run_command(one_route, out, *LONG, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert wait_until((out / "jobs" / "route_1.status.json").exists, runner)
    children = family(runner.pid)
    assert len(children) >= 3 + len(more) // 2  # job, sentinel, server, and a launcher
    runner.send_signal(number)
    time.sleep(0.05)
    runner.send_signal(signal.SIGINT)  # impatience changes nothing
    _, errors = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == code and "interrupted" in errors
    assert survivors(children) == []
    assert json.loads((out / "results.json").read_text())["_checkpoint"]["progress"] == [0, 1]
    ResultsFolder(out, json.loads((out / "run.json").read_text())).close()  # nobody holds it


def run_with_first_route_done(routes: Path, out: Path) -> str:
    """A run's folder as a runner leaves it after its first verdict; the journal's text."""
    config = RunConfig(routes=routes, agent="constant-throttle", traffic=0, max_game_s=1.0)
    folder = ResultsFolder(out, run_settings(config))
    first = make_tasks(read_routes(routes), 1)[0]
    record = {"record": crash_record(JobEnd(exit_code=-9), first, config).to_json()}
    folder.append(make_record(JobEnd(exit_code=0, outcome=record), first, 1, config))
    folder.close()
    return (out / "results.jsonl").read_text()
