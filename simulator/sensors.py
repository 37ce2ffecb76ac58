"""Sensors: what each measures in a step, packed as its stream's payload."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Final

import numpy as np

from simulator import noise, wire
from simulator.actors import Actor, Kind, Pose, compose
from simulator.cameras import CAMERAS, RGB, CameraSensor, encoded
from simulator.ray_sensors import Lidar, ObstacleDetector, Radar, RaySensor, SemanticLidar, Surroundings
from simulator.render import (
    NO_ACTOR,
    SOFTWARE,
    Camera,
    Renderer,
    Scene,
    SceneActor,
    TownMesh,
    load_or_build,
    town_seed,
)
from simulator.rpc import CallError
from simulator.sensor import Sensor, Step
from simulator.streams import StreamHub
from simulator.world import Collision, World

log = logging.getLogger(__name__)

DRAWN_STEER_DEG: Final = 35.0
"""Angle of the front wheels at full steering."""
_WARM_UP_CAMERA: Final = Camera(64, 64, 90.0)
_DRAWN_KINDS: Final = (Kind.VEHICLE, Kind.WALKER, Kind.PROP)


class SensorSuite:
    """All sensors of a world. Only those that somebody listens to are measured."""

    def __init__(
        self, world: World, hub: StreamHub, *, render: bool, threads: int, look_seed: int = 0, backend: str = SOFTWARE
    ) -> None:
        self._world = world
        self._look_seed = look_seed
        self._backend = backend
        self._odometers: dict[int, tuple[float, float, float]] = {}
        self._hub = hub
        self._render = render
        self._threads = threads
        self._mesh: TownMesh | None = None
        self._renderer: Renderer | None = None
        self._surroundings: Surroundings | None = None
        self._sensors: list[Sensor] = []
        self._spawned = 0
        self.collisions: list[Collision] = []

    def add(self, actor: Actor) -> None:
        """Start to serve a sensor. Raises: CallError when this server cannot measure it or an attribute is unusable."""
        if actor.type_id not in MEASURED:
            raise CallError(f"{actor.type_id} is not supported by this server; supported: {', '.join(MEASURED)}")
        sensor = _make(actor, self._world, self._spawned)
        if isinstance(sensor, RaySensor):
            self._rays().warm_up()  # nobody expects the next tick to take seconds
        self._sensors.append(sensor)
        self._spawned += 1

    def remove(self, actor: Actor) -> None:
        self._sensors = [sensor for sensor in self._sensors if sensor.actor is not actor]

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        if self._surroundings is not None:
            self._surroundings.close()

    @property
    def drawn(self) -> str:
        """How camera images are made, as the end of a sentence on cameras."""
        return "not drawn" if self._renderer is None else f"drawn {self._renderer.drawn_by}"

    def prepare(self) -> None:
        """Get ready to draw: meshes and, once per machine, compiled code. A client would not wait for it."""
        if self._render and self._renderer is None:
            town = self._world.town
            self._renderer = Renderer(
                town.name, town.opendrive, threads=self._threads, look_seed=self._look_seed, backend=self._backend
            )
            log.info("cameras are %s", self.drawn)
            self._renderer.render([(_WARM_UP_CAMERA, self._world.town.spawn_points[0])], Scene())

    def measure(self, frame: int, elapsed_s: float, step_s: float, weather: list[float], *, draw: bool) -> None:
        """Send this step's measurements of every sensor that is due and listened to."""
        due = [s for s in self._sensors if s.is_due(elapsed_s) and self._hub.is_wanted(s.actor.stream_id)]
        if not due:
            return
        seen = _Seen(lambda: self._look(elapsed_s, weather))
        step = Step(self.collisions, step_s, lambda: self._placed(seen, elapsed_s))
        for sensor in due:
            sensor.ticked(elapsed_s)
            if not isinstance(sensor, CameraSensor):
                self._measure(sensor, step, frame, elapsed_s)
        cameras = [sensor for sensor in due if isinstance(sensor, CameraSensor)]
        if cameras and draw and self._render:
            self._draw(cameras, *seen.scene, frame, elapsed_s)

    def _measure(self, sensor: Sensor, step: Step, frame: int, elapsed_s: float) -> None:
        try:
            for body in sensor.measure(step):
                self._send(sensor, frame, elapsed_s, body)
        except Exception:  # one sensor must not end the caller's connection, nor the clock
            log.exception("%s %d could not measure; it is left out from now on", sensor.actor.type_id, sensor.actor.id)
            self.remove(sensor.actor)

    def _look(self, elapsed_s: float, weather: list[float]) -> tuple[Scene, list[Actor]]:
        """The scene as it is now, and the actors in it in the scene's order."""
        drawn = [actor for actor in self._world.actors if actor.kind in _DRAWN_KINDS]
        return self._scene(drawn, elapsed_s, weather), drawn

    def _placed(self, seen: _Seen, elapsed_s: float) -> Surroundings:
        """What rays meet in this step."""
        surroundings = self._rays()
        if not seen.placed:
            scene, drawn = seen.scene
            surroundings.place(drawn, scene.actors, elapsed_s)
            seen.placed = True
        return surroundings

    def _rays(self) -> Surroundings:
        if self._surroundings is None:
            self._surroundings = Surroundings(self.mesh(), self._threads)
        return self._surroundings

    def mesh(self) -> TownMesh:
        """The static part of the town; built, once per machine, when no camera has needed it yet."""
        if self._renderer is not None:
            return self._renderer.mesh
        if self._mesh is None:
            town = self._world.town
            self._mesh = load_or_build(town.name, town.opendrive, town_seed(town.opendrive))
        return self._mesh

    def _send(self, sensor: Sensor, frame: int, elapsed_s: float, *body: bytes | memoryview) -> None:
        pose = self._world.actors.pose(sensor.actor)
        header = wire.SENSOR_HEADER.pack(wire.SENSOR_TYPE_IDS[sensor.actor.type_id], frame, elapsed_s, *pose)
        self._hub.publish(sensor.actor.stream_id, header, *body)

    def _draw(
        self, cameras: list[CameraSensor], scene: Scene, drawn: list[Actor], frame: int, elapsed_s: float
    ) -> None:
        self.prepare()
        assert self._renderer is not None
        table = self._world.actors
        for parent in sorted({camera.actor.parent for camera in cameras}):
            mounted = [camera for camera in cameras if camera.actor.parent == parent]
            views = [(camera.camera, table.pose(camera.actor)) for camera in mounted]
            # A camera does not see the body that carries it: it often sits inside.
            hidden = next((index for index, actor in enumerate(drawn) if actor.id == parent), NO_ACTOR)
            coloured = [view for camera, view in zip(mounted, views, strict=True) if camera.actor.type_id == RGB]
            images = iter(self._renderer.render(coloured, scene, skip=hidden) if coloured else ())
            for camera, view in zip(mounted, views, strict=True):
                kind = camera.actor.type_id
                image = next(images) if kind == RGB else encoded(kind, self._renderer, view, scene, drawn, hidden)
                size = wire.CAMERA_HEADER.pack(camera.camera.width, camera.camera.height, camera.camera.fov_deg)
                self._send(camera, frame, elapsed_s, size, image.data.cast("B"))

    def _scene(self, drawn: list[Actor], elapsed_s: float, weather: list[float]) -> Scene:
        travelled_m = self._travelled_m(drawn)
        actors = [self._scene_actor(actor, travelled_m[actor.id]) for actor in drawn]
        lights = {light.place.opendrive_id: int(light.state) for light in self._world.lights.by_id.values()}
        return Scene(weather, actors, lights, elapsed_s)

    def _scene_actor(self, actor: Actor, travelled_m: float) -> SceneActor:
        pose, extent = _visible_box(actor, self._world.actors.pose(actor))
        return SceneActor(
            actor.type_id,
            pose,
            extent,
            _colour(actor.attribute("color")),
            braking=actor.kind is Kind.VEHICLE and actor.vehicle_control.brake > 0.0,
            lights=actor.lights,
            open_doors=actor.open_doors,
            steer_deg=DRAWN_STEER_DEG * actor.vehicle_control.steer,
            speed_mps=float(np.linalg.norm(self._world.actors.velocity_mps[actor.row, :2])),
            travelled_m=travelled_m,
            wheelchair=actor.attribute("use_wheelchair") == "true",
        )

    def _travelled_m(self, drawn: list[Actor]) -> dict[int, float]:
        """Way of each actor over ground since it was first drawn."""
        position_m = self._world.actors.position_m
        odometers = {}
        for actor in drawn:
            x, y, _ = position_m[actor.row].tolist()
            last_x, last_y, way_m = self._odometers.get(actor.id, (x, y, 0.0))
            odometers[actor.id] = x, y, way_m + math.hypot(x - last_x, y - last_y)
        self._odometers = odometers
        return {actor_id: way_m for actor_id, (_, _, way_m) in odometers.items()}


