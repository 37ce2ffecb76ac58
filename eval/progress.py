"""What the runner shows: progress with time left, and the final table in leaderboard terms."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eval.results import RouteRecord, infraction_count, infraction_totals
from eval.scoring import Infraction, mean_and_deviation

PLAIN_PERIOD_S = 15.0
PAINTING = "painting"
"""In the status of a route that was driven and whose film is painted."""
_COLUMNS = (
    ("ped", Infraction.COLLISION_PEDESTRIAN),
    ("veh", Infraction.COLLISION_VEHICLE),
    ("static", Infraction.COLLISION_STATIC),
    ("red", Infraction.RED_LIGHT),
    ("stop", Infraction.STOP_SIGN),
)
_SCENARIO_COLUMNS = (
    ("timeout", Infraction.SCENARIO_TIMEOUT),
    ("yield", Infraction.YIELD_TO_EMERGENCY_VEHICLE),
)
"""Only in tables of routes on which it happened."""


class Progress:
    """Live lines on a terminal, plain lines otherwise; the estimate of the time left is by metres of route."""

    def __init__(
        self,
        lengths_m: Mapping[str, float],
        workers: int,
        stream: Console | None = None,
        max_game_s: float | None = None,
    ) -> None:
        """`lengths_m`: estimated length per route still to drive; `max_game_s`: game time after which a route ends."""
        self._max_game_s = max_game_s
        self._lengths_m = dict(lengths_m)
        self._workers = workers
        self._console = stream or Console(file=sys.stdout, highlight=False)
        self._started_s = time.monotonic()
        self._next_plain_s = self._started_s + PLAIN_PERIOD_S
        self._driven_m = 0.0
        self._done: set[str] = set()
        self._running: dict[str, Mapping[str, float]] = {}
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(Text(""))
            self._live.stop()

    def update(self, running: Mapping[str, Mapping[str, float]]) -> None:
        """Show the running routes' status; the last known one counts between a route's last tick and its record."""
        self._running = {label: status or self._running.get(label, {}) for label, status in running.items()}
        if self._live:
            self._live.update(self._lines())
        elif time.monotonic() >= self._next_plain_s:
            self._next_plain_s = time.monotonic() + PLAIN_PERIOD_S
            self._console.print(self._summary(), soft_wrap=True)

    def finished(self, record: RouteRecord) -> None:
        """Count and print a finished route."""
        self._done.add(record.label)
        self._running.pop(record.label, None)
        scores = record.scores
        self._console.print(
            f"route {record.label} {record.town}: {record.verdict}, completion {scores.score_route:.1f} %, "
            f"penalty {scores.score_penalty:.3f}, driving score {scores.score_composed:.1f} "
            f"({record.duration_game_s:.0f} s driven in {record.duration_system_s:.0f} s{_pace([record])})",
            soft_wrap=True,
        )

    def left_out(self, labels: Sequence[str]) -> None:
        """These routes are not driven after all."""
        for label in labels:
            self._lengths_m.pop(label, None)
            self._running.pop(label, None)

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Estimated wall time left; None before anything was driven."""
        total_m = sum(self._lengths_m.values())
        done_m = sum(self._lengths_m.get(route_id, 0.0) for route_id in self._done)
        for route_id, status in self._running.items():
            done_m += self._lengths_m.get(route_id, 0.0) * self._share(status)
        elapsed_s = time.monotonic() - self._started_s
        return elapsed_s * (total_m - done_m) / done_m if done_m > 0.0 else None

    def _share(self, status: Mapping[str, float]) -> float:
        """How much of a running route lies behind it: by its metres, or by the time after which it ends anyhow."""
        if PAINTING in status:
            return 1.0
        share = status.get("completion_percent", 0.0) / 100.0
        if self._max_game_s:
            share = max(share, status.get("game_s", 0.0) / self._max_game_s)
        return min(share, 1.0)

    def _summary(self) -> str:
        left_s = self.seconds_left()
        left = "time left unknown" if left_s is None else f"about {_clock(left_s)} left"
        running = ", ".join(
            f"route {route_id}: film"
            if PAINTING in status
            else f"route {route_id} at {status.get('completion_percent', 0.0):.0f} %"
            for route_id, status in self._running.items()
        )
        return f"{len(self._done)} of {len(self._lengths_m)} routes done, {left}; driving: {running or 'starting'}"

    def _lines(self) -> Text:
        lines = [self._summary()]
        for route_id, status in self._running.items():
            if PAINTING in status:
                lines.append(f"  route {route_id}: driven, its film is painted")
            elif status:
                lines.append(
                    f"  route {route_id}: {status['completion_percent']:5.1f} % of {status['length_m']:.0f} m, "
                    f"{status['game_s']:.0f} s, {3.6 * status['speed_mps']:.0f} km/h"
                )
        return Text("\n".join(lines))


