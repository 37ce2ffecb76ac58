"""Motion of vehicles and walkers: published figures of CARLA's ego car, standstill, slopes, pushes, determinism."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import dynamics
from simulator.blueprints import body_spec
from simulator.dynamics import Bodies, collide, fitted_acceleration_mps2, fitted_braking_mps2, step

EGO = "vehicle.lincoln.mkz_2020"
ORIGIN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
DT_S = 0.05


def flat(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def uphill(slope: float):
    return lambda x, y, z: slope * x


def one(type_id: str = EGO, speed_mps: float = 0.0, pose: tuple = ORIGIN) -> Bodies:
    bodies = Bodies(4)
    bodies.add(body_spec(type_id), pose)
    heading = np.radians(pose[4])
    bodies.set_target_velocity(0, speed_mps * np.cos(heading), speed_mps * np.sin(heading), 0.0)
    return bodies


def run(bodies: Bodies, seconds: float, dt_s: float = DT_S, ground=flat) -> Bodies:
    for _ in range(round(seconds / dt_s)):
        step(bodies, bodies.count, dt_s, ground)
    return bodies


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    dynamics.warm_up()


# ---- pedals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "speed_mps"), [(1, 6.7), (2, 11.8), (4, 19.4)])
@pytest.mark.parametrize("dt_s", [0.01, 0.05, 0.1, 0.2])
def test_full_throttle_from_rest(seconds: int, speed_mps: float, dt_s: float) -> None:
    bodies = one()
    bodies.set_control(0, 1.0, 0.0, 0.0)
    assert run(bodies, seconds, dt_s).speed[0] == pytest.approx(speed_mps, abs=0.1)


@pytest.mark.parametrize(("speed_mps", "seconds", "metres"), [(10.0, 0.8, 4.2), (20.0, 2.1, 23.7)])
def test_full_brake(speed_mps: float, seconds: float, metres: float) -> None:
    bodies = one(speed_mps=speed_mps)
    bodies.set_control(0, 0.0, 0.0, 1.0)
    assert run(bodies, seconds - DT_S).speed[0] > 0.0
    run(bodies, 2 * DT_S)
    assert bodies.speed[0] == 0.0
    assert bodies.x[0] == pytest.approx(metres, abs=0.05)
    assert run(bodies, 1.0).x[0] == pytest.approx(metres, abs=0.05)


def test_one_step_is_the_fitted_polynomial() -> None:
    for throttle, speed in [(0.3, 2.0), (0.5, 5.0), (0.8, 20.0), (1.0, 10.0)]:
        bodies = one(speed_mps=speed)
        bodies.set_control(0, throttle, 0.0, 0.0)
        s, t = speed * 3.6, throttle
        features = np.array([s, s * s, t, t * t, s * t, s * t * t, s * s * t, s * s * t * t])
        assert run(bodies, DT_S).speed[0] == pytest.approx(features @ dynamics.THROTTLE_FIT / 3.6, abs=1e-9)


@given(st.floats(0, 60), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_more_throttle_never_gives_less(speed: float, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert fitted_acceleration_mps2(speed, low) <= fitted_acceleration_mps2(speed, high) + 1e-9


def test_the_car_neither_runs_away_nor_exceeds_its_top_speed() -> None:
    ends = {}
    for throttle in (0.0, 0.3, 0.5, 1.0):
        bodies = one(speed_mps=30.0)
        bodies.set_control(0, throttle, 0.0, 0.0)
        ends[throttle] = run(bodies, 120.0, 0.2).speed[0]
    assert ends[0.0] == 0.0
    assert ends[0.3] == pytest.approx(1.3, abs=0.5)
    assert 25.0 < ends[0.5] < 35.0
    assert ends[1.0] == 55.0


def test_coasting_slows_gently() -> None:
    bodies = run(one(speed_mps=10.0), 1.0)
    assert 7.5 < bodies.speed[0] < 9.0


@given(st.floats(0, 60))
@settings(deadline=None)
def test_a_full_brake_always_bites(speed: float) -> None:
    assert 6.0 <= fitted_braking_mps2(speed) <= 24.0


def test_half_a_brake_takes_longer() -> None:
    full, half = one(speed_mps=15.0), one(speed_mps=15.0)
    full.set_control(0, 0.0, 0.0, 1.0)
    half.set_control(0, 0.0, 0.0, 0.5)
    assert run(full, 5.0).x[0] * 1.5 < run(half, 5.0).x[0]
    assert half.speed[0] == 0.0


def test_a_standing_car_stays_where_it_is() -> None:
    bodies = one(pose=(3.0, -4.0, 0.0, 0.0, 77.0, 0.0))
    bodies.set_control(0, 0.0, 0.7, 0.0)
    run(bodies, 20.0)
    assert (bodies.x[0], bodies.y[0], bodies.yaw[0], bodies.wz[0]) == (3.0, -4.0, 77.0, 0.0)
    assert bodies.settled[0]


def test_reverse_gear() -> None:
    bodies = one()
    bodies.set_control(0, 0.6, 0.0, 0.0, reverse=True)
    run(bodies, 1.0)
    assert bodies.speed[0] < -1.5 and bodies.x[0] < -0.5 and bodies.vx[0] == bodies.speed[0]
    assert run(bodies, 20.0).speed[0] >= -10.0
    bodies.set_control(0, 0.0, 0.0, 1.0, reverse=True)
    assert run(bodies, 2.0).speed[0] == 0.0


def test_changing_to_reverse_while_rolling_forward_slows_first() -> None:
    bodies = one(speed_mps=5.0)
    bodies.set_control(0, 1.0, 0.0, 0.0, reverse=True)
    run(bodies, 0.5)
    assert 0.0 < bodies.speed[0] < 5.0
    assert run(bodies, 2.0).speed[0] < 0.0


def test_hand_brake_holds_against_the_throttle() -> None:
    bodies = one()
    bodies.set_control(0, 1.0, 0.0, 0.0, hand_brake=True)
    assert run(bodies, 2.0).x[0] == 0.0


def test_heavier_vehicles_accelerate_less_and_bicycles_stay_slow() -> None:
    ends = {}
    for type_id in (EGO, "vehicle.carlamotors.firetruck", "vehicle.diamondback.century"):
        bodies = one(type_id)
        bodies.set_control(0, 1.0, 0.0, 0.0)
        ends[type_id] = run(bodies, 20.0).speed[0]
    assert ends["vehicle.carlamotors.firetruck"] < 0.8 * ends[EGO]
    assert ends["vehicle.diamondback.century"] == pytest.approx(12.0)


def test_controls_out_of_range_are_clipped() -> None:
    bodies = one()
    bodies.set_control(0, 7.0, float("nan"), -3.0)
    assert (bodies.throttle[0], bodies.steer[0], bodies.brake[0]) == (1.0, 0.0, 0.0)


# ---- steering ------------------------------------------------------------------------------------------------


def fitted_radius_m(steer: float) -> float:
    """Turning radius of the reference point in the bicycle of World on Rails."""
    beta = np.arctan(1.4178275 / (1.4178275 - 0.09076902) * np.tan(0.36848336 * steer))
    return 1.4178275 / np.sin(beta)


@pytest.mark.parametrize("steer", [0.2, 0.5, 1.0, -0.5])
def test_turning_radius(steer: float) -> None:
    bodies = one(speed_mps=4.0)
    bodies.set_control(0, 0.0, steer, 0.0)
    track = []
    while bodies.speed[0] > 0.5:
        step(bodies, 1, DT_S, flat)
        track.append((bodies.x[0], bodies.y[0]))
    x, y = np.array(track).T
    design = np.stack([x, y, np.ones_like(x)], axis=1)
    a, b, c = np.linalg.lstsq(design, x**2 + y**2, rcond=None)[0]
    assert np.sqrt(c + (a * a + b * b) / 4) == pytest.approx(abs(fitted_radius_m(steer)), rel=1e-3)
    assert np.sign(bodies.yaw[0]) == np.sign(steer)


def test_a_positive_steer_turns_right() -> None:
    bodies = one(speed_mps=5.0)
    bodies.set_control(0, 0.5, 0.4, 0.0)
    run(bodies, 1.0)
    assert bodies.yaw[0] > 5.0 and bodies.y[0] > 0.2 and bodies.wz[0] > 0.0


def test_a_longer_car_turns_wider() -> None:
    turned = []
    for type_id in (EGO, "vehicle.mitsubishi.fusorosa", "vehicle.micro.microlino"):
        bodies = one(type_id, speed_mps=3.0)
        bodies.set_control(0, 0.0, 0.5, 0.0)
        turned.append(run(bodies, 0.5).yaw[0])
    assert turned[1] < 0.7 * turned[0] < turned[0] < 0.7 * turned[2]


def test_tyres_limit_the_lateral_acceleration() -> None:
    bodies = one(speed_mps=25.0)
    bodies.set_control(0, 0.7, 1.0, 0.0)
    step(bodies, 1, DT_S, flat)
    assert abs(bodies.speed[0] * np.radians(bodies.wz[0])) == pytest.approx(9.0, rel=0.01)


def test_acceleration_and_velocity_describe_the_motion() -> None:
    bodies = one(speed_mps=8.0)
    bodies.set_control(0, 0.7, 0.2, 0.0)
    run(bodies, 1.0)
    before = bodies.rows[0].copy()
    step(bodies, 1, DT_S, flat)
    for axis in "xy":
        change = (bodies.rows[f"v{axis}"][0] - before[f"v{axis}"]) / DT_S
        assert bodies.rows[f"a{axis}"][0] == pytest.approx(change)
        assert bodies.rows[axis][0] - before[axis] == pytest.approx(bodies.rows[f"v{axis}"][0] * DT_S, abs=0.01)
    assert bodies.yaw[0] - before["yaw"] == pytest.approx(bodies.wz[0] * DT_S)


# ---- ground --------------------------------------------------------------------------------------------------


def test_the_car_follows_a_slope() -> None:
    bodies = run(one(speed_mps=10.0), 0.5, ground=uphill(0.1))
    assert bodies.z[0] == pytest.approx(0.1 * bodies.x[0])
    assert bodies.pitch[0] == pytest.approx(np.degrees(np.arctan(0.1)))
    assert bodies.vz[0] == pytest.approx(0.1 * bodies.vx[0])
    assert np.hypot(bodies.vx[0], bodies.vz[0]) == pytest.approx(bodies.speed[0])


def test_roll_is_positive_with_the_right_side_down() -> None:
    bodies = run(one(), 0.1, ground=lambda x, y, z: -0.1 * y)
    assert bodies.roll[0] == pytest.approx(np.degrees(np.arctan(0.1)))


def test_slopes_slow_and_speed_up() -> None:
    ends = {}
    for slope in (-0.1, 0.0, 0.1):
        bodies = one(speed_mps=5.0, pose=(0.0, 0.0, 0.0, np.degrees(np.arctan(slope)), 0.0, 0.0))
        bodies.set_control(0, 0.6, 0.0, 0.0)
        ends[slope] = run(bodies, 2.0, ground=uphill(slope)).speed[0]
    assert ends[-0.1] - ends[0.0] == pytest.approx(ends[0.0] - ends[0.1], abs=0.3)
    assert ends[-0.1] - ends[0.0] == pytest.approx(9.81 * np.sin(np.arctan(0.1)) * 2.0, abs=0.5)


def test_brakes_hold_on_a_slope_and_without_them_it_rolls() -> None:
    pose = (0.0, 0.0, 0.0, np.degrees(np.arctan(0.2)), 0.0, 0.0)
    held, free, gentle = one(pose=pose), one(pose=pose), one()
    held.set_control(0, 0.0, 0.0, 0.5)
    assert run(held, 5.0, ground=uphill(0.2)).x[0] == 0.0
    assert run(free, 5.0, ground=uphill(0.2)).x[0] < -3.0
    assert run(gentle, 5.0, ground=uphill(0.02)).x[0] == 0.0


def test_a_car_spawned_above_the_ground_falls_onto_it() -> None:
    bodies = one(pose=(0.0, 0.0, 0.5, 0.0, 0.0, 0.0))
    run(bodies, 0.2)
    assert bodies.airborne[0] and 0.2 < bodies.z[0] < 0.5 and bodies.vz[0] < 0.0
    run(bodies, 0.3)
    assert (bodies.z[0], bodies.vz[0], bodies.airborne[0]) == (0.0, 0.0, False)


def test_a_car_driven_off_an_edge_keeps_its_velocity_in_the_air() -> None:
    bodies = run(one(speed_mps=10.0), 0.7, ground=lambda x, y, z: np.where(x < 3.0, 0.0, -5.0))
    assert bodies.airborne[0]
    vx = bodies.vx[0]
    bodies.set_control(0, 0.0, 0.0, 1.0)
    step(bodies, 1, DT_S, lambda x, y, z: np.full_like(x, -5.0))
    assert bodies.vx[0] == vx


def test_ground_overhead_and_missing_ground_are_ignored() -> None:
    assert run(one(speed_mps=5.0), 1.0, ground=lambda x, y, z: np.full_like(x, 6.0)).z[0] == 0.0
    assert run(one(speed_mps=5.0), 1.0, ground=lambda x, y, z: np.full_like(x, np.nan)).z[0] == 0.0


def test_the_ground_is_not_asked_about_parked_cars() -> None:
    bodies = run(one(), 0.2)

    def unwanted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise AssertionError("asked about a car that stands still")

    step(bodies, 1, DT_S, unwanted)


# ---- walkers and commands ------------------------------------------------------------------------------------


def test_a_walker_walks_at_its_speed_with_its_centre_above_the_ground() -> None:
    bodies = one("walker.pedestrian.0001", pose=(0.0, 0.0, 0.93, 0.0, 0.0, 0.0))
    bodies.set_walk(0, 0.0, 2.0, 1.4)
    run(bodies, 2.0, ground=lambda x, y, z: 0.05 * y)
    assert bodies.y[0] == pytest.approx(2.8)
    assert bodies.z[0] == pytest.approx(0.93 + 0.05 * 2.8)
    bodies.set_walk(0, 0.0, 0.0, 1.4)
    assert run(bodies, 1.0).vy[0] == 0.0


def test_a_walker_led_by_a_client_stays_where_it_was_put() -> None:
    bodies = one("walker.pedestrian.0001")
    bodies.set_walker_state(0, (5.0, 6.0, 1.2, 0.0, 90.0, 0.0), 1.5)
    run(bodies, 1.0)
    assert (bodies.x[0], bodies.y[0], bodies.z[0]) == (5.0, 6.0, 1.2)
    assert bodies.vy[0] == pytest.approx(1.5)


def test_teleport_keeps_the_world_velocity() -> None:
    bodies = one(speed_mps=10.0)
    bodies.set_transform(0, (50.0, 20.0, 0.0, 0.0, 90.0, 0.0))
    assert (bodies.speed[0], bodies.slide[0]) == pytest.approx((0.0, -10.0))
    run(bodies, DT_S)
    assert bodies.x[0] == pytest.approx(50.5, abs=0.05)
    assert run(bodies, 4.0).vx[0] == pytest.approx(0.0, abs=1e-9)


def test_without_physics_a_velocity_is_reported_but_does_not_move() -> None:
    bodies = one(speed_mps=5.0)
    bodies.set_physics(0, False)
    assert bodies.vx[0] == 0.0
    bodies.set_target_velocity(0, 3.0, 0.0, 0.0)
    bodies.set_control(0, 1.0, 0.0, 0.0)
    run(bodies, 1.0)
    assert (bodies.x[0], bodies.vx[0]) == (0.0, 3.0)


def test_constant_velocity_is_in_the_cars_frame_and_ends() -> None:
    bodies = one(pose=(0.0, 0.0, 0.0, 0.0, 90.0, 0.0))
    bodies.set_constant_velocity(0, 6.0, 0.0, 0.0)
    bodies.set_control(0, 0.0, 0.0, 1.0)
    run(bodies, 2.0)
    assert (bodies.y[0], bodies.vy[0]) == pytest.approx((12.0, 6.0))
    bodies.clear_constant_velocity(0)
    assert run(bodies, 1.0).speed[0] == 0.0


def test_an_impulse_changes_the_velocity_by_its_share_of_the_mass() -> None:
    bodies = one()
    bodies.add_impulse(0, 1800.0, 3600.0, 0.0)
    assert (bodies.vx[0], bodies.vy[0]) == pytest.approx((1.0, 2.0))
    run(bodies, 3.0)
    assert (bodies.vx[0], bodies.vy[0]) == (0.0, 0.0)


def test_slots_are_reused_and_the_arrays_grow() -> None:
    bodies = Bodies(2)
    slots = [bodies.add(body_spec(EGO), (10.0 * i, 0.0, 0.0, 0.0, 0.0, 0.0)) for i in range(5)]
    assert slots == [0, 1, 2, 3, 4] and bodies.count == 5 and bodies.x[4] == 40.0
    bodies.throttle[2] = 1.0
    bodies.remove(2)
    assert bodies.add(body_spec(EGO), ORIGIN) == 2 and bodies.throttle[2] == 0.0
    bodies.remove(4)
    assert bodies.count == 4


@pytest.mark.parametrize("dt_s", [0.0, -0.05, 0.21, float("nan")])
def test_a_bad_step_is_refused(dt_s: float) -> None:
    with pytest.raises(ValueError, match="fixed_delta_seconds"):
        step(one(), 1, dt_s, flat)


# ---- the whole -----------------------------------------------------------------------------------------------


def traffic(seed: int, count: int = 100) -> Bodies:
    random = np.random.default_rng(seed)
    bodies = Bodies(8)
    for _ in range(count):
        pose = (*random.uniform(0, 200, 2), 0.0, 0.0, random.uniform(-180, 180), 0.0)
        slot = bodies.add(body_spec(EGO), pose)
        bodies.set_control(slot, random.uniform(0, 1), random.uniform(-0.5, 0.5), 0.0)
    return bodies


def test_the_same_start_gives_the_same_bits() -> None:
    ends = []
    for _ in range(2):
        bodies = traffic(1)
        for _ in range(100):
            step(bodies, bodies.count, DT_S, lambda x, y, z: 0.02 * x)
            collide(bodies, bodies.count)
        ends.append(bodies.rows[: bodies.count])
    assert (ends[0] == ends[1]).all()


def test_a_body_moves_the_same_alone_and_among_others() -> None:
    bodies, alone = traffic(2), one()
    row = bodies.rows[37:38].copy()
    alone.rows[:1] = row
    for _ in range(40):
        step(bodies, bodies.count, DT_S, flat)
        step(alone, 1, DT_S, flat)
    assert alone.rows[0] == bodies.rows[37]


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2), st.booleans(), st.booleans()), max_size=30)
)
@settings(max_examples=50, deadline=None)
def test_any_sequence_of_controls_stays_finite_and_bounded(controls: list[tuple]) -> None:
    bodies = one(speed_mps=20.0)
    for control in controls:
        bodies.set_control(0, *control)
        step(bodies, 1, 0.2, uphill(0.05))
        values = [
            bodies.rows[name][0] for name in ("x", "y", "z", "pitch", "yaw", "vx", "vy", "vz", "ax", "ay", "az", "wz")
        ]
        assert np.isfinite(values).all()
        assert abs(bodies.speed[0]) < 60.0


def test_hundred_vehicles_with_collisions_take_microseconds() -> None:
    bodies, times = traffic(4), []
    for _ in range(300):
        start = time.process_time_ns()
        step(bodies, bodies.count, DT_S, flat)
        collide(bodies, bodies.count)
        times.append((time.process_time_ns() - start) / 1000)
    assert np.median(times) < 300.0, "should take about 35 us; other load is allowed for"
