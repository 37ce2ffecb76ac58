"""Traffic along given start and end points that the ego has to merge into, or to cross.

Source: scenario_runner, scenarios of these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import ClassVar

import carla

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.crossroads import STRAIGHT, TURN_TOLERANCE_DEG, Crossroads, Move, side_of
from eval.scenarios.junctions import END_M
from eval.scenarios.lanes import ahead, behind, driving_beside, lane_way, opposite, same_direction
from eval.scenarios.limits import speed_near_limit
from eval.scenarios.line import Line
from eval.scenarios.merges import lane_changes_to_exit, merges
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.stream import Stream
from eval.scenarios.way import Control, Way

RUN_IN_M = (80.0, 110.0)
RUN_OUT_M = (50.0, 80.0)
"""Lengths of generated flows before and after where the ego joins."""
RAMP_RUN_IN_M = (170.0, 210.0)
"""The former where it comes from a ramp."""
TRIGGER_M, RAMP_TRIGGER_M, EXIT_TRIGGER_M = (24.0, 32.0), (60.0, 90.0), (75.0, 105.0)
"""The trigger's distance to the junction, to the end of a ramp, and to the lane change for an exit."""
MIN_SPEED_MPS = 5.0
AHEAD_OF_EGO_M = 5.0
DETOUR, DETOUR_M = 1.6, 50.0
"""A way along the lanes is taken if it is not longer than this share of the straight distance, and some metres."""


class _Flow(Scenario):
    """A flow from `start_actor_flow` to `end_actor_flow`."""

    timeout_s = 240.0
    SPACING_M: ClassVar[tuple[tuple[int, int], tuple[int, int]]] = ((15, 22), (35, 60))
    """Ranges of the least and the greatest spacing on generated routes."""
    SHARES: ClassVar[tuple[float, float]] = (0.65, 0.85)
    """The flow's speed there: shares of the speed limit."""

    def lines(self) -> Sequence[Line]:
        """The ways of the traffic. Raises: ScenarioError."""
        return [self._line(self._start(), self._end())]

    def end_arc_m(self) -> float:
        """Where on the ego's route the scenario is over."""
        return self.arc_ahead(self._end().transform.location)

    def prepare(self) -> None:
        """Plan the flow."""
        self._lines = self.lines()
        self._end_arc_m = self.end_arc_m()

    def script(self) -> Script:
        """The flow runs until the ego has it behind it."""
        speed_mps = self.parameters.number("flow_speed", 10.0, 1.0, 50.0)
        spacing_m = self.parameters.interval("source_dist_interval", (20.0, 50.0), 1.0)
        self.stage.clear_way(self.stage.ego_arc_m + AHEAD_OF_EGO_M, self._end_arc_m)
        flows = [Stream(self, line, speed_mps, spacing_m, until_arc_m=self._end_arc_m) for line in self._lines]
        yield from self.play(*flows, until=lambda: self.ego_passed(self._end_arc_m))

    def _line(self, start: carla.Waypoint, end: carla.Waypoint) -> Line:
        """Along the lanes if they lead there, else as the planner finds."""
        distance_m = start.transform.location.distance(end.transform.location)
        way = lane_way(start, end, DETOUR * distance_m + DETOUR_M)
        return Line(way) if way else self.line_between(start.transform.location, end.transform.location)

    def _start(self) -> carla.Waypoint:
        return self.stage.map.get_waypoint(self.parameters.required_location("start_actor_flow"))

    def _end(self) -> carla.Waypoint:
        return self.stage.map.get_waypoint(self.parameters.required_location("end_actor_flow"))


class _Merge(_Flow):
    """The ego joins a lane that others use."""

    FROM_RAMP: ClassVar[bool] = False
    """On generated routes the ego comes from a ramp only."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Right turns without lights, and ramps."""
        for merge in merges(way):
            index = way.before(merge.passage, random.uniform(*(RAMP_TRIGGER_M if merge.is_ramp else TRIGGER_M)))
            if index is None or (cls.FROM_RAMP and not merge.is_ramp):
                continue
            before_m = random.uniform(*(RAMP_RUN_IN_M if merge.is_ramp else RUN_IN_M))
            yield _block(cls, way, index, *merge.flow(before_m, random.uniform(*RUN_OUT_M)), random)


class EnterActorFlow(_Merge):
    """Fast traffic on all lanes of the road."""

    def lines(self) -> Sequence[Line]:
        """One on each lane."""
        lanes = zip(same_direction(self._start()), same_direction(self._end()), strict=False)
        return [self._line(start, end) for start, end in lanes]


class EnterActorFlowV2(_Merge):
    """Fast traffic on the lane that a ramp leads to."""

    FROM_RAMP = True


class MergerIntoSlowTraffic(_Merge):
    """Slow traffic on the lane that the ego joins."""

    SHARES = (0.4, 0.6)
    SPACING_M = ((11, 16), (26, 35))


