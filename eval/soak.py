"""A long run with traffic: does the server last, does it leak, does the client's Traffic Manager freeze?

Either a world is ticked, or the agent drives route after route in this one process.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import carla

from agent.observation import CAMERA_NAMES
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from eval.runner import DEFAULT_WEIGHTS, EXIT_INCOMPLETE, EXIT_OK, InputError
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect
from eval.traffic import Traffic, TrafficConfig, pin_core, pinned
from eval.watchdog import Watchdog

if TYPE_CHECKING:
    from agent.model.driving_model import DrivingModel

TICK_S: Final = 0.05
TIMEOUT_S: Final = 30.0
FREEZE_S: Final = 60.0
SETTLED_SHARE: Final = 0.1
"""Memory growth is counted from here on: caches fill in the beginning."""
REPORTS: Final = 20
DIFFERENT_ROUTES: Final = 4
"""Driven in turns."""
SETTLED_ROUTES: Final = 5
"""Caches, and the allocator's arena of every thread of the wheel, fill over the first routes."""
MIN_ROUTES: Final = SETTLED_ROUTES + 1


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Tick a world with traffic for a long time and report time per tick, memory growth and whether the cars drove.

    With --routes or --minutes the agent drives instead, one route after another in this one process, which must not
    grow: the exit code is 1 if it does.
    """

    ticks: int = 50_000
    """Ticks of 0.05 s."""
    traffic: int = 20
    """Vehicles under the client's Traffic Manager, at least 1 (of the agent's routes: 0 for none)."""
    town: str = "Gen01"
    """Town of the embedded server."""
    networks: Path | None = None
    """An agent's configuration: its networks run all the time in a thread beside the ticks."""
    seed: int = 0
    """Seed of the traffic."""
    routes: int = 0
    """Drive so many routes with the agent."""
    minutes: float = 0.0
    """Drive routes with the agent for so long."""
    route_s: float = 30.0
    """Game time after which such a route ends."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration file."""
    max_growth_percent: float = 1.0
    """How much memory may grow over the routes, from the fifth or a tenth of them on."""


