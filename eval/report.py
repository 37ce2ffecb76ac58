"""The report of a run: one HTML file that needs nothing else, for reading and for sending around.

Everything is inline: style, drawings, pictures. The page loads nothing, and its policy forbids it to.
"""

from __future__ import annotations

import base64
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from eval.draw import incident_text
from eval.job import artefact_folder
from eval.moments import Step, Trace, TraceError, read_trace, trace_path
from eval.plots import MPS_TO_KMH, control_svg, route_svg, speed_svg
from eval.progress import counted
from eval.recorder import moments_folder
from eval.results import ResultsError, RouteRecord, infraction_count, read_records
from eval.scoring import Infraction, mean_and_deviation

FILM = "demo.mp4"
"""Name of a run's film."""
STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STANDSTILL_MPS = 0.3
MAX_PICTURES = 10
"""Per route, of incidents."""
_COLUMNS = (
    ("walkers", "collisions with pedestrians", Infraction.COLLISION_PEDESTRIAN),
    ("vehicles", "collisions with vehicles", Infraction.COLLISION_VEHICLE),
    ("objects", "collisions with static objects", Infraction.COLLISION_STATIC),
    ("red lights", "red lights run", Infraction.RED_LIGHT),
    ("stop signs", "stop signs run", Infraction.STOP_SIGN),
    ("timeouts", "scenarios not passed in time", Infraction.SCENARIO_TIMEOUT),
    ("yielding", "emergency vehicles held up", Infraction.YIELD_TO_EMERGENCY_VEHICLE),
)
_SCORING_NAMES = {
    "bench2drive": "Bench2Drive (Leaderboard 2.0 factors, no minimum-speed factor)",
    "2.0": "CARLA Leaderboard 2.0",
    "2.1": "CARLA Leaderboard 2.1",
}
logger = logging.getLogger(__name__)


def write_report(run: Path, *, title: str = "Driving report") -> Path:
    """Write `report.html` into a run's folder from its records, its moments and its film; returns its path.

    Raises: ResultsError for a folder without records.
    """
    records = sorted(read_records(run / "results.jsonl"), key=_order)
    if not records:
        raise ResultsError(f"{run}: holds no route records; give the folder of a run")
    film = FILM if (run / FILM).is_file() else ""
    path = run / "report.html"
    aside = path.with_name(path.name + ".partial")
    aside.write_text(report_html(records, _traces(run, records), title=title, film=film), encoding="utf-8")
    aside.replace(path)
    return path


def report_html(records: Sequence[RouteRecord], traces: Mapping[str, Trace], *, title: str, film: str = "") -> str:
    """The whole page. `traces`: by the records' labels; a route without one gets no drawings."""
    sections = "".join(_route_section(record, traces.get(record.label)) for record in records)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>\n<body><main>"
        f"<h1>{escape(title)}</h1>{_lead(records, film)}{_tiles(records)}{_summary(records)}\n"
        f"{sections}\n{_facts(records)}</main></body></html>\n"
    )


