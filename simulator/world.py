"""One town with everything that moves in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import numpy as np

from simulator import blueprints, dynamics, labels, rays, snapshot, wire
from simulator.ackermann import Ackermann, AckermannTarget
from simulator.actors import Actor, ActorTable, Box, Fixture, Kind, Pose, VehicleControl, WalkerControl, compose
from simulator.attachment import Attachment, SpringArm
from simulator.collisions import overlaps_any
from simulator.friction import FrictionTrigger, friction
from simulator.navigation.navigation import Navigation, load_or_build
from simulator.physics_control import physics_control, relevant_physics, with_tyre_friction
from simulator.rpc import CallError
from simulator.scenery import Scenery, load_scenery
from simulator.towns.town import Town
from simulator.traffic_lights import LightState, TrafficLights
from simulator.walkers import Walkers

SPECTATOR_HEIGHT_M: Final = 50.0
MAX_ACTORS: Final = 20_000
FRICTION_TRIGGER: Final = "static.trigger.friction"
DOOR_WIDTH_M: Final = 0.8
"""How far an open door stands out from the side of a vehicle."""
LEFT_DOORS, RIGHT_DOORS = 0b0101, 0b1010
"""Bits of carla.VehicleDoor: front left, front right, rear left, rear right."""
_BODY_KINDS: Final = {Kind.VEHICLE: dynamics.VEHICLE, Kind.WALKER: dynamics.WALKER, Kind.PROP: dynamics.PROP}
_REFUSED: Final = {"mesh_path": "this server has no meshes", "terramechanics": "this server's ground is rigid"}
"""Attributes that change nothing here unless they are unset."""
FARTHEST_M: Final = 1e6
"""From the origin, along each axis; angles are bounded by as many degrees."""
MAX_SPEED_MPS: Final = 1e3
MAX_TURN_DEGPS: Final = 1e5
MAX_IMPULSE_NS: Final = 1e8


@dataclass(frozen=True, slots=True)
class Collision:
    """Two bodies that touched in the last step, or one and the scenery; the impulse (N s) acts on the first."""

    first: Actor
    second: Actor | Fixture
    impulse: tuple[float, float, float]


class World:
    """Actors of one episode. All ids come from `take_id`, which never gives one twice."""

    def __init__(self, town: Town, version: str, take_id: Callable[[], int]) -> None:
        self.town = town
        self.version = version
        self._blueprints = frozenset(definition[1] for definition in blueprints.definitions(version))
        self.actors = ActorTable()
        self._take_id = take_id
        self._bodies = dynamics.Bodies()
        self._walkers = Walkers(self._bodies, lambda: self.navigation)
        self._friction: dict[int, FrictionTrigger] = {}
        self._ackermann: dict[int, Ackermann] = {}
        self._forgetful: set[int] = set()
        """Vehicles without `sticky_control`: a control acts for one step"""
        self._slots: dict[int, int] = {}
        self._actor_of_slot: dict[int, Actor] = {}
        self.spectator = self._place("spectator", (0.0, 0.0, SPECTATOR_HEIGHT_M, 0.0, 0.0, 0.0), Box())
        self.lights = TrafficLights(
            (self._place("traffic.traffic_light", light.transform, _box(light.trigger_box)), light)
            for light in town.lights
        )
        self._signals = {light.place.opendrive_id: light.actor for light in self.lights.by_id.values()}
        """Actors by OpenDRIVE's id"""
        for sign in town.stop_signs:
            actor = self._place("traffic.stop", sign.transform, _box(sign.trigger_box))
            self._set_sign(actor, sign.opendrive_id)
            self._signals[sign.opendrive_id] = actor
        self._light_states = np.zeros(len(self.lights.by_id), wire.TRAFFIC_LIGHT_STATE)
        self._light_states["sign_id"] = [light.place.opendrive_id.encode()[:31] for light in self.lights.by_id.values()]
        self._index_bodies()
        self._write_extras()

    @cached_property
    def navigation(self) -> Navigation:
        """Where people walk in this town; built when it is first asked for."""
        return load_or_build(self.town)

    @cached_property
    def scenery(self) -> Scenery:
        """What stands in this town and stops bodies; made, once per machine, when it is first asked for."""
        return load_scenery(self.town)

    # ---- looking up -------------------------------------------------------------------------------------

    def actor(self, actor_id: int) -> Actor:
        actor = self.actors.get(actor_id)
        if actor is None:
            raise CallError(f"unable to find actor {actor_id}: it was destroyed or never existed")
        return actor

    def vehicle(self, actor_id: int) -> Actor:
        return self._of_kind(actor_id, Kind.VEHICLE)

    def _of_kind(self, actor_id: int, kind: Kind) -> Actor:
        actor = self.actor(actor_id)
        if actor.kind is not kind:
            raise CallError(f"actor {actor_id} ({actor.type_id}) is not a {kind.value}")
        return actor

    def _slot(self, actor_id: int) -> int:
        self.actor(actor_id)
        slot = self._slots.get(actor_id)
        if slot is None:
            raise CallError(f"actor {actor_id} has no body that could move")
        return slot

    def ground_m(self, x: float, y: float, z: float) -> float:
        """Height of the ground under a point, or `z` where the town has none."""
        height = float(self.town.heights(np.array([x]), np.array([y]), np.array([z]))[0])
        return z if math.isnan(height) else height

    # ---- coming and going -------------------------------------------------------------------------------

    def _place(self, type_id: str, pose: Pose, box: Box, attributes: list | None = None, uid: int = 0) -> Actor:
        actor = Actor(self._take_id(), type_id, Kind.of(type_id), uid, attributes or [], 0, box)
        self.actors.add(actor, pose)
        return actor

    def spawn(
        self,
        uid: int,
        type_id: str,
        attributes: list[list],
        pose: Pose,
        parent: int,
        attachment: Attachment = Attachment.RIGID,
    ) -> Actor:
        """Create an actor. Raises: CallError for an unknown blueprint, a taken place, a missing parent, a bad pose."""
        if type_id not in self._blueprints:
            raise CallError(f"{type_id!r} is not a blueprint of this server")
        if not _usable(pose):
            raise CallError(f"cannot spawn {type_id} at {pose}: use a finite transform within {FARTHEST_M:g} m")
        if self.actors.count >= MAX_ACTORS:
            raise CallError(f"cannot spawn {type_id}: {MAX_ACTORS} actors exist already")
        for name, value, why in ((name, value, _REFUSED[name]) for name, _, value in attributes if name in _REFUSED):
            if value.lower() not in ("", "false", "0"):
                raise CallError(f"cannot spawn {type_id} with {name} = {value}: {why}")
        parent_pose = self.actors.pose(self.actor(parent)) if parent else None
        arm = SpringArm.holding(pose, attachment) if parent else None
        relative = (0.0, 0.0, 0.0, *pose[3:]) if arm else pose
        world_pose = pose
        if parent_pose is not None:
            world_pose = compose(arm.end(parent_pose) if arm else parent_pose, relative)
        kind = Kind.of(type_id)
        extent = blueprints.extent_m(type_id) if kind in _BODY_KINDS else (0.0, 0.0, 0.0)
        centre = blueprints.box_center_m(type_id) if kind in _BODY_KINDS else (0.0, 0.0, 0.0)
        self._refuse_overlap(type_id, kind, world_pose, Box(centre, extent))
        actor = self._place(type_id, world_pose, Box(centre, extent), attributes, uid)
        if parent:
            actor.parent, actor.relative_pose, actor.arm = parent, relative, arm
            self._attached.append(actor)
        if type_id == FRICTION_TRIGGER:
            self._add_friction(actor)
        elif kind in _BODY_KINDS:
            self._add_body(actor, world_pose)
            if parent:  # it is carried, and does not push who carries it
                self._bodies.set_physics(self._slots[actor.id], enabled=False)
                self.set_collides(actor.id, enabled=False)
        if kind is Kind.VEHICLE and actor.attribute("sticky_control", "true").lower() == "false":
            self._forgetful.add(actor.id)
        return actor

    def _add_friction(self, actor: Actor) -> None:
        try:
            self._friction[actor.id] = FrictionTrigger.of(actor, self.actors.pose(actor))
        except CallError:
            self.actors.remove(actor)
            raise

    def _refuse_overlap(self, type_id: str, kind: Kind, pose: Pose, box: Box) -> None:
        """Vehicles and walkers need a free place; props may stand anywhere, as in CARLA."""
        if kind not in (Kind.VEHICLE, Kind.WALKER):
            return
        forward, right, up = box.centre
        x, y, z, _, _, _ = compose(pose, (forward, right, up, 0.0, 0.0, 0.0))
        rows = self._bodies.rows[: self._bodies.count]
        boxes = dynamics.boxes(self._bodies, self._bodies.count)
        solid = rows["active"] & rows["collides"]
        place_taken = (x, y, z, pose[4], *box.extent)
        if (
            overlaps_any(place_taken, *boxes, solid) >= 0
            or self.scenery.grid.overlapped(place_taken, posts=kind is Kind.VEHICLE) >= 0
        ):
            place = f"({x:.1f}, {y:.1f}, {z:.1f})"
            raise CallError(f"Spawn failed because of collision at spawn position: {type_id} at {place}")

    def _add_body(self, actor: Actor, pose: Pose) -> None:
        spec = blueprints.body_spec(actor.type_id)
        slot = self._bodies.add(spec, pose)
        if actor.kind == Kind.VEHICLE:  # one that is dropped onto a slope does not roll before it is down
            height_m = pose[2] - spec.origin_height_m
            self._bodies.airborne[slot] = height_m > self.ground_m(*pose[:3]) + dynamics.DROP_M
        self._slots[actor.id] = slot
        self._actor_of_slot[slot] = actor
        self._index_bodies()

    def destroy(self, actor_id: int) -> list[Actor]:
        """Remove an actor and whatever is attached to it; returns all that went."""
        actor = self.actor(actor_id)
        if actor.kind in (Kind.SPECTATOR, Kind.TRAFFIC_LIGHT, Kind.TRAFFIC_SIGN):
            raise CallError(f"actor {actor_id} ({actor.type_id}) belongs to the town and cannot be destroyed")
        removed = [actor]
        for child in self.actors.children(actor_id):
            removed += self.destroy(child.id)
        slot = self._slots.pop(actor_id, None)
        if slot is not None:
            self._bodies.remove(slot)
            del self._actor_of_slot[slot]
        self._friction.pop(actor_id, None)
        self._ackermann.pop(actor_id, None)
        self._forgetful.discard(actor_id)
        self.actors.remove(actor)
        self._index_bodies()
        return removed

    def _index_bodies(self) -> None:
        """Rows and slots of everything with a body, and the rows of vehicles and lights, as index arrays."""
        with_body = [actor for actor in self.actors if actor.id in self._slots]
        self._body_rows = np.array([actor.row for actor in with_body], np.int64)
        self._body_slots = np.array([self._slots[actor.id] for actor in with_body], np.int64)
        vehicles = [actor for actor in with_body if actor.kind is Kind.VEHICLE]
        self._vehicle_rows = np.array([actor.row for actor in vehicles], np.int64)
        self._vehicle_slots = np.array([self._slots[actor.id] for actor in vehicles], np.int64)
        self._vehicle_states = np.zeros(len(vehicles), wire.VEHICLE_STATE)
        self._walkers.index([self._slots[actor.id] for actor in with_body if actor.kind is Kind.WALKER])
        self._light_rows = np.array([light.actor.row for light in self.lights.by_id.values()], np.int64)
        self._attached = [actor for actor in self.actors if actor.relative_pose is not None]

    # ---- commands ---------------------------------------------------------------------------------------

    def set_control(self, actor_id: int, control: VehicleControl) -> None:
        """Drive with these pedals until another control comes."""
        self._control(actor_id, control)
        self._ackermann.pop(actor_id, None)

    def _control(self, actor_id: int, control: VehicleControl) -> None:
        vehicle = self.vehicle(actor_id)
        vehicle.vehicle_control = control
        self._bodies.set_control(
            self._slots[actor_id], control.throttle, control.steer, control.brake, control.hand_brake,
            reverse=control.reverse or (control.manual_gear_shift and control.gear < 0),
            neutral=control.manual_gear_shift and control.gear == 0,
        )  # fmt: skip

    def set_physics_control(self, actor_id: int, physics: list) -> None:
        """Take over a VehiclePhysicsControl. Raises: CallError when it cannot be used."""
        vehicle = self.vehicle(actor_id)
        mass_kg, tyre_friction, max_steer_deg = relevant_physics(physics)
        vehicle.physics_control = physics
        slot, bodies = self._slots[actor_id], self._bodies
        bodies.mass[slot], bodies.max_steer[slot], bodies.tyre_friction[slot] = mass_kg, max_steer_deg, tyre_friction

    def set_ackermann(self, actor_id: int, control: Sequence[float]) -> None:
        """Drive as an Ackermann command says until another control comes. Raises: CallError for unusable numbers."""
        vehicle = self.vehicle(actor_id)
        numbers = _bounded("Ackermann control", actor_id, control, MAX_SPEED_MPS)
        steer_rad, steer_speed, speed_mps, acceleration, _jerk = numbers
        target = AckermannTarget(steer_rad, abs(steer_speed), speed_mps, abs(acceleration))
        if vehicle.id in self._ackermann:
            self._ackermann[vehicle.id].target = target
        else:
            self._ackermann[vehicle.id] = Ackermann(target)

    def _drive_ackermann(self, dt_s: float) -> None:
        bodies = self._bodies
        for actor_id, driver in self._ackermann.items():
            slot, gains = self._slots[actor_id], self.vehicle(actor_id).ackermann_settings
            most_rad = math.radians(float(bodies.max_steer[slot]))
            steer_rad = float(bodies.steer[slot]) * most_rad
            self._control(actor_id, driver.step(float(bodies.speed[slot]), steer_rad, most_rad, gains, dt_s))

    def set_walker(self, actor_id: int, control: WalkerControl) -> None:
        walker = self._of_kind(actor_id, Kind.WALKER)
        _bounded("walker control", actor_id, (*control.direction, control.speed_mps), MAX_SPEED_MPS)
        walker.walker_control = control
        self._walkers.control(self._slots[actor_id], control)
        self._report_walk(walker, control)

    def set_walker_state(self, actor_id: int, pose: Pose, speed_mps: float) -> None:
        """Place a walker as a client's crowd simulation wants it; the pose's height only tells the level at bridges."""
        walker = self._of_kind(actor_id, Kind.WALKER)
        if not _usable(pose) or not abs(speed_mps) <= MAX_SPEED_MPS:
            raise CallError(f"cannot move walker {actor_id} to {pose} at {speed_mps} m/s: not finite or too large")
        self._walkers.lead(self._slots[actor_id], pose, speed_mps, self.ground_m(*pose[:3]))
        heading_rad = math.radians(pose[4])
        self._report_walk(walker, WalkerControl((math.cos(heading_rad), math.sin(heading_rad), 0.0), speed_mps))

    def _report_walk(self, walker: Actor, control: WalkerControl) -> None:
        state = np.array((control.direction, control.speed_mps, control.jump), wire.WALKER_STATE)
        self.actors.set_extra(walker.row, state)

    def set_doors(self, actor_id: int, bits: int, *, is_open: bool) -> None:
        """Open or close doors; one that swings open widens the vehicle's box on its side."""
        vehicle = self.vehicle(actor_id)
        vehicle.open_doors = vehicle.open_doors | bits if is_open else vehicle.open_doors & ~bits
        left, right = (
            DOOR_WIDTH_M if vehicle.open_doors & side and blueprints.has_doors(vehicle.type_id) else 0.0
            for side in (LEFT_DOORS, RIGHT_DOORS)
        )
        slot = self._slots[actor_id]
        self._bodies.half_width[slot] = vehicle.box.extent[1] + 0.5 * (left + right)
        self._bodies.box_side[slot] = 0.5 * (right - left)

    def teleport(self, actor_id: int, pose: Pose) -> None:
        actor = self.actor(actor_id)
        if not _usable(pose):
            raise CallError(f"cannot move actor {actor_id} to {pose}: use a finite transform within {FARTHEST_M:g} m")
        if actor.relative_pose is not None:
            actor.relative_pose = pose  # CARLA moves an attached actor relative to its parent
            return
        if actor.id in self._slots:
            self._bodies.set_transform(self._slots[actor.id], pose)
        self.actors.set_pose(actor, pose)
        if actor.id in self._friction:
            self._friction[actor.id] = FrictionTrigger.of(actor, pose)

    def move_to(self, actor_id: int, location: Sequence[float]) -> None:
        """Teleport without turning; an attached actor is moved relative to its parent."""
        actor = self.actor(actor_id)
        x, y, z = (float(value) for value in location)
        self.teleport(actor_id, (x, y, z, *(actor.relative_pose or self.actors.pose(actor))[3:]))

    def set_velocity(self, actor_id: int, velocity: list[float]) -> None:
        x, y, z = _bounded("velocity", actor_id, velocity, MAX_SPEED_MPS)
        self._bodies.set_target_velocity(self._slot(actor_id), x, y, z)

    def set_angular_velocity(self, actor_id: int, velocity: list[float]) -> None:
        x, y, z = _bounded("angular velocity", actor_id, velocity, MAX_TURN_DEGPS)
        self._bodies.set_target_angular_velocity(self._slot(actor_id), x, y, z)

    def set_constant_velocity(self, actor_id: int, velocity: list[float] | None) -> None:
        if velocity is None:
            self._bodies.clear_constant_velocity(self._slot(actor_id))
        else:
            x, y, z = _bounded("constant velocity", actor_id, velocity, MAX_SPEED_MPS)
            self._bodies.set_constant_velocity(self._slot(actor_id), x, y, z)

    def add_impulse(self, actor_id: int, impulse: list[float]) -> None:
        x, y, z = _bounded("impulse", actor_id, impulse, MAX_IMPULSE_NS)
        self._bodies.add_impulse(self._slot(actor_id), x, y, z)

    def add_force(self, actor_id: int, force: list[float]) -> None:
        """A force acts for one step, taken to be as long as the last: a client sends one per tick."""
        self.add_impulse(actor_id, [float(value) * self._bodies.last_step_s for value in force])

    def set_simulate_physics(self, actor_id: int, enabled: bool) -> None:
        actor = self.actor(actor_id)
        actor.simulate_physics = enabled
        if actor_id in self._slots:
            self._bodies.set_physics(self._slots[actor_id], enabled)
        if enabled and actor.kind is Kind.PROP and actor.relative_pose is None:
            self._lay_down(actor)

    def _lay_down(self, prop: Actor) -> None:
        """A prop with physics has fallen to the ground by the time anybody looks."""
        x, y, z, pitch, yaw, roll = self.actors.pose(prop)
        self.teleport(prop.id, (x, y, min(z, self.ground_m(x, y, z)), pitch, yaw, roll))

    def set_gravity(self, actor_id: int, enabled: bool) -> None:
        slot = self._slot(actor_id)
        self._bodies.gravity[slot], self._bodies.settled[slot] = enabled, False

    def set_collides(self, actor_id: int, enabled: bool) -> None:
        self.actor(actor_id).collides = enabled
        if actor_id in self._slots:
            self._bodies.collides[self._slots[actor_id]] = enabled

    # ---- reports ----------------------------------------------------------------------------------------

    def physics_control(self, actor_id: int) -> list:
        vehicle = self.vehicle(actor_id)
        pose = self.actors.pose(vehicle)
        physics = vehicle.physics_control or physics_control(blueprints.body_spec(vehicle.type_id), pose)
        (imposed,) = friction(self._friction.values(), np.array([pose[:3]]), np.array([np.nan]))
        return physics if np.isnan(imposed) else with_tyre_friction(physics, float(imposed))

    def wheel_steer_deg(self, actor_id: int, wheel: int) -> float:
        slot = self._slots[self.vehicle(actor_id).id]
        rear = wheel >= 2  # VehicleWheelLocation: front left, front right, back left, back right
        return 0.0 if rear else float(self._bodies.steer[slot] * self._bodies.max_steer[slot])

    def telemetry(self, actor_id: int) -> list:
        """VehicleTelemetryData; what the dynamics do not model (engine speed, drag, wheels) is zero."""
        slot = self._slots[self.vehicle(actor_id).id]
        b = self._bodies
        gear = 0 if b.speed[slot] == 0 else (-1 if b.speed[slot] < 0 else 1)
        head = [float(value[slot]) for value in (b.speed, b.steer, b.throttle, b.brake)]
        return [*head, 0.0, gear, 0.0, []]

    def on_sidewalk(self, x: float, y: float) -> bool:
        return bool(self.navigation.kerb_m(np.array([x]), np.array([y]))[0] > 0.0)

    def ray(self, start: list[float], end: list[float]) -> list[tuple[float, Actor | Fixture | None]]:
        """(distance in metres, what it is, None for the ground) of all that a line meets, nearest first.

        A ray meets what bodies meet: a tree's trunk, and not its leaves.
        """
        bodies, standing = self._bodies, self.scenery.grid.box
        rows = bodies.rows[: bodies.count]
        boxes = np.concatenate([np.stack(dynamics.boxes(bodies, bodies.count)), standing], axis=1)
        solid = np.r_[rows["active"] & rows["collides"], np.ones(standing.shape[1], bool)]
        line = np.asarray(start, np.float64), np.asarray(end, np.float64)
        found = rays.hits(*line, tuple(boxes), solid, self.town.heights)
        return [(distance, None if place == rays.GROUND else self._seen(place)) for distance, place in found]

    def _reach_m(self, carrier: Actor, start: Sequence[float], end: Sequence[float]) -> float:
        """How far a spring arm reaches from its carrier before it meets something else."""
        met = (distance for distance, what in self.ray(list(start), list(end)) if what is not carrier)
        return next(met, math.inf)

    def _seen(self, place: int) -> Actor | Fixture:
        standing = place - self._bodies.count
        return self._actor_of_slot[place] if standing < 0 else Fixture(int(self.scenery.solids.labels[standing]))

    # ---- time -------------------------------------------------------------------------------------------

    def step(self, dt_s: float) -> list[Collision]:
        """Advance everything by dt_s; returns the contacts of this step."""
        self.lights.advance(dt_s)
        bodies = self._bodies
        self._walkers.before_step()
        self._drive_ackermann(dt_s)
        self._set_friction()
        dynamics.step(bodies, bodies.count, dt_s, self.town.heights)
        contacts, impulses = dynamics.collide(bodies, bodies.count, self.scenery.grid)
        for actor_id in self._forgetful:
            self._control(actor_id, VehicleControl())
        self._walkers.after_step(contacts.pairs, impulses, dt_s)
        snapshot.copy_motion(bodies, self._body_slots, self.actors, self._body_rows)
        self._move_attached(dt_s)
        self._write_extras()
        pairs = zip(contacts.pairs.tolist(), impulses.tolist(), strict=True)
        return [
            Collision(self._actor_of_slot[first], self._struck(second), (x, y, z))
            for (first, second), (x, y, z) in pairs
        ]

    def _struck(self, place: int) -> Actor | Fixture:
        """Who stands second in a contact: a body, or beyond these the scenery; lights and stop signs are actors."""
        standing = place - self._bodies.count
        if standing < 0:
            return self._actor_of_slot[place]
        solids = self.scenery.solids
        signal = str(solids.signals[standing])
        if signal:
            return self._signals.get(signal) or Fixture(labels.TRAFFIC_SIGNS)
        return Fixture(int(solids.labels[standing]))

    def _set_friction(self) -> None:
        slots = self._vehicle_slots
        if len(slots):
            position_m = self.actors.position_m[self._vehicle_rows]
            own = self._bodies.tyre_friction[slots]
            self._bodies.friction[slots] = friction(self._friction.values(), position_m, own)

    def _move_attached(self, dt_s: float) -> None:
        table = self.actors
        for actor in self._attached:
            parent = table.get(actor.parent)
            if parent is None or actor.relative_pose is None:
                continue
            mount = table.pose(parent)
            if actor.arm is not None:
                mount = actor.arm.follow(mount, dt_s, partial(self._reach_m, parent))
            pose = compose(mount, actor.relative_pose)
            table.set_pose(actor, pose)
            if actor.id in self._slots:
                self._bodies.set_transform(self._slots[actor.id], pose)
            for column in (table.velocity_mps, table.angular_velocity_dps, table.acceleration_mps2):
                column[actor.row] = column[parent.row]

    def _write_extras(self) -> None:
        self._write_lights()
        if len(self._vehicle_rows):
            self._write_vehicles()

    def _write_lights(self) -> None:
        if not len(self._light_rows):
            return
        lights = self.lights.by_id.values()
        states = self._light_states
        states["state"] = [light.state for light in lights]
        states["elapsed_s"] = [light.elapsed_s for light in lights]
        states["green_s"] = [light.green_s for light in lights]
        states["yellow_s"] = [light.yellow_s for light in lights]
        states["red_s"] = [light.red_s for light in lights]
        states["frozen"] = self.lights.frozen
        self.actors.set_extras(self._light_rows, states)

    def _write_vehicles(self) -> None:
        table, rows, states = self.actors, self._vehicle_rows, self._vehicle_states
        snapshot.copy_controls(self._bodies, self._vehicle_slots, states)
        position = table.position_m[rows]
        states["speed_limit_kmh"] = self.town.speed_limits_kmh(position[:, 0], position[:, 1])
        light_ids = self.lights.affecting(position, table.rotation_deg[rows, 1])
        states["has_traffic_light"] = light_ids > 0
        states["traffic_light_id"] = light_ids
        states["traffic_light_state"] = LightState.GREEN  # what CARLA reports away from any light
        for index in np.flatnonzero(light_ids):
            states["traffic_light_state"][index] = self.lights.by_id[int(light_ids[index])].state
        table.set_extras(rows, states)

    def _set_sign(self, actor: Actor, sign_id: str) -> None:
        self.actors.set_extra(actor.row, np.array((sign_id.encode()[:31],), wire.TRAFFIC_SIGN_STATE))


def _box(trigger_box: tuple) -> Box:
    centre, extent = trigger_box
    return Box(tuple(centre), tuple(extent))


def _usable(pose: Pose) -> bool:
    """Whether a place can be reached with the precision of the wire; false for NaN."""
    return all(abs(value) <= FARTHEST_M for value in pose)


def _bounded(what: str, actor_id: int, values: Sequence[float], limit: float) -> tuple[float, ...]:
    """The values as numbers; a client's NaN or 1e38 must not reach the bodies, where it would spread to everybody."""
    numbers = tuple(float(value) for value in values)
    if not all(abs(number) <= limit for number in numbers):  # false for NaN, too
        raise CallError(f"cannot give actor {actor_id} the {what} {numbers}: use numbers within {limit:g}")
    return numbers