class Load:
    """The agent's networks, deciding over and over on noise in a thread of their own."""

    def __init__(self, model: DrivingModel) -> None:
        self._model = model
        self._stop = threading.Event()
        self.decisions = 0
        self._thread = threading.Thread(target=self._run, name="networks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import torch  # here: the other commands of this package start faster without it

        from agent.model.driving_model import ModelInput

        encoder, cameras = self._model.config.encoder, len(CAMERA_NAMES)
        inputs = ModelInput(
            images=torch.randint(0, 256, (1, cameras, 3, encoder.image_height, encoder.image_width), dtype=torch.uint8),
            camera_valid=torch.ones(1, cameras, dtype=torch.bool),
            ego_motion=torch.zeros(1, 3),
            route=torch.zeros(1, ROUTE_POINTS, 2),
            vector=torch.zeros(1, VECTOR_SIZE),
            first=torch.zeros(1, dtype=torch.bool),
        )
        state = self._model.initial(1)
        while not self._stop.is_set():
            _, state = self._model.act(inputs, state)
            self.decisions += 1


def soak(config: SoakConfig) -> int:
    """Run it; prints what it measured. A frozen client ends the process with exit code 70."""
    if config.routes or config.minutes:
        if min(config.routes, config.minutes, config.traffic) < 0 or config.route_s < TICK_S:
            raise InputError("--routes, --minutes and --traffic must not be negative, and --route-s must be a tick")
        return _drive_on(config)
    if config.traffic < 1 or config.ticks < 1:
        raise InputError("--traffic and --ticks must be at least 1 (a Traffic Manager without cars freezes its client)")
    if config.networks is not None and not config.networks.is_file():
        raise InputError(f"--networks {config.networks}: no such file; give the agent's configuration (agent.yaml)")
    model = None
    if config.networks is not None:
        from agent.driver import AgentConfig, load_driving_model

        model = load_driving_model(config.networks.parent / AgentConfig.read(config.networks).checkpoint, "cpu")
    with EmbeddedServer(EmbeddedServerConfig(town=config.town, render=False)) as server:
        client = connect(server.host, server.port, TIMEOUT_S)
        world = client.get_world()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, TICK_S
        world.apply_settings(settings)
        world.tick()
        core = pin_core()
        traffic = Traffic(client, world, carla.Location(), TrafficConfig(config.traffic, config.seed), core)
        traffic.start_driving()
        load = Load(model) if model is not None else None
        beside = f", networks of {config.networks} beside" if load else ""
        print(f"{config.ticks} ticks in {config.town}, {len(traffic.vehicles)} cars{beside}", flush=True)
        _tick_on(config, world, traffic, server.pid, core)
        if load is not None:
            load.stop()
            print(f"the networks decided {load.decisions} times")
        traffic.destroy()
    return 0


def _tick_on(config: SoakConfig, world: carla.World, traffic: Traffic, server_pid: int, core: int) -> None:
    watchdog = Watchdog()
    durations_s: list[float] = []
    driven_m = 0.0
    memory_mib: dict[str, int] = {}
    started_s = time.monotonic()
    for tick in range(1, config.ticks + 1):
        before_s = time.perf_counter()
        with watchdog.phase(f"tick {tick}", FREEZE_S, rescue=traffic.wake), pinned(core):
            world.tick()
        durations_s.append(time.perf_counter() - before_s)
        if tick % 20 == 0:
            driven_m += sum(traffic.speeds_mps()) * 20 * TICK_S
        if tick == max(1, int(config.ticks * SETTLED_SHARE)):
            memory_mib = _memory(server_pid)
        if tick % max(1, config.ticks // REPORTS) == 0:
            passed_s = time.monotonic() - started_s
            left_s = passed_s / tick * (config.ticks - tick)
            driven = f"cars drove {driven_m / 1000:.1f} km"
            print(f"tick {tick}: {passed_s:.0f} s, about {left_s:.0f} s left, {driven}", flush=True)
    watchdog.close()
    ordered = sorted(durations_s)
    median, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    print(f"finished: tick median {1e3 * median:.2f} ms, 99 % {1e3 * p99:.2f} ms, longest {1e3 * ordered[-1]:.0f} ms")
    for name, after in _memory(server_pid).items():
        growth = 100.0 * (after - memory_mib[name]) / memory_mib[name]
        print(f"memory of the {name}: {memory_mib[name]} MiB early, {after} MiB at the end ({growth:+.1f} %)")


def _drive_on(config: SoakConfig) -> int:
    """Routes with the agent, all in this process. Gives 1 if memory grew by more than it may."""
    from agent.entry import LeaderboardAgent  # as above
    from eval.episode import Episode, EpisodeConfig
    from eval.generate import generate_routes

    sizes_mib: list[dict[str, float]] = []
    started_s = time.monotonic()
    with EmbeddedServer(EmbeddedServerConfig(town=config.town)) as server:
        client = connect(server.host, server.port, TIMEOUT_S)
        routes = generate_routes(client.get_world().get_map(), DIFFERENT_ROUTES, seed=config.seed, town=config.town)
        game_s = 0.0
        while True:
            done, passed_s = len(sizes_mib), time.monotonic() - started_s
            if done >= MIN_ROUTES and done >= config.routes and passed_s >= 60.0 * config.minutes:
                break
            episode = EpisodeConfig(
                traffic=config.traffic,
                seed=config.seed + done,
                agent_config=str(config.weights),
                max_game_s=config.route_s,
            )
            record = Episode(client, routes[done % len(routes)], LeaderboardAgent, episode).run()
            if not record.ticks:
                raise InputError(f"route {done + 1} was not driven: {record.status} {record.failure_message}")
            game_s += record.duration_game_s
            _give_back_memory()
            sizes_mib.append({name: _resident_mib(pid) for name, pid in _processes(server.pid).items()})
            sizes = ", ".join(f"{name} {mib:.1f} MiB" for name, mib in sizes_mib[-1].items())
            print(
                f"route {done + 1}: {record.duration_game_s:.0f} s driven, {sizes}{_left(config, sizes_mib, passed_s)}"
            )
    settled = max(SETTLED_ROUTES, int(SETTLED_SHARE * len(sizes_mib))) - 1
    grew = False
    for name, before_mib in sizes_mib[settled].items():
        growth = 100.0 * (sizes_mib[-1][name] / before_mib - 1.0)
        grew = grew or growth > config.max_growth_percent
        print(
            f"memory of the {name}: {before_mib:.1f} MiB after route {settled + 1}, {sizes_mib[-1][name]:.1f} MiB "
            f"after {len(sizes_mib)} ({growth:+.2f} %)"
        )
    print(f"{len(sizes_mib)} routes, {game_s:.0f} s driven in {time.monotonic() - started_s:.0f} s")
    return EXIT_INCOMPLETE if grew else EXIT_OK


def _left(config: SoakConfig, sizes_mib: list[dict[str, float]], passed_s: float) -> str:
    """How long it will go on, for the line of a route."""
    by_count_s = passed_s / max(len(sizes_mib) - 1, 1) * (max(config.routes, MIN_ROUTES) - len(sizes_mib))
    left_s = max(by_count_s, 60.0 * config.minutes - passed_s)
    return f", about {left_s:.0f} s left" if left_s > 0.0 else ""


def _give_back_memory() -> None:
    """Return what is free to the system, so that what remains is in use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _processes(server_pid: int) -> dict[str, int]:
    return {"server": server_pid, "client": os.getpid()}


def _memory(server_pid: int) -> dict[str, int]:
    """Resident MiB of server and client."""
    return {name: int(_resident_mib(pid)) for name, pid in _processes(server_pid).items()}


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
