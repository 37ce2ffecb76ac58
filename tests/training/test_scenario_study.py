"""The committed study of the scenarios, and the table that shows it."""

from __future__ import annotations

import json
from pathlib import Path

from eval.scenarios.registry import BENCH2DRIVE_TYPES
from training.scenario_study import Drive, StudyConfig, summarised, table

DOCS = Path(__file__).parents[2] / "docs"
STUDY = json.loads((DOCS / "studies/scenarios.json").read_text(encoding="utf-8"))


def test_the_document_shows_the_study() -> None:
    text = (DOCS / "scenarios.md").read_text(encoding="utf-8")
    assert table(STUDY) in text
    assert all(STUDY[key] in text for key in ("command", "commit", "machine", "date"))
    assert "embedded server" in text and STUDY["server"] == "embedded"


def test_the_study_covers_every_type_and_adds_up() -> None:
    assert sorted(STUDY["types"]) == list(BENCH2DRIVE_TYPES)
    for key in ("routes", "triggered", "expert", "blind"):
        assert STUDY["total"][key] == sum(counts[key] for counts in STUDY["types"].values())
    assert all(counts["triggered"] > 0 for counts in STUDY["types"].values())


def test_the_expert_can_what_the_blind_driver_cannot() -> None:
    total = STUDY["total"]
    assert total["expert"] >= 0.85 * total["routes"] and total["blind"] <= 0.25 * total["routes"]


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
