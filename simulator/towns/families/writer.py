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
    Signal,
    Strip,
    width_m,
)
from simulator.towns.opendrive_text import header, plan_view, tag

FIRST_OBJECT_ID = 9000
FIRST_CONTROLLER_ID = 5000
ZEBRA_M = (1.2, 4.2)
"""A zebra crossing lies this far behind the stop line, inside the junction."""
STOP_LINE_BEFORE_END_M = 0.3
REFERENCE_S_M = 0.2
"""Where on a connecting road its traffic light or sign holds."""
PLATE_HEIGHT_M = 2.4
"""Height of a sign's plate; the signal of a light stands for the foot of its post, as in CARLA's towns."""
MARK_WIDTH_M = {"motorway": 0.15}
SIGNAL_TYPES = {"light": 1000001, "stop": 206, "yield": 205}
SIGNAL_NAMES = {"light": "Signal_3Light_Post01", "stop": "Sign_Stop", "yield": "Sign_Yield"}


def write_plan(plan: Plan, name: str) -> str:
    """The whole OpenDRIVE document."""
    signals: dict[int, list[str]] = defaultdict(list)
    for junction in plan.junctions:
        for signal in junction.signals:
            signals[signal.road].append(_signal(signal))
            for held in signal.held:
                signals[held].append(_signal_reference(signal))
    objects: dict[int, list[str]] = defaultdict(list)
    for index, approach in enumerate(plan.approaches):
        objects[approach.arm.road.id] += _approach_objects(approach, FIRST_OBJECT_ID + 2 * index)
    roads = [
        _road(road, objects[road.id], signals[road.id])
        for road in sorted(plan.roads, key=lambda road: (road.junction != -1, road.id))
    ]
    controllers, junctions = _controllers_and_junctions(plan.junctions)
    poses = [pose for road in plan.roads for pose in road.curve.sample(5.0)]
    body = "\n".join([header(poses, name), *roads, *controllers, *junctions])
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
        objects.append(
            tag(
                "object", id=first_id, name="StopLine", s=_arm_s_m(arm, STOP_LINE_BEFORE_END_M),
                t=arm.inbound_sign * line_m / 2.0, zOffset=0.0, hdg=1.570796327, roll=0.0, pitch=0.0,
                orientation="none", type=-1, width=0.0, length=line_m,
            )
        )  # fmt: skip
    if approach.zebra:
        objects.append(_zebra(arm, first_id + 1))
    return objects


def _arm_s_m(arm: Arm, before_end_m: float) -> float:
    return before_end_m if arm.at_start else arm.road.curve.length_m - before_end_m


def _zebra(arm: Arm, identity: int) -> str:
    """A crosswalk just inside the junction, across the whole arm."""
    inwards = -1.0 if arm.at_start else 1.0
    near_m, far_m = (inwards * edge for edge in ZEBRA_M)
    profile = arm.profile
    left_m, right_m = width_m(profile.left, ASPHALT) + 0.6, -width_m(profile.right, ASPHALT) - 0.6
    corners = ((near_m, left_m), (near_m, right_m), (far_m, right_m), (far_m, left_m), (near_m, left_m))
    outline = tag("outline", "".join(tag("cornerLocal", u=u, v=v, z=0.0) for u, v in corners))
    return tag(
        "object", outline, id=identity, name="SimpleCrosswalk", s=_arm_s_m(arm, 0.0), t=0.0, zOffset=0.0, hdg=0.0,
        roll=0.0, pitch=0.0, orientation="none", type="crosswalk", width=ZEBRA_M[1] - ZEBRA_M[0],
        length=left_m - right_m,
    )  # fmt: skip


def _signal(signal: Signal) -> str:
    light = signal.kind == "light"
    return tag(
        "signal", tag("validity", fromLane=0, toLane=0), name=SIGNAL_NAMES[signal.kind], id=signal.id, s=signal.s_m,
        t=signal.t_m, zOffset=0.0 if light else PLATE_HEIGHT_M, hOffset=signal.heading_offset_rad, roll=0.0, pitch=0.0,
        orientation="+", dynamic="yes" if light else "no", country="OpenDRIVE", type=SIGNAL_TYPES[signal.kind],
        subtype=-1, value=-1, text="", height=1.16 if light else 1.0, width=0.52 if light else 0.97,
    )  # fmt: skip


def _signal_reference(signal: Signal) -> str:
    validity = tag("validity", fromLane=-1, toLane=-1)
    return tag("signalReference", validity, id=signal.id, s=REFERENCE_S_M, t=0.0, orientation="+")


def _controllers_and_junctions(junctions: list[Junction]) -> tuple[list[str], list[str]]:
    controllers, written, identity = [], [], FIRST_CONTROLLER_ID
    for junction in junctions:
        content = ""
        for index, way in enumerate(junction.connections):
            links = "".join(tag("laneLink", **{"from": lane_in, "to": lane_out}) for lane_in, lane_out in way.lanes)
            content += tag(
                "connection", links, id=index, incomingRoad=way.incoming, connectingRoad=way.connecting,
                contactPoint="start",
            )  # fmt: skip
        for sequence, phase in enumerate(junction.phases):
            controls = "".join(tag("control", signalId=light, type="") for light in phase)
            controllers.append(tag("controller", controls, name=f"ctrl{identity}", id=identity, sequence=sequence))
            content += tag("controller", id=identity, type="", sequence=sequence)
            identity += 1
        written.append(tag("junction", content, id=junction.id, name=f"junction{junction.id}"))
    return controllers, written
