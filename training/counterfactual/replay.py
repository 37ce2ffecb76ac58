"""What comes of an ego motion among the others of a log: contacts, speeds, ways off the road, progress.

Others go where they went in the log, with one exception: who follows the ego brakes for one that is slower than the
logged one or pulls in before it (intelligent driver model, Treiber et al. 2000). A contact that a follower makes
nevertheless, from behind, is marked: it says nothing about the ego's motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float64, Int64

from eval.criteria import TICK_S
from training import bev
from training.counterfactual import log as logs
from training.counterfactual.log import EpisodeLog
from training.counterfactual.motion import logged_motion
from training.counterfactual.surface import OUTSIDE_SHARE, Surface, outside_share

HORIZON_TICKS = 60
"""Length of a future: 3 s."""
WAY_TICKS = 60
"""The ways of others are known so much longer, as far as the log goes; then they go straight on."""
CONTACT_M = 0.05
"""The ego's box is so much larger on every side where contacts are looked for: a simulator keeps bodies apart, so boxes
that collide need not overlap at the end of a tick."""
REACH_M = 12.0
"""Farther apart than this two middles the boxes are not compared."""
FOLLOWING_MPS = 0.5
FOLLOWING_COS = 0.5
"""Who follows the ego has at least this cosine between the headings."""
FOLLOWING_M = 60.0
BESIDE_M = 0.3
"""Side distance that a follower keeps."""
SLOWER_M = 0.25
"""A follower reacts to an ego that lags so far behind the logged one on its way."""
IDM_GAP_M, IDM_HEADWAY_S, IDM_ACCEL_MPS2, IDM_BRAKE_MPS2, IDM_HARDEST_MPS2 = 2.0, 1.0, 1.5, 3.0, 8.0
SAME_WAY_COS = 0.5
NO = -1
"""No tick, nobody."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everybody around an ego from tick `base` of a log on; t = HORIZON_TICKS, w = t + WAY_TICKS, n others."""

    base: int
    who: Int64[np.ndarray, " n"]
    """Columns of the log that they have."""
    ego_half_m: Float64[np.ndarray, " 2"]
    logged: Float64[np.ndarray, "t+1 4"]
    """The logged ego's motion."""
    pose: Float64[np.ndarray, "w+1 n 3"]
    """Poses of the others; who is absent keeps its last or first one."""
    velocity: Float64[np.ndarray, "t+1 n 2"]
    half_m: Float64[np.ndarray, "t+1 n 2"]
    present: Bool[np.ndarray, "t+1 n"]
    arc_m: Float64[np.ndarray, "w+1 n"]
    """Arc lengths of the ways."""
    follows: Bool[np.ndarray, " n"]
    """Who may be a follower of the ego."""
    logged_arc_m: Float64[np.ndarray, "t+1 n"]
    """Where the logged ego is on each follower's way; infinite when it is not on it."""
    points: Float64[np.ndarray, "p 3"]
    """Route points about a metre apart, from a little behind the ego on."""
    route_arc_m: Float64[np.ndarray, " p"]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What comes of k motions. Ticks count from the base; NO: it does not happen."""

    contact_tick: Int64[np.ndarray, " k"]
    """First tick at which ego and somebody touch."""
    partner: Int64[np.ndarray, " k"]
    """Index of the other."""
    impact_mps: Float64[np.ndarray, " k"]
    """Size of the relative velocity at that tick."""
    struck: Bool[np.ndarray, " k"]
    """The contact is a follower's, from behind."""
    clearance_m: Float64[np.ndarray, " k"]
    """Smallest distance between ego and anybody before a contact; infinite when nobody comes near."""
    clearance_tick: Int64[np.ndarray, " k"]
    off_road_tick: Int64[np.ndarray, " k"]
    """First tick at which too much of the footprint is off the road."""
    outside_share: Float64[np.ndarray, " k"]
    """Largest share of the footprint beside the road."""
    progress_m: Float64[np.ndarray, " k"]
    """Along the route, until the end or the first failure."""
    others: Float64[np.ndarray, "k t+1 n 3"]
    """Poses of the others as the followers react."""

    def failure_tick(self) -> Int64[np.ndarray, " k"]:
        """The first contact or way off the road; NO for a safe future."""
        big = np.iinfo(np.int64).max
        first = np.minimum(
            np.where(self.contact_tick == NO, big, self.contact_tick),
            np.where(self.off_road_tick == NO, big, self.off_road_tick),
        )
        return np.where(first == big, NO, first)


