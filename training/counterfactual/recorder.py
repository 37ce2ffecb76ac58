"""Recording of episode logs on any CARLA server: the expert drives, with bursts of noise, or a driver that looks at
nobody; with the weights of a raw agent its world model's states are logged, too.

Every route is driven once per seed by processes with a server of their own; logs that exist are kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import carla
import numpy as np
import torch
import torch.nn.functional as F

from agent.actions import ACTIONS, REVERSE
from agent.base_plan import state_features, state_identity
from agent.decider import Network
from agent.driver import load_model
from agent.inputs import model_input
from agent.model.driving_model import ModelState
from eval.criteria import TICK_S
from eval.progress import counted
from eval.routes import Route, read_routes
from eval.server import ServerDiedError
from training.counterfactual import log as logs
from training.counterfactual.log import EpisodeLog
from training.drive import TICKS_PER_DECISION, blindfolded
from training.env.config import EndConfig, EnvConfig
from training.env.environment import EXPERT_MPS, Drive, DrivingEnv
from training.env.reward import End
from training.env.scheduler import kind_of
from training.experience.writer import SENSOR_ARRAYS
from training.expert import ExpertConfig, ExpertDriver
from training.privileged.collector import NOISE_TURN, Turns
from training.privileged.config import RouteConfig
from training.privileged.routes import routes_of
from training.raw.environment import SensingEnv
from training.scene import Seen, world_pose
from training.workers import Reporter, Told, work_through

AFTER_COLLISION_S = 1.0
"""A drive goes on for so long after a collision."""
FORWARD = np.flatnonzero(ACTIONS[:, REVERSE] == 0.0)
CPU = torch.device("cpu")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is recorded."""

    driver: Literal["expert", "blind"] = "expert"
    """blind: follows the route at legal speed and looks at nobody; for logs with collisions."""
    noise: float = 0.1
    """Share of the time in which a random action is held instead."""
    raw: Path | None = None
    """Checkpoint folder of a raw agent: cameras are drawn, and the states of its world model are logged."""
    seeds: int = 1
    """Drives of every route."""
    seed: int = 0
    """Of the first drive: traffic, scenarios, noise."""
    workers: int = 1
    max_s: float = 60.0
    """Game time after which a drive ends."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(traffic=12))
    routes: RouteConfig = field(default_factory=lambda: RouteConfig(per_type=1, warm_up=4))

    def __post_init__(self) -> None:
        if min(self.seeds, self.workers) < 1 or not 0.0 <= self.noise < 1.0 or self.max_s <= 0.0:
            raise ValueError(
                "seeds and workers must be at least 1, noise at least 0 and below 1, max-s positive, got "
                f"{self.seeds}, {self.workers}, {self.noise}, {self.max_s}"
            )


@dataclass(frozen=True, slots=True)
class Task:
    """One drive."""

    route: Route
    seed: int

    @property
    def name(self) -> str:
        """Of the episode."""
        return f"{self.route.town}-{self.route.id}-{self.seed}"


def record(config: LogConfig, out: Path) -> str:
    """Drive what is not logged yet; gives what was recorded.

    Raises: ServerError, RouteFileError, CheckpointError, ConfigError, RefusedError for bad input.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.raw is not None:
        load_model(config.raw, "cpu")  # told once, not by every worker
    given = config.routes.file
    routes = read_routes(given) if given is not None else routes_of(config.routes, config.env, out)[0]
    tasks = [Task(route, config.seed + k) for k in range(config.seeds) for route in routes]
    missing = [task for task in tasks if not (out / f"{task.name}{logs.SUFFIX}").exists()]
    towns = {task.route.town: [other for other in missing if other.route.town == task.route.town] for task in missing}
    done, seconds, begun_s = 0, 0.0, time.monotonic()
    work = partial(_work, config, out)
    for event in work_through(work, list(towns.values()), config.workers, label=lambda task: task.name):
        if isinstance(event, Told):
            continue
        done += 1
        seconds += event.outcome or 0.0
        left_min = (time.monotonic() - begun_s) / done * (len(missing) - done) / 60.0
        what = event.lost or f"{event.outcome:.0f} s driven"
        logger.info("%s: %s; %d of %d, %.0f min left", event.item.name, what, done, len(missing), left_min)
    passed_s = time.monotonic() - begun_s
    return f"{counted(done, 'episode')} of {seconds / 60.0:.1f} min driven in {passed_s / 60.0:.1f} min, in {out}"


