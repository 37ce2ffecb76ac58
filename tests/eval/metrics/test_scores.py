"""Scores of made-up runs: hand-computed, properties, totals."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.records import RouteResult, Run, read_runs
from eval.metrics.scores import PER_KM_KINDS
from eval.metrics.summary import Options, Summary, summarise
from eval.scoring import Infraction, Scoring
from tests.eval.metrics.synthetic import record, write

SLOW = "Average speed is 50.0% of the surrounding traffic's one"
FAST = "Average speed is 250.0% of the surrounding traffic's one"
OUTSIDE = "Agent went outside its route lanes for about 40.5 meters (10.0% of the completed route)"
MESSAGES = {Infraction.MIN_SPEED: SLOW, Infraction.OUTSIDE_ROUTE_LANES: OUTSIDE}
TYPES = ("Accident", "InvadingTurn", "T_Junction", "HighwayExit", "ControlLoss", "Unheard", "")


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run of a few drives with any infractions."""
    results = []
    for number in range(draw(st.integers(1, 8))):
        kinds = draw(st.lists(st.sampled_from(list(Infraction)), max_size=4))
        completion = draw(st.one_of(st.just(100.0), st.floats(0.0, 100.0), st.none()))
        results.append(
            RouteResult(
                route_id=str(number),
                repetition=0,
                seed=None,
                town="Town12",
                scenario_type=draw(st.sampled_from(TYPES)),
                save_name="",
                status=draw(st.sampled_from(["Completed", "Perfect", "Failed", ""])),
                infractions={kind.value: (MESSAGES.get(kind, "hit"),) * kinds.count(kind) for kind in kinds},
                completion_percent=completion,
                penalty=draw(st.one_of(st.none(), st.floats(0.0, 1.0))),
                composed_percent=draw(st.one_of(st.none(), st.floats(0.0, 100.0))),
                length_m=draw(st.floats(0.0, 2000.0)),
            )
        )
    return Run("run", Path(), tuple(results), draw(st.one_of(st.none(), st.integers(1, 12))))


def summary_of(run: Run, scoring: Scoring = Scoring.BENCH2DRIVE, resamples: int = 20) -> Summary:
    return summarise([run], Options(scoring=scoring, resamples=resamples))


def scored(tmp_path: Path, records: list[Any], scoring: Scoring, **outer: Any) -> dict[str, float | None]:
    path = write(tmp_path / "results.json", records, **outer)
    return dict(summarise(read_runs([path]), Options(scoring=scoring, resamples=10)).values)


@settings(max_examples=40, deadline=None)
@given(run=runs(), scoring=st.sampled_from(list(Scoring)))
def test_percentages_are_percentages(run: Run, scoring: Scoring) -> None:
    values = summary_of(run, scoring).values
    for name, value in values.items():
        if value is not None and name.endswith("_percent") and not name.startswith("efficiency"):
            assert 0.0 <= value <= 100.0 + 1e-9, name
        assert value is None or value >= 0.0, name


@settings(max_examples=40, deadline=None)
@given(run=runs(), scoring=st.sampled_from(list(Scoring)), kind=st.sampled_from(list(Infraction)), data=st.data())
def test_an_infraction_never_raises_the_scores(
    run: Run, scoring: Scoring, kind: Infraction, data: st.DataObject
) -> None:
    """Scores computed from the infractions, as nothing stands in the file."""
    bare = [_with(result, penalty=None, composed_percent=None) for result in run.results]
    victim = data.draw(st.integers(0, len(bare) - 1))
    before = summary_of(_run(bare, run), scoring).values
    messages = (*bare[victim].messages(kind), MESSAGES.get(kind, "hit"))
    bare[victim] = _with(bare[victim], infractions={**bare[victim].infractions, kind.value: messages})
    after = summary_of(_run(bare, run), scoring).values
    for name in ("driving_score_percent", "infraction_penalty", "success_rate_percent"):
        assert (after[name] or 0.0) <= (before[name] or 0.0) + 1e-9, name


@settings(max_examples=25, deadline=None)
@given(run=runs(), seed=st.integers(0, 99))
def test_the_order_of_routes_changes_nothing(run: Run, seed: int) -> None:
    shuffled = list(run.results)
    random.Random(seed).shuffle(shuffled)
    one, other = summary_of(run), summary_of(_run(shuffled, run))
    assert one.values == other.values
    assert one.intervals == other.intervals


