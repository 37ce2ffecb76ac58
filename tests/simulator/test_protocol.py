"""The unmodified `carla` client against the real server: session, actors, motion, lights."""

from __future__ import annotations

import math

import carla
import pytest

from tests.simulator.conftest import make_synchronous

FIRST_MOVE_TICKS = 60


def test_session_answers_what_a_client_asks_first(server, world):
    client = server.client
    assert client.get_server_version() == client.get_client_version()
    assert world.get_map().name == "Carla/Maps/Gen01"
    assert len(world.get_map().get_spawn_points()) > 20
    assert "/Game/Carla/Maps/Gen01" in client.get_available_maps()


def test_settings_and_weather_come_back_as_sent(world):
    settings = world.get_settings()
    assert settings.synchronous_mode and settings.fixed_delta_seconds == 0.05
    weather = carla.WeatherParameters(cloudiness=30.0, precipitation=60.0, sun_altitude_angle=-10.0, fog_density=5.0)
    world.set_weather(weather)
    world.tick()
    assert world.get_weather() == weather


def test_each_tick_is_one_frame_of_fixed_length(world):
    before = world.get_snapshot().timestamp
    frames = [world.tick() for _ in range(5)]
    after = world.get_snapshot().timestamp
    assert frames == list(range(frames[0], frames[0] + 5))
    assert after.elapsed_seconds - before.elapsed_seconds == pytest.approx(0.25, abs=1e-6)


def test_library_has_carlas_ids_and_types(world):
    library = world.get_blueprint_library()
    assert len(library.filter("vehicle.*")) >= 25
    assert len(library.filter("walker.pedestrian.*")) >= 20
    ego = library.find("vehicle.lincoln.mkz_2020")
    assert int(ego.get_attribute("number_of_wheels")) == 4
    ego.set_attribute("role_name", "hero")
    camera = library.find("sensor.camera.rgb")
    camera.set_attribute("image_size_x", "1600")
    assert camera.get_attribute("image_size_x").as_int() == 1600
    assert library.find("sensor.other.gnss").get_attribute("noise_lat_stddev").as_float() == 0.0


def test_attributes_reach_the_spawned_actor(world):
    blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
    blueprint.set_attribute("role_name", "hero")
    blueprint.set_attribute("color", "10,20,30")
    actor = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[3])
    world.tick()
    assert actor.attributes["role_name"] == "hero" and actor.attributes["color"] == "10,20,30"
    assert world.get_actor(actor.id).type_id == "vehicle.tesla.model3"


def test_vehicle_drives_and_stops_by_its_control(world, spawn):
    vehicle = spawn()
    start = vehicle.get_transform()
    vehicle.apply_control(carla.VehicleControl(throttle=0.7))
    for _ in range(FIRST_MOVE_TICKS):
        world.tick()
    moved = vehicle.get_location() - start.location
    ahead = moved.dot(start.get_forward_vector())
    speed_mps = vehicle.get_velocity().length()
    assert ahead > 10.0 and speed_mps > 5.0
    assert vehicle.get_control().throttle == pytest.approx(0.7)
    vehicle.apply_control(carla.VehicleControl(brake=1.0))
    for _ in range(FIRST_MOVE_TICKS):
        world.tick()
    assert vehicle.get_velocity().length() < 0.05


def test_positive_steer_turns_right(world, spawn):
    vehicle = spawn()
    start = vehicle.get_transform()
    vehicle.apply_control(carla.VehicleControl(throttle=0.5, steer=0.4))
    for _ in range(FIRST_MOVE_TICKS):
        world.tick()
    turned = (vehicle.get_transform().rotation.yaw - start.rotation.yaw + 180.0) % 360.0 - 180.0
    aside = (vehicle.get_location() - start.location).dot(start.get_right_vector())
    assert turned > 5.0 and aside > 0.3


def test_a_taken_place_is_refused(world, spawn):
    vehicle = spawn(5)
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    with pytest.raises(RuntimeError, match="collision at spawn position"):
        world.spawn_actor(blueprint, vehicle.get_transform())
    assert world.try_spawn_actor(blueprint, vehicle.get_transform()) is None


def test_batch_spawns_with_follow_ups(server, world):
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    point = world.get_map().get_spawn_points()[6]
    control = carla.VehicleControl(throttle=0.6)
    spawn = carla.command.SpawnActor(blueprint, point).then(
        carla.command.ApplyVehicleControl(carla.command.FutureActor, control)
    )
    good, taken = server.client.apply_batch_sync([spawn, carla.command.SpawnActor(blueprint, point)], False)
    assert not good.error and "collision" in taken.error
    for _ in range(20):
        world.tick()
    assert world.get_actor(good.actor_id).get_velocity().length() > 1.0