def machine() -> str:
    """This machine in words."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB memory, {platform.system()}"


def _traces(run: Path, records: Sequence[RouteRecord]) -> dict[str, Trace]:
    traces = {}
    for record in records:
        path = trace_path(moments_folder(artefact_folder(run, record.repetition)), record.route_id)
        if not path.exists():
            continue
        try:
            traces[record.label] = read_trace(path)
        except TraceError as error:
            logger.warning("%s", error)
    return traces


def _lead(records: Sequence[RouteRecord], film: str) -> str:
    towns = ", ".join(sorted({record.town for record in records}))
    traffic = max(record.traffic for record in records)
    text = f"{counted(len(records), 'route')} in {escape(towns)} among {traffic} other vehicles."
    link = f' <a href="{escape(film, quote=True)}">Watch the film</a>.' if film else ""
    return f'<p class="lead">{text}{link}</p>'


def _tiles(records: Sequence[RouteRecord]) -> str:
    composed, deviation = mean_and_deviation([r.scores.score_composed for r in records])
    completion, _ = mean_and_deviation([r.scores.score_route for r in records])
    factor, _ = mean_and_deviation([r.scores.score_penalty for r in records])
    successes = sum(record.success for record in records)
    tiles = (
        (f"{composed:.1f}", f" &plusmn; {deviation:.1f}", "driving score"),
        (f"{completion:.1f}", " %", "route completion"),
        (f"{factor:.2f}", "", "infraction penalty"),
        (f"{successes}", f" of {len(records)}", "routes without a fault"),
        (f"{_driven_km(records):.2f}", " km", "of the routes driven"),
    )
    cells = "".join(f'<div class="tile"><b>{a}<small>{b}</small></b><span>{c}</span></div>' for a, b, c in tiles)
    return f'<div class="tiles">{cells}</div>'


def _summary(records: Sequence[RouteRecord]) -> str:
    heads = "".join(f'<th scope="col" title="{hint}">{name}</th>' for name, hint, _ in _COLUMNS)
    rows = "".join(_summary_row(record) for record in records)
    return (
        '<section class="card"><div class="scroll"><table>'
        "<caption>Scores and infractions per route, in the leaderboard's terms</caption>"
        '<thead><tr><th scope="col">route</th><th scope="col" class="words">town</th>'
        '<th scope="col" class="words">verdict</th><th scope="col">driving score</th><th scope="col">completion %</th>'
        f'<th scope="col">penalty</th><th scope="col">length m</th>{heads}<th scope="col">outside lanes m</th>'
        f"</tr></thead><tbody>{rows}</tbody>"
        f"<tfoot>{_mean_row(records)}</tfoot></table></div></section>"
    )


def _summary_row(record: RouteRecord) -> str:
    scores = record.scores
    counts = [infraction_count(record, kind) for _, _, kind in _COLUMNS]
    counts.append(1000.0 * infraction_count(record, Infraction.OUTSIDE_ROUTE_LANES))
    cells = "".join(f'<td class="{"some" if count else "none"}">{count:.0f}</td>' for count in counts)
    return (
        f'<tr><td><a href="#{_anchor(record)}">{escape(record.label)}</a></td>'
        f'<td class="words">{escape(record.town)}</td><td class="words">{_status(record)}</td>'
        f"<td>{_bar(scores.score_composed)}{scores.score_composed:.1f}</td><td>{scores.score_route:.1f}</td>"
        f"<td>{scores.score_penalty:.3f}</td><td>{record.route_length_m:.0f}</td>{cells}</tr>"
    )


def _mean_row(records: Sequence[RouteRecord]) -> str:
    def mean(values: Sequence[float]) -> float:
        return mean_and_deviation(values)[0]

    counts = "".join(
        f"<td>{mean([infraction_count(record, kind) for record in records]):.2f}</td>" for _, _, kind in _COLUMNS
    )
    outside_m = mean([1000.0 * infraction_count(r, Infraction.OUTSIDE_ROUTE_LANES) for r in records])
    scores = [record.scores for record in records]
    return (
        '<tr><th scope="row">mean</th><td></td><td></td>'
        f"<td>{mean([s.score_composed for s in scores]):.1f}</td><td>{mean([s.score_route for s in scores]):.1f}</td>"
        f"<td>{mean([s.score_penalty for s in scores]):.3f}</td>"
        f"<td>{mean([r.route_length_m for r in records]):.0f}</td>{counts}<td>{outside_m:.1f}</td></tr>"
    )


def _route_section(record: RouteRecord, trace: Trace | None) -> str:
    steps = trace.steps if trace else ()
    marks = [(number, step) for number, step in enumerate((s for s in steps if s.incidents), start=1)]
    drawings = ""
    if trace and len(steps) > 1:
        drawings = (
            f'<div class="figures"><div><h3>Route and driven line</h3>{route_svg(trace, marks)}{_MAP_LEGEND}</div>'
            f"<div><h3>Speed and the next traffic light</h3>{speed_svg(steps, marks)}{_SPEED_LEGEND}"
            f"<h3>What the agent did</h3>{control_svg(steps, marks)}{_CONTROL_LEGEND}</div></div>"
            f"{_gallery(trace, marks)}"
        )
    return (
        f'<section class="card route" id="{_anchor(record)}"><header><h2>Route {escape(record.label)}, '
        f"{escape(record.town)}</h2>{_status(record)}</header><p>{_story(record, steps)}</p>{drawings}</section>"
    )


def _story(record: RouteRecord, steps: Sequence[Step]) -> str:
    """What happened, in two or three sentences."""
    scores = record.scores
    driven_m = record.route_length_m * scores.score_route / 100.0
    sentences = [
        f"Drove {driven_m:.0f} of {record.route_length_m:.0f} m ({scores.score_route:.0f} %) in "
        f"{record.duration_game_s:.0f} s of simulated time"
    ]
    if len(steps) > 1:
        mean_mps = sum(step.speed_mps for step in steps) / len(steps)
        period_s = (steps[-1].time_s - steps[0].time_s) / (len(steps) - 1)
        stood_s = period_s * sum(step.speed_mps < STANDSTILL_MPS for step in steps)
        sentences[0] += f", at {MPS_TO_KMH * mean_mps:.0f} km/h on average, standing still for {stood_s:.0f} s"
    if record.failure_message:
        sentences.append(f"It ended because of {escape(record.failure_message)}")
    happened = [
        f"{escape(incident_text(incident.kind))} at {step.time_s:.0f} s"
        for step in steps
        for incident in step.incidents
    ]
    sentences.append("Noted: " + ", ".join(happened) if happened else "No infraction was noted")
    speeds = [float(event["percentage"]) for event in record.events if event["kind"] == Infraction.MIN_SPEED.value]
    if speeds:
        sentences.append(f"Against the surrounding traffic its speed was {sum(speeds) / len(speeds):.0f} % on average")
    sentences.append(
        f"Driving score {scores.score_composed:.1f} = completion {scores.score_route:.1f} x penalty "
        f"{scores.score_penalty:.3f}"
    )
    return ". ".join(sentences) + "."


def _gallery(trace: Trace, marks: Sequence[tuple[int, Step]]) -> str:
    """Front camera at the start, at every incident and at the end."""
    figures = [_figure(trace.start_picture, "<b>Start</b>", "Front camera at the start")]
    for number, step in marks[:MAX_PICTURES]:
        for incident in step.incidents:
            kind = escape(incident_text(incident.kind))
            caption = (
                f'<span class="badge">{number}</span><b>{kind[:1].upper()}{kind[1:]}</b> at {step.time_s:.1f} s, '
                f"{MPS_TO_KMH * step.speed_mps:.0f} km/h. {escape(incident.message)}"
            )
            figures.append(_figure(trace.picture(incident.picture), caption, f"Front camera: {kind}"))
    last = trace.steps[-1]
    figures.append(_figure(trace.end_picture, f"<b>End</b> at {last.time_s:.1f} s", "Front camera at the end"))
    shown = "".join(figures)
    hidden = len(marks) - MAX_PICTURES
    more = f'<p class="note">{hidden} more incidents are on the map.</p>' if hidden > 0 else ""
    return f'<div class="gallery">{shown}</div>{more}' if shown else ""


def _figure(picture: bytes | None, caption: str, alternative: str) -> str:
    if picture is None:
        return ""
    data = base64.b64encode(picture).decode("ascii")
    return (
        f'<figure><img alt="{alternative}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _facts(records: Sequence[RouteRecord]) -> str:
    """Where the numbers come from."""
    first = records[0]
    origin = first.provenance
    embedded = origin.get("server") == "embedded"
    server = "embedded server" if embedded else f"server at {origin.get('server', 'an unknown address')}"
    facts: list[tuple[str, Any]] = [
        ("Server", f"{server}, protocol version {origin.get('server_version', 'unknown')}"),
        ("Client", f"carla {origin.get('client_version', 'unknown')}"),
        ("Agent", origin.get("agent", "unknown")),
        ("Weights", origin.get("weights_sha256")),
        ("Agent configuration", origin.get("agent_config_sha256")),
        ("Route file", " ".join(str(origin[key]) for key in ("route_file", "route_file_sha256") if origin.get(key))),
        ("Scoring", _SCORING_NAMES.get(first.scoring.value, first.scoring.value)),
        ("Traffic", f"{first.traffic} vehicles, seed {first.seed}"),
        ("Sensors", ", ".join(_counted(first.sensors))),
        ("Time", _speed_of_simulation(records)),
        ("Machine", machine()),
        ("Written", f"{datetime.now():%Y-%m-%d %H:%M}"),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{_value(value)}</dd>" for name, value in facts if value)
    note = (
        '<p class="note">The town is generated and drawn by the embedded server. Scores from it compare agents with '
        "each other; they are not comparable with results published for CARLA's own towns.</p>"
    )
    return (
        f'<section class="card facts"><h2>How this was measured</h2><dl>{rows}</dl>{note if embedded else ""}</section>'
    )


def _speed_of_simulation(records: Sequence[RouteRecord]) -> str:
    game_s = sum(record.duration_game_s for record in records)
    wall_s = sum(record.duration_system_s for record in records)
    timings = records[0].provenance.get("timings_ms", {})
    parts = ", ".join(f"{escape(str(name))} {value:.1f}" for name, value in timings.items() if value is not None)
    return f"{game_s:.0f} s simulated in {wall_s:.0f} s" + (f"; median ms per tick: {parts}" if parts else "")


def _status(record: RouteRecord) -> str:
    kind = "fail" if record.status.startswith("Failed") else ("" if record.success else " part")
    text = record.status.removeprefix("Failed - ") if kind == "fail" else record.status
    return f'<span class="status {kind.strip()}">{escape(text)}</span>'


def _bar(percent: float) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width:{min(max(percent, 0.0), 100.0):.0f}%"></i></span>'


def _value(value: Any) -> str:
    text = str(value)
    hashed = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f'<code title="SHA-256">{text}</code>' if hashed else escape(text)


def _anchor(record: RouteRecord) -> str:
    return "route-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in record.label)


def _order(record: RouteRecord) -> tuple[tuple[int, int, str], int]:
    return _natural(record.route_id), record.repetition


def _natural(route_id: str) -> tuple[int, int, str]:
    """Sort key: numbers by value, before other names."""
    return (0, int(route_id), "") if route_id.isdecimal() else (1, 0, route_id)


def _counted(names: Sequence[str]) -> list[str]:
    """Names with how often each occurs, without the prefix they share."""
    short = [name.removeprefix("sensor.").removeprefix("other.") for name in names]
    return [f"{short.count(name)} x {name}" for name in dict.fromkeys(short)]


def _driven_km(records: Sequence[RouteRecord]) -> float:
    return sum(r.route_length_m * r.scores.score_route / 100.0 for r in records) / 1000.0


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _legend(*entries: tuple[str, str, str]) -> str:
    items = "".join(
        f'<li><i class="{css}" style="background:var(--{color})"></i>{text}</li>' for text, color, css in entries
    )
    return f'<ul class="legend">{items}</ul>'


_MAP_LEGEND = _legend(
    ("planned route, A to B", "plan", ""), ("driven", "driven", "thin"), ("driven outside its lanes", "red", "thin")
)
_SPEED_LEGEND = _legend(
    ("speed, km/h", "blue", "thin"),
    ("speed limit", "muted", "thin"),
    ("next light red", "red", ""),
    ("yellow", "amber", ""),
    ("green", "green", ""),
)
_CONTROL_LEGEND = _legend(
    ("throttle", "green", ""),
    ("brake", "red", ""),
    ("steering, right is up", "ink", "thin"),
    ("guard drives", "amber", ""),
)
