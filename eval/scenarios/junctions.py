"""Turns at junctions through, or into, traffic that has priority. Source: scenario_runner, scenarios of these names."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.crossroads import RIGHT, STRAIGHT, TURN_TOLERANCE_DEG, Crossroads, Move, meeting_arcs_m
from eval.scenarios.limits import speed_near_limit
from eval.scenarios.line import Line
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.signals import Signals
from eval.scenarios.stream import Stream
from eval.scenarios.way import Control, Way

RED_S = 5.0
"""The ego's light stays red this long after the trigger."""
RED_AHEAD_M = 60.0
"""It is red when the ego is this far before the trigger, at the latest."""
STOP_M = 4.0
"""The ego waits about this far before the junction."""
END_M = 10.0
"""The scenario is over this far after the junction."""
SHARES = (0.8, 1.0)
"""Of the speed limit: speeds of generated flows."""
MIN_RUN_M = 25.0
"""A flow needs this much road before the junction."""


class _Turn(Scenario):
    """The ego turns while others come from a side; at lights, both have green after a while."""

    timeout_s = 240.0
    OPTION: ClassVar[RoadOption]
    """The ego's turn."""
    SIDE: ClassVar[str]
    """Where the flow comes from."""
    TURN: ClassVar[float] = STRAIGHT
    """Where it goes."""
    CONTROLS: ClassVar[tuple[Control, ...]] = (Control.STOP, Control.NONE)
    SPACING_M: ClassVar[tuple[tuple[int, int], tuple[int, int]]] = ((12, 20), (35, 60))
    """Ranges of the least and the greatest spacing on generated routes."""
    BEFORE_S: ClassVar[float] = 4.0
    AFTER_S: ClassVar[float] = 2.5
    """Lengths of the flow before and after the junction at its speed."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Junctions with such a turn and such a side."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(24.0, 32.0))
            if passage.option is not cls.OPTION or passage.control not in cls.CONTROLS or index is None:
                continue
            sources = cls._meeting(Crossroads.of(way, passage), way.line)
            if sources and max(_run_m(move) for move in sources) >= MIN_RUN_M:
                speed_mps = speed_near_limit(way.map, sources[0].entry, SHARES, random)
                spacing_m = tuple(random.randint(*bounds) for bounds in cls.SPACING_M)
                yield way.block(cls.__name__, index, flow_speed=speed_mps, source_dist_interval=spacing_m)

    def prepare(self) -> None:
        """Look at the junction."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)
        sources = self._meeting(self.crossroads, self.stage.route)
        sources = sources or self.crossroads.coming_from(self.SIDE, self.TURN)
        if not sources:
            raise ScenarioError(f"nobody can come from the {self.SIDE} at this junction; move the trigger to another")
        self.source = self._choose(sources)
        lights = Control.LIGHT in self.CONTROLS
        self.signals = Signals(self.stage, self.crossroads.junction if lights else None)

    def approach(self) -> Script:
        """The ego's light is red in time, so that nobody has to brake hard for it."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m - RED_AHEAD_M))
        self.signals.hold(green=[self.source.entry])

    def script(self) -> Script:
        """The flow runs until the ego has turned."""
        end_m = self.crossroads.exit_arc_m + END_M
        speed_mps = self.parameters.number("flow_speed", 20.0, 1.0, 50.0)
        spacing_m = self.parameters.interval("source_dist_interval", (25.0, 50.0), 1.0)
        line = self.source.line(self.BEFORE_S * speed_mps, self.AFTER_S * speed_mps)
        red_s = RED_S if self.signals.present else 0.0
        stop = (self.crossroads.entry_arc_m - STOP_M, red_s) if self.signals.present else None
        self.crossroads.clear(self.stage)
        self.stage.clear_way(self.stage.ego_arc_m + 5.0, end_m)
        flow = Stream(self, line, speed_mps, spacing_m, until_arc_m=end_m, stop=stop)
        self.signals.hold(green=[self.source.entry])
        green_s = self.stage.now_s + red_s
        yield from self.play(flow, until=lambda: self.stage.now_s >= green_s)
        self.signals.hold(green=[self.source.entry, self.crossroads.entry])
        yield from self.play(flow, until=lambda: self.ego_passed(end_m))

    def finish(self) -> None:
        """The lights go on."""
        self.signals.release()

    def _choose(self, sources: list[Move]) -> Move:
        """The lane that the flow comes on, of several."""
        return self.stage.random.choice(sources)

    @classmethod
    def _meeting(cls, crossroads: Crossroads, route: Line) -> list[Move]:
        """Moves from that side, with that turn, that the ego's way meets."""
        moves = crossroads.coming_from(cls.SIDE, cls.TURN, TURN_TOLERANCE_DEG)
        start_m, end_m = crossroads.entry_arc_m, crossroads.exit_arc_m + END_M
        return [move for move in moves if meeting_arcs_m(route, start_m, end_m, move.line(MIN_RUN_M, MIN_RUN_M))]


class NonSignalizedJunctionLeftTurn(_Turn):
    """A left turn across oncoming traffic."""

    OPTION = RoadOption.LEFT
    SIDE = "opposite"


class SignalizedJunctionLeftTurn(NonSignalizedJunctionLeftTurn):
    """A left turn at lights across oncoming traffic that has green, too."""

    CONTROLS = (Control.LIGHT,)


class NonSignalizedJunctionLeftTurnEnterFlow(_Turn):
    """A left turn into oncoming traffic that turns right."""

    OPTION = RoadOption.LEFT
    SIDE = "opposite"
    TURN = RIGHT
    SPACING_M = ((12, 16), (22, 28))


class SignalizedJunctionLeftTurnEnterFlow(NonSignalizedJunctionLeftTurnEnterFlow):
    """A left turn at lights into oncoming traffic that turns right and has green, too."""

    CONTROLS = (Control.LIGHT,)


class NonSignalizedJunctionRightTurn(_Turn):
    """A right turn into traffic from the left."""

    OPTION = RoadOption.RIGHT
    SIDE = "left"
    BEFORE_S = 5.0
    AFTER_S = 3.0

    def _choose(self, sources: list[Move]) -> Move:
        """The rightmost lane."""
        return max(sources, key=lambda move: abs(move.entry.lane_id))


class SignalizedJunctionRightTurn(NonSignalizedJunctionRightTurn):
    """A right turn at lights into traffic from the left, which has green, too."""

    CONTROLS = (Control.LIGHT,)


def _run_m(move: Move) -> float:
    """Length of the lane before a move, as far as it matters."""
    return float(move.line(2.0 * MIN_RUN_M, 1.0).nearest(move.entry.transform.location))
