"""What stands in a town and cannot be passed: buildings, trunks, poles, fences, parked cars, as boxes in a grid.

Made from the town's mesh, so that what is solid is what cameras and rays see; kept on disk by itself, so that a server
that draws nothing need not load the mesh.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from simulator.damaged import DAMAGED
from simulator.grid import Grid
from simulator.render import TownSolids, load_or_build, mesh_digest, town_seed
from simulator.towns.town import Town

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scenery:
    """The solid things of a town."""

    solids: TownSolids
    grid: Grid
    """the boxes, for lookups by place"""

    @staticmethod
    def of(solids: TownSolids) -> Scenery:
        return Scenery(solids, Grid.of(solids.boxes))


def load_scenery(town: Town, folder: Path | None = None) -> Scenery:
    """The town's solid things from the cache, or taken from its mesh and stored there.

    An unreadable cache file is replaced.
    """
    seed = town_seed(town.opendrive)
    path = (folder or cache_folder()) / f"{mesh_digest(town.opendrive, seed)}.npz"
    try:
        with np.load(path, allow_pickle=False) as data:
            return Scenery.of(TownSolids(**{f.name: data[f.name] for f in fields(TownSolids)}))
    except FileNotFoundError:
        pass
    except DAMAGED as error:
        log.warning("%s: unreadable cache of solid things (%s); making it again", path, error)
    solids = load_or_build(town.name, town.opendrive, seed).solids
    try:
        _write(path, solids)
    except OSError as error:
        log.warning("%s: cannot store the town's solid things (%s); the next start makes them again", path, error)
    return Scenery.of(solids)


def cache_folder() -> Path:
    """Where solid things are kept: `$XDG_CACHE_HOME/raw2drive/scenery`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "raw2drive" / "scenery"


def _write(path: Path, solids: TownSolids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{f.name: getattr(solids, f.name) for f in fields(TownSolids)})
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
