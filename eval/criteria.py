"""Infraction criteria of a route, with the rules, thresholds and messages of the leaderboard's own.

Each criterion is fed once per tick with the ego's state and appends `Event`s; none talks to a server, so all of
them run on an offline `carla.Map`. Source: scenario_runner leaderboard-2.0 `atomic_criteria`, `timer`;
Bench2Drive 0.0.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import carla

from eval.planner import DensePlan
from eval.scoring import Infraction, Offence, Scoring

TICK_S = 0.05
COLLISION_RADIUS_M = 5.0
COLLISION_ID_S = 5.0
COLLISION_MIN_SPEED_MPS = 0.1
BLOCKED_SPEED_MPS = 0.1
OFF_ROUTE_MAX_M = 30.0
OFF_ROUTE_SAFE_M = 15.0
OFF_ROUTE_MAX_PERCENT = 30.0
COMPLETION_PERCENT = 99.0
COMPLETION_RADIUS_M = 10.0
LIGHT_RADIUS_M = 15.0
STOP_RADIUS_M = 4.0
STOP_STEP_M = 0.5
STOP_BOX_SCALE = 1.2
STOP_SPEED_MPS = 0.1
BACKWARDS_DOT = -0.17
OUTSIDE_LANE_SLACK_M = 0.5
WRONG_LANE_VEHICLE_DEG = 120.0
WRONG_LANE_WAYPOINT_DEG = 150.0
TIMEOUT_BASE_S = 300.0
TIMEOUT_SPEED_SHARE = 0.1
MIN_SPEED_LAST_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class CriteriaConfig:
    """What differs between the benchmarks."""

    scoring: Scoring
    blocked_s: float
    min_speed_checkpoints: int
    max_ticks: int | None

    @classmethod
    def for_scoring(cls, scoring: Scoring) -> CriteriaConfig:
        """The rules of the benchmark with this scoring."""
        if scoring is Scoring.BENCH2DRIVE:
            return cls(scoring, blocked_s=60.0, min_speed_checkpoints=20, max_ticks=4000)
        return cls(scoring, blocked_s=180.0, min_speed_checkpoints=4, max_ticks=None)


@dataclass(frozen=True, slots=True)
class EgoState:
    """The ego after one tick, in CARLA's frame: metres, degrees, m/s; time since the route's start."""

    frame: int
    time_s: float
    transform: carla.Transform
    velocity: carla.Vector3D
    speed_limit_mps: float = 30.0 / 3.6

    @property
    def location(self) -> carla.Location:
        """Where the ego is."""
        return self.transform.location

    @property
    def speed_mps(self) -> float:
        """Magnitude of the velocity."""
        return math.sqrt(self.velocity.x**2 + self.velocity.y**2 + self.velocity.z**2)


@dataclass(frozen=True, slots=True)
class Contact:
    """A collision reported by the ego's collision sensor."""

    frame: int
    other_id: int
    other_type: str


@dataclass(frozen=True, slots=True)
class Event:
    """An infraction as it goes into the record; location x, y, z [m] in CARLA's frame."""

    kind: Infraction
    frame: int
    time_s: float
    location: tuple[float, float, float]
    message: str
    percentage: float = 0.0
    other_id: int | None = None
    other_type: str | None = None

    @property
    def offence(self) -> Offence:
        """The part of the event that counts for the score."""
        return Offence(self.kind, self.percentage)


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


class RouteTrack:
    """The dense route as plain numbers, with the leaderboard's rule for having passed a point."""

    def __init__(self, plan: DensePlan) -> None:
        self.locations = [(t.location.x, t.location.y, t.location.z) for t, _ in plan]
        forward = [t.get_forward_vector() for t, _ in plan]
        self._forward = [(f.x, f.y, f.z) for f in forward]
        self.travelled_m = [0.0]
        for before, after in pairwise(self.locations):
            self.travelled_m.append(self.travelled_m[-1] + math.dist(before, after))

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def length_m(self) -> float:
        """Length of the route, never zero."""
        return max(self.travelled_m[-1], 1e-6)

    def passed(self, index: int, location: carla.Location) -> bool:
        """Whether the location lies ahead of the route point in the point's own direction."""
        x, y, z = self.locations[index]
        fx, fy, fz = self._forward[index]
        return (location.x - x) * fx + (location.y - y) * fy + (location.z - z) * fz > 0.0

    def last_passed(self, index: int, location: carla.Location, window: int) -> int:
        """The furthest passed point among `index` and the `window` points after it; `index` if there is none."""
        for candidate in range(min(index + window, len(self) - 1), index - 1, -1):
            if self.passed(candidate, location):
                return candidate
        return index


