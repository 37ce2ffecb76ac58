"""Drives every route with every driver, as often as there are seeds, and keeps each verdict at once.

The output folder holds for every driver a folder that is a run for `python -m eval` (results.jsonl, results.json), and
`summary.json` and `summary.md` over all of them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.criteria import TICK_S
from eval.episode import FAILURE_SIMULATION, Episode, EpisodeConfig
from eval.metrics.junctions import town_file
from eval.planner import RoutePlanner
from eval.progress import Progress, counted
from eval.results import ResultsFolder, RouteRecord, judge, write_json_atomically
from eval.routes import Route, file_sha256, read_routes
from eval.runner import CARLA_TOWN
from eval.scoring import Scoring
from eval.server import EmbeddedServer, EmbeddedServerConfig, ServerDiedError, connect
from eval.watchdog import Watchdog
from training.drive import drive
from training.evaluation.drivers import Candidate, DriverError, candidates, make_driver
from training.evaluation.summary import markdown, summarised
from training.workers import Reporter, Told, work_through

ROUTES = Path(__file__).parents[1] / "privileged" / "real_towns_100.xml"
SCORING = Scoring.BENCH2DRIVE
SERVER = "embedded"
PIECES_PER_WORKER = 4
"""The work is cut so that all workers end at about the same time."""
MIN_PIECE = 8
"""But not finer than this: each piece costs the start of a server."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is driven, and by whom."""

    drivers: tuple[str, ...]
    """expert, blind, or NAME=FOLDER with a checkpoint."""
    routes: Path = ROUTES
    town_dir: Path | None = None
    sampled: bool = False
    """Also drive with the policies' sampled actions."""
    baseline: str = ""
    """Name of the driver that the others are compared with; the first one if empty."""
    seeds: int = 1
    """Drives of each route by each driver, with other traffic each time."""
    seed: int = 0
    """The first."""
    traffic: int = 15
    """Background vehicles."""
    workers: int = 2
    max_game_s: float | None = None
    """End every drive after this game time, for trials; None: at the benchmark's verdict."""

    def __post_init__(self) -> None:
        if min(self.seeds, self.workers) < 1 or self.traffic < 0:
            raise ValueError(
                f"--seeds and --workers must be at least 1 and --traffic at least 0, got {self.seeds}, {self.workers}, "
                f"{self.traffic}"
            )
        if self.max_game_s is not None and not self.max_game_s > 0.0:
            raise ValueError(f"--max-game-s must be positive, got {self.max_game_s}")


@dataclass(frozen=True, slots=True)
class Task:
    """One drive."""

    candidate: Candidate
    route: Route
    repetition: int

    @property
    def key(self) -> tuple[str, int]:
        """As `RouteRecord.key`."""
        return self.route.id, self.repetition

    @property
    def label(self) -> str:
        """What messages call it."""
        return _label(self.candidate, self.route.id, self.repetition)


def evaluate(config: EvaluationConfig, out: Path) -> dict[str, Any]:
    """Drive what has not been driven yet and write all files; gives the content of `summary.json`.

    Raises: DriverError, CheckpointError, ConfigError, RouteFileError, ResultsError, RefusedError for bad input.
    """
    routes = read_routes(config.routes)
    towns_sha256 = _towns(config, routes)
    drivers = candidates(config.drivers, out / "weights", sampled=config.sampled)
    baseline = _baseline(config, drivers)
    settings = {
        "routes_sha256": file_sha256(config.routes),
        "towns_sha256": towns_sha256,
        "seed": config.seed,
        "traffic": config.traffic,
        "max_game_s": config.max_game_s,
        "scoring": SCORING.value,
        "server": SERVER,
    }
    with contextlib.ExitStack() as stack:
        folders: dict[str, ResultsFolder] = {}
        for driver in drivers:
            own = {**settings, "driver": driver.name, "weights_sha256": driver.sha256}
            folders[driver.name] = ResultsFolder(out / driver.folder, own)
            stack.callback(folders[driver.name].close)
        tasks = [
            Task(driver, route, repetition)
            for repetition in range(config.seeds)
            for route in routes
            for driver in drivers
        ]
        pending = [task for task in tasks if not _is_decided(folders[task.candidate.name], task)]
        _drive_all(config, pending, folders, counted(len(tasks), "drive"))
        order = [(route.id, repetition) for repetition in range(config.seeds) for route in routes]
        for folder in folders.values():
            folder.write_summary(order)
        records = {name: [folder.records[key] for key in order] for name, folder in folders.items()}
    summary = summarised(drivers, records, out, baseline=baseline, about=_about(config))
    write_json_atomically(out / "summary.json", summary)
    (out / "summary.md").write_text(markdown(summary), encoding="utf-8")
    return summary


def _about(config: EvaluationConfig) -> dict[str, Any]:
    return {
        "server": SERVER,
        "scoring": SCORING.value,
        "routes_file": config.routes.name,
        "routes_sha256": file_sha256(config.routes),
        "traffic": config.traffic,
        "max_game_s": config.max_game_s,
        "seeds": list(range(config.seed, config.seed + config.seeds)),
    }


