"""Trouble in the ego's lane: who drives on as if nothing were there fails, who minds it does not."""

from __future__ import annotations

from dataclasses import replace

import carla
import pytest

from eval.scenarios.director import State
from eval.scenarios.lanes import shifted
from eval.scenarios.line import Line
from eval.scenarios.parameters import Parameters
from eval.scenarios.stage import Stage
from eval.scenarios.way import Way
from eval.scoring import Infraction
from tests.eval.scenarios.playground import Blind, Careful, Playground

ASIDE_M = 0.7


class HandsOff(Blind):
    """Holds the wheel still from the first dirt on, and takes its foot off nothing."""

    held: float | None = None

    def control(self) -> carla.VehicleControl:
        control = super().control()
        if self.held is None and self.stage.disturb is not None:
            self.held = 0.0
        control.steer = control.steer if self.held is None else self.held
        return control


class Feeling(Blind):
    """Notes by how much the wheel turns of its own accord."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.felt: list[float] = []
        self.meant = 0.0

    def control(self) -> carla.VehicleControl:
        self.felt.append(abs(self.stage.ego.get_control().steer - self.meant))
        control = super().control()
        self.meant = control.steer
        return control


class Aside(Blind):
    """Keeps to the right."""

    def line(self, stage: Stage) -> Line:
        return Line([shifted(transform, right_m=ASIDE_M) for transform in stage.route.transforms])


CASES = {
    "HardBreakRoute": (Careful, Infraction.COLLISION_VEHICLE),
    "BlockedIntersection": (Careful, Infraction.COLLISION_VEHICLE),
    "InvadingTurn": (Aside, Infraction.COLLISION_VEHICLE),
}


@pytest.mark.parametrize("kind", CASES)
def test_only_who_minds_it_gets_past(playground: Playground, kind: str) -> None:
    good, infraction = CASES[kind]
    route = playground.route(kind)
    blind = playground.play(route, Blind)
    assert infraction in blind.infractions, blind
    minded = playground.play(route, good, max_game_s=80.0)
    assert minded.state is State.OVER, minded
    assert minded.infractions == []


def test_the_blocked_exit_may_be_the_routes_end(playground: Playground) -> None:
    """The car that blocks it stands, and later drives, beyond the route."""
    route, town = playground.route("BlockedIntersection"), playground.town
    way = Way(town.carla_map, town.planner.plan(route.keypoints))
    trigger = way.line.nearest(Parameters(route.scenarios[0]).trigger().location)
    passage = next(passage for passage in way.passages if passage.entry > trigger)
    end = way.line.at(float(way.line.arc_m[passage.exit]) + 3.0).location
    before = [k for k in route.keypoints if way.line.nearest(carla.Location(*k)) < passage.entry]
    ending = replace(route, keypoints=(*before, (end.x, end.y, end.z)))
    outcome = playground.play(ending, Blind)
    assert Infraction.COLLISION_VEHICLE in outcome.infractions, outcome


def test_dirt_turns_the_wheel(playground: Playground) -> None:
    """Who steers against it stays in the lane, who holds the wheel still does not."""
    route = playground.route("ControlLoss")
    drivers: list[Feeling] = []

    def feeling(stage: Stage) -> Feeling:
        drivers.append(Feeling(stage))
        return drivers[0]

    outcome = playground.play(route, feeling)
    assert outcome.state is State.OVER and outcome.infractions == [], outcome
    turned = [turn for turn in drivers[0].felt[1:] if turn > 0.01]
    assert 10 < len(turned) < 60 and 0.03 < sum(turned) / len(turned) < 0.08
    assert Infraction.OUTSIDE_ROUTE_LANES in playground.play(route, HandsOff).infractions
