"""Turns at junctions through, or into, traffic that has priority. Source: scenario_runner, scenarios of these names."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.crossroads import RIGHT, STRAIGHT, TURN_TOLERANCE_DEG, Crossroads, Move
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.signals import Signals
from eval.scenarios.stream import Stream
from eval.scenarios.way import Control, Way

RED_S = 5.0
"""The ego's light stays red this long after the trigger."""
RED_AHEAD_M = 60.0
"""It is red when the ego is this far before the trigger, at the latest."""
END_M = 10.0
"""The scenario is over this far after the junction."""
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
            if any(_run_m(move) >= MIN_RUN_M for move in cls._sources(Crossroads.of(way, passage), TURN_TOLERANCE_DEG)):
                spacing = (random.randint(12, 20), random.randint(35, 60))
                parameters = {"flow_speed": random.randint(8, 12), "source_dist_interval": spacing}
                yield way.block(cls.__name__, index, **parameters)

    def prepare(self) -> None:
        """Look at the junction."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)
        sources = self._sources(self.crossroads)
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
        self.crossroads.clear(self.stage)
        self.stage.clear_way(self.stage.ego_arc_m + 5.0, end_m)
        flow = Stream(self, line, speed_mps, spacing_m, until_arc_m=end_m, not_before_s=red_s)
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
    def _sources(cls, crossroads: Crossroads, tolerance_deg: float = 180.0) -> list[Move]:
        return crossroads.coming_from(cls.SIDE, cls.TURN, tolerance_deg)


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
