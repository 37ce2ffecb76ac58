"""Measures a server of this machine through the real client: ticks with traffic, cameras, start-up, memory."""

from __future__ import annotations

import json
import os
import platform
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

import carla

WARM_UP_TICKS: Final = 40
CAMERA_TICKS: Final = 60
TIMEOUT_S: Final = 20.0
WORKER_THREADS: Final = 16
FREEZE_S: Final = 30.0
"""A tick that takes longer is a frozen Traffic Manager; it never comes back."""
TRAFFIC_MANAGER_OFFSET: Final = 1000
RIG: Final = (
    (0.80, 0.0, 0, 70),
    (0.27, -0.55, -55, 70),
    (0.27, 0.55, 55, 70),
    (-2.0, 0.0, 180, 110),
    (-0.32, -0.55, -110, 70),
    (-0.32, 0.55, 110, 70),
)
"""x, y, yaw, fov of Bench2Drive's six cameras, 1.6 m above ground."""
FRAME_SIZES: Final = ((224, 128), (448, 256))


class BenchError(Exception):
    """The measurement could not be made; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    town: str = "Gen01"
    """Town to measure in."""
    town_dir: Path | None = None
    """Folder with .xodr files of further towns."""
    cars: int = 20
    """Cars that the client's Traffic Manager drives."""
    ticks: int = 1000
    """Ticks timed without cameras."""
    threads: int = 2
    """Threads that draw."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall milliseconds seen by the client."""

    median_ms: float
    p95_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        ms = sorted(1e3 * value for value in seconds)
        return cls(round(statistics.median(ms), 3), round(ms[int(0.95 * len(ms))], 3), round(ms[-1], 3))


@dataclass(slots=True)
class BenchReport:
    machine: str
    load_before: float
    cars: int
    start_to_first_tick_s: float = 0.0
    tick: Timing | None = None
    server_cpu_ms_per_tick: float = 0.0
    cameras: dict[str, Timing] = field(default_factory=dict)
    server_memory_mib: float = 0.0


@contextmanager
def running_server(config: BenchConfig) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, on a free port."""
    command = [sys.executable, "-m", "simulator", "serve", "--town", config.town, "--port", "0", "--die-with-parent"]
    command += ["--threads", str(config.threads)]
    command += ["--town-dir", str(config.town_dir)] if config.town_dir else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    match = re.match(r"listening on [\d.]+:(\d+)", process.stdout.readline())
    if match is None:
        raise BenchError(f"the server did not start: {process.stderr.read().strip()}")
    try:
        yield process, int(match.group(1))
    finally:
        process.terminate()
        process.wait(timeout=10)


class Watchdog:
    """Ends this process when a tick never returns: the client's synchronous Traffic Manager can freeze for good."""

    def __init__(self, patience_s: float = FREEZE_S) -> None:
        self._patience_s = patience_s
        self._last_s = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        self._last_s = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            if time.monotonic() - self._last_s > self._patience_s:
                message = f"error: no tick for {self._patience_s:.0f} s: the client's Traffic Manager froze"
                print(message, file=sys.stderr, flush=True)
                os._exit(1)


