"""How often is each scenario type triggered, passed by the expert, and passed by a driver that ignores everybody?

Routes with one scenario each are generated in own towns; every route is driven once by each driver. The outcome: the
routes of every town, `drives.json` with one entry per drive, `scenarios.json` with the counts per type and where they
come from, and `scenarios.md` with a table of one row per type.
"""

from __future__ import annotations

import datetime
import json
import logging
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import carla

from eval.episode import FAILURE_SIMULATION, Episode, EpisodeConfig
from eval.report import machine
from eval.results import write_json_atomically
from eval.routes import Route, write_routes
from eval.scenarios.generate import PATIENCE_DRIVES, QUICK_DRIVES, Town, scenario_routes
from eval.scenarios.registry import BENCH2DRIVE_TYPES
from eval.scoring import Infraction, Scoring, succeeded
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect
from training.drive import RuleDriver, drive
from training.expert import ExpertConfig
from training.workers import Reporter, Told, work_through

MAX_GAME_S = 120.0
MAX_SPEED_MPS = 14.0
"""Both drivers keep to the speed limit below this."""
DRIVERS = ("expert", "blind")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is studied."""

    towns: tuple[str, ...]
    types: tuple[str, ...] = BENCH2DRIVE_TYPES
    seeds: int = 5
    """Routes per type."""
    seed: int = 0
    traffic: int = 8
    """Background vehicles."""
    workers: int = 2
    town_dir: Path | None = None

    def arguments(self) -> str:
        """As given to the command."""
        types = "" if self.types == BENCH2DRIVE_TYPES else f" --types {','.join(self.types)}"
        return f"--towns {','.join(self.towns)}{types} --seeds {self.seeds} --seed {self.seed} --traffic {self.traffic}"


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive of one route."""

    type: str
    town: str
    route: str
    driver: str
    """expert or blind."""
    triggered: bool
    passed: bool
    status: str
    infractions: dict[str, int]
    game_s: float
    note: str
    """Why the scenario was skipped, if it was."""


def study(config: StudyConfig, out: Path) -> dict[str, Any]:
    """Drive everything, write the files into the folder `out`; gives the content of `scenarios.json`."""
    out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    routes = plan(config)
    for town, planned in routes.items():
        write_routes(planned, out / f"{town}.xml")
    total = 2 * sum(len(planned) for planned in routes.values())
    logger.info("%d drives to make, planned in %.0f s", total, time.monotonic() - started_s)
    drives = _drive_all(config, routes, total)
    drives.sort(key=lambda drive: (drive.type, drive.town, drive.route, drive.driver))
    summary = summarised(drives, config)
    write_json_atomically(out / "drives.json", {"drives": [asdict(drive) for drive in drives]})
    write_json_atomically(out / "scenarios.json", summary)
    (out / "scenarios.md").write_text(table(summary), encoding="utf-8")
    return summary


