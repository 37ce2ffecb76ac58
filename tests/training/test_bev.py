"""BEV words: geometry against plain formulas, on a real map and on open ground."""

import math
import time

import carla
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.towns.generate import generate
from training import bev

OPEN_GROUND = bev.StaticMap(bits=np.zeros((8, 8), np.uint8), origin_m=np.array([-1000.0, -1000.0]))
NO_ROUTE = bev.Corridor(np.array([[900.0, 900.0, 0.0]]), np.ones(1), np.ones(1))
MAX_PAINT_S = 3e-4
ACTORS = 60


@pytest.fixture(scope="module")
def town() -> carla.Map:
    return carla.Map("Gen02", generate(2))


def paint_box(pose, box, channel=bev.VEHICLE) -> np.ndarray:
    dynamic = bev.DynamicBoxes(np.array([box]), np.array([channel]))
    return bev.paint(OPEN_GROUND, pose, (2.4, 0.9), NO_ROUTE, 0, dynamic)


def random_boxes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten boxes in view with random sizes, headings and dynamic channels."""
    generator = np.random.default_rng(seed)
    boxes = generator.uniform((-15.0, -28.0, -3.1, 0.8, 0.8), (40.0, 28.0, 3.1, 5.0, 1.3), (10, 5))
    return boxes, generator.integers(bev.VEHICLE, bev.CHANNELS, 10)


def mask(words: np.ndarray, channel: int) -> np.ndarray:
    return bev.unpack(words, [channel])[0]


def test_channel_list_is_complete() -> None:
    assert bev.STOP_SIGN + len(bev.HISTORY_S) == bev.CHANNELS == 43 == len(set(bev.CHANNEL_NAMES))
    assert (
        bev.CHANNEL_NAMES[bev.VEHICLE + 2] == "vehicle, 0.5 s ago"
        and bev.CHANNEL_NAMES[bev.RED] == "red light, 0 s ago"
    )
    assert bev.VEHICLE == 7 and bev.GREEN == 27 and bev.YELLOW == 31 and bev.RED == 35 and bev.STOP_SIGN == 39


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    yaw=st.floats(-math.pi, math.pi),
    ahead=st.floats(-15, 40),
    left=st.floats(-28, 28),
    turn=st.floats(-math.pi, math.pi),
)
def test_a_box_is_painted_where_it_stands(x, y, yaw, ahead, left, turn) -> None:
    """Centre of the painted pixels and their area agree with the box, wherever the ego stands."""
    box = (
        x + ahead * math.cos(yaw) - left * math.sin(yaw),
        y + ahead * math.sin(yaw) + left * math.cos(yaw),
        yaw + turn,
        2.0,
        1.0,
    )
    rows, columns = np.nonzero(mask(paint_box((x, y, yaw), box), bev.VEHICLE))
    assert len(rows)
    assert (bev.EGO_ROW_PX - rows.mean() - 0.5) / bev.PIXELS_PER_M == pytest.approx(ahead, abs=0.3)
    assert (bev.SIZE_PX / 2 - columns.mean() - 0.5) / bev.PIXELS_PER_M == pytest.approx(left, abs=0.3)
    assert len(rows) / bev.PIXELS_PER_M**2 == pytest.approx(8.0, rel=0.3)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(-500, 500), y=st.floats(-500, 500), yaw=st.floats(-math.pi, math.pi), seed=st.integers(0, 2**32 - 1))
def test_moving_and_turning_the_whole_scene_changes_nothing(x, y, yaw, seed) -> None:
    """Only pixels whose centre lies on a box's very edge may differ: none but for rounding."""
    boxes, channels = random_boxes(seed)
    here = bev.paint(OPEN_GROUND, (0.0, 0.0, 0.0), (2.4, 0.9), NO_ROUTE, 0, bev.DynamicBoxes(boxes, channels))
    moved = boxes.copy()
    moved[:, 0] = x + boxes[:, 0] * math.cos(yaw) - boxes[:, 1] * math.sin(yaw)
    moved[:, 1] = y + boxes[:, 0] * math.sin(yaw) + boxes[:, 1] * math.cos(yaw)
    moved[:, 2] += yaw
    there = bev.paint(OPEN_GROUND, (x, y, yaw), (2.4, 0.9), NO_ROUTE, 0, bev.DynamicBoxes(moved, channels))
    assert int((here ^ there != 0).sum()) <= 2


