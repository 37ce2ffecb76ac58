"""The report's summary: what drove the world, the run's metrics with intervals, published results, ability radar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from eval.metrics.abilities import ABILITIES
from eval.metrics.commands import EMBEDDED, LABELS
from eval.metrics.statistics import Interval
from eval.metrics.summary import Summary
from eval.metrics.tables import (
    ABILITIES_MEAN,
    ABILITY_KEYS,
    COMFORT_AS_CODED,
    DRIVING_SCORE,
    EFFICIENCY,
    PENALTY,
    PER_KM_KEYS,
    ROUTE_COMPLETION,
    SUCCESS_RATE,
    tables,
)
from eval.progress import counted
from eval.published import CARLA_RELEASE, COLUMNS, RAW2DRIVE, RESULTS, ROUTE_FILE_SHA256, ROUTES, PublishedResult
from eval.radar import Spoke, radar_svg
from eval.results import RouteRecord
from eval.scoring import Scoring
from eval.server import release

UNKNOWN = "unknown server"
_HEADS = {
    DRIVING_SCORE: "driving score",
    SUCCESS_RATE: "success %",
    EFFICIENCY: "effi&shy;ciency %",
    COMFORT_AS_CODED: "comfort %",
    **{key: name.replace("_", " ").lower() for key, name in zip(ABILITY_KEYS, ABILITIES, strict=True)},
    ABILITIES_MEAN: "mean of abilities",
}
_PERCENT_KEYS = frozenset({DRIVING_SCORE, SUCCESS_RATE, ROUTE_COMPLETION, COMFORT_AS_CODED, *ABILITY_KEYS})


@dataclass(frozen=True, slots=True)
class World:
    """What the routes were driven on."""

    label: str
    """`embedded server`, `CARLA 0.9.15`, or that it is not known."""
    embedded: bool
    """Whether any route was, or may have been, driven on the embedded server."""

    @property
    def chip(self) -> str:
        """The label for the top of the page and for the run's row."""
        return f'<span class="chip {"embedded" if self.embedded else "carla"}">{escape(self.label)}</span>'


def world_of(records: Sequence[RouteRecord]) -> World:
    """What drove the records' world; records of crashes, which do not say, take no part."""
    labels: dict[str, None] = {}
    for record in records:
        server = record.provenance.get("server")
        if server == EMBEDDED:
            labels["embedded server"] = None
        elif server:
            version = record.provenance.get("server_version")
            labels["CARLA " + ".".join(release(str(version))) if version else "CARLA"] = None
    label = " and ".join(sorted(labels, reverse=True)) or UNKNOWN
    return World(label, "embedded server" in labels or not labels)


