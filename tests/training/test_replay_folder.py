"""Many writers, one folder: what is finished is kept, what is torn is not read, the index is a convenience."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.experience import STILL, fill, settings, transition
from training.experience import sampler as sampling
from training.experience.batches import Batches
from training.experience.config import ReplayConfig
from training.experience.index import FILE, adopt, read_rows
from training.experience.sampler import ReplayError, Sampler, pin, pinned, unpin
from training.experience.writer import ExperienceWriter
from training.learner import Learner
from training.replay import SegmentWriter, Step, read_segment

WRITER = """
import sys, time
from pathlib import Path
from tests.training.experience import transition
from training.experience.writer import ExperienceWriter
folder, stream, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with ExperienceWriter(folder, stream=f"s{stream}", segment_steps=8) as writer:
    for step in range(steps):
        writer.add(transition(stream, step))
    print("written", flush=True)
    if len(sys.argv) > 4:
        time.sleep(60)
"""


def writer_process(folder: Path, stream: int, steps: int, *, hang: bool = False) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(folder), str(stream), str(steps)]
    repository = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [*arguments, *(["hang"] if hang else [])], stdout=subprocess.PIPE, text=True, cwd=repository
    )


def rewards(folder: Path) -> list[float]:
    rows, _ = read_rows(folder)
    names = sorted((row.stream, row.sequence, row.name) for row in rows)
    segments = [read_segment(folder / f"{name}.segment") for *_, name in names]
    return [step.scalars["reward"] for segment in segments for step in segment.steps]


def test_T02_learner_trains_on_what_two_processes_wrote_one_of_them_killed(tmp_path: Path) -> None:
    processes = [writer_process(tmp_path, 0, 44), writer_process(tmp_path, 1, 44, hang=True)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
    processes[1].send_signal(signal.SIGKILL)  # 40 of its 44 steps are in finished segments
    for process in processes:
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
    (tmp_path / "s1-00000005.partial").write_bytes(b"R2DSEG01 half a segment")
    assert rewards(tmp_path) == [*range(44), *range(1000, 1040)]

    config = settings("strong")
    learner = Learner(config)
    with Batches(tmp_path, config, latents=tmp_path / "run") as batches:
        losses = []
        for _ in range(3):
            batch = batches.next()
            metrics, state = learner.update(batch.replayed)
            batches.store(batch, state)
            losses.append(float(metrics["masks"]))
    assert np.isfinite(losses).all() and learner.updates == 3


def test_writer_killed_between_publishing_and_indexing_loses_nothing(tmp_path: Path) -> None:
    with ExperienceWriter(tmp_path, stream="s0", segment_steps=8, indexed=False) as writer:
        for step in range(20):
            writer.add(transition(0, step))
    assert read_rows(tmp_path)[0] == []
    assert Sampler(tmp_path, STILL, 6, 0).catalogue.steps == 20
    assert rewards(tmp_path) == list(range(20))


@pytest.mark.parametrize("damage", ["missing", "garbage", "emptied", "cut", "other version", "table gone"])
def test_index_is_rebuilt_from_the_segments(tmp_path: Path, damage: str) -> None:
    fill(tmp_path, 50, 0, 1)
    rows, _ = read_rows(tmp_path)
    path = tmp_path / FILE
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(os.urandom(8192))
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version=99" if damage == "other version" else "DROP TABLE segments")
        connection.commit()
        connection.close()
    found = Sampler(tmp_path, STILL, 6, 0).catalogue.rows
    assert found == tuple(sorted(rows, key=lambda row: row.name)) and len(found) == 14
    assert {row.name for row in read_rows(tmp_path)[0]} == {row.name for row in rows}


def test_index_survives_writers_that_start_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=fill, args=(tmp_path, 40, stream)) for stream in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, _ = read_rows(tmp_path)
    assert sorted((row.stream, row.sequence) for row in rows) == [(f"s{s}", k) for s in range(4) for k in range(5)]


def test_stream_names_are_used_once_and_are_plain(tmp_path: Path) -> None:
    fill(tmp_path, 8, 0)
    with pytest.raises(ValueError, match="written before"):
        ExperienceWriter(tmp_path, stream="s0")
    with pytest.raises(ValueError, match=r"\.\./x"):
        ExperienceWriter(tmp_path, stream="../x")


def test_recorded_frames_in_the_folder_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, 8, 0)
    writer = SegmentWriter(tmp_path, {"episode": "Gen02-1"})
    writer.add(Step(np.zeros((0, 3, 0, 0), np.uint8), np.zeros((128, 128), np.uint64), {}, {}))
    writer.publish("foreign")
    with caplog.at_level(logging.WARNING):
        refused: set[str] = set()
        assert adopt(tmp_path, {"s0-00000000"}, refused) == [] and refused == {"foreign"}
    assert "foreign.segment" in caplog.text and "recorded frames" in caplog.text


# ----------------------------------------------------------------------------- eviction


def test_oldest_steps_leave_first_and_the_disk_follows(tmp_path: Path) -> None:
    fill(tmp_path, 40, 0)
    fill(tmp_path, 40, 1)
    sampler = Sampler(tmp_path, ReplayConfig(capacity_steps=48, refresh_s=0.0), 6, 0)
    assert [row.name for row in sampler.catalogue.rows] == ["s0-00000004", *(f"s1-{k:08d}" for k in range(5))]
    assert sampler.sweep() == [f"s0-{k:08d}" for k in range(4)]
    assert len(list(tmp_path.glob("*.segment"))) == 6 == len(read_rows(tmp_path)[0])
    assert sampler.sweep() == []
    assert min(sampler.draw().position for _ in range(200)) == 0  # of s1; s0 holds 32 .. 37 only
    assert all(w.position >= 32 for w in (sampler.draw() for _ in range(200)) if w.stream == "s0")


def test_what_a_checkpoint_pins_stays(tmp_path: Path) -> None:
    fill(tmp_path, 40, 0)
    before = Sampler(tmp_path, STILL, 6, 0).state()
    pin(tmp_path, "step-100", before)
    fill(tmp_path, 40, 1)
    small = ReplayConfig(capacity_steps=16, refresh_s=0.0)
    sampler = Sampler(tmp_path, small, 6, 0)
    assert sampler.sweep() == [f"s1-{k:08d}" for k in range(3)]
    assert pinned(tmp_path) == {f"s0-{k:08d}" for k in range(5)}
    Sampler(tmp_path, STILL, 6, 0).restore(before)
    unpin(tmp_path, "step-100")
    assert sampler.sweep() == [f"s0-{k:08d}" for k in range(5)]
    assert rewards(tmp_path) == list(range(1024, 1040))


def test_an_unreadable_pin_stops_deleting(tmp_path: Path) -> None:
    fill(tmp_path, 40, 0)
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "bad.json").write_text("{")
    with pytest.raises(ReplayError, match=r"bad\.json"):
        Sampler(tmp_path, ReplayConfig(capacity_steps=8, refresh_s=0.0), 6, 0).sweep()
    assert len(list(tmp_path.glob("*.segment"))) == 5


def test_reader_is_not_disturbed_by_eviction(tmp_path: Path) -> None:
    fill(tmp_path, 160, 0)
    reader = Batches(tmp_path, settings(), ahead=2)
    evictor = Sampler(tmp_path, ReplayConfig(capacity_steps=32, refresh_s=0.0), 6, 0)
    with reader:
        reader.next()
        assert len(evictor.sweep()) == 16
        for _ in range(8):
            rewards_read = reader.next().replayed.reward
            assert (rewards_read[:, 1:] - rewards_read[:, :-1] == 1.0).all()
        assert float(rewards_read.min()) >= 128.0  # what is left
    assert reader.sampler.damaged == 0


def test_half_written_files_of_dead_writers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 8, 0)
    old, fresh = tmp_path / "a.partial", tmp_path / "b.partial"
    sampler = Sampler(tmp_path, STILL, 6, 0)
    old.write_bytes(b"half")
    sampler.sweep()
    monkeypatch.setattr(sampling, "STALE_PARTIAL_S", 0.01)
    time.sleep(0.05)
    fresh.write_bytes(b"half")
    sampler.sweep()
    assert not old.exists() and fresh.exists()


# ----------------------------------------------------------------------------- faults


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)


def test_T08_a_damaged_segment_is_dropped_and_counted_and_too_many_end_the_run(tmp_path: Path) -> None:
    fill(tmp_path, 80, 0)
    damage(tmp_path / "s0-00000004.segment")
    with Batches(tmp_path, settings(), ahead=0) as batches:
        for _ in range(12):
            known = batches.sampler.damaged
            read = batches.next().replayed.reward
            assert (read[:, 1:] - read[:, :-1] == 1.0).all() and not (read == 32).any()  # the damaged record
            assert not known or not ((read >= 32) & (read < 40)).any()  # its segment
        assert batches.sampler.damaged == 1
        damage(tmp_path / "s0-00000006.segment")
        with pytest.raises(ReplayError, match="2 of 10 segments are damaged"):
            for _ in range(40):
                batches.next()


def test_T08_damage_in_the_background_reaches_the_learner(tmp_path: Path) -> None:
    fill(tmp_path, 24, 0)
    for path in tmp_path.glob("*.segment"):
        damage(path)
    with Batches(tmp_path, settings(), ahead=2) as batches:
        for _ in range(2):
            with pytest.raises(ReplayError, match="damaged"):
                batches.next()


@pytest.mark.parametrize("steps", [0, 5])
def test_T11_folder_without_a_window_is_an_error_with_counts(tmp_path: Path, steps: int) -> None:
    fill(tmp_path, steps, 0)
    with Batches(tmp_path, settings(), ahead=0) as batches, pytest.raises(ReplayError, match=f"{steps} steps in"):
        batches.next()


def test_learner_can_wait_for_the_first_segments(tmp_path: Path) -> None:
    with Batches(tmp_path, settings(), ahead=2) as batches:
        assert batches.refresh() == 0
        fill(tmp_path, 20, 0)
        assert batches.refresh() == 15
        assert batches.next().replayed.reward.shape == (4, 6)


def test_T09_segments_later_than_the_checkpoint_are_not_sampled(tmp_path: Path) -> None:
    fill(tmp_path, 40, 0)
    state = Sampler(tmp_path, STILL, 6, 0).state()
    fill(tmp_path, 40, 1)  # by drivers later than the checkpoint's weights
    sampler = Sampler(tmp_path, STILL, 6, 0)
    sampler.restore(state)
    assert {sampler.draw().stream for _ in range(100)} == {"s0"}
    fill(tmp_path, 40, 2)  # by drivers with its weights
    sampler.refresh()
    assert {sampler.draw().stream for _ in range(100)} == {"s0", "s2"}
    again = Sampler(tmp_path, STILL, 6, 0)
    again.restore(sampler.state())
    assert {again.draw().stream for _ in range(100)} == {"s0", "s2"}


def test_T09_restoring_from_another_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a", 40, 0)
    fill(tmp_path / "b", 40, 1)
    state = Sampler(tmp_path / "a", STILL, 6, 0).state()
    with pytest.raises(ReplayError, match="none of the checkpoint's segments"):
        Sampler(tmp_path / "b", STILL, 6, 0).restore(state)
    with pytest.raises(ReplayError, match="windows of 6 steps, expected 1 and 7"):
        Sampler(tmp_path / "a", STILL, 7, 0).restore(state)
