"""Writing what happens to a file in the format of CARLA's recorder, which a CARLA can replay and report on.

A file is a header and packets of `[u8 kind, u32 bytes, content]`, little endian; lengths are centimetres there, as in
Unreal Engine. Source: CarlaRecorder and its packets in carla-simulator/carla (version 1 of the format).
"""

from __future__ import annotations

import enum
import logging
import os
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from simulator.actors import Actor, Fixture, Kind
from simulator.rpc import CallError
from simulator.world import Collision, World

log = logging.getLogger(__name__)

MAGIC: Final = b"CARLA_RECORDER"
VERSION: Final = 1
HEADER: Final = struct.pack("<HH", VERSION, len(MAGIC)) + MAGIC
"""How every recording begins."""
CM_PER_M: Final = 100.0
MAX_FILE_BYTES: Final = 4 << 30
"""A recording that nobody stops ends here: 20 cars for about 30 hours."""
MAX_RECORDS: Final = 0xFFFF
"""In one packet."""
FLUSH_FRAMES: Final = 20


class Packet(enum.IntEnum):
    """Kinds of packets that are written."""

    FRAME_START = 0
    FRAME_END = 1
    EVENT_ADD = 2
    EVENT_DEL = 3
    EVENT_PARENT = 4
    COLLISION = 5
    POSITION = 6
    LIGHT_STATE = 7
    VEHICLE = 8
    WALKER = 9
    VEHICLE_LIGHT = 10
    KINEMATICS = 12
    BOUNDING_BOX = 13
    PLATFORM_TIME = 14
    LIGHT_TIMES = 16


TYPES: Final = {
    Kind.VEHICLE: 1,
    Kind.WALKER: 2,
    Kind.TRAFFIC_LIGHT: 3,
    Kind.TRAFFIC_SIGN: 4,
    Kind.SENSOR: 5,
}
"""CARLA's numbers; 0 for everything else."""
FRAME: Final = struct.Struct("<Qdd")
"""Number, duration in s, time since the start in s."""
_UNKNOWN_DURATION: Final = -1.0
NO_ACTOR: Final = 0xFFFFFFFF
"""What stands for the scenery in a collision."""

POSITION: Final = np.dtype([("id", "<u4"), ("location_cm", "<f4", 3), ("roll_pitch_yaw_deg", "<f4", 3)])
KINEMATICS: Final = np.dtype([("id", "<u4"), ("velocity_mps", "<f4", 3), ("turning_degps", "<f4", 3)])
BOUNDING_BOX: Final = np.dtype([("id", "<u4"), ("centre_cm", "<f4", 3), ("extent_cm", "<f4", 3)])
LIGHT_STATE: Final = np.dtype([("id", "<u4"), ("frozen", "?"), ("elapsed_s", "<f4"), ("state", "i1")])
LIGHT_TIMES: Final = np.dtype([("id", "<u4"), ("green_s", "<f4"), ("yellow_s", "<f4"), ("red_s", "<f4")])
VEHICLE: Final = np.dtype(
    [("id", "<u4"), ("steer", "<f4"), ("throttle", "<f4"), ("brake", "<f4"), ("hand_brake", "?"), ("gear", "<i4")]
)
WALKER: Final = np.dtype([("id", "<u4"), ("speed_mps", "<f4")])
VEHICLE_LIGHT: Final = np.dtype([("id", "<u4"), ("lights", "<u4")])
COLLISION: Final = np.dtype([("number", "<u4"), ("ids", "<u4", 2), ("heroes", "?", 2)])


