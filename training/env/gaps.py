"""The free road around the ego in numbers: gaps along its way now and in the next seconds, beside it and behind.

Masks of 64 px show a car as a dozen pixels, and a small world model forgets it within a second of imagining. These
numbers say of the same scene what a driver reads off it: how far the way is free, who will cross it, whether there is
room beside. Only the privileged stream has them. Not in Raw2Drive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from training.expert import Scene, arc_position
from training.forecast import (
    TIMES_S,
    Kind,
    Others,
    Path,
    Presence,
    go_arcs_m,
    meeting,
    poses_ahead,
    presence,
)

GAP_SCALE_M = 40.0
"""A gap of this length, or none in the way, is 1."""
SPEED_SCALE_MPS = 10.0
EDGE_SCALE_M = 3.0
TIME_SCALE_S = float(TIMES_S[-1])
AHEAD_S = (0.0, 1.0, 2.0, 3.0, 4.5)
"""Moments of the gaps ahead; others are forecast at constant speed along their lanes."""
GAP_FIELDS: dict[str, slice] = {
    "ahead": slice(0, 5),
    "ahead_speed": slice(5, 6),
    "ahead_parked": slice(6, 7),
    "ahead_edges": slice(7, 9),
    "meeting": slice(9, 11),
    "left": slice(11, 16),
    "right": slice(16, 21),
    "light": slice(21, 22),
    "stop_sign": slice(22, 23),
    "emergency": slice(23, 24),
}
"""Where what stands. ahead: from the front bumper to who is on the way at the moments AHEAD_S [40 m]; ahead_speed: of
the nearest now, along the way [10 m/s]; ahead_parked: whether that will not move; ahead_edges: its left and right edge
beside the way's middle, left positive [3 m]; meeting: gap and time of the first place where an ego that goes on would
touch somebody who is not there yet [40 m, 6.5 s]; left, right: lane beside (1: same direction, 0.5: oncoming, 0: none),
gap and speed of the next ahead and of the next behind there; light, stop_sign: to the next stop line [40 m]; emergency:
to an emergency vehicle behind [40 m]. Without anybody gaps, times and speeds are 1."""
GAP_SIZE = 24
BACK_M, WAY_M = 40, 60
POINT_STEP = 2
"""Every second point of the way, two metres apart, is precise enough."""
SIDE_MARGIN_M = 0.45
"""Who comes closer to the ego's sides than this is in its way."""
MEETING_MARGIN_M, WALKER_MARGIN_M = 1.5, 2.0
CRUISE_MPS = 14.0
LANE_HALF_M = 1.2
"""Who reaches this close to the middle of a lane is in it."""
PASSED_LINE_M = 2.0
"""A stop line counts until the front is this far past it."""


@dataclass(frozen=True, slots=True)
class _Body:
    """Somebody beside the way, over the moments TIMES_S."""

    present: Presence
    speed_mps: float
    parked: bool
    kind: Kind

    @property
    def along_mps(self) -> float:
        """Speed along the way, now."""
        return self.speed_mps * float(self.present.along[0])


def gap_vector(scene: Scene) -> Float32[np.ndarray, " 24"]:
    """`GAP_FIELDS` for a scene whose others know their lanes (`PrivilegedView.scene` with ways)."""
    start_m = arc_position(scene)
    front_m = start_m + scene.half_length_m
    bodies = _beside_the_way(scene)
    half_width_m = scene.half_width_m + SIDE_MARGIN_M
    values = np.ones(GAP_SIZE, np.float32)
    values[GAP_FIELDS["ahead_parked"]] = values[GAP_FIELDS["ahead_edges"]] = 0.0
    _write_ahead(values, bodies, front_m, start_m, half_width_m)
    values[GAP_FIELDS["meeting"]] = _first_meeting(scene, bodies, start_m, half_width_m)
    values[GAP_FIELDS["left"]], values[GAP_FIELDS["right"]] = _beside(scene, bodies, start_m)
    values[GAP_FIELDS["light"]] = _line_m(scene.red_stop_m, front_m) / GAP_SCALE_M
    values[GAP_FIELDS["stop_sign"]] = _line_m(scene.sign_stop_m, front_m) / GAP_SCALE_M
    behind_m = [
        start_m - scene.half_length_m - float(body.present.high_m[0])
        for body in bodies
        if body.kind is Kind.EMERGENCY and body.present.beside[0]
    ]
    values[GAP_FIELDS["emergency"]] = _share(min((gap_m for gap_m in behind_m if gap_m > 0.0), default=np.inf))
    return values


def _beside_the_way(scene: Scene) -> list[_Body]:
    """Everybody whose present or forecast place lies beside the way."""
    low, high = max(scene.index - BACK_M, 0), min(scene.index + WAY_M, len(scene.corridor.points))
    path = Path(scene.corridor.points[low:high:POINT_STEP], scene.arc_m[low:high:POINT_STEP])
    others: Others = scene.others
    bodies = []
    for i in range(len(others)):
        poses = poses_ahead(others, i)
        present = presence(path, poses, float(others.half_length_m[i]), float(others.half_width_m[i]))
        if present.beside.any():
            bodies.append(_Body(present, float(others.speed_mps[i]), bool(others.parked[i]), Kind(others.kind[i])))
    return bodies


