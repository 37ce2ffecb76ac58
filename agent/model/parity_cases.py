"""Reference files of official models: tensors in safetensors, their cases in JSON. Reading and checking them."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agent.model.backbone import STYLES, ResNetConfig
from agent.model.bev_grid import BevGrid
from agent.model.bevformer import BEVFormerConfig

STATE_PREFIX = "pts_bbox_head."
MAX_SIZE = 10_000
"""Largest believable size in a case; anything over it is a damaged file."""
MAX_COUNT = 100
"""Likewise for the number of layers, points, heads and cameras."""


class ReferenceFileError(ValueError):
    """A reference file is unusable; the message is one line naming the file, the entry and the remedy."""


@dataclass(frozen=True)
class EncoderCase:
    """One sequence through the official BEV encoder, see `/in`, `/state` and `/out` of its tensors."""

    name: str
    config: BEVFormerConfig
    image_hw: tuple[int, int]
    levels_hw: tuple[tuple[int, int], ...]
    batch: int
    frames: int
    state_from: str
    features_from: str


@dataclass(frozen=True)
class BackboneCase:
    """One image batch through the official backbone and pyramid, with weights made from their names."""

    name: str
    config: ResNetConfig
    levels: int


@dataclass(frozen=True)
class ReferenceFile:
    path: Path
    tensors: Mapping[str, Tensor]
    cases: tuple[EncoderCase | BackboneCase, ...]

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """The named tensor. Raises: ReferenceFileError if it is missing, not finite or of another shape."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ReferenceFileError(f"{self.path}: tensor {name!r} is missing; use the file that belongs to its JSON")
        if shape is not None and tuple(tensor.shape) != shape:
            raise ReferenceFileError(
                f"{self.path}: tensor {name!r} has shape {tuple(tensor.shape)}, its case says {shape}; "
                "use the file that belongs to its JSON"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ReferenceFileError(f"{self.path}: tensor {name!r} holds values that are not finite; make it again")
        return tensor

    def load_state(self, module: nn.Module, prefix: str) -> None:
        """Fill a module with the tensors under a prefix, strictly."""
        ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        theirs = {name[len(prefix) :] for name in self.tensors if name.startswith(prefix)}
        for surplus in sorted(theirs - set(ours)):
            raise ReferenceFileError(
                f"{self.path}: tensor {prefix + surplus!r} is not part of the model its case describes"
            )
        state = {name: self.tensor(prefix + name, shape) for name, shape in ours.items()}
        module.load_state_dict(state, strict=True, assign=True)


class _Fields:
    """Typed access to the fields of one JSON case."""

    def __init__(self, path: Path, case: str, values: Any) -> None:
        self.path, self.case = path, case
        if not isinstance(values, dict):
            raise ReferenceFileError(f"{path}: case {case!r} must be an object, got {type(values).__name__}")
        self.values = values

    def fail(self, name: str, expected: str) -> ReferenceFileError:
        found = repr(self.values[name]) if name in self.values else "nothing"
        return ReferenceFileError(f"{self.path}: case {self.case!r} field {name!r} must be {expected}, got {found:.80}")

    def size(self, name: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        value = self.values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.fail(name, f"a whole number from 1 to {most}")
        return value

    def height_width(self, name: str) -> tuple[int, int]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != 2:
            raise self.fail(name, "a pair (height, width)")
        height, width = (_Fields(self.path, self.case, {name: item}).size(name) for item in value)
        return height, width

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != length or not all(_is_number(item) for item in value):
            raise self.fail(name, f"{length} numbers")
        return tuple(float(item) for item in value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise self.fail(name, "a text")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def load_reference(tensors_path: Path, cases_path: Path) -> ReferenceFile:
    """Read and check a pair of reference files.

    Raises: ReferenceFileError naming the file, the entry and the remedy.
    """
    cases = _read_cases(cases_path)
    try:
        tensors = load_file(tensors_path)
    except OSError as error:
        raise ReferenceFileError(
            f"{tensors_path}: cannot be read ({error.strerror or error}); check the path"
        ) from error
    except SafetensorError as error:
        raise ReferenceFileError(f"{tensors_path}: not a whole safetensors file ({error}); fetch it again") from error
    return ReferenceFile(tensors_path, tensors, cases)


def _read_cases(path: Path) -> tuple[EncoderCase | BackboneCase, ...]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReferenceFileError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ReferenceFileError(f"{path}: not JSON ({error}); fetch it again") from error
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, dict) or not cases:
        raise ReferenceFileError(f"{path}: needs an object 'cases' with at least one case")
    return tuple(_parse_case(_Fields(path, name, values)) for name, values in cases.items())


def _parse_case(fields: _Fields) -> EncoderCase | BackboneCase:
    try:
        return _backbone_case(fields) if "style" in fields.values else _encoder_case(fields)
    except ReferenceFileError:
        raise
    except ValueError as error:
        raise ReferenceFileError(f"{fields.path}: case {fields.case!r}: {error}") from error


def _encoder_case(fields: _Fields) -> EncoderCase:
    levels = fields.values.get("levels_hw")
    if not isinstance(levels, list) or not levels:
        raise fields.fail("levels_hw", "a list of (height, width)")
    levels_hw = tuple(_Fields(fields.path, fields.case, {"levels_hw": hw}).height_width("levels_hw") for hw in levels)
    x_min, y_min, z_min, x_max, y_max, z_max = fields.numbers("pc_range", 6)
    centre_x, centre_y = fields.numbers("rotate_center", 2)
    grid = BevGrid(
        fields.size("bev_h"),
        fields.size("bev_w"),
        (x_min, y_min, z_min, x_max, y_max, z_max),
        fields.size("pillar_points", most=MAX_COUNT),
    )
    config = BEVFormerConfig(
        grid=grid,
        embed_dims=fields.size("embed_dims"),
        heads=fields.size("num_heads", most=MAX_COUNT),
        layers=fields.size("num_layers", most=MAX_COUNT),
        levels=len(levels_hw),
        level_embeds=max(4, len(levels_hw)),
        cameras=fields.size("num_cams", most=MAX_COUNT),
        temporal_points=fields.size("tsa_points", most=MAX_COUNT),
        spatial_points=fields.size("sca_points", most=MAX_COUNT),
        ffn_dims=fields.size("ffn_dims"),
        camera_embeds=fields.flag("use_cams_embeds", True),
        can_bus_norm=fields.flag("can_bus_norm", True),
        rotate_centre_px=(centre_x, centre_y),
        alias_shift=fields.flag("alias_bug", False),
    )
    return EncoderCase(
        name=fields.case,
        config=config,
        image_hw=fields.height_width("img_hw"),
        levels_hw=levels_hw,
        batch=fields.size("bs"),
        frames=fields.size("frames"),
        state_from=fields.text("state_from", fields.case),
        features_from=fields.text("feats_from", fields.case),
    )


def _backbone_case(fields: _Fields) -> BackboneCase:
    if fields.values["style"] not in STYLES:
        raise fields.fail("style", f"one of {STYLES}")
    stages = fields.values.get("out_indices")
    if not isinstance(stages, list) or not all(stage in (0, 1, 2, 3) for stage in stages):
        raise fields.fail("out_indices", "a list of stages from 0 to 3")
    config = ResNetConfig(
        depth=fields.size("depth", 50),
        out_stages=tuple(int(stage) + 1 for stage in stages),
        style=fields.values["style"],
    )
    return BackboneCase(fields.case, config, fields.size("fpn_levels"))


def weights_from_names(module: nn.Module, prefix: str) -> None:
    """Fill a module with the random weights that backbone references were made with, seeded by each full name."""
    state = module.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32((prefix + name).encode()) % 2**31)
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() == 4:
            fan_in = value.shape[1] * value.shape[2] * value.shape[3]
            state[name] = noise * math.sqrt(2.0 / fan_in)
        elif name.endswith("running_var"):
            state[name] = 1.0 + 0.5 * noise.abs()
        elif name.endswith(("running_mean", "bias")):
            state[name] = 0.1 * noise
        else:
            state[name] = 0.5 + 0.1 * noise
    module.load_state_dict(state, strict=True)
