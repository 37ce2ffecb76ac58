"""Score formulas: published numbers, properties, and every published record of two Bench2Drive entries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scoring import Infraction, Offence, Scoring, mean_and_deviation, penalty, route_scores, succeeded

KINDS = [kind for kind in Infraction if kind not in (Infraction.MIN_SPEED, Infraction.OUTSIDE_ROUTE_LANES)]
OFFENCES = st.lists(st.builds(Offence, st.sampled_from(list(Infraction)), st.floats(0.0, 100.0)), max_size=8)


@pytest.mark.parametrize(
    ("kind", "once_20", "once_21", "thrice_20", "thrice_21"),
    [
        (Infraction.COLLISION_PEDESTRIAN, 0.5, 0.5, 0.125, 0.25),
        (Infraction.COLLISION_VEHICLE, 0.6, 0.588, 0.216, 0.323),
        (Infraction.COLLISION_STATIC, 0.65, 0.625, 0.275, 0.357),
        (Infraction.RED_LIGHT, 0.7, 0.714, 0.343, 0.455),
        (Infraction.STOP_SIGN, 0.8, 0.8, 0.512, 0.571),
        (Infraction.SCENARIO_TIMEOUT, 0.7, 0.714, 0.343, 0.455),
        (Infraction.YIELD_TO_EMERGENCY_VEHICLE, 0.7, 0.714, 0.343, 0.455),
    ],
)
def test_table_of_penalties(
    kind: Infraction, once_20: float, once_21: float, thrice_20: float, thrice_21: float
) -> None:
    for scoring, once, thrice in (
        (Scoring.LEADERBOARD_20, once_20, thrice_20),
        (Scoring.BENCH2DRIVE, once_20, thrice_20),
        (Scoring.LEADERBOARD_21, once_21, thrice_21),
    ):
        assert penalty([Offence(kind)], scoring) == pytest.approx(once, abs=5e-4)
        assert penalty([Offence(kind)] * 3, scoring) == pytest.approx(thrice, abs=5e-4)


def test_minimum_speed_and_outside_lanes() -> None:
    slow = [Offence(Infraction.MIN_SPEED, 50.0)]
    assert penalty(slow, Scoring.LEADERBOARD_20) == pytest.approx(0.85)
    assert penalty(slow, Scoring.LEADERBOARD_21) == pytest.approx(1.0 / 1.2)
    assert penalty(slow, Scoring.BENCH2DRIVE) == 1.0
    outside = [Offence(Infraction.OUTSIDE_ROUTE_LANES, 25.0)]
    assert [penalty(outside, scoring) for scoring in Scoring] == [0.75, 0.75, 0.75]


@given(offences=OFFENCES, scoring=st.sampled_from(list(Scoring)), completion=st.floats(0.0, 100.0))
def test_penalties_are_factors_and_never_help(offences: list[Offence], scoring: Scoring, completion: float) -> None:
    factor = penalty(offences, scoring)
    assert 0.0 <= factor <= 1.0
    assert penalty([*offences, Offence(Infraction.RED_LIGHT)], scoring) <= factor
    assert penalty(list(reversed(offences)), scoring) == pytest.approx(factor)
    scores = route_scores(completion, offences, scoring)
    assert scores.score_composed <= scores.score_route + 1e-6
    assert scores.score_composed == pytest.approx(completion * factor, abs=1e-5)


@given(kinds=st.lists(st.sampled_from(KINDS), max_size=6))
def test_no_offence_no_penalty_and_ends_of_routes_cost_nothing(kinds: list[Infraction]) -> None:
    ends = [Infraction.ROUTE_DEVIATION, Infraction.VEHICLE_BLOCKED, Infraction.ROUTE_TIMEOUT]
    for scoring in Scoring:
        assert penalty([], scoring) == 1.0
        with_ends = [Offence(kind) for kind in [*kinds, *ends]]
        assert penalty(with_ends, scoring) == penalty([Offence(kind) for kind in kinds], scoring)


def test_success_tolerates_slow_driving_only() -> None:
    clean = {kind.value: [] for kind in Infraction}
    assert succeeded("Perfect", clean)
    assert succeeded("Completed", {**clean, "min_speed_infractions": ["slow"]})
    assert not succeeded("Completed", {**clean, "red_light": ["ran"]})
    assert not succeeded("Failed - Agent timed out", clean)


def test_mean_and_deviation() -> None:
    assert mean_and_deviation([3.0]) == (3.0, 0.0)
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2.0**0.5))
    with pytest.raises(ValueError, match="no routes"):
        mean_and_deviation([])


@pytest.mark.parametrize("entry", ["UniAD-Base", "VAD"])
def test_published_records_score_the_same(shared_dir: Path, entry: str) -> None:
    data = json.loads((shared_dir / "results" / f"{entry}.json").read_text())
    records = data["_checkpoint"]["records"]
    assert len(records) > 200
    for record in records:
        offences = [
            Offence(Infraction(kind), _percentage(message))
            for kind, messages in record["infractions"].items()
            for message in messages
        ]
        scores = route_scores(record["scores"]["score_route"], offences, Scoring.BENCH2DRIVE)
        assert scores.score_penalty == pytest.approx(record["scores"]["score_penalty"], abs=1e-4)
        assert scores.score_composed == pytest.approx(record["scores"]["score_composed"], abs=1e-2)
    successes = sum(succeeded(record["status"], record["infractions"]) for record in records)
    assert successes / 220 == pytest.approx(data["success rate"])


def _percentage(message: str) -> float:
    found = re.search(r"([\d.]+)%", message)
    return float(found.group(1)) if found else 0.0
