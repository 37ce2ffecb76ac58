"""The calls a CARLA client makes, by name, and what each does to the session.

Argument order is the wire's. Calls that a client sends without waiting are answered all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from simulator import blueprints
from simulator.actors import Actor, Kind, Pose, VehicleControl, WalkerControl
from simulator.attachment import Attachment
from simulator.calls import Calls, without_effect
from simulator.recorder_calls import RecorderCalls
from simulator.refused import refuse_the_rest
from simulator.rpc import CallError, Registry, Reply, failure, success
from simulator.scene_calls import SceneCalls
from simulator.session import Session
from simulator.towns.town import available_towns
from simulator.traffic_lights import Light, LightState

MAX_BATCH: Final = 10_000
MAX_GEAR: Final = 100
MAX_UPLOAD_CHARACTERS: Final = 32 << 20
ZERO_BOX: Final = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0]
AT_ORIGIN: Final[Pose] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
GRAVITY_MPS2: Final = 9.81
ACKERMANN_GAINS: Final = 6
"""Speed and acceleration controller: proportional, integral, derivative each."""
ALL_DOORS: Final = 6
"""carla.VehicleDoor.All; below it front left and right, rear left and right, hood, trunk."""
EVERY_DOOR: Final = (1 << ALL_DOORS) - 1


def register(registry: Registry, session: Session) -> None:
    """Add every supported call to the registry."""
    for calls in (_Session, _Actors, _Vehicles, _Walkers, _Lights, SceneCalls, RecorderCalls, _TrafficManagers):
        calls(session).register(registry)
    _Batch(session, registry).register(registry)
    refuse_the_rest(registry)


def _pose(transform: list) -> Pose:
    (x, y, z), (pitch, yaw, roll) = transform
    return float(x), float(y), float(z), float(pitch), float(yaw), float(roll)


def _transform(pose: Pose) -> list:
    return [list(pose[:3]), list(pose[3:])]


def _u32(what: str, value: object) -> int:
    """A number that clients can read back."""
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise CallError(f"{what} {value!r} is not a number from 0 to {(1 << 32) - 1}")
    return int(value)


def _attributes(rows: list) -> list[list]:
    """`[id, type, value]` each, of types that every client can read back."""
    for row in rows:
        if len(row) != 3 or not isinstance(row[0], str) or not isinstance(row[2], str):
            raise CallError(f"an attribute is [id, type, value], got {row!r:.200}")
        if not all(_is_text(part) for part in (row[0], row[2])):
            raise CallError(f"attribute {row[0]!r:.100} = {row[2]!r:.100} is not UTF-8 text")
    return [[name, _u32(f"type of attribute {name}", kind), value] for name, kind, value in rows]


def _is_text(text: str) -> bool:
    """False for what stands for bytes that are none: nobody could write or send it again."""
    return all(not "\ud800" <= character <= "\udfff" for character in text)


class _Session(Calls):
    """Version, episode, settings, maps, ticking."""

    def values(self) -> dict[str, Callable]:
        session = self.session
        return {
            "version": lambda: session.version,
            "get_episode_info": lambda: [session.episode, [session.token(1)]],
            "get_sensor_token": lambda stream_id: [session.token(stream_id)],
            "get_episode_settings": lambda: session.settings,
            "set_episode_settings": session.apply_settings,
            "get_available_maps": self._available_maps,
            "get_map_info": lambda: [
                f"Carla/Maps/{self.world.town.name}",
                [_transform(pose) for pose in self.world.town.spawn_points],
            ],
            "get_map_data": lambda: self.world.town.opendrive,
            "get_required_files": self._required_files,
            "request_file": self._file,
            "get_navigation_mesh": lambda: self.world.navigation.mesh,
            "tick_cue": session.tick,
            "get_weather_parameters": lambda: session.weather,
            "get_imui_gravity": lambda: GRAVITY_MPS2,
        }

    def voids(self) -> dict[str, Callable]:
        return {
            "load_new_episode": lambda name, reset=True, layers=0: self.session.request_load(name, bool(reset)),
            "copy_opendrive_to_file": self._upload,
            "load_map_layer": without_effect,
            "unload_map_layer": without_effect,
            "set_weather_parameters": self._set_weather,
            "set_imui_gravity": without_effect,
        }

    def _available_maps(self) -> list[str]:
        return [f"/Game/Carla/Maps/{name}" for name in available_towns(self.session.config.town_dir)]

    def _required_files(self, folder: str = "") -> list[str]:
        """The town's navigation mesh; a client that loads another town asks before the switch is made."""
        world = self.session.coming_world
        return [world.navigation.file_name(world.town.name)] if folder == "Nav" and world.navigation.mesh else []

    def _file(self, name: str) -> bytes:
        for world in (self.session.coming_world, self.world):
            if world.navigation.mesh and name == world.navigation.file_name(world.town.name):
                return world.navigation.mesh
        raise CallError(f"{name!r} is not a file of this server; ask get_required_files for their names")

    def _upload(self, opendrive: str, _parameters: list | None = None) -> None:
        if len(opendrive) > MAX_UPLOAD_CHARACTERS:
            raise CallError(f"OpenDRIVE text of {len(opendrive)} characters; at most {MAX_UPLOAD_CHARACTERS} are taken")
        self.session.opendrive_upload = opendrive

    def _set_weather(self, weather: list) -> None:
        if len(weather) != len(self.session.weather):
            raise CallError(f"WeatherParameters needs {len(self.session.weather)} numbers, got {len(weather)}")
        values = [float(value) for value in weather]
        if not all(math.isfinite(value) for value in values):
            raise CallError(f"WeatherParameters must be finite, got {values}")
        self.session.weather = values


