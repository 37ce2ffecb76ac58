"""Windows of recorded episodes as training batches: decoding, noise on what the car believes, labels.

Images stay JPEG in memory and are decoded by background threads; labels are unpacked once when the data is read.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.actions import ACTIONS, BRAKE, STEER, THROTTLE
from agent.model.driving_model import AUXILIARY_SCALE, MASKS, ModelInput, ModelState
from agent.model.image_encoder import EncoderConfig
from agent.model.rssm import LatentState, RssmConfig
from training import bev
from training.replay import Segment, decode_jpeg, read_segments

MASK_CHANNELS: dict[str, tuple[int, ...]] = {
    "road": (bev.ROAD, bev.SHOULDER),
    "lane_lines": (bev.YELLOW_LINE, bev.WHITE_LINE),
    "ego_lanes": (bev.EGO_LANES,),
    "vehicle": (bev.VEHICLE, bev.EMERGENCY),
    "walker": (bev.WALKER, bev.BICYCLE),
    "red_light": (bev.RED,),
    "yellow_light": (bev.YELLOW,),
    "green_light": (bev.GREEN,),
    "stop_sign": (bev.STOP_SIGN,),
}
"""BEV channels (age 0) that make up each mask of the model."""

DISTANCE_SCALE_M = 50.0
POINT_CLIP = 2.0
DISTANCE_CLIP = 4.0
"""Scales of the route part of the vector input, as agent.route builds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Disturbances of the inputs while training."""

    lateral_m: float = 0.8
    """One sigma of the sideways error of the believed position: the cameras must tell the place in the lane."""
    lateral_max_m: float = 1.8
    longitudinal_m: float = 1.0
    yaw_rad: float = 0.025
    speed: float = 0.03
    """Relative error of the speed."""
    gain: float = 0.25
    """Half range of the images' contrast factor."""
    offset: float = 25.0
    """Half range of the images' brightness shift, of 255."""
    camera_loss: float = 0.02
    """Probability that a camera is missing in a window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Which windows are drawn how often."""

    standing: float = 0.25
    """Weight of windows that end in front of nothing new: the car stands and should stand."""
    starting: float = 3.0
    """Weight of windows that end where a standing car should go."""
    turning: float = 2.0
    """Weight of windows that end in a bend."""
    braking: float = 2.0
    """Weight of windows that end with a moving car that should brake."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows with their labels; leading axes (b, t)."""

    windows: tuple[tuple[int, int], ...]
    """(episode, first step) of each window."""
    inputs: ModelInput
    label: Tensor
    """(b, t, 39) soft label."""
    masks: Tensor
    """(b, t, masks, rows, columns) uint8."""
    auxiliary: Tensor
    """(b, t, auxiliary) in units of AUXILIARY_SCALE."""


@dataclass(frozen=True, slots=True)
class _Episode:
    """The steps of one segment; arrays have one row per step."""

    jpegs: tuple[tuple[bytes, ...], ...]
    masks: np.ndarray
    """(n, rows, columns) uint16, one bit per mask."""
    ego_motion: np.ndarray
    route: np.ndarray
    vector: np.ndarray
    label: np.ndarray
    auxiliary: np.ndarray
    camera_valid: np.ndarray
    first: np.ndarray
    weight: np.ndarray


