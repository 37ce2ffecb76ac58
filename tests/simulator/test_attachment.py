"""What hangs on another actor: where it is, and where it is not."""

from __future__ import annotations

import math
import queue

import carla
import pytest

CHASE = carla.Transform(carla.Location(x=-5.5, z=2.5), carla.Rotation(pitch=8.0))
"""The chase camera of CARLA's manual_control.py."""


@pytest.fixture
def car(world):
    car = world.spawn_actor(
        world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), world.get_map().get_spawn_points()[0]
    )
    world.tick()
    return car


def mounted(world, car, pose, attachment, type_id="sensor.other.imu"):
    actor = world.spawn_actor(world.get_blueprint_library().find(type_id), pose, car, attachment)
    world.tick()
    return actor


def seen_from(car, actor):
    """Place of an actor in the frame of a car that stands level."""
    offset, forward = actor.get_location() - car.get_location(), car.get_transform().get_forward_vector()
    right = car.get_transform().get_right_vector()
    return offset.dot(forward), offset.dot(right), offset.z


def test_a_spring_arm_looks_along_itself(world, car):
    rigid = mounted(world, car, CHASE, carla.AttachmentType.Rigid)
    ghost = mounted(world, car, CHASE, carla.AttachmentType.SpringArmGhost)
    sprung = mounted(world, car, CHASE, carla.AttachmentType.SpringArm)
    slope_deg = car.get_transform().rotation.pitch
    down_deg = math.degrees(math.atan2(2.5, 5.5))
    assert rigid.get_transform().rotation.pitch == pytest.approx(8.0 + slope_deg, abs=0.1)
    assert ghost.get_transform().rotation.pitch == pytest.approx(8.0 - down_deg, abs=0.1)
    for actor, lift_m in ((rigid, 0.0), (ghost, 0.0), (sprung, 0.3)):
        assert seen_from(car, actor) == pytest.approx((-5.5, 0.0, 2.5 + lift_m), abs=0.1)
        assert actor.get_transform().rotation.yaw == pytest.approx(car.get_transform().rotation.yaw, abs=0.1)


def test_a_spring_arm_follows_a_turn_smoothly(world, car):
    ghost = mounted(world, car, CHASE, carla.AttachmentType.SpringArmGhost)
    pose = car.get_transform()
    begin = pose.rotation.yaw
    pose.rotation.yaw += 90.0
    car.set_transform(pose)
    turned = []
    for _ in range(40):
        world.tick()
        turned.append((ghost.get_transform().rotation.yaw - begin) % 360.0)
    assert turned[0] == pytest.approx(0.4 * 90.0, abs=1.0)
    assert turned == sorted(turned)
    assert turned[-1] == pytest.approx(90.0, abs=0.5)


def test_a_spring_arm_ends_before_what_stands_behind(world, car):
    ghost = mounted(world, car, CHASE, carla.AttachmentType.SpringArmGhost)
    sprung = mounted(world, car, CHASE, carla.AttachmentType.SpringArm)
    pose = car.get_transform()
    ahead = pose.get_forward_vector()
    bus = world.get_blueprint_library().find("vehicle.mitsubishi.fusorosa")
    pose.location -= carla.Location(ahead.x * 8.5, ahead.y * 8.5, 0.0)
    world.spawn_actor(bus, pose)
    world.tick()
    assert seen_from(car, ghost)[0] == pytest.approx(-5.5, abs=0.1)
    assert -5.0 < seen_from(car, sprung)[0] < -2.5


def test_a_new_place_does_not_turn_it(world, car):
    pose = carla.Transform(carla.Location(x=1.0, z=1.5), carla.Rotation(yaw=90.0))
    imu = mounted(world, car, pose, carla.AttachmentType.Rigid)
    before = imu.get_transform().rotation.yaw
    imu.set_location(carla.Location(x=-1.0, z=1.5))
    world.tick()
    assert imu.get_transform().rotation.yaw == pytest.approx(before, abs=0.1)
    assert seen_from(car, imu) == pytest.approx((-1.0, 0.0, 1.5), abs=0.05)


def test_a_carried_prop_is_no_obstacle(world, car):
    prop = mounted(
        world, car, carla.Transform(carla.Location(x=3.5)), carla.AttachmentType.Rigid, "static.prop.streetbarrier"
    )
    start = car.get_location()
    bumps = queue.Queue()
    sensor = world.spawn_actor(
        world.get_blueprint_library().find("sensor.other.collision"), carla.Transform(), attach_to=car
    )
    sensor.listen(bumps.put)
    car.apply_control(carla.VehicleControl(throttle=0.7))
    for _ in range(80):
        world.tick()
    assert start.distance(car.get_location()) > 10.0
    assert seen_from(car, prop)[0] == pytest.approx(3.5, abs=0.2)
    assert bumps.empty()
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    again = world.get_map().get_spawn_points()[0]
    forward = again.get_forward_vector()
    again.location += carla.Location(forward.x * 3.5, forward.y * 3.5, 0.0)
    assert world.try_spawn_actor(blueprint, again) is not None, "the place where it was mounted is free"


def test_unknown_attachments_and_attributes_are_refused(world, server):
    library = world.get_blueprint_library()
    blueprint = library.find("static.prop.mesh")
    blueprint.set_attribute("mesh_path", "/Game/Car")
    with pytest.raises(RuntimeError, match="mesh_path"):
        world.spawn_actor(blueprint, carla.Transform(carla.Location(z=5.0)))
