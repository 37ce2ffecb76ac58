"""What a scenario may see and do: the ego on its route, actors it puts on stage, commands for them.

Everything goes through the CARLA client, so scenarios play on any server. Reads come from the world's last snapshot,
commands are collected and sent once per tick.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import carla

from eval.criteria import EgoState
from eval.planner import DensePlan, RoutePlanner
from eval.scenarios.lanes import shifted
from eval.scenarios.line import Line
from eval.scenarios.parameters import ScenarioError
from eval.traffic import Traffic

Accept = Callable[[carla.ActorBlueprint], bool]
"""Whether a blueprint will do."""
ROLE_NAME = "scenario"
DROP_HEIGHT_M = 0.3
"""Vehicles are spawned this far above the road and settle."""
WALKER_HEIGHT_M = 1.0
CLEAR_RADIUS_M = 8.0
CLEAR_HALF_WIDTH_M = 2.0


@dataclass(frozen=True, slots=True)
class Pose:
    """An actor after the last tick: where it is, and its velocity [m/s]."""

    transform: carla.Transform
    velocity: carla.Vector3D

    @property
    def location(self) -> carla.Location:
        """Its location."""
        return self.transform.location

    @property
    def speed_mps(self) -> float:
        """Magnitude of the velocity in the plane."""
        return math.hypot(self.velocity.x, self.velocity.y)


@dataclass(frozen=True, slots=True)
class Body:
    """A road user or thing in somebody's way."""

    id: int
    pose: Pose
    half_length_m: float
    half_width_m: float


