"""Figures of the raw stage: blind spots, what is shown of a recording, curves from logs, drawn from a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.test_raw_run import frame, save_teacher
from training import bev
from training.experience.writer import ExperienceWriter, Transition
from training.raw import confusion_figure, decoded_figure, loss_figure
from training.raw.blind import behind_others, hidden_bodies, outside, overlap
from training.raw.config import RawHeadConfig, RawRunConfig
from training.raw.load import load_learner
from training.raw.readout import read_out
from training.raw.recording import Recording
from training.raw.trainer import train

SIZE = 64
EGO_ROW, EGO_COLUMN = 45, 32


def scene(*bodies: tuple[int, slice, slice]) -> np.ndarray:
    """Words with the ego and rectangles of a channel each."""
    words = np.zeros((SIZE, SIZE), np.uint64)
    words[EGO_ROW - 2 : EGO_ROW + 3, EGO_COLUMN - 1 : EGO_COLUMN + 1] |= np.uint64(1 << bev.EGO)
    for channel, rows, columns in bodies:
        words[rows, columns] |= np.uint64(1 << channel)
    return words


NEAR = (bev.VEHICLE, slice(34, 38), slice(30, 35))
BEHIND = (bev.WALKER, slice(22, 24), slice(32, 33))
BESIDE = (bev.VEHICLE, slice(22, 26), slice(44, 48))


def test_a_car_hides_who_is_behind_it_and_nobody_else() -> None:
    words = scene(NEAR, BEHIND, BESIDE)
    hidden = behind_others(words)
    assert hidden[BEHIND[1:]].all() and not hidden[NEAR[1:]].any() and not hidden[BESIDE[1:]].any()
    assert not hidden[EGO_ROW:].any() and hidden[10, EGO_COLUMN]
    assert not behind_others(scene(BEHIND, BESIDE))[BEHIND[1:]].any()
    ((row, column, radius),) = hidden_bodies(words, hidden)
    assert (row, column) == (23.0, 32.5) and 2.0 < radius < 3.0


def test_a_body_of_which_a_part_is_seen_is_seen() -> None:
    wide = (bev.VEHICLE, slice(22, 26), slice(20, 44))
    hidden = behind_others(scene(NEAR, wide))
    assert not hidden[wide[1:]].any() and hidden[15, EGO_COLUMN]


def test_what_the_image_encoder_s_map_does_not_reach() -> None:
    far = outside(SIZE, (-16.0, -8.0, -0.5, 16.0, 40.0, 3.5))
    assert far.sum() == SIZE * SIZE - 32 * 48
    assert not far[5, 16] and far[4, 16] and not far[52, 47] and far[53, 47] and far[30, 48] and far[30, 15]


def test_overlap_counts_where_it_is_asked() -> None:
    truth, thought = np.array([True, True, False, True]), np.array([True, False, True, True])
    assert overlap(truth, thought, np.ones(4, bool)).tolist() == [2.0, 4.0]
    assert overlap(truth, thought, np.array([False, True, True, False])).tolist() == [0.0, 2.0]


def record(folder: Path) -> None:
    """Two episodes of 30 steps with a car that hides another; the reward falls once, the first ends for good."""
    hidden = (bev.VEHICLE, slice(20, 28), slice(30, 35))
    words = np.kron(scene(NEAR, hidden), np.ones((2, 2), np.uint64))
    with ExperienceWriter(folder, stream="s0", segment_steps=25) as writer:
        for step in range(60):
            at = step % 30
            writer.add(
                Transition(
                    words=words,
                    previous_action=5,
                    reward=-1.0 if step == 40 else 0.01 * at,
                    first=at == 0,
                    last=at == 29,
                    terminal=step == 29,
                    vector=np.full(35, 0.02 * at, np.float32),
                    sensors=frame(step),
                )
            )


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three heads, and its data in `data`."""
    folder = tmp_path_factory.mktemp("run")
    record(folder / "data" / "replay")
    run = RawRunConfig(
        teacher=save_teacher(folder / "privileged"),
        encoder=None,
        collectors=0,
        replay=folder / "data" / "replay",
        evaluate_minutes=0.0,
        updates=2,
        batch=1,
        steps=3,
        log_updates=1,
        heads=RawHeadConfig(reward=True, continuation=True),
    )
    train(run, folder / "run", minutes=10.0)
    return folder


