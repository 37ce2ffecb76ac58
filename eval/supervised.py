"""A job's process under supervision: its progress, its memory, its end, and what is left to say about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from eval.carla_server import last_words
from eval.job import Job
from eval.processes import ProcessIdentity, exited, group_memory_bytes, is_dead, kill_group
from eval.results import write_json_atomically

DEAD_SERVER_S: Final = 3.0
"""A job notices the death of its server by itself, unless a client call holds it up."""
STALL_S: Final = 600.0
TICK_STALL_S: Final = 90.0
"""Wall time of one tick of an embedded server, which the job itself gives up after EMBEDDED_TIMEOUT_S."""
ROUTE_S: Final = 6 * 3600.0
"""Published runs on CARLA need 3.3 h for their slowest route."""
TERMINATE_S: Final = 5.0
MEMORY_PERIOD_S: Final = 2.0
STACKS_S: Final = 1.0
"""Time to write the stacks of a job that hangs."""
STALLED: Final = "no progress"
OVER_TIME: Final = "over its time"
SERVER_DIED: Final = "its server died"
_AGENT_PHASE: Final = "the agent"
_TICK_PHASE: Final = "world.tick()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When a job is given up, whatever holds it."""

    stall_s: float = STALL_S
    """Wall time without progress."""
    route_s: float = ROUTE_S
    """Wall time of a whole route."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """A look at a job."""

    status: Mapping[str, float] = field(default_factory=dict)
    """Progress as the job tells it; empty before it drives."""
    memory_bytes: int = 0
    over: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEnd:
    """What is left of a job that is over."""

    exit_code: int
    cut_off: str = ""
    """Why it was ended from outside; empty if it ended by itself."""
    agent_hung: bool = False
    """It was ended while the agent had the word."""
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """`record`, `bad_input`, `bad_route` (of this route alone) or `server_died`, if it came so far."""
    status: Mapping[str, float] = field(default_factory=dict)
    last_words: str = ""
    peak_memory_bytes: int = 0
    wall_s: float = 0.0


class LocalJob:
    """A job's process group on this machine."""

    def __init__(self, job: Job, limits: Limits) -> None:
        """Start it."""
        self.job = job
        self._limits = limits
        self._status: Mapping[str, float] = {}
        self._memory_bytes = self._peak_bytes = 0
        self._cut_off = ""
        self._agent_hung = False
        self._started_s = self._seen_s = self._server_alive_s = time.monotonic()
        self._memory_at_s = self._started_s + MEMORY_PERIOD_S
        job.path("job").parent.mkdir(parents=True, exist_ok=True)
        for kind in ("status", "outcome", "phase"):
            job.path(kind).unlink(missing_ok=True)
        job.save(job.path("job"))
        with job.path("log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "eval.job", str(job.path("job"))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own; Ctrl-C reaches the runner alone, which ends it in order
                env=_environment(job),
            )
        identity = ProcessIdentity.of(self._process.pid)
        if identity is not None:  # for whoever has to clean up after a runner and its machine went down
            write_json_atomically(job.path("process"), asdict(identity))

    def poll(self) -> JobState:
        """Look at it; a job that stalls, takes too long or has lost its server is ended."""
        now_s = time.monotonic()
        if not self._cut_off and not exited(self._process.pid):
            self._look(now_s)
            reason = self._reason_to_end(now_s)
            if not reason:
                return JobState(status=self._status, memory_bytes=self._memory_bytes)
            self._cut_off = reason
            if reason != SERVER_DIED:
                self._dump_stacks()
        return JobState(status=self._status, memory_bytes=self._memory_bytes, over=True)

    def finish(self) -> JobEnd:
        """End what is left of the group and tell how the job ended."""
        if self._cut_off:
            self._terminate()
        kill_group(self._process.pid)
        code = self._process.wait()
        self.job.path("process").unlink(missing_ok=True)
        path = self.job.path("outcome")
        return JobEnd(
            exit_code=code,
            cut_off=self._cut_off,
            agent_hung=self._agent_hung,
            outcome=json.loads(path.read_text()) if path.exists() else {},
            status=self._status,
            last_words=last_words(self.job.path("log")),
            peak_memory_bytes=self._peak_bytes,
            wall_s=time.monotonic() - self._started_s,
        )

    def end(self) -> None:
        """End the whole group now, its leader first and in order."""
        self._terminate()
        kill_group(self._process.pid)
        self._process.wait()
        self.job.path("process").unlink(missing_ok=True)

    def ask_to_end(self) -> None:
        """Tell the leader to end; `end` then has less to wait for."""
        if not exited(self._process.pid):
            self._process.send_signal(signal.SIGTERM)

    def _look(self, now_s: float) -> None:
        status = _read_status(self.job.path("status"))
        if status != self._status:
            self._status, self._seen_s = status, now_s
        server_pid = status.get("server_pid")
        if server_pid is None or not is_dead(int(server_pid)):
            self._server_alive_s = now_s
        if now_s >= self._memory_at_s:
            self._memory_at_s = now_s + MEMORY_PERIOD_S
            self._memory_bytes = group_memory_bytes(self._process.pid)
            self._peak_bytes = max(self._peak_bytes, self._memory_bytes)

    def _reason_to_end(self, now_s: float) -> str:
        if now_s - self._server_alive_s >= DEAD_SERVER_S:
            return SERVER_DIED  # a client call to a dead server can hold the interpreter until its time-out
        start_s = 0.0 if self._status else self.job.start_timeout_s  # a server may take its time
        silent_s = now_s - self._seen_s
        if silent_s > start_s + self._limits.stall_s:
            return STALLED
        if self.job.embedded and silent_s > start_s + TICK_STALL_S and self._phase().startswith(_TICK_PHASE):
            return STALLED
        return OVER_TIME if now_s - self._started_s > self._limits.route_s else ""

    def _dump_stacks(self) -> None:
        """Have the job write its stacks to its log, and note whose turn it was."""
        self._agent_hung = self._cut_off == STALLED and self._phase().startswith(_AGENT_PHASE)
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_S)

    def _phase(self) -> str:
        path = self.job.path("phase")
        return path.read_text(errors="replace") if path.exists() else ""

    def _terminate(self) -> None:
        self.ask_to_end()
        deadline_s = time.monotonic() + TERMINATE_S
        while not exited(self._process.pid) and time.monotonic() < deadline_s:
            time.sleep(0.02)


def end_orphans(run: Path) -> int:
    """End the jobs that a runner of this folder left behind (it holds the folder's lock no more); how many there were.

    A process is known by its pid and its start time, so nothing else that has that pid today is touched.
    """
    ended = 0
    for path in [*run.glob("jobs/*.process.json"), *run.glob("rep*/jobs/*.process.json")]:
        try:
            identity = ProcessIdentity(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            identity = None
        if identity is not None and identity.alive:
            kill_group(identity.pid)
            ended += 1
        path.unlink(missing_ok=True)
    return ended


def _environment(job: Job) -> dict[str, str]:
    # More spinning threads of the network than cores slow everything down, several workers most of all.
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    if job.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(job.gpu)  # the agent's; CARLA does not look at it
    return environment


def _read_status(path: Path) -> Mapping[str, float]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
