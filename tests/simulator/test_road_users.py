"""Everything besides cars and walkers at ease that scenarios ask of the server, through the real client."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import carla
import pytest

from tests.simulator.conftest import pin_this_thread

PROPS = (
    "container", "constructioncone", "trafficwarning", "warningconstruction", "warningaccident", "dirtdebris01",
    "dirtdebris02", "dirtdebris03", "vendingmachine", "streetbarrier", "trafficcone01", "shoppingcart", "busstop",
)  # fmt: skip
EMERGENCY = {
    "vehicle.ford.ambulance", "vehicle.carlamotors.firetruck", "vehicle.dodge.charger_police",
    "vehicle.dodge.charger_police_2020",
}  # fmt: skip
BICYCLES = {"vehicle.bh.crossbike", "vehicle.diamondback.century", "vehicle.gazelle.omafiets"}
MOTORCYCLES = {
    "vehicle.harley-davidson.low_rider",
    "vehicle.kawasaki.ninja",
    "vehicle.vespa.zx125",
    "vehicle.yamaha.yzf",
}
Spawn = Callable[..., carla.Actor]


def ticks(world: carla.World, count: int) -> None:
    for _ in range(count):
        world.tick()


@pytest.fixture
def place(world: carla.World) -> Spawn:
    """Spawn anything relative to the n-th spawn point: metres ahead of it, to its right and above."""

    def spawn(
        type_id: str, index: int = 0, ahead_m: float = 0.0, right_m: float = 0.0, **attributes: str
    ) -> carla.Actor:
        pose = world.get_map().get_spawn_points()[index]
        pose.location += pose.get_forward_vector() * ahead_m + pose.get_right_vector() * right_m
        if type_id.startswith("walker."):
            pose.location.z += 0.8
        blueprint = world.get_blueprint_library().find(type_id)
        for name, value in attributes.items():
            blueprint.set_attribute(name, value)
        actor = world.spawn_actor(blueprint, pose)
        world.tick()
        return actor

    return spawn


@pytest.fixture
def watch(world: carla.World) -> Iterator[Callable[[carla.Actor], list[carla.CollisionEvent]]]:
    """The collisions of an actor, as they come in."""
    sensors = []

    def listen(actor: carla.Actor) -> list[carla.CollisionEvent]:
        sensor = world.spawn_actor(
            world.get_blueprint_library().find("sensor.other.collision"), carla.Transform(), attach_to=actor
        )
        events: list[carla.CollisionEvent] = []
        sensor.listen(events.append)
        sensors.append(sensor)
        return events

    yield listen
    for sensor in sensors:
        sensor.stop()


def test_the_library_has_cyclists_motorcycles_and_emergency_vehicles(world):
    vehicles = world.get_blueprint_library().filter("vehicle.*")

    def having(name: str, value: str) -> set[str]:
        return {blueprint.id for blueprint in vehicles if str(blueprint.get_attribute(name).as_str()) == value}

    assert having("base_type", "bicycle") == BICYCLES and having("base_type", "motorcycle") == MOTORCYCLES
    assert having("special_type", "emergency") == EMERGENCY
    wheels = {blueprint.id: int(blueprint.get_attribute("number_of_wheels")) for blueprint in vehicles}
    assert {type_id for type_id, number in wheels.items() if number == 2} == BICYCLES | MOTORCYCLES


def test_two_wheelers_and_trucks_drive(world, place):
    bicycle = place("vehicle.bh.crossbike", 0)
    motorcycle = place("vehicle.yamaha.yzf", 4)
    truck = place("vehicle.carlamotors.firetruck", 8)
    vehicles = (bicycle, motorcycle, truck)
    start = [vehicle.get_location() for vehicle in vehicles]
    for vehicle in vehicles:
        vehicle.apply_control(carla.VehicleControl(throttle=1.0))
    ticks(world, 60)
    moved_m = [vehicle.get_location().distance(at) for vehicle, at in zip(vehicles, start, strict=True)]
    assert min(moved_m) > 4.0 and moved_m[0] < moved_m[1]
    assert bicycle.bounding_box.extent.y < 0.5 and truck.bounding_box.extent.x > 4.0
    assert bicycle.semantic_tags == [19] and motorcycle.semantic_tags == [18] and truck.semantic_tags == [15]


def test_lights_of_vehicles(server, world, place):
    states = carla.VehicleLightState
    wanted = states(states.Position | states.LowBeam | states.LeftBlinker)
    car, truck = place("vehicle.lincoln.mkz_2020", 0), place("vehicle.carlamotors.firetruck", 4)
    car.set_light_state(wanted)
    server.client.apply_batch_sync([carla.command.SetVehicleLightState(truck.id, states.Special1)], False)
    ticks(world, 2)
    assert car.get_light_state() == wanted
    assert world.get_vehicles_light_states() == {car.id: wanted, truck.id: states.Special1}
    manager = world.get_lightmanager()
    assert len(manager.get_all_lights()) == 0
    manager.set_day_night_cycle(False)


def test_traffic_manager_switches_lights(server, world, place):
    cores = os.sched_getaffinity(0)
    pin_this_thread()
    manager = server.client.get_trafficmanager(server.port + 100)
    manager.set_synchronous_mode(True)
    car, bicycle = place("vehicle.lincoln.mkz_2020", 0), place("vehicle.diamondback.century", 4)
    start = [actor.get_location() for actor in (car, bicycle)]
    weather = world.get_weather()
    try:
        world.set_weather(carla.WeatherParameters.ClearNight)
        for actor in (car, bicycle):
            actor.set_autopilot(True, manager.get_port())
        manager.update_vehicle_lights(car, True)
        ticks(world, 120)
        assert car.get_light_state() & carla.VehicleLightState.LowBeam
        moved_m = [actor.get_location().distance(at) for actor, at in zip((car, bicycle), start, strict=True)]
        assert min(moved_m) > 3.0
    finally:
        world.set_weather(weather)
        for actor in (car, bicycle):
            actor.set_autopilot(False, manager.get_port())
        manager.set_synchronous_mode(False)
        manager.shut_down()
        os.sched_setaffinity(0, cores)


def test_an_open_door_is_in_the_way(world, place, watch):
    parked = place("vehicle.lincoln.mkz_2020", 0, ahead_m=15.0)
    hits = watch(parked)
    door = carla.VehicleDoor
    passing = place("vehicle.diamondback.century", 0, right_m=-1.6)
    pose = passing.get_transform()
    for is_open in (False, True):
        passing.set_transform(pose)
        if is_open:
            parked.open_door(door.FL)
        passing.set_target_velocity(parked.get_transform().get_forward_vector() * 6.0)
        passing.enable_constant_velocity(carla.Vector3D(6.0, 0.0, 0.0))
        ticks(world, 60)
        assert bool(hits) == is_open
        passing.disable_constant_velocity()
        passing.set_target_velocity(carla.Vector3D())
    assert hits[0].other_actor.id == passing.id
    parked.close_door(door.All)
    parked.open_door(door.RR)
    parked.close_door(door.RR)


def test_a_walker_is_hit_by_a_car(server, world, place, watch):
    car = place("vehicle.lincoln.mkz_2020", 0)
    walker = place("walker.pedestrian.0003", 0, ahead_m=16.0, right_m=-1.5)
    of_car, of_walker = watch(car), watch(walker)
    forward, right = car.get_transform().get_forward_vector(), car.get_transform().get_right_vector()
    walker.apply_control(carla.WalkerControl(direction=right, speed=0.75))
    car.set_target_velocity(forward * 9.0)
    car.apply_control(carla.VehicleControl(throttle=0.5))
    fastest = 0.0
    for _ in range(60):
        world.tick()
        fastest = max(fastest, walker.get_velocity().length())
        ahead = (walker.get_location() - car.get_location()).dot(forward)
        aside = abs((walker.get_location() - car.get_location()).dot(right))
        inside = abs(ahead) < car.bounding_box.extent.x - 0.3 and aside < car.bounding_box.extent.y - 0.3
        assert not inside, (ahead, aside)
    assert of_car and of_car[0].other_actor.id == walker.id
    assert of_walker and of_walker[0].other_actor.id == car.id
    assert fastest > 4.0
    assert of_car[0].normal_impulse.length() == pytest.approx(of_walker[0].normal_impulse.length())
    car.destroy()
    elsewhere = carla.Transform(walker.get_location() + right * 6.0)
    for wait, obeys in ((1, False), (80, True)):
        ticks(world, wait)
        server.client.apply_batch_sync([carla.command.ApplyWalkerState(walker.id, elsewhere, 1.0)], False)
        world.tick()
        assert (walker.get_location().distance(elsewhere.location) < 1.0) == obeys


def test_walkers_do_as_told(server, world, place):
    walker = place("walker.pedestrian.0001", 0, right_m=30.0)
    forward = carla.Vector3D(1.0, 0.0, 0.0)
    ticks(world, 20)
    ground = walker.get_location().z
    walker.apply_control(carla.WalkerControl(forward, 1.5, True))
    heights = []
    for _ in range(30):
        world.tick()
        heights.append(walker.get_location().z - ground)
    assert 0.6 < max(heights) < 1.1 and abs(heights[-1]) < 0.2
    assert walker.get_velocity().x == pytest.approx(1.5, abs=0.05)
    assert walker.get_control().speed == pytest.approx(1.5)
    pose = walker.get_transform()
    pose.location.x += 2.0
    server.client.apply_batch_sync([carla.command.ApplyWalkerState(walker.id, pose, 1.2)], False)
    world.tick()
    assert world.get_snapshot().find(walker.id).get_transform().location.x == pytest.approx(pose.location.x, abs=1e-3)
    assert walker.get_velocity().length() == pytest.approx(1.2, abs=0.01)
    ticks(world, 2)
    assert walker.get_velocity().length() == 0.0
    walker.set_simulate_physics(False)
    walker.set_location(pose.location + carla.Location(z=5.0))
    ticks(world, 5)
    assert walker.get_location().z == pytest.approx(pose.location.z + 5.0, abs=1e-3)
    walker.get_bones()
    walker.show_pose()
    walker.hide_pose()
    walker.blend_pose(0.5)


def test_props_stand_and_move(world, place):
    spawned = [place(f"static.prop.{name}", k) for k, name in enumerate(PROPS)]
    for prop in spawned:
        prop.set_simulate_physics(True)
    world.tick()
    for index, prop in enumerate(spawned):
        assert prop.bounding_box.extent.x > 0.0
        assert prop.get_location().z == pytest.approx(world.get_map().get_spawn_points()[index].location.z, abs=0.6)
    target = carla.Transform(spawned[0].get_location() + carla.Location(x=2.0), carla.Rotation(yaw=33.0))
    spawned[0].set_transform(target)
    spawned[1].set_location(target.location + carla.Location(y=3.0))
    world.tick()
    assert spawned[0].get_transform().rotation.yaw == pytest.approx(33.0, abs=1e-3)
    assert spawned[1].get_location().distance(target.location) == pytest.approx(3.0, abs=1e-3)


def stopping_distance_m(world: carla.World, car: carla.Vehicle) -> float:
    world.tick()
    start = car.get_location()
    car.set_target_velocity(car.get_transform().get_forward_vector() * 8.0)
    car.apply_control(carla.VehicleControl(brake=1.0))
    ticks(world, 100)
    return car.get_location().distance(start)


def test_ground_in_a_friction_trigger_is_slippery(world, place):
    car = place("vehicle.lincoln.mkz_2020", 0)
    pose = car.get_transform()
    dry_m = stopping_distance_m(world, car)
    extent = dict.fromkeys(("extent_x", "extent_y", "extent_z"), "4000.0")
    trigger = place("static.trigger.friction", 0, friction="0.5", **extent)
    car.set_transform(pose)
    slippery_m = stopping_distance_m(world, car)
    assert slippery_m > 1.8 * dry_m
    trigger.destroy()
    car.set_transform(pose)
    assert stopping_distance_m(world, car) == pytest.approx(dry_m, rel=0.1)
    with pytest.raises(RuntimeError, match="friction"):
        place("static.trigger.friction", 0, friction="-1.0")


def test_vehicles_are_moved_from_outside(world, place):
    car = place("vehicle.lincoln.mkz_2020", 0)
    forward = car.get_transform().get_forward_vector()
    car.enable_constant_velocity(carla.Vector3D(5.0, 0.0, 0.0))
    ticks(world, 10)
    assert car.get_velocity().dot(forward) == pytest.approx(5.0, abs=0.2)
    car.disable_constant_velocity()
    car.set_simulate_physics(False)
    at = car.get_location() + carla.Location(z=3.0)
    car.set_location(at)
    ticks(world, 5)
    assert car.get_location().distance(at) < 1e-3
    car.set_simulate_physics(True)
    ticks(world, 40)
    assert car.get_location().z < at.z - 2.0
    car.add_impulse(forward * 1800.0 * 4.0)
    world.tick()
    assert car.get_velocity().dot(forward) > 3.0
    assert car.get_speed_limit() > 20.0


def test_rays_meet_ground_and_bodies(world, place):
    car = place("vehicle.lincoln.mkz_2020", 0)
    ticks(world, 20)
    labels = carla.CityObjectLabel
    at = car.get_location()
    forward = car.get_transform().get_forward_vector()
    above = carla.Location(at.x, at.y, at.z + 10.0)
    (roof, ground) = world.cast_ray(above, carla.Location(at.x, at.y, at.z - 2.0))
    assert (roof.label, ground.label) == (labels.Car, labels.Roads)
    assert roof.location.z == pytest.approx(at.z + 2.0 * car.bounding_box.extent.z, abs=0.1)
    assert ground.location.z == pytest.approx(at.z, abs=0.15)
    before = at + forward * 10.0 + carla.Location(z=0.7)
    hit = world.project_point(carla.Location(before), forward * -1.0, 20.0)
    assert hit.label == labels.Car
    assert hit.location.distance(before) == pytest.approx(10.0 - car.bounding_box.extent.x, abs=0.2)
    assert world.project_point(carla.Location(before), carla.Vector3D(0.0, 0.0, 1.0), 100.0) is None
    beside = world.ground_projection(before, 5.0)
    assert beside.location.z == pytest.approx(at.z, abs=0.3)


def test_traffic_lights_obey_and_are_found(world):
    carla_map = world.get_map()
    lights = list(world.get_actors().filter("traffic.traffic_light"))
    light = lights[0]
    for set_time, get_time, seconds in (
        (light.set_green_time, light.get_green_time, 4.0),
        (light.set_yellow_time, light.get_yellow_time, 1.0),
        (light.set_red_time, light.get_red_time, 0.5),
    ):
        set_time(seconds)
        world.tick()
        assert get_time() == pytest.approx(seconds)
    light.reset_group()
    group = light.get_group_traffic_lights()
    seen = set()
    for _ in range(20 * 16 * len(group)):
        world.tick()
        seen.add(light.state)
        if light.state == carla.TrafficLightState.Green and light.get_elapsed_time() > 4.1:
            pytest.fail("green lasts longer than it was set to")
    assert seen == {carla.TrafficLightState.Red, carla.TrafficLightState.Yellow, carla.TrafficLightState.Green}
    light.set_state(carla.TrafficLightState.Off)
    light.freeze(True)
    ticks(world, 3)
    assert light.is_frozen() and light.state == carla.TrafficLightState.Off
    light.freeze(False)
    world.reset_all_traffic_lights()
    landmark = next(mark for mark in carla_map.get_all_landmarks() if mark.id == light.get_opendrive_id())
    assert world.get_traffic_light(landmark).id == light.id
    assert world.get_traffic_light_from_opendrive_id(light.get_opendrive_id()).id == light.id
    junction = next(
        waypoint for stop in light.get_stop_waypoints() for waypoint in stop.next(8.0) if waypoint.is_junction
    ).get_junction()
    assert light.id in {other.id for other in world.get_traffic_lights_in_junction(junction.id)}
    assert light.id in {
        other.id for other in world.get_traffic_lights_from_waypoint(light.get_stop_waypoints()[0], 60.0)
    }
    assert len(light.get_light_boxes()) >= 1 and light.get_pole_index() >= 0
    assert {pole.id for pole in group} == {other.id for other in lights[0].get_group_traffic_lights()}


def test_the_scenery_answers(world):
    things = world.get_environment_objects(carla.CityObjectLabel.Any)
    assert len(things) == len(world.get_names_of_all_objects()) > 0
    world.enable_environment_objects({1, 2}, False)
    world.debug.draw_point(carla.Location(), life_time=0.1)
    world.tick()


def test_spectator_and_sensors_are_moved(world, place):
    spectator = world.get_spectator()
    pose = carla.Transform(carla.Location(1.0, 2.0, 30.0), carla.Rotation(pitch=-80.0))
    spectator.set_transform(pose)
    car = place("vehicle.lincoln.mkz_2020", 0)
    imu = world.spawn_actor(
        world.get_blueprint_library().find("sensor.other.imu"), carla.Transform(carla.Location(x=1.0)), attach_to=car
    )
    world.tick()
    assert spectator.get_transform().location.distance(pose.location) < 1e-4
    imu.set_location(carla.Location(x=-1.0))
    world.tick()
    offset = imu.get_location() - car.get_location()
    assert math.hypot(offset.x, offset.y) == pytest.approx(1.0, abs=0.01)
    assert offset.dot(car.get_transform().get_forward_vector()) < 0.0


def test_numbers_that_are_none_are_refused(server, world, place):
    walker = place("walker.pedestrian.0001", 0, right_m=30.0)
    nowhere = carla.Location(math.nan, 0.0, 0.0)
    (answer,) = server.client.apply_batch_sync(
        [carla.command.ApplyWalkerState(walker.id, carla.Transform(nowhere), 1.0)], False
    )
    assert "not finite" in answer.error
    car = place("vehicle.audi.tt", 1)
    no_speed = carla.Vector3D(math.nan, 0.0, 0.0)
    (answer,) = server.client.apply_batch_sync([carla.command.ApplyTargetVelocity(car.id, no_speed)], False)
    assert "cannot give actor" in answer.error
    car.set_target_velocity(no_speed)
    car.add_impulse(carla.Vector3D(1e38, 0.0, 0.0))
    with pytest.raises(RuntimeError, match="finite ends"):
        world.cast_ray(nowhere, carla.Location())
    with pytest.raises(RuntimeError, match="direction"):
        world.project_point(carla.Location(), carla.Vector3D(), 10.0)
    world.tick()
    assert math.isfinite(walker.get_location().x)
    assert math.isfinite(car.get_location().x) and car.get_velocity().length() < 1.0
