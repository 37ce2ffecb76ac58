"""All metrics of one or several runs: values, intervals, spread over seeds, and what could not be told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics.abilities import ABILITIES, TRAFFIC_SIGNS, can_earn_credit, known_types
from eval.metrics.comfort import Comfort, MotionError, comfort, motion_file, read_motion
from eval.metrics.junctions import credits_percent, town_file
from eval.metrics.recorder import metrics_folder
from eval.metrics.records import Run, percentage
from eval.metrics.scores import RunScores, common_scoring, outside_km, score_run, total_routes
from eval.metrics.statistics import RESAMPLES, Interval, Ratio, bootstrap, wilson_interval
from eval.metrics.tables import (
    ABILITIES_MEAN,
    ABILITY_KEYS,
    COMFORT_AS_CODED,
    COMFORT_CORRECTED,
    EFFICIENCY,
    SUCCESS_RATE,
    Drive,
    ability_key,
    drive_abilities,
    tables,
)
from eval.results import STATUS_SIMULATION_CRASHED
from eval.routes import Route
from eval.scoring import Infraction, Scoring, mean_and_deviation

TRAFFIC_SIGNS_KEY = ability_key(TRAFFIC_SIGNS)
WITHOUT_CREDIT_KEY = "ability_traffic_signs_without_extra_credit_percent"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How runs are scored."""

    scoring: Scoring | None = None
    routes: Sequence[Route] = ()
    """The route file's routes: scenario types and keypoints."""
    town_dir: Path | None = None
    metric_dir: Path | None = None
    total_routes: int | None = None
    resamples: int = RESAMPLES


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run with all that was found out about its drives."""

    run: Run
    scores: RunScores
    drives: tuple[Drive, ...]
    total: int
    open_signs: int = 0
    """Failed routes of Traffic_Signs for which it is not known whether they earn the credit."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of runs; a metric that could not be computed is None and told in the notes."""

    scoring: Scoring
    runs: tuple[ScoredRun, ...]
    values: Mapping[str, float | None]
    """Means over the runs."""
    per_run: tuple[Mapping[str, float | None], ...]
    intervals: Mapping[str, Interval | None]
    resamples: int
    notes: tuple[str, ...] = ()
    deviations: Mapping[str, float | None] = field(default_factory=dict)
    """Sample standard deviation over the runs."""

    def to_json(self) -> dict[str, Any]:
        """The summary with documented keys."""
        outside = [sum(outside_km(drive.result) for drive in scored.drives) for scored in self.runs]
        return {
            "format": FORMAT,
            "scoring": self.scoring.value,
            **self.values,
            "outside_route_lanes_km": sum(outside) / len(outside),
            "interval_95": {name: None if pair is None else list(pair) for name, pair in self.intervals.items()},
            "std_dev_over_runs": dict(self.deviations),
            "bootstrap_resamples": self.resamples,
            "runs": [{**_run_json(scored), **values} for scored, values in zip(self.runs, self.per_run, strict=True)],
            "notes": list(self.notes),
        }


def summarise(runs: Sequence[Run], options: Options) -> Summary:
    """All metrics of the runs, which are seeds of the same evaluation.

    Raises: ResultsError if the runs were scored by different rules and none was asked for, or a map cannot be read.
    """
    scoring = common_scoring(runs, options.scoring)
    scored = [score_drives(run, scoring, options) for run in runs]
    ratios = tables([item.drives for item in scored], [item.total for item in scored])
    per_run = [_values(table, item) for table, item in zip(ratios, scored, strict=True)]
    names = list(dict.fromkeys(name for values in per_run for name in values))
    columns = {name: [values.get(name) for values in per_run] for name in names}
    intervals = bootstrap(ratios, {ABILITIES_MEAN: ABILITY_KEYS}, resamples=options.resamples)
    if len(runs) == 1:
        shares = [name for name in (SUCCESS_RATE, *ABILITY_KEYS) if name in ratios[0]]
        intervals.update({name: _wilson_percent(ratios[0][name]) for name in shares})
    if any(item.open_signs for item in scored):
        intervals[WITHOUT_CREDIT_KEY] = intervals.get(TRAFFIC_SIGNS_KEY)
        intervals[TRAFFIC_SIGNS_KEY] = intervals[ABILITIES_MEAN] = None
    notes = dict.fromkeys(note for item in scored for note in (*item.run.notes, *item.scores.notes, *item.notes))
    return Summary(
        scoring=scoring,
        runs=tuple(scored),
        values={name: _mean(column) for name, column in columns.items()},
        per_run=tuple(per_run),
        intervals={name: intervals.get(name) for name in names},
        resamples=options.resamples,
        notes=tuple(notes),
        deviations={name: _deviation(column) for name, column in columns.items()} if len(runs) > 1 else {},
    )


