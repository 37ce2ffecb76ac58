"""Lane boundaries sampled from a `carla.Map`: the geometry every static mesh is made of. CARLA frame, metres."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import carla
import numpy as np

STATION_STEP_M = 2.0
CHORD_ERROR_M = 0.02
MAXIMUM_CHORD_M = 20.0
SECTION_MARGIN_M = 1e-3
"""Sections are sampled a little inside their ends, where `carla.Map` still answers with this section."""

OVERLAP_M = 0.03
TOWN_ROAD, RURAL_ROAD, MOTORWAY = "town", "rural", "motorway"

DRIVABLE = frozenset({"driving", "bidirectional", "entry", "exit", "onRamp", "offRamp", "parking", "stop", "special1"})
PAVED = DRIVABLE | {"shoulder", "biking"}
RAISED = frozenset({"sidewalk", "median", "curb"})


@dataclass(frozen=True)
class RoadMark:
    """Painted line along a boundary between `start_s_m` and `end_s_m` (road coordinate)."""

    kind: str
    yellow: bool
    width_m: float
    start_s_m: float
    end_s_m: float


@dataclass(frozen=True)
class Section:
    """One lane section. Boundaries run from the leftmost to the rightmost in OpenDRIVE's sense of left."""

    road_id: int
    junction_id: int
    s_m: np.ndarray
    """(n,) stations along the road"""
    boundaries: np.ndarray
    """(lanes + 1, n, 3)"""
    lane_ids: tuple[int, ...]
    lane_types: tuple[str, ...]
    marks: tuple[tuple[RoadMark, ...], ...]
    """per boundary"""
    road_type: str = TOWN_ROAD
    """OpenDRIVE's type of the road; what is neither motorway nor rural counts as in town"""

    @property
    def in_junction(self) -> bool:
        return self.junction_id >= 0


def sample_sections(carla_map: carla.Map, root: ET.Element) -> list[Section]:
    """All lane sections with at least one lane of positive width; `root` is the parsed OpenDRIVE text."""
    sections = []
    for road in root.findall("road"):
        lanes = road.find("lanes")
        if lanes is None:
            continue
        elements = lanes.findall("laneSection")
        starts = [float(element.get("s", 0.0)) for element in elements] + [float(road.get("length", 0.0))]
        for element, start, end in zip(elements, starts, starts[1:], strict=False):
            section = _sample_section(carla_map, road, element, start, end)
            if section is not None:
                sections.append(section)
    return sections


def _sample_section(
    carla_map: carla.Map, road: ET.Element, element: ET.Element, start_s_m: float, end_s_m: float
) -> Section | None:
    first, last = start_s_m + SECTION_MARGIN_M, end_s_m - SECTION_MARGIN_M
    if last - first < 0.05:
        return None
    road_id = int(road.get("id", -1))
    lanes = {int(lane.get("id", 0)): lane for lane in element.iter("lane")}
    stations = np.linspace(first, last, max(2, math.ceil((last - first) / STATION_STEP_M) + 1))
    sampled = {i: _lane_edges(carla_map, road_id, i, stations) for i in sorted(lanes) if i != 0}
    edges = {i: pair for i, pair in sampled.items() if pair is not None}
    left = [i for i in sorted(edges) if i > 0]
    right = [i for i in sorted(edges, reverse=True) if i < 0]
    if not left and not right:
        return None
    left_chain, right_chain = (_chain([edges[i] for i in side]) for side in (left, right))
    if left and right:
        centre = (left_chain[0] + right_chain[0]) / 2.0
        boundaries = np.stack([*left_chain[:0:-1], centre, *right_chain[1:]])
        owners = [*reversed(left), 0, *right]
    elif right:
        boundaries, owners = np.stack(right_chain), [0, *right]
    else:
        boundaries, owners = np.stack(left_chain[::-1]), [*reversed(left), 0]
    kept = _simplify(boundaries)
    lane_ids = (*reversed(left), *right)
    return Section(
        road_id=road_id,
        junction_id=int(road.get("junction", -1)),
        s_m=stations[kept],
        boundaries=_overlap(boundaries[:, kept]),
        lane_ids=lane_ids,
        lane_types=tuple(lanes[i].get("type", "none") for i in lane_ids),
        marks=tuple(_road_marks(lanes.get(i), start_s_m, end_s_m) for i in owners),
        road_type=_road_type(road),
    )


