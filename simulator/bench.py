"""Measures a server of this machine: start, ticks with traffic, cameras, resets, memory; a table or JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from simulator.bench_client import (
    BenchClient,
    BenchError,
    Cameras,
    Growth,
    Resets,
    Timing,
    Traffic,
    memory_mib,
    running_server,
)

__all__ = ["BenchConfig", "BenchError", "BenchReport", "main", "run"]

FRAME_SIZES: Final = ((224, 128), (448, 256), (1600, 900))
SMALL_FRAME: Final = FRAME_SIZES[0]
"""Size of the images of resets and memory runs: that of embedded episodes."""
RESET_CARS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    town: str = "Gen01"
    """Town to measure in."""
    town_dir: Path | None = None
    """Folder with .xodr files of further towns."""
    cars: tuple[int, ...] = (20, 50, 100)
    """Numbers of cars that the client's Traffic Manager drives, ascending; cameras run with the first number."""
    ticks: int = 500
    """Ticks timed per number of cars."""
    frames: int = 40
    """Ticks timed per image size; 0 leaves the cameras out."""
    resets: int = 10
    """Episode resets timed; 0 leaves them out."""
    memory: bool = False
    """Also measure the growth of the server's memory (minutes)."""
    memory_ticks: int = 10_000
    """Ticks of the memory run, with six cameras."""
    loads: int = 50
    """load_world calls of the memory run, alternating between `town` and `other_town`."""
    other_town: str = "Gen02"
    """Second town of the memory run."""
    threads: int = 2
    """Threads that draw in software."""
    renderer: Literal["software", "gl", "auto"] = "software"
    """What draws: software, OpenGL (package moderngl), or OpenGL only if a GPU does it."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        if not self.cars or min(self.cars) < 1 or list(self.cars) != sorted(set(self.cars)):
            raise BenchError(
                f"--cars {' '.join(map(str, self.cars))}: needed are ascending numbers from 1 "
                "(a Traffic Manager without cars can freeze the client)"
            )
        if self.ticks < 1 or min(self.frames, self.resets) < 0 or self.memory_ticks < 100 or self.loads < 8:
            raise BenchError(
                f"--ticks {self.ticks} --frames {self.frames} --resets {self.resets} --memory-ticks "
                f"{self.memory_ticks} --loads {self.loads}: at least 1, 0, 0, 100 and 8 are needed"
            )


@dataclass(slots=True)
class BenchReport:
    machine: str
    load_before: float
    town: str
    renderer: str = "software"
    start_to_first_tick_s: float = 0.0
    traffic: list[Traffic] = field(default_factory=list)
    cameras: list[Cameras] = field(default_factory=list)
    resets: Resets | None = None
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Resident memory of the server after each stage."""
    traffic_manager_rescues: int = 0
    """How often the client's Traffic Manager missed a signal and was woken; ticks of seconds come from it."""
    growth_by_ticks: Growth | None = None
    growth_by_loads: Growth | None = None


def run(config: BenchConfig, say: Callable[[str], None]) -> BenchReport:
    """All measurements, one after the other. Raises: BenchError."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report = BenchReport(
        f"{machine}, carla {version('carla')}", round(os.getloadavg()[0], 2), config.town, config.renderer
    )
    if config.memory:  # before a Traffic Manager lives in this process: it would not survive load_world
        _measure_loads(config, report, say)
    started = time.perf_counter()
    with running_server(config.town, config.town_dir, config.threads, config.renderer) as (process, port):
        client = BenchClient(process, port)
        report.start_to_first_tick_s = round(time.perf_counter() - started, 2)

        def remember(stage: str) -> None:
            report.memory_mib[stage] = round(memory_mib(process.pid), 1)

        remember("start")
        for number, cars in enumerate(config.cars):
            say(f"{cars} cars, {config.ticks} ticks")
            client.fill(cars)
            report.traffic.append(client.time_traffic(config.ticks))
            remember(f"{cars} cars")
            if number == 0:
                _measure_with_cameras(config, client, report, say)
                remember("cameras")
        if config.resets:
            say(f"{config.resets} resets")
            report.resets = client.time_resets(RESET_CARS, *SMALL_FRAME, config.resets)
            remember("resets")
        report.traffic_manager_rescues = client.watchdog.rescues
    return report


def _measure_with_cameras(
    config: BenchConfig, client: BenchClient, report: BenchReport, say: Callable[[str], None]
) -> None:
    for width, height in FRAME_SIZES if config.frames else ():
        say(f"six cameras {width}x{height}")
        report.cameras.append(client.time_cameras(width, height, config.frames))
    if config.memory:
        say(f"memory over {config.memory_ticks} ticks")
        report.growth_by_ticks = client.grow_by_ticks(config.memory_ticks, *SMALL_FRAME)


def _measure_loads(config: BenchConfig, report: BenchReport, say: Callable[[str], None]) -> None:
    say(f"memory over {config.loads} load_world")
    with running_server(config.town, config.town_dir, config.threads, config.renderer) as (process, port):
        towns = (config.other_town, config.town)
        report.growth_by_loads = BenchClient(process, port).grow_by_loads(towns, config.loads, *SMALL_FRAME)


def main(config: BenchConfig) -> int:
    """Measure and print. Raises: BenchError."""
    report = run(config, say=lambda text: print(text, file=sys.stderr, flush=True))
    if config.json:
        facts = asdict(report)
        for name in ("growth_by_ticks", "growth_by_loads"):
            growth = getattr(report, name)
            if growth is not None:
                facts[name]["percent"] = growth.percent
        print(json.dumps(facts, indent=1))
        return 0
    print("\n".join(_table(report, config)))
    return 0


def _table(report: BenchReport, config: BenchConfig) -> list[str]:
    lines = [
        f"machine                        {report.machine}, load {report.load_before} before",
        f"renderer                       {report.renderer}",
        f"start to first tick            {report.start_to_first_tick_s:.2f} s",
    ]
    for traffic in report.traffic:
        lines.append(
            f"{f'world.tick(), {traffic.cars} TM cars':30} {_shown(traffic.tick)}, {traffic.ticks_per_s:.0f} ticks/s; "
            f"CPU: server {traffic.server_cpu_ms:.2f} ms, client {traffic.client_cpu_ms:.2f} ms"
        )
    for cameras in report.cameras:
        lines.append(
            f"{f'tick + six cameras {cameras.size}':30} {_shown(cameras.tick)}; "
            f"server CPU {cameras.server_cpu_ms:.1f} ms"
        )
    resets = report.resets
    if resets is not None:
        lines.append(
            f"{f'reset to images, {RESET_CARS} cars':30} {_shown(resets.wall)}; "
            f"CPU: server {resets.server_cpu_ms:.0f} ms, client {resets.client_cpu_ms:.0f} ms"
        )
    stages = ", ".join(f"{stage} {mib:.0f}" for stage, mib in report.memory_mib.items())
    lines.append(f"server memory, MiB             {stages}")
    for growth, what in (
        (report.growth_by_ticks, f"{config.memory_ticks} ticks"),
        (report.growth_by_loads, f"{config.loads} load_world"),
    ):
        if growth is not None:
            grown = f"{growth.percent:+.2f} % ({growth.early_mib:.1f} to {growth.late_mib:.1f} MiB)"
            lines.append(f"{f'memory growth, {what}':30} {grown}")
    return lines


def _shown(timing: Timing) -> str:
    return f"median {timing.median_ms:.2f} ms, p95 {timing.p95_ms:.2f}, max {timing.max_ms:.2f}"
