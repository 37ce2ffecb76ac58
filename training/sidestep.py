"""Leaving the route's line for a while: around what stands in the way, and out of an emergency vehicle's way.

The plan is an offset to the left for every point of the route. It is made when there is room for it and then kept
until the ego is back on its line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from training.forecast import DECISION_S, Kind, Others, Path, Presence, presence

SIGHT_M = 45.0
GROUP_M = 18.0
"""Obstacles closer together than this are passed in one go."""
NEIGHBOUR_M = 6.0
ROAD_HALF_M = 2.6
"""Things this close to the route's line belong to the obstacle."""
SPARE_M = 0.8
"""The ego's middle may be this far off the middle of the lane it borrows."""
CLEARANCE_M = 0.7
"""Side distance to what is passed; to walkers and bicycles half a metre more."""
CLOSER_M = 0.2
"""Where somebody may come on the other side, it may be so much less."""
ONCOMING_HALF_M = 1.0
"""Half width of who comes."""
ON_LINE_M = 0.05
IN_LANE_M = 1.1
"""Up to this offset the ego stays in its lane, more or less."""
LEAD_IN_M = (7.0, 18.0)
LEAD_OUT_M = 14.0
STANDING_MPS = 0.4
SLOW_SHARE = 0.55
"""A bicycle slower than this share of the ego's wanted speed is passed."""
DISMOUNTED_S = 2.0
"""So does one that has stopped for this long."""
PATIENCE_S = 14.0
"""Somebody behind whom the ego has stood this long, without a light or sign as the reason, is passed too."""
STEERABLE_M, CLOSE_PATIENCE_S = 5.0, 35.0
"""Unless the ego stands too near behind it to steer around it well: then the ego waits this long."""
PASSING_MPS = 12.0
PASSING_ACCEL_MPS2 = 2.8
UNSEEN_M = 130.0
ONCOMING_MPS = 10.0
"""Beyond this distance somebody may be coming at this speed."""
INSIST_S = 8.0
"""An ego that has waited this long for a gap takes one in which who comes must slow down, in their time and way:"""
REACTION_S = 1.0
YIELD_MPS2 = 3.0
POINT_OF_NO_RETURN_M = 8.0
STANDOFF_S = 2.0
STANDOFF_M = 12.0
"""An ego that has stood face to face with somebody for so long goes back to its lane if that is free so far."""
WEDGED_S = 8.0
"""If it is not, the ego squeezes past after this time."""
ENTER_S = 4.5
"""Time in which somebody from behind must not arrive where the ego pulls in."""
HOLD_M = 9.0
"""The ego waits this far before what it wants to pass: nearer it could not steer around it."""
QUEUE_M = 30.0
LIGHT_M = 40.0
"""Who stands this far before a light waits for that."""
QUEUE_GAP_M = 12.0
"""The ego stands because of somebody who is no further ahead than this."""
EMERGENCY_BEHIND_M = 60.0
INVADER_SIGHT_M = 70.0
INVADER_CLEARANCE_M = 0.45
"""Side distance to oncoming vehicles that reach into the ego's lane, which then keeps to its outer side."""
INVADER_PAST_M = 8.0
INVADER_ALONG = -0.9
"""They drive along the road: cosine between the headings."""


@dataclass(frozen=True, slots=True)
class LaneTable:
    """Lanes beside the route, for every point of it; offsets are to the left of the route, NaN without such a lane."""

    left_m: Float64[np.ndarray, " n"]
    """Middle of the next driving lane to the left."""
    left_same: Bool[np.ndarray, " n"]
    """Whether it leads the same way."""
    right_m: Float64[np.ndarray, " n"]
    """Middle of the next driving lane of the same direction to the right (negative)."""
    inside: Bool[np.ndarray, " n"]
    """Whether the point is inside a junction, where no lane counts as beside it."""
    beside: Bool[np.ndarray, "n 2"]
    """Whether there is a driving lane of the same direction to the left and to the right, inside junctions, too."""


