"""The sparse plan: down-sampling, progress that never jumps, and what the network is told."""

import itertools
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.localization import Pose
from agent.route import Command, Plan, RouteConfig, RouteTracker, route_vector, sparse_indices
from tests.agent.synthetic import RoadOption

L, R, S, F, CL, CR = (
    RoadOption.LEFT,
    RoadOption.RIGHT,
    RoadOption.STRAIGHT,
    RoadOption.LANEFOLLOW,
    RoadOption.CHANGELANELEFT,
    RoadOption.CHANGELANERIGHT,
)


def make_plan(*points: tuple[float, float], commands: tuple[Command, ...] | None = None) -> Plan:
    return Plan(
        np.array(points, dtype=np.float64).reshape(-1, 2),
        commands or (Command.LANEFOLLOW,) * len(points),
        np.zeros((len(points), 2)),
        0.0,
    )


CORNER = make_plan(
    (0.0, 0.0),
    (100.0, 0.0),
    (110.0, 10.0),
    (110.0, 200.0),
    commands=(Command.LANEFOLLOW, Command.LEFT, Command.LANEFOLLOW, Command.LANEFOLLOW),
)


def kept(options: list[RoadOption], spacing_m: float, step_m: float = 1.0) -> list[int]:
    locations = [SimpleNamespace(x=i * step_m, y=0.0, z=0.0) for i in range(len(options))]
    plan = [(SimpleNamespace(location=x), o) for x, o in zip(locations, options, strict=True)]
    return sparse_indices(plan, spacing_m)


@pytest.mark.parametrize(
    ("options", "spacing_m", "expected"),
    [
        ([], 200.0, []),
        ([F], 200.0, [0]),
        ([F] * 5, 200.0, [0, 4]),
        ([F, F, L, L, L, F, F], 200.0, [0, 2, 5, 6]),
        ([F, CL, CR, F, F, F], 200.0, [0, 1, 2, 5]),  # after a lane change a new option is no reason
        ([F] * 460, 200.0, [0, 202, 404, 459]),  # 201 m are counted before the point is taken
        ([F] * 120, 50.0, [0, 52, 104, 119]),
    ],
)
def test_downsampling_in_known_cases(options: list[RoadOption], spacing_m: float, expected: list[int]) -> None:
    assert kept(options, spacing_m) == expected


def test_downsampling_equals_the_official_function() -> None:
    root = os.environ.get("LEADERBOARD_ROOT")
    if not root:
        pytest.skip("needs LEADERBOARD_ROOT")
    sys.path.insert(0, root)
    try:
        manipulation = pytest.importorskip("leaderboard.utils.route_manipulation")
    finally:
        sys.path.remove(root)
    import carla

    random = np.random.default_rng(0)
    official_options = list(manipulation.RoadOption)
    for trial in range(100):
        runs = [(official_options[random.integers(len(official_options))], random.integers(1, 80)) for _ in range(8)]
        options = [option for option, length in runs for _ in range(length)]
        points_m = np.cumsum(random.uniform(0.0, 3.0, (len(options), 3)), axis=0)
        route = [(carla.Transform(carla.Location(*p)), o) for p, o in zip(points_m.tolist(), options, strict=True)]
        spacing_m = (50.0, 200.0)[trial % 2]
        assert sparse_indices(route, spacing_m) == manipulation.downsample_route(route, spacing_m)


def test_view_before_a_turn() -> None:
    tracker = RouteTracker(RouteConfig(), CORNER)
    view = tracker.update(Pose(0.0, 0.0, 0.0), 0.0)
    np.testing.assert_allclose(view.points_m[:4], CORNER.points_m)
    np.testing.assert_allclose(view.points_m[4:], [(110.0, 200.0)] * 4)
    assert (view.command, view.last_command, view.distance_m) == (Command.LEFT, Command.LANEFOLLOW, 100.0)
    vector = route_vector(view, speed_mps=5.0)
    np.testing.assert_allclose(vector[:6], [0.5, 2.0, 0.0, 2.0, 0.2, 2.0])
    assert vector[6:12].tolist() == [1, 0, 0, 0, 0, 0]
    assert vector[12:].tolist() == [0, 0, 0, 1, 0, 0]


def test_points_are_in_the_ego_frame_with_y_left() -> None:
    tracker = RouteTracker(RouteConfig(), CORNER)
    view = tracker.update(Pose(0.0, 0.0, math.pi / 2), 0.0)
    np.testing.assert_allclose(view.next_points_m, [(0.0, -100.0), (10.0, -110.0)], atol=1e-9)


