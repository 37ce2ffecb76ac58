"""Playing one scenario on a generated route, with simple drivers of the ego."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import carla
import numpy as np

from eval.episode import Episode, EpisodeConfig
from eval.routes import Route
from eval.scenarios.director import State
from eval.scenarios.generate import Town, scenario_routes
from eval.scenarios.line import Line
from eval.scenarios.motion import PathDriver
from eval.scenarios.stage import Body, Stage
from eval.scoring import Infraction
from eval.server import EmbeddedServer, connect

SPEED_MPS = 8.0
LATERAL_MPS2 = 2.2
BEND_AHEAD_M = 18
SIGHT_POINTS = 40
COUNTED = frozenset(Infraction) - {Infraction.RED_LIGHT, Infraction.STOP_SIGN, Infraction.MIN_SPEED}
"""The drivers here know nothing of lights and signs."""


class Driver(Protocol):
    """Drives the ego."""

    def control(self) -> carla.VehicleControl:
        """For the next tick."""
        ...


MakeDriver = Callable[[Stage], Driver]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario went."""

    state: State
    reason: str
    infractions: list[Infraction]
    game_s: float
    end_arc_m: float


class Playground:
    """A server with a generated town."""

    def __init__(self, server: EmbeddedServer, town: str) -> None:
        self.name = town
        self.server = server
        self.client = connect(server.host, server.port, 60.0)

    @cached_property
    def town(self) -> Town:
        """The town with its planner."""
        return Town.of(self.name, self.client.get_world().get_map())

    def route(self, kind: str, seed: int = 1) -> Route:
        """A generated route with one scenario of a type."""
        routes, missing = scenario_routes(self.town, {kind: 1}, seed=seed)
        assert not missing, f"{self.name} has no place for {kind}"
        return routes[0]

    def play(
        self,
        route: Route,
        make_driver: MakeDriver,
        *,
        max_game_s: float = 60.0,
        to_first_infraction: bool = False,
        counted: frozenset[Infraction] = COUNTED,
    ) -> Outcome:
        """Drive until the scenario is over (or the ego did something wrong)."""
        config = EpisodeConfig(traffic=0, max_game_s=max_game_s)
        episode = Episode(
            self.client, route, None, config, address=(self.server.host, self.server.port), planner=self.town.planner
        )
        episode.start()
        try:
            act = episode.director.acts[0]
            driver = make_driver(episode.director.stage)
            while episode.step(driver.control()) and act.state not in (State.OVER, State.SKIPPED):
                if to_first_infraction and _counted(episode, counted):
                    break
            end_arc_m = episode.director.stage.ego_arc_m
        finally:
            episode.close()
        return Outcome(act.state, act.reason, _counted(episode, counted), episode.ticks * 0.05, end_arc_m)


class Blind:
    """Follows the route at a legal speed, whatever is there."""

    minds_others = False

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.path = PathDriver(stage, stage.ego, self.line(stage), 0.0, minds_others=self.minds_others)

    def line(self, stage: Stage) -> Line:
        """What it follows."""
        return stage.route

    def control(self) -> carla.VehicleControl:
        """Slower in bends."""
        self.path.speed_mps = min(SPEED_MPS, self._bend_speed_mps())
        return self.path.control()

    def _bend_speed_mps(self) -> float:
        index = self.stage.ego_index
        yaw = self.stage.route.yaw_rad[index : index + BEND_AHEAD_M]
        bend = np.abs(yaw[4:] - yaw[:-4]).max(initial=0.0) / 4.0
        return math.sqrt(LATERAL_MPS2 / max(float(bend), 1e-3))


class Careful(Blind):
    """Stops behind what is in its way, and for those who come towards it from the side."""

    minds_others = True
    SIDE_M = 9.0
    STOP_M = 6.0
    DECELERATION_MPS2 = 4.0

    def control(self) -> carla.VehicleControl:
        """Full brake if somebody crosses ahead."""
        control = super().control()
        if any(self._comes(body) for body in self.stage.bodies(ego=False)):
            return carla.VehicleControl(brake=1.0, steer=control.steer)
        return control

    def _comes(self, body: Body) -> bool:
        route = self.stage.route
        index = route.nearest(body.pose.location, self.stage.ego_index, SIGHT_POINTS)
        ahead_m = route.arc_of(body.pose.location, index) - self.stage.ego_arc_m - 2.5
        offset_m = route.offset_of(body.pose.location, index)
        yaw = route.yaw_rad[index]
        sideways_mps = body.pose.velocity.y * math.cos(yaw) - body.pose.velocity.x * math.sin(yaw)
        towards_mps = -sideways_mps * math.copysign(1.0, offset_m)
        stop_m = self.STOP_M + self.stage.ego_pose.speed_mps**2 / (2.0 * self.DECELERATION_MPS2)
        coming = towards_mps > 0.3 and abs(offset_m) < self.SIDE_M
        leaving = abs(sideways_mps) > 0.3 and abs(offset_m) < 2.0
        return 0.0 < ahead_m < stop_m and (coming or leaving)


def _counted(episode: Episode, counted: frozenset[Infraction]) -> list[Infraction]:
    events = [*episode.criteria.events(), *episode.director.events]
    return [event.kind for event in events if event.kind in counted]
