"""Lights, stop and yield signs of a junction: where they stand, whom they hold, who is green together."""

from __future__ import annotations

import math

from simulator.towns.families.roads import ASPHALT, DRIVING, Arm, Plan, Road, Signal, driving_lanes, width_m
from simulator.towns.geometry import Curve, Pose, wrap_rad

STRAIGHT_RAD = math.radians(45.0)
"""A movement that turns less goes straight on."""
POST_FROM_KERB_M = 0.9
POST_BEFORE_EXIT_M = 2.5
POST_BEFORE_EXIT_SHARE = 1.0 / 3.0
"""A far side light stands this far before the end of the junction, at most this share of the kerb's radius: it must not
stand where others turn."""
NEAREST_POST_M, FARTHEST_POST_M = 11.0, 40.0
"""Distance of a light from the stop line: low enough in the picture to be seen, and near enough."""
WIDEST_VIEW = math.tan(math.radians(27.0))
"""A light stays within this bearing for the driver of the innermost lane."""
SIGN_BEFORE_LINE_M = 0.4


def turn_rad(arms: list[Arm], a: int, b: int) -> float:
    """Change of heading from arm a to arm b, left positive."""
    return wrap_rad(arms[b].outward.heading_rad - arms[a].inward.heading_rad)


def light_phases(arms: list[Arm], signals: dict[int, Signal], paired: bool) -> tuple[tuple[int, ...], ...]:
    """Green together: opposite arms, or one arm at a time."""
    phases: list[list[int]] = []
    done: set[int] = set()
    for a in signals:
        if a in done:
            continue
        together = [a]
        if paired:
            together += [b for b in signals if b not in done | {a} and abs(turn_rad(arms, a, b)) <= STRAIGHT_RAD][:1]
        done |= set(together)
        phases.append([signals[b].id for b in together])
    return tuple(tuple(phase) for phase in phases)


def add_light(
    plan: Plan, arms: list[Arm], a: int, ways: dict[int, list[Road]], kerbs: dict[tuple[int, int], Road]
) -> Signal:
    """A light on the far right corner, or across the street where arm a ends at a T."""
    arm = arms[a]
    ahead = sorted(
        (b for b in range(len(arms)) if b != a and driving_lanes(arms[b].outbound)),
        key=lambda b: abs(turn_rad(arms, a, b)),
    )
    if abs(turn_rad(arms, a, ahead[0])) <= STRAIGHT_RAD:
        before_exit_m = min(POST_BEFORE_EXIT_M, POST_BEFORE_EXIT_SHARE * plan.kerb_m)
        road, s_m, t_m = _far_corner(arm, arms[ahead[0]], ways[a], before_exit_m)
    else:
        road, s_m, t_m = _opposite_kerb(arm, [kerb for (b, c), kerb in kerbs.items() if a not in (b, c)], ways[a])
    return _signal(plan, "light", arm, ways[a], (road, s_m, t_m))


def _far_corner(arm: Arm, across: Arm, ways: list[Road], before_exit_m: float) -> tuple[Road, float, float]:
    """(road, s, t) beside the lanes that go straight on, ahead enough to be in view of the innermost lane."""
    side_m = width_m(across.outbound, ASPHALT) + POST_FROM_KERB_M
    span_m = math.hypot(across.outward.x_m - arm.inward.x_m, across.outward.y_m - arm.inward.y_m)
    aside_m = side_m - arm.inbound[0].width_m / 2.0
    ahead_m = min(max(span_m - before_exit_m, NEAREST_POST_M, aside_m / WIDEST_VIEW), FARTHEST_POST_M)
    beyond_m = ahead_m - span_m
    if beyond_m > 0.0:
        length_m = across.road.curve.length_m
        s_m = beyond_m if across.at_start else length_m - beyond_m
        return across.road, s_m, across.inbound_sign * side_m
    place = across.outward.moved(beyond_m, side_m)
    road = min(ways, key=lambda way: _distance_m(way.curve.end, across.outward))
    return road, *project(road.curve, place)


def _opposite_kerb(arm: Arm, kerbs: list[Road], ways: list[Road]) -> tuple[Road, float, float]:
    """(road, s, t) on the kerb that faces the arm; without one, beside the arm's own way."""
    if not kerbs:
        road = ways[-1]
        s_m = road.curve.length_m - POST_BEFORE_EXIT_M
        return road, s_m, -(width_m(road.sections[0].profile.right, ASPHALT) + POST_FROM_KERB_M)
    line = arm.inward.moved(0.0, width_m(arm.inbound, frozenset({DRIVING})) / 2.0)

    def aside_m(place: Pose) -> float:
        dx, dy = place.x_m - line.x_m, place.y_m - line.y_m
        return abs(dx * math.sin(line.heading_rad) - dy * math.cos(line.heading_rad))

    road, s_m = min(
        ((kerb, kerb.curve.length_m * k / 20.0) for kerb in kerbs for k in range(1, 20)),
        key=lambda at: aside_m(at[0].curve.at(at[1])),
    )
    ratio = s_m / road.curve.length_m
    smooth = ratio * ratio * (3.0 - 2.0 * ratio)
    strips = road.sections[0].profile.right
    asphalt_m = sum(s.width_m + (s.last_width_m - s.width_m) * smooth for s in strips if s.kind in ASPHALT)
    return road, s_m, -(asphalt_m + POST_FROM_KERB_M)


def _distance_m(a: Pose, b: Pose) -> float:
    return math.hypot(a.x_m - b.x_m, a.y_m - b.y_m)


def project(curve: Curve, place: Pose) -> tuple[float, float]:
    """(s, t) of a point on a curve, t positive to the left."""
    count = max(8, int(curve.length_m))
    s_m = min((curve.length_m * k / count for k in range(count + 1)), key=lambda s: _distance_m(curve.at(s), place))
    for _ in range(20):
        base = curve.at(s_m)
        dx, dy = place.x_m - base.x_m, place.y_m - base.y_m
        along_m = dx * math.cos(base.heading_rad) + dy * math.sin(base.heading_rad)
        s_m = min(max(s_m + 0.7 * along_m, 0.0), curve.length_m)
    base = curve.at(s_m)
    dx, dy = place.x_m - base.x_m, place.y_m - base.y_m
    return s_m, dy * math.cos(base.heading_rad) - dx * math.sin(base.heading_rad)


def add_sign(plan: Plan, kind: str, arm: Arm, ways: list[Road]) -> Signal:
    """A sign beside the stop line, on the right."""
    s_m = SIGN_BEFORE_LINE_M if arm.at_start else arm.road.curve.length_m - SIGN_BEFORE_LINE_M
    return _signal(
        plan, kind, arm, ways, (arm.road, s_m, arm.inbound_sign * (width_m(arm.inbound, ASPHALT) + POST_FROM_KERB_M))
    )


def _signal(plan: Plan, kind: str, arm: Arm, ways: list[Road], place: tuple[Road, float, float]) -> Signal:
    """A signal at (road, s, t) turned to the traffic of an arm: its heading is the direction of travel."""
    road, s_m, t_m = place
    offset_rad = wrap_rad(arm.inward.heading_rad - road.curve.at(s_m).heading_rad)
    return Signal(plan.signal_id(), kind, road.id, s_m, t_m, offset_rad, tuple(way.id for way in ways))
