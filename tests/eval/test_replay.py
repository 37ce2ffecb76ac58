"""`eval view`: a finished run in a file for rerun; without rerun one line that names the remedy."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from eval.recorder import film_path
from eval.video import Film
from tests.eval.synthetic_moments import moments, write_run

HAS_RERUN = importlib.util.find_spec("rerun") is not None
needs_rerun = pytest.mark.skipif(not HAS_RERUN, reason="rerun-sdk is not installed (extra viewer)")


def view(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval", "view", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120.0, check=False)


def without_rerun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where rerun cannot be found."""
    code = "import sys; sys.modules['rerun'] = None; import runpy; runpy.run_module('eval', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, "view", *arguments], capture_output=True, text=True, timeout=120.0, check=False
    )


def test_without_rerun_one_line_names_the_extra(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ("1",))
    outcome = without_rerun(str(tmp_path / "run"), "--save", str(tmp_path / "out.rrd"))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 and "raw2drive[viewer]" in outcome.stderr


@needs_rerun
def test_a_run_is_saved_with_all_that_is_known(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.rrd"
    write_run(run, ("1", "2"))
    film = Film(film_path(run, "1"))
    for moment in moments(20):
        film(moment)
    film.close()
    outcome = view(str(run), "--save", str(out))
    assert outcome.returncode == 0, outcome.stderr
    assert "2 routes written" in outcome.stdout
    stored = entities(out)
    for name in ("map/lanes", "map/plan", "map/driven", "map/car", "map/infractions", "speed/speed", "speed/limit"):
        assert {f"/route_1/{name}", f"/route_2/{name}"} <= stored
    for name in ("controls/throttle", "controls/brake", "controls/steering", "actions", "infractions", "pictures"):
        assert f"/route_1/{name}" in stored
    assert "/route_1/film" in stored and "/route_2/film" not in stored


def entities(path: Path) -> set[str]:
    """Paths of all entities in a rerun file, as rerun's own tool lists them."""
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-v", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=True).stdout
    return {word.strip("'\",;:)") for word in listing.split() if word.startswith("/route_")}


@needs_rerun
@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--route", "9"), "--route 9"), (("--save", "missing/x.rrd"), "missing"), ((), "--save")],
)
def test_what_cannot_be_shown_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    write_run(tmp_path / "run", ("1",))
    if arguments and arguments[0] == "--route":
        arguments = (*arguments, "--save", str(tmp_path / "x.rrd"))
    outcome = view(str(tmp_path / "run"), *arguments)
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 and words in outcome.stderr
