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
    """(6, 3, h, w) uint8 RGB; (0, 3, h, w) where no camera was on."""
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
        return unpack_words(self.packed_words)


def unpack_words(packed: bytes) -> np.ndarray:
    """(128, 128) uint64 from compressed words. Raises: SegmentError, before anything larger is unpacked."""
    size = 8 * _WORDS_SHAPE[0] * _WORDS_SHAPE[1]
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed not in (size, -1):
            raise SegmentError(f"BEV words claim {claimed} bytes, expected {size}")
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise SegmentError(f"BEV words cannot be unpacked: {error}") from error
    if len(data) != size:
        raise SegmentError(f"BEV words have {len(data)} bytes, expected {size}")
    return np.frombuffer(data, "<u8").reshape(_WORDS_SHAPE)


def decode_step(data: bytes | memoryview) -> PackedStep:
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

    def publish(self, name: str | None = None, metadata: Mapping[str, Any] | None = None) -> Path | None:
        """Write the file and give its path; None if there is no step. The writer is empty afterwards.

        name: of the file without suffix; unique and random if not given. metadata: what is known only now.
        """
        if not self._records:
            return None
        path = self._folder / f"{name or uuid.uuid4().hex}{SUFFIX}"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            _write(file, self._metadata | dict(metadata or {}), self._records)
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


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """Metadata of a published segment and where its records lie."""

    metadata: dict[str, Any]
    bytes: int
    """Size of the file."""
    offsets: np.ndarray
    """(steps,) int64."""
    lengths: np.ndarray
    """(steps,) int64."""
    crcs: np.ndarray
    """(steps,) int64."""

    @property
    def steps(self) -> int:
        """Number of records."""
        return len(self.offsets)


def read_layout(path: Path) -> SegmentLayout:
    """Where the records of a segment lie; only head and tail of the file are read. Raises: SegmentError, OSError."""
    with path.open("rb") as file:
        return _read_layout(file, path)


def _read_layout(file: io.BufferedReader, path: Path) -> SegmentLayout:
    head = file.read(len(MAGIC))
    size = file.seek(0, os.SEEK_END)
    if size < len(MAGIC) + _FOOTER.size or head != MAGIC:
        raise SegmentError(f"{path}: not a replay segment (starts with {head!r}, {size} bytes)")
    file.seek(size - _FOOTER.size)
    offset, length, crc, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    damaged = SegmentError(f"{path}: damaged index; delete the file, the other segments do not need it")
    if magic != MAGIC or offset + length + _FOOTER.size != size:
        raise damaged
    file.seek(offset)
    index_bytes = file.read(length)
    if zlib.crc32(index_bytes) != crc:
        raise damaged
    try:
        index = msgpack.unpackb(index_bytes)
        columns = [np.array(index[name], np.int64) for name in ("offsets", "lengths", "crcs")]
        metadata = dict(index["metadata"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged from error
    offsets, lengths, crcs = columns
    expected = np.cumsum([len(MAGIC), *lengths])
    if not len(offsets) == len(lengths) == len(crcs) or list(expected) != [*offsets, offset] or lengths.min() < 0:
        raise damaged
    return SegmentLayout(metadata, size, offsets, lengths, crcs)


def read_steps(path: Path, layout: SegmentLayout, start: int, stop: int) -> list[PackedStep]:
    """Steps start .. stop - 1 by one contiguous read, every byte checked. Raises: SegmentError, OSError."""
    with path.open("rb") as file:
        return _read_steps(file, path, layout, start, stop)


def _read_steps(file: io.BufferedReader, path: Path, layout: SegmentLayout, start: int, stop: int) -> list[PackedStep]:
    if not 0 <= start < stop <= layout.steps:
        raise ValueError(f"{path}: has steps 0 .. {layout.steps - 1}, asked for {start} .. {stop - 1}")
    base = int(layout.offsets[start])
    file.seek(base)
    data = memoryview(file.read(int(layout.lengths[start:stop].sum())))
    steps = []
    for number in range(start, stop):
        begin = int(layout.offsets[number]) - base
        record = data[begin : begin + int(layout.lengths[number])]
        if zlib.crc32(record) != layout.crcs[number]:
            raise SegmentError(f"{path}: damaged record {number}; delete the file, the other segments do not need it")
        try:
            steps.append(decode_step(record))
        except (ValueError, KeyError, TypeError) as error:
            raise SegmentError(f"{path}: record {number} is not a step: {error!r}") from error
    return steps


def read_segment(path: Path) -> Segment:
    """A whole segment, every byte checked. Raises: SegmentError."""
    with path.open("rb") as file:
        layout = _read_layout(file, path)
        steps = _read_steps(file, path, layout, 0, layout.steps)
    return Segment(path, layout.metadata, tuple(steps))


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