class RouteCompletion:
    """How much of the route is done [%]; complete above 99 % within 10 m of the end."""

    WINDOW = 2

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self.percent = 0.0
        self.reached = False

    @property
    def index(self) -> int:
        """Index of the last passed point of the dense route."""
        return self._index

    def update(self, ego: EgoState) -> None:
        """Advance along the route."""
        if self.reached:
            return
        index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        if index != self._index or self._track.passed(index, ego.location):
            self._index = index
            self.percent = round(self._track.travelled_m[index] / self._track.length_m * 100.0, 2)
        near_end = math.dist(_xyz(ego.location), self._track.locations[-1]) < COMPLETION_RADIUS_M
        if self.percent > COMPLETION_PERCENT and near_end:
            self.reached = True
            self.percent = 100.0


class OutsideRouteLanes:
    """Share of the driven route spent off the driving lanes or in a lane of the opposite direction."""

    WINDOW = 3

    def __init__(self, track: RouteTrack, carla_map: carla.Map, start: carla.Location) -> None:
        self._track = track
        self._map = carla_map
        self._index = 0
        self._last_waypoint = carla_map.get_waypoint(start)
        self._last_lane: tuple[int, int] | None = None
        self._wrong_lane = False
        self._driven_m = 0.0
        self._outside_m = 0.0
        self.outside = False
        self.events: list[Event] = []

    def update(self, ego: EgoState) -> None:
        """Judge the ego's position and add the newly passed metres to the right account."""
        off_lanes = self._is_off_lanes(ego.location)
        self._update_wrong_lane(ego)
        self.outside = off_lanes or self._wrong_lane
        first, last = self._index + 1, min(self._index + self.WINDOW, len(self._track) - 1)
        for index in range(first, last + 1):
            if not self._track.passed(index, ego.location):
                continue
            step_m = math.dist(self._track.locations[self._index], self._track.locations[index])
            self._driven_m += step_m
            if self.outside:
                self._outside_m += step_m
            if self._outside_m:
                self.events = [self._event(ego)]
            self._index = index

    def _event(self, ego: EgoState) -> Event:
        percentage = self._outside_m / self._driven_m * 100.0
        return Event(
            kind=Infraction.OUTSIDE_ROUTE_LANES,
            frame=ego.frame,
            time_s=ego.time_s,
            location=_xyz(ego.location),
            message=(
                f"Agent went outside its route lanes for about {round(self._outside_m, 3)} meters "
                f"({round(percentage, 2)}% of the completed route)"
            ),
            percentage=percentage,
        )

    def _is_off_lanes(self, location: carla.Location) -> bool:
        driving = self._map.get_waypoint(location, lane_type=carla.LaneType.Driving)
        parking = self._map.get_waypoint(location, lane_type=carla.LaneType.Parking)
        distance_m, width_m = location.distance(driving.transform.location), driving.lane_width
        if parking is not None and location.distance(parking.transform.location) <= distance_m:
            distance_m, width_m = location.distance(parking.transform.location), parking.lane_width
        return distance_m > width_m / 2.0 + OUTSIDE_LANE_SLACK_M

    def _update_wrong_lane(self, ego: EgoState) -> None:
        waypoint = self._map.get_waypoint(ego.location, lane_type=carla.LaneType.Driving)
        lane = waypoint.road_id, waypoint.lane_id
        if waypoint.is_junction:
            self._wrong_lane = False
        elif lane != self._last_lane:
            yaw_deg = waypoint.transform.rotation.yaw
            if self._last_waypoint.is_junction:
                turn_deg = _turn_deg(yaw_deg, ego.transform.rotation.yaw)
                self._wrong_lane = WRONG_LANE_VEHICLE_DEG <= turn_deg <= 360.0 - WRONG_LANE_VEHICLE_DEG
            else:
                turn_deg = _turn_deg(self._last_waypoint.transform.rotation.yaw, yaw_deg)
                if WRONG_LANE_WAYPOINT_DEG < turn_deg < 360.0 - WRONG_LANE_WAYPOINT_DEG:
                    self._wrong_lane = not self._wrong_lane
        self._last_lane = lane
        self._last_waypoint = waypoint


