"""Plane curves of lines and arcs in OpenDRIVE's right-handed frame: x east, y north, heading counter-clockwise."""

import math
from dataclasses import dataclass

LINE_CURVATURE_PER_M = 1e-7
"""Below this curvature a segment is written as a line: over 1 km it deviates less than 5 cm."""
MIN_SEGMENT_M = 1e-3
"""Shorter segments are dropped: OpenDRIVE readers divide by the length."""


@dataclass(frozen=True)
class Pose:
    """A point in metres with a heading in radians."""

    x_m: float
    y_m: float
    heading_rad: float

    def moved(self, forward_m: float, right_m: float = 0.0) -> "Pose":
        """The pose displaced in its own frame, same heading."""
        cos, sin = math.cos(self.heading_rad), math.sin(self.heading_rad)
        return Pose(
            self.x_m + forward_m * cos + right_m * sin, self.y_m + forward_m * sin - right_m * cos, self.heading_rad
        )

    def turned(self, angle_rad: float) -> "Pose":
        """The pose rotated on the spot."""
        return Pose(self.x_m, self.y_m, self.heading_rad + angle_rad)


@dataclass(frozen=True)
class Segment:
    """A line or arc: start pose, length, signed curvature (positive bends left)."""

    start: Pose
    length_m: float
    curvature_per_m: float

    def at(self, s_m: float) -> Pose:
        """The pose s_m metres after the start."""
        turn_rad = self.curvature_per_m * s_m
        if abs(turn_rad) < 1e-9:
            return self.start.moved(s_m)
        chord_m = 2.0 * math.sin(turn_rad / 2.0) / self.curvature_per_m
        direction = self.start.turned(turn_rad / 2.0).moved(chord_m)
        return Pose(direction.x_m, direction.y_m, self.start.heading_rad + turn_rad)


@dataclass(frozen=True)
class Curve:
    """A chain of segments, each starting where the one before ends."""

    segments: tuple[Segment, ...]

    @property
    def length_m(self) -> float:
        """Total length."""
        return sum(segment.length_m for segment in self.segments)

    @property
    def min_radius_m(self) -> float:
        """Smallest radius of curvature, infinite for a straight line."""
        sharpest = max(abs(segment.curvature_per_m) for segment in self.segments)
        return math.inf if sharpest < LINE_CURVATURE_PER_M else 1.0 / sharpest

    @property
    def start(self) -> Pose:
        """First pose."""
        return self.segments[0].start

    @property
    def end(self) -> Pose:
        """Last pose."""
        return self.segments[-1].at(self.segments[-1].length_m)

    def at(self, s_m: float) -> Pose:
        """The pose s_m metres along the curve (clamped to the last segment's extension)."""
        for segment in self.segments[:-1]:
            if s_m <= segment.length_m:
                return segment.at(s_m)
            s_m -= segment.length_m
        return self.segments[-1].at(s_m)

    def sample(self, step_m: float) -> list[Pose]:
        """Poses from start to end, at most step_m apart."""
        count = max(2, math.ceil(self.length_m / step_m) + 1)
        return [self.at(self.length_m * k / (count - 1)) for k in range(count)]

    def joined(self, other: "Curve") -> "Curve":
        """This curve followed by another that starts at its end."""
        return Curve(self.segments + other.segments)


def wrap_rad(angle_rad: float) -> float:
    """The angle brought into [-pi, pi)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi


def arc_to(start: Pose, x_m: float, y_m: float) -> Segment:
    """The arc (or line) that leaves start along its heading and ends at the point."""
    dx_m, dy_m = x_m - start.x_m, y_m - start.y_m
    chord_m = math.hypot(dx_m, dy_m)
    half_turn_rad = wrap_rad(math.atan2(dy_m, dx_m) - start.heading_rad)
    if abs(half_turn_rad) < 1e-9:
        return Segment(start, chord_m, 0.0)
    curvature_per_m = 2.0 * math.sin(half_turn_rad) / chord_m
    return Segment(start, 2.0 * half_turn_rad / curvature_per_m, curvature_per_m)


def biarc(start: Pose, end: Pose) -> Curve:
    """Two arcs from one pose to another with continuous heading (equal tangent lengths at both ends)."""
    ax, ay = math.cos(start.heading_rad), math.sin(start.heading_rad)
    bx, by = math.cos(end.heading_rad), math.sin(end.heading_rad)
    vx, vy = end.x_m - start.x_m, end.y_m - start.y_m
    along_m = vx * (ax + bx) + vy * (ay + by)
    square_m2 = vx * vx + vy * vy
    spread = 1.0 - (ax * bx + ay * by)
    if spread < 1e-9:
        tangent_m = square_m2 / (2.0 * along_m)
    else:
        tangent_m = (math.sqrt(along_m**2 + 2.0 * spread * square_m2) - along_m) / (2.0 * spread)
    joint_x_m = (start.x_m + end.x_m + tangent_m * (ax - bx)) / 2.0
    joint_y_m = (start.y_m + end.y_m + tangent_m * (ay - by)) / 2.0
    first = arc_to(start, joint_x_m, joint_y_m)
    second = arc_to(first.at(first.length_m), end.x_m, end.y_m)
    return Curve(tuple(segment for segment in (first, second) if segment.length_m > MIN_SEGMENT_M))


def fillet(start: Pose, end: Pose) -> Curve | None:
    """Line, one arc as wide as fits, line; None where the two headings do not meet in a corner ahead."""
    turn_rad = wrap_rad(end.heading_rad - start.heading_rad)
    cross = math.sin(turn_rad)
    if abs(cross) < 0.2:
        return None
    vx, vy = end.x_m - start.x_m, end.y_m - start.y_m
    leg_in_m = (vx * math.sin(end.heading_rad) - vy * math.cos(end.heading_rad)) / cross
    leg_out_m = (math.cos(start.heading_rad) * vy - math.sin(start.heading_rad) * vx) / cross
    tangent_m = min(leg_in_m, leg_out_m)
    if tangent_m <= 0.5:
        return None
    radius_m = tangent_m / math.tan(abs(turn_rad) / 2.0)
    line_in = Segment(start, leg_in_m - tangent_m, 0.0)
    arc = Segment(line_in.at(line_in.length_m), radius_m * abs(turn_rad), math.copysign(1.0 / radius_m, turn_rad))
    line_out = Segment(arc.at(arc.length_m), leg_out_m - tangent_m, 0.0)
    return Curve(tuple(segment for segment in (line_in, arc, line_out) if segment.length_m > MIN_SEGMENT_M))


def connect(start: Pose, end: Pose) -> Curve:
    """The curve of a movement through a junction: a corner where there is one, otherwise two arcs."""
    return fillet(start, end) or biarc(start, end)
