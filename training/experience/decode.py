"""Windows out of segments: read, checked, unpacked, pooled to the model's size and laid side by side."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch

from agent.ego_vector import MANOEUVRE_SIZE
from agent.model.driving_model import ModelInput
from agent.model.front_view import FRONT
from agent.observation import CAMERA_NAMES
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from training.bev import SIZE_PX
from training.experience.catalogue import Piece
from training.experience.features import FeatureStore, decoded
from training.experience.index import segment_path
from training.experience.writer import SENSOR_ARRAYS, SENSOR_PREFIX, transition_of
from training.replay import PackedStep, SegmentError, SegmentLayout, read_layout, read_steps
from training.world_model.model import Replayed


@dataclass(frozen=True, slots=True)
class WindowArrays:
    """Where windows are decoded into; leading axes (b, t)."""

    words: np.ndarray
    """(b, t, size, size) uint64."""
    vector: np.ndarray
    """(b, t, v) float32."""
    action: np.ndarray
    """(b, t) int64, of the step before."""
    expert_action: np.ndarray
    """(b, t) int64, NO_LABEL where the expert was not asked."""
    reward: np.ndarray
    """(b, t) float32."""
    flags: np.ndarray
    """(b, t, 3) bool: first, last, terminal."""
    sensors: dict[str, np.ndarray] | None = None
    """Fields of ModelInput but `first`, (b, t, ...)."""
    features: np.ndarray | None = None
    """(b, t, values) float16 of a frozen backbone; the sensors' images then have no pixels."""
    front: np.ndarray | None = None
    """(b, t, 3, h, w) uint8 of the front camera, where there are features and it is wanted besides."""

    @classmethod
    def empty(
        cls, windows: int, steps: int, size_px: int, vector: int, images: tuple[int, int] | FeatureStore | None = None
    ) -> WindowArrays:
        """Arrays to be filled. images: height and width of the camera images, or where the features are that take
        their place; None: without sensors.

        Raises: ValueError for a size that the words cannot be pooled to.
        """
        if not 0 < size_px <= SIZE_PX or SIZE_PX % size_px:
            raise ValueError(f"words of {SIZE_PX} px cannot be pooled to {size_px} px")
        shape = (windows, steps)
        values, front_hw = 0, None
        if isinstance(images, FeatureStore):
            values, image_hw = images.source.values, (0, 0)
            front_hw = images.source.image_hw if images.front else None
        else:
            image_hw = images
        return cls(
            words=np.empty((*shape, size_px, size_px), np.uint64),
            vector=np.empty((*shape, vector), np.float32),
            action=np.empty(shape, np.int64),
            expert_action=np.empty(shape, np.int64),
            reward=np.empty(shape, np.float32),
            flags=np.empty((*shape, 3), bool),
            sensors=None if image_hw is None else _sensor_arrays(shape, image_hw),
            features=np.empty((*shape, values), np.float16) if values else None,
            front=None if front_hw is None else np.empty((*shape, 3, *front_hw), np.uint8),
        )

    def replayed(self) -> Replayed:
        """As the learner takes it. What comes before a first step is a last one, even if its writer never said so."""
        first, last, terminal = (torch.from_numpy(np.ascontiguousarray(self.flags[..., k])) for k in range(3))
        last[:, :-1] |= first[:, 1:]
        return Replayed(
            words=torch.from_numpy(self.words.view(np.int64)),
            vector=torch.from_numpy(self.vector) if self.vector.shape[-1] else None,
            previous_action=torch.from_numpy(self.action),
            expert_action=torch.from_numpy(self.expert_action),
            reward=torch.from_numpy(self.reward),
            first=first,
            last=last,
            terminal=terminal,
            sensors=self._model_input(first),
            image_features=None if self.features is None else torch.from_numpy(self.features),
            front_images=None if self.front is None else torch.from_numpy(self.front),
        )

    def _model_input(self, first: torch.Tensor) -> ModelInput | None:
        if self.sensors is None:
            return None
        return ModelInput(**{name: torch.from_numpy(value) for name, value in self.sensors.items()}, first=first)


def _sensor_arrays(shape: tuple[int, int], images: tuple[int, int]) -> dict[str, np.ndarray]:
    cameras = len(CAMERA_NAMES)
    return {
        "images": np.empty((*shape, cameras, 3, *images), np.uint8),
        "camera_valid": np.empty((*shape, cameras), bool),
        "ego_motion": np.empty((*shape, 3), np.float32),
        "route": np.empty((*shape, ROUTE_POINTS, 2), np.float32),
        "vector": np.empty((*shape, VECTOR_SIZE + MANOEUVRE_SIZE), np.float32),
    }


