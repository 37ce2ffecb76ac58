"""Actors and the table that holds where they are.

Poses are in CARLA's frame: metres, degrees in the order pitch, yaw, roll.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from simulator import labels, wire

if TYPE_CHECKING:
    from simulator.attachment import SpringArm

Pose = tuple[float, float, float, float, float, float]
"""x, y, z, pitch, yaw, roll."""

INITIAL_CAPACITY: Final = 256

_SEMANTIC_TAGS: Final = {
    "vehicle": labels.CAR,
    "walker": labels.PEDESTRIANS,
    "traffic_light": labels.TRAFFIC_LIGHT,
    "traffic_sign": labels.TRAFFIC_SIGNS,
    "prop": labels.STATIC,
}
_VEHICLE_TAGS: Final = {
    "truck": labels.TRUCK,
    "bus": labels.BUS,
    "motorcycle": labels.MOTORCYCLE,
    "bicycle": labels.BICYCLE,
}
"""Values of CityObjectLabel; vehicles of other base types are cars."""


class Kind(enum.Enum):
    VEHICLE = "vehicle"
    WALKER = "walker"
    SENSOR = "sensor"
    TRAFFIC_LIGHT = "traffic_light"
    TRAFFIC_SIGN = "traffic_sign"
    PROP = "prop"
    CONTROLLER = "controller"
    SPECTATOR = "spectator"

    @classmethod
    def of(cls, type_id: str) -> Kind:
        if type_id == "traffic.traffic_light":
            return cls.TRAFFIC_LIGHT
        by_prefix = {
            "vehicle": cls.VEHICLE,
            "walker": cls.WALKER,
            "sensor": cls.SENSOR,
            "traffic": cls.TRAFFIC_SIGN,
            "controller": cls.CONTROLLER,
            "spectator": cls.SPECTATOR,
        }
        return by_prefix.get(type_id.split(".")[0], cls.PROP)


@dataclass(frozen=True, slots=True)
class Box:
    """An oriented box in its actor's frame; half sizes as CARLA's `BoundingBox.extent`."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extent: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(slots=True)
class VehicleControl:
    """CARLA's control of a vehicle; it acts until it is replaced."""

    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0
    hand_brake: bool = False
    reverse: bool = False
    manual_gear_shift: bool = False
    gear: int = 0


@dataclass(slots=True)
class WalkerControl:
    direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    speed_mps: float = 0.0
    jump: bool = False


@dataclass(slots=True, eq=False)
class Actor:
    """What does not change every tick. Where it is stands in the table, at `row`."""

    id: int
    type_id: str
    kind: Kind
    blueprint_uid: int
    attributes: list[list]
    """`[id, type, value]` each, as the client sent them."""
    row: int
    box: Box
    parent: int = 0
    relative_pose: Pose | None = None
    arm: SpringArm | None = None
    """What holds it, unless it sits on its parent itself."""
    stream_id: int = 0
    token: bytes = b""
    lights: int = 0
    """CARLA's VehicleLightState bits."""
    vehicle_control: VehicleControl = field(default_factory=VehicleControl)
    walker_control: WalkerControl = field(default_factory=WalkerControl)
    simulate_physics: bool = True
    collides: bool = True
    open_doors: int = 0
    physics_control: list | None = None
    ackermann_settings: list[float] = field(default_factory=lambda: [0.15, 0.0, 0.25, 0.01, 0.0, 0.01])
    wheel_angles_deg: dict[int, float] = field(default_factory=dict)

    def attribute(self, name: str, default: str = "") -> str:
        for key, _, value in self.attributes:
            if key == name:
                return value
        return default

    @property
    def semantic_tag(self) -> int:
        """CityObjectLabel of the actor, 0 for what cannot be seen."""
        default = _SEMANTIC_TAGS.get(self.kind.value, 0)
        return _VEHICLE_TAGS.get(self.attribute("base_type"), default) if self.kind is Kind.VEHICLE else default

    def description(self) -> list:
        """The actor as the client's RPC calls receive it."""
        tag = self.semantic_tag
        return [
            self.id,
            self.parent,
            [self.blueprint_uid, self.type_id, self.attributes],
            [list(self.box.centre), list(self.box.extent), [0.0, 0.0, 0.0], self.id],
            bytes([tag]) if tag else b"",
            self.token,
        ]


@dataclass(frozen=True, slots=True)
class Fixture:
    """A part of the town that is no actor, as an event tells of it: no id, and a type that says what it is."""

    label: int
    """CityObjectLabel"""
    id: int = 0

    @property
    def semantic_tag(self) -> int:
        """As `Actor.semantic_tag`."""
        return self.label

    def description(self) -> list:
        """As `Actor.description`."""
        box = [[0.0] * 3, [0.0] * 3, [0.0] * 3, 0]
        return [0, 0, [0, f"static.{labels.NAMES[self.label]}", []], box, bytes([self.label]), b""]

    def attribute(self, name: str, default: str = "") -> str:
        """None is set."""
        return default


