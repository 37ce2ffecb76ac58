"""`eval view`: a finished run in a file for rerun; without rerun one line that names the remedy."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.recorder import film_path
from eval.video import Film
from tests.eval.synthetic_moments import moments, record, write_records, write_run

HAS_RERUN = importlib.util.find_spec("rerun") is not None
needs_rerun = pytest.mark.skipif(not HAS_RERUN, reason="rerun-sdk is not installed (extra viewer)")


def view(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["eval", "view", *arguments])
    code = main()
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_without_rerun_one_line_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)  # how Python marks what cannot be imported
    write_run(tmp_path / "run", ("1",))
    code, printed = view(capsys, monkeypatch, str(tmp_path / "run"), "--save", str(tmp_path / "out.rrd"))
    assert code == 2
    assert printed.count("\n") == 1 and ".[viewer]" in printed


@needs_rerun
def test_a_run_is_saved_with_all_that_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "out.rrd"
    write_run(run, ("1", "2"))
    film = Film(film_path(run, "1"))
    for moment in moments(3):
        film(moment)
    film.close()
    code, printed = view(capsys, monkeypatch, str(run), "--save", str(out))
    assert code == 0 and "2 routes written" in printed
    stored = entities(out)
    for name in ("map/lanes", "map/plan", "map/driven", "map/car", "map/infractions", "speed/speed", "speed/limit"):
        assert {f"/route_1/{name}", f"/route_2/{name}"} <= stored
    for name in ("controls/throttle", "controls/brake", "controls/steering", "actions", "infractions", "pictures"):
        assert f"/route_1/{name}" in stored
    assert "/route_1/film" in stored and "/route_2/film" not in stored


def entities(path: Path) -> set[str]:
    """Paths of all entities in a rerun file, as rerun's own tool lists them."""
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-v", str(path)]
    home = {**os.environ, "HOME": str(path.parent)}  # where it would keep settings of its own
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=True, env=home).stdout
    return {word.strip("'\",;:)") for word in listing.split() if word.startswith("/route_")}


@needs_rerun
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--route", "9", "--save", "x.rrd"), "--route 9"),
        (("--save", "missing/x.rrd"), "missing"),
        ((), "--save"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", ("1",))
    code, printed = view(capsys, monkeypatch, str(tmp_path / "run"), *arguments)
    assert code == 2
    assert printed.count("\n") == 1 and words in printed


@needs_rerun
def test_a_run_without_moments_has_nothing_to_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path / "run", [record("1")])
    code, printed = view(capsys, monkeypatch, str(tmp_path / "run"), "--save", str(tmp_path / "x.rrd"))
    assert code == 2 and "no moments" in printed
