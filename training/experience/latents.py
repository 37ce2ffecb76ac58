"""Filtered states of stored steps, so that a window starts with the past it had (latent carry-over of DreamerV3, 2025).

A cache beside the segments, one file each: every step has a fixed place with h in half precision, the classes of z and
a checksum. What was never written, was torn by a crash or belongs to another model reads as unknown.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.model.rssm import LatentState, RssmConfig
from training.experience.catalogue import Piece

_CRC_BYTES = 4


class LatentStore:
    """Latest filtered state of every step that was trained on."""

    def __init__(self, folder: Path, config: RssmConfig) -> None:
        """folder: of the run, since the states belong to its weights."""
        if config.classes > 256:
            raise ValueError(f"rssm.classes must be at most 256 to be kept in a byte, got {config.classes}")
        self._config = config
        self._folder = folder / f"latents-{config.deter}-{config.groups}x{config.classes}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._row_bytes = _CRC_BYTES + 2 * config.deter + config.groups

    def store(self, windows: Sequence[Sequence[Piece]], state: LatentState) -> None:
        """Remember the states (b, t) of the windows' steps."""
        deter = state.deter.detach().half().cpu().numpy().view(np.uint8)
        index = state.stoch.detach().unflatten(-1, (self._config.groups, self._config.classes)).argmax(-1)
        payload = np.concatenate([deter, index.to(torch.uint8).cpu().numpy()], -1)
        for number, pieces in enumerate(windows):
            at = 0
            for piece in pieces:
                count = piece.stop - piece.start
                self._write(piece, payload[number, at : at + count])
                at += count

    def _write(self, piece: Piece, payload: np.ndarray) -> None:
        rows = np.empty((len(payload), self._row_bytes), np.uint8)
        rows[:, _CRC_BYTES:] = payload
        sums = np.array([zlib.crc32(row) for row in payload], "<u4")
        rows[:, :_CRC_BYTES] = sums[:, None].view(np.uint8)
        descriptor = os.open(self._folder / piece.row.name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(descriptor, rows.tobytes(), piece.start * self._row_bytes)
        finally:
            os.close(descriptor)

    def read(self, places: Sequence[tuple[str, int] | None]) -> tuple[LatentState, Tensor]:
        """States (b) of steps, given as segment and step, and which of them are known (b); zeros where not."""
        payload = np.zeros((len(places), self._row_bytes - _CRC_BYTES), np.uint8)
        known = np.zeros(len(places), bool)
        for number, place in enumerate(places):
            if place is not None and (row := self._row(*place)) is not None:
                payload[number], known[number] = row, True
        width = 2 * self._config.deter
        deter = torch.from_numpy(np.ascontiguousarray(payload[:, :width]).view("<f2")).float()
        index = torch.from_numpy(payload[:, width:].astype(np.int64)).clamp(max=self._config.classes - 1)
        stoch = F.one_hot(index, self._config.classes).float().flatten(-2)
        flags = torch.from_numpy(known)
        return LatentState(deter, stoch * flags[:, None]), flags

    def _row(self, name: str, step: int) -> np.ndarray | None:
        try:
            with (self._folder / name).open("rb") as file:
                data = os.pread(file.fileno(), self._row_bytes, step * self._row_bytes)
        except FileNotFoundError:
            return None
        if len(data) < self._row_bytes or zlib.crc32(data[_CRC_BYTES:]) != int.from_bytes(data[:_CRC_BYTES], "little"):
            return None
        return np.frombuffer(data, np.uint8, offset=_CRC_BYTES)

    def forget(self, names: Iterable[str]) -> None:
        """Drop the states of deleted segments."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()
