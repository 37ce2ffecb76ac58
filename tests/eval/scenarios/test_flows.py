"""Flows to merge into and to cross: a collision for who does not look, none for who waits or falls in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace

import carla
import pytest

from eval.scenarios.director import State
from eval.scenarios.lanes import driving_beside, next_junction, opposite, same_direction
from eval.scoring import Infraction
from eval.server import EmbeddedServer, EmbeddedServerConfig
from tests.eval.scenarios.flow_drivers import ExitZipper, GapSeeker, Obedient, Zipper
from tests.eval.scenarios.playground import MakeDriver, Playground

MOTORWAY, AVENUES = "Motorway01", "Avenue01"
IN_TOWN = ("EnterActorFlow", "MergerIntoSlowTraffic", "InterurbanActorFlow", "InterurbanAdvancedActorFlow")
FROM_RAMP = ("EnterActorFlowV2", "MergerIntoSlowTrafficV2")


@pytest.fixture(scope="module")
def motorway() -> Iterator[Playground]:
    with EmbeddedServer(EmbeddedServerConfig(town=MOTORWAY, render=False)) as server:
        yield Playground(server, MOTORWAY)


@pytest.fixture(scope="module")
def avenues() -> Iterator[Playground]:
    with EmbeddedServer(EmbeddedServerConfig(town=AVENUES, render=False)) as server:
        yield Playground(server, AVENUES)


@pytest.mark.parametrize("kind", IN_TOWN)
def test_only_who_waits_for_a_gap_gets_in(playground: Playground, kind: str) -> None:
    check(playground, kind, GapSeeker)


def test_only_who_waits_for_bicycles_gets_across(avenues: Playground) -> None:
    check(avenues, "CrossingBicycleFlow", GapSeeker)


@pytest.mark.parametrize("kind", FROM_RAMP)
def test_only_who_falls_in_gets_from_the_ramp(motorway: Playground, kind: str) -> None:
    check(starting_on(motorway, is_before_merge), kind, Zipper)


def test_only_who_falls_in_gets_to_the_exit(motorway: Playground) -> None:
    check(starting_on(motorway, is_beside_exit), "HighwayExit", ExitZipper)


def check(playground: Playground, kind: str, good: MakeDriver) -> None:
    route = playground.route(kind)
    hasty = playground.play(route, Obedient, to_first_infraction=True)
    assert hasty.infractions == [Infraction.COLLISION_VEHICLE], hasty
    patient = playground.play(route, good, max_game_s=90.0)
    assert patient.state is State.OVER, patient
    assert patient.infractions == [], patient


def starting_on(playground: Playground, wanted: Callable[[carla.Waypoint], bool]) -> Playground:
    """Short ways to a rare place."""
    near = copy(playground)
    starts = tuple(waypoint for waypoint in playground.town.starts if wanted(waypoint))
    near.town = replace(playground.town, starts=starts)
    return near


def is_before_merge(waypoint: carla.Waypoint) -> bool:
    """On a lane that ends in another one."""
    found = next_junction(waypoint, 260.0)
    if found is None or not 140.0 < found[1] < 250.0:
        return False
    inside = found[0]
    while inside.is_junction:
        inside = inside.next(1.0)[0]
    return len(inside.previous(3.0)) > 1 and driving_beside(waypoint, "left") is not None


def is_beside_exit(waypoint: carla.Waypoint) -> bool:
    """On a lane beside one that becomes a ramp."""
    lane = driving_beside(waypoint, "right")
    found = next_junction(lane, 260.0) if lane is not None else None
    if found is None or not 150.0 < found[1] < 250.0:
        return False
    following = found[0].next(100.0)
    return bool(following) and len(same_direction(following[0])) == 1 and opposite(following[0]) is None
