"""One route in a process of its own: server, agent, episode, outcome. Started by the runner, ends with it.

A fresh process per route makes results independent of the routes before it, and confines crashes and leaks.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import logging
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import carla
from av.error import FFmpegError

from agent import strict_json
from eval.agents import AgentLoadError, CameraRecorder, ReplayedCameras, black_cameras, load_agent
from eval.carla_server import CarlaConfig, CarlaServer, ContainerServer
from eval.cpu import CpuMeter
from eval.episode import (
    CARLA_TIMEOUT_S,
    EMBEDDED_TIMEOUT_S,
    FAILURE_AGENT,
    FAILURE_SIMULATION,
    Episode,
    EpisodeConfig,
    EpisodeError,
    InputFilter,
    Tick,
    TickHook,
)
from eval.metrics.abilities import TRAFFIC_SIGNS, abilities_of
from eval.metrics.junctions import episode_credit_percent
from eval.metrics.recorder import MotionRecorder, metrics_folder
from eval.moments import TraceError
from eval.official.drive import run_official
from eval.official.harness import HarnessError, find_harness
from eval.planner import PlannerError
from eval.processes import end_with_parent, guard_group
from eval.progress import PAINTING
from eval.recorder import FilmChoice, RouteRecorder, settle_film
from eval.results import RouteRecord, save_name, write_json_atomically
from eval.routes import Route, RouteFileError, read_routes, select_routes
from eval.scoring import Scoring
from eval.server import (
    EmbeddedServer,
    EmbeddedServerConfig,
    RunningServer,
    ServerDiedError,
    ServerError,
    connect,
    is_embedded,
    wheel_version,
)
from eval.trace import TraceRecorder
from eval.view import LiveView
from eval.watchdog import EXIT_SERVER_DIED, Watchdog

EXIT_BAD_INPUT = 2
EXIT_DISK_FULL = 73
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a retry does not mend: no room, or a medium that fails."""
STATUS_PERIOD_S = 0.5
INPUT_ERRORS = (RouteFileError, PlannerError, ServerError, AgentLoadError, HarnessError)
SETUP_INPUT_ERRORS = ("CheckpointError", "ConfigError")
"""Errors of an agent's setup that mean bad input (missing or altered weights), told by name: the agent's modules are
imported from its own folder, so their classes are not ours."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the process needs to know; JSON on disk."""

    routes: str
    route_id: str
    agent: str
    agent_config: str
    scoring: str
    traffic: int
    seed: int
    worker: int
    folder: str
    """The run's folder."""
    parent_pid: int
    server: str | None = None
    """HOST:PORT of a running server; None: one of our own."""
    carla_root: str = ""
    """Folder of an installed CARLA to start; empty: an embedded server."""
    carla_image: str = ""
    """Container image of CARLA to start instead."""
    gpu: int | None = None
    """Graphics adapter of a CARLA that we start."""
    start_timeout_s: float = 120.0
    """How long a server of our own may take to become ready."""
    repetition: int = 0
    town_dir: str | None = None
    threads: int = 2
    cameras: str = "normal"
    replay: str | None = None
    """Recording shown to the agent with cameras `other-episode`."""
    record_cameras: bool = False
    film: FilmChoice = "none"
    view: bool = False
    max_game_s: float | None = None
    official: str = ""
    """Checkout of an official evaluator that drives the route instead of ours."""

    def save(self, path: Path) -> None:
        """Write the job to a file."""
        write_json_atomically(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read a job from a file."""
        return cls(**json.loads(path.read_text()))

    @property
    def embedded(self) -> bool:
        """Whether the server is our own, not CARLA."""
        return not (self.server or self.carla_root or self.carla_image)

    @property
    def server_name(self) -> str:
        """What the record says about the server: an address, `carla` if we start one, or `embedded`."""
        return self.server or ("embedded" if self.embedded else "carla")

    @property
    def artefacts(self) -> Path:
        """Folder of what the drive leaves besides its record."""
        return artefact_folder(Path(self.folder), self.repetition)

    def path(self, kind: str) -> Path:
        """File of this route's job: job, status, outcome, process (json), phase or log."""
        suffix = kind if kind in ("log", "phase") else f"{kind}.json"
        return self.artefacts / "jobs" / f"route_{self.route_id}.{suffix}"


def artefact_folder(run: Path, repetition: int) -> Path:
    """Where a run keeps logs, traces, films and pictures of a repetition; the first one's lie in the run's folder."""
    return run if repetition == 0 else run / f"rep{repetition}"


def main(argv: list[str]) -> int:
    """Run the job of the file named in argv."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    job = Job.load(Path(argv[0]))
    end_with_parent(job.parent_pid)
    guard_group()
    signal.signal(signal.SIGTERM, _on_sigterm)
    faulthandler.register(signal.SIGUSR1)  # the runner asks for the stacks of a job that stalls
    record: RouteRecord | None = None
    try:
        record = run_official_job(job) if job.official else run_job(job)
        outcome: dict[str, Any] = {"record": record.to_json()}
    except INPUT_ERRORS as error:
        outcome = {"bad_input": _one_line(error)}
        if isinstance(error, PlannerError):
            outcome = {"bad_route": f"route {job.route_id} of {job.routes}: {_one_line(error)}"}
    except ServerDiedError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        outcome = {"server_died": _one_line(error)}
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: {error.filename or job.folder}: {error.strerror}", file=sys.stderr, flush=True)
        return EXIT_DISK_FULL
    write_json_atomically(job.path("outcome"), outcome)
    if record is not None and not job.official:  # the verdict is safe before the film is painted
        _settle_film(job, record)
    if "server_died" in outcome:
        return EXIT_SERVER_DIED
    return EXIT_BAD_INPUT if {"bad_input", "bad_route"} & outcome.keys() else 0


def run_job(job: Job) -> RouteRecord:
    """Drive the job's route and return its record.

    Raises: RouteFileError, PlannerError, ServerError, AgentLoadError for bad input, ServerDiedError.
    """
    started_s = time.monotonic()
    route = select_routes(read_routes(Path(job.routes)), ids=[job.route_id])[0]
    with contextlib.ExitStack() as stack:
        server = _start_server(job, route)
        stack.callback(server.stop)
        stack.callback(job.path("status").unlink, missing_ok=True)  # from here on the server may go
        agent_class = load_agent(job.agent)  # while the server starts
        server.wait_until_ready()
        config = _episode_config(job)
        client = _connect(job, server.host, server.port, config.timeout_s)
        episodes: list[Episode] = []
        meter = CpuMeter(server.pid)
        watchdog = Watchdog(
            lambda message: _save_frozen(job, episodes[0], message) if episodes else None,
            server.exit_code,
            job.path("phase"),
        )
        stack.callback(watchdog.close)
        episode = Episode(
            client,
            route,
            agent_class,
            config,
            address=(server.host, server.port),
            input_filter=_input_filter(job),
            hooks=[*_hooks(job, route.town, server.pid, stack), meter],
            watchdog=watchdog,
        )
        episodes.append(episode)
        record = _run(episode)
        credit_percent = _credit_percent(episode, record)
        provenance = {
            "server": "embedded" if is_embedded(client) else job.server_name,
            "junction_credit_percent": credit_percent,
            "server_version": client.get_server_version(),
            "client_version": wheel_version(),
            "cpu_per_game_s": meter.per_game_s(),
            "startup_s": round(time.monotonic() - started_s - record.duration_system_s, 3),
        }
    return replace(record, repetition=job.repetition, provenance={**record.provenance, **provenance})


def run_official_job(job: Job) -> RouteRecord:
    """Drive the job's route under an official evaluator, on a server of ours unless it starts one itself.

    Raises: as `run_job`, HarnessError.
    """
    started_s = time.monotonic()
    route = select_routes(read_routes(Path(job.routes)), ids=[job.route_id])[0]
    harness = find_harness(Path(job.official), Path(job.carla_root) if job.carla_root else None)
    server = None if harness.starts_server else _start_server(job, route)
    try:
        record = run_official(job, harness, server)
    finally:
        if server is not None:
            server.stop()
        job.path("status").unlink(missing_ok=True)
    startup_s = round(time.monotonic() - started_s - record.duration_system_s, 3)
    return replace(record, provenance={**record.provenance, "startup_s": startup_s})


def _settle_film(job: Job, record: RouteRecord) -> None:
    """Paint or drop the film; that this fails must not cost the verdict."""
    write_json_atomically(job.path("status"), {PAINTING: 1.0})
    try:
        settle_film(job.artefacts, job.route_id, wanted=job.film == "all" or not record.success)
    except (OSError, TraceError, FFmpegError) as error:
        logger.error("route %s: its film could not be painted: %s", job.route_id, error)
    job.path("status").unlink(missing_ok=True)


def _episode_config(job: Job) -> EpisodeConfig:
    embedded = job.embedded
    return EpisodeConfig(
        scoring=Scoring(job.scoring),
        traffic=job.traffic,
        seed=job.seed,
        agent_config=job.agent_config,
        embedded=embedded,
        worker=job.worker,
        max_game_s=job.max_game_s,
        reload=job.server is not None,
        timeout_s=EMBEDDED_TIMEOUT_S if embedded else CARLA_TIMEOUT_S,
    )


def _connect(job: Job, host: str, port: int, timeout_s: float) -> carla.Client:
    """As `connect`; our own server has just started, so if it does not answer it has died."""
    try:
        return connect(host, port, timeout_s)
    except ServerError as error:
        if job.embedded:
            raise ServerDiedError(str(error)) from error
        raise


def _hooks(job: Job, town: str, server_pid: int | None, recorders: contextlib.ExitStack) -> list[TickHook]:
    """What follows the drive; files are finished when `recorders` closes."""
    folder = job.artefacts
    trace = TraceRecorder()
    recorders.callback(trace.save, folder / "traces" / f"route_{job.route_id}.npz")
    story = RouteRecorder(folder, job.route_id, film=job.film)
    recorders.callback(story.close)
    motion = MotionRecorder(metrics_folder(Path(job.folder)) / save_name(job.route_id, town, job.seed))
    recorders.callback(motion.close)
    hooks: list[TickHook] = [_StatusWriter(job, server_pid), trace, story, motion]
    if job.record_cameras:
        cameras = CameraRecorder(recording_path(folder, job.route_id))
        recorders.callback(cameras.close)
        hooks.append(cameras)
    if job.view:
        hooks.append(_viewer(job))
    return hooks


def recording_path(folder: Path, route_id: str) -> Path:
    """Where a run keeps the camera recording of a route."""
    return folder / "cameras" / f"route_{route_id}.msgpack"


def _run(episode: Episode) -> RouteRecord:
    """As `Episode.run`, with bad weights told apart from an agent that merely fails to set up."""
    failure, message = None, ""
    try:
        episode.start()
        while episode.tick():
            pass
    except EpisodeError as error:
        cause = error.__cause__
        if cause is not None and any(kind.__name__ in SETUP_INPUT_ERRORS for kind in type(cause).__mro__):
            raise AgentLoadError(str(cause)) from error
        failure, message = error.failure, _one_line(error)
        print(f"error: route {episode.route.id}: {failure}: {message}", file=sys.stderr, flush=True)
    finally:
        episode.close()
    return replace(episode.record(failure), failure_message=message)


def _credit_percent(episode: Episode, record: RouteRecord) -> float | None:
    """Completion to exceed for Bench2Drive's credit for traffic signs; None where it cannot matter."""
    blocks = episode.route.scenarios
    if not blocks or TRAFFIC_SIGNS not in abilities_of(blocks[0].type) or record.success or not record.ticks:
        return None
    return round(episode_credit_percent(episode.carla_map, episode.route), 6)


class _StatusWriter:
    """A hook that tells the runner how far the route is."""

    def __init__(self, job: Job, server_pid: int | None) -> None:
        self._path = job.path("status")
        self._server_pid = server_pid
        self._next_s = 0.0
        self._started_s = time.monotonic()

    def __call__(self, episode: Episode, tick: Tick) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + STATUS_PERIOD_S
        status = {
            "completion_percent": episode.criteria.completion.percent,
            "length_m": episode.plan.length_m,
            "game_s": tick.ego.time_s,
            "speed_mps": tick.ego.speed_mps,
            "server_pid": self._server_pid,
            "wall_s": round(now_s - self._started_s, 3),
        }
        aside = self._path.with_suffix(".partial")
        aside.write_text(strict_json.dumps(status))
        aside.replace(self._path)


def _start_server(job: Job, route: Route) -> EmbeddedServer | RunningServer | CarlaServer | ContainerServer:
    """The server to drive on; one of our own is started but not waited for."""
    if job.server is not None:
        return RunningServer(job.server)
    log = job.path("log").with_suffix(".server.log")
    if not job.embedded:
        config = CarlaConfig(job.carla_root, job.carla_image, job.gpu, job.start_timeout_s)
        return CarlaServer(config, log) if job.carla_root else ContainerServer(config, log)
    town_dir = Path(job.town_dir) if job.town_dir else None
    embedded = EmbeddedServerConfig(
        town=route.town, town_dir=town_dir, threads=job.threads, startup_s=job.start_timeout_s
    )
    return EmbeddedServer(embedded, log=log, own_session=False)


def _input_filter(job: Job) -> InputFilter | None:
    if job.cameras == "black":
        return black_cameras
    if job.replay is not None:
        return ReplayedCameras(Path(job.replay))
    return None


def _viewer(job: Job) -> Any:

    return LiveView(Path(job.folder), job.worker)


def _save_frozen(job: Job, episode: Episode, message: str) -> None:
    """Keep what is known of a frozen route; called on the watchdog's thread just before the process ends."""
    agent = "agent" in message
    record = episode.record(FAILURE_AGENT if agent else FAILURE_SIMULATION)
    record = replace(record, repetition=job.repetition, failure_message=message)
    write_json_atomically(job.path("outcome"), {"record": record.to_json()})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _on_sigterm(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
