"""Where people can walk: a town's sidewalks, crosswalks and roads painted into a raster."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import carla
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from simulator.render.lanes import DRIVABLE, Section, sample_sections
from simulator.render.roads import crosswalk_polygons

NOTHING, SIDEWALK, CROSSWALK, ROAD = 0, 1, 2, 3
"""Labels of the raster."""

CELL_M: Final = 0.25
MAX_CELLS: Final = 24_000_000
"""Larger towns get coarser cells."""
RIM_M: Final = 0.5
"""Half the width of a body and what the mesh's straight edges may cut off."""
CROSSWALK_REACH_M: Final = 3.0
"""Crosswalks end at the kerb or before it; they are continued this far, where sidewalks take over."""
ROAD_REACH_M: Final = 30.0
"""Roads farther from any sidewalk are left out: nobody walks there."""
MARGIN_M: Final = 2.0
CLOSING_M: Final = 0.5
"""Gaps up to twice this wide between sidewalks (at the joints of lanes) are closed."""
LEVEL_GAP_M: Final = 2.5
"""Ground higher than this above other ground is a bridge."""
SMALLEST_PATCH_M2: Final = 4.0
LARGEST_HOLE_M2: Final = 80.0
"""Ground up to this large that no lane of a junction covers is paved all the same."""

_ROADWAY: Final = DRIVABLE | {"shoulder", "median", "curb", "border", "biking"}

