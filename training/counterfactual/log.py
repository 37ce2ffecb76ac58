"""Log of an episode: everything that is needed to replay it with another ego motion, at every tick (20 Hz).

A log is a compressed npz without pickled objects; the town's OpenDRIVE text lies beside the logs, once per town. The
reader takes files of strangers: sizes, shapes, types and values are checked before they are used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import carla
import numpy as np
from jaxtyping import Float32, Float64, Int8, Int32, Int64

from training import bev
from training.counterfactual import npz
from training.counterfactual.npz import ArrayFileError, Layout, Spec

SUFFIX = ".log.npz"
MAPS = "maps"
"""Folder with the OpenDRIVE files, beside the logs."""
TICK_S = 0.05
MAX_CELLS = 4_000_000
"""Ticks times actors."""
MAX_MAP_BYTES = 64 * 1024**2
FAR_M = 1e6
"""No number of a pose, speed or size is larger."""
META_TEXTS = ("episode", "town", "map_sha256", "route", "kind", "driver", "server")

X, Y, YAW, VX, VY, YAW_RATE, HALF_LENGTH, HALF_WIDTH = range(8)
"""Columns of a body."""
ABSENT = -1
"""In `shown`: not there, too far away or on another level. In `signal_state`: off."""
SHOWN = (bev.VEHICLE, bev.WALKER, bev.BICYCLE, bev.EMERGENCY, bev.OBSTACLE)
SIGNALS = (bev.GREEN, bev.YELLOW, bev.RED, bev.STOP_SIGN)


@dataclass(frozen=True, slots=True)
class EpisodeLog:
    """One episode in the right-handed world frame; t ticks, n others, s stop lines, p route points."""

    meta: Mapping[str, Any]
    """Texts (META_TEXTS) and whatever else its recorder knew."""
    ego: Float64[np.ndarray, "t 6"]
    """x, y, yaw, velocity x, velocity y, yaw rate."""
    ego_half_m: Float64[np.ndarray, " 2"]
    """Half length and half width."""
    control: Float32[np.ndarray, "t 3"]
    """Throttle, steer, brake that led to the tick."""
    action: Int8[np.ndarray, " t"]
    """The same as one of the 39 actions; -1: none of them."""
    limit_mps: Float32[np.ndarray, " t"]
    """Speed limit."""
    route_index: Int32[np.ndarray, " t"]
    """Route point beside the ego."""
    ids: Int64[np.ndarray, " n"]
    """Actor ids."""
    bodies: Float32[np.ndarray, "t n 8"]
    """See the columns above; rows of who is absent are 0."""
    shown: Int8[np.ndarray, "t n"]
    """First BEV channel of each body, or ABSENT."""
    signal_box: Float64[np.ndarray, "s 5"]
    """Stop lines: x, y, yaw, half length, half width."""
    signal_state: Int8[np.ndarray, "t s"]
    """First BEV channel of each stop line, or ABSENT."""
    corridor: Float64[np.ndarray, "p 5"]
    """Dense route: x, y, yaw, room to the left and to the right."""
    commands: Int8[np.ndarray, " p"]
    """Road option of each route point."""
    contacts: Int64[np.ndarray, "c 2"]
    """Collisions that the criteria counted: tick and id of the other."""
    latent: Float32[np.ndarray, "k d"]
    """State of a world model (h, z) at decisions while it was driven; d may be 0."""
    latent_tick: Int32[np.ndarray, " k"]
    """Ticks of these states."""

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.ego)

    @property
    def name(self) -> str:
        """Of the episode: what is resampled in a bootstrap."""
        return str(self.meta["episode"])

    def route(self) -> bev.Corridor:
        """The dense route as the masks need it."""
        return bev.Corridor(self.corridor[:, :3], self.corridor[:, 3], self.corridor[:, 4])


_LAYOUT = Layout(
    format=1,
    arrays={
        "ego": Spec("f8", ("t", 6)),
        "ego_half_m": Spec("f8", (2,)),
        "control": Spec("f4", ("t", 3)),
        "action": Spec("i1", ("t",)),
        "limit_mps": Spec("f4", ("t",)),
        "route_index": Spec("i4", ("t",)),
        "ids": Spec("i8", ("n",)),
        "bodies": Spec("f4", ("t", "n", 8)),
        "shown": Spec("i1", ("t", "n")),
        "signal_box": Spec("f8", ("s", 5)),
        "signal_state": Spec("i1", ("t", "s")),
        "corridor": Spec("f8", ("p", 5)),
        "commands": Spec("i1", ("p",)),
        "contacts": Spec("i8", ("c", 2)),
        "latent": Spec("f4", ("k", "d")),
        "latent_tick": Spec("i4", ("k",)),
    },
    most={"t": 20_000, "n": 2_000, "s": 5_000, "p": 100_000, "c": 20_000, "k": 20_000, "d": 8_192},
    max_file_bytes=64 * 1024**2,
    max_all_bytes=512 * 1024**2,
)


def save(log: EpisodeLog, path: Path) -> None:
    """Write a log, complete or not at all. Raises: OSError, ArrayFileError."""
    arrays = {f.name: getattr(log, f.name) for f in fields(log) if f.name != "meta"}
    npz.write(path, _LAYOUT, arrays, log.meta)


def load(path: Path) -> EpisodeLog:
    """A checked log. Raises: ArrayFileError."""
    arrays, meta = npz.read(path, _LAYOUT)
    for key in META_TEXTS:
        if not isinstance(meta.get(key), str) or not 0 < len(meta[key]) <= 200:
            raise ArrayFileError(f"{path}: metadata {key} is {meta.get(key)!r}, expected a text; record it again")
    log = EpisodeLog(meta=meta, **arrays)
    _check(path, log)
    return log


def _check(path: Path, log: EpisodeLog) -> None:
    def wrong(what: str) -> ArrayFileError:
        return ArrayFileError(f"{path}: {what}; record it again")

    if not log.ticks or not len(log.corridor):
        raise wrong("has no tick or no route")
    if log.shown.size > MAX_CELLS:
        raise wrong(f"{log.shown.size} poses of others, at most {MAX_CELLS} are allowed")
    for name in ("ego", "bodies", "signal_box", "corridor", "latent"):
        values = getattr(log, name)
        if values.size and np.abs(values).max() > FAR_M:
            raise wrong(f"{name} has numbers beyond {FAR_M:g}")
    for name, low, high in (
        ("action", -1, 38),
        ("route_index", 0, len(log.corridor) - 1),
        ("latent_tick", 0, log.ticks - 1),
    ):
        values = getattr(log, name)
        if values.size and (values.min() < low or values.max() > high):
            raise wrong(f"{name} leaves {low} to {high}")
    if not np.isin(log.shown, (ABSENT, *SHOWN)).all() or not np.isin(log.signal_state, (ABSENT, *SIGNALS)).all():
        raise wrong("shown or signal_state names a channel that shows no such thing")
    if min(log.ego_half_m) <= 0.0 or (log.bodies[log.shown != ABSENT][:, HALF_LENGTH:] <= 0.0).any():
        raise wrong("a body has no size")
    if len(set(log.ids.tolist())) != len(log.ids):
        raise wrong("an actor is listed twice")


def keep_map(folder: Path, opendrive: str) -> str:
    """Put a town's OpenDRIVE text beside the logs, once; gives its sha256."""
    data = opendrive.encode()
    digest = hashlib.sha256(data).hexdigest()
    path = folder / MAPS / f"{digest}.xodr"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)
    return digest


