"""What happened on a route, decision by decision: seen by an observer, kept in a file, read back for reports.

`Observer` is a tick hook of `Episode`. It turns every decision into a `Moment` and hands it to its sinks: a trace file,
a video, a live view. Positions are in CARLA's frame (x forward, y to the right of x).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import carla
import numpy as np
from PIL import Image

from agent import strict_json
from eval.criteria import TICK_S, Event, SignalBox, stop_line
from eval.plan import BENCH2DRIVE_SPACING_M, LEADERBOARD_SPACING_M, sparse_indices
from eval.scoring import Infraction, Scoring

if TYPE_CHECKING:
    from agent.driver import Decision, Driver
    from eval.episode import Episode, Tick

TRACE_FORMAT = 1
TICKS_PER_DECISION = 2
DECISION_S = TICKS_PER_DECISION * TICK_S
IMAGINED_STEPS = (5, 10, 15)
"""Decisions ahead that a network which can imagine is asked for."""
MAP_MARGIN_M = 70.0
LANE_STEP_M = 3.0
LIGHT_AHEAD_M = 50.0
LIGHT_ROUTE_M = 4.0
"""A light belongs to the route if one of its stop points is so close to it."""
OUTSIDE_GAP_S = 3.0
"""Leaving the lanes again within this time is the same incident."""
TOP_ACTIONS = 3
PICTURE_WIDTH_PX = 448
JPEG_QUALITY = 82
FRONT_CAMERA = "CAM_FRONT"
Point = tuple[float, float]


class TraceError(ValueError):
    """A trace file that cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class RouteMap:
    """A route and the lanes around it; all points x, y [m] in CARLA's frame."""

    route_id: str
    town: str
    length_m: float
    plan: tuple[Point, ...]
    """The dense plan, every second metre."""
    sparse: tuple[Point, ...]
    """What the agent was given of it."""
    lanes: tuple[tuple[Point, ...], ...]
    """Centre lines of the driving lanes near the route."""


@dataclass(frozen=True, slots=True)
class Incident:
    """An infraction at the moment it was noticed."""

    kind: str
    message: str
    picture: str = ""
    """Name of a JPEG of the front camera in the trace's folder; empty without cameras."""


@dataclass(frozen=True, slots=True)
class Step:
    """The state at one decision; pose in CARLA's frame."""

    time_s: float
    x_m: float
    y_m: float
    yaw_deg: float
    speed_mps: float
    speed_limit_mps: float
    throttle: float
    steer: float
    brake: float
    reverse: bool
    action: int | None
    """Index into the table of actions; None for agents without one."""
    top: tuple[tuple[int, float], ...]
    """The most probable actions: index, probability."""
    completion_percent: float
    distance_m: float
    """Along the route."""
    light: str
    """State of the next traffic light of the route within 50 m; empty if there is none."""
    light_m: float
    """Distance along the route to its stop line; -1 without a light."""
    guard: str
    """Mode of the agent's guard; empty for agents without one."""
    outside: bool
    """Off the lanes of the route."""
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True, slots=True)
class BevView:
    """What the agent's network believes is around it."""

    masks: np.ndarray
    """(masks, rows, columns) probabilities; row 0 at the rear, column 0 at the left."""
    names: tuple[str, ...]
    range_m: tuple[float, float, float, float]
    """rear (negative), front, left, right (both positive)."""


@dataclass(frozen=True, slots=True)
class Imagined:
    """What the agent's network had imagined for a moment, when it lay ahead."""

    before_s: float
    """How long before."""
    bev: BevView


@dataclass(frozen=True, slots=True)
class OtherCar:
    """A vehicle near the ego: x, y [m], heading [deg] in CARLA's frame, half sizes [m]."""

    x_m: float
    y_m: float
    yaw_deg: float
    half_length_m: float
    half_width_m: float


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything a viewer may show of one decision."""

    route: RouteMap
    step: Step
    decides: bool
    """False for the extra moment of an infraction between two decisions."""
    cameras: Mapping[str, np.ndarray]
    """Sensor id to (height, width, 3) uint8 RGB."""
    route_ego_m: np.ndarray
    """(n, 2) route polyline in the ego frame, x forward, y left: the agent's own view of it if there is one."""
    bev: BevView | None
    """As it believes now."""
    others: tuple[OtherCar, ...]
    incidents: tuple[Incident, ...]
    """All so far."""
    decision: int = 0
    """Number of the decision it is of."""
    imagined: tuple[Imagined, ...] = ()
    """What the network had imagined for now, the newest first."""


