"""From a sketch (nodes and edges of a street network) to a plan: roads with their lane sections, and crossings."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulator.towns.families.control import STRAIGHT_RAD, turn_rad
from simulator.towns.families.crossing import Control, build_crossing
from simulator.towns.families.roads import (
    ASPHALT,
    PARKING,
    SHOULDER,
    Arm,
    Connection,
    Cubic,
    DrawError,
    Junction,
    Link,
    Plan,
    Profile,
    Road,
    Section,
    driving_lanes,
    smooth_heights,
    steepest,
    to_junction,
    width_m,
)
from simulator.towns.families.roundabout import RING_ARM_M, build_roundabout
from simulator.towns.geometry import MIN_SEGMENT_M, Curve, Pose, Segment, biarc, wrap_rad

MIN_RADIUS_M = 26.0
MIN_ROAD_M = 26.0
WIDE_RADIUS_M = 1000.0
COMFORT_MPS2 = 3.0
"""Sideways acceleration that the posted limit allows in a road's sharpest bend."""
PARKING_FREE_M, PARKING_MIN_M = 16.0, 20.0
"""No parking this close to a junction; shorter strips are not worth it."""
OVERTAKING_RADIUS_M = 220.0
OVERTAKING_FREE_M, OVERTAKING_MIN_M = 45.0, 60.0
"""The centre line is solid this close to a junction and in bends; shorter broken stretches are not painted."""
BEND_TRIES = 12
BEND_RADIUS_M = 240.0
"""Of bends between straight stretches, where there is room."""
LEAD_SHARE = 0.45
"""Part of the distance between bends for which a road first keeps its direction."""
HEIGHT_STEP_M = 75.0
CLEAR_M = 2.0
NEAR_NODE_M = 60.0
"""Roads that meet at a node may be close to each other within this distance of it."""
LEVELS_APART_M = 4.5

Terrain = Callable[[float, float], float]


@dataclass(frozen=True)
class Node:
    """A place where at least three roads meet; `control` is lights, stop, yield or roundabout."""

    x_m: float
    y_m: float
    z_m: float = 0.0
    control: str = "lights"


@dataclass(frozen=True)
class FreeEnd:
    """The end of a road that meets a connecting road there; `pose` heads along the road, whose lane -1 is linked."""

    pose: Pose
    z_m: float
    link: Link
    way: Road


@dataclass(frozen=True)
class Edge:
    """A road between two nodes (by index) or free ends; headings point away from the nodes."""

    a: int | FreeEnd
    b: int | FreeEnd
    profile: Profile
    heading_a_rad: float = 0.0
    heading_b_rad: float = 0.0
    speed_kmh: int = 50
    kind: str = "town"
    via: tuple[Pose, ...] = ()
    bends: int = 0
    """Number of random bends; none follows `via` exactly."""
    sway_m: float = 0.0
    """Largest offset of a bend from the straight line."""
    straight: bool = False
    """Straight stretches between bends instead of a winding line; one-lane roads allow overtaking there."""


@dataclass(frozen=True)
class Sketch:
    """A town before its roads have shapes; with a terrain, its steepest road has the slope `steepest`."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    terrain: Terrain | None = None
    steepest: float = 0.0
    kerb_m: tuple[float, float] = (7.5, 9.0)
    """Radius of the kerbs at corners is drawn from this range, one for the town."""


@dataclass(frozen=True)
class _End:
    """An edge's end at a node."""

    edge: int
    at_start: bool
    heading_rad: float
    inbound_m: float
    outbound_m: float


def build_network(plan: Plan, sketch: Sketch, rng: random.Random) -> None:
    """Add all roads and crossings of the sketch to the plan.

    Raises: DrawError if a road is too short, too sharp or too near another one.
    """
    ends = _ends(sketch)
    kerb_m = plan.kerb_m = rng.uniform(*sketch.kerb_m)
    reach_m = {node: _reaches(ends[node], sketch.nodes[node], kerb_m) for node in ends}
    curves = [_curve(edge, index, sketch, reach_m, rng) for index, edge in enumerate(sketch.edges)]
    numbers = {node: _junction_numbers(plan, sketch.nodes[node], len(ends[node])) for node in ends}
    heights = _heights(sketch, curves)
    roads = []
    for index, (edge, curve) in enumerate(zip(sketch.edges, curves, strict=True)):
        roads.append(_road(plan, edge, curve, heights[index]))
        for at_start, end in ((True, edge.a), (False, edge.b)):
            if isinstance(end, int):
                place = next(i for i, e in enumerate(ends[end]) if (e.edge, e.at_start) == (index, at_start))
                link = to_junction(numbers[end][place % len(numbers[end])])
                if at_start:
                    roads[-1].before = link
                else:
                    roads[-1].after = link
    plan.roads += roads
    for node, found in ends.items():
        arms = [Arm(roads[end.edge], end.at_start) for end in found]
        place = sketch.nodes[node]
        if place.control == "roundabout":
            build_roundabout(plan, Pose(place.x_m, place.y_m, 0.0), numbers[node], arms)
        else:
            build_crossing(plan, numbers[node][0], arms, choose_control(place.control, arms, rng))


