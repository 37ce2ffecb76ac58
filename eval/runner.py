"""Many routes on several workers: one queue, one process per route, one durable line per result."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro
import yaml

from agent.checkpoint import load_checkpoint
from agent.driver import AgentConfig
from eval.agents import CONSTANT_THROTTLE
from eval.job import EXIT_BAD_INPUT, Job, recording_path
from eval.progress import Progress, counted, print_table
from eval.results import (
    STATUS_AGENT_CRASHED,
    STATUS_SIMULATION_CRASHED,
    ResultsFolder,
    RouteRecord,
    judge,
)
from eval.routes import Route, file_sha256, read_routes, select_routes
from eval.scoring import Scoring
from eval.server import connect, parse_address
from eval.view import how_to_watch
from eval.watchdog import EXIT_AGENT_FROZEN

MAX_TRIES = 3
STALL_S = 600.0
"""A job that has not shown progress for this long is ended, whatever holds it."""
DEAD_SERVER_S = 3.0
"""A job notices the death of its server by itself, unless a client call holds it up."""
POLL_S = 0.1
TERMINATE_S = 5.0
EXIT_OK, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 0, 1, 130
EXIT_UNEXPECTED = 1  # of a job: Python ended it with a traceback
DEFAULT_AGENT = "agent/entry.py"
DEFAULT_WEIGHTS = Path("weights/raw_clone/agent.yaml")


class InputError(ValueError):
    """Arguments that cannot be run; one line with the remedy."""


class JobError(RuntimeError):
    """The evaluation itself failed on a route; the log has the traceback."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Drive routes with an agent and score them."""

    routes: Path
    """Route file: leaderboard or Bench2Drive XML."""
    towns: str | None = None
    """Only routes of these towns, comma separated."""
    ids: str | None = None
    """Only routes with these ids, comma separated."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns, for the embedded server."""
    agent: str = DEFAULT_AGENT
    """Agent file with get_entry_point(), or constant-throttle."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration file (it names the weights beside it)."""
    scoring: Annotated[Scoring, tyro.conf.EnumChoicesFromValues] = Scoring.BENCH2DRIVE
    """Whose rules: 2.0, 2.1 or bench2drive."""
    server: str | None = None
    """HOST:PORT of a running CARLA; by default every route gets an embedded server of its own."""
    workers: int = 1
    """Routes driven at the same time."""
    threads: int = 2
    """Threads of each embedded server's renderer and of each agent's network."""
    out: Path | None = None
    """Results folder (default: runs/eval-DATE-TIME). A run that was interrupted goes on where it stopped."""
    traffic: int = 15
    """Background vehicles."""
    seed: int = 0
    """Seed of the traffic."""
    cameras: Literal["normal", "black", "other-episode"] = "normal"
    """What the agent sees: its cameras, black ones, or those of another route (see --cameras-from)."""
    cameras_from: Path | None = None
    """Folder of a run made with --record-cameras; each route is shown the route before it in the file."""
    record_cameras: bool = False
    """Keep the camera images of every route in the results folder."""
    film: bool = False
    """Film every route: six cameras, bird's-eye view, action."""
    view: bool = False
    """Show the drive live."""
    max_game_s: float | None = None
    """End every route after this many seconds of game time."""


