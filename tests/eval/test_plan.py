"""The sparse plan and its GPS coordinates against what the leaderboard's own functions gave."""

from __future__ import annotations

from itertools import pairwise

import carla
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.geo import geo_reference, gps_from_world
from eval.plan import BENCH2DRIVE_SPACING_M, LEADERBOARD_SPACING_M, make_plan, sparse_indices
from eval.planner import LANE_CHANGES, DensePlan, RoadOption
from eval.routes import Route

FOLLOW, LEFT, RIGHT = RoadOption.LANEFOLLOW, RoadOption.LEFT, RoadOption.RIGHT
CHANGE_LEFT, CHANGE_RIGHT = RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT
OFFICIAL_INDICES = [
    # runs of points 1 m apart; indices recorded from the leaderboard's downsample_route with 200 m and 50 m
    ([(FOLLOW, 450)], [0, 202, 404, 449], [0, 52, 104, 156, 208, 260, 312, 364, 416, 449]),
    ([(FOLLOW, 120), (LEFT, 20), (FOLLOW, 80)], [0, 120, 140, 219], [0, 52, 104, 120, 140, 192, 219]),
    (
        [(FOLLOW, 60), (CHANGE_LEFT, 2), (FOLLOW, 60), (RIGHT, 15), (FOLLOW, 3)],
        [0, 60, 61, 122, 137, 139],
        [0, 52, 60, 61, 113, 122, 137, 139],
    ),
    (
        [(FOLLOW, 10), (CHANGE_RIGHT, 2), (CHANGE_RIGHT, 2), (FOLLOW, 210), (RoadOption.STRAIGHT, 5)],
        [0, 10, 11, 12, 13, 215, 224, 228],
        [0, 10, 11, 12, 13, 65, 117, 169, 221, 224, 228],
    ),
    ([(FOLLOW, 1)], [0], [0]),
    ([(FOLLOW, 2)], [0, 1], [0, 1]),
]


def plan_of(runs: list[tuple[RoadOption, int]], step_m: float = 1.0) -> DensePlan:
    options = [option for option, count in runs for _ in range(count)]
    return [(carla.Transform(carla.Location(x=i * step_m)), option) for i, option in enumerate(options)]


@pytest.mark.parametrize(("runs", "leaderboard", "bench2drive"), OFFICIAL_INDICES)
def test_keeps_the_points_the_leaderboard_keeps(runs, leaderboard: list[int], bench2drive: list[int]) -> None:
    plan = plan_of(runs)
    assert sparse_indices(plan, LEADERBOARD_SPACING_M) == leaderboard
    assert sparse_indices(plan, BENCH2DRIVE_SPACING_M) == bench2drive


RUNS = st.lists(
    st.tuples(st.sampled_from([o for o in RoadOption if o > 0]), st.integers(1, 60)), min_size=1, max_size=6
)


@given(runs=RUNS, spacing_m=st.sampled_from([50.0, 200.0]))
def test_sparse_plan_keeps_ends_and_every_lane_change(runs, spacing_m: float) -> None:
    plan = plan_of(runs)
    kept = sparse_indices(plan, spacing_m)
    assert kept[0] == 0 and kept[-1] == len(plan) - 1
    assert kept == sorted(set(kept))
    changes = {index for index, (_, option) in enumerate(plan) if option in LANE_CHANGES}
    assert changes <= set(kept)
    assert all(after - before <= spacing_m + 2 for before, after in pairwise(kept))


@pytest.mark.parametrize(
    ("reference_deg", "xyz", "latitude_deg", "longitude_deg"),
    [
        ((0.0, 0.0), (100.0, 200.0, 3.0), -0.0017966305679379957, 0.0008983152841195214),
        ((0.0, 0.0), (-5000.0, 5000.0, 10.0), -0.04491575960553007, -0.044915764205976066),
        ((42.0, 2.0), (100.0, 200.0, 3.0), 41.99820334406871, 2.001208802447817),
        ((49.0, 8.0), (-5000.0, 5000.0, 10.0), 48.9550639816581, 7.9315370077672895),
    ],
)
def test_gps_is_the_leaderboards(reference_deg, xyz, latitude_deg: float, longitude_deg: float) -> None:
    point = gps_from_world(reference_deg, *xyz)
    assert point["lat"] == pytest.approx(latitude_deg, abs=1e-12)
    assert point["lon"] == pytest.approx(longitude_deg, abs=1e-12)
    assert point["z"] == xyz[2]


def test_reference_is_read_from_the_map(straight_map: carla.Map) -> None:
    assert geo_reference(straight_map.to_opendrive()) == (49.0, 8.0)
    assert geo_reference("<OpenDRIVE><header/></OpenDRIVE>") == (42.0, 2.0)


def test_a_route_is_planned_in_both_coordinates(straight_map: carla.Map) -> None:
    route = Route("1", "straight", ((10.0, 1.75, 0.0), (110.0, 1.75, 0.0)))
    plan = make_plan(route, straight_map)
    assert len(plan.world) == len(plan.gps)
    assert plan.length_m == pytest.approx(100.0, abs=3.0)
    assert plan.gps[0][0] == gps_from_world((49.0, 8.0), *xyz(plan.world[0][0].location))


def xyz(location: carla.Location) -> tuple[float, float, float]:
    return location.x, location.y, location.z
