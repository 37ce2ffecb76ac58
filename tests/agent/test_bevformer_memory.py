"""The ring of BEV memories: which one is read, and the motion since."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.model.bev_grid import BevGrid, can_bus_from_motion, warp_memory
from agent.model.memory import MemoryRing, Placement

HOME = Placement(0.0, 0.0, 0.0)


def filled(interval_s: float, period_s: float, calls: int) -> MemoryRing:
    ring = MemoryRing(interval_s, period_s)
    for call in range(calls):
        ring.push(call * period_s, Placement(float(call), 0.0, 0.0), torch.full((1, 4, 2), float(call)))
    return ring


def test_the_memory_as_old_as_in_training_is_read():
    ring = filled(interval_s=0.5, period_s=0.05, calls=40)
    recalled = ring.recall(40 * 0.05, Placement(40.0, 0.0, 0.0))
    assert recalled is not None
    assert recalled.age_s == pytest.approx(0.5)
    assert (recalled.bev == 30.0).all()
    torch.testing.assert_close(recalled.motion, torch.tensor([[10.0, 0.0, 0.0]]))


def test_equal_rates_read_the_previous_output():
    recalled = filled(interval_s=0.1, period_s=0.1, calls=5).recall(0.5, HOME)
    assert recalled is not None
    assert (recalled.bev == 4.0).all()


@given(calls=st.integers(1, 30), now=st.floats(0.0, 3.0))
def test_no_other_kept_memory_is_closer_to_the_interval(calls: int, now: float):
    ring = filled(interval_s=0.5, period_s=0.1, calls=calls)
    assert len(ring) == min(calls, ring.capacity)
    now += (calls - 1) * 0.1
    recalled = ring.recall(now, HOME)
    assert recalled is not None
    ages = [now - 0.1 * call for call in range(max(0, calls - ring.capacity), calls)]
    assert abs(recalled.age_s - 0.5) == pytest.approx(min(abs(age - 0.5) for age in ages), abs=1e-9)


def test_a_new_episode_has_no_memory_and_may_start_at_any_time():
    ring = filled(interval_s=0.2, period_s=0.1, calls=5)
    ring.reset()
    assert ring.recall(1.0, HOME) is None
    ring.push(0.0, HOME, torch.zeros(1, 4, 2))
    assert len(ring) == 1


def test_time_must_advance():
    ring = filled(interval_s=0.2, period_s=0.1, calls=2)
    with pytest.raises(ValueError, match="not later"):
        ring.push(0.1, HOME, torch.zeros(1, 4, 2))


@pytest.mark.parametrize("bad", [(0.0, 0.1), (0.1, 0.2), (math.inf, 0.1), (math.nan, 0.1)])
def test_impossible_intervals_are_refused(bad: tuple[float, float]):
    with pytest.raises(ValueError, match="memory ring"):
        MemoryRing(*bad)


def test_placements_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        Placement(math.nan, 0.0, 0.0)


@given(
    x=st.floats(-50.0, 50.0), y=st.floats(-50.0, 50.0), yaw=st.floats(-10.0, 10.0),
    dx=st.floats(-5.0, 5.0), dy=st.floats(-5.0, 5.0), turn=st.floats(-3.0, 3.0),
)  # fmt: skip
def test_motion_is_seen_from_the_earlier_placement(x: float, y: float, yaw: float, dx: float, dy: float, turn: float):
    c, s = math.cos(yaw), math.sin(yaw)
    later = Placement(x + c * dx - s * dy, y + s * dx + c * dy, yaw + turn + 4.0 * math.pi)
    assert Placement(x, y, yaw).motion_to(later) == pytest.approx((dx, dy, turn), abs=1e-6)


def test_a_lidar_behind_the_origin_swings_out_of_a_turn():
    motion = HOME.motion_to(Placement(0.0, 0.0, math.pi / 2), origin_ego_m=(-0.39, 0.0))
    assert motion == pytest.approx((0.39, -0.39, math.pi / 2))


def test_a_recalled_memory_lies_where_the_world_is():
    """Driving two cells forward moves the remembered spot two rows towards the rear; reading it half a second later."""
    grid = BevGrid(10, 6, (-3.0, -2.0, -1.0, 3.0, 8.0, 3.0))
    ring = MemoryRing(0.5, 0.1)
    bev = torch.zeros(1, 10, 6, 1)
    bev[0, 7, 2] = 1.0
    ring.push(0.0, Placement(20.0, 5.0, math.pi / 2), bev.flatten(1, 2))
    recalled = ring.recall(0.5, Placement(20.0, 7.0, math.pi / 2))
    assert recalled is not None
    seen = warp_memory(recalled.bev, grid, recalled.motion).view(10, 6)
    assert divmod(int(seen.argmax()), 6) == (5, 2)
    assert can_bus_from_motion(recalled.motion, recalled.age_s)[0, 7] == pytest.approx(4.0)
