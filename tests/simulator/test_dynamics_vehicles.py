"""Every vehicle of the library drives like what it is; slopes, bumps and slippery ground act on it."""

import numpy as np
import pytest

from simulator import blueprints, dynamics
from simulator.blueprints import body_spec
from simulator.bodies import TYRE_FRICTION
from simulator.dynamics import Bodies, step
from simulator.friction import FrictionTrigger, friction

EGO = "vehicle.lincoln.mkz_2020"
DT_S = 0.05
KMH = 3.6
VEHICLES = [row[1] for row in blueprints.definitions("0.9.16") if row[1].startswith("vehicle.")]
KINDS = {
    #             to 50 (bicycles 20) km/h, top km/h, stop from there m, lateral m/s2
    "car": ((1.2, 5.5), (85, 200), (9, 12), (8.9, 9.1)),
    "van": ((3.0, 6.0), (105, 160), (11, 16), (7.4, 7.6)),
    "truck": ((4.0, 8.0), (90, 120), (14, 22), (6.4, 6.6)),
    "bus": ((4.0, 8.0), (90, 120), (14, 22), (6.4, 6.6)),
    "bicycle": ((3.0, 7.0), (28, 45), (1.0, 3.0), (5.9, 6.1)),
    "motorcycle": ((1.2, 5.0), (90, 200), (11, 16), (8.9, 9.1)),
}