def test_teleport_and_velocity(world, spawn):
    vehicle = spawn()
    target = world.get_map().get_spawn_points()[10]
    vehicle.set_transform(target)
    vehicle.set_target_velocity(target.get_forward_vector() * 6.0)
    world.tick()
    assert vehicle.get_location().distance(target.location) < 1.0
    assert vehicle.get_velocity().length() == pytest.approx(6.0, abs=0.6)


def test_destroying_a_parent_takes_its_sensors_along(world, spawn):
    vehicle = spawn()
    sensor = world.spawn_actor(
        world.get_blueprint_library().find("sensor.other.imu"), carla.Transform(), attach_to=vehicle
    )
    world.tick()
    assert sensor.parent.id == vehicle.id
    vehicle.destroy()
    world.tick()
    assert world.get_actors([vehicle.id, sensor.id]) is not None
    assert not {vehicle.id, sensor.id} & {actor.id for actor in world.get_actors()}


def test_walker_walks_where_it_is_told(world):
    sidewalk = world.get_map().get_spawn_points()[2].location
    blueprint = world.get_blueprint_library().find("walker.pedestrian.0001")
    walker = world.spawn_actor(blueprint, carla.Transform(sidewalk + carla.Location(x=4, y=4, z=1)))
    walker.apply_control(carla.WalkerControl(direction=carla.Vector3D(0, 1, 0), speed=1.5))
    world.tick()
    start = walker.get_location()
    for _ in range(40):
        world.tick()
    assert walker.get_location().y - start.y == pytest.approx(3.0, abs=0.2)


def test_lights_take_turns_and_obey(world):
    lights = list(world.get_actors().filter("traffic.traffic_light"))
    assert lights
    group = lights[0].get_group_traffic_lights()
    assert lights[0].id in {light.id for light in group}
    seen = set()
    for _ in range(20 * 40):
        world.tick()
        states = [light.state for light in group]
        seen.update(states)
        assert states.count(carla.TrafficLightState.Green) < len(group)
    assert seen == {carla.TrafficLightState.Red, carla.TrafficLightState.Yellow, carla.TrafficLightState.Green}
    world.freeze_all_traffic_lights(True)
    lights[0].set_state(carla.TrafficLightState.Green)
    for _ in range(200):
        world.tick()
    assert lights[0].state == carla.TrafficLightState.Green and lights[0].is_frozen()
    world.freeze_all_traffic_lights(False)
    world.reset_all_traffic_lights()


def test_stop_waypoints_lie_before_the_junction(world):
    for light in world.get_actors().filter("traffic.traffic_light"):
        waypoints = light.get_stop_waypoints()
        assert waypoints
        for waypoint in waypoints:
            assert any(after.is_junction for after in waypoint.next(6.0)), waypoint


def test_a_vehicle_before_a_light_is_told_so(world, spawn):
    vehicle = spawn()
    light = next(iter(world.get_actors().filter("traffic.traffic_light")))
    waypoint = light.get_stop_waypoints()[0].previous(3.0)[0]
    pose = waypoint.transform
    vehicle.set_transform(pose)
    world.tick()
    world.tick()
    assert vehicle.is_at_traffic_light()
    assert vehicle.get_traffic_light().id == light.id
    assert vehicle.get_traffic_light_state() == light.state


def test_load_world_starts_a_new_episode(server):
    client = server.client
    world = client.get_world()
    make_synchronous(world)
    old_ids = {actor.id for actor in world.get_actors()}
    vehicle = world.spawn_actor(
        world.get_blueprint_library().find("vehicle.audi.tt"), world.get_map().get_spawn_points()[0]
    )
    world.tick()
    other = client.load_world("Gen02")
    assert other.get_map().name == "Carla/Maps/Gen02"
    assert other.id != world.id
    new_ids = {actor.id for actor in other.get_actors()}
    assert not new_ids & (old_ids | {vehicle.id})
    make_synchronous(other)
    other.tick()
    back = client.load_world("Gen01")
    assert back.get_map().name == "Carla/Maps/Gen01"
    with pytest.raises(RuntimeError, match="Nowhere"):
        client.load_world("Nowhere")


def test_asynchronous_world_ticks_by_itself(server):
    world = server.client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode = False
    settings.fixed_delta_seconds = None
    world.apply_settings(settings)
    first = world.wait_for_tick().frame
    assert world.wait_for_tick().frame > first


def test_ground_projection_finds_the_road(world):
    point = world.get_map().get_spawn_points()[0].location
    hit = world.ground_projection(carla.Location(point.x, point.y, point.z + 5.0), 20.0)
    assert math.isclose(hit.location.z, point.z, abs_tol=0.6)


def test_unsupported_calls_say_so(server, world):
    with pytest.raises(RuntimeError, match="not supported by this server: replay_file"):
        server.client.replay_file("x.log", 0.0, 0.0, 0)
    blueprint = world.get_blueprint_library().find("sensor.camera.dvs")
    with pytest.raises(RuntimeError, match="not supported by this server"):
        world.spawn_actor(blueprint, carla.Transform())
