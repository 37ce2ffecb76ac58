"""No scenario type without a test that it starts, can be passed and can be failed."""

from __future__ import annotations

from pathlib import Path

from eval.routes import read_routes
from eval.scenarios.registry import BENCH2DRIVE_TYPES, SCENARIOS
from tests.eval.scenarios import (
    test_crossings,
    test_cut_ins,
    test_ego_lane,
    test_flows,
    test_junctions,
    test_obstacles,
    test_priority,
)

TESTED = {
    *test_crossings.HIT,
    *test_cut_ins.CASES,
    *test_ego_lane.CASES,
    "ControlLoss",
    "YieldToEmergencyVehicle",
    *test_flows.IN_TOWN,
    *test_flows.FROM_RAMP,
    "CrossingBicycleFlow",
    "HighwayExit",
    *test_junctions.KINDS,
    *test_obstacles.CASES,
    *test_priority.TAKEN,
    *test_priority.QUIET,
    *test_priority.GREEN_LIGHTS,
    *test_priority.IGNORED,
}


def test_every_type_is_played_in_a_test() -> None:
    assert set(SCENARIOS) == TESTED
    assert len(BENCH2DRIVE_TYPES) == 44


def test_the_types_are_bench2drives(shared_dir: Path) -> None:
    routes = read_routes(shared_dir / "routes/bench2drive/bench2drive220.xml")
    assert {block.type for route in routes for block in route.scenarios} == set(BENCH2DRIVE_TYPES)
