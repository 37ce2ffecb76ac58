"""Measures of foreseen risks, in plain numpy: ranking, errors at a threshold, calibration, intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

Scores = Float[np.ndarray, " n"]
Flags = Bool[np.ndarray, " n"]
Groups = Int[np.ndarray, " n"]


def ranks(values: Scores) -> Scores:
    """Ranks from 1, ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - 0.5 * (counts - 1))[inverse]


def auroc(score: Scores, positive: Flags) -> float:
    """Probability that a positive scores above a negative, ties count half; NaN without both."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    above = ranks(score)[positive].sum() - positives * (positives + 1) / 2.0
    return float(above / (positives * negatives))


def average_precision(score: Scores, positive: Flags) -> float:
    """Mean precision at the positives, equal scores taken together; NaN without a positive."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.diff(score[order]) != 0.0, True)
    precision, recall = (hits / np.arange(1, len(score) + 1))[last], (hits / hits[-1])[last]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def false_safe(score: Scores, failing: Flags, threshold: float = 0.5) -> float:
    """Share of the failing futures that are called safe; NaN without any."""
    return float((score[failing] < threshold).mean()) if failing.any() else float("nan")


def false_alarm(score: Scores, failing: Flags, threshold: float = 0.5) -> float:
    """Share of the futures that do not fail but are called failing; NaN without any."""
    return float((score[~failing] >= threshold).mean()) if (~failing).any() else float("nan")


def threshold_at(score: Scores, failing: Flags, rate: float) -> float:
    """Lowest threshold with at most this share of false alarms."""
    calm = np.sort(score[~failing])[::-1]
    allowed = int(np.floor(rate * len(calm) + 1e-9))
    return float(np.nextafter(calm[allowed], np.inf)) if allowed < len(calm) else 0.0


def calibration_error(score: Scores, failing: Flags, weight: Scores, bins: int = 10) -> float:
    """Mean gap between foreseen probability and frequency, over equal bins of the probability, by their weights."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weight * (score - failing), bins)
    return float(np.abs(gaps).sum() / weight.sum())


def natural_weight(kind: Groups, everyone: Groups) -> Scores:
    """Weights with which the kinds of a sample are as frequent as among everyone."""
    most = int(max(kind.max(), everyone.max())) + 1
    share = np.bincount(everyone, minlength=most) / len(everyone)
    return (share / np.maximum(np.bincount(kind, minlength=most) / len(kind), 1e-12))[kind]


def within_pairs(score: Scores, failing: Flags, group: Groups) -> tuple[Scores, Scores]:
    """For each failing future: how many of those of its state that do not fail score lower (ties count half), and how
    many there are; 0 for the others. Sums of both give how well futures of one state are told apart."""
    won, pairs = np.zeros(len(score)), np.zeros(len(score))
    for rows in _members(group):
        bad, good = rows[failing[rows]], rows[~failing[rows]]
        difference = score[bad][:, None] - score[good][None]
        won[bad] = (difference > 0.0).sum(1) + 0.5 * (difference == 0.0).sum(1)
        pairs[bad] = len(good)
    return won, pairs


def differences_within(score: Scores, group: Groups) -> tuple[Scores, Scores]:
    """For each future: the sum of the absolute differences to the other ones of its state, and their number."""
    total, others = np.zeros(len(score)), np.zeros(len(score))
    for rows in _members(group):
        total[rows] = np.abs(score[rows][:, None] - score[rows][None]).sum(1)
        others[rows] = len(rows) - 1
    return total, others


def ratio(parts: Scores, wholes: Scores) -> float:
    """Sum over sum; NaN over nothing."""
    return float(parts.sum() / wholes.sum()) if wholes.sum() > 0.0 else float("nan")


def _members(group: Groups) -> list[np.ndarray]:
    """Rows of each group."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def bootstrap(
    measure: Callable[[np.ndarray], np.ndarray], group: Groups, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, "draws measures"]:
    """A measure of the rows of episodes drawn with replacement; `measure` takes row indices and gives numbers."""
    rows = _members(group)
    found = []
    for _ in range(draws):
        chosen = generator.integers(0, len(rows), len(rows))
        found.append(measure(np.concatenate([rows[k] for k in chosen])))
    return np.array(found)


def interval(draws: Float[np.ndarray, " draws"], level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval over the draws that gave a number; None if none did."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return float(low), float(high)
