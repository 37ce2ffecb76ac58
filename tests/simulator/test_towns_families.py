"""Families of own towns: drivable networks, signals, spawn points, ground, and what each family is there for."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from functools import cache
from pathlib import Path

import carla
import numpy as np
import pytest
from PIL import Image

from simulator.towns.catalogue import FAMILIES, generate_town, own_town, training_towns
from simulator.towns.families.roads import smooth_heights, steepest
from simulator.towns.picture import CELL_PX, LANE_COLOURS, PictureConfig, draw_towns
from simulator.towns.town import Town, TownError, available_towns, load_town
from tests.simulator.test_towns import (
    CAMERA_BEHIND_LINE_M,
    HALF_VIEW_DEG,
    STEP_M,
    _check_ground,
    _check_spawn_points,
    _lane_graph,
    _reached,
    inside,
)

NAMES = tuple(f"{family}{seed:02d}" for family in FAMILIES for seed in (1, 2))
DERIVED = tuple(f"{family}01" for family in FAMILIES)
"""Towns whose spawn points, signals and ground are checked too."""


def sharpest_m(name: str) -> float:
    """The smallest radius that a lane may have: some corners of CARLA's towns have 3 m."""
    return 3.0 if name.startswith("Narrow") else 6.0


@cache
def text_of(name: str) -> str:
    return generate_town(name)


@cache
def map_of(name: str) -> carla.Map:
    return carla.Map(name, text_of(name))


@cache
def town_of(name: str) -> Town:
    return load_town(name)


def lane_widths(name: str, kind: str) -> list[float]:
    """Widest width of every lane of a type outside junctions."""
    roads = [road for road in ET.fromstring(text_of(name)).iter("road") if road.get("junction") == "-1"]
    lanes = [lane for road in roads for lane in road.iter("lane") if lane.get("type") == kind]
    return [max(float(width.get("a", 0.0)) for width in lane.iter("width")) for lane in lanes]


# ---- names and texts ------------------------------------------------------------------------------------


def test_there_are_towns_of_all_families_for_training() -> None:
    names = training_towns()
    assert len(set(names)) == len(names) >= 24
    assert {own_town(name)[0] for name in names} == {"Gen", *FAMILIES}
    assert not {"Gen20", "Gen21"} & set(names)
    assert set(names) <= set(available_towns())
    assert all(own_town(name) is None for name in ("Ring1", "Ring", "Ring001", "Town01", "ring01", "Gen-1", ""))
    with pytest.raises(ValueError, match="Motorway"):
        generate_town("Town01")


def test_all_training_towns_differ_and_take_little_time() -> None:
    start = time.process_time()
    texts = {name: text_of(name) for name in training_towns()}
    assert time.process_time() - start < 1.0 * len(texts)
    assert len(set(texts.values())) == len(texts)
    assert generate_town("Tee02") == texts["Tee02"]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("Avenue01", "ba4b862765091e74"),
        ("Tee01", "34da7aa18dc4382b"),
        ("Hills01", "1dee0f87bfdd3c27"),
        ("Ring01", "7fddb15733d91733"),
        ("Rural01", "1a1a137b2b47f21d"),
        ("Interurban01", "c077bbb22eaac317"),
        ("Motorway01", "de7320c4d6f2c96f"),
        ("Narrow01", "b56d93df494c27b8"),
    ],
)
def test_text_of_a_name_stays_what_it_is(name: str, digest: str) -> None:
    # Scores are reported for towns by name: a changed generator must not change what Rural01 is.
    assert hashlib.sha256(text_of(name).encode()).hexdigest()[:16] == digest


