"""Neighbouring frames that look alike but are rewarded differently, and the ends of episodes, with what the heads say.

The frames are of a run with three heads: rewards and continue flags are the recorded ones, those of the raw model's own
heads, and those of the privileged heads on the privileged states (Raw2Drive, Figure 9).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from agent.model.rssm import full_precision
from agent.observation import CAMERA_NAMES
from training.privileged.dream import BACKGROUND, TEXT
from training.raw.learner import RawLearner
from training.raw.readout import filtered
from training.raw.recording import Recording, Stretch

SEEN_STEPS = 16
SHOWN = 4
"""Neighbouring frames in a row of the picture."""
APART_STEPS = 30
"""Rows show different places: so many decisions lie between them at least."""
EXIT_STEPS = 80
"""Leaving the parking place takes some seconds; the rest of such a route is like others."""
JUMP = 0.5
"""Differences of the reward beyond this are marked."""
CAMERA = "CAM_FRONT"
FRAME_PX, GAP_PX, LINE_PX, FONT_PX = (280, 160), 6, 17, 13
RED = (255, 90, 70)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decision as the heads judge it."""

    image: np.ndarray
    """(3, h, w) uint8 RGB of the front camera."""
    reward: float
    alive: float
    """1, or 0 where the episode ended for good."""
    own: tuple[float, float]
    """Reward and probability of going on, by the raw model's heads."""
    privileged: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """Neighbouring frames with a title."""

    title: str
    frames: tuple[Frame, ...]


def draw(learner: RawLearner, recording: Recording, parking: Recording | None, out: Path, rows: int = 3) -> Path:
    """Write the picture: jumps of the reward (at the starts of `parking`, where it is given), then ends of episodes.

    Raises: ValueError for a run without reward and continue head, or a recording without such places.
    """
    if learner.model.reward_head is None or learner.model.continue_head is None:
        raise ValueError("the run has no reward and continue head; give one of the arm three_heads")
    if parking is None:
        source, where, within = recording, "the recording", None
    else:
        source, where, within = parking, "ParkingExit", EXIT_STEPS
    places = reward_jumps(source.stretches(), rows, within)
    jumps = [(source, f"{where}: the reward jumps", *place) for place in places]
    ends = [(recording, "the episode ends", *place) for place in episode_ends(recording.stretches(), rows)]
    if not jumps and not ends:
        raise ValueError("the recording holds neither a jump of the reward nor the end of an episode; record more")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet([_row(learner, *item) for item in jumps + ends]).save(out)
    return out


def reward_jumps(stretches: list[Stretch], count: int, within: int | None = None) -> list[tuple[Stretch, int]]:
    """Steps whose reward differs most from the one before, after the same action, inside an episode.

    within: only in the first so many steps of an episode.
    """
    places = []
    for stretch in stretches:
        for step in range(SHOWN, stretch.steps - 1):
            if stretch.first[step - 1 : step + 1].any() or stretch.last[step]:
                continue
            if within is not None and not stretch.first[max(step - within, 0) : step].any():
                continue
            if stretch.action[step] == stretch.action[step - 1]:
                places.append((abs(float(stretch.reward[step] - stretch.reward[step - 1])), stretch, step))
    places.sort(key=lambda place: -place[0])
    return _apart([(stretch, step) for _, stretch, step in places], count)


def episode_ends(stretches: list[Stretch], count: int) -> list[tuple[Stretch, int]]:
    """Last steps of episodes, those that end for good first."""
    places = [(stretch, int(step)) for stretch in stretches for step in np.flatnonzero(stretch.last) if step >= SHOWN]
    places.sort(key=lambda place: not place[0].terminal[place[1]])
    return _apart(places, count)


def _apart(places: list[tuple[Stretch, int]], count: int) -> list[tuple[Stretch, int]]:
    chosen: list[tuple[Stretch, int]] = []
    for stretch, step in places:
        near = [other for own, other in chosen if own is stretch and abs(other - step) < APART_STEPS]
        if len(chosen) < count and not near:
            chosen.append((stretch, step))
    return chosen


@torch.no_grad()
def _row(learner: RawLearner, recording: Recording, title: str, stretch: Stretch, step: int) -> Row:
    last = min(step + 1, stretch.steps - 1) if not stretch.last[step] else step
    start = stretch.start_before(last, SEEN_STEPS)
    window = recording.read(stretch, start, last + 1)
    streams = filtered(learner, window).streams
    assert window.sensors is not None
    assert learner.model.reward_head is not None and learner.model.continue_head is not None
    features, theirs = streams.raw.state.features()[0], streams.privileged.state.features()[0]
    told = learner.model.two_hot.mean(learner.model.reward_head(features))
    goes_on = full_precision(learner.model.continue_head(features)[..., 0]).sigmoid()
    other = learner.teacher.reward(theirs), learner.teacher.continue_logits(theirs).sigmoid()
    camera = CAMERA_NAMES.index(CAMERA)
    frames = tuple(
        Frame(
            image=window.sensors.images[0, k, camera].numpy(),
            reward=float(window.reward[0, k]),
            alive=1.0 - float(window.terminal[0, k]),
            own=(float(told[k]), float(goes_on[k])),
            privileged=(float(other[0][k]), float(other[1][k])),
        )
        for k in range(window.first.shape[1])[-SHOWN:]
    )
    kind = " for good" if stretch.terminal[step] else ""
    return Row(title + kind, frames)


def sheet(rows: list[Row]) -> Image.Image:
    """A row of frames each, with true and predicted reward and continue flag below; jumps and ends in red."""
    row_px = FRAME_PX[1] + 5 * LINE_PX
    image = Image.new("RGB", (SHOWN * (FRAME_PX[0] + GAP_PX), len(rows) * row_px), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for number, row in enumerate(rows):
        top = number * row_px
        pen.text((4, top + 1), row.title, fill=TEXT, font=font)
        before: Frame | None = None
        for column, frame in enumerate(row.frames):
            x, y = column * (FRAME_PX[0] + GAP_PX), top + LINE_PX
            image.paste(Image.fromarray(frame.image.transpose(1, 2, 0)).resize(FRAME_PX), (x, y))
            y += FRAME_PX[1]
            jumps = before is not None and (abs(frame.reward - before.reward) > JUMP or frame.alive < 1.0)
            lines = (("true", frame.reward, frame.alive), ("raw heads", *frame.own), ("privileged", *frame.privileged))
            for line, (name, reward, alive) in enumerate(lines):
                colour = RED if jumps and line == 0 else TEXT
                text = f"{name}: reward {reward:+.2f}, continue {alive:.2f}"
                pen.text((x + 4, y + line * LINE_PX), text, fill=colour, font=font)
            before = frame
    return image