class Collisions:
    """Collisions with others, each counted once.

    Not counted are: the same actor again within 5 s, anything within 5 m of the last counted collision, and contacts
    while the ego stood still. Contacts are judged by the state before the tick in which they happened.
    """

    def __init__(self) -> None:
        self._before: EgoState | None = None
        self._last_id: int | None = None
        self._last_time_s = 0.0
        self._last_location: carla.Location | None = None
        self.events: list[Event] = []

    def update(self, ego: EgoState, contacts: Iterable[Contact]) -> None:
        """Count the contacts of this tick."""
        before = self._before or ego
        for contact in contacts:
            self._count(before, contact)
        self._before = ego
        if self._last_location is not None and ego.location.distance(self._last_location) > COLLISION_RADIUS_M:
            self._last_location = None
        if self._last_id is not None and ego.time_s - self._last_time_s > COLLISION_ID_S:
            self._last_id = None

    def _count(self, ego: EgoState, contact: Contact) -> None:
        if self._last_id == contact.other_id or ego.speed_mps < COLLISION_MIN_SPEED_MPS:
            return
        if self._last_location is not None and ego.location.distance(self._last_location) <= COLLISION_RADIUS_M:
            return
        self._last_time_s = ego.time_s
        self._last_location = ego.location
        if contact.other_id != 0:  # 0 stands for the scenery
            self._last_id = contact.other_id
        kind = _collision_kind(contact.other_type)
        if kind is None:
            return
        event = Event(
            kind=kind,
            frame=contact.frame,
            time_s=ego.time_s,
            location=_xyz(ego.location),
            message=(
                f"Agent collided against object with type={contact.other_type} and id={contact.other_id} "
                f"at {_at(ego.location)}"
            ),
            other_id=contact.other_id,
            other_type=contact.other_type,
        )
        self.events.append(event)


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


class MinimumSpeed:
    """Mean speed relative to the background traffic, judged at checkpoints along the route.

    Bench2Drive writes every checkpoint down, the leaderboard only those below 100 %.
    """

    WINDOW = 2

    def __init__(self, track: RouteTrack, checkpoints: int, *, every: bool) -> None:
        self._track = track
        self._every = every
        self._spacing_m = track.length_m / checkpoints
        self._index = 0
        self._checkpoint_m = 0.0
        self._ego_sum = 0.0
        self._traffic_sum = 0.0
        self._samples = 0
        self.events: list[Event] = []

    def update(self, ego: EgoState, traffic_speeds_mps: Sequence[float]) -> None:
        """Add one tick's speeds (of the ego and of all vehicles with role name `background`)."""
        self._index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        if self._track.travelled_m[self._index] - self._checkpoint_m > self._spacing_m:
            self._judge(ego)
            self._checkpoint_m = self._track.travelled_m[self._index]
            self._ego_sum = self._traffic_sum = 0.0
            self._samples = 0
        if traffic_speeds_mps:
            self._traffic_sum += sum(traffic_speeds_mps) / len(traffic_speeds_mps)
            self._ego_sum += ego.speed_mps
            self._samples += 1

    def finish(self, ego: EgoState, *, ended_by_criterion: bool) -> None:
        """Judge the last stretch once at least 95 % are done.

        A route that its own criteria ended is judged twice, as in the official tools, whose tree is terminated once by
        itself and once by the scenario manager (published Bench2Drive results show the repeated last checkpoint).
        """
        if self._track.travelled_m[self._index] / self._track.length_m > MIN_SPEED_LAST_SHARE:
            for _ in range(2 if ended_by_criterion else 1):
                self._judge(ego)

    def _judge(self, ego: EgoState) -> None:
        value: float = 100
        if self._samples and self._traffic_sum:
            value = round(self._ego_sum / self._traffic_sum * 100.0, 2)
        if value < 100.0 or self._every:
            event = Event(
                kind=Infraction.MIN_SPEED,
                frame=ego.frame,
                time_s=ego.time_s,
                location=_xyz(ego.location),
                message=f"Average speed is {value}% of the surrounding traffic's one",
                percentage=value,
            )
            self.events.append(event)


