"""Collection of driving data on embedded servers: the expert drives, or the agent drives and the expert labels.

The car believes what the agent would believe: the same noisy sensors, localisation and sparse plan (agent.inputs).
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import carla
import numpy as np
import torch

from agent import carla_io
from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from agent.carla_io import RigConfig
from agent.driver import load_driving_model
from agent.inputs import InputBuilder, InputConfig, model_input
from agent.model.driving_model import DrivingModel
from agent.model.policy import pedal_first
from agent.route import VECTOR_SIZE
from eval.criteria import TICK_S
from eval.episode import Episode, EpisodeConfig, EpisodeError
from eval.generate import RouteGenerationError, generate_routes
from eval.plan import BENCH2DRIVE_SPACING_M, LEADERBOARD_SPACING_M, sparse_indices
from eval.planner import RoutePlanner
from eval.routes import Route, Weather
from eval.scoring import Infraction
from eval.sensors import SensorRig, SensorTimeout, sensor_attributes, sensor_transform
from eval.server import EmbeddedServer, EmbeddedServerConfig, ServerError, connect
from training.expert import Decision, ExpertConfig, ExpertDriver, lateral_error
from training.replay import SegmentWriter, Step
from training.scene import PrivilegedView

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
DECISION_S = 0.1
SENSOR_TIMEOUT_S = 30.0
ROUTES_PER_TOWN = 24
STANDING_MPS = 0.1
LONGEST_WAIT = 25
"""Decisions recorded while standing, before the recording pauses."""
KEPT_WHILE_WAITING = 10
"""Decisions kept from the end of a longer wait."""
LIGHT_TIMES_S = (5.0, 2.0, 1.0)
"""Green, yellow and all-red time while collecting: short, so that the data shows many changes."""
EPISODES_PER_SERVER = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DisturbanceConfig:
    """Bursts of wrong control while the expert drives, so that the data shows how to recover."""

    per_s: float = 0.12
    """Expected bursts per second."""
    min_s: float = 0.3
    max_s: float = 1.1
    steer: float = 0.35
    """Largest steering offset of a burst."""
    stops_per_s: float = 0.05
    """Expected full stops per second for no reason: else standing always means a reason to stand, and a policy that
    knows its speed learns never to start."""
    stop_min_s: float = 1.5
    stop_max_s: float = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RescueConfig:
    """When the expert takes over from the agent, so that episodes stay on the road."""

    lateral_m: float = 2.2
    recovered_m: float = 0.6
    heading_rad: float = 0.9
    stuck_s: float = 4.0
    """The agent stands this long although the expert would go."""
    drive_on_s: float = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """A collection run."""

    towns: tuple[str, ...]
    frames: int = 20_000
    """Decisions to record, over all workers."""
    workers: int = 2
    seed: int = 0
    town_dir: Path | None = None
    max_episode_s: float = 90.0
    segment_steps: int = 300
    max_traffic: int = 20
    min_length_m: float = 250.0
    min_turns: int = 1
    beta: float = 0.3
    """Share of the time that the expert drives in an agent's episode."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    disturbance: DisturbanceConfig = field(default_factory=DisturbanceConfig)
    rescue: RescueConfig = field(default_factory=RescueConfig)
    threads_per_server: int = 1

    def __post_init__(self) -> None:
        if not self.towns:
            raise ValueError("collect needs at least one town; give --towns Gen02,Gen03")
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta must lie in [0, 1], got {self.beta}")


def random_weather(generator: np.random.Generator) -> Weather:
    """Weather and time of day for an episode: mostly day, some dusk, rain and fog."""
    rain = float(generator.uniform(10.0, 70.0)) if generator.random() < 0.25 else 0.0
    fog = float(generator.uniform(5.0, 25.0)) if generator.random() < 0.15 else 0.0
    low_sun = generator.random() < 0.15
    return Weather(
        0.0,
        (
            ("cloudiness", float(generator.uniform(0.0, 90.0))),
            ("precipitation", rain),
            ("precipitation_deposits", rain),
            ("wetness", rain),
            ("fog_density", fog),
            ("sun_azimuth_angle", float(generator.uniform(0.0, 360.0))),
            ("sun_altitude_angle", float(generator.uniform(2.0, 12.0) if low_sun else generator.uniform(12.0, 90.0))),
        ),
    )