def _visible_box(actor: Actor, pose: Pose) -> tuple[Pose, tuple[float, float, float]]:
    """Where a body is drawn, and its half sizes: a vehicle's box stands off its origin and may reach below ground."""
    if actor.kind is Kind.WALKER:
        return pose, actor.box.extent
    (forward, right, up), (half_x, half_y, half_z) = actor.box.centre, actor.box.extent
    low, high = max(0.0, up - half_z), up + half_z
    return compose(pose, (forward, right, low, 0.0, 0.0, 0.0)), (half_x, half_y, (high - low) / 2.0)


def _colour(text: str) -> tuple[int, int, int] | None:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        return None
    red, green, blue = (min(int(part), 255) for part in parts)
    return red, green, blue


class _Seen:
    """The scene of one step, made when first asked for."""

    def __init__(self, look: Callable[[], tuple[Scene, list[Actor]]]) -> None:
        self._look = look
        self.placed = False

    @cached_property
    def scene(self) -> tuple[Scene, list[Actor]]:
        return self._look()


class _Gnss(Sensor):
    def __init__(self, actor: Actor, world: World, order: int) -> None:
        super().__init__(actor, world)
        self._noise = noise.SensorNoise(int(self.number("noise_seed", 0)), order)
        self._stddev = tuple(self.number(f"noise_{axis}_stddev", 0.0) for axis in ("lat", "lon", "alt"))
        self._bias = tuple(self.number(f"noise_{axis}_bias", 0.0) for axis in ("lat", "lon", "alt"))
        self._reference = noise.geo_reference(world.town.opendrive)

    def measure(self, step: Step) -> Iterable[bytes]:
        x, y, z, *_ = self.world.actors.pose(self.actor)
        exact = noise.gnss((x, y, z), self.world.version, self._reference)
        reading = np.asarray(exact) + self._noise.sample(self._stddev, self._bias)
        return [wire.packed(reading.tolist())]


