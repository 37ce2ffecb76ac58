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
