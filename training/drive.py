"""Drives an episode with a rule-based driver, without cameras: for studies, and as the pattern for collectors."""

from __future__ import annotations

from dataclasses import replace

import carla

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from eval.episode import Episode, EpisodeError
from eval.results import RouteRecord
from training.expert import ExpertConfig, ExpertDriver, Scene
from training.forecast import Others
from training.scene import PrivilegedView

TICKS_PER_DECISION = 2


def blindfolded(scene: Scene) -> Scene:
    """The scene without anybody and without signals: only the route and the speed limit are left."""
    return replace(scene, others=Others.nobody(), red_stop_m=(), sign_stop_m=())


def drive(episode: Episode, config: ExpertConfig, *, blind: bool = False) -> RouteRecord:
    """Drive a route to its verdict with the expert; `blind`: it follows the route at legal speed and ignores all else.

    The driver gets up to the speed limit; failures of the simulator become part of the record.
    """
    failure = None
    try:
        episode.start()
        stage = episode.director.stage
        view = PrivilegedView(episode.world, episode.ego, episode.plan.world, stage.size)
        driver = ExpertDriver(config)
        control = carla.VehicleControl()
        seen = known = stage.cast_version
        while episode.step(control):
            if known != seen:  # actors put on stage in one tick are in the world after the next
                seen = known
                view.refresh_actors()
            known = stage.cast_version
            view.update()
            if episode.ticks % TICKS_PER_DECISION == 0:
                scene = view.scene()
                action = driver.decide(blindfolded(scene) if blind else scene).action
                control = control_of(action)
    except EpisodeError as error:
        failure = error.failure
    finally:
        episode.close()
    return episode.record(failure)


def control_of(action: int) -> carla.VehicleControl:
    """Control of one of the 39 actions."""
    row = ACTIONS[action]
    return carla.VehicleControl(
        throttle=float(row[THROTTLE]), steer=float(row[STEER]), brake=float(row[BRAKE]), reverse=bool(row[REVERSE])
    )