def _write_ahead(values: np.ndarray, bodies: list[_Body], front_m: float, start_m: float, half_width_m: float) -> None:
    """Gaps at the moments, and what is nearest now."""
    moments = np.searchsorted(TIMES_S, AHEAD_S)
    gaps_m = np.full(len(moments), np.inf)
    nearest: _Body | None = None
    for body in bodies:
        low_m = body.present.low_m[moments]
        inside = body.present.within(half_width_m)[moments] & (body.present.high_m[moments] > start_m)
        reached_m = np.where(inside, np.maximum(low_m - front_m, 0.0), np.inf)
        if reached_m[0] < gaps_m[0]:
            nearest = body
        gaps_m = np.minimum(gaps_m, reached_m)
    values[GAP_FIELDS["ahead"]] = np.minimum(gaps_m / GAP_SCALE_M, 1.0)
    if nearest is None or gaps_m[0] >= GAP_SCALE_M:
        return
    offset_m, reach_m = float(nearest.present.offset_m[0]), float(nearest.present.reach_m[0])
    values[GAP_FIELDS["ahead_speed"]] = np.clip(nearest.along_mps / SPEED_SCALE_MPS, -1.0, 1.0)
    values[GAP_FIELDS["ahead_parked"]] = nearest.parked
    edges_m = np.array([offset_m + reach_m, offset_m - reach_m])
    values[GAP_FIELDS["ahead_edges"]] = np.clip(edges_m / EDGE_SCALE_M, -1.0, 1.0)


def _first_meeting(scene: Scene, bodies: list[_Body], start_m: float, half_width_m: float) -> tuple[float, float]:
    """Gap before the first place, and time to it, where an ego that goes on would touch somebody who enters."""
    ego_m = go_arcs_m(start_m, scene.speed_mps, min(scene.speed_limit_mps, CRUISE_MPS))
    first_m, first_s = np.inf, TIME_SCALE_S
    for body in bodies:
        inside = body.present.within(half_width_m)
        if inside[0]:
            continue
        margin_m = WALKER_MARGIN_M if body.kind is Kind.WALKER else MEETING_MARGIN_M
        moment = meeting(body.present, ego_m, scene.half_length_m, half_width_m, margin_m)
        if moment is None:
            continue
        gap_m = float(body.present.low_m[moment]) - start_m - scene.half_length_m
        if gap_m < first_m:
            first_m, first_s = max(gap_m, 0.0), float(TIMES_S[moment])
    return _share(first_m), first_s / TIME_SCALE_S


def _beside(scene: Scene, bodies: list[_Body], start_m: float) -> tuple[np.ndarray, np.ndarray]:
    """The five numbers of the lane to the left and of the lane to the right."""
    lanes = scene.lanes
    if lanes is None:
        raise ValueError("the scene has no table of the lanes beside the route; take it from PrivilegedView.scene")
    left_m, right_m = float(lanes.left_m[scene.index]), float(lanes.right_m[scene.index])
    left = _lane(bodies, left_m, start_m, scene.half_length_m, 1.0 if lanes.left_same[scene.index] else 0.5)
    return left, _lane(bodies, right_m, start_m, scene.half_length_m, 1.0)


def _lane(bodies: list[_Body], offset_m: float, start_m: float, half_length_m: float, kind: float) -> np.ndarray:
    values = np.ones(5, np.float32)
    values[0] = 0.0 if np.isnan(offset_m) else kind
    if not values[0]:
        return values
    ahead_m = behind_m = GAP_SCALE_M
    for body in bodies:
        present = body.present
        apart_m = abs(float(present.offset_m[0]) - offset_m)
        if not present.beside[0] or apart_m > float(present.reach_m[0]) + LANE_HALF_M:
            continue
        if 0.5 * float(present.low_m[0] + present.high_m[0]) >= start_m:
            gap_m = max(float(present.low_m[0]) - start_m - half_length_m, 0.0)
            if gap_m < ahead_m:
                ahead_m, values[2] = gap_m, np.clip(body.along_mps / SPEED_SCALE_MPS, -1.0, 1.0)
        else:
            gap_m = max(start_m - half_length_m - float(present.high_m[0]), 0.0)
            if gap_m < behind_m:
                behind_m, values[4] = gap_m, np.clip(body.along_mps / SPEED_SCALE_MPS, -1.0, 1.0)
    values[1], values[3] = ahead_m / GAP_SCALE_M, behind_m / GAP_SCALE_M
    return values


def _line_m(lines_m: tuple[float, ...], front_m: float) -> float:
    """Distance to the next line, at most `GAP_SCALE_M`."""
    ahead_m = [line_m - front_m for line_m in lines_m if line_m - front_m > -PASSED_LINE_M]
    return min([max(gap_m, 0.0) for gap_m in ahead_m] + [GAP_SCALE_M])


def _share(gap_m: float) -> float:
    return min(gap_m / GAP_SCALE_M, 1.0)
