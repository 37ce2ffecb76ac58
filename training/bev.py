"""Privileged bird's-eye view: 43 binary masks, one bit each of a uint64 word per pixel, painted by numba.

Frame bev_px: row 0 is farthest ahead, column 0 farthest left, 2 px/m, the ego at row 90 of 128, column 64, heading up.
World poses are right-handed (x_m, y_m, yaw_rad counter-clockwise).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import carla
import numba
import numpy as np
from jaxtyping import Float64, Int, UInt8, UInt64

SIZE_PX = 128
PIXELS_PER_M = 2.0
EGO_ROW_PX = 90
"""The ego stands 30 % from the bottom: 45 m ahead and 19 m behind are visible."""
CHANNELS = 43
HISTORY_S = (0.0, 0.25, 0.5, 0.75)
"""Ages of the four slices of every dynamic channel."""

ROAD, ROUTE, EGO, EGO_LANES, YELLOW_LINE, WHITE_LINE, SHOULDER = range(7)
VEHICLE, WALKER, BICYCLE, EMERGENCY, OBSTACLE, GREEN, YELLOW, RED, STOP_SIGN = range(7, CHANNELS, len(HISTORY_S))
"""First slice (age 0) of each dynamic channel; the older slices follow it."""

STATIC_NAMES = ("road", "route", "ego", "lanes of the ego's way", "yellow line", "white line", "shoulder, parking")
DYNAMIC_NAMES = (
    "vehicle",
    "walker",
    "bicycle",
    "emergency vehicle",
    "obstacle",
    "green light",
    "yellow light",
    "red light",
    "stop sign",
)
CHANNEL_NAMES = (*STATIC_NAMES, *(f"{name}, {age_s:g} s ago" for name in DYNAMIC_NAMES for age_s in HISTORY_S))
"""What each bit means, lowest first; a light or sign is drawn as the stop line it governs."""

MIN_HALF_EXTENT_M = 0.75
"""Smaller bodies are enlarged to this half size, so that a walker covers a few pixels."""
ROUTE_HALF_WIDTH_M = 1.5
ROUTE_AHEAD_M = 100.0
LINE_HALF_WIDTH_M = 0.3
STOP_LINE_HALF_DEPTH_M = 0.75
PIECE_HALF_M = 0.7
"""Half length of the box painted at a point of a lane or route; the points lie about 1 m apart."""
PIECE_OVERLAP_M = 0.1
"""By how much the longer boxes of points that lie farther apart overlap."""
MAX_PIECE_HALF_M = 1.5
"""No box is longer than this: a plan that leaps does not paint what lies between."""

MAP_PIXELS_PER_M = 4.0
MAP_MARGIN_M = 5.0
MAP_STEP_M = 1.0
MAP_FORMAT = 4
"""Version of the cached static map; part of the cache key."""
_MAP_ROAD, _MAP_YELLOW, _MAP_WHITE, _MAP_SHOULDER = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class StaticMap:
    """Raster of a town's road, lines and shoulders; bit planes in one byte per pixel."""

    bits: UInt8[np.ndarray, "rows columns"]
    origin_m: Float64[np.ndarray, 2]
    """World (x, y) of the corner of pixel (0, 0); rows grow with y, columns with x."""


