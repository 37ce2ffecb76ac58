"""Where a planned route joins the way of others, or has to cross their lane to leave it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import carla

from eval.planner import RoadOption
from eval.scenarios.crossroads import lane_key
from eval.scenarios.lanes import ahead, behind, turn_deg
from eval.scenarios.way import Control, Passage, Way

STRAIGHT_DEG = 40.0
APPROACH_M = 30.0
LEAVE_WITHIN_M = 320.0
STEP_M = 1.5


@dataclass(frozen=True, slots=True)
class Merge:
    """A lane without lights that leads into one that others come along."""

    passage: Passage
    lane: carla.Waypoint
    """The others' lane just before the two are one."""
    exit: carla.Waypoint
    """Where the ego is on it."""

    @property
    def is_ramp(self) -> bool:
        """Whether the ego joins without turning."""
        return self.passage.option not in (RoadOption.LEFT, RoadOption.RIGHT)

    def flow(self, before_m: float, after_m: float) -> tuple[carla.Location, carla.Location]:
        """Start and end of traffic on the lane."""
        start = behind(self.lane, before_m)
        while start.is_junction and (following := start.next(2.0)):
            start = following[0]
        return start.transform.location, ahead(self.exit, after_m).transform.location


def merges(way: Way) -> Iterator[Merge]:
    """Right turns and ramps into a lane on which others drive straight on."""
    for passage in way.passages:
        if passage.control is Control.LIGHT or passage.option is RoadOption.LEFT or not _is_real(way, passage):
            continue
        last, exit_ = _out(way.waypoints[passage.exit - 1])
        taken = {lane_key(last), lane_key(exit_)}
        others = (other for other in exit_.previous(2.0 * STEP_M) if lane_key(other) not in taken)
        lane = min(others, key=lambda other: _bend_deg(other, exit_), default=None)
        if lane is not None and _bend_deg(lane, exit_) < STRAIGHT_DEG and not _goes_straight(way, passage, lane, exit_):
            yield Merge(passage, lane, exit_)


def lane_changes_to_exit(way: Way) -> Iterator[tuple[int, Passage]]:
    """Lane changes to the right with a ramp or junction soon after: index of the change, and the passage."""
    changed = -1
    for index, option in enumerate(way.options):
        if option is not RoadOption.CHANGELANERIGHT or index <= changed:
            continue
        passage = next((p for p in way.passages if p.entry > index), None)
        if passage is None:
            return
        distance_m = float(way.line.arc_m[passage.entry] - way.line.arc_m[index])
        changed = max(k for k in range(index, passage.entry + 1) if way.options[k] is option)
        if distance_m < LEAVE_WITHIN_M and passage.option not in (RoadOption.LEFT, RoadOption.RIGHT):
            yield index, passage


def _out(waypoint: carla.Waypoint) -> tuple[carla.Waypoint, carla.Waypoint]:
    """The last waypoint of a lane inside a junction, and the first after it."""
    last = waypoint
    while waypoint.is_junction and (following := waypoint.next(STEP_M)):
        last, waypoint = waypoint, following[0]
    return last, waypoint


def _is_real(way: Way, passage: Passage) -> bool:
    """Whether the route itself goes through the junction, not merely beside a lane in it that narrows into its own."""
    following = way.waypoints[passage.entry].next(STEP_M)
    return lane_key(way.waypoints[passage.entry + 1]) in map(lane_key, following)


def _bend_deg(lane: carla.Waypoint, exit_: carla.Waypoint) -> float:
    return abs(turn_deg(exit_.transform.rotation.yaw, behind(lane, APPROACH_M).transform.rotation.yaw))


def _goes_straight(way: Way, passage: Passage, lane: carla.Waypoint, exit_: carla.Waypoint) -> bool:
    """Whether the ego itself goes straight on through a crossing, and the others turn."""
    if passage.option is not RoadOption.STRAIGHT or not lane.is_junction:
        return False
    before = way.waypoints[passage.entry]
    return abs(turn_deg(exit_.transform.rotation.yaw, before.transform.rotation.yaw)) <= _bend_deg(lane, exit_)
