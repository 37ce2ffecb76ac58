"""Pictures of typical scenes as a camera behind the windscreen sees them, to look at what agents are shown."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import carla
import numpy as np
from PIL import Image

from simulator import blueprints
from simulator.render import SIGNAL_GREEN, SIGNAL_RED, Camera, Pose, Renderer, Scene, SceneActor, Weather
from simulator.towns.town import Town, TownError, load_town

log = logging.getLogger(__name__)

EYE_M: Final = 1.6
FOV_DEG: Final = 70.0
OVERSAMPLING: Final = 2
"""A picture is drawn this many times larger and reduced, which smooths its edges."""

JPEG_QUALITY: Final = 84
LIGHTS_ON: Final = int(carla.VehicleLightState.Position) | int(carla.VehicleLightState.LowBeam)
SIREN: Final = LIGHTS_ON | int(carla.VehicleLightState.Special1)
CARS: Final = (
    "vehicle.audi.etron", "vehicle.seat.leon", "vehicle.tesla.model3", "vehicle.ford.mustang", "vehicle.nissan.patrol",
    "vehicle.mercedes.sprinter", "vehicle.lincoln.mkz_2020", "vehicle.ford.crown", "vehicle.mini.cooper_s_2021",
    "vehicle.jeep.wrangler_rubicon", "vehicle.mitsubishi.fusorosa", "vehicle.carlamotors.european_hgv",
    "vehicle.kawasaki.ninja", "vehicle.audi.tt", "vehicle.toyota.prius", "vehicle.volkswagen.t2_2021",
)  # fmt: skip
PAINTS: Final = ((17, 37, 103), (137, 0, 0), (180, 44, 44), (44, 44, 44), (128, 128, 128), (223, 223, 223), (0, 60, 29))


@dataclass(frozen=True, kw_only=True, slots=True)
class PicturesConfig:
    out: Path = Path("docs/looks")
    """Folder the pictures are written to."""
    width: int = 960
    """Pixels; the height is 9/16 of it."""
    look_seed: int = 0
    """Randomised look; 0 is the usual one."""
    names: tuple[str, ...] = ()
    """Pictures to draw; all without."""


class Stage(NamedTuple):
    """A town with its map and the place where a picture is taken."""

    town: Town
    carla_map: carla.Map
    waypoint: carla.Waypoint
    rng: np.random.Generator


class Picture(NamedTuple):
    """What a picture shows: the town, where the camera car stands, the weather, and who else is there."""

    town: str
    place: Callable[[Town, carla.Map], carla.Waypoint]
    weather: str
    cast: Callable[[Stage], list[SceneActor]]
    seed: int = 0
    """Of the traffic"""
    red: bool = False
    """Whether the traffic lights of the camera's way are red"""


def draw_pictures(config: PicturesConfig) -> list[Path]:
    """Write the pictures as JPEG files; those of towns that are not there are left out.

    Raises: ValueError for an unknown picture or a width below 64.
    """
    unknown = set(config.names) - set(PICTURES)
    if unknown:
        raise ValueError(f"no picture named {', '.join(sorted(unknown))}; choose from {', '.join(PICTURES)}")
    if config.width < 64:
        raise ValueError(f"width {config.width}: choose at least 64 pixels")
    config.out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in config.names or PICTURES:
        try:
            image = _draw(PICTURES[name], config)
        except TownError as error:
            log.warning("%s: left out, %s", name, error)
            continue
        path = config.out / f"{name}.jpg"
        image.save(path, quality=JPEG_QUALITY, optimize=True)
        print(f"{path}  {path.stat().st_size // 1024} kB", flush=True)
        written.append(path)
    return written