@given(steps=st.integers(-20, 20), sideways=st.integers(-20, 20), seed=st.integers(0, 2**32 - 1))
def test_driving_a_pixel_shifts_the_view_by_a_pixel(steps, sideways, seed) -> None:
    boxes, channels = random_boxes(seed)
    dynamic = bev.DynamicBoxes(boxes, channels)
    others = ~(np.uint64(1) << np.uint64(bev.EGO))
    here = bev.paint(OPEN_GROUND, (0.0, 0.0, 0.0), (2.4, 0.9), NO_ROUTE, 0, dynamic) & others
    there = bev.paint(OPEN_GROUND, (0.5 * steps, 0.5 * sideways, 0.0), (2.4, 0.9), NO_ROUTE, 0, dynamic) & others
    shifted = np.roll(here, (steps, sideways), (0, 1))  # what was ahead comes down, what was to the left goes right
    inside = slice(20, bev.SIZE_PX - 20)
    np.testing.assert_array_equal(there[inside, inside], shifted[inside, inside])


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_boxes_does_not_matter(seed) -> None:
    boxes, channels = random_boxes(seed)
    order = np.random.default_rng(seed).permutation(len(boxes))
    pose = (1.0, 2.0, 0.3)
    first = bev.paint(OPEN_GROUND, pose, (2.4, 0.9), NO_ROUTE, 0, bev.DynamicBoxes(boxes, channels))
    second = bev.paint(OPEN_GROUND, pose, (2.4, 0.9), NO_ROUTE, 0, bev.DynamicBoxes(boxes[order], channels[order]))
    np.testing.assert_array_equal(first, second)


def test_boxes_outside_the_view_paint_nothing() -> None:
    for ahead, left in ((60.0, 0.0), (-30.0, 0.0), (0.0, 40.0), (0.0, -40.0)):
        assert not mask(paint_box((0.0, 0.0, 0.0), (ahead, left, 0.3, 2.0, 1.0)), bev.VEHICLE).any()


def test_small_bodies_are_enlarged() -> None:
    words = paint_box((0.0, 0.0, 0.0), (10.0, 0.0, 0.0, 0.1, 0.1), bev.WALKER)
    assert mask(words, bev.WALKER).sum() >= 4


def test_ego_is_constant_and_only_there() -> None:
    first = mask(paint_box((0.0, 0.0, 0.0), (10.0, 0.0, 0.0, 2.0, 1.0)), bev.EGO)
    second = mask(paint_box((33.3, -7.0, 2.0), (10.0, 0.0, 0.0, 2.0, 1.0)), bev.EGO)
    np.testing.assert_array_equal(first, second)
    assert first[bev.EGO_ROW_PX - 1, 64] == 1 and first.sum() / 4 == pytest.approx(4.8 * 1.8, rel=0.3)


def test_static_map_agrees_with_the_carla_map(town: carla.Map) -> None:
    """Road pixels are where carla.Map finds a driving lane, at 400 random places near lanes."""
    static = bev.build_static_map(town)
    generator = np.random.default_rng(0)
    waypoints = town.generate_waypoints(7.0)
    agree = 0
    for _ in range(400):
        location = waypoints[generator.integers(len(waypoints))].transform.location
        x, y = location.x + generator.normal() * 4.0, location.y + generator.normal() * 4.0
        found = town.get_waypoint(carla.Location(x, y, 0.0), False, carla.LaneType.Driving) is not None
        column = int((x - static.origin_m[0]) * bev.MAP_PIXELS_PER_M)
        row = int((-y - static.origin_m[1]) * bev.MAP_PIXELS_PER_M)
        agree += found == bool(static.bits[row, column] & 1)
    assert agree / 400 > 0.95


def test_corridor_lies_on_the_road_and_painting_is_fast(town: carla.Map) -> None:
    static = bev.build_static_map(town)
    waypoint = next(w for w in town.generate_waypoints(10.0) if not w.is_junction)
    waypoints = [waypoint]
    while len(waypoints) < 60:
        waypoints.append(waypoints[-1].next(1.0)[0])
    corridor = bev.build_corridor(waypoints)
    pose = tuple(corridor.points[5])
    slices = len(bev.HISTORY_S)
    boxes = np.tile(np.array([[0.0, 0.0, 0.0, 2.4, 1.0]]), (slices * ACTORS, 1))
    boxes[:, :2] = pose[:2] + np.random.default_rng(0).uniform(-30.0, 30.0, (slices * ACTORS, 2))
    dynamic = bev.DynamicBoxes(boxes, np.tile(np.arange(bev.VEHICLE, bev.VEHICLE + slices), ACTORS))
    words = bev.paint(static, pose, (2.4, 0.9), corridor, 5, dynamic)
    route, lanes, road = (mask(words, channel) for channel in (bev.ROUTE, bev.EGO_LANES, bev.ROAD))
    assert route.sum() > 100
    assert (route & lanes).sum() / route.sum() > 0.9
    assert (lanes & road).sum() / lanes.sum() > 0.9
    durations = []
    for _ in range(30):
        start = time.process_time()
        bev.pool(bev.paint(static, pose, (2.4, 0.9), corridor, 5, dynamic), 2)
        durations.append(time.process_time() - start)
    assert np.median(durations) < MAX_PAINT_S