def score_drives(run: Run, scoring: Scoring, options: Options) -> ScoredRun:
    """The run's drives with scores, comfort and abilities."""
    scores = score_run(run, scoring)
    file_total = len(options.routes) if options.routes and run.total_routes is None else None
    total = total_routes(run, scoring, options.total_routes or file_total)
    by_id = {route.id: route for route in options.routes}
    types = [_scenario_type(result.scenario_type, by_id.get(result.route_id), bool(by_id)) for result in run.results]
    types = _once_each(run, types)
    thresholds, open_signs, sign_notes = _credits(run, scores, types, by_id, options)
    comforts, comfort_notes = _comforts(run, options.metric_dir)
    with_efficiency = _lists_every_checkpoint(run, scores)
    drives = tuple(
        Drive(result, score, comfort_, drive_abilities(kind), thresholds.get(result.route_id), with_efficiency)
        for result, score, comfort_, kind in zip(run.results, scores.scores, comforts, types, strict=True)
    )
    notes = [*_total_notes(run, total), *comfort_notes]
    if not with_efficiency:
        notes.append(
            f"{run.name}: efficiency needs Bench2Drive's minimum-speed checkpoints; the file has slow ones only"
        )
    if not known_types(types):
        notes.append(f"{run.name}: no abilities, no route has a scenario of Bench2Drive; give its --routes FILE.xml")
    return ScoredRun(run, scores, drives, total, open_signs, (*notes, *sign_notes))


def _scenario_type(recorded: str, route: Route | None, from_file: bool) -> str:
    """Type of the route's (first) scenario: by the route file where one is given, as in the official tool."""
    if not from_file:
        return recorded
    return route.scenarios[0].type if route is not None and route.scenarios else ""


def _once_each(run: Run, types: Sequence[str]) -> list[str]:
    """The scenario types, none for the second record of a drive: the official tool takes the first."""
    seen: set[tuple[str, int, int | None]] = set()
    once = []
    for result, kind in zip(run.results, types, strict=True):
        once.append("" if result.key in seen else kind)
        seen.add(result.key)
    return once


def _credits(
    run: Run, scores: RunScores, types: Sequence[str], routes: Mapping[str, Route], options: Options
) -> tuple[Mapping[str, float], int, list[str]]:
    """Thresholds of the traffic signs' credit by route (none unless all are known), how many are not, and why."""
    found: dict[str, float] = {}
    wanted: dict[str, str] = {}
    for result, score, kind in zip(run.results, scores.scores, types, strict=True):
        if not can_earn_credit(result, kind, score.success):
            continue
        if result.credit_percent is not None:
            found[result.route_id] = result.credit_percent
        else:
            route = routes.get(result.route_id)
            wanted[result.route_id] = route.town if route is not None else result.town
    known = [route_id for route_id in wanted if route_id in routes]
    computed, missing, notes = credits_percent([routes[route_id] for route_id in known], options.town_dir)
    found.update(computed)
    if not routes:
        missing = sorted({town for town in wanted.values() if not _has_map(town, options.town_dir)})
    unknown = len(wanted) if not routes else sum(wanted[route_id] in missing for route_id in known)
    notes = [f"{run.name}: {note}" for note in notes]
    if unknown:
        notes.append(_how_to_give(run, unknown, missing, bool(routes)))
    return ({} if unknown else found), unknown, notes


def _has_map(town: str, town_dir: Path | None) -> bool:
    return bool(town) and town_dir is not None and town_file(town, town_dir) is not None


def _how_to_give(run: Run, unknown: int, missing: Sequence[str], with_routes: bool) -> str:
    needs = []
    if missing:
        towns = ", ".join(town or "(no name)" for town in missing)
        needs.append(f"the maps of {towns} are missing: give --town-dir FOLDER with their .xodr files")
    if not with_routes:
        needs.append("the route file is missing: give --routes FILE.xml (bench2drive220.xml)")
    return (
        f"{run.name}: {TRAFFIC_SIGNS} without extra credit, mean of abilities withheld: {unknown} failed "
        f"routes may have passed their first junction; {'; '.join(needs)}"
    )


