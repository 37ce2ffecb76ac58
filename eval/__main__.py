"""`python -m eval run | demo | report | routes | score | looks | soak`."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval.agents import AgentLoadError
from eval.demo import DemoConfig, demo
from eval.generate import RouteGenerationError, generate_routes
from eval.looks import LooksConfig, looks
from eval.planner import PlannerError
from eval.progress import print_table
from eval.report import write_report
from eval.results import ResultsError, read_records
from eval.routes import RouteFileError, write_routes
from eval.runner import EXIT_INCOMPLETE, EXIT_INTERRUPTED, InputError, JobError, RunConfig, run
from eval.server import EmbeddedServer, EmbeddedServerConfig, ServerDiedError, ServerError, connect
from eval.soak import SoakConfig, soak

EXIT_BAD_INPUT = 2
INPUT_ERRORS = (
    InputError,
    RouteFileError,
    RouteGenerationError,
    ResultsError,
    ServerError,
    PlannerError,
    AgentLoadError,
)


@dataclass(frozen=True, kw_only=True)
class RoutesConfig:
    """Generate routes in a town and write them as a route file."""

    town: str
    """Town of the embedded server, such as Gen02 or Town01."""
    out: Path
    """Route file to write."""
    count: int = 20
    """Number of routes."""
    seed: int = 0
    """The same town and seed give the same routes."""
    min_length_m: float = 400.0
    """Shortest route."""
    min_turns: int = 2
    """Fewest left or right turns."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Print the table of a finished run again."""

    results: tyro.conf.Positional[Path]
    """A run's results.jsonl, or its folder."""
    json: bool = False
    """Print mean scores as JSON instead."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the HTML report of a finished run again."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""


def _run(config: Annotated[RunConfig, tyro.conf.arg(name="")]) -> int:
    """Drive routes with an agent and score them."""
    return run(config)


def _routes(config: Annotated[RoutesConfig, tyro.conf.arg(name="")]) -> int:
    """Generate routes in a town and write them as a route file."""
    server = EmbeddedServerConfig(town=config.town, town_dir=config.town_dir, render=False)
    with EmbeddedServer(server) as running:
        carla_map = connect(running.host, running.port, 60.0).get_world().get_map()
        routes = generate_routes(
            carla_map,
            config.count,
            seed=config.seed,
            min_length_m=config.min_length_m,
            min_turns=config.min_turns,
            town=config.town,
        )
    write_routes(routes, config.out)
    print(f"{len(routes)} routes in {config.town} written to {config.out}")
    return 0


def _score(config: Annotated[ScoreConfig, tyro.conf.arg(name="")]) -> int:
    """Print the table of a finished run again."""
    path = config.results / "results.jsonl" if config.results.is_dir() else config.results
    records = read_records(path)
    if not records:
        raise ResultsError(f"{path}: holds no route records; give a run's folder or its results.jsonl")
    if config.json:
        count = len(records)
        names = ("score_composed", "score_route", "score_penalty")
        print(json.dumps({name: sum(getattr(r.scores, name) for r in records) / count for name in names}))
    else:
        print_table(records)
    return 0


def _demo(config: Annotated[DemoConfig, tyro.conf.arg(name="")]) -> int:
    """Drive a few scored routes; write results.json, report.html and demo.mp4."""
    return demo(config)


def _report(config: Annotated[ReportConfig, tyro.conf.arg(name="")]) -> int:
    """Write the HTML report of a finished run again."""
    print(f"written to {write_report(config.run)}")
    return 0


def _looks(config: Annotated[LooksConfig, tyro.conf.arg(name="")]) -> int:
    """Does the agent drive by what it sees? The same routes with black and with foreign cameras beside it."""
    return looks(config)


def _soak(config: Annotated[SoakConfig, tyro.conf.arg(name="")]) -> int:
    """Tick a world with traffic for a long time: time per tick, memory growth."""
    return soak(config)


def main() -> int:
    """Run the command line; bad input is one line and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        commands = {
            "run": _run,
            "demo": _demo,
            "report": _report,
            "routes": _routes,
            "score": _score,
            "looks": _looks,
            "soak": _soak,
        }
        return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m eval")
    except INPUT_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (JobError, ServerDiedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
