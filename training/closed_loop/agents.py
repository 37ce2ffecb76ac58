"""Agents beside each other in closed loop, each as its configuration file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results import write_json_atomically
from training.closed_loop import compare, drives
from training.closed_loop.drives import Arm, ClosedLoopConfig


def run(config: ClosedLoopConfig, arms: Sequence[Arm], routes_file: Path, out: Path) -> dict[str, Any]:
    """Drive what is missing and write closed_loop.json and .md; gives the former's content. The first arm is compared
    with the others.

    Raises: as `drives.drive`.
    """
    results = drives.drive(config, arms, routes_file, out)
    summary = {
        **compare.about(config, {"routes": routes_file}),
        "agents": {arm.name: str(arm.agent) for arm in arms},
        "arms": compare.summarised(results, config.draws),
        "drives": compare.rows_of(results),
    }
    write_json_atomically(out / "closed_loop.json", summary)
    (out / "closed_loop.md").write_text(table(summary), encoding="utf-8")
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: the arms, their differences from the first, and how many times as much they have."""
    arms = summary["arms"]
    rows = compare.differences_table(compare.differences(arms))
    return "\n".join([summary["says"], "", *compare.arms_table(arms), "", *rows, "", *compare.ratio_lines(arms)]) + "\n"
