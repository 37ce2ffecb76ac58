"""What of a replay folder is sampled, in which order: the state that a checkpoint pins.

A checkpoint keeps `Sampler.state()`: the segments sampled from, the random state, the queue of fresh windows. A run
that goes on from it draws what the uninterrupted one would have drawn, and never sees segments that were in the folder
already but unknown to the checkpoint: they come from drivers later than its weights. Segments named by a pin stay on
the disk until the pin is removed.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent import strict_json
from agent.checkpoint import sync_folder
from training.experience.catalogue import Catalogue, Window
from training.experience.config import ReplayConfig
from training.experience.index import Row, adopt, read_rows, remove_rows, segment_path
from training.replay import SUFFIX

logger = logging.getLogger(__name__)

STATE_FORMAT = 1
PINS = "pins"
"""Folder of the pins, one JSON file each."""
STALE_PARTIAL_S = 3600.0
"""A half-written file that has not grown for so long surely has no writer any more."""


class ReplayError(ValueError):
    """A replay that cannot be trained on; the message names the folder, the counts and the remedy."""


class Sampler:
    """Draws windows from a folder that others write to. Not for several threads at once."""

    def __init__(
        self,
        folder: Path,
        config: ReplayConfig,
        length: int,
        seed: int | np.random.SeedSequence,
        *,
        termination_share: float = 0.0,
        termination_steps: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.config, self.length = folder, config, length
        self.drawn = self.damaged = 0
        self.turn: tuple[int, int] = (0, 1)
        """Number of this sampler among so many that share the fresh windows."""
        self._termination_share, self._termination_steps = termination_share, termination_steps
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._known: dict[str, Row] = {}
        """Every segment in the folder that was ever seen."""
        self._excluded: set[str] = set()
        """Those that are not sampled: later than the checkpoint, damaged, gone, or beyond the capacity."""
        self._refused: set[str] = set()
        self._last_entry = 0
        self._refreshed_s = self._scanned_s = -np.inf
        self._partials: dict[Path, tuple[tuple[int, int, int], float]] = {}
        """What half-written files looked like, and since when they have."""
        self._next_online: dict[str, int] = {}
        self._online: deque[Window] = deque()
        self.catalogue = Catalogue((), length)
        self.refresh(scan=True)
        self._next_online = self.catalogue.stream_ends()  # what was there before is drawn at random only
        self._online.clear()

    # ------------------------------------------------------------------------- the folder

    def refresh(self, *, scan: bool = False) -> None:
        """Take in segments published since; `scan` also looks for files that are not in the index."""
        rows, self._last_entry = read_rows(self.folder, after=self._last_entry)
        new = [row for row in rows if row.name not in self._known]
        self._known |= {row.name: row for row in new}
        now = time.monotonic()
        if scan or now - self._scanned_s >= self.config.scan_s:
            found = adopt(self.folder, self._known, self._refused)
            self._known |= {row.name: row for row in found}
            new += found
            present = {path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}")}
            gone = [name for name in self._known if name not in present]
            for name in gone:
                del self._known[name]
            self._excluded -= set(gone)
            self._scanned_s = now
            if gone:
                new = [row for row in new if row.name in self._known]
                self._rebuild()
        self._refreshed_s = now
        if new:
            self._rebuild()
            self._enqueue()

    def _rebuild(self) -> None:
        """Trim to the capacity, oldest segments first, and make the catalogue anew."""
        rows = [row for row in self._known.values() if row.name not in self._excluded]
        steps = sum(row.steps for row in rows)
        for row in sorted(rows, key=lambda row: (row.created_ns, row.name)):
            if steps - row.steps < self.config.capacity_steps:
                break
            self._excluded.add(row.name)
            steps -= row.steps
        self.catalogue = Catalogue((row for row in rows if row.name not in self._excluded), self.length)

    def _enqueue(self) -> None:
        """Cut the fresh steps of every stream into windows, so that each is trained on once."""
        if not self.config.online:
            return
        for stream, end in self.catalogue.stream_ends().items():
            position = self._next_online.get(stream, 0)
            while position + self.length <= end:
                if position // self.length % self.turn[1] == self.turn[0]:
                    self._online.append(Window(stream, position))
                position += self.length
            self._next_online[stream] = position

    def drop(self, name: str, *, damaged: bool) -> None:
        """Sample a segment no more. Raises: ReplayError when too many were damaged."""
        if name in self._excluded:
            return
        self._excluded.add(name)
        self._rebuild()
        if not damaged:
            return
        self.damaged += 1
        if self.damaged > max(1.0, self.config.damaged_share * len(self._known)):
            raise ReplayError(
                f"{self.folder}: {self.damaged} of {len(self._known)} segments are damaged; check the disk, then "
                "delete the files named in the log"
            )

    def sweep(self) -> list[str]:
        """Delete the oldest segments that nobody samples or pins, while the folder holds more than the capacity.

        Readers of other processes are not disturbed: an open file stays readable, and a missing one is drawn anew.
        Half-written files of dead writers go as well. Gives the names of the deleted segments.
        """
        self._sweep_partials()
        excess = sum(row.steps for row in self._known.values()) - self.config.capacity_steps
        if excess <= 0:
            return []
        kept = pinned(self.folder) | {row.name for row in self.catalogue.rows}
        removed = []
        for row in sorted(self._known.values(), key=lambda row: (row.created_ns, row.name)):
            if excess <= 0:
                break
            if row.name not in kept:
                segment_path(self.folder, row.name).unlink(missing_ok=True)
                removed.append(row.name)
                excess -= row.steps
        for name in removed:
            del self._known[name]
        self._excluded -= set(removed)
        try:
            remove_rows(self.folder, removed)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: rows of deleted segments stay in the index (%s)", self.folder, error)
        return removed

    def _sweep_partials(self) -> None:
        """Delete half-written files that look the same as STALE_PARTIAL_S ago.

        Measured between two looks of our own: dates say little once a clock was set, here or on the disk's server.
        """
        now_s = time.monotonic()
        seen: dict[Path, tuple[tuple[int, int, int], float]] = {}
        for path in self.folder.glob("*.partial"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # published just now
            look = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            before, since_s = self._partials.get(path, (look, now_s))
            since_s = since_s if look == before else now_s
            if now_s - since_s > STALE_PARTIAL_S:
                path.unlink(missing_ok=True)
            else:
                seen[path] = look, since_s
        self._partials = seen

    # ------------------------------------------------------------------------- drawing

    def draw(self) -> Window:
        """The next window: fresh ones first where online is on, then at random. Raises: ReplayError if none."""
        if self.config.refresh_s and time.monotonic() - self._refreshed_s >= self.config.refresh_s:
            self.refresh()
        while self._online:
            window = self._online.popleft()
            if self.catalogue.pieces(window) is not None:
                self.drawn += 1
                return window
        catalogue = self.catalogue
        if not catalogue.windows:
            raise ReplayError(
                f"{self.folder}: {catalogue.steps} steps in {len(catalogue.rows)} segments hold no window of "
                f"{self.length} steps; collect more, or wait for the collectors"
            )
        self.drawn += 1
        if self._termination_share and self._generator.random() < self._termination_share and catalogue.terminations:
            return catalogue.draw_termination(self._generator, self._termination_steps)
        return catalogue.draw(self._generator)

    # ------------------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, Any]:
        """Everything that decides what is drawn next, as plain data for a checkpoint."""
        bits: Mapping[str, Any] = self._generator.bit_generator.state
        return {
            "format": STATE_FORMAT,
            "length": self.length,
            "drawn": self.drawn,
            "generator": {name: str(bits["state"][name]) for name in ("state", "inc")}
            | {name: str(bits[name]) for name in ("has_uint32", "uinteger")},
            "segments": self.catalogue.ranges,
            "next_online": dict(self._next_online),
            "online": [[window.stream, window.position] for window in self._online],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as `state` says; segments unknown to it are not sampled. Raises: ReplayError."""
        if state.get("format") != STATE_FORMAT or state.get("length") != self.length:
            raise ReplayError(
                f"{self.folder}: the replay state has format {state.get('format')!r} for windows of "
                f"{state.get('length')!r} steps, expected {STATE_FORMAT} and {self.length}"
            )
        self.refresh(scan=True)
        wanted = _names(state["segments"], self._known.values())
        missing = _count(state["segments"]) - len(wanted)
        if missing:
            logger.warning(
                "%s: %d of %d segments of the checkpoint are missing; the run goes on without them",
                self.folder,
                missing,
                _count(state["segments"]),
            )
        if state["segments"] and not wanted:
            raise ReplayError(f"{self.folder}: none of the checkpoint's segments is there; give the run's own folder")
        later = self._known.keys() - wanted
        if later:
            logger.info("%s: %d segments unknown to the checkpoint are left out", self.folder, len(later))
        self._excluded = set(later)
        self.catalogue = Catalogue((self._known[name] for name in wanted), self.length)
        self.drawn = int(state["drawn"])
        self._generator = _generator(state["generator"])
        self._next_online = {str(stream): int(position) for stream, position in state["next_online"].items()}
        self._online = deque(Window(str(stream), int(position)) for stream, position in state["online"])


