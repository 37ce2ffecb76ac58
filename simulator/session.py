"""One world at a time, as its clients see it: settings, frames, loading of towns."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import struct
import time
from typing import TYPE_CHECKING, Final

from simulator import dynamics, snapshot, wire
from simulator.actors import Actor, Kind
from simulator.recorder import Recorder
from simulator.rpc import Caller, CallError
from simulator.sensors import SensorSuite
from simulator.streams import StreamHub
from simulator.towns.town import TownError, load_town, town_from_text
from simulator.world import Collision, World

if TYPE_CHECKING:
    from simulator.server import ServerConfig

log = logging.getLogger(__name__)

LOAD_PATIENCE_S: Final = 2.0
"""A caller of load_world that has not subscribed again by then gets the new town anyway."""
RESUBSCRIBE_GRACE_S: Final = 0.05
DEFAULT_STEP_S: Final = 0.05
MAX_STEP_S: Final = 0.2
ALL_ADDRESSES: Final = "0.0.0.0"
LOOPBACK: Final = "127.0.0.1"
OPENDRIVE_MAP: Final = "OpenDriveMap"
SYNCHRONOUS: Final = 0
NO_RENDERING: Final = 1
FIXED_DELTA: Final = 2
"""Places in the wire form of EpisodeSettings."""


def default_settings() -> list:
    """EpisodeSettings as a fresh CARLA server has them."""
    return [False, False, [False], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True]


def default_weather() -> list[float]:
    """A clear noon: WeatherParameters in wire order."""
    return [5.0, 0.0, 0.0, 10.0, 45.0, 60.0, 2.0, 0.75, 0.1, 0.0, 1.0, 0.03, 0.0331, 0.0]


class Session:
    """State shared by all clients of the server."""

    def __init__(self, config: ServerConfig, hub: StreamHub, stream_port: int) -> None:
        self.config = config
        self.hub = hub
        self.version = config.version
        self.settings = default_settings()
        self.weather = default_weather()
        self.frame = 1
        self.episode = 0
        self.traffic_managers: dict[int, str] = {}
        self.caller: Caller | None = None
        """The connection whose call is being carried out"""
        self.recorder: Recorder | None = None
        """What records the present world, if anything does"""
        self._sensor_owners: dict[int, Caller | None] = {}
        self.opendrive_upload: str | None = None
        self._stream_port = stream_port
        self._address = None if config.host == ALL_ADDRESSES else config.host
        self._next_actor_id = 1
        self._next_stream_id = wire.WORLD_STREAM + 1
        self._pending_load: tuple[World, bool] | None = None
        self._load_timer: asyncio.TimerHandle | None = None
        self._sensors_due = False
        self._enter(self._build(config.town))

    # ---- the world in use -------------------------------------------------------------------------------

    def _build(self, town_name: str) -> World:
        if town_name == OPENDRIVE_MAP and self.opendrive_upload is not None:
            town = town_from_text(town_name, self.opendrive_upload)
        else:
            town = load_town(town_name, self.config.town_dir)
        return World(town, self.version, self._take_actor_id)

    def _enter(self, world: World) -> None:
        self.world = world
        self._sensor_owners.clear()
        self.episode += 1
        self.elapsed_s = 0.0
        self.sensors = SensorSuite(
            world,
            self.hub,
            render=self.config.render,
            threads=self.config.threads,
            look_seed=self.config.look_seed,
            backend=self.config.renderer,
        )

    def start(self) -> None:
        """Make the first step, with everything compiled and loaded that later steps need."""
        dynamics.warm_up()
        snapshot.warm_up()
        self.sensors.prepare()
        self.world.navigation  # noqa: B018 - built now, for the first client asks for it
        self.world.scenery  # noqa: B018 - likewise
        self.tick()
        self.after_reply()

    def close(self) -> None:
        self.stop_recorder()
        self.sensors.close()

    def _take_actor_id(self) -> int:
        self._next_actor_id += 1  # never reused: clients cache actors by id
        return self._next_actor_id - 1

    # ---- time -------------------------------------------------------------------------------------------

    @property
    def synchronous(self) -> bool:
        return bool(self.settings[SYNCHRONOUS])

    @property
    def fixed_delta_s(self) -> float | None:
        fixed = self.settings[FIXED_DELTA]
        return float(fixed[1]) if fixed[0] else None

    def apply_settings(self, settings: list) -> int:
        """Take over EpisodeSettings; returns the frame that the client waits for, which is already out."""
        if len(settings) != len(default_settings()):
            raise CallError(f"EpisodeSettings needs {len(default_settings())} fields, got {len(settings)}")
        for value, default in zip(settings, default_settings(), strict=True):
            kinds = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
                raise CallError(f"EpisodeSettings: {value!r:.100} where a value like {default!r} belongs")
        fixed = settings[FIXED_DELTA]
        if fixed[0] and not 0.0 < float(fixed[1]) <= MAX_STEP_S:
            raise CallError(f"fixed_delta_seconds must lie in (0, {MAX_STEP_S}], got {fixed[1]}")
        self.settings = settings
        return self.frame

    def tick(self) -> int:
        """Advance the world by one step and publish its state. Sensors follow in `after_reply`."""
        dt_s = self.fixed_delta_s or DEFAULT_STEP_S
        self.frame += 1
        self.elapsed_s += dt_s
        collisions = self.world.step(dt_s)
        self.sensors.collisions = collisions
        header = wire.WorldHeader(
            wire.world_state_type(self.version), self.frame, self.elapsed_s, self.episode, time.time(), dt_s
        )
        # The state leaves before any sensor data: a client that waits for it may hold the lock its sensors need.
        self.hub.publish_world_state(header.pack() + self.world.actors.message_body())
        self._sensors_due = True
        self._record(dt_s, collisions)
        return self.frame

    def _record(self, dt_s: float, collisions: list[Collision]) -> None:
        if self.recorder is None:
            return
        try:
            self.recorder.write(dt_s, collisions)
        except (OSError, ValueError, OverflowError, struct.error) as error:
            log.error("%s: the recording ends here: %s", self.recorder.path, error)
            self.stop_recorder()
            return
        if self.recorder.full:
            log.error("%s: the recording ends here: it is as large as one may be", self.recorder.path)
            self.stop_recorder()

    def stop_recorder(self) -> None:
        """End the recording, if there is one."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.close()

    def after_reply(self) -> None:
        """Measure and send what the sensors saw in the step just made."""
        if not self._sensors_due:
            return
        self._sensors_due = False
        draw = not self.settings[NO_RENDERING]
        self.sensors.measure(self.frame, self.elapsed_s, self.fixed_delta_s or DEFAULT_STEP_S, self.weather, draw=draw)

    # ---- actors with streams ----------------------------------------------------------------------------

    def start_sensor(self, actor: Actor) -> None:
        """Measure for a new sensor from now on, for as long as the client that asked for it is connected.

        Raises: CallError, with the actor gone, when this server cannot measure it or an attribute is unusable.
        """
        actor.stream_id, actor.token = self.new_stream()
        try:
            self.sensors.add(actor)
        except CallError:
            self.hub.close(actor.stream_id)
            self.world.destroy(actor.id)
            raise
        self._sensor_owners[actor.id] = self.caller

    def destroy_actor(self, actor_id: int) -> None:
        """Remove an actor and all that is attached to it. Raises: CallError when it is not there or the town's."""
        for removed in self.world.destroy(actor_id):
            if removed.stream_id:
                self._sensor_owners.pop(removed.id, None)
                self.sensors.remove(removed)
                self.hub.close(removed.stream_id)

    def client_left(self, connection: object) -> None:
        """Destroy the sensors of a client that is gone: nobody else could."""
        for actor_id in [i for i, owner in self._sensor_owners.items() if owner is connection]:
            if actor_id in self.world.actors:
                self.destroy_actor(actor_id)

    # ---- loading towns ----------------------------------------------------------------------------------

    def request_load(self, name: str, reset_settings: bool) -> None:
        """Answer first, switch later: the caller drops its episode on the answer and then subscribes anew.

        Raises: CallError for an unknown or unusable town.
        """
        town_name = name.rsplit("/", 1)[-1] or self.world.town.name
        try:
            world = self._build(town_name)
        except TownError as error:
            raise CallError(str(error)) from error
        self._pending_load = (world, reset_settings)
        self._schedule_switch(LOAD_PATIENCE_S if self.version in wire.RESUBSCRIBING else RESUBSCRIBE_GRACE_S)

    @property
    def coming_world(self) -> World:
        """The world that a client will see which starts an episode now."""
        return self.world if self._pending_load is None else self._pending_load[0]

    def world_subscriber_came(self) -> None:
        if self._pending_load is not None:
            self._schedule_switch(RESUBSCRIBE_GRACE_S)

    def _schedule_switch(self, delay_s: float) -> None:
        if self._load_timer is not None:
            self._load_timer.cancel()
        self._load_timer = asyncio.get_running_loop().call_later(delay_s, self._switch_world)

    def _switch_world(self) -> None:
        if self._pending_load is None:
            return
        (world, reset_settings), self._pending_load = self._pending_load, None
        self.stop_recorder()
        if reset_settings:
            self.settings = default_settings()
        for actor in self.world.actors.of_kind(Kind.SENSOR):
            self.hub.close(actor.stream_id)
        self.sensors.close()
        self.hub.map_changed()
        self._enter(world)
        gc.collect()  # a world refers to itself; without this several towns pile up until the collector's turn
        self.sensors.prepare()
        self.tick()
        self.after_reply()

    # ---- streams ----------------------------------------------------------------------------------------

    def token(self, stream_id: int) -> bytes:
        """What a client needs to subscribe: the address is the one by which it reached this server."""
        address = self._address or (self.caller.local_address if self.caller else LOOPBACK)
        return wire.stream_token(stream_id, self._stream_port, address)

    def new_stream(self) -> tuple[int, bytes]:
        stream_id = self._next_stream_id
        self._next_stream_id += 1
        self.hub.expect(stream_id)
        return stream_id, self.token(stream_id)
