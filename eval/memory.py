"""How many workers the memory carries, by what the first ones turn out to need."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

GIB: Final = 1024**3
RESERVE_BYTES: Final = GIB
"""Left for everything else on the machine."""
MARGIN: Final = 1.1
"""Routes differ: the next one may need this much more than any before."""
EMBEDDED_BYTES: Final = 3 * GIB
"""Assumed of a worker until one is measured; on purpose more than it takes (1.3 GiB with the shipped agent)."""
CARLA_BYTES: Final = 12 * GIB
"""The same with CARLA, whose largest towns take about 10 GiB."""


@dataclass(slots=True)
class MemoryBudget:
    """Decides whether another worker fits; learns from the workers that run."""

    assumed_bytes: int
    available_bytes: Callable[[], int] = field(default_factory=lambda: available_bytes)
    peak_bytes: int = 0
    """The most that one worker has been seen to use."""

    def observe(self, used_bytes: int) -> None:
        """Take note of what a worker uses."""
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    def worker_bytes(self, *, measured: bool) -> int:
        """What a worker may come to use: measured once a worker drives, else assumed."""
        return int(self.peak_bytes * MARGIN) if measured else max(self.assumed_bytes, int(self.peak_bytes * MARGIN))

    def admits(self, running: Mapping[int, int], *, measured: bool) -> bool:
        """Whether one more worker fits beside those that run (bytes they use now); the first one always does."""
        if not running:
            return True
        need = self.worker_bytes(measured=measured)
        still_growing = sum(max(need - used, 0) for used in running.values())
        return self.available_bytes() - RESERVE_BYTES >= need + still_growing


def available_bytes() -> int:
    """Memory that can still be had: the machine's, or the container's if that is less."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            machine = int(line.split()[1]) * 1024
            break
    else:
        machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_cgroup_left("memory.max", "memory.current", "memory.stat")]
    limits.append(_cgroup_left("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"))
    return min([machine, *(limit for limit in limits if limit is not None)])


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def gib(count: float) -> str:
    """Such as `1.3 GiB`."""
    return f"{count / GIB:.1f} GiB"


def _cgroup_left(limit_name: str, used_name: str, stat_name: str) -> int | None:
    """What a control group leaves; file cache can be dropped, so it does not count as used. None without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = (root / limit_name).read_text().strip(), int((root / used_name).read_text())
        lines = (root / stat_name).read_text().splitlines()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():
        return None
    values = dict(line.split(maxsplit=1) for line in lines if " " in line)
    cache = int(values.get("total_inactive_file", values.get("inactive_file", "0")))
    return max(int(limit) - used + cache, 0)
