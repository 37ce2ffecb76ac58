"""What stands in a town stops cars and rays, and leaves roads and sidewalks free."""

from __future__ import annotations

import math
import queue

import carla
import numpy as np
import pytest

from simulator import labels
from simulator.bodies import VEHICLE, WALKER, Bodies, BodySpec
from simulator.dynamics import step
from simulator.grid import Grid
from simulator.impacts import collide
from simulator.scenery import load_scenery
from simulator.towns.town import load_town
from tests.simulator.conftest import make_synchronous, start_server

CAR = BodySpec(kind=VEHICLE, half_length_m=2.4, half_width_m=1.0, half_height_m=0.75, mass_kg=1700.0, box_up_m=0.75)
PERSON = BodySpec(
    kind=WALKER, half_length_m=0.2, half_width_m=0.2, half_height_m=0.93, mass_kg=75.0, origin_height_m=0.93
)
WALL = (20.0, 0.0, 1.0, 0.5, 10.0, 1.0, 0.0)
POST = (20.0, 0.0, 1.0, 0.1, 0.1, 1.0, 0.0)


def flat(x, y, z):
    return np.zeros_like(x)


def run_into(spec: BodySpec, thing: tuple[float, ...], speed_mps: float, ticks: int = 60) -> tuple[Bodies, int]:
    """A body sent along x against a standing thing, and how many ticks saw a contact."""
    bodies, grid, met = Bodies(4), Grid.of(np.array([thing], np.float32)), 0
    bodies.add(spec, (0.0, 0.0, spec.origin_height_m, 0.0, 0.0, 0.0))
    if spec.kind == WALKER:
        bodies.set_walk(0, 1.0, 0.0, speed_mps)
    else:
        bodies.set_target_velocity(0, speed_mps, 0.0, 0.0)
        bodies.set_control(0, 1.0, 0.0, 0.0)
    for _ in range(ticks):
        step(bodies, bodies.count, 0.05, flat)
        contacts, impulses = collide(bodies, bodies.count, grid)
        assert (contacts.pairs == [0, 1]).all() and (impulses[:, 0] <= 0.0).all()
        met += len(contacts)
    return bodies, met


@pytest.mark.parametrize("speed_mps", [3.0, 12.0, 60.0])
@pytest.mark.parametrize("thing", [WALL, POST])
def test_nothing_standing_is_driven_through(thing, speed_mps):
    bodies, met = run_into(CAR, thing, speed_mps)
    assert met > 0
    assert bodies.x[0] + 2.4 < 20.0 - thing[3] + 0.05


def test_people_stop_at_walls_and_step_around_posts():
    bodies, met = run_into(PERSON, WALL, 2.0, 300)
    assert met > 0 and bodies.x[0] + 0.2 < 19.5 + 0.05
    bodies, met = run_into(PERSON, POST, 2.0, 300)
    assert met == 0 and bodies.x[0] > 25.0


def test_who_passes_beside_or_above_meets_nothing():
    for thing in ((20.0, 2.2, 1.0, 0.5, 1.0, 1.0, 0.0), (20.0, 0.0, 6.0, 3.0, 3.0, 1.0, 0.0)):
        bodies, met = run_into(CAR, thing, 12.0)
        assert met == 0 and bodies.x[0] > 30.0


def test_the_grid_finds_what_a_search_through_all_boxes_finds():
    rng = np.random.default_rng(3)
    boxes = np.column_stack([
        rng.uniform(-80.0, 80.0, (300, 2)), np.ones(300), rng.uniform(0.1, 9.0, (300, 2)), np.ones(300),
        rng.uniform(-3.0, 3.0, 300),
    ])  # fmt: skip
    grid, found, alone = Grid.of(boxes), 0, [Grid.of(box[None]) for box in boxes]
    for _ in range(40):
        bodies = Bodies(2)
        x, y, yaw = (float(value) for value in rng.uniform(-80.0, 80.0, 3))
        bodies.add(CAR, (x, y, 0.0, 0.0, yaw, 0.0))
        heading = math.radians(yaw)
        bodies.set_target_velocity(0, 20.0 * math.cos(heading), 20.0 * math.sin(heading), 0.0)
        step(bodies, 1, 0.05, flat)
        rows = bodies.rows.copy()
        hits = set((collide(bodies, 1, grid)[0].pairs[:, 1] - 1).tolist())
        expected = set()
        for k, one in enumerate(alone):
            bodies.rows[:] = rows
            expected |= {k} if len(collide(bodies, 1, one)[0]) else set()
        assert hits == expected
        found += len(hits)
    assert found > 20


@pytest.fixture(scope="module")
def street():
    """A town with cameras, and the building whose wall faces a lane best: its label box and a place before it."""
    running = start_server("--threads", "1")
    world = running.client.get_world()
    make_synchronous(world)
    yield world, *_facing(world)
    running.stop()


def _facing(world: carla.World) -> tuple[np.ndarray, carla.Transform, float]:
    """Box of a building, where a car stands on a lane looking straight at its wall, and how far away that is."""
    scenery = load_scenery(load_town("Gen01"))
    town = world.get_map()
    for box in scenery.solids.boxes[scenery.solids.labels == labels.BUILDINGS].astype(float):
        for turn in range(4):
            yaw = box[6] + turn * math.pi / 2.0
            half = box[3 + turn % 2]
            for away in np.arange(9.0, 25.0, 1.0):
                x, y = box[0] - (half + away) * math.cos(yaw), box[1] - (half + away) * math.sin(yaw)
                lane = town.get_waypoint(carla.Location(x, y, box[2]), project_to_road=False)
                if lane is None:
                    continue
                at = carla.Location(x, y, lane.transform.location.z + 0.3)
                aim = carla.Location(box[0], box[1], at.z + 0.6)
                hits = world.cast_ray(at + carla.Location(z=0.6), aim)
                if hits and hits[0].label == carla.CityObjectLabel.Buildings:
                    return box, carla.Transform(at, carla.Rotation(yaw=math.degrees(yaw))), float(away)
    raise AssertionError("no building faces a road")


