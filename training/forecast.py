"""Where others will be in the next seconds, and where that meets the ego's way. All in the right-handed world frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float64, Int64

DECISION_S = 0.1
"""The driver decides this often."""
HORIZON_S = 6.5
STEP_S = 0.25
TURN_DECAY_S = (1.5, 8.0)
TURN_DECAY_MPS = (6.0, 10.0)
"""The turn rate is taken to fade after about this time: who is slow turns at a junction, who is fast in a long bend."""
LANE_MPS = 3.0
"""Who is faster than this follows its lane."""
GO_ACCEL_MPS2 = 1.8
HURRY_ACCEL_MPS2 = 2.8
SLACK_STEPS = 2
"""Ego and other must miss each other by half a second."""
TIMES_S = np.arange(0.0, HORIZON_S + 1e-6, STEP_S)


class Kind(IntEnum):
    """What somebody is."""

    VEHICLE = 0
    BICYCLE = 1
    WALKER = 2
    THING = 3
    EMERGENCY = 4


@dataclass(frozen=True, slots=True)
class Others:
    """Other road users and things as arrays."""

    pose: Float64[np.ndarray, "n 3"]
    speed_mps: Float64[np.ndarray, " n"]
    """Along the heading."""
    yaw_rate_radps: Float64[np.ndarray, " n"]
    half_length_m: Float64[np.ndarray, " n"]
    half_width_m: Float64[np.ndarray, " n"]
    kind: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, np.int64))
    """`Kind`s; left out: all are vehicles."""
    parked: Bool[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, bool))
    """Will not move: things, and vehicles with the hand brake on; left out: nobody is."""
    stood_s: Float64[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0))
    """How long each has been standing."""
    ways: np.ndarray = field(default_factory=lambda: np.empty(0, object))
    """The lane ahead of each as points (m, 3) about two metres apart, the first beside it; None: not known."""
    ids: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, np.int64))
    """Who is who from one decision to the next; left out: by position."""

    def __post_init__(self) -> None:
        if len(self.kind) != len(self.pose):
            object.__setattr__(self, "kind", np.full(len(self.pose), Kind.VEHICLE, np.int64))
        if len(self.parked) != len(self.pose):
            object.__setattr__(self, "parked", np.zeros(len(self.pose), bool))
        if len(self.stood_s) != len(self.pose):
            object.__setattr__(self, "stood_s", np.zeros(len(self.pose)))
        if len(self.ways) != len(self.pose):
            object.__setattr__(self, "ways", np.full(len(self.pose), None, object))
        if len(self.ids) != len(self.pose):
            object.__setattr__(self, "ids", np.arange(len(self.pose)))

    def __len__(self) -> int:
        return len(self.pose)

    def only(self, chosen: list[int]) -> Others:
        """Some of them."""
        rows = np.array(chosen, np.int64)
        return Others(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def nobody(cls) -> Others:
        """An empty road."""
        return cls(np.empty((0, 3)), np.empty(0), np.empty(0), np.empty(0), np.empty(0))


@dataclass(frozen=True, slots=True)
class Path:
    """The ego's way: poses about a metre apart with their arc lengths."""

    points: Float64[np.ndarray, "n 3"]
    arc_m: Float64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Presence:
    """Somebody beside a path at one or more moments, as arrays over the moments."""

    low_m: Float64[np.ndarray, " t"]
    """Arc length of the near end."""
    high_m: Float64[np.ndarray, " t"]
    offset_m: Float64[np.ndarray, " t"]
    """Of the middle, to the left of the path."""
    reach_m: Float64[np.ndarray, " t"]
    """Half extent across the path."""
    along: Float64[np.ndarray, " t"]
    """Cosine between heading and path."""
    beside: Bool[np.ndarray, " t"]
    """Whether it lies beside the path at all, not before its start or past its end."""

    def within(self, half_width_m: float) -> Bool[np.ndarray, " t"]:
        """Whether it reaches into a corridor of this half width around the path."""
        return self.beside & (np.abs(self.offset_m) < self.reach_m + half_width_m)


