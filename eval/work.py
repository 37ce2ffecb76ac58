"""What there is to drive: routes times repetitions, the longest expected first, and routes known for trouble."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from eval.routes import Route

MEAN_SPEED_MPS: Final = 4.0
"""Over a whole route, stops included; published Bench2Drive runs lie between 3 and 6 m/s."""
LARGE_TOWNS: Final = ("Town11", "Town12", "Town13", "Town15")
"""CARLA streams these from disk while it drives: they load and tick several times slower."""
LARGE_TOWN_FACTOR: Final = 2.0
SCENARIO_S: Final = 10.0
"""What a scenario adds: the ego waits, or goes around."""
KNOWN_BAD: Final = {
    "3457": "the server crashes while loading (github.com/xiaomi-mlab/Orion/issues/31)",
    "3785": "the server crashes at the same frame every time (github.com/Thinklab-SJTU/Bench2Drive/issues/146)",
    "11715": "the server crashes every time (github.com/RenzKa/simlingo/issues/42)",
    "23670": "the server crashes every time (github.com/Thinklab-SJTU/Bench2Drive/issues/166)",
    "24041": "the server crashes every time (github.com/Thinklab-SJTU/Bench2Drive/issues/166)",
}
"""Bench2Drive routes on which users report that CARLA crashes whatever drives. They are driven all the same: nobody
knows that it is so everywhere, and Bench2Drive's authors count a route that cannot be finished as failed."""


@dataclass(frozen=True, slots=True)
class Task:
    """One drive: a route, and which repetition of it."""

    route: Route
    repetition: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """Route id and repetition."""
        return self.route.id, self.repetition

    @property
    def label(self) -> str:
        """What messages call it, as `RouteRecord.label`."""
        return self.route.id if self.repetition == 0 else f"{self.route.id} (repetition {self.repetition})"

    @property
    def expected_s(self) -> float:
        """Expected wall time up to a constant factor, to start the longest first."""
        drive_s = self.route.keypoint_length_m / MEAN_SPEED_MPS + SCENARIO_S * len(self.route.scenarios)
        return drive_s * (LARGE_TOWN_FACTOR if self.route.town in LARGE_TOWNS else 1.0)


def make_tasks(routes: Sequence[Route], repetitions: int) -> list[Task]:
    """Every repetition of every route, repetition by repetition, in file order: the order of the results."""
    return [Task(route, repetition) for repetition in range(repetitions) for route in routes]


def longest_first(tasks: Sequence[Task]) -> list[Task]:
    """The order to drive in: with the longest first, no worker is left alone with a long one at the end."""
    return sorted(tasks, key=lambda task: -task.expected_s)


def known_bad(routes: Sequence[Route], skipped: Collection[str]) -> list[str]:
    """A line for every chosen route of Bench2Drive that is known for trouble and not skipped."""
    return [
        f"route {route.id} ({route.town}): {KNOWN_BAD[route.id]}"
        for route in routes
        if route.id in KNOWN_BAD and route.town.startswith("Town") and route.id not in skipped
    ]