def flat(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def uphill(slope: float):
    return lambda x, y, z: slope * x


def one(type_id: str = EGO, speed_mps: float = 0.0, slope: float = 0.0) -> Bodies:
    bodies = Bodies(1)
    bodies.add(body_spec(type_id), (0.0, 0.0, 0.0, float(np.degrees(np.arctan(slope))), 0.0, 0.0))
    bodies.set_target_velocity(0, speed_mps, 0.0, 0.0)
    return bodies


def run(bodies: Bodies, seconds: float, ground=flat) -> Bodies:
    for _ in range(round(seconds / DT_S)):
        step(bodies, 1, DT_S, ground)
    return bodies


def stopping_m(type_id: str, speed_mps: float, share_of_friction: float = 1.0) -> float:
    bodies = one(type_id, speed_mps)
    bodies.friction[0] = share_of_friction * TYRE_FRICTION
    bodies.set_control(0, 0.0, 0.0, 1.0)
    while bodies.speed[0] > 0.0:
        step(bodies, 1, DT_S, flat)
    return float(bodies.x[0])


def seconds_to(type_id: str, kmh: float, *, slope: float = 0.0) -> float:
    bodies, seconds = one(type_id, slope=slope), 0.0
    bodies.set_control(0, 1.0, 0.0, 0.0)
    while bodies.speed[0] * KMH < kmh and seconds < 60.0:
        step(bodies, 1, DT_S, uphill(slope))
        seconds += DT_S
    return seconds


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    dynamics.warm_up()


# ---- the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_id", VEHICLES)
def test_launch_top_speed_brakes_and_grip(type_id: str) -> None:
    kind = blueprints.base_type(type_id)
    (least_s, most_s), (least_kmh, most_kmh), (least_m, most_m), (least_grip, most_grip) = KINDS[kind]
    kmh = 20.0 if kind == "bicycle" else 50.0
    assert least_s <= seconds_to(type_id, kmh) <= most_s
    assert least_m <= stopping_m(type_id, kmh / KMH) <= most_m
    fast = one(type_id)
    fast.set_control(0, 1.0, 0.0, 0.0)
    for _ in range(600):
        step(fast, 1, 0.2, flat)
    assert least_kmh <= fast.speed[0] * KMH <= most_kmh
    assert fast.speed[0] == pytest.approx(body_spec(type_id).top_speed_mps)
    fast.set_control(0, 0.5, 1.0, 0.0)
    step(fast, 1, DT_S, flat)
    assert least_grip <= fast.speed[0] * np.radians(fast.wz[0]) <= most_grip


def test_order_of_power_size_and_mass() -> None:
    order = ("kawasaki.ninja", "lincoln.mkz_2020", "mercedes.sprinter", "carlamotors.firetruck")
    times = [seconds_to(f"vehicle.{name}", 50.0) for name in order]
    assert times == sorted(times) and times[-1] > 1.7 * times[1]
    specs = [body_spec(f"vehicle.{name}") for name in order]
    assert [spec.mass_kg for spec in specs] == sorted(spec.mass_kg for spec in specs)
    assert [spec.half_length_m for spec in specs] == sorted(spec.half_length_m for spec in specs)
    assert len({(body_spec(v).mass_kg, body_spec(v).acceleration_scale) for v in VEHICLES}) > 30


def test_the_reference_car_is_driven_as_fitted() -> None:
    spec = body_spec(EGO)
    assert (spec.acceleration_scale, spec.brake_scale, spec.top_speed_mps) == (1.0, 1.0, 55.0)
    assert seconds_to(EGO, 100.0) == pytest.approx(7.4, abs=0.1)


# ---- slopes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [-0.15, -0.06, -0.03, 0.03, 0.06, 0.15])
def test_a_car_in_neutral_rolls_with_gravity(slope: float) -> None:
    bodies = one(slope=slope)
    bodies.set_control(0, 1.0, 0.0, 0.0, neutral=True)
    run(bodies, 2.0, uphill(slope))
    pull = 9.81 * np.sin(np.arctan(abs(slope))) - dynamics.ROLLING_DRAG_MPS2
    assert bodies.speed[0] == pytest.approx(-np.sign(slope) * 2.0 * pull, rel=0.01)


def test_neutral_on_the_level_goes_nowhere_and_rolls_on_for_long() -> None:
    bodies = one()
    bodies.set_control(0, 1.0, 0.0, 0.0, neutral=True)
    assert run(bodies, 2.0).x[0] == 0.0
    rolling = one(speed_mps=10.0)
    rolling.set_control(0, 0.0, 0.0, 0.0, neutral=True)
    assert 9.0 < run(rolling, 5.0).speed[0] < 9.5


@pytest.mark.parametrize(("slope", "brake", "hand_brake"), [(0.2, 1.0, False), (-0.2, 0.5, False), (0.15, 0.0, True)])
def test_brakes_hold_to_the_last_bit(slope: float, brake: float, hand_brake: bool) -> None:
    """Settled on its slope, a braked car keeps every digit of its pose, whatever the steering does."""
    bodies = one(slope=slope)
    bodies.set_control(0, 0.0, 0.0, brake, hand_brake)
    run(bodies, 0.2, uphill(slope))
    before = bodies.rows[0].copy()
    for steer in (-1.0, 0.3, 1.0):
        bodies.set_control(0, 0.0, steer, brake, hand_brake)
        run(bodies, 5.0, uphill(slope))
        for name in ("x", "y", "z", "pitch", "yaw", "roll", "vx", "vy", "vz", "ax", "ay", "az", "wz"):
            assert bodies.rows[name][0] == before[name], name


def test_throttle_climbs_slower_by_gravitys_share() -> None:
    level, climb = one(), one(slope=0.1)
    for bodies, slope in ((level, 0.0), (climb, 0.1)):
        bodies.set_control(0, 1.0, 0.0, 0.0)
        run(bodies, 1.0, uphill(slope))
    assert level.speed[0] - climb.speed[0] == pytest.approx(9.81 * np.sin(np.arctan(0.1)), rel=0.15)
    assert seconds_to(EGO, 50.0, slope=0.1) > 1.15 * seconds_to(EGO, 50.0)
    assert seconds_to("vehicle.carlamotors.european_hgv", 50.0, slope=0.1) > 8.0


def test_downhill_in_gear_the_engine_brakes() -> None:
    assert run(one(speed_mps=10.0, slope=-0.1), 3.0, uphill(-0.1)).speed[0] < 11.0
    free = one(speed_mps=10.0, slope=-0.1)
    free.set_control(0, 0.0, 0.0, 0.0, neutral=True)
    assert run(free, 3.0, uphill(-0.1)).speed[0] > 12.0


def test_both_axles_stand_on_the_ground() -> None:
    """Over waves the front and the rear axle touch the ground at their own places, to 1 mm."""

    def waves(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return 0.4 * np.sin(x / 5.0) + 0.05 * y

    for type_id in (EGO, "vehicle.mitsubishi.fusorosa"):
        bodies = one(type_id, speed_mps=8.0)
        bodies.set_control(0, 0.5, 0.0, 0.0)
        for _ in range(100):
            step(bodies, 1, DT_S, waves)
            x, y, z = (float(bodies.rows[name][0]) for name in "xyz")
            rise = 0.5 * bodies.wheelbase[0] * np.tan(np.radians(bodies.pitch[0]))
            for ahead in (-1.0, 1.0):
                axle = np.array([x + ahead * 0.5 * bodies.wheelbase[0] * np.cos(np.radians(bodies.yaw[0]))])
                assert z + ahead * rise == pytest.approx(float(waves(axle, np.array([y]), z)[0]), abs=1e-3)
            assert bodies.roll[0] == pytest.approx(np.degrees(np.arctan(-0.05)), abs=0.5)


# ---- slippery ground -----------------------------------------------------------------------------------------


def test_less_friction_brakes_later_steers_wider_and_starts_slower() -> None:
    ways = [stopping_m(EGO, 15.0, level) for level in (1.0, 0.4, 0.2, 0.1)]
    assert ways == sorted(ways) and ways[3] > 3.0 * ways[0]
    assert ways[3] == pytest.approx(15.0**2 / (2 * 0.1 * 24.0), rel=0.05), "the tyres' limit, not the brake's"
    ice = one(speed_mps=12.0)
    ice.friction[0] = 0.1 * TYRE_FRICTION
    ice.set_control(0, 1.0, 1.0, 0.0)
    run(ice, 0.5)
    assert abs(ice.speed[0] * np.radians(ice.wz[0])) == pytest.approx(2.4, rel=0.01)
    assert ice.speed[0] - 12.0 == pytest.approx(0.5 * 2.4, rel=0.05)


def test_friction_of_overlapping_boxes() -> None:
    wide = FrictionTrigger((10.0, 0.0, 0.0), 0.0, (5.0, 5.0, 1.0), 0.3)
    turned = FrictionTrigger((10.0, 0.0, 0.0), np.pi / 4, (1.0, 4.0, 1.0), 0.1)
    places = np.array([[10.0, 0.0, 0.0], [14.0, 4.0, 0.0], [8.0, 2.0, 0.0], [20.0, 0.0, 0.0], [10.0, 0.0, 3.0]])
    own = np.array([0.0, 0.0, 2.0, 3.0, 4.0])
    assert friction([wide, turned], places, own).tolist() == [0.1, 0.3, 0.1, 3.0, 4.0]
    assert friction([], places, own).tolist() == own.tolist()
