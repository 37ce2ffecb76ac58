"""Privileged view of a running episode through the CARLA client: others, lights, signs, the dense route.

CARLA's left-handed degrees end here; what leaves is in the right-handed world frame (metres, radians).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import carla
import numpy as np

from eval.criteria import TICK_S, SignalBox, stop_line
from eval.planner import DensePlan, RoadOption
from eval.scenarios.lanes import behind, lane_path
from training import bev
from training.expert import Scene, nearest_index
from training.forecast import LANE_MPS, Kind, Others, wrap
from training.sidestep import LaneTable

TICKS_PER_SLICE = 5
"""BEV history slices lie 0.25 s apart: five ticks of 0.05 s."""
VIEW_RADIUS_M = 160.0
OTHER_LEVEL_M = 8.0
"""Who is so much higher or lower is on another road."""
DRIVABLE = ("dirtdebris", "trigger")
"""Props that are no obstacle."""
STANDING_MPS = 0.2
ON_LANE_M = 1.3
ON_LANE_RAD = 0.4
"""Who is nearer to a lane's middle, and turned less, follows it."""
WAY_AHEAD_M = 120.0
WAY_STEP = 2
WAY_PIECE_M = 10.0
STOP_LINE_LATERAL_M = 1.5
"""A stop line belongs to the route if the route passes its middle closer than this."""
SizeOf = Callable[[carla.Actor], tuple[float, float]]
EMERGENCY_TICKS = 5
"""Lights are asked for so often: that is a call to the server, and costs as much as all the rest of a tick."""
EMERGENCY_LIGHT = int(carla.VehicleLightState.Special1)
EMERGENCY = ("ambulance", "firetruck", "police")
TWO_WHEELED = ("bicycle", "motorcycle")
LIGHT_CHANNELS = {
    carla.TrafficLightState.Red: bev.RED,
    carla.TrafficLightState.Yellow: bev.YELLOW,
    carla.TrafficLightState.Green: bev.GREEN,
}
KINDS = {
    bev.VEHICLE: Kind.VEHICLE,
    bev.BICYCLE: Kind.BICYCLE,
    bev.WALKER: Kind.WALKER,
    bev.OBSTACLE: Kind.THING,
    bev.EMERGENCY: Kind.EMERGENCY,
}


@dataclass(frozen=True, slots=True)
class _Body:
    """What never changes about an actor."""

    actor: carla.Actor
    channel: int
    half_length_m: float
    half_width_m: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Signal:
    """A light's or sign's stop line on one lane."""

    actor_id: int
    pose: tuple[float, float, float]
    half_width_m: float
    light: carla.TrafficLight | None
    arc_m: float | None
    """Where the ego's route crosses it; None for other lanes."""


def actor_size_m(actor: carla.Actor) -> tuple[float, float]:
    """Half length and half width of an actor's box."""
    extent = actor.bounding_box.extent
    return max(extent.x, 0.2), max(extent.y, 0.2)


def world_pose(transform: carla.Transform) -> tuple[float, float, float]:
    """x_m, y_m, yaw_rad in the right-handed world frame."""
    location = transform.location
    return location.x, -location.y, -math.radians(transform.rotation.yaw)


class LaneWays:
    """The lanes that vehicles follow, as points ahead of them; remembered by piece of lane."""

    def __init__(self, carla_map: carla.Map) -> None:
        self._map = carla_map
        self._known: dict[tuple[int, int, int, int], np.ndarray] = {}

    def ahead_of(self, pose: np.ndarray, height_m: float) -> np.ndarray | None:
        """The lane ahead of a pose (x_m, y_m, yaw_rad); None inside a junction and for who is not on a lane."""
        location = carla.Location(float(pose[0]), -float(pose[1]), height_m)
        waypoint = self._map.get_waypoint(location, True, carla.LaneType.Driving)
        if waypoint is None or waypoint.is_junction:
            return None
        x, y, yaw = world_pose(waypoint.transform)
        if math.hypot(x - pose[0], y - pose[1]) > ON_LANE_M or abs(wrap(yaw - pose[2])) > ON_LANE_RAD:
            return None
        piece = (waypoint.road_id, waypoint.section_id, waypoint.lane_id, int(waypoint.s / WAY_PIECE_M))
        if piece not in self._known:
            path = lane_path(behind(waypoint, WAY_PIECE_M), WAY_PIECE_M + WAY_AHEAD_M)
            self._known[piece] = np.array([world_pose(transform) for transform in path[::WAY_STEP]])
        return self._known[piece]


