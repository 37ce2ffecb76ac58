"""`python -m eval score` and `python -m eval compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent import strict_json
from eval.metrics.abilities import ABILITIES
from eval.metrics.compare import Comparison, compare_runs, show_key
from eval.metrics.records import MAX_RECORDS, join_shares, read_files
from eval.metrics.route_table import COLUMNS, RoutePair, markdown, mean_cells, pair_routes
from eval.metrics.statistics import RESAMPLES, Interval
from eval.metrics.summary import WITHOUT_CREDIT_KEY, Options, Summary, summarise
from eval.metrics.tables import (
    ABILITIES_MEAN,
    ABILITY_KEYS,
    ALL_PER_KM,
    COMFORT_AS_CODED,
    COMFORT_CORRECTED,
    DRIVING_SCORE,
    EFFICIENCY,
    OUTSIDE_PER_KM,
    PENALTY,
    PER_KM_KEYS,
    ROUTE_COMPLETION,
    SUCCESS_RATE,
)
from eval.progress import print_table
from eval.results import ResultsError, read_records
from eval.routes import read_routes
from eval.scoring import Scoring

MAX_RESAMPLES = 1_000_000
PLAIN_WIDTH = 120
SHOWN_DRIVES = 8
EMBEDDED = "embedded"
LABELS = {
    DRIVING_SCORE: "Driving score",
    SUCCESS_RATE: "Success rate %",
    ROUTE_COMPLETION: "Route completion %",
    PENALTY: "Infraction penalty (factor)",
    EFFICIENCY: "Driving efficiency %",
    COMFORT_AS_CODED: "Comfort, as coded %",
    COMFORT_CORRECTED: "Comfort, corrected %",
    **{key: f"{ability} %" for key, ability in zip(ABILITY_KEYS, ABILITIES, strict=True)},
    WITHOUT_CREDIT_KEY: "Traffic_Signs %, without extra credit",
    ABILITIES_MEAN: "Mean of abilities %",
    ALL_PER_KM: "Infractions per km",
    **{key: f"  {key.removesuffix('_per_km').replace('_', ' ')} per km" for key in PER_KM_KEYS},
    OUTSIDE_PER_KM: "Outside route lanes, m per km",
}
"""What the tables show, in their order."""

ScoringChoice = Annotated[Scoring | None, tyro.conf.EnumChoicesFromValues]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Metrics of a run, or of several (one per seed), from result files: official layouts and our own."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Result files or run folders; several are seeds of one evaluation, or its shares where no route is in two."""
    scoring: ScoringChoice = None
    """Whose rules: 2.0, 2.1 or bench2drive (default: the file's own if it says so, else bench2drive)."""
    routes: Path | None = None
    """Route file that was driven: scenario types and the way to the first junction (for Traffic_Signs)."""
    town_dir: Path | None = None
    """Folder with the towns' .xodr files, or CARLA's Maps folder (for Traffic_Signs)."""
    metric_dir: Path | None = None
    """Folder with a folder per route that holds metric_info.json (default: beside the file), for comfort."""
    total_routes: int | None = None
    """Routes the means are taken over (default: what the file says, else 220 under bench2drive)."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap."""
    per_route: bool = False
    """Also print a line per route (our own runs)."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Paired comparison of two runs: second minus first over the drives they share."""

    first: tyro.conf.Positional[Path]
    """Result file or run folder."""
    second: tyro.conf.Positional[Path]
    """Result file or run folder."""
    scoring: ScoringChoice = None
    """Whose rules: 2.0, 2.1 or bench2drive (default: the files' own if they say so, else bench2drive)."""
    ignore_seeds: bool = False
    """Pair by route and repetition although the seeds differ."""
    routes: Path | None = None
    """Route file that was driven: scenario types, for the abilities, and the way to the first junction."""
    town_dir: Path | None = None
    """Folder with the towns' .xodr files, or CARLA's Maps folder (for Traffic_Signs)."""
    metric_dir: Path | None = None
    """Folder with a folder per route that holds metric_info.json (default: beside the file), for comfort."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap."""
    per_route: bool = False
    """Also print a line per drive: score, completion, status and infractions of both."""
    table: Path | None = None
    """Write the lines per drive to this Markdown file."""
    json: bool = False
    """Print JSON instead of a table."""


def score(config: ScoreConfig) -> int:
    """Print the metrics of result files. Raises: ResultsError, RouteFileError."""
    if not config.results:
        raise ResultsError("nothing to score: give result files or run folders")
    _check_resamples(config.resamples)
    if config.total_routes is not None and not 1 <= config.total_routes <= MAX_RECORDS:
        raise ResultsError(f"--total-routes must lie in [1, {MAX_RECORDS}], got {config.total_routes}")
    options = replace(
        _options(config), scoring=config.scoring, total_routes=config.total_routes, resamples=config.resamples
    )
    summary = summarise(join_shares(read_files(config.results)), options)
    if config.json:
        print(strict_json.dumps(summary.to_json(), indent=2))
        return 0
    if config.per_route:
        _print_routes(config.results)
    print_summary(summary, _console())
    return 0


def compare(config: CompareConfig) -> int:
    """Print the comparison of two runs. Raises: ResultsError, RouteFileError."""
    _check_resamples(config.resamples)
    options = _options(config)
    first, second = read_files([config.first, config.second])
    comparison = compare_runs(
        first, second, config.scoring, ignore_seeds=config.ignore_seeds, resamples=config.resamples, options=options
    )
    pairs = []
    if config.per_route or config.table is not None:
        pairs = pair_routes(first, second, config.scoring, ignore_seeds=config.ignore_seeds)
    if config.table is not None:
        _write_table(config.table, markdown(pairs, comparison.names))
    if config.json:
        drives = {"drives": [pair.to_json() for pair in pairs]} if config.per_route else {}
        print(strict_json.dumps(comparison.to_json() | drives, indent=2))
        return 0
    if config.per_route:
        print_pairs(pairs, _console())
    print_comparison(comparison, _console())
    return 0


