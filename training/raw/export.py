"""A trained raw stream as a folder that the agent drives with, and `eval run` evaluates."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from agent import config as configs
from agent.checkpoint import check_state, load_checkpoint, read_manifest, save_checkpoint
from agent.model.raw_model import RawModel
from training.privileged.checkpoint import load_model
from training.raw.config import RawConfig
from training.raw.load import MODEL, TEACHER

CREATED_BY = "python -m training export-raw"
AGENT_PARTS = {"encoder": "model.encoder.", "neck": "model.neck.", "rssm": "model.rssm.", "actor": "policy.actor."}
AGENT_YAML = """\
# Configuration of the leaderboard agent; paths are relative to this file.
checkpoint: .
device: auto
action:
  choice: pedal_first
"""


def export(run_folder: Path, out: Path, card: str) -> Path:
    """Write a run's agent as float16, with its card; gives the folder. Raises: CheckpointError, ConfigError."""
    source = run_folder / MODEL
    plain, tensors = load_checkpoint(source)
    config = configs.parse(RawConfig, plain, str(source))
    if config.rssm_start == "tied":
        rssm = load_model(run_folder / TEACHER).world_model.rssm.state_dict()
        tensors |= {f"model.rssm.{name}": value for name, value in rssm.items()}
    state: dict[str, Tensor] = {}
    for part, prefix in AGENT_PARTS.items():
        state |= {f"{part}.{name[len(prefix) :]}": v for name, v in tensors.items() if name.startswith(prefix)}
    check_state(RawModel(config.model).state_dict(), state, str(source))
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_checkpoint(
        out,
        {"raw_model": configs.to_plain(config.model)},
        half,
        step=int(read_manifest(source)["step"]),
        created_by=CREATED_BY,
        extra_files={"agent.yaml": AGENT_YAML, "model_card.md": card},
    )
    return out
