"""Writes a town's plan as OpenDRIVE 1.4 in the dialect of CARLA's own towns."""

from __future__ import annotations

from collections import defaultdict

from simulator.towns.families.roads import (
    ASPHALT,
    DRIVING,
    Approach,
    Arm,
    Junction,
    Link,
    Plan,
    Road,
    Strip,
    width_m,
)
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

MARK_WIDTH_M = {"motorway": 0.15}


def write_plan(plan: Plan, name: str) -> str:
    """The whole OpenDRIVE document."""
    signals: dict[int, list[str]] = defaultdict(list)
    for junction in plan.junctions:
        for signal in junction.signals:
            text = signal_tag(signal.kind, signal.id, signal.s_m, signal.t_m, signal.heading_offset_rad)
            signals[signal.road].append(text)
            for held in signal.held:
                signals[held].append(signal_reference(signal.id))
    objects: dict[int, list[str]] = defaultdict(list)
    for index, approach in enumerate(plan.approaches):
        objects[approach.arm.road.id] += _approach_objects(approach, FIRST_OBJECT_ID + 2 * index)
    roads = [
        _road(road, objects[road.id], signals[road.id])
        for road in sorted(plan.roads, key=lambda road: (road.junction != -1, road.id))
    ]
    controls, junctions = _controllers_and_junctions(plan.junctions)
    poses = [pose for road in plan.roads for pose in road.curve.sample(5.0)]
    body = "\n".join([header(poses, name), *roads, *controls, *junctions])
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<OpenDRIVE>\n{body}\n</OpenDRIVE>\n'


def _road(road: Road, objects: list[str], signals: list[str]) -> str:
    link = "".join(
        _link(kind, end) for kind, end in (("predecessor", road.before), ("successor", road.after)) if end is not None
    )
    kind = tag("type", tag("speed", max=road.speed_kmh, unit="km/h"), s=0.0, type=road.kind)
    profile = "".join(
        tag("elevation", s=p.s_m, a=p.a, b=f"{p.b:.12f}", c=f"{p.c:.12f}", d=f"{p.d:.15f}") for p in road.heights
    )
    content = tag("link", link) + kind + plan_view(road.curve) + tag("elevationProfile", profile)
    content += "<lateralProfile/>" + _lanes(road) + tag("objects", "".join(objects)) + tag("signals", "".join(signals))
    return tag("road", content, name=f"Road {road.id}", length=road.curve.length_m, id=road.id, junction=road.junction)


def _link(kind: str, end: Link) -> str:
    contact = {"contactPoint": end.contact} if end.contact else {}
    return tag(kind, elementType=end.element, elementId=end.id, **contact)


def _lanes(road: Road) -> str:
    sections = ""
    ends = [section.start_m for section in road.sections[1:]] + [road.curve.length_m]
    for index, (section, end_m) in enumerate(zip(road.sections, ends, strict=True)):
        length_m = end_m - section.start_m
        profile = section.profile
        before = _ids(road, index - 1) if index else None
        after = _ids(road, index + 1) if index + 1 < len(road.sections) else None

        def link(lane: int, before: set[int] | None = before, after: set[int] | None = after) -> str:
            earlier = road.lanes_before.get(lane) if before is None else lane if lane in before else None
            later = road.lanes_after.get(lane) if after is None else lane if lane in after else None
            text = "" if earlier is None else tag("predecessor", id=earlier)
            return text + ("" if later is None else tag("successor", id=later))

        two_way = any(strip.kind == DRIVING for strip in profile.left)
        colour = "yellow" if two_way else "white"
        parts = ""
        if profile.left:
            lanes = [_lane(i, strip, length_m, link(i), road.kind) for i, strip in enumerate(profile.left, 1)]
            parts += tag("left", "".join(reversed(lanes)))
        parts += tag("center", _lane(0, Strip("none", 0.0, profile.centre_mark), length_m, "", road.kind, colour))
        lanes = [_lane(-i, strip, length_m, link(-i), road.kind) for i, strip in enumerate(profile.right, 1)]
        parts += tag("right", "".join(lanes))
        sections += tag("laneSection", parts, s=section.start_m)
    return tag("lanes", tag("laneOffset", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0) + sections)


def _ids(road: Road, index: int) -> set[int]:
    profile = road.sections[index].profile
    return set(range(1, len(profile.left) + 1)) | set(range(-len(profile.right), 0))


def _lane(identity: int, strip: Strip, length_m: float, link: str, road_kind: str, colour: str = "white") -> str:
    change = "both" if strip.mark == "broken" and identity else "none"
    mark = tag(
        "roadMark", sOffset=0.0, type=strip.mark, weight="standard", material="standard", color=colour,
        width=MARK_WIDTH_M.get(road_kind, 0.12), laneChange=change,
    )  # fmt: skip
    width = ""
    if identity:
        rise_m = strip.last_width_m - strip.width_m
        square, cubic = 3.0 * rise_m / length_m**2, -2.0 * rise_m / length_m**3
        width = tag("width", sOffset=0.0, a=strip.width_m, b=0.0, c=f"{square:.12f}", d=f"{cubic:.12f}")
    return tag(
        "lane", (tag("link", link) if link else "<link/>") + width + mark, id=identity, type=strip.kind, level="false"
    )


def _approach_objects(approach: Approach, first_id: int) -> list[str]:
    """Stop line and zebra crossing at the end of an arm."""
    arm, objects = approach.arm, []
    if approach.stop_line:
        line_m = width_m(arm.inbound, frozenset({DRIVING}))
        objects.append(stop_line(first_id, _arm_s_m(arm, STOP_LINE_BEFORE_END_M), arm.inbound_sign, line_m))
    if approach.zebra:
        profile, inwards = arm.profile, -1.0 if arm.at_start else 1.0
        left_m, right_m = width_m(profile.left, ASPHALT), width_m(profile.right, ASPHALT)
        objects.append(zebra(first_id + 1, _arm_s_m(arm, 0.0), inwards, left_m, right_m))
    return objects


def _arm_s_m(arm: Arm, before_end_m: float) -> float:
    return before_end_m if arm.at_start else arm.road.curve.length_m - before_end_m


def _controllers_and_junctions(junctions: list[Junction]) -> tuple[list[str], list[str]]:
    listed: list[str] = []
    written: list[str] = []
    for junction in junctions:
        content = ""
        for index, way in enumerate(junction.connections):
            links = "".join(tag("laneLink", **{"from": lane_in, "to": lane_out}) for lane_in, lane_out in way.lanes)
            content += tag(
                "connection", links, id=index, incomingRoad=way.incoming, connectingRoad=way.connecting,
                contactPoint="start",
            )  # fmt: skip
        more, references = controllers(junction.phases, FIRST_CONTROLLER_ID + len(listed))
        listed += more
        content += references
        written.append(tag("junction", content, id=junction.id, name=f"junction{junction.id}"))
    return listed, written
