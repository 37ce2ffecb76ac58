"""All criteria of a route together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import carla

from eval.criteria.contacts import Collisions, Contact
from eval.criteria.events import EgoState, Event, make_event
from eval.criteria.lanes import OutsideRouteLanes
from eval.criteria.progress import Blocked, InRoute, MinimumSpeed, RouteCompletion, RouteTimeout
from eval.criteria.signals import RunningRedLight, RunningStopSign, SignalBox
from eval.criteria.track import RouteTrack
from eval.planner import DensePlan
from eval.scoring import Infraction, Scoring


@dataclass(frozen=True, slots=True)
class CriteriaConfig:
    """What differs between the benchmarks."""

    scoring: Scoring
    blocked_s: float
    min_speed_checkpoints: int
    max_ticks: int | None

    @classmethod
    def for_scoring(cls, scoring: Scoring) -> CriteriaConfig:
        """The rules of the benchmark with this scoring."""
        if scoring is Scoring.BENCH2DRIVE:
            return cls(scoring, blocked_s=60.0, min_speed_checkpoints=20, max_ticks=4000)
        return cls(scoring, blocked_s=180.0, min_speed_checkpoints=4, max_ticks=None)


@dataclass(slots=True)
class Criteria:
    """All criteria of a route; `update` once per tick after the world's tick and the agent's step."""

    config: CriteriaConfig
    track: RouteTrack
    completion: RouteCompletion
    outside_lanes: OutsideRouteLanes
    collisions: Collisions
    red_light: RunningRedLight
    stop_sign: RunningStopSign
    min_speed: MinimumSpeed
    in_route: InRoute
    blocked: Blocked
    timeout: RouteTimeout
    ticks: int = 0
    failure: str | None = None
    _ended: bool = False
    _ego: EgoState | None = field(default=None)

    def update(
        self,
        ego: EgoState,
        contacts: Sequence[Contact] = (),
        traffic_speeds_mps: Sequence[float] = (),
        *,
        held_up: bool = False,
    ) -> bool:
        """Whether the route is over after this tick. held_up: a scenario with a time of its own is running."""
        self.ticks += 1
        self._ego = ego
        was_reached = self.completion.reached
        self.completion.update(ego)
        self.outside_lanes.update(ego)
        self.collisions.update(ego, contacts)
        self.red_light.update(ego)
        self.stop_sign.update(ego)
        self.min_speed.update(ego, traffic_speeds_mps)
        self.in_route.update(ego)
        self.blocked.update(ego, held_up=held_up)
        self.timeout.update(ego)
        self._ended = was_reached or bool(self.in_route.events or self.blocked.events) or self.timeout.expired
        if self._ended:
            return True
        if self.config.max_ticks is not None and self.ticks > self.config.max_ticks:
            self.failure = "TickRuntime"
            return True
        return False

    def finish(self) -> None:
        """Close the account of the last stretch; once, at the route's end."""
        if self._ego is not None:
            self.min_speed.finish(self._ego, ended_by_criterion=self._ended)

    def events(self) -> list[Event]:
        """All events so far, in the order in which the leaderboard lists its criteria."""
        events = [*self.outside_lanes.events, *self.collisions.events, *self.red_light.events, *self.stop_sign.events]
        events += [*self.min_speed.events, *self.in_route.events, *self.blocked.events]
        if self.timeout.expired and self._ego is not None:
            events.append(make_event(self._ego, Infraction.ROUTE_TIMEOUT, "Route timeout."))
        return events

    def failure_message(self) -> str | None:
        """Why the route ended early, in the leaderboard's words; None while it runs and when it was completed."""
        if self.blocked.events:
            return "Agent got blocked"
        if self.in_route.events:
            return "Agent deviated from the route"
        if self.timeout.expired:
            return "Agent timed out"
        return self.failure


def make_criteria(
    config: CriteriaConfig,
    plan: DensePlan,
    carla_map: carla.Map,
    *,
    start: carla.Location,
    half_length_m: float,
    lights: Sequence[SignalBox] = (),
    light_state: Callable[[int], carla.TrafficLightState] = lambda _: carla.TrafficLightState.Unknown,
    stop_signs: Sequence[SignalBox] = (),
) -> Criteria:
    """Criteria for a route that begins with the ego at `start`; `half_length_m` is half the ego's length."""
    track = RouteTrack(plan)
    return Criteria(
        config=config,
        track=track,
        completion=RouteCompletion(track),
        outside_lanes=OutsideRouteLanes(track, carla_map, start),
        collisions=Collisions(),
        red_light=RunningRedLight(carla_map, lights, light_state, half_length_m),
        stop_sign=RunningStopSign(carla_map, stop_signs),
        min_speed=MinimumSpeed(track, config.min_speed_checkpoints, every=config.scoring is Scoring.BENCH2DRIVE),
        in_route=InRoute(track),
        blocked=Blocked(config.blocked_s),
        timeout=RouteTimeout(track),
    )
