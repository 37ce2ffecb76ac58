"""The report's timing: what the run cost in time and memory, part by part, and what the simulation's crashes cost."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from eval.progress import counted, cpu_per_game_s
from eval.results import RouteRecord

SLOWEST = 5
DECISION = "decision"
"""Name of the agent's time on the ticks on which it decides; it is part of its time, not beside it."""
_PARTS = {
    "world": "world: simulate, draw, transfer",
    "sensors": "sensors: wait for their data",
    "agent": "agent",
    "criteria": "criteria: judge the drive",
}
logger = logging.getLogger(__name__)


def read_crashes(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's `crashes.jsonl`; those that are not whole are reported and skipped."""
    if not path.is_file():
        return []
    crashes = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            crash = json.loads(line)
        except json.JSONDecodeError as error:
            logger.warning("%s line %d skipped: %s", path, number, error)
            continue
        if isinstance(crash, dict):
            crashes.append(crash)
    return crashes


def timing_section(records: Sequence[RouteRecord], crashes: Sequence[Mapping[str, Any]]) -> str:
    """Totals, a tick's parts, the slowest routes, and apart from them the crashes."""
    return (
        '<section class="card" id="timing"><h2>Time and memory</h2>'
        f'<div class="pair even"><div>{_totals(records)}</div><div>{_parts(records)}</div></div>'
        f"{_slowest(records)}{_crashes(records, crashes)}</section>"
    )


def _totals(records: Sequence[RouteRecord]) -> str:
    game_s = sum(record.duration_game_s for record in records)
    drive_s = sum(record.duration_system_s for record in records)
    wall_s = [value for value in (_number(record, "wall_s") for record in records) if value is not None]
    startup_s = [value for value in (_number(record, "startup_s") for record in records) if value is not None]
    memory_mib = [value for value in (_number(record, "memory_mib") for record in records) if value]
    rows = [("Driven", f"{_clock(game_s)} of simulated time in {_clock(drive_s)}")]
    if drive_s > 0.0:
        rows.append(("Simulated per wall second", f"{game_s / drive_s:.2f} s"))
    costs = [cost for cost in (cpu_per_game_s(record) for record in records) if cost is not None]
    if costs:
        rows.append(("Processor time per simulated second", f"{median(costs):.2f} s (median)"))
    if wall_s:
        rows.append(("All processes together", f"{_clock(sum(wall_s))}, {_clock(median(wall_s))} per route (median)"))
    if startup_s:
        rows.append(("Start-up of a route", f"{median(startup_s):.1f} s (median), at most {max(startup_s):.1f} s"))
    decisions = _medians(records, DECISION)
    if decisions:
        rows.append(("A decision of the agent", f"{median(decisions):.1f} ms (median)"))
    recording_s = [value for value in (_number(record, "recording_s") for record in records) if value is not None]
    if recording_s and drive_s > 0.0:
        share = 100.0 * sum(recording_s) / drive_s
        rows.append(("Keeping traces and pictures", f"{_clock(sum(recording_s))}, {share:.0f} % of the driving"))
    if memory_mib:
        rows.append(("Memory of a route", f"{median(memory_mib):.0f} MiB (median), at most {max(memory_mib):.0f} MiB"))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _parts(records: Sequence[RouteRecord]) -> str:
    """A tick's parts: the median over routes of each route's median."""
    names = dict.fromkeys(name for record in records for name in _timings(record) if name != DECISION)
    times_ms = {name: median(values) for name in names if (values := _medians(records, name))}
    if not times_ms:
        return ""
    longest_ms = max(max(times_ms.values()), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{escape(_PARTS.get(name, name))}</th><td>{value:.1f}</td><td class="wide">'
        f'<span class="bar long" aria-hidden="true"><i style="width:{100.0 * value / longest_ms:.0f}%"></i></span></td>'
        "</tr>"
        for name, value in times_ms.items()
    )
    return (
        '<table class="metrics"><thead><tr><th scope="col">part of a tick (0.05 s simulated)</th>'
        f'<th scope="col">median ms</th><th class="wide"></th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _slowest(records: Sequence[RouteRecord]) -> str:
    def per_tick_ms(record: RouteRecord) -> float:
        return 1000.0 * record.duration_system_s / record.ticks

    driven = sorted((record for record in records if record.ticks), key=per_tick_ms, reverse=True)[:SLOWEST]
    if len(driven) < 2:
        return ""
    cells: tuple[tuple[str, Callable[[RouteRecord], str]], ...] = (
        ("wall per tick, ms", lambda record: f"{per_tick_ms(record):.0f}"),
        ("simulated", lambda record: _clock(record.duration_game_s)),
        ("wall", lambda record: _clock(record.duration_system_s)),
        ("start-up s", lambda record: _text(_number(record, "startup_s"), 1)),
        ("memory MiB", lambda record: _text(_number(record, "memory_mib"), 0)),
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name, _ in cells)
    rows = "".join(
        f'<tr><td>{escape(record.label)}</td><td class="words">{escape(record.town)}</td>'
        f"{''.join(f'<td>{cell(record)}</td>' for _, cell in cells)}</tr>"
        for record in driven
    )
    return (
        '<h3>The slowest routes</h3><div class="scroll"><table><thead><tr><th scope="col">route</th>'
        f'<th scope="col" class="words">town</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _crashes(records: Sequence[RouteRecord], crashes: Sequence[Mapping[str, Any]]) -> str:
    """The simulation's fault, which is nobody's verdict."""
    again = sum((_number(record, "tries") or 1.0) > 1.0 for record in records)
    undecided = [record for record in records if not record.decided]
    if not crashes and not again and not undecided:
        return '<p class="note">The simulation did not crash; no route was driven more than once.</p>'
    items = "".join(
        f"<li>route {escape(str(crash.get('route_id', '?')))}, try {escape(str(crash.get('try', '?')))}: "
        f"{escape(str(crash.get('reason', '')))}</li>"
        for crash in crashes
    )
    sentences = [f"The simulation crashed {counted(len(crashes), 'time')}"]
    if again:
        sentences.append(f"{counted(again, 'route')} got a verdict on a later try")
    if undecided:
        names = ", ".join(escape(record.label) for record in undecided)
        sentences.append(f"without a verdict, counting 0 above: {names}")
    listed = f"<details><summary>Every crash</summary><ul>{items}</ul></details>" if items else ""
    return f'<div class="warning"><b>Crashes.</b> {"; ".join(sentences)}.{listed}</div>'


def _timings(record: RouteRecord) -> Mapping[str, Any]:
    timings = record.provenance.get("timings_ms")
    return timings if isinstance(timings, Mapping) else {}


def _medians(records: Sequence[RouteRecord], name: str) -> list[float]:
    values = (_timings(record).get(name) for record in records)
    return [float(value) for value in values if isinstance(value, int | float)]


def _number(record: RouteRecord, name: str) -> float | None:
    value = record.provenance.get(name)
    return float(value) if isinstance(value, int | float) else None


def _text(value: float | None, digits: int) -> str:
    return "&ndash;" if value is None else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
