"""Counterfactual synthesis: base states of logged episodes, futures with other ego motions, and what comes of them.

Every log becomes one file of arrays: the masks of its base states, and for every future the ego motion, the occupancy
that would be seen on the way and the labels. Files that exist are kept.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.criteria import TICK_S
from eval.report import machine
from eval.results import write_json_atomically
from training import bev
from training.counterfactual import log as logs
from training.counterfactual import npz, render
from training.counterfactual.candidates import CandidateConfig, Candidates, Family, propose
from training.counterfactual.log import EpisodeLog
from training.counterfactual.motion import MOTION
from training.counterfactual.npz import Layout, Spec
from training.counterfactual.outcome import FutureKind, kinds, usable
from training.counterfactual.replay import HORIZON_TICKS, NO, Outcomes, Scene, make_scene, replay
from training.counterfactual.surface import Surface, outside_share

SUFFIX = ".futures.npz"
SIZE_PX = 64
"""Masks of a base state are pooled to this."""
MOTION_TICKS = 5
"""The motion is told every quarter of a second."""
STEPS = HORIZON_TICKS // MOTION_TICKS
OCCUPANCY_TICKS = 10
"""Occupancy is shown every half second."""
FRAMES = HORIZON_TICKS // OCCUPANCY_TICKS
STANDING_MPS = 0.3
REVERSE_MPS = -0.1
EDGE_SHARE = 0.15
"""A base state with more of the footprint than this beside the road is left out."""
VECTOR = ("speed_mps", "accel_mps2", "yaw_rate_radps", "limit_mps")
"""Numbers of a base state."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisConfig:
    """Which states are taken and what is made of them."""

    every_s: float = 0.5
    """Between base states."""
    standing_every: int = 4
    """Of the base states of a standing ego only one in so many is taken."""
    seed: int = 0
    workers: int = 1
    candidates: CandidateConfig = field(default_factory=CandidateConfig)

    def __post_init__(self) -> None:
        if self.every_s < TICK_S or min(self.standing_every, self.workers) < 1:
            raise ValueError(
                f"every-s must be at least {TICK_S}, standing-every and workers at least 1, got "
                f"{self.every_s}, {self.standing_every}, {self.workers}"
            )


@dataclass(frozen=True, slots=True)
class Futures:
    """Base states and futures of one episode; s states, f futures."""

    meta: dict[str, Any]
    words: np.ndarray
    """(s, 64, 64) uint64 at the base state."""
    vector: np.ndarray
    """(s, 4) float32, see VECTOR."""
    latent: np.ndarray
    """(s, d) float32, state of a raw agent's world model at the base state; d may be 0."""
    tick: np.ndarray
    """(s,) int32 tick of the log."""
    state: np.ndarray
    """(f,) int32 index of the base state."""
    family: np.ndarray
    """(f,) int8 `Family`."""
    kind: np.ndarray
    """(f,) int8 `FutureKind`."""
    motion: np.ndarray
    """(f, 12, 4) float32: x, y, yaw from the base pose (right-handed, x ahead), speed; every 0.25 s."""
    contact_s: np.ndarray
    """(f,) float32 time of the first contact; infinite numbers are written as -1: none."""
    off_road_s: np.ndarray
    """(f,) float32 time at which the road is left; -1: never."""
    impact_mps: np.ndarray
    """(f,) float32 relative speed at the contact."""
    clearance_m: np.ndarray
    """(f,) float32 smallest distance to anybody; at most 99."""
    progress_m: np.ndarray
    """(f,) float32 along the route until the end or the first failure."""
    occupancy: np.ndarray
    """(f, 6, 32, 32) uint8, one bit per class of `render.CLASSES`, around the ego every 0.5 s."""


_LAYOUT = Layout(
    format=1,
    arrays={
        "words": Spec("u8", ("s", SIZE_PX, SIZE_PX)),
        "vector": Spec("f4", ("s", len(VECTOR))),
        "latent": Spec("f4", ("s", "d")),
        "tick": Spec("i4", ("s",)),
        "state": Spec("i4", ("f",)),
        "family": Spec("i1", ("f",)),
        "kind": Spec("i1", ("f",)),
        "motion": Spec("f4", ("f", STEPS, MOTION)),
        "contact_s": Spec("f4", ("f",)),
        "off_road_s": Spec("f4", ("f",)),
        "impact_mps": Spec("f4", ("f",)),
        "clearance_m": Spec("f4", ("f",)),
        "progress_m": Spec("f4", ("f",)),
        "occupancy": Spec("u1", ("f", FRAMES, render.ROWS, render.COLUMNS)),
    },
    most={"s": 20_000, "f": 400_000, "d": 8_192},
    max_file_bytes=512 * 1024**2,
    max_all_bytes=4 * 1024**3,
)


