"""Many routes on several workers: one queue, one process group per route, one durable line per verdict.

A fresh process and a fresh simulator per route: a verdict then depends on no route before it, and a crash or a leak
costs the one route it happened on. The embedded server starts in a second, so nothing is gained by keeping one.
"""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from eval.agents import CONSTANT_THROTTLE
from eval.carla_server import STARTUP_S, docker_module, launcher
from eval.cluster import Cluster, ClusterJob
from eval.job import DISK_ERRORS, EXIT_BAD_INPUT, EXIT_DISK_FULL, Job, artefact_folder, recording_path
from eval.memory import CARLA_BYTES, EMBEDDED_BYTES, MemoryBudget, gib, usable_cores
from eval.metrics.junctions import town_file
from eval.official.harness import find_harness
from eval.progress import Progress, counted, print_table
from eval.recorder import FilmChoice
from eval.results import STATUS_SIMULATION_CRASHED, ResultsFolder, RouteRecord, append_line
from eval.routes import Route, read_routes, select_routes
from eval.scoring import Scoring
from eval.server import EMBEDDED_STARTUP_S, ServerDiedError, connect, parse_address
from eval.supervised import ROUTE_S, STALL_S, JobEnd, JobState, Limits, LocalJob, end_orphans
from eval.verdict import check_weights, make_record, reason, run_settings, server_kind
from eval.view import how_to_watch
from eval.work import Task, known_bad, longest_first, make_tasks

MAX_TRIES = 3
START_TRIES = 3
"""So many servers in a row that do not start, and none before that did, end the run: it is not the routes' fault."""
MAX_SEED = 2**31
"""CARLA's Traffic Manager takes no negative seed."""
POLL_S = 0.1
MEASURED_AFTER_S = 10.0
"""A worker's memory is known once it has driven for so long: pictures, maps and networks are loaded then."""
EXIT_OK, EXIT_INCOMPLETE, EXIT_DISK, EXIT_INTERRUPTED = 0, 1, 3, 130
EXIT_UNEXPECTED = 1  # of a job: Python ended it with a traceback
CARLA_TOWN = re.compile(r"Town\d+.*")
"""Names of CARLA's own towns, whose maps are files."""
DEFAULT_AGENT = "agent/entry.py"
DEFAULT_WEIGHTS = Path("weights/raw_refined/agent.yaml")


class InputError(ValueError):
    """Arguments that cannot be run; one line with the remedy."""


