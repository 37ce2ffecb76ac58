"""Times the learner's full update (world model, actor, critic) at any size, on any device, compiled or not."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from agent.config import ConfigError
from training.bench import BenchConfig, random_windows
from training.experience.batches import to_device
from training.learner import BaseLearner, Learner
from training.presets import PrivilegedConfig
from training.world_model.model import Replayed

WARM_UP_UPDATES = 3
"""A compiled step compiles in the first one and records its CUDA graphs in the next ones."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class LearnerTiming:
    """Seconds of each timed update and what follows from their median."""

    device: str
    parameters: int
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    frames_per_s: float
    """Replayed decisions per second on the clock."""
    peak_mib: float | None
    """Largest GPU memory in use; None on a CPU."""


def time_learner(preset: PrivilegedConfig, config: BenchConfig, device: str, *, compiled: bool) -> LearnerTiming:
    """Time updates on windows of `config`, masks in the preset's size. Raises: ConfigError without the device."""
    check_device(device)
    torch.set_num_threads(config.threads)
    learner = Learner(preset, seed=config.seed, device=device, compiled=compiled)
    config = replace(config, size_px=preset.world_model.observation.size_px)
    return time_updates(learner, to_device(random_windows(config), device), config, device)


def check_device(device: str) -> None:
    """Raises: ConfigError for a GPU that is not there."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: torch sees no GPU; take cpu")


def time_updates(learner: BaseLearner, batch: Replayed, config: BenchConfig, device: str) -> LearnerTiming:
    """Time updates of a learner on one batch."""
    cuda = torch.device(device).type == "cuda"
    wall_s, cpu_s = [], []
    for turn in range(-WARM_UP_UPDATES, config.rounds):
        if cuda and turn == 0:
            torch.cuda.reset_peak_memory_stats(device)
        started_s = _now(device), time.process_time()
        learner.update(batch)
        if turn >= 0:
            wall_s.append(_now(device) - started_s[0])
            cpu_s.append(time.process_time() - started_s[1])
    return LearnerTiming(
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        parameters=sum(p.numel() for stepper in learner.steppers.values() for p in stepper.parameters),
        wall_s=tuple(wall_s),
        cpu_s=tuple(cpu_s),
        frames_per_s=config.batch * config.steps / statistics.median(wall_s),
        peak_mib=torch.cuda.max_memory_allocated(device) / MIB if cuda else None,
    )


def _now(device: str) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(timing: LearnerTiming) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return asdict(timing)


def table(timing: LearnerTiming) -> str:
    """The timing as text."""
    memory = "not measured" if timing.peak_mib is None else f"{timing.peak_mib:.0f}"
    return "\n".join(
        [
            f"device                               {timing.device}",
            f"parameters, million                  {timing.parameters / 1e6:.1f}",
            f"update, s                            {statistics.median(timing.wall_s):.3f}",
            f"update, CPU s                        {statistics.median(timing.cpu_s):.3f}",
            f"replayed frames per second           {timing.frames_per_s:.0f}",
            f"peak GPU memory, MiB                 {memory}",
        ]
    )
