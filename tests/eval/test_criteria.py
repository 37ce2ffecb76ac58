"""Infraction criteria on a straight road: each rule, its threshold, its message and its once-only logic."""

from __future__ import annotations

import math

import carla
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.criteria import (
    TICK_S,
    Collisions,
    Contact,
    Criteria,
    CriteriaConfig,
    EgoState,
    RunningRedLight,
    RunningStopSign,
    SignalBox,
    make_criteria,
    segments_cross,
)
from eval.planner import RoutePlanner
from eval.scoring import Infraction, Scoring

LANE_Y_M = 1.75
HALF_LENGTH_M = 2.4


def ego(tick: int, x_m: float, speed_mps: float = 8.0, y_m: float = LANE_Y_M, yaw_deg: float = 0.0) -> EgoState:
    yaw_rad = math.radians(yaw_deg)
    return EgoState(
        frame=tick,
        time_s=tick * TICK_S,
        transform=carla.Transform(carla.Location(x_m, y_m, 0.0), carla.Rotation(yaw=yaw_deg)),
        velocity=carla.Vector3D(speed_mps * math.cos(yaw_rad), speed_mps * math.sin(yaw_rad), 0.0),
    )


@pytest.fixture
def make(straight_map: carla.Map):
    """A function making criteria for a route of 100 m from x = 10."""
    plan = RoutePlanner(straight_map).plan([(10.0, LANE_Y_M, 0.0), (110.0, LANE_Y_M, 0.0)])

    def build(scoring: Scoring = Scoring.LEADERBOARD_20) -> Criteria:
        start = plan[0][0].location
        config = CriteriaConfig.for_scoring(scoring)
        return make_criteria(config, plan, straight_map, start=start, half_length_m=HALF_LENGTH_M)

    return build


def drive(criteria: Criteria, *, until_m: float = 120.0, speed_mps: float = 8.0, **where: float) -> int:
    """Ticks driven at constant speed from x = 10 until the criteria end the route or x is reached."""
    tick, x_m = 0, 10.0
    while x_m < until_m:
        tick, x_m = tick + 1, x_m + speed_mps * TICK_S
        if criteria.update(ego(tick, x_m, speed_mps, **where)):
            break
    return tick


def kinds(criteria: Criteria) -> list[Infraction]:
    return [event.kind for event in criteria.events()]


def test_a_clean_drive_completes(make) -> None:
    criteria = make()
    drive(criteria)
    criteria.finish()
    assert criteria.completion.percent == 100.0
    assert criteria.events() == [] and criteria.failure_message() is None


def test_completion_needs_99_percent_and_nearness(make) -> None:
    criteria = make()
    drive(criteria, until_m=60.0)
    assert criteria.completion.percent == pytest.approx(50.0, abs=1.5)
    assert not criteria.completion.reached
    drive(criteria, until_m=107.0)
    assert not criteria.completion.reached and criteria.completion.percent < 99.0


def test_standing_still_is_blocked_after_the_benchmarks_time(make) -> None:
    for scoring, limit_s in ((Scoring.LEADERBOARD_20, 180.0), (Scoring.BENCH2DRIVE, 60.0)):
        criteria = make(scoring)
        tick = 1
        while not criteria.update(ego(tick, 12.0, speed_mps=0.05)):
            tick += 1
        assert tick * TICK_S == pytest.approx(limit_s, abs=0.15)
        assert criteria.events()[-1].message == "Agent got blocked at (x=12.0, y=1.75, z=0.0)"
        assert criteria.failure_message() == "Agent got blocked"


def test_standing_does_not_count_while_a_scenario_may_hold_the_ego_up(make) -> None:
    criteria = make(Scoring.BENCH2DRIVE)
    for tick in range(1, 2001):
        assert not criteria.update(ego(tick, 12.0, speed_mps=0.0), held_up=tick > 600)
    tick = 2001
    while not criteria.update(ego(tick, 12.0, speed_mps=0.0)):
        tick += 1
    assert (tick - 2000) * TICK_S == pytest.approx(60.0, abs=0.15)  # what it stood before is forgotten
    assert kinds(criteria)[-1] is Infraction.VEHICLE_BLOCKED


def test_bench2drive_ends_after_4000_ticks(make) -> None:
    criteria = make(Scoring.BENCH2DRIVE)
    tick = 1
    while not criteria.update(ego(tick, 12.0, speed_mps=1.0)):
        tick += 1
    assert tick == 4001
    assert criteria.failure_message() == "TickRuntime"