def save(futures: Futures, path: Path) -> None:
    """Write futures, complete or not at all. Raises: OSError, ArrayFileError."""
    npz.write(path, _LAYOUT, {name: getattr(futures, name) for name in _LAYOUT.arrays}, futures.meta)


def load(path: Path) -> Futures:
    """Checked futures. Raises: ArrayFileError."""
    arrays, meta = npz.read(path, _LAYOUT)
    states = len(arrays["words"])
    for name, low, high in (("state", 0, states - 1), ("family", 0, len(Family) - 1), ("kind", 0, len(FutureKind) - 1)):
        if len(arrays[name]) and (arrays[name].min() < low or arrays[name].max() > high):
            raise npz.ArrayFileError(f"{path}: {name} leaves {low} to {high}; make the futures again")
    if not isinstance(meta.get("episode"), str) or not isinstance(meta.get("town"), str):
        raise npz.ArrayFileError(f"{path}: does not name its episode and town; make the futures again")
    return Futures(meta=meta, **arrays)


def synthesise(folders: Sequence[Path], out: Path, config: SynthesisConfig) -> dict[str, Any]:
    """Make the futures of all logs in some folders; gives counts and rate. Raises: ArrayFileError, OSError."""
    paths = logs.log_files(folders)
    missing = [path for path in paths if not _target(path, out).exists()]
    begun_s, counts, states = time.monotonic(), Counter[str](), 0
    for done, (path, own, count) in enumerate(_work(missing, out, config), 1):
        counts += own
        states += count
        passed_s = time.monotonic() - begun_s
        left_min = passed_s / done * (len(missing) - done) / 60.0
        logger.info(
            "%s: %d futures; %d of %d logs, %.0f min left", path.name, own.total(), done, len(missing), left_min
        )
    passed_s = max(time.monotonic() - begun_s, 1e-6)
    summary = {
        "logs": len(missing),
        "states": states,
        "futures": counts.total(),
        "kinds": {kind.name.lower(): counts[kind.name.lower()] for kind in FutureKind},
        "seconds": round(passed_s, 2),
        "futures_per_s": round(counts.total() / passed_s, 1),
        "workers": config.workers,
        "machine": machine(),
    }
    if missing:
        write_json_atomically(out / "synthesis.json", summary)
    return summary


def _target(path: Path, out: Path) -> Path:
    return out / (path.name.removesuffix(logs.SUFFIX) + SUFFIX)


def _work(paths: Sequence[Path], out: Path, config: SynthesisConfig) -> Iterator[tuple[Path, Counter[str], int]]:
    make = partial(_one, out, config)
    if config.workers == 1:
        yield from map(make, paths)
        return
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        yield from pool.imap_unordered(make, paths)


def _one(out: Path, config: SynthesisConfig, path: Path) -> tuple[Path, Counter[str], int]:
    """Futures of one log, written; gives how many there are of each kind, and of how many states."""
    log = logs.load(path)
    futures = futures_of(log, logs.town_map(path.parent, log), config)
    save(futures, _target(path, out))
    return path, Counter(FutureKind(kind).name.lower() for kind in futures.kind), len(futures.tick)


def futures_of(log: EpisodeLog, static: bev.StaticMap, config: SynthesisConfig) -> Futures:
    """All base states of a log with their futures."""
    generator = np.random.default_rng([config.seed, zlib.crc32(log.name.encode())])
    surface = Surface.around(static, log.ego[:, :2])
    states: list[dict[str, np.ndarray]] = []
    rows: list[dict[str, np.ndarray]] = []
    for base in base_ticks(log, surface, config):
        scene = make_scene(log, base)
        candidates = propose(log, scene, surface, config.candidates, generator)
        if _contact_ahead(log, base):  # what others do after a crash that the edited ego does not have is no truth
            candidates = Candidates(candidates.motions[:1], candidates.family[:1])
        outcomes = replay(scene, surface, candidates.motions)
        if outcomes.contact_tick[0] == 0:
            continue
        own = _labelled(log, static, scene, candidates, outcomes)
        own["state"] = np.full(len(own["kind"]), len(states), np.int32)
        states.append(state_of(log, static, base))
        rows.append(own)
    meta = {key: log.meta[key] for key in ("episode", "town", "route", "kind", "driver", "server")}
    meta["states_of"] = str(log.meta.get("states_of", ""))
    empty = {name: np.zeros(_empty_shape(spec), spec.dtype) for name, spec in _LAYOUT.arrays.items()}
    join = lambda parts, name: np.concatenate([part[name] for part in parts]) if parts else empty[name]  # noqa: E731
    per_state = ("words", "vector", "latent", "tick")
    return Futures(meta=meta, **{name: join(states if name in per_state else rows, name) for name in _LAYOUT.arrays})


def _empty_shape(spec: Spec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 0 for size in spec.shape)


