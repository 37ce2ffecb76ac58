"""Every call a client can send is served or refused by name, and the documentation says which."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import carla
import pytest

from simulator import api_table, labels
from simulator.refused import REFUSED
from simulator.rpc import Reply
from tests.simulator.conftest import make_synchronous
from tests.simulator.test_hostile import call, connect

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
REWRITE = "RAW2DRIVE_REWRITE_DOCS"


def test_the_documentation_lists_the_servers_own_registry():
    head, rest = DOCUMENT.read_text().split(api_table.FIRST)
    _, tail = rest.split(api_table.LAST)
    wanted = f"{head}{api_table.FIRST}\n{api_table.table()}\n{api_table.LAST}{tail}"
    if os.environ.get(REWRITE):
        DOCUMENT.write_text(wanted)
    assert DOCUMENT.read_text() == wanted, f"docs/api.md is out of date; run this test with {REWRITE}=1"


def test_what_is_said_of_a_call_belongs_to_one():
    calls = api_table.registry()
    told = {name for name in calls.names() if api_table.status(calls, name).startswith("partly: ")}
    assert told == set(api_table.PARTLY)


def test_the_installed_client_knows_every_call():
    package = Path(carla.__file__).parent
    (library,) = package.glob("libcarla*.so")
    text = library.read_bytes()
    older = importlib.metadata.version("carla") == "0.9.15"
    names = api_table.registry().names()
    unknown = {name for name in names if name.encode() + b"\0" not in text}
    assert unknown == (set(api_table.SINCE_0_9_16) if older else set())


def test_refused_calls_say_so(server):
    with connect(server.port) as endpoint:
        for name, (reply, reason) in REFUSED.items():
            error, result = call(endpoint, name, 1, 2, 3, 4)[2:]
            assert error is None
            assert result[0][0] == (1 if reply is Reply.VOID else 0)
            assert result[0][1] == [f"not supported by this server: {name} ({reason})"]
        assert call(endpoint, "export_everything")[2] == "not supported by this server: export_everything"


def test_sensors_end_with_their_client(server):
    place = [[0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]
    with connect(server.port) as watcher:
        with connect(server.port) as other:
            sensor = call(other, "spawn_actor", [0, "sensor.other.gnss", []], place)[3][0][1][0]
            batched = call(
                other, "apply_batch", [[[0, [[0, "sensor.other.imu", []], place, [False], 0, "", []]]]], False
            )[3][0][0][1]
            prop = call(other, "spawn_actor", [0, "static.prop.box01", []], place)[3][0][1][0]
            assert len(call(watcher, "get_actors_by_id", [sensor, batched, prop])[3][0][1]) == 3
        for _ in range(100):
            left = [actor[0] for actor in call(watcher, "get_actors_by_id", [sensor, batched, prop])[3][0][1]]
            if left == [prop]:
                break
        assert left == [prop]
        call(watcher, "destroy_actor", prop)


def test_what_stands_in_a_town_has_boxes(world):
    buildings = world.get_environment_objects(carla.CityObjectLabel.Buildings)
    boxes = world.get_level_bbs(carla.CityObjectLabel.Buildings)
    assert len(buildings) == len(boxes) > 20
    assert {thing.type for thing in buildings} == {carla.CityObjectLabel.Buildings}
    assert all(box.extent.z > 1.0 for box in boxes)
    names = world.get_names_of_all_objects()
    assert len(names) == len(set(names)) and {thing.name for thing in buildings} <= set(names)
    town = world.get_map()
    for box in boxes:
        near = town.get_waypoint(box.location).transform.location
        assert not box.contains(near, carla.Transform())
    assert len(world.get_level_bbs(carla.CityObjectLabel.Any)) == len(names)
    assert world.get_level_bbs(carla.CityObjectLabel.Car), labels.CAR


def test_control_without_stickiness_lasts_one_step(world):
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    ways = []
    for sticky in ("True", "False"):
        blueprint.set_attribute("sticky_control", sticky)
        vehicle = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[2])
        world.tick()
        start = vehicle.get_location()
        vehicle.apply_control(carla.VehicleControl(throttle=1.0))
        for _ in range(40):
            world.tick()
        ways.append(start.distance(vehicle.get_location()))
        vehicle.destroy()
    assert ways[0] > 5.0 and ways[1] < 0.3 * ways[0]


@pytest.fixture(autouse=True)
def _synchronous(server):
    make_synchronous(server.client.get_world())
