"""The calls a CARLA client makes, by name, and what each does to the session.

Argument order is the wire's. Calls that a client sends without waiting are answered all the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from simulator import blueprints, labels
from simulator.actors import Actor, Kind, Pose, VehicleControl, WalkerControl
from simulator.rpc import CallError, Registry, Reply, failure, success
from simulator.session import Session
from simulator.towns.town import available_towns
from simulator.traffic_lights import Light, LightState

MAX_BATCH: Final = 10_000
MAX_UPLOAD_CHARACTERS: Final = 32 << 20
ZERO_BOX: Final = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0]
AT_ORIGIN: Final[Pose] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
GRAVITY_MPS2: Final = 9.81
ALL_DOORS: Final = 6
"""carla.VehicleDoor.All; below it front left and right, rear left and right, hood, trunk."""
EVERY_DOOR: Final = (1 << ALL_DOORS) - 1


def register(registry: Registry, session: Session) -> None:
    """Add every supported call to the registry."""
    for calls in (_Session, _Actors, _Vehicles, _Walkers, _Lights, _Scene, _TrafficManagers):
        calls(session).register(registry)
    _Batch(session, registry).register(registry)


def _pose(transform: list) -> Pose:
    (x, y, z), (pitch, yaw, roll) = transform
    return float(x), float(y), float(z), float(pitch), float(yaw), float(roll)


def _transform(pose: Pose) -> list:
    return [list(pose[:3]), list(pose[3:])]


def _moved_to(pose: Pose, location: list) -> Pose:
    """The same orientation at another place."""
    x, y, z = (float(value) for value in location)
    return x, y, z, pose[3], pose[4], pose[5]


def _nothing(*_: Any) -> None:
    """Accepted without effect: the call changes only what this server does not model."""


class _Calls:
    """A group of calls over one session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def world(self):
        return self.session.world

    def register(self, registry: Registry) -> None:
        for name, function in self.values().items():
            registry.add(name, function, Reply.VALUE)
        for name, function in self.voids().items():
            registry.add(name, function, Reply.VOID)

    def values(self) -> dict[str, Callable]:
        return {}

    def voids(self) -> dict[str, Callable]:
        return {}


class _Session(_Calls):
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
            "load_map_layer": _nothing,
            "unload_map_layer": _nothing,
            "set_weather_parameters": self._set_weather,
            "set_imui_gravity": _nothing,
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


class _Actors(_Calls):
    """Spawning, destroying and moving of any actor."""

    def values(self) -> dict[str, Callable]:
        world = lambda: self.world  # noqa: E731 - looked up at each call: worlds come and go
        return {
            "get_actor_definitions": lambda: blueprints.definitions(self.session.version),
            "get_spectator": lambda: world().spectator.description(),
            "get_actors_by_id": lambda ids: [a.description() for i in ids if (a := world().actors.get(i))],
            "spawn_actor": lambda description, transform: self.spawn(description, transform).description(),
            "spawn_actor_with_parent": lambda description, transform, parent, attachment=0, socket="": self.spawn(
                description, transform, parent
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
            "set_actor_location": lambda i, xyz: world().teleport(i, _moved_to(self.pose_of(i), xyz)),
            "set_actor_target_velocity": lambda i, v: world().set_velocity(i, v),
            "set_actor_target_angular_velocity": lambda i, w: world().set_angular_velocity(i, w),
            "enable_actor_constant_velocity": lambda i, v: world().set_constant_velocity(i, v),
            "disable_actor_constant_velocity": lambda i: world().set_constant_velocity(i, None),
            "add_actor_impulse": lambda i, impulse: world().add_impulse(i, impulse),
            "add_actor_impulse_at_location": lambda i, impulse, _at: world().add_impulse(i, impulse),
            "add_actor_force": lambda i, force: world().add_force(i, force),
            "add_actor_force_at_location": lambda i, force, _at: world().add_force(i, force),
            "add_actor_angular_impulse": _nothing,
            "add_actor_torque": _nothing,
            "set_actor_simulate_physics": lambda i, on: world().set_simulate_physics(i, bool(on)),
            "set_actor_collisions": lambda i, on: world().set_collides(i, bool(on)),
            "set_actor_enable_gravity": _nothing,
            "set_actor_dead": _nothing,
            "set_actor_autopilot": _nothing,  # the Traffic Manager lives in the client
        }

    def pose_of(self, actor_id: int) -> Pose:
        return self.world.actors.pose(self.world.actor(actor_id))

    def _bounding_box(self, actor_id: int) -> list:
        # Never an error: a client's Traffic Manager thread ends its whole process on one.
        actor = self.world.actors.get(actor_id)
        return ZERO_BOX if actor is None else actor.description()[3]

    def spawn(self, description: list, transform: list, parent: int = 0) -> Actor:
        uid, type_id, attributes = description
        actor = self.world.spawn(uid, type_id, [list(a) for a in attributes], _pose(transform), parent)
        if actor.kind is Kind.SENSOR and type_id != "sensor.other.lane_invasion":
            actor.stream_id, actor.token = self.session.new_stream()
            try:
                self.session.sensors.add(actor)
            except CallError:
                self.world.destroy(actor.id)
                raise
        return actor

    def destroy(self, actor_id: int) -> bool:
        for removed in self.world.destroy(actor_id):
            if removed.stream_id:
                self.session.sensors.remove(removed)
                self.session.hub.close(removed.stream_id)
        return True


class _Vehicles(_Calls):
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
            "apply_ackermann_controller_settings": lambda i, gains: setattr(vehicle(i), "ackermann_settings", gains),
            "apply_physics_control": lambda i, physics: self.world.set_physics_control(i, physics),
            "set_vehicle_light_state": lambda i, state: self.set_lights(i, state[0]),
            "open_vehicle_door": lambda i, door: self._doors(i, door, is_open=True),
            "close_vehicle_door": lambda i, door: self._doors(i, door, is_open=False),
            "set_wheel_steer_direction": lambda i, wheel, deg: vehicle(i).wheel_angles_deg.update({wheel: deg}),
            "set_wheel_pitch_angle": _nothing,
            "show_vehicle_debug_telemetry": _nothing,
            "restore_physx_physics": _nothing,
            "set_ignored_vehicles": _nothing,
        }

    def control(self, actor_id: int, control: list) -> None:
        throttle, steer, brake = (float(value) for value in control[:3])
        hand_brake, reverse, manual = (bool(value) for value in control[3:6])
        self.world.set_control(
            actor_id, VehicleControl(throttle, steer, brake, hand_brake, reverse, manual, int(control[6]))
        )

    def set_lights(self, actor_id: int, state: int) -> None:
        self.world.vehicle(actor_id).lights = int(state)

    def _doors(self, actor_id: int, door: int, *, is_open: bool) -> None:
        if not 0 <= door <= ALL_DOORS:
            raise CallError(f"door {door}: carla.VehicleDoor has 0 to {ALL_DOORS}")
        self.world.set_doors(actor_id, EVERY_DOOR if door == ALL_DOORS else 1 << door, is_open=is_open)


