"""Random street network of an own town: grid nodes, missing edges, and one curved road per chain of bends."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from simulator.towns.geometry import Curve, Pose, biarc, fillet

Node = tuple[int, int]
StreetGraph = dict[Node, set[Node]]
"""Neighbours of every node, nodes in sorted order."""

NEIGHBOURS: tuple[Node, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Grid step of arm 0..3 of a node; arm k leaves at the node's rotation + k * 90 degrees."""
BLOCK_M = (88.0, 135.0)
NODE_JITTER_M = 7.0
NODE_ROTATION_RAD = math.radians(11.0)
KERB_RADIUS_M = (6.2, 7.5)
CORNER_RADIUS_M = (23.0, 32.0)
MIN_ROAD_RADIUS_M = 26.0
"""Sharpest bend of a road outside junctions and corners, at the centre line."""
MAX_BULGE_M = 13.0
MIN_ROAD_M = 24.0
MIN_CROSSINGS = 6
REMOVED_SHARE = (0.05, 0.18)
"""Part of the grid's edges that a town lacks."""
SPARE_CROSSROADS = 0.5
"""How much later edges at crossroads come in the (random, 0 to 1) order of removal."""
ROUNDABOUT_RADIUS_M = 16.0
"""Radius of the left edge of the circulating lane."""
ROUNDABOUT_ARM_M = 29.0
"""Distance from a roundabout's centre to where its arms begin."""
KERB_SHOULDER_M = 0.4
PARKING_M = 2.2
SIDEWALK_M = 2.5
HILL_WAVELENGTH_M = 420.0
HILL_HEIGHTS_M = (0.0, 0.0, 2.2)
"""Amplitudes of the hills; most towns are flat."""
PARKING_SHARE = 0.3
ROUNDABOUT_SHARE = 0.6
JUNCTION_ID = 1000
IDS_PER_CROSSING = 10


class LayoutError(Exception):
    """A draw of the layout that cannot be built; the next draw is tried."""


@dataclass(frozen=True)
class Side:
    """What lies right of the driving lanes of one direction of travel."""

    lanes: int
    lane_m: float
    shoulder_m: float
    parking: bool

    @property
    def asphalt_m(self) -> float:
        """Width from the centre line to the kerb."""
        return self.lanes * self.lane_m + self.shoulder_m

    @property
    def total_m(self) -> float:
        """Width from the centre line to the outer edge of the sidewalk."""
        return self.asphalt_m + SIDEWALK_M


