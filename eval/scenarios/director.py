"""Plays a route's scenarios: sets each up when the ego comes near, starts it at its trigger, judges it at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from eval.criteria import EgoState, Event
from eval.criteria.events import make_event
from eval.routes import ScenarioBlock
from eval.scenarios.parameters import Parameters, ScenarioError
from eval.scenarios.registry import SCENARIOS
from eval.scenarios.scenario import MESSAGES, Scenario, Script
from eval.scenarios.stage import Stage
from eval.scoring import Infraction

PREPARE_M = 200.0
"""A scenario is set up when its trigger is this far ahead, so that the ego sees it as it was."""
TRIGGER_OFF_ROUTE_M = 4.0
TRIGGER_TURN_RAD = math.radians(60.0)
TRIGGER_EARLY_M = 2.0
logger = logging.getLogger(__name__)


class State(str, Enum):
    """Where a scenario is in its life."""

    WAITING = "waiting"
    PREPARED = "prepared"
    RUNNING = "running"
    OVER = "over"
    SKIPPED = "skipped"


@dataclass(slots=True)
class Act:
    """A scenario with its state."""

    block: ScenarioBlock
    state: State = State.WAITING
    trigger_arc_m: float = 0.0
    scenario: Scenario | None = None
    script: Script | None = None
    started_s: float = 0.0
    reason: str = ""
    """Why it was skipped."""


class Director:
    """Call `prepare` before the warm-up, `update` once per tick, `close` at the end."""

    def __init__(self, stage: Stage, blocks: Sequence[ScenarioBlock]) -> None:
        self.stage = stage
        self.acts = [Act(block) for block in blocks]
        self.events: list[Event] = []
        """Infractions in the scenarios' own terms."""
        self._ego: EgoState | None = None
        for act in self.acts:
            self._guarded(act, self._bill)

    def prepare(self, ego: EgoState) -> None:
        """Set up what stands near the start."""
        self._observe(ego)
        self._prepare_near()
        self.stage.send()

    def update(self, ego: EgoState) -> None:
        """One tick, after the world's."""
        self._observe(ego)
        self._prepare_near()
        for act in self.acts:
            if act.state is State.PREPARED and self.stage.ego_arc_m > act.trigger_arc_m - TRIGGER_EARLY_M:
                self._start(act)
            if act.state is State.PREPARED:
                self._guarded(act, self._approach)
            if act.state is State.RUNNING:
                self._guarded(act, self._advance)
        self.stage.send()

    @property
    def holds_up(self) -> bool:
        """Whether a scenario that gives the ego a time to get past is running: standing before it is not yet blocked.

        Source: scenario_runner's `ScenarioTimeout`, which switches the leaderboard's `ActorBlockedTest` off meanwhile.
        """
        return any(
            act.state is State.RUNNING and act.scenario is not None and act.scenario.timeout_s is not None
            for act in self.acts
        )

    def judge(self) -> None:
        """Judge what still runs at the route's end; safe to call twice."""
        for act in self.acts:
            if act.state is State.RUNNING:
                self._judge(act)

    def close(self) -> None:
        """Clear the stage."""
        self.stage.close()

    def summary(self) -> list[dict[str, str]]:
        """Name, type, state and reason of every scenario, for the record."""
        return [
            {"name": act.block.name, "type": act.block.type, "state": act.state.value, "reason": act.reason}
            for act in self.acts
        ]

    def _observe(self, ego: EgoState) -> None:
        self._ego = ego
        self.stage.observe(ego)

    def _bill(self, act: Act) -> None:
        """Find the scenario's trigger on the route."""
        kind = SCENARIOS.get(act.block.type)
        if kind is None:
            raise ScenarioError(f"type {act.block.type} is not known; known are {', '.join(sorted(SCENARIOS))}")
        parameters = Parameters(act.block)
        trigger = parameters.trigger()
        route = self.stage.route
        index = route.nearest(trigger.location)
        off_m = math.dist(route.points[index][:2], (trigger.location.x, trigger.location.y))
        turn = math.remainder(math.radians(trigger.rotation.yaw) - route.yaw_rad[index], 2.0 * math.pi)
        if off_m > TRIGGER_OFF_ROUTE_M or abs(turn) > TRIGGER_TURN_RAD:
            raise ScenarioError(
                f"its trigger lies {off_m:.1f} m beside the route, turned by {math.degrees(turn):.0f} degrees; "
                f"at most {TRIGGER_OFF_ROUTE_M:g} m and {math.degrees(TRIGGER_TURN_RAD):.0f} degrees are taken"
            )
        act.trigger_arc_m = route.arc_of(trigger.location, index)
        waypoint = self.stage.map.get_waypoint(trigger.location)
        act.scenario = kind(self.stage, parameters, waypoint, act.trigger_arc_m)

    def _prepare_near(self) -> None:
        for act in self.acts:
            if act.state is State.WAITING and act.trigger_arc_m - self.stage.ego_arc_m < PREPARE_M:
                self._guarded(act, self._prepare)

    def _prepare(self, act: Act) -> None:
        assert act.scenario is not None
        act.scenario.prepare()
        act.script = act.scenario.approach()
        act.state = State.PREPARED

    def _approach(self, act: Act) -> None:
        assert act.script is not None
        next(act.script, None)

    def _start(self, act: Act) -> None:
        assert act.scenario is not None
        act.script = act.scenario.script()
        act.started_s = self.stage.now_s
        act.state = State.RUNNING

    def _advance(self, act: Act) -> None:
        assert act.script is not None and act.scenario is not None
        limit_s = act.scenario.timeout_s
        if limit_s is not None and self.stage.now_s - act.started_s > limit_s:
            act.scenario.infractions.append(Infraction.SCENARIO_TIMEOUT)
            self._end(act)
            return
        try:
            next(act.script)
        except StopIteration:
            self._end(act)

    def _end(self, act: Act) -> None:
        self._judge(act)
        if act.scenario is not None:
            act.scenario.leave()

    def _judge(self, act: Act) -> None:
        assert act.scenario is not None
        act.state = State.OVER
        act.scenario.finish()
        for kind in act.scenario.infractions:
            self._report(kind)

    def _report(self, kind: Infraction) -> None:
        ego = self._ego
        assert ego is not None
        self.events.append(make_event(ego, kind, MESSAGES[kind]))

    def _guarded(self, act: Act, step: Callable[[Act], None]) -> None:
        """Run a step; a scenario that cannot go on is skipped with its reason, the route goes on.

        A `ValueError` comes from geometry that does not fit, such as a path without length.
        """
        try:
            step(act)
        except ValueError as error:
            act.state = State.SKIPPED
            act.reason = str(error)
            logger.warning("scenario %s (%s) is skipped: %s", act.block.name, act.block.type, error)
            if act.scenario is not None:
                act.scenario.leave()
