"""Dense routes on a `carla.Map`: topology graph, A*, lane changes, one road option per point about 1 m apart.

Gives the same points and options as CARLA's GlobalRoutePlanner with the leaderboard's interpolation, including its
quirks (decisions carry over from one pair of keypoints to the next), because plans and scores depend on them.
Unlike it, maps with zero-length segments (Town03 and Town05 of 2019) are planned on as well.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import carla

HOP_M = 1.0
"""Distance between dense route points used by the leaderboard."""
STRAIGHT_BELOW_RAD = math.radians(35.0)
MAX_SEGMENT_M = 20_000.0
"""A segment whose end is never met, on a map with torn lanes, is given up after this length."""
LANE_CHANGE_POINTS = 5
"""A lane change ends this many path points ahead of the closest point on the target lane."""

MAX_OFF_ROAD_M = 10.0
"""A keypoint farther from every lane belongs to another map."""

LaneKey = tuple[int, int, int]
Vector = tuple[float, float, float]


class RoadOption(IntEnum):
    """High-level command of a route point, with CARLA's numbers."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


LANE_CHANGES = (RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT)
DensePlan = list[tuple[carla.Transform, RoadOption]]


class PlannerError(ValueError):
    """A route that does not exist on the map; the message names the keypoints."""


@dataclass(slots=True)
class _Edge:
    entry: carla.Waypoint
    exit: carla.Waypoint
    path: list[carla.Waypoint]
    length: int
    option: RoadOption
    junction: bool
    exit_vector: Vector | None
    net_vector: Vector | None


@dataclass(slots=True)
class _Segment:
    entry: carla.Waypoint
    exit: carla.Waypoint
    entry_node: int
    exit_node: int
    path: list[carla.Waypoint]


@dataclass(slots=True)
class _Graph:
    vertices: dict[int, Vector] = field(default_factory=dict)
    successors: dict[int, dict[int, _Edge]] = field(default_factory=dict)
    lane_edges: dict[LaneKey, tuple[int, int]] = field(default_factory=dict)

    def add_edge(self, start: int, end: int, edge: _Edge) -> None:
        self.successors.setdefault(start, {})[end] = edge
        self.successors.setdefault(end, {})


def _place(location: carla.Location) -> str:
    return f"({location.x:.1f}, {location.y:.1f}, {location.z:.1f})"


