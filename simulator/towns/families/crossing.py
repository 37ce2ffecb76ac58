"""What happens where roads meet: lane-wise movements, kerbs, cycle ways, lights, stop and yield signs, zebras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from simulator.towns.families.control import STRAIGHT_RAD, add_light, add_sign, light_phases, turn_rad
from simulator.towns.families.roads import (
    ASPHALT,
    BIKING,
    DRIVING,
    SHOULDER,
    SIDEWALK,
    Approach,
    Arm,
    Connection,
    Junction,
    Link,
    Plan,
    Profile,
    Road,
    Section,
    Strip,
    Strips,
    driving_lanes,
    flat,
    width_m,
)
from simulator.towns.geometry import Curve, Pose, Segment, connect, wrap_rad

LEFT_LEAD_M = 3.0
EXCLUSIVE_LEFT_LANES = 3
"""With this many lanes the innermost one turns left only."""


class Control(NamedTuple):
    """How a crossing is controlled.

    `kind` is lights, stop or yield; `minor` are the arms (by index) that stop or yield; `paired` lights are
    green together with those opposite (left turns give way), the others one arm at a time (left turns protected).
    """

    kind: str
    minor: tuple[int, ...] = ()
    paired: bool = True
    zebra: bool = True


@dataclass(frozen=True)
class Movement:
    """A driving lane's way through: arms and lanes by index (lanes from 1, innermost first)."""

    a: int
    lane_in: int
    b: int
    lane_out: int
    kerb: bool


def build_crossing(plan: Plan, number: int, arms: list[Arm], control: Control) -> None:
    """Add the junction of these arms, given counter-clockwise, to the plan, with its connecting roads."""
    ways: dict[int, list[Road]] = {a: [] for a in range(len(arms))}
    kerbs: dict[tuple[int, int], Road] = {}
    connections = []
    for move in movements(arms):
        road = lane_road(plan, number, arms, move)
        ways[move.a].append(road)
        if move.kerb:
            kerbs[move.a, move.b] = road
        connections.append(lane_connection(arms[move.a], move.lane_in, road))
    for a, b in _cycle_ways(arms):
        road, lane = _cycle_road(plan, number, arms[a], arms[b])
        connections.append(lane_connection(arms[a], lane, road))
    held = [a for a in range(len(arms)) if ways[a]] if control.kind == "lights" else sorted(control.minor)
    if control.kind == "lights":
        signals = {a: add_light(plan, arms, a, ways, kerbs) for a in held}
        phases = light_phases(arms, signals, control.paired)
    else:
        signals = {a: add_sign(plan, control.kind, arms[a], ways[a]) for a in held}
        phases = ()
    plan.junctions.append(Junction(number, tuple(connections), tuple(signals.values()), phases))
    for a, arm in enumerate(arms):
        walked = bool(of_kind(arm.inbound, SIDEWALK) and of_kind(arm.outbound, SIDEWALK))
        plan.approaches.append(Approach(arm, stop_line=a in held, zebra=control.zebra and walked))


def movements(arms: list[Arm]) -> list[Movement]:
    """Lane-wise ways through a junction: every inbound lane leads somewhere, every corner has its kerb lane."""
    found = []
    for a, arm in enumerate(arms):
        lanes = driving_lanes(arm.inbound)
        exits = {b: turn_rad(arms, a, b) for b in range(len(arms)) if b != a and driving_lanes(arms[b].outbound)}
        if lanes == 0 or not exits:
            continue
        corner = (a + 1) % len(arms)
        pairs = {(1, b, 1) for b, turn in exits.items() if turn > STRAIGHT_RAD}
        pairs |= {(lanes, b, driving_lanes(arms[b].outbound)) for b, turn in exits.items() if turn < -STRAIGHT_RAD}
        first = 2 if lanes >= EXCLUSIVE_LEFT_LANES and any(turn > STRAIGHT_RAD for turn in exits.values()) else 1
        ahead = [b for b, turn in exits.items() if abs(turn) <= STRAIGHT_RAD]
        for b in ahead:
            pairs |= _straight(first, lanes, b, driving_lanes(arms[b].outbound), b == corner)
        if corner in exits:
            pairs.add((lanes, corner, driving_lanes(arms[corner].outbound)))
        pairs |= _leftover(lanes, pairs, arms, ahead or list(exits))
        kerbed = {(lanes, corner, driving_lanes(arms[corner].outbound))} if corner in exits else set()
        found += [Movement(a, i, b, j, (i, b, j) in kerbed) for i, b, j in sorted(pairs)]
    return found


def _straight(first: int, lanes: int, b: int, lanes_out: int, kerb: bool) -> set[tuple[int, int, int]]:
    """Lanes that go straight on; where the kerb runs along, the outermost lanes join whatever their number."""
    pairs = {(lane, b, lane) for lane in range(first, min(lanes, lanes_out) + 1)}
    if kerb and lanes != lanes_out:
        pairs.discard((min(lanes, lanes_out), b, min(lanes, lanes_out)))
        pairs.add((lanes, b, lanes_out))
    return pairs


def _leftover(
    lanes: int, pairs: set[tuple[int, int, int]], arms: list[Arm], goals: list[int]
) -> set[tuple[int, int, int]]:
    """A way for every lane that has none: into the nearest lane of the first goal."""
    served = {lane for lane, _, _ in pairs}
    return {
        (lane, goals[0], min(lane, driving_lanes(arms[goals[0]].outbound)))
        for lane in range(1, lanes + 1)
        if lane not in served
    }


def of_kind(strips: Strips, kind: str) -> Strip | None:
    return next((strip for strip in strips if strip.kind == kind), None)