def test_a_recording_is_read_in_order(run: Path) -> None:
    recording = Recording(run / "data" / "replay", load_learner(run / "run").config)
    (stretch,) = recording.stretches()
    assert stretch.steps == 60 and np.flatnonzero(stretch.last).tolist() == [29, 59]
    window = recording.read(stretch, 20, 33)  # over the border of two segments
    assert window.reward[0].tolist() == pytest.approx(stretch.reward[20:33].tolist())
    assert window.sensors is not None
    grey = window.sensors.images[0, :, 0, 1, 60, 100].int().tolist()
    assert np.abs(np.subtract(grey, [(10 * step) % 256 for step in range(20, 33)])).max() <= 2
    assert [stretch.start_before(step, 16) for step in (50, 35, 10)] == [35, 30, 0]
    with pytest.raises(ValueError, match="no such folder"):
        Recording(run / "nowhere", load_learner(run / "run").config)


def test_jumps_of_the_reward_and_ends_are_found(run: Path) -> None:
    stretches = Recording(run / "data" / "replay", load_learner(run / "run").config).stretches()
    assert [step for _, step in confusion_figure.reward_jumps(stretches, 1)] in ([40], [41])
    assert confusion_figure.reward_jumps(stretches, 1, within=5)[0][1] in (*range(4, 6), *range(32, 36))
    assert [step for _, step in confusion_figure.episode_ends(stretches, 3)] == [29, 59]


def test_every_figure_is_drawn(run: Path, tmp_path: Path) -> None:
    learner = load_learner(run / "run")
    recording = Recording(run / "data" / "replay", learner.config)
    picture = Image.open(decoded_figure.draw(learner, recording, tmp_path / "decoded.png", rows=1))
    assert picture.height == decoded_figure.TILE_PX + 2 * decoded_figure.LABEL_PX
    assert any(colour == decoded_figure.RED for _, colour in picture.getcolors(1 << 20) or ())
    picture = Image.open(confusion_figure.draw(learner, recording, recording, tmp_path / "confusion.png", rows=1))
    assert picture.height == 2 * (confusion_figure.FRAME_PX[1] + 5 * confusion_figure.LINE_PX)
    runs = loss_figure.runs_of(f"a={run / 'run'},b={run / 'run'},b={run / 'run'}")
    assert Image.open(loss_figure.draw(runs, tmp_path / "loss.png")).width > 1000
    learner.model.reward_head = None
    with pytest.raises(ValueError, match="three_heads"):
        confusion_figure.draw(learner, recording, None, tmp_path / "x.png")


def test_a_readout_of_windows_with_ends_counts_only_what_goes_on(run: Path) -> None:
    learner = load_learner(run / "run")
    recording = Recording(run / "data" / "replay", learner.config)
    (stretch,) = recording.stretches()
    whole = read_out(learner, [recording.read(stretch, 30, 54)])
    cut = read_out(learner, [recording.read(stretch, 15, 39)])  # the episode changes after 7 imagined steps
    assert whole["rollout_deter_15"] is not None and cut["rollout_deter_5"] is not None
    assert cut["rollout_deter_15"] is None
    assert whole["iou_vehicle"] is not None and whole["iou_lights"] is None


def test_an_update_that_was_made_twice_counts_once(tmp_path: Path) -> None:
    lines = [{"kind": "update", "update": at, "masks": value} for at, value in ((1, 9.0), (2, 8.0), (2, 7.0), (3, 6.0))]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    updates, values = loss_figure.logged(tmp_path)["masks"]
    assert updates.tolist() == [1, 2, 3] and values.tolist() == [9.0, 7.0, 6.0]
    for text in ("", "a", "a=", "=b"):
        with pytest.raises(ValueError, match="NAME=FOLDER"):
            loss_figure.runs_of(text)
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(ValueError, match="no update is logged"):
        loss_figure.logged(tmp_path)
