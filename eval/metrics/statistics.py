"""Uncertainty of metrics: bootstrap over routes and seeds, Wilson's interval, McNemar's test.

Every metric here is a ratio of sums over routes (mean driving score, infractions per km, success of an ability), so
one resampling of the routes serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

CONFIDENCE = 0.95
RESAMPLES = 10_000
Z_95 = 1.959963984540054
_CHUNK = 4_000_000
"""Counts held at once."""

PerRoute = Float[np.ndarray, "route"]
Values = Float[np.ndarray, "resample"]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric as sums over routes; its value is the quotient of the sums."""

    numerator: PerRoute
    denominator: PerRoute
    smallest_denominator: float = 0.0
    """The sum of the denominators counts as at least this (the leaderboard's metre)."""

    def value(self) -> float | None:
        """The metric; None where nothing was measured. Sums are exact, so the order of the routes does not matter."""
        below = max(math.fsum(self.denominator), self.smallest_denominator)
        return math.fsum(self.numerator) / below if below > 0.0 else None

    def values(self, counts: Float[np.ndarray, "resample route"]) -> Values:
        """The metric of each resample; NaN where nothing was measured."""
        below = np.maximum(counts @ self.denominator, self.smallest_denominator)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below > 0.0, (counts @ self.numerator) / below, np.nan)


def bootstrap(
    runs: Sequence[Mapping[str, Ratio]],
    means: Mapping[str, Sequence[str]] | None = None,
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Interval | None]:
    """Percentile intervals of the metrics' means over runs.

    `runs`: per seed the metrics over the same routes; routes and seeds are drawn with replacement, independently of
    each other. `means`: further metrics that are the mean of others.
    """
    drawn: dict[str, list[Values]] = {name: [] for run in runs for name in run}
    generator = np.random.default_rng(0)
    for counts in _route_counts(runs, generator, resamples):
        seeds = _draw(generator, len(counts), len(runs))
        for name in drawn:
            columns = [run[name].values(counts) if name in run else np.full(len(counts), np.nan) for run in runs]
            drawn[name].append(_weighted_mean(np.stack(columns, axis=1), seeds))
    values = {name: np.concatenate(parts) for name, parts in drawn.items()}
    for name, parts in (means or {}).items():
        if all(part in values for part in parts):
            values[name] = np.mean([values[part] for part in parts], axis=0)
    few = {name for name in drawn if not any(_can_vary(run[name]) for run in runs if name in run)}
    few |= {name for name, parts in (means or {}).items() if few.intersection(parts)}
    return {name: None if name in few else percentile_interval(column) for name, column in values.items()}


def paired_bootstrap(
    first: Mapping[str, Ratio], second: Mapping[str, Ratio], *, resamples: int = RESAMPLES
) -> dict[str, Interval | None]:
    """Percentile intervals of second minus first; the same routes are drawn for both."""
    drawn: dict[str, list[Values]] = {name: [] for name in first}
    for counts in _route_counts([first], np.random.default_rng(0), resamples):
        for name in drawn:
            drawn[name].append(second[name].values(counts) - first[name].values(counts))
    return {
        name: percentile_interval(np.concatenate(parts)) if _can_vary(first[name]) else None
        for name, parts in drawn.items()
    }


def percentile_interval(values: Values) -> Interval | None:
    """Central 95 % of the values that could be computed; None if fewer than half could."""
    finite = values[np.isfinite(values)]
    if 2 * len(finite) < len(values) or not len(finite):
        return None
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(finite, [tail, 100.0 - tail])
    return float(low), float(high)


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's 95 % interval of a share. Raises: ValueError without trials or with more successes than trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"successes must lie in [0, trials] with trials > 0, got {successes} of {trials}")
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2.0 * trials)) / (1.0 + z2 / trials)
    half = Z_95 / (1.0 + z2 / trials) * math.sqrt(share * (1.0 - share) / trials + z2 / (4.0 * trials**2))
    low = max(centre - half, 0.0) if successes else 0.0  # exactly, not up to rounding
    return low, min(centre + half, 1.0) if successes < trials else 1.0


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test; the counts are of pairs in which one alone succeeded."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _can_vary(ratio: Ratio) -> bool:
    """Whether more than one route was measured: one alone says nothing about how routes differ."""
    return int(np.count_nonzero(ratio.denominator)) > 1


def _route_counts(
    runs: Sequence[Mapping[str, Ratio]], generator: np.random.Generator, resamples: int
) -> Iterator[Float[np.ndarray, "resample route"]]:
    """How often each route was drawn, in chunks of resamples."""
    routes = len(next(iter(runs[0].values())).numerator)
    chunk = max(_CHUNK // routes, 1)
    for start in range(0, resamples, chunk):
        yield _draw(generator, min(chunk, resamples - start), routes)


def _draw(generator: np.random.Generator, resamples: int, items: int) -> Float[np.ndarray, "resample item"]:
    return generator.multinomial(items, np.full(items, 1.0 / items), size=resamples).astype(np.float64)


def _weighted_mean(values: Float[np.ndarray, "resample run"], weights: Float[np.ndarray, "resample run"]) -> Values:
    """Mean over the runs that have a value."""
    measured = ~np.isnan(values)
    total = np.where(measured, weights, 0.0).sum(axis=1)
    weighted = np.where(measured, values * weights, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0.0, weighted / total, np.nan)
