"""Rule-based privileged driver: follows the dense route, keeps its distance, obeys lights and stop signs.

Pure functions of a `Scene`; all poses are in the right-handed world frame (metres, radians counter-clockwise).
The driver decides at 10 Hz and returns one of the 39 discrete actions with a soft label over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from agent.actions import ACTIONS, BRAKE, COAST, FULL_BRAKE, REVERSE, STEER, THROTTLE
from agent.model.driving_model import AUXILIARY, PATH_DISTANCES_M
from agent.motion import REAR_AXLE_M, STEER_GAIN_RAD, WHEELBASE_M, throttle_accel_mps2
from training.bev import Corridor
from training.forecast import (
    DECISION_S,
    HURRY_ACCEL_MPS2,
    Kind,
    Others,
    Path,
    go_arcs_m,
    meeting,
    poses_ahead,
    presence,
    wrap,
)
from training.lane_changes import LaneChanges
from training.sidestep import PASSING_MPS, Ego, LaneTable, Sidestep

FAR_M = 40.0
"""Distance reported where nothing is ahead."""
WAY_M = 90.0
MEETING_MARGIN_M = 1.5
"""Room kept to others whose way crosses the ego's."""
WALKER_MARGIN_M = 2.0
BESIDE_LANE_M = 2.2
"""Farther from its line than this the ego is not in its lane."""
ENTERING_MPS = 2.0
MERGING_ALONG = 0.8
ONCOMING_ALONG = -0.9
"""Who drives in the ego's direction merges, who drives against it is oncoming, others cross: cosines of headings."""
ENTERED_M = 1.0
"""The ego is in a junction when it is this far past its border, and waits so far before it."""
STARTING_MPS = 1.0
CROSSING_M = 20.0
"""Who starts from standing waits for everybody who will cross its way up to here."""
WAITING_MPS = 1.5
"""Who is slower than this may be waiting for the ego."""
INTO_BOX_M = 0.6
"""The ego stops so much nearer to the line of a stop sign than to others: it must stand in the sign's box."""
SQUEEZE_MPS, SQUEEZE_S, SQUEEZE_MARGIN_M = 2.0, 5.0, 0.12
"""Speed, time and side distance of an ego that squeezes past somebody who stands."""
YIELDING_MPS = 4.0
"""Speed while an emergency vehicle passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertConfig:
    """How the driver drives."""

    max_speed_mps: float = 8.0
    lateral_accel_mps2: float = 2.2
    """Comfortable centripetal acceleration: sets the speed in bends."""
    decel_mps2: float = 2.0
    """Deceleration planned for bends, lights and leaders."""
    lookahead_s: float = 0.6
    lookahead_min_m: float = 3.5
    lookahead_max_m: float = 8.0
    gap_m: float = 4.0
    """Bumper to bumper distance when standing behind another vehicle."""
    headway_s: float = 0.6
    stop_margin_m: float = 1.0
    """The front bumper stops this far before a stop line."""
    side_margin_m: float = 0.45
    """Others closer to the ego's path than this (edge to edge) are in the way."""
    patience_s: float = 8.0
    """After standing this long for somebody who is not on the path yet and may be waiting, too, the ego goes."""
    speed_gain_per_s: float = 3.0
    """Wanted acceleration per speed error."""
    brake_below_mps2: float = -2.5
    """Full brake where the wanted acceleration is below this; the softer levels are throttles."""
    label_width_mps2: float = 0.6
    """Softness of the label between throttle levels."""
    stop_sign_hold_s: float = 0.5
    """How long the ego stands at a stop sign."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the driver knows at one decision."""

    pose: tuple[float, float, float]
    speed_mps: float
    half_length_m: float
    half_width_m: float
    corridor: Corridor
    arc_m: Float64[np.ndarray, " points"]
    """Arc length of the corridor's points."""
    index: int
    """Corridor point beside the ego."""
    others: Others
    red_stop_m: tuple[float, ...]
    """Arc lengths of the stop lines whose light is red or yellow."""
    sign_stop_m: tuple[float, ...]
    """Arc lengths of the stop signs' lines."""
    speed_limit_mps: float
    lanes: LaneTable | None = None
    """Lanes beside the route; without them the driver never leaves its line."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The driver's decision with what it is based on."""

    action: int
    label: Float32[np.ndarray, 39]
    """Soft label: probabilities of all actions."""
    steer: float
    """Wanted steer, CARLA's sign."""
    accel_mps2: float
    target_speed_mps: float
    auxiliary: Float32[np.ndarray, " auxiliary"]
    """In the units of AUXILIARY's names."""


