"""A long-lived server keeps nothing of worlds, sensors and clients that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import carla
import pytest

from simulator.bench_client import EGO, Growth, Rig, memory_mib
from tests.simulator.conftest import ServerProcess, make_synchronous, start_server

SMALL_PX = (48, 32)
TOWNS = ("Gen02", "Gen01")
LOADS = 10
RESETS = 24


@pytest.fixture(scope="module")
def drawing_server() -> Iterator[ServerProcess]:
    running = start_server()
    yield running
    running.stop()


def handles(pid: int) -> tuple[int, int]:
    """Open files and threads of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


def an_episode(client: carla.Client, world: carla.World, ticks: int = 3) -> None:
    """An ego with six cameras that deliver, and everything destroyed again."""
    blueprint = world.get_blueprint_library().find(EGO)
    ego = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[0])
    rig = Rig(world, ego, *SMALL_PX, tick=world.tick)
    rig.first_tick()
    for _ in range(ticks):
        assert rig.tick()
    for camera in rig.cameras:
        camera.stop()
    client.apply_batch_sync([carla.command.DestroyActor(actor.id) for actor in (*rig.cameras, ego)], False)
    world.tick()


def test_resets_of_an_episode_leave_nothing_behind(drawing_server: ServerProcess) -> None:
    client, pid = drawing_server.client, drawing_server.process.pid
    world = client.get_world()
    make_synchronous(world)
    town_actors = len(world.get_actors())
    for _ in range(3):
        an_episode(client, world)
    before, samples = handles(pid), []
    for _ in range(RESETS):
        an_episode(client, world, ticks=1)
        samples.append(memory_mib(pid))
    assert len(world.get_actors()) == town_actors
    assert handles(pid)[0] <= before[0] + 2 and handles(pid)[1] == before[1]
    assert Growth.of(samples, warm_up=RESETS // 4).percent < 1.0


def test_loading_towns_in_turn_does_not_grow(drawing_server: ServerProcess) -> None:
    client, pid, samples, counts = drawing_server.client, drawing_server.process.pid, [], []
    for number in range(LOADS):
        world = client.load_world(TOWNS[number % 2])
        make_synchronous(world)
        an_episode(client, world, ticks=1)
        if number % 2:
            samples.append(memory_mib(pid))
            counts.append(handles(pid))
    assert Growth.of(samples, warm_up=1).percent < 5.0, samples  # a few loads: the allocator's steps count for 3 %
    assert counts[-1][1] == counts[0][1], "threads of old renderers"
    assert counts[-1][0] <= counts[0][0] + 2
