"""Segments: what is written is read back; damage is noticed, named and survived."""

import logging
from pathlib import Path

import numpy as np
import pytest

from training.replay import SegmentError, SegmentWriter, Step, read_segment, read_segments


def make_step(seed: int) -> Step:
    generator = np.random.default_rng(seed)
    smooth = np.linspace(0, 200, 224, dtype=np.float32)[None, :] + np.linspace(0, 40, 128, dtype=np.float32)[:, None]
    images = np.broadcast_to(smooth.astype(np.uint8), (6, 3, 128, 224)) + np.uint8(seed)
    words = generator.integers(0, 2**43, (128, 128), dtype=np.uint64)
    arrays = {"route": generator.normal(size=(8, 2)).astype(np.float32), "label": np.full(39, 1 / 39, np.float32)}
    return Step(images=images, words=words, arrays=arrays, scalars={"speed_mps": 3.5, "first": seed == 0, "n": seed})


def write(folder: Path, count: int = 3) -> Path:
    writer = SegmentWriter(folder, {"episode": "Gen02-1", "town": "Gen02"})
    for seed in range(count):
        writer.add(make_step(seed))
    path = writer.publish()
    assert path is not None and len(writer) == 0
    return path


def test_round_trip(tmp_path: Path) -> None:
    segment = read_segment(write(tmp_path))
    assert segment.metadata == {"episode": "Gen02-1", "town": "Gen02"}
    for seed, stored in enumerate(segment.steps):
        step = make_step(seed)
        np.testing.assert_array_equal(stored.words(), step.words)
        np.testing.assert_array_equal(stored.arrays["route"], step.arrays["route"])
        assert stored.scalars == step.scalars
        difference = stored.images().astype(int) - step.images.astype(int)
        assert stored.images().shape == (6, 3, 128, 224) and abs(difference).mean() < 2.0


def test_nothing_is_left_but_the_segment(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert SegmentWriter(tmp_path, {}).publish() is None


@pytest.mark.parametrize("place", ["start", "record", "index", "footer"])
def test_a_flipped_byte_is_noticed(tmp_path: Path, place: str) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    offset = {"start": 0, "record": 100, "index": len(data) - 40, "footer": len(data) - 20}[place]
    data[offset] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SegmentError, match=path.name):
        read_segment(path)


@pytest.mark.parametrize("keep", [0, 4, 1000])
def test_a_cut_file_is_noticed(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SegmentError, match=path.name):
        read_segment(path)


def test_damaged_segments_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = write(tmp_path), write(tmp_path)
    bad.write_bytes(bad.read_bytes()[:-1])
    (tmp_path / "left.partial").write_bytes(b"half a segment")
    with caplog.at_level(logging.WARNING):
        segments = list(read_segments([tmp_path]))
    assert [segment.path for segment in segments] == [good]
    assert "skipped segment 1" in caplog.text and bad.name in caplog.text


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="no such data folder"):
        list(read_segments([tmp_path / "nothing"]))
