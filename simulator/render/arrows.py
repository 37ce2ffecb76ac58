"""Turn arrows painted on the lanes before junctions."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import defaultdict

import carla
import numpy as np

from simulator.render.mesh import MARKING, MIDDLE, MeshBuilder
from simulator.render.roads import MARK_LIFT_M, WHITE

BEFORE_JUNCTION_M = 14.0
TURN_DEG = 40.0
"""Ways through a junction that turn by less go straight on."""

LEFT, STRAIGHT, RIGHT = "left", "straight", "right"
_SHAFT = ((-0.09, -1.6), (0.09, -1.6), (0.09, 0.9), (-0.09, 0.9))
_TIP = ((-0.32, 0.9), (0.32, 0.9), (0.0, 2.0))
_SIDE_SHAFT = ((0.0, -0.25), (0.55, 0.30), (0.55, 0.55), (0.0, 0.05))
_SIDE_TIP = ((0.5, 0.02), (1.05, 0.62), (0.42, 0.86))
"""Outlines (right, forward) in metres; those of side arrows are for the right."""


def add_arrows(mesh: MeshBuilder, carla_map: carla.Map, root: ET.Element) -> int:
    """Arrows on lanes that do not lead everywhere; returns their number."""
    ways: dict[tuple[int, int], set[str]] = defaultdict(set)
    entries: dict[tuple[int, int], carla.Waypoint] = {}
    for junction in _junctions(carla_map, root):
        for begin, end in junction.get_waypoints(carla.LaneType.Driving):
            before = begin.previous(1.0)
            if not before or before[0].is_junction:
                continue
            key = before[0].road_id, before[0].lane_id
            entries[key] = before[0]
            turn = (end.transform.rotation.yaw - begin.transform.rotation.yaw + 180.0) % 360.0 - 180.0
            ways[key].add(STRAIGHT if abs(turn) < TURN_DEG else RIGHT if turn > 0 else LEFT)
    count = 0
    for key, turns in sorted(ways.items()):
        if len(turns) == 3 or (turns == {STRAIGHT}):
            continue
        found = entries[key].previous(BEFORE_JUNCTION_M)
        if len(found) != 1 or found[0].is_junction or found[0].lane_width < 2.5:
            continue
        _paint(mesh, found[0].transform, turns)
        count += 1
    return count


def _junctions(carla_map: carla.Map, root: ET.Element) -> list[carla.Junction]:
    """One object per junction of the file, found through its connecting roads."""
    found = {}
    for road in root.findall("road"):
        junction_id = int(road.get("junction", -1))
        if junction_id < 0 or junction_id in found:
            continue
        for lane in road.iter("lane"):
            waypoint = carla_map.get_waypoint_xodr(int(road.get("id", -1)), int(lane.get("id", 0)), 0.1)
            if waypoint is not None and waypoint.is_junction:
                found[junction_id] = waypoint.get_junction()
                break
    return [found[key] for key in sorted(found)]


def _paint(mesh: MeshBuilder, at: carla.Transform, turns: set[str]) -> None:
    yaw, pitch = math.radians(at.rotation.yaw), math.radians(at.rotation.pitch)
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
    origin = np.array([at.location.x, at.location.y, at.location.z + MARK_LIFT_M])
    shapes: list[tuple[tuple[float, float], ...]] = (
        [_SHAFT] if STRAIGHT in turns else [((-0.09, -1.6), (0.09, -1.6), (0.09, 0.3), (-0.09, 0.3))]
    )
    if STRAIGHT in turns:
        shapes.append(_TIP)
    for turn, sign in ((RIGHT, 1.0), (LEFT, -1.0)):
        if turn in turns:
            shapes += [tuple((sign * x, y) for x, y in shape) for shape in (_SIDE_SHAFT, _SIDE_TIP)]
    for shape in shapes:
        corners = np.array([origin + x * right + y * forward for x, y in shape])
        order = [(0, k, k + 1) for k in range(1, len(corners) - 1)]
        if np.cross(corners[1] - corners[0], corners[2] - corners[0])[2] < 0:
            order = [(a, c, b) for a, b, c in order]
        mesh.add(corners, order, WHITE, MARKING, layer=MIDDLE)
