"""A trained raw stream as a folder that the agent drives with, and `eval run` evaluates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from agent import config as configs
from agent.checkpoint import check_state, load_checkpoint, read_manifest, save_checkpoint
from agent.config import ConfigError
from agent.model.mask_decoder import MaskDecoderConfig
from agent.model.raw_model import RawModel, RawModelConfig
from training.privileged.checkpoint import load_model
from training.raw.config import RawConfig
from training.raw.load import MODEL, TEACHER
from training.world_model.decoder import mask_decoder_config

CREATED_BY = "python -m training export-raw"
AGENT_PARTS = {"encoder": "model.encoder.", "neck": "model.neck.", "rssm": "model.rssm.", "actor": "policy.actor."}
AGENT_YAML = """\
# Configuration of the leaderboard agent; paths are relative to this file.
checkpoint: .
device: auto
action:
  choice: pedal_first
  patience:  # what the likeliest state says of a picture that does not change, it says for good
    after_s: 3.0
    full_s: 15.0
    least_share: 0.03
    last_s: 55.0  # a car that stands for 60 s has lost its route
    burst_s: 1.5
"""
DECODER_PREFIX = "decoder.masks."


def export(
    run_folder: Path,
    out: Path,
    card: str,
    *,
    decoder: bool = False,
    blended_with: Path | None = None,
    share: float = 0.5,
) -> Path:
    """Write a run's agent as float16, with its card; gives the folder.

    decoder: with the decoder of the masks, to show what the agent believes and imagines; it drives the same without.
    blended_with: the agent that the run began with; every weight becomes `share` of the run's and the rest of that
    one's. It keeps what little new data would make it forget. Source: Wortsman et al. 2022 (WiSE-FT, arXiv 2109.01903).
    Raises: CheckpointError, ConfigError.
    """
    source = run_folder / MODEL
    plain, tensors = load_checkpoint(source)
    config = configs.parse(RawConfig, plain, str(source))
    teacher = load_model(run_folder / TEACHER).world_model
    if config.rssm_start == "tied":
        tensors |= {f"model.rssm.{name}": value for name, value in teacher.rssm.state_dict().items()}
    state: dict[str, Tensor] = {}
    for part, prefix in AGENT_PARTS.items():
        state |= {f"{part}.{name[len(prefix) :]}": v for name, v in tensors.items() if name.startswith(prefix)}
    model = config.model
    if blended_with is not None:
        state = _blended(state, model, blended_with, share)
    if decoder:
        model = replace(model, decoder=_decoder_config(config, source))
        own = f"model.{DECODER_PREFIX}"
        found = {name[len(own) :]: value for name, value in tensors.items() if name.startswith(own)}
        masks = found or teacher.decoder.masks.state_dict()  # an arm may have none of its own
        state |= {f"decoder.{name}": value for name, value in masks.items()}
    check_state(RawModel(model).state_dict(), state, str(source))
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_checkpoint(
        out,
        {"raw_model": configs.to_plain(model)},
        half,
        step=int(read_manifest(source)["step"]),
        created_by=CREATED_BY,
        extra_files={"agent.yaml": AGENT_YAML, "model_card.md": card},
    )
    return out


def _blended(state: dict[str, Tensor], model: RawModelConfig, other: Path, share: float) -> dict[str, Tensor]:
    """Raises: CheckpointError, ConfigError for weights that are not of the same network."""
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"--share must lie in [0, 1], got {share}")
    plain, theirs = load_checkpoint(other)
    found = configs.parse(RawModelConfig, plain["raw_model"], f"{other}: raw_model") if "raw_model" in plain else None
    if found is None or replace(found, decoder=None) != model:
        raise ConfigError(f"{other}: holds another network than the run; blend it with the agent that it began with")
    return {
        name: value.float().lerp(theirs[name].float(), 1.0 - share) if value.is_floating_point() else value
        for name, value in state.items()
    }


def _decoder_config(config: RawConfig, source: Path) -> MaskDecoderConfig:
    """Raises: ConfigError for a decoder that an agent cannot take along."""
    kind = config.world_model.vision.kind
    if kind != "patch":
        raise ConfigError(
            f"{source}: an agent can take along a decoder of kind patch, this one is {kind}; export without --decoder"
        )
    return mask_decoder_config(config.world_model)
