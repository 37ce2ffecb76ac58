"""Times a full update (world model, actor, critic) against a plain implementation, in paired rounds.

CPU seconds of the process are the measure: wall time on a shared machine says more about its other users.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from agent.actions import ACTIONS
from agent.config import ConfigError
from training.bev import CHANNELS
from training.learner import Learner
from training.presets import PrivilegedConfig, preset
from training.world_model.config import VisionKind
from training.world_model.model import Replayed

PLAIN_MODULE = "tests.bench.plain"
MASK_DENSITY = (0.26, 0.04, 0.003, 0.09, 0.02, 0.06, 0.085, *(0.006,) * 4, *(0.0003,) * 16, *(0.001,) * 4)
"""Share of the pixels that a mask sets at 64 px, as recorded in drives on scenario routes; further ones are empty."""
DECODE_SHARE = 0.25
"""Share of the steps decoded in the variant patch_quarter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """What is timed."""

    batch: int = 8
    steps: int = 32
    size_px: int = 64
    rounds: int = 3
    """Timed rounds after one that warms up; each runs every variant once."""
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.rounds, self.threads) < 1 or self.steps < 2:
            raise ValueError("batch, rounds and threads must be at least 1 and steps at least 2")


@dataclass(frozen=True, slots=True)
class Timing:
    """CPU and wall seconds of the rounds of one variant."""

    name: str
    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]


def bench_config(config: BenchConfig, kind: VisionKind, decode_share: float = 1.0) -> PrivilegedConfig:
    """The `paper` recipe at the width of DreamerV3's XS with an encoder kind."""
    base = preset("paper", "10m")
    world = base.world_model
    vision = replace(world.vision, kind=kind, decode_share=decode_share)
    observation = replace(world.observation, size_px=config.size_px)
    return replace(base, world_model=replace(world, vision=vision, observation=observation))


def random_windows(config: BenchConfig) -> Replayed:
    """Windows of masks with one upright stripe each, random actions and rewards, an episode start here and there."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch, config.steps)
    words = torch.zeros(*shape, config.size_px, config.size_px, dtype=torch.int64)
    columns = torch.arange(config.size_px)
    for channel, density in enumerate(MASK_DENSITY[:CHANNELS]):
        width = max(1.0, config.size_px * density**0.5)
        height = max(1, round(config.size_px**2 * density / width))
        left = torch.rand(shape, generator=generator)[..., None] * (config.size_px - width)
        stripe = (columns >= left) & (columns < left + width)
        words[..., :height, :] |= stripe[..., None, :].long() << channel
    never = torch.zeros(shape, dtype=torch.bool)
    return Replayed(
        words=words,
        vector=None,
        previous_action=torch.randint(0, len(ACTIONS), shape, generator=generator),
        reward=torch.randn(shape, generator=generator),
        first=torch.rand(shape, generator=generator) < 0.02,
        last=never,
        terminal=torch.rand(shape, generator=generator) < 0.01,
    )


def _plain() -> Any:
    try:
        return importlib.import_module(PLAIN_MODULE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{PLAIN_MODULE}, the plain implementation, is missing; run the bench in a checkout of the repository"
        ) from error


def variants(config: BenchConfig, batch: Replayed) -> dict[str, Callable[[], object]]:
    """One update of each variant as a function; every variant has its own weights and optimisers."""
    plain = _plain()
    masks: np.ndarray = plain.mask_arrays(batch, CHANNELS)
    yardstick = plain.PlainLearner(Learner(bench_config(config, "strided"), seed=config.seed))
    learners = {
        "exact": Learner(bench_config(config, "strided"), seed=config.seed),
        "patch": Learner(bench_config(config, "patch"), seed=config.seed),
        "patch_quarter": Learner(bench_config(config, "patch", DECODE_SHARE), seed=config.seed),
    }
    updates: dict[str, Callable[[], object]] = {"plain": lambda: yardstick.update(masks, batch)}
    for name, learner in learners.items():
        updates[name] = lambda learner=learner: learner.update(batch)
    return updates


def run(config: BenchConfig) -> list[Timing]:
    """Time all variants, one after the other in each round, so that a disturbance meets all of them."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    updates = variants(config, random_windows(config))
    cpu: dict[str, list[float]] = {name: [] for name in updates}
    wall: dict[str, list[float]] = {name: [] for name in updates}
    begun_s = time.perf_counter()
    for turn in range(config.rounds + 1):
        for name, update in updates.items():
            before = time.process_time(), time.perf_counter()
            update()
            if turn:
                cpu[name].append(time.process_time() - before[0])
                wall[name].append(time.perf_counter() - before[1])
        left_s = (time.perf_counter() - begun_s) / (turn + 1) * (config.rounds - turn)
        back, end = ("\r", "") if sys.stderr.isatty() and turn < config.rounds else ("", "\n")
        print(f"{back}round {turn} of {config.rounds}, {left_s:.0f} s left ", end=end, file=sys.stderr, flush=True)
    return [Timing(name, tuple(cpu[name]), tuple(wall[name])) for name in updates]


def ratios(timings: list[Timing]) -> dict[str, tuple[float, float, float]]:
    """Median, smallest and largest ratio of plain CPU time to each variant's, by round."""
    plain = timings[0].cpu_s
    paired = {timing.name: [a / b for a, b in zip(plain, timing.cpu_s, strict=True)] for timing in timings}
    return {name: (statistics.median(values), min(values), max(values)) for name, values in paired.items()}


def report(config: BenchConfig, timings: list[Timing]) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return {
        "config": asdict(config),
        "torch": torch.__version__,
        "variants": {timing.name: {"cpu_s": timing.cpu_s, "wall_s": timing.wall_s} for timing in timings},
        "times_less_cpu_than_plain": {
            name: {"median": median, "min": low, "max": high} for name, (median, low, high) in ratios(timings).items()
        },
    }


def table(timings: list[Timing]) -> str:
    """The timings as text."""
    lines = [f"{'variant':<14} {'cpu s':>7} {'wall s':>7}   times less CPU than plain (min .. max)"]
    compared = ratios(timings)
    for timing in timings:
        median, low, high = compared[timing.name]
        lines.append(
            f"{timing.name:<14} {statistics.median(timing.cpu_s):7.2f} {statistics.median(timing.wall_s):7.2f}   "
            f"{median:.2f} ({low:.2f} .. {high:.2f})"
        )
    return "\n".join(lines)
