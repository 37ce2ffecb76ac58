"""The action table against the paper's Table 12 and its two repairs."""

import numpy as np

from agent.actions import ACTIONS, BRAKE, COAST, FULL_BRAKE, REVERSE, STEER, THROTTLE


def test_table_has_39_distinct_legitimate_rows() -> None:
    assert ACTIONS.shape == (39, 4)
    assert len(np.unique(ACTIONS, axis=0)) == 39
    assert (ACTIONS[:, [THROTTLE, BRAKE, REVERSE]] >= 0.0).all()
    assert (np.abs(ACTIONS) <= 1.0).all()
    assert not (ACTIONS[:, THROTTLE] * ACTIONS[:, BRAKE]).any()
    assert not ACTIONS.flags.writeable


def test_rows_at_the_borders_of_the_printed_columns() -> None:
    rows = {
        0: (0.0, 0.0, 1.0, 0.0),
        1: (0.7, -0.5, 0.0, 0.0),
        9: (0.7, 0.5, 0.0, 0.0),
        10: (0.3, -0.7, 0.0, 0.0),
        12: (0.3, -0.3, 0.0, 0.0),
        13: (0.3, -0.2, 0.0, 0.0),
        21: (0.0, -1.0, 0.0, 0.0),
        25: (0.0, 0.0, 0.0, 0.0),
        26: (0.0, 0.1, 0.0, 0.0),
        29: (0.0, 1.0, 0.0, 0.0),
        30: (0.5, -0.5, 0.0, 1.0),
        38: (0.5, 0.5, 0.0, 1.0),
    }
    for index, row in rows.items():
        np.testing.assert_allclose(ACTIONS[index], row, atol=1e-7)


def test_braking_and_coasting_exist_once() -> None:
    assert ACTIONS[:, BRAKE].nonzero()[0].tolist() == [FULL_BRAKE]
    idle = (ACTIONS == 0.0).all(axis=1)
    assert idle.nonzero()[0].tolist() == [COAST]
    backwards = ACTIONS[ACTIONS[:, REVERSE] == 1.0]
    np.testing.assert_allclose(backwards[:, STEER], [-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5], atol=1e-7)
