"""Towns are derived in a process of their own, whoever started the server."""

from pathlib import Path

import pytest

from simulator.orphan import PARENT_VARIABLE
from simulator.towns.town import load_town


def test_a_town_is_derived_under_a_server_that_somebody_else_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(PARENT_VARIABLE, "1")  # as a runner tells its server; the deriving process has another parent
    assert load_town("Gen01", None).spawn_points
    assert list((tmp_path / "raw2drive" / "towns").glob("*.npz"))
