"""Scripted road users: vehicles that follow a path with real dynamics, walkers that cross, flows of vehicles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import carla

from eval.criteria import TICK_S
from eval.scenarios.line import Line
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.stage import Accept, Body, Stage

if TYPE_CHECKING:
    from eval.scenarios.scenario import Scenario

LOOKAHEAD_S = 0.5
MIN_LOOKAHEAD_M = 4.0
WHEELBASE_M = 2.9
STEER_RANGE_RAD = math.radians(60.0)
"""Front wheel angle at full steer. Source: CARLA's vehicles, 60 to 70 degrees."""
HOLD_THROTTLE = 0.3
DECELERATION_MPS2 = 4.0
GAP_M = 4.0
SIGHT_M = 40.0
SIGHT_POINTS = 45
"""Points of a line about a metre apart that cover the sight."""
SIDE_MARGIN_M = 0.3


class PathDriver:
    """Drives a vehicle along a line at a wanted speed; brakes for whatever it minds.

    Set `speed_mps` at any time; call `update` every tick.
    """

    def __init__(
        self,
        stage: Stage,
        vehicle: carla.Vehicle,
        line: Line,
        speed_mps: float,
        *,
        minds_ego: bool = False,
        minds_others: bool = True,
        rolling: bool = False,
    ) -> None:
        """`rolling`: the vehicle starts with its wanted speed."""
        self.vehicle = vehicle
        self.line = line
        self.speed_mps = speed_mps
        self.minds_ego = minds_ego
        self.minds_others = minds_others
        self._stage = stage
        self._index = line.nearest(stage.pose(vehicle).location)
        if rolling:
            yaw = math.radians(stage.pose(vehicle).transform.rotation.yaw)
            velocity = carla.Vector3D(speed_mps * math.cos(yaw), speed_mps * math.sin(yaw), 0.0)
            stage.command(carla.command.ApplyTargetVelocity(vehicle, velocity))

    @property
    def arc_m(self) -> float:
        """How far along its line the vehicle is."""
        return self.line.arc_of(self._stage.pose(self.vehicle).location, self._index)

    @property
    def finished(self) -> bool:
        """Whether the vehicle is at the end of its line."""
        return self.arc_m > self.line.length_m - 1.0

    def update(self) -> None:
        """Command the vehicle for the next tick."""
        self._stage.command(carla.command.ApplyVehicleControl(self.vehicle, self.control()))

    def control(self) -> carla.VehicleControl:
        """The control for the next tick; `update` sends it."""
        pose = self._stage.pose(self.vehicle)
        self._index = self.line.nearest(pose.location, self._index)
        yaw = math.radians(pose.transform.rotation.yaw)
        speed = pose.velocity.x * math.cos(yaw) + pose.velocity.y * math.sin(yaw)
        control = carla.VehicleControl(steer=self._steer(pose.transform, speed))
        _set_pedals(control, speed, min(self.speed_mps, self._free_speed_mps(speed)))
        return control

    def _steer(self, transform: carla.Transform, speed_mps: float) -> float:
        target = self.line.at(self.arc_m + max(LOOKAHEAD_S * speed_mps, MIN_LOOKAHEAD_M)).location
        yaw = math.radians(transform.rotation.yaw)
        dx, dy = target.x - transform.location.x, target.y - transform.location.y
        bearing = math.atan2(dy * math.cos(yaw) - dx * math.sin(yaw), dx * math.cos(yaw) + dy * math.sin(yaw))
        curvature = 2.0 * math.sin(bearing) / max(math.hypot(dx, dy), 1.0)
        return min(max(math.atan(WHEELBASE_M * curvature) / STEER_RANGE_RAD, -1.0), 1.0)

    def _free_speed_mps(self, speed_mps: float) -> float:
        """Speed that lets the vehicle stop behind (or follow) the nearest body on its line."""
        if not (self.minds_ego or self.minds_others):
            return math.inf
        half_length_m, half_width_m = self._stage.size(self.vehicle)
        start_m, limit = self.arc_m, math.inf
        here = self._stage.pose(self.vehicle).location
        for body in self._stage.bodies(ego=self.minds_ego):
            is_ego = body.id == self._stage.ego.id
            if body.id == self.vehicle.id or not (is_ego or self.minds_others):
                continue
            if here.distance(body.pose.location) > SIGHT_M:
                continue
            found = _on_line(self.line, self._index, body, half_width_m)
            if found is None or found[0] <= start_m:
                continue
            gap_m = found[0] - start_m - half_length_m - found[2] - GAP_M
            ahead_mps, towards_mps = max(found[1], 0.0), max(-found[1], 0.0)
            gap_m -= towards_mps**2 / (2.0 * DECELERATION_MPS2)  # who comes towards it needs room to stop, too
            limit = min(limit, math.sqrt(max(ahead_mps**2 + 2.0 * DECELERATION_MPS2 * gap_m, 0.0)))
        return limit


