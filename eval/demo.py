"""`python -m eval demo`: a few routes in a town the agent has never seen, with scores, report and film."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import carla

from eval.agents import CONSTANT_THROTTLE
from eval.generate import generate_routes
from eval.progress import counted
from eval.recorder import film_path
from eval.report import FILM, write_report
from eval.results import read_records
from eval.routes import Route, write_routes
from eval.runner import DEFAULT_AGENT, DEFAULT_WEIGHTS, InputError, RunConfig, run
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect, parse_address
from eval.verdict import check_weights
from eval.video import join_films

TOWN = "Gen20"
"""No data for training was collected in it."""
MIN_LENGTH_M = 250.0
MIN_TURNS = 1
MAX_GAME_S = 130.0
"""A route of 400 m takes about 80 s with traffic and lights; a car that is stuck need not be watched for longer."""
CONNECT_TIMEOUT_S = 60.0
RESULT_FILES = ("results.jsonl", "results.json", "run.key", "routes.xml", "report.html", FILM)
RESULT_FOLDERS = ("jobs", "moments", "traces", "cameras")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Drive a few scored routes; write results.json, report.html and demo.mp4."""

    server: str | None = None
    """HOST:PORT of a running CARLA, whose current town is used; by default embedded servers are started."""
    out: Path = Path("runs/demo")
    """Results folder; an earlier demo in it is replaced."""
    agent: str = DEFAULT_AGENT
    """Agent file with get_entry_point(), or constant-throttle."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration file (it names the weights beside it)."""
    routes: int = 3
    """Number of routes, 250 to 400 m each."""
    traffic: int = 15
    """Vehicles driven by the Traffic Manager."""
    seed: int = 20
    """Of routes and traffic."""
    workers: int = 2
    """Routes driven at the same time (one on a running CARLA)."""
    max_game_s: float = MAX_GAME_S
    """End a route after this much simulated time."""


def demo(config: DemoConfig) -> int:
    """Run the demo; returns the exit code.

    Raises: InputError, ServerError, RouteGenerationError, ResultsError for input that cannot be run.
    """
    started_s = time.monotonic()
    _check(config)
    embedded = config.server is None
    where = TOWN if embedded else f"the town of {config.server}"
    print(f"Looking for {counted(config.routes, 'route')} in {where} ...", flush=True)
    routes = _routes(config)
    _clear(config.out)
    route_file = config.out / "routes.xml"
    write_routes(routes, route_file)
    run_config = RunConfig(
        routes=route_file,
        agent=config.agent,
        weights=config.weights,
        server=config.server,
        workers=min(config.workers, config.routes) if embedded else 1,
        threads=1 if embedded and config.workers > 1 else 2,
        out=config.out,
        traffic=config.traffic,
        seed=config.seed,
        film="all",
        max_game_s=config.max_game_s,
    )
    code = run(run_config)
    _show(config.out, started_s)
    return code


def _check(config: DemoConfig) -> None:
    """What cannot work is found before anything is started."""
    if config.routes < 1:
        raise InputError(f"--routes {config.routes}: at least one is needed")
    if not config.max_game_s > 0.0:
        raise InputError(f"--max-game-s {config.max_game_s}: must be more than 0 seconds")
    if config.agent != CONSTANT_THROTTLE and not config.weights.is_file():
        raise InputError(
            f"{config.weights}: no such file; the shipped weights lie in weights/ of the repository "
            f"(or try the demo without a network: --agent {CONSTANT_THROTTLE})"
        )
    if config.agent == DEFAULT_AGENT:
        check_weights(config.weights)


def _clear(out: Path) -> None:
    """Remove what an earlier demo left; nothing else in the folder is touched."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in RESULT_FILES:
            (out / name).unlink(missing_ok=True)
        for name in RESULT_FOLDERS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be used ({error.strerror}); choose another folder") from error


def _routes(config: DemoConfig) -> list[Route]:
    def generate(carla_map: carla.Map) -> list[Route]:
        return generate_routes(
            carla_map, config.routes, seed=config.seed, min_length_m=MIN_LENGTH_M, min_turns=MIN_TURNS
        )

    if config.server is not None:
        return _with_map(*parse_address(config.server), generate)
    with EmbeddedServer(EmbeddedServerConfig(town=TOWN, render=False)) as running:
        return _with_map(running.host, running.port, generate)


def _with_map(host: str, port: int, generate: Callable[[carla.Map], list[Route]]) -> list[Route]:
    return generate(connect(host, port, CONNECT_TIMEOUT_S).get_world().get_map())


def _show(out: Path, started_s: float) -> None:
    """Write film and report and say where everything is."""
    records = read_records(out / "results.jsonl")
    if not records:
        return
    films = [path for path in (film_path(out, record.route_id) for record in records) if path.is_file()]
    if films:
        join_films(films, out / FILM)
    write_report(out, title="Raw2Drive: demo")
    minutes, seconds = divmod(round(time.monotonic() - started_s), 60)
    print(f"Report: {out / 'report.html'}" + (f"    film: {out / FILM}" if films else ""))
    print(f"The demo took {minutes} min {seconds:02d} s.")
    sys.stdout.flush()