def pin(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Keep the segments of a sampler's state on the disk until `unpin`; `name` is that of the checkpoint.

    Pin before the checkpoint is written, unpin an old one after it was deleted.
    """
    target = _pin_path(folder, name)
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(strict_json.dumps({"format": STATE_FORMAT, "segments": state["segments"]}))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(target)
    sync_folder(target.parent)


def unpin(folder: Path, name: str) -> None:
    """Let go of a checkpoint's segments."""
    _pin_path(folder, name).unlink(missing_ok=True)


def pinned(folder: Path) -> set[str]:
    """Names of all pinned segments. Raises: ReplayError for a pin that cannot be read: nothing is deleted then."""
    names: set[str] = set()
    for path in sorted((folder / PINS).glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            for stream, first, last in data["segments"]:
                names |= {f"{stream}-{sequence:08d}" for sequence in range(int(first), int(last) + 1)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReplayError(f"{path}: not a pin ({error!r}); delete it if its checkpoint is gone") from error
    return names


def _generator(state: Mapping[str, str]) -> np.random.Generator:
    """The generator whose numbers, written as texts, are `state`."""
    bits = np.random.PCG64()
    numbers: dict[str, Any] = {name: int(value) for name, value in state.items()}
    inner = {name: numbers.pop(name) for name in ("state", "inc")}
    bits.state = {"bit_generator": "PCG64", "state": inner, **numbers}  # pyright: ignore[reportAttributeAccessIssue]
    return np.random.Generator(bits)


def _pin_path(folder: Path, name: str) -> Path:
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"the name of a pin must be a plain file name, got {name!r}")
    return folder / PINS / f"{name}.json"


def _names(ranges: list[list[Any]], rows: Iterable[Row]) -> set[str]:
    by_stream: dict[str, list[tuple[int, int]]] = {}
    for stream, first, last in ranges:
        by_stream.setdefault(stream, []).append((first, last))
    return {
        row.name for row in rows if any(first <= row.sequence <= last for first, last in by_stream.get(row.stream, ()))
    }


def _count(ranges: list[list[Any]]) -> int:
    return sum(last - first + 1 for _, first, last in ranges)