def nearest_index(
    points: Float64[np.ndarray, "n 3"], position: tuple[float, float], start: int, back: int = 3, ahead: int = 15
) -> int:
    """Index of the route point nearest to the position, searched around the last one only: routes cross themselves."""
    low, high = max(0, start - back), min(len(points), start + ahead)
    delta = points[low:high, :2] - np.asarray(position)
    return low + int(np.argmin((delta**2).sum(1)))


def lateral_error(scene: Scene) -> tuple[float, float]:
    """Offset to the left of the route [m] and heading error, counter-clockwise [rad]."""
    x, y, yaw = scene.pose
    px, py, pyaw = scene.corridor.points[scene.index]
    offset = (y - py) * math.cos(pyaw) - (x - px) * math.sin(pyaw)
    return offset, wrap(yaw - pyaw)


def arc_position(scene: Scene) -> float:
    """Arc length of the ego along the route."""
    x, y, _ = scene.pose
    px, py, pyaw = scene.corridor.points[scene.index]
    return float(scene.arc_m[scene.index]) + (x - px) * math.cos(pyaw) + (y - py) * math.sin(pyaw)


def route_point(scene: Scene, arc_m: float) -> tuple[float, float]:
    """World position on the route at an arc length; past the end the route goes on straight."""
    points, arc = scene.corridor.points, scene.arc_m
    beyond = max(arc_m - float(arc[-1]), 0.0)
    x = float(np.interp(arc_m, arc, points[:, 0])) + beyond * math.cos(points[-1, 2])
    y = float(np.interp(arc_m, arc, points[:, 1])) + beyond * math.sin(points[-1, 2])
    return x, y


def pursuit_steer(config: ExpertConfig, scene: Scene) -> float:
    """Pure pursuit from the rear axle: steer in CARLA's sign, not clipped."""
    x, y, yaw = scene.pose
    lookahead = min(max(config.lookahead_s * scene.speed_mps + 2.0, config.lookahead_min_m), config.lookahead_max_m)
    tx, ty = route_point(scene, arc_position(scene) + lookahead)
    rear_x, rear_y = x - REAR_AXLE_M * math.cos(yaw), y - REAR_AXLE_M * math.sin(yaw)
    bearing = wrap(math.atan2(ty - rear_y, tx - rear_x) - yaw)
    distance = math.hypot(tx - rear_x, ty - rear_y)
    curvature = 2.0 * math.sin(bearing) / max(distance, 1.0)
    return -math.atan(WHEELBASE_M * curvature) / STEER_GAIN_RAD


def curvature_ahead(scene: Scene, from_m: float, to_m: float) -> Float64[np.ndarray, "k 2"]:
    """(distance ahead, absolute curvature) of the route every metre of a stretch, each measured over 4 m."""
    start = arc_position(scene)
    distances = np.arange(from_m, to_m, 1.0)
    yaw = np.unwrap(scene.corridor.points[:, 2])
    before = np.interp(start + distances - 2.0, scene.arc_m, yaw)
    after = np.interp(start + distances + 2.0, scene.arc_m, yaw)
    return np.stack([distances, np.abs(after - before) / 4.0], 1)


def bend_speed_mps(config: ExpertConfig, scene: Scene) -> float:
    """Speed from which every bend ahead can be reached at its own speed with the planned deceleration."""
    bends = curvature_ahead(scene, 0.0, 25.0)
    limit2 = config.lateral_accel_mps2 / np.maximum(bends[:, 1], 1e-3)
    return float(np.sqrt((limit2 + 2.0 * config.decel_mps2 * bends[:, 0]).min()))


def stopping_speed_mps(config: ExpertConfig, distance_m: float) -> float:
    """Speed from which the planned deceleration ends within the distance."""
    return math.sqrt(2.0 * config.decel_mps2 * max(distance_m, 0.0))


@dataclass(frozen=True, slots=True)
class Obstruction:
    """Somebody in the way."""

    gap_m: float
    """Free road before it."""
    speed_mps: float
    """Its speed along the route."""
    present: bool
    """Whether it is on the ego's way already."""
    own_mps: float
    """Its own speed."""
    heading: float
    """Cosine between its heading and the route beside it, now."""


