"""Somebody at the side of the ego's lane leaves too little of it: slow cyclists, and a parked car's door.

Figures are those of scenario_runner's scenarios of the same names, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

import carla

from eval.scenarios.lanes import ahead, beside, shifted
from eval.scenarios.line import Line
from eval.scenarios.motion import PathDriver
from eval.scenarios.obstacles import END_M, Obstacle, TwoWays
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Part
from eval.scenarios.stage import is_car

BICYCLES = ("vehicle.bh.crossbike", "vehicle.diamondback.century", "vehicle.gazelle.omafiets")
BICYCLE_GAP_M = 9.0
MIN_RIDE_M = 20
REACTION_S = 3.0
DOOR_DISTANCE_M = 10.0
DOOR_M = 0.8
"""How far an open door stands out."""
INNER_SIDE_M = 1.4
"""The parked car's inner side is this far from the middle of the ego's lane, so that its door reaches the ego."""
MIN_PARKING_WIDTH_M = 1.8


class Ride:
    """A cyclist at the side of the ego's route who stops after some distance."""

    def __init__(self, driver: PathDriver, start_arc_m: float) -> None:
        self._driver = driver
        self._start_arc_m = start_arc_m

    @property
    def arc_m(self) -> float:
        """Where on the ego's route the cyclist is."""
        return self._start_arc_m + self._driver.arc_m

    def update(self) -> None:
        """Act for the next tick."""
        if self._driver.finished:
            self._driver.speed_mps = 0.0
        self._driver.update()


class HazardAtSideLane(Obstacle):
    """Two bicycles ride slowly (`bicycle_speed` [km/h]) for `bicycle_drive_distance`, then stop."""

    SIGN = None
    DISTANCE_M = 100.0
    LENGTH_M = BICYCLE_GAP_M + MIN_RIDE_M
    OFFSET: ClassVar[float] = 0.55
    """Of half a lane width, to the right of its middle."""

    @classmethod
    def details(cls, random: Random, free_m: float) -> Mapping[str, object]:
        """Speeds and distances as in real routes, as far as the road goes."""
        ride_m = min(MIN_RIDE_M + int(free_m), random.randint(60, 110))
        return {"bicycle_drive_distance": ride_m, "bicycle_speed": random.randint(7, 13)}

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """They stand until the ego reaches the trigger."""
        second = ahead(place, BICYCLE_GAP_M)
        self.rides = [self._cyclist(waypoint) for waypoint in (place, second)]
        return second

    def parts(self) -> Sequence[Part]:
        """They ride; nobody else gets between them and the ego."""
        return [*super().parts(), *self.rides]

    def reach_arc_m(self) -> float:
        """Where the first of them is."""
        return max(ride.arc_m for ride in self.rides)

    def passed(self) -> bool:
        """The ego has left both behind."""
        return self.ego_passed(self.reach_arc_m() + END_M)

    def _cyclist(self, place: carla.Waypoint) -> Ride:
        start_m = self.arc_ahead(place.transform.location)
        distance_m = self.parameters.number("bicycle_drive_distance", 50.0, 2.0, 1000.0)
        speed_mps = self.parameters.number("bicycle_speed", 10.0, 1.0, 100.0) / 3.6
        right_m = 0.5 * self.OFFSET * place.lane_width
        route = self.stage.route
        way = Line([shifted(route.at(start_m + step), right_m=right_m) for step in range(int(distance_m) + 1)])
        bicycle = self.vehicle(way.transforms[0], self.stage.random.choice(BICYCLES))
        return Ride(PathDriver(self.stage, bicycle, way, speed_mps), start_m)


class HazardAtSideLaneTwoWays(TwoWays, HazardAtSideLane):
    """Bicycles on a road with one lane per direction."""

    GAPS_M = (100.0, 100.0)
    ROUTE_GAPS_M = ((75, 100), (75, 100))


class Door:
    """The door of a parked car: it opens when the ego is about to pass."""

    def __init__(self, scenario: Obstacle, vehicle: carla.Vehicle, place: carla.Waypoint) -> None:
        self._scenario = scenario
        self._vehicle = vehicle
        self._place = place
        self._arc_m = scenario.arc_ahead(place.transform.location)
        self._open = False

    def update(self) -> None:
        """Act for the next tick."""
        location = self._place.transform.location
        near = self._scenario.ego_within(DOOR_DISTANCE_M, location)
        if not self._open and (near or self._scenario.ego_arrives_in(REACTION_S, self._arc_m)):
            door = carla.VehicleDoor.FL if self._scenario.side == "right" else carla.VehicleDoor.FR
            self._vehicle.open_door(door)
            self._scenario.stage.widen(self._vehicle, DOOR_M)
            self._open = True


class VehicleOpensDoorTwoWays(TwoWays):
    """The door of a car parked at the side opens when the ego is about to pass."""

    SIGN = None
    DISTANCE_M = 50.0
    GAPS_M = (20.0, 100.0)
    ROUTE_GAPS_M = ((25, 45), (80, 95))

    @classmethod
    def fits(cls, trigger: carla.Waypoint, place: carla.Waypoint) -> Mapping[str, object] | None:
        """Beside a parking lane or a wide shoulder."""
        side = beside(place, "right")
        if side is None or side.lane_type not in (carla.LaneType.Parking, carla.LaneType.Shoulder):
            return None
        return super().fits(trigger, place) if side.lane_width >= MIN_PARKING_WIDTH_M else None

    def build(self, place: carla.Waypoint) -> carla.Waypoint:
        """Park the car close to the ego's lane."""
        if beside(place, self.side) is None:
            raise ScenarioError(f"there is no lane to the {self.side} to park in; choose another direction")
        car = self.vehicle(shifted(place.transform, right_m=self.towards_side(place.lane_width)), accept=has_doors)
        inner_m = min(INNER_SIDE_M, 0.5 * place.lane_width)
        right_m = self.towards_side(inner_m + self.stage.size(car)[1])
        self.stage.move(car, shifted(place.transform, right_m=right_m, up_m=0.1))
        self.door = Door(self, car, place)
        return place

    def parts(self) -> Sequence[Part]:
        """With the door."""
        return [*super().parts(), self.door]


def has_doors(blueprint: carla.ActorBlueprint) -> bool:
    """An ordinary car whose doors can be opened."""
    return (
        is_car(blueprint)
        and blueprint.has_attribute("has_dynamic_doors")
        and blueprint.get_attribute("has_dynamic_doors").as_bool()
    )
