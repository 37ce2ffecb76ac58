"""The published result files of Bench2Drive give the published figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.metrics.records import read_runs
from eval.metrics.summary import Options, summarise
from eval.routes import read_routes
from eval.scoring import Scoring

WITHOUT_MAP = {"Town11", "Town12", "Town13", "Town15"}
PUBLISHED = {
    "UniAD-Base": {
        "driving_score_percent": 45.8132,
        "success_rate_percent": 16.3636,
        "efficiency_percent": 129.2084,
        "ability_overtaking_percent": 17.78,
        "ability_merging_percent": 14.10,
        "ability_emergency_brake_percent": 21.67,
        "ability_give_way_percent": 10.0,
        "ability_traffic_signs_without_extra_credit_percent": 4.21,
    },
    "VAD": {
        "driving_score_percent": 42.3507,
        "success_rate_percent": 15.0,
        "efficiency_percent": 157.9496,
        "ability_overtaking_percent": 24.44,
        "ability_merging_percent": 8.11,
        "ability_emergency_brake_percent": 18.64,
        "ability_give_way_percent": 20.0,
        "ability_traffic_signs_without_extra_credit_percent": 4.26,
    },
}
SIGNS_ON_55_ROUTES = {"UniAD-Base": 15.0, "VAD": 45.0}
"""What the official ability_benchmark.py prints for the routes of the towns whose maps are there."""


def run_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["eval", *arguments, "--json", "--resamples", "200"])
    assert main() == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("entry", PUBLISHED)
def test_published_figures(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    path = shared_dir / "results" / f"{entry}.json"
    found = run_json(monkeypatch, capsys, "score", str(path), "--scoring", "bench2drive")
    for name, value in PUBLISHED[entry].items():
        digits = 4 if name in ("driving_score_percent", "success_rate_percent", "efficiency_percent") else 2
        assert round(found[name], digits) == value, name
    assert found["driving_score_percent"] == pytest.approx(json.loads(path.read_text())["driving score"])
    assert found["ability_traffic_signs_percent"] is None and found["abilities_mean_percent"] is None
    low, high = found["interval_95"]["driving_score_percent"]
    assert low < found["driving_score_percent"] < high
    assert found["runs"][0]["routes_total"] == 220 and not found["runs"][0]["scores_recomputed"]


def test_what_the_traffic_signs_lack_is_named(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = str(shared_dir / "results" / "VAD.json")
    without = run_json(monkeypatch, capsys, "score", results, "--town-dir", str(shared_dir / "towns"))
    (note,) = [note for note in without["notes"] if "without extra credit" in note]
    assert "maps of Town11, Town12, Town13, Town15 are missing: give --town-dir" in note
    assert "give --routes" in note
    monkeypatch.setattr(sys, "argv", ["eval", "score", results, "--resamples", "10"])
    assert main() == 0
    table = capsys.readouterr().out
    assert "without extra credit" in table and "4.2553" in table and "42.3507" in table
    assert "maps of Town03, Town04" in table


@pytest.mark.parametrize("entry", PUBLISHED)
def test_traffic_signs_with_maps_are_those_of_the_official_tool(shared_dir: Path, entry: str) -> None:
    routes = read_routes(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")
    routes = [route for route in routes if route.town not in WITHOUT_MAP]
    runs = read_runs([shared_dir / "results" / f"{entry}.json"])
    summary = summarise(runs, Options(routes=routes, town_dir=shared_dir / "towns", resamples=10))
    assert len(routes) == 55
    assert summary.values["ability_traffic_signs_percent"] == pytest.approx(SIGNS_ON_55_ROUTES[entry])
    mean = {"UniAD-Base": 11.0, "VAD": 18.333333}[entry]
    assert summary.values["abilities_mean_percent"] == pytest.approx(mean)


def test_rescoring_says_so_and_the_stricter_rules_cost_more(shared_dir: Path) -> None:
    runs = read_runs([shared_dir / "results" / "VAD.json"])
    values = {}
    for scoring in Scoring:
        summary = summarise(runs, Options(scoring=scoring, resamples=10))
        values[scoring] = summary.values["driving_score_percent"] or 0.0
        assert summary.runs[0].scores.recomputed is (scoring is not Scoring.BENCH2DRIVE)
        assert any("20 checkpoints" in note for note in summary.notes) is (scoring is not Scoring.BENCH2DRIVE)
    assert values[Scoring.LEADERBOARD_20] < values[Scoring.LEADERBOARD_21] < values[Scoring.BENCH2DRIVE]


def test_files_are_seeds(shared_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(shared_dir / "results" / f"{entry}.json") for entry in PUBLISHED]
    found = run_json(monkeypatch, capsys, "score", *paths)
    assert found["driving_score_percent"] == pytest.approx((45.81316410 + 42.35073639) / 2)
    assert found["std_dev_over_runs"]["driving_score_percent"] == pytest.approx((45.81316410 - 42.35073639) / 2**0.5)
    assert [run["name"] for run in found["runs"]] == ["UniAD-Base.json", "VAD.json"]


def test_comparison_of_the_published_files(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(shared_dir / "results" / f"{entry}.json") for entry in PUBLISHED]
    found = run_json(monkeypatch, capsys, "compare", *paths)
    assert found["pairs"] == 213
    assert {key["route_id"] for key in found["unpaired_first"]} == {"11715", "1711", "23659", "23687", "24041"}
    assert found["unpaired_second"] == []
    assert (found["success_mcnemar"]["only_first"], found["success_mcnemar"]["only_second"]) == (20, 18)
    assert found["success_mcnemar"]["p"] == pytest.approx(0.8714, abs=1e-4)
    score = found["differences"]["driving_score_percent"]
    assert score["interval_95"][0] < score["difference"] < score["interval_95"][1]
    assert score["second"] == pytest.approx(42.35073639 * 220 / 213)
    routes = ["--routes", str(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")]
    found = run_json(monkeypatch, capsys, "compare", *paths, *routes)
    alone = run_json(monkeypatch, capsys, "score", paths[1], *routes)
    abilities = {name: item for name, item in found["differences"].items() if name.startswith("ability_")}
    assert len(abilities) == 5
    assert abilities["ability_give_way_percent"]["second"] == pytest.approx(alone["ability_give_way_percent"])
    monkeypatch.setattr(sys, "argv", ["eval", "compare", *paths, "--resamples", "10"])
    assert main() == 0
    table = capsys.readouterr().out
    assert "213 paired drives" in table and "in A only: 11715, 1711" in table and "McNemar p = 0.871" in table
