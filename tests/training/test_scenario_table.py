"""The published table of the scenario study is that of its data and covers every type."""

from __future__ import annotations

import json
from pathlib import Path

from eval.scenarios.registry import BENCH2DRIVE_TYPES
from training.scenario_study import table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_table_is_that_of_its_data() -> None:
    summary = json.loads((DOCS / "studies" / "scenarios.json").read_text(encoding="utf-8"))
    assert sorted(summary["types"]) == sorted(BENCH2DRIVE_TYPES)
    for key in ("routes", "triggered", "expert", "blind"):
        assert summary["total"][key] == sum(counts[key] for counts in summary["types"].values())
    assert (DOCS / "scenarios.md").read_text(encoding="utf-8").endswith(table(summary))
