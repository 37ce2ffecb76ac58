"""Files of every layout, odd fields, and files that cannot be used."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.__main__ import main
from eval.criteria import Event
from eval.metrics.compare import compare_runs
from eval.metrics.records import join_shares, read_files, read_runs
from eval.metrics.summary import Options, Summary, summarise
from eval.results import ResultsError, ResultsFolder, RouteRecord, judge, save_name
from eval.scoring import Infraction, Scoring
from tests.eval.metrics.synthetic import record, write


def own(route_id: str, completion: float, *kinds: Infraction, seed: int = 1) -> RouteRecord:
    events = [Event(kind, 10, 0.5, (1.0, 2.0, 3.0), "text") for kind in kinds]
    return RouteRecord(
        route_id=route_id,
        town="Gen03",
        scoring=Scoring.LEADERBOARD_21,
        **judge(completion, events, Scoring.LEADERBOARD_21, None),
        route_length_m=500.0,
        duration_game_s=60.0,
        duration_system_s=30.0,
        ticks=1200,
        seed=seed,
        traffic=15,
        provenance={
            "server": "embedded",
            "junction_credit_percent": 30.0,
            "scenarios": [{"name": "turn", "type": "T_Junction", "state": "done", "reason": ""}],
        },
    )


def summary_of(*paths: Path, **options: Any) -> Summary:
    return summarise(read_runs(paths), Options(resamples=10, **options))


def test_shares_of_a_run_are_scored_as_one(tmp_path: Path) -> None:
    """A job array's tasks drive unequal numbers of routes: the mean is over routes, not over tasks."""
    whole, shares = ResultsFolder(tmp_path / "whole", {"seed": 0}), []
    for task, routes in enumerate((("1", "3"), ("2",))):
        share = ResultsFolder(tmp_path / f"task_{task}", {"seed": 0})
        for route_id in routes:
            for seed in (1, 2):
                drive = own(route_id, 30.0 * float(route_id) + seed, seed=seed)
                share.append(drive)
                whole.append(drive)
        share.write_summary([(route_id, 0) for route_id in routes])
        shares.append(tmp_path / f"task_{task}")
    joined = summarise(join_shares(read_files(shares)), Options(resamples=10, total_routes=3))
    wanted = summary_of(tmp_path / "whole", total_routes=3)
    assert len(joined.runs) == len(wanted.runs) == 2
    assert joined.values == wanted.values
    assert joined.values["driving_score_percent"] == pytest.approx(61.5)
    again = join_shares(read_files([tmp_path / "whole", shares[0]]))
    assert len(again) == 4, "seeds of one evaluation stay apart"


def test_our_own_runs_score_alike_from_every_file(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", {"seed": 0})
    folder.append(own("1", 100.0))
    folder.append(own("2", 40.0, Infraction.COLLISION_VEHICLE))
    folder.write_summary([("1", 0), ("2", 0), ("3", 0)])
    summaries = [
        summary_of(tmp_path / "run"),
        summary_of(tmp_path / "run" / "results.jsonl"),
        summary_of(tmp_path / "run" / "results.json"),
    ]
    for summary in summaries:
        assert summary.values == summaries[0].values
        assert summary.scoring is Scoring.LEADERBOARD_21  # as the run was driven
        assert summary.values["driving_score_percent"] == pytest.approx((100.0 + 40.0 / 1.7) / 3)
        assert summary.values["ability_traffic_signs_percent"] == 100.0  # the second by its recorded credit
        assert {drive.result.server for drive in summary.runs[0].drives} == {"embedded"}
        assert {drive.result.save_name for drive in summary.runs[0].drives} == {
            save_name("1", "Gen03", 1),
            save_name("2", "Gen03", 1),
        }
    other = tmp_path / "other"
    ResultsFolder(other, {"seed": 0}).append(own("1", 100.0))
    assert "embedded server, not on CARLA" in _table(summary_of(other))


def test_the_last_line_of_a_drive_holds_and_broken_ones_are_told(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, {"seed": 0})
    folder.append(own("1", 10.0))
    folder.append(own("1", 60.0))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"cut": \n3\n\n[]\n')
    summary = summary_of(tmp_path)
    assert summary.values["route_completion_percent"] == 60.0
    assert any("not JSON" in note for note in summary.notes)


def test_seeds_of_a_file_are_runs(tmp_path: Path) -> None:
    lines = [own(route, completion, seed=seed) for seed, completion in ((1, 100.0), (2, 50.0)) for route in "ab"]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(line.to_json()) for line in lines))
    summary = summary_of(path)
    assert [values["route_completion_percent"] for values in summary.per_run] == [100.0, 50.0]
    assert summary.deviations["route_completion_percent"] == pytest.approx(50.0 / 2**0.5)