class MergerIntoSlowTrafficV2(MergerIntoSlowTraffic):
    """Slow traffic on the lane that a ramp leads to."""

    FROM_RAMP = True


class HighwayExit(_Flow):
    """Traffic on the lane that the ego has to change to for leaving the highway."""

    SHARES = (0.45, 0.6)

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Lane changes to the right with an exit soon after."""
        for change, passage in lane_changes_to_exit(way):
            trigger_m = float(way.line.arc_m[change]) - random.uniform(*EXIT_TRIGGER_M)
            if trigger_m < 0.0:
                continue
            index = way.line.index_at(trigger_m)
            lane = driving_beside(way.waypoints[change], "right") or way.waypoints[passage.entry]
            crossroads = Crossroads.of(way, passage)
            only_exit = all(side_of(move.entry, crossroads.entry) == "behind" for move in crossroads.moves)
            if passage.control is Control.NONE and only_exit and not way.waypoints[index].is_junction:
                start = behind(lane, random.uniform(*RAMP_RUN_IN_M), stop_at_junction=True)
                end = ahead(crossroads.exit, random.uniform(*RUN_OUT_M))
                locations = start.transform.location, end.transform.location
                yield _block(cls, way, index, *locations, random)

    def end_arc_m(self) -> float:
        """Where the ego leaves the junction that the flow passes."""
        route, inside = self.stage.route, False
        passed = {w.get_junction().id for w in map(self._waypoint, self._lines[0].transforms) if w.is_junction}
        for index in range(route.index_at(self.trigger_arc_m), len(route.points)):
            waypoint = self._waypoint(route.transforms[index])
            if waypoint.is_junction and waypoint.get_junction().id in passed:
                inside = True
            elif inside:
                return float(route.arc_m[index])
        return super().end_arc_m()

    def _waypoint(self, transform: carla.Transform) -> carla.Waypoint:
        return self.stage.map.get_waypoint(transform.location)


class InterurbanActorFlow(_Flow):
    """Oncoming traffic that the ego crosses to leave the road to the left."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Left turns without lights or signs."""
        for crossroads, index in _left_turns(way, Control.NONE, random):
            for move in crossroads.coming_from("opposite", STRAIGHT, TURN_TOLERANCE_DEG)[:1]:
                yield _block(cls, way, index, *_ends(move, random), random)

    def end_arc_m(self) -> float:
        """After the junction."""
        return self.arc_ahead(self.after_junction().transform.location) + END_M


class InterurbanAdvancedActorFlow(_Flow):
    """Traffic on both directions of a road that the ego turns left into: it crosses the one and joins the other."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Left turns at stop signs into a road that goes straight on."""
        for crossroads, index in _left_turns(way, Control.STOP, random):
            for move in crossroads.coming_from("left", STRAIGHT, TURN_TOLERANCE_DEG)[:1]:
                start, end = _ends(move, random)
                ends = (way.map.get_waypoint(location) for location in (start, end))
                if all(opposite(waypoint) is not None for waypoint in ends):
                    yield _block(cls, way, index, start, end, random)

    def lines(self) -> Sequence[Line]:
        """The given one, and one back."""
        start, end = opposite(self._end()), opposite(self._start())
        if start is None or end is None:
            raise ScenarioError("its flow runs on a road of one direction; choose one with an opposite lane")
        self._last = end.transform.location
        return [*super().lines(), self._line(start, end)]

    def end_arc_m(self) -> float:
        """Where the second flow ends."""
        return self.arc_ahead(self._last)


def _left_turns(way: Way, control: Control, random: Random) -> Iterator[tuple[Crossroads, int]]:
    for passage in way.passages:
        index = way.before(passage, random.uniform(*TRIGGER_M))
        if passage.option is RoadOption.LEFT and passage.control is control and index is not None:
            yield Crossroads.of(way, passage), index


def _ends(move: Move, random: Random) -> tuple[carla.Location, carla.Location]:
    """Start and end of a flow along a move."""
    start = behind(move.entry, random.uniform(*RUN_IN_M), stop_at_junction=True)
    return start.transform.location, ahead(move.exit, random.uniform(*RUN_OUT_M)).transform.location


def _block(
    kind: type[_Flow],
    way: Way,
    index: int,
    start: carla.Location,
    end: carla.Location,
    random: Random,
) -> ScenarioBlock:
    spacing_m = tuple(random.randint(*bounds) for bounds in kind.SPACING_M)
    return way.block(
        kind.__name__,
        index,
        start_actor_flow=start,
        end_actor_flow=end,
        flow_speed=max(speed_near_limit(way.map, way.map.get_waypoint(start), kind.SHARES, random), MIN_SPEED_MPS),
        source_dist_interval=spacing_m,
    )
