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


def calibration_error(score: Scores, failing: Flags, bins: int = 10) -> float:
    """Mean gap between foreseen probability and frequency, over equal bins of the probability, by their sizes."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = [abs(float(score[place == k].sum() - failing[place == k].sum())) for k in range(bins) if (place == k).any()]
    return float(sum(gaps) / len(score))


def within_auroc(score: Scores, failing: Flags, group: Groups) -> float:
    """How often, of two futures of one state, the failing one scores higher; ties count half. NaN without pairs."""
    won, pairs = 0.0, 0
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        bad, good = score[rows][failing[rows]], score[rows][~failing[rows]]
        difference = bad[:, None] - good[None]
        won += float((difference > 0.0).sum() + 0.5 * (difference == 0.0).sum())
        pairs += difference.size
    return won / pairs if pairs else float("nan")


def spread_within(score: Scores, group: Groups) -> float:
    """Mean absolute difference of the scores of two different futures of one state; NaN without pairs."""
    total, pairs = 0.0, 0
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        total += float(np.abs(score[rows][:, None] - score[rows][None]).sum())
        pairs += len(rows) * (len(rows) - 1)
    return total / pairs if pairs else float("nan")


def bootstrap(
    measure: Callable[[np.ndarray], np.ndarray], group: Groups, draws: int, generator: np.random.Generator
) -> Float[np.ndarray, "draws measures"]:
    """A measure of the rows of episodes drawn with replacement; `measure` takes row indices and gives numbers."""
    order = np.argsort(group, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
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