class InRoute:
    """Ends the route when the ego is 30 m off it, or drove 30 % of it more than 15 m off."""

    WINDOW = 5

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self._safe = True
        self._off_m = 0.0
        self.events: list[Event] = []

    @property
    def failed(self) -> bool:
        """Whether the ego has left the route."""
        return bool(self.events)

    def update(self, ego: EgoState) -> None:
        """Find the closest route point near the last one and judge the distance to it."""
        if self.failed:
            return
        last = min(self._index + self.WINDOW, len(self._track) - 1)
        position = ego.location.x, ego.location.y
        distances = [math.dist(position, self._track.locations[i][:2]) for i in range(self._index, last + 1)]
        shortest_m = min(distances)
        closest = last - distances[::-1].index(shortest_m)
        off = shortest_m >= OFF_ROUTE_MAX_M
        if not off:
            self._safe = shortest_m < OFF_ROUTE_SAFE_M
        if closest != self._index:
            if not self._safe:
                self._off_m += self._track.travelled_m[closest] - self._track.travelled_m[self._index]
                off = off or 100.0 * self._off_m / self._track.length_m > OFF_ROUTE_MAX_PERCENT
            self._index = closest
        if off:
            message = f"Agent deviated from the route at {_at(ego.location)}"
            self.events.append(_event(ego, Infraction.ROUTE_DEVIATION, message))


class Blocked:
    """Ends the route when the ego has not moved for too long."""

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._last_moving_s: float | None = None
        self.events: list[Event] = []

    @property
    def failed(self) -> bool:
        """Whether the ego has been blocked."""
        return bool(self.events)

    def update(self, ego: EgoState) -> None:
        """Measure the time since the ego last moved."""
        if self.failed:
            return
        if ego.speed_mps >= BLOCKED_SPEED_MPS or not self._last_moving_s:
            self._last_moving_s = ego.time_s
        elif ego.time_s - self._last_moving_s > self._max_s:
            self.events.append(_event(ego, Infraction.VEHICLE_BLOCKED, f"Agent got blocked at {_at(ego.location)}"))


class RouteTimeout:
    """Game time allowed: 300 s, and for every metre gained the time it takes at a tenth of the speed limit."""

    WINDOW = 3

    def __init__(self, track: RouteTrack) -> None:
        self._track = track
        self._index = 0
        self._start_s: float | None = None
        self.allowed_s = TIMEOUT_BASE_S
        self.expired = False

    def update(self, ego: EgoState) -> None:
        """Extend the time for progress and compare."""
        if self._start_s is None:
            self._start_s = ego.time_s
        index = self._track.last_passed(self._index, ego.location, self.WINDOW)
        gained_m = self._track.travelled_m[index] - self._track.travelled_m[self._index]
        if gained_m > 0.0 and ego.speed_limit_mps > 0.0:
            self.allowed_s += gained_m / (ego.speed_limit_mps * TIMEOUT_SPEED_SHARE)
        self._index = index
        if ego.time_s - self._start_s > self.allowed_s:
            self.expired = True


