"""What films are made of: kept while driving, painted afterwards, dropped when a route succeeds."""

from pathlib import Path

import av
import numpy as np
import pytest

from eval.draw import FramePainter
from eval.frames import FrameFile, paint_film
from eval.moments import TraceError
from eval.recorder import film_path, frames_path, moments_folder, settle_film
from eval.video import FRAMES_PER_S, HOLD_END_FRAMES
from tests.eval.synthetic_moments import moments


def keep(path: Path, count: int, *, every: int = 1) -> Path:
    path.parent.mkdir(exist_ok=True)
    file = FrameFile(path, every, FRAMES_PER_S // every)
    for moment in moments(count):
        file(moment)
    file.close()
    file.close()
    return path


def pictures(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        return frames, float(film.duration or 0) / av.time_base


def test_a_film_painted_afterwards_shows_what_one_painted_at_once_shows(tmp_path: Path) -> None:
    assert paint_film(keep(tmp_path / "1.frames", 6), tmp_path / "1.mp4") == 6
    frames, _ = pictures(tmp_path / "1.mp4")
    assert len(frames) == 6 + HOLD_END_FRAMES
    painter = FramePainter()
    for frame, moment in zip(frames, moments(6), strict=False):
        # Cameras of noise suffer from both compressions; all the rest is the same.
        apart = np.abs(frame[430:].astype(int) - painter.paint(moment)[430:])
        assert apart.mean() < 3.0


def test_every_other_decision_plays_in_real_time_too(tmp_path: Path) -> None:
    assert paint_film(keep(tmp_path / "1.frames", 20, every=2), tmp_path / "1.mp4") == 10
    frames, duration_s = pictures(tmp_path / "1.mp4")
    assert len(frames) == 10 + HOLD_END_FRAMES // 2
    assert duration_s == pytest.approx(3.0, abs=0.21)


def test_the_film_of_a_route_is_painted_if_wanted_and_its_frames_go_in_any_case(tmp_path: Path) -> None:
    for route_id, wanted in (("good", False), ("bad", True)):
        keep(frames_path(tmp_path, route_id), 2)
        settle_film(tmp_path, route_id, wanted=wanted)
        settle_film(tmp_path, route_id, wanted=wanted)
    assert list(moments_folder(tmp_path).iterdir()) == [film_path(tmp_path, "bad")]


def test_a_torn_end_is_left_out(tmp_path: Path) -> None:
    path = keep(tmp_path / "1.frames", 4)
    path.write_bytes(path.read_bytes()[:-1000])
    assert paint_film(path, tmp_path / "1.mp4") == 3


def test_no_frame_leaves_no_file(tmp_path: Path) -> None:
    assert not keep(tmp_path / "1.frames", 0).exists()


@pytest.mark.parametrize("content", [b"\x81\xa6format\x07", b"\x01\x02", b"\xc1\xc1"])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.frames"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"x\.frames"):
        paint_film(path, tmp_path / "x.mp4")
