"""Checkouts are recognised by their code; what is missing is named with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.official.harness import EVALUATOR, SCENARIO_MANAGER, STATISTICS, HarnessError, _scoring, find_harness
from eval.scoring import Scoring


def _write(root: Path, name: str, text: str = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("evaluator", "statistics", "scoring"),
    [
        ("--gpu-rank", "", Scoring.BENCH2DRIVE),
        ("", "infraction_value += value", Scoring.LEADERBOARD_21),
        ("", "score_penalty *= value", Scoring.LEADERBOARD_20),
    ],
)
def test_rules_are_told_by_the_code(tmp_path: Path, evaluator: str, statistics: str, scoring: Scoring) -> None:
    _write(tmp_path, EVALUATOR, evaluator)
    _write(tmp_path, STATISTICS, statistics)
    assert _scoring(tmp_path) is scoring


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCENARIO_RUNNER_ROOT", raising=False)
    with pytest.raises(HarnessError, match=f"--official .*: holds no {EVALUATOR}"):
        find_harness(tmp_path, None)
    _write(tmp_path, EVALUATOR)
    with pytest.raises(HarnessError, match=f"SCENARIO_RUNNER_ROOT=.*: holds no {SCENARIO_MANAGER}"):
        find_harness(tmp_path, None)
