"""Reading recordings: what CARLA's `show_recorder_*` calls tell about a file, in the same words.

Files may come from anywhere: every length is checked against what is left, and a file that ends in the middle of a
packet, because its writer was killed, is read up to there.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from simulator import recorder
from simulator.recorder import Packet

MAX_PACKET_BYTES: Final = 64 << 20
MAX_REPORT_CHARACTERS: Final = 16 << 20
CATEGORIES: Final = "ovwtos"
"""Letters of actor types in the report of collisions: other, vehicle, walker, traffic light, sign, sensor."""
_LIGHTS: Final = (
    *("Position", "LowBeam", "HighBeam", "Brake", "RightBlinker", "LeftBlinker"),
    *("Reverse", "Fog", "Interior", "Special1", "Special2"),
)
"""Bits of a VehicleLightState, the lowest first."""
_TABLES: Final = {
    Packet.COLLISION: recorder.COLLISION,
    Packet.POSITION: recorder.POSITION,
    Packet.LIGHT_STATE: recorder.LIGHT_STATE,
    Packet.VEHICLE: recorder.VEHICLE,
    Packet.WALKER: recorder.WALKER,
    Packet.VEHICLE_LIGHT: recorder.VEHICLE_LIGHT,
    Packet.KINEMATICS: recorder.KINEMATICS,
    Packet.BOUNDING_BOX: recorder.BOUNDING_BOX,
    Packet.LIGHT_TIMES: recorder.LIGHT_TIMES,
}


class RecordingError(Exception):
    """A file that is no usable recording."""


@dataclass(frozen=True, slots=True)
class Created:
    """An actor that appeared."""

    id: int
    type: int
    location_cm: tuple[float, float, float]
    type_id: str
    attributes: dict[str, str]


@dataclass(slots=True)
class Frame:
    """One frame."""

    number: int
    duration_s: float
    elapsed_s: float
    created: list[Created] = field(default_factory=list)
    destroyed: list[int] = field(default_factory=list)
    attached: list[tuple[int, int]] = field(default_factory=list)
    """Child and parent."""
    tables: dict[Packet, np.ndarray] = field(default_factory=dict)
    platform_s: float | None = None


class _Reader:
    """Numbers and texts of one packet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def text(self) -> str:
        (length,) = self.take("<H")
        data = self._data[self._at : self._at + length]
        if len(data) < length:
            raise struct.error("a text ends too early")
        self._at += length
        return data.decode(errors="replace")

    def table(self, layout: np.dtype) -> np.ndarray:
        (count,) = self.take("<H")
        if self._at + count * layout.itemsize > len(self._data):
            raise struct.error("a table ends too early")
        rows = np.frombuffer(self._data, layout, count, self._at)
        self._at += count * layout.itemsize
        return rows


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of CARLA's recorder."""

    path: Path
    version: int
    map_name: str
    date_s: int
    _begin: int

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Raises: RecordingError when there is no such file, it cannot be read, or it is no recording."""
        try:
            if not path.is_file():
                raise RecordingError(f"File {path} not found on server")
            with path.open("rb") as file:
                head = file.read(len(recorder.HEADER) + 8 + 2)
                if len(head) < len(recorder.HEADER) + 10 or head[2 : len(recorder.HEADER)] != recorder.HEADER[2:]:
                    raise RecordingError(f"File {path} is not a CARLA recorder")
                (version,) = struct.unpack_from("<H", head)
                date_s, length = struct.unpack_from("<qH", head, len(recorder.HEADER))
                return cls(path, version, file.read(length).decode(errors="replace"), date_s, file.tell())
        except OSError as error:
            raise RecordingError(f"File {path} cannot be read on server ({error.strerror})") from error

    def frames(self) -> Iterator[Frame]:
        """The frames in order; the last one may lack packets. Raises: RecordingError for a damaged file."""
        frame: Frame | None = None
        with self.path.open("rb") as file:
            file.seek(self._begin)
            for kind, data in _packets(file):
                try:
                    if kind == Packet.FRAME_START:
                        if frame is not None:
                            yield frame
                        frame = Frame(*recorder.FRAME.unpack(data))
                    elif frame is not None:
                        _take(frame, kind, _Reader(data))
                except struct.error as error:
                    raise RecordingError(f"File {self.path} is damaged in a packet of kind {kind}: {error}") from error
        if frame is not None:
            yield frame

    def head(self) -> str:
        """What every report begins with."""
        date = time.strftime("%x %X", time.localtime(min(max(self.date_s, 0), 1 << 40)))
        return f"Version: {self.version}\nMap: {self.map_name}\nDate: {date}\n\n"


def _packets(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    layout = struct.Struct("<BI")
    while len(head := file.read(layout.size)) == layout.size:
        kind, size = layout.unpack(head)
        if size > MAX_PACKET_BYTES:
            raise RecordingError(f"File {file.name} is damaged: a packet of {size} bytes")
        data = file.read(size)
        if len(data) < size:
            return
        yield kind, data


def _take(frame: Frame, kind: int, reader: _Reader) -> None:
    """Put a packet's content into its frame; unknown kinds are passed over."""
    if kind == Packet.EVENT_ADD:
        (count,) = reader.take("<H")
        frame.created += [_created(reader) for _ in range(count)]
    elif kind == Packet.EVENT_DEL:
        (count,) = reader.take("<H")
        frame.destroyed += [reader.take("<I")[0] for _ in range(count)]
    elif kind == Packet.EVENT_PARENT:
        (count,) = reader.take("<H")
        frame.attached += [reader.take("<II") for _ in range(count)]  # pyright: ignore[reportArgumentType] - two numbers
    elif kind == Packet.PLATFORM_TIME:
        (frame.platform_s,) = reader.take("<d")
    elif kind in _TABLES:
        frame.tables[Packet(kind)] = reader.table(_TABLES[Packet(kind)])


