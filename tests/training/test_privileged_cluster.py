"""A run with its collectors on the nodes of a local Ray cluster; a server and an actor are killed on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import carla
import pytest

from eval.generate import generate_routes
from eval.processes import descendants, is_dead
from eval.routes import write_routes
from simulator.towns.generate import generate
from training.replay import SUFFIX, read_segment

TOWN = "Gen02"
PATIENCE_S = 600.0
REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = {
    "size": "debug",
    "preset": "strong",
    "config.collectors": "2",
    "config.env.traffic": "2",
    "config.env.ends.max-s": "4",
    "config.prefill-steps": "24",
    "config.batch": "2",
    "config.steps": "6",
    "config.segment-steps": "12",
    "config.train-ratio": "8",
    "config.publish-updates": "2",
    "config.evaluate-minutes": "0",
}

pytest.importorskip("ray", reason="ray (extra cluster) is not installed")


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it, and so do the outboxes."""
    folder = Path(tempfile.mkdtemp(prefix="r2d", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def address(temporary: Path) -> Iterator[str]:
    """A cluster of two nodes with room for one collector each."""
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "RAY_TMPDIR"):
            patch.setenv(name, str(temporary))
        patch.setattr(tempfile, "tempdir", None)
        node = {"num_cpus": 1, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture
def run(temporary: Path, address: str, tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, temporary, address)
    yield run
    run.process.kill()
    run.process.wait()


class Run:
    """The command, what it wrote, and every finished segment that was ever seen on a node."""

    def __init__(self, folder: Path, temporary: Path, address: str) -> None:
        self.folder, self.temporary = folder, temporary
        self.finished: set[str] = set()
        carla_map = carla.Map(TOWN, generate(2))
        write_routes(
            generate_routes(carla_map, 1, seed=3, town=TOWN, min_length_m=150.0, min_turns=0), folder / "r.xml"
        )
        chosen = OPTIONS | {"ray": address, "out": str(folder / "run")}
        chosen |= {f"config.routes.{kind}": str(folder / "r.xml") for kind in ("file", "evaluation-file")}
        arguments = [part for name, value in chosen.items() for part in (f"--{name}", value)]
        with (folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "training", "privileged", *arguments],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def outboxes(self) -> dict[Path, list[str]]:
        """Finished segments on the nodes, by outbox."""
        found: dict[Path, list[str]] = {}
        for path in self.temporary.glob(f"raw2drive-*/*/replay/*{SUFFIX}"):
            found.setdefault(path.parent, []).append(path.name)
        self.finished |= {name for names in found.values() for name in names}
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "run" / "events.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text.splitlines()[: text.count("\n")]  # the last one may not be written in full
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """The first true answer; meanwhile the outboxes are watched."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            self.outboxes()
            if answer := what():
                return answer
            assert self.process.poll() is None, self.output()
            time.sleep(0.01)
        raise AssertionError(self.output())

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def stored(self) -> dict[str, list[int]]:
        """Numbers of the segments in the replay folder, by stream."""
        streams: dict[str, list[int]] = {}
        for path in sorted((self.folder / "run" / "replay").glob(f"*{SUFFIX}")):
            stream, number = path.name.removesuffix(SUFFIX).split("-")
            streams.setdefault(stream, []).append(int(number))
        return streams


def server_below(pid: int) -> int:
    """The embedded server of the collector below an actor."""
    (server,) = [
        child for child in descendants(pid) if re.search(rb"-m\0simulator", Path(f"/proc/{child}/cmdline").read_bytes())
    ]
    return server


@pytest.mark.timeout(2400)
def test_a_server_and_an_actor_are_killed(run: Run) -> None:
    """The run goes on, and every segment that was finished on a node is in the replay folder at the end."""
    actors = {
        event["collector"]: event["pid"]
        for event in run.wait_for(lambda: run.events("placed")[1:] and run.events("placed"))
    }
    run.wait_for(lambda: {event["collector"] for event in run.events("episode")} == {0, 1})
    run.wait_for(lambda: run.events("update"))

    episodes = len([event for event in run.events("episode") if event["collector"] == 0])
    server = server_below(actors[0])
    os.kill(server, signal.SIGKILL)
    run.wait_for(lambda: len([e for e in run.events("episode") if e["collector"] == 0]) >= episodes + 2)
    assert [event["end"] for event in run.events("episode")].count("lost") <= 1
    assert is_dead(server) and server_below(actors[0]) != server

    # While the learner stands still its node keeps what is finished; then the actor dies before it could send it.
    run.process.send_signal(signal.SIGSTOP)
    below = descendants(actors[1])
    until_s = time.monotonic() + PATIENCE_S
    while len(run.outboxes()) < 2 and time.monotonic() < until_s:
        time.sleep(0.01)
    assert len(run.outboxes()) == 2, run.output()
    os.kill(actors[1], signal.SIGKILL)
    run.process.send_signal(signal.SIGCONT)
    (lost,) = run.wait_for(lambda: [event for event in run.events("lost") if event["collector"] == 1])
    assert "actor" in lost["why"]
    placed = run.wait_for(lambda: [event for event in run.events("placed")[2:] if event["collector"] == 1])[0]
    assert placed["pid"] != actors[1] and all(map(is_dead, below)), "collector and server died with their actor"
    known = len(run.events("episode"))
    run.wait_for(lambda: [e for e in run.events("episode")[known:] if e["collector"] == 1 and e["version"] is not None])

    run.process.send_signal(signal.SIGTERM)
    until_s = time.monotonic() + PATIENCE_S
    while run.process.poll() is None and time.monotonic() < until_s:
        run.outboxes()
        time.sleep(0.005)
    assert run.process.returncode == 0, run.output()
    streams = run.stored()
    stored = {f"{stream}-{number:08d}{SUFFIX}" for stream, numbers in streams.items() for number in numbers}
    assert run.finished and run.finished <= stored, run.finished - stored
    assert all(numbers == list(range(len(numbers))) for numbers in streams.values()), "no gap in any stream"
    lost = [f"collector {event['collector']}: {event['why']}" for event in run.events("lost")]
    assert 3 <= len(streams) <= 2 + len(lost), "a stream for each collector, and for each one that replaced another"
    for name in stored:
        read_segment(run.folder / "run" / "replay" / name)
    assert not list(run.temporary.glob("raw2drive-*/*/replay/*")), "nothing is left on the nodes"
    print(
        f"{len(stored)} segments, {len(run.finished)} of them seen in outboxes; {len(run.events('episode'))} episodes"
    )
    print("lost:", *lost, sep="\n  ")
