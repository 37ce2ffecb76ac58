"""Traffic lights, stop, yield and speed limit signs from the OpenDRIVE signals, and stop lines before them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import carla
import numpy as np

from simulator import labels
from simulator.render.mesh import MIDDLE, PLAIN, Colour, MeshBuilder
from simulator.render.passages import Passages
from simulator.render.roads import add_stop_line
from simulator.render.terrain import Land

TRAFFIC_LIGHT, STOP, YIELD, SPEED_LIMIT = "1000001", "206", "205", "274"
"""OpenDRIVE signal types in CARLA's towns."""

LAMP_RADIUS_M = 0.24
LAMP_SPACING_M = 0.56
MAST_HEAD_M = 5.0
"""Height of the lowest lamp of a head on a mast arm."""

POST_HEAD_M = 2.3
FAR_SIDE_M = 8.0
"""Lights at least this far beyond the stop line get an arm over the lanes."""

MAXIMUM_ARM_M = 10.0
SIGN_HEIGHT_M = 2.3
SIGN_RADIUS_M = 0.45
POLE_RADIUS_M, POST_RADIUS_M = 0.11, 0.04
POLE_FOOT_M = 0.6
"""How far poles reach below the ground."""

STEEL = (0.16, 0.16, 0.17)
HOUSING = (0.018, 0.018, 0.018)
BACK = (0.25, 0.25, 0.26)
UNLIT = ((0.10, 0.010, 0.008), (0.09, 0.055, 0.005), (0.008, 0.07, 0.025))
RED, PLATE_WHITE, BLACK = (0.62, 0.02, 0.025), (0.85, 0.85, 0.85), (0.02, 0.02, 0.02)

_SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc",
    "5": "afgcd", "6": "afgedc", "7": "abc", "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip


@dataclass(frozen=True)
class SignalLamps:
    """The lamps of all traffic lights. `signal` indexes `signal_ids`; `aspect` is 0 red, 1 yellow, 2 green."""

    positions: np.ndarray
    normals: np.ndarray
    signal: np.ndarray
    aspect: np.ndarray
    heights: np.ndarray
    """above the ground"""
    signal_ids: tuple[str, ...]


@dataclass(frozen=True)
class _Approach:
    """Where a controlled lane enters: its centre on the stop line, travel direction (yaw), width."""

    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    width_m: float


def add_signals(
    mesh: MeshBuilder,
    carla_map: carla.Map,
    root: ET.Element,
    land: Land,
    crosswalks: Sequence[np.ndarray],
    room: Passages,
) -> SignalLamps:
    """Add all signals; `root` is the parsed OpenDRIVE text. Returns the traffic lights' lamps.

    Those that the text puts onto a lane stand beside it.
    """
    roads = {int(road.get("id", -1)): road for road in root.findall("road")}
    entries: dict[tuple[str, str], list[carla.Landmark]] = defaultdict(list)
    for landmark in carla_map.get_all_landmarks():
        entries[landmark.type, str(landmark.id)].append(landmark)
    lamps: list[tuple[float, ...]] = []
    signal_ids = []
    stop_lines: dict[tuple[int, int], _Approach] = {}
    for (kind, signal_id), landmarks in sorted(entries.items()):
        transform = landmarks[0].transform
        x, y = transform.location.x, transform.location.y
        yaw = math.radians(transform.rotation.yaw)
        ground = float(land.lane_height_m(np.array([[x, y]]))[0])
        x, y = room.beside(x, y, ground)
        approaches = _approaches(carla_map, roads, landmarks, yaw)
        if kind == TRAFFIC_LIGHT:
            with mesh.whole(labels.TRAFFIC_LIGHT, yaw), mesh.labelled(labels.POLES):
                made = _add_traffic_light(mesh, x, y, ground, yaw, approaches)
            with mesh.labelled(labels.POLES):
                _add_solid_post(mesh, x, y, ground, POLE_RADIUS_M, MAST_HEAD_M, signal_id)
            lamps += [(*lamp, len(signal_ids), lamp[2] - ground) for lamp in made]
            signal_ids.append(signal_id)
        else:
            with mesh.whole(labels.TRAFFIC_SIGNS, yaw):
                if kind == STOP:
                    _add_stop_sign(mesh, x, y, ground, yaw)
                elif kind == YIELD:
                    _add_yield_sign(mesh, x, y, ground, yaw)
                elif kind == SPEED_LIMIT and float(land.clearance_at(x, y)) > 0.3:
                    _add_speed_limit(mesh, x, y, ground, yaw, landmarks[0].value)
                else:
                    continue
                with mesh.labelled(labels.POLES):
                    _add_solid_post(mesh, x, y, ground, POST_RADIUS_M, SIGN_HEIGHT_M, signal_id)
        if kind in (TRAFFIC_LIGHT, STOP):
            stop_lines.update({(round(a.x_m * 2), round(a.y_m * 2)): a for a in approaches})
    for approach in stop_lines.values():
        _add_line_before_crosswalks(mesh, approach, crosswalks)
    table = np.array(lamps, np.float32).reshape(-1, 9)
    return SignalLamps(
        positions=table[:, :3],
        normals=table[:, 3:6],
        aspect=table[:, 6].astype(np.int32),
        signal=table[:, 7].astype(np.int32),
        heights=table[:, 8],
        signal_ids=tuple(signal_ids),
    )


