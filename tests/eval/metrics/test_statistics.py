"""Intervals and tests against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.statistics import Ratio, bootstrap, mcnemar_p, paired_bootstrap, wilson_interval


def mean_of(values: np.ndarray) -> Ratio:
    return Ratio(values, np.ones(len(values)))


def test_wilson_by_known_values() -> None:
    assert wilson_interval(148, 220) == pytest.approx((0.608, 0.731), abs=1e-3)
    assert wilson_interval(192, 220) == pytest.approx((0.822, 0.910), abs=1e-3)
    assert wilson_interval(7, 10) == pytest.approx((0.397, 0.892), abs=1e-3)
    assert wilson_interval(0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson_interval(3, 2)


@given(trials=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_share(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0


def test_mcnemar_by_known_values() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 0) == pytest.approx(0.0625)
    assert mcnemar_p(1, 9) == mcnemar_p(9, 1) == pytest.approx(22 / 1024)


def test_bootstrap_has_the_width_of_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(50.0, 20.0, 400)
    interval = bootstrap([{"score": mean_of(values)}], resamples=4000)["score"]
    assert interval is not None
    error = values.std() / 20.0
    assert interval[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.15)
    assert interval[1] == pytest.approx(values.mean() + 1.96 * error, abs=0.15)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        interval = bootstrap([{"score": mean_of(generator.exponential(10.0, 100))}], resamples=300)["score"]
        assert interval is not None
        hits += interval[0] <= 10.0 <= interval[1]
    assert 0.88 <= hits / 200 <= 0.98


def test_seeds_that_differ_widen_the_interval() -> None:
    values = np.random.default_rng(3).normal(50.0, 5.0, 100)
    alike = bootstrap([{"score": mean_of(values)}] * 3, resamples=1000)["score"]
    apart = bootstrap([{"score": mean_of(values + shift)} for shift in (-20.0, 0.0, 20.0)], resamples=1000)["score"]
    assert alike is not None and apart is not None
    assert apart[1] - apart[0] > 3.0 * (alike[1] - alike[0])


def test_pairing_takes_the_routes_difficulty_out() -> None:
    hardness = np.random.default_rng(4).uniform(0.0, 100.0, 80)
    better = hardness + np.random.default_rng(5).normal(2.0, 1.0, 80)
    interval = paired_bootstrap({"score": mean_of(hardness)}, {"score": mean_of(better)}, resamples=1000)["score"]
    assert interval is not None and 1.5 < interval[0] < 2.0 < interval[1] < 2.5


def test_one_route_has_no_interval() -> None:
    assert bootstrap([{"score": Ratio(np.array([5.0, 0.0]), np.array([1.0, 0.0]))}], resamples=10)["score"] is None


def test_nothing_measured_is_no_value() -> None:
    assert Ratio(np.zeros(3), np.zeros(3)).value() is None
    assert Ratio(np.array([2.0]), np.array([0.0]), 0.001).value() == pytest.approx(2000.0)