def test_leaderboards_20_and_21_by_hand(tmp_path: Path) -> None:
    drives = [
        # 2.0: 0.6 * 0.7 * 0.85 * 0.9 = 0.3213; 2.1: 0.9 / (1 + 0.7 + 0.4 + 0.2) = 0.391304
        record("1", 100.0, 0.3213, collisions_vehicle=["hit"], red_light=["ran"], min_speed_infractions=[SLOW],
               outside_route_lanes=[OUTSIDE]),
        # 2.0: 0.5 * 0.5 = 0.25; 2.1: 1 / (1 + 2) = 0.333333
        record("2", 50.0, 0.25, collisions_pedestrian=["hit", "hit"]),
    ]  # fmt: skip
    as_20 = scored(tmp_path, drives, Scoring.LEADERBOARD_20)
    assert as_20["driving_score_percent"] == pytest.approx((32.13 + 12.5) / 2)
    assert as_20["route_completion_percent"] == pytest.approx(75.0)
    assert as_20["infraction_penalty"] == pytest.approx((0.3213 + 0.25) / 2)
    as_21 = scored(tmp_path, drives, Scoring.LEADERBOARD_21)
    assert as_21["driving_score_percent"] == pytest.approx((39.1304 + 16.6667) / 2, abs=1e-4)
    as_bench2drive = scored(tmp_path, drives, Scoring.BENCH2DRIVE)
    assert as_bench2drive["driving_score_percent"] == pytest.approx((37.8 + 12.5) / 220)
    for values in (as_20, as_21):  # 1 km + 0.5 km driven
        assert values["infractions_per_km"] == pytest.approx(4 / 1.5)
        assert values["collisions_pedestrian_per_km"] == pytest.approx(2 / 1.5)
        assert values["outside_route_lanes_m_per_km"] == pytest.approx(40.5 / 1.5)
        assert values["efficiency_percent"] is None  # the leaderboard lists slow checkpoints only


def test_faster_than_the_traffic_earns_nothing(tmp_path: Path) -> None:
    drives = [record("1", min_speed_infractions=[FAST] * 20)]
    for scoring in (Scoring.LEADERBOARD_20, Scoring.LEADERBOARD_21):
        assert scored(tmp_path, drives, scoring)["driving_score_percent"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("scoring", "progress", "records", "expected"),
    [
        (Scoring.BENCH2DRIVE, None, 2, 220),
        (Scoring.BENCH2DRIVE, [2, 4], 2, 4),
        (Scoring.LEADERBOARD_20, None, 2, 2),
        (Scoring.LEADERBOARD_20, [2, 5], 2, 5),
        (Scoring.LEADERBOARD_20, [1, 1], 3, 3),
        (Scoring.BENCH2DRIVE, None, 230, 230),
    ],
)
def test_means_are_over_the_routes_meant(
    tmp_path: Path, scoring: Scoring, progress: list[int] | None, records: int, expected: int
) -> None:
    outer = {} if progress is None else {"progress": progress}
    values = scored(tmp_path, [record(str(number)) for number in range(records)], scoring, **outer)
    assert values["driving_score_percent"] == pytest.approx(100.0 * records / expected)
    assert values["success_rate_percent"] == pytest.approx(100.0 * records / expected)


def test_success_is_free_of_all_but_minimum_speed(tmp_path: Path) -> None:
    for kind in Infraction:
        values = scored(tmp_path, [record(**{kind.value: ["text"]})], Scoring.BENCH2DRIVE, progress=[1, 1])
        assert values["success_rate_percent"] == (100.0 if kind is Infraction.MIN_SPEED else 0.0)


def test_efficiency_leaves_standing_traffic_out(tmp_path: Path) -> None:
    def speeds(*values: float) -> list[str]:
        return [f"Average speed is {value}% of the surrounding traffic's one" for value in values]

    drives = [
        record("1", min_speed_infractions=speeds(100, 50.5, 1000.01)),
        record("2", min_speed_infractions=speeds(5000.0)),  # at which the official tool divides by zero
        record("3"),
        record("4", min_speed_infractions=[*speeds(200.0), "no number"]),
    ]
    assert scored(tmp_path, drives, Scoring.BENCH2DRIVE)["efficiency_percent"] == pytest.approx((75.25 + 200.0) / 2)


def test_every_kind_is_counted_per_km(tmp_path: Path) -> None:
    values = scored(tmp_path, [record(route_dev=["off"], route_timeout=["late"])], Scoring.BENCH2DRIVE)
    assert {name for name in values if re.fullmatch(r"\w+_per_km", name)} >= {f"{k.value}_per_km" for k in PER_KM_KINDS}
    assert values["route_dev_per_km"] == 1.0 and values["infractions_per_km"] == 2.0


def _run(results: list[RouteResult], like: Run) -> Run:
    return Run(like.name, like.folder, tuple(results), like.total_routes)


def _with(result: RouteResult, **changes: Any) -> RouteResult:
    from dataclasses import replace

    return replace(result, **changes)