def mask_bits(words: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Mask bits (2 rows, 2 columns) uint16 on twice the encoder's BEV grid, row 0 at the rear, from BEV words."""
    right_min, ahead_min, _, right_max, ahead_max, _ = encoder.bev_range_m
    rows, columns = 2 * encoder.bev_rows, 2 * encoder.bev_columns
    view = bev.crop(words, (ahead_min, ahead_max), (-right_max, -right_min))
    factor = view.shape[-2] // rows
    if view.shape[-2] != factor * rows or view.shape[-1] != factor * columns:
        raise ValueError(f"BEV cells of {encoder.bev_range_m} in {rows} x {columns} do not fit the words' pixels")
    view = bev.pool(view, factor)[..., ::-1, :]
    bits = np.zeros(view.shape, np.uint16)
    for k, name in enumerate(MASKS):
        wanted = np.uint64(sum(1 << channel for channel in MASK_CHANNELS[name]))
        bits |= ((view & wanted) != 0).astype(np.uint16) << np.uint16(k)
    return bits


def unpack_masks(bits: np.ndarray) -> np.ndarray:
    """(..., rows, columns) uint16 to (..., masks, rows, columns) uint8."""
    shifts = np.arange(len(MASKS), dtype=np.uint16)[:, None, None]
    return ((bits[..., None, :, :] >> shifts) & 1).astype(np.uint8)


def step_weight(sampling: SamplingConfig, speed_mps: float, label: np.ndarray) -> float:
    """Sampling weight of a window ending in this step."""
    action = ACTIONS[int(np.argmax(label))]
    if speed_mps < 0.3:
        return sampling.starting if action[THROTTLE] > 0.5 else sampling.standing
    if action[BRAKE] > 0.0:
        return sampling.braking
    return sampling.turning if abs(action[STEER]) > 0.15 else 1.0


def is_validation(episode: str, share: float) -> bool:
    """Whether an episode belongs to the validation part: decided by its name, so the split never changes."""
    return int(hashlib.sha256(episode.encode()).hexdigest()[:8], 16) / 2**32 < share


def load_episode(segment: Segment, encoder: EncoderConfig, sampling: SamplingConfig) -> _Episode:
    """A segment ready for sampling."""
    steps = segment.steps
    column = lambda name: np.stack([step.arrays[name] for step in steps])  # noqa: E731
    label, vector = column("label"), column("vector")
    speeds = [float(step.scalars["speed_mps"]) for step in steps]
    first = np.zeros(len(steps), bool)
    first[0] = bool(steps[0].scalars.get("first", False))
    return _Episode(
        jpegs=tuple(step.jpegs for step in steps),
        masks=np.stack([mask_bits(step.words(), encoder) for step in steps]),
        ego_motion=column("ego_motion"),
        route=column("route"),
        vector=vector,
        label=label,
        auxiliary=column("auxiliary"),
        camera_valid=column("camera_valid") > 0.5,
        first=first,
        weight=np.array([step_weight(sampling, speed, row) for speed, row in zip(speeds, label, strict=True)]),
    )


class WindowDataset:
    """All windows of `length` consecutive steps of some episodes."""

    def __init__(self, episodes: Sequence[_Episode], length: int) -> None:
        self.length = length
        self.episodes = [episode for episode in episodes if len(episode.jpegs) >= length]
        if not self.episodes:
            raise ValueError(f"no episode has {length} steps; collect more data")
        self._starts = [(e, t) for e, item in enumerate(self.episodes) for t in range(len(item.jpegs) - length + 1)]
        weights = np.concatenate([item.weight[length - 1 :] for item in self.episodes])
        self._cumulative = np.cumsum(weights) / weights.sum()

    @property
    def frames(self) -> int:
        """Number of recorded steps."""
        return sum(len(episode.jpegs) for episode in self.episodes)

    def draw(self, generator: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """(episode, first step) of `count` random windows, by weight."""
        indices = np.searchsorted(self._cumulative, generator.random(count))
        return [self._starts[min(int(i), len(self._starts) - 1)] for i in indices]

    def spread(self, count: int) -> list[tuple[int, int]]:
        """`count` windows spread evenly over the data."""
        indices = np.linspace(0, len(self._starts) - 1, min(count, len(self._starts))).astype(int)
        return [self._starts[i] for i in indices]

    def batch(
        self,
        windows: Sequence[tuple[int, int]],
        noise: NoiseConfig | None,
        generator: np.random.Generator,
        pool: ThreadPoolExecutor,
    ) -> Batch:
        """The windows decoded; disturbed if `noise` is given."""
        seeds = generator.spawn(len(windows))
        parts = list(
            pool.map(
                lambda item: self._window(item[0][0], item[0][1], noise, item[1]), zip(windows, seeds, strict=True)
            )
        )
        stack = lambda name: torch.from_numpy(np.stack([part[name] for part in parts]))  # noqa: E731
        return Batch(
            windows=tuple(windows),
            inputs=ModelInput(
                images=stack("images"),
                camera_valid=stack("camera_valid"),
                ego_motion=stack("ego_motion"),
                route=stack("route"),
                vector=stack("vector"),
                first=stack("first"),
            ),
            label=stack("label"),
            masks=stack("masks"),
            auxiliary=stack("auxiliary"),
        )

    def _window(
        self, e: int, start: int, noise: NoiseConfig | None, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        episode, span = self.episodes[e], slice(start, start + self.length)
        images = np.stack([np.stack([decode_jpeg(data) for data in jpegs]) for jpegs in episode.jpegs[span]])
        first = episode.first[span].copy()
        first[0] = True  # a window starts without a past
        part = {
            "images": images,
            "camera_valid": episode.camera_valid[span].copy(),
            "ego_motion": episode.ego_motion[span],
            "route": episode.route[span],
            "vector": episode.vector[span],
            "first": first,
            "label": episode.label[span],
            "masks": unpack_masks(episode.masks[span]),
            "auxiliary": (episode.auxiliary[span] / np.array(AUXILIARY_SCALE, np.float32)).astype(np.float32),
        }
        if noise is not None:
            _disturb(part, noise, generator)
        return part


def _disturb(part: dict[str, np.ndarray], noise: NoiseConfig, generator: np.random.Generator) -> None:
    lateral = float(np.clip(generator.normal(0.0, noise.lateral_m), -noise.lateral_max_m, noise.lateral_max_m))
    shift_m = np.array([generator.normal(0.0, noise.longitudinal_m), lateral])
    yaw_rad = generator.normal(0.0, noise.yaw_rad)
    part["route"], part["vector"] = move_route(part["route"], part["vector"], shift_m, yaw_rad)
    part["vector"][:, 0] *= 1.0 + generator.normal(0.0, noise.speed)
    gain = 1.0 + generator.uniform(-noise.gain, noise.gain)
    offset = generator.uniform(-noise.offset, noise.offset)
    table = np.clip((np.arange(256) - 128.0) * gain + 128.0 + offset, 0, 255).astype(np.uint8)
    part["images"] = table[part["images"]]
    lost = generator.random(part["camera_valid"].shape[1]) < noise.camera_loss
    part["camera_valid"][:, lost] = False
    part["images"][:, lost] = 0


def move_route(
    route: np.ndarray, vector: np.ndarray, shift_m: np.ndarray, yaw_rad: float
) -> tuple[np.ndarray, np.ndarray]:
    """Route (t, 8, 2) and vector (t, 18) as a car would believe them whose position is wrong by a rigid motion.

    All points are turned by yaw_rad about the ego and moved by shift_m (forward, left).
    """
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    moved = (route @ np.array([[c, s], [-s, c]]) + shift_m).astype(np.float32)
    vector = vector.copy()
    points = np.minimum([1, 2], moved.shape[1] - 1)
    ahead = moved[:, points].reshape(len(moved), 4) / DISTANCE_SCALE_M
    vector[:, 1:5] = np.clip(ahead, -POINT_CLIP, POINT_CLIP)
    vector[:, 5] = np.minimum(np.linalg.norm(moved[:, 1], axis=-1) / DISTANCE_SCALE_M, DISTANCE_CLIP)
    return moved, vector


def load_datasets(
    folders: Sequence[Path],
    encoder: EncoderConfig,
    sampling: SamplingConfig,
    lengths: tuple[int, int],
    validation_share: float,
) -> tuple[WindowDataset, WindowDataset]:
    """Training and validation windows (of `lengths` steps) of all segments below the folders, split by episode."""
    parts: tuple[list[_Episode], list[_Episode]] = ([], [])
    for segment in read_segments(folders):
        validation = is_validation(str(segment.metadata["episode"]), validation_share)
        parts[validation].append(load_episode(segment, encoder, sampling))
    training, validation = parts
    for empty, full in ((training, validation), (validation, training)):  # very little data: take what there is
        if not empty and full:
            empty.append(full[-1] if len(full) == 1 else full.pop())
    return WindowDataset(training, lengths[0]), WindowDataset(validation, lengths[1])


class StateCache:
    """The latest model state of every recorded step, so that windows start with a past instead of from nothing.

    Without it state and memory would be trained on two steps and driven for thousands. The states are as old as their
    window's last visit. Source: latent carry-over of DreamerV3's later recipe, here with the BEV memory.
    """

    def __init__(self, dataset: WindowDataset, rssm: RssmConfig, encoder: EncoderConfig) -> None:
        self._rssm = rssm
        lengths = [len(episode.jpegs) for episode in dataset.episodes]
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._firsts = [episode.first for episode in dataset.episodes]
        count = sum(lengths)
        self._deter = torch.zeros(count, rssm.deter, dtype=torch.float16)
        self._index = torch.zeros(count, rssm.groups, dtype=torch.uint8)
        self._memory = torch.zeros(count, encoder.grid.cells, encoder.embed_dims, dtype=torch.float16)
        self._known = torch.zeros(count, dtype=torch.bool)

    def before(self, windows: Sequence[tuple[int, int]]) -> ModelState:
        """States before the windows' first steps; has_memory tells which are known."""
        rows = torch.tensor([max(int(self._starts[e]) + start - 1, 0) for e, start in windows])
        inside = torch.tensor([start > 0 and not self._firsts[e][start] for e, start in windows])
        stoch = F.one_hot(self._index[rows].long(), self._rssm.classes).float().flatten(-2)
        return ModelState(
            latent=LatentState(self._deter[rows].float(), stoch),
            memory=self._memory[rows].float(),
            has_memory=inside & self._known[rows],
        )

    def store(self, windows: Sequence[tuple[int, int]], state: LatentState, memory: Tensor) -> None:
        """Remember the latent states and BEV features (b, t) of the windows' steps."""
        steps = state.deter.shape[1]
        rows = torch.tensor([[int(self._starts[e]) + start + t for t in range(steps)] for e, start in windows])
        self._deter[rows] = state.deter.detach().half()
        index = state.stoch.detach().unflatten(-1, (self._rssm.groups, self._rssm.classes)).argmax(-1)
        self._index[rows] = index.to(torch.uint8)
        self._memory[rows] = memory.detach().half()
        self._known[rows] = True


def stream(
    dataset: WindowDataset, batch: int, noise: NoiseConfig | None, generator: np.random.Generator, *, ahead: int = 2
) -> Generator[Batch, None, None]:
    """Endless random batches, prepared in the background."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
    stop = threading.Event()

    def work() -> None:
        with ThreadPoolExecutor(2) as pool:
            while not stop.is_set():
                try:
                    item: Batch | BaseException = dataset.batch(dataset.draw(generator, batch), noise, generator, pool)
                except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
                    item = error
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
