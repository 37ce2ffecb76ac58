"""Rules by which a claim counts as replicated, each on the results file of a study: fixed before the numbers.

Where a rule asks for an interval, a claim is replicated if value and interval reach what it asks; not replicated if the
interval leaves the goal out; else undecided: too few drives to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from training.ablate_table import SCORE

REPLICATED, NOT_REPLICATED = "replicated", "not replicated"
UNDECIDED = "undecided"
NOT_MEASURED, NOT_TESTABLE = "not measured", "not testable here"
SMALL_INTERACTION = 5.0
"""Of HD-scores."""
SMALL_LOSS = 0.05
"""Of true return: who loses no more does not fall."""
Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a claim."""

    verdict: str
    evidence: str


def told(value: float, low: float | None, high: float | None, form: str = "+.1f") -> str:
    """A number and its interval."""
    return f"{value:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def at_least(values: Sequence[float | None], least: float, form: str = "+.1f") -> Finding:
    """Replicated where a difference is large enough and its interval lies above 0; undecided where that may be so."""
    middle, low, high = values
    if middle is None:
        return Finding(NOT_MEASURED, "nothing to compare")
    reached = middle >= least and low is not None and low > 0.0
    return Finding(_verdict(reached, high is None or high > max(least, 0.0)), told(middle, low, high, form))


def _verdict(reached: bool, still_open: bool) -> str:
    if reached:
        return REPLICATED
    return UNDECIDED if still_open else NOT_REPLICATED


def arm_falls(arm: str, least: float, summary: Summary) -> Finding:
    """How far an arm of the ablation falls below the full method in driving score."""
    apart = summary["arms"].get(arm, {}).get("minus_full")
    if apart is None:
        return Finding(NOT_MEASURED, f"arm {arm} has not driven")
    low, high = apart[SCORE]["interval_95"] or (None, None)
    flipped = [-apart[SCORE]["difference"], None if high is None else -high, None if low is None else -low]
    return at_least(flipped, least)


def falls_through_gradients(summary: Summary) -> Finding:
    """Whether three heads cost points only where their gradients shape the states."""
    falls, detached = arm_falls("three_heads", 8.0, summary), arm_falls("three_heads_detached", 0.0, summary)
    if NOT_MEASURED in (falls.verdict, detached.verdict):
        return Finding(NOT_MEASURED, "the arms have not driven")
    evidence = f"with gradients {falls.evidence}, without {detached.evidence}"
    if falls.verdict != REPLICATED:
        return Finding(NOT_TESTABLE, f"three heads do not fall: {evidence}")
    return Finding(REPLICATED if detached.verdict != REPLICATED else NOT_REPLICATED, evidence)


def same_order(summary: Summary) -> Finding:
    """Spearman's correlation of the arms' driving scores with the paper's."""
    found = summary["rank_correlation"]
    if found is None:
        return Finding(NOT_MEASURED, "fewer than three arms have driven")
    return Finding(REPLICATED if found >= 0.7 else NOT_REPLICATED, f"{found:.2f}")


def risk_rule(key: str, value: str, form: str, summary: Summary) -> Finding:
    """One of the three parts of the risk benchmark's goal."""
    comparison = summary["comparison"]
    if "reached" not in comparison:
        return Finding(NOT_MEASURED, comparison["reason"])
    low, high = comparison[value]["interval"] or (None, None)
    evidence = told(comparison[value]["value"], low, high, form)
    return Finding(REPLICATED if comparison["reached"][key] else NOT_REPLICATED, evidence)


def fewer_collisions(summary: Summary) -> Finding:
    """The goal of refinement: collisions per km, at nearly the same completion and speed."""
    row = summary["arms"].get("impartial", {})
    over, minus = row.get("over_base"), row.get("minus_base")
    if over is None or minus is None or over["collisions_per_km"][0] is None:
        return Finding(NOT_MEASURED, "no arm impartial beside base, or base never collided")
    (times, low, high), (speed, _, _) = over["collisions_per_km"], over["mean_mps"]
    completion = minus["completion_percent"][0]
    reached = times <= 0.75 and high is not None and high < 1.0 and completion >= -3.0 and speed >= 0.95
    evidence = f"{told(times, low, high, '.2f')} times, completion {completion:+.1f} points, speed {speed:.2f} times"
    return Finding(_verdict(reached, _may_be_fewer(over, minus)), evidence)


def _may_be_fewer(over: Mapping[str, Sequence[float | None]], minus: Mapping[str, Sequence[float | None]]) -> bool:
    """Whether the intervals still allow what `fewer_collisions` asks for, in all three measures."""
    fewest = _bound(over["collisions_per_km"], 1)
    return fewest <= 0.75 and _bound(minus["completion_percent"], 2) >= -3.0 and _bound(over["mean_mps"], 2) >= 0.95


def _bound(values: Sequence[float | None], place: int) -> float:
    """An end of the interval, or the value where there is none."""
    end = values[place] if values[place] is not None else values[0]
    assert end is not None
    return end