class RoutePlanner:
    """Plans on one map; build once per map (0.1 to 0.6 s for CARLA's towns)."""

    def __init__(self, carla_map: carla.Map, hop_m: float = HOP_M) -> None:
        self._map = carla_map
        self._hop_m = hop_m
        self._graph = _Graph()
        segments = self._read_topology()
        self._add_lanes(segments)
        self._add_loose_ends(segments)
        self._add_lane_changes(segments)

    def plan(self, keypoints: Sequence[tuple[float, float, float]]) -> DensePlan:
        """Dense route through the keypoints [m, CARLA frame].

        Raises: PlannerError if a keypoint is off the road network or the next one cannot be reached.
        """
        return [(waypoint.transform, option) for waypoint, option in self.trace(keypoints)]

    def trace(self, keypoints: Sequence[tuple[float, float, float]]) -> list[tuple[carla.Waypoint, RoadOption]]:
        """As `plan`, with the map's waypoints."""
        if len(keypoints) < 2:
            raise PlannerError(f"a route needs at least 2 keypoints, got {len(keypoints)}")
        decisions = _Decisions(self._graph)
        points: list[tuple[carla.Waypoint, RoadOption]] = []
        for origin, destination in itertools.pairwise(keypoints):
            points.extend(self._trace(carla.Location(*origin), carla.Location(*destination), decisions))
        return points

    def _read_topology(self) -> list[_Segment]:
        nodes: dict[Vector, int] = {}
        segments = []
        for entry, exit_ in self._map.get_topology():
            path = self._segment_path(entry, exit_)
            if path is None:
                continue
            ends = []
            for location in (entry.transform.location, exit_.transform.location):
                vertex = (float(round(location.x)), float(round(location.y)), float(round(location.z)))
                node = nodes.setdefault(vertex, len(nodes))
                self._graph.vertices[node] = vertex
                self._graph.successors.setdefault(node, {})
                ends.append(node)
            segments.append(_Segment(entry, exit_, ends[0], ends[1], path))
        return segments

    def _segment_path(self, entry: carla.Waypoint, exit_: carla.Waypoint) -> list[carla.Waypoint] | None:
        """Waypoints strictly between entry and exit, or the one after entry on a short segment; None at a dead end."""
        end = exit_.transform.location
        following = entry.next(self._hop_m)
        if not following:
            return None
        if entry.transform.location.distance(end) <= self._hop_m:
            return [following[0]]
        path = []
        waypoint = following[0]
        while waypoint.transform.location.distance(end) > self._hop_m and len(path) * self._hop_m < MAX_SEGMENT_M:
            path.append(waypoint)
            following = waypoint.next(self._hop_m)
            if not following:
                break
            waypoint = following[0]
        return path

    def _add_lanes(self, segments: list[_Segment]) -> None:
        for segment in segments:
            entry, exit_ = segment.entry, segment.exit
            self._graph.lane_edges[_lane_key(entry)] = (segment.entry_node, segment.exit_node)
            edge = _Edge(
                entry=entry,
                exit=exit_,
                path=segment.path,
                length=len(segment.path) + 1,
                option=RoadOption.LANEFOLLOW,
                junction=entry.is_junction,
                exit_vector=_forward(exit_),
                net_vector=_direction(entry.transform.location, exit_.transform.location),
            )
            self._graph.add_edge(segment.entry_node, segment.exit_node, edge)

    def _add_loose_ends(self, segments: list[_Segment]) -> None:
        """Lanes that leave the topology (map borders) get an edge of their own with a negative end node."""
        loose = 0
        for segment in segments:
            key = _lane_key(segment.exit)
            if key in self._graph.lane_edges:
                continue
            loose += 1
            end_node = -loose
            self._graph.lane_edges[key] = (segment.exit_node, end_node)
            path: list[carla.Waypoint] = []
            following = segment.exit.next(self._hop_m)
            while following and _lane_key(following[0]) == key:
                path.append(following[0])
                following = following[0].next(self._hop_m)
            if not path:
                continue
            last = path[-1].transform.location
            self._graph.vertices[end_node] = (last.x, last.y, last.z)
            edge = _Edge(
                entry=segment.exit,
                exit=path[-1],
                path=path,
                length=len(path) + 1,
                option=RoadOption.LANEFOLLOW,
                junction=segment.exit.is_junction,
                exit_vector=None,
                net_vector=None,
            )
            self._graph.add_edge(segment.exit_node, end_node, edge)

    def _add_lane_changes(self, segments: list[_Segment]) -> None:
        """Zero-length edges to the neighbouring lane where the marking allows it: at most one per side and segment."""
        for segment in segments:
            if segment.entry.is_junction:
                continue
            pending = {RoadOption.CHANGELANERIGHT, RoadOption.CHANGELANELEFT}
            for waypoint in segment.path:
                for option in sorted(pending, reverse=True):
                    if self._add_lane_change(segment, waypoint, option):
                        pending.discard(option)
                if not pending:
                    break

    def _add_lane_change(self, segment: _Segment, waypoint: carla.Waypoint, option: RoadOption) -> bool:
        right = option is RoadOption.CHANGELANERIGHT
        marking = waypoint.right_lane_marking if right else waypoint.left_lane_marking
        side = carla.LaneChange.Right if right else carla.LaneChange.Left
        if not marking or not marking.lane_change & side:
            return False
        neighbour = waypoint.get_right_lane() if right else waypoint.get_left_lane()
        if neighbour is None or neighbour.lane_type != carla.LaneType.Driving or neighbour.road_id != waypoint.road_id:
            return False
        target = self._localize(neighbour.transform.location)
        if target is None:
            return False
        edge = _Edge(
            entry=waypoint,
            exit=neighbour,
            path=[],
            length=0,
            option=option,
            junction=False,
            exit_vector=None,
            net_vector=None,
        )
        self._graph.add_edge(segment.entry_node, target[0], edge)
        return True

    def _localize(self, location: carla.Location) -> tuple[int, int] | None:
        waypoint = self._map.get_waypoint(location)
        return None if waypoint is None else self._graph.lane_edges.get(_lane_key(waypoint))

    def _check_near(self, keypoint: carla.Location) -> None:
        lane = self._map.get_waypoint(keypoint).transform.location
        off_m = math.hypot(lane.x - keypoint.x, lane.y - keypoint.y)
        if off_m > MAX_OFF_ROAD_M:
            raise PlannerError(
                f"keypoint {_place(keypoint)} is {off_m:.0f} m from the nearest lane of this map "
                f"(at most {MAX_OFF_ROAD_M:.0f} m); is the route made for another town?"
            )

    def _trace(
        self, origin: carla.Location, destination: carla.Location, decisions: _Decisions
    ) -> list[tuple[carla.Waypoint, RoadOption]]:
        start, end = self._localize(origin), self._localize(destination)
        for keypoint, found in ((origin, start), (destination, end)):
            if found is None:
                raise PlannerError(f"keypoint {_place(keypoint)} is not on the road network of this map")
            self._check_near(keypoint)
        assert start is not None and end is not None
        nodes = _shortest_path(self._graph, start[0], end[0])
        if nodes is None:
            raise PlannerError(
                f"this map has no way from ({origin.x:.1f}, {origin.y:.1f}) "
                f"to ({destination.x:.1f}, {destination.y:.1f})"
            )
        nodes.append(end[1])
        current = self._map.get_waypoint(origin)
        target = self._map.get_waypoint(destination)
        trace: list[tuple[carla.Waypoint, RoadOption]] = []
        for index in range(len(nodes) - 1):
            edge = self._graph.successors[nodes[index]].get(nodes[index + 1])
            if edge is None:
                raise PlannerError(f"the map ends before ({destination.x:.1f}, {destination.y:.1f})")
            option = decisions.decide(index, nodes)
            if edge.option in LANE_CHANGES:
                trace.append((current, option))
                current = self._lane_change_end(edge, current)
                trace.append((current, option))
                continue
            points = [edge.entry, *edge.path, edge.exit]
            closest = _closest(current, points)
            last_edge = len(nodes) - index <= 2
            passed = last_edge and closest > _closest(target, points)
            for waypoint in points[closest:]:
                current = waypoint
                trace.append((current, option))
                if not last_edge:
                    continue
                if waypoint.transform.location.distance(destination) < 2.0 * self._hop_m:
                    break
                if passed and _lane_key(waypoint) == _lane_key(target):
                    break
        return trace

    def _lane_change_end(self, change: _Edge, current: carla.Waypoint) -> carla.Waypoint:
        start, end = self._graph.lane_edges[_lane_key(change.exit)]
        lane = self._graph.successors[start][end]
        if not lane.path:
            return lane.exit
        index = _closest(current, lane.path) + LANE_CHANGE_POINTS
        return lane.path[min(index, len(lane.path) - 1)]


