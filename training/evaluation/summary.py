"""What an evaluation says: a table of the drivers with intervals, paired comparisons, a row per scenario type."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.metrics.compare import compare_runs
from eval.metrics.records import Run, read_runs
from eval.metrics.statistics import Interval, wilson_interval
from eval.metrics.summary import Options, Summary, summarise
from eval.metrics.tables import (
    ALL_PER_KM,
    DRIVING_SCORE,
    OUTSIDE_PER_KM,
    PENALTY,
    PER_KM_KEYS,
    ROUTE_COMPLETION,
    SUCCESS_RATE,
)
from eval.report import machine
from eval.results import RouteRecord
from eval.scoring import Infraction
from training.evaluation.drivers import Candidate
from training.scenario_study import commit

FORMAT = 1
MEANS = (DRIVING_SCORE, ROUTE_COMPLETION, PENALTY, SUCCESS_RATE)
PER_KM = (ALL_PER_KM, *PER_KM_KEYS, OUTSIDE_PER_KM)
WITHOUT_SCENARIO = "no scenario"


def summarised(
    drivers: Sequence[Candidate],
    records: Mapping[str, Sequence[RouteRecord]],
    out: Path,
    *,
    baseline: str,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `summary.json`; `records` and the results files in `out` are of the same drives."""
    runs = {driver.name: _runs(driver, out) for driver in drivers}
    notes: list[str] = []
    shown: dict[str, Any] = {}
    for driver in drivers:
        summary = summarise(runs[driver.name], Options())
        lost = sum(not record.decided for record in records[driver.name])
        if lost:
            notes.append(f"{driver.name}: the simulation failed on {lost} drives every time; they count as they ended")
        shown[driver.name] = _driver(driver, records[driver.name], summary)
    others = [driver.name for driver in drivers if driver.name != baseline]
    kinds = sorted({_kind(record) for own in records.values() for record in own})
    return {
        "format": FORMAT,
        **about,
        "routes": len({record.route_id for own in records.values() for record in own}),
        "towns": sorted({record.town for own in records.values() for record in own}),
        "commit": commit(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "drivers": shown,
        "baseline": baseline,
        "compared": {name: compare_runs(runs[baseline], runs[name]).to_json() for name in others},
        "types": {kind: {name: _counts(own, kind) for name, own in records.items()} for kind in kinds},
        "notes": notes,
    }


def _runs(driver: Candidate, out: Path) -> list[Run]:
    runs = read_runs([out / driver.folder / "results.json"])
    return [replace(run, name=driver.name) for run in runs]


def _driver(driver: Candidate, records: Sequence[RouteRecord], summary: Summary) -> dict[str, Any]:
    succeeded = sum(record.success for record in records)
    keys = [key for key in (*MEANS, *PER_KM) if key in summary.values]
    return {
        "weights": driver.source or None,
        "weights_sha256": driver.sha256 or None,
        "weights_step": driver.step if driver.sha256 else None,
        "actions": None if driver.weights is None else ("sampled" if driver.sampled else "greedy"),
        "drives": len(records),
        "succeeded": succeeded,
        "success_wilson_95_percent": [100.0 * end for end in wilson_interval(succeeded, len(records))],
        "triggered": sum(_triggered(record) for record in records),
        "driven_km": sum(record.route_length_m * record.scores.score_route for record in records) / 1e5,
        **{key: summary.values[key] for key in keys},
        "interval_95": {key: _listed(summary.intervals.get(key)) for key in keys},
        "per_seed": [{key: values[key] for key in MEANS} for values in summary.per_run],
        "statuses": dict(sorted(Counter(record.status for record in records).items())),
    }


def _counts(records: Sequence[RouteRecord], kind: str) -> dict[str, Any]:
    own = [record for record in records if _kind(record) == kind]
    return {
        "drives": len(own),
        "triggered": sum(_triggered(record) for record in own),
        "succeeded": sum(record.success for record in own),
        DRIVING_SCORE: sum(record.scores.score_composed for record in own) / len(own) if own else None,
        "drives_with": dict(Counter(stop for record in own for stop in stops(record))),
    }


def stops(record: RouteRecord) -> list[str]:
    """Why a drive is no success: its kinds of infractions, or its status."""
    if record.success:
        return []
    kinds = [kind for kind, found in record.infractions.items() if found and kind != Infraction.MIN_SPEED.value]
    return kinds or [record.status]


def _kind(record: RouteRecord) -> str:
    scenarios = record.provenance.get("scenarios") or [{}]
    return str(scenarios[0].get("type") or WITHOUT_SCENARIO)


def _triggered(record: RouteRecord) -> bool:
    scenarios = record.provenance.get("scenarios") or [{}]
    return scenarios[0].get("state") in ("running", "over")


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


# ------------------------------------------------------------------------------------------- tables


def markdown(summary: Mapping[str, Any]) -> str:
    """The tables, with what they are about."""
    seeds = summary["seeds"]
    cut = f", every drive ended after {summary['max_game_s']:g} s" if summary["max_game_s"] is not None else ""
    lines = [
        f"Driven on the embedded server, not on CARLA: {summary['routes']} routes of {summary['routes_file']} in "
        f"{', '.join(summary['towns'])}, {summary['traffic']} cars of background traffic, seeds "
        f"{', '.join(map(str, seeds))}; scoring {summary['scoring']}{cut}.",
        f"{summary['machine']}; {summary['date']}, code of {summary['commit']}.",
        "",
        *_drivers_table(summary["drivers"]),
        "",
        *_per_km_table(summary["drivers"]),
        "",
        *_compared_table(summary),
        "",
        *_types_table(summary),
        "",
        *(f"Note: {note}" for note in summary["notes"]),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _drivers_table(drivers: Mapping[str, Any]) -> list[str]:
    lines = [
        "| driver | success % (Wilson) | driving score (bootstrap) | route completion % | drives | triggered |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in drivers.items():
        success = _with_interval(own[SUCCESS_RATE], own["success_wilson_95_percent"])
        score = _with_interval(own[DRIVING_SCORE], own["interval_95"][DRIVING_SCORE])
        completion = _with_interval(own[ROUTE_COMPLETION], own["interval_95"][ROUTE_COMPLETION])
        lines.append(f"| {name} | {success} | {score} | {completion} | {own['drives']} | {own['triggered']} |")
    return lines


def _per_km_table(drivers: Mapping[str, Any]) -> list[str]:
    keys = [key for key in PER_KM if any(own.get(key) for own in drivers.values())]
    if not keys:
        return ["No infractions."]
    lines = [f"| per km | {' | '.join(drivers)} |", "|---" * (len(drivers) + 1) + "|"]
    for key in keys:
        name = "m outside the route's lanes" if key == OUTSIDE_PER_KM else key.removesuffix("_per_km").replace("_", " ")
        lines.append(f"| {name} | {' | '.join(f'{own.get(key) or 0.0:.2f}' for own in drivers.values())} |")
    return lines


def _compared_table(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"| minus {summary['baseline']}, same routes and seeds | success % | driving score | route completion % | "
        "McNemar p |",
        "|---|---|---|---|---|",
    ]
    for name, comparison in summary["compared"].items():
        cells = []
        for key in (SUCCESS_RATE, DRIVING_SCORE, ROUTE_COMPLETION):
            item = comparison["differences"][key]
            cells.append(_with_interval(item["difference"], item["interval_95"], sign="+"))
        lines.append(f"| {name} | {' | '.join(cells)} | {comparison['success_mcnemar']['p']:.2g} |")
    return lines if summary["compared"] else []


def _types_table(summary: Mapping[str, Any]) -> list[str]:
    names = list(summary["drivers"])
    lines = [f"| type | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, own in summary["types"].items():
        cells = [f"{own[name]['succeeded']}/{own[name]['drives']}" for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    totals = [f"{own['succeeded']}/{own['drives']}" for own in summary["drivers"].values()]
    return [*lines, f"| **all** | {' | '.join(totals)} |"]


def _with_interval(value: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
    if value is None:
        return "n/a"
    shown = f"{value:{sign}.1f}"
    return shown if interval is None else f"{shown} ({interval[0]:.1f} to {interval[1]:.1f})"
