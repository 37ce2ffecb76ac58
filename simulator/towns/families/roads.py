"""What a town of a family is made of: cross-sections, roads with lane sections, junctions, signals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.towns.geometry import Curve, Pose

DRIVING, BIKING, PARKING, SHOULDER, SIDEWALK = "driving", "biking", "parking", "shoulder", "sidewalk"


class DrawError(Exception):
    """A random draw that cannot be built; the next one is tried."""


class Strip(NamedTuple):
    """One lane of a cross-section; `mark` is painted on its outer edge."""

    kind: str
    width_m: float
    mark: str = "none"
    end_width_m: float | None = None
    """Width at the end of its lane section where it differs."""

    @property
    def last_width_m(self) -> float:
        return self.width_m if self.end_width_m is None else self.end_width_m


Strips = tuple[Strip, ...]
"""The lanes of one side of a road from the centre outwards; driving lanes come first."""


def driving_lanes(strips: Strips) -> int:
    """Number of driving lanes."""
    return sum(strip.kind == DRIVING for strip in strips)


def width_m(strips: Strips, kinds: frozenset[str] | None = None) -> float:
    """Summed width, of the given kinds only."""
    return sum(strip.width_m for strip in strips if kinds is None or strip.kind in kinds)


ASPHALT = frozenset({DRIVING, BIKING, PARKING, SHOULDER})


@dataclass(frozen=True)
class Profile:
    """Cross-section of a road; `right` runs along its reference line, `left` against it."""

    right: Strips
    left: Strips
    centre_mark: str = "solid"

    @property
    def total_m(self) -> float:
        """Width of the wider side."""
        return max(width_m(self.right), width_m(self.left))


class Cubic(NamedTuple):
    """A piece of an elevation profile: height a + b ds + c ds^2 + d ds^3 from s_m on."""

    s_m: float
    a: float
    b: float
    c: float
    d: float


class Section(NamedTuple):
    """A lane section."""

    start_m: float
    profile: Profile


class Link(NamedTuple):
    """What a road's end is connected to: a junction, or the `contact` end of a road."""

    element: str
    id: int
    contact: str = ""


def to_junction(number: int) -> Link:
    """The link to a junction."""
    return Link("junction", number)


@dataclass
class Road:
    """A road; `lanes_before` and `lanes_after` name the linked lane beyond each end by own lane id."""

    id: int
    curve: Curve
    heights: tuple[Cubic, ...]
    sections: tuple[Section, ...]
    speed_kmh: int
    kind: str = "town"
    junction: int = -1
    before: Link | None = None
    after: Link | None = None
    lanes_before: dict[int, int] = field(default_factory=dict)
    lanes_after: dict[int, int] = field(default_factory=dict)

    def height_m(self, s_m: float) -> float:
        """Height of the reference line."""
        piece = next((p for p in reversed(self.heights) if p.s_m <= s_m), self.heights[0])
        ds = s_m - piece.s_m
        return piece.a + ds * (piece.b + ds * (piece.c + ds * piece.d))


class Connection(NamedTuple):
    """A way into a junction: from a road's lanes onto those of a connecting road that starts there."""

    incoming: int
    connecting: int
    lanes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Signal:
    """A light, stop or yield sign: place on a road, heading against the road, and the roads that obey it."""

    id: int
    kind: str
    road: int
    s_m: float
    t_m: float
    heading_offset_rad: float
    held: tuple[int, ...]


@dataclass(frozen=True)
class Junction:
    """A junction; `phases` hold the ids of lights that are green together."""

    id: int
    connections: tuple[Connection, ...]
    signals: tuple[Signal, ...] = ()
    phases: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Arm:
    """One end of a road seen from its junction; `outward` is its reference line's end, heading away."""

    road: Road
    at_start: bool

    @property
    def contact(self) -> str:
        """OpenDRIVE contact point."""
        return "start" if self.at_start else "end"

    @property
    def outward(self) -> Pose:
        """Centre line where traffic leaves the junction."""
        return self.road.curve.start if self.at_start else self.road.curve.end.turned(math.pi)

    @property
    def inward(self) -> Pose:
        """Centre line where traffic enters the junction."""
        return self.outward.turned(math.pi)

    @property
    def profile(self) -> Profile:
        """Cross-section at the junction."""
        return self.road.sections[0 if self.at_start else -1].profile

    @property
    def inbound(self) -> Strips:
        """Lanes right of traffic that enters."""
        return self.profile.left if self.at_start else self.profile.right

    @property
    def outbound(self) -> Strips:
        """Lanes right of traffic that leaves."""
        return self.profile.right if self.at_start else self.profile.left

    @property
    def inbound_sign(self) -> int:
        """Sign of the OpenDRIVE ids of the inbound lanes."""
        return 1 if self.at_start else -1

    @property
    def z_m(self) -> float:
        """Height at the junction."""
        return self.road.height_m(0.0 if self.at_start else self.road.curve.length_m)


@dataclass(frozen=True)
class Approach:
    """An arm with a stop line, a zebra crossing inside the junction, or both."""

    arm: Arm
    stop_line: bool
    zebra: bool


@dataclass
class Plan:
    """A whole town, with counters for the ids that are handed out in order."""

    roads: list[Road] = field(default_factory=list)
    junctions: list[Junction] = field(default_factory=list)
    approaches: list[Approach] = field(default_factory=list)
    kerb_m: float = 7.5
    """Radius of the kerbs at corners."""
    _road: int = 0
    _junction: int = 1000
    _signal: int = 2000

    def road_id(self) -> int:
        """A fresh road id."""
        self._road += 1
        return self._road

    def junction_id(self) -> int:
        """A fresh junction id."""
        self._junction += 1
        return self._junction

    def signal_id(self) -> int:
        """A fresh signal id."""
        self._signal += 1
        return self._signal


def flat(z_m: float) -> tuple[Cubic, ...]:
    """A level elevation profile."""
    return (Cubic(0.0, z_m, 0.0, 0.0, 0.0),)


def smooth_heights(points: list[tuple[float, float]]) -> tuple[Cubic, ...]:
    """Cubics through (s, z) points in order of s: level at both ends, continuous slope everywhere."""
    slopes = [0.0] * len(points)
    for i in range(1, len(points) - 1):
        slopes[i] = (points[i + 1][1] - points[i - 1][1]) / (points[i + 1][0] - points[i - 1][0])
    pieces = []
    for (s0, z0), (s1, z1), b0, b1 in zip(points, points[1:], slopes, slopes[1:], strict=False):
        ds, dz = s1 - s0, z1 - z0
        c = (3.0 * dz / ds - 2.0 * b0 - b1) / ds
        d = (b0 + b1 - 2.0 * dz / ds) / ds**2
        pieces.append(Cubic(s0, z0, b0, c, d))
    return tuple(pieces)


def steepest(heights: tuple[Cubic, ...], length_m: float) -> float:
    """Largest slope (absolute) of an elevation profile."""
    ends = [piece.s_m for piece in heights[1:]] + [length_m]
    found = 0.0
    for piece, end_m in zip(heights, ends, strict=True):
        for k in range(9):
            ds = (end_m - piece.s_m) * k / 8.0
            found = max(found, abs(piece.b + ds * (2.0 * piece.c + 3.0 * ds * piece.d)))
    return found