@dataclass(frozen=True, slots=True)
class Seen:
    """Who is in view at a tick, and what the lights show, as they are painted."""

    ids: np.ndarray
    """(n,) actor ids."""
    rows: np.ndarray
    """(n, 8): x, y, yaw, velocity x, velocity y, yaw rate, half length, half width."""
    channels: np.ndarray
    """(n,) first BEV channel of each."""
    signal_boxes: np.ndarray
    """(s, 5) all stop lines of the town: x, y, yaw, half length, half width."""
    signal_channels: np.ndarray
    """(s,) first BEV channel of each; -1: not shown."""


class PrivilegedView:
    """Follows one episode tick by tick; gives the expert's scene and the BEV words at any tick."""

    def __init__(self, world: carla.World, ego: carla.Vehicle, plan: DensePlan, size: SizeOf = actor_size_m) -> None:
        """`size`: half length and half width of an actor, such as a stage knows them, open doors included."""
        self._world = world
        self._size = size
        self._ego = ego
        carla_map = world.get_map()
        self._ways = LaneWays(carla_map)
        self.static = bev.load_static_map(carla_map)
        waypoints, self.commands = _route_waypoints(carla_map, plan)
        self.corridor = bev.build_corridor(waypoints)
        self.lanes = read_lanes(waypoints)
        steps = np.hypot(*np.diff(self.corridor.points[:, :2], axis=0).T)
        self.arc_m = np.concatenate([[0.0], np.cumsum(steps)])
        self.index = 0
        self._ticks = 0
        self._bodies = self._read_bodies()
        self._stood_since = np.zeros(len(self._bodies), np.int64)
        self._signals = self._read_signals(carla_map)
        self._lights = {signal.actor_id: signal.light for signal in self._signals}
        owners = list(self._lights)
        self._signal_owner = np.array([owners.index(signal.actor_id) for signal in self._signals], np.int64)
        self._rows = np.empty((0, 6))
        self._log: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=(len(bev.HISTORY_S) - 1) * TICKS_PER_SLICE + 1)
        self._signal_boxes = np.array(
            [(*signal.pose, bev.STOP_LINE_HALF_DEPTH_M, signal.half_width_m) for signal in self._signals]
        ).reshape(-1, 5)
        self._signal_channels = np.empty(0, np.int64)
        self._read_sizes()
        extent = ego.bounding_box.extent
        self._ego_half_m = (extent.x, extent.y)
        self.honoured_signs: set[int] = set()
        """Actor ids of the stop signs at which the ego has stopped: no longer drawn, nor in the way."""
        self._heights_m = np.empty(0)
        self._near = np.empty(0, bool)
        self._near_channels = np.empty(0, np.int64)

    def refresh_actors(self) -> None:
        """Look for actors that appeared or vanished since the start."""
        stood_since = {body.actor.id: since for body, since in zip(self._bodies, self._stood_since, strict=True)}
        self._bodies = self._read_bodies()
        self._stood_since = np.array([stood_since.get(body.actor.id, self._ticks) for body in self._bodies], np.int64)
        self._read_sizes()

    def update(self) -> None:
        """Take in the tick that has just been made."""
        pose = world_pose(self._ego.get_transform())
        self.index = nearest_index(self.corridor.points, pose[:2], self.index)
        snapshot = self._world.get_snapshot()
        states = [snapshot.find(number) for number in self._ids]
        if not all(states):
            self.refresh_actors()  # somebody was taken off the road
            states = [snapshot.find(number) for number in self._ids]
        elif self._ticks % EMERGENCY_TICKS == 0:
            self._read_kinds()
        self._rows, self._heights_m = _rows(states)
        standing = np.hypot(self._rows[:, 3], self._rows[:, 4]) < STANDING_MPS
        self._stood_since[~standing] = self._ticks
        self._ticks += 1
        self._log.appendleft(self._boxes_now())

    def scene(self, *, ways: bool = True) -> Scene:
        """The expert's scene now; `ways`: with the lanes that others follow, which only the expert needs."""
        velocity = self._ego.get_velocity()
        pose = world_pose(self._ego.get_transform())
        speed = velocity.x * math.cos(pose[2]) - velocity.y * math.sin(pose[2])
        rows = self._rows
        near = np.hypot(rows[:, 0] - pose[0], rows[:, 1] - pose[1]) < VIEW_RADIUS_M
        bodies = [body for body, close in zip(self._bodies, near, strict=True) if close]
        along = rows[:, 3] * np.cos(rows[:, 2]) + rows[:, 4] * np.sin(rows[:, 2])
        states = self._signal_channels
        stops = [
            signal.arc_m for signal, state in zip(self._signals, states, strict=True) if state in (bev.RED, bev.YELLOW)
        ]
        signs = [
            signal.arc_m
            for signal in self._signals
            if signal.light is None and signal.actor_id not in self.honoured_signs
        ]
        return Scene(
            pose=pose,
            speed_mps=speed,
            half_length_m=self._ego_half_m[0],
            half_width_m=self._ego_half_m[1],
            corridor=self.corridor,
            arc_m=self.arc_m,
            index=self.index,
            others=Others(
                pose=rows[near, :3],
                speed_mps=along[near],
                yaw_rate_radps=rows[near, 5],
                half_length_m=np.array([body.half_length_m for body in bodies]),
                half_width_m=np.array([body.half_width_m for body in bodies]),
                kind=self._kinds[near],
                parked=np.array([_is_parked(body) for body in bodies], bool),
                ways=self._lane_ways(bodies, rows[near], self._heights_m[near])
                if ways
                else np.full(len(bodies), None, object),
                ids=np.array([body.actor.id for body in bodies], np.int64),
                stood_s=TICK_S * (self._ticks - self._stood_since[near]),
            ),
            red_stop_m=tuple(arc for arc in stops if arc is not None),
            sign_stop_m=tuple(arc for arc in signs if arc is not None),
            speed_limit_mps=max(self._ego.get_speed_limit() / 3.6, 1.0),
            lanes=self.lanes,
        )

    def _lane_ways(self, bodies: Sequence[_Body], rows: np.ndarray, heights_m: np.ndarray) -> np.ndarray:
        ways = np.full(len(bodies), None, object)
        for k, (body, row) in enumerate(zip(bodies, rows, strict=True)):
            if body.kind in (Kind.VEHICLE, Kind.EMERGENCY) and math.hypot(row[3], row[4]) > LANE_MPS:
                ways[k] = self._ways.ahead_of(row[:3], float(heights_m[k]))
        return ways

    def seen(self) -> Seen:
        """Who is in view now."""
        ids = np.array([body.actor.id for body in self._bodies], np.int64)[self._near]
        rows = np.concatenate([self._rows[self._near], self._half_sizes_m[self._near]], 1)
        return Seen(ids, rows, self._near_channels, self._signal_boxes, self._signal_channels)

    def words(self) -> np.ndarray:
        """BEV words (128, 128) around the ego now."""
        slices = [self._log[min(age * TICKS_PER_SLICE, len(self._log) - 1)] for age in range(len(bev.HISTORY_S))]
        boxes = np.concatenate([boxes for boxes, _ in slices])
        channels = np.concatenate([channels + age for age, (_, channels) in enumerate(slices)])
        pose = world_pose(self._ego.get_transform())
        dynamic = bev.DynamicBoxes(boxes, channels)
        return bev.paint(self.static, pose, self._ego_half_m, self.corridor, self.index, dynamic)

    def _boxes_now(self) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 5) of everybody near and of all stop lines, and the first channel of each."""
        location = self._ego.get_location()
        rows = self._rows
        near = np.hypot(rows[:, 0] - location.x, rows[:, 1] + location.y) < VIEW_RADIUS_M
        near &= np.abs(self._heights_m - location.z) < OTHER_LEVEL_M
        boxes = np.empty((int(near.sum()), 5))
        boxes[:, :3] = rows[near, :3]
        boxes[:, 3:] = self._half_sizes_m[near]
        states = [
            -1 if number in self.honoured_signs else _light_channel(light) for number, light in self._lights.items()
        ]
        self._signal_channels = np.array(states, np.int64)[self._signal_owner]
        shown = self._signal_channels >= 0
        channels = self._channels[near]
        self._near, self._near_channels = near, channels
        channels = np.concatenate([channels, self._signal_channels[shown]])
        return np.concatenate([boxes, self._signal_boxes[shown]]), channels

    def _read_sizes(self) -> None:
        self._half_sizes_m = np.array([(body.half_length_m, body.half_width_m) for body in self._bodies]).reshape(-1, 2)
        self._ids = [body.actor.id for body in self._bodies]
        self._read_kinds()

    def _read_kinds(self) -> None:
        """What everybody is and is painted as now: an emergency vehicle without its lights is a vehicle like others."""
        self._kinds = np.array([body.kind for body in self._bodies], np.int64)
        self._channels = np.array([body.channel for body in self._bodies], np.int64)
        emergency = np.flatnonzero(self._kinds == Kind.EMERGENCY)
        if len(emergency):
            lights = self._world.get_vehicles_light_states()
            dark = [k for k in emergency if not int(lights.get(self._ids[k], 0)) & EMERGENCY_LIGHT]
            self._kinds[dark], self._channels[dark] = Kind.VEHICLE, bev.VEHICLE

    def _read_bodies(self) -> list[_Body]:
        bodies = []
        for actor in self._world.get_actors():
            if actor.id == self._ego.id or not actor.type_id.startswith(("vehicle.", "walker.", "static.prop")):
                continue
            if any(word in actor.type_id for word in DRIVABLE):
                continue
            channel = _channel(actor)
            bodies.append(_Body(actor, channel, *self._size(actor), KINDS[channel]))
        return bodies

    def _read_signals(self, carla_map: carla.Map) -> list[_Signal]:
        signals = []
        for actor in self._world.get_actors():
            if actor.type_id not in ("traffic.traffic_light", "traffic.stop"):
                continue
            assert isinstance(actor, carla.TrafficSign)  # the base class of lights, too
            box = SignalBox(actor.id, actor.get_transform(), actor.trigger_volume)
            _, waypoints = stop_line(carla_map, box)
            light = actor if isinstance(actor, carla.TrafficLight) else None
            for waypoint in waypoints:
                pose = world_pose(waypoint.transform)
                signals.append(_Signal(actor.id, pose, 0.5 * waypoint.lane_width, light, self._arc_of(pose)))
        return signals

    def _arc_of(self, pose: tuple[float, float, float]) -> float | None:
        points = self.corridor.points
        distance = np.hypot(points[:, 0] - pose[0], points[:, 1] - pose[1])
        facing = np.cos(points[:, 2] - pose[2]) > 0.7
        distance = np.where(facing, distance, np.inf)
        k = int(np.argmin(distance))
        return float(self.arc_m[k]) if distance[k] < STOP_LINE_LATERAL_M else None


def _route_waypoints(carla_map: carla.Map, plan: DensePlan) -> tuple[list[carla.Waypoint], list[RoadOption]]:
    """A waypoint about every metre with its command; lane changes, which the plan makes in one leap, are drawn out."""
    waypoints: list[carla.Waypoint] = []
    commands: list[RoadOption] = []
    for transform, command in plan:
        waypoint = carla_map.get_waypoint(transform.location)
        if waypoints and waypoint.transform.location.distance(waypoints[-1].transform.location) < 0.3:
            continue
        waypoints.append(waypoint)
        commands.append(command)
    return waypoints, commands


def read_lanes(waypoints: Sequence[carla.Waypoint]) -> LaneTable:
    """The driving lanes beside a route."""
    left_m, right_m = np.full(len(waypoints), np.nan), np.full(len(waypoints), np.nan)
    left_same = np.zeros(len(waypoints), bool)
    inside = np.array([waypoint.is_junction for waypoint in waypoints])
    beside = np.zeros((len(waypoints), 2), bool)
    for k, waypoint in enumerate(waypoints):
        for side, table in (("left", left_m), ("right", right_m)):
            lane = waypoint.get_left_lane() if side == "left" else waypoint.get_right_lane()
            if lane is None or lane.lane_type != carla.LaneType.Driving:
                continue
            same = lane.lane_id * waypoint.lane_id > 0
            beside[k, side == "right"] = same
            if inside[k]:
                continue
            if same or side == "left":
                distance_m = 0.5 * (lane.lane_width + waypoint.lane_width)
                table[k] = distance_m if side == "left" else -distance_m
                left_same[k] |= same and side == "left"
    return LaneTable(left_m, left_same, right_m, inside, beside)


def _rows(states: Sequence[carla.ActorSnapshot]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 6) of x, y, yaw, velocity x, velocity y and yaw rate, and heights (n,)."""
    read = []
    for state in states:
        transform, velocity = state.get_transform(), state.get_velocity()
        location = transform.location
        turn_degps = state.get_angular_velocity().z
        read.append((location.x, location.y, transform.rotation.yaw, velocity.x, velocity.y, turn_degps, location.z))
    values = np.array(read).reshape(-1, 7)  # one conversion for all: numpy's cost per element is higher than CARLA's
    values[:, (1, 2, 4, 5)] *= -1.0
    values[:, (2, 5)] = np.radians(values[:, (2, 5)])
    return values[:, :6], values[:, 6]


def _is_parked(body: _Body) -> bool:
    if body.kind is Kind.THING:
        return True
    try:
        return isinstance(body.actor, carla.Vehicle) and bool(body.actor.get_control().hand_brake)
    except RuntimeError:  # taken off the road since the last tick
        return False


def _channel(actor: carla.Actor) -> int:
    if actor.type_id.startswith("walker."):
        return bev.WALKER
    if actor.type_id.startswith("static.prop"):
        return bev.OBSTACLE
    if actor.attributes.get("base_type") in TWO_WHEELED or actor.attributes.get("number_of_wheels") == "2":
        return bev.BICYCLE
    return bev.EMERGENCY if any(word in actor.type_id for word in EMERGENCY) else bev.VEHICLE


def _light_channel(light: carla.TrafficLight | None) -> int:
    """First BEV channel of a light's state; stop signs have their own; -1 for a light that is off."""
    if light is None:
        return bev.STOP_SIGN
    return LIGHT_CHANNELS.get(light.get_state(), -1)
