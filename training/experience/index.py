"""The index of a replay folder: one row per segment in SQLite (WAL). The files are the truth, the index saves reading.

Whatever happens to the index, it is built again from the tails of the segments. Whoever uses it holds `index.lock`
shared, whoever replaces it holds it alone, so nobody writes into a database that is being replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from training.replay import SUFFIX, SegmentError, SegmentLayout, read_layout

logger = logging.getLogger(__name__)

KIND = "experience"
"""What segments of decisions call themselves in their metadata."""
FILE = "index.sqlite"
LOCK = "index.lock"
VERSION = 1
"""Of the table; an index of another version is built again."""
BUSY_S = 10.0
_TABLE = """CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
    position INTEGER NOT NULL, steps INTEGER NOT NULL, bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL,
    terminals TEXT NOT NULL)"""
_COLUMNS = "name, stream, sequence, position, steps, bytes, created_ns, terminals"


@dataclass(frozen=True, slots=True)
class Row:
    """What sampling needs to know of a segment."""

    name: str
    """File name without suffix."""
    stream: str
    sequence: int
    """Number of the segment in its stream."""
    position: int
    """Steps of the stream before the segment."""
    steps: int
    bytes: int
    created_ns: int
    """Wall clock; decides which segments leave first."""
    terminals: tuple[int, ...]
    """Steps of the segment where an episode ended for good."""

    def of_bytes(self, size: int) -> Row:
        """The row with the size of its file."""
        return replace(self, bytes=size)


def segment_name(stream: str, sequence: int) -> str:
    """File name without suffix."""
    return f"{stream}-{sequence:08d}"


def segment_path(folder: Path, name: str) -> Path:
    """Where the segment of a row lies."""
    return folder / f"{name}{SUFFIX}"


def row_of(path: Path, layout: SegmentLayout) -> Row:
    """The row of a segment as its own metadata tells it. Raises: SegmentError if it holds no experience."""
    data = layout.metadata
    if data.get("kind") != KIND:
        raise SegmentError(f"{path}: holds {data.get('kind', 'recorded frames')}, not experience; keep it elsewhere")
    try:
        row = Row(
            name=segment_name(str(data["stream"]), int(data["sequence"])),
            stream=str(data["stream"]),
            sequence=int(data["sequence"]),
            position=int(data["position"]),
            steps=layout.steps,
            bytes=layout.bytes,
            created_ns=int(data["created_ns"]),
            terminals=tuple(int(step) for step in data["terminals"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SegmentError(f"{path}: incomplete metadata ({error!r}); delete the file") from error
    if row.name != path.name.removesuffix(SUFFIX):
        raise SegmentError(f"{path}: was written as {row.name}{SUFFIX}; give it its name back")
    if any(not 0 <= step < row.steps for step in row.terminals):
        raise SegmentError(f"{path}: terminations outside its {row.steps} steps; delete the file")
    return row


def add_row(folder: Path, row: Row) -> None:
    """Enter a published segment. Raises: sqlite3.Error, OSError."""
    with _shared(folder) as connection:
        _insert(connection, [row])


def remove_rows(folder: Path, names: Collection[str]) -> None:
    """Forget segments. Raises: sqlite3.Error, OSError."""
    with _shared(folder) as connection:
        connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in names])


def read_rows(folder: Path, *, after: int = 0) -> tuple[list[Row], int]:
    """Rows entered after the given number, oldest entry first, and the number of the last; a broken index is rebuilt.

    A rebuilt index numbers anew, which `after` beyond its end shows: then all rows are given.
    """
    try:
        return _read_rows(folder, after)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise SegmentError(
                f"{folder / FILE}: locked by another program for {BUSY_S:.0f} s; end that one"
            ) from error
        _rebuild(folder, str(error))
    except (sqlite3.DatabaseError, ValueError) as error:
        _rebuild(folder, str(error))
    return _read_rows(folder, 0)


def adopt(folder: Path, known: Collection[str], refused: set[str]) -> list[Row]:
    """Enter the segments of the folder that are not `known`; those that cannot be read are logged and `refused`."""
    rows = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        name = path.name.removesuffix(SUFFIX)
        if name in known or name in refused:
            continue
        try:
            rows.append(row_of(path, read_layout(path)))
        except FileNotFoundError:
            continue  # evicted just now
        except (SegmentError, OSError) as error:
            refused.add(name)
            logger.warning("left out: %s", error)
    if rows:
        try:
            with _shared(folder) as connection:
                _insert(connection, rows)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: %d segments not entered (%s)", folder / FILE, len(rows), error)
    return rows


def _read_rows(folder: Path, after: int) -> tuple[list[Row], int]:
    with _shared(folder) as connection:
        if not after and (check := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(check)
        last = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence").fetchone()[0]
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM segments WHERE id > ? ORDER BY id", (after if after <= last else 0,)
        ).fetchall()
    return [Row(*columns, terminals=tuple(json.loads(terminals))) for *columns, terminals in found], last


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    connection.executemany(
        f"INSERT OR IGNORE INTO segments ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (r.name, r.stream, r.sequence, r.position, r.steps, r.bytes, r.created_ns, json.dumps(r.terminals))
            for r in rows
        ],
    )


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are committed together at the end, or not at all."""
    connection = sqlite3.connect(folder / FILE, timeout=BUSY_S, isolation_level=None)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise sqlite3.DatabaseError(f"version {version} instead of {VERSION}")
        connection.execute("PRAGMA synchronous=NORMAL")  # a lost row is found again in the folder
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def _create(folder: Path) -> None:
    connection = sqlite3.connect(folder / FILE, timeout=BUSY_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version={VERSION}")
    finally:
        connection.close()


@contextlib.contextmanager
def _shared(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside those of others; the index is created if there is none."""
    if not (folder / FILE).exists():
        with _locked(folder, fcntl.LOCK_EX):
            if not (folder / FILE).exists():
                _create(folder)
    with _locked(folder, fcntl.LOCK_SH), _connected(folder) as connection:
        yield connection


@contextlib.contextmanager
def _locked(folder: Path, mode: int) -> Iterator[None]:
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, mode)
        yield


def _rebuild(folder: Path, reason: str) -> None:
    """Replace the index by an empty one and enter every segment of the folder."""
    logger.warning("%s: %s; built again from the segments", folder / FILE, reason)
    with _locked(folder, fcntl.LOCK_EX):
        for suffix in ("", "-wal", "-shm"):
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
        _create(folder)
    adopt(folder, (), set())