@dataclass(slots=True)
class Criteria:
    """All criteria of a route; `update` once per tick after the world's tick and the agent's step."""

    config: CriteriaConfig
    track: RouteTrack
    completion: RouteCompletion
    outside_lanes: OutsideRouteLanes
    collisions: Collisions
    red_light: RunningRedLight
    stop_sign: RunningStopSign
    min_speed: MinimumSpeed
    in_route: InRoute
    blocked: Blocked
    timeout: RouteTimeout
    ticks: int = 0
    failure: str | None = None
    _ended: bool = False
    _ego: EgoState | None = field(default=None)

    def update(self, ego: EgoState, contacts: Sequence[Contact] = (), traffic_speeds_mps: Sequence[float] = ()) -> bool:
        """Whether the route is over after this tick."""
        self.ticks += 1
        self._ego = ego
        was_reached = self.completion.reached
        self.completion.update(ego)
        self.outside_lanes.update(ego)
        self.collisions.update(ego, contacts)
        self.red_light.update(ego)
        self.stop_sign.update(ego)
        self.min_speed.update(ego, traffic_speeds_mps)
        self.in_route.update(ego)
        self.blocked.update(ego)
        self.timeout.update(ego)
        self._ended = was_reached or self.in_route.failed or self.blocked.failed or self.timeout.expired
        if self._ended:
            return True
        if self.config.max_ticks is not None and self.ticks > self.config.max_ticks:
            self.failure = "TickRuntime"
            return True
        return False

    def finish(self) -> None:
        """Close the account of the last stretch; once, at the route's end."""
        if self._ego is not None:
            self.min_speed.finish(self._ego, ended_by_criterion=self._ended)

    def events(self) -> list[Event]:
        """All events so far, in the order in which the leaderboard lists its criteria."""
        events = [*self.outside_lanes.events, *self.collisions.events, *self.red_light.events, *self.stop_sign.events]
        events += [*self.min_speed.events, *self.in_route.events, *self.blocked.events]
        if self.timeout.expired and self._ego is not None:
            events.append(_event(self._ego, Infraction.ROUTE_TIMEOUT, "Route timeout."))
        return events

    def failure_message(self) -> str | None:
        """Why the route ended early, in the leaderboard's words; None while it runs and when it was completed."""
        if self.blocked.failed:
            return "Agent got blocked"
        if self.in_route.failed:
            return "Agent deviated from the route"
        if self.timeout.expired:
            return "Agent timed out"
        return self.failure


def make_criteria(
    config: CriteriaConfig,
    plan: DensePlan,
    carla_map: carla.Map,
    *,
    start: carla.Location,
    half_length_m: float,
    lights: Sequence[SignalBox] = (),
    light_state: Callable[[int], carla.TrafficLightState] = lambda _: carla.TrafficLightState.Unknown,
    stop_signs: Sequence[SignalBox] = (),
) -> Criteria:
    """Criteria for a route that begins with the ego at `start`; `half_length_m` is half the ego's length."""
    track = RouteTrack(plan)
    return Criteria(
        config=config,
        track=track,
        completion=RouteCompletion(track),
        outside_lanes=OutsideRouteLanes(track, carla_map, start),
        collisions=Collisions(),
        red_light=RunningRedLight(carla_map, lights, light_state, half_length_m),
        stop_sign=RunningStopSign(carla_map, stop_signs),
        min_speed=MinimumSpeed(track, config.min_speed_checkpoints, every=config.scoring is Scoring.BENCH2DRIVE),
        in_route=InRoute(track),
        blocked=Blocked(config.blocked_s),
        timeout=RouteTimeout(track),
    )


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


def _collision_kind(type_id: str) -> Infraction | None:
    if ("static" in type_id or "traffic" in type_id) and "sidewalk" not in type_id:
        return Infraction.COLLISION_STATIC
    if "vehicle" in type_id:
        return Infraction.COLLISION_VEHICLE
    if "walker" in type_id:
        return Infraction.COLLISION_PEDESTRIAN
    return None


def _signal_event(ego: EgoState, signal: SignalBox, kind: Infraction, deed: str) -> Event:
    location = signal.transform.location
    return Event(
        kind=kind,
        frame=ego.frame,
        time_s=ego.time_s,
        location=_xyz(ego.location),
        message=f"Agent {deed} at {_at(location)}",
        other_id=signal.id,
    )


def _event(ego: EgoState, kind: Infraction, message: str) -> Event:
    return Event(kind=kind, frame=ego.frame, time_s=ego.time_s, location=_xyz(ego.location), message=message)


def _at(location: carla.Location) -> str:
    return f"(x={round(location.x, 3)}, y={round(location.y, 3)}, z={round(location.z, 3)})"


def _xyz(location: carla.Location) -> tuple[float, float, float]:
    return location.x, location.y, location.z


def _turn_deg(a_deg: float, b_deg: float) -> float:
    return (a_deg - b_deg) % 360.0


def _dot(a: carla.Vector3D, b: carla.Vector3D) -> float:
    return a.x * b.x + a.y * b.y + a.z * b.z