def _add_solid_post(
    mesh: MeshBuilder, x: float, y: float, ground: float, radius_m: float, height_m: float, signal_id: str
) -> None:
    size = (2.0 * radius_m, 2.0 * radius_m, height_m + POLE_FOOT_M)
    mesh.solid((x, y, ground - POLE_FOOT_M), size, signal=signal_id)


def _approaches(
    carla_map: carla.Map, roads: dict[int, ET.Element], landmarks: Sequence[carla.Landmark], yaw_rad: float
) -> list[_Approach]:
    """Entry points of the lanes a signal is valid for, as far as they run in its direction."""
    found = []
    for landmark in landmarks:
        road = roads.get(landmark.road_id)
        if road is None:
            continue
        length = float(road.get("length", 0.0))
        in_junction = road.get("junction", "-1") != "-1"
        for low, high in landmark.get_lane_validities():
            for lane_id in range(min(low, high), max(low, high) + 1):
                s = (0.05 if lane_id < 0 else length - 0.05) if in_junction else landmark.s
                waypoint = None if lane_id == 0 else carla_map.get_waypoint_xodr(landmark.road_id, lane_id, s)
                if waypoint is None or waypoint.lane_type != carla.LaneType.Driving:
                    continue
                transform = waypoint.transform
                heading = math.radians(transform.rotation.yaw)
                if math.cos(heading - yaw_rad) < 0.5:
                    continue
                at = transform.location
                found.append(_Approach(at.x, at.y, at.z, heading, waypoint.lane_width))
    return found


def _add_line_before_crosswalks(mesh: MeshBuilder, approach: _Approach, crosswalks: Sequence[np.ndarray]) -> None:
    """Paint the stop line at the lane's end, or before a crosswalk that lies there."""
    forward = np.array([math.cos(approach.yaw_rad), math.sin(approach.yaw_rad)])
    at = np.array([approach.x_m, approach.y_m])
    back_m = 0.3
    for polygon in crosswalks:
        local = polygon[:, :2] - at
        along = local @ forward
        across = local @ np.array([-forward[1], forward[0]])
        if across.min() < 0.0 < across.max() and -9.0 < along.min() < 1.0 and along.max() > -8.0:
            back_m = max(back_m, 0.6 - float(along.min()))
    x, y = at - forward * back_m
    add_stop_line(mesh, x, y, approach.z_m, approach.yaw_rad, approach.width_m)


# --- traffic lights -----------------------------------------------------------------------------------------------


