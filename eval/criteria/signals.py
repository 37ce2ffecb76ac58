"""Running red lights and stop signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import carla

from eval.criteria.events import EgoState, Event, at_text, make_event
from eval.scoring import Infraction

LIGHT_RADIUS_M = 15.0
STOP_RADIUS_M = 4.0
STOP_STEP_M = 0.5
STOP_BOX_SCALE = 1.2
STOP_SPEED_MPS = 0.1
BACKWARDS_DOT = -0.17


@dataclass(frozen=True, slots=True)
class SignalBox:
    """A traffic light or stop sign: its pose and its trigger volume (local frame)."""

    id: int
    transform: carla.Transform
    trigger: carla.BoundingBox

    @property
    def centre(self) -> carla.Location:
        """Centre of the trigger volume in the world."""
        local = self.trigger.location
        centre = self.transform.transform(carla.Location(local.x, local.y, local.z))  # changes what it is given
        return carla.Location(centre.x, centre.y, centre.z)


class RunningRedLight:
    """Crossing a stop line while its light is red, noticed when the ego's tail passes the line."""

    def __init__(
        self,
        carla_map: carla.Map,
        lights: Sequence[SignalBox],
        state_of: Callable[[int], carla.TrafficLightState],
        half_length_m: float,
    ) -> None:
        self._map = carla_map
        self._lights = [(light, *stop_line(carla_map, light)) for light in lights]
        self._state_of = state_of
        self._half_length_m = half_length_m
        self._last_id: int | None = None
        self.events: list[Event] = []

    def update(self, ego: EgoState) -> None:
        """Check the lights within 15 m."""
        near = [item for item in self._lights if item[1].distance(ego.location) <= LIGHT_RADIUS_M]
        if not near:
            return
        tail = (_ahead(ego.transform, -0.8 * self._half_length_m), _ahead(ego.transform, -self._half_length_m - 1.0))
        tail_waypoint = self._map.get_waypoint(carla.Location(tail[1][0], tail[1][1], ego.location.z))
        heading = ego.transform.get_forward_vector()
        for light, _, waypoints in near:
            if light.id == self._last_id or self._state_of(light.id) != carla.TrafficLightState.Red:
                continue
            for waypoint in waypoints:
                same_lane = (tail_waypoint.road_id, tail_waypoint.lane_id) == (waypoint.road_id, waypoint.lane_id)
                if not same_lane or _dot(heading, waypoint.transform.get_forward_vector()) <= 0.0:
                    continue
                if segments_cross(*tail, *_across(waypoint)):
                    self._last_id = light.id
                    self.events.append(_signal_event(ego, light, Infraction.RED_LIGHT, f"ran a red light {light.id}"))
                    break


class RunningStopSign:
    """Leaving a stop sign's box without having stood still in it."""

    def __init__(self, carla_map: carla.Map, signs: Sequence[SignalBox]) -> None:
        self._map = carla_map
        self._signs = [(sign, sign.centre) for sign in signs]
        self._target: tuple[SignalBox, carla.Location] | None = None
        self._stopped = False
        self._last_failed: int | None = None
        self.events: list[Event] = []

    @property
    def target_id(self) -> int | None:
        """Id of the stop sign whose box the ego is in."""
        return self._target[0].id if self._target else None

    @property
    def stopped(self) -> bool:
        """Whether the ego has stood still in the current box."""
        return self._stopped

    def update(self, ego: EgoState) -> None:
        """Follow the current stop sign, or look for one."""
        if not self._signs:
            return
        waypoints = self._waypoints_ahead(ego.location)
        if self._target is None:
            self._target = self._find(ego, waypoints)
            return
        if ego.speed_mps < STOP_SPEED_MPS:
            self._stopped = True
        if self._affects(waypoints, *self._target):
            return
        sign = self._target[0]
        if not self._stopped and self._last_failed != sign.id:
            self.events.append(_signal_event(ego, sign, Infraction.STOP_SIGN, f"ran a stop with id={sign.id}"))
            self._last_failed = sign.id
        self._target = None
        self._stopped = False

    def _find(self, ego: EgoState, waypoints: list[carla.Waypoint]) -> tuple[SignalBox, carla.Location] | None:
        heading = ego.transform.get_forward_vector()
        if _dot(ego.velocity, heading) < BACKWARDS_DOT:
            return None
        if _dot(heading, waypoints[0].transform.get_forward_vector()) < BACKWARDS_DOT:
            return None
        return next((item for item in self._signs if self._affects(waypoints, *item)), None)

    def _affects(self, waypoints: list[carla.Waypoint], sign: SignalBox, centre: carla.Location) -> bool:
        if centre.distance(waypoints[0].transform.location) > STOP_RADIUS_M:
            return False
        half_x, half_y = STOP_BOX_SCALE * sign.trigger.extent.x, STOP_BOX_SCALE * sign.trigger.extent.y
        locations = (waypoint.transform.location for waypoint in waypoints)
        return any(abs(point.x - centre.x) < half_x and abs(point.y - centre.y) < half_y for point in locations)

    def _waypoints_ahead(self, location: carla.Location) -> list[carla.Waypoint]:
        waypoints = [self._map.get_waypoint(location)]
        for _ in range(int(STOP_RADIUS_M / STOP_STEP_M)):
            following = waypoints[-1].next(STOP_STEP_M)
            if not following:
                break
            waypoints.append(following[0])
        return waypoints