def test_leaving_the_route_by_30_m_ends_it(make) -> None:
    criteria = make()
    assert not criteria.update(ego(1, 12.0, y_m=LANE_Y_M + 29.5))
    assert criteria.update(ego(2, 12.0, y_m=LANE_Y_M + 30.5))
    assert Infraction.ROUTE_DEVIATION in kinds(criteria)
    assert criteria.failure_message() == "Agent deviated from the route"


def test_far_off_for_30_percent_of_the_route_ends_it(make) -> None:
    criteria = make()
    ticks = drive(criteria, y_m=LANE_Y_M + 20.0)
    assert criteria.failure_message() == "Agent deviated from the route"
    assert ticks * TICK_S * 8.0 == pytest.approx(31.0, abs=2.5)


def test_timeout_grows_with_progress(make) -> None:
    criteria = make()
    drive(criteria, until_m=60.0)
    assert criteria.timeout.allowed_s == pytest.approx(300.0 + 49.0 / (30.0 / 3.6 * 0.1), abs=2.0)
    late = EgoState(9999, 400.0, carla.Transform(carla.Location(60.0, LANE_Y_M, 0.0)), carla.Vector3D(8.0, 0.0, 0.0))
    assert criteria.update(late)
    assert criteria.failure_message() == "Agent timed out"
    assert kinds(criteria) == [Infraction.ROUTE_TIMEOUT]


def test_the_other_lane_and_the_verge_count_as_outside(make) -> None:
    verge = make()
    drive(verge, y_m=LANE_Y_M + 3.0)
    event = verge.events()[0]
    assert event.kind is Infraction.OUTSIDE_ROUTE_LANES
    assert event.percentage == 100.0
    words = event.message.split(" ")
    assert float(words[8]) == pytest.approx(99.0, abs=2.0) and words[9] == "meters"

    crossing = make()
    for tick in range(1, 240):
        x_m = 10.0 + tick * 0.4
        crossing.update(ego(tick, x_m, y_m=LANE_Y_M if x_m < 60.0 else -LANE_Y_M))
    assert crossing.events()[0].percentage == pytest.approx(46.0, abs=3.0)


def test_a_foot_over_the_line_is_allowed(make) -> None:
    criteria = make()
    drive(criteria, y_m=LANE_Y_M + 2.2)
    assert criteria.events() == []


def test_collisions_are_counted_once() -> None:
    collisions = Collisions()
    tick = 0

    def hit(x_m: float, contact: Contact | None, speed_mps: float = 5.0) -> int:
        nonlocal tick
        tick += 1
        collisions.update(ego(tick, x_m, speed_mps), [contact] if contact else [])
        return len(collisions.events)

    car, other_car, wall = (
        Contact(0, 7, "vehicle.audi.tt"),
        Contact(0, 8, "vehicle.mini"),
        Contact(0, 0, "static.wall"),
    )
    hit(0.0, None)
    assert hit(0.0, car) == 1
    assert hit(1.0, other_car) == 1  # within 5 m of the last
    hit(10.0, None)
    assert hit(11.0, car) == 1  # same actor within 5 s
    assert hit(11.0, wall) == 2
    hit(30.0, None)
    for _ in range(101):
        hit(30.0, None)
    assert hit(30.0, car) == 3
    hit(60.0, None, speed_mps=0.0)
    assert hit(60.0, other_car) == 3  # standing still: not the ego's fault
    assert [event.kind for event in collisions.events] == [
        Infraction.COLLISION_VEHICLE,
        Infraction.COLLISION_STATIC,
        Infraction.COLLISION_VEHICLE,
    ]
    assert collisions.events[0].message == (
        "Agent collided against object with type=vehicle.audi.tt and id=7 at (x=0.0, y=1.75, z=0.0)"
    )


@pytest.mark.parametrize(
    ("type_id", "kind"),
    [
        ("walker.pedestrian.0001", Infraction.COLLISION_PEDESTRIAN),
        ("traffic.traffic_light", Infraction.COLLISION_STATIC),
        ("static.prop.cone", Infraction.COLLISION_STATIC),
        ("static.sidewalk", None),
        ("spectator", None),
    ],
)
def test_what_was_hit_decides_the_kind(type_id: str, kind: Infraction | None) -> None:
    collisions = Collisions()
    collisions.update(ego(1, 0.0), [Contact(1, 3, type_id)])
    assert [event.kind for event in collisions.events] == ([] if kind is None else [kind])


def light_at(x_m: float) -> SignalBox:
    """A light whose trigger volume lies across the lane at x; local x is across the lane, as CARLA has it."""
    pose = carla.Transform(carla.Location(x_m, 8.0, 0.0), carla.Rotation(yaw=-90.0))
    return SignalBox(
        5, pose, carla.BoundingBox(carla.Location(8.0 - LANE_Y_M, 0.0, 1.0), carla.Vector3D(1.5, 1.0, 1.0))
    )


