"""From observations to what the network is given: localisation, route, cameras and the car's own motion.

Shared by the agent while driving and by training while collecting, so that both see the same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from agent.cameras import CameraBank, CameraConfig, CameraView
from agent.ego_vector import manoeuvre
from agent.geodesy import Dialect
from agent.localization import (
    DialectChooser,
    Estimate,
    LocalizationConfig,
    Localizer,
    Pose,
    reference_from_plans,
    wrap_rad,
)
from agent.model.driving_model import ModelInput
from agent.observation import Observation, SensorFault
from agent.route import Plan, RouteConfig, RouteTracker, RouteView, route_vector

MAX_ELAPSED_S = 0.2
"""A tick counts at most this long, and never backwards."""
NOMINAL_TICK_S = 0.05
"""The leaderboard's tick; stands in where the clock is unusable."""
GAP_S = 1.0
"""After a longer gap the past is no longer trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputConfig:
    """Configuration of everything before the network."""

    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    route: RouteConfig = field(default_factory=RouteConfig)
    cameras: CameraConfig = field(default_factory=CameraConfig)


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything known in one tick."""

    now_s: float
    cameras: CameraView
    estimate: Estimate
    route: RouteView
    faults: tuple[SensorFault, ...]


class InputBuilder:
    """Keeps the state before the network; `update` every tick, `network_arrays` at every decision."""

    def __init__(self, config: InputConfig, plan: Plan, default_dialect: Dialect) -> None:
        """Raises: ConfigError if the plan's world and GPS coordinates contradict each other."""
        start_m = plan.points_m[0]
        start = Pose(float(start_m[0]), float(start_m[1]), plan.start_yaw_rad)
        chooser = DialectChooser(reference_from_plans(plan.points_m, plan.geo_rad), default_dialect)
        self._localizer = Localizer(config.localization, start, chooser)
        self._tracker = RouteTracker(config.route, plan.without_duplicates(config.route.duplicate_m))
        self._cameras = CameraBank(config.cameras)
        self._clock_s: float | None = None
        self._odometry = start
        self._decision_odometry: Pose | None = None
        self._stale = False

    @property
    def dialect(self) -> Dialect:
        """The GNSS dialect in force."""
        return self._localizer.dialect

    @property
    def tracker(self) -> RouteTracker:
        """Progress along the plan."""
        return self._tracker

    def update(self, observation: Observation) -> Situation:
        """Takes in the observation of one tick."""
        elapsed_s, gap_s = self._elapsed(observation.now_s)
        if gap_s > GAP_S:
            self._localizer.widen(gap_s)
            self._decision_odometry, self._stale = None, True
        estimate = self._localizer.update(observation, elapsed_s)
        moved_m = self._odometry.to_local(np.array([[estimate.odometry.x_m, estimate.odometry.y_m]]))[0]
        travelled_m = float(np.linalg.norm(moved_m))
        self._odometry = estimate.odometry
        cameras = self._cameras.update(observation, elapsed_s, travelled_m)
        route = self._tracker.update(estimate.pose, travelled_m)
        faults = observation.faults + estimate.faults + cameras.faults
        return Situation(self._clock_s or 0.0, cameras, estimate, route, faults)

    def network_arrays(self, situation: Situation, *, first: bool) -> dict[str, np.ndarray]:
        """The fields of ModelInput as arrays without the batch dimension; marks this tick as a decision.

        first: the network's memory is empty; it is told so as well after a gap in time.
        """
        motion = np.zeros(3, np.float32)
        odometry = situation.estimate.odometry
        if self._decision_odometry is not None:
            motion[:2] = self._decision_odometry.to_local(np.array([[odometry.x_m, odometry.y_m]]))[0]
            motion[2] = wrap_rad(odometry.yaw_rad - self._decision_odometry.yaw_rad)
        first = first or self._stale
        self._decision_odometry, self._stale = odometry, False
        return {
            "images": situation.cameras.images.copy(),
            "camera_valid": situation.cameras.valid,
            "ego_motion": motion,
            "route": situation.route.points_m.astype(np.float32),
            "vector": np.concatenate(
                [route_vector(situation.route, situation.estimate.speed_mps), manoeuvre(situation.route)]
            ),
            "first": np.array(first),
        }

    def _elapsed(self, now_s: float | None) -> tuple[float, float]:
        """Seconds to advance by (clamped), and the gap the clock shows."""
        last_s = self._clock_s
        if now_s is None:
            self._clock_s = None if last_s is None else last_s + NOMINAL_TICK_S
            return (0.0 if last_s is None else NOMINAL_TICK_S), 0.0
        self._clock_s = now_s
        if last_s is None:
            return 0.0, 0.0
        return min(max(now_s - last_s, 0.0), MAX_ELAPSED_S), abs(now_s - last_s)


def model_input(arrays: Mapping[str, np.ndarray | bool], device: torch.device) -> ModelInput:
    """A ModelInput of batch size one on `device`."""
    return ModelInput(**{name: torch.from_numpy(np.asarray(value)[None]).to(device) for name, value in arrays.items()})
