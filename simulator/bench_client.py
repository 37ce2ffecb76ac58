"""Measurements of a running server through the real client: ticks, cameras, resets, memory."""

from __future__ import annotations

import math
import os
import queue
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import carla

from simulator.wire import packed

STEP_S: Final = 0.05
WARM_UP_TICKS: Final = 40
TIMEOUT_S: Final = 30.0
IMAGES_S: Final = 120.0
"""Images that take longer never come."""
WORKER_THREADS: Final = 16
RESCUE_S: Final = 5.0
FREEZE_S: Final = 60.0
"""A tick that takes longer is a frozen Traffic Manager that cannot be woken."""
TRAFFIC_MANAGER_OFFSET: Final = 1000
TELL_S: Final = 2.0
SUBSCRIBED_S: Final = 0.02
"""So long is waited for images of a tick while the subscriptions of new cameras may not stand yet."""
STOP_S: Final = 10.0
SAMPLE_TICKS: Final = 500
"""Ticks between two looks at the memory."""
RIG: Final = (
    (0.80, 0.0, 0, 70),
    (0.27, -0.55, -55, 70),
    (0.27, 0.55, 55, 70),
    (-2.0, 0.0, 180, 110),
    (-0.32, -0.55, -110, 70),
    (-0.32, 0.55, 110, 70),
)
"""x, y, yaw, fov of Bench2Drive's six cameras, 1.6 m above ground."""
EGO: Final = "vehicle.lincoln.mkz_2020"


class BenchError(Exception):
    """The measurement could not be made; the text says why."""


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


@dataclass(frozen=True, slots=True)
class Traffic:
    """Ticks with a number of cars under the client's Traffic Manager; CPU time counts all threads."""

    cars: int
    tick: Timing
    ticks_per_s: float
    server_cpu_ms: float
    client_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Cameras:
    """From the call of tick() until all six images of the frame are there, with the traffic running."""

    size: str
    tick: Timing
    server_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Resets:
    """From the first destroyed actor to the tick with the images of the new episode; CPU time of one reset."""

    wall: Timing
    server_cpu_ms: float
    client_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of the server early and late in a long run, medians of several looks."""

    early_mib: float
    late_mib: float

    @property
    def percent(self) -> float:
        return round(100.0 * (self.late_mib / self.early_mib - 1.0), 2)

    @classmethod
    def of(cls, samples_mib: list[float], warm_up: int) -> Growth:
        """Of samples in order; the first `warm_up` do not count: caches fill there. Raises: BenchError if too few."""
        rest = samples_mib[warm_up:]
        share = max(len(rest) // 5, 1)
        if len(rest) < 2:
            raise BenchError(f"{len(samples_mib)} looks at the memory are too few for a growth; ask for a longer run")
        return cls(round(statistics.median(rest[:share]), 1), round(statistics.median(rest[-share:]), 1))


class Watchdog:
    """Helps when a tick does not return: the client's synchronous Traffic Manager can miss its signal for good.

    After RESCUE_S within `watching` it calls `rescue`, again after as long; after FREEZE_S this process ends.
    """

    def __init__(self, rescue: Callable[[], None]) -> None:
        self.rescues = 0
        self._rescue = rescue
        self._begun_s = self._rescue_at_s = math.inf
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The block is a tick."""
        now_s = time.monotonic()
        self._begun_s, self._rescue_at_s = now_s, now_s + RESCUE_S
        try:
            yield
        finally:
            self._begun_s = self._rescue_at_s = math.inf

    def _watch(self) -> None:
        while True:
            time.sleep(0.25)
            now_s = time.monotonic()
            if now_s - self._begun_s > FREEZE_S:
                message = f"error: a tick took over {FREEZE_S:.0f} s: the client's Traffic Manager froze"
                print(message, file=sys.stderr, flush=True)
                os._exit(1)
            if now_s > self._rescue_at_s:
                self._rescue_at_s = now_s + RESCUE_S
                self.rescues += 1
                self._rescue()


