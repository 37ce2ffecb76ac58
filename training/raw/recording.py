"""A recorded data set read in order: what its steps hold, and any stretch of it with its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.experience.catalogue import Window
from training.experience.config import ReplayConfig
from training.experience.decode import Decoder, WindowArrays
from training.experience.index import segment_path
from training.experience.sampler import Sampler
from training.experience.writer import transition_of
from training.raw.config import RawConfig
from training.replay import read_layout, read_steps
from training.world_model.model import Replayed


@dataclass(frozen=True, slots=True)
class Stretch:
    """One collector's steps in order; of each its numbers."""

    stream: str
    position: int
    """Of the first step."""
    action: np.ndarray
    """The one that led to the step."""
    reward: np.ndarray
    first: np.ndarray
    last: np.ndarray
    terminal: np.ndarray

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.reward)

    def start_before(self, step: int, steps: int) -> int:
        """Where a stretch of at most so many steps begins that ends with `step` and lies in its episode."""
        begins = np.flatnonzero(self.first[: step + 1])
        return max(step + 1 - steps, int(begins[-1]) if len(begins) else 0)


class Recording:
    """A replay folder that does not grow."""

    def __init__(self, replay: Path, config: RawConfig) -> None:
        """Raises: ReplayError, SegmentError, ValueError for a folder without steps."""
        if not replay.is_dir():
            raise ValueError(f"{replay}: no such folder; give one that `python -m training record-raw` wrote")
        self._replay, self._config = replay, config
        self._decoder = Decoder(replay)
        self._catalogue = Sampler(replay, ReplayConfig(), 1, 0).catalogue
        if not self._catalogue.rows:
            raise ValueError(f"{replay}: holds no steps; record some with `python -m training record-raw`")

    def stretches(self) -> list[Stretch]:
        """All steps' numbers, stream by stream; a gap begins another stretch."""
        found: list[tuple[str, int, list[dict[str, float]]]] = []
        for row in self._catalogue.rows:
            path = segment_path(self._replay, row.name)
            numbers = [transition_of(step) for step in read_steps(path, read_layout(path), 0, row.steps)]
            goes_on = found and found[-1][0] == row.stream and found[-1][1] + len(found[-1][2]) == row.position
            if goes_on:
                found[-1][2].extend(numbers)
            else:
                found.append((row.stream, row.position, numbers))
        names = ("action", "reward", "first", "last", "terminal")
        return [
            Stretch(stream, position, *(np.array([one[name] for one in numbers]) for name in names))
            for stream, position, numbers in found
        ]

    def read(self, stretch: Stretch, start: int, stop: int, *, images: bool = True) -> Replayed:
        """Steps start .. stop - 1 of a stretch as one window."""
        config = self._config
        steps, observation, encoder = stop - start, config.world_model.observation, config.model.encoder
        size = (encoder.image_height, encoder.image_width) if images else None
        arrays = WindowArrays.empty(1, steps, observation.size_px, observation.vector, size)
        at = 0
        while at < steps:  # the catalogue's windows have one step
            pieces = self._catalogue.pieces(Window(stretch.stream, stretch.position + start + at))
            assert pieces is not None
            piece = pieces[0]
            count = min(steps - at, piece.row.steps - piece.start)
            part = _rows(arrays, at, count)
            self._decoder.window((type(piece)(piece.row, piece.start, piece.start + count),), part, 0)
            at += count
        return arrays.replayed()


def _rows(arrays: WindowArrays, at: int, count: int) -> WindowArrays:
    """A view of so many steps."""
    part = slice(at, at + count)
    sensors = None if arrays.sensors is None else {name: value[:, part] for name, value in arrays.sensors.items()}
    names = ("words", "vector", "action", "expert_action", "reward", "flags")
    return WindowArrays(**{name: getattr(arrays, name)[:, part] for name in names}, sensors=sensors)
