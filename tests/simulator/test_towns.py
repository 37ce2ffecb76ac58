"""Own towns and town files: geometry, signals, spawn points, ground, hostile input."""

import hashlib
import importlib.metadata
import math
import random
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import carla
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.blueprints import extent_m
from simulator.collisions import overlapping_pairs
from simulator.towns import town as town_module
from simulator.towns.generate import generate, town_name
from simulator.towns.geometry import Pose, biarc, connect, wrap_rad
from simulator.towns.ground import LaneSamples, rasterise
from simulator.towns.town import Town, TownError, available_towns, load_town, town_from_text

SEEDS = (1, 2, 3, 4, 5, 6)
REAL_TOWNS = ("Town01", "Town02", "Town03", "Town04", "Town05", "Town06", "Town07", "Town10HD")
STEP_M = 2.0
CAMERA_BEHIND_LINE_M = 1.65
"""Front camera of a car whose bumper touches the stop line."""
HALF_VIEW_DEG = 35.0


@pytest.fixture(scope="module")
def maps() -> dict[int, carla.Map]:
    return {seed: carla.Map(town_name(seed), generate(seed)) for seed in SEEDS}


@pytest.fixture(scope="module")
def towns() -> dict[int, Town]:
    return {seed: load_town(town_name(seed)) for seed in SEEDS}


def real_town(shared_dir: Path, name: str) -> Town:
    folder = shared_dir / "towns"
    if not (folder / f"{name}.xodr").is_file():
        pytest.skip(f"no {name} in {folder}")
    return load_town(name, folder)


poses = st.builds(Pose, st.floats(-50, 50), st.floats(-50, 50), st.floats(-3.0, 3.0))


# ---- curves ---------------------------------------------------------------------------------------------


@given(poses, st.floats(8.0, 60.0), st.floats(-25.0, 25.0), st.floats(-1.4, 1.4))
def test_curves_end_where_they_should(start: Pose, forward_m: float, right_m: float, turn_rad: float) -> None:
    end = start.moved(forward_m, right_m).turned(turn_rad)
    for curve in (biarc(start, end), connect(start, end)):
        reached = curve.end
        assert math.hypot(reached.x_m - end.x_m, reached.y_m - end.y_m) < 1e-6
        assert abs(wrap_rad(reached.heading_rad - end.heading_rad)) < 1e-6
        for before, after in pairwise(curve.segments):
            joint = before.at(before.length_m)
            assert math.hypot(joint.x_m - after.start.x_m, joint.y_m - after.start.y_m) < 1e-9


# ---- own towns as carla.Map sees them -------------------------------------------------------------------


def test_same_seed_same_text() -> None:
    assert generate(7) == generate(7)
    assert len({generate(seed) for seed in SEEDS}) == len(SEEDS)


def test_text_of_a_seed_stays_what_it_is() -> None:
    # Scores are reported for towns by name: a changed generator must not change what Gen01 is.
    assert hashlib.sha256(generate(1).encode()).hexdigest()[:16] == "a4d8e35ed9459733"


