"""Others who take the ego's priority, and junctions with nothing but their lights."""

from __future__ import annotations

import carla
import pytest

from eval.scenarios.director import State
from eval.scenarios.lanes import shifted
from eval.scenarios.line import Line
from eval.scenarios.stage import Stage
from eval.scoring import Infraction
from tests.eval.scenarios.flow_drivers import GapSeeker, Obedient
from tests.eval.scenarios.playground import Blind, MakeDriver, Playground

RED, GREEN = carla.TrafficLightState.Red, carla.TrafficLightState.Green
OPPOSITE_M = 3.6
RACE_MPS = 11.0
GREEN_LIGHTS = ("PriorityAtJunction", "VanillaSignalizedTurnEncounterGreenLight")
IGNORED = {
    "VanillaNonSignalizedTurnEncounterStopsign": Infraction.STOP_SIGN,
    "VanillaSignalizedTurnEncounterRedLight": Infraction.RED_LIGHT,
}
TAKEN = ("OppositeVehicleRunningRedLight", "OppositeVehicleTakingPriority")
QUIET = ("T_Junction", "VanillaNonSignalizedTurn", "VanillaNonSignalizedTurnEncounterStopsign")


@pytest.mark.parametrize("kind", TAKEN)
def test_only_who_looks_gets_past_who_takes_priority(playground: Playground, kind: str) -> None:
    route = playground.route(kind)
    blind = playground.play(route, Blind, to_first_infraction=True)
    assert blind.infractions == [Infraction.COLLISION_VEHICLE], blind
    looking = playground.play(route, GapSeeker)
    assert looking.state is State.OVER, looking
    assert looking.infractions == [], looking


@pytest.mark.parametrize("kind", QUIET)
def test_nothing_happens(playground: Playground, kind: str) -> None:
    outcome = playground.play(playground.route(kind), Obedient)
    assert outcome.state is State.OVER or kind == "T_Junction", outcome  # which may outlast the route
    assert outcome.infractions == [], outcome


@pytest.mark.parametrize("kind", GREEN_LIGHTS)
def test_the_light_is_green(playground: Playground, kind: str) -> None:
    seen: list[carla.TrafficLightState] = []
    outcome = playground.play(playground.route(kind), noting(Blind, seen))
    assert outcome.state is State.OVER, outcome
    assert seen[0] == GREEN and len(seen) > 5


def test_the_light_is_red_first_and_given_back(playground: Playground) -> None:
    seen: list[carla.TrafficLightState] = []
    outcome = playground.play(playground.route("VanillaSignalizedTurnEncounterRedLight"), noting(Obedient, seen))
    assert outcome.state is State.OVER, outcome
    assert (seen[0], seen[-1]) == (RED, GREEN)
    world = playground.client.get_world()
    world.tick()
    lights = world.get_actors().filter("traffic.traffic_light*")
    assert {light.get_green_time() for light in lights} == {10.0}


@pytest.mark.parametrize("kind", [*QUIET, *GREEN_LIGHTS])
def test_only_who_keeps_to_the_lanes_passes(playground: Playground, kind: str) -> None:
    outcome = playground.play(playground.route(kind), WrongSide, to_first_infraction=True)
    assert {Infraction.OUTSIDE_ROUTE_LANES, Infraction.COLLISION_STATIC} & set(outcome.infractions), outcome


@pytest.mark.parametrize("kind", sorted(IGNORED))
def test_who_ignores_lights_and_signs_fails(playground: Playground, kind: str) -> None:
    outcome = playground.play(playground.route(kind), Racing, counted=frozenset({IGNORED[kind]}))
    assert outcome.infractions == [IGNORED[kind]], outcome


class Racing(Blind):
    """Is at the junction before its light gets green."""

    def control(self) -> carla.VehicleControl:
        self.path.speed_mps = RACE_MPS
        return self.path.control()


class WrongSide(Blind):
    """Drives in the opposite lane."""

    def line(self, stage: Stage) -> Line:
        return Line([shifted(transform, right_m=-OPPOSITE_M) for transform in stage.route.transforms])


def noting(driver: type[Blind], seen: list[carla.TrafficLightState]) -> MakeDriver:
    """The driver, and the states of the first light that it comes to."""

    class Noting(driver):  # type: ignore[misc, valid-type]
        passed = False

        def control(self) -> carla.VehicleControl:
            ego = self.stage.ego
            if ego.is_at_traffic_light() and not self.passed:
                seen.append(ego.get_traffic_light_state())
            self.passed = self.passed or (bool(seen) and not ego.is_at_traffic_light())
            return super().control()

    def make(stage: Stage) -> Blind:
        return Noting(stage)

    return make
