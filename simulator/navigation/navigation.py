"""A town's navigation: the mesh file for clients, and where sidewalks are raised. Built once per town, kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import carla
import numpy as np

from simulator.damaged import DAMAGED
from simulator.navigation.detour import MeshTooLargeError, encode
from simulator.navigation.polygons import build_mesh
from simulator.navigation.walkable import SIDEWALK, Walkable, survey
from simulator.render.roads import KERB_M
from simulator.towns.town import Town

FORMAT_VERSION: Final = 2
"""Of the cache files, part of their key: to be raised with every change of what is derived."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Navigation:
    """`walkable` is None in a town without sidewalks; `mesh` is empty then, and where it is too large."""

    walkable: Walkable | None
    mesh: bytes

    def kerb_m(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """(n,) height of the sidewalk above the ground at points, 0 elsewhere."""
        if self.walkable is None:
            return np.zeros(len(x_m))
        return np.where(self.walkable.at(x_m, y_m) == SIDEWALK, KERB_M, 0.0)

    def file_name(self, town: str) -> str:
        """Clients keep files by name for ever: another content needs another name."""
        return f"Carla/Maps/Nav/{town}-{hashlib.sha256(self.mesh).hexdigest()[:16]}.bin"


def load_or_build(town: Town, folder: Path | None = None) -> Navigation:
    """The town's navigation from the cache, or built and stored there. An unreadable cache file is replaced."""
    digest = hashlib.sha256(b"%d\n" % FORMAT_VERSION + town.opendrive.encode()).hexdigest()
    path = (folder or cache_folder()) / f"{digest}.npz"
    cached = _read(path)
    if cached is not None:
        return cached
    navigation = build(town)
    try:
        _write(path, navigation)
    except OSError as error:
        log.warning("%s: cannot store the navigation (%s); the next start builds it again", path, error)
    return navigation


def build(town: Town) -> Navigation:
    """The navigation of a town; without a mesh where it has no sidewalks."""
    walkable = survey(carla.Map(town.name, town.opendrive), town.opendrive, town.heights)
    if walkable is None:
        return Navigation(None, b"")
    try:
        return Navigation(walkable, encode(build_mesh(walkable, town.heights)))
    except MeshTooLargeError as error:
        log.warning("%s: %s; walkers cannot be led in this town", town.name, error)
        return Navigation(walkable, b"")


def cache_folder() -> Path:
    """Where navigations are kept: `$XDG_CACHE_HOME/raw2drive/navigation`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "raw2drive" / "navigation"


def _write(path: Path, navigation: Navigation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"mesh": np.frombuffer(navigation.mesh, np.uint8)}
    if navigation.walkable is not None:
        walkable = navigation.walkable
        arrays |= {"origin_m": np.array(walkable.origin_m), "cell_m": np.array(walkable.cell_m)}
        arrays |= {"labels": walkable.labels, "upper": walkable.upper}
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Navigation | None:
    """The stored navigation; None if there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            mesh = data["mesh"].tobytes()
            if "labels" not in data:
                return Navigation(None, mesh)
            x_m, y_m = data["origin_m"].tolist()
            return Navigation(Walkable((x_m, y_m), float(data["cell_m"]), data["labels"], data["upper"]), mesh)
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        log.warning("%s: unreadable navigation (%s); building it again", path, error)
        return None
