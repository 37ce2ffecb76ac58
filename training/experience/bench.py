"""Times the replay: painted scenes are written, then windows are drawn, decoded, pooled and batched.

Processor seconds are the measure; wall time on a shared machine says more about its other users.
"""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.actions import ACTIONS
from training import bev
from training.experience.batches import Batches
from training.experience.config import ReplayConfig
from training.experience.writer import ExperienceWriter, Transition
from training.presets import preset

EPISODE_STEPS = 150
ACTORS = 40
BLOCK_M = 60.0
"""Distance of the streets of the painted town."""
STEP_M = 0.8
"""Driven per decision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayBenchConfig:
    """What is timed."""

    steps: int = 6_000
    """Written transitions."""
    batches: int = 12
    batch: int = 16
    length: int = 64
    """Decisions in a window."""
    size_px: int = 64
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batches, self.batch, self.length, self.threads) < 1 or self.steps < self.length:
            raise ValueError("batches, batch, length and threads must be at least 1 and steps at least length")


@dataclass(frozen=True, slots=True)
class ReplayTiming:
    """Frames per second of the two directions."""

    written_per_cpu_s: float
    bytes_per_frame: float
    read_per_cpu_s: float
    """Frames decoded, pooled and batched per second of processor time, all threads together."""
    read_per_s: float
    """The same per second on the clock."""


def town(blocks: int = 8) -> bev.StaticMap:
    """A grid of streets with lines and shoulders."""
    size = int(blocks * BLOCK_M * bev.MAP_PIXELS_PER_M)
    at_m = np.arange(size) / bev.MAP_PIXELS_PER_M
    off_m = np.abs((at_m + 0.5 * BLOCK_M) % BLOCK_M - 0.5 * BLOCK_M)
    lanes = (off_m < 7.0).astype(np.uint8)
    lines = np.where(np.abs(off_m - 3.5) < 0.2, 4, 0) | np.where(off_m < 0.2, 2, 0)
    shoulder = np.where((off_m >= 7.0) & (off_m < 9.0), 8, 0)
    street = (lanes | lines | shoulder).astype(np.uint8)
    return bev.StaticMap(bits=street[:, None] | street[None, :], origin_m=np.zeros(2))


def drive(steps: int, seed: int) -> Iterator[Transition]:
    """Painted decisions of drives along a street among moving actors, some of which end in a termination."""
    generator = np.random.default_rng(seed)
    static, length_m = town(), 8 * BLOCK_M
    for step in range(steps):
        at = step % EPISODE_STEPS
        if at == 0:
            lane_m = BLOCK_M * generator.integers(1, 7) - 1.75
            begin_m = generator.uniform(0.0, length_m - 2 * STEP_M * EPISODE_STEPS)
            actors = np.column_stack(
                [
                    generator.uniform(begin_m - 20.0, begin_m + 150.0, ACTORS),
                    lane_m + generator.uniform(-60.0, 60.0, ACTORS),
                    generator.uniform(-math.pi, math.pi, ACTORS),
                    generator.choice([0.4, 2.3, 4.0], ACTORS),
                    generator.choice([0.4, 1.0], ACTORS),
                ]
            )
            speed_m = generator.uniform(0.0, 1.0, ACTORS)
            kinds = generator.choice([bev.VEHICLE, bev.WALKER, bev.BICYCLE, bev.RED, bev.OBSTACLE], ACTORS)
            xs = np.arange(begin_m, begin_m + 200.0)
            corridor = bev.Corridor(
                points=np.column_stack([xs, np.full(len(xs), lane_m), np.zeros(len(xs))]),
                left_m=np.full(len(xs), 1.75),
                right_m=np.full(len(xs), 1.75),
            )
        ages = []
        for age in range(len(bev.HISTORY_S)):
            moved = actors.copy()
            back = (at - 2.5 * age) * speed_m
            moved[:, 0] += back * np.cos(actors[:, 2])
            moved[:, 1] += back * np.sin(actors[:, 2])
            ages.append((moved, kinds + age))
        boxes = bev.DynamicBoxes(np.concatenate([b for b, _ in ages]), np.concatenate([c for _, c in ages]))
        pose = (begin_m + STEP_M * at, lane_m, 0.1 * math.sin(0.2 * at))
        last = at == EPISODE_STEPS - 1
        yield Transition(
            words=bev.paint(static, pose, (2.4, 1.0), corridor, int(STEP_M * at), boxes),
            previous_action=int(generator.integers(len(ACTIONS))),
            reward=float(generator.normal()),
            first=at == 0,
            last=last,
            terminal=last and bool(generator.random() < 0.5),
        )


def run(config: ReplayBenchConfig) -> ReplayTiming:
    """Write and read in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="replay-bench-") as name:
        folder = Path(name)
        write_cpu_s = 0.0
        with ExperienceWriter(folder) as writer:
            for transition in drive(config.steps, config.seed):
                before = time.process_time()
                writer.add(transition)
                write_cpu_s += time.process_time() - before
        stored = sum(path.stat().st_size for path in folder.glob("*.segment"))
        base = preset("paper", "10m")
        world = replace(base.world_model, observation=replace(base.world_model.observation, size_px=config.size_px))
        settings = replace(
            base,
            world_model=world,
            batch=config.batch,
            steps=config.length,
            replay=ReplayConfig(refresh_s=0.0),
            tricks=replace(base.tricks, termination_share=0.5),
        )
        with Batches(folder, settings, config.seed, threads=config.threads, ahead=0) as batches:
            batches.next()
            cpu_s, wall_s = _cpu_s(), time.perf_counter()
            for _ in range(config.batches):
                batches.next()
            cpu_s, wall_s = _cpu_s() - cpu_s, time.perf_counter() - wall_s
    frames = config.batches * config.batch * config.length
    return ReplayTiming(config.steps / write_cpu_s, stored / config.steps, frames / cpu_s, frames / wall_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(timing: ReplayTiming) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return {name: getattr(timing, name) for name in timing.__dataclass_fields__}


def table(timing: ReplayTiming) -> str:
    """The timing as text."""
    return "\n".join(
        [
            f"written, frames per CPU second            {timing.written_per_cpu_s:9.0f}",
            f"bytes per stored frame                    {timing.bytes_per_frame:9.0f}",
            f"decoded and batched, frames per CPU second{timing.read_per_cpu_s:9.0f}",
            f"decoded and batched, frames per second    {timing.read_per_s:9.0f}",
        ]
    )