MomentSink = Callable[[Moment], None]


class Observer:
    """A tick hook that hands every decision to its sinks."""

    def __init__(self, sinks: Sequence[MomentSink], *, bev_every: int = 1) -> None:
        """`bev_every`: decode the network's masks, which takes a few milliseconds, at every so-manieth decision; 0 at
        none."""
        self._sinks = list(sinks)
        self._bev_every = bev_every
        self._imagined: dict[int, list[Imagined]] = {}
        self._map: RouteMap | None = None
        self._lights: list[tuple[float, carla.TrafficLight]] = []
        self._seen: set[tuple[Infraction, int]] = set()
        self._incidents: list[Incident] = []
        self._extents: dict[int, carla.Vector3D] = {}
        self._outside_until_s = -math.inf
        self._outside_percent = 0.0

    def __call__(self, episode: Episode, tick: Tick) -> None:
        """Called by the episode after every tick."""
        if self._map is None:
            self._map = route_map(episode)
            self._lights = _route_lights(episode)
        fresh = self._fresh_incidents(episode, tick)
        decides = (episode.ticks - 1) % TICKS_PER_DECISION == 0
        if not decides and not fresh:
            return
        self._incidents += fresh
        moment = self._moment(episode, tick, fresh, decides)
        for sink in self._sinks:
            sink(moment)

    def _moment(self, episode: Episode, tick: Tick, fresh: list[Incident], decides: bool) -> Moment:
        assert self._map is not None
        driver: Driver | None = getattr(episode.agent, "driver", None)
        decision: Decision | None = getattr(driver, "last_decision", None)
        step = self._step(episode, tick, decision, fresh)
        number = (episode.ticks - 1) // TICKS_PER_DECISION
        with_bev = self._bev_every > 0 and decides and number % self._bev_every == 0
        bev = imagined = None
        if with_bev and driver and decision:
            bev, ahead = _bev(driver, decision, self._bev_every)
            imagined = self._due(number, ahead)
        route_ego_m = decision.inputs.route[0].cpu().numpy() if decision else to_ego(self._map.plan, step)
        return Moment(
            route=self._map,
            step=step,
            decides=decides,
            cameras={key: value[..., 2::-1] for key, (_, value) in tick.data.items() if _is_image(value)},
            route_ego_m=route_ego_m,
            bev=bev,
            others=tuple(self._other(vehicle) for vehicle in episode.traffic.vehicles),
            incidents=tuple(self._incidents),
            decision=number,
            imagined=imagined or (),
        )

    def _due(self, number: int, ahead: Mapping[int, BevView]) -> tuple[Imagined, ...]:
        """What was imagined for this decision; and what is imagined now for later ones is kept."""
        for steps, view in ahead.items():
            self._imagined.setdefault(number + steps, []).append(Imagined(steps * DECISION_S, view))
        for missed in [other for other in self._imagined if other < number]:
            del self._imagined[missed]
        return tuple(reversed(self._imagined.pop(number, [])))

    def _other(self, vehicle: carla.Vehicle) -> OtherCar:
        if vehicle.id not in self._extents:  # a call to the server in 0.9.16, with the interpreter locked meanwhile
            self._extents[vehicle.id] = vehicle.bounding_box.extent
        transform, extent = vehicle.get_transform(), self._extents[vehicle.id]
        return OtherCar(transform.location.x, transform.location.y, transform.rotation.yaw, extent.x, extent.y)

    def _step(self, episode: Episode, tick: Tick, decision: Decision | None, fresh: list[Incident]) -> Step:
        ego, control = tick.ego, tick.control or carla.VehicleControl()
        completion = episode.criteria.completion
        distance_m = episode.criteria.track.travelled_m[completion.index]
        light, light_m = self._next_light(distance_m)
        guard = getattr(episode.agent, "guard", None)
        return Step(
            time_s=round(ego.time_s, 3),
            x_m=round(ego.location.x, 3),
            y_m=round(ego.location.y, 3),
            yaw_deg=round(ego.transform.rotation.yaw, 2),
            speed_mps=round(ego.speed_mps, 3),
            speed_limit_mps=round(ego.speed_limit_mps, 2),
            throttle=round(control.throttle, 3),
            steer=round(control.steer, 3),
            brake=round(control.brake, 3),
            reverse=bool(control.reverse),
            action=decision.action if decision else None,
            top=_top_actions(decision) if decision else (),
            completion_percent=completion.percent,
            distance_m=round(distance_m, 2),
            light=light,
            light_m=round(light_m, 1),
            guard=guard.mode.value if guard is not None else "",
            outside=episode.criteria.outside_lanes.outside,
            incidents=tuple(fresh),
        )

    def _fresh_incidents(self, episode: Episode, tick: Tick) -> list[Incident]:
        """Infractions not seen before. Leaving the lanes counts when metres are charged; minimum speed never."""
        fresh = []
        for event in episode.criteria.events():
            if event.kind in (Infraction.MIN_SPEED, Infraction.OUTSIDE_ROUTE_LANES):
                continue
            if (event.kind, event.frame) not in self._seen:
                self._seen.add((event.kind, event.frame))
                fresh.append(_incident(event))
        lanes = episode.criteria.outside_lanes
        account = lanes.events[-1].percentage if lanes.events else 0.0
        if lanes.outside and account > self._outside_percent:
            if tick.ego.time_s > self._outside_until_s + OUTSIDE_GAP_S:
                fresh.append(Incident(Infraction.OUTSIDE_ROUTE_LANES.value, "Agent left the lanes of its route"))
            self._outside_until_s = tick.ego.time_s
        self._outside_percent = account
        return fresh

    def _next_light(self, distance_m: float) -> tuple[str, float]:
        for at_m, light in self._lights:
            if -1.0 <= at_m - distance_m <= LIGHT_AHEAD_M:
                return str(light.state).lower(), at_m - distance_m
        return "", -1.0


