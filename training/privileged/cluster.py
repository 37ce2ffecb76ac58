"""Collectors on the nodes of a Ray cluster, seen from the learner's machine.

Each collector is a restartable actor (`training.privileged.node`). Finished segments come as checked bytes and are
written into the run's replay folder, weights go the other way, so the machines need no common disk. Calls and their
arguments travel in Ray's own encoding; files hold nothing of it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.cluster import connect
from eval.metrics.junctions import town_file
from eval.server import ServerError
from training.experience.shipping import Shipment, ShipmentError, store_segment
from training.privileged.collector import PAUSED, CollectorJob
from training.privileged.crew import SILENCE_S
from training.privileged.driver import newest
from training.privileged.node import Assignment, RemoteCollector, Report
from training.replay import SegmentError

RETRY_S = 1.0
"""Between two tries to start a collector while Ray starts its actor anew."""
LOOK_S = 0.05
END_S = 15.0
RUN_FILE = "cluster-run"
"""Names the run on the nodes, so that a resumed one gets what a killed one left there."""
logger = logging.getLogger(__name__)


class Nodes:
    """Where collectors are hired: the nodes of a cluster; use it as a context manager."""

    def __init__(self, address: str, folder: Path, collectors: int, cpus: int) -> None:
        """folder: of the run, with `replay` and `weights`. cpus: of each collector.

        Raises: ServerError without Ray, without a cluster or with too few CPUs in it.
        """
        self.replay, self._weights = folder / "replay", folder / "weights"
        self.replay.mkdir(parents=True, exist_ok=True)
        self.ray = connect(address, excluded=_excluded(folder), logs=True)
        self._cpus = cpus
        self._run = _run_name(folder)
        self._actors: dict[int, Any] = {}
        self._maps: dict[str, bytes] | None = None
        self._sent: tuple[str, Any] | None = None
        slots = _slots(self.ray.nodes(), cpus)
        if len(slots) < collectors:
            self.ray.shutdown()
            raise ServerError(
                f"--ray {address}: the cluster has room for {len(slots)} collectors with {cpus} CPUs each, not for "
                f"{collectors}; add nodes or give --config.collectors {max(len(slots), 1)}"
            )
        self._places = slots[:collectors]

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        closing = [actor.close.remote() for actor in self._actors.values()]
        with contextlib.suppress(self.ray.exceptions.RayError):  # lost, or hanging: then it is killed
            self.ray.get(closing, timeout=END_S)
        self.ray.shutdown()

    def hire(self, job: CollectorJob, name: str) -> RemoteWorker:
        """Start a collector on its node; never waits."""
        if job.number not in self._actors:
            # The same node again, where finished segments may wait, or another one when that is lost.
            strategies = importlib.import_module("ray.util.scheduling_strategies")
            place = strategies.NodeAffinitySchedulingStrategy(self._places[job.number], soft=True)
            options = {"num_cpus": self._cpus, "max_restarts": -1, "scheduling_strategy": place}
            self._actors[job.number] = self.ray.remote(RemoteCollector).options(**options).remote(self._run)
        if self._maps is None:
            self._maps = _town_maps(job)
        return RemoteWorker(self, job, name, self._maps)

    def actor(self, number: int) -> Any:
        """The actor of a collector."""
        return self._actors[number]

    def forget(self, number: int) -> None:
        """The actor of a collector is gone for good."""
        self._actors.pop(number, None)

    def paused(self) -> bool:
        """Whether the collectors are to wait."""
        return (self._weights.parent / PAUSED).exists()

    def weights(self) -> tuple[str, Any] | None:
        """Name of the newest weights and Ray's reference to them; None before the first ones."""
        path = newest(self._weights)
        if path is not None and (self._sent is None or self._sent[0] != path.name):
            with contextlib.suppress(FileNotFoundError):  # replaced just now: the next look finds the newer ones
                self._sent = path.name, self.ray.put(Shipment.of(path))
        return self._sent