def obstructions(config: ExpertConfig, scene: Scene, wanted_mps: float) -> list[Obstruction]:
    """Others on the ego's way now, or predicted to be there when an ego that goes on would be."""
    others = scene.others
    start_m = arc_position(scene)
    path = _way_ahead(scene)
    ego_m = go_arcs_m(start_m, scene.speed_mps, wanted_mps)
    hurried_m = None
    if _inside_junction(scene, start_m + scene.half_length_m):
        hurried_m = go_arcs_m(start_m, scene.speed_mps, wanted_mps, HURRY_ACCEL_MPS2)
    half_width_m = scene.half_width_m + config.side_margin_m
    found = []
    for i in range(len(others)):
        poses = poses_ahead(others, i)
        present = presence(path, poses, float(others.half_length_m[i]), float(others.half_width_m[i]))
        speed = float(others.speed_mps[i])
        inside = present.within(half_width_m)
        if inside[0]:
            gap_m = float(present.low_m[0]) - start_m - scene.half_length_m
            if gap_m > -scene.half_length_m:
                found.append(Obstruction(gap_m, speed * float(present.along[0]), True, speed, float(present.along[0])))
            continue
        margin_m = WALKER_MARGIN_M if others.kind[i] == Kind.WALKER else MEETING_MARGIN_M
        moment = meeting(present, ego_m, scene.half_length_m, half_width_m, margin_m)
        if moment is None:
            continue
        if hurried_m is not None and others.kind[i] != Kind.WALKER:
            moment = meeting(present, hurried_m, scene.half_length_m, half_width_m, 0.0)
            if moment is None:
                continue  # to clear a junction is safer than to stop in it
        enters = int(np.argmax(inside)) if inside.any() else moment
        gap_m = float(present.low_m[enters : moment + 1].min()) - start_m - scene.half_length_m
        if gap_m < -2.0 * scene.half_length_m or (gap_m < 0.0 and scene.speed_mps > 2.0):
            continue  # too late to stop before it: the ego clears the place
        along = speed * float(present.along[enters])
        ahead_of_ego = float(present.low_m[enters]) > ego_m[enters] + scene.half_length_m
        along = along if ahead_of_ego and along > 0.0 else 0.0
        if float(present.along[0]) < MERGING_ALONG:
            gap_m = min(gap_m, _before_junction_m(config, scene, start_m + scene.half_length_m, gap_m))
        found.append(Obstruction(gap_m, along, False, speed, float(present.along[0])))
    return found


def _before_junction_m(config: ExpertConfig, scene: Scene, front_m: float, gap_m: float) -> float:
    """Gap at which the ego waits before the junction where it would meet somebody, if it is not inside yet."""
    if scene.lanes is None:
        return gap_m
    arc_m, inside = scene.arc_m, scene.lanes.inside
    meets = (arc_m > front_m) & (arc_m < front_m + gap_m) & inside
    if _inside_junction(scene, front_m) or not meets.any():
        return gap_m
    return float(arc_m[meets][0]) - front_m + config.gap_m - ENTERED_M


def _inside_junction(scene: Scene, front_m: float) -> bool:
    """Whether the ego's front has entered a junction."""
    if scene.lanes is None:
        return False
    inside = scene.lanes.inside
    return bool(inside[min(int(np.searchsorted(scene.arc_m, front_m - ENTERED_M)), len(inside) - 1)])


def _crosses(item: Obstruction) -> bool:
    return not item.present and item.own_mps > WAITING_MPS and item.gap_m < CROSSING_M


def _way_ahead(scene: Scene) -> Path:
    low, high = max(scene.index - 12, 0), min(scene.index + int(WAY_M), len(scene.corridor.points))
    return Path(scene.corridor.points[low:high], scene.arc_m[low:high])


def soft_label(config: ExpertConfig, steer: float, accel_mps2: float, speed_mps: float) -> Float32[np.ndarray, 39]:
    """Probabilities over the actions: logistic between the throttle levels, linear between the steering levels."""
    levels = (0.7, 0.3, 0.0)
    accels = [throttle_accel_mps2(level, speed_mps) for level in levels]
    borders = [0.5 * (accels[0] + accels[1]), 0.5 * (accels[1] + accels[2]), config.brake_below_mps2]
    above = [1.0 / (1.0 + math.exp(min((b - accel_mps2) / (0.25 * config.label_width_mps2), 50.0))) for b in borders]
    shares = [above[0], above[1] - above[0], above[2] - above[1], 1.0 - above[2]]
    label = np.zeros(len(ACTIONS), np.float32)
    forward = (ACTIONS[:, BRAKE] == 0.0) & (ACTIONS[:, REVERSE] == 0.0)
    for level, share in zip(levels, shares[:3], strict=True):
        group = np.flatnonzero(forward & np.isclose(ACTIONS[:, THROTTLE], level))
        group = group[np.argsort(ACTIONS[group, STEER])]
        steers = ACTIONS[group, STEER].astype(np.float64)
        position = float(np.interp(steer, steers, np.arange(len(steers))))
        lower = min(int(position), len(steers) - 2)
        label[group[lower]] += max(share, 0.0) * (1.0 - (position - lower))
        label[group[lower + 1]] += max(share, 0.0) * (position - lower)
    label[FULL_BRAKE] += max(shares[3], 0.0)
    return label / label.sum()


