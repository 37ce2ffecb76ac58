"""Overlap of boxes: symmetry, invariance under motion, agreement with a plain separating-axis test on corners."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator.collisions import find_contacts, overlapping_pairs, overlaps_any

Box = tuple[float, float, float, float, float, float, float]
boxes_near_origin = st.tuples(
    st.floats(-4, 4), st.floats(-4, 4), st.floats(-1, 1), st.floats(-360, 360),
    st.floats(0.1, 3), st.floats(0.1, 2), st.floats(0.1, 1),
)  # fmt: skip


def columns(*boxes: Box) -> list[np.ndarray]:
    return list(np.array(boxes, np.float64).reshape(-1, 7).T)


def touching(*boxes: Box) -> bool:
    return len(overlapping_pairs(*columns(*boxes))) > 0


def corners(box: Box) -> np.ndarray:
    x, y, _, yaw, length, width, _ = box
    angle = np.radians(yaw)
    forward, right = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return np.array([np.array([x, y]) + i * length * forward + j * width * right for i in (-1, 1) for j in (-1, 1)])


def gap_m(first: Box, second: Box) -> float:
    """Largest signed distance over the axes of both boxes and the vertical; positive: apart."""
    vertical = abs(first[2] - second[2]) - first[6] - second[6]
    a, b = corners(first), corners(second)
    gaps = [vertical]
    for yaw in (first[3], first[3] + 90, second[3], second[3] + 90):
        axis = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw))])
        gaps.append(max((b @ axis).min() - (a @ axis).max(), (a @ axis).min() - (b @ axis).max()))
    return max(gaps)


@given(boxes_near_origin, boxes_near_origin)
@settings(max_examples=400, deadline=None)
def test_agrees_with_a_test_on_corners(first: Box, second: Box) -> None:
    gap = gap_m(first, second)
    assume(abs(gap) > 1e-9)
    assert touching(first, second) == touching(second, first) == (gap < 0)


@given(boxes_near_origin, boxes_near_origin, st.floats(-180, 180), st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=200, deadline=None)
def test_turning_and_shifting_both_changes_nothing(first: Box, second: Box, turn: float, x: float, y: float) -> None:
    assume(abs(gap_m(first, second)) > 1e-6)

    def moved(box: Box) -> Box:
        angle = np.radians(turn)
        return (
            x + box[0] * np.cos(angle) - box[1] * np.sin(angle),
            y + box[0] * np.sin(angle) + box[1] * np.cos(angle),
            box[2],
            box[3] + turn,
            *box[4:],
        )

    assert touching(first, second) == touching(moved(first), moved(second))


@given(boxes_near_origin, boxes_near_origin)
@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
def test_moving_by_the_depth_along_the_normal_just_separates(first: Box, second: Box) -> None:
    contacts = find_contacts(*columns(first, second))
    assume(len(contacts) == 1)
    (nx, ny), depth = contacts.normal[0], contacts.depth_m[0]
    assert np.hypot(nx, ny) == pytest.approx(1.0)
    assert depth >= 0.0

    def pushed(distance: float) -> Box:
        return (second[0] + distance * nx, second[1] + distance * ny, *second[2:])

    assert not touching(first, pushed(depth + 1e-6))
    if depth > 1e-6:
        assert touching(first, pushed(depth - 1e-6))


@given(boxes_near_origin, boxes_near_origin)
@settings(suppress_health_check=[HealthCheck.filter_too_much])  # boxes near each other often miss
def test_the_contact_point_lies_in_or_between_the_boxes(first: Box, second: Box) -> None:
    contacts = find_contacts(*columns(first, second))
    assume(len(contacts) == 1)
    both = np.concatenate([corners(first), corners(second)])
    low = min(first[2] - first[6], second[2] - second[6])
    high = max(first[2] + first[6], second[2] + second[6])
    x, y, z = contacts.point[0]
    assert (both.min(0) - 1e-6 <= [x, y]).all() and ([x, y] <= both.max(0) + 1e-6).all() and low <= z <= high


def test_head_on_contact() -> None:
    contacts = find_contacts(*columns((0, 0, 1, 0, 2, 1, 1), (3.8, 0, 1, 180, 2, 1, 1)))
    assert contacts.pairs.tolist() == [[0, 1]]
    np.testing.assert_allclose(contacts.normal[0], [1, 0], atol=1e-12)
    assert contacts.depth_m[0] == pytest.approx(0.2)
    np.testing.assert_allclose(contacts.point[0], [1.9, 0, 1], atol=1e-9)


def test_a_bridge_does_not_touch_the_road_below() -> None:
    assert not touching((0, 0, 0.7, 0, 2, 1, 0.7), (0, 0, 6, 0, 2, 1, 0.7))
    assert touching((0, 0, 0.7, 0, 2, 1, 0.7), (0, 0, 2, 0, 2, 1, 0.7))


def test_many_boxes_agree_with_all_pairs() -> None:
    random = np.random.default_rng(3)
    boxes = [
        (*random.uniform(-20, 20, 2), 1.0, random.uniform(-180, 180), *random.uniform(0.3, 3, 2), 1.0)
        for _ in range(80)
    ]
    expected = [[i, j] for i in range(80) for j in range(i + 1, 80) if gap_m(boxes[i], boxes[j]) <= 0]
    assert len(expected) > 50
    assert overlapping_pairs(*columns(*boxes)).tolist() == expected


def test_a_crowd_larger_than_the_space_first_set_aside() -> None:
    assert len(overlapping_pairs(*columns(*[(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)] * 30))) == 30 * 29 // 2


def test_boxes_that_are_not_solid_are_left_out() -> None:
    boxes = columns((0, 0, 0, 0, 1, 1, 1), (1, 0, 0, 0, 1, 1, 1), (2, 0, 0, 0, 1, 1, 1))
    assert find_contacts(*boxes, np.array([True, False, True])).pairs.tolist() == [[0, 2]]
    assert overlaps_any((1, 0, 0, 0, 0.5, 0.5, 0.5), *boxes, np.array([False, False, True])) == 2


@given(st.lists(boxes_near_origin, max_size=6), boxes_near_origin)
@settings(deadline=None)
def test_overlaps_any_names_the_first_box_hit(others: list[Box], new: Box) -> None:
    hits = [index for index, other in enumerate(others) if touching(new, other)]
    assert overlaps_any(new, *columns(*others)) == (hits[0] if hits else -1)


def test_no_boxes_have_no_contacts() -> None:
    assert len(find_contacts(*columns())) == 0
