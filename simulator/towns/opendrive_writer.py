"""Writes a street network as OpenDRIVE 1.4 in the dialect of CARLA's own towns."""

from collections import defaultdict
from collections.abc import Iterable

from simulator.towns.junctions import Approach, Connector, Junction, Network
from simulator.towns.layout import SIDEWALK_M, Arm, Road, Side
from simulator.towns.opendrive_furniture import (
    FIRST_CONTROLLER_ID,
    FIRST_OBJECT_ID,
    STOP_LINE_BEFORE_END_M,
    controllers,
    signal_reference,
    signal_tag,
    stop_line,
    zebra,
)
from simulator.towns.opendrive_text import header, plan_view, tag

PARKING_FREE_M = 16.0
"""No parking this close to a junction."""
PARKING_MIN_M = 20.0


def write_opendrive(network: Network, name: str) -> str:
    """The whole OpenDRIVE document."""
    signals: dict[int, list[str]] = defaultdict(list)
    for junction in network.junctions:
        for signal in junction.signals:
            text = signal_tag(signal.kind, signal.id, signal.s_m, signal.t_m, signal.heading_offset_rad)
            signals[signal.road].append(text)
            for connector in signal.connectors:
                signals[connector].append(signal_reference(signal.id))
    objects: dict[int, list[str]] = defaultdict(list)
    for index, approach in enumerate(network.approaches):
        objects[approach.arm.road.id] += _approach_objects(approach, first_id=FIRST_OBJECT_ID + 2 * index)
    roads = [_road(road, objects[road.id], signals[road.id]) for road in network.roads]
    connectors = [c for junction in network.junctions for c in junction.connectors]
    roads += [_connecting_road(connector, signals[connector.road.id]) for connector in connectors]
    controls, junctions = _controllers_and_junctions(network.junctions)
    body = "\n".join(
        [
            header((pose for road in network.roads for pose in road.curve.sample(5.0)), name),
            *roads,
            *controls,
            *junctions,
        ]
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<OpenDRIVE>\n{body}\n</OpenDRIVE>\n'


def _elevation(road: Road) -> str:
    length_m = road.curve.length_m
    rise_m = road.z_end_m - road.z_start_m
    cubic = f"{-2.0 * rise_m / length_m**3:.15f}"
    profile = tag("elevation", s=0.0, a=road.z_start_m, b=0.0, c=f"{3.0 * rise_m / length_m**2:.12f}", d=cubic)
    return tag("elevationProfile", profile)


def _lane(number: int, kind: str, width: str, mark: str, link: str = "", colour: str = "white") -> str:
    change = "both" if mark == "broken" and number else "none"
    road_mark = tag(
        "roadMark", sOffset=0.0, type=mark, weight="standard", material="standard", color=colour, width=0.12,
        laneChange=change,
    )  # fmt: skip
    content = (tag("link", link) if link else "<link/>") + width + road_mark
    return tag("lane", content, id=number, type=kind, level="false")


def _width(start_m: float, end_m: float, length_m: float) -> str:
    rise_m = end_m - start_m
    square, cubic = 3.0 * rise_m / length_m**2, -2.0 * rise_m / length_m**3
    return tag("width", sOffset=0.0, a=start_m, b=0.0, c=f"{square:.12f}", d=f"{cubic:.12f}")


def _side_lanes(side: Side, sign: int, parking: bool, link: str) -> list[str]:
    """Lanes of one side from the centre outwards; `link` has {} where the own lane id goes."""

    def lane(number: int, kind: str, width_m: float, mark: str) -> str:
        identity = sign * number
        return _lane(identity, kind, _width(width_m, width_m, 1.0), mark, link.format(identity, identity))

    lanes = [
        lane(number, "driving", side.lane_m, "broken" if number < side.lanes else "solid")
        for number in range(1, side.lanes + 1)
    ]
    kind = "parking" if parking else "shoulder"
    lanes.append(lane(side.lanes + 1, kind, side.shoulder_m, "none"))
    lanes.append(lane(side.lanes + 2, "sidewalk", SIDEWALK_M, "none"))
    return lanes


def _lane_sections(road: Road) -> str:
    length_m = road.curve.length_m
    parks = road.right.parking or (road.left is not None and road.left.parking)
    starts = [0.0]
    if parks and length_m > 2.0 * PARKING_FREE_M + PARKING_MIN_M:
        starts = [0.0, PARKING_FREE_M, length_m - PARKING_FREE_M]
    sections = ""
    for index, start_m in enumerate(starts):
        link = '<predecessor id="{}"/>' if index > 0 else ""
        link += '<successor id="{}"/>' if index + 1 < len(starts) else ""
        middle = len(starts) == 3 and index == 1
        left = ""
        if road.left is not None:
            left = tag("left", "".join(reversed(_side_lanes(road.left, 1, middle and road.left.parking, link))))
        mark = road.centre_mark if road.left is not None else "solid"
        centre = tag("center", _lane(0, "none", "", mark, colour="yellow" if road.left is not None else "white"))
        right = tag("right", "".join(_side_lanes(road.right, -1, middle and road.right.parking, link)))
        sections += tag("laneSection", left + centre + right, s=start_m)
    return tag("lanes", tag("laneOffset", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0) + sections)


def _road_tag(road: Road, junction: int, link: str, lanes: str, objects: str, signals: str) -> str:
    kind = tag("type", tag("speed", max=road.speed_kmh, unit="km/h"), s=0.0, type="town")
    content = tag("link", link) + kind + plan_view(road.curve) + _elevation(road) + "<lateralProfile/>"
    content += lanes + objects + signals
    return tag("road", content, name=f"Road {road.id}", length=road.curve.length_m, id=road.id, junction=junction)


def _road(road: Road, objects: list[str], signals: list[str]) -> str:
    link = tag("predecessor", elementType="junction", elementId=road.start_junction)
    link += tag("successor", elementType="junction", elementId=road.end_junction)
    return _road_tag(
        road, -1, link, _lane_sections(road), tag("objects", "".join(objects)), tag("signals", "".join(signals))
    )


def _connecting_road(connector: Connector, signals: list[str]) -> str:
    incoming, outgoing = connector.incoming, connector.outgoing
    link = tag("predecessor", elementType="road", elementId=incoming.road.id, contactPoint=incoming.contact)
    link += tag("successor", elementType="road", elementId=outgoing.road.id, contactPoint=outgoing.contact)
    side = connector.road.right
    length_m = connector.road.curve.length_m
    start_m, end_m = connector.shoulder_ends_m
    rows = [("driving", _width(side.lane_m, side.lane_m, length_m))]
    if connector.has_kerb:
        rows += [
            ("shoulder", _width(start_m, end_m, length_m)),
            ("sidewalk", _width(SIDEWALK_M, SIDEWALK_M, length_m)),
        ]
    lanes = ""
    for index, (kind, width) in enumerate(rows):
        source = incoming.inbound_sign * (connector.incoming_lane + index)
        target = -outgoing.inbound_sign * (connector.outgoing_lane + index)
        lanes += _lane(-1 - index, kind, width, "none", tag("predecessor", id=source) + tag("successor", id=target))
    section = tag("center", _lane(0, "none", "", "none")) + tag("right", lanes)
    offset = tag("laneOffset", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0)
    body = tag("lanes", offset + tag("laneSection", section, s=0.0))
    return _road_tag(connector.road, connector.junction, link, body, "<objects/>", tag("signals", "".join(signals)))


def _approach_objects(approach: Approach, first_id: int) -> list[str]:
    """Stop line and zebra crossing at the end of an arm."""
    arm, objects = approach.arm, []
    if approach.stop_line:
        side = arm.inbound_side
        objects.append(
            stop_line(first_id, _arm_s_m(arm, STOP_LINE_BEFORE_END_M), arm.inbound_sign, side.lanes * side.lane_m)
        )
    if approach.zebra:
        road, inwards = arm.road, -1.0 if arm.at_start else 1.0
        assert road.left is not None
        objects.append(zebra(first_id + 1, _arm_s_m(arm, 0.0), inwards, road.left.asphalt_m, road.right.asphalt_m))
    return objects


def _arm_s_m(arm: Arm, before_end_m: float) -> float:
    return before_end_m if arm.at_start else arm.road.curve.length_m - before_end_m


def _controllers_and_junctions(junctions: Iterable[Junction]) -> tuple[list[str], list[str]]:
    listed: list[str] = []
    written: list[str] = []
    for junction in junctions:
        content = ""
        for index, c in enumerate(junction.connectors):
            link = tag("laneLink", **{"from": c.incoming.inbound_sign * c.incoming_lane, "to": -1})
            content += tag(
                "connection", link, id=index, incomingRoad=c.incoming.road.id, connectingRoad=c.road.id,
                contactPoint="start",
            )  # fmt: skip
        more, references = controllers(junction.phases, FIRST_CONTROLLER_ID + len(listed))
        listed += more
        content += references
        written.append(tag("junction", content, id=junction.id, name=f"junction{junction.id}"))
    return listed, written