def poses_ahead(others: Others, i: int, times_s: np.ndarray = TIMES_S) -> Float64[np.ndarray, "t 3"]:
    """Poses of other i: constant speed, along its lane if that is known, else a turn that fades."""
    x, y, yaw = others.pose[i]
    if others.ways[i] is not None and others.speed_mps[i] > LANE_MPS:
        return _along(others.ways[i], others.pose[i], others.speed_mps[i] * times_s)
    decay_s = float(np.interp(others.speed_mps[i], TURN_DECAY_MPS, TURN_DECAY_S))
    turned = others.yaw_rate_radps[i] * decay_s * (1.0 - np.exp(-times_s / decay_s))
    headings = yaw + turned
    steps = np.diff(times_s, prepend=times_s[0])
    distance = others.speed_mps[i] * steps
    middle = np.concatenate([headings[:1], 0.5 * (headings[1:] + headings[:-1])])
    return np.stack(
        [x + np.cumsum(distance * np.cos(middle)), y + np.cumsum(distance * np.sin(middle)), headings], axis=1
    )


def _along(
    way: Float64[np.ndarray, "m 3"], pose: Float64[np.ndarray, " 3"], distance_m: Float64[np.ndarray, " t"]
) -> Float64[np.ndarray, "t 3"]:
    """Poses at distances along a way, as far beside it as now."""
    nearest = int(((way[:, :2] - pose[:2]) ** 2).sum(1).argmin())
    px, py, pyaw = way[nearest]
    beside_m = (pose[1] - py) * math.cos(pyaw) - (pose[0] - px) * math.sin(pyaw)
    start_m = (pose[0] - px) * math.cos(pyaw) + (pose[1] - py) * math.sin(pyaw)
    arc_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(way[nearest:, :2], axis=0).T))])
    at_m = start_m + distance_m
    beyond_m = np.maximum(at_m - arc_m[-1], 0.0)
    x, y = (np.interp(at_m, arc_m, way[nearest:, axis]) for axis in (0, 1))
    yaw = np.interp(at_m, arc_m, np.unwrap(way[nearest:, 2]))
    back_m = np.minimum(at_m, 0.0)
    x = x + (beyond_m + back_m) * np.cos(yaw) - beside_m * np.sin(yaw)
    y = y + (beyond_m + back_m) * np.sin(yaw) + beside_m * np.cos(yaw)
    return np.stack([x, y, yaw], axis=1)


def presence(path: Path, poses: Float64[np.ndarray, "t 3"], half_length_m: float, half_width_m: float) -> Presence:
    """Where a box with these poses lies relative to a path."""
    delta = poses[:, None, :2] - path.points[None, :, :2]
    nearest = np.argmin((delta**2).sum(2), axis=1)
    px, py, pyaw = path.points[nearest].T
    dx, dy = poses[:, 0] - px, poses[:, 1] - py
    ahead = dx * np.cos(pyaw) + dy * np.sin(pyaw)
    relative = poses[:, 2] - pyaw
    sine, cosine = np.abs(np.sin(relative)), np.abs(np.cos(relative))
    depth = cosine * half_length_m + sine * half_width_m
    middle = path.arc_m[nearest] + ahead
    return Presence(
        low_m=middle - depth,
        high_m=middle + depth,
        offset_m=dy * np.cos(pyaw) - dx * np.sin(pyaw),
        reach_m=sine * half_length_m + cosine * half_width_m,
        along=np.cos(relative),
        beside=np.abs(ahead) < depth + 1.0,
    )


def go_arcs_m(
    start_m: float, speed_mps: float, wanted_mps: float, accel_mps2: float = GO_ACCEL_MPS2
) -> Float64[np.ndarray, " t"]:
    """Arc lengths of an ego that goes on: to the wanted speed with a normal acceleration, unless told otherwise."""
    change_s = max(wanted_mps - speed_mps, 0.0) / accel_mps2
    t = np.minimum(TIMES_S, change_s)
    top = max(wanted_mps, speed_mps)
    return start_m + speed_mps * t + 0.5 * accel_mps2 * t**2 + top * (TIMES_S - t)


def meeting(
    present: Presence, ego_m: Float64[np.ndarray, " t"], half_length_m: float, half_width_m: float, margin_m: float
) -> int | None:
    """First moment (index) at which a going ego and somebody would touch or miss each other narrowly; None if never."""
    late = np.concatenate([ego_m[SLACK_STEPS:], np.full(SLACK_STEPS, ego_m[-1])])
    early = np.concatenate([np.full(SLACK_STEPS, ego_m[0]), ego_m[:-SLACK_STEPS]])
    touch = present.within(half_width_m) & (late + half_length_m + margin_m > present.low_m)
    touch &= early - half_length_m - margin_m < present.high_m
    hits = np.flatnonzero(touch)
    return int(hits[0]) if len(hits) else None


def wrap(angle_rad: float) -> float:
    """Angle in [-pi, pi)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi
