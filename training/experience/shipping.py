"""Files between machines: finished segments to the learner's replay folder, weights to the collectors.

A file travels as its bytes with name and SHA-256, and is checked before it appears under its name. On a collector's
machine finished segments lie in an outbox until the learner's machine has confirmed that they are on its disk, so
neither a killed process on either side nor a lost message costs a segment; one that comes twice is recognised by its
name, which no two segments share.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.checkpoint import sync_folder
from training.experience.index import Row, add_row, row_of
from training.replay import SUFFIX, read_layout

SEGMENT_FILE = re.compile(rf"[A-Za-z0-9_]{{1,64}}-\d{{8}}{re.escape(SUFFIX)}")
MAX_FILE_BYTES = 1 << 28
"""Of one file. A segment of 256 decisions with masks alone has about 1 MB."""
MAX_LOAD_BYTES = 1 << 26
"""Of the files of one message, unless the first alone has more."""
_LOCK = "lock"
logger = logging.getLogger(__name__)


class ShipmentError(ValueError):
    """A file that did not arrive as it was sent."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A file on its way."""

    name: str
    sha256: str
    content: bytes

    @classmethod
    def of(cls, path: Path) -> Shipment:
        """The file at a path. Raises: ShipmentError if it is too large, OSError."""
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ShipmentError(
                f"{path}: has {size} bytes, at most {MAX_FILE_BYTES} can be sent; take fewer steps per segment"
            )
        content = path.read_bytes()
        return cls(path.name, hashlib.sha256(content).hexdigest(), content)

    def check(self, names: re.Pattern[str]) -> None:
        """Raises: ShipmentError for another kind of name, too many bytes or other bytes than were sent."""
        if not names.fullmatch(self.name):
            raise ShipmentError(f"a file named {self.name[:100]!r} is not expected here")
        if len(self.content) > MAX_FILE_BYTES:
            raise ShipmentError(f"{self.name}: has {len(self.content)} bytes, at most {MAX_FILE_BYTES} are taken")
        found = hashlib.sha256(self.content).hexdigest()
        if found != self.sha256:
            raise ShipmentError(f"{self.name}: sha256 is {found}, sent was {self.sha256}")

    def write(self, folder: Path, inspect: Callable[[Path], None] | None = None) -> Path:
        """Write the (checked) file, complete or not at all; `inspect` may refuse it under its preliminary name.

        Raises: OSError, and what `inspect` raises.
        """
        path = folder / self.name
        partial = folder / f"{self.name}.{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                file.write(self.content)
                file.flush()
                os.fsync(file.fileno())
            if inspect is not None:
                inspect(partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(folder)
        return path


def store_segment(folder: Path, shipment: Shipment) -> bool:
    """Put a segment into a replay folder; gives whether it is new there.

    Raises: ShipmentError (another try may help), SegmentError (it will not), OSError (disk full).
    """
    shipment.check(SEGMENT_FILE)
    path = folder / shipment.name
    if path.exists():
        return False
    rows: list[Row] = []
    shipment.write(folder, lambda partial: rows.append(row_of(path, read_layout(partial))))
    try:
        add_row(folder, rows[0])
    except (sqlite3.Error, OSError) as error:
        logger.warning("%s: not entered into the index (%s); readers find it by itself", path, error)
    return True


class Outbox:
    """Folder of one collector of a run on its machine: its finished segments, and the weights it drives with.

    Its lock is held by the process that owns it. Who opens an outbox takes over the segments in those outboxes of the
    same run whose owners are gone.
    """

    def __init__(self, run: str, parent: Path | None = None) -> None:
        """run: name of the run on this machine. parent: where runs have their folders, usually that for temporary
        files. Raises: OSError."""
        self._of_run = _made((parent or Path(tempfile.gettempdir())) / f"raw2drive-{run}", mode=0o700)
        with _locked(self._of_run / _LOCK):  # nobody takes a folder for abandoned that is just being made
            self.folder = _made(self._of_run / uuid.uuid4().hex)
            self.segments, self.weights = _made(self.folder / "replay"), _made(self.folder / "weights")
            self._lock = (self.folder / _LOCK).open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            for other in self._of_run.iterdir():
                if other.is_dir() and other != self.folder:
                    self._take_over(other)

    def _take_over(self, other: Path) -> None:
        with (other / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # its owner lives
            left = sorted((other / "replay").glob(f"*{SUFFIX}"))
            for path in left:
                path.rename(self.segments / path.name)
            shutil.rmtree(other)
        if left:
            logger.warning("%d finished segments of a collector that is gone are sent", len(left))

    def waiting(self) -> list[Path]:
        """Segments that are not confirmed."""
        return sorted(self.segments.glob(f"*{SUFFIX}"))

    def load(self) -> list[Shipment]:
        """The next segments to send; the same ones again until they are confirmed. Raises: ShipmentError, OSError."""
        load: list[Shipment] = []
        size = 0
        for path in self.waiting():
            size += path.stat().st_size
            if load and size > MAX_LOAD_BYTES:
                break
            load.append(Shipment.of(path))
        return load

    def confirm(self, names: Iterable[str]) -> None:
        """These files are safe elsewhere."""
        for name in names:
            if SEGMENT_FILE.fullmatch(name):
                (self.segments / name).unlink(missing_ok=True)

    def take_weights(self, weights: Shipment, names: re.Pattern[str], kept: int) -> None:
        """Weights to drive with from now on; all but the newest `kept` go. Raises: ShipmentError, OSError."""
        weights.check(names)
        weights.write(self.weights)
        for old in sorted(path for path in self.weights.iterdir() if names.fullmatch(path.name))[:-kept]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, unless segments are left: whoever opens an outbox next sends them."""
        with _locked(self._of_run / _LOCK):
            if not self.waiting():
                shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _made(folder: Path, mode: int = 0o755) -> Path:
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