def _lane_width_m(strips: Strips, lane: int) -> float:
    return [strip for strip in strips if strip.kind == DRIVING][lane - 1].width_m


def _inner_m(strips: Strips, lane: int) -> float:
    """Distance of a driving lane's inner edge from the centre line."""
    return sum(strip.width_m for strip in strips[: lane - 1])


def lane_road(plan: Plan, junction: int, arms: list[Arm], move: Movement) -> Road:
    arm_in, arm_out = arms[move.a], arms[move.b]
    lanes_in, lanes_out = arm_in.inbound, arm_out.outbound
    start = arm_in.inward.moved(0.0, _inner_m(lanes_in, move.lane_in))
    end = arm_out.outward.moved(0.0, _inner_m(lanes_out, move.lane_out))
    left = wrap_rad(end.heading_rad - start.heading_rad) > STRAIGHT_RAD
    curve = _with_leads(start, end) if left else connect(start, end)
    lane = Strip(DRIVING, _lane_width_m(lanes_in, move.lane_in), "none", _lane_width_m(lanes_out, move.lane_out))
    strips, linked = [lane], [(move.lane_in, move.lane_out)]
    if move.kerb:
        for strip, before, after in _kerb_strips(lanes_in, lanes_out):
            strips.append(strip)
            linked.append((before, after))
    return _add_connecting_road(plan, junction, (arm_in, arm_out), curve, tuple(strips), linked)


def _with_leads(start: Pose, end: Pose) -> Curve:
    """A left turn that begins and ends straight: it keeps clear of the cars that wait beside its ends."""
    line_in, line_out = Segment(start, LEFT_LEAD_M, 0.0), Segment(end.moved(-LEFT_LEAD_M), LEFT_LEAD_M, 0.0)
    turn = connect(line_in.at(LEFT_LEAD_M), line_out.start)
    return Curve((line_in, *turn.segments, line_out))


def _kerb_strips(lanes_in: Strips, lanes_out: Strips) -> list[tuple[Strip, int, int]]:
    """What runs right of the outermost driving lanes round a corner: (strip, lane before, lane after)."""
    found = []

    def add(kind: str, start_m: float, end_m: float) -> None:
        before = next((i for i, strip in enumerate(lanes_in, 1) if strip.kind == kind), 0)
        after = next((i for i, strip in enumerate(lanes_out, 1) if strip.kind == kind), 0)
        if start_m > 0.0 or end_m > 0.0:
            found.append((Strip(kind, start_m, "none", end_m), before, after))

    bikes = tuple(of_kind(strips, BIKING) for strips in (lanes_in, lanes_out))
    edges = [width_m(strips, ASPHALT - {DRIVING}) for strips in (lanes_in, lanes_out)]
    if bikes[0] and bikes[1]:
        add(BIKING, bikes[0].width_m, bikes[1].width_m)
        edges = [edge - bike.width_m for edge, bike in zip(edges, bikes, strict=True) if bike]
    add(SHOULDER, edges[0], edges[1])
    walks = [of_kind(strips, SIDEWALK) for strips in (lanes_in, lanes_out)]
    add(SIDEWALK, *(walk.width_m if walk else 0.0 for walk in walks))
    return found


def _cycle_ways(arms: list[Arm]) -> list[tuple[int, int]]:
    """Pairs of arms between which bicycles ride straight on beside the driving lanes."""
    return [
        (a, b)
        for a in range(len(arms))
        for b in range(len(arms))
        if a != b
        and b != (a + 1) % len(arms)
        and abs(turn_rad(arms, a, b)) <= STRAIGHT_RAD
        and of_kind(arms[a].inbound, BIKING)
        and of_kind(arms[b].outbound, BIKING)
    ]


def _cycle_road(plan: Plan, junction: int, arm_in: Arm, arm_out: Arm) -> tuple[Road, int]:
    lane_in, lane_out = (
        next(i for i, strip in enumerate(strips, 1) if strip.kind == BIKING)
        for strips in (arm_in.inbound, arm_out.outbound)
    )
    start = arm_in.inward.moved(0.0, _inner_m(arm_in.inbound, lane_in))
    end = arm_out.outward.moved(0.0, _inner_m(arm_out.outbound, lane_out))
    strip = Strip(BIKING, arm_in.inbound[lane_in - 1].width_m, "none", arm_out.outbound[lane_out - 1].width_m)
    road = _add_connecting_road(plan, junction, (arm_in, arm_out), connect(start, end), (strip,), [(lane_in, lane_out)])
    return road, lane_in


def _add_connecting_road(
    plan: Plan, junction: int, arms: tuple[Arm, Arm], curve: Curve, strips: Strips, linked: list[tuple[int, int]]
) -> Road:
    arm_in, arm_out = arms
    before = {-i: arm_in.inbound_sign * lane for i, (lane, _) in enumerate(linked, 1) if lane}
    after = {-i: -arm_out.inbound_sign * lane for i, (_, lane) in enumerate(linked, 1) if lane}
    road = Road(
        plan.road_id(), curve, flat(arm_in.z_m), (Section(0.0, Profile(strips, (), "none")),),
        min(arm_in.road.speed_kmh, arm_out.road.speed_kmh), "town", junction,
        Link("road", arm_in.road.id, arm_in.contact), Link("road", arm_out.road.id, arm_out.contact), before, after,
    )  # fmt: skip
    plan.roads.append(road)
    return road


def lane_connection(arm: Arm, lane_in: int, road: Road) -> Connection:
    return Connection(arm.road.id, road.id, ((arm.inbound_sign * lane_in, -1),))
