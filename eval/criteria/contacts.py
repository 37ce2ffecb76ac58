"""Collisions, from what the ego's collision sensor reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import carla

from eval.criteria.events import EgoState, Event, at_text, make_event
from eval.scoring import Infraction

COLLISION_RADIUS_M = 5.0
COLLISION_ID_S = 5.0
COLLISION_MIN_SPEED_MPS = 0.1


@dataclass(frozen=True, slots=True)
class Contact:
    """A collision reported by the ego's collision sensor."""

    frame: int
    other_id: int
    other_type: str


class Collisions:
    """Collisions with others, each counted once.

    Not counted are: the same actor again within 5 s, anything within 5 m of the last counted collision, and contacts
    while the ego stood still. Contacts are judged by the state before the tick in which they happened.
    """

    def __init__(self) -> None:
        self._before: EgoState | None = None
        self._last_id: int | None = None
        self._last_time_s = 0.0
        self._last_location: carla.Location | None = None
        self.events: list[Event] = []

    def update(self, ego: EgoState, contacts: Iterable[Contact]) -> None:
        """Count the contacts of this tick."""
        before = self._before or ego
        for contact in contacts:
            self._count(before, contact)
        self._before = ego
        if self._last_location is not None and ego.location.distance(self._last_location) > COLLISION_RADIUS_M:
            self._last_location = None
        if self._last_id is not None and ego.time_s - self._last_time_s > COLLISION_ID_S:
            self._last_id = None

    def _count(self, ego: EgoState, contact: Contact) -> None:
        if self._last_id == contact.other_id or ego.speed_mps < COLLISION_MIN_SPEED_MPS:
            return
        if self._last_location is not None and ego.location.distance(self._last_location) <= COLLISION_RADIUS_M:
            return
        self._last_time_s = ego.time_s
        self._last_location = ego.location
        if contact.other_id != 0:  # 0 stands for the scenery
            self._last_id = contact.other_id
        kind = _collision_kind(contact.other_type)
        if kind is None:
            return
        what = f"object with type={contact.other_type} and id={contact.other_id}"
        message = f"Agent collided against {what} at {at_text(ego.location)}"
        event = make_event(ego, kind, message, other_id=contact.other_id, other_type=contact.other_type)
        self.events.append(replace(event, frame=contact.frame))


def _collision_kind(type_id: str) -> Infraction | None:
    if ("static" in type_id or "traffic" in type_id) and "sidewalk" not in type_id:
        return Infraction.COLLISION_STATIC
    if "vehicle" in type_id:
        return Infraction.COLLISION_VEHICLE
    if "walker" in type_id:
        return Infraction.COLLISION_PEDESTRIAN
    return None