Heights = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Ground heights (n,) at x, y (n,) of the level next to z (n,)."""


@dataclass(frozen=True, eq=False)
class Walkable:
    """Labels by position: cell [row, column] covers a square of side cell_m, rows along y from the origin."""

    origin_m: tuple[float, float]
    cell_m: float
    labels: np.ndarray
    """(rows, columns) uint8"""
    upper: np.ndarray
    """(rows, columns) bool: what is walkable here lies on a bridge."""

    def at(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """(n,) labels at points; NOTHING outside."""
        rows, columns, inside = self._cells(x_m, y_m)
        return np.where(inside, self.labels[rows, columns], NOTHING)

    def on_bridge(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """(n,) bool at points."""
        rows, columns, inside = self._cells(x_m, y_m)
        return self.upper[rows, columns] & inside

    def narrowed(self) -> Walkable:
        """The same with a rim of sidewalks and crosswalks given to what lies beside them.

        Who walks along the border of the rest is inside with the whole body.
        """
        labels = self.labels
        for _ in range(max(1, round(RIM_M / self.cell_m))):
            walk = (labels == SIDEWALK) | (labels == CROSSWALK)
            result = labels.copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                beside = np.roll(labels, step, axis)
                rim = walk & ~np.roll(walk, step, axis)
                result[rim] = beside[rim]
            labels = result
        return Walkable(self.origin_m, self.cell_m, _without_specks(labels, self.cell_m), self.upper)

    def _cells(self, x_m: np.ndarray, y_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        column = np.floor((x_m - self.origin_m[0]) / self.cell_m).astype(np.int64)
        row = np.floor((y_m - self.origin_m[1]) / self.cell_m).astype(np.int64)
        height, width = self.labels.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return np.where(inside, row, 0), np.where(inside, column, 0), inside


def survey(town_map: carla.Map, opendrive: str, heights: Heights) -> Walkable | None:
    """The walkable raster of a town, None where it has no sidewalks."""
    sections = sample_sections(town_map, ET.fromstring(opendrive))
    sidewalks = _strips(sections, frozenset({"sidewalk"}))
    if not sidewalks:
        return None
    canvas = _Canvas.over(np.concatenate(sidewalks))
    roads = _strips(sections, _ROADWAY)
    inner = _strips([section for section in sections if section.in_junction], DRIVABLE)
    upper = canvas.paint(list(_bridges(sidewalks, heights)))
    sidewalk = canvas.paint(_on_level(sidewalks, upper, canvas, heights))
    road = canvas.paint(_on_level(roads, upper, canvas, heights))
    crossing = canvas.paint([_lengthened(polygon[:, :2]) for polygon in crosswalk_polygons(town_map)])
    # Sidewalks of turning lanes may lead across other lanes of their junction.
    sidewalk &= ~canvas.paint(_on_level(inner, upper, canvas, heights))
    sidewalk |= _closed(sidewalk, canvas.cell_m) & ~road
    labels = np.zeros(sidewalk.shape, np.uint8)
    labels[road & _near(sidewalk, canvas.cell_m)] = ROAD
    labels[crossing] = CROSSWALK
    labels[sidewalk] = SIDEWALK
    labels = _without_holes(_without_specks(labels, canvas.cell_m), canvas.cell_m)
    return Walkable(canvas.origin_m, canvas.cell_m, labels, upper)


@dataclass(frozen=True)
class _Canvas:
    origin_m: tuple[float, float]
    cell_m: float
    size: tuple[int, int]
    """Columns, rows."""

    @classmethod
    def over(cls, quads: np.ndarray) -> _Canvas:
        low = quads[..., :2].min(axis=(0, 1)) - ROAD_REACH_M - MARGIN_M
        extent = quads[..., :2].max(axis=(0, 1)) + ROAD_REACH_M + MARGIN_M - low
        cell_m = max(CELL_M, math.sqrt(extent[0] * extent[1] / MAX_CELLS))
        columns, rows = (math.ceil(side / cell_m) for side in extent)
        return cls((float(low[0]), float(low[1])), cell_m, (columns, rows))

    def paint(self, polygons: list[np.ndarray]) -> np.ndarray:
        """(rows, columns) bool, True where one of the polygons (n, 2 or 3) or stacks of them (k, n, 2 or 3) lies."""
        image = Image.new("1", self.size)
        pen = ImageDraw.Draw(image)
        for polygon in polygons:
            cells = (polygon[..., :2] - self.origin_m) / self.cell_m - 0.5
            for corners in cells.reshape(-1, *cells.shape[-2:]):
                pen.polygon(corners.ravel().tolist(), fill=1)
        return np.array(image)


def _strips(sections: list[Section], kinds: frozenset[str]) -> list[np.ndarray]:
    """Quads (k, 4, 3) along each lane of the given types."""
    strips = []
    for section in sections:
        for k, kind in enumerate(section.lane_types):
            if kind in kinds:
                a, b = section.boundaries[k], section.boundaries[k + 1]
                strips.append(np.stack([a[:-1], a[1:], b[1:], b[:-1]], axis=1))
    return strips


def _bridges(strips: list[np.ndarray], heights: Heights) -> Iterator[np.ndarray]:
    """The quads that lie above other ground."""
    for quads in strips:
        x, y, z = quads.mean(axis=1).T
        yield quads[z - heights(x, y, np.full(len(x), -np.inf)) > LEVEL_GAP_M]


def _on_level(strips: list[np.ndarray], upper: np.ndarray, canvas: _Canvas, heights: Heights) -> list[np.ndarray]:
    """The quads on the walkable one of two levels: the ground, but the bridge where that has the sidewalk."""
    raster = Walkable(canvas.origin_m, canvas.cell_m, upper, upper)
    kept = []
    for quads in strips:
        x, y, z = quads.mean(axis=1).T
        low = heights(x, y, np.full(len(x), -np.inf))
        high = heights(x, y, np.full(len(x), np.inf))
        on_bridge = z - low > LEVEL_GAP_M
        wanted = raster.on_bridge(x, y) & (high - low > LEVEL_GAP_M)
        kept.append(quads[on_bridge == wanted])
    return kept


def _lengthened(polygon: np.ndarray) -> np.ndarray:
    """A crosswalk continued at both of its ends, which are those of its longer axis."""
    centre = polygon.mean(axis=0)
    sides = np.roll(polygon, -1, axis=0) - polygon
    longest = sides[np.linalg.norm(sides, axis=1).argmax()]
    axis = longest / max(float(np.linalg.norm(longest)), 1e-6)
    along = (polygon - centre) @ axis
    return polygon + np.sign(along)[:, None] * CROSSWALK_REACH_M * axis


def _closed(mask: np.ndarray, cell_m: float) -> np.ndarray:
    return np.asarray(ndimage.binary_closing(mask, iterations=max(1, round(CLOSING_M / cell_m))), bool)


def _near(mask: np.ndarray, cell_m: float) -> np.ndarray:
    """What lies within ROAD_REACH_M of the mask, to the metre."""
    step = max(1, round(1.0 / cell_m))
    rows, columns = (math.ceil(side / step) for side in mask.shape)
    padded = np.pad(mask, ((0, rows * step - mask.shape[0]), (0, columns * step - mask.shape[1])))
    coarse = padded.reshape(rows, step, columns, step).any(axis=(1, 3))
    distance = np.asarray(ndimage.distance_transform_edt(~coarse)) * step * cell_m
    near = (distance < ROAD_REACH_M).repeat(step, axis=0).repeat(step, axis=1)
    return near[: mask.shape[0], : mask.shape[1]]


def _patches(mask: np.ndarray, cell_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of the connected patch that each cell belongs to (0: none), and the area of each patch in m2."""
    patches = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=patches)
    return patches, np.bincount(patches.ravel()) * cell_m**2


def _without_specks(labels: np.ndarray, cell_m: float) -> np.ndarray:
    """Labels without connected patches of a few cells."""
    result = labels.copy()
    for label in (SIDEWALK, CROSSWALK, ROAD):
        patches, sizes_m2 = _patches(labels == label, cell_m)
        result[(patches > 0) & (sizes_m2 < SMALLEST_PATCH_M2)[patches]] = NOTHING
    return result


def _without_holes(labels: np.ndarray, cell_m: float) -> np.ndarray:
    """Labels with small unlabelled patches taken for road."""
    patches, sizes_m2 = _patches(labels == NOTHING, cell_m)
    return np.where((patches > 0) & (sizes_m2 < LARGEST_HOLE_M2)[patches], ROAD, labels).astype(np.uint8)
