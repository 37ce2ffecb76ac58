"""CARLA's recorder: what a client records is what it saw, and reports tell it; hostile files are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import carla
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import recorder
from simulator.recorder import Packet
from simulator.recordings import Recording, RecordingError, show_blocked, show_file_info
from tests.simulator.test_hostile import assert_alive


def record(server, world: carla.World, path: Path) -> tuple[carla.Actor, list[carla.Transform], list[float]]:
    """Ten steps in which a car drives, one goes and a prop comes; the car with its places and speeds."""
    library = world.get_blueprint_library()
    places = world.get_map().get_spawn_points()
    blueprint = library.find("vehicle.audi.tt")
    blueprint.set_attribute("role_name", "hero")
    car = world.spawn_actor(blueprint, places[0])
    other = world.spawn_actor(library.find("vehicle.mini.cooper_s"), places[1])
    gnss = world.spawn_actor(library.find("sensor.other.gnss"), carla.Transform(), attach_to=car)
    world.tick()
    assert server.client.start_recorder(str(path), True) == str(path)
    car.apply_control(carla.VehicleControl(throttle=0.75, steer=0.25))
    poses, speeds = [], []
    for step in range(10):
        if step == 5:
            other.destroy()
            world.spawn_actor(library.find("static.prop.box01"), carla.Transform(carla.Location(x=3.0, z=0.5)))
        world.tick()
        poses.append(car.get_transform())
        speeds.append(car.get_velocity().length())
    server.client.stop_recorder()
    world.tick()
    gnss.destroy()
    return car, poses, speeds


def test_a_recording_holds_what_the_client_saw(server, world, tmp_path):
    path = tmp_path / "drive.log"
    car, poses, speeds = record(server, world, path)
    recording = Recording.open(path)
    frames = list(recording.frames())
    assert recording.version == 1 and recording.map_name == f"Carla/Maps/{world.get_map().name.split('/')[-1]}"
    assert [frame.number for frame in frames] == list(range(1, 11)), "the step after stop_recorder is not in it"
    assert [frame.elapsed_s for frame in frames] == pytest.approx([0.05 * i for i in range(10)])
    assert [frame.duration_s for frame in frames[:-1]] == pytest.approx([0.05] * 9)
    for frame, pose, speed in zip(frames, poses, speeds, strict=True):
        rows = frame.tables[Packet.POSITION]
        (row,) = rows[rows["id"] == car.id]
        np.testing.assert_allclose(
            row["location_cm"] / 100, [pose.location.x, pose.location.y, pose.location.z], atol=1e-3
        )
        np.testing.assert_allclose(row["roll_pitch_yaw_deg"][2], pose.rotation.yaw, atol=1e-3)
        (moving,) = frame.tables[Packet.KINEMATICS][frame.tables[Packet.KINEMATICS]["id"] == car.id]
        assert np.linalg.norm(moving["velocity_mps"]) == pytest.approx(speed, abs=1e-3)
        (pedals,) = frame.tables[Packet.VEHICLE][frame.tables[Packet.VEHICLE]["id"] == car.id]
        assert (pedals["throttle"], pedals["steer"]) == (0.75, 0.25)
    (created,) = [actor for actor in frames[0].created if actor.id == car.id]
    assert created.type == 1 and created.type_id == "vehicle.audi.tt" and created.attributes["role_name"] == "hero"
    assert [(child, parent) for child, parent in frames[0].attached if parent == car.id]
    assert len(frames[0].tables[Packet.LIGHT_STATE]) == len(world.get_actors().filter("traffic.traffic_light"))
    assert [len(frame.destroyed) for frame in frames] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert [actor.type_id for actor in frames[5].created] == ["static.prop.box01"]


def test_reports_of_the_client(server, world, tmp_path):
    path = tmp_path / "drive.log"
    car, _, _ = record(server, world, path)
    client = server.client
    text = client.show_recorder_file_info(str(path), False)
    assert text.startswith("Version: 1\nMap: Carla/Maps/") and text.endswith("Frames: 10\nDuration: 0.45 seconds\n")
    assert f" Create {car.id}: vehicle.audi.tt (1) at (" in text and "  role_name = hero\n" in text
    assert "Frame 6 at 0.25 seconds\n" in text and "Frame 3 " not in text
    everything = client.show_recorder_file_info(str(path), True)
    assert everything.count(" Positions: ") == 10 and "Throttle: 0.75" in everything
    assert client.show_recorder_actors_blocked(str(path), 0.2, 10.0).count("static.prop") == 0
    assert "Actor 1" in client.show_recorder_collisions(str(path), "v", "a")
    assert client.show_recorder_file_info("nobody_made_this.log", False).endswith("not found on server\n")


def test_collisions_are_told_once(server, world, tmp_path):
    library, path = world.get_blueprint_library(), tmp_path / "crash.log"
    place = world.get_map().get_spawn_points()[0]
    behind = carla.Transform(place.location - 9.0 * place.get_forward_vector(), place.rotation)
    standing = world.spawn_actor(library.find("vehicle.audi.tt"), place)
    coming = world.spawn_actor(library.find("vehicle.mini.cooper_s"), behind)
    world.tick()
    server.client.start_recorder(str(path))
    coming.enable_constant_velocity(carla.Vector3D(x=10.0))
    for _ in range(30):
        world.tick()
    server.client.stop_recorder()
    world.tick()
    lines = server.client.show_recorder_collisions(str(path), "v", "v").splitlines()
    hits = [line for line in lines if "vehicle.audi.tt" in line and "vehicle.mini.cooper_s" in line]
    assert len(hits) == 1 and " v v " in hits[0]
    blocked = show_blocked(path, 0.4, 10.0)
    assert f"{standing.id:>6} vehicle.audi.tt" in blocked


def test_nothing_but_a_recording_is_overwritten(server, world, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(RuntimeError, match=r"notes\.txt exists and is no recording; choose another name"):
        server.client.start_recorder(str(path))
    with pytest.raises(RuntimeError, match="cannot write"):
        server.client.start_recorder(str(tmp_path / "missing" / "drive.log"))
    assert path.read_text() == "mine"
    for name in ("n" * 300, "n" * 70_000):
        with pytest.raises(RuntimeError, match=r"cannot write|of 70000 characters; at most 4095 bytes") as refused:
            server.client.start_recorder(name)
        assert len(str(refused.value)) < 5_000
    assert "cannot be read" in server.client.show_recorder_file_info("n" * 300, False)
    log = tmp_path / "again.log"
    for _ in range(2):
        server.client.start_recorder(str(log))
        world.tick()
    server.client.stop_recorder()
    world.tick()
    assert len(list(Recording.open(log).frames())) == 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_end_early_or_are_refused(tmp_path_factory, data):
    good = recorder.HEADER + struct.pack("<qH", 0, 2) + b"ok"
    body = struct.pack("<BI", Packet.FRAME_START, recorder.FRAME.size) + recorder.FRAME.pack(1, 0.05, 0.0)
    add = struct.pack("<IB6fI", 7, 1, *[0.0] * 6, 0) + struct.pack("<H", 1) + b"x" + struct.pack("<H", 0)
    body += struct.pack("<BI", Packet.EVENT_ADD, 2 + len(add)) + struct.pack("<H", 1) + add
    blob = bytearray(good + body)
    for _ in range(data.draw(st.integers(0, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.log"
    path.write_bytes(blob[: data.draw(st.integers(0, len(blob)))])
    try:
        assert show_file_info(path, True).startswith("Version: ")
    except RecordingError as error:
        assert str(path) in str(error)


def test_the_server_serves_on(server):
    assert_alive(server)
