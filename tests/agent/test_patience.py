"""Breaking a stand that has no end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.actions import ACTIONS, BRAKE, THROTTLE
from agent.model.policy import pedal_first, setting_off
from agent.patience import Patience, PatienceConfig

DECISION_S = 0.1
CONFIG = PatienceConfig(after_s=10.0, full_s=30.0, least_share=0.02, burst_s=1.0)


def first_start_s(share: float, config: PatienceConfig = CONFIG) -> float | None:
    patience = Patience(config)
    for decision in range(1, 600):
        if patience.is_over(0.0, share, DECISION_S):
            return decision * DECISION_S
    return None


def test_less_probability_takes_longer_and_too_little_never_suffices() -> None:
    assert first_start_s(0.01) is None
    assert first_start_s(0.9) == pytest.approx(10.1, abs=0.11)
    assert first_start_s(0.26) == pytest.approx(20.1, abs=0.11)
    assert first_start_s(0.03) == pytest.approx(29.7, abs=0.11)


def test_before_the_leaderboard_gives_up_any_probability_suffices() -> None:
    config = replace(CONFIG, last_s=50.0)
    assert first_start_s(0.0, config) == pytest.approx(50.1, abs=0.11)
    assert first_start_s(0.9, config) == first_start_s(0.9)


def test_a_start_lasts_and_then_the_policy_decides_again() -> None:
    patience = Patience(CONFIG)
    going = [patience.is_over(0.0 if tick < 102 else 2.0, 0.9, DECISION_S) for tick in range(130)]
    assert going.index(True) == 100 and 10 <= sum(going) <= 11


def test_a_car_that_is_stopped_again_has_not_begun_to_wait_anew() -> None:
    """It stands, goes for its second, and is stopped 2 m further by a policy that has not changed its mind."""
    starts = {}
    for stand_m in (0.0, 6.0):
        patience, speed_mps, starts[stand_m] = Patience(replace(CONFIG, stand_m=stand_m)), 0.0, []
        for decision in range(600):
            going = patience.is_over(speed_mps, 0.9, DECISION_S)
            if going and not speed_mps:
                starts[stand_m].append(decision * DECISION_S)
            speed_mps = 2.0 if going else 0.0
    assert starts[0.0] == pytest.approx([10.0, 21.2, 32.4, 43.6, 54.8], abs=0.3)
    after_6_m = [10.0, 11.2, 12.4, 23.6, 24.8]
    assert starts[6.0][:5] == pytest.approx(after_6_m, abs=0.3)


def test_a_moving_car_is_left_alone() -> None:
    patience = Patience(CONFIG)
    assert not any(patience.is_over(0.3, 1.0, DECISION_S) for _ in range(600))


def test_setting_off_is_the_best_of_the_actions_that_go_forward() -> None:
    logits = torch.full((len(ACTIONS),), -4.0)
    logits[next(i for i, row in enumerate(ACTIONS.tolist()) if row[BRAKE] > 0.0)] = 5.0
    assert ACTIONS[pedal_first(logits)][BRAKE] > 0.0
    share, action = setting_off(logits)
    assert 0.0 < share < 0.01
    assert ACTIONS[action][THROTTLE] > 0.0 and ACTIONS[action][BRAKE] == 0.0


IMPOSSIBLE = [{"after_s": 40.0}, {"least_share": 0.7}, {"after_s": 0.0}, {"last_s": 20.0}, {"stand_m": -1.0}]


@pytest.mark.parametrize("bad", IMPOSSIBLE)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="patience"):
        PatienceConfig(**bad)
