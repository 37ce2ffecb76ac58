"""The recorded drive: the shipped agent does with its inputs what it did when it was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.observation import CAMERA_NAMES, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX
from eval.golden import (
    GoldenConfig,
    InputData,
    Recording,
    Trace,
    compare,
    decode,
    encode,
    golden,
    replay,
    weights_sha256,
)
from eval.runner import DEFAULT_WEIGHTS, InputError

GOLDEN = Path(__file__).parent / "golden" / "gen21.golden"
MAX_BYTES = 300_000
SHORT_TICKS = 60


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.load(GOLDEN)


def test_the_shipped_agent_does_what_it_did(recording: Recording) -> None:
    command = f"python -m eval golden --recording {GOLDEN} --accept"
    assert recording.weights_sha256 == weights_sha256(DEFAULT_WEIGHTS), f"other weights or agent.yaml: {command}"
    assert recording.trace is not None
    assert len(recording.ticks) == 200
    assert GOLDEN.stat().st_size < MAX_BYTES
    trace = replay(recording, DEFAULT_WEIGHTS)
    difference = compare(recording.trace, trace)
    assert difference.ok, f"{difference}; if that is wanted: {command}"
    assert trace.controls[:, 0].max() > 0.5 and trace.controls[:, 2].max() == 1.0  # it sets off and brakes
    assert np.ptp(trace.controls[:, 1]) > 0.1  # and steers


def test_another_agent_is_told_from_it(recording: Recording) -> None:
    """The red and blue channels swapped: a mistake that no shape or type shows."""

    def swapped(data: InputData) -> InputData:
        return {**data, **{name: (data[name][0], data[name][1][..., [2, 1, 0, 3]]) for name in CAMERA_NAMES}}

    assert recording.trace is not None
    short = replace(recording, ticks=recording.ticks[:SHORT_TICKS])
    controls, modes, logits = recording.trace.controls, recording.trace.modes, recording.trace.logits
    expected = Trace(controls[:SHORT_TICKS], modes[:SHORT_TICKS], logits[: SHORT_TICKS // 2])
    difference = compare(expected, replay(short, DEFAULT_WEIGHTS, swapped))
    assert not difference.ok, difference


def test_pictures_survive_their_coding_nearly() -> None:
    y, x = np.mgrid[0 : 2 * IMAGE_HEIGHT_PX, 0 : 3 * IMAGE_WIDTH_PX]
    pictures = [np.stack([x % 256, y % 256, (x + y + 8 * i) // 4 % 256], -1).astype(np.uint8) for i in range(3)]
    frames = list(decode(encode(pictures, crf=12)))
    assert len(frames) == len(pictures)
    for picture, frame in zip(pictures, frames, strict=True):
        assert list(frame) == list(CAMERA_NAMES)
        for i, image in enumerate(frame.values()):
            top, left = i // 3 * IMAGE_HEIGHT_PX, i % 3 * IMAGE_WIDTH_PX
            original = picture[top : top + IMAGE_HEIGHT_PX, left : left + IMAGE_WIDTH_PX].astype(float)
            assert image.shape == (IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX, 4)
            assert np.median(np.abs(image[..., 2::-1] - original)) < 6.0


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recording"):
        Recording.load(tmp_path / "none.golden")
    for content in (b"", b"text", GOLDEN.read_bytes()[:1000]):
        path = tmp_path / "broken.golden"
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a recording"):
            Recording.load(path)


@pytest.mark.soak
def test_recording_a_drive_and_replaying_it(tmp_path: Path) -> None:
    path = tmp_path / "new.golden"
    assert golden(GoldenConfig(recording=path, record=True, town="Gen03", traffic=0, seconds=2.0)) == 0
    assert len(Recording.load(path).ticks) == 40
    assert golden(GoldenConfig(recording=path)) == 0
