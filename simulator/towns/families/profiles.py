"""Cross-sections of the families' roads."""

from __future__ import annotations

from simulator.towns.families.roads import (
    BIKING,
    DRIVING,
    PARKING,
    SHOULDER,
    SIDEWALK,
    Profile,
    Strip,
    Strips,
)

KERB_SHOULDER_M, PARKING_M, BIKE_M, SIDEWALK_M = 0.4, 2.2, 1.8, 2.5


def lanes(count: int, lane_m: float) -> Strips:
    """Driving lanes with lines between them and a solid one at the edge."""
    return tuple(Strip(DRIVING, lane_m, "broken" if i + 1 < count else "solid") for i in range(count))


def street_side(count: int, lane_m: float, *, bike: bool = False, parking: bool = False) -> Strips:
    """One side of a street: driving lanes, perhaps a cycle lane and parking, then the sidewalk."""
    strips = lanes(count, lane_m)
    if bike:
        strips += (Strip(BIKING, BIKE_M, "solid"),)
    strips += (Strip(PARKING, PARKING_M) if parking else Strip(SHOULDER, KERB_SHOULDER_M),)
    return (*strips, Strip(SIDEWALK, SIDEWALK_M))


def street(right: Strips, left: Strips) -> Profile:
    """A two-way street; double centre line where it has more than one lane per direction."""
    several = sum(strip.kind == DRIVING for strip in right) > 1
    return Profile(right, left, "solid solid" if several else "solid")


def rural(count: int, lane_m: float, shoulder_m: float) -> Profile:
    """A two-way country road with paved shoulders and no sidewalks."""
    side = (*lanes(count, lane_m), Strip(SHOULDER, shoulder_m))
    return Profile(side, side, "solid solid" if count > 1 else "solid")


def ramp(lane_m: float, shoulder_m: float) -> Profile:
    """A one-way, one-lane ramp."""
    return Profile((*lanes(1, lane_m), Strip(SHOULDER, shoulder_m)), (Strip(SHOULDER, 0.6),), "solid")