def test_official_repetitions_and_doubles_count_each(tmp_path: Path) -> None:
    drives = [record("1"), record("1", 50.0, repetition=1), record("1", 0.0, repetition=1)]
    summary = summary_of(write(tmp_path / "r.json", drives), scoring=Scoring.LEADERBOARD_20)
    assert summary.values["route_completion_percent"] == 50.0
    assert any("recorded more than once" in note for note in summary.notes)
    assert summary.values["ability_overtaking_percent"] == 50.0  # each drive's first record


ODD: list[Any] = [None, "", "x", 3, -5.0, 1e308, True, [], {}, [None], {"a": 1}, "50%", [1, 2], "NaN"]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_odd_fields_are_read_harmlessly(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any field of any depth may be missing or hold anything: the file is scored or refused in one line."""
    document: dict[str, Any] = {
        "_checkpoint": {"records": [record("1", red_light=["ran"]), record("2", 30.0)], "progress": [2, 2]},
        "evaluation": {"scoring": "2.0", "routes": [{"seed": 1}, {"seed": 1, "scenarios": [{"type": "Accident"}]}]},
    }
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = document
        key: Any = None
        while isinstance(place, dict | list) and len(place):
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 5)) == 0:
                break
            if not len(place[key]):
                break
            place = place[key]
        if key is None:
            break
        if data.draw(st.booleans()) and isinstance(place, dict):
            del place[key]
        else:
            place[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    path = tmp_path_factory.mktemp("odd") / "results.json"
    path.write_text(json.dumps(document))
    try:
        summary = summary_of(path)
        compare_runs(read_runs([path]), read_runs([path]), resamples=2)
    except ResultsError as error:
        assert "\n" not in str(error)
        return
    score = summary.values["driving_score_percent"]
    assert score is not None and 0.0 <= score <= 100.0
    json.dumps(summary.to_json(), allow_nan=False)
    _table(summary)


def test_what_was_odd_is_told(tmp_path: Path) -> None:
    first, second = record("1"), record("2")
    del first["scores"]["score_composed"], second["infractions"], second["status"]
    second["scores"]["score_route"] = "100"
    summary = summary_of(write(tmp_path / "r.json", [first, second, 5]), total_routes=2)
    assert summary.values["driving_score_percent"] == 100.0
    assert summary.values["success_rate_percent"] == 50.0
    for told in ("score_composed is missing", "without infractions", "without a status", "not an object"):
        assert any(told in note for note in summary.notes), told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b"{", "cut off"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "no list at _checkpoint.records"),
        (b'"text"', "no list at _checkpoint.records"),
        (b"{}", "no list at _checkpoint.records"),
        (b'{"_checkpoint": 3}', "no list at _checkpoint.records"),
        (b'{"_checkpoint": {"records": {}}}', "no list at _checkpoint.records"),
        (b'{"_checkpoint": {"records": []}}', "holds no route records"),
        (b'{"_checkpoint": {"records": [1, null]}}', "holds no route records"),
        (b"[" * 100_000, "not a results file"),
        (b'{"_checkpoint": {"records": [{"meta": {"route_length": ' + b"9" * 5000 + b"}}]}}", "not a results file"),
    ],
)
def test_bad_files_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    expected: str,
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    for command in (["score", str(path)], ["compare", str(path), str(path)]):
        _fails(command, expected, monkeypatch, capsys)


def test_bad_arguments_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(write(tmp_path / "good.json", [record("1", 30.0, scenario="T_Junction")]))
    other = str(write(tmp_path / "other.json", [record("2")]))
    cases = [
        (["score"], "nothing to score"),
        (["score", str(tmp_path / "none.json")], "No such file"),
        (["score", str(tmp_path)], "holds neither"),
        (["score", good, "--town-dir", str(tmp_path / "none")], "no such folder"),
        (["score", good, "--metric-dir", str(tmp_path / "none")], "no such folder"),
        (["score", good, "--routes", str(tmp_path / "none.xml")], "no such route file"),
        (["score", good, "--resamples", "0"], "--resamples must lie in"),
        (["score", good, "--total-routes", "0"], "--total-routes must lie in"),
        (["score", good, "--per-route"], "--per-route needs"),
        (["compare", good, other], "share no route"),
    ]
    for command, expected in cases:
        _fails(command, expected, monkeypatch, capsys)


def test_an_unreadable_map_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write(tmp_path / "good.json", [record("1", 30.0)])
    (tmp_path / "Town12.xodr").write_text("no map")
    (tmp_path / "routes.xml").write_text(
        '<routes><route id="1" town="Town12"><waypoints><position x="0" y="0" z="0"/><position x="9" y="0" z="0"/>'
        '</waypoints><scenarios><scenario name="T_1" type="T_Junction"/></scenarios></route></routes>'
    )
    command = ["score", str(results), "--routes", str(tmp_path / "routes.xml"), "--town-dir", str(tmp_path)]
    _fails(command, "not an OpenDRIVE map", monkeypatch, capsys)


def test_pairs_are_by_route_repetition_and_seed(tmp_path: Path) -> None:
    def folder(name: str, *records: RouteRecord) -> Path:
        run = ResultsFolder(tmp_path / name, {"seed": 0})
        for item in records:
            run.append(item)
        return tmp_path / name

    first = folder("first", own("1", 100.0), own("2", 50.0), own("3", 100.0))
    second = folder("second", own("1", 100.0), own("2", 100.0), own("4", 100.0))
    comparison = compare_runs(read_runs([first]), read_runs([second]), resamples=10)
    assert comparison.pairs == 2 and comparison.scoring is Scoring.LEADERBOARD_21
    assert comparison.differences["route_completion_percent"].difference == pytest.approx(25.0)
    assert (comparison.only_first_succeeded, comparison.only_second_succeeded) == (0, 1)
    assert comparison.unpaired_first == (("3", 0, 1),) and comparison.unpaired_second == (("4", 0, 1),)
    assert not any("different towns" in note for note in comparison.notes)

    elsewhere = folder("elsewhere", own("1", 100.0), replace(own("2", 100.0), town="Town07"))
    moved = compare_runs(read_runs([first]), read_runs([elsewhere]), resamples=10)
    assert any("1 of 2 pairs lie in different towns (route 2" in note for note in moved.notes)

    reseeded = folder("reseeded", *(replace(own(route, 80.0), seed=2) for route in "12"))
    with pytest.raises(ResultsError, match="--ignore-seeds"):
        compare_runs(read_runs([first]), read_runs([reseeded]), resamples=10)
    ignoring = compare_runs(read_runs([first]), read_runs([reseeded]), ignore_seeds=True, resamples=10)
    assert ignoring.pairs == 2


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", [record("1", red_light=["ran"]), record("2", 30.0), record("3")])
    comparison = compare_runs(read_runs([path]), read_runs([path]), resamples=50)
    assert comparison.mcnemar_p == 1.0
    assert all(item.difference == 0.0 and item.interval == (0.0, 0.0) for item in comparison.differences.values())


def test_what_both_sides_measured_is_compared_over_the_same_routes(tmp_path: Path) -> None:
    slow = [f"Average speed is 50% of the surrounding traffic's one {n}" for n in range(20)]
    fast = [message.replace("50%", "150%") for message in slow]
    first = write(tmp_path / "a.json", [record("1", min_speed_infractions=slow), record("2")])
    second = write(
        tmp_path / "b.json", [record("1", min_speed_infractions=fast), record("2", min_speed_infractions=slow)]
    )
    comparison = compare_runs(read_runs([first]), read_runs([second]), Scoring.BENCH2DRIVE, resamples=10)
    efficiency = comparison.differences["efficiency_percent"]
    assert (efficiency.first, efficiency.second) == (50.0, 150.0)  # route 2 was measured on one side alone
    assert efficiency.interval is None
    assert any(note.startswith("not measured on both sides: comfort") for note in comparison.notes)


def test_runs_of_different_rules_do_not_mix_unasked(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", [record("1")], evaluation={"scoring": "2.0"})
    second = write(tmp_path / "b.json", [record("1")], evaluation={"scoring": "2.1"})
    with pytest.raises(ResultsError, match="choose one with --scoring"):
        summary_of(first, second)
    assert summary_of(first, second, scoring=Scoring.LEADERBOARD_21).values["driving_score_percent"] == 100.0


def _fails(
    command: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["eval", *command])
    assert main() == 2
    captured = capsys.readouterr()
    errors = captured.err.strip().splitlines()
    assert len(errors) == 1 and expected in errors[0], errors
    assert not captured.out


def _table(summary: Summary) -> str:
    from io import StringIO

    from rich.console import Console

    from eval.metrics.commands import print_summary

    console = Console(file=StringIO(), width=120)
    print_summary(summary, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue] - the StringIO from above