def _comforts(run: Run, metric_dir: Path | None) -> tuple[list[Comfort | None], list[str]]:
    """Comfort of every drive whose metric_info.json is there."""
    own = [place for folder in (run.folder, *run.other_folders) for place in (metrics_folder(folder), folder)]
    folders = [metric_dir] if metric_dir is not None else own
    found: list[Comfort | None] = []
    notes: list[str] = []
    for result in run.results:
        path = motion_file(result, folders)
        try:
            found.append(None if path is None else comfort(read_motion(path)))
        except MotionError as error:
            found.append(None)
            notes.append(f"{run.name}: comfort without route {result.route_id}: {error}")
    there = sum(value is not None for value in found)
    if not there:
        notes.append(
            f"{run.name}: no comfort: no route has its metric_info.json; "
            "give --metric-dir FOLDER (the SAVE_PATH of the run)"
        )
    elif there < len(found):
        notes.append(f"{run.name}: comfort over {there} of {len(found)} routes, the others have no metric_info.json")
    return found, notes


def _lists_every_checkpoint(run: Run, scores: RunScores) -> bool:
    """Whether the file has Bench2Drive's list of checkpoints; the leaderboard's own has only those below 100 %."""
    if scores.scoring is Scoring.BENCH2DRIVE and not scores.recomputed:
        return True
    messages = (message for result in run.results for message in result.messages(Infraction.MIN_SPEED))
    return any((percentage(message) or 0.0) >= 100.0 for message in messages)


def _values(table: Mapping[str, Ratio], scored: ScoredRun) -> dict[str, float | None]:
    """The run's metrics; what the credit for traffic signs decides is withheld while it is not known."""
    values: dict[str, float | None] = {name: ratio.value() for name, ratio in table.items()}
    for name in (EFFICIENCY, COMFORT_AS_CODED, COMFORT_CORRECTED, *ABILITY_KEYS):
        values.setdefault(name, None)
    if scored.open_signs:
        values[WITHOUT_CREDIT_KEY] = values[TRAFFIC_SIGNS_KEY]
        values[TRAFFIC_SIGNS_KEY] = None
    abilities = [values[name] for name in ABILITY_KEYS]
    values[ABILITIES_MEAN] = None if None in abilities else math.fsum(filter(None, abilities)) / len(ABILITIES)
    return values


def _wilson_percent(share: Ratio) -> Interval:
    """Interval of a share of successful routes, which also holds where all or none succeeded."""
    low, high = wilson_interval(round(share.numerator.sum() / 100.0), round(share.denominator.sum()))
    return 100.0 * low, 100.0 * high


def _total_notes(run: Run, total: int) -> list[str]:
    notes = []
    missing = total - len(run.results)
    if missing:
        notes.append(f"{run.name}: {missing} of {total} routes have no record and count as zero")
    crashed = sum(result.status == STATUS_SIMULATION_CRASHED for result in run.results)
    if crashed:
        notes.append(f"{run.name}: on {crashed} routes the simulation crashed; they count with the score they had")
    return notes


def _mean(column: Sequence[float | None]) -> float | None:
    """Mean over the runs; None unless every run has a value."""
    numbers = [value for value in column if value is not None]
    return math.fsum(numbers) / len(numbers) if len(numbers) == len(column) else None


def _deviation(column: Sequence[float | None]) -> float | None:
    numbers = [value for value in column if value is not None]
    return mean_and_deviation(numbers)[1] if len(numbers) == len(column) else None


def _run_json(scored: ScoredRun) -> dict[str, Any]:
    results = scored.run.results
    servers = sorted({result.server for result in results if result.server})
    return {
        "name": scored.run.name,
        "routes_total": scored.total,
        "routes_recorded": len(results),
        "routes_succeeded": sum(drive.score.success for drive in scored.drives),
        "statuses": dict(sorted(Counter(result.status for result in results).items())),
        "scores_recomputed": scored.scores.recomputed,
        "traffic_signs_credits_unknown": scored.open_signs,
        "servers": servers,
    }