@dataclass(frozen=True, slots=True)
class Corridor:
    """Dense route with the lateral extent of the lanes that lead the same way."""

    points: Float64[np.ndarray, "n 3"]
    """x_m, y_m, yaw_rad about every metre."""
    left_m: Float64[np.ndarray, " n"]
    right_m: Float64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "2 n 5"] = field(init=False, repr=False)
    """Of each point in the ego-direction lanes and in the route; reckoned once, not at every decision."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _corridor_boxes(self.points, self.left_m, self.right_m))


# ----------------------------------------------------------------------------- painting


@numba.njit(cache=True, nogil=True)
def _paint_map_boxes(bits, origin_x, origin_y, pixels_per_m, boxes, values):  # pragma: no cover - compiled
    rows, columns = bits.shape
    for i in range(boxes.shape[0]):
        x = (boxes[i, 0] - origin_x) * pixels_per_m
        y = (boxes[i, 1] - origin_y) * pixels_per_m
        c = math.cos(boxes[i, 2])
        s = math.sin(boxes[i, 2])
        half_length = boxes[i, 3] * pixels_per_m
        half_width = boxes[i, 4] * pixels_per_m
        reach_x = abs(c) * half_length + abs(s) * half_width
        reach_y = abs(s) * half_length + abs(c) * half_width
        for row in range(max(0, int(y - reach_y)), min(rows - 1, int(y + reach_y) + 1) + 1):
            dy = row + 0.5 - y
            for column in range(max(0, int(x - reach_x)), min(columns - 1, int(x + reach_x) + 1) + 1):
                dx = column + 0.5 - x
                if abs(dx * c + dy * s) <= half_length and abs(dy * c - dx * s) <= half_width:
                    bits[row, column] |= values[i]


@numba.njit(cache=True, nogil=True)
def _sample_map(words, bits, origin_x, origin_y, x, y, yaw, table):  # pragma: no cover - compiled
    """Fill words with the static channels seen from the pose."""
    c = math.cos(yaw)
    s = math.sin(yaw)
    rows, columns = bits.shape
    for row in range(SIZE_PX):
        ahead = (EGO_ROW_PX - row - 0.5) / PIXELS_PER_M
        for column in range(SIZE_PX):
            left = (SIZE_PX / 2 - column - 0.5) / PIXELS_PER_M
            map_column = int((x + ahead * c - left * s - origin_x) * MAP_PIXELS_PER_M)
            map_row = int((y + ahead * s + left * c - origin_y) * MAP_PIXELS_PER_M)
            if 0 <= map_row < rows and 0 <= map_column < columns:
                words[row, column] = table[bits[map_row, map_column]]
            else:
                words[row, column] = 0


@numba.njit(cache=True, nogil=True)
def _paint_boxes(words, x, y, yaw, boxes, channels):  # pragma: no cover - compiled
    """OR oriented boxes (x, y, yaw, half length, half width) into their channels."""
    c = math.cos(yaw)
    s = math.sin(yaw)
    for i in range(boxes.shape[0]):
        dx = boxes[i, 0] - x
        dy = boxes[i, 1] - y
        row = EGO_ROW_PX - (dx * c + dy * s) * PIXELS_PER_M
        column = SIZE_PX / 2 - (dy * c - dx * s) * PIXELS_PER_M
        half_length = boxes[i, 3] * PIXELS_PER_M
        half_width = boxes[i, 4] * PIXELS_PER_M
        cb = math.cos(boxes[i, 2] - yaw)
        sb = math.sin(boxes[i, 2] - yaw)
        reach_row = abs(cb) * half_length + abs(sb) * half_width
        reach_column = abs(sb) * half_length + abs(cb) * half_width
        if row + reach_row < 0 or row - reach_row > SIZE_PX:
            continue
        if column + reach_column < 0 or column - reach_column > SIZE_PX:
            continue
        bit = np.uint64(1) << np.uint64(channels[i])
        for r in range(max(0, int(row - reach_row)), min(SIZE_PX - 1, int(row + reach_row)) + 1):
            ahead = row - r - 0.5
            for k in range(max(0, int(column - reach_column)), min(SIZE_PX - 1, int(column + reach_column)) + 1):
                left = column - k - 0.5
                if abs(ahead * cb + left * sb) <= half_length and abs(left * cb - ahead * sb) <= half_width:
                    words[r, k] |= bit


def _static_table() -> UInt64[np.ndarray, 16]:
    table = np.zeros(16, np.uint64)
    for value in range(16):
        for bit, channel in (
            (_MAP_ROAD, ROAD),
            (_MAP_YELLOW, YELLOW_LINE),
            (_MAP_WHITE, WHITE_LINE),
            (_MAP_SHOULDER, SHOULDER),
        ):
            if value & bit:
                table[value] |= np.uint64(1) << np.uint64(channel)
    return table


_STATIC_TABLE = _static_table()


@dataclass(frozen=True, slots=True)
class DynamicBoxes:
    """Oriented boxes with the channel each is painted into (age included)."""

    boxes: Float64[np.ndarray, "n 5"]
    """x_m, y_m, yaw_rad, half_length_m, half_width_m in the world frame."""
    channels: Int[np.ndarray, " n"]


def paint(
    static: StaticMap,
    ego_pose: tuple[float, float, float],
    ego_half_extent_m: tuple[float, float],
    corridor: Corridor,
    route_index: int,
    dynamic: DynamicBoxes,
) -> UInt64[np.ndarray, "128 128"]:
    """BEV words around the ego (x_m, y_m, yaw_rad); route_index is the corridor point beside the ego."""
    x, y, yaw = ego_pose
    words = np.empty((SIZE_PX, SIZE_PX), np.uint64)
    _sample_map(words, static.bits, static.origin_m[0], static.origin_m[1], x, y, yaw, _STATIC_TABLE)
    boxes, channels = corridor_boxes(corridor, route_index)
    _paint_boxes(words, x, y, yaw, boxes, channels)
    ego = np.array([[x, y, yaw, *ego_half_extent_m]])
    _paint_boxes(words, x, y, yaw, ego, np.array([EGO]))
    if len(dynamic.boxes):
        enlarged = dynamic.boxes.copy()
        enlarged[:, 3:] = np.maximum(enlarged[:, 3:], MIN_HALF_EXTENT_M)
        _paint_boxes(words, x, y, yaw, enlarged, dynamic.channels)
    return words


def corridor_boxes(corridor: Corridor, route_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the route channel (ahead of the ego) and of the ego-direction lanes (also behind)."""
    behind = int(SIZE_PX / PIXELS_PER_M)
    start, stop = max(0, route_index - behind), min(len(corridor.points), route_index + int(ROUTE_AHEAD_M))
    lanes, route = corridor.boxes[0, start:stop], corridor.boxes[1, max(0, route_index) : stop]
    channels = np.empty(len(lanes) + len(route), np.int64)
    channels[: len(lanes)], channels[len(lanes) :] = EGO_LANES, ROUTE
    return np.concatenate([lanes, route]), channels