class JobError(RuntimeError):
    """The evaluation itself failed on a route; the log has the traceback."""


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or the terminal's end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Drive routes with an agent and score them."""

    routes: Path
    """Route file: leaderboard or Bench2Drive XML."""
    towns: str | None = None
    """Only routes of these towns, comma separated."""
    ids: str | None = None
    """Only routes with these ids, comma separated."""
    skip: str | None = None
    """Not the routes with these ids, comma separated."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns, or CARLA's Maps folder, for the embedded server."""
    agent: str = DEFAULT_AGENT
    """Agent file with get_entry_point(), or constant-throttle."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration file (it names the weights beside it)."""
    scoring: Annotated[Scoring, tyro.conf.EnumChoicesFromValues] = Scoring.BENCH2DRIVE
    """Whose rules: 2.0, 2.1 or bench2drive. With --official the checkout decides."""
    official: Path | None = None
    """Checkout of Bench2Drive, or of leaderboard 2.0 or 2.1 (with SCENARIO_RUNNER_ROOT): its evaluator drives."""
    server: str | None = None
    """HOST:PORT of a running CARLA; by default every route gets an embedded server of its own."""
    carla_root: Path | None = None
    """Folder of an installed CARLA: every route gets a CARLA of its own, started from there."""
    carla_image: str | None = None
    """Container image of CARLA: every route gets a container of its own."""
    gpus: str | None = None
    """Graphics adapters for the CARLAs that are started, comma separated; the workers share them."""
    ray: str | None = None
    """Address of a Ray cluster (or auto): the routes are driven on its nodes."""
    ray_gpus: float = 0.0
    """Share of a GPU that each worker on the cluster gets."""
    workers: int | Literal["auto"] = 1
    """Routes driven at the same time; auto: as many as cores and memory carry. Never more than memory carries."""
    threads: int = 2
    """Threads of each embedded server's renderer and of each agent's network."""
    out: Path | None = None
    """Results folder (default: runs/eval-DATE-TIME). A run that was interrupted goes on where it stopped."""
    traffic: int = 15
    """Background vehicles."""
    seed: int = 0
    """Seed of the traffic in the first repetition; every further one counts it up."""
    repetitions: int = 1
    """How often each route is driven, each time with another seed."""
    cameras: Literal["normal", "black", "other-episode"] = "normal"
    """What the agent sees: its cameras, black ones, or those of another route (see --cameras-from)."""
    cameras_from: Path | None = None
    """Folder of a run made with --record-cameras; each route is shown the route before it in the file."""
    record_cameras: bool = False
    """Keep the camera images of every route in the results folder."""
    film: FilmChoice = "failed"
    """Films (six cameras, bird's-eye view, action): of all routes, of those that do not succeed, or none."""
    view: bool = False
    """Show the drive live."""
    max_game_s: float | None = None
    """End every route after this many seconds of game time."""
    start_timeout_s: float | None = None
    """How long a server may take to become ready (default: 240 s embedded, 300 s CARLA)."""
    stall_s: float = STALL_S
    """A route without progress for this long is ended."""
    max_wall_s: float = ROUTE_S
    """A route that takes longer than this is ended."""

    @property
    def embedded(self) -> bool:
        """Whether routes are driven on embedded servers."""
        return server_kind(self) == "embedded"

    @property
    def gpu_list(self) -> list[int]:
        """The graphics adapters. Raises: InputError."""
        try:
            return [int(gpu) for gpu in self.gpus.split(",")] if self.gpus else []
        except ValueError:
            raise InputError(f"--gpus {self.gpus}: expected numbers such as 0,1") from None


@dataclass(slots=True)
class _Running:
    task: Task
    tries: int
    handle: LocalJob | ClusterJob
    state: JobState = field(default_factory=JobState)


def run(config: RunConfig) -> int:
    """Drive all chosen routes; returns the exit code.

    Raises: InputError, RouteFileError, ResultsError, ServerError for input that cannot be run, JobError,
    ServerDiedError if servers do not start.
    """
    config = _with_official_rules(config)
    routes = _chosen_routes(config)
    _check(config)
    _check_towns(config, routes)
    out = config.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    results = ResultsFolder(out, run_settings(config))
    try:
        return _run_in(results, config, routes)
    finally:
        results.close()


