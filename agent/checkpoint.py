"""Checkpoints: a folder with model.safetensors, config.yaml and a manifest of sizes and sha256 sums. No pickle.

Large ones have model-00001-of-00003.safetensors and so on instead of model.safetensors, each with whole tensors.
Every byte is checked before it is parsed: plain file names inside the folder, no links, sizes, hashes, header length,
keys and shapes, finite values. Saving writes a folder aside, syncs it and renames it into place.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from agent import strict_json
from agent.config import ConfigError, parse_yaml

FORMAT, PARTS_FORMAT = 1, 2
"""Versions of this layout, with the tensors in one file and in several; a reader refuses newer ones."""
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.json"

PART_NAME = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
"""Number and count, from 1."""

MAX_MODEL_BYTES = 4 * 1024**3
"""Of all tensor files together."""
HEADER_ROOM_BYTES = 256
"""What a tensor's name and shape take at most in the header of a file that has to keep to a size."""
MAX_TEXT_BYTES = 256 * 1024
MAX_HEADER_BYTES = 16 * 1024**2
"""Of the tensor file; a thousand tensors need about a tenth of a megabyte."""
SHOWN_DIFFERENCES = 5
FORBIDDEN_SUFFIXES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".joblib")
"""Formats that can execute code when opened."""


class CheckpointError(ValueError):
    """A checkpoint that must not be used; the message names the file, the value and the remedy."""


