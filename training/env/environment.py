"""Gymnasium environment: one route after the other on a CARLA server, ten decisions a second."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import carla
import gymnasium
import numpy as np
from gymnasium import spaces

from agent.actions import ACTIONS, COAST, STEER
from eval.criteria import TICK_S
from eval.episode import FAILURE_SIMULATION, Episode, EpisodeConfig, EpisodeError
from eval.results import RouteRecord
from eval.routes import Route
from eval.scoring import Infraction, Scoring, succeeded
from eval.server import ServerDiedError, ServerError
from eval.watchdog import Watchdog
from training import bev
from training.drive import TICKS_PER_DECISION, Ride, control_of
from training.env.config import EnvConfig
from training.env.observation import observation_space, observe
from training.env.reward import (
    Decision,
    End,
    find_hazards,
    place_on_route,
    reward_terms,
    time_to_collision_s,
)
from training.env.scheduler import RouteScheduler, kind_of
from training.env.servers import Servers
from training.expert import ExpertConfig, ExpertDriver, Scene

START_ATTEMPTS = 3
EXPERT_MPS = 14.0
"""The expert keeps to the speed limit below this."""
DECISION_S = TICK_S * TICKS_PER_DECISION
TERMINAL = (End.OFFENCE, End.DEVIATION, End.STANDING, End.BLOCKED)
logger = logging.getLogger(__name__)

Observation = dict[str, Any]


class DrivingEnv(gymnasium.Env[Any, Any]):
    """Drives routes with the 39 actions; observation: mask words and ego vector.

    The environment owns its server unless one is given. An episode in which the simulator fails ends truncated, with
    `info["end"] == "lost"`; the next `reset` starts another server, if it can: CARLA's client cannot let go of a
    Traffic Manager whose server is gone, so with traffic the process has to be replaced, and is by `IsolatedEnv`. A
    simulator that freezes inside the client ends the process (exit code 70): nothing else gets out of there.

    `reset(seed=...)` forgets outcomes, so that the same seed and actions give the same episodes. Options of `reset`:
    `route` (an id) drives that route, and its outcome is not counted; `episode_seed` is that of traffic and scenario.
    """

    needs_cameras = False
    """Whether a server of our own draws what cameras see."""
    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1.0 / DECISION_S)}  # noqa: RUF012 - gymnasium's

    def __init__(self, config: EnvConfig, routes: Sequence[Route], render_mode: str | None = None) -> None:
        """Raises: ValueError for routes or a render mode that cannot be used, ServerError for a bad address."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not known; take 'rgb_array' or None")
        self.config = config
        self.render_mode = render_mode
        self.observation_space: spaces.Space[Any] = observation_space(config.size_px, gaps=config.gaps)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.scheduler = RouteScheduler(routes, config.scheduler, self.np_random)
        self.servers = Servers(config, render=self.needs_cameras)
        self.stranded = False
        """The server died under a Traffic Manager: this process cannot drive any more."""
        self._watchdog = Watchdog()
        self._drive: Drive | None = None
        self._last: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin another episode. Raises: ServerError, ServerDiedError, EpisodeError after several attempts."""
        if self.stranded:
            raise ServerDiedError("the server died under its Traffic Manager; replace this process (see IsolatedEnv)")
        super().reset(seed=seed)
        self.scheduler.generator = self.np_random
        if seed is not None:
            self.scheduler.reset()
        self._leave()
        wanted = (options or {}).get("route")
        episode_seed = (options or {}).get("episode_seed")
        for attempt in range(START_ATTEMPTS):
            route = self.scheduler.draw() if wanted is None else self.scheduler.get(wanted)
            try:
                drawn_seed = int(self.np_random.integers(2**31))
                chosen_seed = drawn_seed if episode_seed is None else int(episode_seed)
                self._drive = self.start_episode(route, chosen_seed, counted=wanted is None)
                break
            except (EpisodeError, ServerDiedError) as error:
                logger.warning("route %s: %s (attempt %d of %d)", route.id, error, attempt + 1, START_ATTEMPTS)
                self.servers.give_up()
                self._leave()
                if attempt == START_ATTEMPTS - 1 or self.stranded:
                    raise
        assert self._drive is not None
        self._last = self._drive.observation()
        return self._last, {"town": route.town} | self._drive.info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One tenth of a second. Raises: RuntimeError without an episode."""
        drive = self._drive
        if drive is None or self._last is None:
            raise RuntimeError("no episode is running; call reset() first")
        if not 0 <= int(action) < len(ACTIONS):
            raise ValueError(f"action {action} is none of the {len(ACTIONS)} actions, 0 to {len(ACTIONS) - 1}")
        try:
            if not self.servers.alive():
                raise EpisodeError(FAILURE_SIMULATION, "the embedded server has died")
            decision = drive.decide(int(action))
            self._last = drive.observation()
        except EpisodeError as error:
            return self._lost(str(error))
        except RuntimeError as error:  # the client's words for a server that is gone
            return self._lost(str(error))
        terms = reward_terms(decision, self.config)
        info = drive.info() | {"reward_terms": terms}
        terminated = decision.end in TERMINAL or (decision.end is End.FINISHED and self.config.ends.finish_is_terminal)
        if decision.end is not None:
            info |= self._finish(decision.end)
        return self._last, float(sum(terms.values())), terminated, decision.end is not None and not terminated, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride] - gymnasium allows more
        """RGB picture of the masks."""
        if self.render_mode is None or self._last is None:
            return None
        return bev.picture(self._last["words"])

    def close(self) -> None:
        """End the episode and our own server; safe to call twice."""
        self._leave()
        self.servers.stop()
        self._watchdog.close()

    @property
    def drive(self) -> Drive | None:
        """The running episode, for experts that see more than the observation."""
        return self._drive

    def start_episode(self, route: Route, seed: int, *, counted: bool) -> Drive:
        config = self.config
        client = self.servers.client(route.town)
        episode_config = EpisodeConfig(
            scoring=Scoring.BENCH2DRIVE,
            traffic=config.traffic,
            seed=seed,
            embedded=self.servers.embedded,
            worker=config.worker,
            timeout_s=config.timeout_s,
            scenarios=config.scenarios,
        )
        episode = Episode(
            client,
            route,
            None,
            episode_config,
            address=self.servers.address,
            watchdog=self._watchdog,
            planner=self.servers.planner(route.town),
        )
        try:
            return self.make_drive(episode, counted=counted)
        except BaseException:
            self.close_episode(episode)
            raise

    def make_drive(self, episode: Episode, *, counted: bool) -> Drive:
        """Begin an episode. Raises: EpisodeError, ServerError, PlannerError."""
        return Drive(episode, self.config, counted=counted)

    def _finish(self, end: End) -> dict[str, Any]:
        """Close the episode; gives what is told about it."""
        assert self._drive is not None
        drive, self._drive = self._drive, None
        self.close_episode(drive.episode)
        record = drive.episode.record()
        success = end is End.FINISHED and succeeded(record.status, record.infractions)
        if drive.counted:
            self.scheduler.report(drive.episode.route, success)
        return {"end": end.value, "success": success, "record": _summary(record)}

    def _lost(self, message: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        assert self._drive is not None and self._last is not None
        logger.warning("route %s: the episode is lost: %s", self._drive.episode.route.id, message)
        route = self._drive.episode.route
        info = {
            "route": route.id,
            "kind": kind_of(route),
            "reward_terms": {},
            "end": End.LOST.value,
            "success": False,
            "failure": message,
        }
        self.servers.give_up()
        self._leave()
        return self._last, 0.0, False, True, info

    def _leave(self) -> None:
        """Clear away an episode that has not ended by itself."""
        drive, self._drive = self._drive, None
        if drive is not None:
            self.close_episode(drive.episode)

    def close_episode(self, episode: Episode) -> None:
        """Remove everything from the world; from a dead server only what lives in this process."""
        if self.servers.alive():
            episode.close()
            return
        self.servers.give_up()
        traffic = getattr(episode, "traffic", None)
        self.stranded = self.stranded or (traffic is not None and bool(traffic.vehicles))
        if not self.stranded:  # shutting down a Traffic Manager without its server would abort the process
            episode.close()


class Drive:
    """One episode with the privileged view of it."""

    def __init__(self, episode: Episode, config: EnvConfig, *, counted: bool) -> None:
        """Start the episode. Raises: EpisodeError, ServerError, PlannerError."""
        self.episode = episode
        self.counted = counted
        """Whether the outcome goes to the scheduler."""
        self.taps: list[Callable[[carla.VehicleControl], None]] = []
        """Called after every tick with the control that led to it, the view up to date."""
        self._config = config
        episode.start()
        if config.light_times_s is not None:
            set_light_times(episode.world, config.light_times_s)
        self._ride = Ride(episode)
        self.view = self._ride.view
        self._action = COAST
        self._expert = ExpertDriver(ExpertConfig(max_speed_mps=EXPERT_MPS)) if config.expert else None
        self._standing_s = 0.0
        self._lon_accel_mps2 = 0.0
        self._ways = config.gaps or config.expert
        self.scene: Scene = self.look()
        """After the last decision."""
        self._arc_m, _ = place_on_route(self.scene)

    def look(self) -> Scene:
        """The scene now; the lanes of others are looked up where somebody needs them."""
        return self.view.scene(ways=self._ways)

    def observation(self) -> Observation:
        """What the policy sees now."""
        return observe(self.view, self.scene, self._action, self._config.size_px, gaps=self._config.gaps)

    def tick(self, control: carla.VehicleControl) -> bool:
        """A twentieth of a second; False when the route is over. Raises: EpisodeError."""
        goes_on = self._ride.step(control)
        for tap in self.taps:
            tap(control)
        return goes_on

    def decide(self, action: int) -> Decision:
        """Hold an action for a tenth of a second. Raises: EpisodeError."""
        control = control_of(action)
        over, offence = False, None
        for _ in range(TICKS_PER_DECISION):
            over = not self.tick(control)
            offence = self._offence()
            if over or offence is not None or self.episode.criteria.completion.reached:
                break
        before, self.scene = self.scene, self.look()
        standing = abs(self.scene.speed_mps) < self._config.ends.standing_mps
        self._standing_s = self._standing_s + DECISION_S if standing else 0.0
        previous, self._action = self._action, action
        return self._judge(before, previous, offence, over)

    def info(self) -> dict[str, Any]:
        """What is told with every decision."""
        info: dict[str, Any] = {
            "route": self.episode.route.id,
            "kind": kind_of(self.episode.route),
            "time_s": round(self.episode.ticks * TICK_S, 3),
            "speed_mps": float(self.scene.speed_mps),
            "completion_percent": float(self.episode.criteria.completion.percent),
        }
        if self._expert is not None:
            info["expert_action"] = int(self._expert.decide(self.scene).action)
        return info

    def _judge(self, before: Scene, previous: int, offence: Infraction | None, over: bool) -> Decision:
        scene, carl = self.scene, self._config.reward == "carl"
        arc_m, offset_m = place_on_route(scene)
        advanced_m, self._arc_m = arc_m - self._arc_m, arc_m
        return Decision(
            speed_mps=scene.speed_mps,
            limit_mps=scene.speed_limit_mps,
            hazards=find_hazards(scene),
            advanced_m=advanced_m,
            advanced_percent=100.0 * advanced_m / float(scene.arc_m[-1]),
            offset_m=abs(offset_m),
            steer=float(ACTIONS[self._action, STEER]),
            previous_steer=float(ACTIONS[previous, STEER]),
            outside=self.episode.criteria.outside_lanes.outside,
            comfortable=self._is_comfortable(before),
            time_to_collision_s=time_to_collision_s(scene, self._config.carl.time_to_collision_s) if carl else math.inf,
            end=self._end(offence, over),
            offence=offence,
        )

    def _is_comfortable(self, before: Scene) -> bool:
        limits, scene = self._config.carl, self.scene
        lon_mps2 = (scene.speed_mps - before.speed_mps) / DECISION_S
        jerk_mps3 = (lon_mps2 - self._lon_accel_mps2) / DECISION_S
        self._lon_accel_mps2 = lon_mps2
        turn_rad = math.remainder(scene.pose[2] - before.pose[2], 2.0 * math.pi)
        lat_mps2 = scene.speed_mps * turn_rad / DECISION_S
        return (
            abs(lon_mps2) < limits.lon_accel_mps2
            and abs(lat_mps2) < limits.lat_accel_mps2
            and abs(jerk_mps3) < limits.lon_jerk_mps3
        )

    def _offence(self) -> Infraction | None:
        """The first infraction that ends the episode."""
        criteria = self.episode.criteria
        events = [*criteria.collisions.events, *criteria.red_light.events, *criteria.stop_sign.events]
        events += [*criteria.outside_lanes.events, *self.episode.director.events]
        return next((event.kind for event in events if event.kind in self._config.ends.offences), None)

    def _end(self, offence: Infraction | None, over: bool) -> End | None:
        criteria, ends, scene = self.episode.criteria, self._config.ends, self.scene
        point = scene.corridor.points[scene.index]
        if offence is not None:
            return End.OFFENCE
        if criteria.completion.reached:
            return End.FINISHED
        if criteria.in_route.events or math.dist(scene.pose[:2], point[:2]) > ends.deviation_m:
            return End.DEVIATION
        if criteria.blocked.events:
            return End.BLOCKED
        if self._standing_s > ends.standing_s:
            return End.STANDING
        return End.TIME if over or self.episode.ticks * TICK_S > ends.max_s else None


def set_light_times(world: carla.World, times_s: tuple[float, float, float]) -> None:
    """Green, yellow and red time of every traffic light."""
    green_s, yellow_s, red_s = times_s
    for light in world.get_actors().filter("traffic.traffic_light*"):
        assert isinstance(light, carla.TrafficLight)
        light.set_green_time(green_s)
        light.set_yellow_time(yellow_s)
        light.set_red_time(red_s)


def _summary(record: RouteRecord) -> Mapping[str, Any]:
    infractions = {kind: len(messages) for kind, messages in record.infractions.items() if messages}
    return {"status": record.status, "score": record.scores.score_composed, "infractions": infractions}


__all__ = ["Drive", "DrivingEnv", "ServerError", "set_light_times"]
