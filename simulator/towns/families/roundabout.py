"""Roundabouts: one lane that circulates counter-clockwise round an island."""

from __future__ import annotations

import math

from simulator.towns.families.control import add_sign
from simulator.towns.families.crossing import Movement, lane_connection, lane_road, of_kind
from simulator.towns.families.roads import (
    DRIVING,
    SHOULDER,
    SIDEWALK,
    Approach,
    Arm,
    Junction,
    Plan,
    Profile,
    Road,
    Section,
    Strip,
    driving_lanes,
    flat,
    to_junction,
)
from simulator.towns.geometry import Pose, biarc

RING_HALF_ANGLE_RAD = math.radians(28.0)
"""Half of what a junction of arm and ring takes of the ring, at the standard radius."""
RING_RADIUS_M, RING_ARM_M = 16.0, 29.0
"""Radius of the left edge of the circulating lane; distance from the centre to where the arms begin."""
RING_LANE_M, RING_SHOULDER_M, RING_SIDEWALK_M = 4.0, 0.4, 2.5
RING_SPEED_KMH = 20


def build_roundabout(plan: Plan, centre: Pose, numbers: list[int], arms: list[Arm]) -> None:
    """One lane circulating counter-clockwise; each arm meets it in a junction of its own, by `numbers`."""
    walk = Strip(SIDEWALK, RING_SIDEWALK_M)
    strips = (Strip(DRIVING, RING_LANE_M, "solid"), Strip(SHOULDER, RING_SHOULDER_M), walk)
    if not all(of_kind(arm.inbound, SIDEWALK) for arm in arms):
        strips = strips[:-1]
    spokes = [math.atan2(a.outward.y_m - centre.y_m, a.outward.x_m - centre.x_m) for a in arms]
    ring = []
    for index, spoke in enumerate(spokes):
        gap_rad = (spokes[(index + 1) % len(spokes)] - spoke) % (2.0 * math.pi)
        first = _on_ring(centre, spoke + RING_HALF_ANGLE_RAD)
        middle = _on_ring(centre, spoke + gap_rad / 2.0)
        last = _on_ring(centre, spoke + gap_rad - RING_HALF_ANGLE_RAD)
        curve = biarc(first, middle).joined(biarc(middle, last))
        following = numbers[(index + 1) % len(numbers)]
        road = Road(
            plan.road_id(), curve, flat(arms[0].z_m), (Section(0.0, Profile(strips, (), "solid")),), RING_SPEED_KMH,
            "town", -1, to_junction(numbers[index]), to_junction(following),
        )  # fmt: skip
        plan.roads.append(road)
        ring.append(road)
    for index, arm in enumerate(arms):
        _join_ring(plan, numbers[index], arm, Arm(ring[index - 1], False), Arm(ring[index], True))


def _on_ring(centre: Pose, angle_rad: float) -> Pose:
    """The pose on the ring's left lane edge, heading along the circulation."""
    spoke = Pose(centre.x_m, centre.y_m, angle_rad)
    return spoke.moved(RING_RADIUS_M).turned(math.pi / 2.0)


def _join_ring(plan: Plan, number: int, arm: Arm, arriving: Arm, leaving: Arm) -> None:
    """The junction of one arm: on along the ring, in from the arm, out to the arm."""
    arms = [arm, arriving, leaving]
    inbound, outbound = driving_lanes(arm.inbound), driving_lanes(arm.outbound)
    moves = [Movement(1, 1, 2, 1, False)]
    moves += [Movement(0, lane, 2, 1, lane == inbound) for lane in range(1, inbound + 1)]
    moves += [Movement(1, 1, 0, lane, lane == outbound) for lane in range(1, outbound + 1)]
    roads = [(lane_road(plan, number, arms, move), move) for move in moves]
    connections = tuple(lane_connection(arms[move.a], move.lane_in, road) for road, move in roads)
    ways = [road for road, move in roads if move.a == 0]
    plan.junctions.append(Junction(number, connections, (add_sign(plan, "yield", arm, ways),)))
    plan.approaches.append(Approach(arm, stop_line=False, zebra=False))
