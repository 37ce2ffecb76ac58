"""The agent's model of a car: equal to the compiled one, within its limits, and back from motions to plans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import motion as cars
from agent.actions import ACTIONS, BRAKE, COAST, FULL_BRAKE, REVERSE
from agent.motion import (
    KNOT_TICKS,
    KNOTS,
    LIMITS,
    PLAN_TICKS,
    TICK_S,
    ActionChooser,
    follow_plan,
    hardest_mps2,
    hold_actions,
    plan_of,
    response,
    seen_from_start,
)
from training.counterfactual.motion import integrate, start_state
from training.counterfactual.synthesis import relative_motion

SPEEDS = st.floats(0.0, 25.0)


def plans(count: int, seed: int) -> np.ndarray:
    """Wild ones, beyond what a car can do."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.uniform(-12, 6, (count, KNOTS)), generator.uniform(-0.3, 0.3, (count, KNOTS))], -1)


@pytest.mark.parametrize("speed_mps", [0.0, 0.4, 3.0, 9.0, 24.9])
def test_is_the_compiled_model(speed_mps: float) -> None:
    """Both models, written apart, give the same motions under wild plans, through standing still and at every limit."""
    start = np.array([3.0, -2.0, 0.7, speed_mps, 0.0, 0.01])
    wanted = plans(12, seed=int(10 * speed_mps))
    found = follow_plan(np.repeat(start[None], 12, 0), wanted)
    for k in range(12):
        accel, curvature = (np.repeat(wanted[k, :, c], KNOT_TICKS) for c in range(2))
        expected, _ = integrate(start, accel, curvature, LIMITS.array())
        np.testing.assert_allclose(found[k], expected, atol=1e-5)


@given(speed_mps=SPEEDS, step_mps2=st.floats(0.5, 4.0))
def test_the_hardest_braking_ends_as_the_car_stands(speed_mps: float, step_mps2: float) -> None:
    """Letting it go tick by tick loses just the speed that there is."""
    decel = float(hardest_mps2(np.array([speed_mps]), step_mps2)[0])
    lost, left = 0.0, decel
    while left > 0.0:
        lost += left * TICK_S
        left -= step_mps2
    assert lost == pytest.approx(speed_mps, abs=1e-6)


@given(speed_mps=SPEEDS, accel_mps2=st.floats(-20.0, 20.0), yaw_rate=st.floats(-3.0, 3.0))
def test_starts_as_the_counterfactual_futures_do(speed_mps: float, accel_mps2: float, yaw_rate: float) -> None:
    ego = np.array([[0.0, 0.0, 0.0, speed_mps - accel_mps2 * TICK_S, 0.0, yaw_rate], [0, 0, 0, speed_mps, 0, yaw_rate]])
    theirs, ours = start_state(ego, 1, LIMITS), cars.start_state(speed_mps, accel_mps2, yaw_rate)
    np.testing.assert_allclose(np.delete(ours, cars.ACCEL), np.delete(theirs, cars.ACCEL), atol=1e-9)
    allowed = -float(hardest_mps2(np.array([speed_mps]), LIMITS.jerk_mps3 * TICK_S)[0])
    assert allowed - 1e-9 <= ours[cars.ACCEL] <= LIMITS.accel_mps2


@pytest.mark.parametrize("speed_mps", [0.0, 5.0, 15.0])
def test_plans_are_read_off_motions(speed_mps: float) -> None:
    """A motion that is driven again from its own plan ends where it ended, within 20 cm and 5 % of its way."""
    start = np.repeat(cars.start_state(speed_mps, 0.0, 0.0)[None], 20, 0)
    motion = follow_plan(start, plans(20, seed=4) * np.array([0.3, 0.1]))
    again = follow_plan(start, plan_of(motion))
    way_m = np.hypot(*np.diff(motion[..., :2], axis=1).transpose(2, 0, 1)).sum(1)
    off_m = np.hypot(*(again[:, -1, :2] - motion[:, -1, :2]).T)
    assert (off_m < 0.05 * way_m + 0.2).all()
    np.testing.assert_allclose(again[:, -1, 3], motion[:, -1, 3], atol=0.3)


def test_rows_are_those_of_the_futures() -> None:
    motion = follow_plan(np.repeat([[4.0, 1.0, 3.0, 8.0, 0.0, 0.0]], 5, 0), plans(5, seed=1))
    np.testing.assert_allclose(seen_from_start(motion), relative_motion(motion), atol=1e-12)


def test_actions_do_what_the_car_does() -> None:
    """Curvature by the single-track model's wheel angle; coasting and soft throttle slow down, the brake more."""
    table = np.arange(len(ACTIONS))
    accel, curvature = response(table, np.full(len(table), 8.0))
    forward = ACTIONS[:, REVERSE] == 0
    assert (accel[forward & (ACTIONS[:, BRAKE] > 0)] == -cars.BRAKING_MPS2).all()
    assert accel[5] == pytest.approx(3.2 - 0.88) and accel[COAST] < -1.5
    wheel = ACTIONS[:, 1] * cars.STEER_GAIN_RAD
    np.testing.assert_allclose(-np.tan(wheel) / cars.WHEELBASE_M, curvature, atol=1e-7)
    standing = hold_actions(np.zeros((1, 6)), np.full((1, 30), FULL_BRAKE))
    assert standing.shape == (1, PLAN_TICKS + 1, 4) and np.ptp(standing, axis=1).max() == 0.0


@pytest.mark.parametrize(("accel_mps2", "action"), [(-8.0, FULL_BRAKE), (-2.2, COAST), (2.5, 5)])
def test_an_action_is_chosen_for_what_is_wanted(accel_mps2: float, action: int) -> None:
    assert ActionChooser().choose(accel_mps2, 0.0, 7.0) == action


def test_what_one_action_misses_the_next_ones_make_up() -> None:
    """The mean of the actions approaches what no single one gives: a soft braking, and a bend between two steers."""
    chooser = ActionChooser()
    taken = np.array([chooser.choose(-3.0, 0.014, 7.0) for _ in range(60)])
    accel, curvature = response(taken, np.full(60, 7.0))
    assert len(set(taken.tolist())) > 2
    assert accel.mean() == pytest.approx(-3.0, abs=0.3)
    assert curvature.mean() == pytest.approx(0.014, abs=0.004)
    assert (ACTIONS[taken, REVERSE] == 0).all()


def test_turning_left_steers_left() -> None:
    left = ActionChooser().choose(0.0, 0.08, 5.0)
    assert ACTIONS[left, 1] < 0.0
    motion = hold_actions(np.array([[0.0, 0.0, 0.0, 5.0, 0.0, 0.0]]), np.full((1, 20), left))
    assert motion[0, -1, 2] > 0.1 and math.isfinite(motion.sum())