class RemoteWorker:
    """A collector on a node; looks like a `crew.Worker`."""

    def __init__(self, nodes: Nodes, job: CollectorJob, name: str, maps: Mapping[str, bytes]) -> None:
        self.pid = 0
        self._nodes, self._ray, self._number = nodes, nodes.ray, job.number
        self._assignment = Assignment(job, name, maps)
        self._version = ""
        """Name of the weights that the node has."""
        self._stored: list[str] = []
        self._lost = ""
        """Why nothing more is to be heard of its actor."""
        self._ended = ""
        """How the collector itself has ended."""
        self._over = False
        self._starting: Any = None
        self._looking: Any = None
        self._retry_s = -1.0
        self._heard_s = time.monotonic()
        self._start()

    @property
    def dead(self) -> str:
        """Why it has to be replaced; empty while it works."""
        return self._lost or self._ended or ("silent" if self._silent else "")

    def messages(self) -> list[dict[str, Any]]:
        """What it has told since; segments that came are stored, and the next look is asked for. Never waits.

        Raises: OSError (disk full).
        """
        if self._lost or time.monotonic() < self._retry_s:
            return []
        found: list[dict[str, Any]] = []
        errors = self._ray.exceptions
        try:
            if self._retry_s > 0.0:
                self._retry_s = -1.0
                self._start()
            if self._starting is not None and self._arrived(self._starting):
                (self.pid, host), self._starting = self._ray.get(self._starting), None
                found.append({"placed": {"pid": self.pid, "host": host}})
            if self._looking is not None and self._arrived(self._looking):
                report, self._looking = self._ray.get(self._looking), None
                found += self._take(report)
            if self._starting is None and self._looking is None:
                self._looking = self._look()
        except errors.ActorUnavailableError as error:
            if self._starting is None:
                self._lost = f"its actor is lost ({_first_line(error)})"
            else:
                self._starting, self._retry_s = None, time.monotonic() + RETRY_S
        except errors.RayActorError as error:
            self._nodes.forget(self._number)
            self._lost = f"its actor is lost ({_first_line(error)})"
        except errors.RayTaskError as error:
            self._lost = f"its actor failed ({error.cause!r})"
        if found:
            self._heard_s = time.monotonic()
        return found

    def hang_up(self) -> None:
        """Tell it to end."""
        if not self._lost:
            self._nodes.actor(self._number).hang_up.remote()

    def reap(self, patience_s: float) -> None:
        """Wait until it has ended and its last segments are here, but no longer than that.

        One that is replaced is not waited for: its actor ends it before it starts another, and is killed if silent.
        """
        if not self._lost and self._silent:
            self._ray.kill(self._nodes.actor(self._number), no_restart=False)
        until_s = time.monotonic() + patience_s
        while not self._lost and not self._over and time.monotonic() < until_s:
            self.messages()
            time.sleep(LOOK_S)

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._heard_s > SILENCE_S

    def _start(self) -> None:
        self._version = ""
        actor = self._nodes.actor(self._number)
        self._starting = actor.start.remote(self._assignment, self._fresh_weights())

    def _look(self) -> Any:
        stored, self._stored = self._stored, []
        return self._nodes.actor(self._number).look.remote(stored, self._fresh_weights(), self._nodes.paused())

    def _fresh_weights(self) -> Any:
        """Ray's reference to weights that the node does not have; None if it has the newest."""
        weights = self._nodes.weights()
        if weights is None or weights[0] == self._version:
            return None
        self._version = weights[0]
        return weights[1]

    def _take(self, report: Report) -> list[dict[str, Any]]:
        for segment in report.segments:
            try:
                store_segment(self._nodes.replay, segment)
            except ShipmentError as error:
                logger.warning("collector %d: %s; it is sent again", self._number, error)
                continue
            except SegmentError as error:
                logger.warning("collector %d: left out: %s", self._number, error)
            self._stored.append(segment.name)
        self._over = report.over
        self._ended = report.dead
        return [dict(message) for message in report.messages]

    def _arrived(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _slots(nodes: list[Any], cpus: int) -> list[str]:
    """A node for every collector there is room for, in turns so that all nodes get as many."""
    room = {node["NodeID"]: int(node["Resources"].get("CPU", 0.0) // cpus) for node in nodes if node["Alive"]}
    turns = [(turn, node) for node, count in sorted(room.items()) for turn in range(count)]
    return [node for _, node in sorted(turns)]


def _run_name(folder: Path) -> str:
    path = folder / RUN_FILE
    if not path.exists():
        path.write_text(uuid.uuid4().hex, encoding="utf-8")
    name = path.read_text(encoding="utf-8").strip()
    if not name.isalnum():
        raise ValueError(f"{path}: holds {name[:40]!r}, not the name of a run; delete it")
    return name


def _excluded(folder: Path) -> list[str]:
    """The run's own folder does not travel to the nodes."""
    here, there = Path.cwd().resolve(), folder.resolve()
    return [f"/{there.relative_to(here).as_posix()}"] if there.is_relative_to(here) else []


def _town_maps(job: CollectorJob) -> dict[str, bytes]:
    if job.env.town_dir is None:
        return {}
    paths = [town_file(town, job.env.town_dir) for town in sorted({route.town for route in job.routes})]
    return {path.name: path.read_bytes() for path in paths if path is not None}
