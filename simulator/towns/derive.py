"""Derives from OpenDRIVE text what the server must know. Run as a program: text on stdin, .npz file as argument."""

import json
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import carla
import numpy as np

from simulator.collisions import overlaps_any
from simulator.orphan import end_with_parent
from simulator.towns.ground import DEFAULT_LIMIT_KMH, GroundGrid, LaneSamples, rasterise
from simulator.towns.opendrive_check import checked_opendrive
from simulator.towns.signals import derive_lights, derive_stop_signs
from simulator.towns.town import Pose, TownError

SPAWN_SPACING_M = 27.0
SPAWN_FROM_START_M, SPAWN_FROM_END_M = 8.0, 10.0
"""Distance of spawn points from the ends of a road: clear of stop lines and trigger boxes."""
SPAWN_HEIGHT_M = 0.4
SPAWN_APART_M = 2.8
"""Neighbouring lanes are farther apart, lanes of overlapping roads are not."""
SPAWN_BOX_M = (4.5, 1.45, 1.9)
"""Half of the largest lorry: one stands at each spawn point, also where lanes converge."""
SPAWN_LANE_M = 2.4
"""Lanes narrower than this, such as one that just begins, have no spawn points."""
GROUND_STEP_M = 1.0
GROUND_SPACING_M = 0.7
SECTION_MARGIN_M = 1e-3
SPEED_RANGE_KMH = (5.0, 130.0)


@dataclass(frozen=True)
class RoadLanes:
    """Lanes of one road: the start of each lane section and its lane ids by type."""

    road_id: int
    length_m: float
    limit_kmh: int
    in_junction: bool
    starts_m: tuple[float, ...]
    lanes: tuple[dict[int, str], ...]

    def stations(self, step_m: float) -> Iterator[tuple[float, dict[int, str]]]:
        """(s, lanes) along the road, both ends of every section included."""
        for start_m, end_m, lanes in zip(self.starts_m, (*self.starts_m[1:], self.length_m), self.lanes, strict=True):
            first_m, last_m = start_m + SECTION_MARGIN_M, end_m - SECTION_MARGIN_M
            if last_m > first_m:
                for s_m in np.linspace(first_m, last_m, max(2, math.ceil((last_m - first_m) / step_m) + 1)):
                    yield float(s_m), lanes


def read_lanes(root: ET.Element) -> list[RoadLanes]:
    """The lane structure of all roads, sorted by road id."""
    roads = []
    for road in root.iter("road"):
        sections = sorted(road.iterfind("lanes/laneSection"), key=lambda section: float(section.get("s", "0")))
        lanes = tuple(
            {int(lane.get("id", "0")): lane.get("type", "none") for lane in section.iter("lane")}
            for section in sections
        )
        roads.append(
            RoadLanes(
                int(road.get("id", "")), float(road.get("length", "")), _limit_kmh(road), road.get("junction") != "-1",
                tuple(float(section.get("s", "0")) for section in sections), lanes,
            )
        )  # fmt: skip
    return sorted(roads, key=lambda road: road.road_id)


def _limit_kmh(road: ET.Element) -> int:
    """The road's first speed limit if it is given in km/h."""
    speed = road.find("type/speed")
    if speed is None or speed.get("unit") != "km/h":
        return DEFAULT_LIMIT_KMH
    try:
        return round(min(max(float(speed.get("max", "")), SPEED_RANGE_KMH[0]), SPEED_RANGE_KMH[1]))
    except ValueError:  # OpenDRIVE also allows "no limit" and "undefined"
        return DEFAULT_LIMIT_KMH


def derive_spawn_points(town_map: carla.Map, roads: list[RoadLanes]) -> list[Pose]:
    """Poses on driving lanes outside junctions, about every SPAWN_SPACING_M, a little above the ground."""
    points: list[Pose] = []
    for road in roads:
        free_m = road.length_m - SPAWN_FROM_START_M - SPAWN_FROM_END_M
        if road.in_junction or free_m < 0.0:
            continue
        count = int(free_m / SPAWN_SPACING_M) + 1
        first_m = SPAWN_FROM_START_M + (free_m - (count - 1) * SPAWN_SPACING_M) / 2.0
        for k in range(count):
            s_m = first_m + k * SPAWN_SPACING_M
            section = max(i for i, start_m in enumerate(road.starts_m) if start_m <= s_m)
            for lane_id in sorted(i for i, kind in road.lanes[section].items() if kind == "driving"):
                waypoint = town_map.get_waypoint_xodr(road.road_id, lane_id, s_m)
                if waypoint is None or waypoint.is_junction or waypoint.lane_width < SPAWN_LANE_M:
                    continue
                pose = _pose(waypoint.transform, SPAWN_HEIGHT_M)
                if _has_room(pose, points):
                    points.append(pose)
    return points


