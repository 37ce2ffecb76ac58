"""The report's routes: a table of all, and per route what happened, drawn, in numbers and in words."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from eval.draw import incident_text
from eval.moments import Incident, Step, Trace
from eval.plots import MPS_TO_KMH, control_svg, route_svg, speed_svg
from eval.progress import counted
from eval.results import RouteRecord, infraction_count
from eval.scoring import Infraction, mean_and_deviation

STANDSTILL_MPS = 0.3
MAX_PICTURES = 10
"""Per route, of incidents."""
PICTURES_BYTES = 12_000_000
"""Of the whole page, before encoding; every route may use the same share, so hundreds of routes stay readable."""
OPEN_ROUTES = 12
"""So many routes are unfolded at first."""
TALL_ROUTES = 30
"""A longer table scrolls."""
_COLUMNS = (
    ("walkers", "collisions with pedestrians", Infraction.COLLISION_PEDESTRIAN),
    ("vehicles", "collisions with vehicles", Infraction.COLLISION_VEHICLE),
    ("objects", "collisions with static objects", Infraction.COLLISION_STATIC),
    ("red lights", "red lights run", Infraction.RED_LIGHT),
    ("stop signs", "stop signs run", Infraction.STOP_SIGN),
    ("timeouts", "scenarios not passed in time", Infraction.SCENARIO_TIMEOUT),
    ("yielding", "emergency vehicles held up", Infraction.YIELD_TO_EMERGENCY_VEHICLE),
)


_STATES = {
    "waiting": "not reached",
    "prepared": "set up, not triggered",
    "running": "triggered, not over at the end",
    "over": "triggered, over",
    "skipped": "skipped",
}


@dataclass(frozen=True, slots=True)
class RouteStory:
    """One route with what is left of its drive."""

    record: RouteRecord
    trace: Trace | None = None
    film: str = ""
    """Path of its film relative to the page."""

    @property
    def kind(self) -> str:
        """CSS class: failed, faulty (completed with infractions) or clean."""
        if self.record.status.startswith("Failed"):
            return "failed"
        return "clean" if self.record.success else "faulty"


def routes_section(stories: Sequence[RouteStory]) -> str:
    """Filter, table and the routes themselves, failed ones first."""
    ordered = sorted(stories, key=_order)
    share = PICTURES_BYTES // max(len(ordered), 1)
    opened = [story.kind != "clean" or len(ordered) <= OPEN_ROUTES for story in ordered]
    sections = "".join(
        _route_section(story, share, opened=wanted and index < OPEN_ROUTES)
        for index, (story, wanted) in enumerate(zip(ordered, opened, strict=True))
    )
    return f'<div class="routes" id="routes">{_filter(ordered)}{_summary(ordered)}\n{sections}</div>'


def _filter(stories: Sequence[RouteStory]) -> str:
    """Buttons that work without scripts: the style hides what the chosen one leaves out."""
    counts = {kind: sum(story.kind == kind for story in stories) for kind in ("failed", "faulty", "clean")}
    names = {"failed": "failed", "faulty": "with infractions", "clean": "without a fault"}
    choices = [("all", f"all {len(stories)}"), *((kind, f"{counts[kind]} {name}") for kind, name in names.items())]
    buttons = "".join(
        f'<input type="radio" name="show" class="filter" id="show-{kind}"{" checked" if kind == "all" else ""}>'
        f'<label for="show-{kind}">{text}</label>'
        for kind, text in choices
        if kind == "all" or counts[kind]
    )
    return f"<h2>Routes</h2>{buttons}"


def _summary(stories: Sequence[RouteStory]) -> str:
    heads = "".join(f'<th scope="col" title="{hint}">{name}</th>' for name, hint, _ in _COLUMNS)
    with_scenarios = any(story.record.provenance.get("scenarios") for story in stories)
    scenario = '<th scope="col" class="words">scenario</th>' if with_scenarios else ""
    rows = "".join(_summary_row(story, with_scenarios=with_scenarios) for story in stories)
    records = [story.record for story in stories]
    tall = " tall" if len(stories) > TALL_ROUTES else ""
    return (
        f'<section class="card"><div class="scroll{tall}"><table class="list">'
        "<caption>Scores and infractions per route, in the leaderboard's terms</caption>"
        f'<thead><tr><th scope="col">route</th><th scope="col" class="words">town</th>{scenario}'
        '<th scope="col" class="words">verdict</th><th scope="col">driving score</th><th scope="col">completion %</th>'
        f'<th scope="col">penalty</th><th scope="col">length m</th>{heads}<th scope="col">outside lanes m</th>'
        f"</tr></thead><tbody>{rows}</tbody>"
        f"<tfoot>{_mean_row(records, with_scenarios=with_scenarios)}</tfoot></table></div></section>"
    )


def _summary_row(story: RouteStory, *, with_scenarios: bool) -> str:
    record, scores = story.record, story.record.scores
    counts = [infraction_count(record, kind) for _, _, kind in _COLUMNS]
    counts.append(1000.0 * infraction_count(record, Infraction.OUTSIDE_ROUTE_LANES))
    cells = "".join(f'<td class="{"some" if count else "none"}">{count:.0f}</td>' for count in counts)
    scenario = f'<td class="words">{escape(_scenario_types(record))}</td>' if with_scenarios else ""
    return (
        f'<tr class="{story.kind}"><td><a href="#{_anchor(record)}">{escape(record.label)}</a></td>'
        f'<td class="words">{escape(record.town)}</td>{scenario}<td class="words">{_status(story)}</td>'
        f"<td>{_bar(scores.score_composed)}{scores.score_composed:.1f}</td><td>{scores.score_route:.1f}</td>"
        f"<td>{scores.score_penalty:.3f}</td><td>{record.route_length_m:.0f}</td>{cells}</tr>"
    )


def _mean_row(records: Sequence[RouteRecord], *, with_scenarios: bool) -> str:
    def mean(values: Sequence[float]) -> float:
        return mean_and_deviation(values)[0]

    counts = "".join(
        f"<td>{mean([infraction_count(record, kind) for record in records]):.2f}</td>" for _, _, kind in _COLUMNS
    )
    outside_m = mean([1000.0 * infraction_count(r, Infraction.OUTSIDE_ROUTE_LANES) for r in records])
    scores = [record.scores for record in records]
    return (
        f'<tr><th scope="row">mean</th><td></td><td></td>{"<td></td>" if with_scenarios else ""}'
        f"<td>{mean([s.score_composed for s in scores]):.1f}</td><td>{mean([s.score_route for s in scores]):.1f}</td>"
        f"<td>{mean([s.score_penalty for s in scores]):.3f}</td>"
        f"<td>{mean([r.route_length_m for r in records]):.0f}</td>{counts}<td>{outside_m:.1f}</td></tr>"
    )


def _route_section(story: RouteStory, share_bytes: int, *, opened: bool) -> str:
    record, trace = story.record, story.trace
    steps = trace.steps if trace else ()
    marks = [(number, step) for number, step in enumerate((s for s in steps if s.incidents), start=1)]
    drawings = ""
    if trace and len(steps) > 1:
        drawings = (
            f'<div class="figures"><div><h3>Route and driven line</h3>{route_svg(trace, marks)}{_MAP_LEGEND}</div>'
            f"<div><h3>Speed and the next traffic light</h3>{speed_svg(steps, marks)}{_SPEED_LEGEND}"
            f"<h3>What the agent did</h3>{control_svg(steps, marks)}{_CONTROL_LEGEND}</div></div>"
            f"{_gallery(trace, marks, share_bytes)}"
        )
    film = f'<p><a href="{quote(story.film)}">Watch the film of this route</a></p>' if story.film else ""
    types = _scenario_types(record)
    about = f"<small>{escape(types)}</small>" if types else ""
    # The anchor is inside: a browser that is sent to it unfolds the section.
    return (
        f'<details class="card route {story.kind}"{" open" if opened else ""}><summary><h2>Route '
        f"{escape(record.label)}, {escape(record.town)}</h2>{about}{_status(story)}"
        f"<b>{record.scores.score_composed:.1f}</b></summary>"
        f'<div id="{_anchor(record)}"><p>{_story(record, steps)}</p>{_scenarios(record)}{film}{drawings}</div>'
        "</details>"
    )


def _scenario_types(record: RouteRecord) -> str:
    """The scenario types of a route, each once."""
    scenarios = record.provenance.get("scenarios") or []
    names = list(dict.fromkeys(str(scenario.get("type", "")) for scenario in scenarios))
    more = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return ", ".join(names[:2] if more else names) + more


def _scenarios(record: RouteRecord) -> str:
    """What became of each scenario."""
    scenarios = record.provenance.get("scenarios") or []
    items = "".join(f"<li>{_scenario(scenario)}</li>" for scenario in scenarios)
    return f'<ul class="scenarios">{items}</ul>' if items else ""


def _scenario(scenario: Mapping[str, Any]) -> str:
    state, reason = str(scenario.get("state", "")), str(scenario.get("reason") or "")
    words = _STATES.get(state, state)
    return f"Scenario <b>{escape(str(scenario.get('type', '')))}</b>: {escape(words)}" + (
        f" ({escape(reason)})" if reason else ""
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


def _gallery(trace: Trace, marks: Sequence[tuple[int, Step]], share_bytes: int) -> str:
    """Front camera at the start, at every incident and at the end; incidents first where not all have room."""
    shots = [
        (trace.start_picture, "<b>Start</b>", "Front camera at the start"),
        *(
            (trace.picture(incident.picture), *_incident_words(number, step, incident))
            for number, step in marks
            for incident in step.incidents
        ),
    ]
    last = f"<b>End</b> at {trace.steps[-1].time_s:.1f} s"
    shots.append((trace.end_picture, last, "Front camera at the end"))
    incidents = range(1, len(shots) - 1)
    chosen, used = set(), 0
    for index in (*incidents[:MAX_PICTURES], len(shots) - 1, 0):
        picture = shots[index][0]
        if picture is not None and (not chosen or used + len(picture) <= share_bytes):
            chosen.add(index)
            used += len(picture)
    shown = "".join(
        _figure(picture, caption, words)
        for index, (picture, caption, words) in enumerate(shots)
        if index in chosen and picture is not None
    )
    hidden = sum(shots[index][0] is not None for index in incidents if index not in chosen)
    more = f'<p class="note">{counted(hidden, "more picture")} in the run\'s folder.</p>' if hidden else ""
    return f'<div class="gallery">{shown}</div>{more}' if shown else ""


def _incident_words(number: int, step: Step, incident: Incident) -> tuple[str, str]:
    """Caption and alternative text of an incident's picture."""
    kind = escape(incident_text(incident.kind))
    caption = (
        f'<span class="badge">{number}</span><b>{kind[:1].upper()}{kind[1:]}</b> at {step.time_s:.1f} s, '
        f"{MPS_TO_KMH * step.speed_mps:.0f} km/h. {escape(incident.message)}"
    )
    return caption, f"Front camera: {kind}"


def _figure(picture: bytes, caption: str, alternative: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    return (
        f'<figure><img alt="{alternative}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _status(story: RouteStory) -> str:
    status = story.record.status
    text = status.removeprefix("Failed - ") if story.kind == "failed" else status
    return f'<span class="status {story.kind}">{escape(text)}</span>'


def _bar(percent: float) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width:{min(max(percent, 0.0), 100.0):.0f}%"></i></span>'


def _anchor(record: RouteRecord) -> str:
    return "route-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in record.label)


def _order(story: RouteStory) -> tuple[int, tuple[int, int, str], int]:
    kinds = ("failed", "faulty", "clean")
    return kinds.index(story.kind), _natural(story.record.route_id), story.record.repetition


def _natural(route_id: str) -> tuple[int, int, str]:
    """Sort key: numbers by value, before other names."""
    return (0, int(route_id), "") if route_id.isdecimal() else (1, 0, route_id)


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