@dataclass(frozen=True)
class Road:
    """A road between two junctions; a one-way road has no left side."""

    id: int
    curve: Curve
    right: Side
    left: Side | None
    speed_kmh: int
    z_start_m: float
    z_end_m: float
    start_junction: int
    end_junction: int
    centre_mark: str = "solid"

    @property
    def crossings(self) -> set[int]:
        """Ids of the crossings at both ends (the junctions of a roundabout count as one)."""
        return {self.start_junction // IDS_PER_CROSSING, self.end_junction // IDS_PER_CROSSING}


@dataclass(frozen=True)
class Arm:
    """One end of a road, seen from the junction it touches."""

    road: Road
    at_start: bool

    @property
    def contact(self) -> str:
        """OpenDRIVE contact point."""
        return "start" if self.at_start else "end"

    @property
    def inbound(self) -> Pose:
        """Centre line pose where traffic enters the junction."""
        return self.road.curve.start.turned(math.pi) if self.at_start else self.road.curve.end

    @property
    def outbound(self) -> Pose:
        """Centre line pose where traffic leaves the junction."""
        return self.road.curve.start if self.at_start else self.road.curve.end.turned(math.pi)

    @property
    def inbound_side(self) -> Side:
        """Lanes that lead into the junction."""
        return self._side(left=self.at_start)

    @property
    def outbound_side(self) -> Side:
        """Lanes that lead out of the junction."""
        return self._side(left=not self.at_start)

    def _side(self, *, left: bool) -> Side:
        side = self.road.left if left else self.road.right
        assert side is not None, f"road {self.road.id} is one-way"
        return side

    @property
    def inbound_sign(self) -> int:
        """Sign of the OpenDRIVE ids of the inbound lanes."""
        return 1 if self.at_start else -1


@dataclass(frozen=True)
class Crossing:
    """A node of degree three or more: its pose, height and arms by direction 0..3."""

    id: int
    pose: Pose
    z_m: float
    roundabout: bool
    arms: dict[int, Arm]


@dataclass(frozen=True)
class Layout:
    """All roads and crossings of a town."""

    roads: tuple[Road, ...]
    crossings: tuple[Crossing, ...]
    lane_m: float


@dataclass(frozen=True)
class _Site:
    """A grid node placed in the plane."""

    pose: Pose
    z_m: float

    def arm(self, direction: int, reach_m: float) -> Pose:
        """Where arm `direction` begins, heading outwards."""
        return self.pose.turned(direction * math.pi / 2.0).moved(reach_m)


def _street_graph(rng: random.Random) -> StreetGraph:
    """A grid with edges removed, without dead ends or nodes whose loss would cut the town in two."""
    columns, rows = rng.choice([(4, 3), (4, 4), (4, 4), (5, 3), (5, 4)])
    nodes = {(column, row) for column in range(columns) for row in range(rows)}
    graph = {node: {other for other in _around(node) if other in nodes} for node in sorted(nodes)}
    edges = sorted((node, other) for node in graph for other in graph[node] if node < other)
    crossroads = {node for node in graph if len(graph[node]) == 4}
    edges.sort(key=lambda edge: rng.random() + SPARE_CROSSROADS * bool(crossroads & set(edge)))
    goal = round(len(edges) * rng.uniform(*REMOVED_SHARE))
    for a, b in edges:
        if goal == 0:
            break
        graph[a].remove(b)
        graph[b].remove(a)
        if _biconnected(graph) and sum(len(others) >= 3 for others in graph.values()) >= MIN_CROSSINGS:
            goal -= 1
        else:
            graph[a].add(b)
            graph[b].add(a)
    return graph


def _around(node: Node) -> list[Node]:
    return [(node[0] + step[0], node[1] + step[1]) for step in NEIGHBOURS]


def _biconnected(graph: StreetGraph) -> bool:
    """Whether the graph stays connected whichever node is taken away."""
    for lost in graph:
        first = next(node for node in graph if node != lost)
        seen, stack = {lost, first}, [first]
        while stack:
            fresh = graph[stack.pop()] - seen
            seen |= fresh
            stack += fresh
        if len(seen) < len(graph):
            return False
    return True


def _place(rng: random.Random, graph: StreetGraph) -> dict[Node, _Site]:
    columns, rows = (max(node[axis] for node in graph) + 1 for axis in (0, 1))
    xs = _spaced(rng, columns)
    ys = _spaced(rng, rows)
    rotation_rad = rng.uniform(-math.pi, math.pi)
    hill_m = rng.choice(HILL_HEIGHTS_M)
    phase_x, phase_y = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.0, 2.0 * math.pi)
    frame = Pose(0.0, 0.0, rotation_rad)
    sites = {}
    for node in sorted(graph):
        x_m = xs[node[0]] + rng.uniform(-NODE_JITTER_M, NODE_JITTER_M)
        y_m = ys[node[1]] + rng.uniform(-NODE_JITTER_M, NODE_JITTER_M)
        pose = frame.moved(x_m, -y_m).turned(rng.uniform(-NODE_ROTATION_RAD, NODE_ROTATION_RAD))
        wave = math.sin(2.0 * math.pi * x_m / HILL_WAVELENGTH_M + phase_x)
        wave += math.sin(2.0 * math.pi * y_m / HILL_WAVELENGTH_M + phase_y)
        sites[node] = _Site(pose, hill_m * wave)
    return sites


def _spaced(rng: random.Random, count: int) -> list[float]:
    """Grid line positions around zero."""
    positions = [0.0]
    for _ in range(count - 1):
        positions.append(positions[-1] + rng.uniform(*BLOCK_M))
    return [position - positions[-1] / 2.0 for position in positions]


def _direction(node: Node, other: Node) -> int:
    return NEIGHBOURS.index((other[0] - node[0], other[1] - node[1]))


