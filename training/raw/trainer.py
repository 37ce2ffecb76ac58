"""The training loop of the raw stage: that of the privileged one with cameras, a frozen teacher and a raw learner.

A run's folder holds what a privileged one does, and `teacher`, a copy of the privileged model it is guided by.
"""

from __future__ import annotations

import contextlib
import filecmp
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agent import config as configs
from agent.checkpoint import CheckpointError, check_state, latest_valid, load_checkpoint
from agent.config import ConfigError
from agent.model.driving_model import ENCODERS
from agent.model.front_view import FrontViewConfig
from agent.model.image_encoder import ImageEncoder
from agent.model.raw_model import RawModelConfig, RawNeck
from training.distributed import joined
from training.experience.batches import Batches
from training.experience.features import FeatureStore
from training.learner import BaseLearner
from training.memory import keep_freed_memory
from training.optim import OptimizerConfig
from training.privileged.checkpoint import load_model
from training.privileged.collector import CollectorJob
from training.privileged.driver import write_weights
from training.privileged.resume import locked
from training.privileged.trainer import Trainer, stopping_on_signals
from training.raw.backbone import feature_source
from training.raw.collector import RawCollectorJob
from training.raw.config import FINER_STRIDE, RawConfig, RawRunConfig, raw_config
from training.raw.driver import agent_tensors
from training.raw.finer import weights_with_finer_map, with_finer_map
from training.raw.learner import RawLearner
from training.raw.load import TEACHER

TOLD, REGRESSED = "masks.", ("last.", "last_act.")
"""Beginnings of the names of weights by which a neck makes its map: from masks that it tells, or at once."""
WAY, SEEN_LAYER = ("way.", "gaps."), ("seen.2.weight", "seen.2.bias")
"""What tells the gaps along the way, and the layer that else tells them behind the other seen numbers."""
DECODER_PART = "decoder."
FEATURES = "features"
"""Folder beside a replay for what frozen backbones have computed."""


def configured(run: RawRunConfig, teacher: Path) -> RawConfig:
    """The raw stage under a privileged model with the run's own choices. Raises: CheckpointError, ConfigError."""
    encoder = ENCODERS[run.encoder_size]()
    config = raw_config(
        load_model(teacher).config,
        encoder=with_finer_map(encoder) if run.image_stride == FINER_STRIDE else encoder,
        front=FrontViewConfig() if run.front_view else None,
        told=run.told_masks,
        guidance=run.guidance,
        heads=run.heads,
        distillation=run.distillation,
        rssm_start=run.rssm_start,
        decoder_start=run.decoder_start,
        policy_start=run.policy_start,
        fine_tuned=run.fine_tuned,
        image_gradients=run.image_gradients,
        backbone=run.backbone,
        bfloat16=run.bfloat16,
        recompute=run.recompute,
        carry_over=run.carry_over,
    )
    replay = config.replay
    if run.segment_steps is not None:
        replay = replace(replay, segment_steps=run.segment_steps)
    return replace(
        config,
        replay=replay,
        model_optimizer=_with_rate(config.model_optimizer, run.model_rate),
        policy_optimizer=_with_rate(config.policy_optimizer, run.policy_rate),
        batch=run.batch or config.batch,
        steps=run.steps or config.steps,
    )


def _with_rate(config: OptimizerConfig, rate: float | None) -> OptimizerConfig:
    if rate is None:
        return config
    return replace(config, learning_rate=rate, final_learning_rate=None, decay_updates=0)


def train(
    run: RawRunConfig,
    folder: Path,
    minutes: float,
    allowed: Collection[str] = (),
    ray: str | None = None,
    make: Callable[..., RawTrainer] | None = None,
) -> int:
    """Train until `minutes` in all are used up, or SIGTERM or SIGINT comes; gives the number of updates.

    A run that exists is gone on with. make: a trainer that does more.
    Raises: as `training.privileged.trainer.train`.
    """
    if minutes <= 0.0:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    torch.set_num_threads(run.threads)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    with joined() as ranks, locked(folder) if ranks.leads else contextlib.nullcontext():
        if ranks.leads:
            take_teacher(run.teacher, folder)
        ranks.agree()  # the others wait for the copy
        trainer = (make or RawTrainer)(
            configured(run, folder / TEACHER), run, folder, minutes, allowed=allowed, ray=ray, ranks=ranks
        )
        with stopping_on_signals(trainer.stop):
            trainer.train()
    return trainer.learner.updates


def take_teacher(source: Path, folder: Path) -> Path:
    """A copy of the privileged model in the run's folder, made when the run begins.

    Raises: CheckpointError where there is none, or where a run without a checkpoint began with another one.
    """
    target = folder / TEACHER
    if target.exists():
        if latest_valid(folder / "checkpoints") is None and not _same_files(source, target):
            raise CheckpointError(f"{target}: copy of another model than {source}; give that one, or another --out")
    else:
        load_model(source)
        partial = folder / f".{TEACHER}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(target)
    return target


def _same_files(source: Path, target: Path) -> bool:
    names = [path.name for path in target.iterdir()]
    return not any(filecmp.cmpfiles(source, target, names, shallow=False)[1:])


