"""What ends a run before its time, and what a run survives: updates that are not finite, lost processes, full disks."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from agent.checkpoint import sync_folder
from training.learner import BaseLearner
from training.privileged.config import AlarmConfig
from training.world_model.model import Replayed

FAILED, DISK_FULL, OUT_OF_MEMORY = 1, 3, 75
"""Exit codes; 75 is EX_TEMPFAIL: the same command with another batch size goes on."""
SKIPPED_UPDATES = 3
SKIP_WINDOW_UPDATES = 1000
"""So many updates may be skipped among so many."""
KEPT_DUMPS = 8
"""Dumped batches; the oldest go first."""
FAILED_SAVES = 3
"""So many checkpoints in a row that cannot be written end the run."""
HOUR_S = 3600.0
logger = logging.getLogger(__name__)


class RunStoppedError(RuntimeError):
    """A run that ends before its time; the message is the reason and the remedy."""

    def __init__(self, reason: str, *, exit_code: int = FAILED, is_sound: bool = True) -> None:
        """is_sound: whether the present state is worth a checkpoint; otherwise the last one is what is gone on with."""
        super().__init__(reason)
        self.exit_code, self.is_sound = exit_code, is_sound


class SkippedUpdates:
    """Counts updates that were left out because they were not finite, and dumps their batches."""

    def __init__(self, folder: Path) -> None:
        """folder: for the dumps."""
        self._folder = folder
        self._at: deque[int] = deque()

    def add(self, update: int, batch: Replayed, generator: Tensor, reason: str) -> Path | None:
        """Dump the batch of an update and the generator's state before it; gives the file, None if the disk refuses.

        Raises: RunStoppedError when there are too many.
        """
        while self._at and self._at[0] <= update - SKIP_WINDOW_UPDATES:
            self._at.popleft()
        self._at.append(update)
        try:
            path = self._dump(update, batch, generator)
        except OSError as error:
            logger.warning("%s: the batch cannot be kept: %s", self._folder, error)
            path = None
        if len(self._at) > SKIPPED_UPDATES:
            raise RunStoppedError(
                f"{len(self._at)} of the last {SKIP_WINDOW_UPDATES} updates were not finite, the last one {update} "
                f"({reason}); their batches are in {self._folder}, and a resumed run goes on from the last checkpoint",
                is_sound=False,
            )
        return path

    def _dump(self, update: int, batch: Replayed, generator: Tensor) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{update:09d}-{len(self._at)}.safetensors"
        partial = path.with_suffix(".partial")
        partial.write_bytes(save_tensors(_tensors(batch) | {"generator": generator}))
        partial.rename(path)
        sync_folder(self._folder)
        for old in sorted(self._folder.glob("*.safetensors"))[:-KEPT_DUMPS]:
            old.unlink()
        return path


def _tensors(batch: Replayed) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in batch.tensors().items()}


# ----------------------------------------------------------------------------- bounds


class Alarms:
    """Watches the metrics of a run; an alarm that stays on ends it."""

    def __init__(self, config: AlarmConfig) -> None:
        self._config = config
        self.on: dict[str, float] = {}
        """Metrics out of bounds at the last look."""
        self._looks = 0

    def look(self, metrics: Mapping[str, float]) -> bool:
        """Whether the set of metrics that are out of bounds has changed. Raises: RunStoppedError when they stay so."""
        before = self.on.keys()
        limits = self._config.limits()
        self.on = {
            name: value for name, value in metrics.items() if not math.isfinite(value) or _size(name, value, limits)
        }
        self._looks = self._looks + 1 if self.on else 0
        if self._looks >= self._config.reports:
            named = ", ".join(f"{name} {value:.4g}" for name, value in self.on.items())
            raise RunStoppedError(
                f"out of bounds in {self._looks} reports in a row: {named}; the last checkpoint is from before. Lower "
                "the learning rate, or allow more with --config.alarm",
                is_sound=False,
            )
        return before != self.on.keys()


def _size(name: str, value: float, limits: Mapping[str, float]) -> bool:
    return name in limits and abs(value) > limits[name]


class LossBudget:
    """Lost processes in the last hour."""

    def __init__(self, per_hour: int) -> None:
        self._per_hour = per_hour
        self._at_s: deque[float] = deque()

    def add(self, why: str) -> None:
        """Count a loss. Raises: RunStoppedError when there are too many."""
        now_s = time.monotonic()
        self._at_s.append(now_s)
        while self._at_s[0] < now_s - HOUR_S:
            self._at_s.popleft()
        if len(self._at_s) > self._per_hour:
            raise RunStoppedError(
                f"{len(self._at_s)} collectors were lost within an hour, the last one with {why}; {self._per_hour} are "
                "allowed (--config.losses-per-hour). Their last words are above"
            )


class Saves:
    """Checkpoints that could not be written."""

    def __init__(self) -> None:
        self._failed = 0

    def succeeded(self) -> None:
        """One was written."""
        self._failed = 0

    def failed(self, error: OSError, *, final: bool) -> None:
        """Log a failure. Raises: RunStoppedError for too many in a row, and for the last one of a run."""
        self._failed += 1
        logger.error("the checkpoint cannot be written, the one before stays: %s", error)
        if final or self._failed >= FAILED_SAVES:
            raise RunStoppedError(
                f"{self._failed} checkpoints in a row could not be written ({error}); make room, then resume from the "
                "last one",
                exit_code=DISK_FULL,
                is_sound=False,
            ) from error


# ----------------------------------------------------------------------------- memory


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def fitting_batch(learner: BaseLearner, batch: Replayed) -> int | None:
    """The largest of b/2, b/4, ... windows with which an update fits into memory, tried out; None if none does.

    The learner stays as it is.
    """
    windows = batch.first.shape[0] // 2
    while windows:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            learner.rehearse(part_of(batch, windows))
            return windows
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        windows //= 2
    return None


def part_of(batch: Replayed, windows: int) -> Replayed:
    """The first windows of a batch."""
    return batch.map(lambda value: value[:windows])


def out_of_memory(learner: BaseLearner, batch: Replayed) -> RunStoppedError:
    """The end of a run whose update does not fit into memory."""
    windows = batch.first.shape[0]
    if learner.ranks.size > 1:  # the others wait for this one's gradients and cannot try out anything with it
        reason = f"an update with a batch of {windows} windows does not fit into memory; resume with a smaller one"
        return RunStoppedError(reason, exit_code=OUT_OF_MEMORY)
    fits = fitting_batch(learner, batch)
    if fits is None:
        reason = f"an update does not fit into memory, whatever the batch size (now {windows}); choose a smaller --size"
    else:
        reason = (
            f"an update with a batch of {windows} windows does not fit into memory, one of {fits} does; the state is "
            f"saved: resume with --config.batch {fits} --allow-config-change batch"
        )
    return RunStoppedError(reason, exit_code=OUT_OF_MEMORY)
