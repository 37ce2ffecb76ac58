"""Writing experience: the decisions of one collector as a stream of segments, many streams in one folder.

A stream is what one writer saw in order, episode after episode. Its segments are named by the stream and a running
number. A segment becomes visible as a whole or not at all; a killed writer loses its open segment and nothing else.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.experience.index import KIND, Row, add_row, segment_name
from training.replay import SUFFIX, PackedStep, SegmentError, SegmentWriter, Step

logger = logging.getLogger(__name__)

STREAM_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_NO_IMAGES = np.empty((0, 3, 0, 0), np.uint8)
_FLAGS = ("first", "last", "terminal")
SENSOR_ARRAYS = ("camera_valid", "ego_motion", "route", "vector")
SENSOR_PREFIX = "sensor_"
"""Of their names in a record, where the privileged stream has a vector, too."""
NO_LABEL = -1
"""Stands for the expert's action where there is none."""


@dataclass(frozen=True, slots=True)
class SensorFrame:
    """What the raw stream sees at one decision: the fields of `agent.model.driving_model.ModelInput`."""

    images: np.ndarray
    """(6, 3, h, w) uint8 RGB."""
    camera_valid: np.ndarray
    """(6,) bool."""
    ego_motion: np.ndarray
    """(3,) float32."""
    route: np.ndarray
    """(8, 2) float32."""
    vector: np.ndarray
    """(31,) float32."""

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> SensorFrame:
        """From what `agent.inputs.InputBuilder` makes."""
        return cls(**{name: np.asarray(arrays[name]) for name in ("images", *SENSOR_ARRAYS)})

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the images, as they are stored."""
        return {SENSOR_PREFIX + name: np.asarray(getattr(self, name), np.float32) for name in SENSOR_ARRAYS}


@dataclass(frozen=True, slots=True)
class Transition:
    """One decision as the world model sees it: what led here and what is here."""

    words: np.ndarray
    """(128, 128) uint64 BEV words."""
    previous_action: int
    """Index of the action that led here; anything valid where `first`."""
    reward: float
    """Received on arriving here."""
    first: bool = False
    """First decision of an episode."""
    last: bool = False
    """Last decision of an episode, terminated or cut off."""
    terminal: bool = False
    """The episode ended here for good."""
    vector: np.ndarray | None = None
    """(v,) float32 ego vector."""
    expert_action: int = NO_LABEL
    """What the expert would do here, whoever drives; NO_LABEL if it was not asked."""
    sensors: SensorFrame | None = None
    """What the cameras saw of it."""

    def __post_init__(self) -> None:
        if self.terminal and not self.last:
            raise ValueError("a terminal decision is the last of its episode: set last")
        if not np.isfinite(self.reward):
            raise ValueError(f"reward must be finite, got {self.reward}")


class ExperienceWriter:
    """Appends transitions and publishes a segment whenever one is full; use it as a context manager."""

    def __init__(
        self, folder: Path, *, stream: str | None = None, segment_steps: int = 256, indexed: bool = True
    ) -> None:
        """stream: unique name, for runs that must be repeatable. indexed: enter segments into the folder's index; off
        for writers on other machines, whose segments a reader finds by looking into the folder.

        Raises: ValueError for a name that is malformed or was used before.
        """
        self.stream = stream or uuid.uuid4().hex
        if not STREAM_NAME.fullmatch(self.stream):
            raise ValueError(f"stream must consist of up to 64 letters, digits and _, got {self.stream!r}")
        if segment_steps < 1:
            raise ValueError(f"segment_steps must be at least 1, got {segment_steps}")
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.glob(f"{self.stream}-*{SUFFIX}"), None) is not None:
            raise ValueError(f"{folder}: stream {self.stream!r} was written before; give another name")
        self._folder, self._segment_steps, self._indexed = folder, segment_steps, indexed
        self._sequence = self._position = 0
        self._flags: list[tuple[bool, bool, bool]] = []
        self._segment = SegmentWriter(folder, {"kind": KIND, "stream": self.stream})

    def __enter__(self) -> ExperienceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def add(self, transition: Transition) -> Path | None:
        """Append a transition; gives the path of the segment that it filled."""
        arrays = {} if transition.vector is None else {"vector": np.asarray(transition.vector, np.float32)}
        sensors = transition.sensors
        images = _NO_IMAGES if sensors is None else sensors.images
        arrays |= {} if sensors is None else sensors.arrays()
        scalars = {
            "action": int(transition.previous_action),
            "reward": float(transition.reward),
            "expert_action": int(transition.expert_action),
            **{name: bool(getattr(transition, name)) for name in _FLAGS},
        }
        self._segment.add(Step(images=images, words=transition.words, arrays=arrays, scalars=scalars))
        self._flags.append((transition.first, transition.last, transition.terminal))
        return self.flush() if len(self._segment) >= self._segment_steps else None

    def flush(self) -> Path | None:
        """Publish what there is as a (shorter) segment."""
        steps = len(self._segment)
        if not steps:
            return None
        row = Row(
            name=segment_name(self.stream, self._sequence),
            stream=self.stream,
            sequence=self._sequence,
            position=self._position,
            steps=steps,
            bytes=0,
            created_ns=time.time_ns(),
            terminals=tuple(number for number, flags in enumerate(self._flags) if flags[2]),
        )
        details = {name: getattr(row, name) for name in ("sequence", "position", "created_ns", "terminals")}
        path = self._segment.publish(row.name, details)
        assert path is not None  # there are steps
        self._sequence, self._position, self._flags = self._sequence + 1, self._position + steps, []
        if self._indexed:
            self._enter(row, path)
        return path

    def close(self) -> None:
        """Publish the rest."""
        self.flush()

    def _enter(self, row: Row, path: Path) -> None:
        """Best effort: a reader that misses the row in the index finds the file."""
        try:
            add_row(self._folder, row.of_bytes(path.stat().st_size))
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: not entered into the index (%s); readers find it by itself", path, error)


def transition_of(step: PackedStep) -> dict[str, Any]:
    """The numbers of a stored transition: actions, reward, first, last, terminal. Raises: SegmentError."""
    scalars = step.scalars
    try:
        return {
            "action": int(scalars["action"]),
            "expert_action": int(scalars.get("expert_action", NO_LABEL)),
            "reward": float(scalars["reward"]),
            **{name: bool(scalars[name]) for name in _FLAGS},
        }
    except (KeyError, TypeError, ValueError) as error:
        raise SegmentError(f"the record is no transition: {error!r}") from error
