"""Ends a process whose parent is gone. Kept free of heavy imports: the parent may go while they load."""

import os
import signal
import threading
import time

POLL_S = 0.25
PARENT_VARIABLE = "RAW2DRIVE_PARENT_PID"
_told = os.environ.get(PARENT_VARIABLE, "")
PARENT = int(_told) if _told.isdecimal() else os.getppid()
"""Who started this process: as it says itself, because it may be gone before this line runs, else whoever is the parent
now."""


def end_with_parent() -> None:
    """From now on: SIGTERM to this process as soon as its parent has ended, whatever the main thread is doing."""
    threading.Thread(target=_watch, name="orphan watch", daemon=True).start()


def _watch() -> None:
    while os.getppid() == PARENT:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
