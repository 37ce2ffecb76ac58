"""TCP ports leased under file locks: two runners on one machine, of one user or of two, never get the same.

A lease is a locked file in a folder that all users share. The kernel drops the lock when the holder dies, so there is
nothing to clean up. A port under lease is also probed, because other programs know nothing of these locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

FIRST_PORT: Final = 20000
LAST_PORT: Final = 31999
"""Below Linux's ephemeral ports (from 32768): an outgoing connection must not take a leased port."""
BLOCK: Final = 4
"""Ports per lease. CARLA takes three neighbours: RPC, streaming, secondary servers; the fourth is for a client."""


class PortError(RuntimeError):
    """No ports are to be had; the message says what to do."""


@dataclass(slots=True)
class PortLease:
    """A block of neighbouring ports held until `release` or the end of the process."""

    first: int
    _lock: int = field(repr=False)
    """Open file descriptor that holds the lock."""

    def __enter__(self) -> PortLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the ports back; safe to call twice."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def lease_ports(folder: Path | None = None, *, first: int = FIRST_PORT, last: int = LAST_PORT) -> PortLease:
    """The first block of ports that nobody has leased and nobody listens on.

    Raises: PortError if all are taken.
    """
    folder = folder or shared_folder()
    for port in range(first, last - BLOCK + 2, BLOCK):
        lock = _try_lock(folder / f"{port}.lock")
        if lock is None:
            continue
        if all(is_free(port + offset) for offset in range(BLOCK)):
            return PortLease(port, lock)
        os.close(lock)
    raise PortError(
        f"no {BLOCK} neighbouring free ports between {first} and {last}; "
        f"end servers that are not needed (ss -ltnp shows them; leases are in {folder})"
    )


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, on any interface (CARLA listens on all of them)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers in TIME_WAIT does no harm
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def shared_folder() -> Path:
    """Where all users of this machine keep their leases. Raises: PortError."""
    folder = Path(tempfile.gettempdir()) / "raw2drive-ports"
    try:
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's: already open to all
            folder.chmod(0o1777)
    except OSError as error:
        raise PortError(f"{folder}: cannot be created ({error.strerror}); set TMPDIR to a writable folder") from error
    return folder


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the file's lock; None if somebody else does."""
    try:
        # Reading is enough for a lock, and a file that another user made in a sticky folder must not be re-created.
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError:
            return None
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
