"""Process groups of our own: known by pid and start time, measured as a tree, ended together, orphaned never.

Every job leads a process group (and session). Whatever it starts, a server or an agent's helpers, stays in that group,
so one signal to the group ends all of it and nothing else on the machine. Linux only, as CARLA's wheel for servers is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GROUP_END_S: Final = 5.0
"""How long a group may take to vanish after SIGKILL: memory of a large process is not freed at once."""
_POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_SENTINEL: Final = "trap 'kill -KILL 0' TERM; while :; do read -r nothing; done"
"""Kills its own group, which `kill 0` addresses, whoever is left in it. It reads from a pipe that it holds open itself,
because a shell that waits for a child such as `sleep` would leave that behind when it is killed alone."""
_STATE, _PARENT, _GROUP, _START = 0, 1, 2, 19
"""Fields of /proc/PID/stat behind the command's name."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int
    """Start time in clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a process now; None if there is none."""
        fields = _stat(pid)
        return None if fields is None else cls(pid, int(fields[_START]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[_START]) == self.start_ticks and fields[_STATE] not in "ZX"


def is_dead(pid: int) -> bool:
    """Whether the process is gone, or dead and not yet collected by its parent."""
    fields = _stat(pid)
    return fields is None or fields[_STATE] in "ZX"


def group_members(group: int) -> list[int]:
    """Pids of the living processes of a group."""
    return [pid for pid, fields in _all_stats() if int(fields[_GROUP]) == group and fields[_STATE] not in "ZX"]


def descendants(pid: int) -> list[int]:
    """Pids of the living processes below one."""
    children: dict[int, list[int]] = {}
    for child, fields in _all_stats():
        if fields[_STATE] not in "ZX":
            children.setdefault(int(fields[_PARENT]), []).append(child)
    found = list(children.get(pid, ()))
    for child in found:  # grows while it is walked
        found += children.get(child, ())
    return found


def group_memory_bytes(group: int) -> int:
    """Memory of a process group: proportional set sizes, so that shared pages count once."""
    return sum(_memory_bytes(pid) for pid in group_members(group))


def kill_group(group: int) -> None:
    """SIGKILL to all processes of a group of our own, and wait until they are gone.

    Call it before the leader is reaped: until then its number cannot belong to anybody else.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    deadline_s = time.monotonic() + GROUP_END_S
    while group_members(group) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def exited(pid: int) -> bool:
    """Whether a child of ours has ended; it stays unreaped, so its pid and group number stay its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def end_with_parent(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent dies, however that dies."""
    die_with_parent(signal.SIGKILL, parent_pid)()


def die_with_parent(number: signal.Signals, parent_pid: int) -> Callable[[], None]:
    """A function that asks Linux for a signal on the parent's death, and ends the process if that has died already.

    The wish is kept by `exec`, so the function serves as `preexec_fn`.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: after a fork as little as possible

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before we could ask
            os._exit(1)

    return ask


def guard_group() -> subprocess.Popen[bytes]:
    """Start a sentinel that kills this process's whole group as soon as this process dies, even by SIGKILL.

    The caller must lead the group, otherwise its parent's group would go with it. Raises: RuntimeError.
    """
    if os.getpgrp() != os.getpid():
        raise RuntimeError(f"process {os.getpid()} does not lead its group {os.getpgrp()}; start it in a session")
    silence, open_end = os.pipe()
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _SENTINEL],
            stdin=silence,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(open_end,),
            preexec_fn=die_with_parent(signal.SIGTERM, os.getpid()),
        )
    finally:
        os.close(silence)
        os.close(open_end)


def _memory_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # gone, or somebody else's (a server that changes its user)
        pass
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))) is not None:
            yield int(entry.name), fields


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
