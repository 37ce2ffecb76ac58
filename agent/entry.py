"""The leaderboard's hook: `get_entry_point` names the agent class. Track SENSORS: cameras, IMU, GNSS, speedometer."""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

# The evaluator imports this file as the top-level module `entry` with only this folder on the path.
if importlib.util.find_spec("agent") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent import carla_io
from agent.autonomous_agent import AutonomousAgent, Track
from agent.config import ConfigError
from agent.driver import Driver
from agent.guard import Guard
from agent.metric_log import MetricLog
from agent.route import Plan

logger = logging.getLogger(__name__)


def get_entry_point() -> str:
    """Name of the agent class."""
    return "LeaderboardAgent"


class LeaderboardAgent(AutonomousAgent):
    """Raw2Drive's raw-sensor agent; one instance drives one route."""

    driver: Driver | None = None  # destroy() also runs when setup() failed
    guard: Guard
    _metrics: MetricLog | None = None

    def setup(self, path_to_conf_file: str) -> None:
        """Loads the agent configuration, the weights and the plan that set_global_plan left.

        path_to_conf_file: a YAML file; Bench2Drive appends "+save_name", once more with every route.
        Raises: ConfigError, CheckpointError.
        """
        self.track = Track.SENSORS
        path, *save_names = str(path_to_conf_file).split("+")
        self._metrics = self._metric_log(save_names)
        self.driver = Driver.load(Path(path), self._read_plan(), carla_io.default_dialect())
        self.guard = Guard(self.driver.config.guard)

    def sensors(self) -> list[dict[str, Any]]:
        """Six cameras, IMU, GNSS and speedometer."""
        if self.driver is None:
            raise ConfigError("sensors() was called before setup(); the configuration fixes the cameras' resolution")
        return carla_io.sensor_specs(self.driver.config.rig)

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla_io.VehicleControl:
        """The control for this tick; bad sensor data and errors of our own stop the car, not the evaluation."""
        if self.driver is None:
            raise ConfigError("run_step() was called before setup()")
        try:
            proposal = self.driver.act(carla_io.read(input_data, timestamp))
        except Exception as error:  # the route must go on
            if carla_io.raised_by_evaluator(error):  # its watchdog raises inside our frames: never swallow that
                raise
            proposal = self.driver.report(error)  # strict mode raises again
        if self._metrics is not None:
            self._metrics.record()
        return carla_io.to_vehicle_control(self.guard.step(proposal, timestamp))

    def destroy(self) -> None:
        """Ends the route; harmless after a failed setup and when called twice."""
        if self.driver is not None:
            self.driver.close()
            self.driver = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _metric_log(self, save_names: list[str]) -> MetricLog | None:
        """Where Bench2Drive's evaluator wants the ego's true motion written; None under any other evaluator."""
        folder, get_metric_info = os.environ.get("SAVE_PATH"), getattr(self, "get_metric_info", None)
        if not folder or not save_names or get_metric_info is None:
            return None
        return MetricLog(Path(folder) / save_names[-1], get_metric_info)

    def _read_plan(self) -> Plan | None:
        """The plan, or None with a logged ConfigError if there is nothing to drive along."""
        try:
            return carla_io.read_plan(self._global_plan, self._global_plan_world_coord)
        except ConfigError as error:
            logger.error("%s: %s; the car will not start", type(error).__name__, error)
            return None
