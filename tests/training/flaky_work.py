"""What the processes of a test do: die and hang where they are told to."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from eval.server import ServerError
from training.workers import Reporter


def work(folder: Path, reporter: Reporter, items: Sequence[str], worker: int) -> None:
    """Items say what happens at them: `die`, `hang` (the first time only), `refuse`, or nothing in particular."""
    for item in items:
        reporter.tell(lambda: "begun")
        if item == "die":
            os._exit(9)
        if item == "refuse":
            raise ServerError("no such town")
        if item == "hang" and not (folder / "hung").exists():
            (folder / "hung").touch()
            time.sleep(600.0)
        reporter.done((item, worker))
