"""Ground height and speed limit by position: a raster of the lanes, read by a compiled bilinear lookup."""

from dataclasses import dataclass

import numba
import numpy as np

CELL_M = 1.0
REACH_CELLS = 25
"""The raster is continued this far beyond the outermost lane; farther out there is no ground (NaN)."""
LAYER_GAP_M = 2.5
"""Two lanes over one cell farther apart than this are a bridge and the road below it."""
MAX_CELLS = 60_000_000
DEFAULT_LIMIT_KMH = 30
"""What a CARLA vehicle obeys before it has met a speed limit sign."""


@dataclass(frozen=True, eq=False)
class LaneSamples:
    """Points on lanes in CARLA's frame: x, y, z in metres, slope dz/dx and dz/dy, speed limit; each (n,)."""

    x_m: np.ndarray
    y_m: np.ndarray
    z_m: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    limit_kmh: np.ndarray


@dataclass(frozen=True, eq=False)
class GroundGrid:
    """Raster with the centre of cell [0, 0] at the origin; rows run along y.

    `low_m` and `high_m` (rows, columns) float32 differ only under bridges; NaN where there is no ground.
    `limit_kmh` (rows, columns) uint8.
    """

    origin_m: tuple[float, float]
    low_m: np.ndarray
    high_m: np.ndarray
    limit_kmh: np.ndarray

    def heights(self, x_m: np.ndarray, y_m: np.ndarray, near_z_m: np.ndarray | None = None) -> np.ndarray:
        """(n,) height in metres at (n,) points, NaN off the raster.

        Where roads cross at two levels: the one nearer to near_z_m (n,), without it the upper one.
        """
        near = np.full(len(x_m), np.inf) if near_z_m is None else np.asarray(near_z_m, np.float64)
        x_m, y_m = np.asarray(x_m, np.float64), np.asarray(y_m, np.float64)
        return _heights(self.low_m, self.high_m, *self.origin_m, x_m, y_m, near)

    def speed_limits_kmh(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """(n,) speed limit at (n,) points; off the raster DEFAULT_LIMIT_KMH."""
        return _limits(self.limit_kmh, *self.origin_m, np.asarray(x_m, np.float64), np.asarray(y_m, np.float64))


@numba.njit(cache=True)
def _heights(low, high, x0, y0, x_m, y_m, near_m):
    rows, columns = low.shape
    result = np.full(x_m.shape[0], np.nan)
    for i in range(x_m.shape[0]):
        u, v = (x_m[i] - x0) / CELL_M, (y_m[i] - y0) / CELL_M
        if not (0.0 <= u < columns - 1 and 0.0 <= v < rows - 1):
            continue
        column, row = int(u), int(v)
        fu, fv = u - column, v - row
        nearest_row, nearest_column = row + int(fv + 0.5), column + int(fu + 0.5)
        level = high[nearest_row, nearest_column]
        if near_m[i] != np.inf:
            other = low[nearest_row, nearest_column]
            if abs(other - near_m[i]) < abs(level - near_m[i]):
                level = other
        total, weight = 0.0, 0.0
        for dr in range(2):
            for dc in range(2):
                z = high[row + dr, column + dc]
                if abs(low[row + dr, column + dc] - level) < abs(z - level):
                    z = low[row + dr, column + dc]
                if abs(z - level) < LAYER_GAP_M:  # not the ground below a bridge's edge, and not NaN
                    w = (fv if dr else 1.0 - fv) * (fu if dc else 1.0 - fu)
                    total += w * z
                    weight += w
        if weight > 0.0:
            result[i] = total / weight
    return result


@numba.njit(cache=True)
def _limits(limit, x0, y0, x_m, y_m):
    rows, columns = limit.shape
    result = np.full(x_m.shape[0], float(DEFAULT_LIMIT_KMH))
    for i in range(x_m.shape[0]):
        u, v = (x_m[i] - x0) / CELL_M + 0.5, (y_m[i] - y0) / CELL_M + 0.5
        if 0.0 <= u < columns and 0.0 <= v < rows:
            result[i] = limit[int(v), int(u)]
    return result


def rasterise(samples: LaneSamples) -> GroundGrid:
    """The raster of sampled lanes, continued outwards.

    Raises: ValueError if the lanes extend over more than MAX_CELLS square metres.
    """
    x0, y0 = (np.floor(axis.min() / CELL_M) * CELL_M - REACH_CELLS * CELL_M for axis in (samples.x_m, samples.y_m))
    columns, rows = (
        int((axis.max() - start) / CELL_M) + REACH_CELLS + 2 for axis, start in ((samples.x_m, x0), (samples.y_m, y0))
    )
    if rows * columns > MAX_CELLS:
        raise ValueError(
            f"the roads extend over {columns} m x {rows} m; at most {MAX_CELLS / 1e6:.0f} km^2 are supported"
        )
    column = np.rint((samples.x_m - x0) / CELL_M).astype(np.int64)
    row = np.rint((samples.y_m - y0) / CELL_M).astype(np.int64)
    at_centre_m = samples.z_m + samples.slope_x * (x0 + column * CELL_M - samples.x_m)
    at_centre_m += samples.slope_y * (y0 + row * CELL_M - samples.y_m)
    cell, count = row * columns + column, rows * columns
    lowest, highest = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(lowest, cell, at_centre_m)
    np.maximum.at(highest, cell, at_centre_m)
    limit = np.zeros(count, np.uint8)
    np.maximum.at(limit, cell, samples.limit_kmh.astype(np.uint8))
    low = _level_mean(cell, at_centre_m, lowest, count).reshape(rows, columns)
    high = _level_mean(cell, at_centre_m, highest, count).reshape(rows, columns)
    low, high, limit = _continued(low, high, limit.reshape(rows, columns))
    return GroundGrid(
        (float(x0), float(y0)), low, high, np.where(limit == 0, DEFAULT_LIMIT_KMH, limit).astype(np.uint8)
    )


def _level_mean(cell: np.ndarray, z_m: np.ndarray, level_m: np.ndarray, count: int) -> np.ndarray:
    """Mean height per cell of the samples that belong to the given level, NaN where there are none."""
    mine = np.abs(z_m - level_m[cell]) < LAYER_GAP_M
    total = np.bincount(cell[mine], z_m[mine], count)
    number = np.bincount(cell[mine], minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def _continued(low: np.ndarray, high: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The layers with empty cells filled from their nearest neighbours, ring by ring."""
    for _ in range(REACH_CELLS):
        empty = np.isnan(low)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            source = np.roll(low, step, axis)
            take = empty & np.isnan(low) & ~np.isnan(source)
            low = np.where(take, source, low)
            high = np.where(take, np.roll(high, step, axis), high)
            limit = np.where(take, np.roll(limit, step, axis), limit)
    return low, high, limit