def _created(reader: _Reader) -> Created:
    actor_id, kind, x, y, z, _, _, _, _ = reader.take("<IB6fI")
    type_id = reader.text()
    (count,) = reader.take("<H")
    attributes = {}
    for _ in range(count):
        reader.take("<B")
        name = reader.text()
        attributes[name] = reader.text()
    return Created(actor_id, kind, (x, y, z), type_id, attributes)


class _Report:
    """Lines up to a limit."""

    def __init__(self, head: str) -> None:
        self._parts = [head]
        self._size = len(head)

    def add(self, line: str) -> None:
        if self._size > MAX_REPORT_CHARACTERS:
            raise RecordingError(
                f"the report is longer than {MAX_REPORT_CHARACTERS} characters; ask without show_all, or record less"
            )
        self._parts.append(line + "\n")
        self._size += len(line) + 1

    def end(self, last: Frame | None) -> str:
        self._parts.append(f"\nFrames: {last.number if last else 0}\n")
        self._parts.append(f"Duration: {last.elapsed_s if last else 0.0:g} seconds\n")
        return "".join(self._parts)


def show_file_info(path: Path, show_all: bool) -> str:
    """Who appeared, vanished and collided; with show_all everything that each frame holds."""
    recording = Recording.open(path)
    report, frame = _Report(recording.head()), None
    for frame in recording.frames():
        met = frame.tables.get(Packet.COLLISION, np.empty(0, recorder.COLLISION))
        if not (show_all or frame.created or frame.destroyed or frame.attached or len(met)):
            continue
        report.add(f"Frame {frame.number} at {frame.elapsed_s:g} seconds")
        for actor in frame.created:
            report.add(f" Create {actor.id}: {actor.type_id} ({actor.type}) at ({_numbers(actor.location_cm)})")
            for name, value in actor.attributes.items():
                report.add(f"  {name} = {value}")
        for actor_id in frame.destroyed:
            report.add(f" Destroy {actor_id}")
        for child, parent in frame.attached:
            report.add(f" Parenting {child} with {parent} (parent)")
        for row in met:
            (first, second), (hero1, hero2) = row["ids"].tolist(), row["heroes"].tolist()
            marks = (" (hero) " if hero1 else "", " (hero) " if hero2 else "")
            report.add(f" Collision id {row['number']} between {first}{marks[0]} with {second}{marks[1]}")
        if show_all:
            _show_tables(report, frame)
    return report.end(frame)


def _show_tables(report: _Report, frame: Frame) -> None:
    titles = {
        Packet.POSITION: " Positions",
        Packet.LIGHT_STATE: " State traffic lights",
        Packet.VEHICLE: " Vehicle animations",
        Packet.WALKER: " Walker animations",
        Packet.VEHICLE_LIGHT: " Vehicle light animations",
        Packet.KINEMATICS: " Dynamic actors",
        Packet.BOUNDING_BOX: " Actor bounding boxes",
        Packet.LIGHT_TIMES: " Traffic Light time events",
    }
    for kind, title in titles.items():
        if kind not in frame.tables:
            continue
        rows = frame.tables[kind]
        report.add(f"{title}: {len(rows)}")
        for row in rows:
            report.add(f"  Id: {row['id']} {_row(kind, row)}")
    if frame.platform_s is not None:
        report.add(f" Current platform time: {frame.platform_s:g}")