def make_scene(log: EpisodeLog, base: int) -> Scene:
    """The scene from a tick on. Raises: ValueError when the log ends before the horizon."""
    end = base + HORIZON_TICKS
    if base < 0 or end >= log.ticks:
        raise ValueError(f"tick {base} of {log.name}: the log has {log.ticks} ticks, a future needs {HORIZON_TICKS}")
    there = (log.shown[base : end + 1] != logs.ABSENT).any(0)
    last = min(end + WAY_TICKS, log.ticks - 1)
    bodies = log.bodies[base : last + 1, there].astype(np.float64)
    shown = log.shown[base : last + 1, there] != logs.ABSENT
    pose = _known_poses(bodies, shown, HORIZON_TICKS + WAY_TICKS + 1)
    steps = np.hypot(*np.moveaxis(np.diff(pose[..., :2], axis=0), -1, 0))
    logged = logged_motion(log.ego[base : end + 1])
    channel = log.shown[base : end + 1, there].max(0)
    moving = np.isin(channel, (bev.VEHICLE, bev.BICYCLE, bev.EMERGENCY))
    horizon = slice(0, HORIZON_TICKS + 1)
    start = max(int(log.route_index[base]) - 5, 0)
    points = log.corridor[start : start + 150, :3]
    arc_m = np.concatenate([np.zeros((1, pose.shape[1])), np.cumsum(steps, 0)])
    speed = np.hypot(bodies[0, :, logs.VX], bodies[0, :, logs.VY])
    follows = moving & shown[0] & (speed > FOLLOWING_MPS) & _is_behind(pose[0], logged[0])
    scene = Scene(
        base=base,
        who=np.flatnonzero(there),
        ego_half_m=log.ego_half_m.astype(np.float64),
        logged=logged,
        pose=pose,
        velocity=bodies[horizon, :, logs.VX : logs.VY + 1].copy(),
        half_m=bodies[horizon, :, logs.HALF_LENGTH :].copy(),
        present=shown[horizon].copy(),
        arc_m=arc_m,
        follows=follows,
        logged_arc_m=np.full((HORIZON_TICKS + 1, pose.shape[1]), np.inf),
        points=np.ascontiguousarray(points),
        route_arc_m=np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points[:, :2], axis=0).T))]),
    )
    for i in np.flatnonzero(follows):
        for t in range(HORIZON_TICKS + 1):
            arc, _ = on_way(pose, arc_m, i, logged[t], scene.ego_half_m, scene.half_m[t, i], 0.0)
            scene.logged_arc_m[t, i] = arc
    return scene


def _is_behind(pose: np.ndarray, ego: np.ndarray) -> np.ndarray:
    """(n,) who has the ego before it, near and with about the same heading."""
    dx, dy = ego[0] - pose[:, 0], ego[1] - pose[:, 1]
    ahead = dx * np.cos(pose[:, 2]) + dy * np.sin(pose[:, 2])
    return (ahead > 0.0) & (np.hypot(dx, dy) < FOLLOWING_M) & (np.cos(pose[:, 2] - ego[2]) > FOLLOWING_COS)


def _known_poses(bodies: np.ndarray, shown: np.ndarray, ticks: int) -> np.ndarray:
    """Poses (ticks, n, 3); before and after an actor is there it stands, after the log it goes straight on."""
    pose = np.zeros((ticks, bodies.shape[1], 3))
    known = len(bodies)
    for i in range(bodies.shape[1]):
        seen = np.flatnonzero(shown[:, i])
        source = seen[np.clip(np.searchsorted(seen, np.arange(known), side="right") - 1, 0, None)]
        pose[:known, i] = bodies[source, i, :3]
        pose[:known, i, 2] = np.unwrap(pose[:known, i, 2])
        if shown[-1, i]:
            after_s = TICK_S * np.arange(1, ticks - known + 1)
            pose[known:, i, :2] = pose[known - 1, i, :2] + after_s[:, None] * bodies[-1, i, logs.VX : logs.VY + 1]
        else:
            pose[known:, i, :2] = pose[known - 1, i, :2]
        pose[known:, i, 2] = pose[known - 1, i, 2]
    return pose