def _work(config: LogConfig, out: Path, reporter: Reporter, tasks: Sequence[Task], worker: int) -> None:
    """Drive tasks of one town. Raises: ServerError, ServerDiedError when the simulation crashed."""
    torch.set_num_threads(1)
    ends = EndConfig(offences=(), max_s=config.max_s, standing_s=config.max_s)
    env_config = replace(config.env, ends=ends, worker=worker)
    routes = list({task.route.id: task.route for task in tasks}.values())
    env = DrivingEnv(env_config, routes) if config.raw is None else SensingEnv(env_config, routes)
    model = load_model(config.raw, "cpu") if config.raw is not None else None
    try:
        for task in tasks:
            recorder = _drive(config, env, model, task, reporter)
            log = recorder.log(_meta(config, env, model, task, out))
            logs.save(log, out / f"{task.name}{logs.SUFFIX}")
            reporter.done(log.ticks * TICK_S)
    finally:
        env.close()


def _meta(config: LogConfig, env: DrivingEnv, model: Network | None, task: Task, out: Path) -> dict[str, Any]:
    opendrive = env.servers.client(task.route.town).get_world().get_map().to_opendrive()
    return {
        "episode": task.name,
        "town": task.route.town,
        "map_sha256": logs.keep_map(out, opendrive),
        "route": task.route.id,
        "kind": kind_of(task.route),
        "driver": config.driver,
        "noise": config.noise,
        "seed": task.seed,
        "server": "embedded" if env.servers.embedded else "CARLA",
        "traffic": config.env.traffic,
        "raw": str(config.raw or ""),
        "states_of": state_identity(model) if model is not None else "",
    }


def _drive(config: LogConfig, env: DrivingEnv, model: Network | None, task: Task, reporter: Reporter) -> Recorder:
    """Drive one route to its end. Raises: ServerDiedError when the episode is lost."""
    generator = np.random.default_rng([task.seed, int.from_bytes(task.route.id.encode()[:6], "big")])
    noise = Turns(config.noise, NOISE_TURN, generator)
    expert = ExpertDriver(ExpertConfig(max_speed_mps=EXPERT_MPS))
    observation, info = env.reset(options={"route": task.route.id, "episode_seed": task.seed})
    assert env.drive is not None
    recorder = Recorder(env.drive)
    raw = RawStates(model) if model is not None else None
    action, held, left_s = 0, 0, float("inf")
    while True:
        if raw is not None:
            recorder.add_latent(raw.see(observation["sensors"], action))
        was_noisy = noise.on
        if noise.next():
            held = held if was_noisy else int(generator.choice(FORWARD))
            action = held
        else:
            scene = env.drive.view.scene()
            action = expert.decide(blindfolded(scene) if config.driver == "blind" else scene).action
        recorder.action = action
        observation, _, terminated, truncated, info = env.step(action)
        reporter.tell(lambda: None)
        if info.get("end") == End.LOST.value:
            raise ServerDiedError(f"{task.name}: {info['failure']}")
        if recorder.collided:
            left_s = min(left_s, AFTER_COLLISION_S) - TICK_S * TICKS_PER_DECISION
        if terminated or truncated or left_s <= 0.0:
            return recorder


class RawStates:
    """The raw agent's world model, filtering one episode along whoever drives."""

    def __init__(self, model: Network) -> None:
        self._model = model
        self._state: ModelState = model.initial(1)
        self._first = True

    @torch.inference_mode()
    def see(self, frame: Any, action: int) -> np.ndarray:
        """What the agent knows after the next decision's sensor frame (`state_features`); `action` came before it."""
        arrays = {name: getattr(frame, name) for name in ("images", *SENSOR_ARRAYS)}
        inputs = model_input(arrays | {"first": self._first}, CPU)
        rssm = self._model.config.rssm
        previous = F.one_hot(torch.tensor([action]), rssm.actions).float() if rssm.action_input else None
        _, self._state = self._model.act(inputs, self._state, previous)
        self._first = False
        return state_features(self._model, inputs, self._state)[0].numpy()


