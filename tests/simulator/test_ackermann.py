"""Vehicles that are told a speed and a wheel angle, by a real client."""

from __future__ import annotations

import math

import carla
import pytest


@pytest.fixture
def vehicle(world):
    """A car that stands on a road, with the ground's grip and nobody around."""
    vehicle = world.spawn_actor(
        world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), world.get_map().get_spawn_points()[0]
    )
    world.tick()
    return vehicle


def speeds(world, vehicle, seconds):
    """Signed speed after every step."""
    found = []
    for _ in range(round(seconds / 0.05)):
        world.tick()
        ahead, velocity = vehicle.get_transform().get_forward_vector(), vehicle.get_velocity()
        found.append(velocity.x * ahead.x + velocity.y * ahead.y)
    return found


def test_one_command_reaches_its_speed_and_keeps_it(world, vehicle):
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(speed=4.0))
    found = speeds(world, vehicle, 14.0)
    assert max(found) < 5.0
    assert all(abs(speed - 4.0) < 0.3 for speed in found[-100:]), found[-100::20]


def test_it_stops_and_stays(world, vehicle):
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(speed=-2.0))
    backwards = speeds(world, vehicle, 12.0)
    assert abs(backwards[-1] + 2.0) < 0.4
    assert vehicle.get_control().reverse
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(speed=0.0))
    found = speeds(world, vehicle, 15.0)
    assert max(abs(speed) for speed in found) < 2.6
    assert max(abs(speed) for speed in found[-40:]) < 0.1
    assert vehicle.get_control().brake == 1.0


def test_the_acceleration_is_a_limit(world, vehicle):
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(speed=8.0, acceleration=0.5))
    gentle = speeds(world, vehicle, 8.0)
    assert 0.3 < gentle[-1] < 6.0
    later = speeds(world, vehicle, 4.0)
    assert 0.25 < (later[-1] - gentle[-1]) / 4.0 < 0.9


def test_the_wheels_turn_as_fast_as_told(world, vehicle):
    most_rad = math.radians(vehicle.get_physics_control().wheels[0].max_steer_angle)
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(steer=0.4, steer_speed=0.2))
    speeds(world, vehicle, 1.0)
    world.tick()
    assert abs(vehicle.get_control().steer * most_rad - 0.2) < 0.03
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(steer=-0.3))
    speeds(world, vehicle, 0.1)
    assert abs(vehicle.get_control().steer * most_rad + 0.3) < 0.01


def test_pedals_end_it_and_gains_count(world, vehicle):
    settings = vehicle.get_ackermann_controller_settings()
    settings.accel_kp, settings.accel_kd = 0.0, 0.0
    vehicle.apply_ackermann_controller_settings(settings)
    vehicle.apply_ackermann_control(carla.VehicleAckermannControl(speed=5.0))
    assert max(speeds(world, vehicle, 3.0)) < 0.05
    vehicle.apply_control(carla.VehicleControl(throttle=0.8))
    assert speeds(world, vehicle, 3.0)[-1] > 4.0
    assert abs(vehicle.get_control().throttle - 0.8) < 1e-6
