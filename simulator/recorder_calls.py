"""Calls of CARLA's recorder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator import recordings
from simulator.calls import Calls
from simulator.recorder import Recorder
from simulator.recordings import RecordingError
from simulator.rpc import CallError

MOST_NAME_BYTES = 4095


class RecorderCalls(Calls):
    """Start, stop, and reports of what is in a file."""

    def values(self) -> dict[str, Callable]:
        return {
            "start_recorder": self._start,
            "show_recorder_file_info": _report(recordings.show_file_info, bool),
            "show_recorder_collisions": _report(recordings.show_collisions, _category, _category),
            "show_recorder_actors_blocked": _report(recordings.show_blocked, float, float),
        }

    def voids(self) -> dict[str, Callable]:
        return {"stop_recorder": self.session.stop_recorder}

    def _start(self, name: str, additional: bool = False) -> str:
        self.session.stop_recorder()
        recorder = Recorder(recording_path(name), self.world, additional=bool(additional))
        self.session.recorder = recorder
        return str(recorder.path)


def _report(show: Callable[..., str], *kinds: Callable[[Any], Any]) -> Callable[..., str]:
    """A call that tells about a file; as in CARLA, what is wrong with the file is told in the same text."""

    def call(name: str, *arguments: Any) -> str:
        values = [kind(argument) for kind, argument in zip(kinds, arguments, strict=True)]
        try:
            return show(recording_path(name), *values)
        except RecordingError as error:
            return f"{error}\n"

    return call


def _category(letter: int | str) -> str:
    """A letter, which comes as a number."""
    text = chr(letter) if isinstance(letter, int) and 0 < letter < 128 else str(letter)
    if text not in tuple("ovwtha"):
        raise CallError(f"{text!r} is no category of actors; take o, v, w, t, h or a")
    return text


def recording_path(name: str) -> Path:
    """A name with a slash is a path; others lie in `$XDG_CACHE_HOME/raw2drive/recordings`, by default in `~/.cache`."""
    if not name or "\0" in name or name in (".", ".."):
        raise CallError(f"{name!r} is no name for a recording")
    if len(name.encode(errors="replace")) > MOST_NAME_BYTES:
        raise CallError(f"a recording's name of {len(name)} characters; at most {MOST_NAME_BYTES} bytes")
    if "/" in name:
        return Path(name).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "raw2drive" / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
