"""Traffic lights and stop signs of a map: what they hold, their trigger boxes, and which lights are green together."""

import math
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass, replace

import carla
import numpy as np

from simulator.towns.ground import GroundGrid
from simulator.towns.town import Pose, StopPoint, StopSign, TrafficLight, TriggerBox

LIGHT_TYPE, STOP_TYPE = "1000001", "206"
BEFORE_STOP_M, BEYOND_STOP_M = 3.8, 0.4
"""A light's trigger box reaches from before the stop point to just beyond it."""
LANE_SHARE = 0.9
"""Part of the lanes' width that trigger boxes cover, as in CARLA."""
BOX_HALF_HEIGHT_M = 1.5
MAX_TURN_DEG = 60.0
"""A lane that runs farther off the light's direction is not held by it."""
SAME_STREET_DEG = 40.0
ENTRY_DEPTH_M = 1.0
UNCONTROLLED_PHASE = 1000
"""Added to the phase of a light without a controller, to set it behind the ones with."""


@dataclass(frozen=True)
class _Held:
    """The lanes a signal holds: common heading, and per lane its stop point, width and height."""

    yaw_deg: float
    stops: tuple[StopPoint, ...]
    widths_m: tuple[float, ...]
    z_m: float
    junction: int


def derive_stop_signs(town_map: carla.Map, ground: GroundGrid) -> list[StopSign]:
    """All stop signs, sorted by id."""
    signs = []
    for identity, landmarks in _by_id(town_map, STOP_TYPE).items():
        held = _held(town_map, landmarks)
        if held is not None:
            held = _entry_only(held)
            transform = _transform(landmarks[0], held, ground)
            half_m = LANE_SHARE * max(held.widths_m) / 2.0
            signs.append(StopSign(identity, transform, _box(transform, held, 2.0 * half_m, 0.0)))
    return signs


def derive_lights(town_map: carla.Map, root: ET.Element, ground: GroundGrid) -> list[TrafficLight]:
    """All traffic lights, sorted by id; phases counted from 0 in each group."""
    controlled = _controlled(root)
    lights = []
    for identity, landmarks in _by_id(town_map, LIGHT_TYPE).items():
        held = _held(town_map, landmarks)
        if held is None:
            continue
        transform = _transform(landmarks[0], held, ground)
        box = _box(transform, held, BEFORE_STOP_M, BEYOND_STOP_M)
        group, phase = controlled.get(identity, (None, None))
        group = held.junction if group is None else group
        phase = UNCONTROLLED_PHASE if phase is None else phase
        lights.append(TrafficLight(identity, transform, box, group, phase, held.stops))
    return _numbered(lights)


def _by_id(town_map: carla.Map, kind: str) -> dict[str, list[carla.Landmark]]:
    """Landmarks of a type by signal id: one signal is reported once per road that refers to it."""
    found: dict[str, list[carla.Landmark]] = defaultdict(list)
    for landmark in town_map.get_all_landmarks_of_type(kind):
        found[landmark.id].append(landmark)
    return {
        identity: sorted(found[identity], key=lambda landmark: (landmark.road_id, landmark.s))
        for identity in sorted(found, key=lambda text: (len(text), text))
    }


def _turn_deg(a_deg: float, b_deg: float) -> float:
    return (a_deg - b_deg + 180.0) % 360.0 - 180.0


def _held(town_map: carla.Map, landmarks: list[carla.Landmark]) -> _Held | None:
    """The driving lanes that the landmarks of one signal refer to, None if there are none."""
    waypoints = {}
    for landmark in landmarks:
        for first, last in landmark.get_lane_validities():
            for lane_id in range(min(first, last), max(first, last) + 1):
                waypoint = town_map.get_waypoint_xodr(landmark.road_id, lane_id, landmark.s) if lane_id else None
                if waypoint is not None and waypoint.lane_type == carla.LaneType.Driving:
                    waypoints[landmark.road_id, lane_id] = waypoint
    facing_deg = landmarks[0].transform.rotation.yaw
    kept = [
        w for w in waypoints.values() if abs(_turn_deg(w.transform.rotation.yaw, facing_deg)) < MAX_TURN_DEG
    ] or list(waypoints.values())
    if not kept:
        return None
    yaw_rad = np.radians([w.transform.rotation.yaw for w in kept])
    yaw_deg = math.degrees(math.atan2(np.sin(yaw_rad).sum(), np.cos(yaw_rad).sum()))
    stops = tuple(_stop_point(waypoint) for waypoint in kept)
    junction = kept[0].junction_id if kept[0].is_junction else kept[0].road_id
    z_m = float(np.mean([w.transform.location.z for w in kept]))
    return _Held(yaw_deg, stops, tuple(w.lane_width for w in kept), z_m, junction)