class Rig:
    """Six listening cameras of one size on a vehicle; `tick` advances the world and returns the frame."""

    def __init__(
        self, world: carla.World, vehicle: carla.Actor, width: int, height: int, tick: Callable[[], int]
    ) -> None:
        self._tick = tick
        self._images: queue.Queue[int] = queue.Queue()
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        blueprint.set_attribute("image_size_x", str(width))
        blueprint.set_attribute("image_size_y", str(height))
        self.cameras = []
        for x, y, yaw, fov in RIG:
            blueprint.set_attribute("fov", str(fov))
            mount = carla.Transform(carla.Location(x, y, 1.6), carla.Rotation(yaw=yaw))
            camera = cast(carla.Sensor, world.spawn_actor(blueprint, mount, attach_to=vehicle))
            camera.listen(lambda image: self._images.put(image.frame))
            self.cameras.append(camera)

    def tick(self, patience_s: float = IMAGES_S) -> bool:
        """Tick and wait for the images of that frame; False if they do not come in time."""
        frame = self._tick()
        missing = len(RIG)
        try:
            while missing:
                missing -= self._images.get(timeout=patience_s) == frame
        except queue.Empty:
            return False
        return True

    def first_tick(self) -> None:
        """Tick until all subscriptions stand and six images of one frame have come. Raises: BenchError."""
        patience_s = SUBSCRIBED_S
        while not self.tick(patience_s):
            patience_s *= 2.0  # the longer the likelier is a slow drawer, not a missing subscription
            if patience_s > IMAGES_S:
                raise BenchError(f"six images never came within {IMAGES_S:.0f} s")


