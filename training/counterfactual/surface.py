"""Where an ego may drive: the road with its shoulders and parking strips, small gaps closed, around a log's way."""

from __future__ import annotations

import math

import numba
import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from training import bev

MARGIN_M = 90.0
"""So far around the way the surface is kept."""
CLOSED_M = 1.0
"""Gaps up to this width between lanes belong to the road."""
ISLAND_M2 = 60.0
"""So do patches that are enclosed by lanes, as between the lanes of a junction, up to this area."""
PROBES_LONG, PROBES_WIDE = 7, 5
"""Points of the footprint that are looked up."""
OUTSIDE_SHARE = 0.3
"""More of the footprint than this beside the surface is off the road: a wheel has left it."""


class Surface:
    """Raster of where an ego may drive."""

    def __init__(self, drivable: Bool[np.ndarray, "rows columns"], origin_m: Float64[np.ndarray, " 2"]) -> None:
        """origin_m: world (x, y) of the corner of pixel (0, 0); rows grow with y, columns with x; outside is none."""
        self.drivable = np.ascontiguousarray(drivable)
        self.origin_m = np.asarray(origin_m, np.float64)

    @classmethod
    def around(cls, static: bev.StaticMap, way_m: Float64[np.ndarray, "n 2"]) -> Surface:
        """The surface around a way."""
        corner = np.array(static.bits.shape[::-1])
        low = np.clip(np.floor((way_m.min(0) - MARGIN_M - static.origin_m) * bev.MAP_PIXELS_PER_M), 0, corner)
        high = np.clip(np.ceil((way_m.max(0) + MARGIN_M - static.origin_m) * bev.MAP_PIXELS_PER_M), 0, corner)
        (c0, r0), (c1, r1) = low.astype(int), high.astype(int)
        road = bev.road_or_shoulder(static.bits[r0:r1, c0:c1])
        return cls(closed(road), static.origin_m + np.array([c0, r0]) / bev.MAP_PIXELS_PER_M)


def closed(road: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """The road with narrow gaps and small enclosed patches filled."""
    size = round(CLOSED_M * bev.MAP_PIXELS_PER_M) | 1
    padded = np.pad(road, size)
    filled = np.asarray(ndimage.binary_closing(padded, np.ones((size, size), bool)), bool)[size:-size, size:-size]
    patches = np.empty(filled.shape, np.int32)
    ndimage.label(~filled, output=patches)
    small = np.bincount(patches.ravel()) <= ISLAND_M2 * bev.MAP_PIXELS_PER_M**2
    small[0] = False
    border = np.unique(np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]]))
    small[border] = False  # cut by the raster's edge, so perhaps not small
    return filled | small[patches]


@numba.njit(cache=True, nogil=True)
def outside_share(drivable, origin, x, y, yaw, half_length, half_width):  # pragma: no cover - compiled
    """Share of a footprint's points that lie beside the surface."""
    c = math.cos(yaw)
    s = math.sin(yaw)
    outside = 0
    for i in range(PROBES_LONG):
        ahead = half_length * (2.0 * i / (PROBES_LONG - 1) - 1.0)
        for k in range(PROBES_WIDE):
            left = half_width * (2.0 * k / (PROBES_WIDE - 1) - 1.0)
            column = math.floor((x + ahead * c - left * s - origin[0]) * bev.MAP_PIXELS_PER_M)
            row = math.floor((y + ahead * s + left * c - origin[1]) * bev.MAP_PIXELS_PER_M)
            inside = 0 <= row < drivable.shape[0] and 0 <= column < drivable.shape[1] and drivable[row, column]
            outside += not inside
    return outside / (PROBES_LONG * PROBES_WIDE)