def _entry_only(held: _Held) -> _Held:
    """Without stop points deep in the junction, where Town07 has some for its turns: one meets the first ones first."""
    yaw_rad = math.radians(held.yaw_deg)
    along_m = [stop.x_m * math.cos(yaw_rad) + stop.y_m * math.sin(yaw_rad) for stop in held.stops]
    kept = [i for i, at_m in enumerate(along_m) if at_m < min(along_m) + ENTRY_DEPTH_M]
    return replace(held, stops=tuple(held.stops[i] for i in kept), widths_m=tuple(held.widths_m[i] for i in kept))


def _stop_point(waypoint: carla.Waypoint) -> StopPoint:
    place, yaw_deg = waypoint.transform.location, _turn_deg(waypoint.transform.rotation.yaw, 0.0)
    return StopPoint(place.x, place.y, yaw_deg, waypoint.road_id, waypoint.lane_id)


def _transform(landmark: carla.Landmark, held: _Held, ground: GroundGrid) -> Pose:
    """Upright on the ground at the signal's place, local x axis across the held lanes."""
    place = landmark.transform.location
    z_m = float(ground.heights(np.array([place.x]), np.array([place.y]), np.array([held.z_m]))[0])
    return (place.x, place.y, held.z_m if math.isnan(z_m) else z_m, 0.0, _turn_deg(held.yaw_deg + 90.0, 0.0), 0.0)


def _box(transform: Pose, held: _Held, before_m: float, beyond_m: float) -> TriggerBox:
    """Box over the held lanes around their stop points, in the frame of the transform."""
    yaw_rad = math.radians(transform[4])
    across, back = (math.cos(yaw_rad), math.sin(yaw_rad)), (-math.sin(yaw_rad), math.cos(yaw_rad))
    local = [
        tuple((stop.x_m - transform[0]) * axis[0] + (stop.y_m - transform[1]) * axis[1] for axis in (across, back))
        for stop in held.stops
    ]
    half_lanes_m = [LANE_SHARE * width_m / 2.0 for width_m in held.widths_m]
    low_x_m = min(x_m - half_m for (x_m, _), half_m in zip(local, half_lanes_m, strict=True))
    high_x_m = max(x_m + half_m for (x_m, _), half_m in zip(local, half_lanes_m, strict=True))
    low_y_m = min(y_m for _, y_m in local) - beyond_m
    high_y_m = max(y_m for _, y_m in local) + before_m
    centre_m = ((low_x_m + high_x_m) / 2.0, (low_y_m + high_y_m) / 2.0, held.z_m - transform[2] + BOX_HALF_HEIGHT_M)
    return TriggerBox(centre_m, ((high_x_m - low_x_m) / 2.0, (high_y_m - low_y_m) / 2.0, BOX_HALF_HEIGHT_M))


def _controlled(root: ET.Element) -> dict[str, tuple[int | None, int]]:
    """(junction, order in its sequence) of every signal that a controller names."""
    junction_of = {}
    for junction in root.iterfind("junction"):
        for controller in junction.iterfind("controller"):
            junction_of[controller.get("id")] = int(junction.get("id", "-1"))
    found = {}
    for controller in root.iterfind("controller"):
        text = controller.get("sequence", "")
        sequence = int(text) if text.isdecimal() else 0
        for control in controller.iterfind("control"):
            found[control.get("signalId", "")] = (junction_of.get(controller.get("id")), sequence)
    return found


def _numbered(lights: list[TrafficLight]) -> list[TrafficLight]:
    """The lights with phases counted from 0; without controllers opposite approaches share a phase."""
    groups: dict[int, list[TrafficLight]] = defaultdict(list)
    for light in lights:
        groups[light.group].append(light)
    phase_of: dict[str, int] = {}
    for members in groups.values():
        streets: list[float] = []
        keys = {}
        for light in members:
            key = light.phase
            if key == UNCONTROLLED_PHASE:
                key += _street(streets, light.transform[4])
            keys[light.opendrive_id] = key
        order = sorted(set(keys.values()))
        phase_of.update({identity: order.index(key) for identity, key in keys.items()})
    return [replace(light, phase=phase_of[light.opendrive_id]) for light in lights]


def _street(streets: list[float], yaw_deg: float) -> int:
    """Index of the street (direction up to 180 degrees) this heading belongs to; a new one is appended."""
    for index, other_deg in enumerate(streets):
        turn_deg = abs(_turn_deg(yaw_deg, other_deg))
        if min(turn_deg, 180.0 - turn_deg) < SAME_STREET_DEG:
            return index
    streets.append(yaw_deg)
    return len(streets) - 1
