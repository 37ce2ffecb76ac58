"""Replay: immutable segment files of driven steps, safe against crashes, many writers and damaged bytes.

A segment is published by write-aside, fsync and rename, so a reader sees whole segments only. Layout: magic, then the
records (msgpack, each with its CRC-32 in the index), then the index (msgpack: metadata, offsets, lengths, CRCs), then a
footer with the index's offset, length and CRC. Images are JPEG, BEV words are zstd, everything else are numbers.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard
from PIL import Image

from agent.checkpoint import sync_folder

logger = logging.getLogger(__name__)

MAGIC = b"R2DSEG01"
SUFFIX = ".segment"
JPEG_QUALITY = 90
_FOOTER = struct.Struct("<QQI8s")
_WORDS_SHAPE = (128, 128)


class SegmentError(ValueError):
    """A segment that cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision: what was seen, what is true, what the expert does."""

    images: np.ndarray
    """(6, 3, h, w) uint8 RGB."""
    words: np.ndarray
    """(128, 128) uint64 BEV words."""
    arrays: Mapping[str, np.ndarray]
    """Small float32 arrays by name (route, vector, labels, ...)."""
    scalars: Mapping[str, Any]
    """Numbers, booleans and texts by name."""


def _pack(value: Any) -> bytes:
    packed = msgpack.packb(value)
    assert packed is not None  # msgpack's stubs allow None for a caller-owned buffer only
    return packed


def encode_step(step: Step) -> bytes:
    """The step as one msgpack record."""
    record = {
        "images": [_encode_jpeg(image) for image in step.images],
        "words": zstandard.ZstdCompressor(level=3).compress(np.ascontiguousarray(step.words, "<u8").tobytes()),
        "arrays": {name: [list(value.shape), value.astype("<f4").tobytes()] for name, value in step.arrays.items()},
        "scalars": dict(step.scalars),
    }
    return _pack(record)


@dataclass(frozen=True, slots=True)
class PackedStep:
    """A step with its images and words still compressed."""

    jpegs: tuple[bytes, ...]
    packed_words: bytes
    arrays: dict[str, np.ndarray]
    scalars: dict[str, Any]

    def images(self) -> np.ndarray:
        """(6, 3, h, w) uint8 RGB."""
        return np.stack([decode_jpeg(data) for data in self.jpegs])

    def words(self) -> np.ndarray:
        """(128, 128) uint64."""
        size = 8 * _WORDS_SHAPE[0] * _WORDS_SHAPE[1]
        data = zstandard.ZstdDecompressor().decompress(self.packed_words, max_output_size=size)
        return np.frombuffer(data, "<u8").reshape(_WORDS_SHAPE)


def decode_step(data: bytes) -> PackedStep:
    """The step in a record, images and words untouched."""
    record = msgpack.unpackb(data)
    arrays = {name: np.frombuffer(raw, "<f4").reshape(shape) for name, (shape, raw) in record["arrays"].items()}
    return PackedStep(tuple(record["images"]), record["words"], arrays, record["scalars"])


def decode_jpeg(data: bytes) -> np.ndarray:
    """(3, h, w) uint8 RGB."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _encode_jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


class SegmentWriter:
    """Collects the steps of one piece of an episode and publishes them as one file."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._metadata = dict(metadata)
        self._records: list[bytes] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, step: Step) -> None:
        """Append a step."""
        self._records.append(encode_step(step))

    def publish(self) -> Path | None:
        """Write the file and give its path; None if there is no step. The writer is empty afterwards."""
        if not self._records:
            return None
        path = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            _write(file, self._metadata, self._records)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync_folder(self._folder)
        self._records = []
        return path


def _write(file: io.BufferedWriter, metadata: Mapping[str, Any], records: Sequence[bytes]) -> None:
    file.write(MAGIC)
    offsets = []
    for record in records:
        offsets.append(file.tell())
        file.write(record)
    index = _pack(
        {
            "metadata": metadata,
            "offsets": offsets,
            "lengths": [len(record) for record in records],
            "crcs": [zlib.crc32(record) for record in records],
        }
    )
    offset = file.tell()
    file.write(index)
    file.write(_FOOTER.pack(offset, len(index), zlib.crc32(index), MAGIC))


@dataclass(frozen=True, slots=True)
class Segment:
    """A published segment: its metadata and its steps in order, images still compressed."""

    path: Path
    metadata: dict[str, Any]
    steps: tuple[PackedStep, ...]


def read_segment(path: Path) -> Segment:
    """A whole segment, every byte checked. Raises: SegmentError."""
    data = path.read_bytes()
    if len(data) < len(MAGIC) + _FOOTER.size or not data.startswith(MAGIC):
        raise SegmentError(f"{path}: not a replay segment (starts with {data[:8]!r})")
    offset, length, crc, magic = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
    index_bytes = data[offset : offset + length]
    if magic != MAGIC or len(index_bytes) != length or zlib.crc32(index_bytes) != crc:
        raise SegmentError(f"{path}: damaged index; delete the file, the other segments do not need it")
    index = msgpack.unpackb(index_bytes)
    steps = []
    for number, (start, size, expected) in enumerate(
        zip(index["offsets"], index["lengths"], index["crcs"], strict=True)
    ):
        record = data[start : start + size]
        if zlib.crc32(record) != expected:
            raise SegmentError(f"{path}: damaged record {number}; delete the file, the other segments do not need it")
        steps.append(decode_step(record))
    return Segment(path, index["metadata"], tuple(steps))


def read_segments(folders: Sequence[Path]) -> Iterator[Segment]:
    """All sound segments below the folders in name order; damaged ones are skipped, counted and logged once each."""
    for folder in folders:
        if not folder.is_dir():
            raise SegmentError(f"{folder}: no such data folder; collect one with `python -m training collect`")
    skipped = 0
    for path in sorted(path for folder in folders for path in folder.rglob(f"*{SUFFIX}")):
        try:
            yield read_segment(path)
        except SegmentError as error:
            skipped += 1
            logger.warning("skipped segment %d: %s", skipped, error)
