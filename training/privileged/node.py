"""A collector on another machine: its process with its server, its outbox, and what it answers to the learner."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.experience.shipping import Outbox, Shipment
from training.privileged.collector import CollectorJob, pause
from training.privileged.crew import Worker
from training.privileged.driver import KEPT_VERSIONS

WEIGHTS_FILE = re.compile(r"\d{9}\.safetensors")
END_S = 5.0
"""What a collector that is replaced may take to publish its experience and to end its server."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A collector's job with the files it reads. The paths in the job are the learner's machine's."""

    job: CollectorJob
    name: str
    town_maps: Mapping[str, bytes]
    """OpenDRIVE texts by file name, where the run has a folder of towns."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened since the last look."""

    messages: tuple[Mapping[str, Any], ...]
    segments: tuple[Shipment, ...]
    """Finished ones, again and again until they are confirmed."""
    dead: str
    """Why another collector must be started; empty while one drives."""
    over: bool
    """Whether the collector's process has ended and no segment is left."""


class RemoteCollector:
    """On a node: one collector at a time. Ray makes an actor of it, and another one when it dies.

    It drives in a process below this one, which ends with this one, because CARLA's client may take its process down.
    """

    def __init__(self, run: str) -> None:
        """run: name of the run. Raises: OSError."""
        self._outbox = Outbox(run)
        self._worker: Worker | None = None
        self._hung_up = False

    def start(self, assignment: Assignment, weights: Shipment | None) -> tuple[int, str]:
        """End the collector there was, and start this one; gives this actor's pid and its machine's name.

        weights: None before the first update. Raises: ShipmentError, OSError.
        """
        self._end(END_S)
        job, outbox = assignment.job, self._outbox
        if weights is not None:
            outbox.take_weights(weights, WEIGHTS_FILE, KEPT_VERSIONS)
        env = job.env
        if assignment.town_maps:
            towns = outbox.folder / "towns"
            towns.mkdir(exist_ok=True)
            for name, text in assignment.town_maps.items():
                (towns / Path(name).name).write_bytes(text)
            env = replace(env, town_dir=towns)
        job = replace(job, env=env, weights=outbox.weights, replay=outbox.segments, indexed=False)
        self._worker, self._hung_up = Worker(job, assignment.name), False
        return os.getpid(), socket.gethostname()

    def look(self, stored: Sequence[str], weights: Shipment | None, paused: bool) -> Report:
        """What is new.

        stored: segments that are on the learner's disk. weights: newer ones, to drive with. paused: whether it
        is to wait.

        Raises: ShipmentError, OSError.
        """
        self._outbox.confirm(stored)
        if weights is not None:
            self._outbox.take_weights(weights, WEIGHTS_FILE, KEPT_VERSIONS)
        pause(self._outbox.folder, wanted=paused)
        worker = self._worker
        dead = "its actor was started anew" if worker is None else worker.dead  # asked first: last words follow
        messages = () if worker is None or self._hung_up else tuple(worker.messages())
        segments = tuple(self._outbox.load())
        return Report(messages, segments, dead, over=bool(dead) and not segments)

    def hang_up(self) -> None:
        """Tell the collector to end; its last segments are sent."""
        if self._worker is not None and not self._hung_up:
            self._worker.hang_up()
            self._hung_up = True

    def close(self) -> None:
        """Nothing more is wanted."""
        self._end(END_S)
        self._outbox.close()

    def _end(self, patience_s: float) -> None:
        self.hang_up()
        if self._worker is not None:
            self._worker.reap(patience_s)
            self._worker = None
