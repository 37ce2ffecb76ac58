"""Cut-ins and lane changes: a collision for who does not mind the others, none for who lets them in or waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eval.scenarios.director import State
from eval.scoring import Infraction
from eval.server import EmbeddedServer, EmbeddedServerConfig
from tests.eval.scenarios.obstacle_drivers import Following, Leaving, Merging
from tests.eval.scenarios.playground import Blind, Playground

MOTORWAY = "Motorway01"
CASES = {
    "HighwayCutIn": Following,
    "ParkingCutIn": Following,
    "ParkingExit": Leaving,
    "SequentialLaneChange": Merging,
    "StaticCutIn": Following,
}


@pytest.fixture(scope="module")
def motorway() -> Iterator[Playground]:
    with EmbeddedServer(EmbeddedServerConfig(town=MOTORWAY, render=False)) as server:
        yield Playground(server, MOTORWAY)


@pytest.mark.parametrize("kind", sorted(CASES.keys() - {"HighwayCutIn"}))
def test_only_who_minds_the_others_gets_past(playground: Playground, kind: str) -> None:
    check(playground, kind)


def test_only_who_minds_it_gets_past_on_a_motorway(motorway: Playground) -> None:
    check(motorway, "HighwayCutIn")


def check(playground: Playground, kind: str) -> None:
    route = playground.route(kind)
    blind = playground.play(route, Blind, to_first_infraction=True)
    assert Infraction.COLLISION_VEHICLE in blind.infractions, blind
    minded = playground.play(route, CASES[kind], max_game_s=90.0)
    assert minded.state is State.OVER, minded
    assert minded.infractions == [], minded
