"""Work goes on when processes die or hang."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.training.flaky_work import work
from training.workers import Done, RefusedError, Told, work_through


def test_all_but_the_deadly_is_done(tmp_path: Path) -> None:
    """A process that dies at one item every time and hangs at another once costs that one item."""
    events = list(work_through(partial(work, tmp_path), [["a", "die", "hang", "b"]], 1, silence_s=8.0, most_attempts=2))
    done = {event.item: event for event in events if isinstance(event, Done)}
    assert list(done) == ["a", "die", "hang", "b"]
    assert [done[item].outcome for item in ("a", "hang", "b")] == [["a", 0], ["hang", 0], ["b", 0]]
    assert done["die"].outcome is None and "exit code 9" in done["die"].lost
    assert any(isinstance(event, Told) and event.status == "begun" for event in events)


def test_what_is_refused_is_told(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no such town"):
        list(work_through(partial(work, tmp_path), [["refuse"]], 1, most_attempts=1))
