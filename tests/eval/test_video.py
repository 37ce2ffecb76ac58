"""Films: size, number of frames, joining; the picture of a decision."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from eval.draw import BEV_PX, HEADER_PX, MAP_RANGE_M, MASK_COLORS, PANEL, SIZE_PX, FramePainter, action_text
from eval.video import HOLD_END_FRAMES, Film, VideoFile, join_films
from tests.eval.synthetic_moments import moments


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write(path: Path, gray: int, count: int = 10) -> Path:
    video = VideoFile(path, (64, 48))
    for _ in range(count):
        video.write(np.full((48, 64, 3), gray, np.uint8))
    video.close()
    video.close()
    return path


def test_frames_come_back_with_size_number_and_content(tmp_path: Path) -> None:
    frames = decode(write(tmp_path / "a.mp4", 100))
    assert len(frames) == 10 and frames[0].shape == (48, 64, 3)
    assert abs(frames[5].astype(int) - 100).max() <= 4
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_the_index_lies_before_the_pictures(tmp_path: Path) -> None:
    data = write(tmp_path / "a.mp4", 100).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        VideoFile(tmp_path / "a.mp4", (63, 48))


def test_a_film_without_frames_leaves_no_file(tmp_path: Path) -> None:
    VideoFile(tmp_path / "a.mp4", (64, 48)).close()
    assert list(tmp_path.iterdir()) == []


def test_joined_films_play_one_after_the_other(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{gray}.mp4", gray) for gray in (40, 120, 200)]
    assert join_films(parts, tmp_path / "all.mp4") == 30
    frames = decode(tmp_path / "all.mp4")
    assert [round(float(frame.mean()), -1) for frame in frames] == [40.0] * 10 + [120.0] * 10 + [200.0] * 10
    with av.open(str(tmp_path / "all.mp4")) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        assert len(set(stamps)) == 30
        assert float(container.duration or 0) / av.time_base == pytest.approx(3.0, abs=0.11)


def test_a_film_has_a_picture_per_decision_and_holds_the_last(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4")
    for moment in moments(5):
        film(moment)
    film.close()
    film.close()
    frames = decode(tmp_path / "film.mp4")
    assert len(frames) == 5 + HOLD_END_FRAMES
    assert frames[0].shape == (SIZE_PX[1], SIZE_PX[0], 3)


def test_a_picture_without_cameras_and_network() -> None:
    moment = next(moments(1))
    bare = type(moment)(
        **{**{name: getattr(moment, name) for name in moment.__dataclass_fields__}, "cameras": {}, "bev": None}
    )
    picture = FramePainter().paint(bare)
    assert picture.shape == (SIZE_PX[1], SIZE_PX[0], 3) and picture.std() > 5.0


def test_the_map_shows_a_junction_without_holes() -> None:
    moment = next(moments(1))
    x_m, y_m, yaw_rad = moment.step.x_m, moment.step.y_m, np.radians(moment.step.yaw_deg)
    ahead = np.array([np.cos(yaw_rad), np.sin(yaw_rad)])
    beside = np.array([-ahead[1], ahead[0]])

    def at(ahead_m: float, beside_m: float) -> tuple[float, float]:
        return tuple(np.array([x_m, y_m]) + ahead_m * ahead + beside_m * beside)

    corners = at(10.0, 0.0), at(22.0, -6.0), at(22.0, 6.0)  # three lanes around a triangle
    lanes = tuple((corners[i], corners[(i + 1) % 3]) for i in range(3))
    bare = replace(moment, bev=None, others=(), route_ego_m=np.zeros((1, 2)), route=replace(moment.route, lanes=lanes))
    left, top = SIZE_PX[0] - BEV_PX[0] - 8, HEADER_PX + 22
    panel = FramePainter().paint(bare)[top : top + BEV_PX[1], left : left + BEV_PX[0]]
    scale = BEV_PX[1] / (MAP_RANGE_M[1] - MAP_RANGE_M[0])
    middle_row, middle_column = round((MAP_RANGE_M[1] - 18.0) * scale), BEV_PX[0] // 2
    assert tuple(panel[middle_row, middle_column]) == MASK_COLORS["road"]
    assert tuple(panel[round(10.0 * scale), middle_column]) == PANEL  # 38 m ahead there is nothing


@pytest.mark.parametrize(
    ("index", "text"), [(0, "full brake"), (5, "throttle 0.7"), (1, "throttle 0.7, left 0.5"), (25, "coast")]
)
def test_actions_in_words(index: int, text: str) -> None:
    assert action_text(index) == text
