"""The privileged driver in closed loop with a bicycle model on made-up roads: on the road, stopping where it must."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.actions import ACTIONS, BRAKE, FULL_BRAKE, REVERSE, STEER, THROTTLE
from training.bev import Corridor
from training.expert import (
    FAR_M,
    REAR_AXLE_M,
    STEER_GAIN_RAD,
    WHEELBASE_M,
    ExpertConfig,
    ExpertDriver,
    Scene,
    arc_position,
    lateral_error,
    nearest_index,
    soft_label,
    throttle_accel_mps2,
)
from training.forecast import Others

NOBODY = Others.nobody()
TICK_S = 0.05


def road(*pieces: tuple[float, float]) -> Corridor:
    """Centre line of pieces (length_m, curvature_per_m), a point per metre."""
    x = y = yaw = 0.0
    points = [(x, y, yaw)]
    for length, curvature in pieces:
        for _ in range(int(length)):
            yaw += 0.5 * curvature
            x, y = x + math.cos(yaw), y + math.sin(yaw)
            yaw += 0.5 * curvature
            points.append((x, y, yaw))
    return Corridor(np.array(points), np.full(len(points), 1.75), np.full(len(points), 1.75))


def scene_on(corridor: Corridor, **changes) -> Scene:
    scene = Scene(
        pose=(0.0, 0.0, 0.0),
        speed_mps=0.0,
        half_length_m=2.45,
        half_width_m=0.95,
        corridor=corridor,
        arc_m=np.arange(len(corridor.points), dtype=float),
        index=0,
        others=NOBODY,
        red_stop_m=(),
        sign_stop_m=(),
        speed_limit_mps=15.0,
    )
    return replace(scene, **changes)


def drive(scene: Scene, seconds: float, driver: ExpertDriver | None = None) -> list[Scene]:
    """Closed loop with the reference car."""
    driver = driver or ExpertDriver(ExpertConfig())
    trace = [scene]
    for _ in range(int(seconds / 0.1)):
        action = ACTIONS[driver.decide(scene).action]
        (x, y, yaw), speed = scene.pose, scene.speed_mps
        for _ in range(2):
            accel = -8.0 if action[BRAKE] > 0 else throttle_accel_mps2(float(action[THROTTLE]), speed)
            speed = max(speed + accel * TICK_S, 0.0)
            beta = math.atan(REAR_AXLE_M / WHEELBASE_M * math.tan(-STEER_GAIN_RAD * float(action[STEER])))
            x, y = x + speed * math.cos(yaw + beta) * TICK_S, y + speed * math.sin(yaw + beta) * TICK_S
            yaw += speed / REAR_AXLE_M * math.sin(beta) * TICK_S
        index = nearest_index(scene.corridor.points, (x, y), scene.index)
        scene = replace(scene, pose=(x, y, yaw), speed_mps=speed, index=index)
        trace.append(scene)
    return trace


@pytest.mark.parametrize(
    "pieces", [((150, 0.0),), ((30, 0.0), (16, 0.1), (60, 0.0)), ((30, 0.0), (20, -0.07), (60, 0.0))]
)
def test_follows_the_road(pieces) -> None:
    trace = drive(scene_on(road(*pieces)), 12.0)
    offsets = [abs(lateral_error(scene)[0]) for scene in trace]
    assert max(offsets) < 1.0 and np.mean(offsets) < 0.4
    assert max(scene.speed_mps for scene in trace) < 9.0
    assert arc_position(trace[-1]) > 50.0


def test_recovers_from_the_wrong_place() -> None:
    trace = drive(scene_on(road((150, 0.0)), pose=(0.0, 1.8, 0.3), speed_mps=6.0), 8.0)
    assert abs(lateral_error(trace[-1])[0]) < 0.4 and abs(lateral_error(trace[-1])[1]) < 0.15


def test_stops_at_a_red_light_and_stays() -> None:
    trace = drive(scene_on(road((150, 0.0)), red_stop_m=(60.0,)), 25.0)
    front = arc_position(trace[-1]) + trace[-1].half_length_m
    assert trace[-1].speed_mps < 0.05 and 55.0 < front < 60.0


def test_goes_on_when_the_light_turns_green() -> None:
    driver = ExpertDriver(ExpertConfig())
    waiting = drive(scene_on(road((150, 0.0)), red_stop_m=(60.0,)), 20.0, driver)[-1]
    trace = drive(replace(waiting, red_stop_m=()), 5.0, driver)
    assert trace[-1].speed_mps > 5.0


def test_stops_once_at_a_stop_sign() -> None:
    trace = drive(scene_on(road((150, 0.0)), sign_stop_m=(60.0,)), 25.0)
    near = [s for s in trace if 50.0 < arc_position(s) + s.half_length_m < 61.0]
    assert min(scene.speed_mps for scene in near) < 0.1
    assert arc_position(trace[-1]) > 80.0


def test_stops_behind_a_standing_car() -> None:
    others = Others(np.array([[60.0, 0.3, 0.0]]), np.zeros(1), np.zeros(1), np.full(1, 2.3), np.full(1, 1.0))
    trace = drive(scene_on(road((150, 0.0)), others=others), 25.0)
    gap = 60.0 - 2.3 - arc_position(trace[-1]) - 2.45
    assert trace[-1].speed_mps < 0.05 and 1.5 < gap < 8.0


def test_ignores_a_car_in_the_next_lane() -> None:
    others = Others(np.array([[40.0, 3.5, math.pi]]), np.zeros(1), np.zeros(1), np.full(1, 2.3), np.full(1, 1.0))
    trace = drive(scene_on(road((150, 0.0)), others=others), 12.0)
    assert arc_position(trace[-1]) > 60.0


def test_yields_to_a_crossing_car() -> None:
    """A car 9 m to the right crosses at 6 m/s where an ego doing 7 m/s will be two seconds from now."""
    others = Others(
        np.array([[16.0, -9.0, math.pi / 2]]), np.full(1, 6.0), np.zeros(1), np.full(1, 2.3), np.full(1, 1.0)
    )
    decision = ExpertDriver(ExpertConfig()).decide(scene_on(road((150, 0.0)), speed_mps=7.0, others=others))
    free = ExpertDriver(ExpertConfig()).decide(scene_on(road((150, 0.0)), speed_mps=7.0))
    assert decision.target_speed_mps < free.target_speed_mps


@settings(max_examples=80, deadline=None)
@given(
    x=st.floats(-5, 80),
    y=st.floats(-6, 6),
    yaw=st.floats(-3.1, 3.1),
    speed=st.floats(0, 25),
    stop=st.floats(-10, 120),
    other=st.tuples(st.floats(-20, 80), st.floats(-8, 8), st.floats(-3, 3), st.floats(-3, 12)),
)
def test_every_scene_gives_a_valid_decision(x, y, yaw, speed, stop, other) -> None:
    others = Others(np.array([other[:3]]), np.array([other[3]]), np.zeros(1), np.full(1, 2.3), np.full(1, 1.0))
    corridor = road((60, 0.02), (40, -0.05))
    index = nearest_index(corridor.points, (x, y), 0, ahead=101)
    scene = scene_on(
        corridor,
        pose=(x, y, yaw),
        speed_mps=speed,
        index=index,
        red_stop_m=(stop,),
        sign_stop_m=(stop + 5,),
        others=others,
    )
    decision = ExpertDriver(ExpertConfig()).decide(scene)
    assert np.isfinite(decision.label).all() and decision.label.sum() == pytest.approx(1.0, abs=1e-5)
    assert decision.action == int(np.argmax(decision.label))
    assert ACTIONS[decision.action, REVERSE] == 0.0
    assert np.isfinite(decision.auxiliary).all()
    assert 0.0 <= decision.auxiliary[3] <= FAR_M


@given(steer=st.floats(-0.65, 0.65), speed=st.floats(0.0, 12.0))
def test_label_means_the_wanted_steering(steer: float, speed: float) -> None:
    label = soft_label(ExpertConfig(), steer, throttle_accel_mps2(0.3, speed), speed)
    moving = ACTIONS[:, THROTTLE] == np.float32(0.3)
    assert label[moving].sum() > 0.3
    mean = float((label * ACTIONS[:, STEER])[moving].sum() / label[moving].sum())
    assert mean == pytest.approx(steer, abs=0.02)


def test_hard_braking_is_labelled_so() -> None:
    assert soft_label(ExpertConfig(), 0.0, -6.0, 7.0)[FULL_BRAKE] > 0.95
    assert soft_label(ExpertConfig(), 0.0, 2.0, 3.0)[FULL_BRAKE] < 0.01