def _junction_numbers(plan: Plan, node: Node, arms: int) -> list[int]:
    return [plan.junction_id() for _ in range(arms if node.control == "roundabout" else 1)]


def _ends(sketch: Sketch) -> dict[int, list[_End]]:
    """The road ends at every node, counter-clockwise."""
    found: dict[int, list[_End]] = {node: [] for node in range(len(sketch.nodes))}
    for index, edge in enumerate(sketch.edges):
        right_m, left_m = (width_m(side, ASPHALT) for side in (edge.profile.right, edge.profile.left))
        if isinstance(edge.a, int):
            found[edge.a].append(_End(index, True, edge.heading_a_rad % (2.0 * math.pi), left_m, right_m))
        if isinstance(edge.b, int):
            found[edge.b].append(_End(index, False, edge.heading_b_rad % (2.0 * math.pi), right_m, left_m))
    for node, ends in found.items():
        if len(ends) < 3:
            raise ValueError(f"node {node} has {len(ends)} roads, at least 3 are needed")
        ends.sort(key=lambda end: end.heading_rad)
    return found


def _reaches(ends: list[_End], node: Node, kerb_m: float) -> dict[tuple[int, bool], float]:
    """Distance from the node to where each of its roads begins: room for every corner's kerb."""
    if node.control == "roundabout":
        return {(end.edge, end.at_start): RING_ARM_M for end in ends}
    reach = {(end.edge, end.at_start): kerb_m + 3.0 for end in ends}
    for end, following in zip(ends, ends[1:] + ends[:1], strict=True):
        angle_rad = (following.heading_rad - end.heading_rad) % (2.0 * math.pi)
        if angle_rad > math.radians(150.0):
            continue
        if angle_rad < math.radians(45.0):
            raise DrawError(f"two roads meet at {math.degrees(angle_rad):.0f} degrees")
        sin, cos = math.sin(angle_rad), math.cos(angle_rad)
        tangent_m = kerb_m / math.tan(angle_rad / 2.0)
        for one, near_m, far_m in (
            (end, end.inbound_m, following.outbound_m),
            (following, following.outbound_m, end.inbound_m),
        ):
            key = (one.edge, one.at_start)
            reach[key] = max(reach[key], (far_m + near_m * cos) / sin + tangent_m)
    return reach


def _curve(
    edge: Edge, index: int, sketch: Sketch, reach_m: dict[int, dict[tuple[int, bool], float]], rng: random.Random
) -> Curve:
    def pose(end: int | FreeEnd, at_start: bool, heading_rad: float) -> Pose:
        if isinstance(end, FreeEnd):
            return end.pose
        node = sketch.nodes[end]
        outward = Pose(node.x_m, node.y_m, heading_rad).moved(reach_m[end][index, at_start])
        return outward if at_start else outward.turned(math.pi)

    first, last = pose(edge.a, True, edge.heading_a_rad), pose(edge.b, False, edge.heading_b_rad)
    span_m = math.hypot(last.x_m - first.x_m, last.y_m - first.y_m)
    if span_m < MIN_ROAD_M:
        raise DrawError(f"a road of {span_m:.0f} m is too short")
    for attempt in range(BEND_TRIES):
        sway_m = edge.sway_m * (1.0 - attempt / BEND_TRIES)
        poses = [first, *(edge.via or _bends(first, last, edge.bends, sway_m, rng)), last]
        curve = _with_straights(poses) if edge.straight else _through(poses)
        if curve.min_radius_m >= MIN_RADIUS_M and curve.length_m < 1.3 * sum(
            math.hypot(b.x_m - a.x_m, b.y_m - a.y_m) for a, b in itertools.pairwise(poses)
        ):
            return curve
    raise DrawError("no smooth road between two nodes")


def _through(poses: list[Pose]) -> Curve:
    curve: Curve | None = None
    for start, end in itertools.pairwise(poses):
        begin = start if curve is None else curve.end
        piece = biarc(begin, end)
        curve = piece if curve is None else curve.joined(piece)
    assert curve is not None
    return curve