class DecisionCameras:
    """The agent's cameras, drawn on decision ticks only (every 0.1 s)."""

    def __init__(self, world: carla.World, ego: carla.Vehicle, rig: RigConfig) -> None:
        self._arrivals: queue.SimpleQueue[tuple[str, int, np.ndarray]] = queue.SimpleQueue()
        self._actors: list[carla.Sensor] = []
        library = world.get_blueprint_library()
        for spec in carla_io.sensor_specs(rig):
            if spec["type"] != "sensor.camera.rgb":
                continue
            blueprint = library.find(spec["type"])
            for key, value in (sensor_attributes(spec) | {"sensor_tick": str(DECISION_S)}).items():
                blueprint.set_attribute(key, value)
            sensor = world.spawn_actor(blueprint, sensor_transform(spec), attach_to=ego)
            assert isinstance(sensor, carla.Sensor)
            sensor.listen(self._receiver(spec["id"]))
            self._actors.append(sensor)

    def read(self, frame: int) -> dict[str, tuple[int, np.ndarray]]:
        """Images of a decision frame. Raises: EpisodeError if they do not come."""
        data: dict[str, tuple[int, np.ndarray]] = {}
        deadline_s = time.monotonic() + SENSOR_TIMEOUT_S
        while len(data) < len(self._actors):
            try:
                name, at, image = self._arrivals.get(timeout=max(deadline_s - time.monotonic(), 0.001))
            except queue.Empty:
                raise EpisodeError("Simulation crashed", f"no camera image of frame {frame}") from None
            if at == frame:
                data[name] = (at, image)
        return data

    def destroy(self) -> None:
        """Remove the cameras."""
        for actor in self._actors:
            actor.stop()
            actor.destroy()
        self._actors = []

    def _receiver(self, name: str) -> Any:
        def receive(image: carla.Image) -> None:
            pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4).copy()
            self._arrivals.put((name, image.frame, pixels))

        return receive


class Disturbance:
    """Bursts of a constant steering offset, and full stops without a reason."""

    def __init__(self, config: DisturbanceConfig, generator: np.random.Generator) -> None:
        self._config = config
        self._generator = generator
        self._left_s = 0.0
        self._offset = 0.0
        self._brakes = False

    def apply(self, control: carla.VehicleControl) -> carla.VehicleControl:
        """The control of the next decision, mostly the one given."""
        config, generator = self._config, self._generator
        self._left_s -= DECISION_S
        if self._left_s <= 0.0:
            self._offset, self._brakes = 0.0, False
            if generator.random() < config.per_s * DECISION_S:
                self._left_s = float(generator.uniform(config.min_s, config.max_s))
                self._offset = float(generator.uniform(-config.steer, config.steer))
            elif generator.random() < config.stops_per_s * DECISION_S:
                self._left_s = float(generator.uniform(config.stop_min_s, config.stop_max_s))
                self._brakes = True
        if self._brakes:
            return carla.VehicleControl(brake=1.0)
        steer = float(np.clip(control.steer + self._offset, -1.0, 1.0))
        return carla.VehicleControl(throttle=control.throttle, steer=steer, brake=control.brake)


class AgentPilot:
    """The learned policy with its recurrent state."""

    def __init__(self, model: DrivingModel) -> None:
        self._model = model
        self._state = model.initial(1)

    def act(self, arrays: dict[str, np.ndarray]) -> int:
        """The action the agent would take."""
        logits, self._state = self._model.act(model_input(arrays, CPU), self._state)
        return pedal_first(logits[0])


class Shift:
    """Decides who drives when the agent collects: the agent, with shifts of the expert and rescues."""

    def __init__(self, config: CollectConfig, generator: np.random.Generator) -> None:
        self._config = config
        self._generator = generator
        self._left_s = 0.0
        self._expert = False
        self._rescue = False
        self._stuck_s = 0.0

    def expert_drives(self, offset_m: float, heading_rad: float, speed_mps: float, decision: Decision) -> bool:
        """Whether the expert drives the next tenth of a second."""
        rescue = self._config.rescue
        self._left_s -= DECISION_S
        if self._left_s <= 0.0:
            self._left_s = float(self._generator.uniform(2.0, 6.0))
            self._expert = bool(self._generator.random() < self._config.beta)
        waits = speed_mps < 0.3 and decision.target_speed_mps > 1.0
        self._stuck_s = self._stuck_s + DECISION_S if waits else 0.0
        if self._stuck_s > rescue.stuck_s:
            self._stuck_s, self._left_s, self._expert = 0.0, rescue.drive_on_s, True
        if abs(offset_m) > rescue.lateral_m or abs(heading_rad) > rescue.heading_rad:
            self._rescue = True
        elif abs(offset_m) < rescue.recovered_m:
            self._rescue = False
        return self._expert or self._rescue