def stop_line(carla_map: carla.Map, light: SignalBox) -> tuple[carla.Location, list[carla.Waypoint]]:
    """Centre of a light's trigger volume and the last waypoint before the junction of every lane under it."""
    centre = light.centre
    yaw_rad = math.radians(light.transform.rotation.yaw)
    reach_m = 0.9 * light.trigger.extent.x  # short of the full width, not to touch the lanes beside
    under: list[carla.Waypoint] = []
    for step in range(math.ceil(2.0 * reach_m)):
        offset_m = step - reach_m
        point = carla.Location(
            centre.x + math.cos(yaw_rad) * offset_m, centre.y + math.sin(yaw_rad) * offset_m, centre.z
        )
        waypoint = carla_map.get_waypoint(point)
        if not under or (under[-1].road_id, under[-1].lane_id) != (waypoint.road_id, waypoint.lane_id):
            under.append(waypoint)
    return centre, [_last_before_junction(waypoint) for waypoint in under]


def segments_cross(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]
) -> bool:
    """Whether the closed segments a-b and c-d share a point."""

    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    def within(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> bool:
        return min(p[0], q[0]) <= r[0] <= max(p[0], q[0]) and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])

    sides = side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)
    if sides[0] * sides[1] < 0.0 and sides[2] * sides[3] < 0.0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(value == 0.0 and within(*points) for value, points in zip(sides, ends, strict=True))


def _last_before_junction(waypoint: carla.Waypoint) -> carla.Waypoint:
    while not waypoint.is_junction:
        following = waypoint.next(0.5)
        if not following or following[0].is_junction:
            break
        waypoint = following[0]
    return waypoint


def _across(waypoint: carla.Waypoint) -> tuple[tuple[float, float], tuple[float, float]]:
    """The stop line at a waypoint: 1.2 lane widths across."""
    yaw_rad = math.radians(waypoint.transform.rotation.yaw + 90.0)
    half_m = 0.6 * waypoint.lane_width
    location = waypoint.transform.location
    dx, dy = half_m * math.cos(yaw_rad), half_m * math.sin(yaw_rad)
    return (location.x + dx, location.y + dy), (location.x - dx, location.y - dy)


def _ahead(transform: carla.Transform, distance_m: float) -> tuple[float, float]:
    yaw_rad = math.radians(transform.rotation.yaw)
    return (
        transform.location.x + math.cos(yaw_rad) * distance_m,
        transform.location.y + math.sin(yaw_rad) * distance_m,
    )


def _signal_event(ego: EgoState, signal: SignalBox, kind: Infraction, deed: str) -> Event:
    message = f"Agent {deed} at {at_text(signal.transform.location)}"
    return make_event(ego, kind, message, other_id=signal.id)


def _dot(a: carla.Vector3D, b: carla.Vector3D) -> float:
    return a.x * b.x + a.y * b.y + a.z * b.z