class DamagedSegment(SegmentError):
    """A segment with wrong bytes; carries its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class GoneSegment(Exception):
    """A segment that is not there any more; carries its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Decoder:
    """Reads pieces of segments; the layouts of segments read before are remembered. Safe to share by threads."""

    def __init__(self, folder: Path, features: FeatureStore | None = None) -> None:
        """features: where those of the images are read, for arrays that want them."""
        self._folder, self._features = folder, features
        self._layouts: dict[str, SegmentLayout] = {}
        self._lock = threading.Lock()

    def forget(self, names: Sequence[str]) -> None:
        """Drop the layouts of segments that are not read any more."""
        with self._lock:
            for name in names:
                self._layouts.pop(name, None)
        if self._features is not None:
            self._features.forget(names)

    def window(self, pieces: Sequence[Piece], arrays: WindowArrays, number: int) -> None:
        """Decode a window into row `number` of the arrays. Raises: DamagedSegment, GoneSegment."""
        at = 0
        for piece in pieces:
            name = piece.row.name
            try:
                self._piece(piece, arrays, number, at)
            except FileNotFoundError as error:
                raise GoneSegment(name) from error
            except SegmentError as error:
                raise DamagedSegment(name, str(error)) from error
            at += piece.stop - piece.start

    def _piece(self, piece: Piece, arrays: WindowArrays, number: int, at: int) -> None:
        path = segment_path(self._folder, piece.row.name)
        layout = self._layouts.get(piece.row.name)
        if layout is None:
            layout = read_layout(path)
            with self._lock:
                self._layouts[piece.row.name] = layout
        if piece.stop > layout.steps:
            raise SegmentError(f"{path}: has {layout.steps} steps, its index entry says {piece.row.steps}")
        if arrays.features is not None:
            assert self._features is not None  # whoever makes such arrays has a store
            own = slice(at, at + piece.stop - piece.start)
            arrays.features[number, own] = self._features.read(path, layout, piece.start, piece.stop)
        for offset, step in enumerate(read_steps(path, layout, piece.start, piece.stop), at):
            pool_into(step.words(), arrays.words[number, offset])
            width = arrays.vector.shape[-1]
            if width:
                vector = step.arrays.get("vector")
                if vector is None or vector.shape != (width,):
                    found = "none" if vector is None else f"one of shape {vector.shape}"
                    raise ValueError(f"{path}: the model wants an ego vector of {width} values, stored is {found}")
                arrays.vector[number, offset] = vector
            if arrays.sensors is not None:
                _take_sensors(step, arrays.sensors, (number, offset), path)
            if arrays.front is not None:
                arrays.front[number, offset] = decoded(step.jpegs[FRONT : FRONT + 1], arrays.front.shape[-2:], path)[0]
            values = transition_of(step)
            arrays.action[number, offset] = values["action"]
            arrays.expert_action[number, offset] = values["expert_action"]
            arrays.reward[number, offset] = values["reward"]
            arrays.flags[number, offset] = values["first"], values["last"], values["terminal"]


def _take_sensors(step: PackedStep, into: dict[str, np.ndarray], place: tuple[int, int], path: Path) -> None:
    """Decode one step's sensors. Raises: ValueError where there are none, or of another size; SegmentError."""
    image_hw = into["images"].shape[-2:]
    if image_hw != (0, 0):
        into["images"][place] = decoded(step.jpegs, image_hw, path)
    for name in SENSOR_ARRAYS:
        value, wanted = step.arrays.get(SENSOR_PREFIX + name), into[name].shape[2:]
        if value is None or value.shape != wanted:
            shape = "none" if value is None else f"one of shape {value.shape}"
            raise ValueError(f"{path}: {name} of shape {wanted} is wanted, stored is {shape}")
        into[name][place] = value


@numba.njit("void(Array(uint64, 2, 'C', readonly=True), uint64[:, ::1])", cache=True, nogil=True)
def pool_into(words, pooled):  # pragma: no cover - compiled
    """OR of square blocks of words (n, n) into pooled (m, m): a coarse pixel holds what any of its pixels holds."""
    factor = words.shape[0] // pooled.shape[0]
    for row in range(pooled.shape[0]):
        for column in range(pooled.shape[1]):
            value = np.uint64(0)
            for i in range(row * factor, (row + 1) * factor):
                for j in range(column * factor, (column + 1) * factor):
                    value |= words[i, j]
            pooled[row, column] = value