def summarised(drives: list[Drive], config: StudyConfig) -> dict[str, Any]:
    """Counts per type and in all, with where they come from."""
    kinds = sorted({drive.type for drive in drives})
    return {
        "server": "embedded",
        "command": f"python -m training scenarios {config.arguments()} --out runs/scenarios",
        "commit": commit(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "types": {kind: _counts([drive for drive in drives if drive.type == kind]) for kind in kinds},
        "total": _counts(drives),
    }


def _counts(drives: list[Drive]) -> dict[str, Any]:
    expert = [drive for drive in drives if drive.driver == "expert"]
    blind = [drive for drive in drives if drive.driver == "blind"]
    skipped = {drive.route for drive in drives if not drive.triggered}
    return {
        "routes": len(expert),
        "triggered": len(expert) - len(skipped),
        "expert": sum(drive.passed for drive in expert),
        "blind": sum(drive.passed for drive in blind),
        "stops_expert": dict(Counter(kind for drive in expert for kind in drive.infractions)),
        "stops_blind": dict(Counter(kind for drive in blind for kind in drive.infractions)),
    }


def table(summary: Mapping[str, Any]) -> str:
    """Markdown table with a row per type and the totals."""
    lines = ["| type | triggered | expert succeeds | blind driver succeeds | what stops the blind driver |"]
    lines.append("|---|---|---|---|---|")
    lines += [_row(kind, counts) for kind, counts in summary["types"].items()]
    lines.append(_row("**all**", summary["total"]))
    return "\n".join(lines) + "\n"


def _row(name: str, counts: Mapping[str, Any]) -> str:
    stops = sorted(counts["stops_blind"].items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    worst = ", ".join(f"{kind} {count}" for kind, count in stops) or "-"
    shares = [f"{counts[key]}/{counts['routes']}" for key in ("triggered", "expert", "blind")]
    return f"| {name} | {' | '.join(shares)} | {worst} |"


def commit() -> str:
    """The checked-out commit, for records of where numbers come from."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def plan(config: StudyConfig) -> dict[str, list[Route]]:
    """Routes by town, those of a type in as many towns as it fits in; rare places are searched for at the end."""
    missing = Counter(dict.fromkeys(config.types, config.seeds))
    routes: dict[str, list[Route]] = {name: [] for name in config.towns}
    for towns, patience in ((config.towns, QUICK_DRIVES), (config.towns[::-1], PATIENCE_DRIVES)):
        for position, name in enumerate(towns):
            left = len(towns) - position if patience == QUICK_DRIVES else 1
            wanted = {kind: -(-count // left) for kind, count in missing.items() if count > 0}
            if not wanted:
                break
            with _server(config, name) as server:
                town = Town.of(name, connect(server.host, server.port, 60.0).get_world().get_map())
                first_id = len(routes[name]) + 1
                seed, prefix = config.seed + first_id, f"{name}_"
                found, _ = scenario_routes(town, wanted, seed=seed, first_id=first_id, prefix=prefix, patience=patience)
            missing -= Counter(route.scenarios[0].type for route in found)
            routes[name] += found
            logger.info("%s: %d routes", name, len(found))
    for kind, count in missing.items():
        logger.warning("%s: %d routes could not be placed in %s", kind, count, ", ".join(config.towns))
    return {name: planned for name, planned in routes.items() if planned}


def _drive_all(config: StudyConfig, routes: Mapping[str, list[Route]], total: int) -> list[Drive]:
    """Drive all routes, those of a town one after the other."""
    drives: list[Drive] = []
    started_s = time.monotonic()
    target = partial(_drive_routes, config)
    for event in work_through(target, list(routes.values()), config.workers, label=lambda route: f"route {route.id}"):
        if isinstance(event, Told):
            continue
        lost = [_not_driven(event.item, driver) for driver in DRIVERS]
        drives += lost if event.lost else [Drive(**drive) for drive in event.outcome]
        left_s = (time.monotonic() - started_s) / len(drives) * (total - len(drives))
        passed = [sum(drive.passed for drive in drives if drive.driver == name) for name in DRIVERS]
        shares = f"{passed[0]} and {passed[1]} of {len(drives) // 2} passed by the expert and the blind driver"
        logger.info("%d of %d drives, %s; about %.0f min left", len(drives), total, shares, left_s / 60.0)
    return drives


def _not_driven(route: Route, driver: str) -> Drive:
    """The simulator failed on the route, every time."""
    kind = route.scenarios[0].type
    return Drive(kind, route.town, route.id, driver, False, False, FAILURE_SIMULATION, {FAILURE_SIMULATION: 1}, 0.0, "")


def _server(config: StudyConfig, town: str) -> EmbeddedServer:
    return EmbeddedServer(EmbeddedServerConfig(town=town, town_dir=config.town_dir, threads=1, render=False))


def _drive_routes(config: StudyConfig, reporter: Reporter, routes: Sequence[Route], worker: int) -> None:
    """Drive routes of a town with both drivers; reports a list of two drives for each."""
    with _server(config, routes[0].town) as server:
        client = connect(server.host, server.port, 60.0)
        town = Town.of(routes[0].town, client.get_world().get_map())
        for route in routes:
            drives = _both(client, (server.host, server.port), town, route, config, worker, reporter)
            reporter.done([asdict(drive) for drive in drives])


def _both(
    client: carla.Client,
    address: tuple[str, int],
    town: Town,
    route: Route,
    config: StudyConfig,
    worker: int,
    reporter: Reporter,
) -> list[Drive]:
    drives = []
    for driver in DRIVERS:
        episode_config = EpisodeConfig(
            scoring=Scoring.BENCH2DRIVE,
            traffic=config.traffic,
            seed=config.seed,
            worker=worker,
            max_game_s=MAX_GAME_S,
        )
        episode = Episode(client, route, None, episode_config, address=address, planner=town.planner)
        rules = RuleDriver(ExpertConfig(max_speed_mps=MAX_SPEED_MPS), blind=driver == "blind")
        record = drive(episode, rules, lambda _: reporter.tell(lambda: None))
        act = record.provenance["scenarios"][0]
        triggered = act["state"] in ("running", "over")
        infractions = {
            kind: len(messages)
            for kind, messages in record.infractions.items()
            if messages and kind != Infraction.MIN_SPEED.value
        }
        if not infractions and not record.status.startswith(("Completed", "Perfect")):
            infractions = {record.status: 1}
        result = Drive(
            type=act["type"],
            town=route.town,
            route=route.id,
            driver=driver,
            triggered=triggered,
            passed=triggered and succeeded(record.status, record.infractions),
            status=record.status,
            infractions=infractions,
            game_s=record.duration_game_s,
            note=act["reason"],
        )
        logger.info("%s", json.dumps(asdict(result)))
        drives.append(result)
    return drives