def _add_traffic_light(
    mesh: MeshBuilder, x: float, y: float, ground: float, yaw: float, approaches: Sequence[_Approach]
) -> list[tuple[float, ...]]:
    """A pole with a head, and on the far side of a junction an arm with a second one. Returns lamp tuples."""
    forward, right = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
    offsets = np.array([(x - a.x_m, y - a.y_m) for a in approaches]).reshape(-1, 2)
    ahead = float(np.median(offsets @ forward)) if len(offsets) else 0.0
    beside = float(np.mean(offsets @ right)) if len(offsets) else 0.0
    arm = min(max(abs(beside) - 1.0, 0.0), MAXIMUM_ARM_M)
    top = ground + MAST_HEAD_M + 2.0 * LAMP_SPACING_M + 0.6
    mesh.cylinder((x, y, ground - POLE_FOOT_M), POLE_RADIUS_M, top - ground + POLE_FOOT_M, STEEL, PLAIN, sides=6)
    foot = np.array([x, y])
    lamps = _add_head(mesh, foot - forward * 0.15, ground + POST_HEAD_M, yaw)
    if ahead > FAR_SIDE_M or arm > 1.5:
        reach = arm if ahead > FAR_SIDE_M else min(arm, 3.0)
        towards = -math.copysign(1.0, beside) * right
        end = foot + towards * reach
        middle = (foot + end) / 2.0
        beam_yaw = math.atan2(towards[1], towards[0])
        mesh.box(
            (*middle, top - 0.2), (reach, 0.12, 0.12), STEEL, PLAIN, yaw_rad=beam_yaw, layer=MIDDLE, open_bottom=False
        )
        lamps += _add_head(mesh, end - forward * 0.15, ground + MAST_HEAD_M, yaw)
    else:
        lamps += _add_head(mesh, foot - forward * 0.15, ground + MAST_HEAD_M - 0.6, yaw)
    return lamps


def _add_head(mesh: MeshBuilder, at: np.ndarray, lowest_m: float, yaw: float) -> list[tuple[float, ...]]:
    """A housing with three lamps that face drivers who travel along `yaw`; `lowest_m` is the green lamp's height."""
    with mesh.labelled(labels.TRAFFIC_LIGHT):
        return _add_labelled_head(mesh, at, lowest_m, yaw)


def _add_labelled_head(mesh: MeshBuilder, at: np.ndarray, lowest_m: float, yaw: float) -> list[tuple[float, ...]]:
    forward = np.array([math.cos(yaw), math.sin(yaw)])
    height = 2.0 * LAMP_SPACING_M + 2.5 * LAMP_RADIUS_M
    bottom = lowest_m - 1.25 * LAMP_RADIUS_M
    mesh.box((*at, bottom), (0.3, 0.64, height), HOUSING, PLAIN, yaw_rad=yaw, open_bottom=False)
    plate = at + forward * 0.05
    mesh.box((*plate, bottom - 0.18), (0.04, 1.0, height + 0.36), HOUSING, PLAIN, yaw_rad=yaw, open_bottom=False)
    lamps = []
    for aspect in range(3):
        centre = np.array([*(at - forward * 0.17), lowest_m + (2 - aspect) * LAMP_SPACING_M])
        _add_plate(mesh, centre, yaw, _polygon(8, LAMP_RADIUS_M, 0.0), UNLIT[aspect], 0.0)
        lamps.append((*(centre - [*(forward * 0.06), 0.0]), -forward[0], -forward[1], 0.0, float(aspect)))
    return lamps


# --- signs --------------------------------------------------------------------------------------------------------