class _Imu(Sensor):
    def __init__(self, actor: Actor, world: World, order: int) -> None:
        super().__init__(actor, world)
        self._noise = noise.SensorNoise(int(self.number("noise_seed", 0)), order)
        self._accel_stddev = tuple(self.number(f"noise_accel_stddev_{axis}", 0.0) for axis in "xyz")
        self._gyro_stddev = tuple(self.number(f"noise_gyro_stddev_{axis}", 0.0) for axis in "xyz")
        self._gyro_bias = tuple(self.number(f"noise_gyro_bias_{axis}", 0.0) for axis in "xyz")

    def measure(self, step: Step) -> Iterable[bytes]:
        table, row = self.world.actors, self.actor.row
        accelerometer, gyroscope, compass = noise.imu(
            tuple(table.rotation_deg[row].tolist()),
            tuple(table.acceleration_mps2[row].tolist()),
            tuple(table.angular_velocity_dps[row].tolist()),
        )
        accelerometer = accelerometer + self._noise.sample(self._accel_stddev)
        gyroscope = gyroscope + self._noise.sample(self._gyro_stddev, self._gyro_bias)
        return [wire.packed([accelerometer.tolist(), gyroscope.tolist(), compass])]


class _CollisionDetector(Sensor):
    def measure(self, step: Step) -> Iterable[bytes]:
        events = []
        for collision in step.collisions:
            x, y, z = collision.impulse
            if collision.first.id == self.actor.parent:
                events.append((collision.first, collision.second, [x, y, z]))
            elif collision.second.id == self.actor.parent:
                events.append((collision.second, collision.first, [-x, -y, -z]))
        return [wire.packed([me.description(), other.description(), impulse]) for me, other, impulse in events]


def _make(actor: Actor, world: World, order: int) -> Sensor:
    kind = actor.type_id
    if kind in CAMERAS:
        return CameraSensor(actor, world)
    if kind == "sensor.other.gnss":
        return _Gnss(actor, world, order)
    if kind == "sensor.other.imu":
        return _Imu(actor, world, order)
    return _WITHOUT_NOISE_ORDER[kind](actor, world)


_WITHOUT_NOISE_ORDER: Final = {
    "sensor.other.collision": _CollisionDetector,
    "sensor.lidar.ray_cast": Lidar,
    "sensor.lidar.ray_cast_semantic": SemanticLidar,
    "sensor.other.radar": Radar,
    "sensor.other.obstacle": ObstacleDetector,
}
MEASURED: Final = (*CAMERAS, "sensor.other.gnss", "sensor.other.imu", *_WITHOUT_NOISE_ORDER)
"""Sensors this server measures; the lane invasion detector measures in the client."""
