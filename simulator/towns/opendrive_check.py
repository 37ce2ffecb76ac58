"""Checks OpenDRIVE text from anywhere before CARLA's map code sees it, and repairs what planners stumble on."""

import math
import xml.etree.ElementTree as ET

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from simulator.towns.town import TownError

SHORTEST_GEOMETRY_M = 1e-6
"""Shorter pieces of a plan view are dropped; some of CARLA's towns contain them."""
SHORTEST_ROAD_M = 0.01
"""Shorter roads (Town03 has one of 0.2 micrometres) are stretched: planners divide by the distance of their ends."""
SHORTEST_SECTION_M = 0.005
"""Shorter lane sections (Town03 and Town05 have many) are stretched too."""
LARGEST_COORDINATE_M = 1e6
LONGEST_NETWORK_M = 2e6


def checked_opendrive(data: bytes) -> tuple[ET.Element, str]:
    """The parsed document and the text to be used, without geometry of no length.

    Raises: TownError naming what is wrong.
    """
    try:
        root = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise TownError("document types and entities are not allowed in a town's XML") from error
    except ET.ParseError as error:
        raise TownError(f"this is not well-formed XML ({error})") from error
    if root.tag != "OpenDRIVE":
        raise TownError(f"the root element is <{root.tag[:40]}>, not <OpenDRIVE>")
    _check_roads(root)
    _check_links(root)
    repaired = [_repair(road) for road in root.iterfind("road")]
    if any(repaired):
        return root, ET.tostring(root, encoding="unicode", xml_declaration=True)
    return root, data.decode("utf-8-sig")


def _number(element: ET.Element, attribute: str, where: str, limit: float = math.inf) -> float:
    text = element.get(attribute)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > limit:
        raise TownError(f"{where}: {attribute}={str(text)[:40]!r} of <{element.tag}> is not a usable number")
    return value


def _identity(element: ET.Element, attribute: str, where: str) -> int:
    text = element.get(attribute) or ""
    if not (text.lstrip("-").isdecimal() and len(text) < 11):
        raise TownError(f"{where}: {attribute}={text[:40]!r} of <{element.tag}> is not a whole number")
    return int(text)


def _check_roads(root: ET.Element) -> None:
    seen: set[int] = set()
    total_m = 0.0
    for road in root.iterfind("road"):
        identity = _identity(road, "id", "a road")
        where = f"road {identity}"
        if identity in seen:
            raise TownError(f"{where} exists twice")
        seen.add(identity)
        total_m += _number(road, "length", where, LONGEST_NETWORK_M)
        pieces = road.findall("planView/geometry")
        if not pieces:
            raise TownError(f"{where} has no plan view")
        for piece in pieces:
            for attribute in ("s", "x", "y", "hdg", "length"):
                _number(piece, attribute, where, LARGEST_COORDINATE_M)
        sections = road.findall("lanes/laneSection")
        if not sections:
            raise TownError(f"{where} has no lane section")
        for section in sections:
            _number(section, "s", where)
            for lane in section.iter("lane"):
                _identity(lane, "id", where)
    if not seen:
        raise TownError("the file has no road")
    if total_m > LONGEST_NETWORK_M:
        raise TownError(
            f"the roads add up to {total_m / 1e3:.0f} km; at most {LONGEST_NETWORK_M / 1e3:.0f} km are supported"
        )


def _check_links(root: ET.Element) -> None:
    """Every link must lead to a road or junction of the file; a dangling one crashes CARLA's map code."""
    roads = {road.get("id") for road in root.iterfind("road")}
    junctions = {junction.get("id") for junction in root.iterfind("junction")}
    for road in root.iterfind("road"):
        where = f"road {road.get('id')}"
        if road.get("junction", "-1") not in junctions | {"-1"}:
            raise TownError(f"{where} belongs to junction {road.get('junction')}, which does not exist")
        for link in (*road.iterfind("link/predecessor"), *road.iterfind("link/successor")):
            known = junctions if link.get("elementType") == "junction" else roads
            if link.get("elementId") not in known:
                raise TownError(
                    f"{where} is linked to {link.get('elementType')} {link.get('elementId')}, which does not exist"
                )
    for junction in root.iterfind("junction"):
        for connection in junction.iterfind("connection"):
            for attribute in ("incomingRoad", "connectingRoad"):
                if connection.get(attribute) not in roads:
                    raise TownError(
                        f"junction {junction.get('id')}: {attribute} {connection.get(attribute)} does not exist"
                    )


def _repair(road: ET.Element) -> bool:
    """Drop geometry of no length, stretch roads and lane sections of no length; whether anything was changed."""
    dropped, stretched = _drop_tiny_pieces(road), _stretch_road(road)
    return _stretch_sections(road) or dropped or stretched


def _drop_tiny_pieces(road: ET.Element) -> bool:
    plan = road.find("planView")
    assert plan is not None
    pieces = plan.findall("geometry")
    tiny = [piece for piece in pieces if float(piece.get("length", "")) < SHORTEST_GEOMETRY_M]
    if len(tiny) == len(pieces):
        tiny.remove(pieces[-1])
    for piece in tiny:
        plan.remove(piece)
    if pieces[0] in tiny:
        plan[0].set("s", "0")  # CARLA's map code crashes where no piece begins at 0
    return bool(tiny)


def _stretch_road(road: ET.Element) -> bool:
    """Make a tiny road a straight line, longer at both ends: its neighbours begin where it began and ended."""
    plan = road.find("planView")
    assert plan is not None
    if float(road.get("length", "")) >= SHORTEST_ROAD_M:
        return False
    first, *others = plan.findall("geometry")
    for piece in others:
        plan.remove(piece)
    heading_rad, back_m = float(first.get("hdg", "")), SHORTEST_ROAD_M / 2.0
    first.set("x", repr(float(first.get("x", "")) - back_m * math.cos(heading_rad)))
    first.set("y", repr(float(first.get("y", "")) - back_m * math.sin(heading_rad)))
    for element in (road, first):
        element.set("length", str(SHORTEST_ROAD_M))
    return True


def _stretch_sections(road: ET.Element) -> bool:
    """Move the borders between lane sections apart, by millimetres."""
    sections = sorted(road.iterfind("lanes/laneSection"), key=lambda section: float(section.get("s", "")))
    old = [float(section.get("s", "")) for section in sections]
    new, end_m = list(old), float(road.get("length", ""))
    for i in range(1, len(new)):
        new[i] = max(new[i], new[i - 1] + SHORTEST_SECTION_M)
    for i in range(len(new) - 1, 0, -1):
        new[i] = min(new[i], end_m - SHORTEST_SECTION_M)
        end_m = new[i]
    if new == old or new != sorted(new):
        return False
    for section, s_m in zip(sections, new, strict=True):
        section.set("s", repr(s_m))
    return True
