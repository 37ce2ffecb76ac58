"""Counting the drives of a study of the scenarios, and what the published one says."""

from __future__ import annotations

import json
from pathlib import Path

from eval.scenarios.registry import BENCH2DRIVE_TYPES
from training.scenario_study import Drive, StudyConfig, summarised, table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_table_is_that_of_its_data() -> None:
    summary = json.loads((DOCS / "studies" / "scenarios.json").read_text(encoding="utf-8"))
    assert sorted(summary["types"]) == sorted(BENCH2DRIVE_TYPES)
    for key in ("routes", "triggered", "expert", "blind"):
        assert summary["total"][key] == sum(counts[key] for counts in summary["types"].values())
    assert (DOCS / "scenarios.md").read_text(encoding="utf-8").endswith(table(summary))
    assert summary["total"]["expert"] >= 0.9 * summary["total"]["routes"]
    assert summary["total"]["blind"] <= 0.25 * summary["total"]["routes"]


def test_counts_of_a_study() -> None:
    def drive(route: str, driver: str, *, triggered: bool = True, passed: bool, **infractions: int) -> Drive:
        return Drive("Accident", "Gen01", route, driver, triggered, passed, "Completed", infractions, 30.0, "")

    drives = [
        drive("1", "expert", passed=True),
        drive("1", "blind", passed=False, collisions_vehicle=2),
        drive("2", "expert", triggered=False, passed=False),
        drive("2", "blind", passed=False, collisions_vehicle=1, red_light=1),
    ]
    summary = summarised(drives, StudyConfig(towns=("Gen01",), seeds=2))
    assert summary["types"]["Accident"] == summary["total"]
    assert summary["total"] == {
        "routes": 2,
        "triggered": 1,
        "expert": 1,
        "blind": 0,
        "stops_expert": {},
        "stops_blind": {"collisions_vehicle": 2, "red_light": 1},
    }
    assert "| Accident | 1/2 | 1/2 | 0/2 | collisions_vehicle 2, red_light 1 |" in table(summary)