def _chains(graph: StreetGraph) -> Iterator[list[Node]]:
    """Node sequences from crossing to crossing through bends of degree two, each once."""
    for node in sorted(graph):
        if len(graph[node]) < 3:
            continue
        for neighbour in sorted(graph[node]):
            chain = [node, neighbour]
            while len(graph[chain[-1]]) == 2:
                chain += [other for other in graph[chain[-1]] if other != chain[-2]]
            if (chain[0], chain[1]) < (chain[-1], chain[-2]):
                yield chain


def _bent(rng: random.Random, start: Pose, end: Pose) -> Curve:
    """A random curved road from start to end, no sharper than MIN_ROAD_RADIUS_M."""
    span_m = math.hypot(end.x_m - start.x_m, end.y_m - start.y_m)
    if span_m < MIN_ROAD_M:
        raise LayoutError(f"a road of {span_m:.0f} m is too short")
    chord = Pose(start.x_m, start.y_m, math.atan2(end.y_m - start.y_m, end.x_m - start.x_m))
    for attempt in range(12):
        bulge_m = rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0) * min(MAX_BULGE_M, 0.17 * span_m)
        middle = chord.moved(span_m * rng.uniform(0.42, 0.58), bulge_m).turned(rng.uniform(-0.2, 0.2))
        direct = attempt == 11 or (attempt == 0 and rng.random() < 0.25)
        curve = biarc(start, end) if direct else biarc(start, middle).joined(biarc(middle, end))
        if curve.min_radius_m >= MIN_ROAD_RADIUS_M and curve.length_m < 1.25 * span_m:
            return curve
    raise LayoutError("no smooth road between two nodes")


def _chain_curve(rng: random.Random, chain: list[Node], sites: dict[Node, _Site], reach_m: dict[Node, float]) -> Curve:
    """The centre line of a chain: bent roads between nodes, wide arcs at corner nodes."""
    pose = sites[chain[0]].arm(_direction(chain[0], chain[1]), reach_m[chain[0]])
    curve: Curve | None = None
    for before, node, after in zip(chain[:-1], chain[1:], [*chain[2:], None], strict=True):
        back = _direction(node, before)
        if after is None:
            arrival = sites[node].arm(back, reach_m[node]).turned(math.pi)
            corner = None
        else:
            forward = _direction(node, after)
            radius_m = rng.uniform(*CORNER_RADIUS_M) if (forward - back) % 2 else 0.0
            arrival = sites[node].arm(back, radius_m).turned(math.pi)
            departure = sites[node].arm(forward, radius_m)
            corner = fillet(arrival, departure) if radius_m else None
        piece = _bent(rng, pose, arrival)
        piece = piece.joined(corner) if corner else piece
        curve = piece if curve is None else curve.joined(piece)
        pose = curve.end
    assert curve is not None
    return curve