def _road_type(road: ET.Element) -> str:
    kind = road.find("type")
    name = kind.get("type", TOWN_ROAD) if kind is not None else TOWN_ROAD
    return name if name in (RURAL_ROAD, MOTORWAY) else TOWN_ROAD


def _lane_edges(
    carla_map: carla.Map, road_id: int, lane_id: int, stations: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Inner and outer edge (n, 3) of a lane, or None where the map does not know it or it has no width."""
    rows = []
    for s in stations:
        waypoint = carla_map.get_waypoint_xodr(road_id, lane_id, float(s))
        if waypoint is None:
            return None
        transform = waypoint.transform
        at = transform.location
        rows.append((at.x, at.y, at.z, transform.rotation.yaw, waypoint.lane_width))
    table = np.array(rows)
    if not np.isfinite(table).all() or table[:, 4].max() < 0.02:
        return None
    yaw = np.radians(table[:, 3])
    half_right = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros(len(yaw))], axis=1) * (table[:, 4:5] / 2.0)
    return table[:, :3] - half_right, table[:, :3] + half_right


def _chain(edges: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Boundaries from the centre outwards; neighbours' views of the same boundary are averaged."""
    if not edges:
        return []
    inner = [(a[1] + b[0]) / 2.0 for a, b in itertools.pairwise(edges)]
    return [edges[0][0], *inner, edges[-1][1]]


def _overlap(boundaries: np.ndarray) -> np.ndarray:
    """Boundaries moved outwards at both ends, so that no gap shows to the next section."""
    ends = boundaries.copy()
    for end, inner in ((0, 1), (-1, -2)):
        along = boundaries[:, end] - boundaries[:, inner]
        ends[:, end] += along * (OVERLAP_M / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6))
    return ends


def _simplify(boundaries: np.ndarray) -> np.ndarray:
    """Indices of the stations needed to stay within `CHORD_ERROR_M` on every boundary (Douglas-Peucker)."""
    last = boundaries.shape[1] - 1
    kept = [0, last]
    spans = [(0, last)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        first, chord = boundaries[:, a], boundaries[:, b] - boundaries[:, a]
        offset = boundaries[:, a + 1 : b] - first[:, None]
        square = np.maximum((chord**2).sum(axis=1), 1e-12)
        along = ((offset * chord[:, None]).sum(axis=2) / square[:, None])[..., None]
        error = np.linalg.norm(offset - along * chord[:, None], axis=2).max(axis=0)
        if error.max() > CHORD_ERROR_M:
            split = a + 1 + int(error.argmax())
        elif square.max() > MAXIMUM_CHORD_M**2:
            split = (a + b) // 2
        else:
            continue
        kept.append(split)
        spans += [(a, split), (split, b)]
    return np.array(sorted(kept))


def _road_marks(lane: ET.Element | None, start_s_m: float, end_s_m: float) -> tuple[RoadMark, ...]:
    """The lines on the outer boundary of `lane` (the centre line for lane 0)."""
    if lane is None:
        return ()
    elements = lane.findall("roadMark")
    starts = [start_s_m + float(mark.get("sOffset", 0.0)) for mark in elements] + [end_s_m]
    return tuple(
        RoadMark(
            kind=mark.get("type", "none"),
            yellow=mark.get("color") == "yellow",
            width_m=min(max(float(mark.get("width") or 0.12), 0.1), 0.3),
            start_s_m=start,
            end_s_m=end,
        )
        for mark, start, end in zip(elements, starts, starts[1:], strict=False)
        if mark.get("type") not in ("none", "curb", None)
    )
