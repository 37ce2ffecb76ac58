"""Motorway towns: a closed motorway with two carriageways, interchanges with ramps, and a small town inside.

CARLA's Traffic Manager stops at every junction without lights where a road has several ways on, and fails where a
lane outside junctions has two successors. So the carriageways run on outside junctions, every lane has one successor,
and only the lane that joins, leaves or ends passes through a connecting road; a deceleration lane is reached by a
lane change.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from simulator.towns.families.network import Edge, FreeEnd, Node, Sketch, build_network
from simulator.towns.families.polar import ring_edge
from simulator.towns.families.profiles import lanes, ramp, rural, street, street_side
from simulator.towns.families.roads import (
    DRIVING,
    SHOULDER,
    Connection,
    Junction,
    Link,
    Plan,
    Profile,
    Road,
    Section,
    Strip,
    driving_lanes,
    flat,
    to_junction,
)
from simulator.towns.geometry import Curve, Pose, Segment, biarc

HALF_MEDIAN_M, INNER_SHOULDER_M, SHOULDER_M = 3.0, 1.0, 2.8
NARROW_SHOULDER_M = 1.6
"""Width of the shoulder between the ramps of an interchange: it never touches them."""
BRIDGE_HEIGHT_M = 6.5
TERMINAL_M = 62.0
"""Distance of a ramp's junction with the crossing road from the middle of the motorway."""
TAPER_M = 70.0
"""Length of the connecting roads on which a lane joins, leaves or ends."""
LEAVE_M, EXIT_M, JOIN_M = -460.0, -200.0, 200.0
"""Stations, from the bridge, where the deceleration lane begins, where it has left and where the ramp has joined."""
ACCELERATION_M = 200.0
DRIFT_RAD = 0.17
"""Angle between a carriageway and its ramps where they part."""
RAMP_SPEED_KMH = 60


SHOULDERS = {
    "exit": Strip(SHOULDER, 0.0, "none", NARROW_SHOULDER_M),
    "between": Strip(SHOULDER, NARROW_SHOULDER_M),
    "enter": Strip(SHOULDER, NARROW_SHOULDER_M, "none", 0.0),
}
"""Shoulders of pieces by their role, where they are not of full width."""


@dataclass(frozen=True)
class Circuit:
    """The closed middle line of a motorway, driven along its direction; the right side is the carriageway's."""

    curve: Curve

    def at(self, s_m: float, right_m: float) -> Pose:
        """The pose at a station (any number of rounds), right of the middle."""
        return self.curve.at(s_m % self.curve.length_m).moved(0.0, right_m)

    def piece(self, start_m: float, end_m: float, right_m: float) -> Curve:
        """The parallel curve between two stations."""
        length_m = self.curve.length_m
        start_m, end_m = start_m % length_m, start_m % length_m + (end_m - start_m)
        segments, s_m = [], 0.0
        for segment in (*self.curve.segments, *self.curve.segments):
            first, last = max(start_m - s_m, 0.0), min(end_m - s_m, segment.length_m)
            s_m += segment.length_m
            if last - first < 1e-3:
                continue
            wider = 1.0 + segment.curvature_per_m * right_m
            begin = segment.at(first).moved(0.0, right_m)
            segments.append(Segment(begin, (last - first) * wider, segment.curvature_per_m / wider))
        return Curve(tuple(segments))

    def reversed(self) -> Circuit:
        """The same line driven the other way; station s becomes length - s."""
        turned = [
            Segment(segment.at(segment.length_m).turned(math.pi), segment.length_m, -segment.curvature_per_m)
            for segment in reversed(self.curve.segments)
        ]
        return Circuit(Curve(tuple(turned)))


@dataclass(frozen=True)
class _Design:
    """What a motorway's carriageways have in common."""

    lanes: int
    lane_m: float
    speed_kmh: int

    @property
    def edge_m(self) -> float:
        """Distance of the carriageway's reference line from the middle."""
        return HALF_MEDIAN_M + INNER_SHOULDER_M

    def inner_m(self, lane: int) -> float:
        """Distance of a driving lane's left edge from the middle."""
        return self.edge_m + (lane - 1) * self.lane_m


