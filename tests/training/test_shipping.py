"""Segments and weights between machines: outboxes of killed owners, damaged and foreign files, repeated ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import carla
import pytest

from eval.generate import generate_routes
from simulator.towns.generate import generate
from tests.training.experience import fill
from tests.training.privileged import debug_config
from training.env.config import EndConfig, EnvConfig
from training.experience.index import read_rows
from training.experience.shipping import MAX_FILE_BYTES, Outbox, Shipment, ShipmentError, store_segment
from training.learner import Learner
from training.privileged.collector import CollectorJob
from training.privileged.driver import publish
from training.privileged.node import WEIGHTS_FILE, Assignment, RemoteCollector
from training.replay import SUFFIX, SegmentError, read_segment

PATIENCE_S = 300.0
ABANDON = """
import os, sys
from pathlib import Path
from training.experience.shipping import Outbox
outbox = Outbox("run", Path(sys.argv[1]))
print(outbox.segments, flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def test_segments_arrive_once_and_unchanged(tmp_path: Path) -> None:
    outbox, replay = Outbox("run", tmp_path), tmp_path / "replay"
    replay.mkdir()
    fill(outbox.segments, 20, 1)
    sent = {path.name: path.read_bytes() for path in outbox.waiting()}
    for is_new in (True, False):  # what was not confirmed comes again
        load = outbox.load()
        assert [store_segment(replay, shipment) for shipment in load] == [is_new] * 3
    assert {path.name: path.read_bytes() for path in replay.glob("*.segment")} == sent
    assert [row.steps for row in read_rows(replay)[0]] == [8, 8, 4]
    outbox.confirm([*sent, "../lock"])
    assert outbox.waiting() == [] and outbox.load() == []
    assert {path.name for path in replay.iterdir()} == sent.keys() | {"index.sqlite", "index.lock"}
    outbox.close()
    assert not outbox.folder.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": f"../s1-00000000{SUFFIX}"}, "is not expected here"),
        ({"name": f"s1-0{SUFFIX}"}, "is not expected here"),
        ({"name": "000000001.safetensors"}, "is not expected here"),
        ({"content": b"R2DSEG01"}, "sent was"),
        ({"name": f"s2-00000000{SUFFIX}"}, "was written as s1-00000000"),
    ],
)
def test_what_is_no_segment_leaves_nothing(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    node, replay = tmp_path / "node", tmp_path / "replay"
    replay.mkdir()
    fill(node, 8, 1)
    shipment = Shipment.of(node / f"s1-00000000{SUFFIX}")
    with pytest.raises((ShipmentError, SegmentError), match=re.escape(message)):
        store_segment(replay, replace(shipment, **changes))  # pyright: ignore[reportArgumentType]
    assert list(replay.iterdir()) == []


def test_damaged_and_huge_files_are_refused(tmp_path: Path) -> None:
    """Damage from before the sending has a right checksum, but it is no whole segment."""
    torn, huge = tmp_path / f"s1-00000000{SUFFIX}", tmp_path / f"s1-00000001{SUFFIX}"
    fill(tmp_path / "node", 8, 1)
    torn.write_bytes((tmp_path / "node" / torn.name).read_bytes()[:-9])
    with pytest.raises(SegmentError, match="damaged index"):
        store_segment(tmp_path / "node", replace(Shipment.of(torn), name=huge.name))
    assert not (tmp_path / "node" / huge.name).exists()
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ShipmentError, match="take fewer steps per segment"):
        Shipment.of(huge)


def test_the_outbox_of_a_killed_owner_is_taken_over(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", ABANDON, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert owner.stdout is not None
    segments = Path(owner.stdout.readline().strip())
    fill(segments, 20, 1)
    early = Outbox("run", tmp_path)
    assert early.waiting() == [], "its owner lives"
    owner.communicate()
    assert owner.returncode == -9
    late = Outbox("run", tmp_path)
    assert [path.name for path in late.waiting()] == [f"s1-{number:08d}{SUFFIX}" for number in range(3)]
    assert not segments.parent.exists() and early.folder.exists()
    late.close()
    assert late.waiting(), "not confirmed, so they stay"
    assert len(Outbox("run", tmp_path).waiting()) == 3
    assert Outbox("other", tmp_path).waiting() == []


def test_weights_are_replaced(tmp_path: Path) -> None:
    outbox = Outbox("run", tmp_path)
    for version in range(4):
        path = tmp_path / f"{version:09d}.safetensors"
        path.write_bytes(bytes([version]))
        outbox.take_weights(Shipment.of(path), WEIGHTS_FILE, 2)
    assert {path.name: path.read_bytes() for path in outbox.weights.iterdir()} == {
        "000000002.safetensors": b"\2",
        "000000003.safetensors": b"\3",
    }
    with pytest.raises(ShipmentError, match="not expected here"):
        outbox.take_weights(replace(Shipment.of(path), name="new.safetensors"), WEIGHTS_FILE, 2)


def test_a_collector_drives_from_its_assignment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor does on a node, without Ray; paths of the learner's machine mean nothing there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    carla_map = carla.Map("Shipped", generate(3))
    routes = generate_routes(carla_map, 1, seed=3, town="Shipped", min_length_m=150.0, min_turns=0)
    config = debug_config("paper", vector=35)
    job = CollectorJob(
        number=0,
        seed=1,
        config=replace(config, replay=replace(config.replay, segment_steps=8)),
        env=EnvConfig(traffic=0, ends=EndConfig(max_s=2.0), town_dir=Path("/nowhere")),
        routes=tuple(routes),
        weights=Path("/nowhere/weights"),
        replay=Path("/nowhere/replay"),
    )
    weights = publish(tmp_path / "weights", Learner(job.config, seed=1))
    replay = tmp_path / "replay"
    replay.mkdir()
    collector = RemoteCollector("run")
    pid, _ = collector.start(
        Assignment(job, "collector-0", {"Shipped.xodr": generate(3).encode()}), Shipment.of(weights)
    )
    assert pid == os.getpid()
    messages: list[Mapping[str, Any]] = []
    stored: list[str] = []
    over = False
    until_s = time.monotonic() + PATIENCE_S
    while not over and time.monotonic() < until_s:
        report = collector.look(stored, None, paused=False)
        messages += report.messages
        stored = [segment.name for segment in report.segments if store_segment(replay, segment)]
        over = report.over
        if any("episode" in message for message in messages):
            collector.hang_up()
        time.sleep(0.05)
    assert over and report.dead == "exit code 0", report.dead
    collector.close()
    assert not list(tmp_path.glob("raw2drive-run/*/")), "nothing is left on the node"
    (episode,) = [message["episode"] for message in messages if "episode" in message]
    assert episode["version"] == 0 and episode["decisions"] >= 20
    segments = [read_segment(path) for path in sorted(replay.glob(f"*{SUFFIX}"))]
    assert [segment.metadata["sequence"] for segment in segments] == list(range(len(segments)))
    assert sum(len(segment.steps) for segment in segments) >= 21