class BenchClient:
    """A client of one server process, in synchronous mode at 20 Hz."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self._manager_port = port + TRAFFIC_MANAGER_OFFSET
        self._manager: carla.TrafficManager | None = None
        self.client = carla.Client("127.0.0.1", port, WORKER_THREADS)
        self.client.set_timeout(TIMEOUT_S)
        self.world = self.client.get_world()
        self.vehicles: list[carla.Actor] = []
        self.watchdog = Watchdog(rescue=self._wake)
        self._step_in_sync()

    def _step_in_sync(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, STEP_S
        self.world.apply_settings(settings)
        self.world.tick()

    def _wake(self) -> None:
        """Signal the Traffic Manager's thread once more by leaving synchronous mode for a moment."""
        if self._manager is not None:
            self._tell_manager("set_synchronous_mode", False)
            self._tell_manager("set_synchronous_mode", True)

    def _tell_manager(self, method: str, *arguments: object) -> None:
        """Over the manager's own port: the client's call needs a lock that the waiting tick holds."""
        with socket.create_connection(("127.0.0.1", self._manager_port), TELL_S) as line:
            line.settimeout(TELL_S)
            line.sendall(packed([0, 1, method, list(arguments)]))
            line.recv(64)

    def fill(self, count: int) -> None:
        """More cars under the Traffic Manager until there are `count`, the first one the ego. Raises: BenchError."""
        if self._manager is None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a Traffic Manager misses wake-ups across cores
            self._manager = self.client.get_trafficmanager(self._manager_port)
            self._manager.set_synchronous_mode(True)
            self._manager.set_random_device_seed(0)
        library = self.world.get_blueprint_library()
        cars = [b for b in library.filter("vehicle.*") if int(b.get_attribute("number_of_wheels")) == 4]
        new: list[carla.Actor] = []
        for point in self.world.get_map().get_spawn_points():
            number = len(self.vehicles) + len(new)
            if number >= count:
                break
            blueprint = library.find(EGO) if number == 0 else cars[number % len(cars)]
            vehicle = self.world.try_spawn_actor(blueprint, point)
            if vehicle is not None:
                new.append(vehicle)
        self.vehicles += new
        if len(self.vehicles) < count:
            raise BenchError(f"--cars {count}: the town has room for {len(self.vehicles)} at its spawn points")
        self._tick()
        for vehicle in new:
            cast(carla.Vehicle, vehicle).set_autopilot(True, self._manager_port)

    def time_traffic(self, ticks: int) -> Traffic:
        """Ticks without cameras."""
        for _ in range(WARM_UP_TICKS):
            self._tick()
        seconds = []
        server_s, client_s, started = cpu_seconds(self.process.pid), time.process_time(), time.perf_counter()
        for _ in range(ticks):
            before = time.perf_counter()
            self._tick()
            seconds.append(time.perf_counter() - before)
        wall_s = time.perf_counter() - started
        server_s, client_s = cpu_seconds(self.process.pid) - server_s, time.process_time() - client_s
        return Traffic(
            len(self.vehicles), Timing.of(seconds), round(ticks / wall_s, 1),
            round(1e3 * server_s / ticks, 3), round(1e3 * client_s / ticks, 3),
        )  # fmt: skip

    def _tick(self) -> int:
        with self.watchdog.watching():
            return self.world.tick()

    def _rig(self, vehicle: carla.Actor, width: int, height: int) -> Rig:
        """Six cameras that deliver."""
        rig = Rig(self.world, vehicle, width, height, self._tick)
        rig.first_tick()
        return rig

    def time_cameras(self, width: int, height: int, frames: int) -> Cameras:
        """Six cameras on the first vehicle. Raises: BenchError if an image does not come."""
        rig = self._rig(self.vehicles[0], width, height)
        seconds, server_s = [], cpu_seconds(self.process.pid)
        for _ in range(frames):
            before = time.perf_counter()
            if not rig.tick():
                raise BenchError(f"an image of {width}x{height} never came")
            seconds.append(time.perf_counter() - before)
        server_s = cpu_seconds(self.process.pid) - server_s
        self._destroy(rig.cameras)
        self._tick()
        return Cameras(f"{width}x{height}", Timing.of(seconds), round(1e3 * server_s / frames, 2))

    def _destroy(self, actors: list) -> None:
        self.client.apply_batch_sync([carla.command.DestroyActor(actor.id) for actor in actors], False)

    def time_resets(self, cars: int, width: int, height: int, count: int) -> Resets:
        """Destroy everything, spawn ego, cars and six cameras again, tick until their images are there."""
        cameras: list[carla.Sensor] = []
        seconds, server_s, client_s = [], 0.0, 0.0
        for number in range(count + 1):
            if number == 1:  # the first one has nothing to destroy
                server_s, client_s = cpu_seconds(self.process.pid), time.process_time()
            before = time.perf_counter()
            for camera in cameras:
                camera.stop()
            self._destroy([*cameras, *self.vehicles])
            self.vehicles = []
            self.fill(1 + cars)
            rig = self._rig(self.vehicles[0], width, height)
            cameras = rig.cameras
            seconds.append(time.perf_counter() - before)
        server_s, client_s = cpu_seconds(self.process.pid) - server_s, time.process_time() - client_s
        self._destroy([*cameras, *self.vehicles])
        self.vehicles = []
        self._tick()
        return Resets(Timing.of(seconds[1:]), round(1e3 * server_s / count, 1), round(1e3 * client_s / count, 1))

    def grow_by_ticks(self, ticks: int, width: int, height: int) -> Growth:
        """Memory over a long drive with six cameras; the first tenth is warm-up."""
        rig = self._rig(self.vehicles[0], width, height)
        every = min(SAMPLE_TICKS, max(ticks // 20, 1))
        samples = []
        for number in range(1, ticks + 1):
            if not rig.tick():
                raise BenchError(f"an image of tick {number} never came")
            if number % every == 0:
                samples.append(memory_mib(self.process.pid))
        self._destroy(rig.cameras)
        return Growth.of(samples, warm_up=len(samples) // 10)

    def grow_by_loads(self, towns: tuple[str, ...], loads: int, width: int, height: int) -> Growth:
        """Memory over load_world of alternating towns, each with an ego and six cameras that deliver."""
        samples = []
        for number in range(loads):
            self.world = self.client.load_world(towns[number % len(towns)])
            self._step_in_sync()
            ego = self.world.get_blueprint_library().find(EGO)
            vehicle = self.world.spawn_actor(ego, self.world.get_map().get_spawn_points()[0])
            rig = self._rig(vehicle, width, height)
            self._destroy([*rig.cameras, vehicle])
            self._tick()
            if (number + 1) % len(towns) == 0:
                samples.append(memory_mib(self.process.pid))
        return Growth.of(samples, warm_up=len(samples) // 10 + 1)


@contextmanager
def running_server(
    town: str, town_dir: Path | None, threads: int, renderer: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, on a free port. Raises: BenchError when it does not start."""
    command = [sys.executable, "-m", "simulator", "serve", "--town", town, "--port", "0", "--die-with-parent"]
    command += ["--threads", str(threads), "--renderer", renderer]
    command += ["--town-dir", str(town_dir)] if town_dir else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    match = re.match(r"listening on [\d.]+:(\d+)", process.stdout.readline())
    if match is None:
        raise BenchError(f"the server did not start: {process.stderr.read().strip()}")
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
    try:
        yield process, int(match.group(1))
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match.group(1)) / 1024 if match else 0.0
