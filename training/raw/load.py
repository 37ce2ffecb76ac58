"""A finished run of the raw stage read back, to be measured or drawn."""

from __future__ import annotations

from pathlib import Path

from agent import config as configs
from agent.checkpoint import load_checkpoint, read_manifest
from training.privileged.checkpoint import begin_with, load_model
from training.raw.config import RawConfig
from training.raw.learner import RawLearner

TEACHER = "teacher"
"""Folder of the privileged model in a run's folder."""
MODEL = "model"


def load_learner(run_folder: Path) -> RawLearner:
    """Raw model, policy and teacher of a run, without gradients. Raises: CheckpointError, ConfigError."""
    source = run_folder / MODEL
    plain, _ = load_checkpoint(source)
    config = configs.parse(RawConfig, plain, str(source))
    learner = RawLearner(config, load_model(run_folder / TEACHER))
    begin_with(learner, source)
    learner.updates = int(read_manifest(source)["step"])
    learner.model.requires_grad_(False).eval()
    learner.policy.requires_grad_(False).eval()
    return learner
