"""The navigation mesh as the file that a client's crowd simulation reads: one Detour tile behind a set header.

The file's axes are CARLA's x, z (up), y.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from simulator.navigation.polygons import MAX_CORNERS, NONE, Mesh
from simulator.navigation.walkable import CROSSWALK, ROAD, SIDEWALK

_SET_HEADER: Final = struct.Struct("<3i3f2f2i")
_TILE_ENTRY: Final = struct.Struct("<Ii")
_TILE_HEADER: Final = struct.Struct("<4iI5i2i2ii3f3f3ff")
_SET_MAGIC: Final = int.from_bytes(b"MSET", "big")
_TILE_MAGIC: Final = int.from_bytes(b"DNAV", "big")
_SET_VERSION, _TILE_VERSION = 1, 7
_LINK_BYTES: Final = 12

_POLYGON: Final = np.dtype(
    [
        ("first_link", "<u4"),
        ("vertices", "<u2", MAX_CORNERS),
        ("neighbours", "<u2", MAX_CORNERS),
        ("flags", "<u2"),
        ("size", "u1"),
        ("area", "u1"),
    ]
)
_DETAIL: Final = np.dtype(
    [("vertices", "<u4"), ("triangles", "<u4"), ("own_vertices", "u1"), ("size", "u1"), ("", "V2")]
)
_NO_LINK: Final = 0xFFFFFFFF
MAX_INDEX: Final = 0x7FFF
"""Indices of polygons share 16 bits with a mark; those of points may use all 16."""

_FLAGS: Final = {SIDEWALK: 2, CROSSWALK: 4, ROAD: 8}
_AREAS: Final = {SIDEWALK: 1, CROSSWALK: 2, ROAD: 3}

WALKER_HEIGHT_M, WALKER_RADIUS_M, WALKER_CLIMB_M = 2.0, 0.3, 0.5
_FOOTROOM_M, _HEADROOM_M = 1.0, 3.0


class MeshTooLargeError(Exception):
    """The mesh has more polygons or points than one tile can number."""


def encode(mesh: Mesh) -> bytes:
    """The file's bytes.

    Raises: MeshTooLargeError for more than MAX_INDEX - 1 polygons or 65535 points.
    """
    count, points = len(mesh.corners), len(mesh.points_m)
    if count >= MAX_INDEX or points > 0xFFFF:
        raise MeshTooLargeError(f"navigation mesh of {count} polygons and {points} points; a tile holds 32766, 65535")
    sizes = mesh.sizes
    polygons = np.zeros(count, _POLYGON)
    polygons["first_link"] = _NO_LINK
    polygons["vertices"] = np.where(mesh.corners == NONE, 0, mesh.corners)
    polygons["neighbours"] = mesh.neighbours + 1
    polygons["flags"] = [_FLAGS[label] for label in mesh.labels.tolist()]
    polygons["size"] = sizes
    polygons["area"] = [_AREAS[label] for label in mesh.labels.tolist()]
    details = np.zeros(count, _DETAIL)
    details["size"] = sizes - 2
    details["triangles"] = np.cumsum(sizes - 2) - (sizes - 2)
    triangles = _fans(sizes)
    xyz = mesh.points_m[:, [0, 2, 1]]
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    low[1], high[1] = low[1] - _FOOTROOM_M, high[1] + _HEADROOM_M
    links = int(sizes.sum()) + 8
    header = _TILE_HEADER.pack(
        _TILE_MAGIC, _TILE_VERSION, 0, 0, 0, 0, count, points, links, count, 0, len(triangles), 0, 0, count,
        WALKER_HEIGHT_M, WALKER_RADIUS_M, WALKER_CLIMB_M, *low, *high, 1.0,
    )  # fmt: skip
    parts = (xyz.astype("<f4"), polygons, np.zeros(_LINK_BYTES * links, np.uint8), details, triangles)
    tile = header + b"".join(part.tobytes() for part in parts)
    bits = max(1, (count - 1).bit_length())
    entry = _TILE_ENTRY.pack(1 << (bits + 1), len(tile))
    side = high - low
    return _SET_HEADER.pack(_SET_MAGIC, _SET_VERSION, 1, *low, side[0], side[2], 2, 1 << bits) + entry + tile


def _fans(sizes: np.ndarray) -> np.ndarray:
    """(t, 4) uint8: each polygon as a fan of triangles, local corners and two bits per edge that is a border of it."""
    rows = []
    for size in sizes.tolist():
        for k in range(1, size - 1):
            borders = (k == 1) | 1 << 2 | (k == size - 2) << 4
            rows.append((0, k, k + 1, borders))
    return np.array(rows, np.uint8)
