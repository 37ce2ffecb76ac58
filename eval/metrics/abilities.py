"""Bench2Drive's five abilities: success over the routes whose scenario calls for an ability.

Source: tools/ability_benchmark.py. Crashed routes, which have no record, count for no ability. A failed route of
Traffic_Signs still counts if it came past its first junction without running a light or a stop sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.metrics.records import RouteResult
from eval.scoring import Infraction

TRAFFIC_SIGNS = "Traffic_Signs"
ABILITIES: Mapping[str, frozenset[str]] = {
    "Overtaking": frozenset({
        "Accident", "AccidentTwoWays", "ConstructionObstacle", "ConstructionObstacleTwoWays", "HazardAtSideLane",
        "HazardAtSideLaneTwoWays", "ParkedObstacle", "ParkedObstacleTwoWays", "VehicleOpensDoorTwoWays",
    }),
    "Merging": frozenset({
        "CrossingBicycleFlow", "EnterActorFlow", "HighwayCutIn", "HighwayExit", "InterurbanActorFlow",
        "InterurbanAdvancedActorFlow", "MergerIntoSlowTraffic", "MergerIntoSlowTrafficV2",
        "NonSignalizedJunctionLeftTurn", "NonSignalizedJunctionLeftTurnEnterFlow", "NonSignalizedJunctionRightTurn",
        "ParkingExit", "SequentialLaneChange", "SignalizedJunctionLeftTurn", "SignalizedJunctionLeftTurnEnterFlow",
        "SignalizedJunctionRightTurn",
    }),
    "Emergency_Brake": frozenset({
        "BlockedIntersection", "ControlLoss", "DynamicObjectCrossing", "HardBreakRoute",
        "OppositeVehicleRunningRedLight", "OppositeVehicleTakingPriority", "ParkingCrossingPedestrian", "ParkingCutIn",
        "PedestrianCrossing", "StaticCutIn", "VehicleTurningRoute", "VehicleTurningRoutePedestrian",
    }),
    "Give_Way": frozenset({"InvadingTurn", "YieldToEmergencyVehicle"}),
    TRAFFIC_SIGNS: frozenset({
        "BlockedIntersection", "CrossingBicycleFlow", "EnterActorFlow", "NonSignalizedJunctionLeftTurn",
        "NonSignalizedJunctionLeftTurnEnterFlow", "NonSignalizedJunctionRightTurn", "OppositeVehicleRunningRedLight",
        "OppositeVehicleTakingPriority", "PedestrianCrossing", "SignalizedJunctionLeftTurn",
        "SignalizedJunctionLeftTurnEnterFlow", "SignalizedJunctionRightTurn", "T_Junction",
        "VanillaNonSignalizedTurn", "VanillaNonSignalizedTurnEncounterStopsign",
        "VanillaSignalizedTurnEncounterGreenLight", "VanillaSignalizedTurnEncounterRedLight", "VehicleTurningRoute",
        "VehicleTurningRoutePedestrian",
    }),
}  # fmt: skip
"""Scenario types per ability; a type may count for two."""


def abilities_of(scenario_type: str) -> list[str]:
    """The abilities a scenario type counts for."""
    return [ability for ability, types in ABILITIES.items() if scenario_type in types]


def can_earn_credit(result: RouteResult, scenario_type: str, success: bool) -> bool:
    """Whether it depends on the first junction's place if the route counts for Traffic_Signs."""
    ran_a_sign = result.messages(Infraction.STOP_SIGN) or result.messages(Infraction.RED_LIGHT)
    is_sign = scenario_type in ABILITIES[TRAFFIC_SIGNS]
    return is_sign and not success and not ran_a_sign and bool(result.completion_percent)


def earns_credit(result: RouteResult, credit_percent: float) -> bool:
    """Whether the route came far enough beyond its first junction."""
    return (result.completion_percent or 0.0) > credit_percent


def known_types(types: Sequence[str]) -> bool:
    """Whether any of the scenario types counts for an ability."""
    return any(abilities_of(scenario_type) for scenario_type in types)