def route_points(radius_m: float, gaps_m: list[float]) -> np.ndarray:
    """Points (n, 3) that far apart on a straight (infinite radius) or on an arc to the left."""
    at_m = np.concatenate([[0.0], np.cumsum(gaps_m)])
    if math.isinf(radius_m):
        return np.stack([at_m, 0.0 * at_m, 0.0 * at_m], 1)
    turned = at_m / radius_m
    return np.stack([radius_m * np.sin(turned), radius_m * (1.0 - np.cos(turned)), turned], 1)


@settings(max_examples=30, deadline=None)
@given(
    radius_m=st.sampled_from([math.inf, 60.0, 12.0, 6.0]),
    gaps_m=st.lists(st.floats(0.5, 2.0), min_size=8, max_size=25),
    yaw=st.floats(-math.pi, math.pi),
)
def test_no_crack_between_the_points_of_a_route(radius_m: float, gaps_m: list[float], yaw: float) -> None:
    """Every pixel whose centre lies in the lane, between first and last point, is set; none farther out is."""
    points = route_points(radius_m, gaps_m)
    corridor = bev.Corridor(points, np.full(len(points), 1.75), np.full(len(points), 1.75))
    words = bev.paint(OPEN_GROUND, (0.0, 0.0, yaw), (2.4, 0.9), corridor, 0, bev.DynamicBoxes(np.empty((0, 5)), []))
    rows, columns = np.indices((bev.SIZE_PX, bev.SIZE_PX))
    ahead = (bev.EGO_ROW_PX - rows - 0.5) / bev.PIXELS_PER_M
    left = (bev.SIZE_PX / 2 - columns - 0.5) / bev.PIXELS_PER_M
    x = ahead * math.cos(yaw) - left * math.sin(yaw)
    y = ahead * math.sin(yaw) + left * math.cos(yaw)
    if math.isinf(radius_m):
        along, aside = x, y
    else:
        along = radius_m * np.mod(np.arctan2(x, radius_m - y), 2.0 * math.pi)
        aside = radius_m - np.hypot(x, radius_m - y)
    within = (along >= 0.0) & (along <= min(sum(gaps_m), 5.0 * min(radius_m, 1e6)))
    for channel, half_width_m in ((bev.ROUTE, bev.ROUTE_HALF_WIDTH_M), (bev.EGO_LANES, 1.75)):
        painted = mask(words, channel).astype(bool)
        assert painted[within & (np.abs(aside) < half_width_m - 0.1)].all()
        assert not painted[np.abs(aside) > half_width_m + 0.25].any()


def test_no_crack_where_roads_meet(town: carla.Map) -> None:
    """Every place well inside a driving lane is road, at the ends of roads and in bends as well."""
    static = bev.build_static_map(town)
    missed = checked = 0
    for waypoint in town.generate_waypoints(0.37):
        x, y, yaw = bev._pose(waypoint)
        half_width_m = 0.5 * waypoint.lane_width - 0.2
        for aside in (-half_width_m, 0.0, half_width_m):
            column = int((x - aside * math.sin(yaw) - static.origin_m[0]) * bev.MAP_PIXELS_PER_M)
            row = int((y + aside * math.cos(yaw) - static.origin_m[1]) * bev.MAP_PIXELS_PER_M)
            missed += not static.bits[row, column] & 1
            checked += 1
    assert checked > 10_000 and missed == 0


def test_pooling_keeps_every_bit() -> None:
    words = np.random.default_rng(0).integers(0, 2**43, (128, 128), dtype=np.uint64)
    pooled = bev.pool(words, 2)
    for channel in (0, 17, 42):
        full = mask(words, channel).reshape(64, 2, 64, 2).max((1, 3))
        np.testing.assert_array_equal(mask(pooled, channel), full)
    with pytest.raises(ValueError, match="cannot pool"):
        bev.pool(words, 3)


def test_crop_is_in_the_ego_frame() -> None:
    words = paint_box((0.0, 0.0, 0.0), (10.0, 5.0, 0.0, 1.0, 1.0))
    view = mask(bev.crop(words, (0.0, 20.0), (-10.0, 10.0)), bev.VEHICLE)
    rows, columns = np.nonzero(view)
    assert view.shape == (40, 40)
    assert rows.mean() == pytest.approx(19.5, abs=1.0), "10 m ahead of 20"
    assert columns.mean() == pytest.approx(9.5, abs=1.0), "5 m to the left"
    with pytest.raises(ValueError, match="crop"):
        bev.crop(words, (0.0, 60.0), (-10.0, 10.0))