class Recording:
    """One episode being driven and recorded."""

    def __init__(
        self,
        episode: Episode,
        config: CollectConfig,
        generator: np.random.Generator,
        model: DrivingModel | None,
        spacing_m: float,
    ) -> None:
        self._episode = episode
        self._config = config
        self._expert = ExpertDriver(config.expert)
        self._disturbance = Disturbance(config.disturbance, generator)
        self._shift = Shift(config, generator)
        self._pilot = AgentPilot(model) if model else None
        rig = RigConfig()
        fast = [spec for spec in carla_io.sensor_specs(rig) if spec["type"] != "sensor.camera.rgb"]
        self._fast = SensorRig(episode.world, episode.ego, fast, SENSOR_TIMEOUT_S)
        self._cameras = DecisionCameras(episode.world, episode.ego, rig)
        indices = sparse_indices(episode.plan.world, spacing_m)
        plan = carla_io.read_plan(
            [episode.plan.gps[index] for index in indices], [episode.plan.world[index] for index in indices]
        )
        self._inputs = InputBuilder(InputConfig(), plan, carla_io.default_dialect())
        self._view = PrivilegedView(episode.world, episode.ego, episode.plan.world, episode.director.stage.size)
        self._images: dict[str, tuple[int, np.ndarray]] = {}
        self._first = True

    def drive(self, writer: SegmentWriter, most: int, segment_steps: int) -> int:
        """Record up to `most` decisions, publishing segments on the way; gives how many were recorded."""
        control = carla.VehicleControl()
        recorded, ticks, standing = 0, 0, 0
        waiting: deque[Step] = deque(maxlen=KEPT_WHILE_WAITING)
        while recorded < most and self._episode.step(control):
            decides = ticks % 2 == 0
            ticks += 1
            arrays = self._perceive(decides)
            if not decides:
                continue
            step, control = self._decide(arrays)
            standing = standing + 1 if step.scalars["speed_mps"] < STANDING_MPS else 0
            if standing > LONGEST_WAIT:  # a minute at a red light teaches nothing: keep its beginning and its end
                writer.publish()
                waiting.append(step)
                continue
            for kept in (*waiting, step):
                writer.add(kept)
                recorded += 1
            waiting.clear()
            if len(writer) >= segment_steps:
                writer.publish()
            if self._episode.criteria.collisions.events:
                break
        return recorded

    def close(self) -> None:
        """Remove the sensors."""
        self._cameras.destroy()
        self._fast.destroy()

    def _perceive(self, decides: bool) -> dict[str, np.ndarray]:
        """Feed this tick to localisation and the privileged view; the network's arrays on decision ticks."""
        frame = self._episode.world.get_snapshot().frame
        data: dict[str, Any] = dict(self._fast.read(frame))
        if decides:
            self._images = self._cameras.read(frame)
        self._view.update()
        now_s = self._episode.ticks * TICK_S
        situation = self._inputs.update(carla_io.read({**data, **self._images}, now_s))
        if not decides:
            return {}
        arrays = self._inputs.network_arrays(situation, first=self._first)
        self._first = False
        return arrays

    def _decide(self, arrays: dict[str, np.ndarray]) -> tuple[Step, carla.VehicleControl]:
        scene = self._view.scene()
        decision = self._expert.decide(scene)
        offset_m, heading_rad = lateral_error(scene)
        action, expert_drives = decision.action, True
        if self._pilot is not None:
            proposed = self._pilot.act(arrays)
            expert_drives = self._shift.expert_drives(offset_m, heading_rad, scene.speed_mps, decision)
            action = decision.action if expert_drives else proposed
        row = ACTIONS[action]
        control = carla.VehicleControl(
            throttle=float(row[THROTTLE]), steer=float(row[STEER]), brake=float(row[BRAKE]), reverse=bool(row[REVERSE])
        )
        if self._pilot is None:
            control = self._disturbance.apply(control)
        step = Step(
            images=arrays["images"],
            words=self._view.words(),
            arrays={
                "ego_motion": arrays["ego_motion"],
                "route": arrays["route"],
                "vector": arrays["vector"][:VECTOR_SIZE],
                "camera_valid": arrays["camera_valid"].astype(np.float32),
                "label": decision.label,
                "auxiliary": decision.auxiliary,
                "pose": np.array(scene.pose, np.float32),
            },
            scalars={
                "speed_mps": float(scene.speed_mps),
                "action": int(action),
                "expert_action": int(decision.action),
                "expert_drives": bool(expert_drives),
                "first": bool(arrays["first"]),
                "time_s": self._episode.ticks * TICK_S,
            },
        )
        return step, control


def _episodes(
    town: str, config: CollectConfig, worker: int, round_: int, out: Path, model: DrivingModel | None, budget: Any
) -> None:
    """Drive some episodes in one town until the frame budget is used up."""
    generator = np.random.default_rng([config.seed, worker, round_])
    server_config = EmbeddedServerConfig(town=town, town_dir=config.town_dir, threads=config.threads_per_server)
    with EmbeddedServer(server_config) as server:
        client = connect(server.host, server.port, 60.0)
        carla_map = client.get_world().get_map()
        planner = RoutePlanner(carla_map)
        routes = generate_routes(
            carla_map,
            ROUTES_PER_TOWN,
            seed=int(generator.integers(2**31)),
            min_length_m=config.min_length_m,
            min_turns=config.min_turns,
            town=town,
        )
        for number in range(EPISODES_PER_SERVER):
            if budget.value <= 0:
                return
            route = routes[int(generator.integers(len(routes)))]
            name = f"{town}-{config.seed}-{worker}-{round_}-{number}"
            recorded = _one(client, server, planner, route, name, config, worker, generator, model, out, budget.value)
            with budget.get_lock():
                budget.value -= recorded


