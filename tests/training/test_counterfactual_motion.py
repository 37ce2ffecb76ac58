"""Edited ego motions: the vehicle's limits always hold, and each family does what it is named for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.counterfactual import BASE, Body, open_ground, road_log, road_map
from training import bev
from training.counterfactual.beam import BeamConfig, Goal, search
from training.counterfactual.candidates import CandidateConfig, Family, propose
from training.counterfactual.motion import REAR_AXLE_M, VehicleLimits, chase, follow, integrate, start_state
from training.counterfactual.replay import HORIZON_TICKS, NO, make_scene, replay
from training.counterfactual.surface import Surface

LIMITS = VehicleLimits()
DT = 0.05
GROUND = open_ground()
ROAD = Surface.around(road_map(), np.array([[0.0, 0.0], [60.0, 0.0]]))
SLACK = 1e-6
MEETABLE = [
    Body(20.0, 0.0, speed=3.0),
    Body(16.0, -12.0, math.pi / 2, 6.0),
    Body(30.0, 3.0, math.pi, 5.0),
    Body(25.0, 4.0),
]


def keeps_limits(motion: np.ndarray, limits: VehicleLimits = LIMITS, start_accel: float | None = None) -> None:
    """Acceleration, lateral acceleration, curvature and jerk, taken from the poses and speeds alone."""
    speed = motion[:, 3]
    accel = np.diff(speed) / DT
    assert speed.min() >= 0.0 and speed.max() <= limits.speed_mps + 0.3
    assert accel.max() <= limits.accel_mps2 + SLACK and accel.min() >= -limits.decel_mps2 - SLACK
    known = accel if start_accel is None else np.concatenate([[start_accel], accel])
    assert np.abs(np.diff(known)).max() <= limits.jerk_mps3 * DT + SLACK, "jerk"
    rear = motion[:, :2] - REAR_AXLE_M * np.stack([np.cos(motion[:, 2]), np.sin(motion[:, 2])], 1)
    step = np.hypot(*np.diff(rear, axis=0).T)
    turn = np.diff(motion[:, 2])
    moving = step > 1e-5
    way = 0.5 * (speed[1:] + speed[:-1]) * DT
    np.testing.assert_allclose(step[moving], way[moving], atol=1e-6)
    curvature = turn[moving] / way[moving]
    assert np.abs(curvature).max(initial=0.0) <= limits.curvature_per_m + SLACK
    assert (np.abs(curvature) * speed[1:][moving] ** 2).max(initial=0.0) <= limits.lateral_mps2 + SLACK


def state(speed: float, accel: float, curvature: float) -> np.ndarray:
    """A state within the limits that is nearest to the given one, made as from a log."""
    ego = np.zeros((2, 6))
    ego[:, 3] = max(speed - accel * DT, 0.0), speed
    ego[:, 5] = curvature * speed
    return start_state(ego, 1, LIMITS)


numbers = st.floats(-30, 30)


@settings(max_examples=80)
@given(
    speed=st.floats(0, 24),
    accel=st.floats(-12, 8),
    curvature=st.floats(-0.4, 0.4),
    accels=st.lists(numbers, min_size=6, max_size=6),
    wheel=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_no_command_breaks_the_limits(speed, accel, curvature, accels, wheel) -> None:
    start = state(speed, accel, curvature)
    motion, end = integrate(start, np.repeat(accels, 10), np.repeat(wheel, 10), LIMITS.array())
    keeps_limits(motion, start_accel=start[4])
    assert motion.shape == (HORIZON_TICKS + 1, 4) and end[3] == motion[-1, 3]


@settings(max_examples=40)
@given(
    speed=st.floats(0, 20),
    goal=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    wanted=st.floats(0, 25),
    bends=st.floats(-0.2, 0.2),
)
def test_chasing_and_following_keep_the_limits(speed, goal, wanted, bends) -> None:
    start = state(speed, 0.0, 0.0)
    speeds = np.full(HORIZON_TICKS + 1, wanted)
    keeps_limits(chase(start, np.tile(goal, (HORIZON_TICKS + 1, 1)).astype(float), speeds, LIMITS.array()))
    arc = np.arange(0.0, 80.0, 0.5)
    path = np.stack([arc, 10.0 * np.sin(bends * arc)], 1)
    noise = np.random.default_rng(0).normal(size=(2, HORIZON_TICKS))
    keeps_limits(follow(start, path, speeds, 3.0 * noise[0], 0.1 * noise[1], LIMITS.array()))


@settings(max_examples=20)
@given(speed=st.floats(0, 15), accel=st.floats(-3, 3), seed=st.integers(0, 2**16))
def test_every_family_keeps_the_limits(speed, accel, seed) -> None:
    log = road_log(MEETABLE, speed, accel)
    scene = make_scene(log, BASE)
    found = propose(log, scene, ROAD, CandidateConfig(), np.random.default_rng(seed))
    assert found.family[0] == Family.LOGGED and (found.family[1:] != Family.LOGGED).all()
    np.testing.assert_array_equal(found.motions[0], scene.logged)
    for motion in found.motions[1:]:
        keeps_limits(motion)
        np.testing.assert_allclose(motion[0, :3], scene.logged[0, :3], atol=1e-9)


def test_braking_ends_in_a_stop_without_a_jolt() -> None:
    motion, _ = integrate(state(8.0, 0.0, 0.0), np.full(60, -8.0), np.zeros(60), LIMITS.array())
    accel = np.diff(motion[:, 3]) / DT
    assert accel.min() == pytest.approx(-8.0) and motion[-1, 3] < 0.02
    assert motion[-1, 0] - motion[0, 0] == pytest.approx(8.0**2 / 16.0 + 8.0 * 0.1, abs=0.5), "stopping distance"


def outcomes_of(family: Family, count: int, bodies: list[Body], speed: float = 8.0, surface: Surface = GROUND):
    log = road_log(bodies, speed)
    scene = make_scene(log, BASE)
    none = dict.fromkeys(("noise", "rotated", "warped", "aimed", "meeting", "near_miss", "off_road", "searched"), 0)
    name = {Family.REAR_END: "meeting", Family.CROSSING: "meeting", Family.BEAM: "searched"}.get(
        family, family.name.lower()
    )
    config = CandidateConfig(**{**none, name: count})
    found = propose(log, scene, surface, config, np.random.default_rng(3))
    chosen = found.motions[found.family == family]
    assert len(chosen), family
    return scene, replay(scene, surface, chosen)


def test_aimed_motions_hit_and_near_misses_pass_closely() -> None:
    target = [Body(25.0, 3.5)]
    _, hits = outcomes_of(Family.AIMED, 40, target)
    assert (hits.contact_tick != NO).mean() > 0.8
    _, passes = outcomes_of(Family.NEAR_MISS, 40, [Body(18.0, 3.5)])
    close = (passes.contact_tick == NO) & (passes.clearance_m < 1.5)
    assert close.mean() > 0.8 and (passes.contact_tick != NO).mean() < 0.1


def test_meetings_are_rear_end_and_crossing_contacts() -> None:
    _, rear = outcomes_of(Family.REAR_END, 20, [Body(18.0, 0.0, speed=5.0)])
    assert (rear.contact_tick != NO).mean() > 0.8
    _, crossing = outcomes_of(Family.CROSSING, 20, [Body(16.0, -14.0, math.pi / 2, 6.0)])
    assert (crossing.contact_tick != NO).mean() > 0.8


def test_leaving_the_road_leaves_it() -> None:
    _, found = outcomes_of(Family.OFF_ROAD, 60, [], surface=ROAD)
    assert (found.off_road_tick != NO).mean() > 0.35
    _, noise = outcomes_of(Family.NOISE, 60, [], surface=ROAD)
    assert (noise.off_road_tick != NO).mean() < 0.1


def test_nobody_there_is_nobody_to_aim_at() -> None:
    log = road_log([])
    found = propose(log, make_scene(log, BASE), ROAD, CandidateConfig(), np.random.default_rng(0))
    assert set(found.family) == {
        Family.LOGGED,
        Family.NOISE,
        Family.ROTATED,
        Family.WARPED,
        Family.OFF_ROAD,
        Family.BEAM,
    }


class _Fixed:
    """A generator whose first whole number is the wanted goal."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._generator = np.random.default_rng(0)

    def integers(self, *_: int) -> int:
        return int(self._goal)

    def normal(self, **kwargs) -> np.ndarray:
        return self._generator.normal(**kwargs)


