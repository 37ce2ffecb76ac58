"""Something stands in the ego's lane: it must change lanes, or pass on the other side of the road.

Figures are those of scenario_runner's route obstacles, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import ClassVar

import carla

from eval.routes import ScenarioBlock
from eval.scenarios.lanes import ahead, beside, driving_beside, outermost, shifted
from eval.scenarios.oncoming import Oncoming
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Part, Scenario, Script
from eval.scenarios.stage import Stage, is_car
from eval.scenarios.way import Way, two_way

END_M = 50.0
"""The ego has an obstacle behind it this far past it, or at the next junction."""
RETURN_M = 30.0
"""Free road after an obstacle on generated routes, to get back to the own lane."""
DISTANCES_M = (40, 80)
"""From trigger to obstacle on generated routes, as in real ones."""
SIGN_BESIDE_M = 1.3
BEYOND_M = 5.0
CLEAR_TICKS = 20
HAZARD_LIGHTS = carla.VehicleLightState(
    carla.VehicleLightState.RightBlinker | carla.VehicleLightState.LeftBlinker | carla.VehicleLightState.Position
)
POLICE_LIGHTS = carla.VehicleLightState(
    carla.VehicleLightState.Special1 | carla.VehicleLightState.Special2 | carla.VehicleLightState.Position
)


class FreeWay:
    """Keeps background vehicles, which know no way around an obstacle, from queueing between it and the ego."""

    def __init__(self, stage: Stage, end_arc_m: Callable[[], float]) -> None:
        self._stage = stage
        self._end_arc_m = end_arc_m
        self._ticks = 0

    def update(self) -> None:
        """Act for the next tick."""
        if self._ticks % CLEAR_TICKS == 0:
            self._stage.clear_way(self._stage.ego_arc_m + 1.0, self._end_arc_m())
        self._ticks += 1


class Obstacle(Scenario):
    """Things on the ego's lane, `distance` after the trigger and towards the side `direction`."""

    timeout_s = 240.0
    SIGN: ClassVar[str | None] = "static.prop.warningaccident"
    """Stands at the roadside beside the trigger."""
    DISTANCE_M: ClassVar[float] = 120.0
    LENGTH_M: ClassVar[float] = 5.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Stretches without a junction or lane change where the obstacle `fits`."""
        nearest_m, farthest_m = DISTANCES_M
        for index in way.stretches(before_m=10.0, after_m=nearest_m + cls.LENGTH_M + RETURN_M):
            free_m = way.junction_ahead(index) - cls.LENGTH_M - RETURN_M
            distance_m = random.randint(nearest_m, int(min(free_m, farthest_m)))
            place = way.waypoints[way.line.index_at(float(way.line.arc_m[index]) + distance_m)]
            parameters = cls.fits(way.waypoints[index], place)
            if parameters is not None and way.keeps_lane(index, distance_m + cls.LENGTH_M):
                more = cls.details(random, free_m - distance_m)
                yield way.block(cls.__name__, index, distance=distance_m, **parameters, **more)

    @classmethod
    def fits(cls, trigger: carla.Waypoint, place: carla.Waypoint) -> Mapping[str, object] | None:
        """What its parameters must be for a trigger and a place; None if it does not fit in there.

        The ego needs a second lane of its direction to pass; the obstacle stands towards the other side.
        """
        for side, other in (("right", "left"), ("left", "right")):
            if all(driving_beside(waypoint, other) is not None for waypoint in (trigger, place)):
                return {"direction": side}
        return None

    @classmethod
    def details(cls, random: Random, free_m: float) -> Mapping[str, object]:
        """Further parameters for generated routes; `free_m`: road left over before the next junction."""
        return {}

    def prepare(self) -> None:
        """Put up the sign and the obstacle."""
        self.side = self.parameters.choice("direction", ("left", "right"), "right")
        self.place = self.place_ahead(self.parameters.number("distance", self.DISTANCE_M, 0.0, 1000.0))
        self.warn()
        last = self.build(self.place)
        self.end_arc_m = self.arc_ahead(ahead(last, END_M).transform.location)
        self.last_arc_m = self.arc_ahead(last.transform.location)

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """Put the obstacle on stage; returns where it ends."""
        raise NotImplementedError(type(self).__name__)

    def reach_arc_m(self) -> float:
        """Arc length of the ego's route at which the obstacle ends now."""
        return self.last_arc_m

    def parts(self) -> Sequence[Part]:
        """Who acts while the scenario runs."""
        return [FreeWay(self.stage, lambda: self.reach_arc_m() + BEYOND_M)]

    def passed(self) -> bool:
        """Whether the ego has it behind it."""
        return self.ego_passed(self.end_arc_m)

    def script(self) -> Script:
        """Until the ego has passed."""
        yield from self.play(*self.parts(), until=self.passed)

    def towards_side(self, distance_m: float) -> float:
        """A distance to the right, or to the left where the obstacle is on the left."""
        return distance_m if self.side == "right" else -distance_m

    def park(self, place: carla.Waypoint, offset: float, blueprint: str = "vehicle.*", **options: object) -> None:
        """A car that stands `offset` half lane widths away from the middle of the lane."""
        right_m = self.towards_side(0.5 * offset * place.lane_width)
        self.vehicle(shifted(place.transform, right_m=right_m), blueprint, **options)

    def warn(self) -> None:
        """The sign at the roadside; where there is no room for it, there is none."""
        if self.SIGN is None:
            return
        edge = outermost(self.trigger, self.side, (carla.LaneType.Driving, carla.LaneType.Parking))
        neighbour = beside(edge, self.side)
        if neighbour is not None and neighbour.lane_type == carla.LaneType.Driving:
            return  # the lane of the other direction
        right_m = self.towards_side(0.5 * edge.lane_width + SIGN_BESIDE_M)
        try:
            self.prop(shifted(edge.transform, right_m=right_m, yaw_deg=90.0), self.SIGN)
        except ScenarioError:
            return


