"""The static part of a town as tiles and ground grids, built once per OpenDRIVE text and seed and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import carla
import numpy as np
from scipy.spatial import KDTree

from simulator import labels
from simulator.damaged import DAMAGED
from simulator.render import arrows, buildings, passages, plants, roads, scenery, street, terrain
from simulator.render.lanes import DRIVABLE, PAVED, sample_sections
from simulator.render.mesh import MeshBuilder, TileMesh, TownObjects, TownSolids
from simulator.render.models import build_models
from simulator.render.signals import SignalLamps, add_signals

FORMAT_VERSION = 23
"""Raise it whenever the meshes or their file layout change."""

CACHE_FILES = 120
"""Meshes kept on disk, 3 to 15 MB each; the least recently used go first."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TownMesh:
    """Static triangles, traffic light lamps, and two grids over the ground."""

    tiles: TileMesh
    lamps: SignalLamps
    grid_origin_m: np.ndarray
    """(2,) lower corner of the grids"""
    grid_cell_m: np.ndarray
    """() side of a grid cell"""
    obstacle_height_m: np.ndarray
    """(nx, ny) float32, heights that cast shadows"""
    street_light: np.ndarray
    """(nx, ny) uint8"""
    street_lamps: np.ndarray
    """(k, 3) positions"""
    objects: TownObjects
    solids: TownSolids
    left_out: np.ndarray
    """(k, 3) float32: CityObjectLabel, x and y of what would have stood in the way"""


_PLAIN_FIELDS = ("grid_origin_m", "grid_cell_m", "obstacle_height_m", "street_light", "street_lamps", "left_out")


def cache_folder() -> Path:
    """Where meshes are kept: `$XDG_CACHE_HOME/raw2drive/render`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "raw2drive" / "render"


def town_seed(opendrive: str) -> int:
    """The usual choice of how a town's buildings and plants look."""
    return int.from_bytes(hashlib.sha256(opendrive.encode()).digest()[:4], "little")


def mesh_digest(opendrive: str, seed: int) -> str:
    """What tells this mesh from all others, those of earlier formats included."""
    return hashlib.sha256(f"{FORMAT_VERSION}:{seed}:{opendrive}".encode()).hexdigest()


def load_or_build(name: str, opendrive: str, seed: int, folder: Path | None = None) -> TownMesh:
    """The town's mesh from the cache, or built and stored there. An unreadable cache file is replaced."""
    path = (folder or cache_folder()) / f"{mesh_digest(opendrive, seed)}.npz"
    if path.is_file():
        try:
            town = _read(path)
            with contextlib.suppress(OSError):  # a read-only cache serves as well
                path.touch()
            return town
        except DAMAGED as error:
            _LOG.warning("%s: unreadable mesh cache (%s); building it again", path, error)
    town = build(carla.Map(name, opendrive), opendrive, seed)
    try:
        _write(path, town)
        _prune(path.parent)
    except OSError as error:
        _LOG.warning("%s: cannot store the mesh (%s); the next start builds it again", path, error)
    return town


