"""Two runs side by side, route by route: scores, completion, status and how often each infraction happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.metrics.compare import DriveKey, pair_drives, show_key
from eval.metrics.records import Run
from eval.metrics.tables import Drive
from eval.scoring import Infraction, Scoring

COUNTED = tuple(kind for kind in Infraction if kind is not Infraction.MIN_SPEED)
"""Bench2Drive lists its checkpoints of minimum speed whether they were passed fast or slowly."""
COLUMNS = ("route", "town", "scenario", "score A", "B", "B - A", "completion A", "B", "B - A", "status", "infractions")


@dataclass(frozen=True, slots=True)
class Side:
    """One drive's verdict."""

    score_percent: float
    completion_percent: float
    status: str
    infractions: Mapping[str, int]
    """How often each kind happened, without those that did not."""

    @staticmethod
    def of(drive: Drive) -> Side:
        counts = {kind.value: len(drive.result.messages(kind)) for kind in COUNTED}
        return Side(
            drive.score.composed_percent,
            drive.score.completion_percent,
            drive.result.status,
            {kind: count for kind, count in counts.items() if count},
        )

    def to_json(self) -> dict[str, Any]:
        """The verdict with documented keys."""
        return {
            "score_percent": self.score_percent,
            "completion_percent": self.completion_percent,
            "status": self.status,
            "infractions": dict(self.infractions),
        }


@dataclass(frozen=True, slots=True)
class RoutePair:
    """The same drive in both runs."""

    key: DriveKey
    town: str
    scenario: str
    first: Side
    second: Side

    @property
    def agrees(self) -> bool:
        """Whether both have the same verdict to a tenth of a percent."""
        return (
            abs(self.score_percent) < 0.05
            and abs(self.completion_percent) < 0.05
            and _plain(self.first.status) == _plain(self.second.status)
            and self.first.infractions == self.second.infractions
        )

    @property
    def score_percent(self) -> float:
        """Second minus first."""
        return self.second.score_percent - self.first.score_percent

    @property
    def completion_percent(self) -> float:
        """Second minus first."""
        return self.second.completion_percent - self.first.completion_percent

    def cells(self) -> tuple[str, ...]:
        """The table's row."""
        a, b = self.first, self.second
        status = a.status if a.status == b.status else f"{a.status} / {b.status}"
        kinds = [kind.value for kind in COUNTED if kind.value in {*a.infractions, *b.infractions}]
        counts = [
            f"{kind.replace('_', ' ')} {a.infractions.get(kind, 0)} / {b.infractions.get(kind, 0)}" for kind in kinds
        ]
        return (
            show_key(self.key), self.town, self.scenario,
            f"{a.score_percent:.1f}", f"{b.score_percent:.1f}", f"{self.score_percent:+.1f}",
            f"{a.completion_percent:.1f}", f"{b.completion_percent:.1f}", f"{self.completion_percent:+.1f}",
            status, ", ".join(counts),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The pair with documented keys."""
        route_id, repetition, seed = self.key
        return {
            "route_id": route_id,
            "repetition": repetition,
            "seed": seed,
            "town": self.town,
            "scenario": self.scenario,
            "first": self.first.to_json(),
            "second": self.second.to_json(),
        }


def pair_routes(
    first: Sequence[Run], second: Sequence[Run], scoring: Scoring | None = None, *, ignore_seeds: bool = False
) -> list[RoutePair]:
    """The drives that both sides share, largest differences in score first.

    Raises: ResultsError as `compare_runs`.
    """
    left, right = pair_drives(first, second, scoring, ignore_seeds=ignore_seeds)
    pairs = [
        RoutePair(
            key,
            left[key].result.town or right[key].result.town,
            left[key].result.scenario_type or right[key].result.scenario_type,
            Side.of(left[key]),
            Side.of(right[key]),
        )
        for key in left
    ]
    return sorted(pairs, key=lambda pair: (-abs(pair.score_percent), -abs(pair.completion_percent), pair.key[0]))


def markdown(pairs: Sequence[RoutePair], names: tuple[str, str]) -> str:
    """The table as Markdown, with what A and B are before it and the means after it."""
    agreeing = sum(pair.agrees for pair in pairs)
    lines = [
        f"A: {names[0]}",
        "",
        f"B: {names[1]}",
        "",
        f"{agreeing} of {len(pairs)} drives have the same score, completion, status and infractions.",
        "",
        _line(COLUMNS),
        _line("---" for _ in COLUMNS),
        *(_line(pair.cells()) for pair in pairs),
        _line(mean_cells(pairs)),
    ]
    return "\n".join(lines) + "\n"


def mean_cells(pairs: Sequence[RoutePair]) -> tuple[str, ...]:
    """The row of means over the pairs."""
    scores = _means([(pair.first.score_percent, pair.second.score_percent) for pair in pairs])
    completions = _means([(pair.first.completion_percent, pair.second.completion_percent) for pair in pairs])
    return ("mean", "", "", *scores, *completions, "", "")


def _plain(status: str) -> str:
    """Bench2Drive's evaluator, which lists every checkpoint of minimum speed, calls no drive perfect."""
    return "Completed" if status == "Perfect" else status


def _means(values: Sequence[tuple[float, float]]) -> tuple[str, str, str]:
    a, b = (sum(value[side] for value in values) / len(values) for side in (0, 1))
    return f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
