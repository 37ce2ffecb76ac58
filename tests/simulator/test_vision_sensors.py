"""Depth, labels, instances, lidar, radar and obstacle detector, as the real client decodes them."""

from __future__ import annotations

import math
import queue

import carla
import numpy as np
import pytest

from simulator import labels
from simulator.cameras import depth_image
from tests.simulator.conftest import make_synchronous, start_server

PATIENCE_S = 20.0
AHEAD_M = 12.0
SIZE = (160, 96)
SEEN_FROM = carla.Transform(carla.Location(z=1.6))
SEMANTIC_POINT = np.dtype([("point", "f4", 3), ("cos", "f4"), ("actor", "u4"), ("label", "u4")])


@pytest.fixture(scope="module")
def server():
    running = start_server()
    yield running
    running.stop()


@pytest.fixture
def street(server):
    """A car, one more standing ahead of it in the same lane, and what puts sensors onto the first."""
    world = server.client.get_world()
    make_synchronous(world)
    library, town = world.get_blueprint_library(), world.get_map()
    point = town.get_spawn_points()[0]
    there = town.get_waypoint(point.location).next(AHEAD_M)[0].transform
    there.location.z += 0.2
    me = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), point)
    other = world.spawn_actor(library.find("vehicle.audi.tt"), there)
    made = [other, me]

    def sense(kind: str, transform: carla.Transform = SEEN_FROM, ticks: int = 1, **attributes) -> list:
        blueprint = library.find(kind)
        for name, value in attributes.items():
            blueprint.set_attribute(name, str(value))
        sensor = world.spawn_actor(blueprint, transform, attach_to=me)
        made.insert(0, sensor)
        arrived: queue.Queue = queue.Queue()
        sensor.listen(arrived.put)
        found = []
        for _ in range(ticks):
            frame = world.tick()
            data = arrived.get(timeout=PATIENCE_S)
            assert data.frame == frame
            found.append(data)
        sensor.stop()
        return found

    for _ in range(10):
        world.tick()
    yield world, me, other, sense
    for actor in made:
        actor.destroy()
    world.tick()


def pixels(image: carla.Image) -> np.ndarray:
    """(h, w, 3) RGB."""
    return np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)[..., 2::-1].copy()


def rear_m(me: carla.Actor, other: carla.Actor) -> float:
    """Distance from the origin of one car to the rear of another straight ahead."""
    box = other.bounding_box
    return me.get_location().distance(other.get_location()) + box.location.x - box.extent.x


def camera(sense, kind: str) -> np.ndarray:
    (image,) = sense(f"sensor.camera.{kind}", image_size_x=SIZE[0], image_size_y=SIZE[1], fov=70)
    assert (image.width, image.height, image.fov) == (*SIZE, 70.0)
    return pixels(image)


def test_depth_labels_and_instances_agree(street):
    _, me, other, sense = street
    depth = camera(sense, "depth").astype(float) @ [1.0, 256.0, 65536.0] / (2**24 - 1) * 1000.0
    label = camera(sense, "semantic_segmentation")
    assert not label[..., 1:].any()
    instance = camera(sense, "instance_segmentation").astype(int)
    assert np.array_equal(instance[..., 0], label[..., 0])
    car = (instance[..., 1] + 256 * instance[..., 2]) == other.id
    assert car.sum() > 100 and set(label[..., 0][car]) == {labels.CAR}
    assert abs(depth[car].min() - rear_m(me, other)) < 0.4
    sky = label[..., 0] == labels.SKY
    assert sky.any() and np.all(depth[sky] == 1000.0) and depth[~sky].max() < 1000.0
    assert {labels.ROADS, labels.ROAD_LINES, labels.SIDEWALKS} <= set(np.unique(label[..., 0]))
    # The road below the middle of the picture's lower edge lies where a pinhole of this height sees it.
    focal_px = SIZE[0] / 2.0 / math.tan(math.radians(35.0))
    rows = np.arange(SIZE[1] // 2 + 16, SIZE[1])
    column = SIZE[0] // 2
    seen = label[rows, column, 0] == labels.ROADS
    expected = 1.6 * focal_px / (rows + 0.5 - SIZE[1] / 2.0)
    assert seen.sum() > 5 and np.allclose(depth[rows, column][seen], expected[seen], rtol=0.06)


def test_depth_is_encoded_in_24_bits():
    for metres in (0.0, 0.15, 1.0, 123.456, 999.9999, 1000.0, 5000.0, math.inf):
        blue, green, red, alpha = depth_image(np.array([[metres]], np.float32))[0, 0].astype(int)
        decoded = (red + 256 * green + 65536 * blue) / (2**24 - 1) * 1000.0
        assert alpha == 255 and abs(decoded - min(metres, 1000.0)) < 1e-4


def test_lidar_with_the_settings_of_the_leaderboard(street):
    _, me, other, sense = street
    settings = {
        "range": 85, "rotation_frequency": 10, "channels": 64, "upper_fov": 10, "lower_fov": -30,
        "points_per_second": 600_000, "atmosphere_attenuation_rate": 0.004, "dropoff_general_rate": 0.45,
        "dropoff_intensity_limit": 0.8, "dropoff_zero_intensity": 0.4,
    }  # fmt: skip
    above = carla.Transform(carla.Location(z=2.5))
    first, second = sense("sensor.lidar.ray_cast", above, 2, **settings)
    for scan in (first, second):
        points = np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4)
        assert scan.channels == 64
        assert sum(scan.get_point_count(k) for k in range(64)) == len(points) == len(scan)
        assert 30_000 * 0.3 < len(points) < 30_000 * 0.56
        distance = np.linalg.norm(points[:, :3], axis=1)
        assert distance.max() <= 85.0
        assert np.allclose(points[:, 3], np.exp(-0.004 * distance), atol=1e-5)
        elevation = np.degrees(np.arcsin(points[:, 2] / distance))
        assert elevation.min() > -30.1 and elevation.max() < 10.1
    # Half a turn each: the one sees what is left, the other what is right.
    halves = [np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4)[:, 1] for scan in (first, second)]
    assert (halves[0] < 0.1).all() and (halves[1] > -0.1).all()
    points = np.concatenate([np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4) for scan in (first, second)])
    ahead = points[(np.abs(points[:, 1]) < 0.6) & (points[:, 0] > 5.0) & (points[:, 2] > -2.0) & (points[:, 2] < -1.2)]
    assert abs(ahead[:, 0].min() - rear_m(me, other)) < 0.4