class Stage:
    """The world of one route as its scenarios see it."""

    def __init__(  # noqa: PLR0913 - what a scenario can touch, each by keyword
        self,
        client: carla.Client,
        world: carla.World,
        carla_map: carla.Map,
        ego: carla.Vehicle,
        plan: DensePlan,
        *,
        traffic: Traffic,
        seed: int,
        planner: RoutePlanner | None = None,
        set_wrong_way_allowed: Callable[[bool], None] = lambda allowed: None,
    ) -> None:
        """`set_wrong_way_allowed` tells the criteria that driving in the opposite lane is no infraction for now."""
        self.world = world
        self.map = carla_map
        self.ego = ego
        self.route = Line([transform for transform, _ in plan])
        self.traffic = traffic
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.ego_index = 0
        self.set_wrong_way_allowed = set_wrong_way_allowed
        self.speed_limit_mps = 0.0
        """The ego's, after the last tick."""
        self.ego_top_mps = 0.0
        """The highest speed the ego has driven."""
        self.disturb: Callable[[carla.VehicleControl], carla.VehicleControl] | None = None
        """What the road makes of the ego's controls, set while it does."""
        self.cast_version = 0
        """Grows with every actor that appears, goes or changes its size."""
        self._client = client
        self._planner = planner
        self._library = world.get_blueprint_library()
        self._commands: list[Any] = []
        self._at_close: list[Callable[[], None]] = []
        self._spawned_at: dict[int, carla.Transform] = {}
        self._cast: dict[int, carla.Actor] = {}
        self._ego_half_m = (ego.bounding_box.extent.x, ego.bounding_box.extent.y)
        self._sizes_m: dict[int, tuple[float, float]] = {}
        self._snapshot = world.get_snapshot()
        self._bodies: list[Body] | None = None

    @property
    def planner(self) -> RoutePlanner:
        """A planner of the town, built when first asked for."""
        if self._planner is None:
            self._planner = RoutePlanner(self.map)
        return self._planner

    # The ego

    def apply_control(self, control: carla.VehicleControl) -> None:
        """Steer the ego, as far as nothing disturbs it."""
        self.ego.apply_control(self.disturb(control) if self.disturb is not None else control)

    def observe(self, ego: EgoState) -> None:
        """Take in the tick that has just been made."""
        self.now_s = ego.time_s
        self._snapshot = self.world.get_snapshot()
        self._bodies = None
        self.ego_index = self.route.nearest(ego.location, self.ego_index)
        self._ego_pose = Pose(ego.transform, ego.velocity)
        self.speed_limit_mps = ego.speed_limit_mps
        self.ego_top_mps = max(self.ego_top_mps, self._ego_pose.speed_mps)

    @property
    def ego_pose(self) -> Pose:
        """The ego after the last tick."""
        return self._ego_pose

    @property
    def ego_arc_m(self) -> float:
        """How far along its route the ego is [m]."""
        return self.route.arc_of(self._ego_pose.location, self.ego_index)

    def ego_distance_m(self, location: carla.Location) -> float:
        """Straight distance from the ego to a location."""
        return self._ego_pose.location.distance(location)

    def arc_on_route(self, location: carla.Location) -> float:
        """Arc length of the route point nearest to a location."""
        return float(self.route.arc_m[self.route.nearest(location)])

    # Actors

    def pose(self, actor: carla.Actor) -> Pose:
        """An actor after the last tick; where it was spawned if no tick has been made since."""
        found = self._snapshot.find(actor.id)
        if found is None:
            return Pose(self._spawned_at.get(actor.id, carla.Transform()), carla.Vector3D())
        return Pose(found.get_transform(), found.get_velocity())

    def size(self, actor: carla.Actor) -> tuple[float, float]:
        """Half length and half width of an actor [m]."""
        if actor.id not in self._sizes_m:
            extent = actor.bounding_box.extent
            self._sizes_m[actor.id] = (max(extent.x, 0.2), max(extent.y, 0.2))
        return self._sizes_m[actor.id]

    def widen(self, actor: carla.Actor, by_m: float) -> None:
        """Something stands out from an actor, such as an open door: everybody keeps clear of it on either side."""
        half_length_m, half_width_m = self.size(actor)
        self._sizes_m[actor.id] = (half_length_m, half_width_m + by_m)
        self._bodies = None
        self.cast_version += 1

    def bodies(self, *, ego: bool = True) -> list[Body]:
        """The scenario's actors, the background traffic and, unless told otherwise, the ego."""
        if self._bodies is None:
            others = [*self._cast.values(), *self.traffic.vehicles]
            self._bodies = [Body(actor.id, self.pose(actor), *self.size(actor)) for actor in others]
        own = [Body(self.ego.id, self._ego_pose, *self._ego_half_m)] if ego else []
        return [*self._bodies, *own]

    def spawn_vehicle(
        self,
        transform: carla.Transform,
        blueprint: str = "vehicle.*",
        *,
        accept: Accept | None = None,
        lights: carla.VehicleLightState | None = None,
        parked: bool = True,
    ) -> carla.Vehicle:
        """A vehicle of a random blueprint that matches the pattern and `accept` (default: ordinary cars).

        Background vehicles in its place are removed first. Raises: ScenarioError if there is no room.
        """
        accept = accept or (is_car if "*" in blueprint else lambda _: True)
        choices = [b for b in sorted(self._library.filter(blueprint), key=lambda b: b.id) if accept(b)]
        if not choices:
            raise ScenarioError(f"no blueprint matches {blueprint}; the server's library lacks it")
        chosen = self.random.choice(choices)
        if chosen.has_attribute("color"):
            chosen.set_attribute("color", self.random.choice(chosen.get_attribute("color").recommended_values))
        vehicle = cast("carla.Vehicle", self._spawn(chosen, transform, DROP_HEIGHT_M))
        if parked:
            vehicle.apply_control(carla.VehicleControl(hand_brake=True))
        if lights is not None:
            vehicle.set_light_state(lights)
        return vehicle

    def spawn_prop(
        self, transform: carla.Transform, blueprint: str, attributes: Mapping[str, str] | None = None
    ) -> carla.Actor:
        """A thing that stands still. Raises: ScenarioError if there is no such blueprint or no room."""
        choices = sorted(self._library.filter(blueprint), key=lambda b: b.id)
        if not choices:
            raise ScenarioError(f"no blueprint matches {blueprint}; the server's library lacks it")
        for name, value in (attributes or {}).items():
            choices[0].set_attribute(name, value)
        prop = self._spawn(choices[0], transform, 0.0)
        prop.set_simulate_physics(False)
        return prop

    def spawn_walker(self, transform: carla.Transform, blueprint: str = "walker.pedestrian.*") -> carla.Walker:
        """A pedestrian standing on the ground. Raises: ScenarioError if there is no room."""
        chosen = self.random.choice(sorted(self._library.filter(blueprint), key=lambda b: b.id))
        if chosen.has_attribute("is_invincible"):
            chosen.set_attribute("is_invincible", "false")
        return cast("carla.Walker", self._spawn(chosen, transform, WALKER_HEIGHT_M))

    def adopt(self, actor: carla.Actor, transform: carla.Transform) -> None:
        """Take charge of an actor spawned elsewhere."""
        self._cast[actor.id] = actor
        self._spawned_at[actor.id] = transform
        self.cast_version += 1

    def move(self, actor: carla.Actor, transform: carla.Transform) -> None:
        """Put an actor somewhere else at once."""
        actor.set_transform(transform)
        self._spawned_at[actor.id] = transform
        self._bodies = None

    def remove(self, actors: Iterable[carla.Actor]) -> None:
        """Take actors off the stage; those already gone are skipped."""
        gone = [actor for actor in actors if self._cast.pop(actor.id, None) is not None]
        if gone:
            self._client.apply_batch([carla.command.DestroyActor(actor) for actor in gone])
            self.cast_version += 1
            self._bodies = None

    def clear(self, location: carla.Location, radius_m: float = CLEAR_RADIUS_M) -> None:
        """Remove background vehicles near a location."""
        self._drop([v for v in self.traffic.vehicles if self.pose(v).location.distance(location) < radius_m])

    def clear_way(self, start_m: float, end_m: float, half_width_m: float = CLEAR_HALF_WIDTH_M) -> None:
        """Remove background vehicles on a stretch of the ego's route."""
        route, gone = self.route, []
        for vehicle in self.traffic.vehicles:
            location = self.pose(vehicle).location
            index = route.nearest(location)
            beside_m = abs(route.offset_of(location, index))
            if start_m < route.arc_of(location, index) < end_m and beside_m < half_width_m:
                gone.append(vehicle)
        self._drop(gone)

    def command(self, command: Any) -> None:
        """Send a client command with this tick's others."""
        self._commands.append(command)

    def send(self) -> None:
        """Send the collected commands; they take effect in the next tick."""
        if self._commands:
            self._client.apply_batch(self._commands)
            self._commands = []

    def at_close(self, undo: Callable[[], None]) -> None:
        """Something to be undone at the latest when the stage closes."""
        self._at_close.append(undo)

    def close(self) -> None:
        """Remove all actors that are left, undo what was changed."""
        self.remove(list(self._cast.values()))
        for undo in self._at_close:
            undo()
        self._at_close.clear()

    def _drop(self, vehicles: Sequence[carla.Vehicle]) -> None:
        if vehicles:
            self.traffic.remove(vehicles)
            self._bodies = None
            self.cast_version += 1

    def _spawn(self, blueprint: carla.ActorBlueprint, transform: carla.Transform, height_m: float) -> carla.Actor:
        if blueprint.has_attribute("role_name"):
            blueprint.set_attribute("role_name", ROLE_NAME)
        place = shifted(transform, up_m=height_m)
        actor = self.world.try_spawn_actor(blueprint, place)
        if actor is None:
            self.clear(transform.location)
            actor = self.world.try_spawn_actor(blueprint, place)
        if actor is None:
            x, y = transform.location.x, transform.location.y
            raise ScenarioError(f"no room for {blueprint.id} at ({x:.1f}, {y:.1f}); choose another place")
        self.adopt(actor, place)
        return actor


def attribute(blueprint: carla.ActorBlueprint, name: str) -> str:
    """An attribute's value as text; empty if the blueprint lacks it."""
    return blueprint.get_attribute(name).as_str() if blueprint.has_attribute(name) else ""


def is_car(blueprint: carla.ActorBlueprint) -> bool:
    """An ordinary car: four wheels, no truck, bus or emergency vehicle."""
    wheels = blueprint.get_attribute("number_of_wheels").as_int() if blueprint.has_attribute("number_of_wheels") else 0
    return wheels == 4 and attribute(blueprint, "base_type") in ("", "car") and not attribute(blueprint, "special_type")


def is_bicycle(blueprint: carla.ActorBlueprint) -> bool:
    """A bicycle with its rider."""
    return attribute(blueprint, "base_type") == "bicycle"


def is_emergency(blueprint: carla.ActorBlueprint) -> bool:
    """An ambulance, fire engine or police car."""
    return attribute(blueprint, "special_type") == "emergency"
