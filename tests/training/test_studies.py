"""The page of all studies: rules by hand, what is missing, and files that are not what they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from training.ablate_table import SCORE
from training.studies import pictures, rules
from training.studies.claims import CLAIMS
from training.studies.page import STUDIES, read_studies, write
from training.studies.rules import NOT_MEASURED, NOT_REPLICATED, NOT_TESTABLE, REPLICATED, UNDECIDED

RISK = REPOSITORY / "docs" / "studies" / "risk_bench.json"


def ablation(**falls: tuple[float, float, float]) -> dict[str, Any]:
    """Arms by how far they fall below the full method, with the interval."""
    arms = {
        name: {"minus_full": {SCORE: {"difference": -fall, "interval_95": [-high, -low]}}}
        for name, (fall, low, high) in falls.items()
    }
    return {"arms": arms | {"full": {"minus_full": None}}, "rank_correlation": 0.5}


@pytest.mark.parametrize(
    ("fall", "verdict"),
    [
        ((20.0, 5.0, 35.0), REPLICATED),
        ((20.0, -1.0, 41.0), UNDECIDED),
        ((14.0, 5.0, 23.0), UNDECIDED),
        ((9.0, 5.0, 13.0), NOT_REPLICATED),
        ((-3.0, -9.0, 3.0), NOT_REPLICATED),
    ],
)
def test_an_arm_falls_by_enough_and_beyond_doubt(fall: tuple[float, float, float], verdict: str) -> None:
    found = rules.arm_falls("no_decoder", 15.0, ablation(no_decoder=fall))
    low, high = fall[1:]
    assert found.verdict == verdict and found.evidence == f"{fall[0]:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert rules.arm_falls("embed_only", 15.0, ablation(no_decoder=fall)).verdict == NOT_MEASURED
    assert rules.same_order(ablation()).verdict == NOT_REPLICATED


def test_heads_harm_by_gradients_only_where_they_harm() -> None:
    falls, nothing = (12.0, 4.0, 20.0), (1.0, -5.0, 7.0)
    judge = rules.falls_through_gradients
    assert judge(ablation(three_heads=falls, three_heads_detached=nothing)).verdict == REPLICATED
    assert judge(ablation(three_heads=falls, three_heads_detached=falls)).verdict == NOT_REPLICATED
    assert judge(ablation(three_heads=nothing, three_heads_detached=nothing)).verdict == NOT_TESTABLE
    assert judge(ablation(three_heads=falls)).verdict == NOT_MEASURED


@pytest.mark.parametrize(
    ("times", "completion", "speed", "verdict"),
    [
        ((0.6, 0.4, 0.9), -1.0, 0.97, REPLICATED),
        ((0.6, 0.4, 1.1), -1.0, 0.97, UNDECIDED),
        ((0.9, 0.8, 1.1), -1.0, 0.97, NOT_REPLICATED),
        ((0.6, 0.4, 0.9), -4.0, 0.97, NOT_REPLICATED),
        ((0.6, 0.4, 0.9), -1.0, 0.8, NOT_REPLICATED),
    ],
)
def test_a_policy_that_only_slows_down_is_no_success(
    times: tuple[float, float, float], completion: float, speed: float, verdict: str
) -> None:
    over = {"collisions_per_km": times, "mean_mps": (speed, None, None)}
    arm = {"over_base": over, "minus_base": {"completion_percent": (completion, None, None)}}
    assert rules.fewer_collisions({"arms": {"base": {}, "impartial": arm}}).verdict == verdict
    assert rules.fewer_collisions({"arms": {"base": {}}}).verdict == NOT_MEASURED


def test_the_adapter_s_rules() -> None:
    gain = {"hd_score": (12.0, 3.0, 20.0), "collided": (0.0, -0.1, 0.1)}
    arms = {"base": {}, "full": {"minus_base": gain}, "oracle": {"minus_base": {"hd_score": (30.0, 1.0, 60.0)}}}
    assert rules.better_without_more_collisions(10.0, {"arms": arms}).verdict == REPLICATED
    bought = {"arms": arms | {"full": {"minus_base": gain | {"collided": (0.02, -0.1, 0.1)}}}}
    assert rules.better_without_more_collisions(10.0, bought).verdict == UNDECIDED
    crashing = {"arms": arms | {"full": {"minus_base": gain | {"collided": (0.2, 0.1, 0.3)}}}}
    assert rules.better_without_more_collisions(10.0, crashing).verdict == NOT_REPLICATED
    assert rules.half_of_the_best_pick({"arms": arms}).verdict == NOT_REPLICATED
    above = {"arms": {"full": {"minus_random_value": gain}}}
    assert rules.diffused_above_random({"config": {"source": "diffusion"}, **above}).verdict == REPLICATED
    assert rules.diffused_above_random({"config": {"source": "both"}, **above}).verdict == NOT_TESTABLE

    def study(without_route: float, gains: tuple[float, float, float]) -> dict[str, Any]:
        numbers = {"full": 1.0, "without route": without_route, "without speed": 0.8}
        numbers |= dict(zip(("1 candidates", "20 candidates", "64 candidates"), gains, strict=True))
        settings = {name: {"gain": [value, None, None]} for name, value in numbers.items()}
        small = {"training": {"states": 10}, "settings": {}}
        return {"models": {"tenth": small, "all": {"training": {"states": 100}, "settings": settings}}}

    assert rules.route_matters_most(study(0.5, (0.0, 1.0, 1.0))).verdict == REPLICATED
    assert rules.route_matters_most(study(0.9, (0.0, 1.0, 1.0))).verdict == NOT_REPLICATED
    assert rules.more_candidates_help(study(0.5, (0.0, 1.0, 1.1))).verdict == REPLICATED
    assert rules.more_candidates_help(study(0.5, (0.0, 1.0, 0.97))).verdict == REPLICATED
    assert rules.more_candidates_help(study(0.5, (0.0, 1.0, 0.7))).verdict == NOT_REPLICATED


def test_foreseen_outcomes_beside_true_ones() -> None:
    def arms(impartial: float, true: float) -> dict[str, Any]:
        found = {"impartial": impartial, "true": true}
        return {"arms": {k: {"minus_base": {"collisions_per_km": (v, v - 1.0, v + 1.0)}} for k, v in found.items()}}

    assert rules.half_of_true_labels(arms(-1.0, -1.5)).verdict == REPLICATED
    assert rules.half_of_true_labels(arms(-0.5, -1.5)).verdict == NOT_REPLICATED
    assert rules.half_of_true_labels(arms(-0.5, -0.8)).verdict == UNDECIDED
    assert rules.half_of_true_labels({"arms": {}}).verdict == NOT_MEASURED


@pytest.mark.parametrize(
    ("interaction", "verdict"),
    [((1.0, -3.0, 4.9), REPLICATED), ((0.0, -11.0, 11.0), UNDECIDED), ((8.0, 5.5, 10.5), NOT_REPLICATED)],
)
def test_effects_add_up_where_that_is_known(interaction: tuple[float, float, float], verdict: str) -> None:
    sets = {"all": {"effects": {"interaction": {"hd_score": interaction}}}}
    assert rules.effects_add_up({"sets": sets}).verdict == verdict
    assert rules.effects_add_up({"sets": {"all": {"effects": {"interaction": None}}}}).verdict == NOT_MEASURED


def test_the_page_holds_what_is_there_and_names_what_is_not(tmp_path: Path) -> None:
    shutil.copy(RISK, tmp_path / "risk_bench.json")
    found = write(tmp_path, tmp_path / "page.md")
    verdicts = {claim["says"]: claim["verdict"] for claim in found["claims"]}
    assert len(found["claims"]) == len(CLAIMS)
    reached = json.loads(RISK.read_text())["comparison"]["reached"]["below_noise"]
    assert verdicts["more than noise does"] == (REPLICATED if reached else NOT_REPLICATED)
    assert verdicts["without a decoder the raw model fails"] == NOT_MEASURED
    text = (tmp_path / "page.md").read_text()
    assert "## AD-R1: risk benchmark" in text and "](risk_bench.png)" in text and "## MPA" not in text
    assert json.loads((tmp_path / "studies.json").read_text()) == found
    width, height = Image.open(tmp_path / "risk_bench.png").size
    assert width > 3 * height, "three panels side by side"


def test_the_published_page_is_that_of_its_files(tmp_path: Path) -> None:
    docs = REPOSITORY / "docs"
    shutil.copytree(docs / "studies", tmp_path / "studies")
    found = write(tmp_path / "studies", tmp_path / "studies.md")
    assert (tmp_path / "studies.md").read_text(encoding="utf-8") == (docs / "studies.md").read_text(encoding="utf-8")
    assert found == json.loads((docs / "studies" / "studies.json").read_text(encoding="utf-8"))


def test_pictures_show_what_the_files_hold(tmp_path: Path) -> None:
    (panel,) = pictures.ablation(ablation(no_decoder=(20.0, 5.0, 35.0)))
    assert panel.rows == [("no_decoder", -20.0, -35.0, -5.0)]
    gain = {
        "hd_score": (12.0, 3.0, 20.0),
        "collisions_per_km": (None, None, None),
        "completion_percent": (1.0, 0.0, 2.0),
    }
    panels = pictures.closed_loop({"arms": {"base": {}, "full": {"minus_base": gain}}})
    assert [panel.rows for panel in panels] == [[("full", 12.0, 3.0, 20.0)], [], [("full", 1.0, 0.0, 2.0)]]
    assert pictures.draw(panels, tmp_path / "a.png")
    assert not pictures.draw(panels[1:2], tmp_path / "b.png") and not (tmp_path / "b.png").exists()
    settings = {"full": {"gain": [1.0, 0.5, 1.5]}, "nobody": {"gain": [None, None, None]}}
    models = {
        "small": {"training": {"states": 1}, "settings": {}},
        "all": {"training": {"states": 9}, "settings": settings},
    }
    assert [panel.rows for panel in pictures.stored_states({"models": models})] == [[("full", 1.0, 0.5, 1.5)]]


def test_every_claim_names_a_study_or_cannot_be_tested() -> None:
    for claim in CLAIMS:
        assert (claim.study in STUDIES) == (claim.judge is not None)


@pytest.mark.parametrize(
    ("content", "expected"), [("{", "is no JSON"), ("[]", "holds no object"), ("{}", "make it again")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "ablation.json").write_text(content)
    with pytest.raises(ValueError, match=expected):
        write(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "joint.json").write_text("{}" + " " * 200)
    monkeypatch.setattr("training.studies.page.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="that is no results file"):
        read_studies(tmp_path)