class Recorder:
    """Takes in every tick of a drive."""

    def __init__(self, drive: Drive) -> None:
        """Begin with the tick that the drive is at."""
        self._drive = drive
        self.action = -1
        """One of the 39 that is being held."""
        self._ego: list[tuple[float, ...]] = []
        self._control: list[tuple[float, float, float]] = []
        self._actions: list[int] = []
        self._limits: list[float] = []
        self._indices: list[int] = []
        self._seen: list[Seen] = []
        self._latents: list[tuple[int, np.ndarray]] = []
        self._frames: list[int] = []
        self._take(carla.VehicleControl())
        drive.taps.append(self._take)

    @property
    def collided(self) -> bool:
        """Whether the criteria have counted a collision."""
        return bool(self._drive.episode.criteria.collisions.events)

    @property
    def ticks(self) -> int:
        """Taken in so far."""
        return len(self._ego)

    def add_latent(self, features: np.ndarray) -> None:
        """The state of a world model at the present tick."""
        self._latents.append((len(self._ego) - 1, features))

    def _take(self, control: carla.VehicleControl) -> None:
        ego, view = self._drive.episode.ego, self._drive.view
        velocity = ego.get_velocity()
        rate = -np.radians(ego.get_angular_velocity().z)
        self._ego.append((*world_pose(ego.get_transform()), velocity.x, -velocity.y, rate))
        self._control.append((control.throttle, control.steer, control.brake))
        self._actions.append(self.action)
        self._limits.append(ego.get_speed_limit() / 3.6)
        self._indices.append(view.index)
        self._seen.append(view.seen())
        self._frames.append(self._drive.episode.world.get_snapshot().frame)

    def log(self, meta: dict[str, Any]) -> EpisodeLog:
        """All ticks so far as a log."""
        extent = self._half_m
        ids, bodies, shown = _tabulated(self._seen)
        signals = self._seen[0].signal_boxes
        near = _ever_near(signals, np.array(self._ego))
        view = self._drive.view
        corridor = view.corridor
        latents = [features for _, features in self._latents]
        return EpisodeLog(
            meta=meta,
            ego=np.array(self._ego),
            ego_half_m=extent,
            control=np.array(self._control, np.float32),
            action=np.array(self._actions, np.int8),
            limit_mps=np.array(self._limits, np.float32),
            route_index=np.array(self._indices, np.int32),
            ids=ids,
            bodies=bodies,
            shown=shown,
            signal_box=signals[near],
            signal_state=np.array([seen.signal_channels[near] for seen in self._seen], np.int8),
            corridor=np.column_stack([corridor.points, corridor.left_m, corridor.right_m]),
            commands=np.array(view.commands, np.int8),
            contacts=np.array(self._contacts(), np.int64).reshape(-1, 2),
            latent=np.array(latents, np.float32).reshape(len(latents), -1 if latents else 0),
            latent_tick=np.array([tick for tick, _ in self._latents], np.int32),
        )

    @property
    def _half_m(self) -> np.ndarray:
        return np.array([self._drive.scene.half_length_m, self._drive.scene.half_width_m])

    def _contacts(self) -> list[tuple[int, int]]:
        events = self._drive.episode.criteria.collisions.events
        first, last = self._frames[0], len(self._frames) - 1
        return [(int(np.clip(event.frame - first, 0, last)), event.other_id or 0) for event in events]


SIGNAL_REACH_M = 80.0
"""Stop lines farther than this from the ego's way are never seen."""


def _ever_near(signals: np.ndarray, ego: np.ndarray) -> np.ndarray:
    """(s,) whether a stop line was ever within reach of the ego."""
    way = ego[::20, :2]
    return np.array([np.hypot(*(way - box[:2]).T).min() < SIGNAL_REACH_M for box in signals], bool)


def _tabulated(seen: Sequence[Seen]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (n,), bodies (t, n, 8) and shown (t, n) of everybody who was ever in view."""
    ids = np.unique(np.concatenate([tick.ids for tick in seen]))
    bodies = np.zeros((len(seen), len(ids), 8), np.float32)
    shown = np.full((len(seen), len(ids)), logs.ABSENT, np.int8)
    for t, tick in enumerate(seen):
        columns = np.searchsorted(ids, tick.ids)
        bodies[t, columns] = tick.rows
        shown[t, columns] = tick.channels
    return ids, bodies, shown
