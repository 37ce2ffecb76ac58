"""A real server process and a real `carla` client for it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import carla
import pytest

START_PATIENCE_S = 90.0
STOP_PATIENCE_S = 60.0
TIMEOUT_S = 20.0
WORKER_THREADS = 16
_KEPT: list[carla.Client] = []  # until the process ends


@dataclass
class ServerProcess:
    """A running server and its output so far."""

    process: subprocess.Popen[str]
    port: int

    @cached_property
    def client(self) -> carla.Client:
        """The one client of this server: destroying one while a tick arrives aborts or freezes the wheel's process."""
        client = carla.Client("127.0.0.1", self.port, WORKER_THREADS)
        client.set_timeout(TIMEOUT_S)
        _KEPT.append(client)
        return client

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_PATIENCE_S)


def start_server(*arguments: str, town: str = "Gen01") -> ServerProcess:
    """Start `python -m simulator serve` on a free port and wait until it listens."""
    command = [sys.executable, "-m", "simulator", "serve", "--town", town, "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 0.5)[0]:
            match = re.match(r"listening on [\d.]+:(\d+)", process.stdout.readline())
            if match:
                return ServerProcess(process, int(match.group(1)))
    process.kill()
    raise AssertionError(f"server did not start: {process.stderr.read()}")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    running = start_server("--no-render")
    yield running
    running.stop()


@pytest.fixture
def world(server: ServerProcess) -> Iterator[carla.World]:
    """The server's world in synchronous mode at 20 Hz; whatever a test spawns is destroyed afterwards."""
    world = server.client.get_world()
    make_synchronous(world)
    before = {actor.id for actor in world.get_actors()}
    yield world
    world.tick()
    for actor in world.get_actors():
        if actor.id not in before and actor.parent is None:
            actor.destroy()
    world.tick()


@pytest.fixture
def spawn(world: carla.World) -> Callable[..., carla.Actor]:
    """Spawn a vehicle of the given type at the n-th spawn point."""

    def spawn_vehicle(index: int = 0, type_id: str = "vehicle.lincoln.mkz_2020") -> carla.Vehicle:
        point = world.get_map().get_spawn_points()[index]
        actor = world.spawn_actor(world.get_blueprint_library().find(type_id), point)
        world.tick()
        return actor

    return spawn_vehicle


def make_synchronous(world: carla.World) -> None:
    settings = world.get_settings()
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = 0.05
    world.apply_settings(settings)


def pin_this_thread() -> None:
    """Threads that step together with a Traffic Manager share a core: its wake-ups get lost otherwise."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