class RawTrainer(Trainer):
    """State and loop of a run of the raw stage."""

    created_by = "python -m training raw"
    run: RawRunConfig
    config: RawConfig

    def make_learner(self) -> BaseLearner:
        """A learner at its beginning: weights of the teacher, image encoder of an agent."""
        learner = RawLearner(
            self.config, load_model(self.folder / TEACHER), seed=self.run.seed, device=self.device, ranks=self.ranks
        )
        if self.run.encoder is not None:
            take_encoder(learner, self.run.encoder)
        if self.run.neck is not None:
            take_neck(learner, self.run.neck)
        return learner

    def begin(self, folder: Path) -> None:
        """Begin with an exported agent. Raises: CheckpointError, ConfigError."""
        assert isinstance(self.learner, RawLearner)
        take_agent(self.learner, folder)

    def make_batches(self, seed: int, state: dict[str, Any] | None = None) -> Batches:
        """Windows with camera images, or with what a frozen backbone made of them. state: of a checkpoint."""
        encoder = self.config.model.encoder
        images = (encoder.image_height, encoder.image_width)
        if self.config.backbone == "frozen":
            assert isinstance(self.learner, RawLearner)
            folder = self.run.features or self.replay.parent / FEATURES
            front = self.config.model.neck.front is not None
            source = feature_source(self.learner.model.encoder)
            images = FeatureStore(folder, source, self.run.features_gib, front=front)
        return Batches(self.replay, self.config, seed, latents=self.folder, state=state, images=images)

    def publish(self, folder: Path) -> Path:
        """Write the weights that drive."""
        assert isinstance(self.learner, RawLearner)
        return write_weights(folder, agent_tensors(self.learner), self.learner.updates)

    def job(self, job: CollectorJob) -> CollectorJob:
        """A collector's job with cameras and the teacher."""
        return job_of(job, self.folder / TEACHER, self.run)


def job_of(job: CollectorJob, teacher: Path, run: RawRunConfig) -> RawCollectorJob:
    """A collector's job with cameras and the teacher, from what every collector does."""
    base = {item.name: getattr(job, item.name) for item in fields(CollectorJob)}
    return RawCollectorJob(**base, teacher=teacher, settings=run)


def take_encoder(learner: RawLearner, folder: Path) -> None:
    """Begin with the image encoder of an agent's folder. Raises: CheckpointError, ConfigError if it does not fit."""
    _, tensors = load_checkpoint(folder)
    _load_part(learner.model.encoder, tensors, "encoder", f"config.encoder: {folder}")


def take_neck(learner: RawLearner, folder: Path) -> None:
    """Begin with the neck of an exported agent. Raises: CheckpointError, ConfigError if it is none, or does not fit."""
    _, tensors = raw_agent(folder, "config.neck")
    _load_part(learner.model.neck, tensors, "neck", f"config.neck: {folder}")


def take_agent(learner: RawLearner, folder: Path) -> None:
    """Begin with an exported agent; critic and decoder are the teacher's still.

    Raises: CheckpointError, ConfigError if it is none, or of another shape.
    """
    _, tensors = raw_agent(folder, "config.init")
    parts = {"encoder": learner.model.encoder, "neck": learner.model.neck, "actor": learner.policy.actor}
    if learner.model.rssm is not None:
        parts["rssm"] = learner.model.rssm
    for name, module in parts.items():
        _load_part(module, tensors, name, f"config.init: {folder}")


def raw_agent(folder: Path, option: str) -> tuple[RawModelConfig, dict[str, Tensor]]:
    """Shape and float32 weights of an exported agent, without what only shows its masks.

    option: what names the folder, for messages. Raises: CheckpointError, ConfigError if it is none.
    """
    plain, tensors = load_checkpoint(folder)
    if "raw_model" not in plain:
        raise ConfigError(f"{option}: {folder} holds no raw agent; give a folder made by export-raw")
    model = configs.parse(RawModelConfig, plain["raw_model"], f"{option}: {folder}")
    return model, {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if not name.startswith(DECODER_PART)
    }


def _load_part(module: nn.Module, tensors: Mapping[str, Tensor], name: str, where: str) -> None:
    prefix = f"{name}."
    part = {
        key.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    if isinstance(module, ImageEncoder):
        part = weights_with_finer_map(module, part)
    if isinstance(module, RawNeck):
        part = _neck_with_masks(module, part)
    try:
        check_state(module.state_dict(), part, where)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    module.load_state_dict(part)


def _neck_with_masks(neck: RawNeck, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A neck's weights for one that tells masks, or tells the gaps along the way, which that one may not do."""
    part, fresh = dict(part), neck.state_dict()
    if neck.masks is not None and not any(name.startswith(TOLD) for name in part):
        part = {name: value for name, value in part.items() if not name.startswith(REGRESSED)}
        part |= {name: value for name, value in fresh.items() if name.startswith(TOLD)}
    if neck.way is not None and not any(name.startswith(WAY) for name in part):
        part |= {name: value for name, value in fresh.items() if name.startswith(WAY)}
        part |= {name: part[name][: len(fresh[name])] for name in SEEN_LAYER if name in part}
    return part