def test_a_car_driven_at_a_building_stops_at_its_wall(street):
    world, _, pose, away_m = street
    library = world.get_blueprint_library()
    car = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), pose)
    sensor = world.spawn_actor(library.find("sensor.other.collision"), carla.Transform(), attach_to=car)
    events: queue.Queue = queue.Queue()
    sensor.listen(events.put)
    car.apply_control(carla.VehicleControl(throttle=0.8))
    for _ in range(120):
        world.tick()
    met = [events.get(timeout=10.0)]
    box = car.bounding_box
    nose_m = car.get_location().distance_2d(pose.location) + box.location.x + box.extent.x
    speed_mps = car.get_velocity().length()
    sensor.destroy()
    car.destroy()
    world.tick()
    assert met[0].other_actor.type_id == "static.building" and met[0].other_actor.id == 0
    assert list(met[0].other_actor.semantic_tags) == [int(carla.CityObjectLabel.Buildings)]
    assert met[0].normal_impulse.length() > 1000.0
    assert abs(nose_m - away_m) < 0.5 and speed_mps < 1.0


def test_ray_lidar_and_depth_agree_on_the_wall(street):
    world, _, pose, away_m = street
    library = world.get_blueprint_library()
    eye = carla.Transform(pose.location + carla.Location(z=0.7), pose.rotation)
    forward = pose.get_forward_vector()
    end = eye.location + forward * (away_m + 5.0)
    hit = world.cast_ray(eye.location, end)[0]
    ray_m = hit.location.distance(eye.location)
    assert hit.label == carla.CityObjectLabel.Buildings
    assert world.project_point(eye.location, forward, 60.0).location.distance(hit.location) < 0.01
    assert abs(ray_m - away_m) < 0.35

    def sense(kind: str, **attributes):
        blueprint = library.find(kind)
        for name, value in attributes.items():
            blueprint.set_attribute(name, str(value))
        sensor = world.spawn_actor(blueprint, eye)
        arrived: queue.Queue = queue.Queue()
        sensor.listen(arrived.put)
        world.tick()
        data = arrived.get(timeout=20.0)
        sensor.destroy()
        return data

    image = sense("sensor.camera.depth", image_size_x=33, image_size_y=33, fov=10)
    blue, green, red, _ = np.frombuffer(image.raw_data, np.uint8).reshape(33, 33, 4)[16, 16].astype(float)
    depth_m = 1000.0 * (red + 256.0 * green + 65536.0 * blue) / (256.0**3 - 1.0)
    sweep = sense(
        "sensor.lidar.ray_cast_semantic", channels=1, upper_fov=0, lower_fov=0, range=60, points_per_second=72000,
        rotation_frequency=20,
    )  # fmt: skip
    dtype = np.dtype([("point", "f4", 3), ("cos", "f4"), ("actor", "u4"), ("label", "u4")])
    points = np.frombuffer(sweep.raw_data, dtype)
    ahead = points[np.abs(np.arctan2(points["point"][:, 1], points["point"][:, 0])) < 0.01]
    assert len(ahead) and (ahead["label"] == labels.BUILDINGS).all()
    assert abs(depth_m - ray_m) < 0.35
    assert abs(float(ahead["point"][:, 0].mean()) - ray_m) < 0.35


@pytest.mark.parametrize("radius_m", [0.0, 0.2, 1.0])
def test_the_obstacle_detector_tells_of_a_building(street, radius_m):
    world, _, pose, away_m = street
    library = world.get_blueprint_library()
    blueprint = library.find("sensor.other.obstacle")
    blueprint.set_attribute("distance", "40")
    blueprint.set_attribute("hit_radius", str(radius_m))
    sensor = world.spawn_actor(blueprint, carla.Transform(pose.location + carla.Location(z=1.6), pose.rotation))
    arrived: queue.Queue = queue.Queue()
    sensor.listen(arrived.put)
    world.tick()
    event = arrived.get(timeout=20.0)
    sensor.destroy()
    assert event.other_actor.type_id == "static.building"
    assert abs(event.distance + radius_m - away_m) < 0.25


def test_no_vehicle_is_spawned_inside_a_building(street):
    world, box, *_ = street
    blueprint = world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
    inside = carla.Transform(carla.Location(box[0], box[1], box[2]))
    assert world.try_spawn_actor(blueprint, inside) is None


@pytest.mark.parametrize("name", ["Gen01", "Town01"])
def test_vehicles_on_lanes_meet_no_scenery(name, request):
    """Cars that stand on every driving lane, one metre after the other, touch nothing."""
    town = load_town(name, request.getfixturevalue("shared_dir") / "towns" if name.startswith("Town") else None)
    grid = load_scenery(town).grid
    waypoints = carla.Map(name, town.opendrive).generate_waypoints(2.0)
    assert len(grid.post) > 100 and len(waypoints) > 500
    touched = []
    for waypoint in waypoints:
        at, yaw = waypoint.transform.location, waypoint.transform.rotation.yaw
        half_width_m = waypoint.lane_width / 2.0 + 0.2
        if grid.overlapped((at.x, at.y, at.z + 2.2, yaw, 1.0, half_width_m, 1.9)) >= 0:
            touched.append((round(at.x, 1), round(at.y, 1)))
    assert touched == []
