"""Ends a process that hangs where no timeout of its own applies, with a message instead of silence.

CARLA's 0.9.16 client can freeze for ever inside `world.tick()` while a synchronous Traffic Manager runs in it.
"""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_SIMULATION_FROZEN = 70
EXIT_AGENT_FROZEN = 71
EXIT_SERVER_DIED = 72
RESCUE_AFTER_S = 3.0
"""A phase that takes this long is given its rescue, and again after as long."""
_POLL_S = 0.25
_NAME_BYTES = 64


class Watchdog:
    """Watches named phases of the main thread; a phase over its limit ends the process."""

    def __init__(
        self,
        on_freeze: Callable[[str], None] | None = None,
        server_exit_code: Callable[[], int | None] = lambda: None,
        phase_file: Path | None = None,
    ) -> None:
        """`on_freeze` gets the message before the end; `server_exit_code` is not None once our own server is gone.

        `phase_file` always names the current phase: who watches from outside can tell who is to blame when this whole
        process hangs, the watchdog's thread with it.
        """
        self._shown = None if phase_file is None else _shared_text(phase_file)
        self._on_freeze = on_freeze
        self._server_exit_code = server_exit_code
        self._phase: tuple[str, float, int] | None = None
        self._rescue: Callable[[], None] | None = None
        self._rescue_at_s = math.inf
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def phase(
        self,
        name: str,
        limit_s: float,
        exit_code: int = EXIT_SIMULATION_FROZEN,
        rescue: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """The block may take `limit_s`; after that the process ends with `exit_code`.

        `rescue` is called from another thread when the block takes unusually long, and must be harmless to one that
        is only slow.
        """
        self._rescue, self._rescue_at_s = rescue, time.monotonic() + RESCUE_AFTER_S
        self._phase = (name, time.monotonic() + limit_s, exit_code)
        self._show(name)
        try:
            yield
        finally:
            self._phase = None
            self._rescue = None
            self._show("")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _show(self, name: str) -> None:
        if self._shown is not None:
            self._shown[:] = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES)

    def _watch(self) -> None:
        while not self._closed.wait(_POLL_S):
            phase, rescue = self._phase, self._rescue
            if rescue is not None and time.monotonic() > self._rescue_at_s:
                self._rescue_at_s = time.monotonic() + RESCUE_AFTER_S
                rescue()
            if phase is not None and time.monotonic() > phase[1]:
                self._end(*phase)
            code = self._server_exit_code()
            if code is not None:  # the client would only notice when its call times out
                print(f"error: the embedded server ended by itself (exit code {code})", file=sys.stderr, flush=True)
                os._exit(EXIT_SERVER_DIED)

    def _end(self, name: str, deadline_s: float, exit_code: int) -> None:
        late_s = time.monotonic() - deadline_s
        message = f"{name} hangs ({late_s:.1f} s over its limit); this process ends so that the route can be run again"
        print(f"error: {message}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr)
        try:
            if self._on_freeze is not None:
                self._on_freeze(message)
        finally:
            os._exit(exit_code)


def _shared_text(path: Path) -> mmap.mmap:
    """A small file kept in memory: writing to it costs no system call."""
    path.write_bytes(b" " * _NAME_BYTES)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _NAME_BYTES)