def build(carla_map: carla.Map, opendrive: str, seed: int) -> TownMesh:
    """All static geometry of a town; `seed` chooses how its buildings and plants look."""
    rng = np.random.default_rng(seed)
    style = scenery.TownStyle.draw(rng)
    root = ET.fromstring(opendrive)
    sections = sample_sections(carla_map, root)
    if not sections:
        raise ValueError("the OpenDRIVE text has no lane that carla.Map can sample; check that it is a road network")
    every_kind = frozenset(kind for section in sections for kind in section.lane_types)
    fill = roads.junction_fill(sections)
    land = terrain.survey(roads.surface_points(sections, every_kind, 0.8), roads.quad_points(fill))
    inside = roads.surface_points([s for s in sections if s.in_junction], DRIVABLE, 0.8)
    crosswalks = roads.crosswalk_polygons(carla_map)

    mesh = MeshBuilder()
    mesh.label = labels.SIDEWALKS
    roads.add_surfaces(mesh, sections, roads.point_index(inside), style.asphalt)
    roads.add_markings(mesh, sections)
    roads.add_junction_fill(mesh, fill, style.asphalt)
    roads.add_crosswalks(mesh, crosswalks, land)
    arrows.add_arrows(mesh, carla_map, root)
    mesh.label = labels.POLES
    edges, kerbs = scenery.frontages(sections), scenery.kerbs(sections)
    room = passages.Passages(sections, edges)
    lamps = add_signals(mesh, carla_map, root, land, crosswalks, room)
    mesh.label = labels.BRIDGE
    terrain.add_terrain(mesh, land, style.grass)
    terrain.add_verges(mesh, sections, land, style.grass)
    terrain.add_bridges(mesh, sections, land, room)
    mesh.label, mesh.room = labels.STATIC, room
    obstacles, models = scenery.Obstacles(land), build_models()
    buildings.add_buildings(mesh, edges, obstacles, style, rng)
    street.add_parked_cars(mesh, edges, obstacles, style, models, rng)
    plants.add_trees(mesh, edges, obstacles, style, rng)
    street.add_furniture(mesh, edges, obstacles, models, rng)
    mesh.label = labels.FENCES
    street.add_fences(mesh, edges, obstacles, style, rng)
    with mesh.labelled(labels.GUARD_RAIL):
        street.add_guard_rails(mesh, edges, land, room)
    plants.add_bushes(mesh, edges, obstacles, style, rng)
    roadway = KDTree(roads.surface_points(sections, PAVED, 0.8)[:, :2])
    street_lamps = street.add_street_lamps(mesh, kerbs, roadway)
    return TownMesh(
        tiles=mesh.pack(),
        lamps=lamps,
        grid_origin_m=land.origin_m,
        grid_cell_m=np.array(terrain.CELL_M),
        obstacle_height_m=obstacles.height_m,
        street_light=street.lamp_pools(street_lamps, land),
        street_lamps=street_lamps,
        objects=mesh.objects(),
        solids=mesh.solids(),
        left_out=np.array(mesh.left_out, np.float32).reshape(-1, 3),
    )


def _write(path: Path, town: TownMesh) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lamps = {f.name: np.asarray(getattr(town.lamps, f.name)) for f in fields(SignalLamps)}
    lamps["signal_ids"] = np.array(town.lamps.signal_ids, dtype="U64")
    arrays: dict[str, Any] = {f"tiles_{key}": value for key, value in town.tiles.arrays().items()}
    arrays |= {"objects_labels": town.objects.labels, "objects_boxes": town.objects.boxes}
    arrays |= {f"solids_{f.name}": getattr(town.solids, f.name) for f in fields(TownSolids)}
    arrays |= {f"lamps_{key}": value for key, value in lamps.items()}
    arrays |= {key: np.asarray(getattr(town, key)) for key in _PLAIN_FIELDS}
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> TownMesh:
    with np.load(path, allow_pickle=False) as data:
        lamps = {f.name: data[f"lamps_{f.name}"] for f in fields(SignalLamps)}
        lamps["signal_ids"] = tuple(str(i) for i in lamps["signal_ids"])
        return TownMesh(
            tiles=TileMesh(**{f.name: data[f"tiles_{f.name}"] for f in fields(TileMesh)}),
            lamps=SignalLamps(**lamps),
            objects=TownObjects(data["objects_labels"], data["objects_boxes"]),
            solids=TownSolids(**{f.name: data[f"solids_{f.name}"] for f in fields(TownSolids)}),
            **{key: data[key] for key in _PLAIN_FIELDS},
        )


def _prune(folder: Path) -> None:
    """Delete the least recently used meshes beyond `CACHE_FILES`."""
    meshes = {path: path.stat().st_mtime for path in folder.glob("*.npz")}
    for path in sorted(meshes, key=meshes.__getitem__)[:-CACHE_FILES]:
        path.unlink(missing_ok=True)
