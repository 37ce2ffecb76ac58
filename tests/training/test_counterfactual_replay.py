"""Replaying ego motions among logged boxes: geometry, labels, followers, the road's edge."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.counterfactual import BASE, EGO_HALF, Body, moved, open_ground, road_log, road_map
from training import bev
from training.counterfactual.candidates import CandidateConfig, propose
from training.counterfactual.motion import VehicleLimits, integrate, logged_motion, start_state
from training.counterfactual.outcome import FutureKind, kinds, usable
from training.counterfactual.replay import (
    CONTACT_M,
    HORIZON_TICKS,
    NO,
    distance,
    idm_accel,
    make_scene,
    replay,
    separation,
)
from training.counterfactual.surface import PROBES_LONG, Surface, outside_share

GROUND = open_ground()
ROAD = Surface.around(road_map(), np.array([[0.0, 0.0], [60.0, 0.0]]))
LIMITS = VehicleLimits()
poses = st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.floats(-math.pi, math.pi))
halves = st.tuples(st.floats(0.2, 6.0), st.floats(0.2, 1.5))
bodies = st.builds(
    Body,
    x=st.floats(-25, 45),
    y=st.floats(-10, 10),
    yaw=st.floats(-math.pi, math.pi),
    speed=st.sampled_from([0.0, 3.0, 8.0, 12.0]),
    half=halves,
    channel=st.sampled_from([bev.VEHICLE, bev.WALKER, bev.BICYCLE, bev.OBSTACLE, bev.EMERGENCY]),
)


def corners(pose, half) -> np.ndarray:
    c, s = math.cos(pose[2]), math.sin(pose[2])
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * half
    return np.stack([pose[0] + signs[:, 0] * c - signs[:, 1] * s, pose[1] + signs[:, 0] * s + signs[:, 1] * c], 1)


def common_area(a: np.ndarray, b: np.ndarray) -> float:
    """Area of the intersection of two convex polygons (corners counter-clockwise), by clipping: another method."""
    polygon = list(a)
    for start, end in zip(b, np.roll(b, -1, 0), strict=True):
        edge = end - start
        side = [edge[0] * (p[1] - start[1]) - edge[1] * (p[0] - start[0]) for p in polygon]
        clipped = []
        for k, p in enumerate(polygon):
            q, here, there = polygon[k - 1], side[k], side[k - 1]
            if (here >= 0.0) != (there >= 0.0):
                clipped.append(q + (p - q) * (there / (there - here)))
            if here >= 0.0:
                clipped.append(p)
        polygon = clipped
        if not polygon:
            return 0.0
    x, y = np.array(polygon).T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


@settings(max_examples=50)
@given(a=poses, b=poses, size=halves, other=halves)
def test_overlap_and_distance_are_symmetric_and_right(a, b, size, other) -> None:
    """Exactly symmetric; an overlap is one for a clipping of the two polygons, too; the gap bounds the distance."""
    first, second = np.array(a), np.array(b)
    gap = separation(first, *size, second, *other)
    assert gap == separation(second, *other, first, *size)
    apart = distance(first, *size, second, *other)
    assert apart == distance(second, *other, first, *size)
    area = common_area(corners(a, size), corners(b, other))
    if gap < -1e-6:
        assert area > 0.0 and apart == 0.0
    if gap > 1e-6:
        assert area < 1e-9 and apart >= gap - 1e-9
        edge = np.linspace(0.0, 1.0, 60)[:, None]
        outlines = []
        for shape in (corners(a, size), corners(b, other)):
            outlines.append(
                np.concatenate([p + edge * (q - p) for p, q in zip(shape, np.roll(shape, -1, 0), strict=True)])
            )
        sampled = np.hypot(*(outlines[0][:, None] - outlines[1][None]).transpose(2, 0, 1)).min()
        assert apart <= sampled + 1e-9 and sampled - apart < 0.25


@settings(max_examples=40)
@given(
    actors=st.lists(bodies, min_size=1, max_size=5),
    x=st.floats(-300, 300),
    y=st.floats(-300, 300),
    yaw=st.floats(-math.pi, math.pi),
    seed=st.integers(0, 2**16),
)
def test_labels_do_not_depend_on_where_the_world_lies(actors, x, y, yaw, seed) -> None:
    """The same motions in a world that is turned and moved: same contacts, partners, speeds, progress, kinds."""
    log = road_log(actors)
    scene = make_scene(log, BASE)
    config = CandidateConfig(searched=0)
    motions = propose(log, scene, GROUND, config, np.random.default_rng(seed)).motions
    here = replay(scene, GROUND, motions)
    there_log = moved(log, x, y, yaw)
    c, s = math.cos(yaw), math.sin(yaw)
    turned = motions.copy()
    turned[..., 0], turned[..., 1] = (
        x + motions[..., 0] * c - motions[..., 1] * s,
        y + motions[..., 0] * s + motions[..., 1] * c,
    )
    turned[..., 2] += yaw
    there_scene = make_scene(there_log, BASE)
    there = replay(there_scene, GROUND, turned)
    np.testing.assert_array_equal(here.contact_tick, there.contact_tick)
    np.testing.assert_array_equal(here.partner, there.partner)
    np.testing.assert_array_equal(here.struck, there.struck)
    np.testing.assert_allclose(here.impact_mps, there.impact_mps, atol=1e-4)
    np.testing.assert_allclose(here.clearance_m, there.clearance_m, atol=1e-4)
    np.testing.assert_allclose(here.progress_m, there.progress_m, atol=1e-3)
    np.testing.assert_array_equal(kinds(log, scene, motions, here), kinds(there_log, there_scene, turned, there))


def test_off_road_labels_turn_with_the_world() -> None:
    """Turned by a right angle the raster is the same one, read in another order."""
    log = road_log([])
    here = Surface.around(road_map(), log.ego[:, :2])
    size = np.array(here.drivable.shape)
    there = Surface(
        np.ascontiguousarray(here.drivable.T[:, ::-1]),
        np.array([-here.origin_m[1] - size[0] / bev.MAP_PIXELS_PER_M, here.origin_m[0]]),
    )
    scene, turned_log = make_scene(log, BASE), moved(log, 0.0, 0.0, math.pi / 2)
    motions = propose(log, scene, here, CandidateConfig(off_road=20), np.random.default_rng(1)).motions
    turned = motions.copy()
    turned[..., 0], turned[..., 1], turned[..., 2] = -motions[..., 1], motions[..., 0], motions[..., 2] + math.pi / 2
    first = replay(scene, here, motions)
    second = replay(make_scene(turned_log, BASE), there, turned)
    assert (first.off_road_tick != NO).sum() > 3
    assert np.abs(first.off_road_tick - second.off_road_tick).max() <= 1, "a probe on a pixel's edge"
    np.testing.assert_allclose(first.outside_share, second.outside_share, atol=0.06)


@settings(max_examples=30)
@given(actors=st.lists(bodies, max_size=4), speed=st.floats(0, 12), accel=st.floats(-3, 3))
def test_the_logged_motion_has_the_logged_outcome(actors, speed, accel) -> None:
    """Nobody reacts, every box is where the log has it, and the first touch is that of the logged boxes."""
    log = road_log(actors, speed, accel)
    scene = make_scene(log, BASE)
    outcome = replay(scene, GROUND, logged_motion(log.ego[BASE : BASE + HORIZON_TICKS + 1])[None])
    logged = log.bodies[BASE : BASE + HORIZON_TICKS + 1].astype(np.float64)
    np.testing.assert_allclose(outcome.others[0], logged[..., :3], atol=1e-9)
    areas = [
        [common_area(corners(log.ego[BASE + t], EGO_HALF + CONTACT_M), corners(row, row[6:8])) for row in logged[t]]
        for t in range(HORIZON_TICKS + 1)
    ]
    touching = np.array(areas).reshape(HORIZON_TICKS + 1, len(actors)) > 1e-6
    first = int(np.argmax(touching.any(1))) if touching.any() else NO
    assert outcome.contact_tick[0] == first or _grazes(log, first, int(outcome.contact_tick[0]))
    if first != NO and outcome.contact_tick[0] == first:
        assert touching[first, outcome.partner[0]]


def _grazes(log, expected: int, found: int) -> bool:
    """Whether the two methods differ only in calling a touch of two edges an overlap."""
    tick = min(t for t in (expected, found) if t != NO)
    rows = log.bodies[BASE + tick].astype(np.float64)
    return any(
        abs(separation(log.ego[BASE + tick], *(EGO_HALF + CONTACT_M), row, row[6], row[7])) < 1e-5 for row in rows
    )


def braking() -> np.ndarray:
    """The ego of `road_log` brakes hard from 8 m/s."""
    start = start_state(road_log([]).ego, BASE, LIMITS)
    return integrate(start, np.full(HORIZON_TICKS, -7.0), np.zeros(HORIZON_TICKS), LIMITS.array())[0]


@pytest.mark.parametrize("gap_m", [3.0, 6.0, 12.0])
def test_a_follower_brakes_for_a_slower_ego(gap_m: float) -> None:
    """As logged it would drive through the braking ego; it stays behind and never runs ahead of its log."""
    log = road_log([Body(-(2 * EGO_HALF[0] + gap_m), 0.0, speed=8.0)])
    scene = make_scene(log, BASE)
    assert scene.follows.tolist() == [True]
    outcome = replay(scene, GROUND, braking()[None])
    blind = replay(replace(scene, follows=np.zeros(1, bool)), GROUND, braking()[None])
    assert blind.contact_tick[0] != NO and blind.struck[0] and not usable(scene, blind)[0]
    assert outcome.contact_tick[0] == NO or (outcome.struck[0] and not usable(scene, outcome)[0])
    if gap_m >= 6.0:
        assert outcome.contact_tick[0] == NO and outcome.clearance_m[0] > 0.3
    way_m = outcome.others[0, :, 0, 0]
    logged_m = log.bodies[BASE : BASE + HORIZON_TICKS + 1, 0, 0]
    assert (way_m <= logged_m + 1e-6).all() and (np.diff(way_m) >= -1e-9).all() and way_m[-1] < logged_m[-1] - 5.0
    assert np.diff(way_m, 2).min() / 0.05**2 > -8.5, "it brakes as hard as a car can"


@pytest.mark.parametrize("to_m", [0.0, 3.5])
def test_who_is_cut_in_on_brakes(to_m: float) -> None:
    """The ego pulls over to the next lane, 6 m before a car there, and brakes; in its own lane that is all the same."""
    log = road_log([Body(-(2 * EGO_HALF[0] + 6.0), 3.5, speed=8.0)])
    scene = make_scene(log, BASE)
    motion = braking()
    motion[:, 1] = to_m * np.clip(np.arange(len(motion)) / 20.0, 0.0, 1.0)
    outcome = replay(scene, GROUND, motion[None])
    logged = log.bodies[BASE : BASE + HORIZON_TICKS + 1, :, :3]
    if to_m:
        blind = replay(replace(scene, follows=np.zeros(1, bool)), GROUND, motion[None])
        assert blind.contact_tick[0] != NO, "as logged it would drive into the ego"
        assert outcome.contact_tick[0] == NO and outcome.others[0, -1, 0, 0] < logged[-1, 0, 0] - 5.0
        np.testing.assert_allclose(outcome.others[0, :, 0, 1], 3.5, atol=1e-6, err_msg="it keeps to its lane")
    else:
        assert outcome.contact_tick[0] == NO
        np.testing.assert_allclose(outcome.others[0], logged, atol=1e-9)


def test_who_does_not_follow_does_not_brake() -> None:
    """Crossing, oncoming and walking others go on as they went, and so does who follows a faster ego."""
    others = [
        Body(10.0, -20.0, math.pi / 2, 8.0),
        Body(60.0, 3.0, math.pi, 8.0),
        Body(-6.0, 0.0, speed=8.0, channel=bev.WALKER),
    ]
    log = road_log(others)
    scene = make_scene(log, BASE)
    assert not scene.follows.any()
    outcome = replay(scene, GROUND, braking()[None])
    np.testing.assert_allclose(outcome.others[0], log.bodies[BASE : BASE + 61, :, :3], atol=1e-9)
    behind = road_log([Body(-9.0, 0.0, speed=8.0)])
    start = start_state(behind.ego, BASE, LIMITS)
    faster = integrate(start, np.full(HORIZON_TICKS, 2.0), np.zeros(HORIZON_TICKS), LIMITS.array())[0]
    outcome = replay(make_scene(behind, BASE), GROUND, faster[None])
    np.testing.assert_allclose(outcome.others[0], behind.bodies[BASE : BASE + 61, :, :3], atol=1e-9)


@given(speed=st.floats(0, 20), gap=st.floats(0.1, 100), closing=st.floats(-10, 20))
def test_intelligent_driver_model(speed, gap, closing) -> None:
    """Bounded, softer with more room, harder when closing faster."""
    value = idm_accel(speed, 14.0, gap, closing)
    assert -8.0 <= value <= 1.5
    assert idm_accel(speed, 14.0, gap + 1.0, closing) >= value
    assert idm_accel(speed, 14.0, gap, closing + 1.0) <= value
    assert idm_accel(10.0, 10.0, math.inf, 0.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("actor", "kind"),
    [
        (Body(20.0, 0.0, speed=2.0), FutureKind.REAR_END),
        (Body(20.0, 0.0), FutureKind.STATIC),
        (Body(20.0, 0.0, half=(0.4, 0.4), channel=bev.OBSTACLE), FutureKind.STATIC),
        (Body(16.0, -12.0, math.pi / 2, 6.0), FutureKind.CROSSING),
        (Body(40.0, 0.0, math.pi, 6.0), FutureKind.CROSSING),
        (Body(16.0, -3.0, math.pi / 2, 1.5, half=(0.3, 0.3), channel=bev.WALKER), FutureKind.WALKER),
        (Body(16.0, 2.5), FutureKind.NEAR_MISS),
        (Body(16.0, 5.0), FutureKind.SAFE),
    ],
)
def test_kinds_of_futures(actor: Body, kind: FutureKind) -> None:
    log = road_log([actor])
    scene = make_scene(log, BASE)
    outcome = replay(scene, GROUND, scene.logged[None])
    assert kinds(log, scene, scene.logged[None], outcome).tolist() == [kind]


def test_time_and_speed_of_an_impact() -> None:
    """8 m/s into a car that stands 20 m ahead: 15.15 m of free road, so 1.9 s; the progress ends there."""
    log = road_log([Body(20.0, 0.0)])
    scene = make_scene(log, BASE)
    outcome = replay(scene, GROUND, scene.logged[None])
    assert outcome.contact_tick[0] == pytest.approx(1.9 / 0.05, abs=1)
    assert outcome.impact_mps[0] == pytest.approx(8.0, abs=1e-5)
    assert outcome.progress_m[0] == pytest.approx(15.2, abs=0.5)
    oncoming = road_log([Body(40.0, 0.0, math.pi, 6.0)])
    scene = make_scene(oncoming, BASE)
    assert replay(scene, GROUND, scene.logged[None]).impact_mps[0] == pytest.approx(14.0, abs=1e-5)


def test_who_was_not_there_is_nothing_to_foresee() -> None:
    log = road_log([Body(20.0, 0.0, since=BASE + 10)])
    scene = make_scene(log, BASE)
    outcome = replay(scene, GROUND, scene.logged[None])
    assert outcome.contact_tick[0] != NO and not usable(scene, outcome)[0]


@given(y=st.floats(-8, 8), yaw=st.floats(-math.pi, math.pi), x=st.floats(0, 60))
def test_share_beside_the_road(x, y, yaw) -> None:
    """The probes beyond a straight edge, counted by hand; a pixel is a quarter of a metre."""
    share = outside_share(ROAD.drivable, ROAD.origin_m, x, y, yaw, *EGO_HALF)
    long, wide = np.meshgrid(np.linspace(-2.4, 2.4, PROBES_LONG), np.linspace(-1.0, 1.0, 5), indexing="ij")
    across = y + long * math.sin(yaw) + wide * math.cos(yaw)
    assert (np.abs(across) > 8.25).mean() - 1e-9 <= share <= (np.abs(across) > 7.75).mean() + 1e-9


def test_gaps_between_lanes_belong_to_the_road() -> None:
    road = np.zeros((200, 200), bool)
    road[40:160, 40:160] = True
    road[98:101, 40:160] = False  # a slit of 0.75 m
    road[60:75, 60:75] = False  # an island of 14 square metres
    road[110:155, 50:95] = False  # one of 127: a park
    surface = Surface.around(bev.StaticMap(road.astype(np.uint8), np.zeros(2)), np.array([[25.0, 25.0]]))
    assert surface.drivable[99, 100] and surface.drivable[67, 67] and not surface.drivable[130, 70]
    assert not surface.drivable[20, 20]


def test_a_future_needs_a_log_that_is_long_enough() -> None:
    with pytest.raises(ValueError, match="a future needs 60"):
        make_scene(road_log([]), 120)
