"""The processes of a run: collectors, replaced when they die or fall silent, and now and then an evaluation."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval.routes import Route
from eval.server import ServerError
from training import spawn
from training.messages import MAX_MESSAGE_BYTES, read
from training.presets import PrivilegedConfig
from training.privileged.collector import CollectorJob, work
from training.privileged.config import RunConfig

SILENCE_S = 400.0
"""A process that tells nothing for so long is replaced; the first start on a machine compiles and takes minutes."""
CLOSE_S = 30.0
"""What a process may take to publish its experience and to end its server."""
FRUITLESS_STARTS = 3
"""So many processes in a row that died before they drove anything will not drive later either."""
_MAX_MESSAGES = 1000
MESSAGE_TYPES = {"steps": int, "episode": dict, "scheduler": dict, "evaluation": list, "version": int}
"""What a process may tell."""
logger = logging.getLogger(__name__)


class Hired(Protocol):
    """A collector at work, wherever it is."""

    @property
    def pid(self) -> int:
        """Of its process, on its machine; 0 while there is none."""
        ...

    @property
    def dead(self) -> str:
        """Why it has to be replaced; empty while it works."""
        ...

    def messages(self) -> list[dict[str, Any]]:
        """What it has told since; never waits."""
        ...

    def hang_up(self) -> None:
        """Tell it to end."""
        ...

    def reap(self, patience_s: float) -> None:
        """Wait for its end, or enforce it."""
        ...


def read_message(data: bytes) -> dict[str, Any]:
    """A process's message. Raises: ValueError for anything else."""
    return read(data, MESSAGE_TYPES)


class Worker:
    """One process with the pipe that ends it."""

    def __init__(self, job: CollectorJob, name: str) -> None:
        self.pipe, other = spawn.pipe()
        self.process = spawn.start(work, other, job, os.getpid(), name=name)
        self.heard_s = time.monotonic()
        self._fault = ""

    def messages(self) -> list[dict[str, Any]]:
        """What it has told since. A process that has died tells nothing more; `dead` says so."""
        found: list[dict[str, Any]] = []
        try:
            while len(found) < _MAX_MESSAGES and not self._fault and self.pipe.poll():
                found.append(read_message(self.pipe.recv_bytes(MAX_MESSAGE_BYTES)))
        except EOFError:
            pass
        except (OSError, ValueError) as error:  # also what is too long, after which the pipe is closed
            self._fault = f"a message that makes no sense ({error})"
        if found:
            self.heard_s = time.monotonic()
        return found

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid or 0

    @property
    def dead(self) -> str:
        """Why it has to be replaced; empty while it works."""
        if not self.process.is_alive():
            return f"exit code {self.process.exitcode}"
        if self._fault:
            return self._fault
        return "silent" if time.monotonic() - self.heard_s > SILENCE_S else ""

    def hang_up(self) -> None:
        """Tell it to end."""
        self.pipe.close()

    def reap(self, patience_s: float) -> None:
        """Wait for its end, or enforce it; its server dies with it."""
        self.process.join(max(patience_s, 0.0))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


@dataclass(slots=True)
class _Seat:
    """A collector through all its processes."""

    worker: Hired
    starts: int = 1
    fruitless: int = 0
    """Processes in a row that have not driven."""
    drove: bool = False
    scheduler: Mapping[str, Any] | None = None


