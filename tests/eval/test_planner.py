"""The route planner against what CARLA's own gave for the same keypoints, and on maps it cannot handle."""

from __future__ import annotations

import itertools
from pathlib import Path

import carla
import pytest

from eval.generate import LENGTH_RATIO, RouteGenerationError, generate_routes
from eval.planner import DensePlan, PlannerError, RoadOption, RoutePlanner, count_turns, plan_length_m
from eval.routes import read_routes

CARLA_PLANS = [
    # town, keypoints, runs of option x points and length: recorded from CARLA's GlobalRoutePlanner, hop 1 m
    (
        "Town01",
        ((92.0, 100.0, 0.0), (240.0, 330.0, 0.0)),
        "4x32 2x19 4x44 1x19 4x36 1x19 4x43 1x21 4x35 3x22 4x52 3x22 4x45 3x22 4x109 1x18 4x138",
        699.82,
    ),
    (
        "Town04",
        ((-10.0, 30.0, 0.0), (300.0, -170.0, 0.0)),
        "6x4 4x27 2x78 4x180 2x56 4x134 2x65 4x178 2x77 4x114 3x52 4x63 2x21 4x23 3x27 4x44 3x23 4x50 3x20 4x37 3x20 "
        "4x34",
        1272.94,
    ),
    (
        "Town03",  # with zero-length segments, on which CARLA's planner needed a guard
        ((0.0, 130.0, 0.0), (-80.0, -60.0, 0.0)),
        "4x67 2x16 5x2 4x97 3x32 4x119",
        330.31,
    ),
]


@pytest.mark.parametrize(("town", "keypoints", "runs", "length_m"), CARLA_PLANS)
def test_plans_as_carla_does(real_map, town: str, keypoints, runs: str, length_m: float) -> None:
    plan = RoutePlanner(real_map(town)).plan(keypoints)
    assert option_runs(plan) == runs
    assert plan_length_m(plan) == pytest.approx(length_m, abs=0.01)


def test_plans_all_bench2drive_routes_of_the_towns_at_hand(real_map, shared_dir: Path) -> None:
    routes = read_routes(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")
    for town in ("Town01", "Town02", "Town03", "Town05"):
        planner = RoutePlanner(real_map(town))
        for route in (route for route in routes if route.town == town):
            plan = planner.plan(route.keypoints)
            assert plan_length_m(plan) == pytest.approx(route.keypoint_length_m, rel=0.15)


def test_generated_routes_are_as_asked_for(generated_map: carla.Map) -> None:
    routes = generate_routes(generated_map, 10, seed=1)
    planner = RoutePlanner(generated_map)
    assert len({route.keypoints[0] for route in routes}) == 10
    for route in routes:
        plan = planner.plan(route.keypoints)
        assert 400.0 <= plan_length_m(plan) <= 400.0 * LENGTH_RATIO
        assert count_turns(plan) >= 2
        steps_m = [a[0].location.distance(b[0].location) for a, b in itertools.pairwise(plan)]
        assert max(steps_m) < 15.0
        assert sum(steps_m) / len(steps_m) == pytest.approx(1.0, abs=0.2)
    assert routes == generate_routes(generated_map, 10, seed=1)
    assert routes != generate_routes(generated_map, 10, seed=2)


def test_impossible_wishes_are_refused(straight_map: carla.Map) -> None:
    with pytest.raises(RouteGenerationError, match="0 of 1 routes"):
        generate_routes(straight_map, 1, seed=0)


def test_unreachable_keypoints_are_named(straight_map: carla.Map) -> None:
    planner = RoutePlanner(straight_map)
    with pytest.raises(PlannerError, match="no way from"):
        planner.plan([(10.0, 1.75, 0.0), (20.0, -1.75, 0.0)])  # the other direction, on a road without a turn
    with pytest.raises(PlannerError, match="at least 2"):
        planner.plan([(10.0, 1.75, 0.0)])


def test_a_keypoint_far_from_every_lane_is_named_with_its_distance(straight_map: carla.Map) -> None:
    planner = RoutePlanner(straight_map)
    assert planner.plan([(10.0, 10.0, 0.0), (110.0, 1.75, 0.0)])
    with pytest.raises(PlannerError, match=r"keypoint \(110\.0, 52\.0, 0\.0\) is 50 m from the nearest lane"):
        planner.plan([(10.0, 1.75, 0.0), (110.0, 52.0, 0.0)])


def test_a_straight_road_is_followed(straight_map: carla.Map) -> None:
    plan = RoutePlanner(straight_map).plan([(10.0, 1.75, 0.0), (110.0, 1.75, 0.0)])
    assert {option for _, option in plan} == {RoadOption.LANEFOLLOW}
    assert plan_length_m(plan) == pytest.approx(100.0, abs=3.0)


def option_runs(plan: DensePlan) -> str:
    groups = itertools.groupby(int(option) for _, option in plan)
    return " ".join(f"{option}x{len(list(points))}" for option, points in groups)
