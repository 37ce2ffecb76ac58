"""Learning curves of runs: from their event logs to one picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

EVENTS = "events.jsonl"
EPISODE_WINDOW = 40
UPDATE_WINDOW = 25
"""Logged values that a point of a curve is the mean of."""
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram."""

    title: str
    kind: str
    """Of the events."""
    names: tuple[str, ...]
    window: int = UPDATE_WINDOW
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("episodes that succeed (sampled, training routes)", "episode", ("success",), EPISODE_WINDOW, (0.0, 1.0)),
    Panel("route completion [%]", "episode", ("completion_percent",), EPISODE_WINDOW, (0.0, 100.0)),
    Panel("reward per episode", "episode", ("reward",), EPISODE_WINDOW),
    Panel("evaluation, greedy", "evaluation", ("success",), 1, (0.0, 1.0)),
    Panel("P(end): real ends and elsewhere", "update", ("end_probability", "false_end_probability"), limits=(0.0, 1.0)),
    Panel("reward at ends: predicted and real", "update", ("end_reward", "end_reward_real")),
    Panel("imagined return and value", "update", ("return", "value")),
    Panel("entropy and imitation [nats]", "update", ("entropy", "imitation")),
    Panel("KL [nats]", "update", ("kl",)),
)
COLUMNS = 3
STYLES = ("-", "--")


def draw(runs: Sequence[Path], out: Path) -> Path:
    """Draw the curves of all runs over each other. Raises: ValueError for a folder without events."""
    matplotlib.use("Agg")
    logs = {run.name: list(read_events(run)) for run in runs}
    rows = -(-len(PANELS) // COLUMNS)
    figure = Figure(figsize=(5.0 * COLUMNS, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel, axis in zip(PANELS, axes, strict=False):
        _panel(panel, axis, logs)
    axes[0].legend(loc="upper left", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    return out


def read_events(run: Path) -> Iterator[dict[str, Any]]:
    """The events of a run's folder; a last line that is not complete yet is left out. Raises: ValueError."""
    path = run / EVENTS
    if not path.is_file():
        raise ValueError(f"{run}: no {EVENTS} there; give the folder of a run (--out of the training)")
    with path.open(encoding="utf-8") as lines:
        while line := lines.readline(MAX_LINE_BYTES):
            if line.endswith("\n"):
                yield json.loads(line)


def series(events: Sequence[Mapping[str, Any]], kind: str, name: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Updates and means over `window` values; episodes count only once the policy drives."""
    points = [
        (event["update"], float(event[name]))
        for event in events
        if event["kind"] == kind and event.get(name) is not None and (kind != "episode" or event["version"] is not None)
    ]
    if not points:
        return np.empty(0), np.empty(0)
    updates, values = np.array(points).T
    width = min(window, len(values))
    means = np.convolve(values, np.full(width, 1.0 / width), "valid")
    return updates[width - 1 :], means


def _panel(panel: Panel, axis: Axes, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    axis.set_title(panel.title, fontsize=9)
    axis.grid(alpha=0.3)
    for number, (run, events) in enumerate(logs.items()):
        for name, style in zip(panel.names, STYLES, strict=False):
            updates, means = series(events, panel.kind, name, panel.window)
            label = run if name == panel.names[0] else None
            marker = "o" if panel.window == 1 else None
            axis.plot(updates, means, style, color=f"C{number}", label=label, marker=marker, linewidth=1.2)
    if panel.limits is not None:
        axis.set_ylim(*panel.limits)
    axis.set_xlabel("updates", fontsize=8)
    axis.tick_params(labelsize=8)
