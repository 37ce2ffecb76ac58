"""Training of the arms of the impartial world model: the same states, updates and cost, other futures.

A run's folder has one folder per arm and seed; what is trained there already is kept.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.checkpoint import check_state, load_checkpoint, save_checkpoint
from agent.config import ConfigError, parse, to_plain
from training.privileged.guard import RunStoppedError
from training.risk.data import Arm, FutureSet, Sampler
from training.risk.loss import losses
from training.risk.model import RiskConfig, RiskModel

CREATED_BY = "python -m training risk"
MODEL = "model"
METRICS = "metrics.jsonl"
REPORT_UPDATES = 25
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskTrainConfig:
    """What is trained."""

    arms: tuple[Arm, ...] = tuple(Arm)
    seeds: tuple[int, ...] = (0,)
    updates: int = 2000
    states: int = 16
    """Base states in a batch, each with four futures."""
    seen: int = 2
    """Of these the occupancy of so many is learnt."""
    learning_rate: float = 1e-3
    warmup_updates: int = 50
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    device: str = "cpu"
    bfloat16: bool = False
    """Convolutions and products in bfloat16: half the time on processors that can (avx512_bf16, amx)."""
    model: RiskConfig = field(default_factory=RiskConfig)

    def __post_init__(self) -> None:
        if min(self.updates, self.states, self.warmup_updates) < 1 or not 1 <= self.seen <= 4:
            raise ValueError(f"updates, states and warmup-updates must be at least 1 and seen 1 to 4, got {self}")
        if not self.arms or not self.seeds or self.learning_rate <= 0.0:
            raise ValueError("give at least one arm and one seed, and a positive learning rate")

    def rate(self, update: int) -> float:
        """Learning rate: a warm-up, then half a cosine."""
        warm = min((update + 1) / self.warmup_updates, 1.0)
        return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * update / self.updates))


def train(config: RiskTrainConfig, data: FutureSet, out: Path) -> list[Path]:
    """Train what is not trained yet; gives the folders of all models.

    Raises: RunStoppedError, OSError; ValueError for states of nobody knows whom; CheckpointError, ConfigError for a
    model there that was trained otherwise.
    """
    if config.model.source == "latent":
        if not data.states_of:
            raise ValueError(
                "the futures do not say whose states they begin with, or have states of several agents; record their "
                "logs with log-episodes --config.raw FOLDER_OF_AGENT and make them again"
            )
        config = replace(config, model=replace(config.model, latent=data.latent.shape[1]))
    found = []
    for seed in config.seeds:
        for arm in config.arms:
            folder = out / f"{arm.value}-{seed}"
            if (folder / MODEL).is_dir():
                _check_same(config, data, folder / MODEL)
            else:
                _train_one(config, data, arm, seed, folder)
            found.append(folder / MODEL)
    return found


def _cost(config: RiskTrainConfig, data: FutureSet) -> dict[str, Any]:
    """What has to be the same for models that are compared."""
    cost = {"updates": config.updates, "states": config.states, "futures": len(data.kind), "towns": data.towns}
    return cost | ({"states_of": data.states_of} if config.model.source == "latent" else {})


def _check_same(config: RiskTrainConfig, data: FutureSet, folder: Path) -> None:
    """Raises: CheckpointError; ConfigError when a finished model is not what would be trained now."""
    model, about = load_risk_model(folder)
    wanted = _cost(config, data) | {"model": to_plain(config.model)}
    found = about | {"model": to_plain(model.config)}
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    if changed:
        raise ConfigError(
            f"{folder}: was trained with another {', '.join(changed)}; give that of before, or another --out"
        )


def _train_one(config: RiskTrainConfig, data: FutureSet, arm: Arm, seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)  # the same initial weights for every arm
    model = RiskModel(config.model).to(config.device)
    sampler = Sampler(data, arm, np.random.default_rng(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    begun_s, sums = time.monotonic(), dict[str, float]()
    with (folder / METRICS).open("w", encoding="utf-8") as metrics:
        for update in range(config.updates):
            for group in optimizer.param_groups:
                group["lr"] = config.rate(update)
            inputs, targets = (_on(batch, config.device) for batch in sampler.draw(config.states))
            with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bfloat16):
                terms = losses(model, inputs, targets, config.seen)
            if not torch.isfinite(terms["total"]):
                raise RunStoppedError(
                    f"{arm.value}, seed {seed}: the loss of update {update} is no number; take a smaller learning rate"
                )
            optimizer.zero_grad(set_to_none=True)
            terms["total"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() / REPORT_UPDATES
            if (update + 1) % REPORT_UPDATES == 0:
                _tell(metrics, arm, seed, update + 1, config.updates, time.monotonic() - begun_s, sums)
                sums = {}
    about = {"arm": arm.value, "seed": seed, "seconds": round(time.monotonic() - begun_s, 1), **_cost(config, data)}
    plain = {"model": to_plain(config.model), "training": about}
    save_checkpoint(folder / MODEL, plain, model.state_dict(), step=config.updates, created_by=CREATED_BY)


def _tell(
    metrics: Any, arm: Arm, seed: int, update: int, updates: int, passed_s: float, means: Mapping[str, float]
) -> None:
    row = {"update": update, "seconds": round(passed_s, 1), **{name: round(value, 5) for name, value in means.items()}}
    metrics.write(json.dumps(row) + "\n")
    metrics.flush()
    left_min = passed_s / update * (updates - update) / 60.0
    logger.info("%s-%d: update %d, loss %.3f, %.1f min left", arm.value, seed, update, means["total"], left_min)


def _on(batch: Any, device: str) -> Any:
    """Inputs or targets on a device."""
    tensors = {name: getattr(batch, name).to(device) for name in batch.__slots__}
    assert all(isinstance(value, Tensor) for value in tensors.values())
    return type(batch)(**tensors)


def load_risk_model(folder: Path) -> tuple[RiskModel, dict[str, Any]]:
    """A trained model in evaluation mode, and how it was trained. Raises: CheckpointError, ConfigError."""
    plain, state = load_checkpoint(folder)
    config = parse(RiskConfig, plain.get("model", {}), f"{folder / 'config.yaml'}: model")
    model = RiskModel(config)
    check_state(model.state_dict(), state, str(folder))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False), plain.get("training", {})
