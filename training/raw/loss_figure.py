"""The raw world model's loss with and without rollout guidance, from the logs of runs (Raw2Drive, Figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.privileged.curves import read_events

PANELS: dict[str, str] = {
    "world_model": "world model's own loss (L_WM)",
    "masks": "reconstruction of the masks",
    "kl": "KL(q^ || p^) [nats]",
    "align_embed": "e^: squared distance, sum over cells",
    "align_deter": "h^: squared distance",
    "align_stoch": "KL(q || q^) [nats]",
}
"""Logged terms. The lower three are logged whether they are part of a run's loss or not."""
COLUMNS = 3
Curve = tuple[np.ndarray, np.ndarray]


def runs_of(text: str) -> dict[str, list[Path]]:
    """Folders of runs by name, from NAME=FOLDER separated by commas; a name may stand for several seeds.

    Raises: ValueError.
    """
    found: dict[str, list[Path]] = {}
    for item in text.split(","):
        name, separator, folder = item.partition("=")
        if not separator or not name or not folder:
            raise ValueError(f"--runs {item!r}: expected NAME=FOLDER, such as guided=runs/a,unguided=runs/b")
        found.setdefault(name, []).append(Path(folder))
    return found


def draw(runs: Mapping[str, Sequence[Path]], out: Path) -> Path:
    """Draw every term of all runs over each other; seeds of a name as their mean, the range shaded.

    Raises: ValueError for a folder without events.
    """
    matplotlib.use("Agg")
    curves = {name: [logged(folder) for folder in folders] for name, folders in runs.items()}
    rows = -(-len(PANELS) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 3.2 * rows), layout="constrained")
    for axis, (term, title) in zip(figure.subplots(rows, COLUMNS).ravel(), PANELS.items(), strict=True):
        _panel(axis, title, {name: [own[term] for own in seeds if term in own] for name, seeds in curves.items()})
    figure.suptitle("Embedded server's data, not CARLA", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    return out


def logged(run: Path) -> dict[str, Curve]:
    """Updates and values of every term of a run; of an update that was made twice the last one. Raises: ValueError."""
    points: dict[str, dict[int, float]] = {}
    for event in read_events(run):
        if event["kind"] == "update":
            for term in PANELS:
                if event.get(term) is not None:
                    points.setdefault(term, {})[int(event["update"])] = float(event[term])
    if not points:
        raise ValueError(f"{run}: no update is logged there; train longer or log more often (--config.log-updates)")
    return {
        term: (np.array(sorted(values)), np.array([values[at] for at in sorted(values)]))
        for term, values in points.items()
    }


def _panel(axis: Axes, title: str, curves: Mapping[str, Sequence[Curve]]) -> None:
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.3)
    for number, (name, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        shared = sorted(set.intersection(*(set(updates.tolist()) for updates, _ in seeds)))
        values = np.array([[dict(zip(*seed, strict=True))[at] for at in shared] for seed in seeds])
        axis.plot(shared, values.mean(0), color=f"C{number}", label=name, linewidth=1.3)
        if len(seeds) > 1:
            axis.fill_between(shared, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
    low = min((value.min() for seeds in curves.values() for _, value in seeds), default=0.0)
    if low > 0.0:
        axis.set_yscale("log")
    axis.set_xlabel("updates", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)
