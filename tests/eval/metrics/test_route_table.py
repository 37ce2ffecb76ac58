"""Official and own results of the same routes, drive by drive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.criteria import Event
from eval.metrics.records import read_files
from eval.metrics.route_table import pair_routes
from eval.results import ResultsFolder, RouteRecord, judge
from eval.scoring import Infraction, Scoring
from tests.eval.metrics.synthetic import record, write

COLLISION = "Agent collided against object with type=vehicle.audi.tt and id=7 at (x=1.0, y=2.0, z=0.0)"
RULES = Scoring.BENCH2DRIVE


def own(route_id: str, completion: float, *kinds: Infraction) -> RouteRecord:
    events = [Event(kind, 10, 0.5, (1.0, 2.0, 3.0), "text") for kind in kinds]
    return RouteRecord(
        route_id=route_id, town="Town12", scoring=RULES, **judge(completion, events, RULES, None),
        route_length_m=1000.0, duration_game_s=60.0, duration_system_s=30.0, ticks=1200, seed=0, traffic=15,
        provenance={"server": "embedded"},
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """An official file of four routes and a run of our own of three, two of them with another verdict."""
    official = write(
        tmp_path / "official.json",
        [
            record("1"),
            record("2", 100.0, 0.6, collisions_vehicle=[COLLISION]),
            record("3", 40.0, status="Failed - Agent got blocked", vehicle_blocked=["Agent got blocked"]),
            record("4"),
        ],
    )
    folder = ResultsFolder(tmp_path / "own", {"seed": 0})
    folder.append(own("1", 100.0))
    folder.append(own("2", 100.0))
    folder.append(own("3", 55.0, Infraction.RED_LIGHT, Infraction.RED_LIGHT))
    return official, tmp_path / "own"


def test_each_shared_drive_is_told_with_its_differences(runs: tuple[Path, Path]) -> None:
    pairs = {pair.key[0]: pair for pair in pair_routes(*read_files(runs))}
    assert set(pairs) == {"1", "2", "3"}
    assert pairs["1"].agrees and not pairs["2"].agrees and not pairs["3"].agrees
    assert pairs["2"].score_percent == pytest.approx(40.0) and pairs["2"].completion_percent == 0.0
    assert pairs["2"].first.infractions == {"collisions_vehicle": 1} and not pairs["2"].second.infractions
    assert pairs["3"].completion_percent == pytest.approx(15.0)
    assert pairs["3"].second.infractions == {"red_light": 2}
    assert [pair.key[0] for pair in pair_routes(*read_files(runs))] == ["2", "3", "1"]


def test_the_command_prints_and_writes_the_table(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["eval", "compare", *map(str, runs), "--resamples", "10", *arguments])
        return main()

    file = tmp_path / "table.md"
    assert run("--per-route", "--table", str(file)) == 0
    assert "1 of 3 drives have the same verdict" in capsys.readouterr().out
    rows = [line for line in file.read_text().splitlines() if line.startswith("| ")]
    assert "| 2 | Town12 | Accident | 60.0 | 100.0 | +40.0 | 100.0 | 100.0 | +0.0 |" in rows[2]
    assert "red light 0 / 2" in file.read_text() and "collisions vehicle 1 / 0" in rows[2]
    assert rows[-1].startswith("| mean |  |  | 66.7 | 75.6 | +9.0 |")

    assert run("--per-route", "--json") == 0
    drives = json.loads(capsys.readouterr().out)["drives"]
    assert {drive["route_id"] for drive in drives} == {"1", "2", "3"}
    assert drives[0]["first"]["infractions"] == {"collisions_vehicle": 1}

    assert run("--table", str(tmp_path / "none" / "table.md")) == 2
    assert "choose another name" in capsys.readouterr().err
