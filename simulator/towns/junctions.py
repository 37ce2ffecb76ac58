"""What happens inside the crossings of an own town: movements, roundabouts, traffic lights and stop signs."""

import math
import random
from dataclasses import dataclass, field

from simulator.towns.geometry import Pose, biarc, connect, wrap_rad
from simulator.towns.layout import (
    KERB_SHOULDER_M,
    ROUNDABOUT_RADIUS_M,
    Arm,
    Crossing,
    Layout,
    LayoutError,
    Road,
    Side,
)

STRAIGHT, LEFT, RIGHT = 0, 1, 3
"""Direction of the outgoing arm minus that of the incoming arm's opposite, in quarter turns."""
POST_BEFORE_EXIT_M = 2.5
"""A far side light stands this far before the end of the junction."""
POST_FROM_KERB_M = 0.9
NEAREST_POST_M = 11.0
"""Nearest light along a kerb without a corner, from the stop line: still low enough in the picture to be seen."""
WIDEST_VIEW = math.tan(math.radians(27.0))
"""Such a light stays within this bearing for the driver of the innermost lane."""
SIGN_BEFORE_LINE_M = 0.4
MIN_OF_EACH_KIND = 2
"""Junctions with lights, and junctions with stop signs, that every town has."""
ROUNDABOUT_HALF_ANGLE_RAD = math.radians(28.0)
ROUNDABOUT_SPEED_KMH = 20


@dataclass(frozen=True)
class Connector:
    """One lane's way through a junction; its single driving lane has id -1."""

    road: Road
    junction: int
    incoming: Arm
    incoming_lane: int
    outgoing: Arm
    outgoing_lane: int
    has_kerb: bool
    """Whether shoulder and sidewalk run along its right side."""

    @property
    def shoulder_ends_m(self) -> tuple[float, float]:
        """Shoulder width where the connector begins and ends."""
        return self.incoming.inbound_side.shoulder_m, self.outgoing.outbound_side.shoulder_m

    def shoulder_at_m(self, s_m: float) -> float:
        """Shoulder width s_m along the connector: a smooth cubic between its ends."""
        start_m, end_m = self.shoulder_ends_m
        ratio = s_m / self.road.curve.length_m
        return start_m + (end_m - start_m) * ratio * ratio * (3.0 - 2.0 * ratio)


@dataclass(frozen=True)
class Signal:
    """A traffic light or stop sign: where it stands (road, s, t), where it looks, which connectors obey it."""

    id: int
    kind: str
    road: int
    s_m: float
    t_m: float
    heading_offset_rad: float
    connectors: tuple[int, ...]


@dataclass(frozen=True)
class Junction:
    """Connectors and control of one junction; phases hold ids of lights that are green together."""

    id: int
    connectors: tuple[Connector, ...]
    signals: tuple[Signal, ...]
    phases: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Approach:
    """An arm whose traffic stops at a line, with or without a zebra crossing behind it."""

    arm: Arm
    stop_line: bool
    zebra: bool


@dataclass
class Ids:
    """Counters for the ids that the writer hands out in order."""

    road: int
    signal: int = 2000

    def next_road(self) -> int:
        """A fresh road id."""
        self.road += 1
        return self.road

    def next_signal(self) -> int:
        """A fresh signal id."""
        self.signal += 1
        return self.signal


@dataclass
class Network:
    """Everything the writer turns into OpenDRIVE."""

    layout: Layout
    roads: list[Road] = field(default_factory=list)
    junctions: list[Junction] = field(default_factory=list)
    approaches: list[Approach] = field(default_factory=list)


def build_network(layout: Layout, rng: random.Random) -> Network:
    """Junctions for all crossings of the layout.

    Raises: LayoutError if the town would not have both junctions with lights and junctions with stop signs.
    """
    network = Network(layout, roads=list(layout.roads))
    ids = Ids(road=len(layout.roads))
    plain = [crossing for crossing in layout.crossings if not crossing.roundabout]
    stops = _choose_stops(plain, rng)
    if min(len(stops), len(plain) - len(stops)) < MIN_OF_EACH_KIND:
        raise LayoutError("too few junctions with lights or with stop signs")
    for crossing in layout.crossings:
        if crossing.roundabout:
            _roundabout(crossing, layout.lane_m, network, ids)
        else:
            _plain_junction(crossing, stops.get(crossing.id), network, ids, rng)
    return network


def _choose_stops(crossings: list[Crossing], rng: random.Random) -> dict[int, list[int]]:
    """The junctions without lights, with the arms that have a stop sign there; about two in five."""
    wanted = round(len(crossings) * rng.uniform(0.3, 0.5))
    stops: dict[int, list[int]] = {}
    for crossing in rng.sample(crossings, len(crossings)):
        choices = _stop_choices(crossing.arms)
        if choices and len(stops) < wanted:
            stops[crossing.id] = rng.choice(choices)
    return stops


