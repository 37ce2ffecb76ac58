"""Walkers: the navigation mesh, the client's own crowd simulation on it, walkers under control and hit by cars."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterator

import carla
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from simulator.navigation.navigation import load_or_build
from simulator.navigation.polygons import NONE, Mesh, build_mesh
from simulator.navigation.walkable import CROSSWALK, ROAD, SIDEWALK, Walkable
from simulator.towns.town import Town, load_town
from tests.simulator.conftest import make_synchronous

ARRIVED_M = 3.0
"""A client sends its walkers on to a place of its own choice from about here."""

HALF_HEIGHT_M = 0.93
KERB_M = 0.13
SECONDS = 20


def navigated(town: Town) -> tuple[Walkable, Mesh]:
    walkable = load_or_build(town).walkable
    assert walkable is not None
    return walkable, build_mesh(walkable, town.heights)


@pytest.fixture(scope="module")
def gen01() -> Town:
    return load_town("Gen01")


@pytest.fixture(scope="module")
def gen01_mesh(gen01: Town) -> tuple[Walkable, Mesh]:
    return navigated(gen01)


def areas_m2(mesh: Mesh) -> np.ndarray:
    """(k,) signed area of each polygon; negative as Detour wants them."""
    xy = mesh.points_m[mesh.corners, :2]
    xy = np.where((mesh.corners == NONE)[..., None], xy[:, :1], xy)
    x, y = xy[..., 0], xy[..., 1]
    return 0.5 * (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)


def islands_m2(mesh: Mesh) -> list[float]:
    """Areas of the parts that sidewalks and crosswalks form together, largest first: a flood over neighbours."""
    paved = mesh.labels != ROAD
    polygon, edge = np.nonzero(mesh.neighbours != NONE)
    other = mesh.neighbours[polygon, edge]
    joined = paved[polygon] & paved[other]
    graph = coo_array((np.ones(int(joined.sum())), (polygon[joined], other[joined])), shape=(len(paved), len(paved)))
    _, island = connected_components(graph, directed=False)
    sizes = np.bincount(island[paved], -areas_m2(mesh)[paved])
    return sorted(sizes[sizes > 0.0].tolist(), reverse=True)


def test_one_can_walk_from_any_sidewalk_to_any_other(gen01_mesh):
    walkable, mesh = gen01_mesh
    assert len(islands_m2(mesh)) == 1
    for label in (SIDEWALK, CROSSWALK, ROAD):
        painted_m2 = (walkable.narrowed().labels == label).sum() * walkable.cell_m**2
        assert -areas_m2(mesh)[mesh.labels == label].sum() == pytest.approx(painted_m2, rel=0.03)


def test_blocks_of_carlas_towns_are_connected_by_crosswalks(shared_dir):
    town = load_town("Town10HD", shared_dir / "towns")
    _, mesh = navigated(town)
    islands = islands_m2(mesh)
    assert islands[0] > 0.95 * sum(islands) and islands[0] > 10_000.0


def test_polygons_are_convex_and_know_their_neighbours(gen01, gen01_mesh):
    _, mesh = gen01_mesh
    assert (areas_m2(mesh) < 0.0).all()
    for polygon, corners in enumerate(mesh.corners.tolist()):
        corners = [corner for corner in corners if corner != NONE]
        assert len(corners) >= 3
        points = mesh.points_m[corners, :2]
        ahead, after = np.roll(points, -1, axis=0) - points, np.roll(points, -2, axis=0) - np.roll(points, -1, axis=0)
        assert (ahead[:, 0] * after[:, 1] - ahead[:, 1] * after[:, 0] < 0.0).all()
        for edge, neighbour in enumerate(mesh.neighbours[polygon, : len(corners)].tolist()):
            if neighbour == NONE:
                continue
            back = mesh.neighbours[neighbour].tolist().index(polygon)
            assert mesh.corners[neighbour, back] == corners[(edge + 1) % len(corners)]
    x, y, z = mesh.points_m.T
    assert np.abs(z - gen01.heights(x, y)).max() < 0.05


def test_sidewalk_lanes_are_covered_and_lanes_of_cars_are_not_sidewalk(gen01, gen01_mesh):
    walkable, _ = gen01_mesh
    driving, beside = [], []
    for waypoint in carla.Map("Gen01", gen01.opendrive).generate_waypoints(5.0):
        driving.append(waypoint)
        while waypoint is not None and waypoint.lane_type != carla.LaneType.Sidewalk:
            waypoint = waypoint.get_right_lane()
        if waypoint is not None:
            beside.append(waypoint)
    assert len(beside) > 200
    for waypoints, wanted in ((beside, (SIDEWALK,)), (driving, (ROAD, CROSSWALK))):
        at = np.array([(w.transform.location.x, w.transform.location.y) for w in waypoints])
        assert np.isin(walkable.at(at[:, 0], at[:, 1]), wanted).mean() > 0.98


def test_files_are_named_by_their_content_and_kept(gen01, tmp_path):
    built = load_or_build(gen01, tmp_path)
    (stored,) = tmp_path.glob("*.npz")
    assert load_or_build(gen01, tmp_path).mesh == built.mesh
    stored.write_bytes(stored.read_bytes()[:1000])
    assert load_or_build(gen01, tmp_path).mesh == built.mesh
    assert built.file_name("Gen01") != load_or_build(load_town("Gen02")).file_name("Gen01")


# ---- with a client -------------------------------------------------------------------------------------------------


@pytest.fixture
def lead(world: carla.World) -> Iterator[Callable[..., tuple[carla.Walker, carla.WalkerAIController]]]:
    """Spawn a walker at a location and start its controller towards a target."""
    library = world.get_blueprint_library()
    controllers = []

    def start(at: carla.Location, to: carla.Location) -> tuple[carla.Walker, carla.WalkerAIController]:
        blueprint = library.find("walker.pedestrian.0001")
        walker = world.spawn_actor(blueprint, carla.Transform(at + carla.Location(z=1.0)))
        controller = world.spawn_actor(library.find("controller.ai.walker"), carla.Transform(), walker)
        controllers.append(controller)
        world.tick()
        controller.start()
        controller.go_to_location(to)
        controller.set_max_speed(1.4)
        return walker, controller

    yield start
    for controller in controllers:
        controller.stop()


def test_the_clients_crowd_walks_on_sidewalks(world, lead, gen01):
    walkable = load_or_build(gen01).walkable
    world.set_pedestrians_seed(5)
    world.set_pedestrians_cross_factor(0.0)
    places = [world.get_random_location_from_navigation() for _ in range(24)]
    assert (walkable.at(*np.array([(p.x, p.y) for p in places]).T) == SIDEWALK).mean() > 0.9
    crowd = [lead(at, to)[0] for at, to in zip(places[::2], places[1::2], strict=True)]
    track = []
    for _ in range(20 * SECONDS):
        world.tick()
        track.append([(p.x, p.y, p.z) for p in (walker.get_location() for walker in crowd)])
    way = np.array(track)
    walked_m = np.linalg.norm(np.diff(way[..., :2], axis=0), axis=2).sum(axis=0)
    assert np.median(walked_m) > 0.9 * 1.4 * SECONDS
    x, y, z = way[20:].reshape(-1, 3).T
    labels = walkable.at(x, y)
    assert np.isin(labels, (SIDEWALK, CROSSWALK)).mean() > 0.99
    kerb_m = np.where(labels == SIDEWALK, KERB_M, 0.0)
    assert np.abs(z - gen01.heights(x, y) - HALF_HEIGHT_M - kerb_m).max() < 0.05
    velocity = [walker.get_velocity().length() for walker in crowd]
    assert np.median(velocity) == pytest.approx(1.4, abs=0.1)
    assert crowd[0].get_control().speed == pytest.approx(velocity[0], abs=0.1)


def test_a_walker_crosses_on_the_crosswalk(world, lead, gen01):
    walkable = load_or_build(gen01).walkable
    world.set_pedestrians_cross_factor(0.0)
    corners = [carla.Location(p) for p in world.get_map().get_crosswalks()[:4]]
    middle = sum(corners, carla.Location()) / 4.0
    longest = max(zip(corners, corners[1:] + corners[:1], strict=True), key=lambda pair: pair[0].distance(pair[1]))
    along = (longest[1] - longest[0]).make_unit_vector() * (longest[0].distance(longest[1]) / 2.0 + 2.0)
    walker, _ = lead(middle - along, middle + along)
    seen = []
    for _ in range(20 * 60):
        world.tick()
        at = walker.get_location()
        seen.append(int(walkable.at(np.array([at.x]), np.array([at.y]))[0]))
        if math.hypot(at.x - middle.x - along.x, at.y - middle.y - along.y) < ARRIVED_M:
            break
    else:
        pytest.fail("the walker did not reach the other side")
    assert CROSSWALK in seen and seen.count(ROAD) < 0.02 * len(seen)


def test_files_of_other_names_are_refused(server, world):
    (name,) = server.client.get_required_files("Nav", False)
    assert name.startswith("Carla/Maps/Nav/Gen01-")
    with pytest.raises(RuntimeError, match="not a file of this server"):
        server.client.request_file("../../etc/passwd")


def test_the_mesh_is_that_of_the_town_now_loaded(server):
    client = server.client
    for name in ("Gen02", "Gen01"):
        client.load_world(name)
        if importlib.metadata.version("carla") == "0.9.15":  # a client of it keeps the mesh of the town it met first
            client = carla.Client("127.0.0.1", server.port)
            client.set_timeout(60.0)
        world = client.get_world()
        make_synchronous(world)
        world.tick()
        walkable = load_or_build(load_town(name)).walkable
        places = [world.get_random_location_from_navigation() for _ in range(20)]
        assert (walkable.at(*np.array([(p.x, p.y) for p in places]).T) == SIDEWALK).all()
