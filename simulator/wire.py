"""Binary layouts of CARLA's stream protocol, as the 0.9.15 and 0.9.16 clients read them.

All numbers are little endian and packed. Angles are degrees, lengths metres, CARLA's left-handed frame.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np

WORLD_STREAM: Final = 1
"""Stream id of the world state; sensors get the ids after it."""

VERSIONS: Final = ("0.9.15", "0.9.16")
RESUBSCRIBING: Final = ("0.9.16",)
"""Clients that subscribe to the world anew after `load_new_episode`; the older one stays on its stream and polls."""

MAP_CHANGED: Final = 1
"""Bit of `simulation_state` that makes a client fetch the map again."""

SENSOR_HEADER: Final = struct.Struct("<QQd6f")
_EPISODE_HEADER: Final = struct.Struct("<Qdf3iI")
_STATE_FLAGS_OFFSET: Final = SENSOR_HEADER.size + 32
CAMERA_HEADER: Final = struct.Struct("<IIf")
FRAME_LENGTH: Final = struct.Struct("<I")

ACTOR_ACTIVE: Final = 1

SENSOR_TYPE_IDS: Final = {
    "sensor.other.collision": 0,
    "sensor.camera.depth": 1,
    "sensor.camera.normals": 2,
    "sensor.camera.dvs": 3,
    "sensor.other.gnss": 4,
    "sensor.other.imu": 5,
    "sensor.other.lane_invasion": 6,
    "sensor.other.obstacle": 7,
    "sensor.camera.optical_flow": 8,
    "sensor.other.radar": 9,
    "sensor.lidar.ray_cast_semantic": 10,
    "sensor.lidar.ray_cast": 11,
    "sensor.camera.rgb": 13,
    "sensor.camera.semantic_segmentation": 14,
    "sensor.camera.instance_segmentation": 15,
}

VEHICLE_STATE: Final = np.dtype(
    [
        ("throttle", "<f4"),
        ("steer", "<f4"),
        ("brake", "<f4"),
        ("hand_brake", "u1"),
        ("reverse", "u1"),
        ("manual_gear_shift", "u1"),
        ("gear", "<i4"),
        ("speed_limit_kmh", "<f4"),
        ("traffic_light_state", "u1"),
        ("has_traffic_light", "u1"),
        ("traffic_light_id", "<u4"),
        ("failure_state", "u1"),
    ]
)
WALKER_STATE: Final = np.dtype([("direction", "<f4", 3), ("speed", "<f4"), ("jump", "u1")])
TRAFFIC_LIGHT_STATE: Final = np.dtype(
    [
        ("sign_id", "S32"),
        ("green_s", "<f4"),
        ("yellow_s", "<f4"),
        ("red_s", "<f4"),
        ("elapsed_s", "<f4"),
        ("pole_index", "<u4"),
        ("frozen", "u1"),
        ("state", "u1"),
    ]
)
TRAFFIC_SIGN_STATE: Final = np.dtype([("sign_id", "S32")])

ACTOR_STATE: Final = np.dtype(
    [
        ("id", "<u4"),
        ("state", "u1"),
        ("location", "<f4", 3),
        ("rotation", "<f4", 3),
        ("velocity", "<f4", 3),
        ("angular_velocity", "<f4", 3),
        ("acceleration", "<f4", 3),
        ("extra", "V54"),
    ]
)
"""One actor in the world state, 119 bytes. `extra` holds one of the *_STATE layouts above, zero padded."""
EXTRA_OFFSET: Final = 65


def packed(value: Any) -> bytes:
    """MessagePack of a value; text that is no UTF-8 goes back to the client as it came."""
    message = msgpack.packb(value, unicode_errors="surrogateescape")
    assert message is not None  # only a packer that keeps its buffer returns None
    return message


def world_state_type(version: str) -> int:
    """Sensor type id that marks the world state for this client version."""
    return 16 if version == "0.9.15" else 17


@dataclass(frozen=True, slots=True)
class WorldHeader:
    """What precedes the actors in a world-state message."""

    sensor_type: int
    frame: int
    elapsed_s: float
    episode: int
    platform_s: float
    delta_s: float

    def pack(self) -> bytes:
        head = SENSOR_HEADER.pack(self.sensor_type, self.frame, self.elapsed_s, 0, 0, 0, 0, 0, 0)
        return head + _EPISODE_HEADER.pack(self.episode, self.platform_s, self.delta_s, 0, 0, 0, 0)


def with_map_changed(world_state: bytes) -> bytes:
    """The same world state with the bit set that makes its reader fetch the map again."""
    end = _STATE_FLAGS_OFFSET + 1
    return world_state[:_STATE_FLAGS_OFFSET] + bytes([MAP_CHANGED]) + world_state[end:]


def stream_token(stream_id: int, port: int, address: str) -> bytes:
    """The 24 bytes by which a client finds a stream: id, port, TCP, IPv4, address."""
    return struct.pack("<IHBB", stream_id, port, 1, 1) + socket.inet_aton(address) + bytes(12)