def _run_in(results: ResultsFolder, config: RunConfig, routes: Sequence[Route]) -> int:
    out = results.folder
    orphans = end_orphans(out)
    if orphans:
        print(f"ended {counted(orphans, 'process group')} that an earlier runner had left behind", file=sys.stderr)
    tasks = make_tasks(routes, config.repetitions)
    pending = [task for task in tasks if not _is_decided(results, task)]
    _announce(config, tasks, pending, out)
    order = [task.key for task in tasks]
    campaign = _Campaign(config, routes, pending, results, order)
    try:
        if pending:
            campaign.drive()
        results.write_summary(order)
    except Interrupted as interrupt:
        _summarise(results, order)
        print(f"interrupted; finished routes are kept, the same command with --out {out} goes on", file=sys.stderr)
        return interrupt.exit_code
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(
            f"error: {error.filename or out}: {error.strerror}; finished routes are kept, make room and "
            f"the same command with --out {out} goes on",
            file=sys.stderr,
        )
        return EXIT_DISK
    records = [results.records[key] for key in order if key in results.records]
    if not records and campaign.refused:
        raise InputError("; ".join(campaign.refused.values()))
    print_table(records)
    _print_infrastructure(records, campaign)
    print(f"written to {out / 'results.json'}; for the report: python -m eval report {out}")
    if campaign.refused:
        for message in campaign.refused.values():
            print(f"error: {message}; it is missing in every mean", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_OK if all(record.decided for record in records) else EXIT_INCOMPLETE


def _is_decided(results: ResultsFolder, task: Task) -> bool:
    record = results.records.get(task.key)
    return record is not None and record.decided


def _summarise(results: ResultsFolder, order: Sequence[tuple[str, int]]) -> None:
    """The derived file, if the disk lets us; the journal has all that matters."""
    try:
        results.write_summary(order)
    except OSError as error:
        print(f"results.json could not be written ({error.strerror})", file=sys.stderr)


def _chosen_routes(config: RunConfig) -> list[Route]:
    towns = config.towns.split(",") if config.towns else None
    ids = config.ids.split(",") if config.ids else None
    chosen = select_routes(read_routes(config.routes), towns=towns, ids=ids)
    skipped = _skipped(config)
    unknown = sorted(skipped - {route.id for route in chosen})
    if unknown:
        raise InputError(f"--skip {','.join(unknown)}: no such route among the chosen ones")
    left = [route for route in chosen if route.id not in skipped]
    if not left:
        raise InputError("--skip leaves no route to drive")
    return left


def _with_official_rules(config: RunConfig) -> RunConfig:
    """The configuration with the rules of the official checkout. Raises: HarnessError, InputError."""
    if config.official is None:
        return config
    harness = find_harness(config.official, config.carla_root)
    ours_alone = ("ray", "cameras_from", "record_cameras", "view", "max_game_s")
    refused = [name for name in ours_alone if getattr(config, name)]
    refused += ["cameras"] if config.cameras != "normal" else []
    refused += [name for name in ("server", "carla_image") if harness.starts_server and getattr(config, name)]
    if refused:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise InputError(f"{given}: not with the evaluator of {harness.name}; leave it out")
    if config.agent == CONSTANT_THROTTLE:
        raise InputError(f"--agent {CONSTANT_THROTTLE}: an official evaluator needs a Python file")
    print(f"official evaluator: {harness.name}, {harness.leaderboard}; no films, traffic as it decides")
    return replace(config, scoring=harness.scoring, film="none")


def _skipped(config: RunConfig) -> set[str]:
    return set(config.skip.split(",")) if config.skip else set()


def _check(config: RunConfig) -> None:
    """Find out before anything is started what cannot work."""
    if config.agent != CONSTANT_THROTTLE:
        if not Path(config.agent).is_file():
            raise InputError(f"--agent {config.agent}: no such file; give a Python file or {CONSTANT_THROTTLE}")
        if Path(config.agent).suffix != ".py":
            raise InputError(f"--agent {config.agent}: is no Python file; give one with get_entry_point()")
        if not config.weights.is_file():
            raise InputError(f"--weights {config.weights}: no such file; give the agent's configuration (agent.yaml)")
        if config.agent == DEFAULT_AGENT:
            check_weights(config.weights)
    if config.town_dir is not None and not config.town_dir.is_dir():
        raise InputError(f"--town-dir {config.town_dir}: no such folder")
    for name in ("max_game_s", "start_timeout_s", "stall_s", "max_wall_s"):
        value = getattr(config, name)
        if value is not None and not value > 0.0:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be more than 0 seconds")
    if (config.workers != "auto" and config.workers < 1) or config.traffic < 0 or config.threads < 1:
        raise InputError("--workers and --threads must be at least 1, --traffic at least 0")
    if config.repetitions < 1:
        raise InputError("--repetitions must be at least 1")
    if not 0 <= config.seed < MAX_SEED:
        raise InputError(f"--seed {config.seed}: must be at least 0 and less than {MAX_SEED}")
    if (config.cameras == "other-episode") != (config.cameras_from is not None):
        raise InputError("--cameras other-episode and --cameras-from RUN go together")
    if config.cameras_from is not None and not config.cameras_from.is_dir():
        raise InputError(f"--cameras-from {config.cameras_from}: no such folder; give a run made with --record-cameras")
    _check_server(config)


def _check_towns(config: RunConfig, routes: Sequence[Route]) -> None:
    """A map of CARLA's that is missing is told now, not when its first route's turn comes."""
    if not config.embedded or config.ray is not None:
        return
    towns = sorted({route.town for route in routes if CARLA_TOWN.fullmatch(route.town)})
    missing = [town for town in towns if config.town_dir is None or town_file(town, config.town_dir) is None]
    if missing:
        there = [town for town in towns if town not in missing]
        others = f", or drive the others with --towns {','.join(there)}" if there else ""
        raise InputError(
            f"--town-dir {config.town_dir or 'not given'}: no map of {', '.join(missing)}; give the folder with these "
            f".xodr files, or CARLA's Maps folder{others}"
        )


def _check_server(config: RunConfig) -> None:
    given = [f"--{name.replace('_', '-')}" for name in ("server", "carla_root", "carla_image") if getattr(config, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: choose one")
    if config.gpu_list and not (config.carla_root or config.carla_image):
        raise InputError("--gpus is for the CARLAs that are started: give --carla-root or --carla-image")
    if any(gpu < 0 for gpu in config.gpu_list):
        raise InputError(f"--gpus {config.gpus}: adapters are counted from 0")
    if config.ray_gpus and config.ray is None:
        raise InputError("--ray-gpus is for workers on a cluster: give --ray ADDRESS")
    if not 0.0 <= config.ray_gpus < math.inf:
        raise InputError(f"--ray-gpus {config.ray_gpus}: must be a share of a GPU, at least 0")
    if config.carla_root is not None and config.ray is None:
        launcher(config.carla_root)
    if config.carla_image is not None and config.ray is None:
        docker_module()
    if config.server is not None:
        if config.workers not in (1, "auto"):
            raise InputError("a running CARLA drives one route at a time: use --workers 1 with --server")
        connect(*parse_address(config.server), timeout_s=20.0)


def _announce(config: RunConfig, tasks: Sequence[Task], pending: Sequence[Task], out: Path) -> None:
    routes = [task.route for task in tasks if task.repetition == 0]
    towns = ", ".join(sorted({route.town for route in routes}))
    times = f", {config.repetitions} times each" if config.repetitions > 1 else ""
    print(
        f"{counted(len(routes), 'route')} in {towns}{times}; agent {config.agent}; "
        f"{config.traffic} vehicles of traffic; results in {out}"
    )
    blocks = sum(len(route.scenarios) for route in routes)
    if blocks:
        print(f"{counted(blocks, 'scenario')} to play")
    if config.skip:
        print(f"skipped, and missing in every mean: {config.skip}")
    if not config.embedded:
        for line in known_bad(routes, _skipped(config)):
            print(f"known for trouble: {line}")
    if len(pending) < len(tasks):
        kept = len(tasks) - len(pending)
        print(f"{counted(kept, 'route')} {'is' if kept == 1 else 'are'} already in {out}: kept")
    if config.view:
        print(how_to_watch(out))
    sys.stdout.flush()


def _print_infrastructure(records: Sequence[RouteRecord], campaign: _Campaign) -> None:
    """What was the simulation's fault, apart from the verdicts on the agent."""
    if campaign.crashes:
        print(f"the simulation crashed {counted(campaign.crashes, 'time')}; those routes were driven again")
    if campaign.budget.peak_bytes:
        print(f"memory: at most {gib(campaign.budget.peak_bytes)} per worker, {campaign.most_at_once} at the same time")
    undecided = [record for record in records if not record.decided]
    if not undecided:
        return
    decided = [record.scores.score_composed for record in records if record.decided]
    without = f"{sum(decided) / len(decided):.2f}" if decided else "unknown"
    print(
        f"without a verdict, because the simulation crashed {MAX_TRIES} times: "
        f"{', '.join(record.label for record in undecided)}; they count 0 above, without them the driving score is "
        f"{without}; the same command drives them again"
    )


class _Campaign:
    """The queue, the workers, and what becomes of each job."""

    def __init__(
        self,
        config: RunConfig,
        routes: Sequence[Route],
        pending: Sequence[Task],
        results: ResultsFolder,
        order: Sequence[tuple[str, int]],
    ) -> None:
        self.config = config
        self.crashes = 0
        self.refused: dict[str, str] = {}
        """Why routes that do not fit their map were left out, by id."""
        self.most_at_once = 0
        self.budget = MemoryBudget(EMBEDDED_BYTES if config.embedded else CARLA_BYTES)
        self._measured = False
        self._routes = routes
        self._pending = pending
        self._results = results
        self._order = order
        self._queue = deque((task, 1) for task in longest_first(pending))
        self._running: dict[int, _Running] = {}
        self._drove = False
        self._failed_starts = 0
        self._cluster: Cluster | None = None
        self._workers = 1
        self._waits_for_memory = False

    def drive(self) -> None:
        """Work the queue off. Raises: Interrupted, InputError, JobError, ServerDiedError, OSError."""
        if self.config.ray is not None:
            self._cluster = Cluster(self.config.ray, self.config.threads, self.config.ray_gpus)
        self._workers = self._worker_count()
        lengths_m = {task.label: task.route.keypoint_length_m for task in self._pending}
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which nohup sets
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, _interrupt) for number in numbers}
        try:
            with Progress(lengths_m, self._workers, max_game_s=self.config.max_game_s) as progress:
                while self._queue or self._running:
                    self._start_workers(progress)
                    self._collect(progress)
                    progress.update({item.task.label: item.state.status for item in self._running.values()})
                    time.sleep(POLL_S)
        finally:
            for number in before:
                signal.signal(number, signal.SIG_IGN)  # impatience must not leave processes behind
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _worker_count(self) -> int:
        if self.config.workers != "auto":
            return self.config.workers
        if self.config.server is not None:
            return 1
        if self._cluster is not None:
            return max(1, self._cluster.slots())
        by_cores = max(1, usable_cores() // self.config.threads)
        return max(by_cores, len(self.config.gpu_list))

    def _start_workers(self, progress: Progress) -> None:
        for worker in range(self._workers):
            if not self._queue:
                return
            if worker in self._running:
                continue
            if self._cluster is None and not self._fits(progress):
                return
            task, tries = self._queue.popleft()
            job = self._make_job(task, worker)
            limits = Limits(stall_s=self.config.stall_s, route_s=self.config.max_wall_s)
            handle = self._cluster.start(job, limits) if self._cluster else LocalJob(job, limits)
            self._running[worker] = _Running(task, tries, handle)
            self.most_at_once = max(self.most_at_once, len(self._running))

    def _fits(self, progress: Progress) -> bool:
        used = {worker: item.state.memory_bytes for worker, item in self._running.items()}
        fits = self.budget.admits(used, measured=self._measured)
        if not fits and not self._waits_for_memory:
            need = self.budget.worker_bytes(measured=self._measured)
            progress.message(
                f"{counted(len(used), 'worker')} of {self._workers} at work: another may need {gib(need)}, "
                f"{gib(self.budget.available_bytes())} are free now"
            )
        self._waits_for_memory = not fits
        return fits

    def _collect(self, progress: Progress) -> None:
        for worker, item in list(self._running.items()):
            item.state = item.handle.poll()
            self.budget.observe(item.state.memory_bytes)
            self._drove = self._drove or bool(item.state.status)
            self._measured = self._measured or item.state.status.get("wall_s", 0.0) >= MEASURED_AFTER_S
            if not item.state.over:
                continue
            end = item.handle.finish()
            del self._running[worker]
            self._settle(item, end, progress)

    def _settle(self, item: _Running, end: JobEnd, progress: Progress) -> None:
        """Record the verdict of an ended job, or queue its route again."""
        task, config = item.task, self.config
        self.budget.observe(end.peak_memory_bytes)
        self._measured = self._measured or "record" in end.outcome
        if "bad_route" in end.outcome and not end.cut_off:
            self._refuse(task.route, end.outcome["bad_route"], progress)
            return
        _raise_if_pointless(end, task, item.handle.job)
        record = make_record(end, task, item.tries, config)
        if record.status == STATUS_SIMULATION_CRASHED:
            self._note_crash(task, item.tries, end, record)
            if item.tries < MAX_TRIES:
                progress.message(
                    f"route {task.label}: the simulation crashed, try {item.tries + 1} of {MAX_TRIES} follows: "
                    f"{record.failure_message}"
                )
                self._queue.append((task, item.tries + 1))
                return
        self._results.append(record)
        self._results.write_summary(self._order)
        progress.finished(record)

    def _refuse(self, route: Route, why: str, progress: Progress) -> None:
        """Leave out a route that does not fit its map, in every repetition; the others can be driven."""
        if route.id in self.refused:
            return
        self.refused[route.id] = why
        self._queue = deque((task, tries) for task, tries in self._queue if task.route.id != route.id)
        progress.left_out([task.label for task in self._pending if task.route.id == route.id])
        progress.message(f"left out: {why}")

    def _note_crash(self, task: Task, tries: int, end: JobEnd, record: RouteRecord) -> None:
        """Keep infrastructure crashes apart from verdicts. Raises: ServerDiedError if no server ever starts."""
        self.crashes += 1
        crash = {
            "format": 1,
            "route_id": task.route.id,
            "repetition": task.repetition,
            "try": tries,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "exit_code": end.exit_code,
            "cut_off": end.cut_off,
            "reason": record.failure_message or reason(end),
        }
        append_line(self._results.folder / "crashes.jsonl", crash)
        self._failed_starts = self._failed_starts + 1 if "server_died" in end.outcome else 0
        if not self._drove and self._failed_starts >= START_TRIES:
            raise ServerDiedError(f"{START_TRIES} servers in a row did not start: {end.outcome['server_died']}")

    def _make_job(self, task: Task, worker: int) -> Job:
        config, out = self.config, self._results.folder
        replay = None
        if config.cameras_from is not None:
            index = next(i for i, other in enumerate(self._routes) if other.id == task.route.id)
            shown = artefact_folder(config.cameras_from, task.repetition)
            replay = str(recording_path(shown, self._routes[index - 1].id))
        gpus = config.gpu_list
        default_s = EMBEDDED_STARTUP_S if config.embedded else STARTUP_S
        return Job(
            routes=str(config.routes),
            route_id=task.route.id,
            agent=config.agent,
            agent_config=str(config.weights),
            scoring=config.scoring.value,
            traffic=config.traffic,
            seed=config.seed + task.repetition,
            worker=worker,
            folder=str(out),
            parent_pid=os.getpid(),
            server=config.server,
            carla_root=str(config.carla_root or ""),
            carla_image=config.carla_image or "",
            gpu=gpus[worker % len(gpus)] if gpus else None,
            start_timeout_s=config.start_timeout_s or default_s,
            repetition=task.repetition,
            town_dir=str(config.town_dir) if config.town_dir else None,
            threads=config.threads,
            cameras=config.cameras,
            replay=replay,
            record_cameras=config.record_cameras,
            film=config.film,
            view=config.view,
            max_game_s=config.max_game_s,
            official=str(config.official or ""),
        )

    def _end_all(self) -> None:
        handles = [item.handle for item in self._running.values()]
        for handle in handles:
            handle.ask_to_end()
        for handle in handles:
            handle.end()
        if self._cluster is not None:
            self._cluster.close()


def _raise_if_pointless(end: JobEnd, task: Task, job: Job) -> None:
    """Stop the run for what no retry mends. Raises: InputError, JobError, OSError (disk full)."""
    if end.cut_off:
        return
    if "bad_input" in end.outcome or end.exit_code == EXIT_BAD_INPUT:
        raise InputError(end.outcome.get("bad_input") or end.last_words)
    if end.exit_code == EXIT_DISK_FULL:
        raise OSError(errno.ENOSPC, end.last_words, job.folder)
    if end.exit_code == EXIT_UNEXPECTED:  # an error of the evaluation itself must not pass for a verdict
        raise JobError(f"route {task.label}: the evaluation failed: {end.last_words} (see {job.path('log')})")


def _interrupt(number: int, frame: Any) -> None:
    raise Interrupted(number)
