"""Behaviour cloning of the expert: encoder, world model and policy together, within a time budget.

Three teachers: BEV masks for the encoder, action labels for the policy, privileged distances for the embedding; the
world model is trained by its KL and by reconstructing coarse masks.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agent import config as configs
from agent import strict_json
from agent.actions import ACTIONS, BRAKE, STEER, THROTTLE
from agent.checkpoint import check_state, latest_valid, load_checkpoint, read_manifest, save_checkpoint
from agent.model.driving_model import (
    AUXILIARY,
    AUXILIARY_SCALE,
    MASKS,
    DrivingModel,
    DrivingModelConfig,
    ModelInput,
    ModelOutput,
    ModelState,
)
from agent.model.rssm import kl_loss
from training.dataset import (
    Batch,
    NoiseConfig,
    SamplingConfig,
    StateCache,
    WindowDataset,
    load_datasets,
    stream,
)

logger = logging.getLogger(__name__)

MASK_WEIGHTS = (1.0, 2.0, 1.0, 3.0, 4.0, 4.0, 4.0, 3.0, 3.0)
"""Weight of a set pixel of each mask: small things are rare."""
CREATED_BY = "python -m training clone"


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the loss terms."""

    action: float = 1.0
    masks: float = 2.0
    latent_masks: float = 0.5
    auxiliary: float = 1.0
    dynamics: float = 0.02
    """Times the KL that trains the prior; the reconstruction is a mean here, not a sum, so this is small."""
    representation: float = 0.004


@dataclass(frozen=True, kw_only=True, slots=True)
class CloneConfig:
    """A cloning run."""

    model: DrivingModelConfig = field(default_factory=DrivingModelConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    minutes: float = 45.0
    batch: int = 24
    """Windows per update."""
    steps: int = 2
    """Consecutive decisions in a window; its past comes from a cache, and few steps make diverse batches."""
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warmup_updates: int = 100
    weight_decay: float = 1e-3
    clip_norm: float = 5.0
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones saved for driving."""
    validation_share: float = 0.08
    validation_windows: int = 96
    validation_steps: int = 6
    """Length of the validation windows, which start without a past."""
    evaluate_minutes: float = 5.0
    checkpoint_minutes: float = 5.0
    bfloat16: bool = True
    """Autocast of the convolutions and matrix products; fast where the CPU has AMX or AVX512-BF16."""
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes <= 0.0 or self.batch < 1 or self.steps < 1:
            raise ValueError(
                f"minutes, batch and steps must be positive, got {self.minutes}, {self.batch}, {self.steps}"
            )


class NonFiniteLossError(RuntimeError):
    """The loss is not finite; no weight was changed by it."""


def losses(config: LossConfig, batch: Batch, output: ModelOutput, free_nats: float) -> dict[str, Tensor]:
    """All terms and their weighted sum `total`."""
    action = -(batch.label * output.logits.float().log_softmax(-1)).sum(-1).mean()
    masks = batch.masks.float()
    coarse = F.max_pool2d(masks.flatten(0, 1), 4).unflatten(0, masks.shape[:2])
    kl = kl_loss(output.belief, free_nats)
    terms = {
        "action": action,
        "masks": mask_loss(output.masks, masks),
        "latent_masks": mask_loss(output.latent_masks, coarse),
        "auxiliary": F.smooth_l1_loss(output.auxiliary.float(), batch.auxiliary, beta=0.5),
        "dynamics": kl.dynamics,
        "representation": kl.representation,
    }
    terms["total"] = torch.stack([getattr(config, name) * value for name, value in terms.items()]).sum()
    terms["kl"] = kl.kl
    return terms


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy per mask, set pixels weighted by MASK_WEIGHTS, mean over pixels, summed over masks."""
    weight = torch.tensor(MASK_WEIGHTS)[:, None, None]
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=weight, reduction="none")
    return loss.mean((0, 1, 3, 4)).sum()


