"""The command `python -m eval routes generate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from eval.generate import generate_routes
from eval.progress import counted
from eval.routes import Route, write_routes
from eval.runner import EXIT_INCOMPLETE, InputError
from eval.scenarios.generate import (
    PATIENCE_DRIVES,
    QUICK_DRIVES,
    Town,
    even_choice,
    long_route,
    scenario_routes,
    spread,
)
from eval.scenarios.registry import BENCH2DRIVE_TYPES, SCENARIOS
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect

MAX_LENGTH_M = 100_000.0


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate routes in own or real towns and write them as a route file.

    Without scenarios: drives of some length with some turns. `--scenarios all` (or types, separated by commas): short
    routes with one scenario each, as even over the types as the towns allow. `--long`: one long route per town with
    many scenarios.
    """

    town: str
    """Towns of the embedded server, separated by commas: Gen02,Motorway01 or Town01."""
    out: Path
    """Route file to write."""
    count: int = 20
    """Number of routes in all."""
    seed: int = 0
    """The same towns and seed give the same routes."""
    min_length_m: float = 400.0
    """Shortest route (without scenarios)."""
    min_turns: int = 2
    """Fewest left or right turns (without scenarios)."""
    scenarios: str = ""
    """Scenario types, separated by commas, `bench2drive` (its 44), or `all`."""
    even: bool = False
    """Look for places of every type in every town first, then choose the routes as even over types, then towns, as can
    be; types without any place are told and left out."""
    long: bool = False
    """One route of at least `long_length_m` with at least `long_scenarios` scenarios in each town."""
    long_length_m: float = 7000.0
    """Shortest long route."""
    long_scenarios: int = 30
    """Fewest scenarios of a long route."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns."""


def generate(config: GenerateConfig) -> int:
    """Write the route file; gives the exit code (1 if some scenario types found no place).

    Raises: InputError, RouteGenerationError, ServerError.
    """
    _check(config)
    kinds = _scenario_types(config.scenarios)
    if config.even and not kinds:
        raise InputError("--even chooses among routes with one scenario each; give --scenarios, too")
    towns = [_load(name, config) for name in config.town.split(",") if name]
    if not towns:
        raise InputError("--town names no town; try Gen02")
    missing: Counter[str] = Counter()
    if config.long:
        routes = [_long(config, town, str(position + 1)) for position, town in enumerate(towns)]
    elif config.even:
        routes, missing = _evenly(config, towns, kinds)
    elif kinds:
        routes, missing = _with_scenarios(config, towns, Counter(dict(spread(kinds, config.count))))
    else:
        routes = _plain(config, towns)
    write_routes(routes, config.out)
    print(f"{counted(len(routes), 'route')} in {config.town} written to {config.out}")
    for route in routes if config.long else ():
        kinds_there = Counter(block.type for block in route.scenarios)
        shown = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds_there.items()))
        print(f"route {route.id} in {route.town}: {route.keypoint_length_m:.0f} m, {len(route.scenarios)} scenarios")
        print(f"{len(kinds_there)} types: {shown}")
    if kinds:
        there = Counter(route.scenarios[0].type for route in routes)
        print(f"{len(there)} of {len(kinds)} types: {', '.join(f'{kind} {n}' for kind, n in sorted(there.items()))}")
    if config.even:
        print(f"towns: {', '.join(f'{name} {n}' for name, n in Counter(route.town for route in routes).items())}")
    for kind, count in sorted(missing.items()):
        print(f"{kind}: {count} more could not be placed; add towns that have room for it")
    return EXIT_INCOMPLETE if missing else 0


def _check(config: GenerateConfig) -> None:
    """Find out before any server is started what cannot work."""
    if config.long and config.scenarios:
        raise InputError("--long and --scenarios: choose one")
    for name in ("count", "long_scenarios"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    for name in ("min_length_m", "long_length_m"):
        value = getattr(config, name)
        if not 0.0 < value <= MAX_LENGTH_M:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be more than 0, at most {MAX_LENGTH_M:.0f}")
    if config.town_dir is not None and not config.town_dir.is_dir():
        raise InputError(f"--town-dir {config.town_dir}: no such folder")
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a folder; name the route file to write")
    if not config.out.absolute().parent.is_dir():
        raise InputError(f"--out {config.out}: there is no folder {config.out.parent}; make it first")


def _load(name: str, config: GenerateConfig) -> Town:
    server = EmbeddedServerConfig(town=name, town_dir=config.town_dir, render=False)
    with EmbeddedServer(server) as running:
        return Town.of(name, connect(running.host, running.port, 60.0).get_world().get_map())


def _with_scenarios(
    config: GenerateConfig, towns: list[Town], missing: Counter[str]
) -> tuple[list[Route], Counter[str]]:
    """Routes evenly over the towns; what some towns have no room for is asked of all towns again."""
    routes: list[Route] = []
    for again, patience in enumerate((QUICK_DRIVES, PATIENCE_DRIVES)):
        for position, town in enumerate(towns):
            left = 1 if again else len(towns) - position
            wanted = {kind: -(-count // left) for kind, count in missing.items()}
            seed, first_id = config.seed + again, len(routes) + 1
            found, _ = scenario_routes(town, wanted, seed=seed, first_id=first_id, patience=patience)
            missing -= Counter(route.scenarios[0].type for route in found)
            routes += found
    return routes, missing


def _evenly(config: GenerateConfig, towns: list[Town], kinds: list[str]) -> tuple[list[Route], Counter[str]]:
    """Routes that are even over types and towns, and the types without any place, one missing each."""
    per_town = -(-config.count // len(kinds))
    candidates: list[Route] = []
    for town in towns:
        candidates += scenario_routes(town, dict.fromkeys(kinds, per_town), seed=config.seed)[0]
    chosen = even_choice(candidates, config.count)
    missing = Counter(dict.fromkeys(set(kinds) - {route.scenarios[0].type for route in candidates}, 1))
    return [replace(route, id=str(number)) for number, route in enumerate(chosen, start=1)], missing


def _plain(config: GenerateConfig, towns: list[Town]) -> list[Route]:
    routes: list[Route] = []
    for position, town in enumerate(towns):
        found = generate_routes(
            town.carla_map,
            (config.count - len(routes)) // (len(towns) - position),
            seed=config.seed,
            min_length_m=config.min_length_m,
            min_turns=config.min_turns,
            town=town.name,
        )
        routes += [replace(route, id=str(len(routes) + k + 1)) for k, route in enumerate(found)]
    return routes


def _long(config: GenerateConfig, town: Town, route_id: str) -> Route:
    return long_route(
        town,
        seed=config.seed,
        min_length_m=config.long_length_m,
        min_scenarios=config.long_scenarios,
        route_id=route_id,
    )


def _scenario_types(text: str) -> list[str]:
    if text == "all":
        return sorted(SCENARIOS)
    if text == "bench2drive":
        return list(BENCH2DRIVE_TYPES)
    kinds = [kind for kind in text.split(",") if kind]
    unknown = sorted(set(kinds) - set(SCENARIOS))
    if unknown:
        raise InputError(f"--scenarios {', '.join(unknown)} is not known; known are {', '.join(sorted(SCENARIOS))}")
    return kinds