@numba.njit(cache=True, nogil=True)
def separation(a, ha, wa, b, hb, wb):  # pragma: no cover - compiled
    """Signed gap of two boxes (pose, half length, half width) by separating axes: not positive if they overlap."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    ca, sa, cb, sb = math.cos(a[2]), math.sin(a[2]), math.cos(b[2]), math.sin(b[2])
    cosine = abs(ca * cb + sa * sb)
    sine = abs(ca * sb - sa * cb)
    gap = abs(dx * ca + dy * sa) - (ha + (hb * cosine + wb * sine))
    gap = max(gap, abs(dy * ca - dx * sa) - (wa + (hb * sine + wb * cosine)))
    gap = max(gap, abs(dx * cb + dy * sb) - (hb + (ha * cosine + wa * sine)))
    return max(gap, abs(dy * cb - dx * sb) - (wb + (ha * sine + wa * cosine)))


@numba.njit(cache=True, nogil=True)
def touching(ego, half, other, half_other):  # pragma: no cover - compiled
    """Separation of an ego's enlarged box and another one: not positive where they are in contact."""
    return separation(ego, half[0] + CONTACT_M, half[1] + CONTACT_M, other, half_other[0], half_other[1])


@numba.njit(cache=True, nogil=True)
def _corners_to_box(a, ha, wa, b, hb, wb):  # pragma: no cover - compiled
    """Smallest distance of a corner of box a to box b."""
    ca, sa, cb, sb = math.cos(a[2]), math.sin(a[2]), math.cos(b[2]), math.sin(b[2])
    best = 1e18
    for long in (-ha, ha):
        for wide in (-wa, wa):
            dx = a[0] + long * ca - wide * sa - b[0]
            dy = a[1] + long * sa + wide * ca - b[1]
            ahead = max(abs(dx * cb + dy * sb) - hb, 0.0)
            left = max(abs(dy * cb - dx * sb) - wb, 0.0)
            best = min(best, math.hypot(ahead, left))
    return best


@numba.njit(cache=True, nogil=True)
def distance(a, ha, wa, b, hb, wb):  # pragma: no cover - compiled
    """Distance of two boxes; 0 if they overlap. Of disjoint convex shapes one is nearest at a corner."""
    if separation(a, ha, wa, b, hb, wb) <= 0.0:
        return 0.0
    return min(_corners_to_box(a, ha, wa, b, hb, wb), _corners_to_box(b, hb, wb, a, ha, wa))


@numba.njit(cache=True, nogil=True)
def on_way(pose, arc, i, ego, ego_half, half, after):  # pragma: no cover - compiled
    """(arc length, half extent along) of an ego on the way of other i beyond an arc length; infinite if it is not."""
    best, best_arc, best_yaw, best_left = 1e18, np.inf, 0.0, 0.0
    for k in range(len(pose) - 1):
        if arc[k + 1, i] < after:
            continue
        length = arc[k + 1, i] - arc[k, i]
        yaw = pose[k, i, 2]
        dx, dy = ego[0] - pose[k, i, 0], ego[1] - pose[k, i, 1]
        if length > 1e-6:
            ux = (pose[k + 1, i, 0] - pose[k, i, 0]) / length
            uy = (pose[k + 1, i, 1] - pose[k, i, 1]) / length
        else:
            ux, uy = math.cos(yaw), math.sin(yaw)
        along = dx * ux + dy * uy
        if k < len(pose) - 2:
            along = min(along, length)
        along = max(along, 0.0)
        off = math.hypot(dx - along * ux, dy - along * uy)
        if off < best:
            best, best_arc, best_yaw, best_left = off, arc[k, i] + along, yaw, dy * ux - dx * uy
    sine, cosine = abs(math.sin(ego[2] - best_yaw)), abs(math.cos(ego[2] - best_yaw))
    across = sine * ego_half[0] + cosine * ego_half[1]
    extent = cosine * ego_half[0] + sine * ego_half[1]
    if best < 1e17 and abs(best_left) < across + half[1] + BESIDE_M and best < extent + across + half[1] + BESIDE_M:
        return best_arc, extent
    return np.inf, extent


