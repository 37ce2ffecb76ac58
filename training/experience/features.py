"""Image features of a frozen backbone beside a replay: computed once per recorded decision, read back as float16.

A file holds a segment's features and is made when the segment is first needed. It is a cache: whatever is wrong with a
file, it is made anew from the segment. `FOLDER/KEY` is one backbone's, so another one never reads its features.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8

from agent.checkpoint import sync_folder
from training.replay import SegmentError, SegmentLayout, decode_jpeg, read_steps

FORMAT = 1
"""Of a file; files of another one are made anew."""
MAGIC = b"R2DFEAT1"
SUFFIX = ".features"
CHUNK_STEPS = 16
"""Decisions whose features are computed at a time."""
GIB = 1 << 30
_HEAD = struct.Struct("<8sI")
_BYTES_PER_VALUE = 2
logger = logging.getLogger(__name__)

Extract = Callable[[np.ndarray], np.ndarray]
"""Images (n, 6, 3, h, w) uint8 to features (n, values) float16."""


class DamagedFeatures(Exception):
    """A file that must not be used; the message says why."""


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A frozen backbone as the store needs it."""

    key: str
    """Hash of everything that decides what the features are."""
    values: int
    """Numbers per decision, all cameras and maps together."""
    image_hw: tuple[int, int]
    extract: Extract


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of itself."""

    key: str
    values: int
    segment_bytes: int
    """Size of the segment that the features are of: another segment of that name has another one."""
    crcs: tuple[int, ...]
    """Of each decision's features."""

    @classmethod
    def read(cls, data: bytes) -> _Header:
        plain = json.loads(data)
        if plain.pop("format") != FORMAT:
            raise ValueError("another format")
        return cls(
            str(plain["key"]), int(plain["values"]), int(plain["segment_bytes"]), tuple(int(x) for x in plain["crcs"])
        )

    def write(self) -> bytes:
        about = {"key": self.key, "values": self.values, "segment_bytes": self.segment_bytes, "crcs": list(self.crcs)}
        return json.dumps({"format": FORMAT} | about).encode()


