"""Where things stand on a road: lanes beside, ahead and opposite of a waypoint, on any `carla.Map`."""

from __future__ import annotations

import math

import carla

STEP_M = 1.0
MAX_LANES = 16
"""More lanes beside each other than any road has."""
MAX_FORKS = 32
PARKABLE = (carla.LaneType.Driving, carla.LaneType.Parking, carla.LaneType.Shoulder)


def ahead(waypoint: carla.Waypoint, distance_m: float, *, stop_at_junction: bool = True) -> carla.Waypoint:
    """The waypoint `distance_m` further along the lane; with `stop_at_junction` the last one before a junction."""
    for _ in range(math.ceil(distance_m / STEP_M)):
        following = waypoint.next(STEP_M)
        if not following or (stop_at_junction and following[0].is_junction):
            break
        waypoint = straightest(waypoint, following)
    return waypoint


def behind(waypoint: carla.Waypoint, distance_m: float, *, stop_at_junction: bool = False) -> carla.Waypoint:
    """The waypoint `distance_m` back along the lane, or where the lane begins; with `stop_at_junction` after one."""
    for _ in range(math.ceil(distance_m / STEP_M)):
        before = waypoint.previous(STEP_M)
        if not before or (stop_at_junction and before[0].is_junction):
            break
        waypoint = straightest(waypoint, before)
    return waypoint


def straightest(waypoint: carla.Waypoint, candidates: list[carla.Waypoint]) -> carla.Waypoint:
    """The candidate whose heading differs least from the waypoint's."""
    yaw_deg = waypoint.transform.rotation.yaw
    return min(candidates, key=lambda other: abs(turn_deg(other.transform.rotation.yaw, yaw_deg)))


def beside(waypoint: carla.Waypoint, side: str) -> carla.Waypoint | None:
    """The lane to the `left` or `right` (of any type, and of either direction of travel)."""
    return waypoint.get_right_lane() if side == "right" else waypoint.get_left_lane()


def same_way(a: carla.Waypoint, b: carla.Waypoint) -> bool:
    """Whether two lanes of a road lead the same way."""
    return a.lane_id * b.lane_id > 0


def driving_beside(waypoint: carla.Waypoint, side: str) -> carla.Waypoint | None:
    """The neighbouring driving lane of the same direction."""
    other = beside(waypoint, side)
    if other is None or other.lane_type != carla.LaneType.Driving or not same_way(waypoint, other):
        return None
    return other


def opposite(waypoint: carla.Waypoint) -> carla.Waypoint | None:
    """The nearest driving lane of the other direction, across the lanes to the left."""
    other: carla.Waypoint | None = waypoint
    for _ in range(12):
        other = other.get_left_lane() if other is not None and same_way(waypoint, other) else None
        if other is None:
            return None
        if not same_way(waypoint, other):
            return other if other.lane_type == carla.LaneType.Driving else None
    return None


def same_direction(waypoint: carla.Waypoint) -> list[carla.Waypoint]:
    """All driving lanes that lead the same way as the waypoint's, leftmost first."""
    leftmost = waypoint
    while (other := driving_beside(leftmost, "left")) is not None:
        leftmost = other
    lanes = [leftmost]
    while (other := driving_beside(lanes[-1], "right")) is not None:
        lanes.append(other)
    return lanes


def outermost(waypoint: carla.Waypoint, side: str, types: tuple[carla.LaneType, ...] = PARKABLE) -> carla.Waypoint:
    """The last lane of the given types towards a side, never one of the other direction."""
    current = waypoint
    while True:
        other = beside(current, side)
        if other is None or other.lane_type not in types or not same_way(waypoint, other):
            return current
        current = other


def roadside(waypoint: carla.Waypoint, side: str) -> carla.Waypoint:
    """The sidewalk on a side of the road, or its last lane if there is none; lanes of both directions are crossed."""
    for _ in range(MAX_LANES):
        other = beside(waypoint, side)
        if other is None or waypoint.lane_type == carla.LaneType.Sidewalk:
            break
        if not same_way(waypoint, other):
            side = "left" if side == "right" else "right"
        waypoint = other
    return waypoint


def shifted(
    transform: carla.Transform, *, right_m: float = 0.0, ahead_m: float = 0.0, up_m: float = 0.0, yaw_deg: float = 0.0
) -> carla.Transform:
    """A pose moved in its own frame, then turned clockwise by `yaw_deg`."""
    yaw = math.radians(transform.rotation.yaw)
    location = carla.Location(
        transform.location.x + ahead_m * math.cos(yaw) - right_m * math.sin(yaw),
        transform.location.y + ahead_m * math.sin(yaw) + right_m * math.cos(yaw),
        transform.location.z + up_m,
    )
    rotation = carla.Rotation(transform.rotation.pitch, transform.rotation.yaw + yaw_deg, transform.rotation.roll)
    return carla.Transform(location, rotation)


def lane_path(waypoint: carla.Waypoint, length_m: float, *, stop_at_junction: bool = False) -> list[carla.Transform]:
    """Poses every metre along the lane and the straightest way on after it; with `stop_at_junction` up to the next."""
    path = [waypoint.transform]
    for _ in range(math.ceil(length_m / STEP_M)):
        following = waypoint.next(STEP_M)
        if not following or (stop_at_junction and following[0].is_junction):
            break
        waypoint = straightest(waypoint, following)
        path.append(waypoint.transform)
    return path


def lane_way(start: carla.Waypoint, end: carla.Waypoint, max_length_m: float = 1000.0) -> list[carla.Transform] | None:
    """Poses about every metre from one waypoint to another without a change of lane; None if there is no such way.

    At forks all branches are tried, the straightest first.
    """
    open_ways = [[start]]
    while open_ways:
        way = open_ways.pop()
        while len(way) * STEP_M < max_length_m:
            if way[-1].transform.location.distance(end.transform.location) < STEP_M:
                return [waypoint.transform for waypoint in way]
            following = way[-1].next(STEP_M)
            if not following:
                break
            first = straightest(way[-1], following)
            open_ways += [[*way, other] for other in following if other is not first]
            way.append(first)
            if len(open_ways) > MAX_FORKS:
                return None
    return None


def next_junction(waypoint: carla.Waypoint, within_m: float = 200.0) -> tuple[carla.Waypoint, float] | None:
    """The first waypoint inside the next junction along the lane and how far it is."""
    distance_m = 0.0
    while distance_m < within_m:
        if waypoint.is_junction:
            return waypoint, distance_m
        following = waypoint.next(STEP_M)
        if not following:
            return None
        waypoint = straightest(waypoint, following)
        distance_m += STEP_M
    return None


def turn_deg(to_deg: float, from_deg: float) -> float:
    """Smallest turn between two headings, in [-180, 180), clockwise positive."""
    return (to_deg - from_deg + 180.0) % 360.0 - 180.0