class Crossing:
    """A walker that crosses along a straight line; call `update` every tick. Source: scenario_runner `KeepVelocity`."""

    def __init__(self, stage: Stage, walker: carla.Walker, goal: carla.Location, speed_mps: float) -> None:
        self.walker = walker
        self._stage = stage
        self._start = stage.pose(walker).location
        dx, dy = goal.x - self._start.x, goal.y - self._start.y
        self._length_m = max(math.hypot(dx, dy), 1e-6)
        self._left_s = self._length_m / speed_mps
        direction = carla.Vector3D(dx / self._length_m, dy / self._length_m, 0.0)
        self._control = carla.WalkerControl(direction, speed_mps, False)

    @property
    def walked_m(self) -> float:
        """Distance from where it started."""
        here = self._stage.pose(self.walker).location
        return math.hypot(here.x - self._start.x, here.y - self._start.y)

    @property
    def finished(self) -> bool:
        """Whether the walker has arrived, or its time is up: one that a car pushes along never arrives."""
        return self._left_s <= 0.0 or self.walked_m >= self._length_m

    def update(self) -> None:
        """Command the walker for the next tick."""
        self._left_s -= TICK_S
        self._stage.command(carla.command.ApplyWalkerControl(self.walker, self._control))  # pyright: ignore[reportArgumentType] - the stub is wrong


class Flow:
    """A stream of vehicles along a line: they appear at its start, keep the speed, vanish at its end."""

    def __init__(
        self,
        scenario: Scenario,
        line: Line,
        speed_mps: float,
        spacing_m: tuple[float, float],
        *,
        blueprint: str = "vehicle.*",
        accept: Accept | None = None,
        minds_ego: bool = False,
        filled: bool = True,
    ) -> None:
        """`spacing_m`: range of the random distance between vehicles; `filled`: the line is full from the start."""
        self._scenario = scenario
        self._stage = scenario.stage
        self._line = line
        self._speed_mps = speed_mps
        self._spacing_m = spacing_m
        self._blueprint = blueprint
        self._accept = accept
        self._minds_ego = minds_ego
        self.may_enter: Callable[[], bool] = lambda: True
        """The next vehicle waits until there is room at the start of the line and this holds."""
        self._drivers: list[PathDriver] = []
        self._next_gap_m = self._draw_gap_m()
        if filled:
            self._fill()

    @property
    def drivers(self) -> Sequence[PathDriver]:
        """Who drives on the line now."""
        return self._drivers

    @property
    def vehicles(self) -> Sequence[carla.Vehicle]:
        """The vehicles on the line now."""
        return [driver.vehicle for driver in self._drivers]

    def update(self) -> None:
        """Drive the vehicles, take away those that arrived, let the next one in when there is room."""
        arrived = [driver for driver in self._drivers if driver.finished]
        self._scenario.discard([driver.vehicle for driver in arrived])
        self._drivers = [driver for driver in self._drivers if not driver.finished]
        for driver in self._drivers:
            driver.update()
        last_m = min((driver.arc_m for driver in self._drivers), default=math.inf)
        if last_m >= self._next_gap_m and self.may_enter():
            self._admit(0.0)

    def close(self) -> None:
        """Take all vehicles away."""
        self._scenario.discard(self.vehicles)
        self._drivers = []

    def _fill(self) -> None:
        arc_m = self._line.length_m - self._next_gap_m
        while arc_m > 0.0:
            self._admit(arc_m)
            arc_m -= self._next_gap_m

    def _admit(self, arc_m: float) -> None:
        place = self._line.at(arc_m)
        if any(body.pose.location.distance(place.location) < GAP_M + 4.0 for body in self._stage.bodies()):
            return  # the start is occupied; the next tick tries again
        try:
            vehicle = self._scenario.vehicle(place, self._blueprint, accept=self._accept, parked=False)
        except ScenarioError:
            return  # so it is by something that is not on stage
        driver = PathDriver(self._stage, vehicle, self._line, self._speed_mps, minds_ego=self._minds_ego, rolling=True)
        self._drivers.append(driver)
        self._next_gap_m = self._draw_gap_m()

    def _draw_gap_m(self) -> float:
        return self._stage.random.uniform(*self._spacing_m)


def _set_pedals(control: carla.VehicleControl, speed_mps: float, wanted_mps: float) -> None:
    error = wanted_mps - speed_mps
    if wanted_mps < 0.2:
        control.brake = 1.0
    elif error > 0.2:
        control.throttle = min(HOLD_THROTTLE + 0.01 * wanted_mps + 0.25 * error, 1.0)
    elif error > -0.3:
        control.throttle = HOLD_THROTTLE + 0.01 * wanted_mps
    elif error < -0.8:
        control.brake = min(-0.25 * error, 1.0)


def _on_line(line: Line, index: int, body: Body, half_width_m: float) -> tuple[float, float, float] | None:
    """Arc length of a body beside the line, its speed along it and its half depth; None if it is out of the way."""
    found = line.nearest(body.pose.location, index, SIGHT_POINTS)
    if abs(line.arc_m[found] - line.arc_m[index]) > SIGHT_M:
        return None
    relative = math.radians(body.pose.transform.rotation.yaw) - line.yaw_rad[found]
    reach_m = abs(math.sin(relative)) * body.half_length_m + abs(math.cos(relative)) * body.half_width_m
    if abs(line.offset_of(body.pose.location, found)) > reach_m + half_width_m + SIDE_MARGIN_M:
        return None
    yaw = line.yaw_rad[found]
    along_mps = body.pose.velocity.x * math.cos(yaw) + body.pose.velocity.y * math.sin(yaw)
    depth_m = abs(math.cos(relative)) * body.half_length_m + abs(math.sin(relative)) * body.half_width_m
    return line.arc_of(body.pose.location, found), float(along_mps), depth_m
