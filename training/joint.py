"""The joint study: refinement and adapter, each on or off, drive the same in-domain and adversarial routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.adapter import AdapterConfig
from eval.results import write_json_atomically
from training.closed_loop import compare, drives
from training.closed_loop.drives import Arm, ClosedLoopConfig, Result

FACTORS = ("refinement", "adapter")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointConfig(ClosedLoopConfig):
    """What is driven."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)


@dataclass(frozen=True, slots=True)
class Sides:
    """What the two factors are made of."""

    base: Path
    """Configuration file of the agent as it was trained."""
    refined: Path
    """That of the refined one; encoder and world model are the same."""
    adapter: Path
    """Folder of an adapter for the base agent, used with both."""

    def arms(self, setting: AdapterConfig) -> list[Arm]:
        """Neither, the first factor, the second, both."""
        return [
            Arm("base", self.base),
            Arm("refined", self.refined),
            Arm("adapter", self.base, self.adapter, setting),
            Arm("both", self.refined, self.adapter, setting),
        ]


def run(config: JointConfig, sides: Sides, route_files: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Drive what is missing and write joint.json and .md; gives the former's content. route_files: by what they are
    called in tables.

    Raises: as `drives.drive`.
    """
    arms = sides.arms(config.adapter)
    driven = {name: drives.drive(config, arms, path, out / name) for name, path in route_files.items()}
    if len(driven) > 1:
        driven["all"] = {arm.name: _together(arm.name, driven) for arm in arms}
    summary: dict[str, Any] = {
        **compare.about(config, {f"{name} routes": path for name, path in route_files.items()}),
        "sets": {
            name: {
                "arms": compare.summarised(results, config.draws),
                "effects": compare.factorial(results, config.draws),
            }
            for name, results in driven.items()
        },
        "drives": {name: compare.rows_of(results) for name, results in driven.items() if name != "all"},
    }
    write_json_atomically(out / "joint.json", summary)
    (out / "joint.md").write_text(table(summary), encoding="utf-8")
    return summary


def _together(arm: str, driven: Mapping[str, Mapping[str, Sequence[Result]]]) -> list[Result]:
    """An arm's drives of all sets; routes of two files may have the same name."""
    return [
        {**result, "route": f"{name} {result['route']}"} for name, results in driven.items() for result in results[arm]
    ]


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: per set of routes the four arms, their differences, main effects and interaction."""
    lines = [summary["says"]]
    for name, own in summary["sets"].items():
        rows = compare.differences_table(differences(own))
        lines += ["", f"### {name}", "", *compare.arms_table(own["arms"]), "", *rows]
        lines += ["", *compare.ratio_lines(own["arms"])]
    return "\n".join(lines) + "\n"


def differences(own: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Of one set of routes: the arms from the base, the main effects and the interaction, by a name for their rows."""
    effects = own["effects"]
    return compare.differences(own["arms"]) | {
        f"main effect of {FACTORS[0]}": effects["first"],
        f"main effect of {FACTORS[1]}": effects["second"],
        "interaction": effects["interaction"],
    }