def print_pairs(pairs: Sequence[RoutePair], console: Console) -> None:
    """Every drive's two verdicts, those that differ most first."""
    table = Table(*COLUMNS)
    for pair in pairs:
        table.add_row(*(Text(cell) for cell in pair.cells()))
    table.add_section()
    table.add_row(*mean_cells(pairs))
    console.print(table)
    console.print(f"{sum(pair.agrees for pair in pairs)} of {len(pairs)} drives have the same verdict")


def _write_table(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"--table {path}: cannot be written ({error.strerror}); choose another name") from error


def print_summary(summary: Summary, console: Console) -> None:
    """The metrics, one line each, and the notes."""
    several = len(summary.runs) > 1
    console.print(Text(_title(summary)), soft_wrap=True)
    table = Table()
    table.add_column("metric")
    table.add_column(f"mean of {len(summary.runs)} runs" if several else "value", justify="right")
    if several:
        table.add_column("± over runs", justify="right")
        table.add_column("of each run", justify="right")
    table.add_column("95 % interval", justify="right")
    for key, label in LABELS.items():
        if key not in summary.values or _is_idle(key, summary.values[key]):
            continue
        spread = []
        if several:
            spread = [
                _number(summary.deviations[key]),
                ", ".join(_number(values.get(key)) for values in summary.per_run),
            ]
        table.add_row(label, _number(summary.values[key]), *spread, _interval(summary.intervals[key]))
    console.print(table)
    for scored in summary.runs:
        wins = sum(drive.score.success for drive in scored.drives)
        console.print(
            Text(f"{scored.run.name}: {len(scored.drives)} of {scored.total} routes recorded, {wins} successful"),
            soft_wrap=True,
        )
    _print_notes(summary.notes, console)
    how = "routes and runs" if several else "routes; success rate and abilities: Wilson"
    console.print(f"Intervals: {summary.resamples} bootstrap resamples over {how}", soft_wrap=True)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The differences, one line each, the test of success and what was not paired."""
    first, second = comparison.names
    heading = f"B minus A over {comparison.pairs} paired drives, scoring {comparison.scoring.value}"
    console.print(Text(f"{heading}\nA: {first}\nB: {second}"), soft_wrap=True)
    table = Table("metric")
    for column in ("A", "B", "B - A", "95 % interval"):
        table.add_column(column, justify="right")
    for key, label in LABELS.items():
        item = comparison.differences.get(key)
        if item is not None and not (_is_idle(key, item.first) and _is_idle(key, item.second)):
            table.add_row(
                label, _number(item.first), _number(item.second), f"{item.difference:+.2f}", _interval(item.interval)
            )
    console.print(table)
    console.print(
        f"Success: {comparison.only_first_succeeded} drives succeeded with A alone, "
        f"{comparison.only_second_succeeded} with B alone; exact McNemar p = {comparison.mcnemar_p:.3g}",
        soft_wrap=True,
    )
    for side, keys in (("A", comparison.unpaired_first), ("B", comparison.unpaired_second)):
        if keys:
            shown = ", ".join(show_key(key) for key in keys[:SHOWN_DRIVES])
            more = f" and {len(keys) - SHOWN_DRIVES} more" if len(keys) > SHOWN_DRIVES else ""
            console.print(Text(f"Not paired, in {side} only: {shown}{more}"), soft_wrap=True)
    _print_notes(comparison.notes, console)
    console.print(f"Intervals: {comparison.resamples} paired bootstrap resamples over routes", soft_wrap=True)


def _options(config: ScoreConfig | CompareConfig) -> Options:
    """Where to look for what result files do not hold. Raises: ResultsError, RouteFileError."""
    for option, folder in (("--town-dir", config.town_dir), ("--metric-dir", config.metric_dir)):
        if folder is not None and not folder.is_dir():
            raise ResultsError(f"{option} {folder}: no such folder")
    routes = read_routes(config.routes) if config.routes is not None else ()
    return Options(routes=routes, town_dir=config.town_dir, metric_dir=config.metric_dir)


def _title(summary: Summary) -> str:
    names = ", ".join(scored.run.name for scored in summary.runs)
    servers = {drive.result.server for scored in summary.runs for drive in scored.drives if drive.result.server}
    if not servers:
        driven = ""
    elif servers == {EMBEDDED}:
        driven = "; driven on the embedded server, not on CARLA"
    else:
        driven = f"; driven on {', '.join(sorted(servers))}"
    return f"{names}: scoring {summary.scoring.value}{driven}"


def _is_idle(key: str, value: float | None) -> bool:
    """Kinds of infractions that did not happen have no line."""
    return key in PER_KM_KEYS and not value


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def _print_routes(paths: Sequence[Path]) -> None:
    for path in paths:
        lines = path / "results.jsonl" if path.is_dir() else path
        records = read_records(lines) if lines.suffix == ".jsonl" else []
        if not records:
            raise ResultsError(f"{path}: --per-route needs the folder or the results.jsonl of a run of our own")
        print_table(records)


def _check_resamples(resamples: int) -> None:
    if not 1 <= resamples <= MAX_RESAMPLES:
        raise ResultsError(f"--resamples must lie in [1, {MAX_RESAMPLES}], got {resamples}")


def _console() -> Console:
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=PLAIN_WIDTH)
