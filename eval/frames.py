"""What a film is made of, kept while driving at a small part of the film's cost, and painted afterwards.

A file of msgpack objects: the route first, then a moment per frame, cameras as JPEG and masks as compressed bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard
from PIL import Image

from eval.draw import CAMERA_PX
from eval.moments import BevView, Imagined, Incident, Moment, OtherCar, RouteMap, Step, TraceError, jpeg
from eval.video import Film

FORMAT = 2
MASK_SCALE = 255.0
ZSTD_LEVEL = 1


class FrameFile:
    """A sink that keeps every so-manieth decision."""

    def __init__(self, path: Path, every: int, frames_per_s: int) -> None:
        """The folder must exist. `every`: 1 keeps all decisions; `frames_per_s`: of the film."""
        self._file = path.open("wb")
        self._every = every
        self._frames_per_s = frames_per_s
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._started = False

    def __call__(self, moment: Moment) -> None:
        if not moment.decides or moment.decision % self._every:
            return
        if not self._started:
            self._started = True
            header = {"format": FORMAT, "frames_per_s": self._frames_per_s, "route": asdict(moment.route)}
            self._file.write(_packed(header))
        self._file.write(_packed(self._frame(moment)))

    def close(self) -> None:
        """Finish the file; safe to call twice. Without any frame no file is left."""
        self._file.close()
        if not self._started:
            Path(self._file.name).unlink(missing_ok=True)

    def _frame(self, moment: Moment) -> dict[str, Any]:
        return {
            "step": asdict(moment.step),
            "decision": moment.decision,
            "cameras": {name: jpeg(image, CAMERA_PX[0]) for name, image in moment.cameras.items()},
            "route_ego_m": np.asarray(moment.route_ego_m, dtype=np.float64).tolist(),
            "bev": self._bev(moment.bev),
            "imagined": [{"before_s": item.before_s, "bev": self._bev(item.bev)} for item in moment.imagined],
            "others": [asdict(other) for other in moment.others],
            "incidents": [asdict(incident) for incident in moment.incidents],
        }

    def _bev(self, bev: BevView | None) -> dict[str, Any] | None:
        if bev is None:
            return None
        masks = (np.clip(bev.masks, 0.0, 1.0) * MASK_SCALE).astype(np.uint8)
        return {
            "masks": self._compressor.compress(masks.tobytes()),
            "shape": list(masks.shape),
            "names": list(bev.names),
            "range_m": list(bev.range_m),
        }


def paint_film(frames: Path, film: Path) -> int:
    """Paint the film of a frame file; the number of frames. A torn end, as a killed process leaves it, is left out.

    Raises: TraceError for a file that is not one.
    """
    with frames.open("rb") as file:
        objects = _objects(file, frames)
        header = next(objects, None)
        if header is None:
            return 0
        if not isinstance(header, Mapping) or header.get("format") != FORMAT:
            raise TraceError(f"{frames}: not a frame file of format {FORMAT}; delete it")
        route = _route(header["route"])
        movie = Film(film, int(header["frames_per_s"]))
        try:
            for count, data in enumerate(objects, start=1):  # noqa: B007 - the number of the last one is wanted
                movie(_moment(route, data))
        finally:
            movie.close()
    return count


def _objects(file: Any, path: Path) -> Iterator[Any]:
    unpacker = msgpack.Unpacker(file, max_buffer_size=1 << 28, strict_map_key=False)
    try:
        yield from unpacker
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise TraceError(f"{path}: not a frame file ({type(error).__name__}); delete it") from error


def _moment(route: RouteMap, data: Mapping[str, Any]) -> Moment:
    return Moment(
        route=route,
        step=_step(data["step"]),
        decides=True,
        cameras={name: np.asarray(Image.open(BytesIO(picture))) for name, picture in data["cameras"].items()},
        route_ego_m=np.asarray(data["route_ego_m"], dtype=np.float64).reshape(-1, 2),
        bev=_read_bev(data["bev"]) if data["bev"] is not None else None,
        others=tuple(OtherCar(**other) for other in data["others"]),
        incidents=tuple(Incident(**incident) for incident in data["incidents"]),
        decision=int(data["decision"]),
        imagined=tuple(Imagined(float(item["before_s"]), _read_bev(item["bev"])) for item in data["imagined"]),
    )


def _read_bev(data: Mapping[str, Any]) -> BevView:
    raw = zstandard.ZstdDecompressor().decompress(data["masks"])
    masks = np.frombuffer(raw, np.uint8).reshape(data["shape"]) / MASK_SCALE
    rear_m, front_m, left_m, right_m = data["range_m"]
    return BevView(masks, tuple(data["names"]), (rear_m, front_m, left_m, right_m))


def _step(data: Mapping[str, Any]) -> Step:
    top = tuple((int(index), float(share)) for index, share in data["top"])
    incidents = tuple(Incident(**incident) for incident in data["incidents"])
    return Step(**{**data, "top": top, "incidents": incidents})


def _route(data: Mapping[str, Any]) -> RouteMap:
    values = {field.name: data[field.name] for field in fields(RouteMap)}
    for name in ("plan", "sparse"):
        values[name] = tuple((float(x), float(y)) for x, y in values[name])
    values["lanes"] = tuple(tuple((float(x), float(y)) for x, y in lane) for lane in values["lanes"])
    return RouteMap(**values)


def _packed(data: Any) -> bytes:
    packed = msgpack.packb(data)
    assert packed is not None
    return packed