def _rounded_polygon(corners: list[tuple[float, float]], radius_m: float) -> Curve:
    """A closed line through the sides of a convex polygon (counter-clockwise), begun at the middle of the first."""
    count = len(corners)
    segments: list[Segment] = []
    for i in range(count):
        a, b, c = (corners[(i + k) % count] for k in range(3))
        heading_rad, next_rad = (math.atan2(q[1] - p[1], q[0] - p[0]) for p, q in ((a, b), (b, c)))
        turn_rad = (next_rad - heading_rad) % (2.0 * math.pi)
        cut_m = radius_m * math.tan(turn_rad / 2.0)
        start = segments[-1].at(segments[-1].length_m) if segments else _middle(a, b, heading_rad)
        straight_m = math.hypot(b[0] - start.x_m, b[1] - start.y_m) - cut_m
        line = Segment(Pose(start.x_m, start.y_m, heading_rad), straight_m, 0.0)
        segments += [line, Segment(line.at(straight_m), radius_m * turn_rad, 1.0 / radius_m)]
    start, end = segments[0].start, segments[-1].at(segments[-1].length_m)
    closing_m = math.hypot(start.x_m - end.x_m, start.y_m - end.y_m)
    segments.append(Segment(Pose(end.x_m, end.y_m, start.heading_rad), closing_m, 0.0))
    return Curve(tuple(segments))


