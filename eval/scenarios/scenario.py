"""A scenario is a short script: a generator that is resumed once per tick, where `yield` means "a tick later".

class Jaywalker(Scenario):
    def prepare(self):                        # when the ego comes near
        self.child = self.walker(...)

    def script(self):                         # from the trigger point on
        yield from self.until(lambda: self.ego_arrives_in(3.0, self.place))
        crossing = Crossing(self.stage, self.child, self.goal, 2.0)
        yield from self.play(crossing, until=lambda: crossing.finished)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, ClassVar, Protocol, TypeVar

import carla

from eval.criteria import TICK_S
from eval.routes import ScenarioBlock
from eval.scenarios.lanes import ahead
from eval.scenarios.line import Line
from eval.scenarios.parameters import Parameters, ScenarioError
from eval.scenarios.stage import Stage
from eval.scenarios.way import Way
from eval.scoring import Infraction

Script = Iterator[None]
BEHIND_TRIGGER_M = 30.0
AHEAD_OF_TRIGGER_M = 300.0
"""Things of a scenario lie this far around its trigger, along the route."""
ActorT = TypeVar("ActorT", bound=carla.Actor)
MESSAGES = {
    Infraction.SCENARIO_TIMEOUT: "Agent timed out a scenario",
    Infraction.YIELD_TO_EMERGENCY_VEHICLE: "Agent failed to yield to an emergency vehicle",
}
"""The leaderboard's."""


class Part(Protocol):
    """Something that acts every tick: a driver, a walker, a flow."""

    def update(self) -> None:
        """Act for the next tick."""


class Scenario(ABC):
    """One <scenario> of a route on stage. Actors left when it ends are removed."""

    timeout_s: ClassVar[float | None] = None
    """The ego must have the scenario behind it after this time, else it is an infraction. None: no limit."""

    starts_route: ClassVar[bool] = False
    """The scenario can only be a route's first: its trigger is the route's start."""

    def __init__(self, stage: Stage, parameters: Parameters, trigger: carla.Waypoint, trigger_arc_m: float) -> None:
        """`trigger`: waypoint of the trigger point; `trigger_arc_m`: where that is on the route."""
        self.stage = stage
        self.parameters = parameters
        self.trigger = trigger
        self.trigger_arc_m = trigger_arc_m
        self.infractions: list[Infraction] = []
        """What the ego did wrong in the scenario's own terms (timeout, not yielding)."""
        self.actors: list[carla.Actor] = []

    def prepare(self) -> None:  # noqa: B027 - optional
        """Put on stage what stands there before the trigger. Raises: ScenarioError."""

    def approach(self) -> Script:
        """What happens between `prepare` and the trigger, resumed once per tick."""
        yield from ()

    @abstractmethod
    def script(self) -> Script:
        """What happens from the trigger on; its end is the scenario's."""

    def finish(self) -> None:  # noqa: B027 - optional
        """The scenario is over, or the route is: judge and undo what is not an actor."""

    def leave(self) -> None:
        """Take all actors of the scenario off the stage."""
        self.stage.remove(self.actors)
        self.actors.clear()

    # Putting on stage (the scenario's own: removed when it ends)

    def vehicle(self, transform: carla.Transform, blueprint: str = "vehicle.*", **options: Any) -> carla.Vehicle:
        """As `Stage.spawn_vehicle`."""
        return self._own(self.stage.spawn_vehicle(transform, blueprint, **options))

    def prop(self, transform: carla.Transform, blueprint: str, **options: Any) -> carla.Actor:
        """As `Stage.spawn_prop`."""
        return self._own(self.stage.spawn_prop(transform, blueprint, **options))

    def walker(self, transform: carla.Transform, blueprint: str = "walker.pedestrian.*") -> carla.Walker:
        """As `Stage.spawn_walker`."""
        return self._own(self.stage.spawn_walker(transform, blueprint))

    def discard(self, actors: Sequence[carla.Actor]) -> None:
        """Take some of the scenario's actors off the stage."""
        gone = {actor.id for actor in actors}
        self.actors = [actor for actor in self.actors if actor.id not in gone]
        self.stage.remove(actors)

    def _own(self, actor: ActorT) -> ActorT:
        self.actors.append(actor)
        return actor

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Where on a planned route the scenario can be played, as blocks for a route file; for generated routes."""
        raise NotImplementedError(cls.__name__)

    # Waiting and acting

    def until(self, condition: Callable[[], bool]) -> Script:
        """Wait until a condition holds."""
        while not condition():
            yield

    def wait(self, seconds: float) -> Script:
        """Wait for some game time."""
        for _ in range(round(seconds / TICK_S)):
            yield

    def play(self, *parts: Part, until: Callable[[], bool]) -> Script:
        """Let parts act until a condition holds."""
        while not until():
            for part in parts:
                part.update()
            yield

    # Where the ego is

    def ego_passed(self, arc_m: float) -> bool:
        """Whether the ego has passed an arc length of its route."""
        return self.stage.ego_arc_m > arc_m

    def ego_within(self, distance_m: float, location: carla.Location) -> bool:
        """Whether the ego is closer than a distance."""
        return self.stage.ego_distance_m(location) < distance_m

    def ego_arrives_in(self, seconds: float, arc_m: float, min_speed_mps: float = 1.0) -> bool:
        """Whether the ego's front reaches an arc length of its route within some time at its present speed."""
        pose = self.stage.ego_pose
        front_m = self.stage.ego_arc_m + self.stage.ego.bounding_box.extent.x
        return arc_m - front_m < seconds * max(pose.speed_mps, min_speed_mps)

    # Where things go

    def place_ahead(self, distance_m: float) -> carla.Waypoint:
        """Waypoint on the trigger's lane, `distance_m` further or just before the next junction."""
        return ahead(self.trigger, distance_m)

    def arc_ahead(self, location: carla.Location) -> float:
        """Arc length of the ego's route beside a location, on the part after the trigger where it comes by twice."""
        route = self.stage.route
        start = route.index_at(self.trigger_arc_m - BEHIND_TRIGGER_M)
        end = route.index_at(self.trigger_arc_m + AHEAD_OF_TRIGGER_M) + 1
        delta = route.points[start:end] - (location.x, location.y, location.z)
        return route.arc_of(location, start + int((delta**2).sum(1).argmin()))

    def after_junction(self) -> carla.Waypoint:
        """Where the ego's route leaves the junction after the trigger. Raises: ScenarioError."""
        route, inside = self.stage.route, False
        for index in range(route.index_at(self.trigger_arc_m), len(route.points)):
            waypoint = self.stage.map.get_waypoint(route.transforms[index].location)
            if inside and not waypoint.is_junction:
                return waypoint
            inside = inside or waypoint.is_junction
        raise ScenarioError(
            f"the route leaves no junction after the trigger at {self.trigger_arc_m:.0f} m; move it before one"
        )

    def line_between(self, start: carla.Location, end: carla.Location) -> Line:
        """The drivable way from one location to another. Raises: ScenarioError."""
        try:
            plan = self.stage.planner.plan([(start.x, start.y, start.z), (end.x, end.y, end.z)])
            return Line([transform for transform, _ in plan])
        except ValueError as error:
            raise ScenarioError(f"no way from {start} to {end}: {error}") from error
