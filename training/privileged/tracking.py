"""Events of a run as JSON lines and as TensorBoard curves, written by a thread: a stalled disk stalls no training."""

from __future__ import annotations

import io
import logging
import math
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from agent import strict_json

QUEUED_EVENTS = 1000
"""Events beyond that are dropped and counted."""
CLOSE_S = 10.0
"""What the thread may take for the rest at the end."""
IDLE_S = 0.2
CURVES = {
    "update": None,
    "episode": ("reward", "completion_percent", "success", "decisions"),
    "evaluation": ("reward", "completion_percent", "success"),
}
"""Kinds of events that are drawn, and which of their numbers; None: all."""
PLACE = ("update", "kind")
logger = logging.getLogger(__name__)


class _Item(NamedTuple):
    kind: str
    values: dict[str, Any]
    time_s: float


class _Sink(Protocol):
    def write(self, item: _Item) -> None: ...
    def close(self) -> None: ...


class Tracker:
    """Log of a run; use it as a context manager. Writing never waits: what does not fit is dropped and counted."""

    def __init__(self, folder: Path, *, update: int = 0, capacity: int = QUEUED_EVENTS) -> None:
        """update: of the checkpoint that is gone on from; later points of the curves are hidden."""
        self.dropped = 0
        """Events that were not written, for want of room in the queue."""
        self._queue: queue.Queue[_Item] = queue.Queue(capacity)
        self._closing = threading.Event()
        self._sinks: list[_Sink] = [_Lines(folder / "events.jsonl"), _Curves(folder / "tensorboard", update)]
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Log one event."""
        try:
            self._queue.put_nowait(_Item(kind, dict(values), time.time()))
        except queue.Full:
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("events are dropped: the disk or network they are written to does not keep up")

    def close(self) -> None:
        """Write the rest, if that does not take too long."""
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.warning("the last %d events are not written: the disk does not answer", self._queue.qsize())

    def _work(self) -> None:
        told = 0
        failing: set[_Sink] = set()
        while True:
            try:
                item = self._queue.get(timeout=IDLE_S)
            except queue.Empty:
                if self._closing.is_set():
                    break
                continue
            items = [item]
            if self.dropped != told:
                told = self.dropped
                items.append(_Item("dropped", {"events": told}, item.time_s))
            for sink in self._sinks:
                _attempt(sink, items, failing)
        for sink in self._sinks:
            _attempt(sink, None, failing)


def _attempt(sink: _Sink, items: list[_Item] | None, failing: set[_Sink]) -> None:
    """Write the items, or close the sink; a failure is logged when it begins."""
    try:
        if items is None:
            sink.close()
        for item in items or ():
            sink.write(item)
        failing.discard(sink)
    except OSError as error:
        if sink not in failing:
            logger.warning("events are not written: %s", error)
        failing.add(sink)


class _Lines:
    """JSON lines, flushed at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.TextIOWrapper | None = None
        self._torn = False

    def write(self, item: _Item) -> None:
        line = strict_json.dumps({"kind": item.kind, **item.values}) + "\n"
        if self._torn:  # a disk that was full cut the line before
            line = "\n" + line
        self._torn = True
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            self._abandon()
            raise
        self._torn = False

    def _abandon(self) -> None:
        """Forget the file with what it could not write, which would come again with the next line."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                logger.debug("closing after a failure: %s", error)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Curves:
    """Numbers over updates, in TensorBoard's format."""

    def __init__(self, folder: Path, update: int) -> None:
        self._folder, self._update = folder, update
        self._writer: EventsWriter | None = None

    def write(self, item: _Item) -> None:
        points = curve_points(item.kind, item.values)
        if not points:
            return
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._folder / "events"))
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=item.time_s, step=self._update, session_log=start))
        step = int(item.values["update"])
        for tag, value in points.items():
            event = Event(wall_time=item.time_s, step=step, summary=scalar(tag, value))
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def curve_points(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event that are drawn, by the name of their curve."""
    if kind not in CURVES or "update" not in values:
        return {}
    wanted = CURVES[kind]
    names = [name for name in values if name not in PLACE] if wanted is None else wanted
    numbers = {name: values[name] for name in names if isinstance(values.get(name), int | float)}
    return {f"{kind}/{name}": float(value) for name, value in numbers.items() if math.isfinite(value)}