def _middle(a: tuple[float, float], b: tuple[float, float], heading_rad: float) -> Pose:
    return Pose((a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0, heading_rad)


@dataclass(frozen=True)
class _Piece:
    """A piece of a carriageway between two stations.

    `role` tells what happens to the outermost lane: `open` (a deceleration lane widens from nothing), `exit` (it
    leaves), `between` (the ramps), `enter` (a ramp comes near, to join the next piece), `drop` (an acceleration lane
    ends), or `main`.
    """

    start_m: float
    end_m: float
    lanes: int
    role: str = "main"
    interchange: int = -1


def _pieces(stations: list[float], round_m: float, count: int, through: list[bool]) -> list[_Piece]:
    """A carriageway in order of driving; where `through` holds, the lane between two interchanges stays."""
    found: list[_Piece] = []
    for k, station_m in enumerate(stations):
        exit_m, join_m = station_m + EXIT_M, station_m + JOIN_M
        if not through[k - 1]:
            open_m = station_m + LEAVE_M
            found.append(_Piece(open_m, open_m + TAPER_M, count + 1, "open"))
            found.append(_Piece(open_m + TAPER_M, exit_m - TAPER_M, count + 1))
        found.append(_Piece(exit_m - TAPER_M, exit_m, count, "exit", k))
        found.append(_Piece(exit_m, join_m - TAPER_M, count, "between"))
        found.append(_Piece(join_m - TAPER_M, join_m, count, "enter", k))
        next_m = stations[k + 1] if k + 1 < len(stations) else stations[0] + round_m
        if through[k]:
            found.append(_Piece(join_m, next_m + EXIT_M - TAPER_M, count + 1))
        else:
            drop_m = join_m + ACCELERATION_M
            found.append(_Piece(join_m, drop_m, count + 1))
            found.append(_Piece(drop_m, drop_m + TAPER_M, count, "drop"))
            found.append(_Piece(drop_m + TAPER_M, next_m + LEAVE_M, count))
    return found


@dataclass
class _Carriageway:
    """One carriageway in the making; `exits` and `entries` are the ramps' ends by interchange."""

    plan: Plan
    circuit: Circuit
    design: _Design
    exits: dict[int, FreeEnd] = field(default_factory=dict)
    entries: dict[int, FreeEnd] = field(default_factory=dict)

    def build(self, pieces: list[_Piece]) -> None:
        """Add the roads of the pieces, closed to a ring, and the lanes that join, leave and end beside them."""
        roads = [self._road(piece) for piece in pieces]
        for i, road in enumerate(roads):
            _join(roads[i - 1], road)
        for i, piece in enumerate(pieces):
            before, on, after = roads[i - 1], roads[i], roads[(i + 1) % len(roads)]
            if piece.role == "drop":
                self._end_lane(piece, before, on, after)
            elif piece.role == "exit":
                self._exit(piece, before, on)
            elif piece.role == "enter":
                self._enter(piece, after)

    def _road(self, piece: _Piece) -> Road:
        strips = list(lanes(piece.lanes, self.design.lane_m))
        if piece.role == "open":
            strips[-2:] = [strips[-2]._replace(mark="solid"), Strip(DRIVING, 0.0, "solid", self.design.lane_m)]
        if piece.role == "drop":  # the connecting road beside it has the shoulder
            strips[-1] = strips[-1]._replace(mark="none")
        else:
            strips.append(SHOULDERS.get(piece.role, Strip(SHOULDER, SHOULDER_M)))
        profile = Profile(tuple(strips), (Strip(SHOULDER, INNER_SHOULDER_M),), "solid")
        road = Road(
            self.plan.road_id(), self.circuit.piece(piece.start_m, piece.end_m, self.design.edge_m), flat(0.0),
            (Section(0.0, profile),), self.design.speed_kmh, "motorway",
        )  # fmt: skip
        self.plan.roads.append(road)
        return road

    def _end_lane(self, piece: _Piece, before: Road, on: Road, after: Road) -> None:
        """The acceleration lane bends into the outermost lane."""
        outer = self.design.lanes
        start = self.circuit.at(piece.start_m, self.design.inner_m(outer + 1))
        end = self.circuit.at(piece.end_m, self.design.inner_m(outer))
        links = (Link("road", before.id, "end"), Link("road", after.id, "start"))
        self._split(before, on, outer + 1, self._way(biarc(start, end), links, (outer + 1, outer)))

    def _exit(self, piece: _Piece, before: Road, on: Road) -> None:
        """The deceleration lane bends away and becomes a ramp."""
        lane = self.design.lanes + 1
        start = self.circuit.at(piece.start_m, self.design.inner_m(lane))
        bend = Segment(start, TAPER_M, -DRIFT_RAD / TAPER_M)
        ramp_link = Link("road", 0, "start")
        way = self._way(Curve((bend,)), (Link("road", before.id, "end"), ramp_link), (lane, 1))
        self._split(before, on, lane, way)
        self.exits[piece.interchange] = FreeEnd(bend.at(TAPER_M), 0.0, to_junction(way.junction), way)

    def _enter(self, piece: _Piece, after: Road) -> None:
        """A ramp comes beside the carriageway and becomes the acceleration lane of the next piece."""
        lane = self.design.lanes + 1
        end = self.circuit.at(piece.end_m, self.design.inner_m(lane))
        back = Segment(end.turned(math.pi), TAPER_M, DRIFT_RAD / TAPER_M).at(TAPER_M).turned(math.pi)
        bend = Segment(back, TAPER_M, -DRIFT_RAD / TAPER_M)
        way = self._way(Curve((bend,)), (Link("road", 0, "end"), Link("road", after.id, "start")), (1, lane))
        self.entries[piece.interchange] = FreeEnd(back, 0.0, to_junction(way.junction), way)

    def _way(self, curve: Curve, links: tuple[Link, Link], lane: tuple[int, int]) -> Road:
        """A connecting road of one lane and its shoulder, in a junction of its own."""
        strips = (Strip(DRIVING, self.design.lane_m, "solid"), Strip(SHOULDER, SHOULDER_M))
        road = Road(
            self.plan.road_id(), curve, flat(0.0), (Section(0.0, Profile(strips, (), "none")),), self.design.speed_kmh,
            "motorway", self.plan.junction_id(), *links, {-1: -lane[0]}, {-1: -lane[1]},
        )  # fmt: skip
        self.plan.roads.append(road)
        return road

    def _split(self, before: Road, on: Road, lane: int, way: Road) -> None:
        """End a road in a junction from which `on` continues it, and `way` leaves its given lane."""
        before.after = to_junction(way.junction)
        straight = tuple((a, b) for a, b in before.lanes_after.items() if -self.design.lanes <= b < 0)
        self.plan.junctions.append(
            Junction(
                way.junction, (Connection(before.id, on.id, straight), Connection(before.id, way.id, ((-lane, -1),)))
            )
        )


def _join(before: Road, after: Road) -> None:
    """Link two pieces of a carriageway: driving lanes by number, shoulders by kind."""
    before.after, after.before = Link("road", after.id, "start"), Link("road", before.id, "end")
    rights = [road.sections[0].profile.right for road in (before, after)]
    counts = [driving_lanes(strips) for strips in rights]
    pairs = [(-lane, -lane) for lane in range(1, min(counts) + 1)] + [(1, 1)]
    if len(rights[0]) > counts[0] and len(rights[1]) > counts[1]:
        pairs.append((-counts[0] - 1, -counts[1] - 1))
    before.lanes_after = dict(pairs)
    after.lanes_before = {b: a for a, b in pairs}


def build_motorway(rng: random.Random) -> Plan:
    """A motorway town."""
    plan = Plan()
    count = rng.choice([2, 2, 3])
    circuit = Circuit(_ring(rng, count))
    length_m = circuit.curve.length_m
    stations = [length_m * k / count + (length_m / 50.0) * rng.uniform(-1.0, 1.0) for k in range(count)]
    stations = [station % length_m for station in stations]
    stations.sort()
    design = _Design(rng.choice([3, 3, 4]), round(rng.uniform(3.4, 3.7), 2), rng.choice([90, 100, 110, 120]))
    sides = []
    for line, places in (
        (circuit, stations),
        (circuit.reversed(), sorted(length_m - station for station in stations)),
    ):
        side = _Carriageway(plan, line, design)
        side.build(_pieces(places, length_m, design.lanes, [rng.random() < 0.35 for _ in places]))
        sides.append(side)
    build_network(plan, _surroundings(circuit, stations, sides, rng), rng)
    return plan


def _ring(rng: random.Random, interchanges: int) -> Curve:
    """A rectangle or triangle with wide round corners."""
    if interchanges == 2:
        half_m, across_m = rng.uniform(560.0, 700.0), rng.uniform(335.0, 380.0)
        corners = [(-half_m, -across_m), (half_m, -across_m), (half_m, across_m), (-half_m, across_m)]
        return _rounded_polygon(corners, rng.uniform(230.0, 300.0))
    reach_m = rng.uniform(800.0, 880.0)
    angles = [math.pi * (2.0 * k / 3.0 - 0.5) for k in range(3)]
    corners = [(reach_m * math.cos(angle), reach_m * math.sin(angle)) for angle in angles]
    return _rounded_polygon(corners, rng.uniform(230.0, 280.0))


def _surroundings(circuit: Circuit, stations: list[float], sides: list[_Carriageway], rng: random.Random) -> Sketch:
    """Ramps, bridges and the roads of the town inside the ring."""
    lane_m = sides[0].design.lane_m
    slip, country = ramp(lane_m, 1.5), rural(1, lane_m, 1.5)
    nodes: list[Node] = []
    edges: list[Edge] = []
    inner: list[int] = []
    for k, station_m in enumerate(stations):
        base = circuit.at(station_m, 0.0)
        control = rng.choice(["lights", "stop"])
        for side, right_m, ahead_rad, index in (
            (sides[0], TERMINAL_M, base.heading_rad, k),
            (sides[1], -TERMINAL_M, base.heading_rad + math.pi, len(stations) - 1 - k),
        ):
            place = base.moved(0.0, right_m)
            nodes.append(Node(place.x_m, place.y_m, BRIDGE_HEIGHT_M, control))
            number = len(nodes) - 1
            edges.append(Edge(side.exits[index], number, slip, 0.0, ahead_rad + math.pi, RAMP_SPEED_KMH, "motorway"))
            edges.append(Edge(number, side.entries[index], slip, ahead_rad, 0.0, RAMP_SPEED_KMH, "motorway"))
        bridge_rad = base.heading_rad + math.pi / 2.0
        edges.append(Edge(len(nodes) - 2, len(nodes) - 1, country, bridge_rad, bridge_rad + math.pi, 60, "rural"))
        inner.append(len(nodes) - 1)
    _add_village(nodes, edges, inner, country, lane_m, rng)
    return Sketch(tuple(nodes), tuple(edges))


def _add_village(
    nodes: list[Node], edges: list[Edge], inner: list[int], country: Profile, lane_m: float, rng: random.Random
) -> None:
    """A ring of streets in the middle, joined to every inner ramp junction; with two of those also a cross street."""
    radius_m = rng.uniform(80.0, 95.0)
    toward = [math.atan2(nodes[i].y_m, nodes[i].x_m) for i in inner]
    angles = toward if len(inner) > 2 else sorted(toward + [angle + math.pi / 2.0 for angle in toward])
    first = len(nodes)
    for angle in angles:
        control = rng.choice(["lights", "lights", "stop"])
        nodes.append(Node(radius_m * math.cos(angle), radius_m * math.sin(angle), 0.0, control))
    high_street = street(street_side(1, lane_m, parking=True), street_side(1, lane_m, parking=rng.random() < 0.5))
    for k in range(len(angles)):
        edges.append(ring_edge(nodes, first + k, first + (k + 1) % len(angles), high_street, 50))
    for node, angle in zip(inner, toward, strict=True):
        village = first + angles.index(angle)
        back_rad = math.atan2(-nodes[node].y_m, -nodes[node].x_m)
        edges.append(Edge(village, node, country, angle, back_rad, 60, "rural", bends=1, sway_m=10.0))
    if len(inner) == 2:
        a, b = (first + angles.index(angle) for angle in angles if angle not in toward)
        edges.append(
            Edge(a, b, high_street, angles[a - first] + math.pi, angles[b - first] + math.pi, 40, bends=1, sway_m=10.0)
        )
