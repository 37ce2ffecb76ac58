"""Which routes are drawn: warm-up first, failures more often, one town for a while, the same draws for a seed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from eval.routes import Route, ScenarioBlock
from training.env.config import SchedulerConfig
from training.env.scheduler import WARM_UP, RouteScheduler, kind_of

KEYPOINTS = ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0))


def route(name: str, kind: str | None, town: str = "Gen01") -> Route:
    blocks = (ScenarioBlock(f"{kind}_1", kind),) if kind else ()
    return Route(name, town, KEYPOINTS, scenarios=blocks)


ROUTES = [
    *(route(f"hard{k}", "Accident") for k in range(3)),
    *(route(f"easy{k}", "HardBreakRoute") for k in range(3)),
    *(route(f"empty{k}", None) for k in range(2)),
]


def scheduler(routes=ROUTES, seed: int = 0, **fields) -> RouteScheduler:
    return RouteScheduler(routes, SchedulerConfig(**fields), np.random.default_rng(seed))


def drive(chosen: RouteScheduler, episodes: int) -> list[Route]:
    drawn = []
    for _ in range(episodes):
        drawn.append(chosen.draw())
        chosen.report(drawn[-1], kind_of(drawn[-1]) == "HardBreakRoute")
    return drawn


def test_warm_up_comes_first() -> None:
    drawn = drive(scheduler(warm_up_episodes=5), 30)
    assert {kind_of(one) for one in drawn[:5]} == {WARM_UP}
    assert WARM_UP not in {kind_of(one) for one in drawn[5:]}


def test_switched_from_outside() -> None:
    chosen = scheduler(warm_up_episodes=5)
    chosen.scenarios_on = True
    assert WARM_UP not in {kind_of(one) for one in drive(chosen, 20)}
    chosen.scenarios_on = False
    assert {kind_of(one) for one in drive(chosen, 20)} == {WARM_UP}


def test_what_fails_is_driven_more_often() -> None:
    """Once the easy kind is known to succeed, the weights are 1 and 0.2: five to one."""
    counts = Counter(kind_of(one) for one in drive(scheduler(), 1200)[200:])
    assert counts["Accident"] / counts["HardBreakRoute"] == pytest.approx(5.0, rel=0.25)


def test_a_route_that_fails_is_driven_more_often_than_others_of_its_kind() -> None:
    chosen = scheduler([route(f"r{k}", "Accident") for k in range(4)])
    drawn = []
    for _ in range(800):
        drawn.append(chosen.draw())
        chosen.report(drawn[-1], drawn[-1].id != "r0")
    counts = Counter(one.id for one in drawn[200:])
    assert counts["r0"] > 2.0 * max(counts[f"r{k}"] for k in (1, 2, 3))


def test_towns_change_only_now_and_then() -> None:
    routes = [route(f"{town}-{k}", "Accident", town) for town in ("Gen01", "Gen02") for k in range(3)]
    towns = [one.town for one in drive(scheduler(routes, episodes_per_town=10), 200)]
    blocks = [set(towns[k : k + 10]) for k in range(0, 200, 10)]
    assert all(len(block) == 1 for block in blocks)
    assert set(towns) == {"Gen01", "Gen02"}


def test_same_seed_same_draws_and_resumed_outcomes() -> None:
    first, second, other = (drive(scheduler(seed=seed), 50) for seed in (3, 3, 4))
    assert first == second != other
    chosen = scheduler()
    drive(chosen, 30)
    resumed = scheduler()
    resumed.restore(json.loads(json.dumps(chosen.state())))
    assert resumed.state() == chosen.state()
    assert resumed.rate("HardBreakRoute") == chosen.rate("HardBreakRoute") > 0.5


def test_bad_routes_are_refused() -> None:
    with pytest.raises(ValueError, match="no route"):
        scheduler([])
    with pytest.raises(ValueError, match="unique"):
        scheduler([route("a", None), route("a", None, "Gen02")])
    with pytest.raises(ValueError, match="'nowhere'"):
        scheduler().get("nowhere")
    with pytest.raises(ValueError, match="floor"):
        scheduler(floor=0.0)