def _add_plate(
    mesh: MeshBuilder, centre: np.ndarray, yaw: float, outline: np.ndarray, colour: Colour, lift_m: float
) -> None:
    """A flat convex polygon facing drivers who travel along `yaw`; outline (n, 2) is right and up as they see it."""
    right, up = np.array([-math.sin(yaw), math.cos(yaw), 0.0]), np.array([0.0, 0.0, 1.0])
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    vertices = np.asarray(centre) + outline[:, :1] * right + outline[:, 1:] * up - forward * lift_m
    normal = np.cross(vertices[1] - vertices[0], vertices[2] - vertices[0])
    order = [(0, i, i + 1) for i in range(1, len(outline) - 1)]
    if normal @ forward > 0:
        order = [(a, c, b) for a, b, c in order]
    mesh.add(vertices, order, colour, PLAIN, layer=MIDDLE)


def _polygon(sides: int, radius_m: float, phase: float) -> np.ndarray:
    angle = phase + np.arange(sides) * 2.0 * math.pi / sides
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius_m


def _add_post(mesh: MeshBuilder, x: float, y: float, ground: float, yaw: float, outline: np.ndarray) -> np.ndarray:
    """The post and the grey back of a sign; returns the plate's centre."""
    centre = np.array([x, y, ground + SIGN_HEIGHT_M])
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    foot = (x + 0.06 * forward[0], y + 0.06 * forward[1], ground - 0.5)
    with mesh.labelled(labels.POLES):
        mesh.cylinder(foot, POST_RADIUS_M, SIGN_HEIGHT_M + 0.8, BACK, PLAIN, sides=4)
    _add_plate(mesh, centre, yaw + math.pi, outline, BACK, 0.0)
    return centre


def _add_stop_sign(mesh: MeshBuilder, x: float, y: float, ground: float, yaw: float) -> None:
    phase = math.pi / 8.0
    outer = _polygon(8, SIGN_RADIUS_M, phase)
    centre = _add_post(mesh, x, y, ground, yaw, outer)
    _add_plate(mesh, centre, yaw, outer, PLATE_WHITE, 0.01)
    _add_plate(mesh, centre, yaw, outer * 0.91, RED, 0.02)
    for i in range(4):
        left = (-0.30 + 0.16 * i) / 0.45 * SIGN_RADIUS_M
        letter = np.array([(left, -0.08), (left + 0.11, -0.08), (left + 0.11, 0.08), (left, 0.08)])
        _add_plate(mesh, centre, yaw, letter, PLATE_WHITE, 0.03)


def _add_yield_sign(mesh: MeshBuilder, x: float, y: float, ground: float, yaw: float) -> None:
    outer = _polygon(3, SIGN_RADIUS_M * 1.15, -math.pi / 2.0)
    centre = _add_post(mesh, x, y, ground, yaw, outer)
    _add_plate(mesh, centre, yaw, outer, RED, 0.01)
    _add_plate(mesh, centre, yaw, outer * 0.6, PLATE_WHITE, 0.02)


def _add_speed_limit(mesh: MeshBuilder, x: float, y: float, ground: float, yaw: float, value: float) -> None:
    outer = _polygon(12, SIGN_RADIUS_M, 0.0)
    centre = _add_post(mesh, x, y, ground, yaw, outer)
    _add_plate(mesh, centre, yaw, outer, RED, 0.01)
    _add_plate(mesh, centre, yaw, outer * 0.78, PLATE_WHITE, 0.02)
    digits = str(max(0, round(value)))
    for i, digit in enumerate(digits):
        shift = (i - (len(digits) - 1) / 2.0) * 0.21
        for segment in _SEGMENTS[digit]:
            _add_plate(mesh, centre, yaw, _segment(segment) + np.array([shift, 0.0]), BLACK, 0.03)


def _segment(name: str) -> np.ndarray:
    """Outline of one bar of a seven-segment digit, 0.15 m wide and 0.34 m high."""
    w, h, t = 0.075, 0.17, 0.045
    x0, x1, y0, y1 = {
        "a": (-w, w, h - t, h), "g": (-w, w, -t / 2, t / 2), "d": (-w, w, -h, -h + t),
        "f": (-w, -w + t, 0, h), "b": (w - t, w, 0, h), "e": (-w, -w + t, -h, 0), "c": (w - t, w, -h, 0),
    }[name]  # fmt: skip
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
