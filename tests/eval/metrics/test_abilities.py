"""Abilities: who counts for what, and the credit for traffic signs."""

from __future__ import annotations

from pathlib import Path

import carla
import pytest

from eval.metrics.abilities import ABILITIES
from eval.metrics.junctions import credit_percent, town_file
from eval.metrics.records import read_runs
from eval.metrics.summary import Options, Summary, summarise
from eval.planner import RoutePlanner
from eval.routes import Route, ScenarioBlock
from tests.eval.metrics.synthetic import record, write

SIGNS = "ability_traffic_signs_percent"


def summary_of(tmp_path: Path, records: list, **options) -> Summary:
    return summarise(read_runs([write(tmp_path / "results.json", records)]), Options(resamples=10, **options))


def test_the_groups_cover_bench2drives_44_types(shared_dir: Path) -> None:
    from eval.routes import read_routes

    routes = read_routes(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")
    types = [route.scenarios[0].type for route in routes]
    assert set().union(*ABILITIES.values()) == set(types) and len(set(types)) == 44
    counts = {ability: sum(kind in members for kind in types) for ability, members in ABILITIES.items()}
    assert list(counts.values()) == [45, 80, 60, 10, 95]


def test_success_over_recorded_routes(tmp_path: Path) -> None:
    drives = [
        record("1", scenario="Accident"),
        record("2", scenario="Accident", red_light=["ran"]),
        record("3", scenario="PedestrianCrossing"),  # brakes and heeds signs
        record("4", 40.0, scenario="InvadingTurn"),
        record("5", scenario="HighwayExit"),
    ]
    values = summary_of(tmp_path, drives).values
    assert values["ability_overtaking_percent"] == 50.0
    assert values["ability_emergency_brake_percent"] == values[SIGNS] == 100.0
    assert values["ability_give_way_percent"] == 0.0
    assert values["abilities_mean_percent"] == pytest.approx(70.0)


def test_no_scenarios_no_abilities(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, [record("1", scenario="")])
    assert summary.values["ability_merging_percent"] is None and summary.values["abilities_mean_percent"] is None
    assert any("no abilities" in note for note in summary.notes)


def test_failed_signs_count_beyond_the_first_junction(
    tmp_path: Path, generated_map: carla.Map, generated_routes: list[Route]
) -> None:
    (tmp_path / "Gen03.xodr").write_text(generated_map.to_opendrive())
    base = generated_routes[0]
    threshold = credit_percent(RoutePlanner(generated_map), base.keypoints)
    assert threshold is not None and 5.0 < threshold < 100.0
    block = ScenarioBlock("T_Junction_1", "T_Junction", ())
    routes = [Route(str(number), "Gen03", base.keypoints, (), (block,)) for number in range(1, 5)]
    drives = [
        record("1", threshold + 0.1),
        record("2", threshold - 0.1),
        record("3", threshold + 0.1, red_light=["ran"]),
        record("4", threshold + 0.1, stop_infraction=["ran"]),
    ]
    summary = summary_of(tmp_path, drives, routes=routes, town_dir=tmp_path)
    assert summary.values[SIGNS] == 25.0
    withheld = summary_of(tmp_path, drives, routes=routes)
    assert withheld.values[SIGNS] is None and withheld.intervals[SIGNS] is None
    assert withheld.values["ability_traffic_signs_without_extra_credit_percent"] == 0.0
    assert any("maps of Gen03 are missing" in note for note in withheld.notes)


def test_nothing_is_withheld_where_no_credit_can_be_earned(tmp_path: Path) -> None:
    drives = [record("1", scenario="T_Junction"), record("2", 50.0, scenario="T_Junction", red_light=["ran"])]
    assert summary_of(tmp_path, drives).values[SIGNS] == 50.0


def test_towns_are_found_in_carlas_folders(tmp_path: Path) -> None:
    for name in ("Town01.xodr", "OpenDrive/Town02.xodr", "Town12/OpenDrive/Town12.xodr"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert all(town_file(town, tmp_path) for town in ("Town01", "Town02", "Town12"))
    assert town_file("Town03", tmp_path) is None


@pytest.fixture
def generated_routes(generated_map: carla.Map) -> list[Route]:
    from eval.generate import generate_routes

    return generate_routes(generated_map, 1, seed=3, town="Gen03")
