"""An emergency vehicle comes from behind: the ego must leave its lane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import carla

from eval.routes import ScenarioBlock
from eval.scenarios.lanes import STEP_M, lane_path, same_direction, straightest
from eval.scenarios.line import Line
from eval.scenarios.motion import PathDriver
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.stage import is_emergency
from eval.scenarios.way import Way
from eval.scoring import Infraction

AHEAD_M = 500.0
SHORTEST_M = 15.0
CLEAR_STEP_M = 4.0
CLEAR_RADIUS_M = 2.5
LIGHTS = carla.VehicleLightState(carla.VehicleLightState.Special1 | carla.VehicleLightState.Special2)


class YieldToEmergencyVehicle(Scenario):
    """The ego must let an emergency vehicle pass. Source: scenario_runner `YieldToEmergencyVehicle`."""

    NEAR_M = 50.0
    YIELD_S = 10.0
    """Time to yield, from when it is near."""
    PAST_M = 50.0
    FASTER_MPS = 12.0
    """Than the ego. The original's is 25 m/s, with instant braking; with real brakes that is too much."""
    NARROW_M = (26, 30)
    WIDE_M = (120, 140)
    """Ranges of distances in real route files: in towns and on motorways."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Roads with several lanes in the ego's direction."""
        for index in way.stretches(before_m=cls.NARROW_M[1] + 5.0, after_m=70.0):
            end = way.line.index_at(float(way.line.arc_m[index]) + 70.0)
            if min(len(same_direction(way.waypoints[k])) for k in (index, end)) >= 2:
                motorway = way.junction_ahead(index) > 2.0 * cls.WIDE_M[1]
                distance_m = random.randint(*(cls.WIDE_M if motorway else cls.NARROW_M))
                yield way.block("YieldToEmergencyVehicle", index, distance=distance_m)

    def prepare(self) -> None:
        """Find the way it will come."""
        distance_m = self.parameters.number("distance", 140.0, SHORTEST_M, 1000.0)
        behind = [self.trigger]
        for _ in range(round(distance_m / STEP_M)):
            before = behind[-1].previous(STEP_M)
            if not before:
                break
            behind.append(straightest(behind[-1], before))
        if len(behind) * STEP_M < SHORTEST_M:
            raise ScenarioError(f"the lane begins {len(behind)} m before the trigger, needed are {SHORTEST_M:g} m")
        back = [waypoint.transform for waypoint in reversed(behind[1:])]
        self.line = Line([*back, *lane_path(self.trigger, AHEAD_M)])
        self.vehicle_behind: carla.Vehicle | None = None

    def script(self) -> Script:
        """It comes, waits behind the ego if it must, passes and is gone."""
        self._clear_lane()
        vehicle = self.vehicle(self.line.at(0.0), accept=is_emergency, lights=LIGHTS, parked=False)
        self.vehicle_behind = vehicle
        speed_mps = self.stage.ego_pose.speed_mps
        driver = PathDriver(self.stage, vehicle, self.line, speed_mps, minds_ego=True, rolling=True)
        near_s = passed_m = math.inf
        while self.stage.now_s - near_s < self.YIELD_S and driver.arc_m - passed_m < self.PAST_M:
            driver.speed_mps = self.stage.ego_pose.speed_mps + self.FASTER_MPS
            driver.update()
            if near_s == math.inf and self.ego_within(self.NEAR_M, self.stage.pose(vehicle).location):
                near_s = self.stage.now_s
            if passed_m == math.inf and not self._behind_ego(vehicle):
                passed_m = driver.arc_m
            yield

    def finish(self) -> None:
        """It should be ahead of the ego by now."""
        if self.vehicle_behind is not None and self._behind_ego(self.vehicle_behind):
            self.infractions.append(Infraction.YIELD_TO_EMERGENCY_VEHICLE)

    def _behind_ego(self, vehicle: carla.Vehicle) -> bool:
        pose = self.stage.pose(vehicle)
        yaw = math.radians(pose.transform.rotation.yaw)
        ego = self.stage.ego_pose.location
        return (ego.x - pose.location.x) * math.cos(yaw) + (ego.y - pose.location.y) * math.sin(yaw) > 0.0

    def _clear_lane(self) -> None:
        """Background vehicles leave the lane."""
        arc_m = 0.0
        while arc_m < self.line.length_m:
            self.stage.clear(self.line.at(arc_m).location, CLEAR_RADIUS_M)
            arc_m += CLEAR_STEP_M
