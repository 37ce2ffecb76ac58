"""Routes driven on the nodes of a Ray cluster: each job in an actor, which supervises it as the runner would here.

The working folder travels to the nodes with the code and the weights; route file and town maps travel with each job.
What a job leaves comes back with its end, so that the nodes need no common disk. Actors end with the runner.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from eval.job import Job
from eval.metrics.junctions import town_file
from eval.routes import read_routes, select_routes
from eval.server import ServerError
from eval.supervised import JobEnd, JobState, Limits, LocalJob

EXCLUDED: Final = [".git", ".venv", "runs", "docs", "tests", "**/__pycache__", ".*_cache"]
"""Of the working folder: what no job needs."""
END_S: Final = 15.0
_STAYS: Final = (".job.json", ".status.json", ".outcome.json", ".process.json", ".phase")
"""Files of a job that mean nothing once it is over."""
_NODE_LOST: Final = "its node or actor was lost"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job with the files it reads."""

    job: Job
    limits: Limits
    routes: bytes
    town_maps: Mapping[str, bytes]


class Actor:
    """On a node: one job at a time in a folder of its own. Ray makes an actor of it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="raw2drive-"))
        self._job: LocalJob | None = None

    def start(self, parcel: Parcel) -> None:
        """Unpack and start."""
        routes = self._folder / "routes.xml"
        routes.write_bytes(parcel.routes)
        town_dir = None
        if parcel.town_maps:
            town_dir = self._folder / "towns"
            town_dir.mkdir()
            for name, text in parcel.town_maps.items():
                (town_dir / name).write_bytes(text)
        job = replace(
            parcel.job,
            routes=str(routes),
            folder=str(self._folder / "run"),
            town_dir=str(town_dir) if town_dir else None,
            parent_pid=os.getpid(),
        )
        self._job = LocalJob(job, parcel.limits)

    def poll(self) -> JobState:
        """As `LocalJob.poll`."""
        return self._started().poll()

    def finish(self) -> tuple[JobEnd, dict[str, bytes]]:
        """How the job ended, and the files it left, by their paths in the run's folder."""
        end = self._started().finish()
        run = self._folder / "run"
        files = {
            path.relative_to(run).as_posix(): path.read_bytes()
            for path in run.rglob("*")
            if path.is_file() and not path.name.endswith(_STAYS)
        }
        shutil.rmtree(self._folder, ignore_errors=True)
        return end, files

    def end(self) -> None:
        """End the job now."""
        if self._job is not None:
            self._job.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _started(self) -> LocalJob:
        if self._job is None:
            raise RuntimeError("no job was started")
        return self._job


def connect(address: str, *, excluded: Sequence[str] = (), logs: bool = False) -> Any:
    """Join a Ray cluster, to which the working folder travels; gives Ray's module.

    excluded: more of the working folder that stays here, as patterns of .gitignore. logs: whether what is printed on
    the nodes is printed here, too. Raises: ServerError (no Ray, no cluster).
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ServerError("--ray needs Ray: pip install '.[cluster]'") from error
    environment = {"working_dir": str(Path.cwd()), "excludes": [*EXCLUDED, *excluded]}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=logs, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ServerError(f"--ray {address}: no cluster answers ({message}); start one with: ray start") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's handler would end the program at once
    return ray


class Cluster:
    """A connection to a Ray cluster."""

    def __init__(self, address: str, cpus: int, gpus: float) -> None:
        """`cpus`, `gpus`: what each worker is given. Raises: ServerError (no Ray, no cluster)."""
        self._ray = ray = connect(address)
        self._cpus, self._gpus = cpus, gpus
        self._actor: Any = ray.remote(Actor)

    def slots(self) -> int:
        """How many workers the whole cluster carries."""
        there = self._ray.cluster_resources()
        slots = int(there.get("CPU", 1.0) // self._cpus)
        return min(slots, int(there.get("GPU", 0.0) // self._gpus)) if self._gpus else slots

    def start(self, job: Job, limits: Limits) -> ClusterJob:
        """Start a job wherever there is room; it waits until there is."""
        maps = {}
        if job.town_dir is not None:
            town = _town_of(job)
            path = town_file(town, Path(job.town_dir))
            maps = {} if path is None else {path.name: path.read_bytes()}
        actor = self._actor.options(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0).remote()
        return ClusterJob(self._ray, actor, job, Parcel(job, limits, Path(job.routes).read_bytes(), maps))

    def close(self) -> None:
        """Leave the cluster; actors that are left end."""
        self._ray.shutdown()


class ClusterJob:
    """A job on some node; looks like a `LocalJob`."""

    def __init__(self, ray: Any, actor: Any, job: Job, parcel: Parcel) -> None:
        self.job = job
        self._ray = ray
        self._actor = actor
        self._lost = ""
        self._state = JobState()
        self._asked: Any = None
        self._started_s = time.monotonic()
        self._start = actor.start.remote(parcel)

    def poll(self) -> JobState:
        """The latest look that came back; never waits for the node."""
        try:
            if self._start is not None:
                if not self._arrived(self._start):
                    return self._state
                self._ray.get(self._start)
                self._start = None
            if self._asked is not None and self._arrived(self._asked):
                self._state, self._asked = self._ray.get(self._asked), None
            if self._asked is None and not self._state.over:
                self._asked = self._actor.poll.remote()
        except self._ray.exceptions.RayError as error:
            self._lost = f"{_NODE_LOST}: {str(error).splitlines()[0]}"
            self._state = JobState(status=self._state.status, over=True)
        return self._state

    def finish(self) -> JobEnd:
        """How the job ended; its files are written to the run's folder. Raises: OSError (disk full)."""
        if not self._lost:
            try:
                end, files = self._ray.get(self._actor.finish.remote())
            except self._ray.exceptions.RayError as error:
                self._lost = f"{_NODE_LOST}: {str(error).splitlines()[0]}"
            else:
                self._ray.kill(self._actor)
                for name, content in files.items():
                    path = Path(self.job.folder) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                return end
        wall_s = time.monotonic() - self._started_s
        return JobEnd(exit_code=-1, cut_off=self._lost, status=self._state.status, wall_s=wall_s)

    def ask_to_end(self) -> None:
        """Nothing to hurry: `end` kills the actor, and the job with it."""

    def end(self) -> None:
        """End the job and its actor."""
        with contextlib.suppress(self._ray.exceptions.RayError):  # it hangs or is gone: its processes end with it
            self._ray.get(self._actor.end.remote(), timeout=END_S)
        self._ray.kill(self._actor)

    def _arrived(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])


def _town_of(job: Job) -> str:
    return select_routes(read_routes(Path(job.routes)), ids=[job.route_id])[0].town