def run(config: BenchConfig, say: Callable[[str], None]) -> BenchReport:
    """All measurements, one after the other. Raises: BenchError."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report = BenchReport(f"{machine}, carla {version('carla')}", round(os.getloadavg()[0], 2), config.cars)
    started = time.perf_counter()
    with running_server(config) as (process, port):
        client = carla.Client("127.0.0.1", port, WORKER_THREADS)
        client.set_timeout(TIMEOUT_S)
        world = client.get_world()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
        world.apply_settings(settings)
        world.tick()
        report.start_to_first_tick_s = round(time.perf_counter() - started, 2)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        vehicles = spawn_traffic(client, world, config.cars, port + TRAFFIC_MANAGER_OFFSET)
        watchdog = Watchdog()
        say(f"{len(vehicles)} cars, {config.ticks} ticks")
        cpu_before = cpu_seconds(process.pid)
        ticks = WARM_UP_TICKS + config.ticks
        report.tick = Timing.of(timed_ticks(world, ticks, watchdog)[WARM_UP_TICKS:])
        report.server_cpu_ms_per_tick = round(1e3 * (cpu_seconds(process.pid) - cpu_before) / ticks, 3)
        for width, height in FRAME_SIZES:
            say(f"six cameras {width}x{height}")
            report.cameras[f"{width}x{height}"] = time_cameras(world, vehicles[0], width, height, watchdog)
        report.server_memory_mib = round(memory_mib(process.pid), 1)
    return report


def spawn_traffic(client: carla.Client, world: carla.World, count: int, port: int) -> list[carla.Vehicle]:
    """Cars on the first spawn points under a synchronous Traffic Manager."""
    if count < 1:
        raise BenchError(f"--cars {count}: at least 1 is needed (a Traffic Manager without cars can freeze the client)")
    manager = client.get_trafficmanager(port)
    manager.set_synchronous_mode(True)
    manager.set_random_device_seed(0)
    library = world.get_blueprint_library().filter("vehicle.*")
    cars = [blueprint for blueprint in library if int(blueprint.get_attribute("number_of_wheels")) == 4]
    vehicles: list[carla.Vehicle] = []
    for point in world.get_map().get_spawn_points():
        if len(vehicles) == count:
            break
        vehicle = world.try_spawn_actor(cars[len(vehicles) % len(cars)], point)
        if vehicle is not None:
            vehicles.append(cast(carla.Vehicle, vehicle))
    if len(vehicles) < count:
        raise BenchError(f"--cars {count}: the town has room for {len(vehicles)} at its spawn points")
    world.tick()
    for vehicle in vehicles:
        vehicle.set_autopilot(True, port)
    return vehicles


def timed_ticks(world: carla.World, count: int, watchdog: Watchdog) -> list[float]:
    seconds = []
    for _ in range(count):
        before = time.perf_counter()
        world.tick()
        seconds.append(time.perf_counter() - before)
        watchdog.alive()
    return seconds


def time_cameras(world: carla.World, vehicle: carla.Vehicle, width: int, height: int, watchdog: Watchdog) -> Timing:
    """From the call of tick() until all six images of the frame are there."""
    blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
    blueprint.set_attribute("image_size_x", str(width))
    blueprint.set_attribute("image_size_y", str(height))
    images: queue.Queue[int] = queue.Queue()
    cameras = []
    for x, y, yaw, fov in RIG:
        blueprint.set_attribute("fov", str(fov))
        mount = carla.Transform(carla.Location(x, y, 1.6), carla.Rotation(yaw=yaw))
        camera = cast(carla.Sensor, world.spawn_actor(blueprint, mount, attach_to=vehicle))
        camera.listen(lambda image: images.put(image.frame))
        cameras.append(camera)
    seconds = []
    for _ in range(WARM_UP_TICKS + CAMERA_TICKS):
        before = time.perf_counter()
        frame = world.tick()
        missing = len(RIG)
        try:
            while missing:
                missing -= images.get(timeout=TIMEOUT_S if seconds else 1.0) == frame
        except queue.Empty:
            if seconds:
                raise BenchError(f"an image of frame {frame} never came") from None
            continue  # not all subscriptions are up yet
        seconds.append(time.perf_counter() - before)
        watchdog.alive()
    for camera in cameras:
        camera.destroy()
    world.tick()
    return Timing.of(seconds[-CAMERA_TICKS:])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match.group(1)) / 1024 if match else 0.0


def main(config: BenchConfig) -> int:
    report = run(config, say=lambda text: print(text, file=sys.stderr, flush=True))
    if config.json:
        print(json.dumps(asdict(report), indent=1))
        return 0
    print(f"machine                        {report.machine}, load {report.load_before} before")
    print(f"start to first tick            {report.start_to_first_tick_s:.2f} s")
    rows = {f"world.tick(), {report.cars} TM cars": report.tick}
    rows |= {f"tick + six cameras {size}": timing for size, timing in report.cameras.items()}
    for name, timing in rows.items():
        if timing is not None:
            print(f"{name:30} median {timing.median_ms:.2f} ms, p95 {timing.p95_ms:.2f}, max {timing.max_ms:.2f}")
    print(f"server CPU per tick            {report.server_cpu_ms_per_tick:.2f} ms")
    print(f"server memory                  {report.server_memory_mib:.0f} MiB")
    return 0