def town_map(folder: Path, log: EpisodeLog) -> bev.StaticMap:
    """The static map of a log's town. Raises: ArrayFileError when its OpenDRIVE file is missing or another one."""
    return _static_map(folder / MAPS / f"{log.meta['map_sha256']}.xodr", log.meta["town"], log.meta["map_sha256"])


@lru_cache(maxsize=4)
def _static_map(path: Path, town: str, digest: str) -> bev.StaticMap:
    if not set(digest) <= set("0123456789abcdef"):
        raise ArrayFileError(f"{path}: map_sha256 {digest!r} is no hash; record the log again")
    try:
        if path.stat().st_size > MAX_MAP_BYTES:
            raise ArrayFileError(f"{path}: larger than {MAX_MAP_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ArrayFileError(f"{path}: the map of {town} cannot be read ({error}); copy it beside the logs") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArrayFileError(f"{path}: is not the map that the log was driven on; copy the right one beside the logs")
    return bev.load_static_map(carla.Map(town, data.decode()))


def log_files(folders: Sequence[Path]) -> list[Path]:
    """All logs in some folders, by name. Raises: ArrayFileError if a folder has none."""
    found = []
    for folder in folders:
        own = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        if not own:
            raise ArrayFileError(f"{folder}: no logs (*{SUFFIX}) in it; record some with log-episodes")
        found += own
    return found
