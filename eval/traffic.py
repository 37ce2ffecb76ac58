"""Background traffic driven by the client's own Traffic Manager.

Two measured facts about CARLA's 0.9.16 client shape this file: a synchronous Traffic Manager can lose a wake-up and
freeze `world.tick()` for ever, nearly always when it has no vehicles; and that does not happen when the Traffic
Manager's thread and the ticking thread share one core. So the manager exists only while there are vehicles, is created
under the pin, and ticks are made under the pin (embedded server only).
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import carla
import msgpack

ROLE_NAME = "background"  # the minimum-speed criterion compares with vehicles of this role
CLEARANCE_M = 15.0
"""No vehicle starts closer than this to the ego."""
NEARBY_SHARE = 0.5
SPEED_DIFFERENCE_PERCENT = 10.0
FOLLOW_DISTANCE_M = 3.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """How much traffic and how it is made; the same seed gives the same vehicles at the same places."""

    vehicles: int = 15
    seed: int = 0
    hybrid_physics: bool = False
    """Teleport vehicles far from the ego, as the leaderboard does on real CARLA."""


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run the block with the calling thread on one core; threads created in it stay there. None: no pin."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin_core(index: int = 0) -> int:
    """One of the cores this process may use, chosen by a worker's index."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[index % len(cores)]


class Traffic:
    """Background vehicles and the Traffic Manager that drives them."""

    def __init__(
        self, client: carla.Client, world: carla.World, ego: carla.Location, config: TrafficConfig, core: int | None
    ) -> None:
        """Spawn the vehicles; the world must be ticked once before `start_driving`."""
        self._client = client
        self._world = world
        self._config = config
        self._core = core
        self._manager: carla.TrafficManager | None = None
        self._port: int | None = None
        self.vehicles: list[carla.Vehicle] = []
        if config.vehicles > 0:
            self._spawn(ego)

    def start_driving(self) -> None:
        """Hand the vehicles to a Traffic Manager; without vehicles there is none."""
        if not self.vehicles:
            return
        with pinned(self._core):
            port = free_port()
            self._manager = self._client.get_trafficmanager(port)
            self._port = self._manager.get_port()
            self._manager.set_synchronous_mode(True)  # first: an asynchronous manager would already be driving
            self._manager.set_random_device_seed(self._config.seed)
            self._manager.set_hybrid_physics_mode(self._config.hybrid_physics)
            self._manager.global_percentage_speed_difference(SPEED_DIFFERENCE_PERCENT)
            self._manager.set_global_distance_to_leading_vehicle(FOLLOW_DISTANCE_M)
            for vehicle in self.vehicles:
                vehicle.set_autopilot(True, port)
                self._manager.auto_lane_change(vehicle, False)  # as the leaderboard's background traffic
                self._manager.update_vehicle_lights(vehicle, True)

    def wake(self) -> None:
        """Wake a Traffic Manager that missed its signal and let the tick that waits for it go on.

        Leaving synchronous mode signals the manager's thread once more; its step then ends as the waiting tick expects.
        A manager that is only slow makes one step more than there were ticks. The client's own call would not do: the
        waiting tick holds the lock that it needs, and with it the interpreter. The manager's port needs neither.
        """
        if self._port is not None:
            logger.warning("the Traffic Manager does not answer; waking it")
            tell_manager(self._port, "set_synchronous_mode", False)
            tell_manager(self._port, "set_synchronous_mode", True)

    def speeds_mps(self) -> list[float]:
        """Speed of every background vehicle.

        Those that are gone are forgotten: a Traffic Manager takes vehicles that have been stuck for long off the road.
        """
        snapshot = self._world.get_snapshot()
        found = [(vehicle, snapshot.find(vehicle.id)) for vehicle in self.vehicles if vehicle.is_alive]
        self.vehicles = [vehicle for vehicle, now in found if now is not None]
        return [math.hypot(v.x, v.y, v.z) for v in (now.get_velocity() for _, now in found if now is not None)]

    def remove(self, vehicles: Sequence[carla.Vehicle]) -> None:
        """Take some vehicles out of the traffic; with the last one the Traffic Manager ends."""
        gone = {vehicle.id for vehicle in vehicles}
        left = [vehicle for vehicle in self.vehicles if vehicle.id not in gone]
        if not left:
            self.destroy()
            return
        for vehicle in vehicles:
            if self._manager is not None:
                vehicle.set_autopilot(False, self._manager.get_port())
        self._client.apply_batch_sync([carla.command.DestroyActor(vehicle) for vehicle in vehicles], False)
        self.vehicles = left

    def destroy(self) -> None:
        """End the Traffic Manager, then remove the vehicles; safe to call twice."""
        if self._manager is not None:
            self._manager.shut_down()
            self._manager = self._port = None
        if self.vehicles:
            self._client.apply_batch_sync([carla.command.DestroyActor(vehicle) for vehicle in self.vehicles], False)
            self.vehicles = []

    def _spawn(self, ego: carla.Location) -> None:
        generator = random.Random(self._config.seed)
        points = choose_spawn_points(self._world.get_map().get_spawn_points(), ego, self._config.vehicles, generator)
        blueprints = four_wheeled(self._world.get_blueprint_library())
        commands = []
        for point in points:
            blueprint = generator.choice(blueprints)
            if blueprint.has_attribute("color"):
                blueprint.set_attribute("color", generator.choice(blueprint.get_attribute("color").recommended_values))
            blueprint.set_attribute("role_name", ROLE_NAME)
            commands.append(carla.command.SpawnActor(blueprint, point))
        answers = self._client.apply_batch_sync(commands, False)
        ids = [answer.actor_id for answer in answers if not answer.error]
        self._world.tick()
        self.vehicles = [cast("carla.Vehicle", actor) for actor in self._world.get_actors(ids)]


def choose_spawn_points(
    points: Sequence[carla.Transform], ego: carla.Location, count: int, generator: random.Random
) -> list[carla.Transform]:
    """Up to `count` spawn points away from the ego: half of them the nearest ones, the rest anywhere."""
    ordered = sorted(points, key=lambda point: (point.location.distance(ego), point.location.x, point.location.y))
    free = [point for point in ordered if point.location.distance(ego) > CLEARANCE_M]
    near = free[: 2 * math.ceil(count * NEARBY_SHARE)]
    generator.shuffle(near)
    near = near[: math.ceil(count * NEARBY_SHARE)]
    rest = [point for point in free if not any(point is chosen for chosen in near)]
    generator.shuffle(rest)
    return near + rest[: count - len(near)]


def four_wheeled(library: carla.BlueprintLibrary) -> list[carla.ActorBlueprint]:
    """Ordinary cars of the library, in a fixed order."""
    cars = []
    for blueprint in sorted(library.filter("vehicle.*"), key=lambda item: item.id):
        wheels = blueprint.get_attribute("number_of_wheels") if blueprint.has_attribute("number_of_wheels") else None
        kind = blueprint.get_attribute("base_type").as_str() if blueprint.has_attribute("base_type") else ""
        if wheels is not None and wheels.as_int() == 4 and kind in ("", "car", "van"):
            cars.append(blueprint)
    return cars


def tell_manager(port: int, method: str, *arguments: object, timeout_s: float = 2.0) -> bool:
    """Call a method of a Traffic Manager over its own port, as managers of other processes do; whether it answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as line:
            line.settimeout(timeout_s)
            line.sendall(msgpack.Packer().pack([0, 1, method, list(arguments)]))
            return bool(line.recv(64))
    except OSError:
        return False


def free_port() -> int:
    """A TCP port that is free on this machine right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