class TraceFile:
    """A sink that writes `NAME.jsonl` (see `read_trace`) and pictures of start, incidents and end."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = safe_name(name)
        self._file = trace_path(folder, name).open("w", encoding="utf-8")
        self._pictures = 0
        self._started = False
        self._last_front: np.ndarray | None = None
        self._believed: Moment | None = None

    def __call__(self, moment: Moment) -> None:
        front = moment.cameras.get(FRONT_CAMERA)
        if moment.imagined:
            self._believed = moment
        if not self._started:
            self._started = True
            header = {"format": TRACE_FORMAT, "columns": [f.name for f in fields(Step)], **asdict(moment.route)}
            self._file.write(strict_json.dumps(header, separators=(",", ":")) + "\n")
            self._save_picture(front, f"{self._name}_start.jpg")
        row = [getattr(moment.step, field.name) for field in fields(Step)]
        row[-1] = [asdict(self._with_picture(incident, front)) for incident in moment.step.incidents]
        self._file.write(strict_json.dumps(row, separators=(",", ":")) + "\n")
        self._last_front = front

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        if not self._file.closed:
            self._save_picture(self._last_front, f"{self._name}_end.jpg")
            self._file.close()

    def _with_picture(self, incident: Incident, front: np.ndarray | None) -> Incident:
        self._pictures += 1
        name = f"{self._name}_{self._pictures:02d}.jpg"
        saved = self._save_picture(front, name)
        return Incident(incident.kind, incident.message, name if saved else "")

    def _save_picture(self, image: np.ndarray | None, name: str) -> bool:
        """The image, and what the network believes and had imagined below it, if it can."""
        if image is None:
            return False
        (self._folder / name).write_bytes(
            jpeg(image if self._believed is None else _with_beliefs(image, self._believed))
        )
        return True


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace read back."""

    route: RouteMap
    steps: tuple[Step, ...]
    folder: Path

    def picture(self, name: str) -> bytes | None:
        """The JPEG of that name, if it is there. Names with a folder in them are refused."""
        path = self.folder / name
        return path.read_bytes() if name and Path(name).name == name and path.is_file() else None

    @property
    def start_picture(self) -> bytes | None:
        """The front camera at the first decision."""
        return self.picture(f"{safe_name(self.route.route_id)}_start.jpg")

    @property
    def end_picture(self) -> bytes | None:
        """The front camera at the last decision."""
        return self.picture(f"{safe_name(self.route.route_id)}_end.jpg")