class _Actors(Calls):
    """Spawning, destroying and moving of any actor."""

    def values(self) -> dict[str, Callable]:
        world = lambda: self.world  # noqa: E731 - looked up at each call: worlds come and go
        return {
            "get_actor_definitions": lambda: blueprints.definitions(self.session.version),
            "get_spectator": lambda: world().spectator.description(),
            "get_actors_by_id": lambda ids: [a.description() for i in ids if (a := world().actors.get(i))],
            "spawn_actor": lambda description, transform: self.spawn(description, transform).description(),
            "spawn_actor_with_parent": lambda description, transform, parent, attachment=0, socket="": self.spawn(
                description, transform, parent, attachment
            ).description(),
            "destroy_actor": self.destroy,
            "get_actor_bounding_box": self._bounding_box,
            "get_actor_component_world_transform": lambda i, _name: _transform(self.pose_of(i)),
            "get_actor_component_relative_transform": lambda i, _name: _transform(AT_ORIGIN),
            "get_actor_component_names": lambda i: [],
            "get_actor_bone_names": lambda i: [],
            "get_actor_socket_names": lambda i: [],
            "get_actor_bone_world_transforms": lambda i: [],
            "get_actor_bone_relative_transforms": lambda i: [],
            "get_actor_socket_world_transforms": lambda i: [],
            "get_actor_socket_relative_transforms": lambda i: [],
            "get_vehicle_bone_world_transforms": lambda i: [],
        }

    def voids(self) -> dict[str, Callable]:
        world = lambda: self.world  # noqa: E731
        return {
            "set_actor_transform": lambda i, transform: world().teleport(i, _pose(transform)),
            "set_actor_location": lambda i, xyz: world().move_to(i, xyz),
            "set_actor_target_velocity": lambda i, v: world().set_velocity(i, v),
            "set_actor_target_angular_velocity": lambda i, w: world().set_angular_velocity(i, w),
            "enable_actor_constant_velocity": lambda i, v: world().set_constant_velocity(i, v),
            "disable_actor_constant_velocity": lambda i: world().set_constant_velocity(i, None),
            "add_actor_impulse": lambda i, impulse: world().add_impulse(i, impulse),
            "add_actor_impulse_at_location": lambda i, impulse, _at: world().add_impulse(i, impulse),
            "add_actor_force": lambda i, force: world().add_force(i, force),
            "add_actor_force_at_location": lambda i, force, _at: world().add_force(i, force),
            "add_actor_angular_impulse": without_effect,
            "add_actor_torque": without_effect,
            "set_actor_simulate_physics": lambda i, on: world().set_simulate_physics(i, bool(on)),
            "set_actor_collisions": lambda i, on: world().set_collides(i, bool(on)),
            "set_actor_enable_gravity": lambda i, on: world().set_gravity(i, bool(on)),
            "set_actor_dead": without_effect,
            "set_actor_autopilot": without_effect,  # the Traffic Manager lives in the client
        }

    def pose_of(self, actor_id: int) -> Pose:
        return self.world.actors.pose(self.world.actor(actor_id))

    def _bounding_box(self, actor_id: int) -> list:
        # Never an error: a client's Traffic Manager thread ends its whole process on one.
        actor = self.world.actors.get(actor_id)
        return ZERO_BOX if actor is None else actor.description()[3]

    def spawn(self, description: list, transform: list, parent: int = 0, attachment: int = 0) -> Actor:
        uid, type_id, attributes = description
        if not isinstance(type_id, str) or not isinstance(parent, int):
            raise CallError(f"cannot spawn {type_id!r} on actor {parent!r}: not a blueprint's id and an actor's number")
        if attachment not in tuple(Attachment):
            raise CallError(f"attachment type {attachment!r}: carla.AttachmentType has 0 to {max(Attachment)}")
        actor = self.world.spawn(
            _u32("blueprint", uid), type_id, _attributes(attributes), _pose(transform), parent, Attachment(attachment)
        )
        if actor.kind is Kind.SENSOR and type_id != "sensor.other.lane_invasion":
            self.session.start_sensor(actor)
        return actor

    def destroy(self, actor_id: int) -> bool:
        self.session.destroy_actor(actor_id)
        return True


