"""Driving outside the lanes of the route."""

from __future__ import annotations

import math

import carla

from eval.criteria.events import EgoState, Event, make_event
from eval.criteria.track import RouteTrack
from eval.scoring import Infraction

OUTSIDE_LANE_SLACK_M = 0.5
WRONG_LANE_VEHICLE_DEG = 120.0
WRONG_LANE_WAYPOINT_DEG = 150.0


class OutsideRouteLanes:
    """Share of the driven route spent off the driving lanes or in a lane of the opposite direction."""

    WINDOW = 3

    def __init__(self, track: RouteTrack, carla_map: carla.Map, start: carla.Location) -> None:
        self._track = track
        self._map = carla_map
        self._index = 0
        self._last_waypoint = carla_map.get_waypoint(start)
        self._last_lane: tuple[int, int] | None = None
        self._wrong_lane = False
        self._driven_m = 0.0
        self._outside_m = 0.0
        self.outside = False
        self.wrong_way_allowed = False
        """Set while a scenario leaves no way but the opposite lane."""
        self.events: list[Event] = []

    def update(self, ego: EgoState) -> None:
        """Judge the ego's position and add the newly passed metres to the right account."""
        off_lanes = self._is_off_lanes(ego.location)
        self._update_wrong_lane(ego)
        self.outside = off_lanes or (self._wrong_lane and not self.wrong_way_allowed)
        first, last = self._index + 1, min(self._index + self.WINDOW, len(self._track) - 1)
        for index in range(first, last + 1):
            if not self._track.passed(index, ego.location):
                continue
            step_m = math.dist(self._track.locations[self._index], self._track.locations[index])
            self._driven_m += step_m
            if self.outside:
                self._outside_m += step_m
            if self._outside_m:
                self.events = [self._event(ego)]
            self._index = index

    def _event(self, ego: EgoState) -> Event:
        percentage = self._outside_m / self._driven_m * 100.0
        message = (
            f"Agent went outside its route lanes for about {round(self._outside_m, 3)} meters "
            f"({round(percentage, 2)}% of the completed route)"
        )
        return make_event(ego, Infraction.OUTSIDE_ROUTE_LANES, message, percentage=percentage)

    def _is_off_lanes(self, location: carla.Location) -> bool:
        driving = self._map.get_waypoint(location, lane_type=carla.LaneType.Driving)
        parking = self._map.get_waypoint(location, lane_type=carla.LaneType.Parking)
        distance_m, width_m = location.distance(driving.transform.location), driving.lane_width
        if parking is not None and location.distance(parking.transform.location) <= distance_m:
            distance_m, width_m = location.distance(parking.transform.location), parking.lane_width
        return distance_m > width_m / 2.0 + OUTSIDE_LANE_SLACK_M

    def _update_wrong_lane(self, ego: EgoState) -> None:
        waypoint = self._map.get_waypoint(ego.location, lane_type=carla.LaneType.Driving)
        lane = waypoint.road_id, waypoint.lane_id
        if waypoint.is_junction:
            self._wrong_lane = False
        elif lane != self._last_lane:
            yaw_deg = waypoint.transform.rotation.yaw
            if self._last_waypoint.is_junction:
                turn_deg = _turn_deg(yaw_deg, ego.transform.rotation.yaw)
                self._wrong_lane = WRONG_LANE_VEHICLE_DEG <= turn_deg <= 360.0 - WRONG_LANE_VEHICLE_DEG
            else:
                turn_deg = _turn_deg(self._last_waypoint.transform.rotation.yaw, yaw_deg)
                if WRONG_LANE_WAYPOINT_DEG < turn_deg < 360.0 - WRONG_LANE_WAYPOINT_DEG:
                    self._wrong_lane = not self._wrong_lane
        self._last_lane = lane
        self._last_waypoint = waypoint


def _turn_deg(a_deg: float, b_deg: float) -> float:
    return (a_deg - b_deg) % 360.0