class _Walkers(_Calls):
    def values(self) -> dict[str, Callable]:
        return {"get_bones_transform": lambda i: [[]]}

    def voids(self) -> dict[str, Callable]:
        return {
            "apply_control_to_walker": self.control,
            "set_bones_transform": _nothing,
            "blend_pose": _nothing,
            "get_pose_from_animation": _nothing,
        }

    def control(self, actor_id: int, control: list) -> None:
        (x, y, z), speed_mps, jump = control
        self.world.set_walker(actor_id, WalkerControl((float(x), float(y), float(z)), float(speed_mps), bool(jump)))


class _Lights(_Calls):
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


class _Scene(_Calls):
    """What belongs to no actor. The scenery has no objects of its own yet, so lists are empty."""

    def values(self) -> dict[str, Callable]:
        return {
            "query_lights_state": lambda endpoint: [],
            "get_all_level_BBs": lambda tag: [],
            "get_environment_objects": lambda tag: [],
            "get_names_of_all_objects": lambda: [],
            "project_point": self._project,
            "cast_ray": self._cast_ray,
            "start_recorder": self._no_recorder,
            "show_recorder_file_info": self._no_recorder,
            "show_recorder_collisions": self._no_recorder,
            "show_recorder_actors_blocked": self._no_recorder,
            "replay_file": self._no_recorder,
        }

    def voids(self) -> dict[str, Callable]:
        names = """update_lights_state update_day_night_cycle enable_environment_objects draw_debug_shape
            clear_debug_shape clear_debug_string set_annotations_traverse_translucency stop_recorder stop_replayer
            set_replayer_time_factor set_replayer_ignore_hero set_replayer_ignore_spectator"""
        return dict.fromkeys(re.split(r"\s+", names), _nothing)

    def _project(self, location: list, direction: list, reach_m: float) -> list:
        """The first thing that a ray from a location meets within reach."""
        length = math.hypot(*direction)
        if length == 0.0:
            raise CallError("project_point needs a direction, got (0, 0, 0)")
        end = [a + b / length * reach_m for a, b in zip(location, direction, strict=True)]
        found = self._cast_ray(location, end)
        return [True, found[0]] if found else [False, [[0.0, 0.0, 0.0], 0]]

    def _cast_ray(self, start: list, end: list) -> list:
        """[[location, label]] of everything between two points, nearest first."""
        length = math.dist(start, end)
        if not math.isfinite(length):
            raise CallError(f"a ray needs finite ends, got {start} and {end}")
        answers = []
        for distance, actor in self.world.ray(start, end):
            point = [a + (b - a) * distance / length for a, b in zip(start, end, strict=True)]
            ground = labels.SIDEWALKS if self.world.on_sidewalk(point[0], point[1]) else labels.ROADS
            answers.append([point, ground if actor is None else actor.semantic_tag])
        return answers

    def _no_recorder(self, *_: Any) -> str:
        raise CallError("the recorder is not supported by this server; log from the client instead")


class _TrafficManagers(_Calls):
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
        return self.session.traffic_managers.setdefault(int(port), str(host)) == host


class _Batch(_Calls):
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
            12: _nothing,
            13: _nothing,
            14: lambda i, on: world().set_simulate_physics(i, bool(on)),
            15: _nothing,
            16: _nothing,
            17: _nothing,
            18: vehicles.set_lights,
            19: lambda i, xyz: world().teleport(i, _moved_to(self._actors.pose_of(i), xyz)),
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
        description, transform, parent, *_, do_after = fields
        actor = self._actors.spawn(description, transform, parent[1] if parent[0] else 0)
        for command in do_after:
            kind, later = command[0]
            self._run(kind, [actor.id, *later[1:]])
        return actor.id
