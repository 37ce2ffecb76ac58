"""Work that is done by processes which may die or hang: each has a server of its own and is replaced when it is lost.

CARLA's client can freeze inside a tick, and takes its process with it when its server is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from eval.planner import PlannerError
from eval.processes import end_with_parent
from eval.server import ServerDiedError, ServerError
from training import spawn
from training.messages import MAX_MESSAGE_BYTES, MessageError, pack, read

SILENCE_S = 240.0
"""A process that has told nothing for so long hangs."""
START_S = 600.0
"""Until its first news it may take this long: the first start of a server on a machine compiles."""
POLL_S = 0.2
ATTEMPTS = 3
"""So often an item is tried."""
STATUS_PERIOD_S = 2.0
"""News are told no more often."""
FAILED = 1
MESSAGE_TYPES = {"told": object, "done": object, "refused": str}
"""What a process may tell: one of these at a time."""
Item = TypeVar("Item", bound=Hashable)
logger = logging.getLogger(__name__)


class RefusedError(ValueError):
    """Input that a server or the planner refuses; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Told(Generic[Item]):
    """News of an item that is being worked on."""

    item: Item
    status: Any


@dataclass(frozen=True, slots=True)
class Done(Generic[Item]):
    """An item with its outcome; `lost` says why there is none after several attempts."""

    item: Item
    outcome: Any = None
    lost: str = ""


class Reporter:
    """What the process tells its owner: plain data, of which a tuple arrives as a list."""

    def __init__(self, sender: Connection) -> None:
        self._sender = sender
        self._next_s = 0.0

    def tell(self, status: Callable[[], Any]) -> None:
        """News of the first item that is not done, and a sign of life; left out soon after other news."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + STATUS_PERIOD_S
            self._sender.send_bytes(pack({"told": status()}))

    def done(self, outcome: Any) -> None:
        """The first item that is not done is, now."""
        self._sender.send_bytes(pack({"done": outcome}))


Target = Callable[[Reporter, Sequence[Any], int], None]
"""Works through items in order and reports each; the number is the process's index. Has to be picklable."""


def work_through(
    target: Target,
    groups: Sequence[Sequence[Item]],
    workers: int,
    *,
    label: Callable[[Item], str] = str,
    silence_s: float = SILENCE_S,
    most_attempts: int = ATTEMPTS,
) -> Generator[Told[Item] | Done[Item], None, None]:
    """Have groups of items worked through, some groups at a time, the longest first; what is left by a process that
    dies or falls silent goes to a new one. `label`: what messages call an item.

    Raises: RefusedError when a server or the planner refuses its input, every time.
    """
    waiting = sorted((list(group) for group in groups if group), key=len)
    running: list[_Worker[Item]] = []
    attempts: Counter[Item] = Counter()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                free = next(k for k in range(workers) if k not in [worker.index for worker in running])
                running.append(_Worker(target, waiting.pop(), free, silence_s))
            heard = False
            for worker in list(running):
                for message in worker.messages():
                    heard = True
                    yield message
                if not worker.over:
                    continue
                running.remove(worker)
                worker.close()
                if worker.items:
                    item = worker.items[0]
                    attempts[item] += 1
                    logger.warning("%s: %s (attempt %d of %d)", label(item), worker.over, attempts[item], most_attempts)
                    if attempts[item] == most_attempts:
                        if worker.refusal:
                            raise RefusedError(worker.refusal)
                        del worker.items[0]
                        yield Done(item, lost=worker.over)
                    waiting += [worker.items] if worker.items else []
            if not heard:
                time.sleep(POLL_S)
    finally:
        for worker in running:
            worker.close()


class _Worker(Generic[Item]):
    """A process with the items that it has not done yet."""

    def __init__(self, target: Target, items: list[Item], index: int, silence_s: float) -> None:
        self.items = items
        self.index = index
        self.over = ""
        """Why it will tell nothing more; empty while it may."""
        self.refusal = ""
        """What server or planner said to bad input."""
        self._patience_s, self._silence_s = START_S, silence_s
        self._receiver, sender = spawn.pipe(duplex=False)
        self._process = spawn.start(_work, sender, target, tuple(items), index, os.getpid(), daemon=True)
        self._heard_s = time.monotonic()

    def messages(self) -> Iterator[Told[Item] | Done[Item]]:
        """What it has told since."""
        try:
            while self._receiver.poll():
                message = read(self._receiver.recv_bytes(MAX_MESSAGE_BYTES), MESSAGE_TYPES)
                if len(message) != 1 or not self.items:
                    raise MessageError(f"{len(message)} news in one, with {len(self.items)} items left")
                self._heard_s, self._patience_s = time.monotonic(), self._silence_s
                if "refused" in message:
                    self.refusal = message["refused"]
                elif "told" in message:
                    yield Told(self.items[0], message["told"])
                else:
                    yield Done(self.items.pop(0), message["done"])
        except (EOFError, OSError, MessageError) as error:  # also what is too long, after which the pipe is closed
            self._process.join(1.0)
            ended = f"the process ended (exit code {self._process.exitcode})"
            senseless = f"a message that makes no sense ({error})"
            self.over = self.refusal or (senseless if self._process.exitcode is None else ended)
        if not self.over and time.monotonic() - self._heard_s > self._patience_s:
            self.over = f"the process was silent for {self._patience_s:.0f} s"

    def close(self) -> None:
        """End the process and, with it, its server."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _work(sender: Connection, target: Target, items: Sequence[Any], index: int, owner_pid: int) -> None:
    """Main function of the process."""
    end_with_parent(owner_pid)
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C reaches the owner, too, which ends this process
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    code = FAILED
    try:
        target(Reporter(sender), items, index)
        code = 0
    except (ServerError, PlannerError) as error:
        sender.send_bytes(pack({"refused": str(error)}))
    except (ServerDiedError, BrokenPipeError) as error:
        logger.error("%s", error)  # the owner starts another process
    sender.close()
    os._exit(code)  # the client's own threads may not survive an orderly end


def _ignore(*_: object) -> None:
    """A handler and not SIG_IGN, which the server would inherit: then it could not be ended any more."""