def print_table(records: Sequence[RouteRecord], console: Console | None = None) -> None:
    """The final table in leaderboard terms."""
    console = console or Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, highlight=False, width=160)
    table = Table(title="Results")
    for heading in ("route", "town", "status"):
        table.add_column(heading)
    columns = [*_COLUMNS, *((name, kind) for name, kind in _SCENARIO_COLUMNS if infraction_totals(records)[kind])]
    for heading in ("completion %", *(name for name, _ in columns), "outside lanes m", "penalty", "driving score"):
        table.add_column(heading, justify="right")
    for record in records:
        counts = [f"{infraction_count(record, kind):.0f}" for _, kind in columns]
        outside_m = 1000.0 * infraction_count(record, Infraction.OUTSIDE_ROUTE_LANES)
        scores = record.scores
        table.add_row(
            record.label,
            record.town,
            record.status,
            f"{scores.score_route:.1f}",
            *counts,
            f"{outside_m:.0f}",
            f"{scores.score_penalty:.3f}",
            f"{scores.score_composed:.1f}",
        )
    table.add_section()
    table.add_row(*_mean_row(records, [kind for _, kind in columns]))
    console.print(table)
    for record in records:
        if record.failure_message:
            console.print(f"route {record.label}: {record.verdict}", soft_wrap=True)
    composed, deviation = mean_and_deviation([r.scores.score_composed for r in records])
    completion, _ = mean_and_deviation([r.scores.score_route for r in records])
    successes = sum(record.success for record in records)
    console.print(
        f"Driving score {composed:.2f} (standard deviation {deviation:.2f}), route completion {completion:.2f} %, "
        f"success {successes} of {len(records)} routes; scoring {records[0].scoring.value}",
        soft_wrap=True,
    )
    console.print(_per_km(records), soft_wrap=True)
    pace = _pace(records)
    if pace:
        console.print(f"driven{pace.removeprefix(',')}", soft_wrap=True)
    skipped = _skipped(records)
    if skipped:
        console.print(skipped, soft_wrap=True)


def _skipped(records: Sequence[RouteRecord]) -> str:
    """What could not be played, and why; empty if everything was."""
    scenarios = [(record.route_id, item) for record in records for item in record.provenance.get("scenarios", ())]
    skipped = [(route_id, item) for route_id, item in scenarios if item.get("state") == "skipped"]
    if not skipped:
        return ""
    lines = [f"  route {route_id}, {item['name']}: {item['reason']}" for route_id, item in skipped]
    return "\n".join([f"{len(skipped)} of {counted(len(scenarios), 'scenario')} could not be played:", *lines])


def counted(count: int, noun: str) -> str:
    """Such as `1 route` and `2 routes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _mean_row(records: Sequence[RouteRecord], kinds: Sequence[Infraction]) -> list[str]:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    counts = [f"{mean([infraction_count(r, kind) for r in records]):.2f}" for kind in kinds]
    outside_m = mean([1000.0 * infraction_count(r, Infraction.OUTSIDE_ROUTE_LANES) for r in records])
    scores = [r.scores for r in records]
    route = f"{mean([s.score_route for s in scores]):.1f}"
    penalty = f"{mean([s.score_penalty for s in scores]):.3f}"
    composed = f"{mean([s.score_composed for s in scores]):.1f}"
    return ["mean", "", "", route, *counts, f"{outside_m:.1f}", penalty, composed]


def _per_km(records: Sequence[RouteRecord]) -> str:
    km = max(sum(r.route_length_m / 1000.0 * r.scores.score_route / 100.0 for r in records), 0.001)
    totals = infraction_totals(records)
    shown = [
        f"{kind.value} {totals[kind] / km:.2f}"
        for kind in Infraction
        if totals[kind] and kind not in (Infraction.OUTSIDE_ROUTE_LANES, Infraction.MIN_SPEED)
    ]
    return f"Infractions per km ({km:.2f} km driven): {', '.join(shown) or 'none'}"


def _pace(records: Sequence[RouteRecord]) -> str:
    """Simulated time over wall time, and what a simulated second costs the processors; empty without a drive."""
    game_s = sum(record.duration_game_s for record in records)
    wall_s = sum(record.duration_system_s for record in records)
    if game_s <= 0.0 or wall_s <= 0.0:
        return ""
    costs = [(record.duration_game_s, cpu_per_game_s(record)) for record in records]
    known = [(seconds, cost) for seconds, cost in costs if cost is not None]
    pace = f", {game_s / wall_s:.2f} times real time"
    if not known:
        return pace
    return f"{pace}, {sum(s * c for s, c in known) / sum(s for s, _ in known):.2f} CPU s per simulated s"


def cpu_per_game_s(record: RouteRecord) -> float | None:
    """Processor seconds of agent, evaluation and embedded server per simulated second; None if not known."""
    parts = record.provenance.get("cpu_per_game_s")
    if not isinstance(parts, Mapping) or not all(isinstance(value, int | float) for value in parts.values()):
        return None
    return float(sum(parts.values())) if parts else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
