"""The commands of `python -m eval` and what becomes of their errors."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agent.config import ConfigError
from eval import doctor as doctor_command
from eval.agents import AgentLoadError
from eval.demo import DemoConfig, demo
from eval.generate import RouteGenerationError
from eval.generate_command import GenerateConfig, generate
from eval.golden import GoldenConfig, golden
from eval.looks import LooksConfig, looks
from eval.metrics.commands import CompareConfig, ScoreConfig, compare, score
from eval.official.harness import HarnessError
from eval.planner import PlannerError
from eval.replay import ViewConfig, view
from eval.report import write_report
from eval.results import ResultsError
from eval.routes import RouteFileError
from eval.runner import EXIT_INCOMPLETE, InputError, JobError, RunConfig, run
from eval.server import ServerDiedError, ServerError
from eval.soak import SoakConfig, soak

EXIT_BAD_INPUT = 2
INPUT_ERRORS = (
    InputError,
    HarnessError,
    RouteFileError,
    RouteGenerationError,
    ResultsError,
    ServerError,
    PlannerError,
    AgentLoadError,
    ConfigError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the HTML report of a finished run again."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""


def _run(config: Annotated[RunConfig, tyro.conf.arg(name="")]) -> int:
    """Drive routes with an agent and score them."""
    return run(config)


def _routes() -> int:
    """Make routes: `python -m eval routes generate --help`."""
    raise InputError("python -m eval routes needs a command: generate")


def _generate(config: Annotated[GenerateConfig, tyro.conf.arg(name="")]) -> int:
    """Write routes of own or real towns, with or without scenarios, as a route file."""
    return generate(config)


def _score(config: Annotated[ScoreConfig, tyro.conf.arg(name="")]) -> int:
    """Print the metrics of result files: scores, abilities, efficiency, comfort, with their uncertainty."""
    return score(config)


def _compare(config: Annotated[CompareConfig, tyro.conf.arg(name="")]) -> int:
    """Compare two runs on the drives they share."""
    return compare(config)


def _demo(config: Annotated[DemoConfig, tyro.conf.arg(name="")]) -> int:
    """Drive a few scored routes; write results.json, report.html and demo.mp4."""
    return demo(config)


def _report(config: Annotated[ReportConfig, tyro.conf.arg(name="")]) -> int:
    """Write the HTML report of a finished run again."""
    print(f"written to {write_report(config.run)}")
    return 0


def _view(config: Annotated[ViewConfig, tyro.conf.arg(name="")]) -> int:
    """Look at a finished run in the rerun viewer, or write a file for it."""
    return view(config)


def _looks(config: Annotated[LooksConfig, tyro.conf.arg(name="")]) -> int:
    """Does the agent drive by what it sees? The same routes with black and with foreign cameras beside it."""
    return looks(config)


def _golden(config: Annotated[GoldenConfig, tyro.conf.arg(name="")]) -> int:
    """Replay a recorded drive through the agent and compare what it does; or record one."""
    return golden(config)


def _soak(config: Annotated[SoakConfig, tyro.conf.arg(name="")]) -> int:
    """Tick a world with traffic for a long time: time per tick, memory growth."""
    return soak(config)


def _doctor(config: Annotated[doctor_command.DoctorConfig, tyro.conf.arg(name="")]) -> int:
    """Is this machine ready for an evaluation? Every line says what to do."""
    return doctor_command.run(config)


def main() -> int:
    """Run the command line; bad input is one line and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        commands = {
            "run": _run,
            "demo": _demo,
            "report": _report,
            "view": _view,
            "routes": _routes,
            "score": _score,
            "compare": _compare,
            "looks": _looks,
            "golden": _golden,
            "soak": _soak,
            "doctor": _doctor,
        }
        if sys.argv[1:3] == ["routes", "generate"]:  # tyro's command dictionaries do not nest
            return tyro.cli(_generate, args=sys.argv[3:], prog="python -m eval routes generate")
        return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m eval")
    except INPUT_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except ValueError as error:
        checkpoint = sys.modules.get("agent.checkpoint")  # not imported here: it loads torch, which takes seconds
        if checkpoint is None or not isinstance(error, checkpoint.CheckpointError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (JobError, ServerDiedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INCOMPLETE
