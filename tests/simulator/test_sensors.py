"""Sensors as a client receives them."""

from __future__ import annotations

import math
import queue
import time

import carla
import numpy as np
import pytest

from tests.simulator.conftest import make_synchronous, start_server

PATIENCE_S = 15.0
SETTLE_TICKS = 20
"""A vehicle spawned above the ground has come to rest by then."""


@pytest.fixture(scope="module")
def drawing_server():
    running = start_server()
    yield running
    running.stop()


@pytest.fixture
def drawn_world(drawing_server):
    world = drawing_server.client.get_world()
    make_synchronous(world)
    yield world
    for actor in world.get_actors().filter("vehicle.*"):
        actor.destroy()
    world.tick()


def attach(world, vehicle, type_id, transform=None, **attributes):
    """The queue of measurements of a new sensor on the vehicle."""
    blueprint = world.get_blueprint_library().find(type_id)
    for name, value in attributes.items():
        blueprint.set_attribute(name, str(value))
    sensor = world.spawn_actor(blueprint, transform or carla.Transform(), attach_to=vehicle)
    measurements = queue.Queue()
    sensor.listen(measurements.put)
    measurements.sensor = sensor  # a sensor object that goes out of scope stops listening
    return measurements


def after_frame(measurements, frame):
    """The measurement of that frame."""
    while True:
        measurement = measurements.get(timeout=PATIENCE_S)
        if measurement.frame >= frame:
            assert measurement.frame == frame
            return measurement


def warm_up(world, measurements):
    """Tick until the subscription is live."""
    for _ in range(100):
        world.tick()
        try:
            measurements.get(timeout=0.1)
            return
        except queue.Empty:
            continue
    raise AssertionError("sensor never delivered")


def test_camera_delivers_each_frame_in_bgra(drawn_world):
    vehicle = drawn_world.spawn_actor(
        drawn_world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"),
        drawn_world.get_map().get_spawn_points()[0],
    )
    mount = carla.Transform(carla.Location(x=0.8, z=1.6))
    images = attach(drawn_world, vehicle, "sensor.camera.rgb", mount, image_size_x=224, image_size_y=128, fov=70)
    warm_up(drawn_world, images)
    for _ in range(3):
        image = after_frame(images, drawn_world.tick())
        pixels = np.frombuffer(image.raw_data, np.uint8).reshape(128, 224, 4)
        assert (pixels[..., 3] == 255).all()
        assert pixels[..., :3].std() > 10.0
    assert image.fov == pytest.approx(70.0)
    assert image.transform.location.distance(vehicle.get_transform().transform(mount.location)) < 0.05
    # Blue leads in the sky, so B must be the first channel.
    sky, road = pixels[:20].reshape(-1, 4).mean(0), pixels[-20:].reshape(-1, 4).mean(0)
    assert sky[0] > sky[2] and sky[:3].mean() > road[:3].mean()


def test_sensor_tick_thins_out(drawn_world):
    vehicle = drawn_world.spawn_actor(
        drawn_world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"),
        drawn_world.get_map().get_spawn_points()[0],
    )
    readings = attach(drawn_world, vehicle, "sensor.other.imu", sensor_tick=0.1)
    warm_up(drawn_world, readings)
    while not readings.empty():
        readings.get()
    last = [drawn_world.tick() for _ in range(10)][-1]
    frames = []
    while not frames or frames[-1] < last - 1:
        frames.append(readings.get(timeout=PATIENCE_S).frame)
    assert set(np.diff(frames)) == {2}


def test_sensor_tick_holds_its_rate_between_steps(world, spawn):
    """No step falls on a period of 0.12 s; what one measurement is late must not delay the next."""
    readings = attach(world, spawn(), "sensor.other.imu", sensor_tick=0.12)
    warm_up(world, readings)
    while not readings.empty():
        readings.get()
    last = [world.tick() for _ in range(120)][-1]
    times = []
    while not times or times[-1][0] < last - 2:
        reading = readings.get(timeout=PATIENCE_S)
        times.append((reading.frame, reading.timestamp))
    steps = np.diff([frame for frame, _ in times])
    assert set(steps) == {2, 3}
    assert steps.mean() * 0.05 == pytest.approx(0.12, abs=0.002)


def test_a_long_step_does_not_break_a_dense_lidar(world, spawn):
    """More points than one step may have: it gets fewer, and client and server go on."""
    vehicle = spawn()
    settings = world.get_settings()
    settings.fixed_delta_seconds = 0.2
    world.apply_settings(settings)
    sweeps = attach(world, vehicle, "sensor.lidar.ray_cast_semantic", points_per_second=6_000_000, range=5)
    frame = world.tick()
    sweep = after_frame(sweeps, frame)
    assert 0 < len(sweep) <= 1_000_000
    world.tick()


