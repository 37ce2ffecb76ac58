"""Does the agent drive by what it sees? The same routes with its cameras, without, and with another episode's.

The controls are paired by route: what a control loses is the mean of the differences in route completion, in driving
score and in success, with bootstrap intervals over routes. Black cameras are shown twice: the whole agent notices them
and stops the car; with the checks of the cameras off the network itself has to drive by them, so that its loss is its
own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from agent import strict_json
from eval.agents import CONSTANT_THROTTLE
from eval.results import RouteRecord, read_records
from eval.routes import read_routes
from eval.runner import DEFAULT_AGENT, DEFAULT_WEIGHTS, EXIT_OK, InputError, RunConfig, run
from eval.scoring import Scoring, mean_and_deviation

ROUTES: Final = Path(__file__).parent / "looks_gen21.xml"
"""20 routes of at least 400 m with at least two turns in Gen21, a town no data is collected in. Made once by
`python -m eval routes generate --town Gen21 --count 20 --seed 0`."""
SIGNALLED: Final = 128
"""Exit codes from here on: ended by a signal."""

RESAMPLES: Final = 10_000
INTERVAL_PERCENT: Final = (2.5, 97.5)
ARMS: Final = {
    "agent": "the agent",
    "black": "black cameras",
    "blind": "black cameras, not checked",
    "other": "another episode's cameras",
    "constant": "constant throttle",
}
Measure = Callable[[RouteRecord], float]
MEASURES: Final[Mapping[str, Measure]] = {
    "route_completion": lambda record: record.scores.score_route,
    "driving_score": lambda record: record.scores.score_composed,
    "success": lambda record: 100.0 * record.success,
}
TITLES: Final = {"route_completion": "completion", "driving_score": "driving score", "success": "success"}
UNCHECKED_CAMERAS: Final = {"black_level": -1, "frozen_ticks": 1_000_000}
"""Settings of the agent's `inputs.cameras` with which no picture is black or frozen."""


@dataclass(frozen=True, kw_only=True)
class LooksConfig:
    """Drive fixed routes with the agent and with controls: black cameras, foreign cameras, constant throttle."""

    out: Path = Path("runs/looks")
    """Folder of a run per arm and of looks.json; routes that have a record in it are not driven again."""
    routes: Path = ROUTES
    """Route file; each route is shown the cameras of the route before it in the foreign arm."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration."""
    arms: str = ",".join(ARMS)
    """What to drive, comma separated; `other` shows the recordings of `agent`."""
    routes_limit: int | None = None
    """Only so many routes, the first of the file; a later study with more goes on from there."""
    workers: int = 2
    """Routes driven at the same time."""
    traffic: int = 15
    """Background vehicles."""
    town_dir: Path | None = None
    """Folder with .xodr files of towns, for route files in CARLA's."""
    seed: int = 0
    """Seed of the traffic and of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over routes, in points, with its 95 % interval."""

    mean: float
    low: float
    high: float


def looks(config: LooksConfig) -> int:
    """Run the study; prints the table and writes looks.json. Returns the worst exit code of the runs.

    Raises: InputError, RouteFileError, ResultsError.
    """
    chosen = config.arms.split(",")
    unknown = [arm for arm in chosen if arm not in ARMS]
    if unknown:
        raise InputError(f"--arms {','.join(unknown)}: no such arm; choose from {','.join(ARMS)}")
    if config.routes_limit is not None and config.routes_limit < 1:
        raise InputError(f"--routes-limit {config.routes_limit}: at least one route is needed")
    code = EXIT_OK
    for arm in (arm for arm in ARMS if arm in chosen):
        arm_code = run(_run_config(config, arm))
        if arm_code >= SIGNALLED:
            return arm_code
        code = max(code, arm_code)
        records = {arm: read_records(config.out / arm / "results.jsonl") for arm in ARMS}
        summary = summarise({arm: rows for arm, rows in records.items() if rows}, config.seed)
        (config.out / "looks.json").write_text(strict_json.dumps(summary, indent=1) + "\n")
    print_summary(summary)
    return code


