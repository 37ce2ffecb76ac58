"""What the raw world model decodes beside the true masks, the cameras' blind spots marked (Raw2Drive, Figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from agent.observation import CAMERA_NAMES
from training import bev
from training.privileged.dream import BACKGROUND, TEXT, as_words
from training.raw.blind import BODIES, behind_others, hidden_bodies, outside, overlap
from training.raw.learner import RawLearner
from training.raw.readout import filtered
from training.raw.recording import Recording, Stretch
from training.world_model.model import Replayed

SEEN_STEPS = 16
"""Decisions that are filtered before the one shown."""
CANDIDATES = 200
"""Steps that are looked at; the ones with most bodies in blind spots are shown."""
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
TILE_PX, CAMERA_PX = 256, (224, 128)
GAP_PX, LABEL_PX, FONT_PX = 4, 20, 13
RED = (255, 40, 40)
SHADE = 0.45


@dataclass(frozen=True, slots=True)
class Scene:
    """One decision: what there was, what was seen, what was decoded from it."""

    words: np.ndarray
    """(rows, columns) uint64, true."""
    decoded: np.ndarray
    """The same, likelier than not."""
    blind: np.ndarray
    """(rows, columns) bool: behind others, or beyond the image encoder's map."""
    images: np.ndarray
    """(6, 3, h, w) uint8 RGB."""

    def overlaps(self) -> tuple[float | None, float | None]:
        """Intersection over union of everybody, in view and in blind spots; None without anybody."""
        truth, thought = (bev.unpack(words, BODIES).astype(bool) for words in (self.words, self.decoded))
        parts = [overlap(truth, thought, where) for where in (~self.blind, self.blind)]
        seen, hidden = (float(both / either) if either else None for both, either in parts)
        return seen, hidden


def draw(learner: RawLearner, recording: Recording, out: Path, rows: int = 4) -> Path:
    """Write the picture of the decisions with most bodies in blind spots.

    Raises: ValueError for a recording that is too short.
    """
    chosen = _chosen(recording, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet([_scene(learner, _window(recording, *place)) for place in chosen]).save(out)
    return out


def _chosen(recording: Recording, rows: int) -> list[tuple[Stretch, int]]:
    """Steps with most bodies behind others, from different stretches of SEEN_STEPS."""
    places = [
        (stretch, step) for stretch in recording.stretches() for step in range(SEEN_STEPS, stretch.steps, SEEN_STEPS)
    ]
    if not places:
        raise ValueError(f"the recording has no {SEEN_STEPS + 1} decisions in a row; record more")
    looked_at = places[:: max(len(places) // CANDIDATES, 1)]
    counts = []
    for stretch, step in looked_at:
        words = _words(recording.read(stretch, step, step + 1, images=False))[0]
        counts.append(len(hidden_bodies(words, behind_others(words))))
    best = np.argsort(counts, kind="stable")[::-1][:rows]
    return [looked_at[k] for k in sorted(best)]


def _window(recording: Recording, stretch: Stretch, step: int) -> Replayed:
    return recording.read(stretch, stretch.start_before(step, SEEN_STEPS), step + 1)


def _words(window: Replayed) -> np.ndarray:
    return window.words[0].numpy().view(np.uint64)


@torch.no_grad()
def _scene(learner: RawLearner, window: Replayed) -> Scene:
    streams = filtered(learner, window).streams
    decoder = learner.model.decoder or learner.teacher.decoder
    words = _words(window)[-1]
    assert window.sensors is not None
    far = outside(words.shape[0], learner.config.model.encoder.bev_range_m)
    return Scene(
        words=words,
        decoded=as_words(decoder.probabilities(streams.raw.state.features()[:, -1]))[0],
        blind=behind_others(words) | far,
        images=window.sensors.images[0, -1].numpy(),
    )


def sheet(scenes: list[Scene]) -> Image.Image:
    """Per scene: six cameras, the truth and what was decoded; red circles around everybody in a blind spot."""
    row_px = TILE_PX + 2 * LABEL_PX
    width = 3 * (CAMERA_PX[0] + GAP_PX) + 2 * (TILE_PX + GAP_PX)
    image = Image.new("RGB", (width, len(scenes) * row_px), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for row, scene in enumerate(scenes):
        top = row * row_px
        for number, name in enumerate(CAMERAS):
            picture = Image.fromarray(scene.images[CAMERA_NAMES.index(name)].transpose(1, 2, 0))
            x, y = number % 3 * (CAMERA_PX[0] + GAP_PX), top + LABEL_PX + number // 3 * CAMERA_PX[1]
            image.paste(picture.resize(CAMERA_PX), (x, y))
        circles = hidden_bodies(scene.words, scene.blind)
        left = 3 * (CAMERA_PX[0] + GAP_PX)
        for title, words in (("true masks", scene.words), ("decoded", scene.decoded)):
            pen.text((left, top + 2), title, fill=TEXT, font=font)
            image.paste(tile(words, scene.blind, circles), (left, top + LABEL_PX))
            left += TILE_PX + GAP_PX
        seen, hidden = ("-" if value is None else f"{value:.2f}" for value in scene.overlaps())
        text = f"everybody else: IoU {seen} in view, {hidden} in blind spots (shaded; red circles: out of sight)"
        pen.text((4, top + 2), text, fill=TEXT, font=font)
    return image


def tile(words: np.ndarray, blind: np.ndarray, circles: list[tuple[float, float, float]]) -> Image.Image:
    """Masks with the blind spots shaded and circles [px of the masks] around bodies."""
    colours = bev.picture(words).astype(np.float32)
    colours[blind] *= SHADE
    picture = Image.fromarray(colours.astype(np.uint8)).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
    scale, pen = TILE_PX / words.shape[0], ImageDraw.Draw(picture)
    for row, column, radius in circles:
        box = [scale * (column - radius), scale * (row - radius), scale * (column + radius), scale * (row + radius)]
        pen.ellipse(box, outline=RED, width=2)
    return picture