class _Decisions:
    """Turn decisions along one route; one decision holds for a whole crossing of a junction."""

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph
        self._previous = RoadOption.VOID
        self._junction_end = -1

    def decide(self, index: int, nodes: list[int]) -> RoadOption:
        """Option of the edge nodes[index] -> nodes[index + 1]."""
        edge = self._graph.successors[nodes[index]][nodes[index + 1]]
        if index == 0:
            self._previous = edge.option
            return self._previous
        enters_lane_in_junction = edge.option is RoadOption.LANEFOLLOW and edge.junction
        inside = self._junction_end > 0 and self._junction_end != nodes[index - 1]
        if self._previous is not RoadOption.VOID and inside and enters_lane_in_junction:
            return self._previous
        self._junction_end = -1
        before = self._graph.successors[nodes[index - 1]][nodes[index]]
        decision = edge.option
        if before.option is RoadOption.LANEFOLLOW and not before.junction and enters_lane_in_junction:
            self._junction_end, tail = self._leave_junction(index, nodes)
            if before.exit_vector is None or tail.exit_vector is None:
                return tail.option
            rivals = self._other_turns(nodes[index], nodes[index + 1], before.exit_vector)
            decision = _turn(before.exit_vector, tail.exit_vector, rivals)
        self._previous = decision
        return decision

    def _leave_junction(self, index: int, nodes: list[int]) -> tuple[int, _Edge]:
        """End node and edge of the last of the successive junction edges from `index` on."""
        end, tail = nodes[index + 1], self._graph.successors[nodes[index]][nodes[index + 1]]
        for start, stop in itertools.pairwise(nodes[index + 1 :]):
            edge = self._graph.successors[start][stop]
            if edge.option is not RoadOption.LANEFOLLOW or not edge.junction:
                break
            end, tail = stop, edge
        return end, tail

    def _other_turns(self, node: int, chosen: int, heading: Vector) -> list[float]:
        """Turn direction (z of the cross product, right positive) of the other lanes that leave `node`."""
        return [
            _cross_z(heading, edge.net_vector)
            for neighbour, edge in self._graph.successors[node].items()
            if neighbour != chosen and edge.option is RoadOption.LANEFOLLOW and edge.net_vector is not None
        ]