def _with_straights(poses: list[Pose]) -> Curve:
    """Lines from corner to corner, rounded by arcs; the first and last line follow the first and last pose."""
    first, *between, last = poses
    lead_m = LEAD_SHARE * math.hypot(last.x_m - first.x_m, last.y_m - first.y_m) / (len(between) + 1)
    corners = [first.moved(lead_m), *between, last.moved(-lead_m)]
    heading_rad = [math.atan2(b.y_m - a.y_m, b.x_m - a.x_m) for a, b in itertools.pairwise(corners)]
    headings = [first.heading_rad, *heading_rad, last.heading_rad]
    legs_m = [lead_m, *(math.hypot(b.x_m - a.x_m, b.y_m - a.y_m) for a, b in itertools.pairwise(corners)), lead_m]
    pose, segments, cut_m = first, [], 0.0
    for before, after, corner, leg_m, next_m in zip(
        headings, headings[1:], corners, legs_m, [*legs_m[1:-1], 2.0 * lead_m], strict=False
    ):
        turn_rad = wrap_rad(after - before)
        half = math.tan(max(abs(turn_rad), 1e-4) / 2.0)
        tangent_m = min(BEND_RADIUS_M * half, 0.48 * next_m, 0.48 * leg_m if segments else 0.9 * leg_m)
        line = Segment(Pose(pose.x_m, pose.y_m, before), leg_m - cut_m - tangent_m, 0.0)
        arc = Segment(
            line.at(line.length_m), tangent_m / half * abs(turn_rad), math.copysign(half / tangent_m, turn_rad)
        )
        segments += [line, arc] if abs(turn_rad) > 1e-4 else [line]
        pose, cut_m = corner.turned(after - corner.heading_rad).moved(tangent_m), tangent_m
    segments.append(Segment(pose, lead_m - cut_m, 0.0))
    return Curve(tuple(segment for segment in segments if segment.length_m > MIN_SEGMENT_M))


def _bends(first: Pose, last: Pose, count: int, sway_m: float, rng: random.Random) -> list[Pose]:
    """Poses beside the plainest curve, on alternating sides, each heading along the line through its neighbours."""
    plain = biarc(first, last)
    side = rng.choice([-1.0, 1.0])
    places = [first]
    for k in range(count):
        at_m = plain.length_m * (k + 1 + rng.uniform(-0.15, 0.15)) / (count + 1)
        places.append(
            plain.at(at_m).moved(0.0, side * rng.uniform(0.4, 1.0) * min(sway_m, 0.2 * plain.length_m / (count + 0.5)))
        )
        side = -side
    places.append(last)
    return [
        Pose(here.x_m, here.y_m, math.atan2(after.y_m - before.y_m, after.x_m - before.x_m))
        for before, here, after in zip(places, places[1:-1], places[2:], strict=False)
    ]


def _heights(sketch: Sketch, curves: list[Curve]) -> list[tuple[Cubic, ...]]:
    """Elevation profiles, level at the nodes; with a terrain scaled so that the steepest slope is the sketch's."""
    found = []
    for edge, curve in zip(sketch.edges, curves, strict=True):
        z_m = [end.z_m if isinstance(end, FreeEnd) else sketch.nodes[end].z_m for end in (edge.a, edge.b)]
        points = [(0.0, z_m[0]), (curve.length_m, z_m[1])]
        if sketch.terrain is not None:
            count = int(curve.length_m / HEIGHT_STEP_M)
            places = [(curve.length_m * (k + 1) / (count + 1)) for k in range(count)]
            points[1:1] = [(s_m, sketch.terrain(curve.at(s_m).x_m, curve.at(s_m).y_m)) for s_m in places]
        found.append(smooth_heights(points))
    if sketch.terrain is None:
        return found
    most = max(steepest(profile, curve.length_m) for profile, curve in zip(found, curves, strict=True))
    factor = sketch.steepest / most
    return [
        tuple(Cubic(p.s_m, factor * p.a, factor * p.b, factor * p.c, factor * p.d) for p in profile)
        for profile in found
    ]


def _road(plan: Plan, edge: Edge, curve: Curve, heights: tuple[Cubic, ...]) -> Road:
    radius_m = min(curve.min_radius_m, WIDE_RADIUS_M)
    comfortable_kmh = int(3.6 * math.sqrt(COMFORT_MPS2 * radius_m)) // 10 * 10
    overtaking = edge.straight and driving_lanes(edge.profile.right) == 1
    road = Road(
        plan.road_id(), curve, heights, lane_sections(edge.profile, curve, overtaking),
        max(30, min(edge.speed_kmh, comfortable_kmh)), edge.kind,
    )  # fmt: skip
    if isinstance(edge.a, FreeEnd):
        road.before = edge.a.link
        edge.a.way.after = Link("road", road.id, "start")
    if isinstance(edge.b, FreeEnd):
        road.after = edge.b.link
        edge.b.way.before = Link("road", road.id, "end")
        connection = Connection(road.id, edge.b.way.id, ((-1, -1),))
        plan.junctions.append(Junction(edge.b.way.junction, (connection,)))
    return road


