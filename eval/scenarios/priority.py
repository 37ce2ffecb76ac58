"""Junctions where others take the ego's priority, and junctions without anything special but their lights and signs.

Source: scenario_runner, scenarios of these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

import carla

from eval.planner import RoadOption
from eval.routes import ScenarioBlock
from eval.scenarios.crossroads import STRAIGHT, TURN_TOLERANCE_DEG, Crossroads, Move, arrival_s, meeting_arcs_m
from eval.scenarios.junctions import END_M, RED_AHEAD_M, RED_S
from eval.scenarios.motion import PathDriver
from eval.scenarios.parameters import ScenarioError
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.signals import Signals
from eval.scenarios.stage import is_emergency
from eval.scenarios.way import Control, Way

SOURCE_M = 30.0
SINK_M = 10.0
SPEED_MPS = 60.0 / 3.6
CLOSE_M = 12.0
"""The other vehicle comes at the latest when the ego is this close to where they would meet."""
T_JUNCTION_M = 200.0
GREEN_S = 5.0
TURNS = (RoadOption.LEFT, RoadOption.RIGHT)


class OppositeVehicleTakingPriority(Scenario):
    """An emergency vehicle crosses the ego's way at a junction without giving way."""

    CONTROLS: ClassVar[tuple[Control, ...]] = (Control.STOP, Control.NONE)

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Junctions that the ego goes straight on at, or turns left, with a way across."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(26.0, 45.0))
            passes = passage.option in (RoadOption.STRAIGHT, RoadOption.LEFT) and passage.control in cls.CONTROLS
            if not passes or index is None:
                continue
            crossroads = Crossroads.of(way, passage)
            sides = [side for side in ("left", "right") if crossroads.coming_from(side, STRAIGHT, TURN_TOLERANCE_DEG)]
            if sides:
                yield way.block(cls.__name__, index, direction=random.choice(sides))

    def prepare(self) -> None:
        """Look at the junction."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)
        side = self.parameters.choice("direction", ("left", "right", "opposite"), "right")
        moves = self.crossroads.coming_from(side)
        if not moves:
            raise ScenarioError(f"nobody can come from the {side} at this junction; choose another direction")
        self.move: Move = moves[0]
        lights = Control.LIGHT in self.CONTROLS
        self.signals = Signals(self.stage, self.crossroads.junction if lights else None)

    def approach(self) -> Script:
        """The ego finds its light green."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m - RED_AHEAD_M))
        self.signals.hold(green=[self.crossroads.entry])

    def script(self) -> Script:
        """It waits for the ego, crosses, and is gone."""
        self.signals.hold(green=[self.crossroads.entry])
        line = self.move.line(SOURCE_M, SINK_M)
        exit_arc_m = self.crossroads.exit_arc_m
        meeting = meeting_arcs_m(self.stage.route, self.crossroads.entry_arc_m, exit_arc_m, line)
        ego_m, own_m = meeting or (0.5 * (self.crossroads.entry_arc_m + exit_arc_m), 0.5 * line.length_m)
        self.crossroads.clear(self.stage)
        self.stage.clear_way(self.stage.ego_arc_m + 5.0, exit_arc_m + END_M)
        lights = carla.VehicleLightState(carla.VehicleLightState.Special1 | carla.VehicleLightState.Special2)
        vehicle = self.vehicle(line.at(0.0), accept=is_emergency, lights=lights)
        yield from self.until(lambda: self._time_has_come(ego_m, own_m / SPEED_MPS))
        driver = PathDriver(self.stage, vehicle, line, SPEED_MPS, minds_others=False, rolling=True)
        yield from self.play(driver, until=lambda: driver.finished)
        self.discard([vehicle])
        yield from self.until(lambda: self.ego_passed(exit_arc_m))

    def finish(self) -> None:
        """The lights go on."""
        self.signals.release()

    def _time_has_come(self, arc_m: float, seconds: float) -> bool:
        return arrival_s(self.stage, arc_m) < seconds or arc_m - self.stage.ego_arc_m < CLOSE_M


