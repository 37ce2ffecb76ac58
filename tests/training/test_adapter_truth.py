"""What comes of plans, told by geometry: rewards of every quarter second on a road with chosen actors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agent.model.adapter import VALUES
from agent.motion import KNOTS, follow_plan, start_state
from tests.training.counterfactual import BASE, TICKS, Body, moved, open_ground, road_log, road_map, with_line
from training import bev
from training.adapter.truth import COLLISION, DISTANCE, ROUTE, SPEED, Truth, returns
from training.counterfactual import log as logs
from training.counterfactual.log import EpisodeLog
from training.counterfactual.surface import Surface

MPS = 8.0


def driven(accel_mps2: float = 0.0, curvature_per_m: float = 0.0, speed_mps: float = MPS) -> np.ndarray:
    plan = np.tile(np.array([accel_mps2, curvature_per_m]), (1, KNOTS, 1))
    return follow_plan(start_state(speed_mps, 0.0, 0.0)[None], plan)


def truth(log: EpisodeLog) -> Truth:
    return Truth(log, open_ground(), BASE)


def test_an_undisturbed_drive() -> None:
    """On the route at 8 of 13.9 m/s: every reward by hand, and the returns as sums."""
    judged = truth(road_log([], MPS)).judge(driven())
    rewards = judged.rewards[0]
    np.testing.assert_allclose(rewards[:, ROUTE], 1.0, atol=1e-6)
    np.testing.assert_allclose(rewards[:, DISTANCE], 0.8, atol=1e-3)
    np.testing.assert_allclose(rewards[:, SPEED], MPS / 13.9, atol=1e-3)
    assert (rewards[:, COLLISION] == 0.0).all() and not judged.contact[0] and judged.failure_s[0] == math.inf
    assert judged.progress_m[0] == pytest.approx(24.0, abs=0.1)
    sums = returns(judged.rewards, 0.9)[0]
    assert sums[2, DISTANCE] == pytest.approx(0.8 * (1.0 + 0.9 + 0.81), rel=1e-3)
    assert sums.shape == (KNOTS, len(VALUES))


def test_a_contact_costs_its_speed_and_ends_the_rest() -> None:
    """A car that stands 20 m ahead is touched after 15.2 m, in the eighth quarter second."""
    judged = truth(road_log([Body(20.0, 0.0)], MPS)).judge(driven())
    rewards = judged.rewards[0]
    step = int(np.flatnonzero(rewards[:, COLLISION])[0])
    assert judged.contact[0] and judged.failure_s[0] == pytest.approx(15.15 / MPS, abs=0.06)
    assert step == math.ceil(judged.failure_s[0] / 0.25) - 1
    assert rewards[step, COLLISION] == pytest.approx(-1.8, abs=0.01)
    assert (rewards[step, [ROUTE, DISTANCE, SPEED]] == 0.0).all() and (rewards[step + 1 :] == 0.0).all()
    assert (rewards[:step, ROUTE] == 1.0).all()
    braking = truth(road_log([Body(20.0, 0.0)], MPS)).judge(driven(-8.0))
    assert not braking.contact[0] and braking.rewards[0, :, COLLISION].sum() == 0.0


def test_beside_the_route_and_too_fast() -> None:
    log = replace(road_log([], MPS), limit_mps=np.full(TICKS, 6.0, np.float32))
    judged = truth(log).judge(driven(curvature_per_m=0.02))
    motion = truth(log).world(driven(curvature_per_m=0.02))[0, 5::5]
    np.testing.assert_allclose(
        judged.rewards[0, :, ROUTE], 1.0 - np.minimum(np.abs(motion[:, 1]) / 4.0, 1.0), atol=1e-6
    )
    np.testing.assert_allclose(judged.rewards[0, :, SPEED], 3.0 - 2.0 * MPS / 6.0, atol=1e-3)


@pytest.mark.parametrize(
    ("channel", "accel_mps2", "disobeyed"),
    [
        (bev.RED, 0.0, True),
        (bev.GREEN, 0.0, False),
        (bev.YELLOW, 0.0, False),
        (logs.ABSENT, 0.0, False),
        (bev.RED, -4.0, False),
        (bev.STOP_SIGN, 0.0, True),
        (bev.STOP_SIGN, -2.9, False),
    ],
)
def test_signals(channel: int, accel_mps2: float, disobeyed: bool) -> None:
    """Red: the line is run over. Stop sign: its box is left without a stop; who stands in it has obeyed."""
    judged = truth(with_line(road_log([], MPS), 12.0, channel)).judge(driven(accel_mps2))
    assert bool(judged.disobeyed[0]) == disobeyed
    if disobeyed:
        step = int(np.flatnonzero(judged.rewards[0, :, ROUTE] < 0.0)[0])
        assert judged.rewards[0, step, ROUTE] == -1.0 and (judged.rewards[0, step + 1 :] == 0.0).all()


def test_what_comes_after_a_red_light_is_known_too() -> None:
    """The light ends the rewards; who is touched behind it, and the road that is left, are told all the same."""
    log = with_line(road_log([Body(20.0, 0.0)], MPS), 10.0, bev.RED)
    judged = truth(log).judge(driven())
    assert judged.disobeyed[0] and not judged.contact[0] and (judged.rewards[0, :, COLLISION] == 0.0).all()
    assert judged.touches[0] and judged.touch_mps[0] == pytest.approx(MPS, abs=0.01) and not judged.leaves[0]
    lane = Surface.around(road_map(), np.zeros((1, 2)))
    off = Truth(with_line(road_log([], MPS), 6.0, bev.RED), lane, BASE).judge(driven(curvature_per_m=0.06))
    assert off.disobeyed[0] and not off.off_road[0] and off.leaves[0] and not off.touches[0]


def test_a_car_does_not_leave_the_road_through_what_it_has_hit() -> None:
    lane = Surface.around(road_map(), np.zeros((1, 2)))
    wall = [Body(10.0, 2.0, half=(0.3, 6.0))]
    judged = Truth(road_log(wall, MPS), lane, BASE).judge(driven(curvature_per_m=0.06))
    assert judged.contact[0] and judged.touches[0] and not judged.leaves[0]
    free = Truth(road_log([], MPS), lane, BASE).judge(driven(curvature_per_m=0.06))
    assert free.off_road[0] and free.leaves[0]


def test_who_touches_somebody_already_touches_and_a_followers_contact_does_not_count() -> None:
    beside = truth(road_log([Body(4.0, 0.0)], MPS)).judge(driven())
    assert beside.touches[0] and not beside.usable[0]
    pushed = truth(road_log([Body(-4.7, 0.0, 0.0, MPS + 4.0)], MPS)).judge(driven())
    assert not pushed.touches[0] and pushed.touch_mps[0] == 0.0


def test_who_already_stands_on_a_red_line_may_go_on() -> None:
    judged = truth(with_line(road_log([], MPS), 1.0, bev.RED)).judge(driven())
    assert not judged.disobeyed[0]


def test_does_not_depend_on_where_the_world_is() -> None:
    log = with_line(road_log([Body(25.0, 1.0), Body(15.0, -6.0, math.pi / 2, 3.0)], MPS), 30.0, bev.RED)
    motions = np.concatenate([driven(), driven(-3.0, 0.03), driven(2.0, -0.02)])
    here, there = truth(log).judge(motions), truth(moved(log, 40.0, -70.0, 2.2)).judge(motions)
    np.testing.assert_allclose(here.rewards, there.rewards, atol=1e-3)
    place = truth(moved(log, 40.0, -70.0, 2.2))
    np.testing.assert_allclose(place.local(place.world(motions)), motions, atol=1e-9)
