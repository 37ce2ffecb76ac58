"""What a drawing backend gets: a world that stands still, and what changes from frame to frame.

The CPU backend (`raster`, `shade`, `sprites`) draws from these arrays alone; another one can do the same:

* `StandingWorld.tiles` are static triangles with colour, normal, material and pattern frame per triangle
  (`mesh.TileMesh`), sorted into tiles with bounds and a view distance each; `textures` are grey patterns per material
  with mip levels; `ground` holds the share of the sun and of the street lamps per cell of the land.
* `Frame.bodies.instances` place, bend and colour the body models (`models`); `Frame.bodies.tiles` are the same bodies
  as world triangles for who does not instance.
* `Frame.light` is the light vector (`shade` names its places: sun, sky, horizon, fog, wetness, night); `Frame.beams`
  the head lamps' light per ground cell; `Frame.lamps` the shining lamps; `Frame.bodies.shadows` ground polygons.
* `scene.Camera` and `scene.axes` are the camera: a pinhole without distortion, z along the forward axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.render.mesh import TileMesh
from simulator.render.models import BodyModel
from simulator.render.placement import Bodies
from simulator.render.textures import Textures


@dataclass(frozen=True)
class StandingWorld:
    """What does not change while a town is loaded."""

    tiles: TileMesh
    models: dict[str, BodyModel]
    """Body models by name; `Instances.models` counts them in this order"""
    textures: Textures
    noise: np.ndarray
    """(256, 256) float32 smooth noise for clouds, puddles and large stains"""
    grid_origin_m: np.ndarray
    """(2,) lower corner of the ground grids"""
    grid_cell_m: float


@dataclass(frozen=True)
class Frame:
    """What all views of one frame share."""

    bodies: Bodies
    light: np.ndarray
    """(LIGHT_SIZE,) float64"""
    ground: np.ndarray
    """(nx, ny, 2) uint8: share of the sun, share of the street lamps"""
    beams: np.ndarray
    """(nx, ny) uint8: share of the head lamps"""
    lamps: np.ndarray
    """(n, LAMP_COLUMNS) lamps of traffic lights, street lamps and actors, see `sprites`"""
    wind: float
    """0..1"""
    time_s: float


@dataclass(frozen=True)
class Overlay:
    """What is laid over one view's shaded image, in pixels of it; see `sprites` for the columns."""

    discs: np.ndarray
    """(n, DISC_COLUMNS) lamps and their reflections"""
    halo: float
    """Strength of the lamps' glow"""
    streaks: np.ndarray
    """(n, STREAK_COLUMNS) rain"""
    lean: float
    """Columns that a streak shifts per row"""
    brightness: float
    """Of a streak, 0..255"""