@dataclass(slots=True)
class _Trainer:
    """Mutable state of a run."""

    config: CloneConfig
    model: DrivingModel
    average: DrivingModel
    optimizer: torch.optim.AdamW
    update: int = 0
    elapsed_s: float = 0.0

    @classmethod
    def fresh(cls, config: CloneConfig) -> _Trainer:
        torch.manual_seed(config.seed)
        model = DrivingModel.build(config.model)
        optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.learning_rate, eps=1e-6)
        return cls(config, model, copy.deepcopy(model).requires_grad_(False), optimizer)

    @property
    def progress(self) -> float:
        """Share of the time budget used."""
        return min(self.elapsed_s / (60.0 * self.config.minutes), 1.0)

    def step(self, batch: Batch, cache: StateCache) -> dict[str, float]:
        """One update. Raises: NonFiniteLossError before any weight changes."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.update, self.progress)
        inputs, state = with_past(batch, cache)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            output = self.model(inputs, state)
        terms = losses(self.config.loss, batch, output, self.config.model.rssm.free_nats)
        if not bool(torch.isfinite(terms["total"])):
            raise NonFiniteLossError(f"update {self.update}: loss is {terms['total'].item()}")
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise NonFiniteLossError(f"update {self.update}: the gradient's norm is {norm.item()}")
        self.optimizer.step()
        cache.store(batch.windows, output.belief.state, output.bev)
        self.update += 1
        self._average()
        return {name: value.item() for name, value in terms.items()} | {"grad_norm": norm.item()}

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights are poor: the average starts with a short memory.
        decay = min(self.config.ema, (1.0 + self.update) / (10.0 + self.update))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)
        for mean, value in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(value)


def with_past(batch: Batch, cache: StateCache) -> tuple[ModelInput, ModelState]:
    """The batch's inputs and the cached states before them; windows without one start afresh."""
    state = cache.before(batch.windows)
    first = batch.inputs.first.clone()
    first[:, 0] = ~state.has_memory
    return replace(batch.inputs, first=first), state


