"""Bicycles on their lane across a junction. Source: scenario_runner `CrossingBicycleFlow`."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import carla

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.crossroads import Crossroads
from eval.scenarios.junctions import END_M, RED_AHEAD_M, RED_S, STOP_M
from eval.scenarios.lanes import MAX_LANES, behind, same_way, straightest
from eval.scenarios.line import Line
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.signals import Signals
from eval.scenarios.stage import is_bicycle
from eval.scenarios.stream import Stream
from eval.scenarios.way import Way

LANE_WITHIN_M = 10.0
AFTER_M = 40.0
"""The bicycles ride this far beyond the junction."""
STEP_M = 2.0
MAX_STEPS = 200
BEFORE_M = (35.0, 55.0)


class CrossingBicycleFlow(Scenario):
    """A flow of bicycles rides straight on where the ego turns; the ego has green after a while, as others have red."""

    timeout_s = 240.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Turns across a bicycle lane: that beside the ego to the right, that of the opposite side to the left."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(24.0, 32.0))
            if index is None:
                continue
            crossroads = Crossroads.of(way, passage)
            if passage.option is RoadOption.RIGHT:
                entries = [crossroads.entry]
            elif passage.option is RoadOption.LEFT:
                entries = [move.entry for move in crossroads.coming_from("opposite")]
            else:
                continue
            bike_lane = next((lane for lane in map(_bike_lane, entries) if lane is not None), None)
            if bike_lane is not None and _through(bike_lane) is not None:
                start = behind(bike_lane, random.uniform(*BEFORE_M), stop_at_junction=True)
                yield way.block(
                    cls.__name__,
                    index,
                    start_actor_flow=start.transform.location,
                    flow_speed=random.randint(6, 8),
                    source_dist_interval=(random.randint(5, 8), random.randint(18, 26)),
                )

    def prepare(self) -> None:
        """Plan the bicycles' way."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)
        location = self.parameters.required_location("start_actor_flow")
        lane = self.stage.map.get_waypoint(location, lane_type=carla.LaneType.Biking)
        path = None
        if lane is not None and lane.transform.location.distance(location) < LANE_WITHIN_M:
            path = _through(lane)
        if path is None:
            raise ScenarioError(f"no bicycle lane leads through a junction from {location}; start on one")
        self.path = Line(path)
        self.signals = Signals(self.stage, self.crossroads.junction)

    def approach(self) -> Script:
        """Lights are red in time."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m - RED_AHEAD_M))
        self.signals.hold()

    def script(self) -> Script:
        """The bicycles ride until the ego has turned."""
        end_m = self.crossroads.exit_arc_m + END_M
        speed_mps = self.parameters.number("flow_speed", 10.0, 1.0, 50.0)
        spacing_m = self.parameters.interval("source_dist_interval", (20.0, 50.0), 1.0)
        red_s = RED_S if self.signals.present else 0.0
        stop = (self.crossroads.entry_arc_m - STOP_M, red_s) if self.signals.present else None
        self.crossroads.clear(self.stage)
        self.stage.clear_way(self.stage.ego_arc_m + 5.0, end_m)
        flow = Stream(self, self.path, speed_mps, spacing_m, until_arc_m=end_m, stop=stop, accept=is_bicycle)
        self.signals.hold()
        green_s = self.stage.now_s + red_s
        yield from self.play(flow, until=lambda: self.stage.now_s >= green_s)
        self.signals.hold(green=[self.crossroads.entry])
        yield from self.play(flow, until=lambda: self.ego_passed(end_m))

    def finish(self) -> None:
        """The lights go on."""
        self.signals.release()


def _bike_lane(waypoint: carla.Waypoint) -> carla.Waypoint | None:
    """The bicycle lane of the waypoint's direction, on its right."""
    for _ in range(MAX_LANES):
        other = waypoint.get_right_lane()
        if other is None or not same_way(waypoint, other):
            return None
        if other.lane_type == carla.LaneType.Biking:
            return other
        waypoint = other
    return None


def _through(lane: carla.Waypoint) -> list[carla.Transform] | None:
    """Along a lane, through the next junction and some way on; None if it ends before."""
    path, inside, after_m = [lane.transform], False, 0.0
    for _ in range(MAX_STEPS):
        following = lane.next(STEP_M)
        if not following:
            return None
        lane = straightest(lane, following)
        path.append(lane.transform)
        inside = inside or lane.is_junction
        after_m += STEP_M if inside and not lane.is_junction else 0.0
        if after_m >= AFTER_M:
            return path
    return None
