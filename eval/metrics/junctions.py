"""Where a route's first junction is behind the ego: what Bench2Drive's credit for traffic signs depends on.

Source: `main` in Bench2Drive's tools/ability_benchmark.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import carla

from eval.planner import PlannerError, RoutePlanner
from eval.results import ResultsError
from eval.routes import Route

POINTS_BEYOND = 8
"""Route points, 1 m apart, beyond the junction's first."""


def credit_percent(planner: RoutePlanner, keypoints: Iterable[tuple[float, float, float]]) -> float | None:
    """Completion [percent] that must be exceeded for the credit; None on a route without a junction.

    Raises: PlannerError for a route that does not exist on the map.
    """
    waypoints = [waypoint for waypoint, _ in planner.trace(list(keypoints))]
    first = next((index for index, waypoint in enumerate(waypoints) if waypoint.is_junction), None)
    return None if first is None else 100.0 * (first + 1 + POINTS_BEYOND) / len(waypoints)


def episode_credit_percent(carla_map: carla.Map, route: Route) -> float:
    """As `credit_percent`, for the record of a drive; 100, which cannot be exceeded, on a route without a junction."""
    found = credit_percent(RoutePlanner(carla_map), route.keypoints)
    return 100.0 if found is None else found


def town_file(town: str, town_dir: Path) -> Path | None:
    """The town's OpenDRIVE in a folder of .xodr files or in CARLA's own layout."""
    names = (f"{town}.xodr", f"OpenDrive/{town}.xodr", f"{town}/OpenDrive/{town}.xodr")
    return next((town_dir / name for name in names if (town_dir / name).is_file()), None)


def credits_percent(routes: Iterable[Route], town_dir: Path | None) -> tuple[Mapping[str, float], list[str], list[str]]:
    """Credit thresholds by route id, towns without a map, and notes on routes that have no threshold.

    Raises: ResultsError if a map cannot be read.
    """
    by_town: dict[str, list[Route]] = {}
    for route in routes:
        by_town.setdefault(route.town, []).append(route)
    found: dict[str, float] = {}
    missing: list[str] = []
    notes: list[str] = []
    for town, towns_routes in sorted(by_town.items()):
        path = None if town_dir is None else town_file(town, town_dir)
        if path is None:
            missing.append(town)
            continue
        planner = _planner(town, path)
        for route in towns_routes:
            try:
                threshold = credit_percent(planner, route.keypoints)
            except PlannerError as error:
                notes.append(f"route {route.id}: no credit, its route does not exist on {path.name}: {error}")
                continue
            if threshold is None:
                notes.append(f"route {route.id}: no credit, it has no junction on {path.name}")
                continue
            found[route.id] = threshold
    return found, missing, notes


def _planner(town: str, path: Path) -> RoutePlanner:
    try:
        return RoutePlanner(carla.Map(town, path.read_text(encoding="utf-8", errors="replace")))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ResultsError(
            f"{path}: not an OpenDRIVE map that CARLA reads ({reason}); give another --town-dir"
        ) from error
