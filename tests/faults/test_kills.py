"""The evaluation under fire, for a short while; docs/studies/kills.json has the long one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.kills import KillsConfig, kill_on


def test_kills_cost_no_route_and_count_none_twice(tmp_path: Path) -> None:
    config = KillsConfig(kills=4, routes=2, workers=2, game_s=1.0, pause_s=(0.5, 1.5), seed=5)
    tally = kill_on(config, tmp_path)
    assert tally.victims.total() == 4
    assert (tally.lost, tally.counted_twice, tally.left_behind) == (0, 0, [])
    assert tally.verdicts.total() == 2 * tally.evaluations
