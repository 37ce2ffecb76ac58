"""The study of whether the agent looks: its routes and its statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.entry import LeaderboardAgent
from eval.agents import black_cameras
from eval.looks import ROUTES, LooksConfig, estimate, looks, summarise, unchecked_cameras
from eval.results import RouteRecord
from eval.routes import read_routes
from eval.runner import InputError
from eval.verdict import weights_sha256
from tests.agent.synthetic import FULL_THROTTLE, SyntheticDrive, save_agent
from tests.eval import synthetic_moments

MANY_ROUTES = 200


def test_routes_are_twenty_and_long_enough():
    routes = read_routes(ROUTES)
    assert len(routes) == 20
    assert {route.town for route in routes} == {"Gen21"}
    assert all(route.keypoint_length_m > 300.0 for route in routes)  # chords of ways of 400 m and more


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_mean_lies_in_its_interval(values):
    found = estimate(np.array(values), np.random.default_rng(0))
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def test_interval_covers_no_difference_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(MANY_ROUTES):
        found = estimate(generator.normal(0.0, 20.0, 20), generator)
        covered += found.low <= 0.0 <= found.high
    assert 0.88 <= covered / MANY_ROUTES <= 0.99


def driven(route_id: str, completion: float, driving_score: float) -> RouteRecord:
    return synthetic_moments.record(route_id, completion=completion, penalty=driving_score / max(completion, 1.0))


def test_controls_are_paired_by_route():
    agent = [driven("1", 100.0, 90.0), driven("2", 80.0, 50.0), driven("3", 60.0, 10.0)]
    blind = [driven("3", 20.0, 0.0), driven("1", 60.0, 60.0)]  # in another order, one is missing
    summary = summarise({"agent": agent, "black": blind}, seed=0)
    assert "loses" not in summary["agent"]
    assert summary["agent"]["driving_score"] == 50.0
    assert summary["agent"]["intervals"]["driving_score"] == [10.0, 90.0]
    assert summary["black"]["loses"]["route_completion"] == [40.0, 40.0, 40.0]
    assert summary["black"]["loses"]["driving_score"] == [20.0, 10.0, 30.0]
    assert summary["black"]["driving_scores"] == {"3": 0.0, "1": 60.0}


def throttle_with_black_cameras(config_file: Path) -> float:
    drive, agent = SyntheticDrive(), LeaderboardAgent("localhost", 2000, False)
    agent.set_global_plan(drive.gps_route, drive.route)
    agent.setup(str(config_file))
    throttle = 1.0
    for tick in range(45):
        drive.follow()
        throttle = agent.run_step(black_cameras(drive.input_data(), tick), drive.time_s).throttle
    agent.destroy()
    return throttle


def test_black_cameras_stop_the_agent_unless_it_does_not_check_them(tmp_path: Path):
    weights = save_agent(
        tmp_path / "weights", action=FULL_THROTTLE, yaml_text="device: cpu\ninputs: {cameras: {max_age_s: 0.15}}\n"
    )
    copy = tmp_path / "out" / "blind" / "agent.yaml"
    unchecked_cameras(weights, copy)
    assert "max_age_s: 0.15" in copy.read_text()
    assert throttle_with_black_cameras(weights) == 0.0
    assert throttle_with_black_cameras(copy) == pytest.approx(0.7)

    before = weights_sha256(copy)
    (weights.parent / "manifest.json").write_text("{}")  # other weights
    assert weights_sha256(copy) != before


@pytest.mark.parametrize(("setting", "expected"), [({"arms": "agent,blnd"}, "blnd"), ({"routes_limit": 0}, "limit 0")])
def test_what_cannot_be_driven_is_named(tmp_path: Path, setting: dict, expected: str):
    with pytest.raises(InputError, match=expected):
        looks(LooksConfig(out=tmp_path, **setting))
