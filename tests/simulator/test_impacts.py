"""Crashes: nothing passes through, momentum is kept, energy is only lost, what stands fast stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import dynamics, impacts
from simulator.blueprints import body_spec
from simulator.dynamics import Bodies, boxes, collide, step

EGO = "vehicle.lincoln.mkz_2020"
TRUCK = "vehicle.carlamotors.firetruck"
WALL = "static.prop.clothesline"
ORIGIN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
DT_S = 0.05


def flat(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def one(type_id: str = EGO, pose: tuple = ORIGIN) -> Bodies:
    bodies = Bodies(1)
    bodies.add(body_spec(type_id), pose)
    return bodies


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    dynamics.warm_up()


def energy_j(bodies: Bodies) -> float:
    """Of motion in the plane, turning included."""
    rows = bodies.rows[: bodies.count]
    inertia = rows["mass"] * (rows["half_length"] ** 2 + rows["half_width"] ** 2) / 3.0
    linear = rows["mass"] * (rows["vx"] ** 2 + rows["vy"] ** 2)
    return float(0.5 * (linear + inertia * np.radians(rows["wz"]) ** 2).sum())


def two(first: tuple, second: tuple, types: tuple[str, str] = (EGO, EGO)) -> Bodies:
    """Two bodies, each (x, y, yaw, speed)."""
    bodies = Bodies(2)
    for slot, ((x, y, yaw, speed), type_id) in enumerate(zip((first, second), types, strict=True)):
        spec = body_spec(type_id)
        bodies.add(spec, (x, y, spec.origin_height_m, 0.0, yaw, 0.0))
        bodies.set_target_velocity(slot, speed * np.cos(np.radians(yaw)), speed * np.sin(np.radians(yaw)), 0.0)
    return bodies


def crash(bodies: Bodies, seconds: float) -> np.ndarray:
    """Step until `seconds` have passed; returns the impulses on the first body of the first pair."""
    seen = []
    for _ in range(round(seconds / DT_S)):
        step(bodies, bodies.count, DT_S, flat)
        seen += collide(bodies, bodies.count)[1][:1].tolist()
    return np.array(seen).reshape(-1, 3)


def test_a_rear_end_crash_conserves_momentum() -> None:
    bodies = two((0.0, 0.0, 0.0, 12.0), (4.9, 0.0, 0.0, 0.0))
    step(bodies, 2, DT_S, flat)
    before = bodies.vx[:2] @ bodies.mass[:2]
    contacts, impulses = collide(bodies, 2)
    assert contacts.pairs.tolist() == [[0, 1]]
    assert bodies.vx[:2] @ bodies.mass[:2] == pytest.approx(before)
    assert bodies.vx[1] - bodies.vx[0] == pytest.approx(0.1 * before / 1800.0)
    assert impulses[0, 0] == pytest.approx(-1800.0 * bodies.vx[1])
    assert bodies.ax[0] < -50.0


def test_a_crashed_car_comes_to_rest_and_apart() -> None:
    bodies = two((0.0, 0.0, 0.0, 12.0), (6.0, 0.0, 0.0, 0.0))
    crash(bodies, 10.0)
    assert (bodies.speed[:2] == 0.0).all()
    assert bodies.x[1] - bodies.x[0] > 2 * 2.446 - 0.05


def test_a_side_impact_pushes_and_turns_the_other_car() -> None:
    bodies = two((0.0, -6.0, 90.0, 10.0), (1.5, 0.0, 0.0, 0.0))
    crash(bodies, 0.6)
    assert bodies.y[1] > 0.1
    assert abs(bodies.yaw[1]) > 1.0
    crash(bodies, 5.0)
    assert (bodies.slide[1], bodies.spin[1]) == (0.0, 0.0)


def test_a_fixed_prop_stops_the_car_and_does_not_move() -> None:
    bodies = two((0.0, 0.0, 0.0, 10.0), (6.0, 0.0, 0.0, 0.0), (EGO, "static.prop.container"))
    impulses = crash(bodies, 3.0)
    assert bodies.x[1] == 6.0
    assert bodies.x[0] < 6.0 - 0.966 - 2.446 + 0.05
    assert impulses[:, 0].min() < -10_000.0


def test_driving_into_a_wall_does_not_pass_it() -> None:
    bodies = two((0.0, 0.0, 20.0, 10.0), (8.0, 0.0, 90.0, 0.0), (EGO, "static.prop.clothesline"))
    bodies.set_control(0, 1.0, 0.0, 0.0)
    crash(bodies, 1.5)
    assert bodies.x[0] < 8.0


def test_a_walker_hardly_slows_a_car_and_is_shoved() -> None:
    bodies = two((0.0, 0.0, 0.0, 10.0), (4.0, 0.3, 0.0, 0.0), (EGO, "walker.pedestrian.0001"))
    impulses = crash(bodies, 0.4)
    assert len(impulses) and bodies.x[1] > 4.2 and bodies.speed[0] > 5.0


def test_cars_drive_over_flat_debris() -> None:
    bodies = two((0.0, 0.0, 0.0, 10.0), (6.0, 0.0, 0.0, 0.0), (EGO, "static.prop.dirtdebris02"))
    assert len(crash(bodies, 1.0)) == 0


def test_bodies_without_collisions_or_physics() -> None:
    ghost = two((0.0, 0.0, 0.0, 10.0), (5.5, 0.0, 0.0, 0.0))
    ghost.collides[1] = False
    assert len(crash(ghost, 1.0)) == 0
    frozen = two((0.0, 0.0, 0.0, 10.0), (5.5, 0.0, 0.0, 0.0))
    frozen.set_physics(1, False)
    assert len(crash(frozen, 1.0)) > 0
    assert (frozen.x[1], frozen.vx[1]) == (5.5, 0.0)
    frozen.set_physics(0, False)
    frozen.set_transform(0, (5.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert len(collide(frozen, 2)[0]) == 0


@given(
    st.floats(-1, 1), st.floats(-180, 180), st.floats(-15, 15), st.floats(-15, 15),
    st.sampled_from((EGO, "vehicle.carlamotors.firetruck", "vehicle.bh.crossbike", "walker.pedestrian.0003")),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_collisions_conserve_momentum_and_never_add_energy(
    offset: float, yaw: float, first: float, second: float, other: str
) -> None:
    bodies = two((0.0, 0.0, 0.0, first), (2.0, offset, yaw, second), (EGO, other))
    mass = bodies.mass[:2]

    def energy() -> float:
        length, width = bodies.half_length[:2], bodies.half_width[:2]
        turning = mass * (length**2 + width**2) / 3.0 * np.radians(bodies.wz[:2]) ** 2
        return float((mass * (bodies.vx[:2] ** 2 + bodies.vy[:2] ** 2) + turning).sum())

    momentum = (mass @ bodies.vx[:2], mass @ bodies.vy[:2])
    before = energy()
    collide(bodies, 2)
    assert (mass @ bodies.vx[:2], mass @ bodies.vy[:2]) == pytest.approx(momentum, abs=1e-6)
    assert energy() <= before * (1 + 1e-9) + 1e-9


def test_boxes_stand_where_the_blueprint_says() -> None:
    bodies = one("vehicle.carlamotors.firetruck", pose=(10.0, 5.0, 1.0, 0.0, 90.0, 0.0))
    x, y, z, yaw, length, width, height = (column[0] for column in boxes(bodies, 1))
    assert (x, y, yaw) == pytest.approx((10.0, 5.0 - 0.253, 90.0))
    assert z + height == pytest.approx(1.0 + 1.913 + 1.914)
    assert z - height == pytest.approx(1.0 + 1.913 - 1.914 + 0.2)
    assert (length, width) == (4.234, 1.446)


# ---- at speed ------------------------------------------------------------------------------------------------


@given(
    speed=st.floats(9.0, 45.0),
    start_m=st.floats(6.0, 9.0),
    offset_m=st.floats(-4.0, 4.0),
    turn_deg=st.floats(-50.0, 50.0),
    dt_s=st.sampled_from((0.02, 0.05, 0.1)),
    type_id=st.sampled_from((EGO, TRUCK, "vehicle.micro.microlino", "vehicle.kawasaki.ninja", "vehicle.bh.crossbike")),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_nothing_drives_through_a_wall(speed, start_m, offset_m, turn_deg, dt_s, type_id) -> None:
    """A wall across the way, hit at any angle, speed and step: the centre stays on its side, the wall in its place."""
    bodies = Bodies(2)
    bodies.add(body_spec(type_id), (-start_m, offset_m, 0.0, 0.0, turn_deg, 0.0))
    bodies.add(body_spec(WALL), (0.0, 0.0, 0.0, 0.0, 90.0, 0.0))
    bodies.half_length[1], bodies.half_width[1] = 40.0, 0.05
    heading = np.radians(turn_deg)
    bodies.set_target_velocity(0, speed * np.cos(heading), speed * np.sin(heading), 0.0)
    hit = False
    for _ in range(round(3.0 / dt_s)):
        before = energy_j(bodies)
        step(bodies, 2, dt_s, flat)
        hit = len(collide(bodies, 2)[0]) > 0 or hit
        assert bodies.x[0] < 0.0
        assert energy_j(bodies) <= before + 1e-6
    assert hit
    assert (bodies.x[1], bodies.y[1], bodies.yaw[1], bodies.vx[1]) == (0.0, 0.0, 90.0, 0.0)


@pytest.mark.parametrize("dt_s", [0.05, 0.1, 0.2])
def test_two_cars_head_on_at_30_mps_each(dt_s: float) -> None:
    bodies = two((0.0, 0.0, 0.0, 30.0), (40.0, 0.6, 180.0, 30.0))
    for _ in range(round(1.0 / dt_s)):
        step(bodies, 2, dt_s, flat)
        collide(bodies, 2)
        assert bodies.x[0] < bodies.x[1]
    assert abs(bodies.vx[:2].sum()) < 0.5
    assert (np.abs(bodies.vx[:2]) < 8.0).all()


def test_the_edge_of_a_barrier_stops_a_fast_car() -> None:
    """Deep in after one step and only half covered: the faces that met count, not the shorter way out."""
    bodies = two((-4.0, 0.0, 0.0, 30.0), (0.0, 1.0, 90.0, 0.0), (EGO, "static.prop.streetbarrier"))
    for _ in range(3):
        step(bodies, 2, DT_S, flat)
        collide(bodies, 2)
    assert bodies.speed[0] < 25.0
    assert abs(bodies.spin[0]) > 10.0
    assert abs(bodies.y[0]) < 0.7


def test_a_fast_motorcycle_meets_a_thin_sign_within_one_step() -> None:
    bodies = two((-3.0, 0.0, 0.0, 50.0), (0.0, 0.0, 90.0, 0.0), ("vehicle.kawasaki.ninja", "static.prop.streetsign"))
    bodies.last_step_s = 0.1
    step(bodies, 2, 0.1, flat)
    assert bodies.x[0] > 1.5, "it has passed the sign"
    contacts, impulses = collide(bodies, 2)
    assert len(contacts) == 1 and impulses[0, 0] < -280.0 * 45.0
    assert bodies.x[0] < 0.0 and bodies.vx[0] < 0.0
    assert contacts.point[0, 0] == pytest.approx(-0.0625, abs=1e-3)


# ---- shares, friction, spin ----------------------------------------------------------------------------------


def test_the_lighter_one_gives_way() -> None:
    bodies = two((0.0, 0.0, 0.0, 10.0), (8.0, 0.0, 180.0, 10.0), (TRUCK, "vehicle.micro.microlino"))
    crash(bodies, 0.4)
    assert bodies.vx[0] > 7.0, "12 t against 0.5 t hardly slow"
    assert bodies.vx[1] > 5.0, "thrown back"


def test_a_car_that_scrapes_along_a_wall_is_slowed_by_friction() -> None:
    bodies = Bodies(2)
    bodies.add(body_spec(EGO), (-10.0, -2.2, 0.0, 0.0, 12.0, 0.0))
    bodies.add(body_spec(WALL), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    bodies.half_length[1] = 60.0
    heading = np.radians(12.0)
    bodies.set_target_velocity(0, 15.0 * np.cos(heading), 15.0 * np.sin(heading), 0.0)
    before, lost = None, np.zeros(2)
    for _ in range(20):
        step(bodies, 2, DT_S, flat)
        before = bodies.vx[0], bodies.vy[0]
        _, impulses = collide(bodies, 2)
        if len(impulses):
            lost += impulses[0, :2]
            assert abs(impulses[0, 0]) <= impacts.FRICTION * abs(impulses[0, 1]) + 1e-6
            assert (bodies.vx[0] - before[0]) * 1800.0 == pytest.approx(impulses[0, 0], abs=1e-6)
    assert lost[1] < -1800.0 * 3.0 and lost[0] < -0.3 * abs(lost[1])
    assert bodies.vx[0] > 5.0


def test_a_hit_beside_the_rear_axle_spins_the_car_around() -> None:
    """Struck from the left at the tail, the nose turns left (yaw falls) and the car slides to its right."""
    bodies = two((0.0, 0.0, 0.0, 8.0), (-1.2, -5.2, 90.0, 14.0))
    bodies.x[1] = 0.0
    crash(bodies, 1.0)
    assert bodies.yaw[0] < -20.0
    assert bodies.y[0] > 0.5
    crash(bodies, 6.0)
    assert (bodies.speed[:2] == 0.0).all() and (bodies.spin[:2] == 0.0).all()


def test_a_spinning_car_keeps_its_course() -> None:
    bodies = one()
    bodies.set_target_velocity(0, 15.0, 0.0, 0.0)
    bodies.set_target_angular_velocity(0, 0.0, 0.0, 200.0)
    for _ in range(10):
        step(bodies, 1, DT_S, flat)
    assert abs(bodies.yaw[0]) > 45.0
    assert abs(np.degrees(np.arctan2(bodies.vy[0], bodies.vx[0]))) < 25.0
    assert np.hypot(bodies.vx[0], bodies.vy[0]) < 15.0


def test_a_row_of_touching_cars_passes_the_push_on() -> None:
    """The impulses are worked through within one step: the last of four parked cars moves at once."""
    bodies = Bodies(5)
    for place in range(5):
        bodies.add(body_spec(EGO), (4.89 * place - (0.9 if place == 0 else 0.0), 0.0, 0.0, 0.0, 0.0, 0.0))
    bodies.set_target_velocity(0, 20.0, 0.0, 0.0)
    step(bodies, 5, DT_S, flat)
    collide(bodies, 5)
    assert (bodies.vx[1:5] > 0.0).all()
    assert (np.diff(bodies.vx[:5]) <= 20.0).all()


def test_a_pile_up_loses_energy_every_step_and_comes_to_rest() -> None:
    random = np.random.default_rng(5)
    bodies = Bodies(40)
    for slot in range(40):
        pose = (*random.uniform(-30, 30, 2), 0.0, 0.0, random.uniform(-180, 180), 0.0)
        bodies.add(body_spec((EGO, TRUCK, "vehicle.bh.crossbike")[slot % 3]), pose)
        bodies.set_target_velocity(slot, *random.uniform(-25, 25, 2), 0.0)
        bodies.set_control(slot, 0.0, 0.0, 1.0)
    for _ in range(300):
        step(bodies, 40, DT_S, flat)
        mass, before = bodies.mass[:40], energy_j(bodies)
        momentum = (mass @ bodies.vx[:40], mass @ bodies.vy[:40])
        collide(bodies, 40)
        assert energy_j(bodies) <= before * (1.0 + 1e-9) + 1e-9
        assert (mass @ bodies.vx[:40], mass @ bodies.vy[:40]) == pytest.approx(momentum, abs=1e-5)
    assert energy_j(bodies) == 0.0
    still = bodies.rows[:40].copy()
    for _ in range(20):
        step(bodies, 40, DT_S, flat)
        collide(bodies, 40)
    for name in ("x", "y", "z", "yaw"):
        assert np.abs(bodies.rows[name][:40] - still[name]).max() < 0.05


# ---- walkers -------------------------------------------------------------------------------------------------


def test_a_walker_that_was_hit_slides_to_rest_and_walks_again() -> None:
    bodies = two((0.0, 0.0, 0.0, 8.0), (3.5, 0.0, 0.0, 0.0), (EGO, "walker.pedestrian.0001"))
    bodies.set_walk(1, 0.0, 1.0, 1.4)
    bodies.set_control(0, 0.0, 0.0, 1.0)
    crash(bodies, 0.3)
    assert bodies.vx[1] > 3.0, "thrown forward"
    crash(bodies, 3.0)
    assert 4.0 < bodies.x[1] < 14.0
    assert (bodies.vx[1], bodies.vy[1]) == (0.0, 1.4)


def test_a_walker_led_by_a_client_does_not_stop_a_car_like_a_wall() -> None:
    bodies = two((0.0, 0.0, 0.0, 12.0), (4.0, 0.0, 0.0, 0.0), (EGO, "walker.pedestrian.0001"))
    bodies.set_walker_state(1, (4.0, 0.0, 0.93, 0.0, 0.0, 0.0), 0.0)
    impulses = crash(bodies, 0.4)
    assert len(impulses) > 0
    assert 8.0 < bodies.speed[0] < 11.8
    assert (bodies.x[1], bodies.y[1]) == (4.0, 0.0)