def _corridor_boxes(points: np.ndarray, left_m: np.ndarray, right_m: np.ndarray) -> Float64[np.ndarray, "2 n 5"]:
    boxes = np.empty((2, len(points), 5))
    boxes[:, :, :3] = points
    middle = 0.5 * (left_m - right_m)
    boxes[0, :, 0] -= middle * np.sin(points[:, 2])
    boxes[0, :, 1] += middle * np.cos(points[:, 2])
    boxes[0, :, 3] = piece_half_lengths_m(points, np.maximum(left_m, right_m))
    boxes[0, :, 4] = 0.5 * (left_m + right_m)
    boxes[1, :, 3] = piece_half_lengths_m(points, np.full(len(points), ROUTE_HALF_WIDTH_M))
    boxes[1, :, 4] = ROUTE_HALF_WIDTH_M
    return boxes


def piece_half_lengths_m(
    points: Float64[np.ndarray, "n 3"], half_width_m: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Half lengths of boxes at consecutive points (x_m, y_m, yaw_rad) that leave no crack between them.

    At the end of a road, where points lie up to 2 m apart, and at the outer edge of a bend PIECE_HALF_M is too short.
    """
    dx, dy, turn = np.diff(points, axis=0).T
    turn = np.remainder(turn + np.pi, 2.0 * np.pi) - np.pi
    heading = points[:-1, 2] + 0.5 * turn
    along = np.abs(dx * np.cos(heading) + dy * np.sin(heading))
    apart = along + np.abs(turn) * np.maximum(half_width_m[:-1], half_width_m[1:])
    needed = np.zeros(len(points))
    needed[:-1] = apart
    needed[1:] = np.maximum(needed[1:], apart)
    return np.clip(0.5 * (needed + PIECE_OVERLAP_M), PIECE_HALF_M, MAX_PIECE_HALF_M)


# ----------------------------------------------------------------------------- static map and corridor


def _pose(waypoint: carla.Waypoint, left_m: float = 0.0) -> tuple[float, float, float]:
    """World pose of a waypoint, moved left_m metres to its left."""
    transform = waypoint.transform
    yaw = -math.radians(transform.rotation.yaw)
    return (
        transform.location.x - left_m * math.sin(yaw),
        -transform.location.y + left_m * math.cos(yaw),
        yaw,
    )


_NO_MARKING = (carla.LaneMarkingType.NONE, carla.LaneMarkingType.Other)
_SHOULDER_TYPES = (carla.LaneType.Shoulder, carla.LaneType.Parking, carla.LaneType.Stop)


def _lane_boxes(waypoint: carla.Waypoint, half_length: float) -> list[tuple[tuple[float, ...], int]]:
    half_width = 0.5 * waypoint.lane_width
    boxes = [((*_pose(waypoint), half_length, half_width + 0.05), _MAP_ROAD)]
    if not waypoint.is_junction:
        for marking, side in ((waypoint.left_lane_marking, 1.0), (waypoint.right_lane_marking, -1.0)):
            if marking.type in _NO_MARKING:
                continue
            bit = _MAP_YELLOW if marking.color == carla.LaneMarkingColor.Yellow else _MAP_WHITE
            boxes.append(((*_pose(waypoint, side * half_width), half_length, LINE_HALF_WIDTH_M), bit))
    neighbour = waypoint.get_right_lane()
    while neighbour is not None and neighbour.lane_type in _SHOULDER_TYPES:
        boxes.append(((*_pose(neighbour), half_length, 0.5 * neighbour.lane_width + 0.05), _MAP_SHOULDER))
        neighbour = neighbour.get_right_lane()
    return boxes


def _lanes(waypoints: Iterable[carla.Waypoint]) -> list[list[carla.Waypoint]]:
    """The waypoints lane by lane, in order, each lane with one more near its end where the last lies short of it.

    carla.Map.generate_waypoints begins at the start of a road and may leave almost a step at its end.
    """

    def lane(waypoint: carla.Waypoint) -> tuple[int, int, int]:
        return waypoint.road_id, waypoint.section_id, waypoint.lane_id

    lanes = []
    for key, group in groupby(sorted(waypoints, key=lambda waypoint: (*lane(waypoint), waypoint.s)), lane):
        found = list(group)
        last = found[-1]
        ahead = last.next(0.5 * MAP_STEP_M) if last.lane_id < 0 else last.previous(0.5 * MAP_STEP_M)
        lanes.append(found + [waypoint for waypoint in ahead if lane(waypoint) == key and waypoint.s > last.s])
    return lanes


def build_static_map(carla_map: carla.Map) -> StaticMap:
    """Rasterise the driving lanes, their lines, parking strips and shoulders of a town."""
    painted: list[tuple[tuple[float, ...], int]] = []
    for lane in _lanes(carla_map.generate_waypoints(MAP_STEP_M)):
        half_widths_m = np.array([0.5 * waypoint.lane_width for waypoint in lane])
        half_lengths_m = piece_half_lengths_m(np.array([_pose(waypoint) for waypoint in lane]), half_widths_m)
        for waypoint, half_length_m in zip(lane, half_lengths_m, strict=True):
            painted += _lane_boxes(waypoint, float(half_length_m))
    if not painted:
        raise ValueError(f"town {carla_map.name!r} has no driving lane to draw")
    boxes = np.array([box for box, _ in painted])
    values = np.array([value for _, value in painted], np.uint8)
    low = boxes[:, :2].min(0) - MAP_MARGIN_M
    high = boxes[:, :2].max(0) + MAP_MARGIN_M
    columns, rows = np.ceil((high - low) * MAP_PIXELS_PER_M).astype(int)
    bits = np.zeros((rows, columns), np.uint8)
    _paint_map_boxes(bits, low[0], low[1], MAP_PIXELS_PER_M, boxes, values)
    return StaticMap(bits=bits, origin_m=low)


def cache_folder() -> Path:
    """Where derived town data is kept: $XDG_CACHE_HOME/raw2drive or ~/.cache/raw2drive."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "raw2drive"


def load_static_map(carla_map: carla.Map) -> StaticMap:
    """The town's static map, from the cache where the same OpenDRIVE text was rasterised before."""
    digest = hashlib.sha256(carla_map.to_opendrive().encode()).hexdigest()[:16]
    path = cache_folder() / f"bev-{digest}-{MAP_FORMAT}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            return StaticMap(bits=arrays["bits"], origin_m=arrays["origin_m"])
    static = build_static_map(carla_map)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(partial, bits=static.bits, origin_m=static.origin_m)
    partial.replace(path)
    return static


def road_or_shoulder(bits: UInt8[np.ndarray, "*shape"]) -> np.ndarray:
    """Where a static map's bits show a driving lane, a shoulder or a parking strip."""
    return (bits & (_MAP_ROAD | _MAP_SHOULDER)) != 0


def _same_way_extent(waypoint: carla.Waypoint, *, left: bool) -> float:
    """Distance from the waypoint to the outer edge of the lanes of its direction on one side."""
    extent = 0.5 * waypoint.lane_width
    if waypoint.is_junction:
        return extent
    step = waypoint.get_left_lane if left else waypoint.get_right_lane
    neighbour = step()
    while (
        neighbour is not None
        and neighbour.lane_type == carla.LaneType.Driving
        and neighbour.lane_id * waypoint.lane_id > 0
    ):
        extent += neighbour.lane_width
        neighbour = neighbour.get_left_lane() if left else neighbour.get_right_lane()
    return extent


def build_corridor(waypoints: Sequence[carla.Waypoint]) -> Corridor:
    """Corridor of a dense route given as waypoints about every metre."""
    return Corridor(
        points=np.array([_pose(waypoint) for waypoint in waypoints]),
        left_m=np.array([_same_way_extent(waypoint, left=True) for waypoint in waypoints]),
        right_m=np.array([_same_way_extent(waypoint, left=False) for waypoint in waypoints]),
    )


# ----------------------------------------------------------------------------- reading words


def unpack(words: UInt64[np.ndarray, "*batch"], channels: Sequence[int]) -> UInt8[np.ndarray, " channels *batch"]:
    """The given channels as separate 0/1 masks, channel axis first."""
    return np.stack([((words >> np.uint64(channel)) & np.uint64(1)).astype(np.uint8) for channel in channels])


def pool(words: UInt64[np.ndarray, "*batch rows columns"], factor: int) -> UInt64[np.ndarray, "*batch r c"]:
    """OR of factor x factor blocks: a coarse pixel holds what any of its pixels holds."""
    *batch, rows, columns = words.shape
    if rows % factor or columns % factor:
        raise ValueError(f"cannot pool {rows}x{columns} words by {factor}")
    pooled = np.zeros((*batch, rows // factor, columns // factor), np.uint64)
    for row in range(factor):  # five times as fast as reducing over short axes
        for column in range(factor):
            pooled |= words[..., row::factor, column::factor]
    return pooled


def crop(
    words: UInt64[np.ndarray, "*batch 128 128"], ahead_m: tuple[float, float], left_m: tuple[float, float]
) -> UInt64[np.ndarray, "*batch rows columns"]:
    """The part of the view between ahead_m = (rear, front) and left_m = (right, left), edges on pixel borders."""
    edges = np.array(
        [
            EGO_ROW_PX - ahead_m[1] * PIXELS_PER_M,
            EGO_ROW_PX - ahead_m[0] * PIXELS_PER_M,
            SIZE_PX / 2 - left_m[1] * PIXELS_PER_M,
            SIZE_PX / 2 - left_m[0] * PIXELS_PER_M,
        ]
    )
    if np.any(edges != np.round(edges)) or edges.min() < 0 or edges.max() > SIZE_PX:
        raise ValueError(f"crop {ahead_m} x {left_m} m leaves the view or does not end on a pixel border")
    top, bottom, first, last = edges.astype(int)
    return words[..., top:bottom, first:last]


PALETTE: tuple[tuple[int, tuple[int, int, int]], ...] = (
    (ROAD, (70, 70, 70)),
    (SHOULDER, (90, 80, 70)),
    (EGO_LANES, (95, 105, 95)),
    (ROUTE, (110, 140, 110)),
    (WHITE_LINE, (230, 230, 230)),
    (YELLOW_LINE, (230, 200, 60)),
    *((VEHICLE + age, (50 * (4 - age), 60, 60)) for age in (3, 2, 1)),
    (VEHICLE, (90, 150, 255)),
    (EMERGENCY, (255, 60, 255)),
    (BICYCLE, (60, 220, 220)),
    (WALKER, (255, 160, 200)),
    (OBSTACLE, (180, 120, 60)),
    (GREEN, (40, 220, 40)),
    (YELLOW, (250, 220, 0)),
    (RED, (255, 40, 40)),
    (STOP_SIGN, (200, 0, 120)),
    (EGO, (255, 255, 255)),
)
"""Drawing order and colours of a picture of the words."""


def picture(words: UInt64[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """RGB picture of the masks for people."""
    image = np.full((*words.shape, 3), (25, 40, 25), np.uint8)
    for channel, colour in PALETTE:
        image[(words >> np.uint64(channel)) & np.uint64(1) > 0] = colour
    return image