def _row(kind: Packet, row: np.void) -> str:
    if kind is Packet.POSITION:
        return f"Location: ({_numbers(row['location_cm'])}) Rotation: ({_numbers(row['roll_pitch_yaw_deg'])})"
    if kind is Packet.LIGHT_STATE:
        return f"state: {row['state']} frozen: {int(row['frozen'])} elapsedTime: {row['elapsed_s']:g}"
    if kind is Packet.VEHICLE:
        pedals = f"Throttle: {row['throttle']:g} Brake: {row['brake']:g} Handbrake: {int(row['hand_brake'])}"
        return f"Steering: {row['steer']:g} {pedals} Gear: {row['gear']}"
    if kind is Packet.WALKER:
        return f"speed: {row['speed_mps']:g}"
    if kind is Packet.VEHICLE_LIGHT:
        return " ".join(name for bit, name in enumerate(_LIGHTS) if int(row["lights"]) >> bit & 1) or "None"
    if kind is Packet.KINEMATICS:
        turning = _numbers(row["turning_degps"])
        return f"linear_velocity: ({_numbers(row['velocity_mps'])}) angular_velocity: ({turning})"
    if kind is Packet.BOUNDING_BOX:
        return f"origin: ({_numbers(row['centre_cm'])}) extension: ({_numbers(row['extent_cm'])})"
    return f"green_time: {row['green_s']:g} yellow_time: {row['yellow_s']:g} red_time: {row['red_s']:g}"


def show_collisions(path: Path, category1: str, category2: str) -> str:
    """Collisions as they begin, between categories: o(ther), v(ehicle), w(alker), t(raffic light), h(ero), a(ny)."""
    recording = Recording.open(path)
    report, frame = _Report(recording.head()), None
    report.add(f"{'Time':>8} {'Types':>6} {'Id':>6} {'Actor 1':<35} {'Id':>6} {'Actor 2':<35}")
    actors: dict[int, Created] = {}
    before: set[tuple[int, int]] = set()
    for frame in recording.frames():
        actors |= {actor.id: actor for actor in frame.created}
        now = set()
        for row in frame.tables.get(Packet.COLLISION, ()):
            first, second = row["ids"].tolist()
            letters = _letter(actors, first), _letter(actors, second)
            wanted = zip((category1, category2), letters, row["heroes"].tolist(), strict=True)
            if not all(want in ("a", letter) or (want == "h" and hero) for want, letter, hero in wanted):
                continue
            now.add((first, second))
            if (first, second) not in before:
                names = _name(actors, first), _name(actors, second)
                report.add(
                    f"{frame.elapsed_s:>8.0f}   {letters[0]} {letters[1]}  {first:>6} {names[0]:<35} "
                    f"{second:>6} {names[1]:<35}"
                )
        before = now
    return report.end(frame)


def show_blocked(path: Path, min_time_s: float, min_distance_cm: float) -> str:
    """Who stood within a distance for at least a time, the longest first."""
    recording = Recording.open(path)
    report, frame = _Report(recording.head()), None
    report.add(f"{'Time':>8} {'Id':>6} {'Actor':<35} {'Duration':>10}")
    actors: dict[int, Created] = {}
    place: dict[int, np.ndarray] = {}
    since: dict[int, tuple[float, float]] = {}
    found: list[tuple[float, float, int]] = []
    for frame in recording.frames():
        actors |= {actor.id: actor for actor in frame.created}
        for row in frame.tables.get(Packet.POSITION, ()):
            actor_id = int(row["id"])
            moved_cm = np.linalg.norm(row["location_cm"] - place.get(actor_id, np.inf))
            if moved_cm < min_distance_cm:
                start_s, stood_s = since.get(actor_id, (frame.elapsed_s, 0.0))
                since[actor_id] = (start_s, stood_s + max(frame.duration_s, 0.0))
                continue
            start_s, stood_s = since.pop(actor_id, (0.0, 0.0))
            if stood_s >= min_time_s:
                found.append((stood_s, start_s, actor_id))
            place[actor_id] = row["location_cm"]
    found += [(stood_s, start_s, actor_id) for actor_id, (start_s, stood_s) in since.items() if stood_s >= min_time_s]
    for stood_s, start_s, actor_id in sorted(found, reverse=True):
        report.add(f"{start_s:>8.0f} {actor_id:>6} {_name(actors, actor_id):<35} {stood_s:>10.0f}")
    return report.end(frame)


def _letter(actors: dict[int, Created], actor_id: int) -> str:
    actor = actors.get(actor_id)
    return "o" if actor is None or actor.type >= len(CATEGORIES) else CATEGORIES[actor.type]


def _name(actors: dict[int, Created], actor_id: int) -> str:
    return actors[actor_id].type_id if actor_id in actors else ""


def _numbers(values: np.ndarray | tuple[float, ...]) -> str:
    return ", ".join(f"{float(value):g}" for value in values)
