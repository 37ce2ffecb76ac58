"""Measures of the risk benchmark against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.risk import metrics

SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.2])
FAILING = np.array([True, False, True, True, False, False])
pairs = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40)


def test_auroc_by_hand() -> None:
    """Of 3 x 3 pairs the failing one is above in 3 (0.9) + 2 (0.7) + 2 (0.6) = 7."""
    assert metrics.auroc(SCORE, FAILING) == pytest.approx(7 / 9)
    assert metrics.auroc(np.zeros(4), np.array([True, False, True, False])) == 0.5
    assert math.isnan(metrics.auroc(SCORE, np.ones(6, bool)))


@given(rows=pairs)
def test_auroc_counts_pairs(rows) -> None:
    score, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    above = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    found = metrics.auroc(score, positive)
    assert (not above and math.isnan(found)) or found == pytest.approx(np.mean(above))


def test_average_precision_by_hand() -> None:
    """Precision at the three failing ones: 1/1, 2/3, 3/4; all with the same score: the share of failing ones."""
    assert metrics.average_precision(SCORE, FAILING) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.average_precision(np.ones(4), np.array([True, False, False, False])) == 0.25


def test_errors_at_a_threshold_by_hand() -> None:
    assert metrics.false_safe(SCORE, FAILING, 0.65) == pytest.approx(1 / 3)
    assert metrics.false_alarm(SCORE, FAILING, 0.65) == pytest.approx(1 / 3)
    assert metrics.false_safe(SCORE, FAILING) == 0.0 and metrics.false_alarm(SCORE, FAILING) == pytest.approx(2 / 3)


@given(rows=pairs, rate=st.floats(0.01, 0.99))
def test_equal_false_alarms(rows, rate) -> None:
    """The threshold keeps to the rate, and no lower one of the scores would."""
    score, failing = np.array([s / 10 for s, _ in rows]), np.array([p for _, p in rows])
    if failing.all():
        return
    limit = metrics.threshold_at(score, failing, rate)
    assert metrics.false_alarm(score, failing, limit) <= rate + 1e-12
    lower = score[score < limit]
    if len(lower):
        assert metrics.false_alarm(score, failing, lower.max()) > rate - 1e-9 or failing[score == lower.max()].all()


def test_calibration_error_by_hand() -> None:
    """Bin 0.2: 1 of 2 fails against 0.25 foreseen; bin 0.9: 1 of 1 against 0.95; so (2 x 0.25 + 1 x 0.05) / 3."""
    score, failing = np.array([0.25, 0.25, 0.95]), np.array([True, False, True])
    assert metrics.calibration_error(score, failing, np.ones(3)) == pytest.approx((2 * 0.25 + 0.05) / 3)
    assert metrics.calibration_error(np.array([1.0, 0.0]), np.array([True, False]), np.ones(2)) == 0.0


def test_a_balanced_sample_counts_as_the_mixture_it_was_drawn_from() -> None:
    """Nine of ten go well; a model that says so of all is calibrated, though half of the sample fails."""
    kind, everyone = np.array([0, 0, 2, 2]), np.array([0] * 9 + [2])
    weight = metrics.natural_weight(kind, everyone)
    np.testing.assert_allclose(weight, [1.8, 1.8, 0.2, 0.2])
    score, failing = np.full(4, 0.1), kind == 2
    assert metrics.calibration_error(score, failing, weight) == pytest.approx(0.0)
    assert metrics.calibration_error(score, failing, np.ones(4)) == pytest.approx(0.4)


def test_measures_within_a_state_by_hand() -> None:
    """State 1: 0.9 fails, 0.8 and 0.2 do not: 2 of 2. State 2: 0.3 fails, 0.6 does not: 0 of 1. State 3: no pair."""
    score = np.array([0.9, 0.3, 0.8, 0.2, 0.6, 0.5])
    failing = np.array([True, True, False, False, False, True])
    group = np.array([1, 2, 1, 1, 2, 3])
    assert metrics.ratio(*metrics.within_pairs(score, failing, group)) == pytest.approx(2 / 3)
    ordered = (0.1 + 0.7 + 0.6) * 2 + 0.3 * 2
    assert metrics.ratio(*metrics.differences_within(score, group)) == pytest.approx(ordered / 8)
    assert math.isnan(metrics.ratio(*metrics.within_pairs(score, failing, np.arange(6))))


def test_bootstrap_draws_whole_episodes() -> None:
    """Both rows of an episode or none; the mean over draws comes near that of all rows."""
    group = np.array([0, 0, 1, 1, 2, 2])
    values = np.array([1.0, 1.0, 2.0, 2.0, 6.0, 6.0])
    rows = []

    def measure(chosen: np.ndarray) -> np.ndarray:
        rows.append(np.bincount(chosen, minlength=6))
        return np.array([values[chosen].mean()])

    draws = metrics.bootstrap(measure, group, 400, np.random.default_rng(0))
    counts = np.array(rows)
    np.testing.assert_array_equal(counts[:, ::2], counts[:, 1::2])
    assert (counts.sum(1) == 6).all() and draws.mean() == pytest.approx(3.0, abs=0.2)
    low, high = metrics.interval(draws[:, 0]) or (0.0, 0.0)
    assert low < 3.0 < high
    assert metrics.interval(np.array([np.nan])) is None
    assert metrics.interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
