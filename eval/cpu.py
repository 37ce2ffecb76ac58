"""Processor time of a drive: unlike the clock's it does not depend on what else the machine does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eval.criteria import TICK_S

if TYPE_CHECKING:
    from eval.episode import Episode, Tick


class CpuMeter:
    """A hook that counts processor time from the first tick on, of this process and of its server."""

    def __init__(self, server_pid: int | None) -> None:
        self._server_pid = server_pid
        self._start: dict[str, float] = {}
        self._start_ticks = 0
        self._ticks = 0

    def __call__(self, episode: Episode, tick: Tick) -> None:
        if not self._start:
            self._start, self._start_ticks = self._now_s(), episode.ticks
        self._ticks = episode.ticks

    def per_game_s(self) -> dict[str, float]:
        """Processor seconds per simulated second of `agent` (with the evaluation) and `server`; empty if unknown."""
        game_s = (self._ticks - self._start_ticks) * TICK_S
        if game_s <= 0.0:
            return {}
        now_s = self._now_s()
        return {name: round((now_s[name] - start_s) / game_s, 4) for name, start_s in self._start.items()}

    def _now_s(self) -> dict[str, float]:
        times = {"agent": time.process_time()}
        if self._server_pid is not None:
            try:
                stat = Path(f"/proc/{self._server_pid}/stat").read_text()
            except OSError:  # it died, or this is no Linux
                return times | {"server": self._start.get("server", 0.0)}
            user, system = stat.rsplit(") ", 1)[1].split()[11:13]
            times["server"] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return times