class _Vehicles(Calls):
    """Controls, physics, lights and doors."""

    def values(self) -> dict[str, Callable]:
        vehicle = lambda i: self.world.vehicle(i)  # noqa: E731
        return {
            "get_physics_control": lambda i: self.world.physics_control(i),
            "get_vehicle_light_state": lambda i: [vehicle(i).lights],
            "get_vehicle_light_states": lambda: [[a.id, a.lights] for a in self.world.actors.of_kind(Kind.VEHICLE)],
            "get_ackermann_controller_settings": lambda i: vehicle(i).ackermann_settings,
            "get_wheel_steer_angle": lambda i, wheel: self.world.wheel_steer_deg(i, wheel),
            "get_wheel_pitch_angle": lambda i, wheel: 0.0,
            "get_telemetry_data": lambda i: self.world.telemetry(i),
        }

    def voids(self) -> dict[str, Callable]:
        vehicle = lambda i: self.world.vehicle(i)  # noqa: E731
        return {
            "apply_control_to_vehicle": self.control,
            "apply_ackermann_control_to_vehicle": lambda i, control: self.world.set_ackermann(i, control),
            "apply_ackermann_controller_settings": self._set_ackermann_gains,
            "apply_physics_control": lambda i, physics: self.world.set_physics_control(i, physics),
            "set_vehicle_light_state": lambda i, state: self.set_lights(i, state[0]),
            "open_vehicle_door": lambda i, door: self._doors(i, door, is_open=True),
            "close_vehicle_door": lambda i, door: self._doors(i, door, is_open=False),
            "set_wheel_steer_direction": lambda i, wheel, deg: vehicle(i).wheel_angles_deg.update({wheel: deg}),
            "set_wheel_pitch_angle": without_effect,
            "show_vehicle_debug_telemetry": without_effect,
            "restore_physx_physics": without_effect,
            "set_ignored_vehicles": without_effect,
        }

    def control(self, actor_id: int, control: list) -> None:
        throttle, steer, brake = (float(value) for value in control[:3])
        if abs(control[6]) > MAX_GEAR:
            raise CallError(f"gear {control[6]}: at most {MAX_GEAR}")
        hand_brake, reverse, manual = (bool(value) for value in control[3:6])
        self.world.set_control(
            actor_id, VehicleControl(throttle, steer, brake, hand_brake, reverse, manual, int(control[6]))
        )

    def set_lights(self, actor_id: int, state: int) -> None:
        self.world.vehicle(actor_id).lights = _u32("light state", state)

    def _set_ackermann_gains(self, actor_id: int, gains: list) -> None:
        values = [float(gain) for gain in gains]
        if len(values) != ACKERMANN_GAINS or not all(math.isfinite(value) for value in values):
            raise CallError(f"AckermannControllerSettings needs {ACKERMANN_GAINS} finite numbers, got {gains}")
        self.world.vehicle(actor_id).ackermann_settings = values

    def _doors(self, actor_id: int, door: int, *, is_open: bool) -> None:
        if not 0 <= door <= ALL_DOORS:
            raise CallError(f"door {door}: carla.VehicleDoor has 0 to {ALL_DOORS}")
        self.world.set_doors(actor_id, EVERY_DOOR if door == ALL_DOORS else 1 << door, is_open=is_open)


class _Walkers(Calls):
    def values(self) -> dict[str, Callable]:
        return {"get_bones_transform": lambda i: [[]]}

    def voids(self) -> dict[str, Callable]:
        return {
            "apply_control_to_walker": self.control,
            "set_bones_transform": without_effect,
            "blend_pose": without_effect,
            "get_pose_from_animation": without_effect,
        }

    def control(self, actor_id: int, control: list) -> None:
        (x, y, z), speed_mps, jump = control
        self.world.set_walker(actor_id, WalkerControl((float(x), float(y), float(z)), float(speed_mps), bool(jump)))