class OppositeVehicleRunningRedLight(OppositeVehicleTakingPriority):
    """An emergency vehicle runs a red light while the ego has green."""

    CONTROLS = (Control.LIGHT,)


class PriorityAtJunction(Scenario):
    """The ego has green until it has left the junction."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Junctions with lights."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(40.0, 60.0))
            if passage.control is Control.LIGHT and index is not None:
                yield way.block(cls.__name__, index)

    def prepare(self) -> None:
        """Look at the junction."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)
        self.signals = Signals(self.stage, self.crossroads.junction)

    def script(self) -> Script:
        """Green, all the way."""
        self.signals.hold(green=[self.crossroads.entry])
        self.crossroads.clear(self.stage)
        yield from self.until(lambda: self.ego_passed(self.crossroads.exit_arc_m))

    def finish(self) -> None:
        """The lights go on."""
        self.signals.release()


class T_Junction(Scenario):
    """Some way through junctions as they are."""

    timeout_s = 240.0

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Junctions of three arms with lights or stop signs."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(25.0, 50.0))
            if passage.control is Control.NONE or passage.option is RoadOption.LANEFOLLOW or index is None:
                continue
            crossroads = Crossroads.of(way, passage)
            if sum(bool(crossroads.coming_from(side)) for side in ("left", "right", "opposite")) == 2:
                yield way.block(cls.__name__, index)

    def script(self) -> Script:
        """A stretch of road."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m + T_JUNCTION_M))


class VanillaNonSignalizedTurn(Scenario):
    """A turn without lights, and nothing else."""

    timeout_s = 240.0
    CONTROLS: ClassVar[tuple[Control, ...]] = (Control.NONE,)
    TRIGGER_M: ClassVar[tuple[float, float]] = (24.0, 32.0)
    """Range of the trigger's distance to the junction on generated routes."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Turns with such a control."""
        for passage in way.passages:
            index = way.before(passage, random.uniform(*cls.TRIGGER_M))
            if passage.option in TURNS and passage.control in cls.CONTROLS and index is not None:
                yield way.block(cls.__name__, index)

    def prepare(self) -> None:
        """Look at the junction."""
        self.crossroads = Crossroads.ahead(self.stage, self.trigger_arc_m)

    def script(self) -> Script:
        """Until the ego has turned."""
        yield from self.until(lambda: self.ego_passed(self.crossroads.exit_arc_m + END_M))


class VanillaNonSignalizedTurnEncounterStopsign(VanillaNonSignalizedTurn):
    """A turn at a stop sign, and nothing else."""

    CONTROLS = (Control.STOP,)


class VanillaSignalizedTurnEncounterRedLight(VanillaNonSignalizedTurn):
    """A turn at lights that get green when the ego has waited a little."""

    CONTROLS = (Control.LIGHT,)

    def prepare(self) -> None:
        """Look at the junction."""
        super().prepare()
        self.signals = Signals(self.stage, self.crossroads.junction)

    def approach(self) -> Script:
        """The light is red in time, so that nobody has to brake hard for it."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m - RED_AHEAD_M))
        self.signals.hold()

    def script(self) -> Script:
        """Red for all, then green for the ego."""
        self.signals.hold()
        yield from self.wait(RED_S)
        self.signals.hold(green=[self.crossroads.entry])
        yield from super().script()

    def finish(self) -> None:
        """The lights go on."""
        self.signals.release()


class VanillaSignalizedTurnEncounterGreenLight(VanillaSignalizedTurnEncounterRedLight):
    """A turn at lights that are green for the ego, but not for long."""

    TRIGGER_M = (8.0, 14.0)

    def approach(self) -> Script:
        """The ego finds its light green."""
        yield from self.until(lambda: self.ego_passed(self.trigger_arc_m - RED_AHEAD_M))
        self.signals.hold(green=[self.crossroads.entry])

    def script(self) -> Script:
        """Green for the ego, then red for all."""
        self.signals.hold(green=[self.crossroads.entry])
        self.crossroads.clear(self.stage)
        yield from self.wait(GREEN_S)
        self.signals.hold()
        yield from self.wait(RED_S)