class Recorder:
    """Records one world, step by step."""

    def __init__(self, path: Path, world: World, *, additional: bool) -> None:
        """additional: velocities, boxes and times besides. Raises: CallError where no recording may be written."""
        self.path = path
        self._world = world
        self._additional = additional
        self._known: set[int] = set()
        self._collisions = 0
        self._frame = 0
        self._elapsed_s = 0.0
        self._duration_at = 0
        self._began_s = time.monotonic()
        self._file = _create(path)
        date = struct.pack("<q", int(time.time()))
        self._file.write(HEADER + date + _text(f"Carla/Maps/{world.town.name}"))

    @property
    def full(self) -> bool:
        """Whether the file has reached its limit."""
        return self._file.tell() > MAX_FILE_BYTES

    def write(self, dt_s: float, collisions: Sequence[Collision]) -> None:
        """Add the step that has just been made. Raises: OSError."""
        actors = list(self._world.actors)
        self._start_frame(dt_s)
        new = [actor for actor in actors if actor.id not in self._known]
        gone = self._known - {actor.id for actor in actors}
        self._known = {actor.id for actor in actors}
        self._packet(Packet.EVENT_ADD, _records([self._event_add(actor) for actor in new]))
        self._packet(Packet.EVENT_DEL, _records([struct.pack("<I", actor_id) for actor_id in sorted(gone)]))
        attached = [struct.pack("<II", actor.id, actor.parent) for actor in new if actor.parent]
        self._packet(Packet.EVENT_PARENT, _records(attached))
        self._packet(Packet.COLLISION, _rows(self._met(collisions)))
        moving = [actor for actor in actors if TYPES.get(actor.kind, 0) in (0, 1, 2)]
        self._packet(Packet.POSITION, _rows(self._positions(moving)))
        self._packet(Packet.LIGHT_STATE, _rows(self._light_states()))
        vehicles = [actor for actor in actors if actor.kind is Kind.VEHICLE]
        self._packet(Packet.VEHICLE, _rows(_controls(vehicles)))
        walkers = [actor for actor in actors if actor.kind is Kind.WALKER]
        speeds = [(actor.id, actor.walker_control.speed_mps) for actor in walkers]
        self._packet(Packet.WALKER, _rows(np.array(speeds, WALKER)))
        self._packet(Packet.VEHICLE_LIGHT, _rows(np.array([(a.id, a.lights) for a in vehicles], VEHICLE_LIGHT)))
        if self._additional:
            self._write_more(new, [*vehicles, *walkers])
        self._packet(Packet.FRAME_END, b"")
        if self._frame % FLUSH_FRAMES == 0:
            self._file.flush()

    def close(self) -> None:
        """End the recording; safe to call twice."""
        self._file.close()

    def _start_frame(self, dt_s: float) -> None:
        """A frame's duration becomes known with the next one."""
        if self._frame:
            self._elapsed_s += dt_s
            here = self._file.tell()
            self._file.seek(self._duration_at)
            self._file.write(struct.pack("<d", dt_s))
            self._file.seek(here)
        self._frame += 1
        self._duration_at = self._file.tell() + struct.calcsize("<BIQ")
        self._packet(Packet.FRAME_START, FRAME.pack(self._frame, _UNKNOWN_DURATION, self._elapsed_s))

    def _write_more(self, new: list[Actor], movers: list[Actor]) -> None:
        table = self._world.actors
        rows = np.array([actor.row for actor in movers], np.int64)
        motion = np.zeros(len(movers), KINEMATICS)
        motion["id"] = [actor.id for actor in movers]
        motion["velocity_mps"], motion["turning_degps"] = table.velocity_mps[rows], table.angular_velocity_dps[rows]
        self._packet(Packet.KINEMATICS, _rows(motion))
        boxes = np.zeros(len(new), BOUNDING_BOX)
        for box, actor in zip(boxes, new, strict=True):
            box["id"] = actor.id
            box["centre_cm"], box["extent_cm"] = (
                np.multiply(part, CM_PER_M) for part in (actor.box.centre, actor.box.extent)
            )
        self._packet(Packet.BOUNDING_BOX, _rows(boxes))
        self._packet(Packet.PLATFORM_TIME, struct.pack("<d", time.monotonic() - self._began_s))
        known = self._world.lights.by_id
        lights = [known[actor.id] for actor in new if actor.id in known]
        times = [(light.actor.id, light.green_s, light.yellow_s, light.red_s) for light in lights]
        self._packet(Packet.LIGHT_TIMES, _rows(np.array(times, LIGHT_TIMES)))

    def _event_add(self, actor: Actor) -> bytes:
        x, y, z, pitch, yaw, roll = self._world.actors.pose(actor)
        place = struct.pack("<6f", x * CM_PER_M, y * CM_PER_M, z * CM_PER_M, roll, pitch, yaw)
        head = struct.pack("<IB", actor.id, TYPES.get(actor.kind, 0)) + place
        attributes = [bytes([kind & 0xFF]) + _text(name) + _text(value) for name, kind, value in actor.attributes]
        return head + struct.pack("<I", actor.blueprint_uid) + _text(actor.type_id) + _records(attributes)

    def _positions(self, actors: list[Actor]) -> np.ndarray:
        table = self._world.actors
        rows = np.array([actor.row for actor in actors], np.int64)
        places = np.zeros(len(actors), POSITION)
        places["id"] = [actor.id for actor in actors]
        places["location_cm"] = table.position_m[rows] * CM_PER_M
        places["roll_pitch_yaw_deg"] = table.rotation_deg[rows][:, [2, 0, 1]]
        return places

    def _light_states(self) -> np.ndarray:
        lights = self._world.lights
        rows = [(light.actor.id, lights.frozen, light.elapsed_s, light.state) for light in lights.by_id.values()]
        return np.array(rows, LIGHT_STATE)

    def _met(self, collisions: Iterable[Collision]) -> np.ndarray:
        rows = []
        for collision in collisions:
            pair = (collision.first, collision.second)
            heroes = tuple(actor.attribute("role_name") == "hero" for actor in pair)
            ids = tuple(NO_ACTOR if isinstance(actor, Fixture) else actor.id for actor in pair)
            rows.append((self._collisions, ids, heroes))
            self._collisions += 1
        return np.array(rows, COLLISION)

    def _packet(self, kind: Packet, content: bytes) -> None:
        self._file.write(struct.pack("<BI", kind, len(content)) + content)


def _create(path: Path) -> BinaryIO:
    """A new file, or one over an old recording; nothing else is ever overwritten."""
    try:
        if path.exists():
            with path.open("rb") as old:
                if old.read(len(HEADER)) != HEADER:
                    raise CallError(f"start_recorder: {path} exists and is no recording; choose another name")
        # Built up beside it, an interrupted recording would be lost; a reader copes with one that ends too early.
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
    except OSError as error:
        raise CallError(f"start_recorder: cannot write {path} ({error.strerror}); choose another name") from error
    return os.fdopen(descriptor, "w+b")


def _text(value: str) -> bytes:
    data = value.encode()[:MAX_RECORDS]
    return struct.pack("<H", len(data)) + data


def _records(records: Sequence[bytes]) -> bytes:
    kept = records[:MAX_RECORDS]
    return struct.pack("<H", len(kept)) + b"".join(kept)


def _rows(rows: np.ndarray) -> bytes:
    kept = rows[:MAX_RECORDS]
    return struct.pack("<H", len(kept)) + kept.tobytes()


def _controls(vehicles: Sequence[Actor]) -> np.ndarray:
    controls = [(actor.id, actor.vehicle_control) for actor in vehicles]
    return np.array([(i, c.steer, c.throttle, c.brake, c.hand_brake, c.gear) for i, c in controls], VEHICLE)
