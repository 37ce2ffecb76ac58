"""Turn official BEVFormer checkpoints (.pth of mmdet3d and Bench2DriveZoo) into safetensors with the encoder alone.

    python -m agent.model.convert FILE.pth OUT.safetensors [--model NAME]

Nothing in the file is executed: tensors are read by torch's restricted unpickler, known classes of training metadata
become inert objects, anything else ends the command. Exit code 0: written, 2: unusable file.
"""

import argparse
import re
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from agent.model.official import OFFICIAL_MODELS, build_official

ENCODER_PREFIXES = (
    "img_backbone.",
    "img_neck.",
    "pts_bbox_head.bev_embedding.",
    "pts_bbox_head.positional_encoding.",
    "pts_bbox_head.transformer.level_embeds",
    "pts_bbox_head.transformer.cams_embeds",
    "pts_bbox_head.transformer.can_bus_mlp.",
    "pts_bbox_head.transformer.encoder.",
)
"""What is kept; decoders, heads and what UniAD and VAD add are left out."""

STATE_KEYS = ("state_dict", "model")
"""Entries of a checkpoint under which its tensors may lie; else it holds them itself."""
MAX_BYTES = 4 * 1024**3
"""Of all tensors together; the largest official encoder has 0.3 GB."""
SHOWN_DIFFERENCES = 3

METADATA_CLASSES = (
    "_codecs.encode",
    "addict.addict.Dict",
    "mmcv.utils.config.Config",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.Config",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
)
"""What training frameworks put beside the tensors: never needed, so never built."""

UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError, MemoryError, UnpicklingError, struct.error,
)  # fmt: skip
"""What torch's readers raise on damaged files."""


class ConversionError(ValueError):
    """A checkpoint that cannot be converted; the message is one line naming the file, the value and the remedy."""


class Inert:
    """Stands for an object of a checkpoint's metadata: takes everything, keeps and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Nothing."""

    def extend(self, items: Any) -> None:
        """Nothing."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a .pth file under their stored names, without executing anything of it.

    Raises: ConversionError.
    """
    allowed: list[Any] = [(Inert, name) for name in METADATA_CLASSES]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # about old formats and types, which are dealt with here
            document = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ConversionError(f"{path}: {_reason(error)}") from error
    if isinstance(document, Mapping):
        for key in STATE_KEYS:
            if isinstance(document.get(key), Mapping):
                document = document[key]
                break
    tensors = {} if not isinstance(document, Mapping) else {n: v for n, v in document.items() if isinstance(v, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise ConversionError(f"{path}: holds no named tensors; give a checkpoint with an entry 'state_dict'")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > MAX_BYTES:
        raise ConversionError(f"{path}: its tensors take more than {MAX_BYTES >> 30} GiB; give one model's checkpoint")
    return tensors


def _reason(error: BaseException) -> str:
    """One line on why torch did not read a file."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error}); check the path"
    forbidden = re.search(r"(?:GLOBAL|global:?|function:?|class:?)\s+([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, UnpicklingError) and forbidden:
        return (
            f"refers to {forbidden.group(1)}, which is no part of a model's weights and could execute code; refused, "
            "get the file from its authors"
        )
    if isinstance(error, UnpicklingError):
        return "holds other objects than tensors, which are not read because that could execute code; refused"
    first = (str(error) or type(error).__name__).splitlines()[0]
    return f"not a whole checkpoint of torch.save ({first:.120}); fetch it again"


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under today's official names: without a wrapper's prefix, offset convolutions inside `conv2`."""
    wrapped = all(name.startswith("module.") for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.") if wrapped else name
        renamed[re.sub(r"\.conv2_offset\.", ".conv2.conv_offset.", name)] = tensor
    return renamed


def encoder_part(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Counter[str]]:
    """The encoder's tensors (float32, contiguous) and how many others there are under each top-level name."""
    kept, left = {}, Counter()
    for name, tensor in tensors.items():
        if name.startswith(ENCODER_PREFIXES):
            whole = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
            kept[name] = whole.clone(memory_format=torch.contiguous_format)
        else:
            left[".".join(name.split(".")[:2])] += 1
    return kept, left


def differences(name: str, state: Mapping[str, Tensor]) -> list[str]:
    """How encoder tensors differ from an official model's, strictly by name and shape; empty if they fit."""
    expected = {key: tuple(value.shape) for key, value in build_official(name).state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    return [
        *(f"missing {key}" for key in expected if key not in found),
        *(f"unexpected {key}" for key in found if key not in expected),
        *(
            f"{key} has shape {found[key]} instead of {shape}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ),
    ]


def convert(source: Path, target: Path, model: str | None = None) -> tuple[str, dict[str, Tensor], Counter[str]]:
    """Write a checkpoint's encoder as safetensors; returns the models it fits, its tensors and what was left out.

    model: the official model it must fit strictly; any one, if not given. Raises: ConversionError.
    """
    state, left = encoder_part(official_names(read_checkpoint(source)))
    unequal = {name: differences(name, state) for name in ([model] if model else OFFICIAL_MODELS)}
    fitting = [name for name, found in unequal.items() if not found]
    if not fitting:
        closest, found = min(unequal.items(), key=lambda item: len(item[1]))
        raise ConversionError(
            f"{source}: {len(found)} tensors do not fit the encoder of {closest!r}: "
            f"{'; '.join(found[:SHOWN_DIFFERENCES])}; give the model it belongs to with --model"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConversionError(f"{source}: tensor {name!r} holds values that are not finite; fetch the file again")
    fits = ",".join(fitting)
    part = target.with_name(target.name + ".part")
    try:
        save_file(state, part, metadata={"format": "pt", "fits": fits})
        part.replace(target)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise ConversionError(f"{target}: cannot be written ({error}); check the path") from error
    return fits, state, left


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m agent.model.convert",
        description="Turn official BEVFormer checkpoints (.pth) into safetensors with the encoder alone.",
    )
    parser.add_argument("source", type=Path, metavar="FILE.pth", help="checkpoint of mmdet3d or Bench2DriveZoo")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--model", choices=list(OFFICIAL_MODELS), help="the model it must fit; any, if not given")
    options = parser.parse_args(arguments)
    try:
        fits, state, left = convert(options.source, options.target, options.model)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 2
    values = sum(tensor.numel() for tensor in state.values())
    print(f"{options.target}: {len(state)} tensors, {values / 1e6:.1f} M values, fits {fits.replace(',', ' and ')}")
    for name, count in sorted(left.items()):
        print(f"left out: {name} ({count} tensors)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