class ActorTable:
    """Poses and motion of all live actors, one row each, in order of spawning.

    `states` is at the same time the body of the world-state message.
    """

    def __init__(self) -> None:
        self.count = 0
        self._actors: dict[int, Actor] = {}
        self._allocate(INITIAL_CAPACITY)

    def _allocate(self, capacity: int) -> None:
        self.states = np.zeros(capacity, wire.ACTOR_STATE)
        self.position_m = np.zeros((capacity, 3))
        self.rotation_deg = np.zeros((capacity, 3))
        self.velocity_mps = np.zeros((capacity, 3))
        self.angular_velocity_dps = np.zeros((capacity, 3))
        self.acceleration_mps2 = np.zeros((capacity, 3))

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return (
            self.states,
            self.position_m,
            self.rotation_deg,
            self.velocity_mps,
            self.angular_velocity_dps,
            self.acceleration_mps2,
        )

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._actors.values())

    def __contains__(self, actor_id: int) -> bool:
        return actor_id in self._actors

    def get(self, actor_id: int) -> Actor | None:
        return self._actors.get(actor_id)

    def of_kind(self, kind: Kind) -> list[Actor]:
        return [actor for actor in self if actor.kind is kind]

    def children(self, actor_id: int) -> list[Actor]:
        return [actor for actor in self if actor.parent == actor_id]

    def add(self, actor: Actor, pose: Pose) -> None:
        """Append a row for the actor; sets `actor.row`."""
        if self.count == len(self.states):
            old = self._columns
            self._allocate(2 * len(self.states))
            for new, previous in zip(self._columns, old, strict=True):
                new[: self.count] = previous
        actor.row = self.count
        for column in self._columns:
            column[actor.row] = np.zeros((), column.dtype)
        self.states["id"][actor.row] = actor.id
        self.states["state"][actor.row] = wire.ACTOR_ACTIVE
        self.count += 1
        self._actors[actor.id] = actor
        self.set_pose(actor, pose)

    def remove(self, actor: Actor) -> None:
        """Close the gap that the actor leaves; the others keep their order."""
        del self._actors[actor.id]
        for column in self._columns:
            column[actor.row : self.count - 1] = column[actor.row + 1 : self.count]
        self.count -= 1
        for other in self:
            if other.row > actor.row:
                other.row -= 1

    def pose(self, actor: Actor) -> Pose:
        x, y, z = self.position_m[actor.row].tolist()
        pitch, yaw, roll = self.rotation_deg[actor.row].tolist()
        return x, y, z, pitch, yaw, roll

    def set_pose(self, actor: Actor, pose: Pose) -> None:
        self.position_m[actor.row] = pose[:3]
        self.rotation_deg[actor.row] = pose[3:]

    def message_body(self) -> bytes:
        """All rows as the world-state message carries them."""
        live = self.states[: self.count]
        live["location"] = self.position_m[: self.count]
        live["rotation"] = self.rotation_deg[: self.count]
        live["velocity"] = self.velocity_mps[: self.count]
        live["angular_velocity"] = self.angular_velocity_dps[: self.count]
        live["acceleration"] = self.acceleration_mps2[: self.count]
        return live.tobytes()

    def set_extras(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write the kind-specific bytes of many actors: (n,) rows, (n,) values of one of wire's *_STATE layouts."""
        table = self.states.view(np.uint8).reshape(len(self.states), -1)
        size = values.dtype.itemsize
        table[rows, wire.EXTRA_OFFSET : wire.EXTRA_OFFSET + size] = values.view(np.uint8).reshape(len(values), size)

    def set_extra(self, row: int, value: np.ndarray) -> None:
        """The same for one actor, `value` being a 0-d array."""
        self.set_extras(np.array([row]), value.reshape(1))


def rotation_matrix(pitch_deg: float, yaw_deg: float, roll_deg: float) -> np.ndarray:
    """(3, 3) matrix whose columns are forward, right and up of a CARLA rotation (left-handed frame)."""
    cp, sp = math.cos(math.radians(pitch_deg)), math.sin(math.radians(pitch_deg))
    cy, sy = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    cr, sr = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    return np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )


def compose(parent: Pose, relative: Pose) -> Pose:
    """World pose of something mounted at `relative` on a body at `parent`."""
    world = rotation_matrix(*parent[3:])
    x, y, z = (world @ np.asarray(relative[:3]) + parent[:3]).tolist()
    if relative[3:] == (0.0, 0.0, 0.0):
        return x, y, z, *parent[3:]
    m = world @ rotation_matrix(*relative[3:])
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, m[2, 0]))))
    yaw = math.degrees(math.atan2(m[1, 0], m[0, 0]))
    roll = math.degrees(math.atan2(-m[2, 1], m[2, 2]))
    return x, y, z, pitch, yaw, roll
