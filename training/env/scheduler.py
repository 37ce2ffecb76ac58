"""Chooses the next route: warm-up routes first, then what fails more often is driven more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.routes import Route
from training.env.config import SchedulerConfig

WARM_UP = "warm-up"
"""Kind of the routes without scenarios."""


def kind_of(route: Route) -> str:
    """Type of the route's first scenario."""
    return route.scenarios[0].type if route.scenarios else WARM_UP


class RouteScheduler:
    """Draws routes; every drive's outcome is to be reported.

    A kind of scenario is drawn with a weight that falls from 1 (always fails, or never driven) to `floor` (always
    succeeds), then one of its routes in the same manner. Draws stay in one town for some episodes.
    """

    def __init__(self, routes: Sequence[Route], config: SchedulerConfig, generator: np.random.Generator) -> None:
        """Raises: ValueError if there is no route or an id occurs twice."""
        if not routes:
            raise ValueError("no route to drive; generate some or give a route file that has routes")
        self._routes = {route.id: route for route in routes}
        if len(self._routes) != len(routes):
            raise ValueError("route ids must be unique over all towns")
        self._config = config
        self.generator = generator
        self.scenarios_on: bool | None = None
        """Set from outside: whether routes with scenarios are drawn; None: after the warm-up episodes."""
        self.reset()

    def reset(self) -> None:
        """Forget all outcomes."""
        self.episodes = 0
        self._rates: dict[str, float] = {}
        self._town = ""
        self._left = 0

    def rate(self, name: str) -> float:
        """Running success rate of a kind or of a route's id; 0 if never driven."""
        return self._rates.get(name, 0.0)

    def get(self, route_id: str) -> Route:
        """The route with this id. Raises: ValueError."""
        if route_id not in self._routes:
            raise ValueError(f"no route with id {route_id!r}; there are {len(self._routes)} others")
        return self._routes[route_id]

    def draw(self) -> Route:
        """The next route to drive."""
        candidates = self._candidates()
        towns = {route.town for route in candidates}
        if self._left <= 0 or self._town not in towns:
            self._town = self._draw_town(candidates)
            self._left = self._config.episodes_per_town
        self._left -= 1
        here = [route for route in candidates if route.town == self._town]
        kinds = sorted({kind_of(route) for route in here})
        kind = kinds[self._pick([self._weight(kind) for kind in kinds])]
        routes = [route for route in here if kind_of(route) == kind]
        return routes[self._pick([self._weight(route.id) for route in routes])]

    def report(self, route: Route, success: bool) -> None:
        """Take in how a drive ended."""
        self.episodes += 1
        for name in (kind_of(route), route.id):
            self._rates[name] = self._config.memory * self.rate(name) + (1.0 - self._config.memory) * success

    def state(self) -> dict[str, Any]:
        """Outcomes so far, as JSON."""
        return {"episodes": self.episodes, "rates": dict(self._rates)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the outcomes of an earlier run."""
        self.reset()
        self.episodes = int(state["episodes"])
        self._rates = {str(name): float(rate) for name, rate in state["rates"].items()}

    def _candidates(self) -> list[Route]:
        wanted = self.scenarios_on
        if wanted is None:
            wanted = self.episodes >= self._config.warm_up_episodes
        chosen = [route for route in self._routes.values() if bool(route.scenarios) == wanted]
        return chosen or list(self._routes.values())

    def _draw_town(self, candidates: Sequence[Route]) -> str:
        towns = sorted({route.town for route in candidates})
        kinds = {town: {kind_of(route) for route in candidates if route.town == town} for town in towns}
        return towns[self._pick([sum(self._weight(kind) for kind in sorted(kinds[town])) for town in towns])]

    def _weight(self, name: str) -> float:
        return self._config.floor + (1.0 - self._config.floor) * (1.0 - self.rate(name))

    def _pick(self, weights: Sequence[float]) -> int:
        shares = np.asarray(weights) / sum(weights)
        return int(self.generator.choice(len(shares), p=shares))