@dataclass(frozen=True, slots=True)
class Ego:
    """The ego on its route."""

    arc_m: float
    speed_mps: float
    half_length_m: float
    half_width_m: float

    @property
    def front_m(self) -> float:
        """Arc length of its front."""
        return self.arc_m + self.half_length_m


@dataclass(frozen=True, slots=True)
class _Group:
    """What is to be passed: its extent along the route and across it (to the left)."""

    low_m: float
    high_m: float
    right_edge_m: float
    left_edge_m: float
    clearance_m: float
    speed_mps: float
    members: frozenset[int]
    """Their ids."""


_Found = tuple[float, int, Presence, float]
"""Low end, index, presence and speed of somebody to pass."""


class Sidestep:
    """The driver's sidesteps; call `update` once per decision."""

    def __init__(self, path: Path, lanes: LaneTable) -> None:
        self._path = path
        self._lanes = lanes
        self.offset_m: Float64[np.ndarray, " n"] = np.zeros(len(path.arc_m))
        self._until_m = -math.inf
        self._yielding = False
        self._evading = False
        """Whether the sidestep makes room for oncoming vehicles."""
        self._stood_s = 0.0
        """How long the ego has been standing, with no light or sign as the reason."""
        self._insists = False
        self._passing = False
        """Whether the sidestep leads around something."""
        self._daring: tuple[float, _Group] | None = None
        """Offset and obstacles of a sidestep into the opposite lane that may still be called off."""

    @property
    def active(self) -> bool:
        """Whether the ego is off its line, or about to be."""
        return self._until_m > -math.inf

    def shifted(self) -> Path:
        """The ego's way with the sidestep."""
        if not self.active:
            return self._path
        return Path(shifted(self._path, self.offset_m), self._path.arc_m)

    def follow(self, path: Path, lanes: LaneTable) -> None:
        """The ego's own way is another one now, of the same points."""
        self._path, self._lanes = path, lanes

    def update(self, ego: Ego, others: Others, wanted_mps: float, stops_m: tuple[float, ...]) -> float | None:
        """Plan; gives the arc length before which the ego must wait for room to pass, None if it need not wait.

        `stops_m`: arc lengths of red lights and signs ahead, behind which a queue is no obstacle.
        """
        queues = any(stop_m < ego.front_m + LIGHT_M for stop_m in stops_m)
        self._stood_s = self._stood_s + DECISION_S if ego.speed_mps < STANDING_MPS and not queues else 0.0
        ahead = self._path.arc_m > ego.arc_m - ego.half_length_m
        if self.active and not np.abs(self.offset_m[ahead]).max(initial=0.0) > ON_LINE_M:
            self.offset_m = np.zeros_like(self.offset_m)
            self._until_m = -math.inf
            self._yielding = self._evading = self._passing = False
            self._daring = None
        everyone = [
            presence(self._path, others.pose[i : i + 1], float(others.half_length_m[i]), float(others.half_width_m[i]))
            for i in range(len(others))
        ]
        if self._daring is not None:
            low_m = self._daring[1].low_m
            if self._call_off(ego, others, everyone):
                return low_m - HOLD_M
            if self._gets_nowhere(ego, others, everyone):
                self._return(ego)
        if not self.active and self._give_way(ego, others, everyone):
            return None
        self._keep_clear(ego, others, everyone)
        if self._daring is None:
            self._insists = self._stood_s > INSIST_S
        group = self._to_pass(ego, others, everyone, wanted_mps, stops_m)
        if group is None or (self._passing and group.high_m <= self._until_m - LEAD_OUT_M):
            return None
        for target_m, opposite in self._choices(group, ego):
            if self._is_free(target_m, opposite, group, ego, others, everyone):
                self._evading, self._passing = False, True
                self._plan(target_m, group, ego)
                self._daring = (target_m, group) if opposite else None
                return None
        return None if self._passing or self._yielding else group.low_m - HOLD_M

    def _to_pass(
        self,
        ego: Ego,
        others: Others,
        everyone: list[Presence],
        wanted_mps: float,
        stops_m: tuple[float, ...],
    ) -> _Group | None:
        """The nearest group of obstacles on the route's own line."""
        found: list[_Found] = []
        for i, present in enumerate(everyone):
            low, speed = float(present.low_m[0]), float(others.speed_mps[i] * present.along[0])
            in_way = present.within(ego.half_width_m + 0.4)[0] and ego.arc_m - 2.0 < low < ego.front_m + SIGHT_M
            if not in_way or any(low - 3.0 < stop < low + QUEUE_M for stop in stops_m):
                continue
            rides = STANDING_MPS < speed < SLOW_SHARE * wanted_mps or others.stood_s[i] > DISMOUNTED_S
            slow = others.kind[i] == Kind.BICYCLE and rides and present.along[0] > 0.8
            patience_s = PATIENCE_S if low > ego.front_m + STEERABLE_M else CLOSE_PATIENCE_S
            stuck = min(others.stood_s[i], self._stood_s) > patience_s and low < ego.front_m + QUEUE_GAP_M
            stuck = stuck and others.kind[i] != Kind.WALKER
            if others.parked[i] or slow or stuck:
                found.append((low, i, present, max(speed, 0.0)))
        if not found:
            return None
        found.sort(key=lambda item: item[0])
        group = [found[0]]
        for item in found[1:]:
            if item[0] - max(float(p.high_m[0]) for _, _, p, _ in group) < GROUP_M:
                group.append(item)
        group = self._with_neighbours(group, others, everyone)
        soft = any(others.kind[i] in (Kind.BICYCLE, Kind.WALKER) for _, i, _, _ in group)
        return _Group(
            low_m=group[0][0],
            high_m=max(float(p.high_m[0]) for _, _, p, _ in group),
            right_edge_m=min(float(p.offset_m[0] - p.reach_m[0]) for _, _, p, _ in group),
            left_edge_m=max(float(p.offset_m[0] + p.reach_m[0]) for _, _, p, _ in group),
            clearance_m=CLEARANCE_M + 0.5 * soft,
            speed_mps=max(speed for _, _, _, speed in group),
            members=frozenset(int(others.ids[item[1]]) for item in group),
        )

    @staticmethod
    def _with_neighbours(group: list[_Found], others: Others, everyone: list[Presence]) -> list[_Found]:
        """The group with the things beside it, such as the cones around a building site."""
        low = min(item[0] for item in group) - NEIGHBOUR_M
        high = max(float(item[2].high_m[0]) for item in group) + NEIGHBOUR_M
        known = {item[1] for item in group}
        near = [
            (float(present.low_m[0]), i, present, 0.0)
            for i, present in enumerate(everyone)
            if i not in known and others.parked[i] and present.beside[0] and low < present.low_m[0] < high
        ]
        return group + [item for item in near if abs(float(item[2].offset_m[0])) < ROAD_HALF_M]

    def _choices(self, group: _Group, ego: Ego) -> list[tuple[float, bool]]:
        """Offsets that pass the group, the best first, and whether each leads into the opposite lane."""
        left = group.left_edge_m + ego.half_width_m + group.clearance_m
        right = group.right_edge_m - ego.half_width_m - group.clearance_m
        span = (self._path.arc_m >= group.low_m - 3.0) & (self._path.arc_m <= group.high_m + 3.0)
        left_m, right_m = self._lanes.left_m[span], self._lanes.right_m[span]
        has_left = len(left_m) > 0 and not np.isnan(left_m).any() and left <= left_m.mean() + SPARE_M
        has_right = len(right_m) > 0 and not np.isnan(right_m).any() and right >= right_m.mean() - SPARE_M
        same_way = bool(self._lanes.left_same[span].all())
        between = left
        if has_left and not same_way:  # as far from those who come in their lane as from what is passed
            free_m = float(left_m.mean()) - ONCOMING_HALF_M - group.left_edge_m - 2.0 * ego.half_width_m
            between -= min(max(group.clearance_m - 0.5 * free_m, 0.0), CLOSER_M)
        choices = [(offset, False) for offset in sorted((between, right), key=abs) if abs(offset) <= IN_LANE_M]
        if has_left and same_way:
            choices.append((max(float(left_m.mean()), left), False))
        if has_right:
            choices.append((min(float(right_m.mean()), right), False))
        if has_left and not same_way:
            choices.append((left, True))
        return choices

    def _is_free(
        self, target_m: float, opposite: bool, group: _Group, ego: Ego, others: Others, everyone: list[Presence]
    ) -> bool:
        """Whether nobody is, or comes, where the ego wants to be until it is past the group."""
        length_m = group.high_m + ego.half_length_m + 2.0 + 0.4 * LEAD_OUT_M - ego.arc_m
        pass_s = _time_to(length_m, ego.speed_mps, PASSING_MPS - group.speed_mps)
        end_m = ego.arc_m + length_m + group.speed_mps * pass_s
        if opposite and ego.arc_m + UNSEEN_M - self._approach_m(ONCOMING_MPS, pass_s) < end_m:
            return False
        for i, present in enumerate(everyone):
            clear_m = abs(float(present.offset_m[0]) - target_m) - float(present.reach_m[0]) - ego.half_width_m
            if not present.beside[0] or clear_m > 0.3 or int(others.ids[i]) in group.members:
                continue
            low, high = float(present.low_m[0]), float(present.high_m[0])
            along = float(others.speed_mps[i] * present.along[0])
            if others.parked[i]:
                if ego.arc_m < high and low < end_m:
                    return False
            elif along < -0.5:  # oncoming
                if high > ego.arc_m and low - self._approach_m(-along, pass_s) < end_m + 3.0:
                    return False
            elif high < ego.arc_m - ego.half_length_m:  # behind
                closing_mps = max(along - ego.speed_mps, 0.0)
                room_m = 4.0 if along > STANDING_MPS else 0.0
                if high + 3.5 * closing_mps > ego.arc_m - ego.half_length_m - room_m:
                    return False
            elif abs(target_m) > IN_LANE_M:
                beside = low < ego.front_m + 4.0
                in_the_way = along < STANDING_MPS and low < end_m
                if beside or in_the_way:
                    return False
        return True

    def _approach_m(self, speed_mps: float, seconds: float) -> float:
        """Way of who comes along the lane that the ego borrows, until the ego is back."""
        steady_m = speed_mps * seconds
        stopping_m = speed_mps * REACTION_S + speed_mps**2 / (2.0 * YIELD_MPS2)
        return min(steady_m, stopping_m) if self._insists else steady_m

    def _plan(self, target_m: float, group: _Group, ego: Ego) -> None:
        lead_in_m = min(max(group.low_m - 1.5 - ego.front_m, LEAD_IN_M[0]), LEAD_IN_M[1])
        moving_m = group.speed_mps * 6.0
        start_m = max(group.low_m - 1.5 - lead_in_m - ego.half_length_m, ego.arc_m)
        hold_m = group.high_m + ego.half_length_m + 2.0 + moving_m
        self._lay(target_m, start_m, start_m + lead_in_m, hold_m, hold_m + LEAD_OUT_M)

    def _call_off(self, ego: Ego, others: Others, everyone: list[Presence]) -> bool:
        """Back to the own lane if somebody comes after all and the ego is not beside the obstacles yet."""
        assert self._daring is not None
        target_m, group = self._daring
        beside = ego.front_m > group.low_m - POINT_OF_NO_RETURN_M
        self._insists = True  # who comes will slow down: to begin and give up for ever gets nowhere
        if beside or self._is_free(target_m, True, group, ego, others, everyone):
            return False
        self._return(ego)
        return True

    def _return(self, ego: Ego) -> None:
        """Back to the own lane."""
        self._daring, self._passing = None, False
        self._lay(0.0, ego.arc_m, ego.arc_m + 6.0, ego.arc_m + 7.0, ego.arc_m + 8.0)

    def _gets_nowhere(self, ego: Ego, others: Others, everyone: list[Presence]) -> bool:
        """Whether the ego stands in the opposite lane, before somebody who does, too, and the own lane is free."""
        if self._stood_s < STANDOFF_S:
            return False
        ahead_m = ego.front_m + STANDOFF_M
        for i, present in enumerate(everyone):
            near = present.high_m[0] > ego.arc_m - ego.half_length_m and present.low_m[0] < ahead_m
            behind = others.parked[i] and present.low_m[0] < ego.arc_m
            if near and not behind and present.within(ego.half_width_m)[0]:
                return False
        return True

    def _lay(self, target_m: float, start_m: float, full_m: float, hold_m: float, end_m: float) -> None:
        """Offset profile: up from `start_m` to `full_m`, held to `hold_m`, back at `end_m`; joins the present one."""
        arc = self._path.arc_m
        rise = smooth((arc - start_m) / max(full_m - start_m, 1.0))
        fall = smooth((arc - hold_m) / max(end_m - hold_m, 1.0))
        before = self.offset_m
        self.offset_m = np.where(arc < hold_m, before + (target_m - before) * rise, target_m * (1.0 - fall))
        self._until_m = end_m

    def _give_way(self, ego: Ego, others: Others, everyone: list[Presence]) -> bool:
        """Make room for an emergency vehicle that comes from behind in the ego's lane."""
        for i, present in enumerate(everyone):
            gap = ego.arc_m - ego.half_length_m - float(present.high_m[0])
            comes = others.kind[i] == Kind.EMERGENCY and present.beside[0] and present.along[0] > 0.7
            if not (comes and 0.0 < gap < EMERGENCY_BEHIND_M and abs(present.offset_m[0]) < 1.8):
                continue
            if others.speed_mps[i] < 2.0:
                continue
            here = int(np.searchsorted(self._path.arc_m, ego.arc_m))
            ahead = slice(here, here + 60)
            left_m = np.where(self._lanes.left_same, self._lanes.left_m, np.nan)
            for lane in (self._lanes.right_m[ahead], left_m[ahead]):
                if len(lane) < 30 or np.isnan(lane[:30]).any():
                    continue
                target_m = float(lane[:30].mean())
                group = _Group(ego.front_m, ego.front_m + 10.0, 0.0, 0.0, 0.0, 0.0, frozenset())
                free = [j for j in range(len(others)) if j != i]
                if self._is_free(target_m, False, group, ego, others.only(free), [everyone[j] for j in free]):
                    usable = int(np.argmax(np.isnan(lane))) if np.isnan(lane).any() else len(lane)
                    start_m = ego.arc_m
                    lead_m = min(max(2.0 * ego.speed_mps, 10.0), 20.0)
                    end_m = start_m + max(min(float(usable), 120.0), lead_m + LEAD_OUT_M + 5.0)
                    self._lay(target_m, start_m, start_m + lead_m, end_m - LEAD_OUT_M, end_m)
                    self._yielding = True
                    return True
        return False

    def _keep_clear(self, ego: Ego, others: Others, everyone: list[Presence]) -> None:
        """Drive at the lane's outer side while oncoming vehicles reach into it."""
        targets, last_m = [], -math.inf
        two_way = ~np.isnan(self._lanes.left_m) & ~self._lanes.left_same
        for i, present in enumerate(everyone):
            low_m = float(present.low_m[0])
            ahead = present.beside[0] and ego.arc_m < low_m < ego.front_m + INVADER_SIGHT_M
            if not ahead or others.speed_mps[i] < STANDING_MPS or present.along[0] > INVADER_ALONG:
                continue
            if not two_way[min(int(np.searchsorted(self._path.arc_m, low_m)), len(two_way) - 1)]:
                continue  # a turning car in a junction
            inner_m = float(present.offset_m[0] - present.reach_m[0])
            target_m = inner_m - ego.half_width_m - INVADER_CLEARANCE_M
            if -IN_LANE_M <= target_m < 0.0:
                targets.append(target_m)
                last_m = max(last_m, low_m)
        if not targets or (self.active and not self._evading):
            return
        target_m = min(targets)
        here_m = float(np.interp(ego.arc_m + LEAD_IN_M[0], self._path.arc_m, self.offset_m))
        if self.active and here_m < target_m + 0.1 and last_m < self._until_m - LEAD_OUT_M:
            return
        for i, present in enumerate(everyone):
            gap_m = abs(float(present.offset_m[0]) - target_m) - float(present.reach_m[0]) - ego.half_width_m
            ahead = present.beside[0] and ego.arc_m < present.low_m[0] < last_m
            if ahead and abs(others.speed_mps[i]) < STANDING_MPS and gap_m < 0.2:
                return  # something stands there
        self._evading = True
        self._lay(
            target_m, ego.arc_m, ego.arc_m + LEAD_IN_M[0], last_m + INVADER_PAST_M, last_m + INVADER_PAST_M + LEAD_OUT_M
        )

    def may_enter(self, ego: Ego, others: Others) -> bool:
        """Whether an ego beside its lane, as after parking, may pull into it: nobody comes from behind or is there."""
        for i in range(len(others)):
            present = presence(
                self._path, others.pose[i : i + 1], float(others.half_length_m[i]), float(others.half_width_m[i])
            )
            if not present.within(ego.half_width_m)[0] or others.parked[i]:
                continue
            along = max(float(others.speed_mps[i] * present.along[0]), 0.0)
            rear_m = ego.arc_m - ego.half_length_m
            if present.low_m[0] < ego.front_m and float(present.high_m[0]) + ENTER_S * along > rear_m - 2.0:
                return False
        return True

    @property
    def wedged(self) -> bool:
        """Whether the ego has been standing in the opposite lane for long, before somebody who waits for it, too."""
        return self._daring is not None and self._stood_s > WEDGED_S

    @property
    def hurried(self) -> bool:
        """Whether the ego is in the opposite lane and should be quick."""
        return self._daring is not None

    @property
    def evading(self) -> bool:
        """Whether the ego keeps to its lane's outer side for oncoming vehicles."""
        return self._evading

    @property
    def yielding(self) -> bool:
        """Whether the sidestep is for an emergency vehicle: the ego should let it pass."""
        return self._yielding


def shifted(path: Path, offset_m: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n 3"]:
    """The path's points moved to the left."""
    x, y, yaw = path.points.T
    slope = np.gradient(offset_m, path.arc_m)
    return np.stack([x - offset_m * np.sin(yaw), y + offset_m * np.cos(yaw), yaw + np.arctan(slope)], axis=1)


def smooth(share: np.ndarray) -> np.ndarray:
    """From 0 to 1 without corners; shares beyond are cut off."""
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _time_to(distance_m: float, speed_mps: float, top_mps: float) -> float:
    """Time for a distance, accelerating up to a top speed."""
    top_mps = max(top_mps, speed_mps, 2.0)
    ramp_s = (top_mps - speed_mps) / PASSING_ACCEL_MPS2
    ramp_m = (speed_mps + top_mps) / 2.0 * ramp_s
    if ramp_m >= distance_m:
        root = math.sqrt(speed_mps**2 + 2.0 * PASSING_ACCEL_MPS2 * max(distance_m, 0.0))
        return (root - speed_mps) / PASSING_ACCEL_MPS2
    return ramp_s + (distance_m - ramp_m) / top_mps