def _towns(config: EvaluationConfig, routes: Sequence[Route]) -> dict[str, str]:
    """Hashes of the map files that are driven on; generated towns have none. Raises: ValueError."""
    if config.town_dir is not None and not config.town_dir.is_dir():
        raise ValueError(f"--town-dir {config.town_dir}: no such folder")
    names = sorted({route.town for route in routes})
    files = {name: town_file(name, config.town_dir) if config.town_dir else None for name in names}
    missing = [name for name, path in files.items() if path is None and CARLA_TOWN.fullmatch(name)]
    if missing:
        raise ValueError(
            f"--town-dir {config.town_dir or 'not given'}: no map of {', '.join(missing)}; give the folder with these "
            ".xodr files"
        )
    return {name: file_sha256(path) for name, path in files.items() if path is not None}


def _baseline(config: EvaluationConfig, drivers: Sequence[Candidate]) -> str:
    names = [driver.name for driver in drivers]
    if config.baseline and config.baseline not in names:
        raise DriverError(f"--baseline {config.baseline} is none of the drivers {', '.join(names)}")
    return config.baseline or names[0]


def _is_decided(folder: ResultsFolder, task: Task) -> bool:
    record = folder.records.get(task.key)
    return record is not None and record.decided


def _drive_all(
    config: EvaluationConfig, pending: Sequence[Task], folders: Mapping[str, ResultsFolder], total: str
) -> None:
    """Drive the tasks and append each verdict to its driver's records."""
    lengths_m = {task.label: task.route.keypoint_length_m for task in pending}
    running: dict[str, Mapping[str, float]] = {}
    pieces = list(_pieces(pending, config.workers))
    work = work_through(partial(_work, config), pieces, config.workers, label=lambda task: task.label)
    with contextlib.closing(work), Progress(lengths_m, config.workers) as progress:
        progress.message(f"{len(pending)} of {total} to make on embedded servers (not CARLA)")
        for event in work:
            task = event.item
            if isinstance(event, Told):
                running[task.label] = event.status
            else:
                record = _lost(config, task, event.lost) if event.lost else RouteRecord.from_json(event.outcome)
                folders[task.candidate.name].append(record)
                running.pop(task.label, None)
                progress.finished(replace(record, route_id=f"{task.candidate.name} {task.route.id}"))
            progress.update(running)


def _pieces(tasks: Sequence[Task], workers: int) -> Iterator[list[Task]]:
    """The tasks of each town in pieces of nearly equal size."""
    towns: dict[str, list[Task]] = {}
    for task in tasks:
        towns.setdefault(task.route.town, []).append(task)
    most = max(-(-len(tasks) // (PIECES_PER_WORKER * workers)), MIN_PIECE)
    for own in towns.values():
        for start in range(0, len(own), most):
            yield own[start : start + most]


def _work(config: EvaluationConfig, reporter: Reporter, tasks: Sequence[Task], worker: int) -> None:
    """Drive tasks of one town. Raises: ServerError, PlannerError, ServerDiedError when the simulation crashed."""
    torch.set_num_threads(1)
    town = tasks[0].route.town
    server_config = EmbeddedServerConfig(town=town, town_dir=config.town_dir, threads=1, render=False)
    with EmbeddedServer(server_config) as server:
        client = connect(server.host, server.port, 60.0)
        planner = RoutePlanner(client.get_world().get_map())
        watchdog = Watchdog(server_exit_code=server.exit_code)
        for task in tasks:
            seed = config.seed + task.repetition
            episode_config = EpisodeConfig(
                scoring=SCORING, traffic=config.traffic, seed=seed, worker=worker, max_game_s=config.max_game_s
            )
            episode = Episode(
                client,
                task.route,
                None,
                episode_config,
                address=(server.host, server.port),
                planner=planner,
                watchdog=watchdog,
            )
            driver = make_driver(task.candidate, task.route, seed)
            record = drive(episode, driver, lambda episode: reporter.tell(lambda: _status(episode)))
            if not record.decided:
                raise ServerDiedError(f"{task.label}: {record.verdict}")
            own = {"server": SERVER, "driver": task.candidate.name, "weights_sha256": task.candidate.sha256 or None}
            record = replace(record, repetition=task.repetition, provenance={**record.provenance, **own})
            reporter.done(record.to_json())
        watchdog.close()


def _status(episode: Episode) -> dict[str, float]:
    velocity = episode.ego.get_velocity()
    return {
        "completion_percent": episode.criteria.completion.percent,
        "length_m": episode.plan.length_m,
        "game_s": episode.ticks * TICK_S,
        "speed_mps": velocity.length(),
    }


def _lost(config: EvaluationConfig, task: Task, why: str) -> RouteRecord:
    """The record of a drive on which the simulation failed every time; the next start tries it again."""
    return RouteRecord(
        route_id=task.route.id,
        repetition=task.repetition,
        town=task.route.town,
        scoring=SCORING,
        **judge(0.0, (), SCORING, FAILURE_SIMULATION),
        route_length_m=task.route.keypoint_length_m,
        duration_game_s=0.0,
        duration_system_s=0.0,
        ticks=0,
        seed=config.seed + task.repetition,
        traffic=config.traffic,
        provenance={"server": SERVER, "driver": task.candidate.name},
        failure_message=why,
    )


def _label(candidate: Candidate, route_id: str, repetition: int) -> str:
    """As `RouteRecord.label`, with the driver."""
    name = f"{candidate.name} {route_id}"
    return name if repetition == 0 else f"{name} (repetition {repetition})"