def _draw(picture: Picture, config: PicturesConfig) -> Image.Image:
    town = load_town(picture.town)
    carla_map = carla.Map(town.name, town.opendrive)
    waypoint = picture.place(town, carla_map)
    stage = Stage(town, carla_map, waypoint, np.random.default_rng(picture.seed))
    at = waypoint.transform
    pose = Pose(at.location.x, at.location.y, at.location.z + EYE_M, at.rotation.pitch, at.rotation.yaw)
    weather = getattr(carla.WeatherParameters, picture.weather)
    values = Weather(*(getattr(weather, name) for name in Weather._fields))
    scene = Scene(values, picture.cast(stage), _light_states(town, at.rotation.yaw, red=picture.red), time_s=2.05)
    width, height = config.width * OVERSAMPLING, config.width * OVERSAMPLING * 9 // 16
    renderer = Renderer(town.name, town.opendrive, look_seed=config.look_seed)
    try:
        (bgra,) = renderer.render([(Camera(width, height, FOV_DEG), pose)], scene)
    finally:
        renderer.close()
    image = Image.fromarray(np.ascontiguousarray(bgra[..., 2::-1]))
    return image.resize((width // OVERSAMPLING, height // OVERSAMPLING), Image.Resampling.BOX)


def _light_states(town: Town, yaw_deg: float, *, red: bool) -> dict[str, int]:
    """Red for the lights along the camera's direction and green across, or the other way round."""
    along, across = (SIGNAL_RED, SIGNAL_GREEN) if red else (SIGNAL_GREEN, SIGNAL_RED)
    states = {}
    for light in town.lights:
        heading = light.transform[4] - 90.0
        parallel = abs(math.cos(math.radians(heading - yaw_deg))) > math.sqrt(0.5)
        states[light.opendrive_id] = along if parallel else across
    return states


# --- places ---------------------------------------------------------------------------------------------------------


def _at_spawn(index: int) -> Callable[[Town, carla.Map], carla.Waypoint]:
    def place(town: Town, carla_map: carla.Map) -> carla.Waypoint:
        x, y, z, *_ = town.spawn_points[index % len(town.spawn_points)]
        return carla_map.get_waypoint(carla.Location(x, y, z))

    return place


def _before_light(index: int, back_m: float) -> Callable[[Town, carla.Map], carla.Waypoint]:
    def place(town: Town, carla_map: carla.Map) -> carla.Waypoint:
        stop = town.lights[index % len(town.lights)].stop_points[0]
        height = float(town.heights(np.array([stop.x_m]), np.array([stop.y_m]))[0])
        waypoint = carla_map.get_waypoint(carla.Location(stop.x_m, stop.y_m, height))
        return waypoint.previous(back_m)[0]

    return place


# --- who is there ---------------------------------------------------------------------------------------------------


def vehicle(type_id: str, at: carla.Transform, *, lights: int = 0, paint: int = 0, braking: bool = False) -> SceneActor:
    """A vehicle standing on the road at a transform."""
    rotation = at.rotation
    pose = Pose(at.location.x, at.location.y, at.location.z, rotation.pitch, rotation.yaw, rotation.roll)
    extent = blueprints.extent_m(type_id)
    coloured = type_id not in ("vehicle.ford.crown", "vehicle.mitsubishi.fusorosa")
    colour = PAINTS[paint % len(PAINTS)] if coloured else None
    return SceneActor(type_id, pose, extent, colour, braking=braking, lights=lights, speed_mps=8.0)


def walker(number: int, x_m: float, y_m: float, ground_m: float, yaw_deg: float, way_m: float) -> SceneActor:
    """A pedestrian who walks."""
    type_id = f"walker.pedestrian.{number:04d}"
    extent = blueprints.extent_m(type_id)
    pose = Pose(x_m, y_m, ground_m + extent[2], 0.0, yaw_deg)
    return SceneActor(type_id, pose, extent, speed_mps=1.4, travelled_m=way_m)


def _lanes(waypoint: carla.Waypoint) -> Iterator[carla.Waypoint]:
    """The driving lanes beside a waypoint on both sides of the road, itself included."""
    for step in ("get_left_lane", "get_right_lane"):
        found = waypoint
        for _ in range(6):
            if found.lane_type == carla.LaneType.Driving and (step == "get_left_lane" or found is not waypoint):
                yield found
            opposite = found.lane_id * waypoint.lane_id < 0
            # Left of a lane of the other direction lies the way back.
            following = getattr(found, "get_right_lane" if opposite and step == "get_left_lane" else step)()
            if following is None or following.lane_type not in (carla.LaneType.Driving, carla.LaneType.Shoulder):
                break
            found = following


def traffic(
    stage: Stage, *, lights: int = 0, gap_m: float = 11.0, reach_m: float = 110.0, clear_m: float = 14.0
) -> list[SceneActor]:
    """Cars on all lanes ahead, those of the camera's direction beyond `clear_m` only."""
    actors, rng = [], stage.rng
    for lane in _lanes(stage.waypoint):
        ahead = lane.lane_id * stage.waypoint.lane_id > 0
        distance = clear_m + rng.uniform(0.0, 8.0) if ahead else rng.uniform(6.0, 18.0)
        while distance < reach_m:
            found = lane.next(distance) if ahead else lane.previous(distance)
            if not found:
                break
            kind = CARS[int(rng.integers(len(CARS)))]
            shown = lights | (int(carla.VehicleLightState.Brake) if rng.random() < 0.25 else 0)
            actors.append(vehicle(kind, found[0].transform, lights=shown, paint=int(rng.integers(7))))
            distance += gap_m + 2.0 * blueprints.extent_m(kind)[0] + rng.exponential(12.0)
    return actors


def strollers(stage: Stage, count: int, beside_m: float, reach_m: float = 60.0) -> list[SceneActor]:
    """Pedestrians along the sidewalks on both sides."""
    actors, rng = [], stage.rng
    for index in range(count):
        found = stage.waypoint.next(rng.uniform(6.0, reach_m))
        right: carla.Waypoint | None = found[0]
        while right is not None and right.lane_type != carla.LaneType.Sidewalk:
            right = right.get_right_lane()
        if right is None:
            continue
        at, shift = right.transform, rng.uniform(-beside_m, beside_m)
        side = at.get_right_vector()
        x, y = at.location.x + shift * side.x, at.location.y + shift * side.y
        yaw = at.rotation.yaw + (180.0 if index % 2 else 0.0)
        actors.append(walker(1 + (index * 7) % 51, x, y, at.location.z + 0.13, yaw, float(rng.uniform(0.0, 3.0))))
    return actors


def _day(stage: Stage) -> list[SceneActor]:
    return traffic(stage) + strollers(stage, 8, 0.7)


def _evening(stage: Stage) -> list[SceneActor]:
    return traffic(stage, lights=LIGHTS_ON) + strollers(stage, 5, 0.7) + _own(stage)


def _own(stage: Stage) -> list[SceneActor]:
    """The camera's car, behind the camera: its head lamps light the road."""
    own = vehicle("vehicle.lincoln.mkz_2020", stage.waypoint.transform, lights=LIGHTS_ON)
    back = _moved_back(Pose(*own.pose), own.extent[0] + 0.6)
    return [SceneActor(own.type_id, back, own.extent, own.colour, lights=LIGHTS_ON)]


def _moved_back(pose: Pose, distance_m: float) -> Pose:
    """The pose moved backwards along its heading."""
    yaw = math.radians(pose.yaw_deg)
    return pose._replace(x_m=pose.x_m - distance_m * math.cos(yaw), y_m=pose.y_m - distance_m * math.sin(yaw))


def _crossing(stage: Stage) -> list[SceneActor]:
    """People on the crosswalk ahead, an ambulance coming across."""
    actors = traffic(stage, lights=LIGHTS_ON, gap_m=14.0)
    at = stage.waypoint.next(14.0)[0].transform
    forward, right = at.get_forward_vector(), at.get_right_vector()
    for index in range(7):
        across, along = -7.0 + 2.1 * index, stage.rng.uniform(-1.2, 1.2)
        x = at.location.x + across * right.x + along * forward.x
        y = at.location.y + across * right.y + along * forward.y
        yaw = at.rotation.yaw + (90.0 if index % 2 else -90.0)
        actors.append(walker((3, 9, 16, 22, 12, 31, 48)[index], x, y, at.location.z, yaw, 0.35 * index))
    near = [a for a in actors if a.type_id.startswith("walker") or _distance(a, at) > 16.0]
    return near + _own(stage)


def _distance(actor: SceneActor, at: carla.Transform) -> float:
    return math.hypot(actor.pose[0] - at.location.x, actor.pose[1] - at.location.y)


def _junction(stage: Stage) -> list[SceneActor]:
    """A red light with cars that wait and an ambulance that crosses."""
    actors = traffic(stage, lights=LIGHTS_ON, gap_m=6.0, reach_m=70.0, clear_m=45.0)
    at = stage.waypoint.next(28.0)[0].transform
    turned = carla.Transform(at.location, carla.Rotation(yaw=at.rotation.yaw + 90.0))
    near = [a for a in actors if _distance(a, at) > 9.0]
    return [*near, vehicle("vehicle.ford.ambulance", turned, lights=SIREN), *strollers(stage, 6, 0.7, 30.0)]


def _motorway(stage: Stage) -> list[SceneActor]:
    return traffic(stage, gap_m=20.0, reach_m=200.0)


PICTURES: Final = {
    "noon": Picture("Gen05", _at_spawn(0), "ClearNoon", _day, 3),
    "night": Picture("Gen05", _at_spawn(40), "ClearNight", _evening, 5),
    "rain": Picture("Gen03", _at_spawn(10), "HardRainNoon", _evening, 9),
    "junction": Picture("Gen05", _before_light(0, 16.0), "CloudySunset", _junction, 11, red=True),
    "motorway": Picture("Motorway01", _at_spawn(0), "CloudyNoon", _motorway, 13),
    "pedestrian": Picture("Gen07", _before_light(2, 10.0), "WetNoon", _crossing, 17, red=True),
}
