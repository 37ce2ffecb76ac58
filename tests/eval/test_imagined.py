"""What an agent imagines, beside what came: kept until it is due, painted, kept in films and pictures of incidents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from eval.draw import BELIEF_PX, BEV_PX, HEADER_PX, MASK_COLORS, SIZE_PX, STRIP_PX, FramePainter, belief_strip
from eval.frames import FrameFile, paint_film
from eval.moments import BevView, Imagined, Moment, Observer, TraceFile
from tests.eval.synthetic_moments import moments

RANGE_M = (-8.0, 40.0, 16.0, 16.0)
NAMES = ("road", "vehicle")
CORNER_PX = (SIZE_PX[0] - BEV_PX[0] - 8, HEADER_PX + 22)


def view(shown: str | None) -> BevView:
    """One mask everywhere."""
    masks = np.zeros((2, 48, 32))
    if shown is not None:
        masks[NAMES.index(shown)] = 1.0
    return BevView(masks, NAMES, RANGE_M)


def dreaming(count: int) -> Iterator[Moment]:
    """Road is seen; vehicles were imagined half a second before, nothing a second before."""
    dreams = Imagined(0.5, view("vehicle")), Imagined(1.0, view(None))
    for moment in moments(count):
        yield replace(moment, bev=view("road"), imagined=dreams, route_ego_m=np.zeros((2, 2)), others=())


def colour(picture: np.ndarray, column: int, row: int) -> tuple[int, ...]:
    """Of the middle of a panel's upper half."""
    x = CORNER_PX[0] + column * (BELIEF_PX[0] + 2) + BELIEF_PX[0] // 2
    y = CORNER_PX[1] + row * (BELIEF_PX[1] + 2) + BELIEF_PX[1] // 4
    return tuple(int(value) for value in picture[y, x])


def test_what_was_imagined_stands_beside_what_is_seen() -> None:
    picture = FramePainter().paint(next(dreaming(1)))
    assert np.abs(np.subtract(colour(picture, 0, 0), MASK_COLORS["road"])).max() <= 2
    assert np.abs(np.subtract(colour(picture, 1, 0), MASK_COLORS["vehicle"])).max() <= 2
    assert colour(picture, 0, 1) not in (colour(picture, 0, 0), colour(picture, 1, 0))
    strip = belief_strip(next(dreaming(1)))
    assert strip.shape == (STRIP_PX[1], STRIP_PX[0], 3)
    assert np.abs(np.subtract(strip[40, STRIP_PX[0] // 8], MASK_COLORS["road"])).max() <= 2
    assert np.abs(np.subtract(strip[40, 3 * STRIP_PX[0] // 8], MASK_COLORS["vehicle"])).max() <= 2


def test_a_film_keeps_it(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "1.frames", 1, 10)
    for moment in dreaming(3):
        file(moment)
    file.close()
    assert paint_film(tmp_path / "1.frames", tmp_path / "1.mp4") == 3
    with av.open(str(tmp_path / "1.mp4")) as film:
        painted = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert np.abs(np.subtract(colour(painted[0], 1, 0), MASK_COLORS["vehicle"])).max() <= 12


def test_pictures_of_incidents_show_it_below_the_camera(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path, "1")
    for moment in dreaming(6):
        trace(moment)
    trace.close()
    sizes = {path.name: Image.open(BytesIO(path.read_bytes())).size for path in tmp_path.glob("*.jpg")}
    assert sizes["1_01.jpg"] == sizes["1_end.jpg"] == (448, 256 + STRIP_PX[1])


def test_it_is_shown_at_the_decision_it_was_imagined_for_and_forgotten_behind_it() -> None:
    observer = Observer([])
    views = {steps: view(None) for steps in (1, 2, 3)}
    assert observer._due(0, views) == ()
    assert observer._due(1, {2: views[1]}) == (Imagined(0.1, views[1]),)
    assert observer._due(3, {}) == (Imagined(0.2, views[1]), Imagined(0.30000000000000004, views[3]))
    assert observer._imagined == {}
