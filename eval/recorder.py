"""Keeps everything the report needs of one route in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eval.moments import MomentSink, Observer, TraceFile, safe_name
from eval.video import Film

if TYPE_CHECKING:
    from eval.episode import Episode, Tick


class RouteRecorder:
    """A tick hook that keeps a route's moments, the pictures of its incidents and, if wanted, its film."""

    def __init__(self, run: Path, route_id: str, *, film: bool) -> None:
        """`run`: the run's folder."""
        self._trace = TraceFile(moments_folder(run), route_id)
        sinks: list[MomentSink] = [self._trace]
        self._film: Film | None = None
        if film:
            self._film = Film(film_path(run, route_id))
            sinks.append(self._film)
        self._observer = Observer(sinks, with_bev=film)

    def __call__(self, episode: Episode, tick: Tick) -> None:
        self._observer(episode, tick)

    def close(self) -> None:
        """Finish the files; safe to call twice."""
        self._trace.close()
        if self._film is not None:
            self._film.close()


def moments_folder(run: Path) -> Path:
    """Where a run keeps the moments and pictures of its routes."""
    return run / "moments"


def film_path(run: Path, route_id: str) -> Path:
    """Film of one route of a run."""
    return moments_folder(run) / f"{safe_name(route_id)}.mp4"
