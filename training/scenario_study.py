"""How often is each scenario type triggered, passed by the expert, and passed by a driver that ignores everybody?

Routes with one scenario each are generated in own towns; every route is driven once by each driver. The outcome is a
JSON file with one entry per drive and a Markdown table with one row per type.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import carla

from eval.episode import Episode, EpisodeConfig
from eval.results import write_json_atomically
from eval.routes import Route, write_routes
from eval.scenarios.generate import Town, scenario_routes
from eval.scenarios.registry import SCENARIOS
from eval.scoring import Infraction, Scoring, succeeded
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect
from training.drive import drive
from training.expert import ExpertConfig

MAX_GAME_S = 120.0
MAX_SPEED_MPS = 14.0
"""Both drivers keep to the speed limit below this."""
SHARES_PER_WORKER = 12
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is studied."""

    towns: tuple[str, ...]
    types: tuple[str, ...] = tuple(sorted(SCENARIOS))
    seeds: int = 5
    """Routes per type."""
    seed: int = 0
    traffic: int = 8
    """Background vehicles."""
    workers: int = 2
    town_dir: Path | None = None


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


def study(config: StudyConfig, out: Path) -> list[Drive]:
    """Drive everything and write `scenarios.json`, `scenarios.md` and the routes of each town into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    routes = plan(config)
    for town, planned in routes.items():
        write_routes(planned, out / f"{town}.xml")
    total = 2 * sum(len(planned) for planned in routes.values())
    logger.info("%d drives to make, planned in %.0f s", total, time.monotonic() - started_s)
    drives: list[Drive] = []
    started_s = time.monotonic()
    shares = [(config, share, position) for position, share in enumerate(_shares(routes, config.workers))]
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        for driven in pool.imap_unordered(_drive_share, shares):
            drives += driven
            left_s = (time.monotonic() - started_s) / len(drives) * (total - len(drives))
            passed = sum(drive.passed for drive in driven if drive.driver == "expert")
            logger.info(
                "%d of %d drives, about %.0f min left; %s: the expert passed %d of %d",
                *(len(drives), total, left_s / 60.0, driven[0].town, passed, len(driven) // 2),
            )
    drives.sort(key=lambda drive: (drive.type, drive.town, drive.route, drive.driver))
    write_json_atomically(out / "scenarios.json", {"drives": [asdict(drive) for drive in drives]})
    (out / "scenarios.md").write_text(table(drives), encoding="utf-8")
    return drives


def plan(config: StudyConfig) -> dict[str, list[Route]]:
    """Routes by town, those of a type in as many towns as it fits in."""
    missing = dict.fromkeys(config.types, config.seeds)
    routes: dict[str, list[Route]] = {}
    for position, name in enumerate(config.towns):
        left = len(config.towns) - position
        wanted = {kind: -(-count // left) for kind, count in missing.items() if count > 0}
        if not wanted:
            break
        with _server(config, name) as server:
            town = Town.of(name, connect(server.host, server.port, 60.0).get_world().get_map())
            routes[name], _ = scenario_routes(town, wanted, seed=config.seed, prefix=f"{name}_")
        for route in routes[name]:
            missing[route.scenarios[0].type] -= 1
        logger.info("%s: %d routes", name, len(routes[name]))
    for kind, count in missing.items():
        if count:
            logger.warning("%s: %d routes could not be placed in %s", kind, count, ", ".join(config.towns))
    return {name: planned for name, planned in routes.items() if planned}


def table(drives: list[Drive]) -> str:
    """Markdown table with a row per type and the totals."""
    by_type: dict[str, list[Drive]] = defaultdict(list)
    for item in drives:
        by_type[item.type].append(item)
    lines = [
        "| scenario | routes | triggered | expert passes | blind driver passes | what stops the blind driver |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(by_type):
        lines.append(_row(kind, by_type[kind]))
    lines.append(_row("**all**", drives))
    return "\n".join(lines) + "\n"


def _row(name: str, drives: list[Drive]) -> str:
    expert = [d for d in drives if d.driver == "expert"]
    blind = [d for d in drives if d.driver == "blind"]
    causes: dict[str, int] = defaultdict(int)
    for item in blind:
        for kind in item.infractions:
            causes[kind] += 1
    worst = ", ".join(f"{kind} {count}" for kind, count in sorted(causes.items(), key=lambda pair: -pair[1])[:3])
    triggered = sum(d.triggered for d in drives)
    cells = [name, len(expert), f"{triggered} of {len(drives)}", _share(expert), _share(blind), worst or "-"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _share(drives: list[Drive]) -> str:
    passed = sum(d.passed for d in drives)
    return f"{passed} of {len(drives)} ({100.0 * passed / max(len(drives), 1):.0f} %)"


def _shares(routes: dict[str, list[Route]], workers: int) -> list[list[Route]]:
    """Parts of the work, all of one town each, not too large for an even end."""
    share = max(sum(len(planned) for planned in routes.values()) // (workers * SHARES_PER_WORKER), 1)
    return [planned[k : k + share] for planned in routes.values() for k in range(0, len(planned), share)]


def _server(config: StudyConfig, town: str) -> EmbeddedServer:
    return EmbeddedServer(EmbeddedServerConfig(town=town, town_dir=config.town_dir, threads=1, render=False))


def _drive_share(task: tuple[StudyConfig, list[Route], int]) -> list[Drive]:
    """Drive some routes of a town with both drivers."""
    config, routes, position = task
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    drives: list[Drive] = []
    with _server(config, routes[0].town) as server:
        client = connect(server.host, server.port, 60.0)
        town = Town.of(routes[0].town, client.get_world().get_map())
        for route in routes:
            drives += _both(client, (server.host, server.port), town, route, config, position % config.workers)
    return drives


def _both(
    client: carla.Client, address: tuple[str, int], town: Town, route: Route, config: StudyConfig, worker: int
) -> list[Drive]:
    drives = []
    for driver in ("expert", "blind"):
        episode_config = EpisodeConfig(
            scoring=Scoring.BENCH2DRIVE,
            traffic=config.traffic,
            seed=config.seed,
            worker=worker,
            max_game_s=MAX_GAME_S,
        )
        episode = Episode(client, route, None, episode_config, address=address, planner=town.planner)
        record = drive(episode, ExpertConfig(max_speed_mps=MAX_SPEED_MPS), blind=driver == "blind")
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
