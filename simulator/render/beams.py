"""Head lamps' light on the ground, stamped into a grid that the shading reads."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

HALF_ANGLE_TAN = 0.36
"""Of the cone that a pair of head lamps lights."""

HALF_WIDTH_M = 1.0
"""Of the cone at the car's nose."""


@nb.njit(nogil=True, cache=True)
def stamp(beams, origin, cell_m, grid):
    """Write the light of head lamps (n, 5: x, y, heading x, heading y, reach) into `grid` (nx, ny) uint8."""
    grid[:] = 0
    nx, ny = grid.shape
    for n in range(len(beams)):
        x, y, ux, uy, reach = beams[n]
        i0, i1 = int((x - reach - origin[0]) / cell_m), int((x + reach - origin[0]) / cell_m)
        j0, j1 = int((y - reach - origin[1]) / cell_m), int((y + reach - origin[1]) / cell_m)
        for i in range(max(0, i0), min(nx - 1, i1) + 1):
            for j in range(max(0, j0), min(ny - 1, j1) + 1):
                dx = origin[0] + (i + 0.5) * cell_m - x
                dy = origin[1] + (j + 0.5) * cell_m - y
                ahead = dx * ux + dy * uy
                if ahead < -0.5 or ahead > reach:
                    continue
                aside = abs(dy * ux - dx * uy) / (HALF_WIDTH_M + HALF_ANGLE_TAN * max(ahead, 0.0))
                if aside >= 1.0:
                    continue
                fall = 1.0 - ahead / reach
                strength = min(1.0, 0.25 + 0.25 * max(ahead, 0.0)) * math.sqrt(fall) * fall * (1.0 - aside * aside)
                grid[i, j] = np.uint8(min(255.0, grid[i, j] + 255.0 * strength))