def lane_sections(profile: Profile, curve: Curve, overtaking: bool) -> tuple[Section, ...]:
    """Lane sections: no parking near the ends, a broken centre line where overtaking is in sight."""
    closed = replace(profile, right=_without_parking(profile.right), left=_without_parking(profile.left))
    length_m = curve.length_m
    if closed != profile and length_m > 2.0 * PARKING_FREE_M + PARKING_MIN_M:
        return (Section(0.0, closed), Section(PARKING_FREE_M, profile), Section(length_m - PARKING_FREE_M, closed))
    if not overtaking:
        return (Section(0.0, closed),)
    sections = [Section(0.0, closed)]
    for start_m, end_m in _straights(curve):
        sections += [Section(start_m, replace(closed, centre_mark="broken")), Section(end_m, closed)]
    return tuple(sections)


def _without_parking(strips: tuple) -> tuple:
    return tuple(strip._replace(kind=SHOULDER) if strip.kind == PARKING else strip for strip in strips)


def _straights(curve: Curve) -> list[tuple[float, float]]:
    """Stretches (start, end) away from the ends where the road bends little."""
    found, s_m = [], 0.0
    for segment in curve.segments:
        start_m = max(s_m, OVERTAKING_FREE_M)
        s_m += segment.length_m
        end_m = min(s_m, curve.length_m - OVERTAKING_FREE_M)
        if abs(segment.curvature_per_m) * OVERTAKING_RADIUS_M > 1.0 or end_m <= start_m:
            continue
        if found and start_m - found[-1][1] < 1.0:
            found[-1] = (found[-1][0], end_m)
        else:
            found.append((start_m, end_m))
    return [(start_m, end_m) for start_m, end_m in found if end_m - start_m >= OVERTAKING_MIN_M]


def choose_control(kind: str, arms: list[Arm], rng: random.Random) -> Control:
    """The control of a crossing: who stops or yields is the stem of a T, or the lesser street of a crossroads.

    Two lanes never stop at a sign: traffic locks up otherwise, so such a crossing has lights.
    """
    inbound = [a for a, arm in enumerate(arms) if driving_lanes(arm.inbound)]
    partner = {
        a: [b for b in range(len(arms)) if b != a and abs(turn_rad(arms, a, b)) <= STRAIGHT_RAD] for a in inbound
    }
    minor = [a for a in inbound if not partner[a]]
    if not minor:
        rank = {a: (arms[a].road.speed_kmh, driving_lanes(arms[a].inbound), -(a % 2)) for a in inbound}
        least = min(rank, key=lambda a: rank[a])
        minor = [a for a in inbound if a == least or a in partner[least]]
    paired, zebra = rng.random() < 0.5, rng.random() < 0.5
    if kind in ("stop", "yield") and all(driving_lanes(arms[a].inbound) == 1 for a in minor):
        return Control(kind, tuple(minor), zebra=zebra)
    return Control("lights", paired=paired)


def check_separation(plan: Plan) -> None:
    """Roads keep clear of each other away from shared junctions, unless one crosses over the other.

    Raises: DrawError naming the two roads.
    """
    roads = [road for road in plan.roads if road.junction == -1]
    rows = []
    for index, road in enumerate(roads):
        half_m = max(section.profile.total_m for section in road.sections)
        count = max(2, math.ceil(road.curve.length_m / 7.0) + 1)
        for k in range(count):
            s_m = road.curve.length_m * k / (count - 1)
            pose = road.curve.at(s_m)
            inner_m = min(s_m, road.curve.length_m - s_m)
            rows.append((index, pose.x_m, pose.y_m, road.height_m(s_m), half_m, inner_m))
    owner, x, y, z, half, inner = np.array(rows).T
    carriageway = np.array([road.kind == "motorway" for road in roads])
    for index in range(len(roads)):
        mine, other = owner == index, owner > index
        if roads[index].kind == "motorway":  # carriageways lie side by side
            other &= ~carriageway[owner.astype(int)]
        gap = np.hypot(x[mine][:, None] - x[other], y[mine][:, None] - y[other])
        close = gap < half[mine][:, None] + half[other] + CLEAR_M
        close &= np.abs(z[mine][:, None] - z[other]) < LEVELS_APART_M
        near = (inner[mine][:, None] < NEAR_NODE_M) & (inner[other] < NEAR_NODE_M)
        bad = np.argwhere(close & ~near)
        if len(bad):
            partner = roads[int(owner[other][bad[0, 1]])]
            raise DrawError(f"roads {roads[index].id} and {partner.id} come too close")