class ExpertDriver:
    """The driver with its little memory: stop signs it has honoured, how long it has waited."""

    def __init__(self, config: ExpertConfig) -> None:
        self.config = config
        self._honoured: set[float] = set()
        self._stood_s = 0.0
        self._waited_s = 0.0
        self._insist_s = 0.0
        self._squeeze_s = 0.0
        self._changes: LaneChanges | None = None
        self._sidestep: Sidestep | None = None

    def decide(self, scene: Scene) -> Decision:
        """Action for the next tenth of a second."""
        config = self.config
        wait_m, below_mps = self._plan_way(scene)
        scene = self._on_its_way(scene)
        start = arc_position(scene)
        front = start + scene.half_length_m
        signs_m = [arc + INTO_BOX_M for arc in self._pending_signs(scene, front)]
        stops = [arc for arc in (*scene.red_stop_m, *signs_m) if arc > front - 2.0]
        stops += [wait_m] if wait_m is not None else []
        stop_line_m = min((arc - front for arc in stops), default=FAR_M)
        limit = scene.speed_limit_mps
        if self._sidestep is not None and self._sidestep.hurried:
            limit = max(limit, PASSING_MPS)
        wanted = min(config.max_speed_mps, limit, below_mps, bend_speed_mps(config, scene))
        careful = config
        if self._squeezes():
            careful, wanted = replace(config, side_margin_m=SQUEEZE_MARGIN_M), min(wanted, SQUEEZE_MPS)
        ahead = obstructions(careful, scene, wanted)
        self._be_patient(scene, ahead)
        if self._sidestep is not None and self._sidestep.evading:  # they are passed by side distance alone
            ahead = [item for item in ahead if item.present or item.heading > ONCOMING_ALONG]
        if self._insist_s > 0.0:
            ahead = [item for item in ahead if item.present or item.own_mps > WAITING_MPS]
        if self._sidestep is not None and self._sidestep.yielding:
            wanted = min(wanted, YIELDING_MPS)
        if self._must_let_pass(scene):
            wanted = 0.0
        target = min(wanted, stopping_speed_mps(config, stop_line_m - config.stop_margin_m))
        target = min([target, *(self._following_speed(scene, item) for item in ahead)])
        if scene.speed_mps < STARTING_MPS and any(_crosses(item) for item in ahead):
            target = 0.0  # it waits for a gap in all streams rather than between them
        accel = config.speed_gain_per_s * (target - scene.speed_mps)
        if target < 0.3:
            accel = min(accel, 2.0 * config.brake_below_mps2)  # hold the car where it should stand
        steer = pursuit_steer(config, scene)
        label = soft_label(config, steer, accel, scene.speed_mps)
        lead_gap = min((max(item.gap_m, 0.0) for item in ahead), default=FAR_M)
        return Decision(
            action=int(np.argmax(label)),
            label=label,
            steer=steer,
            accel_mps2=accel,
            target_speed_mps=target,
            auxiliary=self._auxiliary(scene, stop_line_m, lead_gap, target),
        )

    def _plan_way(self, scene: Scene) -> tuple[float | None, float]:
        """Plan lane changes and sidesteps.

        Gives the arc length at which to wait for room, if need be, and the speed to keep below for it.
        """
        if scene.lanes is None:
            return None, math.inf
        if self._changes is None:
            self._changes = LaneChanges(Path(scene.corridor.points, scene.arc_m), scene.lanes)
            self._sidestep = Sidestep(self._changes.path, self._changes.lanes)
        assert self._sidestep is not None
        ego = Ego(arc_position(scene), scene.speed_mps, scene.half_length_m, scene.half_width_m)
        wanted = min(self.config.max_speed_mps, scene.speed_limit_mps)
        change_m, below_mps = self._changes.update(ego, scene.others, wanted)
        self._sidestep.follow(self._changes.path, self._changes.lanes)
        stops = (*scene.red_stop_m, *(arc for arc in scene.sign_stop_m if arc not in self._honoured))
        pass_m = self._sidestep.update(ego, scene.others, wanted, tuple(arc for arc in stops if arc > ego.arc_m))
        pass_m = None if pass_m is None else max(pass_m, ego.front_m - 1.0)
        waits_m = [arc_m for arc_m in (change_m, pass_m) if arc_m is not None]
        return min(waits_m, default=None), below_mps

    def _must_let_pass(self, scene: Scene) -> bool:
        """Whether the ego stands beside its lane and somebody comes along that."""
        if self._sidestep is None or self._sidestep.active or scene.speed_mps > ENTERING_MPS:
            return False
        offset_m, _ = lateral_error(scene)
        if not BESIDE_LANE_M < abs(offset_m) < 2.0 * BESIDE_LANE_M:
            return False
        ego = Ego(arc_position(scene), scene.speed_mps, scene.half_length_m, scene.half_width_m)
        return not self._sidestep.may_enter(ego, scene.others)

    def _squeezes(self) -> bool:
        """Whether the ego slowly goes past somebody in the opposite lane who stands and waits for it, too."""
        self._squeeze_s = max(self._squeeze_s - DECISION_S, 0.0)
        if self._sidestep is not None and self._sidestep.wedged:
            self._squeeze_s = SQUEEZE_S
        return self._squeeze_s > 0.0

    def _on_its_way(self, scene: Scene) -> Scene:
        if self._sidestep is None:
            return scene
        points = self._sidestep.shifted().points
        return replace(scene, corridor=replace(scene.corridor, points=points))

    def _following_speed(self, scene: Scene, item: Obstruction) -> float:
        config = self.config
        speed = max(item.speed_mps, 0.0)
        free = item.gap_m - config.gap_m - config.headway_s * min(speed, scene.speed_mps)
        if free < 0.0:
            return max(speed + 0.5 * free, 0.0)
        return math.sqrt(speed**2 + 2.0 * config.decel_mps2 * free)

    def _pending_signs(self, scene: Scene, front: float) -> list[float]:
        """Stop signs not honoured yet; standing close to the line honours one."""
        near = [arc for arc in scene.sign_stop_m if arc not in self._honoured and -2.0 < arc - front < 3.0]
        standing = bool(near) and scene.speed_mps < 0.1
        self._stood_s = self._stood_s + DECISION_S if standing else 0.0
        if self._stood_s >= self.config.stop_sign_hold_s:
            self._honoured.update(near)
        return [arc for arc in scene.sign_stop_m if arc not in self._honoured]

    def _be_patient(self, scene: Scene, ahead: list[Obstruction]) -> None:
        """Two drivers who both wait for each other would wait for ever."""
        self._insist_s = max(self._insist_s - DECISION_S, 0.0)
        waiting = scene.speed_mps < 0.2 and any(not item.present for item in ahead)
        self._waited_s = self._waited_s + DECISION_S if waiting else 0.0
        if self._waited_s > self.config.patience_s:
            self._waited_s, self._insist_s = 0.0, 3.0

    @staticmethod
    def _auxiliary(scene: Scene, stop_line_m: float, lead_gap_m: float, target_mps: float) -> np.ndarray:
        x, y, yaw = scene.pose
        offset, heading = lateral_error(scene)
        start = arc_position(scene)
        yaw_route = np.unwrap(scene.corridor.points[:, 2])
        bend = (np.interp(start + 8.0, scene.arc_m, yaw_route) - np.interp(start + 4.0, scene.arc_m, yaw_route)) / 4.0
        values = [offset, heading, float(bend), min(max(stop_line_m, 0.0), FAR_M), min(lead_gap_m, FAR_M), target_mps]
        for distance in PATH_DISTANCES_M:
            px, py = route_point(scene, start + distance)
            dx, dy = px - x, py - y
            values += [dx * math.cos(yaw) + dy * math.sin(yaw), dy * math.cos(yaw) - dx * math.sin(yaw)]
        result = np.array(values, np.float32)
        assert result.shape == (len(AUXILIARY),)
        return result


FORWARD_ACTIONS = tuple(int(i) for i in np.flatnonzero(ACTIONS[:, REVERSE] == 0.0))
"""Actions the driver uses; COAST is among them."""
assert COAST in FORWARD_ACTIONS
