"""Walkers and cyclists that cross: set up, met by who does not look, waited for by who does."""

from __future__ import annotations

import pytest

from eval.scenarios.director import State
from eval.scoring import Infraction
from tests.eval.scenarios.playground import Blind, Careful, Playground

HIT = {
    "DynamicObjectCrossing": Infraction.COLLISION_PEDESTRIAN,
    "ParkingCrossingPedestrian": Infraction.COLLISION_PEDESTRIAN,
    "PedestrianCrossing": Infraction.COLLISION_PEDESTRIAN,
    "VehicleTurningRoute": Infraction.COLLISION_VEHICLE,
    "VehicleTurningRoutePedestrian": Infraction.COLLISION_PEDESTRIAN,
}


@pytest.mark.parametrize("kind", HIT)
def test_only_who_looks_gets_past(playground: Playground, kind: str) -> None:
    route = playground.route(kind)
    blind = playground.play(route, Blind, to_first_infraction=True)
    assert HIT[kind] in blind.infractions, blind
    careful = playground.play(route, Careful)
    assert careful.state is State.OVER, careful
    assert careful.infractions == []


@pytest.mark.parametrize("kind", HIT)
def test_who_is_hit_is_hit_once(playground: Playground, kind: str) -> None:
    """Who has had the time to cross is gone, also when a car has pushed it along; seed 2 hits in every kind."""
    hit = playground.play(playground.route(kind, seed=2), Blind)
    assert hit.state is State.OVER, hit
    persons = 3 if kind == "PedestrianCrossing" else 1
    assert 1 <= len(hit.infractions) <= persons, hit