def unchecked_cameras(config_file: Path, target: Path) -> None:
    """Write a copy of an agent's configuration, with the same weights, that trusts every picture."""
    settings: dict[str, Any] = yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}
    checkpoint = config_file.parent / settings.get("checkpoint", ".")
    inputs = settings.get("inputs") or {}
    cameras = {**(inputs.get("cameras") or {}), **UNCHECKED_CAMERAS}
    target.parent.mkdir(parents=True, exist_ok=True)
    settings |= {
        "checkpoint": os.path.relpath(checkpoint, target.parent),
        "inputs": {**inputs, "cameras": cameras},
    }
    target.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _run_config(config: LooksConfig, arm: str) -> RunConfig:
    routes = read_routes(config.routes)[: config.routes_limit]
    base = RunConfig(
        routes=config.routes,
        ids=",".join(route.id for route in routes),
        agent=DEFAULT_AGENT,
        weights=config.weights,
        scoring=Scoring.BENCH2DRIVE,
        town_dir=config.town_dir,
        workers=config.workers,
        threads=1,
        traffic=config.traffic,
        seed=config.seed,
        out=config.out / arm,
        film="none",
    )
    if arm == "agent":
        return replace(base, record_cameras=True)
    if arm == "black":
        return replace(base, cameras="black")
    if arm == "blind":
        weights = config.out / arm / "agent.yaml"
        unchecked_cameras(config.weights, weights)
        return replace(base, cameras="black", weights=weights)
    if arm == "other":
        return replace(base, cameras="other-episode", cameras_from=config.out / "agent")
    return replace(base, agent=CONSTANT_THROTTLE)


def summarise(records: Mapping[str, Sequence[RouteRecord]], seed: int) -> dict[str, dict[str, Any]]:
    """Per arm: mean scores, route completion by route, and what it loses against the agent."""
    agent = {record.route_id: record for record in records.get("agent", ())}
    summary: dict[str, dict[str, Any]] = {}
    for arm, rows in records.items():
        entry: dict[str, Any] = {
            "routes": len(rows),
            **{name: mean_and_deviation([measure(row) for row in rows])[0] for name, measure in MEASURES.items()},
            "intervals": {
                name: _plain(estimate(np.array([measure(row) for row in rows]), np.random.default_rng(seed)))[1:]
                for name, measure in MEASURES.items()
            },
            "successes": sum(row.success for row in rows),
            "route_completions": {row.route_id: round(row.scores.score_route, 2) for row in rows},
            "driving_scores": {row.route_id: round(row.scores.score_composed, 2) for row in rows},
        }
        paired = [(agent[row.route_id], row) for row in rows if row.route_id in agent]
        if arm != "agent" and paired:
            entry["loses"] = {
                name: _plain(estimate(_differences(paired, measure), np.random.default_rng(seed)))
                for name, measure in MEASURES.items()
            }
        summary[arm] = entry
    return summary


def _differences(paired: Sequence[tuple[RouteRecord, RouteRecord]], measure: Measure) -> np.ndarray:
    return np.array([measure(first) - measure(second) for first, second in paired])


def estimate(values: np.ndarray, generator: np.random.Generator) -> Estimate:
    """Mean of (n,) values, one of each route, with a percentile bootstrap interval over the routes."""
    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), INTERVAL_PERCENT)
    return Estimate(float(values.mean()), float(low), float(high))


def _plain(found: Estimate) -> list[float]:
    return [round(found.mean, 2), round(found.low, 2), round(found.high, 2)]


def print_summary(summary: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title="Embedded server; in %, 95 % intervals over routes; what a control loses is paired by route")
    for column in ("arm", "routes", *TITLES.values(), *(f"loses in {title}" for title in TITLES.values())):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, entry in summary.items():
        own = [f"{entry[name]:.1f} [{low:.1f}, {high:.1f}]" for name, (low, high) in entry["intervals"].items()]
        loses = ["{:.1f} [{:.1f}, {:.1f}]".format(*found) for found in entry.get("loses", {}).values()]
        table.add_row(ARMS[arm], f"{entry['routes']}", *own, *loses)
    Console(width=140).print(table)
