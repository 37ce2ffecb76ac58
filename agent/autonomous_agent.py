"""The leaderboard's agent base class: the official one where it can be imported, else an equal one of our own.

Equal means: the same constructor, attributes, call order and down-sampling of the plan. The stand-in takes frame
number and simulation time from its `clock`, where the official class asks the scenario runner.
"""

import importlib.util
import logging
from dataclasses import dataclass
from enum import Enum
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from agent.route import LEADERBOARD_SPACING_M, sparse_indices

logger = logging.getLogger(__name__)


class Track(Enum):
    """The leaderboard's tracks."""

    SENSORS = "SENSORS"
    MAP = "MAP"
    SENSORS_QUALIFIER = "SENSORS_QUALIFIER"
    MAP_QUALIFIER = "MAP_QUALIFIER"


class SensorReceivedNoData(Exception):
    """A sensor did not deliver the current frame in time."""


class SensorInterface:
    """A barrier: `get_data` waits until every registered sensor has delivered the asked frame; others are dropped."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._sensors: dict[str, Any] = {}
        self._arrivals: Queue[tuple[str, int, Any]] = Queue()

    def register_sensor(self, tag: str, sensor_type: str, sensor: Any) -> None:
        """Adds a sensor to wait for. Raises: ValueError for a tag that is taken."""
        if tag in self._sensors:
            raise ValueError(f"sensor id {tag!r} ({sensor_type}) is used twice; ids must be unique")
        self._sensors[tag] = sensor

    def update_sensor(self, tag: str, data: Any, frame: int) -> None:
        """Called by a sensor's callback. Raises: ValueError for a tag that was not registered."""
        if tag not in self._sensors:
            raise ValueError(f"sensor id {tag!r} delivers data but was not registered")
        self._arrivals.put((tag, frame, data))

    def get_data(self, frame: int) -> dict[str, tuple[int, Any]]:
        """id -> (frame, data) of all sensors. Raises: SensorReceivedNoData."""
        data: dict[str, tuple[int, Any]] = {}
        while len(data) < len(self._sensors):
            try:
                tag, arrived_frame, payload = self._arrivals.get(timeout=self._timeout_s)
            except Empty as error:
                missing = ", ".join(sorted(set(self._sensors) - set(data)))
                raise SensorReceivedNoData(
                    f"no data of frame {frame} within {self._timeout_s} s from {missing}"
                ) from error
            if arrived_frame == frame:
                data[tag] = (arrived_frame, payload)
        return data


@dataclass
class Clock:
    """Frame number and simulation time since the start of the route; whoever runs the agent sets both every tick."""

    frame: int = 0
    time_s: float = 0.0


class StandInAutonomousAgent:
    """What the official AutonomousAgent does, without the leaderboard and the scenario runner installed."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self.track: Any = Track.SENSORS
        self._global_plan: Any = None
        self._global_plan_world_coord: Any = None
        self.sensor_interface = SensorInterface()
        self.clock = Clock()

    def setup(self, path_to_conf_file: str) -> None:
        """Called once per route, after set_global_plan."""

    def sensors(self) -> list[dict[str, Any]]:
        """The sensors to be mounted."""
        return []

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> Any:
        """The control for this tick."""
        raise NotImplementedError("an agent must implement run_step")

    def destroy(self) -> None:
        """Called at the end of a route, also after a failed setup."""

    def __call__(self) -> Any:
        """Waits for the sensors of the clock's frame and returns the control, with manual gear shift off."""
        control = self.run_step(self.sensor_interface.get_data(self.clock.frame), self.clock.time_s)
        control.manual_gear_shift = False
        return control

    @staticmethod
    def get_ros_version() -> int:
        """-1: not a ROS agent."""
        return -1

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Keeps the down-sampled plan: GPS in _global_plan, world in _global_plan_world_coord."""
        kept = sparse_indices(global_plan_world_coord, LEADERBOARD_SPACING_M)
        self._global_plan_world_coord = [tuple(global_plan_world_coord[i][:2]) for i in kept]
        self._global_plan = [global_plan_gps[i] for i in kept]


if TYPE_CHECKING:
    AutonomousAgent = StandInAutonomousAgent
else:
    try:
        from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track
    except ImportError as error:
        AutonomousAgent = StandInAutonomousAgent
        if importlib.util.find_spec("leaderboard") is not None:
            logger.warning("the leaderboard is here but cannot be imported (%s); its stand-in is used", error)