def run_light(straight_map: carla.Map, state: carla.TrafficLightState, stop_x_m: float) -> RunningRedLight:
    end_m = 600.0  # the stop line is where the lane reaches the junction: here, the road's end
    criterion = RunningRedLight(straight_map, [light_at(end_m - 6.0)], lambda _: state, HALF_LENGTH_M)
    tick, x_m = 0, end_m - 30.0
    while x_m < stop_x_m:
        tick, x_m = tick + 1, x_m + 0.4
        criterion.update(ego(tick, x_m))
    return criterion


def test_a_red_light_is_run_when_the_tail_passes_the_line(straight_map: carla.Map) -> None:
    red = run_light(straight_map, carla.TrafficLightState.Red, 605.0)
    assert [event.message for event in red.events] == ["Agent ran a red light 5 at (x=594.0, y=8.0, z=0.0)"]
    assert not run_light(straight_map, carla.TrafficLightState.Red, 598.0).events  # over the line with the nose only
    assert not run_light(straight_map, carla.TrafficLightState.Green, 605.0).events
    assert not run_light(straight_map, carla.TrafficLightState.Yellow, 605.0).events


def test_a_stop_sign_wants_a_standstill_in_its_box(straight_map: carla.Map) -> None:
    box = carla.BoundingBox(carla.Location(0.0, -6.0, 0.0), carla.Vector3D(1.5, 1.5, 1.0))
    sign = SignalBox(9, carla.Transform(carla.Location(50.0, LANE_Y_M + 6.0, 0.0)), box)

    def pass_by(slowest_mps: float) -> RunningStopSign:
        criterion = RunningStopSign(straight_map, [sign])
        for tick in range(1, 150):
            x_m = 30.0 + 0.3 * tick
            criterion.update(ego(tick, x_m, slowest_mps if 48.0 < x_m < 49.0 else 6.0))
        return criterion

    assert [event.message for event in pass_by(1.0).events] == ["Agent ran a stop with id=9 at (x=50.0, y=7.75, z=0.0)"]
    assert pass_by(0.05).events == []


def test_minimum_speed_has_4_or_20_checkpoints(make) -> None:
    def speeds(scoring: Scoring, ego_mps: float) -> list[float]:
        criteria = make(scoring)
        tick, x_m = 0, 10.0
        while True:
            tick, x_m = tick + 1, x_m + ego_mps * TICK_S
            if criteria.update(ego(tick, x_m, ego_mps), (), [8.0, 8.0]):
                break
        criteria.finish()
        return [event.percentage for event in criteria.events() if event.kind is Infraction.MIN_SPEED]

    assert speeds(Scoring.LEADERBOARD_20, 8.0) == []
    slow = speeds(Scoring.LEADERBOARD_20, 4.0)
    assert 4 <= len(slow) <= 5 and slow[-1] == slow[-2] and set(slow) == {50.0}
    everywhere = speeds(Scoring.BENCH2DRIVE, 16.0)
    assert 17 <= len(everywhere) <= 21 and set(everywhere) == {200.0}


COORDINATE = st.integers(-500, 500).map(lambda tenth: tenth / 8.0)  # exact in binary, so that rounding decides nothing
POINT = st.tuples(COORDINATE, COORDINATE)


@given(a=POINT, b=POINT, c=POINT, d=POINT)
def test_crossing_is_symmetric_and_shared_ends_cross(a, b, c, d) -> None:
    crossing = segments_cross(a, b, c, d)
    assert crossing == segments_cross(b, a, c, d) == segments_cross(c, d, a, b)
    assert segments_cross(a, b, a, d)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-40.0, 640.0), st.floats(-45.0, 45.0), st.floats(-180.0, 180.0)), min_size=1))
def test_criteria_survive_any_sequence_of_poses(straight_map: carla.Map, poses) -> None:
    plan = RoutePlanner(straight_map).plan([(10.0, LANE_Y_M, 0.0), (60.0, LANE_Y_M, 0.0)])
    config = CriteriaConfig.for_scoring(Scoring.BENCH2DRIVE)
    criteria = make_criteria(config, plan, straight_map, start=plan[0][0].location, half_length_m=HALF_LENGTH_M)
    completion = 0.0
    for tick, (x_m, y_m, yaw_deg) in enumerate(poses, start=1):
        criteria.update(ego(tick, x_m, y_m=y_m, yaw_deg=yaw_deg), [Contact(tick, 4, "vehicle.audi.tt")], [3.0])
        assert completion <= criteria.completion.percent <= 100.0
        completion = criteria.completion.percent
    criteria.finish()
    assert all(event.percentage >= 0.0 for event in criteria.events())