def _one(  # noqa: PLR0913 - one call site, all of it the episode's context
    client: carla.Client,
    server: EmbeddedServer,
    planner: RoutePlanner,
    route: Route,
    name: str,
    config: CollectConfig,
    worker: int,
    generator: np.random.Generator,
    model: DrivingModel | None,
    out: Path,
    most: int,
) -> int:
    spacing_m = BENCH2DRIVE_SPACING_M if generator.random() < 0.6 else LEADERBOARD_SPACING_M
    weather = random_weather(generator)
    route = Route(id=route.id, town=route.town, keypoints=route.keypoints, weathers=(weather,))
    episode_config = EpisodeConfig(
        traffic=int(generator.integers(0, config.max_traffic + 1)),
        seed=int(generator.integers(2**31)),
        worker=worker,
        max_game_s=config.max_episode_s,
    )
    episode = Episode(client, route, None, episode_config, address=(server.host, server.port), planner=planner)
    metadata = {
        "episode": name,
        "town": route.town,
        "route": route.id,
        "traffic": episode_config.traffic,
        "spacing_m": spacing_m,
        "driver": "agent" if model else "expert",
        "weather": dict(weather.parameters),
    }
    writer = SegmentWriter(out, metadata)
    recording = None
    started_s = time.monotonic()
    recorded = 0
    try:
        episode.start()
        _shorten_lights(episode.world)
        recording = Recording(episode, config, generator, model, spacing_m)
        recorded = recording.drive(writer, most, config.segment_steps)
    except (EpisodeError, SensorTimeout) as error:  # what was recorded until then is good
        logger.error("%s: %s", name, error)
    finally:
        if recording is not None:
            recording.close()
        writer.publish()
        episode.close()
    criteria = getattr(episode, "criteria", None)
    events = [event.kind.name for event in criteria.events()] if criteria else []
    logger.info(
        "%s: %d frames in %.0f s of driving, %.0f %% of the route, %s, %.1f frames/s",
        name,
        recorded,
        episode.ticks * TICK_S,
        criteria.completion.percent if criteria else 0.0,
        ", ".join(event for event in events if event != Infraction.MIN_SPEED.name) or "no infraction",
        recorded / max(time.monotonic() - started_s, 1e-6),
    )
    return max(recorded, 1)


def _shorten_lights(world: carla.World) -> None:
    green_s, yellow_s, red_s = LIGHT_TIMES_S
    for light in world.get_actors().filter("traffic.traffic_light*"):
        assert isinstance(light, carla.TrafficLight)
        light.set_green_time(green_s)
        light.set_yellow_time(yellow_s)
        light.set_red_time(red_s)


def _work(config: CollectConfig, worker: int, out: Path, weights: Path | None, budget: Any, refusals: Any) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s worker {worker} %(message)s")
    torch.set_num_threads(1)
    model = load_driving_model(weights, "cpu") if weights else None
    round_ = 0
    try:
        while budget.value > 0:
            town = config.towns[(worker + round_ * config.workers) % len(config.towns)]
            _episodes(town, config, worker, round_, out, model, budget)
            round_ += 1
    except (ServerError, RouteGenerationError) as error:
        refusals.put(error)
    except KeyboardInterrupt:
        logger.warning("interrupted")


def run(config: CollectConfig, out: Path, weights: Path | None = None) -> int:
    """Collect with several workers, each with a server of its own; gives the number of failed workers.

    Raises: CheckpointError or ConfigError for weights that cannot be used, ServerError for an unknown town,
    RouteGenerationError for one without room for routes.
    """
    if weights is not None:  # told once, not by every worker
        load_driving_model(weights, "cpu")
    context = multiprocessing.get_context("spawn")
    budget = context.Value("q", config.frames)
    refusals = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(config, index, out, weights, budget, refusals), name=f"collect-{index}")
        for index in range(config.workers)
    ]
    for process in workers:
        process.start()
    try:
        while any(process.is_alive() for process in workers):
            connection.wait([process.sentinel for process in workers if process.is_alive()])
            if not refusals.empty():
                raise refusals.get()
    except BaseException as error:
        for process in workers:
            process.join(15.0 if isinstance(error, KeyboardInterrupt) else 0.0)
            if process.is_alive():
                process.terminate()
        raise
    return sum(process.exitcode != 0 for process in workers)
