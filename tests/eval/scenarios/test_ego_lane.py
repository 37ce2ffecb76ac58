"""Trouble in the ego's lane: who drives on as if nothing were there fails, who minds it does not."""

from __future__ import annotations

import carla
import pytest

from eval.scenarios.director import State
from eval.scenarios.lanes import shifted
from eval.scenarios.line import Line
from eval.scenarios.stage import Stage
from eval.scoring import Infraction
from tests.eval.scenarios.playground import Blind, Careful, Playground

CRAWL_MPS = 3.5
ASIDE_M = 0.7


class Crawling(Blind):
    """Takes the grip that is there."""

    def control(self) -> carla.VehicleControl:
        control = super().control()
        if self.stage.ego_pose.speed_mps > CRAWL_MPS:
            control.throttle = 0.0
        return control


class Aside(Blind):
    """Keeps to the right."""

    def line(self, stage: Stage) -> Line:
        return Line([shifted(transform, right_m=ASIDE_M) for transform in stage.route.transforms])


CASES = {
    "HardBreakRoute": (Careful, Infraction.COLLISION_VEHICLE),
    "ControlLoss": (Crawling, Infraction.OUTSIDE_ROUTE_LANES),
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
