"""Routes of a run: from files, or generated once and kept in the run's folder."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

from eval.generate import generate_routes
from eval.routes import Route, read_routes, write_routes
from eval.scenarios.generate import Town, scenario_routes
from eval.scenarios.registry import BENCH2DRIVE_TYPES
from training.env.config import EnvConfig
from training.env.servers import Servers
from training.privileged.config import RouteConfig

EVALUATION_SEED = 1_000_000
"""Added to the seed, so that the routes of the evaluation are others than those of the training."""
WARM_UP_LENGTH_M = 150.0


class GenerationStoppedError(Exception):
    """Somebody wanted a stop before all routes were made; nothing was written."""


def routes_of(
    config: RouteConfig, env: EnvConfig, folder: Path, stop: threading.Event | None = None
) -> tuple[tuple[Route, ...], tuple[Route, ...]]:
    """Routes for training and for evaluation; what has to be generated is written into the folder.

    stop: generating ends after the town at hand when it is set.
    Raises: RouteFileError, RouteGenerationError, ServerError, GenerationStoppedError.
    """
    training, evaluation = config.file or folder / "routes.xml", config.evaluation_file or folder / "evaluation.xml"
    to_make = [path for given, path in ((config.file, training), (config.evaluation_file, evaluation)) if given is None]
    if any(not path.exists() for path in to_make):
        made = _generate(config, env, stop or threading.Event())
        for path, routes in ((training, made[0]), (evaluation, made[1])):
            if path in to_make and not path.exists():
                partial = path.with_suffix(".partial")
                write_routes(routes, partial)
                partial.rename(path)
    return tuple(read_routes(training)), tuple(read_routes(evaluation))


def _generate(config: RouteConfig, env: EnvConfig, stop: threading.Event) -> tuple[list[Route], list[Route]]:
    training: list[Route] = []
    evaluation: list[Route] = []
    servers = Servers(env)
    began_s = time.monotonic()
    try:
        for done, name in enumerate(config.towns):
            if stop.is_set():
                raise GenerationStoppedError
            print(_progress(len(training), done, config.towns, time.monotonic() - began_s), flush=True)
            town = Town.of(name, servers.client(name).get_world().get_map())
            wanted = dict.fromkeys(BENCH2DRIVE_TYPES, config.per_type)
            training += _numbered(_warm_up(town, config.warm_up, config.seed), len(training))
            training += _numbered(scenario_routes(town, wanted, seed=config.seed)[0], len(training))
            if not evaluation:
                seed = config.seed + EVALUATION_SEED
                free = (config.evaluation + 1) // 2
                placed = scenario_routes(town, dict.fromkeys(BENCH2DRIVE_TYPES, 1), seed=seed)[0]
                evaluation = _numbered([*_warm_up(town, free, seed), *placed][: config.evaluation], 0)
    finally:
        servers.stop()
    return training, evaluation


def _progress(routes: int, done: int, towns: tuple[str, ...], passed_s: float) -> str:
    left = f", about {passed_s / done * (len(towns) - done) / 60.0:.1f} min left" if done else ""
    return f"generated {routes} routes in {done} of {len(towns)} towns{left}; {towns[done]} is next"


def _warm_up(town: Town, count: int, seed: int) -> list[Route]:
    if not count:
        return []
    length = {"min_length_m": WARM_UP_LENGTH_M, "min_turns": 0}
    return generate_routes(town.carla_map, count, seed=seed, town=town.name, **length)


def _numbered(routes: list[Route], known: int) -> list[Route]:
    return [replace(route, id=str(known + k)) for k, route in enumerate(routes, 1)]
