"""Route files: the leaderboard's XML (2.0 and Bench2Drive) in and out, and routes generated on any map.

A route file is untrusted input: it is size-limited, parsed without DTDs or entities, and every value is checked once.
"""

from __future__ import annotations

import hashlib
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

if TYPE_CHECKING:
    import carla

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ROUTES = 20_000
MAX_KEYPOINTS = 20_000
MAX_COORDINATE_M = 1e6
_IDS_SHOWN = 8
_ROUTE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOWN_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")  # no separators: a route file must not be able to name a path
WEATHER_FIELDS = (
    "cloudiness",
    "precipitation",
    "precipitation_deposits",
    "wind_intensity",
    "sun_azimuth_angle",
    "sun_altitude_angle",
    "fog_density",
    "fog_distance",
    "fog_falloff",
    "wetness",
    "scattering_intensity",
    "mie_scattering_scale",
    "rayleigh_scattering_scale",
    "dust_storm",
)


class RouteFileError(ValueError):
    """A route file that cannot be used; the message is one line naming the file, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Weather that holds at `route_percentage` of the route; unnamed parameters keep the leaderboard's base weather."""

    route_percentage: float
    parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ScenarioBlock:
    """One <scenario> as it stands in the file: its children as (tag, attributes)."""

    name: str
    type: str
    elements: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A route to drive; keypoints are x, y, z in metres in CARLA's frame."""

    id: str
    town: str
    keypoints: tuple[tuple[float, float, float], ...]
    weathers: tuple[Weather, ...] = ()
    scenarios: tuple[ScenarioBlock, ...] = ()

    @property
    def keypoint_length_m(self) -> float:
        """Length of the polyline through the keypoints, a first guess of the route's length."""
        return sum(math.dist(a, b) for a, b in pairwise(self.keypoints))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_routes(path: Path) -> list[Route]:
    """Routes of a leaderboard route file, in file order.

    Raises: RouteFileError for a file that is missing, too large, hostile, malformed or empty.
    """
    return parse_routes(_read_bytes(path), name=str(path))


def parse_routes(data: bytes, *, name: str) -> list[Route]:
    """Routes of a route file's bytes; `name` is what errors call the file.

    Raises: RouteFileError.
    """
    try:
        root = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise RouteFileError(f"{name}: DTDs and entities are refused in route files") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise RouteFileError(f"{name}: not well-formed XML: {_one_line(error)}") from error
    if root.tag != "routes":
        raise RouteFileError(f"{name}: root element is <{root.tag[:40]}>, expected <routes>")
    elements = root.findall("route")
    if not elements:
        raise RouteFileError(f"{name}: holds no <route>")
    if len(elements) > MAX_ROUTES:
        raise RouteFileError(f"{name}: {len(elements)} routes, at most {MAX_ROUTES} are read; split the file")
    routes = [_parse_route(element, f"{name}: route {index + 1}") for index, element in enumerate(elements)]
    seen: set[str] = set()
    for route in routes:
        if route.id in seen:
            raise RouteFileError(f"{name}: route id {route.id} occurs twice; ids must be unique")
        seen.add(route.id)
    return routes


