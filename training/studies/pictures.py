"""Pictures of the results files: differences and rates with their intervals, one panel per question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training import joint as factorial
from training.ablate_table import SCORE
from training.closed_loop import compare
from training.studies.rules import Summary

Row = tuple[str, float, float | None, float | None]
"""Name, value, and its interval."""
ROW_INCH, PANEL_INCH, MARGIN_INCH = 0.26, 3.6, 1.1
INK, GREY = "#1f4e79", "#9a9a9a"
DRIVEN = {"hd_score": "HD-score", "collisions_per_km": "collisions per km", "completion_percent": "completion, %"}
MEASURED = {"false_safe_equal": "false-safe at equal alarms", "false_alarm": "false alarms at 0.5", "auroc": "AUROC"}


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows with a common axis."""

    title: str
    rows: Sequence[Row]
    zero: bool = True
    """Whether 0 means that nothing is different; drawn as a line then."""


def draw(panels: Iterable[Panel], path: Path) -> bool:
    """Write a PNG with the panels that have rows side by side; False where none has."""
    panels = [panel for panel in panels if panel.rows]
    if not panels:
        return False
    matplotlib.use("Agg")
    height = MARGIN_INCH + ROW_INCH * max(len(panel.rows) for panel in panels)
    figure = Figure(figsize=(PANEL_INCH * len(panels), height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, panel)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def _panel(axes: Axes, panel: Panel) -> None:
    places = -np.arange(len(panel.rows))
    if panel.zero:
        axes.axvline(0.0, color=GREY, linewidth=1)
    for place, (_, middle, low, high) in zip(places, panel.rows, strict=True):
        if low is not None and high is not None:
            axes.plot((low, high), (place, place), color=INK, linewidth=1.5)
        axes.plot(middle, place, "o", color=INK, markersize=5)
    axes.set_yticks(places, [name for name, *_ in panel.rows])
    axes.set_ylim(-len(panel.rows) + 0.4, 0.6)
    axes.set_title(panel.title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def closed_loop(summary: Summary) -> list[Panel]:
    """How far each arm is from the first one."""
    return [
        Panel(f"{title}, minus {next(iter(summary['arms']), '')}", _apart(compare.differences(summary["arms"]), key))
        for key, title in DRIVEN.items()
    ]


def joint(summary: Summary) -> list[Panel]:
    """Arms against the base, main effects and interaction in HD-score, a panel per set of routes."""
    return [
        Panel(f"HD-score, {name}", _apart(factorial.differences(own), "hd_score"))
        for name, own in summary["sets"].items()
    ]


def risk(summary: Summary) -> list[Panel]:
    """Rates of the models."""
    return [
        Panel(title, [(name, model[key], *model["intervals"][key]) for name, model in summary["models"].items()], False)
        for key, title in MEASURED.items()
    ]


def stored_states(summary: Summary) -> list[Panel]:
    """What is gained over the base plan under each setting, by the model with the most data."""
    _, result = max(summary["models"].items(), key=lambda item: item[1]["training"].get("states", 0))
    rows = [(name, *measures["gain"]) for name, measures in result["settings"].items()]
    return [Panel("true return gained over the base plan", [row for row in rows if row[1] is not None])]


def ablation(summary: Summary) -> list[Panel]:
    """How far each arm is from the full method in driving score."""
    rows: list[Row] = []
    for name, arm in summary["arms"].items():
        if arm.get("minus_full") is not None:
            apart = arm["minus_full"][SCORE]
            low, high = apart["interval_95"] or (None, None)
            rows.append((name, apart["difference"], low, high))
    return [Panel("driving score, minus full", rows)]


def _apart(rows: Mapping[str, Mapping[str, Sequence[float | None]] | None], key: str) -> list[Row]:
    """Differences by name; without those that are not known, and without the name of what all are compared with."""
    found = []
    for name, row in rows.items():
        middle, low, high = row[key] if row is not None else (None, None, None)
        if middle is not None:
            found.append((name.split(" minus ")[0], middle, low, high))
    return found
