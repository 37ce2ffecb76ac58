"""Scenario types of route files and what plays them."""

from __future__ import annotations

from eval.scenarios.crossings import (
    DynamicObjectCrossing,
    ParkingCrossingPedestrian,
    PedestrianCrossing,
    VehicleTurningRoute,
    VehicleTurningRoutePedestrian,
)
from eval.scenarios.obstacles import ParkedObstacle
from eval.scenarios.scenario import Scenario

SCENARIOS: dict[str, type[Scenario]] = {
    "DynamicObjectCrossing": DynamicObjectCrossing,
    "ParkingCrossingPedestrian": ParkingCrossingPedestrian,
    "PedestrianCrossing": PedestrianCrossing,
    "VehicleTurningRoute": VehicleTurningRoute,
    "VehicleTurningRoutePedestrian": VehicleTurningRoutePedestrian,
    "ParkedObstacle": ParkedObstacle,
}