def test_beam_search_finds_danger_and_ways_around_it() -> None:
    """A car stands in the lane: danger is to hit it, progress is to pass it on the road."""
    log = road_log([Body(14.0, 0.0, half=(2.4, 1.0), channel=bev.VEHICLE)], 8.0)
    scene = make_scene(log, BASE)
    start = start_state(log.ego, BASE, LIMITS)
    found = {}
    for goal in Goal:
        motion = search(scene, ROAD, start, LIMITS.array(), np.zeros(HORIZON_TICKS), BeamConfig(), _Fixed(goal))  # type: ignore[arg-type]
        keeps_limits(motion)
        found[goal] = replay(scene, ROAD, motion[None])
    assert found[Goal.DANGER].contact_tick[0] != NO
    for goal in (Goal.PROGRESS, Goal.NARROW):
        assert found[goal].contact_tick[0] == NO and found[goal].off_road_tick[0] == NO, goal
    assert found[Goal.PROGRESS].progress_m[0] > 18.0
    assert found[Goal.NARROW].clearance_m[0] < found[Goal.PROGRESS].clearance_m[0] + 0.5


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="jerk_mps3 must be positive"):
        VehicleLimits(jerk_mps3=0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        CandidateConfig(aimed=-1)
    with pytest.raises(ValueError, match="width must be at least 1"):
        BeamConfig(width=0)
