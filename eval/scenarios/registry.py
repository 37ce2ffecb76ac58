"""Scenario types of route files and what plays them."""

from __future__ import annotations

from eval.scenarios.bicycles import CrossingBicycleFlow
from eval.scenarios.crossings import (
    DynamicObjectCrossing,
    ParkingCrossingPedestrian,
    PedestrianCrossing,
    VehicleTurningRoute,
    VehicleTurningRoutePedestrian,
)
from eval.scenarios.cut_ins import HighwayCutIn, ParkingCutIn, StaticCutIn
from eval.scenarios.ego_lane import BlockedIntersection, ControlLoss, HardBreakRoute, InvadingTurn
from eval.scenarios.emergency import YieldToEmergencyVehicle
from eval.scenarios.flows import (
    EnterActorFlow,
    EnterActorFlowV2,
    HighwayExit,
    InterurbanActorFlow,
    InterurbanAdvancedActorFlow,
    MergerIntoSlowTraffic,
    MergerIntoSlowTrafficV2,
)
from eval.scenarios.junctions import (
    NonSignalizedJunctionLeftTurn,
    NonSignalizedJunctionLeftTurnEnterFlow,
    NonSignalizedJunctionRightTurn,
    SignalizedJunctionLeftTurn,
    SignalizedJunctionLeftTurnEnterFlow,
    SignalizedJunctionRightTurn,
)
from eval.scenarios.lane_changes import ParkingExit, SequentialLaneChange
from eval.scenarios.obstacles import (
    Accident,
    AccidentTwoWays,
    ConstructionObstacle,
    ConstructionObstacleTwoWays,
    ParkedObstacle,
    ParkedObstacleTwoWays,
)
from eval.scenarios.priority import (
    OppositeVehicleRunningRedLight,
    OppositeVehicleTakingPriority,
    PriorityAtJunction,
    T_Junction,
    VanillaNonSignalizedTurn,
    VanillaNonSignalizedTurnEncounterStopsign,
    VanillaSignalizedTurnEncounterGreenLight,
    VanillaSignalizedTurnEncounterRedLight,
)
from eval.scenarios.scenario import Scenario
from eval.scenarios.side_lane import HazardAtSideLane, HazardAtSideLaneTwoWays, VehicleOpensDoorTwoWays

SCENARIOS: dict[str, type[Scenario]] = {
    "DynamicObjectCrossing": DynamicObjectCrossing,
    "ParkingCrossingPedestrian": ParkingCrossingPedestrian,
    "PedestrianCrossing": PedestrianCrossing,
    "VehicleTurningRoute": VehicleTurningRoute,
    "VehicleTurningRoutePedestrian": VehicleTurningRoutePedestrian,
    "HardBreakRoute": HardBreakRoute,
    "ControlLoss": ControlLoss,
    "BlockedIntersection": BlockedIntersection,
    "InvadingTurn": InvadingTurn,
    "YieldToEmergencyVehicle": YieldToEmergencyVehicle,
    "Accident": Accident,
    "AccidentTwoWays": AccidentTwoWays,
    "ConstructionObstacle": ConstructionObstacle,
    "ConstructionObstacleTwoWays": ConstructionObstacleTwoWays,
    "HazardAtSideLane": HazardAtSideLane,
    "HazardAtSideLaneTwoWays": HazardAtSideLaneTwoWays,
    "HighwayCutIn": HighwayCutIn,
    "ParkedObstacle": ParkedObstacle,
    "ParkedObstacleTwoWays": ParkedObstacleTwoWays,
    "ParkingCutIn": ParkingCutIn,
    "ParkingExit": ParkingExit,
    "SequentialLaneChange": SequentialLaneChange,
    "StaticCutIn": StaticCutIn,
    "VehicleOpensDoorTwoWays": VehicleOpensDoorTwoWays,
    "NonSignalizedJunctionLeftTurn": NonSignalizedJunctionLeftTurn,
    "NonSignalizedJunctionLeftTurnEnterFlow": NonSignalizedJunctionLeftTurnEnterFlow,
    "NonSignalizedJunctionRightTurn": NonSignalizedJunctionRightTurn,
    "SignalizedJunctionLeftTurn": SignalizedJunctionLeftTurn,
    "SignalizedJunctionLeftTurnEnterFlow": SignalizedJunctionLeftTurnEnterFlow,
    "SignalizedJunctionRightTurn": SignalizedJunctionRightTurn,
    "OppositeVehicleRunningRedLight": OppositeVehicleRunningRedLight,
    "OppositeVehicleTakingPriority": OppositeVehicleTakingPriority,
    "PriorityAtJunction": PriorityAtJunction,
    "T_Junction": T_Junction,
    "VanillaNonSignalizedTurn": VanillaNonSignalizedTurn,
    "VanillaNonSignalizedTurnEncounterStopsign": VanillaNonSignalizedTurnEncounterStopsign,
    "VanillaSignalizedTurnEncounterGreenLight": VanillaSignalizedTurnEncounterGreenLight,
    "VanillaSignalizedTurnEncounterRedLight": VanillaSignalizedTurnEncounterRedLight,
    "CrossingBicycleFlow": CrossingBicycleFlow,
    "EnterActorFlow": EnterActorFlow,
    "EnterActorFlowV2": EnterActorFlowV2,
    "HighwayExit": HighwayExit,
    "InterurbanActorFlow": InterurbanActorFlow,
    "InterurbanAdvancedActorFlow": InterurbanAdvancedActorFlow,
    "MergerIntoSlowTraffic": MergerIntoSlowTraffic,
    "MergerIntoSlowTrafficV2": MergerIntoSlowTrafficV2,
}

BENCH2DRIVE_TYPES = tuple(sorted(set(SCENARIOS) - {"EnterActorFlowV2", "PriorityAtJunction"}))
"""The 44 types of bench2drive220; the other two occur in the leaderboard's routes only."""