def load_checkpoint(folder: Path | str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the tensors (on the CPU) of a checkpoint folder.

    Raises: CheckpointError.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    contents = {name: _read_listed_file(folder, name, entry) for name, entry in manifest["files"].items()}
    config_sha256 = hashlib.sha256(contents[CONFIG_FILE]).hexdigest()
    if manifest["config_sha256"] != config_sha256:
        raise CheckpointError(
            f"{folder / MANIFEST_FILE}: config_sha256 is {manifest['config_sha256']!r} but {CONFIG_FILE} has "
            f"{config_sha256[:12]}...; {_remedy(folder)}"
        )
    try:
        config = parse_yaml(contents[CONFIG_FILE].decode("utf-8"), str(folder / CONFIG_FILE))
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    state: dict[str, torch.Tensor] = {}
    for name in model_files(contents):
        for key, tensor in _parse_tensors(folder / name, contents[name]).items():
            if key in state:
                raise CheckpointError(f"{folder / name}: tensor {key} is in another file, too; {_remedy(folder)}")
            state[key] = tensor
    return config, state


def model_files(names: Iterable[str]) -> list[str]:
    """Those of a checkpoint's file names that hold tensors, in order."""
    return sorted(name for name in names if name == MODEL_FILE or PART_NAME.fullmatch(name))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a checkpoint folder: format, step, config_sha256, files, created_by.

    Raises: CheckpointError.
    """
    if folder.suffix.lower() in FORBIDDEN_SUFFIXES:
        raise CheckpointError(
            f"{folder}: {folder.suffix} files can execute code when opened and are refused; give a checkpoint "
            f"folder of safetensors with {MANIFEST_FILE}"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder; give the path of a folder with {MANIFEST_FILE}")
    path = folder / MANIFEST_FILE
    raw = _read_plain_file(path, MAX_TEXT_BYTES)
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); {_remedy(folder)}") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got {type(manifest).__name__}; {_remedy(folder)}")
    version = manifest.get("format")
    if type(version) is int and version > PARTS_FORMAT:
        raise CheckpointError(
            f"{path}: format {version} is newer than this program's format {PARTS_FORMAT}; "
            f"install a Raw2Drive version that reads format {version}"
        )
    if type(version) is not int or version not in (FORMAT, PARTS_FORMAT):
        raise CheckpointError(f"{path}: format is {version!r}, expected {FORMAT} or {PARTS_FORMAT}; {_remedy(folder)}")
    _check_manifest(path, manifest)
    return manifest


def check_state(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], where: str) -> None:
    """Checks that a checkpoint has exactly the tensors a model expects, with their shapes.

    Raises: CheckpointError listing the first differences.
    """
    differences = [f"missing {name}" for name in expected if name not in state]
    differences += [f"unexpected {name}" for name in state if name not in expected]
    differences += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if differences:
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        raise CheckpointError(
            f"{where}: {len(differences)} tensors do not fit the model that {CONFIG_FILE} describes: {shown}; "
            "the weights belong to another configuration or version"
        )


def save_checkpoint(
    folder: Path | str,
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    *,
    step: int,
    created_by: str,
    extra_files: Mapping[str, str] | None = None,
    max_file_bytes: int | None = None,
) -> None:
    """Writes a checkpoint folder, replacing an older one only when the new one is complete on disk and verified.

    config: plain data, as `agent.config.to_plain` makes it. extra_files: name to text, for instance agent.yaml.
    max_file_bytes: more than that is split into several files; a single tensor larger than that has a file of its own.
    Raises: CheckpointError for values that could not be loaded again; OSError when the disk refuses.
    """
    folder = Path(folder)
    parts = [list(state)] if max_file_bytes is None else split(state, max_file_bytes)
    contents = {
        **{
            MODEL_FILE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors": save_tensors(
                {name: state[name].detach().cpu().contiguous() for name in names}
            )
            for number, names in enumerate(parts, 1)
        },
        CONFIG_FILE: yaml.safe_dump(dict(config), sort_keys=False).encode("utf-8"),
        **{name: text.encode("utf-8") for name, text in (extra_files or {}).items()},
    }
    manifest = {
        "format": FORMAT if len(parts) == 1 else PARTS_FORMAT,
        "step": step,
        "config_sha256": hashlib.sha256(contents[CONFIG_FILE]).hexdigest(),
        "created_by": created_by,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()
        },
    }
    _check_manifest(folder / MANIFEST_FILE, manifest)
    contents[MANIFEST_FILE] = (strict_json.dumps(manifest, indent=2) + "\n").encode("utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_synced(partial, contents)
        load_checkpoint(partial)
        _replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def split(state: Mapping[str, torch.Tensor], max_file_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file, in order, so that no file but one with a single tensor is larger."""
    parts: list[list[str]] = [[]]
    used = HEADER_ROOM_BYTES
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size() + HEADER_ROOM_BYTES + len(name)
        if parts[-1] and used + size > max_file_bytes:
            parts.append([])
            used = HEADER_ROOM_BYTES
        parts[-1].append(name)
        used += size
    return parts


def recover(parent: Path | str) -> None:
    """Clears away what a save that was killed has left in a folder of checkpoints that nobody else writes to.

    A checkpoint that was moved aside for its successor, which did not come, is moved back.
    """
    for path in sorted(Path(parent).iterdir()) if Path(parent).is_dir() else ():
        if path.name.startswith(".") and path.name.endswith(".partial"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".") and path.name.endswith(".previous"):
            target = path.with_name(path.name[1:].removesuffix(".previous"))
            if target.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(target)


def latest_valid(parent: Path | str) -> Path | None:
    """The checkpoint folder in `parent` with the highest step that loads completely, or None."""
    candidates = []
    for folder in Path(parent).iterdir() if Path(parent).is_dir() else ():
        if folder.is_dir() and not folder.name.startswith("."):
            try:
                candidates.append((int(read_manifest(folder)["step"]), folder))
            except CheckpointError:
                continue
    for _, folder in sorted(candidates, reverse=True):
        try:
            load_checkpoint(folder)
        except CheckpointError:
            continue
        return folder
    return None


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    if type(manifest.get("step")) is not int or manifest["step"] < 0:
        raise CheckpointError(f"{path}: step is {manifest.get('step')!r}, expected a whole number from 0 up")
    for key in ("config_sha256", "created_by"):
        if not isinstance(manifest.get(key), str):
            raise CheckpointError(f"{path}: {key} is {manifest.get(key)!r}, expected a text; {_remedy(path.parent)}")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path}: files is {files!r}, expected a mapping; {_remedy(path.parent)}")
    for name, entry in files.items():
        _check_name(path, name)
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or type(entry.get("bytes")) is not int
        ):
            raise CheckpointError(f"{path}: entry of {name} is {entry!r}, expected sha256 and bytes")
    tensor_files = model_files(files)
    if manifest["format"] == FORMAT:
        wanted = [MODEL_FILE]
    else:
        matches = [match for name in tensor_files if (match := PART_NAME.fullmatch(name))]
        count = max((int(match[2]) for match in matches), default=1) or 1
        wanted = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for name in (*wanted, CONFIG_FILE):
        if name not in files:
            raise CheckpointError(f"{path}: lists no {name}; {_remedy(path.parent)}")
    if surplus := sorted(set(tensor_files) - set(wanted)):
        raise CheckpointError(f"{path}: lists {surplus[0]} besides {wanted[0]}; {_remedy(path.parent)}")
    size = sum(files[name]["bytes"] for name in wanted)
    if size > MAX_MODEL_BYTES:
        raise CheckpointError(f"{path}: {size} bytes of tensors, at most {MAX_MODEL_BYTES} are allowed")


