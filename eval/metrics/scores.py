"""Driving score, route completion, penalty, success and infractions of a run's routes.

Source: `compute_global_statistics` in the leaderboard's statistics_manager.py, Bench2Drive's tools/merge_route_json.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.metrics.records import RouteResult, Run, metres, percentage
from eval.results import ResultsError
from eval.scoring import Infraction, Offence, Scoring, penalty, succeeded

BENCH2DRIVE_ROUTES = 220
"""Bench2Drive's tool divides by this number, however many routes were driven."""
SCORE_TOLERANCE = 0.05
"""How far a score [percent] may be from the one its messages give, which are rounded to 0.01 %."""
PER_KM_KINDS = tuple(kind for kind in Infraction if kind not in (Infraction.OUTSIDE_ROUTE_LANES, Infraction.MIN_SPEED))
"""Infractions counted per kilometre; outside lanes are metres, and Bench2Drive lists every minimum-speed checkpoint."""


@dataclass(frozen=True, slots=True)
class RouteScore:
    """One drive's scores under the chosen rules."""

    completion_percent: float
    penalty: float
    composed_percent: float
    success: bool


@dataclass(frozen=True, slots=True)
class RunScores:
    """Scores of a run's drives, in the order of its records."""

    scores: tuple[RouteScore, ...]
    scoring: Scoring
    recomputed: bool
    """The file was scored by other rules, so its scores were computed again from completion and infractions."""
    notes: tuple[str, ...]


def score_run(run: Run, scoring: Scoring) -> RunScores:
    """Scores of the run by the given rules: those of the file if it was scored by these rules, else computed again."""
    fits = {rules: sum(_fits(result, rules) for result in run.results) for rules in Scoring}
    stated = run.scoring
    recomputed = fits[scoring] < max(fits.values()) if stated is None else scoring is not stated
    scores = tuple(_route_score(result, scoring, keep=not recomputed) for result in run.results)
    return RunScores(scores, scoring, recomputed, tuple(_notes(run, scoring, recomputed, fits)))


def common_scoring(runs: Sequence[Run], asked: Scoring | None) -> Scoring:
    """The rules asked for, or those the files were scored by (Bench2Drive's if they do not say).

    Raises: ResultsError if the files were scored by different ones.
    """
    stated = {run.scoring for run in runs if run.scoring is not None}
    if asked is not None:
        return asked
    if len(stated) > 1:
        names = ", ".join(sorted(scoring.value for scoring in stated))
        raise ResultsError(f"the runs were scored by different rules ({names}); choose one with --scoring")
    return stated.pop() if stated else Scoring.BENCH2DRIVE


def total_routes(run: Run, scoring: Scoring, override: int | None = None) -> int:
    """How many drives the means are taken over; those without a record count as zero.

    What the caller says, else what the file says, else 220 under Bench2Drive, else the number of records.
    """
    recorded = len(run.results)
    if override is not None:
        return max(override, recorded)
    if run.total_routes is not None:
        return max(run.total_routes, recorded)
    if scoring is Scoring.BENCH2DRIVE:
        repetitions = len({result.repetition for result in run.results})
        return max(BENCH2DRIVE_ROUTES * repetitions, recorded)
    return recorded


def driven_km(result: RouteResult) -> float:
    """Route length times completion, as the leaderboard counts kilometres."""
    return result.length_m / 1000.0 * (result.completion_percent or 0.0) / 100.0


def outside_km(result: RouteResult) -> float:
    """Kilometres outside the route's lanes, read from the first message as the leaderboard does."""
    messages = result.messages(Infraction.OUTSIDE_ROUTE_LANES)
    return metres(messages[0]) / 1000.0 if messages else 0.0


def offences(result: RouteResult) -> list[Offence]:
    """What counts for the score, read from the messages."""
    found = []
    for kind in Infraction:
        harmless = 100.0 if kind is Infraction.MIN_SPEED else 0.0
        for message in result.messages(kind):
            value = percentage(message)
            found.append(Offence(kind, harmless if value is None else value))
    return found


def _route_score(result: RouteResult, scoring: Scoring, *, keep: bool) -> RouteScore:
    completion = result.completion_percent
    factor = penalty(offences(result), scoring)
    if keep and result.penalty is not None:
        factor = result.penalty
    composed = (completion or 0.0) * factor
    if keep and result.composed_percent is not None:
        composed = result.composed_percent
    return RouteScore(completion or 0.0, factor, composed, succeeded(result.status, result.infractions))


def _fits(result: RouteResult, scoring: Scoring) -> bool:
    """Whether the record's score is the one these rules give."""
    if result.completion_percent is None or result.composed_percent is None:
        return False
    own = result.completion_percent * penalty(offences(result), scoring)
    return abs(own - result.composed_percent) <= SCORE_TOLERANCE


def _notes(run: Run, scoring: Scoring, recomputed: bool, fits: dict[Scoring, int]) -> Sequence[str]:
    notes = []
    if recomputed:
        notes.append(f"{run.name}: scored by other rules; scores computed again from completion and infractions")
        if scoring is not Scoring.BENCH2DRIVE and any(
            (percentage(message) or 0.0) > 100.0
            for result in run.results
            for message in result.messages(Infraction.MIN_SPEED)
        ):
            notes.append(
                f"{run.name}: Bench2Drive judges the minimum speed at 20 checkpoints of a route, the leaderboard at 4, "
                f"so scoring {scoring.value} is stricter here than on a run of its own"
            )
    elif fits[scoring] < len(run.results):
        odd = [result.route_id for result in run.results if not _fits(result, scoring)]
        notes.append(
            f"{run.name}: the file's scores are kept, but {len(odd)} of {len(run.results)} do not follow from "
            f"their infractions by scoring {scoring.value} (first: route {odd[0]})"
        )
    return notes