def test_semantic_lidar_knows_what_it_meets(street):
    _, me, other, sense = street
    (scan,) = sense(
        "sensor.lidar.ray_cast_semantic", carla.Transform(carla.Location(z=2.5)),
        channels=32, range=60, points_per_second=400_000, rotation_frequency=20,
    )  # fmt: skip
    points = np.frombuffer(scan.raw_data, SEMANTIC_POINT)
    assert sum(scan.get_point_count(k) for k in range(32)) == len(points)
    assert set(points["label"][points["actor"] == other.id]) == {labels.CAR}
    assert (points["actor"] == other.id).sum() > 20
    assert set(np.unique(points["actor"])) <= {0, me.id, other.id}
    assert ((points["cos"] > 0.0) & (points["cos"] <= 1.0001)).all()
    flat = points[(points["label"] == labels.ROADS) & (np.abs(points["point"][:, 0]) < 8.0)]
    distance = np.linalg.norm(flat["point"], axis=1)
    assert np.allclose(flat["cos"], -flat["point"][:, 2] / distance, atol=0.03)
    assert len(flat) > 50 and np.median(np.abs(flat["point"][:, 2] + 2.5)) < 0.1


def test_seeded_lidar_repeats(street):
    *_, sense = street
    scans = [sense("sensor.lidar.ray_cast", noise_seed=5, noise_stddev=0.1)[0] for _ in range(2)]
    assert bytes(scans[0].raw_data) == bytes(scans[1].raw_data)


def test_radar_measures_approach(street):
    _, me, other, sense = street
    forward = me.get_transform().get_forward_vector()
    other.set_target_velocity(carla.Vector3D(-3.0 * forward.x, -3.0 * forward.y, 0.0))
    (scan,) = sense(
        "sensor.other.radar", carla.Transform(carla.Location(x=2.6, z=0.8)),
        horizontal_fov=20, vertical_fov=8, range=40, points_per_second=20_000,
    )  # fmt: skip
    assert len(scan) > 300
    table = np.array([(d.velocity, d.azimuth, d.altitude, d.depth) for d in scan])
    assert np.abs(np.degrees(table[:, 1])).max() <= 10.1 and np.abs(np.degrees(table[:, 2])).max() <= 4.1
    assert table[:, 3].max() < 41.0
    car = table[table[:, 0] < -1.5]
    assert len(car) > 30 and abs(np.median(car[:, 0]) + 3.0) < 0.7
    other.set_target_velocity(carla.Vector3D())


def test_obstacle_detector_names_what_is_ahead(street):
    _, me, other, sense = street
    (event,) = sense(
        "sensor.other.obstacle", carla.Transform(carla.Location(x=1.0, z=0.8)), distance=20, hit_radius=0.3
    )
    assert event.other_actor.id == other.id and event.actor.id == me.id
    assert abs(event.distance - (rear_m(me, other) - 1.0)) < 0.4


@pytest.mark.parametrize(
    ("kind", "attributes", "words"),
    [
        ("sensor.lidar.ray_cast", {"channels": 0}, "channels"),
        ("sensor.lidar.ray_cast", {"range": "-5"}, "range"),
        ("sensor.lidar.ray_cast", {"points_per_second": 10**8}, "points_per_second"),
        ("sensor.lidar.ray_cast", {"dropoff_general_rate": 1.5}, "dropoff_general_rate"),
        ("sensor.other.radar", {"horizontal_fov": 200}, "horizontal_fov"),
        ("sensor.camera.depth", {"fov": 0}, "fov"),
        ("sensor.camera.dvs", {}, "not supported by this server"),
    ],
)
def test_unusable_sensors_are_refused(street, kind, attributes, words):
    *_, sense = street
    with pytest.raises(RuntimeError, match=words):
        sense(kind, **attributes)
