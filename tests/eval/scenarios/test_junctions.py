"""Turns through and into traffic: a collision for who does not look, none for who waits for a gap."""

from __future__ import annotations

import pytest

from eval.scenarios.director import State
from eval.scoring import Infraction
from tests.eval.scenarios.flow_drivers import GapSeeker, Obedient
from tests.eval.scenarios.playground import Playground

KINDS = [
    f"{control}Junction{turn}"
    for control in ("Signalized", "NonSignalized")
    for turn in ("LeftTurn", "LeftTurnEnterFlow", "RightTurn")
]


@pytest.mark.parametrize("kind", KINDS)
def test_only_who_waits_for_a_gap_gets_through(playground: Playground, kind: str) -> None:
    route = playground.route(kind)
    hasty = playground.play(route, Obedient, to_first_infraction=True)
    assert hasty.infractions == [Infraction.COLLISION_VEHICLE], hasty
    patient = playground.play(route, GapSeeker, max_game_s=90.0)
    assert patient.state is State.OVER, patient
    assert patient.infractions == [], patient
