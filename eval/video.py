"""A film of the drive, written frame by frame: H.264 in MP4 that starts playing before it is fully loaded."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from eval.draw import FramePainter
from eval.moments import Moment

FRAMES_PER_S = 10
"""One frame per decision: the film runs in real time."""
CODEC_OPTIONS = {"crf": "27", "preset": "veryfast"}
HOLD_END_FRAMES = 10
"""The last picture of a route stays for a second."""


class VideoFile:
    """An MP4 file being written; it gets its name when it is complete."""

    def __init__(self, path: Path, size_px: tuple[int, int], frames_per_s: int = FRAMES_PER_S) -> None:
        """`size_px`: width and height, both even. The folder must exist."""
        if size_px[0] % 2 or size_px[1] % 2:
            raise ValueError(f"video size must be even for yuv420p, got {size_px[0]} x {size_px[1]}")
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "faststart"})
        stream = self._container.add_stream("libx264", rate=frames_per_s, options=CODEC_OPTIONS)
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, frames_per_s)
        stream.codec_context.thread_count = 1  # beside the simulator and the network
        self._stream = stream
        self._open = True
        self.frames = 0

    def write(self, image: np.ndarray) -> None:
        """Append an RGB image (height, width, 3) uint8."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file; safe to call twice. Without any frame no file is left."""
        if not self._open:
            return
        self._open = False
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if self.frames:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


class Film:
    """A sink that paints every decision of a route into a film."""

    def __init__(self, path: Path, frames_per_s: int = FRAMES_PER_S) -> None:
        self._painter = FramePainter()
        self._path = path
        self._frames_per_s = frames_per_s
        self._file: VideoFile | None = None
        self._last: np.ndarray | None = None

    def __call__(self, moment: Moment) -> None:
        if not moment.decides:
            return
        image = self._painter.paint(moment)
        if self._file is None:
            self._file = VideoFile(self._path, (image.shape[1], image.shape[0]), self._frames_per_s)
        self._file.write(image)
        self._last = image

    def close(self) -> None:
        """Let the last picture stay for a moment and finish the film; safe to call twice."""
        if self._file is None or self._last is None:
            return
        for _ in range(HOLD_END_FRAMES * self._frames_per_s // FRAMES_PER_S):
            self._file.write(self._last)
        self._file.close()
        self._last = None


def join_films(films: Sequence[Path], path: Path) -> int:
    """Put films of the same size one after another without encoding them again; the number of frames joined.

    Raises: ValueError if there is none.
    """
    if not films:
        raise ValueError(f"{path}: no films to join")
    partial = path.with_name(path.name + ".partial")
    frames = 0
    with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as joined:
        stream: av.VideoStream | None = None
        offset = 0
        for film in films:
            with av.open(str(film)) as source:
                template = source.streams.video[0]
                if stream is None:
                    stream = joined.add_stream_from_template(template)
                length = 0
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    length = max(length, packet.pts + packet.duration)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    joined.mux(packet)
                    frames += 1
                offset += length
    partial.replace(path)
    return frames
