"""Batches of replayed windows for the learner, drawn and decoded in the background.

Whatever runs ahead, the sampler's state that a checkpoint gets is the one behind the last batch handed out.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.model.rssm import LatentState
from training.experience.catalogue import Piece
from training.experience.decode import DamagedSegment, Decoder, GoneSegment, WindowArrays
from training.experience.features import FeatureStore
from training.experience.latents import LatentStore
from training.experience.sampler import Sampler, pin
from training.presets import PrivilegedConfig
from training.world_model.model import Replayed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows as the learner takes them, and where they came from."""

    replayed: Replayed
    pieces: tuple[tuple[Piece, ...], ...]
    """Of each window."""
    before: tuple[tuple[str, int] | None, ...]
    """Segment and step before each window; None if it is not stored."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    batch: Batch
    state: dict[str, Any]


class Batches:
    """Endless batches from a replay folder; use it as a context manager.

    With `ahead` 0 a batch is drawn when it is asked for, so that a run with one thread of control is repeatable even
    while it collects; otherwise `ahead` batches are prepared by a thread with helpers.
    """

    def __init__(
        self,
        folder: Path,
        config: PrivilegedConfig,
        seed: int | np.random.SeedSequence = 0,
        *,
        latents: Path | None = None,
        state: dict[str, Any] | None = None,
        ahead: int = 2,
        threads: int = 2,
        images: tuple[int, int] | FeatureStore | None = None,
    ) -> None:
        """latents: folder of the run for carried states, needed where config.replay.carry_over is on. state: of a
        checkpoint, to go on from. images: height and width of the camera images that are decoded as well, or where the
        features are that take their place; None: masks alone. Raises: ReplayError, ValueError."""
        if config.replay.carry_over and latents is None:
            raise ValueError("replay.carry_over needs a folder for the filtered states")
        self.config = config
        self.sampler = Sampler(
            folder,
            config.replay,
            config.steps,
            seed,
            termination_share=config.tricks.termination_share,
            termination_steps=config.tricks.termination_steps,
        )
        if state is not None:
            self.sampler.restore(state)
        self.latents = None
        if config.replay.carry_over and latents is not None:
            self.latents = LatentStore(latents, config.carried)
        self._images = images
        self._decoder = Decoder(folder, images if isinstance(images, FeatureStore) else None)
        self._state = self.sampler.state()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ready: queue.Queue[_Prepared | Exception] = queue.Queue(max(ahead, 1))
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None
        self._ahead = ahead
        self._thread: threading.Thread | None = None  # starts with the first batch: data may have to be waited for

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next(self) -> Batch:
        """The next batch. Raises: whatever went wrong while it was prepared, ReplayError above all."""
        if not self._ahead:
            item: _Prepared | Exception = self._prepare()
        else:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
                self._thread.start()
            item = self._ready.get()
        if isinstance(item, Exception):
            self._ready.put(item)  # who asks again hears it again
            raise item
        self._state = item.state
        return self._with_start(item.batch)

    def store(self, batch: Batch, state: LatentState) -> None:
        """Remember the states (b, t) that an update filtered, for windows that start later on."""
        if self.latents is None:
            return
        try:
            self.latents.store(batch.pieces, state)
        except OSError as error:  # they are a cache: what is not stored reads as unknown
            logger.warning("filtered states are not kept: %s", error)

    def state(self) -> dict[str, Any]:
        """The sampler's state behind the last batch handed out, for a checkpoint."""
        return self._state

    def pin(self, checkpoint: str) -> None:
        """Keep what `state()` names on the disk for a checkpoint."""
        pin(self.sampler.folder, checkpoint, self._state)

    def refresh(self) -> int:
        """Take in segments published since, at once; gives the number of windows, so that one can wait for some."""
        with self._lock:
            self.sampler.refresh(scan=True)
            return self.sampler.catalogue.windows

    def sweep(self) -> list[str]:
        """Delete segments beyond the capacity that are neither sampled nor pinned; gives their names."""
        with self._lock:
            names = self.sampler.sweep()
        self._decoder.forget(names)
        if self.latents is not None:
            self.latents.forget(names)
        return names

    def close(self) -> None:
        """End the background work."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    # ------------------------------------------------------------------------- preparing

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item: _Prepared | Exception = self._prepare()
            except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
                item = error
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return

    def _prepare(self) -> _Prepared:
        config, observation = self.config, self.config.world_model.observation
        arrays = WindowArrays.empty(config.batch, config.steps, observation.size_px, observation.vector, self._images)
        drawn: list[tuple[tuple[Piece, ...], tuple[str, int] | None]] = []
        with self._lock:
            for _ in range(config.batch):
                drawn.append(self._draw())
            state = self.sampler.state()
        numbers = range(config.batch)
        decode = lambda number: self._decode(drawn[number][0], arrays, number)  # noqa: E731
        faults = list(self._pool.map(decode, numbers) if self._pool else map(decode, numbers))
        for number, fault in enumerate(faults):
            while fault is not None:
                with self._lock:
                    self.sampler.drop(fault.name, damaged=isinstance(fault, DamagedSegment))
                    drawn[number] = self._draw()
                    state = self.sampler.state()
                fault = self._decode(drawn[number][0], arrays, number)
        return _Prepared(
            Batch(arrays.replayed(), tuple(pieces for pieces, _ in drawn), tuple(before for _, before in drawn)), state
        )

    def _draw(self) -> tuple[tuple[Piece, ...], tuple[str, int] | None]:
        """Pieces of the next window and the place of the step before it."""
        window = self.sampler.draw()
        pieces = self.sampler.catalogue.pieces(window)
        assert pieces is not None  # drawn from this very catalogue
        longer = self.sampler.catalogue.pieces(window, before=1)
        assert longer is not None
        head = longer[0]
        is_stored = sum(p.stop - p.start for p in longer) > self.config.steps
        return pieces, (head.row.name, head.start) if is_stored else None

    def _decode(
        self, pieces: Sequence[Piece], arrays: WindowArrays, number: int
    ) -> DamagedSegment | GoneSegment | None:
        try:
            self._decoder.window(pieces, arrays, number)
        except (DamagedSegment, GoneSegment) as fault:
            return fault
        return None

    def _with_start(self, batch: Batch) -> Batch:
        """The batch with the states before its windows, as late as possible: updates in between have written some."""
        if self.latents is None:
            return batch
        start, known = self.latents.read(batch.before)
        first = batch.replayed.first.clone()
        first[:, 0] |= ~known  # without a past a window starts as an episode does
        return replace(batch, replayed=replace(batch.replayed, first=first, start=start))


def to_device(batch: Replayed, device: torch.device | str) -> Replayed:
    """The batch on a device."""
    if torch.device(device).type == "cpu":
        return batch
    return batch.map(lambda value: value.to(device, non_blocking=True))
