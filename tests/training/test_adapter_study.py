"""Measures of the adapter's studies: regret and rank correlation by hand, and the HD-score's rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.adapter import AdapterConfig
from agent.motion import KNOTS, follow_plan, start_state
from tests.training.counterfactual import BASE, Body, open_ground, road_log, road_map, with_line
from training import bev
from training.adapter.drive import ARMS, setting
from training.adapter.hd_score import Frame, comfortable, frame_of, hd_score, straight_on
from training.adapter.study import MEASURES, StudyConfig, _measured, _summary
from training.adapter.truth import Truth

MPS = 8.0


def driven(accel_mps2: float = 0.0, curvature_per_m: float = 0.0, speed_mps: float = MPS) -> np.ndarray:
    plan = np.tile(np.array([accel_mps2, curvature_per_m]), (1, KNOTS, 1))
    return follow_plan(start_state(speed_mps, 0.0, 0.0)[None], plan)[0]


def measured(total: list[float], score: list[float], config: AdapterConfig, usable: list[bool]) -> dict[str, float]:
    failed = np.array([value < 0.0 for value in total])
    row = _measured(np.array(total), failed, failed, np.array(usable), np.array(score), config)
    return dict(zip(MEASURES, row, strict=True))


def test_regret_gain_and_correlation_by_hand() -> None:
    """Base plan 2; candidates 2, 5, -1, 4, of which the scores prefer the last; ranks 1 2 3 4 against 2 4 1 3."""
    found = measured([2.0, 2.0, 5.0, -1.0, 4.0], [0.1, 0.2, 0.3, 0.4], AdapterConfig(), [True] * 4)
    assert found["regret"] == 1.0 and found["gain"] == 2.0 and found["captured"] == pytest.approx(2.0 / 3.0)
    assert found["rank_correlation"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [2, 4, 1, 3])[0, 1])
    assert found["failed"] == 0.0 and found["failed_best"] == 0.0


def test_a_margin_keeps_the_base_and_nobody_picks_what_says_nothing() -> None:
    kept = measured([2.0, 2.0, 5.0], [0.1, 0.3], AdapterConfig(margin=0.5), [True, True])
    assert kept["gain"] == 0.0 and kept["regret"] == 3.0
    without = measured([2.0, 2.0, 5.0, 9.0], [0.1, 0.3, 0.9], AdapterConfig(), [True, True, False])
    assert without["regret"] == 0.0 and without["gain"] == 3.0
    nothing = measured([2.0, 2.0], [0.1], AdapterConfig(), [False])
    assert all(np.isnan(value) for value in nothing.values())


def test_the_captured_share_is_a_ratio_of_means() -> None:
    rows = np.array([[1.0, 1.0, 0.5, np.nan, 0, 0, 0, 0], [0.0, 3.0, 1.0, 0.5, 1, 0, 0, 1]])
    found = _summary(rows, np.array([0, 1]), StudyConfig(draws=50))
    assert found["captured"][0] == pytest.approx(4.0 / 5.0)
    assert found["regret"][0] == 0.5 and found["rank_correlation"][0] == 0.5 and found["failed"][0] == 0.5


def test_every_setting_changes_what_its_name_says() -> None:
    base = AdapterConfig()
    settings = StudyConfig(base=base).settings()
    assert settings["without collision"].values == ("route", "distance", "speed")
    assert settings["only speed"].values == ("speed",) and settings["64 candidates"].candidates == 64
    assert settings["2 steps"] == replace(base, steps=2)
    assert settings["0.5 s"].horizon == 2 and settings["guidance 0.3"].guidance == 0.3
    assert settings["random plans"] == replace(base, source="random") and settings["full"] == base
    assert setting("base", base) is None and setting("oracle", base) == setting("full", base) == base
    no_value = setting("no_value", base)
    assert no_value is not None and (no_value.pick, no_value.candidates, no_value.keep_base) == ("first", 1, False)
    assert len({str(setting(arm, base)) for arm in ARMS}) == 5


def test_frames_keep_the_rules() -> None:
    """A car ahead: through it is a collision; stopping short of it is none, but braking that hard is no comfort."""
    truth = Truth(road_log([Body(24.0, 0.0)], MPS), open_ground(), BASE)
    through, hard = frame_of(truth, driven()), frame_of(truth, driven(-6.0))
    assert through == Frame(0.0, 1.0, 0.0, 1.0) and through.pdms == 0.0
    assert hard == Frame(1.0, 1.0, 1.0, 0.0) and hard.pdms == pytest.approx(5.0 / 7.0)
    free = Truth(road_log([], MPS), open_ground(), BASE)
    assert frame_of(free, driven()).pdms == 1.0
    touching = frame_of(Truth(road_log([Body(4.0, 0.0)], MPS), open_ground(), BASE), driven())
    assert touching.no_collision == 0.0 and touching.pdms == 0.0
    red = with_line(road_log([Body(24.0, 0.0)], MPS), 10.0, bev.RED)
    assert frame_of(Truth(red, open_ground(), BASE), driven()) == through
    plan = np.zeros((1, KNOTS, 2))
    plan[0, 5:, 0] = -8.0
    late = follow_plan(start_state(MPS, 0.0, 0.0)[None], plan)[0]  # stops in the last moment
    kept = frame_of(Truth(road_log([Body(21.0, 0.0)], MPS), open_ground(), BASE), late)
    assert kept == Frame(1.0, 1.0, 0.0, 0.0)


def test_going_straight_on() -> None:
    """Of a straight drive at constant speed it is the drive itself; of a bend it leaves the bend."""
    straight = driven()
    np.testing.assert_allclose(straight_on(straight, 0.6), straight, atol=1e-9)
    bend = driven(curvature_per_m=0.1)
    assert np.hypot(*(straight_on(bend, 0.95)[-1, :2] - bend[-1, :2])) > 1.0
    assert comfortable(straight) and not comfortable(driven(3.5)) and not comfortable(driven(curvature_per_m=0.15))


def test_the_score_of_a_drive() -> None:
    """Key frames with 3 s after them count; times completion."""
    log = road_log([], MPS)
    found = hd_score(log, road_map(), {tick: driven() for tick in range(0, log.ticks, 2)}, 0.5)
    assert found["frames"] == 10.0 and found["pdms"] == 1.0 and found["hd_score"] == pytest.approx(50.0)
    with pytest.raises(ValueError, match="hold no plan with 3 s after it"):
        hd_score(log, road_map(), {140: driven()}, 1.0)
