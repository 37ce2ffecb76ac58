"""Agents: loaded the leaderboard's way, a constant one as a control, and cameras that show something else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import carla
import msgpack
import numpy as np
from PIL import Image

from eval.sensors import InputData

if TYPE_CHECKING:
    from eval.episode import Episode, Tick

CONSTANT_THROTTLE = "constant-throttle"
THROTTLE = 0.5
RECORD_EVERY_TICKS = 2
"""The agent decides on every second tick, so no more needs to be kept."""
JPEG_QUALITY = 92


class AgentLoadError(ValueError):
    """An agent that cannot be loaded; the message names the file and the reason."""


class ConstantThrottle:
    """Drives straight ahead with constant throttle: the floor that any agent must beat."""

    track = "SENSORS"

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self._control = carla.VehicleControl(throttle=THROTTLE)

    def set_global_plan(self, global_plan_gps: list[Any], global_plan_world_coord: list[Any]) -> None:
        """Takes the plan and ignores it."""

    def setup(self, path_to_conf_file: str) -> None:
        """Nothing to set up."""

    def sensors(self) -> list[dict[str, Any]]:
        """No sensors."""
        return []

    def run_step(self, input_data: InputData, timestamp: float) -> carla.VehicleControl:
        """The same control always."""
        return self._control

    def destroy(self) -> None:
        """Nothing to destroy."""


def load_agent(name: str) -> Any:
    """Class of an agent: a built-in one by name, or a file's, imported as the leaderboard does (its folder first).

    Raises: AgentLoadError.
    """
    if name == CONSTANT_THROTTLE:
        return ConstantThrottle
    path = Path(name)
    if not path.is_file():
        raise AgentLoadError(f"--agent {name}: no such file; give a Python file or {CONSTANT_THROTTLE}")
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        module = importlib.import_module(path.stem)
        return getattr(module, module.get_entry_point())
    except Exception as error:  # the agent's own code runs on import
        raise AgentLoadError(f"--agent {name}: cannot be loaded ({type(error).__name__}: {error})") from error


def black_cameras(data: InputData, index: int) -> InputData:
    """The same data with every camera image black."""
    return {key: (frame, _black(value)) for key, (frame, value) in data.items()}


class ReplayedCameras:
    """Shows the agent the cameras of another episode, frame by frame, from the start again when they run out."""

    def __init__(self, recording: Path) -> None:
        """Raises: AgentLoadError if the recording is missing or empty."""
        if not recording.is_file():
            raise AgentLoadError(f"{recording}: no camera recording; make one with --record-cameras")
        self._frames = list(_read_recording(recording))
        if not self._frames:
            raise AgentLoadError(f"{recording}: the recording is empty; make one with --record-cameras")

    def __call__(self, data: InputData, index: int) -> InputData:
        images = self._frames[index // RECORD_EVERY_TICKS % len(self._frames)]
        swapped = dict(data)
        for key, (frame, value) in data.items():
            if key in images and _is_image(value):
                swapped[key] = (frame, _decode(images[key], value.shape))
        return swapped


class CameraRecorder:
    """A hook that keeps an episode's camera images: a stream of msgpack maps, sensor id to JPEG."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")

    def __call__(self, episode: Episode, tick: Tick) -> None:
        if (episode.ticks - 1) % RECORD_EVERY_TICKS == 0:
            images = {key: _encode(value) for key, (_, value) in tick.data.items() if _is_image(value)}
            self._file.write(msgpack.Packer().pack(images))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _read_recording(path: Path) -> Iterator[dict[str, bytes]]:
    with path.open("rb") as file:
        yield from msgpack.Unpacker(file, max_buffer_size=64 * 1024 * 1024)


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3


def _black(value: Any) -> Any:
    if not _is_image(value):
        return value
    image = np.zeros_like(value)
    image[..., 3] = 255
    return image


def _encode(image: np.ndarray) -> bytes:
    """JPEG of a BGRA image."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., 2::-1])).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _decode(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """BGRA image of the given shape from a JPEG."""
    picture = Image.open(BytesIO(data)).convert("RGB")
    if picture.size != (shape[1], shape[0]):
        picture = picture.resize((shape[1], shape[0]))
    image = np.full(shape, 255, dtype=np.uint8)
    image[..., 2::-1] = np.asarray(picture)
    return image
