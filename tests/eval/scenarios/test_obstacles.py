"""Obstacles in the lane or at its side: hit by who drives on, passed by who goes around them in a gap."""

from __future__ import annotations

import pytest

from eval.scenarios.director import State
from eval.scoring import Infraction
from tests.eval.scenarios.obstacle_drivers import Aside, Overtaking
from tests.eval.scenarios.playground import Blind, Careful, Playground

CASES = {
    "Accident": (Overtaking, Infraction.COLLISION_VEHICLE),
    "AccidentTwoWays": (Overtaking, Infraction.COLLISION_VEHICLE),
    "ConstructionObstacle": (Overtaking, Infraction.COLLISION_STATIC),
    "ConstructionObstacleTwoWays": (Overtaking, Infraction.COLLISION_STATIC),
    "HazardAtSideLane": (Aside, Infraction.COLLISION_VEHICLE),
    "HazardAtSideLaneTwoWays": (Aside, Infraction.COLLISION_VEHICLE),
    "ParkedObstacle": (Overtaking, Infraction.COLLISION_VEHICLE),
    "ParkedObstacleTwoWays": (Overtaking, Infraction.COLLISION_VEHICLE),
    "VehicleOpensDoorTwoWays": (Overtaking, Infraction.COLLISION_VEHICLE),
}


@pytest.mark.parametrize("kind", CASES)
def test_only_who_goes_around_gets_past(playground: Playground, kind: str) -> None:
    good, infraction = CASES[kind]
    route = playground.route(kind)
    blind = playground.play(route, Blind, to_first_infraction=True)
    assert infraction in blind.infractions, blind
    around = playground.play(route, good, max_game_s=120.0)
    assert around.state is State.OVER, around
    assert around.infractions == [], around


def test_who_stands_before_an_obstacle_is_not_blocked_while_it_could_be_passed(playground: Playground) -> None:
    standing = playground.play(playground.route("ParkedObstacle"), Careful, max_game_s=100.0)
    assert standing.game_s > 95.0, standing
    assert standing.infractions == [], standing
