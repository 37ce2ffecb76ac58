"""Which windows there are and how one is drawn: pure arithmetic on the rows of the index.

Windows are `length` consecutive steps of a stream. They start anywhere, cross segments, and cross episode starts as
DreamerV3's do (the model resets its state where `first` is set). Drawing costs a binary search, however much is stored.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.experience.index import Row


@dataclass(frozen=True, slots=True)
class Piece:
    """Steps start .. stop - 1 of a segment."""

    row: Row
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Window:
    """A window by its place, which stays the same when segments come and go."""

    stream: str
    position: int
    """Steps of the stream before the window."""


class Catalogue:
    """An immutable set of segments in a fixed order, whatever the order they were found in."""

    def __init__(self, rows: Iterable[Row], length: int) -> None:
        if length < 1:
            raise ValueError(f"a window needs at least 1 step, got {length}")
        self.length = length
        self.rows = tuple(sorted(rows, key=lambda row: (row.stream, row.sequence)))
        self.steps = sum(row.steps for row in self.rows)
        begins = np.cumsum([0, *(row.steps for row in self.rows)])
        self._begins = begins[:-1]
        heads = [
            number for number, row in enumerate(self.rows) if number == 0 or not _continues(self.rows[number - 1], row)
        ]
        self._run_begins = self._begins[heads] if heads else np.zeros(0, np.int64)
        self._run_ends = np.append(self._run_begins[1:], begins[-1])[: len(heads)]
        self._cumulative = np.cumsum(np.maximum(self._run_ends - self._run_begins - length + 1, 0))
        self._row_of_stream: dict[str, tuple[list[int], list[int]]] = {}
        for number, row in enumerate(self.rows):
            positions, numbers = self._row_of_stream.setdefault(row.stream, ([], []))
            positions.append(row.position)
            numbers.append(number)
        self._terminals = self._terminal_steps()
        self.ranges = _ranges(self.rows)
        """[stream, first sequence, last sequence] of each gapless series, enough to name all segments."""

    @property
    def windows(self) -> int:
        """Number of windows."""
        return int(self._cumulative[-1]) if len(self._cumulative) else 0

    @property
    def terminations(self) -> int:
        """Number of terminations that a window can hold."""
        return len(self._terminals)

    @property
    def terminal_share(self) -> float:
        """Terminations per step."""
        return len(self._terminals) / self.steps if self.steps else 0.0

    def draw(self, generator: np.random.Generator) -> Window:
        """A window, all equally likely. Raises: ValueError if there is none."""
        if not self.windows:
            raise ValueError(f"{self.steps} steps in {len(self.rows)} segments hold no window of {self.length} steps")
        number = int(generator.integers(self.windows))
        run = int(np.searchsorted(self._cumulative, number, side="right"))
        before = int(self._cumulative[run - 1]) if run else 0
        return self._window(int(self._run_begins[run]) + number - before)

    def draw_termination(self, generator: np.random.Generator, reach_steps: int) -> Window:
        """A window that ends at most reach_steps before a termination, or on it: each of these ends equally likely.

        At the ends of a stream the window is moved inside. Such a window shows the final frame in one of
        reach_steps + 1 draws. Source: Think2Drive, section 3, which names no numbers. Raises: ValueError without one.
        """
        if not len(self._terminals):
            raise ValueError("no termination is stored")
        terminal = int(self._terminals[int(generator.integers(len(self._terminals)))])
        begin = terminal - int(generator.integers(reach_steps + 1)) - self.length + 1
        run = int(np.searchsorted(self._run_begins, terminal, side="right")) - 1
        low, high = int(self._run_begins[run]), int(self._run_ends[run]) - self.length
        return self._window(min(max(begin, low), high))

    def pieces(self, window: Window, *, before: int = 0) -> tuple[Piece, ...] | None:
        """Where the window's steps lie, with up to `before` earlier ones if stored; None if a step is missing."""
        begin = self._step(window)
        if begin is None:
            return None
        run = int(np.searchsorted(self._run_begins, begin, side="right")) - 1
        end = begin + self.length
        if end > self._run_ends[run]:
            return None
        begin = max(begin - before, int(self._run_begins[run]))
        pieces = []
        number = int(np.searchsorted(self._begins, begin, side="right")) - 1
        while begin < end:
            row, offset = self.rows[number], begin - int(self._begins[number])
            stop = min(row.steps, offset + end - begin)
            pieces.append(Piece(row, offset, stop))
            begin, number = begin + stop - offset, number + 1
        return tuple(pieces)

    def stream_ends(self) -> dict[str, int]:
        """Steps of each stream up to its last stored one."""
        return {row.stream: row.position + row.steps for row in self.rows}  # rows rise within a stream

    def _window(self, step: int) -> Window:
        number = int(np.searchsorted(self._begins, step, side="right")) - 1
        row = self.rows[number]
        return Window(row.stream, row.position + step - int(self._begins[number]))

    def _step(self, window: Window) -> int | None:
        """Number of the window's first step among all stored ones."""
        positions, numbers = self._row_of_stream.get(window.stream, ([], []))
        at = bisect.bisect_right(positions, window.position) - 1
        if at < 0:
            return None
        offset = window.position - positions[at]
        return int(self._begins[numbers[at]]) + offset if offset < self.rows[numbers[at]].steps else None

    def _terminal_steps(self) -> np.ndarray:
        steps = np.array(
            [begin + step for begin, row in zip(self._begins, self.rows, strict=True) for step in row.terminals],
            np.int64,
        )
        runs = np.searchsorted(self._run_begins, steps, side="right") - 1
        return steps[(self._run_ends - self._run_begins)[runs] >= self.length] if len(steps) else steps


def _continues(before: Row, row: Row) -> bool:
    return (
        row.stream == before.stream
        and row.sequence == before.sequence + 1
        and row.position == before.position + before.steps
    )


def _ranges(rows: Iterable[Row]) -> list[list[Any]]:
    ranges: list[list[Any]] = []
    for row in rows:
        if ranges and ranges[-1][0] == row.stream and ranges[-1][2] == row.sequence - 1:
            ranges[-1][2] = row.sequence
        else:
            ranges.append([row.stream, row.sequence, row.sequence])
    return ranges