def drive_along(tracker: RouteTracker, points: list[tuple[float, float]], step_m: float = 0.5) -> list[float]:
    """Progress after each step on the straight lines between points."""
    progress = []
    for start, end in itertools.pairwise(points):
        count = max(1, round(math.dist(start, end) / step_m))
        heading = math.atan2(end[1] - start[1], end[0] - start[0])
        for i in range(1, count + 1):
            x_m, y_m = (a + (b - a) * i / count for a, b in zip(start, end, strict=True))
            view = tracker.update(Pose(x_m, y_m, heading), math.dist(start, end) / count)
            progress.append(tracker.progress_m)
    assert view is not None
    return progress


def test_driving_the_route_reaches_its_end_once() -> None:
    tracker = RouteTracker(RouteConfig(), CORNER)
    progress = drive_along(tracker, [(0, 0), (100, 0), (110, 10), (110, 198)])
    assert progress == sorted(progress)
    view = tracker.update(Pose(110.0, 199.0, math.pi / 2), 1.0)
    assert not view.at_end
    assert (view.command, view.last_command) == (Command.LANEFOLLOW, Command.LANEFOLLOW)
    view = tracker.update(Pose(110.0, 199.8, math.pi / 2), 0.8)
    assert view.at_end
    assert tracker.update(Pose(110.0, 230.0, math.pi / 2), 30.0).at_end


def test_far_beside_the_route_is_not_its_end() -> None:
    tracker = RouteTracker(RouteConfig(), make_plan((0, 0), (20, 0)))
    for _ in range(40):
        view = tracker.update(Pose(40.0, 200.0, 0.0), 1.0)
    assert not view.at_end
    assert view.off_route


def test_bent_road_between_two_far_points_is_not_off_route() -> None:
    radius_m = 100.0  # 200 m of arc: the road leaves its chord by 46 m
    end = (radius_m * math.sin(2.0), radius_m * (1 - math.cos(2.0)))
    tracker = RouteTracker(RouteConfig(), make_plan((0, 0), end))
    for i in range(400):
        angle = 2.0 * i / 400
        pose = Pose(radius_m * math.sin(angle), radius_m * (1 - math.cos(angle)), angle)
        assert not tracker.update(pose, 0.5).off_route
    ramp = RouteTracker(RouteConfig(), make_plan((0, 0), (-40, 40)))  # three quarters of a circle, 188 m
    for i in range(377):
        angle = 1.5 * math.pi * i / 377
        assert not ramp.update(Pose(40 * math.sin(angle), 40 * (1 - math.cos(angle)), angle), 0.5).off_route
    tracker = RouteTracker(RouteConfig(), make_plan((0, 0), (200, 0)))
    assert tracker.update(Pose(100.0, 60.0, 0.0), 0.5).off_route


@given(
    points=st.lists(st.tuples(st.floats(-300, 300), st.floats(-300, 300)), min_size=2, max_size=8),
    poses=st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(0, 500)), max_size=30),
)
def test_progress_never_goes_back_and_never_jumps(
    points: list[tuple[float, float]], poses: list[tuple[float, float, float]]
) -> None:
    plan = make_plan(*points).without_duplicates(0.1)
    if len(plan.points_m) < 2:
        return
    tracker = RouteTracker(RouteConfig(), plan)
    last_m = 0.0
    for x_m, y_m, travelled_m in poses:
        view = tracker.update(Pose(x_m, y_m, 0.3), travelled_m)
        assert last_m <= tracker.progress_m <= min(last_m + 20.0, tracker.length_m) + 1e-6
        last_m = tracker.progress_m
        assert view.points_m.shape == (8, 2)
        assert np.isfinite(route_vector(view, 3.0)).all()


def test_duplicates_are_removed_and_the_later_command_holds() -> None:
    plan = make_plan((0, 0), (0, 0.01), (50, 0), (50, 0), commands=(*(Command.LANEFOLLOW,) * 3, Command.RIGHT))
    clean = plan.without_duplicates(0.1)
    np.testing.assert_allclose(clean.points_m, [(0, 0), (50, 0)])
    assert clean.commands == (Command.LANEFOLLOW, Command.RIGHT)
    assert len(make_plan((1, 1), (1, 1), (1, 1)).without_duplicates(0.1).points_m) == 1


def test_a_single_point_is_no_route() -> None:
    with pytest.raises(ValueError, match="two points"):
        RouteTracker(RouteConfig(), make_plan((0, 0)))
