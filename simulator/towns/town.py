"""A town as the server needs it: spawn points, lights, stop signs, ground; own towns and OpenDRIVE files, cached."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from simulator.damaged import DAMAGED
from simulator.orphan import PARENT_VARIABLE
from simulator.towns.catalogue import FAMILIES, GRID_FAMILY, generate_town, own_town, town_name, training_towns
from simulator.towns.ground import GroundGrid

Pose = tuple[float, float, float, float, float, float]
"""x, y, z in metres, pitch, yaw, roll in degrees, CARLA's frame."""

FORMAT_VERSION = 7
"""Of the cache files, part of their key: to be raised with every change of what is derived."""
LAYERED: Final = "_Opt"
"""End of the name of a CARLA town whose layers can be unloaded."""

MAX_BYTES = 64 * 1024 * 1024
"""Largest OpenDRIVE file that is read."""
DERIVE_TIMEOUT_S = 300.0
GRID_TOWNS_LISTED = 12
"""Any seed can be loaded; of the grid towns this many are listed, of the others those for training."""
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class TownError(Exception):
    """A town that does not exist or an OpenDRIVE file that cannot be used."""


class TriggerBox(NamedTuple):
    """A box in the frame of its actor's transform: centre and half sizes in metres."""

    centre_m: tuple[float, float, float]
    extent_m: tuple[float, float, float]


class StopPoint(NamedTuple):
    """Where a vehicle on one lane has to stop, as the client's `get_stop_waypoints` finds it."""

    x_m: float
    y_m: float
    yaw_deg: float
    road_id: int
    lane_id: int


@dataclass(frozen=True)
class TrafficLight:
    """One light; the transform stands on the ground with yaw = heading of its lanes + 90, lamps face local +y.

    `group` is its junction, `phase` its place in the junction's sequence: lights of one phase are green together.
    """

    opendrive_id: str
    transform: Pose
    trigger_box: TriggerBox
    group: int
    phase: int
    stop_points: tuple[StopPoint, ...]


@dataclass(frozen=True)
class StopSign:
    """One stop sign; its transform as that of a light, its box lies on the lane before the stop line."""

    opendrive_id: str
    transform: Pose
    trigger_box: TriggerBox