def write_routes(routes: list[Route], path: Path) -> None:
    """Write routes in the leaderboard's layout, readable by `read_routes` and by the official parser."""
    root = ElementTree.Element("routes")
    for route in routes:
        element = ElementTree.SubElement(root, "route", id=route.id, town=route.town)
        if route.weathers:
            weathers = ElementTree.SubElement(element, "weathers")
            for weather in route.weathers:
                attributes = {"route_percentage": repr(weather.route_percentage)}
                attributes.update({key: repr(value) for key, value in weather.parameters})
                ElementTree.SubElement(weathers, "weather", attributes)
        waypoints = ElementTree.SubElement(element, "waypoints")
        for x, y, z in route.keypoints:
            ElementTree.SubElement(waypoints, "position", x=f"{x:.2f}", y=f"{y:.2f}", z=f"{z:.2f}")
        scenarios = ElementTree.SubElement(element, "scenarios")
        for block in route.scenarios:
            scenario = ElementTree.SubElement(scenarios, "scenario", name=block.name, type=block.type)
            for tag, attributes in block.elements:
                ElementTree.SubElement(scenario, tag, dict(attributes))
    ElementTree.indent(root, space="   ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))


def select_routes(routes: list[Route], *, towns: list[str] | None = None, ids: list[str] | None = None) -> list[Route]:
    """The routes in any of `towns` and with any of `ids` (None: all).

    Raises: RouteFileError if nothing is left, listing what there is.
    """
    chosen = [r for r in routes if (towns is None or r.town in towns) and (ids is None or r.id in ids)]
    missing = sorted(set(ids or ()) - {r.id for r in chosen})
    if missing or not chosen:
        wanted = f"id {', '.join(missing)}" if missing else f"town {', '.join(towns or ())}"
        among = f" in town {', '.join(towns)}" if missing and towns else ""
        raise RouteFileError(f"no route with {wanted}{among}; the file has {_what_there_is(routes)}")
    return chosen


def _what_there_is(routes: list[Route]) -> str:
    by_town: dict[str, list[str]] = {}
    for route in routes:
        by_town.setdefault(route.town, []).append(route.id)
    return "; ".join(f"{town}: {_some(ids)}" for town, ids in sorted(by_town.items()))


def _some(ids: list[str]) -> str:
    shown = ", ".join(ids[:_IDS_SHOWN])
    return f"{shown} and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else shown


def weather_parameters(weather: Weather | None) -> carla.WeatherParameters:
    """CARLA weather of a route's <weather>; the base is the leaderboard's (sun at 70 degrees, 50 % clouds)."""
    import carla

    parameters = carla.WeatherParameters(sun_altitude_angle=70.0, cloudiness=50.0)
    for key, value in weather.parameters if weather else ():
        if hasattr(parameters, key):
            setattr(parameters, key, value)
    return parameters


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        what = "is a folder; give the route file in it" if path.is_dir() else "no such route file"
        raise RouteFileError(f"{path}: {what}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise RouteFileError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
    return path.read_bytes()


def _parse_route(element: ElementTree.Element, where: str) -> Route:
    route_id = _matching(element, "id", _ROUTE_ID, where)
    where = f"{where} (id {route_id})"
    town = _matching(element, "town", _TOWN_NAME, where)
    waypoints = element.find("waypoints")
    positions = [] if waypoints is None else waypoints.findall("position")
    if not 2 <= len(positions) <= MAX_KEYPOINTS:
        raise RouteFileError(f"{where}: {len(positions)} waypoint positions, expected 2 to {MAX_KEYPOINTS}")
    keypoints = tuple(
        (_coordinate(p, "x", where), _coordinate(p, "y", where), _coordinate(p, "z", where)) for p in positions
    )
    return Route(
        id=route_id,
        town=town,
        keypoints=keypoints,
        weathers=_parse_weathers(element.find("weathers"), where),
        scenarios=_parse_scenarios(element.find("scenarios"), where),
    )


def _parse_weathers(element: ElementTree.Element | None, where: str) -> tuple[Weather, ...]:
    if element is None:
        return ()
    weathers = []
    for item in element.findall("weather"):
        percentage = _number(item, "route_percentage", where)
        if not 0.0 <= percentage <= 100.0:
            raise RouteFileError(f"{where}: weather at route_percentage {percentage}, expected 0 to 100")
        known = [key for key in WEATHER_FIELDS if key in item.attrib]
        weathers.append(Weather(percentage, tuple((key, _number(item, key, where)) for key in known)))
    weathers.sort(key=lambda weather: weather.route_percentage)
    for before, after in pairwise(weathers):
        if before.route_percentage == after.route_percentage:
            raise RouteFileError(f"{where}: two weathers at route_percentage {after.route_percentage}; keep one")
    return tuple(weathers)


def _parse_scenarios(element: ElementTree.Element | None, where: str) -> tuple[ScenarioBlock, ...]:
    if element is None:
        return ()
    blocks = []
    for item in element.findall("scenario"):
        name, kind = item.get("name"), item.get("type")
        if not name or not kind:
            raise RouteFileError(f"{where}: a <scenario> without name or type")
        blocks.append(ScenarioBlock(name, kind, tuple((e.tag, tuple(e.attrib.items())) for e in item)))
    return tuple(blocks)


def _matching(element: ElementTree.Element, key: str, pattern: re.Pattern[str], where: str) -> str:
    value = element.get(key)
    if value is None or not pattern.fullmatch(value):
        raise RouteFileError(f"{where}: {key}={_shown(value)}, expected {pattern.pattern}")
    return value


def _coordinate(element: ElementTree.Element, key: str, where: str) -> float:
    value = _number(element, key, where)
    if abs(value) > MAX_COORDINATE_M:
        raise RouteFileError(f"{where}: {key}={value} m is farther than {MAX_COORDINATE_M:.0f} m from the origin")
    return value


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    text = element.get(key)
    try:
        value = float(text if text is not None else "missing")
    except ValueError as error:
        raise RouteFileError(f"{where}: <{element.tag}> {key}={_shown(text)}, expected a number") from error
    if not math.isfinite(value):
        raise RouteFileError(f"{where}: <{element.tag}> {key}={_shown(text)}, expected a finite number")
    return value


def _shown(value: str | None) -> str:
    return "missing" if value is None else repr(value[:40])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
