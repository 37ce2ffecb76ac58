"""The 39 discrete actions of Raw2Drive (its Table 12), read column by column.

Two rows of the printed table are evident misprints and are repaired here: taken literally no action would brake.
Row 1, printed (0, 0, 1) like the later steer-only action, is full brake; row 26, printed (1, 0, 0), is coasting.
Both stand where the action table of Think2Drive, which this one extends by nine reverse actions, has them.
"""

import numpy as np

THROTTLE, STEER, BRAKE, REVERSE = range(4)
"""Columns of ACTIONS."""

FULL_BRAKE = 0
COAST = 25

_FIRST_COLUMN = (
    (0.0, 0.0, 1.0, 0.0),  # printed with steer 1 instead of brake 1
    *((0.7, steer, 0.0, 0.0) for steer in (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)),
    *((0.3, steer, 0.0, 0.0) for steer in (-0.7, -0.5, -0.3)),
)
_SECOND_COLUMN = (
    *((0.3, steer, 0.0, 0.0) for steer in (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7)),
    *((0.0, steer, 0.0, 0.0) for steer in (-1.0, -0.6, -0.3, -0.1)),
    (0.0, 0.0, 0.0, 0.0),  # printed with throttle 1 instead of 0
)
_THIRD_COLUMN = (
    *((0.0, steer, 0.0, 0.0) for steer in (0.1, 0.3, 0.6, 1.0)),
    *((0.5, steer, 0.0, 1.0) for steer in (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)),
)

ACTIONS: np.ndarray = np.array(_FIRST_COLUMN + _SECOND_COLUMN + _THIRD_COLUMN, dtype=np.float32)
"""(39, 4) float32: throttle 0..1, steer -1..1 in CARLA's sign (+ = right), brake 0..1, reverse 0 or 1."""
ACTIONS.setflags(write=False)
