"""Results on disk: durable lines, the leaderboard's layout, foreign and broken input."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eval.criteria import Event
from eval.progress import PAINTING, Progress, print_table
from eval.results import (
    STATUS_SIMULATION_CRASHED,
    ResultsError,
    ResultsFolder,
    RouteRecord,
    global_record,
    infraction_count,
    judge,
    leaderboard_json,
    read_records,
)
from eval.scoring import Infraction, Scoring

OUTSIDE = "Agent went outside its route lanes for about 29.773 meters (13.43% of the completed route)"


def event(kind: Infraction, message: str = "text", percentage: float = 0.0) -> Event:
    return Event(kind, 10, 0.5, (1.0, 2.0, 3.0), message, percentage)


def record(route_id: str, completion: float, *events: Event, failure: str | None = None) -> RouteRecord:
    return RouteRecord(
        route_id=route_id,
        town="Gen03",
        scoring=Scoring.BENCH2DRIVE,
        **judge(completion, events, Scoring.BENCH2DRIVE, failure),
        route_length_m=500.0,
        duration_game_s=60.0,
        duration_system_s=30.0,
        ticks=1200,
        seed=1,
        traffic=15,
        provenance={"tries": 1},
    )


PERFECT = record("1", 100.0)
RED = record("2", 100.0, event(Infraction.RED_LIGHT))
OUT = record("3", 40.0, event(Infraction.OUTSIDE_ROUTE_LANES, OUTSIDE, 13.43), failure="Agent got blocked")


def test_status_follows_the_leaderboard() -> None:
    assert PERFECT.status == "Perfect" and PERFECT.success
    assert RED.status == "Completed" and not RED.success
    assert OUT.status == "Failed - Agent got blocked"
    assert (OUT.scores.score_route, OUT.scores.score_penalty) == (40.0, pytest.approx(0.8657))
    assert OUT.scores.score_composed == pytest.approx(34.628)


def test_leaderboard_layout() -> None:
    data = json.loads(json.dumps(leaderboard_json([PERFECT, RED, OUT], 4)))
    summary = data["_checkpoint"]["global_record"]
    assert data["_checkpoint"]["progress"] == [3, 4]
    assert (data["entry_status"], data["eligible"]) == ("Started", False)
    assert summary["scores_mean"]["score_composed"] == pytest.approx((100.0 + 70.0 + 34.628) / 4)
    assert summary["infractions"]["red_light"] == pytest.approx(1 / 1.2, abs=1e-3)  # 1.2 km driven
    assert summary["infractions"]["outside_route_lanes"] == pytest.approx(0.03)
    assert summary["meta"]["exceptions"] == [["RouteScenario_3_rep0", 2, "Failed - Agent got blocked"]]
    assert len(data["values"]) == len(data["labels"]) == 15
    assert data["values"][0] == str(summary["scores_mean"]["score_composed"])
    assert set(data["_checkpoint"]["records"][0]["infractions"]) == {kind.value for kind in Infraction}
    assert leaderboard_json([PERFECT], 1)["entry_status"] == "Finished"
    crashed = record("9", 0.0, failure=STATUS_SIMULATION_CRASHED.removeprefix("Failed - "))
    assert leaderboard_json([crashed], 1)["entry_status"] == "Crashed"


def test_a_failure_is_told_wherever_the_verdict_stands() -> None:
    lost = replace(record("7", 0.0, failure="Agent couldn't be set up"), failure_message="RuntimeError: no weights")
    told = "Failed - Agent couldn't be set up: RuntimeError: no weights"
    assert lost.to_leaderboard(0)["status"] == "Failed - Agent couldn't be set up"  # the leaderboard's own words
    summary = leaderboard_json([PERFECT, lost], 2)["_checkpoint"]["global_record"]
    assert summary["meta"]["exceptions"] == [("RouteScenario_7_rep0", 1, told)]
    shown = Console(file=StringIO(), width=200)
    print_table([PERFECT, lost], shown)
    Progress({}, 1, shown).finished(lost)
    assert shown.file.getvalue().count(told) == 2


def test_a_route_between_its_last_tick_and_its_record_keeps_what_was_known_of_it() -> None:
    progress = Progress({"1": 200.0}, 1, Console(file=StringIO(), width=200))
    status = {"completion_percent": 93.0, "length_m": 200.0, "game_s": 30.0, "speed_mps": 5.0}
    progress.update({"1": status})
    progress.update({"1": {}})
    assert progress.seconds_left() == pytest.approx(0.0, abs=0.5)
    progress.update({})  # its worker died
    progress.update({"1": {}})
    assert progress.seconds_left() is None


def test_a_route_whose_film_is_painted_is_driven() -> None:
    shown = Console(file=StringIO(), width=200)
    progress = Progress({"1": 200.0, "2": 200.0}, 2, shown)
    progress._next_plain_s = 0.0
    progress.update({"1": {PAINTING: 1.0}, "2": {"completion_percent": 50.0, "game_s": 9.0}})
    assert "driving: route 1: film, route 2 at 50 %" in shown.file.getvalue()
    left_s = progress.seconds_left()
    assert left_s is not None and left_s == pytest.approx((time.monotonic() - progress._started_s) / 3.0, abs=0.1)


def test_scenario_penalties_have_a_column_where_there_are_some() -> None:
    def table(*events: Event) -> str:
        shown = Console(file=StringIO(), width=200)
        print_table([PERFECT, record("2", 100.0, *events)], shown)
        return shown.file.getvalue()

    late, rude = event(Infraction.SCENARIO_TIMEOUT), event(Infraction.YIELD_TO_EMERGENCY_VEHICLE)
    assert "timeout" in table(late) and "yield" not in table(late) and "timeout" not in table()
    assert "yield" in table(late, rude) and "49.0" in table(late, rude)


def test_what_was_not_played_is_told_where_somebody_counted() -> None:
    shown = Console(file=StringIO(), width=200)
    skipped = {"name": "CutIn_1", "state": "skipped", "reason": "no lane"}
    official = replace(PERFECT, provenance={"scenarios": [{"name": "HardBrake_1"}]})  # an official evaluator's
    print_table([official, replace(RED, provenance={"scenarios": [skipped]})], shown)
    assert "1 of 2 scenarios could not be played" in shown.file.getvalue()
    assert "CutIn_1: no lane" in shown.file.getvalue()


def test_layout_is_that_of_published_results(shared_dir: Path) -> None:
    published = json.loads((shared_dir / "results" / "VAD.json").read_text())["_checkpoint"]["records"][0]
    ours = RED.to_leaderboard(0)
    for key in ("infractions", "scores", "meta"):
        assert set(ours[key]) == set(published[key])
    assert set(ours) - set(published) == {"index"}  # which the merging tool of Bench2Drive removes


def test_metres_outside_are_read_from_the_message() -> None:
    assert infraction_count(OUT, Infraction.OUTSIDE_ROUTE_LANES) == pytest.approx(0.029773)
    assert global_record([PERFECT], 1)["status"] == "Perfect"


def test_records_survive_the_disk_and_bad_lines_are_skipped(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", {"seed": 0})
    folder.append(PERFECT)
    folder.append(RED)
    lines = tmp_path / "run" / "results.jsonl"
    with lines.open("a") as file:
        file.write("[" * 100_000 + "\n" + "9" * 5_000 + "\n")  # too deep, too long a number
        file.write('{"format": 1, "route_id": "4"}\nnot json\n{"format": 99}\n{"cut')
    folder.close()
    folder = ResultsFolder(tmp_path / "run", {"seed": 0})
    folder.append(OUT)  # after a line that was cut off
    assert [as_on_disk(r) for r in read_records(lines)] == [as_on_disk(r) for r in (PERFECT, RED, OUT)]
    folder.write_summary([("2", 0), ("1", 0)])
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["route_id"] for r in data["_checkpoint"]["records"]] == ["RouteScenario_2_rep0", "RouteScenario_1_rep0"]


def test_what_is_written_is_strict_json(tmp_path: Path) -> None:
    never_ticked = replace(PERFECT, provenance={"timings_ms": {"world": math.nan, "agent": math.inf}})
    folder = ResultsFolder(tmp_path, {})
    folder.append(never_ticked)
    folder.write_summary([("1", 0)])
    for text in (tmp_path / "results.jsonl").read_text(), (tmp_path / "results.json").read_text():
        assert '"world": null' in text and '"agent": null' in text
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read_records(tmp_path / "results.jsonl")[0].provenance["timings_ms"] == {"world": None, "agent": None}


def as_on_disk(route_record: RouteRecord) -> dict:
    return json.loads(json.dumps(route_record.to_json()))


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, {"seed": 1, "agent": "a"})
    folder.append(PERFECT)
    folder.close()
    with pytest.raises(ResultsError, match=r"other settings \(seed\)"):
        ResultsFolder(tmp_path, {"seed": 2, "agent": "a"})
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ResultsError, match="not the settings of a run"):
        ResultsFolder(tmp_path, {"seed": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be created"):
        ResultsFolder(tmp_path / "file" / "below", {})


def test_a_folder_has_one_runner_at_a_time(tmp_path: Path) -> None:
    first = ResultsFolder(tmp_path, {})
    with pytest.raises(ResultsError, match="another runner"):
        ResultsFolder(tmp_path, {})
    first.close()
    ResultsFolder(tmp_path, {}).close()


def test_only_a_crashed_simulation_is_superseded(tmp_path: Path) -> None:
    crashed = replace(PERFECT, status="Failed - Simulation crashed")
    agent_crashed = replace(RED, status="Failed - Agent crashed")
    other = replace(PERFECT, repetition=1)
    folder = ResultsFolder(tmp_path, {})
    for line in (crashed, agent_crashed, other, PERFECT, RED, crashed):
        folder.append(line)
    kept = {record.key: record.status for record in read_records(tmp_path / "results.jsonl")}
    assert kept == {
        PERFECT.key: PERFECT.status,
        RED.key: "Failed - Agent crashed",
        (PERFECT.route_id, 1): PERFECT.status,
    }
    assert other.to_leaderboard(0)["route_id"] == f"RouteScenario_{PERFECT.route_id}_rep1"
