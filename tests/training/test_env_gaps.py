"""The free road in numbers: on made-up roads against values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.test_expert import road, scene_on
from training.env.gaps import GAP_FIELDS, GAP_SIZE, gap_vector
from training.expert import Scene
from training.forecast import Kind, Others
from training.sidestep import LaneTable

LENGTH_M = 150


def lanes(left_m: float = 3.5, right_m: float = math.nan, *, same: bool = False) -> LaneTable:
    n = LENGTH_M + 1
    return LaneTable(
        np.full(n, left_m), np.full(n, same), np.full(n, right_m), np.zeros(n, bool), np.zeros((n, 2), bool)
    )


def scene(*others: tuple[float, float, float, float], ego_mps: float = 5.0, **changes) -> Scene:
    """The ego at 50 m of a straight road; others as (x_m, y_m, yaw_rad, speed_mps), 4 m long and 1.8 m wide."""
    rows = np.array(others).reshape(-1, 4)
    n = len(rows)
    bodies = Others(rows[:, :3], rows[:, 3], np.zeros(n), np.full(n, 2.0), np.full(n, 0.9))
    base = scene_on(road((LENGTH_M, 0.0)), pose=(50.0, 0.0, 0.0), index=50, speed_mps=ego_mps, lanes=lanes())
    return replace(base, others=bodies, **changes)


def named(values: np.ndarray) -> dict[str, list[float]]:
    return {name: [round(float(v), 3) for v in values[where]] for name, where in GAP_FIELDS.items()}


def test_fields_cover_the_vector() -> None:
    covered = np.concatenate([np.arange(GAP_SIZE)[where] for where in GAP_FIELDS.values()])
    np.testing.assert_array_equal(covered, np.arange(GAP_SIZE))


def test_empty_road() -> None:
    seen = named(gap_vector(scene()))
    assert seen["ahead"] == [1.0] * 5 and seen["meeting"] == [1.0, 1.0] and seen["emergency"] == [1.0]
    assert seen["left"] == [0.5, 1.0, 1.0, 1.0, 1.0], "the lane to the left is an oncoming one"
    assert seen["right"][0] == 0.0


def test_leader() -> None:
    seen = named(gap_vector(scene((66.45, 0.0, 0.0, 4.0))))
    first_m = 66.45 - 2.0 - 50.0 - 2.45
    assert seen["ahead"] == [round(min((first_m + 4.0 * t) / 40.0, 1.0), 3) for t in (0.0, 1.0, 2.0, 3.0, 4.5)]
    assert seen["ahead_speed"] == [0.4] and seen["ahead_parked"] == [0.0] and seen["ahead_edges"] == [0.3, -0.3]


def test_parked_car_at_the_right_edge() -> None:
    parked = scene((66.45, -1.2, 0.0, 0.0))
    parked = replace(parked, others=replace(parked.others, parked=np.array([True])))
    seen = named(gap_vector(parked))
    assert seen["ahead"] == [0.3] * 5 and seen["ahead_parked"] == [1.0] and seen["ahead_edges"] == [-0.1, -0.7]


def test_who_crosses_is_met_and_who_has_passed_is_not() -> None:
    # reaches the way 15 m ahead in 3 s, as the ego that goes on at 5 m/s and faster does
    coming = named(gap_vector(scene((67.0, -12.0, math.pi / 2, 4.0))))
    assert coming["ahead"][0] == 1.0 and coming["ahead"][3] == pytest.approx((67.0 - 0.9 - 52.45) / 40.0, abs=0.01)
    assert coming["meeting"][0] == pytest.approx((67.0 - 0.9 - 52.45) / 40.0, abs=0.01) and coming["meeting"][1] < 0.5
    passed = named(gap_vector(scene((67.0, 8.0, math.pi / 2, 4.0))))
    assert passed["ahead"] == [1.0] * 5 and passed["meeting"] == [1.0, 1.0]


def test_lane_beside() -> None:
    beside = scene((40.0, 3.5, 0.0, 9.0), (75.0, 3.5, 0.0, 2.0), lanes=lanes(same=True))
    seen = named(gap_vector(beside))
    assert seen["ahead"] == [1.0] * 5
    assert seen["left"] == [1.0, round((73.0 - 52.45) / 40.0, 3), 0.2, round((47.55 - 42.0) / 40.0, 3), 0.9]


def test_lines_and_emergency() -> None:
    seen = named(gap_vector(scene(red_stop_m=(20.0, 62.45), sign_stop_m=(51.45,))))
    assert seen["light"] == [0.25], "a line behind does not count"
    assert seen["stop_sign"] == [0.0], "the front is just over the line"
    behind = scene((35.0, 0.0, 0.0, 12.0))
    behind = replace(behind, others=replace(behind.others, kind=np.array([Kind.EMERGENCY])))
    assert named(gap_vector(behind))["emergency"] == [round((47.55 - 37.0) / 40.0, 3)]


def test_a_scene_without_lanes_is_refused() -> None:
    with pytest.raises(ValueError, match="no table of the lanes"):
        gap_vector(replace(scene(), lanes=None))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 150), st.floats(-30, 30), st.floats(-3.2, 3.2), st.floats(-2, 20)),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_bounded_and_blind_to_the_order_of_others(rows: list[tuple[float, float, float, float]], random) -> None:
    values = gap_vector(scene(*rows))
    assert np.isfinite(values).all() and (np.abs(values) <= 1.0).all()
    shuffled = random.sample(rows, len(rows))
    np.testing.assert_array_equal(values[GAP_FIELDS["ahead"]], gap_vector(scene(*shuffled))[GAP_FIELDS["ahead"]])
