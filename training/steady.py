"""A run that only learns: updates, log and checkpoints until enough are made or somebody wants a stop.

It is made of the parts of the privileged stage's runs (lock, signals, tracker, atomic checkpoints) without collectors
and replay. A run's folder holds `checkpoints` (everything to go on), `model` (what it is made for) and the log.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from agent.checkpoint import CheckpointError, latest_valid, load_checkpoint, recover, save_checkpoint
from agent.config import ConfigError
from training.learner import NonFiniteUpdateError
from training.privileged.guard import SKIP_WINDOW_UPDATES, SKIPPED_UPDATES, RunStoppedError, Saves
from training.privileged.resume import flat, locked
from training.privileged.tracking import Tracker
from training.privileged.trainer import SHOW_S, stopping_on_signals

MODEL, CHECKPOINTS = "model", "checkpoints"
FREE = ("run.updates", "run.log_updates", "run.checkpoint_minutes", "run.threads")
"""What may differ in a run that is gone on with: it does not change what is learned."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SteadyConfig:
    """How long, and what is kept of it."""

    updates: int = 10_000
    """In all, those of earlier starts included."""
    log_updates: int = 25
    checkpoint_minutes: float = 5.0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.updates, self.log_updates, self.threads) < 1 or self.checkpoint_minutes < 0.0:
            raise ValueError(
                "updates, log-updates and threads must be at least 1 and checkpoint-minutes not negative, got "
                f"{self.updates}, {self.log_updates}, {self.threads}, {self.checkpoint_minutes}"
            )


class Learns(Protocol):
    """What a run teaches."""

    updates: int

    def step(self) -> Mapping[str, Tensor]:
        """One update; gives its metrics. Raises: NonFiniteUpdateError before any weight changes."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        ...

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from `tensors`. Raises: CheckpointError naming `where`."""
        ...


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a run is made for."""

    created_by: str
    plain: Mapping[str, Any]
    """Its configuration as plain data, with `run` for the SteadyConfig: the same when it is gone on with."""
    publish: Callable[[Path], None]
    """Writes what is used later into a folder."""


def run(learner: Learns, purpose: Purpose, config: SteadyConfig, folder: Path) -> int:
    """Learn until the updates are made, or SIGTERM or SIGINT comes; gives their number. A run that exists goes on.

    Raises: ConfigError for a run with another configuration, or one that is finished; CheckpointError, RunStoppedError.
    """
    stop = threading.Event()
    with locked(folder), stopping_on_signals(stop):
        _restore(learner, purpose, folder)
        if learner.updates >= config.updates:
            raise ConfigError(f"{folder}: has {learner.updates} updates; give more than {config.updates} to go on")
        with Tracker(folder, update=learner.updates) as log:
            log.write("start", {"updates": learner.updates})
            loop = _Loop(learner, purpose, config, folder, log)
            try:
                loop.learn(stop)
            except RunStoppedError as error:
                log.write("stopped", {"updates": learner.updates, "why": str(error)})
                raise
            loop.save(final=True)
            log.write("stop", {"updates": learner.updates})
    logger.info("stopped after %d updates", learner.updates)
    return learner.updates


def _restore(learner: Learns, purpose: Purpose, folder: Path) -> None:
    parent = folder / CHECKPOINTS
    recover(parent)
    recover(folder)
    latest = latest_valid(parent)
    if latest is None:
        if parent.is_dir() and any(not path.name.startswith(".") for path in parent.iterdir()):
            raise CheckpointError(f"{parent}: no sound checkpoint; delete the folder or give another --out")
        return
    plain, tensors = load_checkpoint(latest)
    before, now = flat(plain), flat(dict(purpose.plain))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key not in FREE)
    if changed:
        shown = "; ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"{folder}: was begun with another configuration: {shown}. Give the same one, or another --out"
        )
    learner.load(tensors, str(latest))


class _Loop:
    """One start of a run."""

    def __init__(self, learner: Learns, purpose: Purpose, config: SteadyConfig, folder: Path, log: Tracker) -> None:
        self._learner, self._purpose, self._config = learner, purpose, config
        self._folder, self._log = folder, log
        self._saves = Saves()
        self._skipped: deque[int] = deque()

    def learn(self, stop: threading.Event) -> None:
        """Until the updates are made or a stop is wanted. Raises: RunStoppedError."""
        learner, config = self._learner, self._config
        first, begun_s = learner.updates, time.monotonic()
        saved_s = shown_s = begun_s
        while learner.updates < config.updates and not stop.is_set():
            metrics = self._update()
            now_s = time.monotonic()
            made = learner.updates - first
            if metrics is not None and learner.updates % config.log_updates == 0:
                values = {name: float(value) for name, value in metrics.items()}
                rate = made / max(now_s - begun_s, 1e-9)
                self._log.write("update", {"update": learner.updates, "updates_per_s": rate, **values})
            if now_s - shown_s > SHOW_S and made:
                shown_s, left_min = now_s, (now_s - begun_s) / made * (config.updates - learner.updates) / 60.0
                logger.info("update %d of %d, %.1f min left", learner.updates, config.updates, left_min)
            if now_s - saved_s > 60.0 * config.checkpoint_minutes:
                saved_s = now_s
                self.save()

    def _update(self) -> Mapping[str, Tensor] | None:
        try:
            return self._learner.step()
        except NonFiniteUpdateError as error:
            update = self._learner.updates
            logger.warning("update %d is skipped: %s", update, error)
            self._log.write("skipped", {"update": update, "why": str(error)})
            while self._skipped and self._skipped[0] <= update - SKIP_WINDOW_UPDATES:
                self._skipped.popleft()
            self._skipped.append(update)
            if len(self._skipped) > SKIPPED_UPDATES:
                raise RunStoppedError(
                    f"{len(self._skipped)} of the last {SKIP_WINDOW_UPDATES} updates were not finite ({error}); a "
                    "resumed run goes on from the last checkpoint; take a smaller learning rate",
                    is_sound=False,
                ) from error
            return None

    def save(self, *, final: bool = False) -> None:
        """A checkpoint and what is used later; the checkpoint before is deleted.

        Raises: RunStoppedError where the disk refuses once too often, and for values that are not finite.
        """
        learner, purpose = self._learner, self._purpose
        if not learner.updates:
            return
        target = self._folder / CHECKPOINTS / f"{learner.updates:09d}"
        try:
            about = {"step": learner.updates, "created_by": purpose.created_by}
            save_checkpoint(target, purpose.plain, learner.tensors(), **about)
            purpose.publish(self._folder / MODEL)
        except OSError as error:
            self._log.write("checkpoint_failed", {"updates": learner.updates, "why": str(error)})
            self._saves.failed(error, final=final)
            return
        except CheckpointError as error:
            raise RunStoppedError(str(error), is_sound=False) from error
        self._saves.succeeded()
        for old in target.parent.iterdir():
            if old != target and old.is_dir() and not old.name.startswith("."):
                shutil.rmtree(old)
        self._log.write("checkpoint", {"updates": learner.updates})
