"""The Lincoln MKZ against what others measured of CARLA's: speed polynomials at 20 Hz and the bicycle of steering.

The references here are written down from the publications a second time and integrated plainly.
"""

import numpy as np
import pytest

from simulator import dynamics
from simulator.blueprints import body_spec
from simulator.dynamics import Bodies, step

EGO = "vehicle.lincoln.mkz_2020"
DT_S = 0.05
KMH = 3.6

THROTTLE = (9.63873001e-01, 4.37535692e-04, -3.80192912e-01, 1.74950069,
            9.16787414e-02, -7.05461530e-02, -1.05996152e-03, 6.71079346e-04)  # fmt: skip
BRAKE = (9.31711370e-03, 8.20967431e-02, -2.83832427e-03, 5.06587474e-05,
         -4.90357228e-07, 2.44419284e-09, -4.91381935e-12)  # fmt: skip
FRONT_M, REAR_M, STEER_GAIN = -0.09076902, 1.4178275, 0.36848336
"""World on Rails: distances of the axles from the reference point, wheel angle (rad) at full steering."""

GRIP_MPS2 = 9.0
THROTTLES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SPEEDS_MPS = (0.0, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0)


def flat(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def car(speed_mps: float, throttle: float = 0.0, steer: float = 0.0, brake: float = 0.0) -> Bodies:
    bodies = Bodies(1)
    bodies.add(body_spec(EGO), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    bodies.set_target_velocity(0, speed_mps, 0.0, 0.0)
    bodies.set_control(0, throttle, steer, brake)
    return bodies


def after_throttle_mps(speed_mps: float, throttle: float) -> float:
    s, t = speed_mps * KMH, throttle
    features = (s, s * s, t, t * t, s * t, s * t * t, s * s * t, s * s * t * t)
    return float(np.dot(features, THROTTLE)) / KMH


def after_brake_mps(speed_mps: float) -> float:
    s = speed_mps * KMH
    return max(sum(c * s**power for power, c in enumerate(BRAKE, start=1)), 0.0) / KMH


def steepest_mps(throttle: float) -> float:
    """Speed beyond which the polynomial lets the car accelerate more again: there the fit is not followed."""
    t = throttle
    linear = THROTTLE[0] - 1.0 + THROTTLE[4] * t + THROTTLE[5] * t * t
    quadratic = THROTTLE[1] + THROTTLE[6] * t + THROTTLE[7] * t * t
    return min(-linear / (2.0 * quadratic), 100.0) / KMH


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    dynamics.warm_up()


@pytest.mark.parametrize("throttle", THROTTLES)
def test_throttle_grid(throttle: float) -> None:
    """One step is the polynomial to the last digit where it holds and never more beyond; 3 s stay within 2 %."""
    for speed_mps in SPEEDS_MPS:
        bodies, fitted_mps = car(speed_mps, throttle), speed_mps
        inside = speed_mps <= steepest_mps(throttle)
        step(bodies, 1, DT_S, flat)
        fitted_mps = after_throttle_mps(fitted_mps, throttle)
        if inside:
            assert bodies.speed[0] == pytest.approx(fitted_mps, abs=1e-9), (throttle, speed_mps)
        else:
            assert bodies.speed[0] <= fitted_mps, (throttle, speed_mps)
        for _ in range(59):
            step(bodies, 1, DT_S, flat)
            fitted_mps = after_throttle_mps(fitted_mps, throttle)
        if inside and fitted_mps <= steepest_mps(throttle):
            assert bodies.speed[0] == pytest.approx(fitted_mps, rel=0.02, abs=0.05), (throttle, speed_mps)


@pytest.mark.parametrize("speed_mps", [2.0, 5.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0])
def test_full_brake_grid(speed_mps: float) -> None:
    """Speed and way of a full stop; the fit's crawl below 1 m/s is cut short by the brake's hold."""
    bodies, fitted_mps, way_m = car(speed_mps, brake=1.0), speed_mps, 0.0
    while fitted_mps > 1.0:
        step(bodies, 1, DT_S, flat)
        fitted_mps = after_brake_mps(fitted_mps)
        way_m += fitted_mps * DT_S
        if fitted_mps > 1.0:
            assert bodies.speed[0] == pytest.approx(fitted_mps, rel=0.02, abs=0.1)
    while bodies.speed[0] > 0.0:
        step(bodies, 1, DT_S, flat)
    assert bodies.x[0] == pytest.approx(way_m, rel=0.03, abs=0.15)


@pytest.mark.parametrize("speed_mps", [5.0, 10.0, 20.0])
def test_part_brake_lies_between_coasting_and_full_brake(speed_mps: float) -> None:
    speeds = []
    for brake in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
        bodies = car(speed_mps, brake=brake)
        for _ in range(5):
            step(bodies, 1, DT_S, flat)
        speeds.append(float(bodies.speed[0]))
    assert (np.diff(speeds) < -0.1).all() or speeds[-1] == 0.0
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize("speed_mps", [2.0, 5.0, 10.0, 15.0, 20.0, 30.0])
def test_coasting_decelerates_as_in_gear(speed_mps: float) -> None:
    """Between rolling resistance and a strong engine brake; slower at all part throttles below 0.3."""
    speeds = []
    for throttle in (0.0, 0.1, 0.2, 0.3):
        bodies = car(speed_mps, throttle)
        step(bodies, 1, DT_S, flat)
        speeds.append(float(bodies.speed[0]))
    assert 0.2 < (speed_mps - speeds[0]) / DT_S < 2.5
    assert np.diff(speeds) == pytest.approx(np.full(3, 0.5 / 3 * DT_S), rel=1e-6)


@pytest.mark.parametrize("speed_mps", [1.0, 3.0, 6.0, 10.0, 15.0, 25.0])
@pytest.mark.parametrize("steer", [-1.0, -0.6, -0.3, -0.1, 0.05, 0.2, 0.45, 0.8])
def test_turning_grid(speed_mps: float, steer: float) -> None:
    """Two seconds of the fitted bicycle, integrated in steps of 1 ms at the speeds driven."""
    wheel = STEER_GAIN * steer
    beta = np.arctan(REAR_M / (FRONT_M + REAR_M) * np.tan(wheel))
    bodies, x, y, yaw, fine = car(speed_mps, 0.5, steer), 0.0, 0.0, 0.0, 50
    for _ in range(40):
        step(bodies, 1, DT_S, flat)
        speed = float(bodies.speed[0])
        rate = speed / REAR_M * np.sin(beta)
        if abs(rate * speed) > GRIP_MPS2:
            assert abs(np.radians(bodies.wz[0]) * speed) == pytest.approx(GRIP_MPS2, rel=1e-6)
            assert abs(bodies.yaw[0]) <= abs(np.degrees(yaw + rate * DT_S)) + 1e-6
            return
        for _ in range(fine):
            x += speed * np.cos(yaw + beta) * DT_S / fine
            y += speed * np.sin(yaw + beta) * DT_S / fine
            yaw += rate * DT_S / fine
    assert (bodies.x[0], bodies.y[0]) == pytest.approx((x, y), abs=0.02)
    assert bodies.yaw[0] == pytest.approx(np.degrees(yaw), abs=0.01)


def test_the_turning_circle_is_that_of_the_fit() -> None:
    """Full lock at walking pace: 3.7 m radius of the reference point, as the published constants give."""
    bodies = car(1.0, 0.3, 1.0)
    track = []
    for _ in range(600):
        step(bodies, 1, DT_S, flat)
        track.append((float(bodies.x[0]), float(bodies.y[0])))
    width_m = np.ptp(np.array(track), axis=0)
    assert width_m / 2 == pytest.approx(np.full(2, 3.717), abs=0.05)
