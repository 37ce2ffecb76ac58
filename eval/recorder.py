"""Keeps everything the report needs of one route in the run's folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eval.frames import FrameFile, paint_film
from eval.moments import MomentSink, Observer, TraceFile, safe_name
from eval.video import FRAMES_PER_S

if TYPE_CHECKING:
    from eval.episode import Episode, Tick

FilmChoice = Literal["all", "failed", "none"]
FILM_EVERY = {"all": 1, "failed": 2, "none": 0}
"""Which decisions make a frame. Films of failed routes show every other one, in real time all the same."""
logger = logging.getLogger(__name__)


class RouteRecorder:
    """A tick hook that keeps a route's moments, the pictures of its incidents and, if wanted, what a film is made of.

    Painting a film takes about as long as driving, so it is done after the drive and only where it is wanted.
    """

    def __init__(self, run: Path, route_id: str, *, film: FilmChoice) -> None:
        """`run`: the run's folder."""
        self._trace = TraceFile(moments_folder(run), route_id)
        sinks: list[MomentSink] = [self._trace]
        self._frames: FrameFile | None = None
        film_path(run, route_id).unlink(missing_ok=True)  # of an earlier try
        every = FILM_EVERY[film]
        if every:
            self._frames = FrameFile(frames_path(run, route_id), every, FRAMES_PER_S // every)
            sinks.append(self._frames)
        self._observer = Observer(sinks, bev_every=every)

    def __call__(self, episode: Episode, tick: Tick) -> None:
        self._observer(episode, tick)

    def close(self) -> None:
        """Finish the files; safe to call twice."""
        self._trace.close()
        if self._frames is not None:
            self._frames.close()


def settle_film(run: Path, route_id: str, *, wanted: bool) -> None:
    """Paint the film of a drive that is over, or drop what it would be made of; nothing if there is nothing."""
    frames = frames_path(run, route_id)
    if not frames.is_file():
        return
    if wanted:
        started_s = time.monotonic()
        count = paint_film(frames, film_path(run, route_id))
        logger.info("%d frames of the film painted in %.1f s", count, time.monotonic() - started_s)
    frames.unlink(missing_ok=True)


def moments_folder(run: Path) -> Path:
    """Where a run keeps the moments and pictures of its routes."""
    return run / "moments"


def film_path(run: Path, route_id: str) -> Path:
    """Film of one route of a run."""
    return moments_folder(run) / f"{safe_name(route_id)}.mp4"


def frames_path(run: Path, route_id: str) -> Path:
    """What a route's film is made of, while it is not."""
    return moments_folder(run) / f"{safe_name(route_id)}.frames"
