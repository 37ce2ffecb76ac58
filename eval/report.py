"""The report of a run: one HTML file that needs nothing else, for reading and for sending around.

Everything is inline: style, drawings, pictures. The page loads nothing, and its policy forbids it to. It works without
scripts: routes fold and filter by the page's style alone.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.job import artefact_folder
from eval.metrics.records import read_runs
from eval.metrics.summary import Options, Summary, summarise
from eval.moments import Trace, TraceError, read_trace, trace_path
from eval.progress import counted
from eval.recorder import film_path, frames_path, moments_folder, settle_film
from eval.report_routes import RouteStory, routes_section
from eval.report_summary import World, metrics_section, published_section, tiles, world_of
from eval.report_timing import read_crashes, timing_section
from eval.results import ResultsError, RouteRecord, read_records

FILM = "demo.mp4"
"""Name of a run's film."""
STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SCORING_NAMES = {
    "bench2drive": "Bench2Drive (Leaderboard 2.0 factors, no minimum-speed factor)",
    "2.0": "CARLA Leaderboard 2.0",
    "2.1": "CARLA Leaderboard 2.1",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStory:
    """What a report tells of a run."""

    title: str
    stories: tuple[RouteStory, ...]
    summary: Summary
    crashes: tuple[dict[str, Any], ...] = ()
    film: str = ""
    """Path of the run's film relative to the page."""

    @property
    def records(self) -> list[RouteRecord]:
        """The records of all routes."""
        return [story.record for story in self.stories]


def write_report(run: Path, *, title: str = "Driving report") -> Path:
    """Write `report.html` into a run's folder from what the run left there; returns its path.

    Raises: ResultsError for a folder without records.
    """
    story = read_story(run, title=title)
    path = run / "report.html"
    aside = path.with_name(path.name + ".partial")
    aside.write_text(report_html(story), encoding="utf-8")
    aside.replace(path)
    return path


def read_story(run: Path, *, title: str) -> RunStory:
    """Records, metrics, moments, films and crashes of a run. Raises: ResultsError for a folder without records."""
    records = read_records(run / "results.jsonl")
    if not records:
        raise ResultsError(f"{run}: holds no route records; give the folder of a run")
    for record in records:
        _settle(run, record)
    return RunStory(
        title=title,
        stories=tuple(_route_story(run, record) for record in records),
        summary=summarise(read_runs([run]), Options(scoring=records[0].scoring)),
        crashes=tuple(read_crashes(run / "crashes.jsonl")),
        film=FILM if (run / FILM).is_file() else "",
    )


def report_html(story: RunStory) -> str:
    """The whole page."""
    records, summary = story.records, story.summary
    world = world_of(records)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(story.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>\n<body><main>"
        f"{_head(story, world)}{tiles(summary, records)}\n"
        f"{metrics_section(summary, world)}\n{published_section(summary, records, world)}\n"
        f"{routes_section(story.stories)}\n{timing_section(records, story.crashes)}\n{_facts(records, world)}"
        "</main></body></html>\n"
    )


def machine() -> str:
    """This machine in words."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB memory, {platform.system()}"


def _settle(run: Path, record: RouteRecord) -> None:
    """Paint the film of a failed drive whose process was killed before it could."""
    folder = artefact_folder(run, record.repetition)
    if record.decided and frames_path(folder, record.route_id).is_file():
        if not record.success:
            print(f"painting the film of route {record.label} ...", file=sys.stderr, flush=True)
        try:
            settle_film(folder, record.route_id, wanted=not record.success)
        except TraceError as error:
            logger.warning("%s", error)


def _route_story(run: Path, record: RouteRecord) -> RouteStory:
    folder = artefact_folder(run, record.repetition)
    film = film_path(folder, record.route_id)
    return RouteStory(record, _trace(folder, record), film.relative_to(run).as_posix() if film.is_file() else "")


def _trace(folder: Path, record: RouteRecord) -> Trace | None:
    path = trace_path(moments_folder(folder), record.route_id)
    if not path.exists():
        return None
    try:
        return read_trace(path)
    except TraceError as error:
        logger.warning("%s", error)
        return None


def _head(story: RunStory, world: World) -> str:
    """What was driven, on what; the label comes first."""
    records = story.records
    towns = sorted({record.town for record in records})
    where = ", ".join(towns[:6]) + (f" and {len(towns) - 6} more towns" if len(towns) > 6 else "")
    traffic = max(record.traffic for record in records)
    text = f"{counted(len(records), 'route')} in {escape(where)} among {traffic} other vehicles."
    link = f' <a href="{quote(story.film)}">Watch the film</a>.' if story.film else ""
    driven_on = f'<p class="world">Driven on {world.chip}</p>'
    return f'{driven_on}<h1>{escape(story.title)}</h1><p class="lead">{text}{link}</p>'


def _facts(records: Sequence[RouteRecord], world: World) -> str:
    """Where the numbers come from."""
    first = next((record for record in records if record.provenance.get("server_version")), records[0])
    origin = first.provenance
    address = "" if origin.get("server") in ("embedded", "carla", None) else f" at {origin['server']}"
    facts: list[tuple[str, Any]] = [
        ("Server", f"{world.label}{address}, protocol version {origin.get('server_version', 'unknown')}"),
        ("Client", f"carla {origin.get('client_version', 'unknown')}"),
        ("Agent", origin.get("agent", "unknown")),
        ("Weights", origin.get("weights_sha256")),
        ("Agent configuration", origin.get("agent_config_sha256")),
        ("Route file", " ".join(str(origin[key]) for key in ("route_file", "route_file_sha256") if origin.get(key))),
        ("Scoring", _SCORING_NAMES.get(first.scoring.value, first.scoring.value)),
        ("Traffic", f"{first.traffic} vehicles, seed {first.seed}"),
        ("Sensors", ", ".join(_counted(first.sensors))),
        ("Report written", f"{datetime.now():%Y-%m-%d %H:%M} on {machine()}"),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{_value(value)}</dd>" for name, value in facts if value)
    note = (
        '<p class="note">The world was simulated and drawn by the embedded server. Scores from it compare agents with '
        "each other; they are not comparable with results published for CARLA.</p>"
    )
    title = "<h2>How this was measured</h2>"
    return f'<section class="card facts">{title}<dl>{rows}</dl>{note if world.embedded else ""}</section>'


def _value(value: Any) -> str:
    text = str(value)
    hashed = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f'<code title="SHA-256">{text}</code>' if hashed else escape(text)


def _counted(names: Sequence[str]) -> list[str]:
    """Names with how often each occurs, without the prefix they share."""
    short = [name.removeprefix("sensor.").removeprefix("other.") for name in names]
    return [f"{short.count(name)} x {name}" for name in dict.fromkeys(short)]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