def _stop_choices(arms: dict[int, Arm]) -> list[list[int]]:
    """Who may stop without lights: the stem of a T, one street of a crossroads, or everybody.

    Two lanes never stop at a sign, and a crossroads with two lanes anywhere has lights: traffic locks up otherwise.
    """
    single = {a: arm.inbound_side.lanes == 1 for a, arm in arms.items()}
    stem = [a for a in arms if (a + 2) % 4 not in arms]
    if stem:
        return [choice for choice in (stem, sorted(arms)) if all(single[a] for a in choice)]
    return [[0, 2], [1, 3], sorted(arms)] if all(single.values()) else []


def _lane_edge(pose: Pose, lane: int, lane_m: float) -> Pose:
    """Left edge of driving lane 1, 2, ... right of the centre line pose."""
    return pose.moved(0.0, (lane - 1) * lane_m)


def _connector(
    ids: Ids, crossing: Crossing, junction: int, ends: tuple[Arm, int, Arm, int], has_kerb: bool, speed_kmh: int
) -> Connector:
    incoming, incoming_lane, outgoing, outgoing_lane = ends
    start_side, end_side = incoming.inbound_side, outgoing.outbound_side
    curve = connect(
        _lane_edge(incoming.inbound, incoming_lane, start_side.lane_m),
        _lane_edge(outgoing.outbound, outgoing_lane, end_side.lane_m),
    )
    lane = Side(1, start_side.lane_m, 0.0, False)
    road = Road(ids.next_road(), curve, lane, None, speed_kmh, crossing.z_m, crossing.z_m, junction, junction)
    return Connector(road, junction, incoming, incoming_lane, outgoing, outgoing_lane, has_kerb)


def _movements(arms: dict[int, Arm], a: int, b: int) -> list[tuple[int, int, bool]]:
    """Lane pairs (from, to, along the kerb) from arm a to arm b, every lane served."""
    turn = (b - a - 2) % 4
    lanes_in, lanes_out = arms[a].inbound_side.lanes, arms[b].outbound_side.lanes
    if turn == LEFT:
        return [(1, 1, False)]
    if turn == RIGHT:
        return [(lanes_in, lanes_out, True)]
    pairs = [(lane, lane, False) for lane in range(1, min(lanes_in, lanes_out) + 1)]
    if (a + 1) % 4 in arms:
        return pairs
    # No arm on the right: the kerb runs straight on, so the outermost lanes must join, whatever their number.
    if lanes_in == lanes_out:
        pairs.pop()
    return [*pairs, (lanes_in, lanes_out, True)]


def _plain_junction(
    crossing: Crossing, stop_arms: list[int] | None, network: Network, ids: Ids, rng: random.Random
) -> None:
    """Lights at every arm, or stop signs at stop_arms."""
    arms = crossing.arms
    connectors: dict[int, list[Connector]] = {a: [] for a in arms}
    for a, incoming in arms.items():
        for b, outgoing in arms.items():
            if a == b:
                continue
            for lane_in, lane_out, has_kerb in _movements(arms, a, b):
                ends = (incoming, lane_in, outgoing, lane_out)
                speed_kmh = min(incoming.road.speed_kmh, outgoing.road.speed_kmh)
                connectors[a].append(_connector(ids, crossing, crossing.id, ends, has_kerb, speed_kmh))
    lights = stop_arms is None
    held = sorted(arms) if stop_arms is None else stop_arms
    place = _light if lights else _stop_sign
    signals = {a: place(crossing, a, connectors, ids) for a in held}
    phases = _phases({a: signal.id for a, signal in signals.items()}, rng) if lights else ()
    everything = tuple(connector for group in connectors.values() for connector in group)
    network.junctions.append(Junction(crossing.id, everything, tuple(signals.values()), phases))
    zebra = lights or rng.random() < 0.5
    network.approaches += [Approach(arm, stop_line=a in held, zebra=zebra) for a, arm in arms.items()]


def _phases(light_of_arm: dict[int, int], rng: random.Random) -> tuple[tuple[int, ...], ...]:
    """Green together: opposite arms, or one arm at a time."""
    if rng.random() < 0.5:
        return tuple((light,) for light in light_of_arm.values())
    streets = [tuple(light_of_arm[a] for a in (k, k + 2) if a in light_of_arm) for k in (0, 1)]
    return tuple(street for street in streets if street)