class Crew:
    """All processes of a run; use it as a context manager."""

    def __init__(
        self,
        config: PrivilegedConfig,
        run: RunConfig,
        folder: Path,
        routes: tuple[Route, ...],
        evaluation: tuple[Route, ...],
        schedulers: Mapping[str, Any],
        hire: Callable[[CollectorJob, str], Hired] = Worker,
        evaluation_job: Callable[[CollectorJob], CollectorJob] = lambda job: job,
    ) -> None:
        """folder: of the run, with `replay` and `weights`. schedulers: by collector, of a checkpoint. hire: starts a
        collector with a name, on this machine or another one. evaluation_job: what the evaluation does, from what every
        process does."""
        self._config, self._run, self._folder = config, run, folder
        self._routes, self._evaluation = routes, evaluation
        self._schedulers = schedulers
        self._hire, self._evaluation_job = hire, evaluation_job
        self._seats: list[_Seat] = []
        self._evaluator: Worker | None = None
        self._started_ns = time.time_ns()

    def __enter__(self) -> Crew:
        for number in range(self._run.collectors):
            scheduler = self._schedulers.get(str(number))
            self._seats.append(_Seat(self._start(number, 0, scheduler), scheduler=scheduler))
        return self

    def __exit__(self, *_: object) -> None:
        workers: list[Hired] = [seat.worker for seat in self._seats]
        if self._evaluator is not None:
            workers.append(self._evaluator)
        for worker in workers:
            worker.hang_up()
        until_s = time.monotonic() + CLOSE_S
        for worker in workers:
            worker.reap(until_s - time.monotonic())
        self._seats, self._evaluator = [], None

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation is under way."""
        return self._evaluator is not None

    def pids(self) -> list[int]:
        """Of the collectors."""
        return [seat.worker.pid for seat in self._seats]

    def schedulers(self) -> dict[str, Any]:
        """Outcomes of every collector, for a checkpoint."""
        return {str(number): seat.scheduler for number, seat in enumerate(self._seats) if seat.scheduler is not None}

    def listen(self) -> list[dict[str, Any]]:
        """What all processes told since; dead ones are replaced, which is told as `lost`.

        Raises: ServerError when a collector dies again and again without having driven.
        """
        told: list[dict[str, Any]] = []
        for number, seat in enumerate(self._seats):
            why = seat.worker.dead
            for message in seat.worker.messages():
                seat.drove |= "steps" in message
                seat.scheduler = message.get("scheduler", seat.scheduler)
                told.append(message | {"collector": number})
            if why:
                told.append({"collector": number, "lost": why})
                self._replace(number, seat, why)
        return told + self._listen_to_evaluator()

    def _listen_to_evaluator(self) -> list[dict[str, Any]]:
        worker = self._evaluator
        if worker is None:
            return []
        why = worker.dead
        told = [message for message in worker.messages() if "evaluation" in message]
        if told or why:
            worker.hang_up()
            worker.reap(CLOSE_S)
            self._evaluator = None
        return told or ([{"evaluation_lost": why}] if why else [])

    def evaluate(self, weights: Path) -> None:
        """Have the fixed routes driven greedily beside the collectors."""
        if self._evaluator is None:
            job = replace(self._job(0, 0), routes=self._evaluation, weights=weights, replay=None, seed=self._run.seed)
            self._evaluator = Worker(self._evaluation_job(job), "evaluation")

    def _replace(self, number: int, seat: _Seat, why: str) -> None:
        pid = seat.worker.pid
        logger.warning("collector %d (pid %s) is lost: %s; another one is started", number, pid, why)
        seat.worker.hang_up()
        seat.worker.reap(0.0)
        seat.fruitless = 0 if seat.drove else seat.fruitless + 1
        if seat.fruitless >= FRUITLESS_STARTS:
            raise ServerError(
                f"collector {number} died {FRUITLESS_STARTS} times before it drove ({why}); its last words are above"
            )
        seat.worker, seat.drove = self._start(number, seat.starts, seat.scheduler), False
        seat.starts += 1

    def _start(self, number: int, start: int, scheduler: Mapping[str, Any] | None) -> Hired:
        return self._hire(replace(self._job(number, start), scheduler=scheduler), f"collector-{number}")

    def _job(self, number: int, start: int) -> CollectorJob:
        # The clock is part of the seed: a collector of a resumed run does not drive the same episodes again.
        entropy = [self._run.seed, number, start, self._started_ns]
        return CollectorJob(
            number=number,
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31),
            config=self._config,
            env=replace(self._run.env, worker=number),
            routes=self._routes,
            weights=self._folder / "weights",
            replay=self._folder / "replay",
            prefill_expert=self._run.prefill == "expert",
            expert_share=self._run.expert_share,
            noise_share=self._run.noise_share,
        )
