"""The study of whether the agent looks: its routes and its statistics."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eval.looks import ROUTES, paired_loss
from eval.routes import read_routes

MANY_ROUTES = 200


def test_routes_are_twenty_and_long_enough():
    routes = read_routes(ROUTES)
    assert len(routes) == 20
    assert {route.town for route in routes} == {"Gen21"}
    assert all(route.keypoint_length_m > 300.0 for route in routes)  # chords of ways of 400 m and more


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=30))
def test_mean_lies_in_its_interval(rows):
    loss = paired_loss(np.array(rows), np.random.default_rng(0))
    assert loss.low - 1e-9 <= loss.mean <= loss.high + 1e-9


def test_interval_covers_no_difference_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(MANY_ROUTES):
        loss = paired_loss(generator.normal(50.0, 20.0, (20, 2)), generator)
        covered += loss.low <= 0.0 <= loss.high
    assert 0.88 <= covered / MANY_ROUTES <= 0.99


def test_a_blind_control_loses():
    agent = np.full(20, 80.0)
    loss = paired_loss(np.stack([agent, agent - 40.0], axis=1), np.random.default_rng(0))
    assert loss.mean == loss.low == loss.high == 40.0