def test_parsing_prints_nothing() -> None:
    code = (
        "import carla; from simulator.towns.catalogue import FAMILIES, generate_town\n"
        "for family in FAMILIES:\n"
        "    m = carla.Map('town', generate_town(family + '03')); m.get_topology(); m.generate_waypoints(5.0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"")


# ---- lanes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_random_drives_never_jump_or_end(name: str) -> None:
    rng = random.Random(name)
    starts = [w for w in map_of(name).generate_waypoints(10.0) if w.lane_type == carla.LaneType.Driving]
    for _ in range(200):
        waypoint, place = rng.choice(starts), None
        for _ in range(210):
            here = waypoint.transform.location
            # Steps are measured on the road's line: an outer lane around a tight corner is longer.
            assert place is None or here.distance(place) < (2.0 if name.startswith("Narrow") else 1.5) * STEP_M
            place, choices = here, waypoint.next(STEP_M)
            assert choices, f"dead end on road {waypoint.road_id} lane {waypoint.lane_id} at {here}"
            waypoint = rng.choice(choices)


@pytest.mark.parametrize("name", NAMES)
def test_headings_and_slopes_follow_the_lanes(name: str) -> None:
    slopes = []
    for waypoint in map_of(name).generate_waypoints(5.0):
        pitch_deg = (waypoint.transform.rotation.pitch + 180.0) % 360.0 - 180.0
        slopes.append(abs(math.tan(math.radians(pitch_deg))))
        for after in waypoint.next(1.0):
            turn_deg = (after.transform.rotation.yaw - waypoint.transform.rotation.yaw + 180.0) % 360.0 - 180.0
            assert abs(turn_deg) < math.degrees(1.0 / sharpest_m(name)) + 1.0, "a corner that is too sharp"
            climb = abs(after.transform.location.z - waypoint.transform.location.z)
            assert climb < 0.1, "a step in the road"
    assert max(slopes) < 0.085
    if name.startswith("Hills"):
        assert max(slopes) > 0.06


@pytest.mark.parametrize("name", NAMES)
def test_every_lane_is_reachable_from_every_other(name: str) -> None:
    forward, backward = _lane_graph(map_of(name))
    start = max(forward)  # a connecting road: nothing begins there
    assert _reached(backward, start) == set(forward)
    widening = set(forward) - _reached(forward, start)
    assert all(map_of(name).get_waypoint_xodr(road, lane, 0.05).lane_width < 0.1 for road, _, lane in widening)
    assert not widening or name.startswith("Motorway")


def test_elevation_profiles_are_smooth() -> None:
    rng = random.Random(3)
    points = [(70.0 * k, rng.uniform(-5.0, 5.0)) for k in range(6)]
    pieces = smooth_heights(points)
    for piece, (s_m, z_m), (next_s_m, next_z_m) in zip(pieces, points, points[1:], strict=False):
        ds = next_s_m - s_m
        assert piece.a == z_m
        assert piece.a + ds * (piece.b + ds * (piece.c + ds * piece.d)) == pytest.approx(next_z_m)
    for before, after in itertools.pairwise(pieces):
        ds = after.s_m - before.s_m
        assert before.b + ds * (2.0 * before.c + 3.0 * ds * before.d) == pytest.approx(after.b)
    assert steepest(pieces, 350.0) > 0.0


# ---- what each family is there for ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ("Motorway01", "Motorway02"))
def test_motorways_have_carriageways_ramps_and_bridges(name: str) -> None:
    roads = [road for road in ET.fromstring(text_of(name)).iter("road") if road.get("junction") == "-1"]
    main = [road for road in roads if float(road.find("type/speed").get("max")) >= 90.0]
    assert sum(float(road.get("length")) for road in main) > 2 * 2500.0
    for road in main:
        kinds = [lane.get("type") for lane in road.find("lanes/laneSection/right")]
        assert kinds.count("driving") >= 3
    waypoint = map_of(name).get_waypoint_xodr(int(main[0].get("id")), -1, 1.0)
    lane, driven_m = waypoint, 0.0
    while driven_m < 2500.0:  # the innermost lane runs round without a junction
        (lane,) = lane.next(5.0)
        driven_m += 5.0
        assert not lane.is_junction
    waypoints = map_of(name).generate_waypoints(4.0)
    assert any(w.lane_change == carla.LaneChange.Both for w in waypoints)
    assert sum(w.is_junction and w.transform.location.z < 0.1 for w in waypoints) > 20
    heights = [w.transform.location.z for w in waypoints]
    assert min(heights) > -0.1 and 6.0 < max(heights) < 7.0


@pytest.mark.parametrize("name", ("Narrow01", "Narrow02"))
def test_narrow_streets_have_corners_as_tight_as_carlas(name: str) -> None:
    radii_m = []
    for start, _ in map_of(name).get_topology():
        way = [start, *start.next_until_lane_end(0.5)]
        yaw_rad = np.unwrap(np.radians([waypoint.transform.rotation.yaw for waypoint in way]))
        if start.is_junction and yaw_rad[-1] - yaw_rad[0] > 1.0:  # to the right
            length_m = sum(a.transform.location.distance(b.transform.location) for a, b in itertools.pairwise(way))
            radii_m.append(length_m / (yaw_rad[-1] - yaw_rad[0]))
    assert len(radii_m) >= 10
    assert 3.5 < min(radii_m) < 6.5


@pytest.mark.parametrize("name", ("Rural01", "Rural02"))
def test_country_roads_have_shoulders_and_stretches_to_overtake(name: str) -> None:
    assert any(width > 1.0 for width in lane_widths(name, "shoulder"))
    root = ET.fromstring(text_of(name))
    limits = {float(road.find("type/speed").get("max")) for road in root.iter("road")}
    assert max(limits) >= 60.0
    broken = 0.0
    for road in root.iter("road"):
        sections = road.findall("lanes/laneSection")
        ends = [float(section.get("s")) for section in sections[1:]] + [float(road.get("length"))]
        for section, end in zip(sections, ends, strict=True):
            if section.find("center/lane/roadMark").get("type") == "broken":
                broken += end - float(section.get("s"))
    assert broken > 100.0
    assert re.search(r'type="20[56]"', text_of(name))


@pytest.mark.parametrize("name", ("Avenue01", "Avenue02"))
def test_avenues_have_many_lanes_parking_and_cycle_lanes(name: str) -> None:
    root = ET.fromstring(text_of(name))
    counts = {
        sum(lane.get("type") == "driving" for lane in side)
        for road in root.iter("road") if road.get("junction") == "-1"
        for side in (road.find("lanes/laneSection/left"), road.find("lanes/laneSection/right"))
    }  # fmt: skip
    assert counts == {2, 3}
    assert lane_widths(name, "parking") and lane_widths(name, "biking")
    biking = [w for w in map_of(name).generate_waypoints(4.0) if w.lane_type == carla.LaneType.Driving]
    beside = {w.get_right_lane().lane_type for w in biking if w.get_right_lane() is not None}
    assert {carla.LaneType.Biking, carla.LaneType.Parking} <= beside


def test_cycle_lanes_lead_through_junctions() -> None:
    town_map, crossed = map_of("Avenue01"), 0
    for beside in town_map.generate_waypoints(20.0):
        ride = town_map.get_waypoint(beside.transform.location, lane_type=carla.LaneType.Biking)
        for _ in range(60):
            following = ride.next(3.0)
            if not following:
                break
            assert {w.lane_type for w in following} == {carla.LaneType.Biking}
            ride = following[0]
            crossed += ride.is_junction
    assert crossed > 100


def test_tee_towns_have_only_junctions_of_three() -> None:
    for junction in ET.fromstring(text_of("Tee01")).iter("junction"):
        assert len({connection.get("incomingRoad") for connection in junction.iter("connection")}) == 3


def test_ring_towns_have_roundabouts() -> None:
    limits = [road.find("type/speed").get("max") for road in ET.fromstring(text_of("Ring01")).iter("road")]
    assert limits.count("20") > 8


# ---- signals, spawn points, ground ----------------------------------------------------------------------


@pytest.mark.parametrize("name", DERIVED)
def test_signals_are_complete(name: str) -> None:
    town, town_map = town_of(name), map_of(name)
    assert {mark.id for mark in town_map.get_all_landmarks_of_type("1000001")} == {s.opendrive_id for s in town.lights}
    assert {mark.id for mark in town_map.get_all_landmarks_of_type("206")} == {s.opendrive_id for s in town.stop_signs}
    assert len(town.lights) + len(town.stop_signs) + len(town_map.get_all_landmarks_of_type("205")) >= 4
    phases = defaultdict(set)
    for light in town.lights:
        phases[light.group].add(light.phase)
        assert light.stop_points and all(inside(light, stop.x_m, stop.y_m) for stop in light.stop_points)
    assert all(sorted(numbers) == list(range(len(numbers))) and len(numbers) >= 2 for numbers in phases.values())
    held = {(stop.road_id, stop.lane_id) for light in town.lights for stop in light.stop_points}
    one_of = {w.junction_id: w for w in town_map.generate_waypoints(5.0) if w.is_junction}
    for junction in phases:
        entries = [pair[0] for pair in one_of[junction].get_junction().get_waypoints(carla.LaneType.Driving)]
        assert entries and all((entry.road_id, entry.lane_id) in held for entry in entries)


@pytest.mark.parametrize("name", DERIVED)
def test_lights_are_in_view_and_off_the_road(name: str) -> None:
    for light in town_of(name).lights:
        place = carla.Location(*light.transform[:3])
        lane = map_of(name).get_waypoint(place, project_to_road=False, lane_type=carla.LaneType.Driving)
        assert lane is None
        for stop in light.stop_points:
            yaw_rad = math.radians(stop.yaw_deg)
            dx, dy = light.transform[0] - stop.x_m, light.transform[1] - stop.y_m
            ahead_m = dx * math.cos(yaw_rad) + dy * math.sin(yaw_rad) + CAMERA_BEHIND_LINE_M
            right_m = -dx * math.sin(yaw_rad) + dy * math.cos(yaw_rad)
            assert 9.0 < ahead_m < 45.0
            assert abs(math.degrees(math.atan2(right_m, ahead_m))) < HALF_VIEW_DEG - 3.0


@pytest.mark.parametrize("name", DERIVED)
def test_stop_signs_trigger_on_the_lane_before_the_junction(name: str) -> None:
    for sign in town_of(name).stop_signs:
        centre, extent = sign.trigger_box
        x, y, z, pitch, yaw, roll = sign.transform
        place = carla.Transform(carla.Location(x, y, z), carla.Rotation(pitch, yaw, roll)).transform(
            carla.Location(*centre)
        )
        lane = map_of(name).get_waypoint(place)
        assert not lane.is_junction and lane.transform.location.distance_2d(place) < 0.3
        assert lane.next(extent[1] + 1.0)[0].is_junction


@pytest.mark.parametrize("name", DERIVED)
def test_spawn_points_ground_and_limits(name: str) -> None:
    town, town_map = town_of(name), map_of(name)
    assert len(town.spawn_points) >= 60
    _check_spawn_points(town_map, town)
    _check_ground(town_map, town, 0.06, 0.998)
    waypoints = [w for w in town_map.generate_waypoints(7.0) if not w.is_junction]
    x, y = (np.array([getattr(w.transform.location, axis) for w in waypoints]) for axis in "xy")
    posted = np.array([_limit_kmh(name)[w.road_id] for w in waypoints])
    assert np.mean(town.speed_limits_kmh(x, y) == posted) > 0.97
    assert len(set(posted)) >= 2


@cache
def _limit_kmh(name: str) -> dict[int, float]:
    return {
        int(road.get("id")): float(road.find("type/speed").get("max"))
        for road in ET.fromstring(text_of(name)).iter("road")
    }


@pytest.mark.parametrize("name", ("Avenue01", "Hills01", "Ring01", "Tee01"))
def test_crosswalks_span_streets(name: str) -> None:
    crosswalks = map_of(name).get_crosswalks()
    assert len(crosswalks) == 5 * text_of(name).count('type="crosswalk"') >= 15


# ---- pictures -------------------------------------------------------------------------------------------


def test_a_town_is_drawn_from_above(tmp_path: Path) -> None:
    file = tmp_path / "towns.png"
    command = [sys.executable, "-m", "simulator", "towns", "--out", str(file), "--town", "Avenue01", "Rural01"]
    subprocess.run(command, check=True, capture_output=True)
    picture = Image.open(file)
    assert picture.format == "PNG" and picture.width == 2 * CELL_PX and picture.height > CELL_PX
    left, right = (
        {pixel for _, pixel in picture.convert("RGB").crop((x, 0, x + CELL_PX, CELL_PX)).getcolors(1 << 20)}
        for x in (0, CELL_PX)
    )
    for colour, drawn in (("driving", (left, right)), ("biking", (left,)), ("parking", (left,))):
        for pixels in drawn:
            assert min(math.dist(LANE_COLOURS[colour], pixel) for pixel in pixels) < 25.0


@pytest.mark.parametrize(("out", "town"), [("absent/towns.png", "Tee02"), ("towns.png", "Nowhere")])
def test_what_cannot_be_drawn_is_named(tmp_path: Path, out: str, town: str) -> None:
    with pytest.raises(TownError, match="cannot be written" if town == "Tee02" else "there is no town 'Nowhere'"):
        draw_towns(PictureConfig(tmp_path / out, (town,)))
