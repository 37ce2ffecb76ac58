"""Do the mask encoders learn the same? World models with different encoders, on the same recorded windows.

Every model gets equal updates on the same windows of a replay folder; what its filtered states reconstruct of held-out
windows is compared with the masks, channel by channel.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.report import machine
from training import bev
from training.experience.batches import Batches
from training.optim import OptimizerConfig, Stepper
from training.presets import PrivilegedConfig, preset
from training.world_model.config import VisionKind
from training.world_model.model import Replayed, WorldModel

THRESHOLD = 0.5
"""Predicted probability above which a pixel is taken as set."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """What is compared."""

    replay: Path
    """Folder of recorded experience, as a run of the privileged stage leaves it."""
    held_out: Path
    """Another one, for the measurement."""
    out: Path = Path("runs/fit.json")
    kinds: tuple[VisionKind, ...] = ("strided", "patch")
    updates: int = 500
    batch: int = 8
    steps: int = 16
    size_px: int = 64
    learning_rate: float = 5e-4
    held_out_batches: int = 16
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.updates, self.batch, self.held_out_batches, self.threads) < 1 or self.steps < 2 or not self.kinds:
            raise ValueError(
                "updates, batch, held_out_batches and threads must be at least 1, steps at least 2, kinds not empty"
            )


def run(config: FitConfig) -> dict[str, Any]:
    """Train all models in turn; gives the overlap per channel. Raises: ReplayError, ValueError."""
    torch.set_num_threads(config.threads)
    held_out = list(islice(_windows(config, config.held_out), config.held_out_batches))
    models = {kind: _fit(kind, config, held_out) for kind in config.kinds}
    return {
        "config": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()},
        "machine": machine(),
        "models": models,
    }


def table(result: dict[str, Any]) -> str:
    """Markdown table with a row per channel that occurs."""
    kinds = list(result["models"])
    lines = ["| channel | " + " | ".join(f"IoU {kind}" for kind in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name in result["models"][kinds[0]]["iou"]:
        values = [f"{result['models'][kind]['iou'][name]:.3f}" for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    means = [f"{result['models'][kind]['mean_iou']:.3f}" for kind in kinds]
    lines.append("| **mean** | " + " | ".join(means) + " |")
    spent = [f"{result['models'][kind]['cpu_s_per_update']:.2f}" for kind in kinds]
    lines.append("| CPU seconds per update | " + " | ".join(spent) + " |")
    return "\n".join(lines) + "\n"


def model_config(kind: VisionKind, config: FitConfig) -> PrivilegedConfig:
    """The `paper` recipe at the width of DreamerV3's XS, with binary masks."""
    base = preset("paper", "10m")
    world = base.world_model
    world = replace(
        world,
        vision=replace(world.vision, kind=kind, likelihood="bernoulli"),
        observation=replace(world.observation, size_px=config.size_px),
    )
    return replace(base, world_model=world, batch=config.batch, steps=config.steps)


def _windows(config: FitConfig, replay: Path) -> Iterator[Replayed]:
    shape = model_config("patch", config)
    with Batches(replay, shape, config.seed, ahead=0, threads=1) as batches:
        if not batches.refresh():
            raise ValueError(f"{replay}: holds no window of {config.steps} steps; collect some first")
        while True:
            yield batches.next().replayed


def _fit(kind: VisionKind, config: FitConfig, held_out: list[Replayed]) -> dict[str, Any]:
    """Train one model and measure it."""
    model = WorldModel(model_config(kind, config).world_model, torch.Generator().manual_seed(config.seed))
    stepper = Stepper(OptimizerConfig(learning_rate=config.learning_rate, clip_norm=1000.0), model.parameters())
    generator = torch.Generator().manual_seed(config.seed)
    started_s, spent_s = time.monotonic(), 0.0
    for update, batch in enumerate(islice(_windows(config, config.replay), config.updates), 1):
        begun_s = time.process_time()
        stepper.zero_grad()
        loss = model.loss(batch, generator=generator)
        loss.total.backward()
        stepper.step()
        spent_s += time.process_time() - begun_s
        if update % 50 == 0:
            left_s = (time.monotonic() - started_s) / update * (config.updates - update)
            masks = float(loss.terms["masks"])
            logger.info("%s: update %d, masks %.0f, about %.0f s left", kind, update, masks, left_s)
    overlap = _overlap(model, held_out)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_s_per_update": spent_s / config.updates,
        "iou": overlap,
        "mean_iou": float(np.mean(list(overlap.values()))),
    }


@torch.no_grad()
def _overlap(model: WorldModel, batches: list[Replayed]) -> dict[str, float]:
    """Intersection over union of every channel that occurs, over all frames, by name."""
    both, either, seen = np.zeros(bev.CHANNELS), np.zeros(bev.CHANNELS), np.zeros(bev.CHANNELS)
    for batch in batches:
        features = model.observe(batch, mode=True).state.features().flatten(0, 1)
        predicted = model.decoder.probabilities(features).numpy() > THRESHOLD
        words = batch.words.flatten(0, 1).numpy().view(np.uint64)
        real = bev.unpack(words, range(bev.CHANNELS)).swapaxes(0, 1) > 0
        both += (predicted & real).sum((0, 2, 3))
        either += (predicted | real).sum((0, 2, 3))
        seen += real.sum((0, 2, 3))
    return {name: both[k] / either[k] for k, name in enumerate(bev.CHANNEL_NAMES) if seen[k]}
