"""Drives an episode to its verdict without cameras: rule-based drivers for studies, and whoever sees the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import carla

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from eval.episode import Episode, EpisodeError
from eval.results import RouteRecord
from training.expert import ExpertConfig, ExpertDriver, Scene
from training.forecast import Others
from training.scene import PrivilegedView

TICKS_PER_DECISION = 2


class Ride:
    """A started episode with the privileged view of it, tick by tick."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self._stage = episode.director.stage
        self.view = PrivilegedView(episode.world, episode.ego, episode.plan.world, self._stage.size)
        self._seen = self._known = self._stage.cast_version
        self.view.update()

    def step(self, control: carla.VehicleControl) -> bool:
        """One tick; False when the route is over. Raises: EpisodeError."""
        goes_on = self.episode.step(control)
        if self._known != self._seen:  # actors put on stage in one tick are in the world after the next
            self._seen = self._known
            self.view.refresh_actors()
        self._known = self._stage.cast_version
        stop_sign = self.episode.criteria.stop_sign
        if stop_sign.stopped and stop_sign.target_id is not None:
            self.view.honoured_signs.add(stop_sign.target_id)
        self.view.update()
        return goes_on


class Driver(Protocol):
    """Who drives one episode."""

    def act(self, view: PrivilegedView) -> int:
        """One of the 39 actions for the next tenth of a second."""
        ...


class RuleDriver:
    """The expert; `blind`: it follows the route at legal speed and ignores all else."""

    def __init__(self, config: ExpertConfig, *, blind: bool = False) -> None:
        self._driver = ExpertDriver(config)
        self._blind = blind

    def act(self, view: PrivilegedView) -> int:
        """What the expert does in the scene, or in an empty one."""
        scene = view.scene()
        return self._driver.decide(blindfolded(scene) if self._blind else scene).action


def blindfolded(scene: Scene) -> Scene:
    """The scene without anybody and without signals: only the route and the speed limit are left."""
    return replace(scene, others=Others.nobody(), red_stop_m=(), sign_stop_m=())


def drive(episode: Episode, driver: Driver, on_decision: Callable[[Episode], None] = lambda _: None) -> RouteRecord:
    """Drive a route to its verdict; infractions are recorded and the drive goes on.

    Failures of the simulator become part of the record. `on_decision` is called after every decision.
    """
    failure, message = None, ""
    try:
        episode.start()
        ride = Ride(episode)
        goes_on = True
        while goes_on:
            control = control_of(driver.act(ride.view))
            for _ in range(TICKS_PER_DECISION):
                goes_on = goes_on and ride.step(control)
            on_decision(episode)
    except EpisodeError as error:
        failure, message = error.failure, " ".join(str(error).split())
    finally:
        episode.close()
    return replace(episode.record(failure), failure_message=message)


def control_of(action: int) -> carla.VehicleControl:
    """Control of one of the 39 actions."""
    row = ACTIONS[action]
    return carla.VehicleControl(
        throttle=float(row[THROTTLE]), steer=float(row[STEER]), brake=float(row[BRAKE]), reverse=bool(row[REVERSE])
    )