@numba.njit(cache=True, nogil=True)
def idm_accel(speed, wanted, gap, closing):  # pragma: no cover - compiled
    """Acceleration of the intelligent driver model, not below the hardest braking."""
    free = 1.0 - (speed / max(wanted, 0.1)) ** 4
    if not math.isfinite(gap):
        return max(IDM_ACCEL_MPS2 * free, -IDM_HARDEST_MPS2)
    brake = speed * closing / (2.0 * math.sqrt(IDM_ACCEL_MPS2 * IDM_BRAKE_MPS2))
    wanted_gap = IDM_GAP_M + max(speed * IDM_HEADWAY_S + brake, 0.0)
    value = IDM_ACCEL_MPS2 * (free - (wanted_gap / max(gap, 0.1)) ** 2)
    return max(value, -IDM_HARDEST_MPS2)


@numba.njit(cache=True, nogil=True)
def _place(pose, arc, i, at, out):  # pragma: no cover - compiled
    """Pose of other i at an arc length of its way."""
    k = 0
    while k + 2 < len(pose) and arc[k + 1, i] < at:
        k += 1
    length = arc[k + 1, i] - arc[k, i]
    share = min(max((at - arc[k, i]) / length, 0.0), 1.0) if length > 1e-9 else 0.0
    for c in range(3):
        out[c] = pose[k, i, c] + share * (pose[k + 1, i, c] - pose[k, i, c])


@numba.njit(cache=True, nogil=True)
def _follow(  # noqa: PLR0913  # pragma: no cover - compiled
    motion, half, pose, arc, half_other, follows, logged_arc, others, speeds
):
    """Put the followers of an ego where they brake to; speeds (t + 1, n): their own, below 0 where as logged."""
    for i in range(pose.shape[1]):
        if not follows[i]:
            continue
        at, speed, late = 0.0, 0.0, False
        for t in range(1, len(motion)):
            logged_speed = (arc[t, i] - arc[t - 1, i]) / TICK_S
            if not late:
                at, speed = arc[t - 1, i], logged_speed
            ego_at, extent = on_way(pose, arc, i, motion[t], half, half_other[t, i], at)
            gap = np.inf
            closing = 0.0
            if math.isfinite(ego_at) and ego_at > at and ego_at < logged_arc[t, i] - SLOWER_M:
                gap = ego_at - extent - at - half_other[t, i, 0]
                closing = speed - motion[t, 3]
            if not late and not math.isfinite(gap):
                continue
            accel = idm_accel(speed, max(logged_speed, speed, 1.0), gap, closing)
            if not late and accel > (logged_speed - speed) / TICK_S:
                continue
            speed = max(speed + accel * TICK_S, 0.0)
            at += speed * TICK_S
            late = True
            if at >= arc[t, i]:  # caught up with its log
                late = False
                continue
            _place(pose, arc, i, at, others[t, i])
            speeds[t, i] = speed


@numba.njit(cache=True, nogil=True)
def _contacts(motion, half, others, speeds, velocity, half_other, present, result):  # pragma: no cover - compiled
    """First contact and smallest clearance. result: tick, partner, relative speed, struck, clearance, its tick."""
    result[0], result[1], result[2], result[3], result[4], result[5] = NO, NO, 0.0, 0.0, np.inf, NO
    for t in range(len(motion)):
        ego = motion[t]
        for i in range(others.shape[1]):
            if not present[t, i]:
                continue
            other = others[t, i]
            reach = REACH_M + half_other[t, i, 0]
            if abs(other[0] - ego[0]) > reach or abs(other[1] - ego[1]) > reach:
                continue
            gap = distance(ego, half[0], half[1], other, half_other[t, i, 0], half_other[t, i, 1])
            if gap < result[4]:
                result[4], result[5] = gap, t
            if gap > 2.0 * CONTACT_M or touching(ego, half, other, half_other[t, i]) > 0.0:
                continue
            vx, vy = velocity[t, i, 0], velocity[t, i, 1]
            if speeds[t, i] >= 0.0:
                vx, vy = speeds[t, i] * math.cos(other[2]), speeds[t, i] * math.sin(other[2])
            c, s = math.cos(ego[2]), math.sin(ego[2])
            relative = math.hypot(ego[3] * c - vx, ego[3] * s - vy)
            if result[0] != NO and relative <= result[2]:
                continue
            behind = (other[0] - ego[0]) * c + (other[1] - ego[1]) * s < -0.5 * half[0]
            faster = vx * c + vy * s > ego[3]
            same_way = math.cos(other[2] - ego[2]) > SAME_WAY_COS
            result[0], result[1], result[2], result[3] = t, i, relative, 1.0 if behind and faster and same_way else 0.0
        if result[0] != NO:
            return


