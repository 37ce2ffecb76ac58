"""The guard's state machine: any input gives a valid control, and each mode starts and ends as it should."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.guard import Control, Guard, GuardConfig, Mode, Proposal, Request, is_valid

GO = Control(throttle=0.7, steer=0.2)
GOOD = Proposal(control=GO, speed_mps=8.0)
NOTHING = Proposal(control=None, speed_mps=8.0)

anything = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.none(), st.text(max_size=2), st.booleans()
)
controls = st.one_of(
    st.none(),
    st.builds(Control, throttle=anything, steer=anything, brake=anything, reverse=anything),  # type: ignore[arg-type]
    st.builds(Control, throttle=st.floats(0, 1), steer=st.floats(-1, 1), brake=st.floats(0, 1), reverse=st.booleans()),
)
proposals = st.builds(
    Proposal,
    control=controls,
    request=st.sampled_from(Request),
    speed_mps=anything,  # type: ignore[arg-type]
    speed_cap_mps=anything,  # type: ignore[arg-type]
)


def assert_valid(control: Control) -> None:
    for value, low in ((control.throttle, 0.0), (control.steer, -1.0), (control.brake, 0.0)):
        assert type(value) is float
        assert low <= value <= 1.0
    assert type(control.reverse) is bool


@given(steps=st.lists(st.tuples(proposals, anything), max_size=60))
def test_any_sequence_gives_valid_controls(steps: list[tuple[Proposal, float]]) -> None:
    guard = Guard(GuardConfig())
    for proposal, now_s in steps:
        control = guard.step(proposal, now_s)
        assert_valid(control)
        if guard.mode is not Mode.NOMINAL:
            assert control.throttle == 0.0
        if proposal.request is Request.EMERGENCY:
            assert control.brake == 1.0


@given(steps=st.lists(st.tuples(proposals, st.floats(0, 1e6)), max_size=40))
def test_good_proposals_lead_back_to_nominal_from_everywhere(steps: list[tuple[Proposal, float]]) -> None:
    guard = Guard(GuardConfig())
    for proposal, now_s in steps:
        guard.step(proposal, now_s)
    for _ in range(GuardConfig().recovery_ticks):
        control = guard.step(GOOD, math.nan)
    assert guard.mode is Mode.NOMINAL
    assert control == GO


def run(guard: Guard, proposal: Proposal, ticks: int, start_s: float = 0.0) -> list[Mode]:
    modes = []
    for i in range(ticks):
        guard.step(proposal, start_s + 0.05 * i)
        modes.append(guard.mode)
    return modes


def test_missing_proposal_is_held_for_0_2_s_then_stopped() -> None:
    guard = Guard(GuardConfig())
    guard.step(GOOD, 0.0)
    held = guard.step(NOTHING, 0.05)
    assert (held.throttle, held.steer, held.brake) == (0.0, 0.2, 0.0)
    assert run(guard, NOTHING, 6, 0.1) == [Mode.HOLD] * 3 + [Mode.STOP] * 3
    assert guard.step(NOTHING, 0.5).brake == pytest.approx(0.3)


def test_one_good_proposal_ends_hold_but_five_end_stop() -> None:
    guard = Guard(GuardConfig())
    run(guard, GOOD, 2)
    run(guard, NOTHING, 2)
    assert run(guard, GOOD, 1) == [Mode.NOMINAL]
    run(guard, NOTHING, 10)
    assert run(guard, GOOD, 5) == [Mode.STOP] * 4 + [Mode.NOMINAL]
    run(guard, NOTHING, 10)
    run(guard, GOOD, 4)
    assert run(guard, NOTHING, 1) == [Mode.STOP]
    assert run(guard, GOOD, 5) == [Mode.STOP] * 4 + [Mode.NOMINAL]


def test_standing_clock_does_not_hold_for_ever() -> None:
    guard = Guard(GuardConfig())
    guard.step(GOOD, 3.0)
    modes = []
    for _ in range(6):
        guard.step(NOTHING, 3.0)
        modes.append(guard.mode)
    assert modes[-1] is Mode.STOP


def test_stop_that_does_not_stop_becomes_an_emergency() -> None:
    guard = Guard(GuardConfig())
    stop = Proposal(control=GO, request=Request.STOP, speed_mps=8.0)
    modes = run(guard, stop, 210)
    assert modes[0] is Mode.STOP
    assert modes.count(Mode.STOP) in (200, 201)
    assert modes[-1] is Mode.EMERGENCY
    exact = Guard(GuardConfig(stop_limit_s=0.0))
    assert run(exact, stop, 2) == [Mode.STOP, Mode.EMERGENCY]
    barely = Proposal(control=GO, request=Request.STOP, speed_mps=GuardConfig().standstill_mps)
    assert run(Guard(GuardConfig()), barely, 210)[-1] is Mode.EMERGENCY
    standing = Guard(GuardConfig())
    assert set(run(standing, Proposal(control=GO, request=Request.STOP, speed_mps=0.0), 300)) == {Mode.STOP}


def test_a_stopped_car_is_held_with_the_full_brake() -> None:
    guard = Guard(GuardConfig())
    assert guard.step(Proposal(control=GO, request=Request.STOP, speed_mps=5.0), 0.0).brake == pytest.approx(0.3)
    assert guard.step(Proposal(control=GO, request=Request.STOP, speed_mps=0.1), 0.05).brake == 1.0


def test_speed_cap_takes_the_throttle_and_then_brakes() -> None:
    guard = Guard(GuardConfig())
    assert guard.step(Proposal(control=GO, speed_mps=4.9, speed_cap_mps=5.0), 0.0) == GO
    over = guard.step(Proposal(control=GO, speed_mps=5.5, speed_cap_mps=5.0), 0.05)
    assert (over.throttle, over.brake, over.steer) == (0.0, 0.0, 0.2)
    far_over = guard.step(Proposal(control=GO, speed_mps=6.5, speed_cap_mps=5.0), 0.1)
    assert (far_over.throttle, far_over.brake) == (0.0, pytest.approx(0.3))
    braking = Proposal(control=Control(brake=1.0), speed_mps=6.5, speed_cap_mps=5.0)
    assert guard.step(braking, 0.15).brake == 1.0


def test_controls_are_judged_by_type_and_limits() -> None:
    good = [Control(throttle=a, steer=b, brake=c) for a in (0.0, 1.0) for b in (-1.0, 1.0) for c in (0.0, 1.0)]
    assert all(is_valid(control) for control in good)
    for value in (1.01, -1.01, math.nan, math.inf, -math.inf, None, "1", True):
        for name in ("throttle", "steer", "brake"):
            assert not is_valid(Control(**{name: value}))  # type: ignore[arg-type]
    for name in ("throttle", "brake"):
        assert not is_valid(Control(**{name: -0.01}))  # type: ignore[arg-type]
    for control in (None, 3, Control(reverse=1), Control(reverse=None)):  # type: ignore[arg-type]
        assert not is_valid(control)  # type: ignore[arg-type]


IMPOSSIBLE = [{"hold_s": 1.01}, {"hold_s": -0.01}, {"stop_brake": 0.0}, {"stop_brake": 1.01}, {"recovery_ticks": 0}]


@pytest.mark.parametrize("setting", IMPOSSIBLE)
def test_impossible_limits_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        GuardConfig(**setting)  # type: ignore[arg-type]


def test_limits_may_be_reached() -> None:
    for config in (
        GuardConfig(hold_s=0.0),
        GuardConfig(hold_s=1.0),
        GuardConfig(stop_brake=1.0),
        GuardConfig(stop_brake=0.05),
        GuardConfig(recovery_ticks=1),
    ):
        guard = Guard(config)
        run(guard, NOTHING, 30)
        assert guard.mode is Mode.STOP
        run(guard, GOOD, config.recovery_ticks)
        assert guard.mode is Mode.NOMINAL


def test_before_the_first_good_proposal_the_wheel_is_straight_and_the_gear_forward() -> None:
    guard = Guard(GuardConfig())
    assert guard.step(NOTHING, 0.0) == Control()
    assert Control() == Control(throttle=0.0, steer=0.0, brake=0.0, reverse=False)
    modes = [guard.mode, *run(guard, NOTHING, 5, 0.05)]
    assert modes == [Mode.HOLD] * 4 + [Mode.STOP] * 2


def test_thresholds_of_standstill_and_speed_cap() -> None:
    guard = Guard(GuardConfig())
    stop = [Proposal(control=GO, request=Request.STOP, speed_mps=speed) for speed in (0.31, 0.3, 0.29, -0.29)]
    assert [guard.step(proposal, 0.0).brake for proposal in stop] == pytest.approx([0.3, 0.3, 1.0, 1.0])
    guard = Guard(GuardConfig())
    capped = [Proposal(control=GO, speed_mps=speed, speed_cap_mps=5.0) for speed in (5.0, 5.01, 6.0, 6.01, -6.01)]
    controls = [guard.step(proposal, 0.0) for proposal in capped]
    assert [control.throttle for control in controls] == [0.7, 0.0, 0.0, 0.0, 0.0]
    assert [control.brake for control in controls] == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.3])


def test_a_tick_counts_at_most_0_2_s() -> None:
    guard = Guard(GuardConfig(hold_s=0.5))
    guard.step(GOOD, 0.0)
    modes = []
    for i in range(4):
        guard.step(NOTHING, 100.0 * (i + 1))
        modes.append(guard.mode)
    assert modes == [Mode.HOLD] * 4
    guard.step(NOTHING, 500.0)
    assert guard.mode is Mode.STOP
