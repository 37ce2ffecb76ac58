"""Processes with large arguments, started so that one that dies at once holds nobody up.

`multiprocessing` writes a spawned process's arguments into a pipe whose reading end the parent keeps open itself: where
they are larger than the pipe (64 KiB; a few hundred routes are) and the process dies while it still imports, the parent
would wait for ever. Here they follow by a pipe that breaks with the process, and the parent never waits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")


def pipe(*, duplex: bool = True) -> tuple[Connection, Connection]:
    """Both ends of a pipe; without duplex the first one receives."""
    return _SPAWN.Pipe(duplex)


def start(
    target: Callable[..., None], end: Connection, *arguments: object, name: str | None = None, daemon: bool = False
) -> BaseProcess:
    """Start `target(end, *arguments)` in a process of its own. end: of a pipe; it is closed here."""
    receiver, sender = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_begin, args=(target, end, receiver), name=name, daemon=daemon)
    process.start()
    receiver.close()
    end.close()
    threading.Thread(target=_hand_over, args=(sender, arguments), name="hand over", daemon=True).start()
    return process


def _hand_over(sender: Connection, arguments: tuple[Any, ...]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its owner sees that it is dead
        sender.send(arguments)
    sender.close()


def _begin(target: Callable[..., None], end: Connection, receiver: Connection) -> None:
    """Main function of the process; what its parent sends is as trusted as what `multiprocessing` hands over."""
    arguments = receiver.recv()
    receiver.close()
    target(end, *arguments)