def tiles(summary: Summary, records: Sequence[RouteRecord]) -> str:
    """The most important numbers, the driving score first."""
    driven_km = sum(r.route_length_m * r.scores.score_route / 100.0 for r in records) / 1000.0
    successes = sum(record.success for record in records)
    cells = [
        _tile("driving score", _figure(summary, DRIVING_SCORE, 1), _expected(summary, DRIVING_SCORE)),
        _tile(
            "success rate",
            f"{_figure(summary, SUCCESS_RATE, 0)}<small> %</small>",
            f"{successes} of {len(records)} routes",
        ),
        _tile(
            "route completion",
            f"{_figure(summary, ROUTE_COMPLETION, 1)}<small> %</small>",
            f"{driven_km:.2f} km driven",
        ),
        _tile("infraction penalty", _figure(summary, PENALTY, 3), "factor, 1 without infractions"),
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def metrics_section(summary: Summary, world: World) -> str:
    """All metrics with their intervals, and the radar where abilities are known."""
    drawing = _radar(summary)
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    how = f"95 % intervals: {summary.resamples} bootstrap resamples over routes; success rate and abilities: Wilson."
    table = (
        '<div class="scroll"><table class="metrics"><thead><tr><th scope="col">metric</th><th scope="col">value</th>'
        '<th scope="col">95 % interval</th><th class="wide"></th></tr></thead>'
        f"<tbody>{_metric_rows(summary)}</tbody></table></div>"
    )
    right = f"<div>{drawing}</div>" if drawing else ""
    return (
        f'<section class="card" id="metrics"><header><h2>Metrics</h2>{world.chip}</header>'
        f'<div class="{"pair" if drawing else ""}"><div>{table}</div>{right}</div>'
        f'<p class="note">{how}</p>{f"<ul class=note>{notes}</ul>" if notes else ""}</section>'
    )


def published_section(summary: Summary, records: Sequence[RouteRecord], world: World) -> str:
    """The run's row above published ones, and in words why they cannot be compared; empty under other rules."""
    if summary.scoring is not Scoring.BENCH2DRIVE:
        return ""
    reasons = differences(records, world)
    if reasons:
        listed = "".join(f"<li>{reason}</li>" for reason in reasons)
        warning = (
            '<div class="warning"><b>Not comparable.</b> The published rows are for orientation only; this run cannot '
            f"be ranked among them:<ul>{listed}</ul></div>"
        )
    else:
        warning = (
            '<p class="note">Same routes, rules and simulator release. Methods differ in training data, expert and '
            "compute, and single runs scatter by a few points.</p>"
        )
    heads = "".join(f'<th scope="col">{_HEADS[key]}</th>' for key in COLUMNS)
    rows = "".join(_published_row(result) for result in RESULTS)
    sources = {result.source.mark: result.source.text for result in RESULTS}
    listed_sources = "<br>".join(f"<sup>{mark}</sup> {escape(text)}" for mark, text in sorted(sources.items()))
    return (
        '<section class="card" id="published"><header><h2>Beside published results</h2>'
        f"<span>Bench2Drive, {ROUTES} routes</span></header>{warning}"
        f'<div class="scroll"><table class="published"><thead><tr><th scope="col">method</th>{heads}</tr></thead>'
        f'<tbody class="ours">{_own_row(summary, world)}</tbody>'
        f'<tbody><tr class="divider"><th colspan="{len(COLUMNS) + 1}" scope="colgroup">published, on CARLA '
        f"{CARLA_RELEASE}</th></tr>{rows}</tbody></table></div>"
        f'<p class="note">{listed_sources}</p><p class="note">A dash: not given there. Comfort as coded in the '
        "official tool. The mean of abilities is the plain mean of the five where the source prints none.</p></section>"
    )


def differences(records: Sequence[RouteRecord], world: World) -> list[str]:
    """In words what keeps the run from being compared with published results; empty if nothing does."""
    reasons = []
    if world.label == UNKNOWN:
        reasons.append("the records do not say what simulated the world")
    elif world.embedded:
        reasons.append(
            "the world was simulated by this project&rsquo;s embedded server, not by CARLA: its pictures, vehicles and "
            "scenarios are its own"
        )
    elif CARLA_RELEASE not in world.label:
        reasons.append(f"it was driven on {escape(world.label)}, the published ones on CARLA {CARLA_RELEASE}")
    driven = len({record.route_id for record in records})
    hashes = {record.provenance.get("route_file_sha256") for record in records}
    if hashes != {ROUTE_FILE_SHA256}:
        reasons.append(f"it drove {counted(driven, 'route')} of another route file, not Bench2Drive&rsquo;s {ROUTES}")
    elif driven != ROUTES:
        reasons.append(f"it has a verdict on {driven} of the {ROUTES} routes")
    if any(record.provenance.get("cameras", "normal") != "normal" for record in records):
        reasons.append("the agent was not shown its own cameras")
    return reasons


def spokes(summary: Summary) -> list[Spoke]:
    """The abilities of the run with their counts over all its drives."""
    ratios = tables([item.drives for item in summary.runs], [item.total for item in summary.runs])
    found = []
    for ability, key in zip(ABILITIES, ABILITY_KEYS, strict=True):
        measured = [table[key] for table in ratios if key in table]
        found.append(
            Spoke(
                name=ability.replace("_", " "),
                percent=summary.values.get(key),
                interval=summary.intervals.get(key),
                passed=round(sum(ratio.numerator.sum() for ratio in measured) / 100.0),
                total=round(sum(ratio.denominator.sum() for ratio in measured)),
                reference_percent=RAW2DRIVE.values[key],
            )
        )
    return found


def _radar(summary: Summary) -> str:
    found = spokes(summary)
    if all(spoke.percent is None for spoke in found):
        return ""
    legend = (
        '<ul class="legend"><li><i style="background:var(--blue)"></i>this run, with 95 % intervals</li>'
        '<li><i class="dashes"></i>Raw2Drive as published, on CARLA: for orientation</li></ul>'
    )
    return f'<h3 class="middle">Success by ability</h3>{radar_svg(found, RAW2DRIVE.method)}{legend}'


def _metric_rows(summary: Summary) -> str:
    rows = []
    for key, label in LABELS.items():
        value = summary.values.get(key)
        if key not in summary.values or (key in PER_KM_KEYS and not value) or (key in _OPTIONAL and value is None):
            continue
        interval = summary.intervals.get(key)
        digits = 3 if key == PENALTY else (2 if "per_km" in key else 1)
        strong = ' class="strong"' if key == DRIVING_SCORE else ""
        indented = ' class="indented"' if label.startswith("  ") else ""
        rows.append(
            f'<tr{strong}><th scope="row"{indented}>{escape(label.strip().replace("_", " "))}</th>'
            f"<td>{_number(value, digits)}</td><td>{_between(interval, digits)}</td>"
            f'<td class="wide">{_range(value, interval) if key in _PERCENT_KEYS else ""}</td></tr>'
        )
    return "".join(rows)


_OPTIONAL = frozenset({*ABILITY_KEYS, ABILITIES_MEAN})


def _own_row(summary: Summary, world: World) -> str:
    cells = "".join(
        f"<td><b>{_number(summary.values.get(key), 1)}</b><small>{_between(summary.intervals.get(key), 0)}</small></td>"
        for key in COLUMNS
    )
    return f'<tr><th scope="row">this run<br>{world.chip}</th>{cells}</tr>'


def _published_row(result: PublishedResult) -> str:
    cells = "".join(f"<td>{_number(result.values.get(key), 1)}</td>" for key in COLUMNS)
    kind = "<small>drives by the simulator&rsquo;s state</small>" if result.privileged else ""
    return f'<tr><th scope="row">{escape(result.method)}<sup>{result.source.mark}</sup>{kind}</th>{cells}</tr>'


def _tile(name: str, value: str, below: str) -> str:
    return f'<div class="tile"><span>{name}</span><b>{value}</b><small>{below}</small></div>'


def _figure(summary: Summary, key: str, digits: int) -> str:
    return _number(summary.values.get(key), digits)


def _expected(summary: Summary, key: str) -> str:
    interval = summary.intervals.get(key)
    return f"95 % interval {_between(interval, 1)}" if interval else "of 100"


def _number(value: float | None, digits: int) -> str:
    return "&ndash;" if value is None else f"{value:.{digits}f}"


def _between(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _range(value: float | None, interval: Interval | None) -> str:
    """The interval on a scale from 0 to 100 with the value on it."""
    if value is None:
        return ""
    low, high = interval or (value, value)
    return (
        f'<span class="range" aria-hidden="true"><i style="left:{low:.1f}%;width:{max(high - low, 0.0):.1f}%"></i>'
        f'<b style="left:{value:.1f}%"></b></span>'
    )