def _groups(model: DrivingModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def learning_rate(config: CloneConfig, update: int, progress: float) -> float:
    """Linear warm-up over updates, cosine decay over the time budget."""
    warm = min((update + 1) / max(config.warmup_updates, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)


@torch.no_grad()
def evaluate(model: DrivingModel, dataset: WindowDataset, config: CloneConfig) -> dict[str, float]:
    """Metrics on windows spread over the validation episodes, inputs undisturbed, last step of each window."""
    model.eval()
    windows = dataset.spread(config.validation_windows)
    generator = np.random.default_rng(0)
    sums: dict[str, float] = {}
    intersection, union = np.zeros(len(MASKS)), np.zeros(len(MASKS))
    with ThreadPoolExecutor(2) as pool:
        size = max(config.batch * config.steps // dataset.length, 1)
        for start in range(0, len(windows), size):
            batch = dataset.batch(windows[start : start + size], None, generator, pool)
            count = len(batch.label)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                output = model(batch.inputs, model.initial(count))
            for name, value in _step_metrics(batch, output).items():
                sums[name] = sums.get(name, 0.0) + value * count
            predicted = output.masks[:, -1] > 0.0
            target = batch.masks[:, -1] > 0
            intersection += (predicted & target).sum((0, 2, 3)).numpy()
            union += (predicted | target).sum((0, 2, 3)).numpy()
    metrics = {name: value / len(windows) for name, value in sums.items()}
    return metrics | {
        f"iou_{name}": float(i / u) if u else math.nan for name, i, u in zip(MASKS, intersection, union, strict=True)
    }


def _step_metrics(batch: Batch, output: ModelOutput) -> dict[str, float]:
    logits, label = output.logits[:, -1].float(), batch.label[:, -1]
    actions = torch.from_numpy(ACTIONS.copy())
    chosen, wanted = logits.argmax(-1), label.argmax(-1)
    kind = lambda index: (actions[index, BRAKE] > 0) * 2 + (actions[index, THROTTLE] > 0.5)  # noqa: E731
    steer = (logits.softmax(-1) @ actions[:, STEER] - label @ actions[:, STEER]).abs()
    scale = torch.tensor(AUXILIARY_SCALE)
    error = ((output.auxiliary[:, -1].float() - batch.auxiliary[:, -1]) * scale).abs().mean(0)
    named = {f"error_{name}": error[AUXILIARY.index(name)].item() for name in AUXILIARY[:6]}
    return {
        "accuracy": (chosen == wanted).float().mean().item(),
        "acceptable": (label.gather(-1, chosen[:, None]) > 0.2).float().mean().item(),
        "pedal_accuracy": (kind(chosen) == kind(wanted)).float().mean().item(),
        "steer_error": steer.mean().item(),
        "cross_entropy": -(label * logits.log_softmax(-1)).sum(-1).mean().item(),
        **named,
        "error_path_y_12_m": error[AUXILIARY.index("path_y_12_m")].item(),
    }


# ----------------------------------------------------------------------------- runs on disk


class EventLog:
    """JSON lines of a run, flushed at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Append one event."""
        self._file.write(strict_json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _save(trainer: _Trainer, folder: Path) -> None:
    """A checkpoint of everything needed to go on; older ones are removed once it is complete."""
    target = folder / "checkpoints" / f"{trainer.update:07d}"
    config = configs.to_plain(trainer.config)
    progress = strict_json.dumps({"update": trainer.update, "elapsed_s": trainer.elapsed_s})
    save_checkpoint(
        target,
        config,
        {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
        | {f"average.{name}": value for name, value in trainer.average.state_dict().items()}
        | _optimizer_tensors(trainer.optimizer),
        step=trainer.update,
        created_by=CREATED_BY,
        extra_files={"progress.json": progress},
    )
    for old in target.parent.iterdir():
        if old != target and old.is_dir():
            shutil.rmtree(old)


def _optimizer_tensors(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    tensors = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return tensors


def _restore(trainer: _Trainer, folder: Path) -> bool:
    """Continue from the run's newest sound checkpoint; False if there is none."""
    latest = latest_valid(folder / "checkpoints")
    if latest is None:
        return False
    _, tensors = load_checkpoint(latest)
    part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
    for module, prefix in ((trainer.model, "model."), (trainer.average, "average.")):
        check_state(module.state_dict(), part(prefix), str(latest))
        module.load_state_dict(part(prefix))
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": states, "param_groups": groups})
    progress = json.loads((latest / "progress.json").read_text(encoding="utf-8"))
    trainer.update, trainer.elapsed_s = int(progress["update"]), float(progress["elapsed_s"])
    return True


def _initialise(trainer: _Trainer, weights: Path) -> None:
    """Start from trained weights (of an exported model or of a run's checkpoint)."""
    _, tensors = load_checkpoint(weights)
    averaged = {name[len("average.") :]: value for name, value in tensors.items() if name.startswith("average.")}
    state = averaged or tensors
    for module in (trainer.model, trainer.average):
        check_state(module.state_dict(), state, str(weights))
        module.load_state_dict(state)


def run(config: CloneConfig, data: tuple[Path, ...], out: Path, init: Path | None = None) -> dict[str, float]:
    """Train for the time budget (a resumed run goes on where it was); gives the last validation metrics."""
    torch.set_num_threads(config.threads)
    trainer = _Trainer.fresh(config)
    resumed = _restore(trainer, out)
    if not resumed and init is not None:
        _initialise(trainer, init)
    lengths = (config.steps, config.validation_steps)
    train, validation = load_datasets(data, config.model.encoder, config.sampling, lengths, config.validation_share)
    out.mkdir(parents=True, exist_ok=True)
    log = EventLog(out / "events.jsonl")
    log.write("start", {"resumed": resumed, "frames": train.frames, "validation_frames": validation.frames})
    logger.info("%d training frames, %d validation frames, update %d", train.frames, validation.frames, trainer.update)
    generator = np.random.default_rng([config.seed, trainer.update])
    try:
        metrics = _loop(trainer, train, validation, generator, out, log)
    finally:
        log.close()
    return metrics


def _loop(
    trainer: _Trainer,
    train: WindowDataset,
    validation: WindowDataset,
    generator: np.random.Generator,
    out: Path,
    log: EventLog,
) -> dict[str, float]:
    config, metrics = trainer.config, {}
    evaluated_s = saved_s = trainer.elapsed_s
    last_s = time.monotonic()
    batches = stream(train, config.batch, config.noise, generator)
    cache = StateCache(train, config.model.rssm, config.model.encoder)
    try:
        while trainer.progress < 1.0:
            report = trainer.step(next(batches), cache)
            now_s = time.monotonic()
            trainer.elapsed_s += now_s - last_s
            report["seconds"] = now_s - last_s
            last_s = now_s
            if trainer.update % 20 == 0:
                log.write("update", {"update": trainer.update, "elapsed_s": trainer.elapsed_s, **report})
                _show(trainer, report)
            if trainer.elapsed_s - evaluated_s > 60.0 * config.evaluate_minutes:
                metrics = _evaluate(trainer, validation, log)
                evaluated_s = trainer.elapsed_s
                last_s = time.monotonic()  # validation does not use up the training time
            if trainer.elapsed_s - saved_s > 60.0 * config.checkpoint_minutes:
                _save(trainer, out)
                saved_s = trainer.elapsed_s
    except KeyboardInterrupt:
        logger.warning("interrupted at update %d; the run can be resumed", trainer.update)
    finally:
        batches.close()
    metrics = _evaluate(trainer, validation, log)
    _save(trainer, out)
    return metrics


def _evaluate(trainer: _Trainer, validation: WindowDataset, log: EventLog) -> dict[str, float]:
    metrics = evaluate(trainer.average, validation, trainer.config)
    log.write("validation", {"update": trainer.update, "elapsed_s": trainer.elapsed_s, **metrics})
    logger.info("validation: %s", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return metrics


def _show(trainer: _Trainer, report: dict[str, float]) -> None:
    config = trainer.config
    frames_per_s = config.batch * config.steps / max(report["seconds"], 1e-9)
    left_min = config.minutes * (1.0 - trainer.progress)
    logger.info(
        "update %d: total %.3f action %.3f masks %.3f auxiliary %.3f kl %.2f, %.0f frames/s, %.1f min left",
        trainer.update,
        report["total"],
        report["action"],
        report["masks"],
        report["auxiliary"],
        report["kl"],
        frames_per_s,
        left_min,
    )


AGENT_YAML = """\
# Configuration of the leaderboard agent; paths are relative to this file.
checkpoint: .
device: auto
action:
  choice: pedal_first
  patience:
    after_s: 12.0
    full_s: 35.0
    least_share: 0.02
    burst_s: 1.5
"""


def export(run_folder: Path, target: Path, *, half: bool, card: str) -> Path:
    """Write the averaged weights of a run as a folder the agent can drive with (float16 if half).

    Raises: FileNotFoundError if the run has no sound checkpoint.
    """
    latest = latest_valid(run_folder / "checkpoints")
    if latest is None:
        raise FileNotFoundError(f"{run_folder}: no sound checkpoint; train first with `{CREATED_BY}`")
    config, tensors = load_checkpoint(latest)
    state = {name[len("average.") :]: value for name, value in tensors.items() if name.startswith("average.")}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_checkpoint(
        target,
        config,
        state,
        step=int(read_manifest(latest)["step"]),
        created_by=CREATED_BY,
        extra_files={"agent.yaml": AGENT_YAML, "model_card.md": card},
    )
    return target


MODEL_CARD = """\
# raw_clone

A small driving model (BEVFormer encoder, RSSM, policy over 39 actions) cloned from a rule-based privileged driver on
the embedded simulator's own towns. Inputs: six 224x128 cameras, IMU, GNSS, speedometer, the sparse route.
"""