class Accident(Obstacle):
    """A police car with its lights on, and two cars that have collided."""

    LENGTH_M = 21.0
    OFFSET: ClassVar[float] = 0.6
    FIRST_M: ClassVar[float] = 10.0
    SECOND_M: ClassVar[float] = 6.0
    LONGER_M: ClassVar[float] = 1.5

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """The police car stands before the others."""
        first = ahead(place, self.FIRST_M)
        second = ahead(first, self.SECOND_M)
        self.park(place, self.OFFSET, "vehicle.dodge.charger_police_2020", lights=POLICE_LIGHTS)
        self.park(first, self.OFFSET, accept=is_new_car)
        try:
            self.park(second, self.OFFSET, accept=is_new_car)
        except ScenarioError:  # both are long cars
            second = ahead(second, self.LONGER_M)
            self.park(second, self.OFFSET, accept=is_new_car)
        return second


class ParkedObstacle(Obstacle):
    """A car parked on the ego's lane, its hazard lights on."""

    OFFSET: ClassVar[float] = 0.7

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """Park it."""
        self.park(place, self.OFFSET, lights=HAZARD_LIGHTS)
        return place


class ConstructionObstacle(Obstacle):
    """A building site: a warning board before it, debris, cones along its inner side and at its end."""

    SIGN = "static.prop.warningconstruction"
    DISTANCE_M = 100.0
    LENGTH_M = 15.0
    CONES: ClassVar[float] = 0.85
    """Of half a lane width from the middle of the lane."""

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """The cones follow the lane."""
        self._stand("static.prop.trafficwarning", place, ahead_m=-5.0, yaw_deg=270.0)
        self._stand("static.prop.dirtdebris02", place, ahead_m=2.0, yaw_deg=90.0)
        inner_m = self.towards_side(-0.5 * self.CONES * place.lane_width)
        for along_m in (2.0, 4.0, 6.0, 8.0):
            self._stand("static.prop.constructioncone", ahead(place, along_m, stop_at_junction=False), right_m=inner_m)
        end = ahead(place, 8.0, stop_at_junction=False)
        for across_m in (1.0, 2.0, 3.0):
            self._stand("static.prop.constructioncone", end, right_m=inner_m + self.towards_side(across_m))
        return end

    def _stand(self, blueprint: str, place: carla.Waypoint, **shift: float) -> None:
        self.prop(shifted(place.transform, **shift), blueprint)


class TwoWays(Obstacle):
    """The only way past leads through the opposite lane, in the gaps (`frequency`) of its traffic."""

    GAPS_M: ClassVar[tuple[float, float]] = (20.0, 100.0)
    ROUTE_GAPS_M: ClassVar[tuple[tuple[int, int], tuple[int, int]]] = ((40, 65), (95, 120))
    """Ranges of the bounds on generated routes, as in real ones."""

    @classmethod
    def fits(cls, trigger: carla.Waypoint, place: carla.Waypoint) -> Mapping[str, object] | None:
        """Roads with one lane per direction."""
        return {} if two_way(trigger) and two_way(place) else None

    @classmethod
    def details(cls, random: Random, free_m: float) -> Mapping[str, object]:
        """With the gaps."""
        low, high = sorted(random.randint(*bounds) for bounds in cls.ROUTE_GAPS_M)
        return {**super().details(random, free_m), "frequency": (low, high)}

    def parts(self) -> Sequence[Part]:
        """With the traffic in the opposite lane."""
        gaps_m = self.parameters.interval("frequency", self.GAPS_M, 5.0)
        return [*super().parts(), Oncoming(self, self.place, gaps_m, self.reach_arc_m)]

    def script(self) -> Script:
        """The opposite lane may be used while it runs."""
        self.stage.set_wrong_way_allowed(True)
        yield from super().script()

    def finish(self) -> None:
        """From now on the ego belongs in its own lane."""
        self.stage.set_wrong_way_allowed(False)


class AccidentTwoWays(TwoWays, Accident):
    """An accident on a road with one lane per direction."""


class ParkedObstacleTwoWays(TwoWays, ParkedObstacle):
    """A parked car on a road with one lane per direction."""


class ConstructionObstacleTwoWays(TwoWays, ConstructionObstacle):
    """A building site on a road with one lane per direction."""


def is_new_car(blueprint: carla.ActorBlueprint) -> bool:
    """An ordinary car of CARLA's second generation of vehicles."""
    return (
        is_car(blueprint)
        and blueprint.has_attribute("generation")
        and blueprint.get_attribute("generation").as_int() == 2
    )
