"""GNSS dialects against the installed client, IMU conventions, and noise that repeats."""

import importlib.metadata

import carla
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.noise import GeoReference, SensorNoise, geo_reference, gnss, imu

OPENDRIVE = """<?xml version="1.0"?><OpenDRIVE>
<header revMajor="1" revMinor="4"><geoReference><![CDATA[{geo}]]></geoReference></header>
<road name="" length="100" id="1" junction="-1">
<planView><geometry s="0" x="0" y="0" hdg="0" length="100"><line/></geometry></planView>
<lanes><laneSection s="0"><center><lane id="0" type="none" level="false"/></center><right>
<lane id="-1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/></lane>
</right></laneSection></lanes></road></OpenDRIVE>"""
CLIENT = importlib.metadata.version("carla")
REFERENCES = (
    "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs ",
    "+lat_0=4.9000000000000000e+1 +lon_0=8.0000000000000000e+0",
    "+lat_0=-33.8 +lon_0=151.2",
    "+proj=merc +lat_0=.5e1 +lon_0=-20.",
    "+proj=tmerc +lat_0=42.5",
    "+proj=utm +zone=31 +ellps=WGS84",
    "",
)


@pytest.mark.parametrize("geo", REFERENCES)
@pytest.mark.parametrize("place", [(0, 0, 0), (5000, 0, 3), (0, 5000, 0), (-1234.5, 3456.7, 12), (20000, -10000, -5)])
def test_gnss_equals_the_clients_own_conversion(geo: str, place: tuple[float, float, float]) -> None:
    text = OPENDRIVE.format(geo=geo)
    expected = carla.Map("town", text).transform_to_geolocation(carla.Location(*place))
    x, y, z = np.float32(place)
    latitude, longitude, altitude = gnss((float(x), float(y), float(z)), CLIENT, geo_reference(text))
    assert latitude == pytest.approx(expected.latitude, abs=1e-8)
    assert longitude == pytest.approx(expected.longitude, abs=1e-8)
    assert altitude == pytest.approx(expected.altitude)


def test_0_9_15_gnss_counts_south_and_has_no_scale() -> None:
    latitude, longitude, altitude = gnss((0.0, 5000.0, 7.0), "0.9.15", GeoReference(0.0, 0.0))
    assert (round(latitude, 6), longitude, altitude) == (-0.044916, 0.0, 7.0)
    assert gnss((5000.0, 0.0, 0.0), "0.9.15", GeoReference(0.0, 0.0))[1] == pytest.approx(0.0449157642)
    latitude, longitude, _ = gnss((0.0, 0.0, 0.0), "0.9.15", GeoReference(49.0, 8.0))
    assert (latitude, longitude) == pytest.approx((49.0, 8.0))


@given(x=st.floats(-5e3, 5e3), y=st.floats(-5e3, 5e3))
def test_the_dialects_mirror_each_other_up_to_scale(x: float, y: float) -> None:
    origin = GeoReference(0.0, 0.0)
    old, new = gnss((x, y, 0.0), "0.9.15", origin), gnss((x, y, 0.0), "0.9.16", origin)
    assert new[0] * 0.9996 == pytest.approx(-old[0], abs=1e-7)
    assert new[1] * 0.9996 == pytest.approx(old[1], abs=1e-7)


def test_imu_feels_gravity_at_rest() -> None:
    reading = imu((0.0, 30.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    np.testing.assert_allclose(reading.accelerometer_mps2, [0.0, 0.0, 9.81], atol=1e-12)
    uphill = imu((10.0, 30.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)).accelerometer_mps2
    np.testing.assert_allclose(uphill, [9.81 * np.sin(np.radians(10)), 0.0, 9.81 * np.cos(np.radians(10))], atol=1e-12)


def test_imu_axes_are_forward_right_up() -> None:
    heading = np.radians(60.0)
    reading = imu((0.0, 60.0, 0.0), (2 * np.cos(heading), 2 * np.sin(heading), 0.0), (0.0, 0.0, 90.0))
    np.testing.assert_allclose(reading.accelerometer_mps2, [2.0, 0.0, 9.81], atol=1e-12)
    np.testing.assert_allclose(reading.gyroscope_radps, [0.0, 0.0, np.pi / 2], atol=1e-12)
    right = imu((0.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 0.0)).accelerometer_mps2
    np.testing.assert_allclose(right, [0.0, 3.0, 9.81], atol=1e-12)


@pytest.mark.parametrize(
    ("yaw", "compass"), [(-90.0, 0.0), (0.0, 0.5), (90.0, 1.0), (180.0, 1.5), (-180.0, 1.5), (450.0, 1.0)]
)
def test_compass_is_zero_towards_minus_y_and_grows_clockwise(yaw: float, compass: float) -> None:
    assert imu((0.0, yaw, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)).compass_rad == pytest.approx(compass * np.pi)


@given(pitch=st.floats(-80, 80), yaw=st.floats(-720, 720), roll=st.floats(-180, 180))
@settings(max_examples=50)
def test_imu_agrees_with_the_axes_of_a_carla_transform(pitch: float, yaw: float, roll: float) -> None:
    transform = carla.Transform(carla.Location(), carla.Rotation(pitch=pitch, yaw=yaw, roll=roll))
    axes = (transform.get_forward_vector(), transform.get_right_vector(), transform.get_up_vector())
    expected = [9.81 * axis.z for axis in axes]
    reading = imu((pitch, yaw, roll), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    np.testing.assert_allclose(reading.accelerometer_mps2, expected, atol=1e-4)
    assert 0.0 <= reading.compass_rad < 2 * np.pi


def test_noise_has_the_asked_mean_and_spread() -> None:
    noise = SensorNoise(noise_seed=7, spawn_order=2)
    draws = np.stack([noise.sample((0.001, 0.5, 0.0), (0.0, 3.0, 1.0)) for _ in range(4000)])
    np.testing.assert_allclose(draws.mean(axis=0), [0.0, 3.0, 1.0], atol=0.03)
    np.testing.assert_allclose(draws.std(axis=0), [0.001, 0.5, 0.0], rtol=0.05)


def test_noise_repeats_for_the_same_seed_and_spawn_order_only() -> None:
    def first(seed: int, order: int) -> list[float]:
        return SensorNoise(seed, order).sample((1.0, 1.0, 1.0)).tolist()

    assert first(5, 1) == first(5, 1)
    others = [first(5, 2), first(6, 1), first(-5, 1), first(0, 1)]
    assert all(other != first(5, 1) for other in others)