def read_trace(path: Path) -> Trace:
    """The trace in a file; an unfinished last line is left out. Raises: TraceError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        header = json.loads(lines[0])
        if header.get("format") != TRACE_FORMAT or header["columns"] != [f.name for f in fields(Step)]:
            raise TraceError(f"{path}: written by another version of this program; drive the routes again")
        route = RouteMap(
            route_id=header["route_id"],
            town=header["town"],
            length_m=header["length_m"],
            plan=_points(header["plan"]),
            sparse=_points(header["sparse"]),
            lanes=tuple(_points(lane) for lane in header["lanes"]),
        )
        steps = tuple(_read_step(json.loads(line)) for line in lines[1:-1])
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise TraceError(f"{path}: not a readable trace ({type(error).__name__}: {error})") from error
    return Trace(route, steps, path.parent)


def trace_path(folder: Path, route_id: str) -> Path:
    """Where the trace of a route lies."""
    return folder / f"{safe_name(route_id)}.jsonl"


def safe_name(name: str) -> str:
    """The name with everything but letters, digits, dash and underscore replaced."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80] or "_"


def route_map(episode: Episode) -> RouteMap:
    """The episode's route and the lanes around it."""
    plan = episode.plan.world
    spacing_m = BENCH2DRIVE_SPACING_M if episode.config.scoring is Scoring.BENCH2DRIVE else LEADERBOARD_SPACING_M
    dense = [_xy(transform.location) for transform, _ in plan]
    return RouteMap(
        route_id=episode.route.id,
        town=episode.route.town,
        length_m=round(episode.plan.length_m, 2),
        plan=(*dense[:-1:2], dense[-1]),
        sparse=tuple(dense[index] for index in sparse_indices(plan, spacing_m)),
        lanes=lanes_near(episode.carla_map, dense),
    )


def lanes_near(carla_map: carla.Map, points: Sequence[Point]) -> tuple[tuple[Point, ...], ...]:
    """Centre lines of the driving lanes in the box around the points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low = min(xs) - MAP_MARGIN_M, min(ys) - MAP_MARGIN_M
    high = max(xs) + MAP_MARGIN_M, max(ys) + MAP_MARGIN_M

    def inside(point: Point) -> bool:
        return low[0] <= point[0] <= high[0] and low[1] <= point[1] <= high[1]

    lanes = []
    for entry, exit_ in carla_map.get_topology():
        line = [_xy(entry.transform.location)]
        line += [_xy(waypoint.transform.location) for waypoint in entry.next_until_lane_end(LANE_STEP_M)]
        line.append(_xy(exit_.transform.location))
        if any(inside(point) for point in line):
            lanes.append(tuple(line))
    return tuple(lanes)


def to_ego(points: Sequence[Point], step: Step) -> np.ndarray:
    """Points of CARLA's frame in the ego frame of a step: (n, 2), x forward, y left."""
    yaw_rad = math.radians(step.yaw_deg)
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    delta = np.asarray(points, dtype=np.float64).reshape(-1, 2) - (step.x_m, step.y_m)
    return np.stack([c * delta[:, 0] + s * delta[:, 1], s * delta[:, 0] - c * delta[:, 1]], axis=1)