def base_ticks(log: EpisodeLog, surface: Surface, config: SynthesisConfig) -> list[int]:
    """Ticks from which futures are made: with a past for the masks, a future in the log, the ego on the road."""
    found, standing = [], 0
    first_contact = int(log.contacts[:, 0].min()) if len(log.contacts) else log.ticks
    for tick in range(render.SLICE_TICKS[-1], log.ticks - HORIZON_TICKS, round(config.every_s / TICK_S)):
        x, y, yaw, vx, vy, _ = log.ego[tick]
        speed = vx * np.cos(yaw) + vy * np.sin(yaw)
        outside = outside_share(surface.drivable, surface.origin_m, x, y, yaw, log.ego_half_m[0], log.ego_half_m[1])
        if tick >= first_contact or speed < REVERSE_MPS or outside > EDGE_SHARE:
            continue
        if speed < STANDING_MPS:
            standing += 1
            if standing % config.standing_every != 1 % config.standing_every:
                continue
        found.append(tick)
    return found


def _contact_ahead(log: EpisodeLog, base: int) -> bool:
    ticks = log.contacts[:, 0]
    return bool(((ticks >= base) & (ticks <= base + HORIZON_TICKS)).any())


def state_of(log: EpisodeLog, static: bev.StaticMap, tick: int) -> dict[str, np.ndarray]:
    """Arrays of one base state."""
    words = bev.pool(render.logged_words(log, static, tick), bev.SIZE_PX // SIZE_PX)
    before = log.ego[max(tick - 4, 0)]
    speeds = [row[3] * np.cos(row[2]) + row[4] * np.sin(row[2]) for row in (before, log.ego[tick])]
    accel = (speeds[1] - speeds[0]) / (4 * TICK_S)
    latent = np.zeros((1, 0), np.float32)
    if log.latent.shape[1]:
        latest = max(int(np.searchsorted(log.latent_tick, tick, side="right")) - 1, 0)
        latent = log.latent[latest : latest + 1]
    return {
        "words": words[None],
        "vector": np.array([[speeds[1], accel, log.ego[tick, 5], log.limit_mps[tick]]], np.float32),
        "latent": latent,
        "tick": np.array([tick], np.int32),
    }


def _labelled(
    log: EpisodeLog, static: bev.StaticMap, scene: Scene, candidates: Candidates, outcomes: Outcomes
) -> dict[str, np.ndarray]:
    """Arrays of the usable futures of one base state."""
    keep = np.flatnonzero(usable(scene, outcomes))
    seconds = lambda ticks: np.where(ticks == NO, -1.0, ticks * TICK_S).astype(np.float32)  # noqa: E731
    found = kinds(log, scene, candidates.motions, outcomes)
    frames = [
        [_occupancy(log, static, scene, candidates.motions[k], outcomes.others[k], step) for step in _STEPS_SHOWN]
        for k in keep
    ]
    return {
        "family": candidates.family[keep].astype(np.int8),
        "kind": found[keep].astype(np.int8),
        "motion": relative_motion(candidates.motions[keep]).astype(np.float32),
        "contact_s": seconds(outcomes.contact_tick[keep]),
        "off_road_s": seconds(outcomes.off_road_tick[keep]),
        "impact_mps": outcomes.impact_mps[keep].astype(np.float32),
        "clearance_m": np.minimum(outcomes.clearance_m[keep], 99.0).astype(np.float32),
        "progress_m": outcomes.progress_m[keep].astype(np.float32),
        "occupancy": np.array(frames, np.uint8).reshape(len(keep), FRAMES, render.ROWS, render.COLUMNS),
    }


_STEPS_SHOWN = range(OCCUPANCY_TICKS, HORIZON_TICKS + 1, OCCUPANCY_TICKS)


def _occupancy(
    log: EpisodeLog, static: bev.StaticMap, scene: Scene, motion: np.ndarray, others: np.ndarray, step: int
) -> np.ndarray:
    """Occupancy around the ego `step` ticks after the base, without the slices of the past, which it does not show."""
    present = scene.present[step]
    boxes = np.column_stack([others[step, present], scene.half_m[step, present]])
    tick = scene.base + step
    channels = log.shown[tick, log.shown[tick] != logs.ABSENT].astype(np.int64)
    words = render.words_of(log, static, motion[step], int(log.route_index[scene.base]), [(boxes, channels)])
    return render.occupancy(words)


def relative_motion(motions: np.ndarray) -> np.ndarray:
    """(k, 12, 4) x, y, yaw relative to the first pose, and speed, every 0.25 s, of motions (k, t + 1, 4)."""
    first = motions[:, :1]
    rows = motions[:, MOTION_TICKS::MOTION_TICKS]
    c, s = np.cos(first[..., 2]), np.sin(first[..., 2])
    dx, dy = rows[..., 0] - first[..., 0], rows[..., 1] - first[..., 1]
    turn = (rows[..., 2] - first[..., 2] + np.pi) % (2.0 * np.pi) - np.pi
    return np.stack([dx * c + dy * s, dy * c - dx * s, turn, rows[..., 3]], -1)