@numba.njit(cache=True, nogil=True)
def _off_road(motion, half, drivable, origin):  # pragma: no cover - compiled
    """(first tick off the road, largest share outside)."""
    first, most = NO, 0.0
    for t in range(len(motion)):
        share = outside_share(drivable, origin, motion[t, 0], motion[t, 1], motion[t, 2], half[0], half[1])
        most = max(most, share)
        if first == NO and share > OUTSIDE_SHARE:
            first = t
    return first, most


@numba.njit(cache=True, nogil=True)
def _route_arc(points, arc, x, y):  # pragma: no cover - compiled
    best, found = 1e18, 0
    for k in range(len(points)):
        off = (points[k, 0] - x) ** 2 + (points[k, 1] - y) ** 2
        if off < best:
            best, found = off, k
    dx, dy = x - points[found, 0], y - points[found, 1]
    return arc[found] + dx * math.cos(points[found, 2]) + dy * math.sin(points[found, 2])


@numba.njit(cache=True, nogil=True)
def _replay(  # noqa: PLR0913  # pragma: no cover - compiled
    motions,
    half,
    pose,
    arc,
    velocity,
    half_other,
    present,
    follows,
    logged_arc,
    drivable,
    origin,
    points,
    route_arc,
    table,
    others,
):
    ticks = motions.shape[1]
    speeds = np.empty((ticks, pose.shape[1]))
    for k in range(len(motions)):
        others[k] = pose[:ticks]
        speeds[:] = -1.0
        _follow(motions[k], half, pose, arc, half_other, follows, logged_arc, others[k], speeds)
        _contacts(motions[k], half, others[k], speeds, velocity, half_other, present, table[k])
        table[k, 6], table[k, 7] = _off_road(motions[k], half, drivable, origin)
        end = ticks - 1
        if table[k, 0] != NO:
            end = min(end, int(table[k, 0]))
        if table[k, 6] != NO:
            end = min(end, int(table[k, 6]))
        first, last = motions[k, 0], motions[k, end]
        table[k, 8] = _route_arc(points, route_arc, last[0], last[1]) - _route_arc(
            points, route_arc, first[0], first[1]
        )


def replay(scene: Scene, surface: Surface, motions: Float64[np.ndarray, "k t+1 4"]) -> Outcomes:
    """What comes of each motion."""
    table = np.empty((len(motions), 9))
    others = np.empty((len(motions), HORIZON_TICKS + 1, scene.pose.shape[1], 3))
    _replay(
        np.ascontiguousarray(motions),
        scene.ego_half_m,
        scene.pose,
        scene.arc_m,
        scene.velocity,
        scene.half_m,
        scene.present,
        scene.follows,
        scene.logged_arc_m,
        surface.drivable,
        surface.origin_m,
        scene.points,
        scene.route_arc_m,
        table,
        others,
    )
    return Outcomes(
        contact_tick=table[:, 0].astype(np.int64),
        partner=table[:, 1].astype(np.int64),
        impact_mps=table[:, 2].copy(),
        struck=table[:, 3] > 0.5,
        clearance_m=table[:, 4].copy(),
        clearance_tick=table[:, 5].astype(np.int64),
        off_road_tick=table[:, 6].astype(np.int64),
        outside_share=table[:, 7].copy(),
        progress_m=table[:, 8].copy(),
        others=others,
    )