def jpeg(image: np.ndarray, width_px: int = PICTURE_WIDTH_PX) -> bytes:
    """JPEG of an RGB image, not wider than `width_px`."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.width > width_px:
        picture = picture.resize((width_px, round(picture.height * width_px / picture.width)))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _with_beliefs(image: np.ndarray, moment: Moment) -> np.ndarray:
    """An image with a strip of the network's views below it."""
    from eval.draw import belief_strip  # which needs moments

    strip = belief_strip(moment)
    height_px = round(image.shape[0] * strip.shape[1] / image.shape[1])
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((strip.shape[1], height_px))
    return np.concatenate([np.asarray(picture), strip])


def _route_lights(episode: Episode) -> list[tuple[float, carla.TrafficLight]]:
    """Lights whose stop line lies on the route: distance along the route and the light, in driving order."""
    plan, travelled_m = episode.plan.world, episode.criteria.track.travelled_m
    route = np.array([_xy(transform.location) for transform, _ in plan])
    found = []
    for actor in episode.world.get_actors().filter("traffic.traffic_light*"):
        light: Any = actor
        box = SignalBox(light.id, light.get_transform(), light.trigger_volume)
        for waypoint in stop_line(episode.carla_map, box)[1]:
            distances_m = np.linalg.norm(route - _xy(waypoint.transform.location), axis=1)
            index = int(distances_m.argmin())
            along, heading = plan[index][0].get_forward_vector(), waypoint.transform.get_forward_vector()
            if distances_m[index] <= LIGHT_ROUTE_M and along.x * heading.x + along.y * heading.y > 0.0:
                found.append((travelled_m[index], light))
                break
    return sorted(found, key=lambda item: item[0])


def _bev(driver: Driver, decision: Decision, every: int) -> tuple[BevView | None, dict[int, BevView]]:
    """What the network believes around it, None for a network that cannot tell; and what it imagines for later.

    The latter by the number of decisions ahead, a multiple of `every`.
    """
    from agent.model.driving_model import MASKS, DrivingModel
    from agent.model.mask_decoder import SHOWN_MASKS

    model = driver.model
    right_min, rear, _, right_max, front, _ = model.config.encoder.bev_range_m
    range_m = (rear, front, -right_min, right_max)
    if isinstance(model, DrivingModel):
        masks, _ = model.explain(decision.state)
        return BevView(masks[0].float().cpu().numpy(), MASKS, range_m), {}
    if decision.action is None:
        return None, {}
    if model.decoder is None:
        if model.neck.masks is None:
            return None, {}
        masks = model.told_masks(decision.inputs, decision.state)
        return BevView(masks[0].float().cpu().numpy(), tuple(SHOWN_MASKS), range_m), {}
    latent = decision.state.latent
    ahead = [max(1, round(steps / every)) * every for steps in IMAGINED_STEPS]
    states = model.imagine(latent, decision.action, ahead[-1])
    masks = model.shown_masks([latent, *(states[steps - 1] for steps in ahead)]).float().cpu().numpy()
    views = [BevView(mask, tuple(SHOWN_MASKS), range_m) for mask in masks]
    return views[0], dict(zip(ahead, views[1:], strict=True))


def _top_actions(decision: Decision) -> tuple[tuple[int, float], ...]:
    if decision.action is None:
        return ()
    best = decision.logits.softmax(0).topk(TOP_ACTIONS)
    return tuple((int(index), round(float(p), 4)) for p, index in zip(best.values, best.indices, strict=True))


def _incident(event: Event) -> Incident:
    return Incident(event.kind.value, event.message)


def _read_step(row: list[Any]) -> Step:
    *values, incidents = row
    names = [field.name for field in fields(Step)][:-1]
    data = dict(zip(names, values, strict=True))
    data["top"] = tuple((int(index), float(p)) for index, p in data["top"])
    return Step(**data, incidents=tuple(Incident(**incident) for incident in incidents))


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3


def _points(values: Sequence[Sequence[float]]) -> tuple[Point, ...]:
    return tuple((float(x), float(y)) for x, y in values)


def _xy(location: carla.Location) -> Point:
    return round(location.x, 2), round(location.y, 2)