def _has_room(pose: Pose, points: list[Pose]) -> bool:
    """Whether lorries at `points` leave room for one at `pose`."""
    reach_m = 2.0 * math.hypot(*SPAWN_BOX_M)
    near = [other for other in points if math.dist(pose[:3], other[:3]) < reach_m]
    if any(math.dist(pose[:3], other[:3]) <= SPAWN_APART_M for other in near):
        return False
    columns = np.array([(x, y, z, yaw, *SPAWN_BOX_M) for x, y, z, _, yaw, _ in near]).reshape(-1, 7).T
    return overlaps_any((*pose[:3], pose[4], *SPAWN_BOX_M), *columns) < 0


def _pose(transform: carla.Transform, lift_m: float) -> Pose:
    location, rotation = transform.location, transform.rotation
    pitch, yaw = ((angle + 180.0) % 360.0 - 180.0 for angle in (rotation.pitch, rotation.yaw))
    return (location.x, location.y, location.z + lift_m, pitch, yaw, 0.0)


def derive_ground(town_map: carla.Map, roads: list[RoadLanes]) -> GroundGrid:
    """The raster of all lanes."""
    rows: list[tuple[float, float, float, float, float, float, float]] = []
    for road in roads:
        for s_m, lanes in road.stations(GROUND_STEP_M):
            for lane_id, kind in lanes.items():
                waypoint = town_map.get_waypoint_xodr(road.road_id, lane_id, s_m) if kind != "none" else None
                if waypoint is not None:
                    location, rotation = waypoint.transform.location, waypoint.transform.rotation
                    limit_kmh = road.limit_kmh if kind in ("driving", "bidirectional") else 0
                    width_m = waypoint.lane_width
                    rows.append((location.x, location.y, location.z, rotation.yaw, rotation.pitch, width_m, limit_kmh))
    if not rows:
        raise TownError("no road of this file has a lane")
    x_m, y_m, z_m, yaw_deg, pitch_deg, width_m, limit_kmh = np.array(rows).T
    yaw_rad, slope = np.radians(yaw_deg), np.tan(np.radians(pitch_deg))
    offsets = [np.zeros(len(x_m))]
    for k in range(1, int(np.ceil(width_m.max() / 2.0 / GROUND_SPACING_M)) + 1):
        offsets += [sign * np.minimum(k * GROUND_SPACING_M, width_m / 2.0) for sign in (-1.0, 1.0)]
    count = len(offsets)
    offset_m = np.concatenate(offsets)
    yaw_rad, slope = np.tile(yaw_rad, count), np.tile(slope, count)
    samples = LaneSamples(
        np.tile(x_m, count) - offset_m * np.sin(yaw_rad), np.tile(y_m, count) + offset_m * np.cos(yaw_rad),
        np.tile(z_m, count), slope * np.cos(yaw_rad), slope * np.sin(yaw_rad), np.tile(limit_kmh, count),
    )  # fmt: skip
    try:
        return rasterise(samples)
    except ValueError as error:
        raise TownError(str(error)) from error


def derive(data: bytes, target: Path) -> None:
    """Write a town's derived data to target.

    Raises: TownError for a text that is malformed or unusable.
    """
    root, text = checked_opendrive(data)
    try:
        town_map = carla.Map("town", text)
    except RuntimeError as error:
        raise TownError(f"CARLA's map code refuses this file ({error})") from error
    roads = read_lanes(root)
    ground = derive_ground(town_map, roads)
    lights = derive_lights(town_map, root, ground)
    facts = {
        "origin_m": ground.origin_m,
        "spawn_points": derive_spawn_points(town_map, roads),
        "lights": [asdict(light) for light in lights],
        "stop_signs": [asdict(sign) for sign in derive_stop_signs(town_map, ground)],
    }
    np.savez_compressed(
        target, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        opendrive=np.frombuffer(text.encode(), np.uint8), low_m=ground.low_m, high_m=ground.high_m,
        limit_kmh=ground.limit_kmh,
    )  # fmt: skip


def main() -> int:
    """Exit code 0, or 2 with one line on stderr."""
    end_with_parent()
    try:
        derive(sys.stdin.buffer.read(), Path(sys.argv[1]))
    except TownError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
