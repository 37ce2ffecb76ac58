"""The network at work: within a deadline, through failures of its device, on a GPU as one recorded graph."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from agent.actions import ACTIONS
from agent.inputs import model_input
from agent.model.driving_model import DrivingModel, ModelInput, ModelState
from agent.model.raw_model import RawModel
from agent.model.step import FixedStep

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Network = DrivingModel | RawModel
"""What can drive."""
DEVICE_WORDS = ("out of memory", "can't allocate memory", "CUDA error", "cuDNN error", "CUBLAS_STATUS", "device-side")
"""In the messages of torch's RuntimeErrors that are about the device and not about our code."""


class DeviceFault(RuntimeError):
    """The network's device fails and nothing can stand in for it."""


class DecisionLate(TimeoutError):
    """The network has not decided in time, or is still busy with an earlier decision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeciderConfig:
    """How the network is run."""

    deadline_s: float = 30.0
    """Wall-clock time for a decision; later ones are thrown away while the guard holds and then stops the car.

    The simulation waits for a decision, so this is there for a device that hangs and must not change how a busy machine
    drives; the leaderboard itself gives up after 300 s.
    """
    cuda_graph: bool = True
    """On a GPU, record the network once and replay it; where that fails it runs op by op."""

    def __post_init__(self) -> None:
        if not 0.0 < self.deadline_s <= 60.0:
            raise ValueError(f"network.deadline_s must lie in (0, 60] s, got {self.deadline_s}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pass through the network."""

    inputs: ModelInput
    logits: torch.Tensor
    """(39,) float32 on the CPU."""
    state: ModelState


class Decider:
    """Runs the network for one car and keeps its state."""

    def __init__(self, model: Network, config: DeciderConfig, spare: Callable[[], Network] | None = None) -> None:
        """spare: makes the network anew on the CPU, for when the device fails twice."""
        self._config = config
        self._spare = spare
        self._worker = borrow_worker()
        self.close = weakref.finalize(self, give_back_worker, self._worker)
        """Give the thread back; also done when nobody holds this object any more."""
        self._said: set[str] = set()
        self._use(model)

    def _use(self, model: Network) -> None:
        self.model = model
        self._device = model.neck.centres_m.device
        self._step: FixedStep | None = None
        self._records = self._config.cuda_graph and self._device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        """Forget what the network has seen."""
        self.state = self.model.initial(1)

    def decide(self, arrays: dict[str, np.ndarray], previous_action: int | None) -> Outcome:
        """Logits for the fields of a ModelInput (without batch); the state moves on.

        Raises: DecisionLate, DeviceFault; what the network raises itself.
        """
        outcome = self._worker.run(lambda: self._persist(arrays, previous_action), self._config.deadline_s)
        self.state = outcome.state
        return outcome

    def _persist(self, arrays: dict[str, np.ndarray], previous_action: int | None) -> Outcome:
        """One retry after freeing caches, then the spare network on the CPU."""
        try:
            return self._pass(arrays, previous_action)
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            self._warn_once(f"the network's device fails ({_line(error)}); caches are freed, it is tried once more")
        self._free_caches()
        try:
            return self._pass(arrays, previous_action)
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            if self._spare is None:
                raise DeviceFault(f"the network's device fails: {_line(error)}") from error
            logger.error("the network's device fails again (%s); from here on the CPU decides", _line(error))
        spare, self._spare = self._spare, None
        self._use(spare())
        return self._pass({**arrays, "first": np.array(True)}, None)

    def _pass(self, arrays: dict[str, np.ndarray], previous_action: int | None) -> Outcome:
        inputs = model_input(arrays, self._device)
        previous = self._one_hot(previous_action)
        if self._records:
            self._record(inputs, previous)
        act = self._step or self.model.act
        logits, state = act(inputs, self.state, previous)
        return Outcome(inputs, logits[0].float().cpu(), state)

    def _record(self, inputs: ModelInput, previous: torch.Tensor | None) -> None:
        """Try once to make the graph."""
        self._records = False
        step = FixedStep(self.model, inputs, self.state, previous)
        try:
            step.record()
        except RuntimeError as error:
            logger.warning("no CUDA graph (%s); the network runs op by op", _line(error))
            return
        self._step = step

    def _one_hot(self, action: int | None) -> torch.Tensor | None:
        if not self.model.config.rssm.action_input:
            return None
        one_hot = torch.zeros(1, len(ACTIONS))
        if action is not None:
            one_hot[0, action] = 1.0
        return one_hot.to(self._device)

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            logger.warning("%s", message)
        self._said.add(message)

    def _free_caches(self) -> None:
        self._step = None
        gc.collect()
        if self._device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                self._warn_once(f"its caches cannot be freed: {_line(error)}")


def is_device_fault(error: RuntimeError) -> bool:
    """Whether the device is to blame: memory, driver, hardware."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in DEVICE_WORDS)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Worker:
    """A thread for one job at a time. A job that is late may finish; nobody waits for it any more."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], Future] | None] = queue.SimpleQueue()
        self._running: Future | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None and not self._running.done()

    def close(self) -> None:
        """End the thread after its job."""
        self._jobs.put(None)

    def run(self, job: Callable[[], Result], timeout_s: float) -> Result:
        """The job's result. Raises: DecisionLate, what the job raises."""
        if self.busy:
            raise DecisionLate("the network is still busy with an earlier decision")
        if self._thread is None:
            arguments = (self._jobs, torch.get_num_threads())
            self._thread = threading.Thread(target=_work, args=arguments, name="network", daemon=True)
            self._thread.start()
        future: Future[Result] = Future()
        self._running = future
        self._jobs.put((job, future))
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            if future.done():  # the job's own
                raise
            raise DecisionLate(f"no decision within {timeout_s:g} s") from error


_idle_workers: list[Worker] = []
"""Routes of a process share a thread: each new one would get, and keep, memory of its own for the same work."""


def borrow_worker() -> Worker:
    """An idle worker, or a new one."""
    return _idle_workers.pop() if _idle_workers else Worker()


def give_back_worker(worker: Worker) -> None:
    """For the next route; one that hangs is not."""
    if worker.busy:
        worker.close()
    else:
        _idle_workers.append(worker)


def _work(jobs: queue.SimpleQueue[tuple[Callable[[], object], Future] | None], threads: int) -> None:
    torch.set_num_threads(threads)  # of OpenMP, too, whose number is each thread's own
    while (item := jobs.get()) is not None:
        job, future = item
        try:
            future.set_result(job())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(error)
        del item, job, future  # while waiting for the next one
