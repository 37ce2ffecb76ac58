"""What a client's commands do to a vehicle's dynamics: gears, tyres and mass, slippery boxes, collisions."""

from __future__ import annotations

import carla
import pytest


def drive(world: carla.World, vehicle: carla.Vehicle, control: carla.VehicleControl, ticks: int) -> float:
    """Speed along the heading after some ticks, in m/s."""
    vehicle.apply_control(control)
    for _ in range(ticks):
        world.tick()
    velocity, forward = vehicle.get_velocity(), vehicle.get_transform().get_forward_vector()
    return velocity.x * forward.x + velocity.y * forward.y


def stopping_m(world: carla.World, vehicle: carla.Vehicle, speed_mps: float) -> float:
    drive(world, vehicle, carla.VehicleControl(hand_brake=True), 15)  # down on the ground
    forward = vehicle.get_transform().get_forward_vector()
    vehicle.set_target_velocity(carla.Vector3D(forward.x * speed_mps, forward.y * speed_mps, 0.0))
    start = vehicle.get_location()
    for _ in range(100):
        if drive(world, vehicle, carla.VehicleControl(brake=1.0), 1) == 0.0:
            break
    return start.distance(vehicle.get_location())


def test_gears_by_hand(world, spawn):
    car = spawn(0)
    assert drive(world, car, carla.VehicleControl(throttle=1.0, manual_gear_shift=True, gear=0), 10) == 0.0
    assert drive(world, car, carla.VehicleControl(throttle=0.7, manual_gear_shift=True, gear=-1), 10) < -0.5
    drive(world, car, carla.VehicleControl(hand_brake=True), 20)
    assert drive(world, car, carla.VehicleControl(throttle=0.7, manual_gear_shift=True, gear=1), 10) > 0.5


def test_tyres_and_mass_of_physics_control(world, spawn):
    car = spawn(0)
    usual = stopping_m(world, car, 8.0)
    physics = car.get_physics_control()
    wheels = physics.wheels
    for wheel in wheels:
        wheel.tire_friction = 0.35
    physics.wheels = wheels
    physics.mass = 900.0
    car.apply_physics_control(physics)
    assert stopping_m(world, car, 8.0) > 2.5 * usual
    forward = car.get_transform().get_forward_vector()
    car.add_impulse(carla.Vector3D(forward.x * 1800.0, forward.y * 1800.0, 0.0))
    assert drive(world, car, carla.VehicleControl(manual_gear_shift=True, gear=0), 1) == pytest.approx(2.0, abs=0.05)


def test_a_friction_trigger_is_slippery_while_it_exists(world, spawn):
    car = spawn(0)
    usual = stopping_m(world, car, 8.0)
    blueprint = world.get_blueprint_library().find("static.trigger.friction")
    for name, value in (("friction", 0.35), ("extent_x", 10_000.0), ("extent_y", 10_000.0), ("extent_z", 1000.0)):
        blueprint.set_attribute(name, str(value))
    trigger = world.spawn_actor(blueprint, carla.Transform(car.get_location()))
    world.tick()
    assert [wheel.tire_friction for wheel in car.get_physics_control().wheels] == pytest.approx([0.35] * 4)
    assert stopping_m(world, car, 8.0) > 2.5 * usual
    trigger.destroy()
    world.tick()
    assert [wheel.tire_friction for wheel in car.get_physics_control().wheels] == pytest.approx([3.5] * 4)
    assert stopping_m(world, car, 8.0) == pytest.approx(usual, rel=0.1)


def test_a_car_without_gravity_stays_up(world, spawn):
    car = spawn(0)
    drive(world, car, carla.VehicleControl(hand_brake=True), 20)
    pose = car.get_transform()
    for enabled in (False, True):
        car.set_enable_gravity(enabled)
        car.set_transform(carla.Transform(pose.location + carla.Location(z=10.0), pose.rotation))
        drive(world, car, carla.VehicleControl(), 20)
        assert (car.get_location().z > pose.location.z + 9.9) is not enabled


def test_a_car_that_is_spawned_above_a_slope_falls_before_it_rolls(world):
    place = world.get_map().get_spawn_points()[0]
    place.rotation.pitch = -16.0
    car = world.spawn_actor(world.get_blueprint_library().find("vehicle.audi.tt"), place)
    world.tick()
    now = car.get_location()
    assert (now.x, now.y) == pytest.approx((place.location.x, place.location.y), abs=1e-4)
    assert now.z < place.location.z - 0.01


def test_a_parked_car_reports_the_same_bits_every_tick(world, spawn):
    car = spawn(0)
    drive(world, car, carla.VehicleControl(hand_brake=True), 20)
    before = car.get_transform()
    for steer in (-1.0, 0.5):
        drive(world, car, carla.VehicleControl(hand_brake=True, steer=steer), 50)
        now = car.get_transform()
        assert (now.location, now.rotation) == (before.location, before.rotation)
        assert car.get_velocity() == car.get_acceleration() == car.get_angular_velocity() == carla.Vector3D()


def test_one_crash_one_report_with_momentum(world, spawn):
    """The collision sensor of a car that runs into a parked one: impulse backwards, of about the right size."""
    events = []
    parked = spawn(0)
    pose = parked.get_transform()
    forward = pose.get_forward_vector()
    car = spawn(1)
    pose.location -= carla.Location(forward.x * 7.0, forward.y * 7.0, 0.0)
    car.set_transform(pose)
    world.tick()
    blueprint = world.get_blueprint_library().find("sensor.other.collision")
    sensor = world.spawn_actor(blueprint, carla.Transform(), attach_to=car)
    sensor.listen(events.append)
    for _ in range(20):  # until the subscription stands
        world.tick()
    car.set_target_velocity(carla.Vector3D(forward.x * 10.0, forward.y * 10.0, 0.0))
    drive(world, car, carla.VehicleControl(), 15)
    assert events and events[0].other_actor.id == parked.id
    impulse = events[0].normal_impulse
    along = impulse.x * forward.x + impulse.y * forward.y
    assert -1800.0 * 6.0 < along < -1800.0 * 4.0
    sensor.destroy()