def _speed_kmh(curve: Curve, lanes: int, rng: random.Random) -> int:
    """A posted limit that a car can hold in the road's sharpest bend at about 3 m/s^2."""
    comfortable_kmh = 3.6 * math.sqrt(3.0 * curve.min_radius_m)
    wish_kmh = rng.choice([30, 40]) if lanes == 1 else rng.choice([40, 50])
    return max(30, min(wish_kmh, int(comfortable_kmh // 10 * 10)))


def _separated(roads: list[Road]) -> bool:
    """Whether roads keep clear of each other away from shared junctions."""
    samples = [(road, road.curve.sample(6.0)) for road in roads]
    for index, (road, poses) in enumerate(samples):
        width_m = max(side.total_m for side in (road.right, road.left) if side)
        for other, others in samples[index + 1 :]:
            gap_m = width_m + max(side.total_m for side in (other.right, other.left) if side) + 2.0
            shared = road.crossings & other.crossings
            inner = slice(6, -6) if shared else slice(None)
            for a in poses[inner]:
                if any((a.x_m - b.x_m) ** 2 + (a.y_m - b.y_m) ** 2 < gap_m**2 for b in others[inner]):
                    return False
    return True


def _cross_sections(rng: random.Random, chains: list[list[Node]], lane_m: float) -> list[tuple[Side, Side]]:
    """Right and left side of every chain; chains on one grid line have the same number of lanes."""
    wide_share = rng.uniform(0.2, 0.6)
    wide_lines = {(axis, k): rng.random() < wide_share for axis in (0, 1) for k in range(6)}
    sections = []
    for chain in chains:
        axis = 0 if chain[0][1] == chain[1][1] else 1
        lanes = 2 if wide_lines[axis, chain[0][1 - axis]] else 1
        right, left = (rng.random() < PARKING_SHARE for _ in range(2))
        sections.append((_side(lanes, lane_m, right), _side(lanes, lane_m, left)))
    return sections


def _side(lanes: int, lane_m: float, parking: bool) -> Side:
    return Side(lanes, lane_m, PARKING_M if parking else KERB_SHOULDER_M, parking)


@dataclass(frozen=True)
class _CrossingPlan:
    """A crossing before its roads exist."""

    id: int
    reach_m: float
    roundabout: bool

    def junction(self, direction: int) -> int:
        """Id of the junction that arm `direction` touches: in a roundabout each arm has its own."""
        return self.id + direction if self.roundabout else self.id


def _plan_crossings(
    rng: random.Random, graph: StreetGraph, chains: list[list[Node]], sections: list[tuple[Side, Side]]
) -> dict[Node, _CrossingPlan]:
    """Size and kind of every crossing; at most one roundabout, where only single lanes meet."""
    nodes = [node for node in graph if len(graph[node]) >= 3]
    sides: dict[Node, list[Side]] = {node: [] for node in nodes}
    for chain, pair in zip(chains, sections, strict=True):
        for end in (chain[0], chain[-1]):
            sides[end] += pair
    narrow = [node for node in nodes if all(side.lanes == 1 for side in sides[node])]
    rounds = rng.sample(narrow, 1) if narrow and rng.random() < ROUNDABOUT_SHARE else []
    kerb_m = rng.uniform(*KERB_RADIUS_M)
    plans = {}
    for index, node in enumerate(nodes):
        reach_m = ROUNDABOUT_ARM_M if node in rounds else kerb_m + max(side.asphalt_m for side in sides[node])
        plans[node] = _CrossingPlan(JUNCTION_ID + IDS_PER_CROSSING * index, reach_m, node in rounds)
    return plans


def draw_layout(rng: random.Random) -> Layout:
    """One random layout.

    Raises: LayoutError if this draw has a road too short, too sharp or too near another one.
    """
    graph = _street_graph(rng)
    sites = _place(rng, graph)
    lane_m = round(rng.uniform(3.3, 3.7), 2)
    chains = list(_chains(graph))
    sections = _cross_sections(rng, chains, lane_m)
    plans = _plan_crossings(rng, graph, chains, sections)
    reach_m = {node: plan.reach_m for node, plan in plans.items()}
    single_mark = rng.choice(["solid", "solid solid", "broken"])
    roads, arms = [], {node: dict[int, Arm]() for node in plans}
    for number, (chain, (right, left)) in enumerate(zip(chains, sections, strict=True), start=1):
        curve = _chain_curve(rng, chain, sites, reach_m)
        start, end = (chain[0], _direction(chain[0], chain[1])), (chain[-1], _direction(chain[-1], chain[-2]))
        road = Road(
            id=number, curve=curve, right=right, left=left, speed_kmh=_speed_kmh(curve, right.lanes, rng),
            z_start_m=sites[chain[0]].z_m, z_end_m=sites[chain[-1]].z_m,
            start_junction=plans[start[0]].junction(start[1]), end_junction=plans[end[0]].junction(end[1]),
            centre_mark=single_mark if right.lanes == 1 else "solid solid",
        )  # fmt: skip
        roads.append(road)
        arms[start[0]][start[1]] = Arm(road, at_start=True)
        arms[end[0]][end[1]] = Arm(road, at_start=False)
    if not _separated(roads):
        raise LayoutError("two roads come too close")
    crossings = tuple(
        Crossing(plan.id, sites[node].pose, sites[node].z_m, plan.roundabout, dict(sorted(arms[node].items())))
        for node, plan in plans.items()
    )
    return Layout(tuple(roads), crossings, lane_m)
