"""Checkouts of the official evaluators: finding them, which rules they hold, what they need to run here."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.scoring import Scoring

EVALUATOR: Final = "leaderboard/leaderboard_evaluator.py"
STATISTICS: Final = "leaderboard/utils/statistics_manager.py"
SCENARIO_MANAGER: Final = "srunner/scenariomanager/scenario_manager.py"
REQUIREMENTS: Final = Path(__file__).parent / "requirements.txt"
STAND_IN_CARLA: Final = Path(__file__).parent / "carla"
"""Folder with the `CarlaUE4.sh` that starts the embedded server."""
_PACKAGES: Final = ("py_trees", "pkg_resources", "simple_watchdog_timer", "dictor", "tabulate", "xmlschema", "ephem")


class HarnessError(ValueError):
    """A checkout that cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Harness:
    """One official evaluator with its scenario runner."""

    leaderboard: Path
    scenario_runner: Path
    agents: Path
    """Folder below which CARLA's Python package `agents` lies."""
    scoring: Scoring

    @property
    def starts_server(self) -> bool:
        """Whether the evaluator starts CARLA itself, from CARLA_ROOT."""
        return self.scoring is Scoring.BENCH2DRIVE

    @property
    def name(self) -> str:
        """What reports call it."""
        return "Bench2Drive" if self.starts_server else f"Leaderboard {self.scoring.value}"

    def environment(self) -> dict[str, str]:
        """The variables that `launch` reads."""
        return {
            "LEADERBOARD_ROOT": str(self.leaderboard),
            "SCENARIO_RUNNER_ROOT": str(self.scenario_runner),
            "CARLA_AGENTS_ROOT": str(self.agents),
        }


def find_harness(root: Path, carla_root: Path | None) -> Harness:
    """The harness of a checkout: Bench2Drive's, or a leaderboard's with SCENARIO_RUNNER_ROOT beside it.

    `carla_root`: an installed CARLA; without one CARLA_ROOT says where the package `agents` is. Raises: HarnessError.
    """
    inside = (root / "leaderboard" / EVALUATOR).is_file()
    leaderboard = root / "leaderboard" if inside else root
    if not (leaderboard / EVALUATOR).is_file():
        raise HarnessError(
            f"--official {root}: holds no {EVALUATOR}; give a checkout of Bench2Drive, or of leaderboard 2.0 or 2.1"
        )
    scenario_runner = root / "scenario_runner" if inside else Path(os.environ.get("SCENARIO_RUNNER_ROOT", ""))
    if not (scenario_runner / SCENARIO_MANAGER).is_file():
        raise HarnessError(
            f"SCENARIO_RUNNER_ROOT={_given('SCENARIO_RUNNER_ROOT', scenario_runner)}: holds no {SCENARIO_MANAGER}; "
            "give the checkout of scenario_runner whose branch fits the leaderboard's"
        )
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise HarnessError(
            f"the official evaluators need {', '.join(missing)}; install with: pip install -r {REQUIREMENTS}"
        )
    agents = carla_root or Path(os.environ.get("CARLA_ROOT", ""))
    if not any((agents / folder / "agents/navigation").is_dir() for folder in ("PythonAPI/carla", "PythonAPI", ".")):
        raise HarnessError(
            f"CARLA_ROOT={_given('CARLA_ROOT', agents)}: no PythonAPI/carla/agents below it, which the evaluators "
            "import and the carla wheel lacks; give CARLA's folder or a checkout of carla-simulator/carla"
        )
    return Harness(leaderboard.resolve(), scenario_runner.resolve(), agents.resolve(), _scoring(leaderboard))


def _given(variable: str, folder: Path) -> str:
    """What a message calls a folder that comes from a variable, or was to come."""
    return "(not set)" if folder == Path() and not os.environ.get(variable) else str(folder)


def _scoring(leaderboard: Path) -> Scoring:
    """Whose rules, told by the code: branches and tags need not be there."""
    if "--gpu-rank" in (leaderboard / EVALUATOR).read_text(encoding="utf-8"):
        return Scoring.BENCH2DRIVE
    adds_up = "infraction_value" in (leaderboard / STATISTICS).read_text(encoding="utf-8")
    return Scoring.LEADERBOARD_21 if adds_up else Scoring.LEADERBOARD_20