@dataclass(slots=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    tries: int
    seen_s: float = field(default_factory=time.monotonic)
    server_alive_s: float = field(default_factory=time.monotonic)
    status: Mapping[str, float] = field(default_factory=dict)
    cut_off: bool = False
    """Ended by the runner, because it stalled or its server died."""


def run(config: RunConfig) -> int:
    """Drive all chosen routes; returns the exit code.

    Raises: InputError, RouteFileError, ResultsError, ServerError for input that cannot be run.
    """
    routes = _chosen_routes(config)
    _check(config)
    out = config.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    results = ResultsFolder(out, run_key(config))
    order = [route.id for route in routes]
    pending = [route for route in routes if route.id not in results.records]
    _announce(config, routes, pending, out)
    if pending:
        try:
            _drive_all(config, out, routes, pending, results)
        except Interrupted:
            results.write_summary(order)
            print(f"interrupted; finished routes are kept, the same command with --out {out} goes on", file=sys.stderr)
            return EXIT_INTERRUPTED
    results.write_summary(order)
    records = [results.records[route_id] for route_id in order if route_id in results.records]
    print_table(records)
    print(f"written to {out / 'results.json'}")
    crashed = any(record.status == STATUS_SIMULATION_CRASHED for record in records)
    return EXIT_INCOMPLETE if crashed else EXIT_OK


def run_key(config: RunConfig) -> str:
    """Hash of everything that must be equal for two results to stand in one file."""
    parts = {
        "routes": file_sha256(config.routes),
        "agent": config.agent,
        "weights": None if config.agent == CONSTANT_THROTTLE else weights_sha256(config.weights),
        "scoring": config.scoring.value,
        "server": config.server or "embedded",
        "traffic": config.traffic,
        "seed": config.seed,
        "cameras": config.cameras,
        "max_game_s": config.max_game_s,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_sha256(config_file: Path) -> str:
    """Hash of an agent's configuration together with its checkpoint's manifest, which holds the weights' hashes."""
    text = config_file.read_bytes()
    digest = hashlib.sha256(text)
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # an agent of someone else's may keep anything in its file
        settings = None
    checkpoint = settings.get("checkpoint", ".") if isinstance(settings, dict) else "."
    manifest = config_file.parent / str(checkpoint) / "manifest.json"
    if manifest.is_file():
        digest.update(manifest.read_bytes())
    return digest.hexdigest()


def check_weights(config_file: Path) -> None:
    """Read the configuration of our agent and its checkpoint. Raises: ConfigError, CheckpointError."""
    load_checkpoint(config_file.parent / AgentConfig.read(config_file).checkpoint)


def _chosen_routes(config: RunConfig) -> list[Route]:
    towns = config.towns.split(",") if config.towns else None
    ids = config.ids.split(",") if config.ids else None
    return select_routes(read_routes(config.routes), towns=towns, ids=ids)


def _check(config: RunConfig) -> None:
    """Find out before anything is started what cannot work."""
    if config.agent != CONSTANT_THROTTLE:
        if not Path(config.agent).is_file():
            raise InputError(f"--agent {config.agent}: no such file; give a Python file or {CONSTANT_THROTTLE}")
        if not config.weights.is_file():
            raise InputError(f"--weights {config.weights}: no such file; give the agent's configuration (agent.yaml)")
        if config.agent == DEFAULT_AGENT:
            check_weights(config.weights)
    if config.town_dir is not None and not config.town_dir.is_dir():
        raise InputError(f"--town-dir {config.town_dir}: no such folder")
    if config.max_game_s is not None and not config.max_game_s > 0.0:
        raise InputError(f"--max-game-s {config.max_game_s}: must be more than 0 seconds")
    if config.workers < 1 or config.traffic < 0 or config.threads < 1:
        raise InputError("--workers and --threads must be at least 1, --traffic at least 0")
    if (config.cameras == "other-episode") != (config.cameras_from is not None):
        raise InputError("--cameras other-episode and --cameras-from RUN go together")
    if config.server is not None:
        if config.workers > 1:
            raise InputError("a running CARLA drives one route at a time: use --workers 1 with --server")
        connect(*parse_address(config.server), timeout_s=20.0)


def _announce(config: RunConfig, routes: Sequence[Route], pending: Sequence[Route], out: Path) -> None:
    towns = ", ".join(sorted({route.town for route in routes}))
    print(
        f"{counted(len(routes), 'route')} in {towns}; agent {config.agent}; "
        f"{config.traffic} vehicles of traffic; results in {out}"
    )
    blocks = sum(len(route.scenarios) for route in routes)
    if blocks:
        print(f"{counted(blocks, 'scenario')} to play")
    if len(pending) < len(routes):
        kept = len(routes) - len(pending)
        print(f"{counted(kept, 'route')} {'is' if kept == 1 else 'are'} already in {out}: kept")
    if config.view:
        print(how_to_watch(out))
    sys.stdout.flush()


def _drive_all(
    config: RunConfig, out: Path, routes: Sequence[Route], pending: Sequence[Route], results: ResultsFolder
) -> None:
    order = [route.id for route in routes]
    queue = deque((route, 1) for route in pending)
    running: dict[int, _Running] = {}
    (out / "jobs").mkdir(exist_ok=True)
    lengths_m = {route.id: route.keypoint_length_m for route in pending}
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress(lengths_m, config.workers, max_game_s=config.max_game_s) as progress:
            while queue or running:
                for worker in range(config.workers):
                    if worker not in running and queue:
                        route, tries = queue.popleft()
                        running[worker] = _start(_make_job(config, out, routes, route, worker), tries)
                for worker, item in list(running.items()):
                    if not _is_over(item):
                        continue
                    del running[worker]
                    route = next(route for route in routes if route.id == item.job.route_id)
                    record = _outcome(item, route, config)
                    if record.status == STATUS_SIMULATION_CRASHED and item.tries < MAX_TRIES:
                        progress.message(
                            f"route {route.id}: the simulation crashed, try {item.tries + 1} of {MAX_TRIES}"
                        )
                        queue.append((route, item.tries + 1))
                        continue
                    results.append(record)
                    results.write_summary(order)
                    progress.finished(record)
                progress.update({item.job.route_id: item.status for item in running.values()})
                time.sleep(POLL_S)
    finally:
        _end_all(list(running.values()))
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_job(config: RunConfig, out: Path, routes: Sequence[Route], route: Route, worker: int) -> Job:
    replay = None
    if config.cameras_from is not None:
        index = next(i for i, other in enumerate(routes) if other.id == route.id)
        replay = str(recording_path(config.cameras_from, routes[index - 1].id))
    return Job(
        routes=str(config.routes),
        route_id=route.id,
        agent=config.agent,
        agent_config=str(config.weights),
        scoring=config.scoring.value,
        traffic=config.traffic,
        seed=config.seed,
        worker=worker,
        folder=str(out),
        parent_pid=os.getpid(),
        server=config.server,
        town_dir=str(config.town_dir) if config.town_dir else None,
        threads=config.threads,
        cameras=config.cameras,
        replay=replay,
        record_cameras=config.record_cameras,
        film=config.film,
        view=config.view,
        max_game_s=config.max_game_s,
    )


def _start(job: Job, tries: int) -> _Running:
    for kind in ("status", "outcome"):
        job.path(kind).unlink(missing_ok=True)
    job.save(job.path("job"))
    with job.path("log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "eval.job", str(job.path("job"))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which ends its jobs in order
            # More spinning threads of the network than cores slow everything down, several workers most of all.
            env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
        )
    return _Running(job, process, tries)


def _is_over(item: _Running) -> bool:
    """Whether the job's process has ended; one that stalls is ended."""
    if item.process.poll() is not None:
        return True
    now_s = time.monotonic()
    status = _read_status(item.job.path("status"))
    if status != item.status:
        item.status, item.seen_s = status, now_s
    if not _server_is_dead(status.get("server_pid")):
        item.server_alive_s = now_s
    stalled = now_s - item.seen_s > STALL_S
    if not stalled and now_s - item.server_alive_s < DEAD_SERVER_S:
        return False
    item.cut_off = True  # a client call to a dead server can hold the interpreter until its time-out
    if stalled:
        item.process.send_signal(signal.SIGUSR1)  # it writes its stacks to the log
        time.sleep(1.0)
    _end_all([item])
    return True


def _read_status(path: Path) -> Mapping[str, float]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def _server_is_dead(pid: float | None) -> bool:
    """Whether the process is gone, or dead and not yet collected by its parent."""
    if pid is None:
        return False
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def _outcome(item: _Running, route: Route, config: RunConfig) -> RouteRecord:
    """The record of an ended job. Raises: InputError if the job found its input to be bad."""
    path = item.job.path("outcome")
    outcome = json.loads(path.read_text()) if path.exists() else {}
    code = item.process.returncode
    if not item.cut_off and ("bad_input" in outcome or code == EXIT_BAD_INPUT):
        raise InputError(outcome.get("bad_input") or _last_line(item.job.path("log")))
    if code == EXIT_UNEXPECTED and not item.cut_off:  # an error of the evaluation itself must not pass for a verdict
        log = item.job.path("log")
        raise JobError(f"route {route.id}: the evaluation failed: {_last_line(log)} (see {log})")
    if "record" in outcome:
        return _with_provenance(RouteRecord.from_json(outcome["record"]), item, config)
    # The kernel kills what eats the memory: the agent's fault, not tried again.
    agent_died = not item.cut_off and code in (EXIT_AGENT_FROZEN, -signal.SIGKILL)
    failure = STATUS_AGENT_CRASHED if agent_died else STATUS_SIMULATION_CRASHED
    verdict = judge(0.0, (), config.scoring, failure.removeprefix("Failed - "))
    record = RouteRecord(
        route_id=route.id,
        town=route.town,
        scoring=config.scoring,
        **verdict,
        route_length_m=route.keypoint_length_m,
        duration_game_s=float(item.status.get("game_s", 0.0)),
        duration_system_s=0.0,
        ticks=0,
        seed=config.seed,
        traffic=config.traffic,
        provenance={"exit_code": code},
        failure_message=f"exit code {code}; last words: {_last_line(item.job.path('log'))}",
    )
    return _with_provenance(record, item, config)


def _with_provenance(record: RouteRecord, item: _Running, config: RunConfig) -> RouteRecord:
    data = record.to_json()
    data["provenance"] = {
        **record.provenance,
        "tries": item.tries,
        "route_file": config.routes.name,
        "route_file_sha256": file_sha256(config.routes),
        "agent": config.agent,
        "cameras": config.cameras,
        "agent_config_sha256": None if config.agent == CONSTANT_THROTTLE else file_sha256(config.weights),
        "weights_sha256": None if config.agent == CONSTANT_THROTTLE else weights_sha256(config.weights),
    }
    return RouteRecord.from_json(data)


def _end_all(items: Sequence[_Running]) -> None:
    """End the jobs' processes, which end their servers."""
    for item in items:
        if item.process.poll() is None:
            item.process.terminate()
    deadline_s = time.monotonic() + TERMINATE_S
    for item in items:
        try:
            item.process.wait(max(deadline_s - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            item.process.kill()  # its server notices and ends by itself
            item.process.wait()


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1] if lines else "no output"
