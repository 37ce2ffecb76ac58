"""Does the agent drive by what it sees? The same routes with its cameras, without, and with another episode's.

The controls are paired by route: what a control loses is the mean of the differences in route completion, with a
bootstrap interval over routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.agents import CONSTANT_THROTTLE
from eval.results import RouteRecord, read_records
from eval.runner import DEFAULT_AGENT, DEFAULT_WEIGHTS, EXIT_OK, RunConfig, run
from eval.scoring import Scoring, mean_and_deviation

ROUTES: Final = Path(__file__).parent / "looks_gen21.xml"
"""20 routes of at least 400 m with at least two turns in Gen21, a town no data is collected in. Made once by
`python -m eval routes generate --town Gen21 --count 20 --seed 0`."""
RESAMPLES: Final = 10_000
INTERVAL_PERCENT: Final = (2.5, 97.5)
ARMS: Final = {
    "agent": "the agent",
    "black": "black cameras",
    "other": "another episode's cameras",
    "constant": "constant throttle",
}


@dataclass(frozen=True, kw_only=True)
class LooksConfig:
    """Drive fixed routes four times: the agent, the agent with black and with foreign cameras, constant throttle."""

    out: Path = Path("runs/looks")
    """Folder of the four runs and of looks.json; an interrupted study goes on where it stopped."""
    routes: Path = ROUTES
    """Route file; each route is shown the cameras of the route before it in the foreign arm."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration."""
    arms: str = ",".join(ARMS)
    """Which of the four to drive, comma separated; `other` needs `agent`."""
    workers: int = 2
    """Routes driven at the same time."""
    traffic: int = 15
    """Background vehicles."""
    seed: int = 0
    """Seed of the traffic and of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How much less of the routes a control completes, in points, with its 95 % interval."""

    mean: float
    low: float
    high: float


def looks(config: LooksConfig) -> int:
    """Run the study; prints the table and writes looks.json. Returns the worst exit code of the runs."""
    base = RunConfig(
        routes=config.routes,
        agent=DEFAULT_AGENT,
        weights=config.weights,
        scoring=Scoring.BENCH2DRIVE,
        workers=config.workers,
        threads=1,
        traffic=config.traffic,
        seed=config.seed,
    )
    runs = {
        "agent": replace(base, out=config.out / "agent", record_cameras=True),
        "black": replace(base, out=config.out / "black", cameras="black"),
        "other": replace(base, out=config.out / "other", cameras="other-episode", cameras_from=config.out / "agent"),
        "constant": replace(base, out=config.out / "constant", agent=CONSTANT_THROTTLE),
    }
    code = EXIT_OK
    for arm in config.arms.split(","):
        code = max(code, run(runs[arm]))
    records = {arm: read_records(config.out / arm / "results.jsonl") for arm in ARMS if (config.out / arm).is_dir()}
    summary = summarise(records, config.seed)
    (config.out / "looks.json").write_text(json.dumps(summary, indent=1) + "\n")
    print_summary(summary)
    return code


def summarise(records: Mapping[str, Sequence[RouteRecord]], seed: int) -> dict[str, dict[str, float | list[float]]]:
    """Per arm: mean scores, route completion by route, and what it loses against the agent."""
    agent = {record.route_id: record.scores.score_route for record in records.get("agent", ())}
    summary: dict[str, dict[str, float | list[float]]] = {}
    for arm, rows in records.items():
        entry: dict[str, float | list[float]] = {
            "routes": len(rows),
            "route_completion": mean_and_deviation([row.scores.score_route for row in rows])[0],
            "driving_score": mean_and_deviation([row.scores.score_composed for row in rows])[0],
            "successes": sum(row.success for row in rows),
            "route_completions": [round(row.scores.score_route, 2) for row in sorted(rows, key=lambda r: r.route_id)],
        }
        paired = [(agent[row.route_id], row.scores.score_route) for row in rows if row.route_id in agent]
        if arm != "agent" and paired:
            loss = paired_loss(np.array(paired), np.random.default_rng(seed))
            entry |= {"loses": loss.mean, "loses_low": loss.low, "loses_high": loss.high}
        summary[arm] = entry
    return summary


def paired_loss(pairs: np.ndarray, generator: np.random.Generator) -> Loss:
    """Mean of first minus second over (n, 2) pairs, with a percentile bootstrap interval over the pairs."""
    differences = pairs[:, 0] - pairs[:, 1]
    draws = generator.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(differences[draws].mean(1), INTERVAL_PERCENT)
    return Loss(float(differences.mean()), float(low), float(high))


def print_summary(summary: Mapping[str, Mapping[str, float | list[float]]]) -> None:
    table = Table(title="Embedded server; route completion in %, differences paired by route with 95 % intervals")
    for column in ("arm", "routes", "route completion", "driving score", "successes", "loses against the agent"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, entry in summary.items():
        loss = "{loses:.1f} [{loses_low:.1f}, {loses_high:.1f}]".format(**entry) if "loses" in entry else ""
        table.add_row(
            ARMS[arm],
            f"{entry['routes']}",
            f"{entry['route_completion']:.1f}",
            f"{entry['driving_score']:.1f}",
            f"{entry['successes']}",
            loss,
        )
    Console(width=120).print(table)