class _Lights(Calls):
    """Traffic lights. Freezing one freezes all, as CARLA documents."""

    def values(self) -> dict[str, Callable]:
        return {
            "get_group_traffic_lights": lambda i: self._light(i) and self.world.lights.group_ids(i),
            "get_light_boxes": lambda i: [self._light(i).actor.description()[3]],
        }

    def voids(self) -> dict[str, Callable]:
        return {
            "set_traffic_light_state": self.set_state,
            "set_traffic_light_green_time": lambda i, s: self._set_time(i, "green_s", float(s)),
            "set_traffic_light_yellow_time": lambda i, s: self._set_time(i, "yellow_s", float(s)),
            "set_traffic_light_red_time": lambda i, s: self._set_time(i, "red_s", float(s)),
            "freeze_traffic_light": lambda i, frozen: self._light(i) and self._freeze(frozen),
            "freeze_all_traffic_lights": self._freeze,
            "reset_traffic_light_group": lambda i: self._light(i) and self.world.lights.reset_group(i),
            "reset_all_traffic_lights": lambda: self.world.lights.reset_all(),
        }

    def _light(self, actor_id: int) -> Light:
        light = self.world.lights.by_id.get(actor_id)
        if light is None:
            raise CallError(f"actor {actor_id} is not a traffic light of this world")
        return light

    def set_state(self, actor_id: int, state: int) -> None:
        self._light(actor_id).state = LightState(state)

    def _set_time(self, actor_id: int, name: str, seconds: float) -> None:
        """Lights that are green together share their times, as those of one controller in CARLA."""
        if not (math.isfinite(seconds) and seconds >= 0.0):
            raise CallError(f"traffic light {actor_id}: {name} must be a number from 0 on, got {seconds}")
        for light in self.world.lights.phase_of(self._light(actor_id)):
            setattr(light, name, seconds)

    def _freeze(self, frozen: bool) -> None:
        self.world.lights.frozen = bool(frozen)


class _TrafficManagers(Calls):
    """Where Traffic Managers run; they live in clients, the server only keeps their addresses by port."""

    def values(self) -> dict[str, Callable]:
        running = self.session.traffic_managers
        return {
            "is_traffic_manager_running": lambda port: port in running,
            "get_traffic_manager_running": lambda port: [running.get(port, ""), port if port in running else 0],
            "add_traffic_manager_running": self._add,
            "destroy_traffic_manager": lambda port: running.pop(port, None) is not None,
        }

    def _add(self, place: list) -> bool:
        host, port = place
        if not isinstance(host, str) or not isinstance(port, int) or not 0 <= port < 1 << 16:
            raise CallError(f"a Traffic Manager's place is [host, port], got {place!r:.200}")
        return self.session.traffic_managers.setdefault(port, host) == host


class _Batch(Calls):
    """`apply_batch`: a list of commands, each with an answer of its own."""

    def __init__(self, session: Session, registry: Registry) -> None:
        super().__init__(session)
        self._registry = registry
        self._actors = _Actors(session)
        vehicles, walkers = _Vehicles(session), _Walkers(session)
        world = lambda: self.world  # noqa: E731
        self._commands: dict[int, Callable] = {
            1: self._actors.destroy,
            2: vehicles.control,
            3: lambda i, control: world().set_ackermann(i, control),
            4: walkers.control,
            5: lambda i, physics: world().set_physics_control(i, physics),
            6: lambda i, transform: world().teleport(i, _pose(transform)),
            7: lambda i, transform, speed: world().set_walker_state(i, _pose(transform), float(speed)),
            8: lambda i, v: world().set_velocity(i, v),
            9: lambda i, w: world().set_angular_velocity(i, w),
            10: lambda i, impulse: world().add_impulse(i, impulse),
            11: lambda i, force: world().add_force(i, force),
            12: without_effect,
            13: without_effect,
            14: lambda i, on: world().set_simulate_physics(i, bool(on)),
            15: lambda i, on: world().set_gravity(i, bool(on)),
            16: without_effect,
            17: without_effect,
            18: vehicles.set_lights,
            19: lambda i, xyz: world().move_to(i, xyz),
            21: _Lights(session).set_state,
        }

    def register(self, registry: Registry) -> None:
        registry.add("apply_batch", self._apply, Reply.RAW)

    def _apply(self, commands: list, do_tick: bool = False) -> list:
        if len(commands) > MAX_BATCH:
            return [failure(f"batch of {len(commands)} commands; at most {MAX_BATCH} are accepted")]
        answers = []
        for command in commands:
            try:
                answers.append(success(self._run(*command[0])))
            except CallError as error:
                answers.append(failure(str(error)))
            except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
                answers.append(failure(f"unusable command ({error})"))
        if do_tick:
            self.session.tick()
        return answers

    def _run(self, kind: int, fields: list) -> int:
        if kind == 0:
            return self._spawn(fields)
        if kind not in self._commands:
            raise CallError(f"command {kind} is not supported by this server")
        self._commands[kind](*fields)
        return fields[0]

    def _spawn(self, fields: list) -> int:
        # 0.9.15: description, transform, parent, do_after; 0.9.16 has attachment and socket before do_after.
        description, transform, parent, *mount, do_after = fields
        # Without a parent the client does not set the attachment: it holds whatever was in its memory.
        actor = self._actors.spawn(description, transform, *((parent[1], *mount[:1]) if parent[0] else ()))
        for command in do_after:
            kind, later = command[0]
            self._run(kind, [actor.id, *later[1:]])
        return actor.id
