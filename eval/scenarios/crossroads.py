"""Junctions: the moves through them, where ways meet, and when the ego will be there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import carla
import numpy as np

from eval.scenarios.lanes import STEP_M, behind, lane_path, straightest, turn_deg
from eval.scenarios.line import Line
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.way import Passage, Way

if TYPE_CHECKING:
    from eval.scenarios.stage import Stage

MAX_INSIDE_M = 150.0
STRAIGHT, RIGHT, LEFT = 0.0, 90.0, -90.0
"""Turns of a move, clockwise [degrees]."""
TURN_TOLERANCE_DEG = 50.0
MEET_M = 1.8
"""Middle lines this close to each other are in each other's way."""
ACCELERATION_MPS2 = 2.0
LATERAL_MPS2 = 2.2
"""How a driver gains speed, and how fast it goes through bends."""
MIN_SPEED_MPS = 2.0
STARTED_M = 40.0
"""After this way the ego has shown how fast it drives."""

LaneKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Move:
    """A way through a junction."""

    entry: carla.Waypoint
    """The last waypoint before the junction."""
    inside: tuple[carla.Waypoint, ...]
    exit: carla.Waypoint
    """The first one after it."""

    @property
    def turn_deg(self) -> float:
        """How far it turns, clockwise."""
        return turn_deg(self.exit.transform.rotation.yaw, self.entry.transform.rotation.yaw)

    def line(self, before_m: float, after_m: float) -> Line:
        """The way with its lanes before and after, as far as the neighbouring junctions."""
        start = behind(self.entry, before_m, stop_at_junction=True)
        length_m = start.transform.location.distance(self.entry.transform.location)
        before = lane_path(start, 1.5 * length_m, stop_at_junction=True) if length_m > 0.0 else []
        after = lane_path(self.exit, after_m, stop_at_junction=True)
        return Line([*before, *(waypoint.transform for waypoint in self.inside), *after])


@dataclass(frozen=True)
class Crossroads:
    """A junction on the ego's route."""

    junction: carla.Junction
    entry: carla.Waypoint
    """Where the ego comes in."""
    exit: carla.Waypoint
    entry_arc_m: float
    exit_arc_m: float

    @classmethod
    def ahead(cls, stage: Stage, arc_m: float) -> Crossroads:
        """The first junction of the ego's route after an arc length. Raises: ScenarioError."""
        route, inside, before = stage.route, None, None
        for index in range(route.index_at(arc_m), len(route.points)):
            waypoint = stage.map.get_waypoint(route.transforms[index].location)
            if waypoint.is_junction and inside is None:
                inside, entry, entry_arc_m = waypoint, before or waypoint, float(route.arc_m[index])
            if inside is not None and not waypoint.is_junction:
                return cls(inside.get_junction(), entry, waypoint, entry_arc_m, float(route.arc_m[index]))
            before = waypoint
        raise ScenarioError(f"the route passes no junction after the trigger at {arc_m:.0f} m; move it before one")

    @classmethod
    def of(cls, way: Way, passage: Passage) -> Crossroads:
        """A junction of a planned route."""
        inside = way.waypoints[passage.entry + 1]
        arcs_m = float(way.line.arc_m[passage.entry]), float(way.line.arc_m[passage.exit])
        return cls(inside.get_junction(), way.waypoints[passage.entry], way.waypoints[passage.exit], *arcs_m)

    @cached_property
    def moves(self) -> list[Move]:
        """All ways of vehicles through the junction."""
        found = (_move(start) for start, _ in self.junction.get_waypoints(carla.LaneType.Driving))
        return [move for move in found if move is not None]

    def coming_from(self, side: str, turn: float = STRAIGHT, tolerance_deg: float = 180.0) -> list[Move]:
        """Moves that enter from the `left`, `right` or `opposite` side of the ego: per lane the nearest to a turn.

        Of each entry lane the move that turns most like `turn` [degrees] is taken, if at all within the tolerance.
        """
        best: dict[LaneKey, Move] = {}
        for move in self.moves:
            if side_of(move.entry, self.entry) != side or abs(turn_deg(move.turn_deg, turn)) > tolerance_deg:
                continue
            other = best.get(lane_key(move.entry))
            if other is None or abs(turn_deg(move.turn_deg, turn)) < abs(turn_deg(other.turn_deg, turn)):
                best[lane_key(move.entry)] = move
        return [best[key] for key in sorted(best)]

    def clear(self, stage: Stage) -> None:
        """Remove background vehicles in the junction."""
        extent = self.junction.bounding_box.extent
        stage.clear(self.junction.bounding_box.location, math.hypot(extent.x, extent.y))


