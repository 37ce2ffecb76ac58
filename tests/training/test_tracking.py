"""Curves of a run in TensorBoard's format, read back byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from tests.training.frozen import events
from training.privileged.tracking import Tracker, curve_points

_LENGTH = struct.Struct("<QI")


def read(folder: Path) -> list[Any]:
    """Events of all files, in order: each is length, checksum of the length, bytes, checksum of the bytes."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length, _ = _LENGTH.unpack_from(data, at)
            found.append(Event.FromString(data[at + _LENGTH.size : at + _LENGTH.size + length]))
            at += _LENGTH.size + length + 4
    return found


def test_numbers_become_curves_and_every_event_a_line(tmp_path: Path) -> None:
    with Tracker(tmp_path, update=4) as tracker:
        tracker.write("start", {"resumed": True})
        tracker.write("update", {"update": 5, "kl": 0.5, "bad": float("nan"), "note": "text"})
        tracker.write("evaluation", {"update": 6, "success": 0.25, "routes": [{"reward": 1.0}]})
        tracker.write("episode", {"update": 6, "success": True, "reward": -1.5, "route": "7"})
    curves = read(tmp_path / "tensorboard")
    assert curves[1].session_log.status == SessionLog.START and curves[1].step == 4
    points = {(value.tag, event.step): value.simple_value for event in curves for value in event.summary.value}
    assert points == {
        ("update/kl", 5): 0.5,
        ("evaluation/success", 6): 0.25,
        ("episode/success", 6): 1.0,
        ("episode/reward", 6): -1.5,
    }
    assert [event["update"] for event in events(tmp_path, "update")] == [5]
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 4


def test_events_without_a_place_are_no_points() -> None:
    assert curve_points("update", {"kl": 1.0}) == {} == curve_points("lost", {"update": 1, "collector": 2})