def _light(crossing: Crossing, a: int, connectors: dict[int, list[Connector]], ids: Ids) -> Signal:
    """A light on the far right corner, or across the street where arm a ends at a T."""
    ahead = (a + 2) % 4
    if ahead in crossing.arms:
        carrier = next(
            c for group in connectors.values() for c in group if c.has_kerb and c.outgoing == crossing.arms[ahead]
        )
        length_m = carrier.road.curve.length_m
        s_m = length_m - POST_BEFORE_EXIT_M
        if carrier.incoming == crossing.arms[a]:
            aside_m = crossing.arms[a].inbound_side.asphalt_m + POST_FROM_KERB_M
            s_m = min(s_m, max(NEAREST_POST_M, aside_m / WIDEST_VIEW))
    else:
        carrier = next(c for c in connectors[(a + 1) % 4] if c.has_kerb)
        s_m = carrier.road.curve.length_m / 2.0
    t_m = -(carrier.road.right.lane_m + carrier.shoulder_at_m(s_m) + POST_FROM_KERB_M)
    return _signal("light", crossing, a, connectors, ids, (carrier.road, s_m, t_m))


def _stop_sign(crossing: Crossing, a: int, connectors: dict[int, list[Connector]], ids: Ids) -> Signal:
    """A sign beside the stop line, on the right."""
    arm = crossing.arms[a]
    length_m = arm.road.curve.length_m
    s_m = SIGN_BEFORE_LINE_M if arm.at_start else length_m - SIGN_BEFORE_LINE_M
    t_m = arm.inbound_sign * (arm.inbound_side.asphalt_m + POST_FROM_KERB_M)
    return _signal("stop", crossing, a, connectors, ids, (arm.road, s_m, t_m))


def _signal(
    kind: str,
    crossing: Crossing,
    a: int,
    connectors: dict[int, list[Connector]],
    ids: Ids,
    place: tuple[Road, float, float],
) -> Signal:
    """A signal at (road, s, t) turned to the traffic of arm a: its heading is the direction of travel."""
    road, s_m, t_m = place
    offset_rad = wrap_rad(crossing.arms[a].inbound.heading_rad - road.curve.at(s_m).heading_rad)
    obeyed_by = tuple(connector.road.id for connector in connectors[a])
    return Signal(ids.next_signal(), kind, road.id, s_m, t_m, offset_rad, obeyed_by)


def _roundabout(crossing: Crossing, lane_m: float, network: Network, ids: Ids) -> None:
    """One lane circulating counter-clockwise; each arm meets it in a junction of its own."""
    ring_side = Side(1, lane_m, KERB_SHOULDER_M, False)
    directions = list(crossing.arms)
    ring: dict[int, Road] = {}
    for a, following in zip(directions, directions[1:] + directions[:1], strict=True):
        start = _on_ring(crossing, a, ROUNDABOUT_HALF_ANGLE_RAD)
        end = _on_ring(crossing, following, -ROUNDABOUT_HALF_ANGLE_RAD)
        middle_rad = ((following - a) % 4 * math.pi / 2.0) / 2.0
        middle = _on_ring(crossing, a, middle_rad)
        curve = biarc(start, middle).joined(biarc(middle, end))
        ring[a] = Road(
            id=ids.next_road(), curve=curve, right=ring_side, left=None, speed_kmh=ROUNDABOUT_SPEED_KMH,
            z_start_m=crossing.z_m, z_end_m=crossing.z_m,
            start_junction=crossing.id + a, end_junction=crossing.id + following,
        )  # fmt: skip
    network.roads += ring.values()
    for index, (a, arm) in enumerate(crossing.arms.items()):
        arriving = Arm(ring[directions[index - 1]], at_start=False)
        leaving = Arm(ring[a], at_start=True)
        movements = [((arriving, 1, leaving, 1), False)]
        inbound, outbound = arm.inbound_side, arm.outbound_side
        movements += [((arm, lane, leaving, 1), lane == inbound.lanes) for lane in range(1, inbound.lanes + 1)]
        movements += [((arriving, 1, arm, lane), lane == outbound.lanes) for lane in range(1, outbound.lanes + 1)]
        connectors = tuple(
            _connector(ids, crossing, crossing.id + a, ends, has_kerb, ROUNDABOUT_SPEED_KMH)
            for ends, has_kerb in movements
        )
        network.junctions.append(Junction(crossing.id + a, connectors, (), ()))
        network.approaches.append(Approach(arm, stop_line=False, zebra=False))


def _on_ring(crossing: Crossing, direction: int, offset_rad: float) -> Pose:
    """The pose on the ring's left lane edge, offset_rad past the arm, heading along the circulation."""
    spoke = crossing.pose.turned(direction * math.pi / 2.0 + offset_rad)
    return spoke.moved(ROUNDABOUT_RADIUS_M).turned(math.pi / 2.0)
