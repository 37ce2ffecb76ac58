"""The adapter in closed loop: arms drive the same routes with the same seeds, and are compared route by route.

base: the agent alone. no_value: one sample of the adapter, no Q-values. random_value: random plans, the Q-values pick.
full: the adapter's plans, the Q-values pick. oracle: the adapter's plans, the best by geometry among others that go on
straight at their speed (the ceiling that a judge without a crystal ball can reach). random_pick: any of its plans.
Whatever is interrupted goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from agent.adapter import AdapterConfig, load_adapter
from agent.config import to_plain
from eval.results import write_json_atomically
from eval.routes import read_routes
from training.closed_loop import agents, compare, drives
from training.closed_loop.drives import Arm, ClosedLoopConfig

ArmName = Literal["base", "no_value", "random_value", "full", "oracle", "random_pick"]
ARMS: tuple[ArmName, ...] = ("base", "no_value", "random_value", "full", "oracle", "random_pick")


@dataclass(frozen=True, kw_only=True, slots=True)
class DriveConfig(ClosedLoopConfig):
    """What is driven."""

    arms: tuple[ArmName, ...] = ARMS
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Of the arm `full`; the others change one thing of it."""


def setting(arm: ArmName, config: AdapterConfig) -> AdapterConfig | None:
    """An arm's adapter; None: the agent alone."""
    changes: dict[ArmName, dict[str, Any]] = {
        "no_value": {"pick": "first", "keep_base": False, "candidates": 1},
        "random_value": {"source": "random"},
        "random_pick": {"pick": "random"},
    }
    return None if arm == "base" else replace(config, **changes.get(arm, {}))


def run(config: DriveConfig, routes_file: Path, agent: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Drive what is missing and write adapter_drive.json and .md; gives the former's content.

    agent: configuration file of the base agent; its adapter, if it names one, is left aside.
    Raises: RouteFileError, CheckpointError, ConfigError, ServerError, RefusedError, ValueError.
    """
    arms = []
    for name in config.arms:
        own = setting(name, config.adapter)
        arms.append(Arm(name, agent) if own is None else Arm(name, agent, adapter, own, judge=name == "oracle"))
    results = drives.drive(config, arms, routes_file, out)
    about, learned = compare.about(config, {"routes": routes_file}), load_adapter(adapter)[1]
    known = set(learned.get("towns", ()))
    towns = [route.town for route in read_routes(routes_file)]
    about["says"] += (
        f" {sum(town in known for town in towns)} of {len(towns)} routes lie in towns of the adapter's logs."
    )
    summary = {
        **about,
        "agent": str(agent),
        "adapter": learned,
        "config": to_plain(config.adapter),
        "arms": compare.summarised(results, config.draws),
        "drives": compare.rows_of(results),
    }
    write_json_atomically(out / "adapter_drive.json", summary)
    (out / "adapter_drive.md").write_text(agents.table(summary), encoding="utf-8")
    return summary