def test_parsing_prints_nothing() -> None:
    code = (
        "import carla; from simulator.towns.generate import generate\n"
        f"for seed in {SEEDS}:\n"
        "    town_map = carla.Map('town', generate(seed)); town_map.get_topology(); town_map.generate_waypoints(5.0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"")


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_random_walks_never_jump_or_end(maps: dict[int, carla.Map], seed: int) -> None:
    rng = random.Random(seed)
    starts = [w for w in maps[seed].generate_waypoints(10.0) if w.lane_type == carla.LaneType.Driving]
    for _ in range(200):
        waypoint, place = rng.choice(starts), None
        for _ in range(210):
            here = waypoint.transform.location
            assert place is None or here.distance(place) < 1.5 * STEP_M
            place, choices = here, waypoint.next(STEP_M)
            assert choices, f"dead end on road {waypoint.road_id} lane {waypoint.lane_id} at {here}"
            waypoint = rng.choice(choices)


@pytest.mark.parametrize("seed", SEEDS)
def test_headings_follow_the_lanes(maps: dict[int, carla.Map], seed: int) -> None:
    for waypoint in maps[seed].generate_waypoints(4.0):
        for after in waypoint.next(1.0):
            turn_deg = (after.transform.rotation.yaw - waypoint.transform.rotation.yaw + 180.0) % 360.0 - 180.0
            assert abs(turn_deg) < math.degrees(1.0 / 6.0) + 1.0, "sharper than 6 m radius"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_lane_is_reachable_from_every_other(maps: dict[int, carla.Map], seed: int) -> None:
    forward, backward = _lane_graph(maps[seed])
    start = min(forward)
    assert _reached(forward, start) == _reached(backward, start) == set(forward)


def _lane_graph(town_map: carla.Map) -> tuple[dict, dict]:
    """Edges between lanes (road, section, lane): successors, and lane changes where the paint allows them."""
    forward, backward = defaultdict(set), defaultdict(set)

    def key(waypoint: carla.Waypoint) -> tuple[int, int, int]:
        return waypoint.road_id, waypoint.section_id, waypoint.lane_id

    for waypoint in town_map.generate_waypoints(3.0):
        others = [*waypoint.next(4.0)]
        if waypoint.lane_change in (carla.LaneChange.Left, carla.LaneChange.Both):
            others.append(waypoint.get_left_lane())
        if waypoint.lane_change in (carla.LaneChange.Right, carla.LaneChange.Both):
            others.append(waypoint.get_right_lane())
        for other in others:
            if other is not None and other.lane_type == carla.LaneType.Driving:
                forward[key(waypoint)].add(key(other))
                backward[key(other)].add(key(waypoint))
    return forward, backward


def _reached(edges: dict, start: tuple) -> set:
    seen, stack = {start}, [start]
    while stack:
        fresh = edges[stack.pop()] - seen
        seen |= fresh
        stack += fresh
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_towns_have_what_driving_needs(maps: dict[int, carla.Map], towns: dict[int, Town], seed: int) -> None:
    town_map, town = maps[seed], towns[seed]
    lights = {landmark.id for landmark in town_map.get_all_landmarks_of_type("1000001")}
    signs = {landmark.id for landmark in town_map.get_all_landmarks_of_type("206")}
    assert lights == {light.opendrive_id for light in town.lights} and len(lights) >= 6
    assert signs == {sign.opendrive_id for sign in town.stop_signs} and len(signs) >= 2
    junctions = {w.junction_id for w in town_map.generate_waypoints(2.0) if w.is_junction}
    assert len(junctions) >= 6
    assert len(town_map.get_crosswalks()) == 5 * town.opendrive.count('type="crosswalk"') >= 30
    for kind in ("parking", "shoulder", "sidewalk"):
        assert f'type="{kind}"' in town.opendrive
    assert len(town.spawn_points) >= 60


@pytest.mark.parametrize("seed", SEEDS)
def test_most_roads_bend(maps: dict[int, carla.Map], seed: int) -> None:
    lanes = defaultdict(list)
    for waypoint in maps[seed].generate_waypoints(2.0):
        if not waypoint.is_junction:
            lanes[waypoint.road_id, waypoint.lane_id].append(waypoint.transform.location)
    long_lanes = [places for places in lanes.values() if len(places) > 15]
    bent = [max(_off_chord_m(places[0], places[-1], p) for p in places) > 1.75 for places in long_lanes]
    assert np.mean(bent) > 0.6, "a straight line between the ends of a road would stay in lane"


def _off_chord_m(a: carla.Location, b: carla.Location, p: carla.Location) -> float:
    return abs((b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x)) / max(math.hypot(b.x - a.x, b.y - a.y), 1e-6)


# ---- signals --------------------------------------------------------------------------------------------


def inside(item: object, x_m: float, y_m: float, margin_m: float = 1e-3) -> bool:
    x0, y0, _, _, yaw_deg, _ = item.transform
    yaw_rad, dx, dy = math.radians(yaw_deg), x_m - x0, y_m - y0
    u, v = dx * math.cos(yaw_rad) + dy * math.sin(yaw_rad), -dx * math.sin(yaw_rad) + dy * math.cos(yaw_rad)
    centre, extent = item.trigger_box
    return abs(u - centre[0]) <= extent[0] + margin_m and abs(v - centre[1]) <= extent[1] + margin_m


@pytest.mark.parametrize("seed", SEEDS)
def test_lights_hold_every_lane_of_their_approach(maps: dict, towns: dict[int, Town], seed: int) -> None:
    town_map, town = maps[seed], towns[seed]
    held = {(stop.road_id, stop.lane_id) for light in town.lights for stop in light.stop_points}
    for junction in {light.group for light in town.lights}:
        entries = [
            pair[0] for w in town_map.generate_waypoints(5.0) if w.junction_id == junction
            for pair in w.get_junction().get_waypoints(carla.LaneType.Driving)
        ]  # fmt: skip
        assert entries and all((entry.road_id, entry.lane_id) in held for entry in entries)
    for light in town.lights:
        assert light.stop_points and all(inside(light, stop.x_m, stop.y_m) for stop in light.stop_points)
        for stop in light.stop_points:
            across_deg = (light.transform[4] - stop.yaw_deg) % 360.0
            assert abs(across_deg - 90.0) < 3.0
            waypoint = town_map.get_waypoint_xodr(stop.road_id, stop.lane_id, 0.2)
            entry = waypoint.previous(2.0)[0].transform.location
            assert inside(light, entry.x, entry.y)


@pytest.mark.parametrize("seed", SEEDS)
def test_lights_are_in_view_from_the_stop_line(towns: dict[int, Town], seed: int) -> None:
    for light in towns[seed].lights:
        for stop in light.stop_points:
            yaw_rad = math.radians(stop.yaw_deg)
            dx, dy = light.transform[0] - stop.x_m, light.transform[1] - stop.y_m
            ahead_m = dx * math.cos(yaw_rad) + dy * math.sin(yaw_rad) + CAMERA_BEHIND_LINE_M
            right_m = -dx * math.sin(yaw_rad) + dy * math.cos(yaw_rad)
            assert 9.0 < ahead_m < 45.0
            assert abs(math.degrees(math.atan2(right_m, ahead_m))) < HALF_VIEW_DEG - 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_phases_count_up_and_lights_stand_off_the_road(maps: dict, towns: dict[int, Town], seed: int) -> None:
    phases = defaultdict(set)
    for light in towns[seed].lights:
        phases[light.group].add(light.phase)
        place = carla.Location(*light.transform[:3])
        lane = maps[seed].get_waypoint(place, lane_type=carla.LaneType.Any)
        assert lane.lane_type == carla.LaneType.Sidewalk
    assert all(sorted(numbers) == list(range(len(numbers))) and len(numbers) >= 2 for numbers in phases.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_stop_signs_trigger_on_the_lane_before_the_junction(maps: dict, towns: dict[int, Town], seed: int) -> None:
    for sign in towns[seed].stop_signs:
        (u, v, w), extent = sign.trigger_box
        place = carla.Transform(
            carla.Location(*sign.transform[:3]), carla.Rotation(*sign.transform[3:5], sign.transform[5])
        ).transform(carla.Location(u, v, w))
        lane = maps[seed].get_waypoint(place)
        assert not lane.is_junction and lane.transform.location.distance_2d(place) < 0.3
        ahead = lane.next(extent[1] + 1.0)[0]
        assert ahead.is_junction
        assert extent[0] < lane.lane_width / 2.0


# ---- spawn points, ground, limits -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_spawn_points_stand_on_lanes(maps: dict, towns: dict[int, Town], seed: int) -> None:
    _check_spawn_points(maps[seed], towns[seed])


def _check_spawn_points(town_map: carla.Map, town: Town) -> None:
    points = np.array(town.spawn_points)
    for x, y, z, _, yaw, _ in town.spawn_points:
        waypoint = town_map.get_waypoint(carla.Location(x, y, z), project_to_road=False)
        assert waypoint is not None and waypoint.lane_type == carla.LaneType.Driving
        assert 0.3 <= z - waypoint.transform.location.z <= 0.5
        near = town_map.get_waypoint(carla.Location(x, y, z))
        assert abs((near.transform.rotation.yaw - yaw + 180.0) % 360.0 - 180.0) < 5.0 or near.is_junction
    gaps = np.linalg.norm(points[:, None, :3] - points[None, :, :3], axis=2) + 100.0 * np.eye(len(points))
    assert gaps.min() > 2.8
    _check_room_for_lorries(town)


def _check_room_for_lorries(town: Town) -> None:
    x, y, z, _, yaw, _ = np.array(town.spawn_points).T
    extents = (np.full(len(x), extent) for extent in extent_m("vehicle.carlamotors.firetruck"))
    assert len(overlapping_pairs(x, y, z, yaw, *extents)) == 0


def test_lorries_have_room_where_lanes_converge() -> None:
    _check_room_for_lorries(load_town("Motorway01"))


@pytest.mark.parametrize("seed", SEEDS)
def test_ground_and_limits_follow_the_roads(maps: dict, towns: dict[int, Town], seed: int) -> None:
    _check_ground(maps[seed], towns[seed], 0.05)
    waypoints = maps[seed].generate_waypoints(7.0)
    x, y = (np.array([getattr(w.transform.location, axis) for w in waypoints]) for axis in "xy")
    limits = towns[seed].speed_limits_kmh(x, y)
    assert set(limits) <= {20.0, 30.0, 40.0, 50.0} and len(set(limits)) >= 2


def _check_ground(town_map: carla.Map, town: Town, error_m: float, share: float = 0.999) -> None:
    places = np.array(
        [
            (w.transform.location.x, w.transform.location.y, w.transform.location.z)
            for w in town_map.generate_waypoints(3.0)
        ]
    )
    heights = town.heights(places[:, 0], places[:, 1], places[:, 2])
    assert not np.isnan(heights).any()
    assert np.quantile(np.abs(heights - places[:, 2]), share) < error_m


def test_some_towns_have_hills(towns: dict[int, Town]) -> None:
    rises = [float(np.ptp([point[2] for point in town.spawn_points])) for town in towns.values()]
    assert any(rise > 1.0 for rise in rises) and any(rise < 1e-3 for rise in rises)


def test_no_ground_far_out(towns: dict[int, Town]) -> None:
    assert np.isnan(towns[1].heights(np.array([1e5, np.nan]), np.array([0.0, 0.0]))).all()
    assert towns[1].speed_limits_kmh(np.array([1e5, np.nan]), np.array([0.0, 0.0])).tolist() == [30.0, 30.0]


def test_bridge_and_road_below_have_their_own_heights() -> None:
    along = np.arange(-40.0, 40.0, 0.5)
    across = np.arange(-3.0, 3.1, 0.5)
    s, t = (grid.ravel() for grid in np.meshgrid(along, across))
    flat, limit = np.zeros(2 * s.size), np.full(2 * s.size, 50.0)
    x, y = np.concatenate([s, t]), np.concatenate([t, s])
    grid = rasterise(LaneSamples(x, y, np.repeat([0.0, 6.0], s.size), flat, flat, limit))
    crossing = np.zeros(1)
    assert grid.heights(crossing, crossing)[0] == 6.0
    assert grid.heights(crossing, crossing, np.array([5.0]))[0] == 6.0
    assert grid.heights(crossing, crossing, np.array([0.3]))[0] == 0.0
    for y_m in (2.6, 3.1, 3.4, 3.9):
        assert grid.heights(np.array([y_m]), crossing, np.array([0.0]))[0] == 0.0
    for x_m in (2.4, 2.9, 3.2):
        assert grid.heights(np.array([x_m]), crossing, np.array([6.0]))[0] == 6.0


def test_hundred_heights_take_microseconds(towns: dict[int, Town]) -> None:
    x, y = np.random.default_rng(0).uniform(-100.0, 100.0, (2, 100))
    towns[1].heights(x, y)
    best_s = math.inf
    for _ in range(50):
        start = time.perf_counter()
        towns[1].heights(x, y)
        best_s = min(best_s, time.perf_counter() - start)
    assert best_s < 50e-6


# ---- CARLA's towns --------------------------------------------------------------------------------------

TOWN10HD_STOP_SIGNS = 5 if importlib.metadata.version("carla") == "0.9.15" else 3
"""The client of 0.9.16 does not find two of the file's."""


@pytest.mark.parametrize(
    ("name", "lights", "stop_signs"),
    [("Town01", 36, 0), ("Town02", 24, 0), ("Town07", 17, 19), ("Town10HD", 17, TOWN10HD_STOP_SIGNS)],
)
def test_real_towns_keep_their_signals(shared_dir: Path, name: str, lights: int, stop_signs: int) -> None:
    town = real_town(shared_dir, name)
    assert (len(town.lights), len(town.stop_signs)) == (lights, stop_signs)
    town_map = carla.Map(name, town.opendrive)
    for light in town.lights:
        assert all(inside(light, stop.x_m, stop.y_m) for stop in light.stop_points)
        assert all(abs((light.transform[4] - stop.yaw_deg) % 360.0 - 90.0) < 25.0 for stop in light.stop_points)
    assert all(max(sign.trigger_box.extent_m[:2]) < 4.0 for sign in town.stop_signs)
    assert len(town.spawn_points) >= 60
    _check_spawn_points(town_map, town)
    _check_ground(town_map, town, 0.15, 0.99)  # the connecting roads of a junction of Town07 differ by 0.6 m


@pytest.mark.parametrize("name", REAL_TOWNS)
def test_real_towns_load_and_their_lanes_have_length(shared_dir: Path, name: str) -> None:
    town = real_town(shared_dir, name)
    lanes = carla.Map(name, town.opendrive).get_topology()
    assert min(a.transform.location.distance(b.transform.location) for a, b in lanes) > 1e-3
    start = time.perf_counter()
    real_town(shared_dir, name)
    assert time.perf_counter() - start < 1.0


def test_lights_without_controllers_share_phases_by_street(shared_dir: Path) -> None:
    text = (shared_dir / "towns" / "Town02.xodr").read_text().replace("<controller ", "<absent ")
    town = town_from_text("Town02", text.replace("</controller>", "</absent>"))
    groups = defaultdict(lambda: defaultdict(list))
    for light in town.lights:
        groups[light.group][light.phase].append(light.transform[4])
    assert len(groups) == 8
    for phases in groups.values():
        assert sorted(len(yaws) for yaws in phases.values()) == [1, 2], (
            "a T: the through street together, the stem alone"
        )


# ---- names, cache, hostile input ------------------------------------------------------------------------


def test_names(tmp_path: Path) -> None:
    (tmp_path / "Mine.xodr").write_text(generate(3))
    assert available_towns(tmp_path)[0] == "Gen01" and "Mine" in available_towns(tmp_path)
    carlas = tmp_path / "Yours" / "OpenDrive"
    carlas.mkdir(parents=True)
    (carlas / "Yours.xodr").write_text(generate(3))
    assert load_town("Yours", tmp_path).lights == load_town("Mine", tmp_path).lights
    assert load_town("Mine", tmp_path).lights == load_town(str(tmp_path / "Mine.xodr")).lights
    for name in ("Town99", "Gen1", "Gen", "../Mine", "", "Gen-1"):
        with pytest.raises(TownError, match=r"there is no town .*Gen01.*Mine"):
            load_town(name, tmp_path)
    with pytest.raises(TownError, match="cannot be read"):
        load_town(str(tmp_path / "absent.xodr"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "raw2drive" / "towns"


def test_damaged_cache_is_rebuilt(own_cache: Path) -> None:
    first = load_town("Gen01")
    (file,) = own_cache.iterdir()
    good = file.read_bytes()
    middle = len(good) // 2
    for damaged in (
        good[:1000],
        b"",
        good[:middle] + bytes(64) + good[middle + 64 :],
        good[:50] + b"\xff" * 9 + good[59:],
    ):
        file.write_bytes(damaged)
        again = load_town("Gen01")
        assert again.spawn_points == first.spawn_points and again.lights == first.lights
        assert list(own_cache.iterdir()) == [file] and len(file.read_bytes()) > middle
    start = time.perf_counter()
    load_town("Gen01")
    assert time.perf_counter() - start < 1.0


ROAD = (
    '<road id="{0}" length="20" junction="-1"><planView><geometry s="{1}" x="0" y="0" hdg="0" length="20"><line/>'
    '</geometry></planView><lanes><laneSection s="0"><center><lane id="0" type="none"/></center><right><lane id="-1" '
    'type="driving"><width sOffset="0" a="3" b="0" c="0" d="0"/></lane></right></laneSection></lanes></road>'
)
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><OpenDRIVE>&y;</OpenDRIVE>'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not well-formed"),
        ("hello", "not well-formed"),
        ("<OpenDRIVE><road", "not well-formed"),
        ("<html/>", "root element"),
        (BOMB, "entities are not allowed"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><OpenDRIVE/>', "entities are not allowed"),
        ("<OpenDRIVE><header/></OpenDRIVE>", "has no road"),
        ('<OpenDRIVE><road id="x" length="1"/></OpenDRIVE>', "not a whole number"),
        ('<OpenDRIVE><road id="1" length="nan"/></OpenDRIVE>', "not a usable number"),
        ('<OpenDRIVE><road id="1" length="1e300"/></OpenDRIVE>', "not a usable number"),
        ('<OpenDRIVE><road id="1" length="10"><planView/></road></OpenDRIVE>', "no plan view"),
        (f"<OpenDRIVE>{ROAD.format(1, 0)}{ROAD.format(1, 0)}</OpenDRIVE>", "exists twice"),
        (f"<OpenDRIVE>{ROAD.format(1, 5)}</OpenDRIVE>", "SIGSEGV"),
        (generate(1).replace('elementId="', 'elementId="9'), "does not exist"),
        (generate(1).replace('incomingRoad="', 'incomingRoad="9'), "does not exist"),
    ],
)
def test_hostile_text_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(TownError, match=complaint) as caught:
        town_from_text("Evil", text)
    assert str(caught.value).startswith("Evil: ") and "\n" not in str(caught.value)


def test_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(town_module, "MAX_BYTES", 1000)
    (tmp_path / "Big.xodr").write_text(generate(1))
    with pytest.raises(TownError, match="at most"):
        load_town("Big", tmp_path)
    with pytest.raises(TownError, match="at most"):
        town_from_text("Big", generate(1))


def test_text_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Bytes.xodr").write_bytes(b"\xff\xfe\x00<")
    with pytest.raises(TownError, match="not UTF-8"):
        load_town("Bytes", tmp_path)