class FeatureStore:
    """Features of the segments of one replay folder. Safe to share by threads, and folders by processes."""

    def __init__(self, folder: Path, source: FeatureSource, limit_gib: float, *, front: bool = False) -> None:
        """folder: of the features of all backbones. limit_gib: beyond it features are computed and not kept. front:
        whether the front images themselves are wanted besides."""
        if limit_gib < 0.0:
            raise ValueError(f"the limit of the features must not be negative, got {limit_gib} GiB")
        self.source, self.front = source, front
        self.folder = folder / source.key
        self._limit = limit_gib * GIB
        self._headers: dict[str, tuple[_Header, int]] = {}
        self._lock = threading.Lock()
        self._full = False
        self.computed = 0
        """Decisions whose features were computed here."""

    def read(self, path: Path, layout: SegmentLayout, start: int, stop: int) -> Float16[np.ndarray, "n values"]:
        """Features of steps start .. stop - 1 of a segment. Raises: SegmentError, OSError, ValueError for a segment
        without images or with images of another size."""
        target = self.folder / f"{path.stem}{SUFFIX}"
        found = self._stored(target, layout, start, stop)
        if found is not None:
            return found
        with self._lock:  # one at a time: two windows of a segment do not compute its features twice
            found = self._stored(target, layout, start, stop)
            if found is None and self._has_room(layout.steps):
                features = self._compute(path, layout, 0, layout.steps)
                self._write(target, layout, features)
                found = features[start:stop]
        return self._compute(path, layout, start, stop) if found is None else found

    def forget(self, names: Collection[str]) -> None:
        """Delete the features of segments that are gone."""
        for name in names:
            (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
            self._headers.pop(f"{name}{SUFFIX}", None)
        if names:
            self._full = False

    # ------------------------------------------------------------------------- files

    def _stored(self, target: Path, layout: SegmentLayout, start: int, stop: int) -> np.ndarray | None:
        try:
            with target.open("rb") as file:
                if target.name not in self._headers:
                    self._headers[target.name] = self._read_header(file.read(_HEAD.size), file.read)
                header, begin = self._headers[target.name]
                if header.segment_bytes != layout.bytes or len(header.crcs) != layout.steps:
                    raise DamagedFeatures("is of another segment of that name")
                size = header.values * _BYTES_PER_VALUE
                file.seek(begin + start * size)
                data = memoryview(file.read((stop - start) * size))
        except FileNotFoundError:
            return None
        except DamagedFeatures as fault:
            return self._discard(target, str(fault))
        rows = [data[k * size : (k + 1) * size] for k in range(stop - start)]
        if [zlib.crc32(row) for row in rows] != list(header.crcs[start:stop]):
            return self._discard(target, "has wrong bytes")
        return np.frombuffer(data, "<f2").reshape(stop - start, header.values)

    def _read_header(self, head: bytes, read: Callable[[int], bytes]) -> tuple[_Header, int]:
        """The header and where the features begin. Raises: DamagedFeatures."""
        if len(head) != _HEAD.size or not head.startswith(MAGIC):
            raise DamagedFeatures("is no file of features")
        length = _HEAD.unpack(head)[1]
        try:
            header = _Header.read(read(length))
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFeatures(f"has a header that cannot be read ({error!r})") from error
        if (header.key, header.values) != (self.source.key, self.source.values):
            raise DamagedFeatures(f"is of backbone {header.key}, wanted is {self.source.key}")
        return header, _HEAD.size + length

    def _discard(self, target: Path, why: str) -> None:
        logger.warning("%s %s; it is made anew", target, why)
        self._headers.pop(target.name, None)
        target.unlink(missing_ok=True)

    def _has_room(self, steps: int) -> bool:
        """Whether a segment's features may be kept; says once when they may not."""
        if self._full:
            return False
        wanted = steps * self.source.values * _BYTES_PER_VALUE
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = sum(path.stat().st_size for path in self.folder.glob(f"*{SUFFIX}"))
        too_many = kept + wanted > self._limit
        self._full = too_many or shutil.disk_usage(self.folder).free < 2 * wanted
        if self._full:
            why = f"the limit is {self._limit / GIB:.1f} GiB" if too_many else "the disk is full"
            logger.warning(
                "%s: holds features of %.1f GiB and %s; those of the other segments are computed whenever they are "
                "drawn, which is slow",
                self.folder,
                kept / GIB,
                why,
            )
        return not self._full

    def _write(self, target: Path, layout: SegmentLayout, features: np.ndarray) -> None:
        rows = [row.tobytes() for row in np.ascontiguousarray(features, "<f2")]
        crcs = tuple(zlib.crc32(row) for row in rows)
        header = _Header(self.source.key, self.source.values, layout.bytes, crcs).write()
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(_HEAD.pack(MAGIC, len(header)) + header)
                file.writelines(rows)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            sync_folder(self.folder)
        except OSError as error:
            logger.warning("%s: the features are not kept: %s", target, error)
        finally:
            partial.unlink(missing_ok=True)

    # ------------------------------------------------------------------------- computing

    def _compute(self, path: Path, layout: SegmentLayout, start: int, stop: int) -> np.ndarray:
        features = np.empty((stop - start, self.source.values), np.float16)
        for begin in range(start, stop, CHUNK_STEPS):
            end = min(begin + CHUNK_STEPS, stop)
            steps = read_steps(path, layout, begin, end)
            images = np.stack([decoded(step.jpegs, self.source.image_hw, path) for step in steps])
            features[begin - start : end - start] = self.source.extract(images)
        self.computed += stop - start
        return features


def decoded(jpegs: tuple[bytes, ...], image_hw: tuple[int, int], path: Path) -> UInt8[np.ndarray, "cameras 3 h w"]:
    """A step's images, or some of them. Raises: SegmentError, ValueError where there are none or of another size."""
    if not jpegs:
        raise ValueError(f"{path}: holds no camera images; give a replay recorded by `python -m training record-raw`")
    try:
        images = np.stack([decode_jpeg(data) for data in jpegs])
    except (OSError, ValueError) as error:  # their bytes are those that were written, so they were written wrong
        raise SegmentError(f"{path}: an image cannot be decoded: {error}") from error
    if images.shape[-2:] != image_hw:
        raise ValueError(f"{path}: images of shape {image_hw} are wanted, stored is one of shape {images.shape[-2:]}")
    return images