def _check_name(path: Path, name: str) -> None:
    plain = name not in ("", ".", "..") and not set(name) & set("/\\:\0") and not name.startswith(".")
    if not plain:
        raise CheckpointError(f"{path}: names the file {name!r}; only plain names inside the folder are allowed")
    if Path(name).suffix.lower() in FORBIDDEN_SUFFIXES:
        raise CheckpointError(
            f"{path}: names the file {name!r}, a format that can execute code when opened; it is refused. Name "
            "a .safetensors file"
        )


def _read_plain_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file that is not a link and not larger than allowed."""
    try:
        if path.is_symlink():
            raise CheckpointError(f"{path}: is a symbolic link; copy the file into the checkpoint folder")
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; {_remedy(path.parent)}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise CheckpointError(f"{path}: {size} bytes, at most {max_bytes} are allowed; {_remedy(path.parent)}")
            return file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read_listed_file(folder: Path, name: str, entry: dict[str, Any]) -> bytes:
    path = folder / name
    data = _read_plain_file(path, MAX_MODEL_BYTES if model_files([name]) else MAX_TEXT_BYTES)
    if len(data) != entry["bytes"]:
        raise CheckpointError(f"{path}: {len(data)} bytes, manifest says {entry['bytes']}; {_remedy(folder)}")
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise CheckpointError(
            f"{path}: sha256 is {found[:12]}..., manifest says {entry['sha256'][:12]}...; {_remedy(folder)}"
        )
    return data


def _parse_tensors(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(
            f"{path}: header claims {header_bytes} bytes, the file has {len(data)} and headers may have "
            f"{MAX_HEADER_BYTES}; {_remedy(path.parent)}"
        )
    try:
        state = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a valid safetensors file ({error}); {_remedy(path.parent)}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name} has values that are not finite; {_remedy(path.parent)}")
    return state


def _remedy(folder: Path) -> str:
    """What to do about a broken checkpoint; points to complete-looking neighbours."""
    try:
        others = [
            other.name
            for other in sorted(folder.parent.iterdir())
            if other.name != folder.name and not other.name.endswith(".partial") and (other / MANIFEST_FILE).is_file()
        ]
    except OSError:
        others = []
    hint = f", or use one of {', '.join(others[:SHOWN_DIFFERENCES])} in {folder.parent}" if others else ""
    return f"download or save it again{hint}"


def _write_synced(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in contents.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _replace_folder(new: Path, target: Path) -> None:
    """Renames `new` to `target`; an existing target is kept aside until the rename has succeeded."""
    previous = target.with_name(f".{target.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        target.rename(previous)
    try:
        new.rename(target)
    except OSError:
        if previous.exists():
            previous.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes sure that names made or changed in the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
