"""Files of named arrays (npz) that may come from strangers: no pickle, every size is known before it is unpacked."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

META = "meta"
"""Array of bytes that holds the file's JSON."""
MAX_META_BYTES = 64 * 1024
HEADER_ROOM_BYTES = 4096
COMPRESSION_LEVEL = 4


class ArrayFileError(ValueError):
    """A file that must not be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What an array must look like."""

    dtype: str
    shape: tuple[str | int, ...]
    """Sizes, or names of sizes that several arrays share."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file must look like."""

    format: int
    arrays: Mapping[str, Spec]
    most: Mapping[str, int]
    """Largest value of each named size."""
    max_file_bytes: int
    max_all_bytes: int
    """Of all arrays, unpacked."""


def write(path: Path, layout: Layout, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a file, complete or not at all. Raises: OSError, ArrayFileError for what could not be read again."""
    checked = {name: np.ascontiguousarray(arrays[name], spec.dtype) for name, spec in layout.arrays.items()}
    _check_sizes(path, layout, {name: array.shape for name, array in checked.items()})
    text = json.dumps({"format": layout.format, **meta}, allow_nan=False).encode()
    if len(text) > MAX_META_BYTES:
        raise ArrayFileError(f"{path}: {len(text)} bytes of metadata, at most {MAX_META_BYTES} are allowed")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as archive:
                for name, array in {META: np.frombuffer(text, np.uint8), **checked}.items():
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, array, allow_pickle=False)
                    archive.writestr(f"{name}.npy", buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, layout: Layout) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file; every float is finite. Raises: ArrayFileError."""
    try:
        size = path.stat().st_size
        if size > layout.max_file_bytes:
            raise ArrayFileError(f"{path}: {size} bytes, at most {layout.max_file_bytes} are allowed")
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, layout, archive)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArrayFileError(f"{path}: cannot be read ({error}); record it again or delete it") from error


def _read_archive(path: Path, layout: Layout, archive: zipfile.ZipFile) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    listed = [entry.filename for entry in archive.infolist()]
    wanted = [f"{name}.npy" for name in (META, *layout.arrays)]
    if sorted(listed) != sorted(wanted):
        wrong = sorted(set(listed) ^ set(wanted)) or "names that come twice"
        raise ArrayFileError(f"{path}: is not such a file: {wrong} differ from what is expected; record it again")
    total = sum(entry.file_size for entry in archive.infolist())
    if total > layout.max_all_bytes:
        raise ArrayFileError(f"{path}: claims {total} bytes unpacked, at most {layout.max_all_bytes} are allowed")
    meta = _read_meta(path, layout, archive)
    arrays = {}
    for name, spec in layout.arrays.items():
        arrays[name] = _parse(f"{path}: {name}", archive.read(f"{name}.npy"), spec.dtype)
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise ArrayFileError(f"{path}: {name} has values that are not finite; record it again")
    _check_sizes(path, layout, {name: array.shape for name, array in arrays.items()})
    return arrays, meta


def _read_meta(path: Path, layout: Layout, archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(f"{META}.npy").file_size > MAX_META_BYTES + HEADER_ROOM_BYTES:
        raise ArrayFileError(f"{path}: more than {MAX_META_BYTES} bytes of metadata")
    text = _parse(f"{path}: {META}", archive.read(f"{META}.npy"), "u1").tobytes()
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArrayFileError(f"{path}: metadata is no JSON ({error}); record it again") from error
    if not isinstance(meta, dict):
        raise ArrayFileError(f"{path}: metadata is a {type(meta).__name__}, expected an object; record it again")
    if meta.get("format") != layout.format:
        raise ArrayFileError(
            f"{path}: format {meta.get('format')!r}, this program reads {layout.format}; record it again"
        )
    return meta


def _parse(what: str, data: bytes, dtype: str) -> np.ndarray:
    """One npy file; its header may claim no more than the bytes that follow."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ArrayFileError(f"{what}: npy version {version}, expected (1, 0); record it again")
        shape, fortran, found = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise ArrayFileError(f"{what}: is no array ({error}); record it again") from error
    if found != np.dtype(dtype).newbyteorder("<") or fortran:
        raise ArrayFileError(f"{what}: has type {found}, expected {np.dtype(dtype)} in C order; record it again")
    body = data[stream.tell() :]
    if any(side < 0 for side in shape) or math.prod(shape) * found.itemsize != len(body):
        raise ArrayFileError(f"{what}: shape {shape} does not fit its {len(body)} bytes; record it again")
    return np.frombuffer(body, found).reshape(shape)


def _check_sizes(path: Path, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
    known: dict[str, int] = {}
    for name, spec in layout.arrays.items():
        shape = shapes[name]
        if len(shape) != len(spec.shape):
            raise ArrayFileError(f"{path}: {name} has shape {shape}, expected {spec.shape}")
        for size, wanted in zip(shape, spec.shape, strict=True):
            expected = wanted if isinstance(wanted, int) else known.setdefault(wanted, size)
            if size != expected:
                raise ArrayFileError(
                    f"{path}: {name} has shape {shape}, expected {spec.shape} with {wanted}={expected}"
                )
    for letter, size in known.items():
        if size > layout.most[letter]:
            raise ArrayFileError(f"{path}: size {letter} is {size}, at most {layout.most[letter]} are allowed")