@dataclass(frozen=True, eq=False)
class Town:
    """A loaded town; `opendrive` is the text to be sent to clients."""

    name: str
    opendrive: str
    spawn_points: tuple[Pose, ...]
    lights: tuple[TrafficLight, ...]
    stop_signs: tuple[StopSign, ...]
    ground: GroundGrid

    def heights(self, x_m: np.ndarray, y_m: np.ndarray, near_z_m: np.ndarray | None = None) -> np.ndarray:
        """(n,) ground height at (n,) points, NaN where there is none; near_z_m picks the level at bridges."""
        return self.ground.heights(x_m, y_m, near_z_m)

    def speed_limits_kmh(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """(n,) speed limit at (n,) points.

        A road's limit counts where its file gives it in km/h, as own towns do. CARLA's own files carry design speeds
        in mph, which CARLA's server ignores too: there the limit is CARLA's 30 km/h of a vehicle that met no sign.
        """
        return self.ground.speed_limits_kmh(x_m, y_m)


def available_towns(town_dir: Path | None = None) -> list[str]:
    """Names for load_town: own towns and the files of town_dir, a folder of .xodr files or CARLA's Maps folder."""
    own = [town_name(GRID_FAMILY, seed) for seed in range(1, GRID_TOWNS_LISTED + 1)]
    own += [name for name in training_towns() if name not in own]
    return own + [name for name in _town_files(town_dir) if name not in own]


def _town_files(town_dir: Path | None) -> dict[str, Path]:
    if town_dir is None:
        return {}
    paths = [path for layout in ("*/OpenDrive", "OpenDrive", ".") for path in town_dir.glob(f"{layout}/*.xodr")]
    return dict(sorted((path.stem, path) for path in paths))  # of the same name that nearest to the folder


def load_town(name_or_path: str, town_dir: Path | None = None) -> Town:
    """The own town of this name (family and seed), the file <name>.xodr of town_dir (or where CARLA keeps it in its
    Maps folder), or the .xodr file at a path. `Town05_Opt`, CARLA's layered variant, has the roads of `Town05`.

    Raises: TownError for an unknown town or a file that is too large, malformed or unusable.
    """
    if own_town(name_or_path) is not None:
        return town_from_text(name_or_path, generate_town(name_or_path))
    path = Path(name_or_path)
    if path.suffix != ".xodr":
        files = _town_files(town_dir)
        stem = name_or_path if name_or_path in files else name_or_path.removesuffix(LAYERED)
        if stem not in files:
            raise TownError(
                f"there is no town {name_or_path!r}; there are {', '.join(available_towns(town_dir))}, other two-digit "
                f"seeds of {', '.join((GRID_FAMILY, *FAMILIES))}, and the .xodr files of --town-dir "
                f"({town_dir or 'not given'})"
            )
        return town_from_text(name_or_path, _read(files[stem]))
    return town_from_text(path.stem, _read(path))


def town_from_text(name: str, opendrive: str) -> Town:
    """The town of an OpenDRIVE text.

    Raises: TownError for a text that is too large, malformed or unusable.
    """
    data = opendrive.encode()
    if len(data) > MAX_BYTES:
        raise TownError(f"{name}: {len(data) >> 20} MiB of OpenDRIVE, at most {MAX_BYTES >> 20} MiB are read")
    key = hashlib.sha256(b"%d\n" % FORMAT_VERSION + data).hexdigest()
    cached = cache_dir() / f"{key}.npz"
    town = _load_cached(name, cached)
    if town is None:
        _derive(name, data, cached)
        town = _load_cached(name, cached)
    if town is None:
        raise TownError(f"{name}: the cache file {cached} just written cannot be read; delete it and try again")
    return town


def cache_dir() -> Path:
    """Where derived data of towns is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "raw2drive" / "towns"


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise TownError(f"{path}: {size >> 20} MiB, at most {MAX_BYTES >> 20} MiB are read")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TownError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise TownError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _derive(name: str, data: bytes, target: Path) -> None:
    """Derive a town's data in a process of its own: CARLA's map code crashes on some malformed files."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TownError(f"{name}: the cache folder {target.parent} cannot be made ({error.strerror})") from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".deriving-") as folder:
        result = Path(folder) / "town.npz"
        command = [sys.executable, "-m", "simulator.towns.derive", str(result)]
        environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}  # it ends with this process, not with our parent
        try:
            run = subprocess.run(
                command, input=data, capture_output=True, cwd=PACKAGE_PARENT, timeout=DERIVE_TIMEOUT_S, check=False,
                env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise TownError(f"{name}: not understood within {DERIVE_TIMEOUT_S:.0f} s; is the file a town?") from error
        if run.returncode == 0 and result.is_file():
            result.replace(target)
            return
    if run.returncode < 0:
        reason = f"CARLA's map code ends with {signal.Signals(-run.returncode).name} on this file; its links are broken"
    else:
        reason = (run.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    raise TownError(f"{name}: {reason}")


def _load_cached(name: str, path: Path) -> Town | None:
    """The cached town, None if there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
            opendrive = arrays["opendrive"].tobytes().decode()
            ground = GroundGrid(tuple(facts["origin_m"]), arrays["low_m"], arrays["high_m"], arrays["limit_kmh"])
    except DAMAGED:
        return None
    return Town(
        name, opendrive, tuple(tuple(pose) for pose in facts["spawn_points"]),
        tuple(_light(entry) for entry in facts["lights"]), tuple(_sign(entry) for entry in facts["stop_signs"]), ground,
    )  # fmt: skip


def _light(entry: dict[str, Any]) -> TrafficLight:
    sign = _sign(entry)
    stops = tuple(StopPoint(*stop) for stop in entry["stop_points"])
    return TrafficLight(sign.opendrive_id, sign.transform, sign.trigger_box, entry["group"], entry["phase"], stops)


def _sign(entry: dict[str, Any]) -> StopSign:
    centre_m, extent_m = entry["trigger_box"]
    return StopSign(entry["opendrive_id"], tuple(entry["transform"]), TriggerBox(tuple(centre_m), tuple(extent_m)))