def plan_length_m(plan: Iterable[tuple[carla.Transform, RoadOption]]) -> float:
    """Length of the polyline through the plan's points."""
    locations = [transform.location for transform, _ in plan]
    return sum(a.distance(b) for a, b in itertools.pairwise(locations))


def count_turns(plan: Iterable[tuple[carla.Transform, RoadOption]]) -> int:
    """Number of crossings with option LEFT or RIGHT."""
    groups = itertools.groupby(option for _, option in plan)
    return sum(1 for option, _ in groups if option in (RoadOption.LEFT, RoadOption.RIGHT))


def _shortest_path(graph: _Graph, source: int, target: int) -> list[int] | None:
    """A* with the straight-line distance as heuristic; ties go to the node found first."""

    def heuristic(node: int) -> float:
        return math.dist(graph.vertices[node], graph.vertices[target])

    order = itertools.count()
    queue: list[tuple[float, int, int, float, int | None]] = [(0.0, next(order), source, 0.0, None)]
    best: dict[int, float] = {}
    parents: dict[int, int | None] = {}
    while queue:
        _, _, node, cost, parent = heapq.heappop(queue)
        if node == target:
            path = [node]
            while parent is not None:
                path.append(parent)
                parent = parents[parent]
            return path[::-1]
        if node in parents and (parents[node] is None or best[node] < cost):
            continue
        parents[node] = parent
        for neighbour, edge in graph.successors[node].items():
            next_cost = cost + edge.length
            if neighbour in best and best[neighbour] <= next_cost:
                continue
            best[neighbour] = next_cost
            heapq.heappush(queue, (next_cost + heuristic(neighbour), next(order), neighbour, next_cost, node))
    return None


def _turn(heading: Vector, leaving: Vector, rivals: list[float]) -> RoadOption:
    norm = math.hypot(*heading) * math.hypot(*leaving)
    cosine = sum(a * b for a, b in zip(heading, leaving, strict=True)) / norm
    if math.acos(min(max(cosine, -1.0), 1.0)) < STRAIGHT_BELOW_RAD:
        return RoadOption.STRAIGHT
    cross = _cross_z(heading, leaving)
    rivals = rivals or [0.0]
    if cross < min(rivals):
        return RoadOption.LEFT
    if cross > max(rivals):
        return RoadOption.RIGHT
    return RoadOption.LEFT if cross < 0.0 else RoadOption.RIGHT


def _lane_key(waypoint: carla.Waypoint) -> LaneKey:
    return waypoint.road_id, waypoint.section_id, waypoint.lane_id


def _forward(waypoint: carla.Waypoint) -> Vector:
    vector = waypoint.transform.get_forward_vector()
    return vector.x, vector.y, vector.z


def _direction(start: carla.Location, end: carla.Location) -> Vector:
    """Unit vector from start to end; zero when they coincide, as they do on zero-length segments."""
    length = start.distance(end)
    if length < 1e-3:
        return 0.0, 0.0, 0.0
    return (end.x - start.x) / length, (end.y - start.y) / length, (end.z - start.z) / length


def _cross_z(a: Vector, b: Vector) -> float:
    return a[0] * b[1] - a[1] * b[0]


def _closest(waypoint: carla.Waypoint, candidates: list[carla.Waypoint]) -> int:
    location = waypoint.transform.location
    distances = [candidate.transform.location.distance(location) for candidate in candidates]
    return distances.index(min(distances))