def lane_key(waypoint: carla.Waypoint) -> LaneKey:
    """What tells lanes apart."""
    return waypoint.road_id, waypoint.lane_id


def side_of(entry: carla.Waypoint, reference: carla.Waypoint) -> str:
    """Where vehicles come from, as seen by the reference: `left`, `right`, `opposite`, or `behind` for its own side."""
    difference_deg = (entry.transform.rotation.yaw - reference.transform.rotation.yaw) % 360.0
    if 30.0 < difference_deg <= 135.0:
        return "left"
    if 135.0 < difference_deg <= 225.0:
        return "opposite"
    return "right" if 225.0 < difference_deg <= 330.0 else "behind"


def meeting_arcs_m(ego: Line, start_m: float, end_m: float, other: Line) -> tuple[float, float] | None:
    """Arc lengths, on the ego's line and on another, where they first come together; None if they do not."""
    low, high = ego.index_at(start_m), ego.index_at(end_m) + 1
    delta = ego.points[low:high, None] - other.points[None]
    near = (delta**2).sum(2) < MEET_M**2
    meets = near.any(1)
    if not meets.any():
        return None
    index = int(np.argmax(meets))
    return float(ego.arc_m[low + index]), float(other.arc_m[int((delta[index] ** 2).sum(1).argmin())])


def arrival_s(stage: Stage, arc_m: float, stop: tuple[float, float] | None = None) -> float:
    """When an ego that drives on undisturbed is at an arc length of its route.

    It gets as fast as it has been, or up to the speed limit if it has just started; bends slow it down.
    `stop`: where it may have to wait, and until when [s from now].
    """
    arrival = _drive_s(stage, stage.ego_arc_m, stage.ego_pose.speed_mps, arc_m)
    if stop is None:
        return arrival
    stop_m, until_s = stop
    return max(arrival, until_s + _drive_s(stage, max(stop_m, stage.ego_arc_m), 0.0, arc_m))


def _drive_s(stage: Stage, start_m: float, speed_mps: float, end_m: float) -> float:
    if end_m <= start_m:
        return 0.0
    route = stage.route
    arcs_m = np.arange(start_m, end_m + STEP_M, STEP_M)
    yaw = np.interp(np.stack([arcs_m - 2.0, arcs_m + 2.0]), route.arc_m, route.yaw_rad)
    curvature = np.maximum(np.abs(yaw[1] - yaw[0]) / 4.0, 1e-4)
    top_mps = stage.speed_limit_mps
    if stage.ego_arc_m > STARTED_M:
        top_mps = min(top_mps, stage.ego_top_mps)
    speed2 = np.minimum(LATERAL_MPS2 / curvature, max(top_mps, MIN_SPEED_MPS) ** 2)
    speed2[0] = min(speed2[0], speed_mps**2)
    for k in range(len(speed2) - 2, -1, -1):
        speed2[k] = min(speed2[k], speed2[k + 1] + 2.0 * ACCELERATION_MPS2 * STEP_M)
    for k in range(1, len(speed2)):
        speed2[k] = min(speed2[k], speed2[k - 1] + 2.0 * ACCELERATION_MPS2 * STEP_M)
    speeds = np.sqrt(speed2)
    return float((2.0 * STEP_M / np.maximum(speeds[1:] + speeds[:-1], 0.5)).sum())


def _move(start: carla.Waypoint) -> Move | None:
    """None for a lane that only touches the junction, or leads nowhere."""
    if not start.is_junction:
        return None
    before = [start]
    while before[-1].is_junction:
        previous = before[-1].previous(STEP_M)
        if not previous or len(before) > MAX_INSIDE_M:
            return None
        before.append(straightest(before[-1], previous))
    inside = [*reversed(before[:-1]), *_onwards(start)]
    if not inside or inside[-1].is_junction:
        return None
    return Move(before[-1], tuple(inside[:-1]), inside[-1])


def _onwards(waypoint: carla.Waypoint) -> Iterator[carla.Waypoint]:
    """Waypoints after one inside a junction, up to the first one outside it."""
    for _ in range(int(MAX_INSIDE_M)):
        following = waypoint.next(STEP_M)
        if not following:
            return
        waypoint = straightest(waypoint, following)
        yield waypoint
        if not waypoint.is_junction:
            return
