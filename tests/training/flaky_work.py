"""What the processes of a test do: die and hang where they are told to."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

from eval.server import ServerError
from training.messages import MAX_MESSAGE_BYTES
from training.workers import Reporter


class Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os._exit, (3,))


def work(folder: Path, reporter: Reporter, items: Sequence[str], worker: int) -> None:
    """Items say what happens at them: `die`, `hang` (the first time only), `refuse`, `pickle` and `long` (what is told
    of them), or nothing in particular."""
    for item in items:
        reporter.tell(lambda: "begun")
        if item == "die":
            os._exit(9)
        if item == "refuse":
            raise ServerError("no such town")
        if item == "hang" and not (folder / "hung").exists():
            (folder / "hung").touch()
            time.sleep(600.0)
        if item == "pickle":
            reporter._sender.send_bytes(pickle.dumps(Bomb()))
            time.sleep(600.0)
        reporter.done(bytes(MAX_MESSAGE_BYTES) if item == "long" else (item, worker))