def test_a_force_pushes_for_one_step_of_any_length(world, spawn):
    vehicle = spawn()
    mass_kg = vehicle.get_physics_control().mass
    gained = []
    for step_s in (0.05, 0.01):
        settings = world.get_settings()
        settings.fixed_delta_seconds = step_s
        world.apply_settings(settings)
        vehicle.set_target_velocity(carla.Vector3D())
        for _ in range(20):
            world.tick()
        ahead = vehicle.get_transform().get_forward_vector()
        before = vehicle.get_velocity().dot(ahead)
        vehicle.add_force(ahead * (mass_kg * 100.0))
        world.tick()
        gained.append(vehicle.get_velocity().dot(ahead) - before)
    assert gained[0] == pytest.approx(5.0, abs=0.5)
    assert gained[1] == pytest.approx(1.0, abs=0.2)


def test_gnss_and_imu_at_rest(world, spawn):
    vehicle = spawn()
    fixes = attach(world, vehicle, "sensor.other.gnss")
    readings = attach(world, vehicle, "sensor.other.imu")
    warm_up(world, fixes)
    warm_up(world, readings)
    frame = [world.tick() for _ in range(SETTLE_TICKS)][-1]
    fix, reading = after_frame(fixes, frame), after_frame(readings, frame)
    expected = world.get_map().transform_to_geolocation(vehicle.get_location())
    assert fix.latitude == pytest.approx(expected.latitude, abs=1e-7)
    assert fix.longitude == pytest.approx(expected.longitude, abs=1e-7)
    assert reading.accelerometer.z == pytest.approx(9.81, abs=1e-3)
    yaw_rad = math.radians(vehicle.get_transform().rotation.yaw)
    assert math.cos(reading.compass - (yaw_rad + math.pi / 2)) == pytest.approx(1.0, abs=1e-6)


def test_gnss_noise_has_the_asked_spread(world, spawn):
    vehicle = spawn()
    sigma_deg = 5e-6
    fixes = attach(world, vehicle, "sensor.other.gnss", noise_lat_stddev=sigma_deg, noise_lon_stddev=sigma_deg)
    warm_up(world, fixes)
    latitudes = [after_frame(fixes, world.tick()).latitude for _ in range(200)]
    assert np.std(latitudes) == pytest.approx(sigma_deg, rel=0.25)


def test_imu_feels_a_turn(world, spawn):
    vehicle = spawn()
    readings = attach(world, vehicle, "sensor.other.imu")
    warm_up(world, readings)
    vehicle.apply_control(carla.VehicleControl(throttle=0.5, steer=0.3))
    for _ in range(40):
        reading = after_frame(readings, world.tick())
    turn_rate = math.radians(vehicle.get_angular_velocity().z)
    assert turn_rate > 0.1
    assert reading.gyroscope.z == pytest.approx(turn_rate, abs=1e-3)
    assert reading.accelerometer.y == pytest.approx(turn_rate * vehicle.get_velocity().length(), rel=0.3)


def test_collision_is_reported_with_both_actors(world, spawn):
    point = world.get_map().get_spawn_points()[0]
    striker = spawn(0)
    ahead = carla.Transform(point.location + point.get_forward_vector() * 12.0, point.rotation)
    parked = world.spawn_actor(world.get_blueprint_library().find("vehicle.audi.tt"), ahead)
    events = attach(world, striker, "sensor.other.collision")
    for _ in range(10):
        world.tick()
    striker.apply_control(carla.VehicleControl(throttle=1.0))
    for _ in range(100):
        world.tick()
        if not events.empty():
            break
    event = events.get(timeout=PATIENCE_S)
    assert event.actor.id == striker.id and event.other_actor.id == parked.id
    assert event.other_actor.type_id == "vehicle.audi.tt"
    assert event.normal_impulse.length() > 100.0


def test_lane_invasion_comes_from_the_client(world, spawn):
    vehicle = spawn()
    events = attach(world, vehicle, "sensor.other.lane_invasion")
    vehicle.apply_control(carla.VehicleControl(throttle=0.5, steer=-0.3))
    for _ in range(60):
        world.tick()
    assert events.get(timeout=PATIENCE_S).crossed_lane_markings


def test_a_listener_that_comes_late_in_a_step_gets_that_steps_data(world, spawn):
    vehicle = spawn()
    blueprint = world.get_blueprint_library().find("sensor.other.imu")
    for late_steps, comes in ((1, True), (5, False)):
        sensor = world.spawn_actor(blueprint, carla.Transform(), attach_to=vehicle)
        for _ in range(late_steps):
            frame = world.tick()
        frames = queue.SimpleQueue()
        sensor.listen(lambda data, frames=frames: frames.put(data.frame))
        time.sleep(0.3)
        assert [frames.get() for _ in range(frames.qsize())] == ([frame] if comes else [])
        assert world.tick() == frames.get(timeout=5.0)
        sensor.destroy()