def half_of_true_labels(summary: Summary) -> Finding:
    """What share the impartial critic has of the collisions per km that the true labels save."""
    arms = summary["arms"]
    if "impartial" not in arms or "true" not in arms:
        return Finding(NOT_MEASURED, "arms impartial and true have not driven")
    own = -arms["impartial"]["minus_base"]["collisions_per_km"][0]
    best, _, most = arms["true"]["minus_base"]["collisions_per_km"]
    evidence = f"{own:+.2f} of {-best:+.2f} per km"
    if most is None or most >= 0.0:
        return Finding(UNDECIDED, f"{evidence}, of which it is not known whether it is anything")
    return Finding(REPLICATED if own >= -0.5 * best else NOT_REPLICATED, evidence)


def arm_above(arm: str, other: str, measure: str, least: float, summary: Summary) -> Finding:
    """How much more of a measure an arm has than one that was named before it."""
    row = summary["arms"].get(arm, {}).get(f"minus_{other}")
    if row is None:
        return Finding(NOT_MEASURED, f"arms {arm} and {other} have not driven the same routes")
    return at_least(row[measure], least)


def arm_below(arm: str, other: str, measure: str, summary: Summary) -> Finding:
    """Whether an arm has less of a measure, with an interval below 0."""
    row = summary["arms"].get(arm, {}).get(f"minus_{other}")
    if row is None:
        return Finding(NOT_MEASURED, f"arms {arm} and {other} have not driven the same routes")
    middle, low, high = row[measure]
    reached = high is not None and high < 0.0
    return Finding(_verdict(reached, low is None or low < 0.0), told(middle, low, high, "+.2f"))


def better_without_more_collisions(least: float, summary: Summary) -> Finding:
    """The adapter's goal on one set of routes."""
    gain = arm_above("full", "base", "hd_score", least, summary)
    if gain.verdict == NOT_MEASURED:
        return gain
    more, low, _ = summary["arms"]["full"]["minus_base"]["collided"]
    evidence = f"HD-score {gain.evidence}, drives with a collision {100.0 * more:+.0f} points"
    if more <= 0.0:
        return Finding(gain.verdict, evidence)
    still_open = gain.verdict != NOT_REPLICATED and low is not None and low <= 0.0
    return Finding(_verdict(reached=False, still_open=still_open), evidence)


def diffused_above_random(summary: Summary) -> Finding:
    """Whether diffused plans drive better than random ones with the same Q-values; nothing of it is told by an adapter
    that proposes both."""
    source = summary.get("config", {}).get("source", "diffusion")
    if source != "diffusion":
        return Finding(NOT_TESTABLE, f"the arm full proposes plans of source {source}")
    return arm_above("full", "random_value", "hd_score", 0.0, summary)


def half_of_the_best_pick(summary: Summary) -> Finding:
    """What share it has of the gain in HD-score of a geometric pick, which sees everybody and takes them to go straight
    on."""
    arms = summary["arms"]
    if "full" not in arms or "oracle" not in arms:
        return Finding(NOT_MEASURED, "arms full and oracle have not driven")
    own, best = (arms[name]["minus_base"]["hd_score"][0] for name in ("full", "oracle"))
    if best <= 0.0:
        return Finding(NOT_TESTABLE, f"the geometric pick gains nothing ({best:+.1f})")
    return Finding(REPLICATED if own >= 0.5 * best else NOT_REPLICATED, f"{own:+.1f} of {best:+.1f} points")


def settings_of(summary: Summary) -> Mapping[str, Any]:
    """Of the model that learned from most states."""
    models = summary["models"].values()
    return max(models, key=lambda one: one["training"].get("states", 0))["settings"]


def route_matters_most(summary: Summary) -> Finding:
    """Which Q-value costs most true return when it is left out."""
    found = settings_of(summary)
    lost = {
        name.removeprefix("without "): found["full"]["gain"][0] - own["gain"][0]
        for name, own in found.items()
        if name.startswith("without ")
    }
    worst = max(lost, key=lambda name: lost[name])
    evidence = ", ".join(f"{name} {value:+.2f}" for name, value in lost.items())
    return Finding(
        REPLICATED if worst == "route" and lost[worst] > 0.0 else NOT_REPLICATED, f"lost without: {evidence}"
    )


def more_candidates_help(summary: Summary) -> Finding:
    """Whether the true gain rises from each number of candidates to the next and does not fall at the most."""
    found = settings_of(summary)
    gains = {int(name.split()[0]): own["gain"][0] for name, own in found.items() if name.endswith(" candidates")}
    counts = sorted(gains)
    steps = [gains[more] - gains[fewer] for fewer, more in pairwise(counts)]
    rises = all(step > 0.0 for step in steps[:-1]) and steps[-1] >= -SMALL_LOSS
    evidence = ", ".join(f"{count}: {gains[count]:+.2f}" for count in counts)
    return Finding(REPLICATED if rises else NOT_REPLICATED, f"gain by candidates {evidence}")


def effects_add_up(summary: Summary) -> Finding:
    """Whether the interaction of refinement and adapter in HD-score is small, its interval included."""
    row = summary["sets"].get("all", next(iter(summary["sets"].values())))["effects"]["interaction"]
    if row is None:
        return Finding(NOT_MEASURED, "the four arms have not driven the same routes")
    middle, low, high = row["hd_score"]
    small = low is not None and low >= -SMALL_INTERACTION and high <= SMALL_INTERACTION
    still_open = low is None or (low <= SMALL_INTERACTION and high >= -SMALL_INTERACTION)
    return Finding(_verdict(small, still_open), f"interaction in HD-score {told(middle, low, high)}")
