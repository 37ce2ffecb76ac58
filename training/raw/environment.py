"""The driving environment with the agent's sensors on the car: each observation holds what both streams see."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import carla
import numpy as np

from agent import carla_io
from agent.actions import COAST
from agent.carla_io import RigConfig
from agent.inputs import InputBuilder, InputConfig, Situation
from eval.criteria import TICK_S
from eval.episode import FAILURE_SIMULATION, Episode, EpisodeError
from eval.plan import BENCH2DRIVE_SPACING_M, sparse_indices
from eval.routes import Route, Weather
from eval.sensors import SensorRig, SensorTimeout
from training.collect import DecisionCameras, random_weather
from training.drive import TICKS_PER_DECISION, control_of
from training.env.config import EnvConfig
from training.env.environment import Drive, DrivingEnv, Observation
from training.experience.writer import SensorFrame

SENSOR_TIMEOUT_S = 20.0


class Senses:
    """The agent's sensors on the ego, its localisation and its sparse plan; cameras are drawn at decisions only."""

    def __init__(self, episode: Episode) -> None:
        """Spawn them. Raises: RuntimeError of the client."""
        self._episode = episode
        rig = RigConfig()
        fast = [spec for spec in carla_io.sensor_specs(rig) if spec["type"] != "sensor.camera.rgb"]
        self._fast = SensorRig(episode.world, episode.ego, fast, SENSOR_TIMEOUT_S)
        self._cameras = DecisionCameras(episode.world, episode.ego, rig)
        indices = sparse_indices(episode.plan.world, BENCH2DRIVE_SPACING_M)
        plan = carla_io.read_plan([episode.plan.gps[k] for k in indices], [episode.plan.world[k] for k in indices])
        self._inputs = InputBuilder(InputConfig(), plan, carla_io.default_dialect())
        self._images: dict[str, tuple[int, np.ndarray]] = {}
        self._situation: Situation | None = None
        self._ticks = 0
        self._first = True

    def tick(self) -> None:
        """Take in the present tick. Raises: SensorTimeout, EpisodeError."""
        frame = self._episode.world.get_snapshot().frame
        data: dict[str, Any] = dict(self._fast.read(frame))
        if self._ticks % TICKS_PER_DECISION == 0:  # an episode that ends between two decisions shows the last images
            self._images = self._cameras.read(frame)
        self._ticks += 1
        now_s = self._episode.ticks * TICK_S
        self._situation = self._inputs.update(carla_io.read({**data, **self._images}, now_s))

    def frame(self) -> SensorFrame:
        """What the raw stream sees now; a decision. Raises: RuntimeError before the first tick."""
        if self._situation is None:
            raise RuntimeError("nothing has been sensed yet; call tick() first")
        arrays = self._inputs.network_arrays(self._situation, first=self._first)
        self._first = False
        return SensorFrame.of(arrays)

    def destroy(self) -> None:
        """Remove the sensors."""
        self._cameras.destroy()
        self._fast.destroy()


class SensingDrive(Drive):
    """One episode seen by both streams. Its first tick lets the cameras take their first images."""

    def __init__(self, episode: Episode, config: EnvConfig, *, counted: bool, senses: list[Senses]) -> None:
        """senses: where the sensors are put as soon as there are any, for whoever has to remove them.

        Raises: EpisodeError, ServerError, PlannerError.
        """
        super().__init__(episode, config, counted=counted)
        try:
            self._senses = Senses(episode)
            senses.append(self._senses)
            self.tick(control_of(COAST))
        except SensorTimeout as error:
            raise EpisodeError(FAILURE_SIMULATION, str(error)) from error
        self.scene = self.look()

    def tick(self, control: carla.VehicleControl) -> bool:
        """A twentieth of a second; False when the route is over. Raises: EpisodeError."""
        goes_on = super().tick(control)
        try:
            self._senses.tick()
        except SensorTimeout as error:
            raise EpisodeError(FAILURE_SIMULATION, str(error)) from error
        return goes_on

    def observation(self) -> Observation:
        """What both streams see now: words and vector, and `sensors`."""
        return super().observation() | {"sensors": self._senses.frame()}


def look_of(route: Route, seed: int) -> Weather:
    """Weather and time of day of an episode: another one on every route, the same for all who drive it."""
    return random_weather(np.random.default_rng([seed, zlib.crc32(f"{route.town}/{route.id}".encode())]))


class SensingEnv(DrivingEnv):
    """As `DrivingEnv`, with the six cameras, IMU, GNSS and speedometer; observations have `sensors` besides."""

    needs_cameras = True

    def __init__(self, config: EnvConfig, routes: Sequence[Route], *, random_looks: bool = True) -> None:
        """random_looks: weather and time of day are drawn anew for every episode."""
        super().__init__(config, routes)
        self._random_looks = random_looks
        self._senses: list[Senses] = []

    def start_episode(self, route: Route, seed: int, *, counted: bool) -> Drive:
        """Begin an episode. Raises: EpisodeError, ServerError, PlannerError."""
        if self._random_looks:
            route = replace(route, weathers=(look_of(route, seed),))
        return super().start_episode(route, seed, counted=counted)

    def make_drive(self, episode: Episode, *, counted: bool) -> Drive:
        """Begin an episode with sensors. Raises: EpisodeError, ServerError, PlannerError."""
        return SensingDrive(episode, self.config, counted=counted, senses=self._senses)

    def close_episode(self, episode: Episode) -> None:
        """Remove everything from the world; from a dead server only what lives in this process."""
        senses, self._senses = self._senses, []
        if self.servers.alive():
            for one in senses:
                one.destroy()
        super().close_episode(episode)
