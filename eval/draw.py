"""One picture of one decision: six cameras, bird's-eye view, what the agent does, where it is on its route."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from eval.moments import BevView, Moment, Point, RouteMap, Step, to_ego
from eval.scoring import Infraction

SIZE_PX = (1280, 720)
CAMERAS = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)
HEADER_PX = 44
GAP_PX = 4
CAMERA_PX = (318, 182)
BEV_PX = (300, 450)
BELIEFS = 4
"""So many views of the surroundings take its place where the network imagines."""
BELIEF_PX = (149, 224)
STRIP_PX = (448, 168)
MAP_RANGE_M = (-8.0, 40.0, 16.0, 16.0)
"""Bird's-eye view without a network: rear, front, left, right, the range of the shipped network."""
MASK_BLEND = 4
"""The masks are blended at a fraction of the panel's size; they are coarser than that anyway."""
EGO_HALF_M = (2.45, 0.92)
LANE_WIDTH_M = 3.4
ISLAND_M2 = 60.0
"""What lanes enclose is road as well if it is smaller than this: the middle of a junction, not a block of houses."""
MAP_MARGIN_M = 15.0
"""Drawn around the visible part, so that an area at its edge is seen to be enclosed."""

BACKGROUND = (15, 20, 27)
PANEL = (24, 31, 41)
LINE = (52, 63, 78)
TEXT = (230, 236, 243)
MUTED = (146, 160, 177)
BLUE = (86, 180, 233)
GREEN = (0, 180, 130)
RED = (240, 100, 60)
YELLOW = (240, 228, 66)
MASK_COLORS = {
    "road": (58, 68, 82),
    "lane_lines": (200, 205, 212),
    "ego_lanes": (44, 92, 138),
    "vehicle": (230, 159, 0),
    "obstacle": (180, 120, 60),
    "walker": (204, 121, 167),
    "red_light": (240, 70, 50),
    "yellow_light": (240, 228, 66),
    "green_light": (0, 190, 120),
    "stop_sign": (213, 94, 0),
}
LIGHT_COLORS = {"red": MASK_COLORS["red_light"], "yellow": YELLOW, "green": MASK_COLORS["green_light"]}
INFRACTION_NAMES = {
    Infraction.COLLISION_STATIC: "collision with an object",
    Infraction.COLLISION_PEDESTRIAN: "collision with a walker",
    Infraction.COLLISION_VEHICLE: "collision with a vehicle",
    Infraction.RED_LIGHT: "red light run",
    Infraction.STOP_SIGN: "stop sign run",
    Infraction.OUTSIDE_ROUTE_LANES: "outside its lanes",
    Infraction.MIN_SPEED: "slower than traffic",
    Infraction.YIELD_TO_EMERGENCY_VEHICLE: "did not yield to an emergency vehicle",
    Infraction.SCENARIO_TIMEOUT: "scenario timeout",
    Infraction.ROUTE_DEVIATION: "left the route",
    Infraction.VEHICLE_BLOCKED: "blocked",
    Infraction.ROUTE_TIMEOUT: "route timeout",
}


class FramePainter:
    """Paints moments of one route; keeps what does not change between them."""

    def __init__(self) -> None:
        self._route: RouteMap | None = None
        self._overview: Image.Image | None = None
        self._view: _MapView | None = None
        self._last: Point | None = None

    def paint(self, moment: Moment) -> np.ndarray:
        """The picture: (720, 1280, 3) uint8 RGB."""
        if moment.route is not self._route:
            self._start_route(moment.route)
        picture = Image.new("RGB", SIZE_PX, BACKGROUND)
        draw = ImageDraw.Draw(picture)
        _paint_header(draw, moment)
        _paint_cameras(picture, draw, moment)
        _paint_bev(picture, draw, moment)
        _paint_action(draw, moment.step)
        _paint_choices(draw, moment.step)
        self._paint_overview(picture, moment)
        _paint_incidents(draw, moment)
        return np.asarray(picture)

    def _start_route(self, route: RouteMap) -> None:
        self._route = route
        self._view = _MapView(route.plan, (720, HEADER_PX + 2 * (CAMERA_PX[1] + GAP_PX) + 30), (236, 268))
        self._last = None
        overview = Image.new("RGB", SIZE_PX, PANEL)
        lanes_px = [self._view.pixels(lane) for lane in route.lanes]
        overview.paste((40, 49, 61), mask=_road_mask(lanes_px, SIZE_PX, self._view.scale))
        draw = ImageDraw.Draw(overview)
        width_px = max(2, round(LANE_WIDTH_M * self._view.scale))
        draw.line(self._view.pixels(route.plan), fill=(72, 98, 124), width=max(3, width_px), joint="curve")
        self._overview = overview.crop(self._view.box)

    def _paint_overview(self, picture: Image.Image, moment: Moment) -> None:
        assert self._overview is not None and self._view is not None
        here = moment.step.x_m, moment.step.y_m
        left, top = self._view.box[:2]
        (x, y), before = self._view.pixels([here, self._last or here])
        ImageDraw.Draw(self._overview).line([(before[0] - left, before[1] - top), (x - left, y - top)], BLUE, 3)
        self._last = here
        picture.paste(self._overview, (left, top))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=TEXT, outline=BACKGROUND, width=2)
        _label(draw, (left, top - 22), f"ROUTE  {moment.step.distance_m:.0f} of {moment.route.length_m:.0f} m")


class _MapView:
    """A map region fitted into a box of the picture."""

    def __init__(self, points: Sequence[Point], corner_px: tuple[int, int], size_px: tuple[int, int]) -> None:
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        self.box = (*corner_px, corner_px[0] + size_px[0], corner_px[1] + size_px[1])
        self.scale = float(min((np.array(size_px) - 28) / np.maximum(high - low, 30.0)))
        self._middle_m = (low + high) / 2.0
        self._middle_px = np.array(corner_px) + np.array(size_px) / 2.0

    def pixels(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Points of CARLA's frame in the picture (x to the right, y down)."""
        placed = (np.asarray(points, dtype=np.float64) - self._middle_m) * self.scale + self._middle_px
        return [(float(x), float(y)) for x, y in placed]


class _EgoView:
    """The surroundings of the ego in a box of the picture, driving upwards."""

    def __init__(self, range_m: tuple[float, float, float, float], size_px: tuple[int, int]) -> None:
        rear_m, front_m, left_m, right_m = range_m
        self._scale = min(size_px[1] / (front_m - rear_m), size_px[0] / (left_m + right_m))
        self._size_px, self._front_m, self._left_m = size_px, front_m, left_m

    @property
    def scale(self) -> float:
        """Pixels per metre."""
        return self._scale

    def pixels(self, points_m: np.ndarray) -> list[tuple[float, float]]:
        """Points of the ego frame (x forward, y left) in the box."""
        return [
            ((self._left_m - float(y)) * self._scale, (self._front_m - float(x)) * self._scale) for x, y in points_m
        ]


def action_text(index: int) -> str:
    """One of the 39 actions in words, such as `throttle 0.7, left 0.2`."""
    row = ACTIONS[index]
    if row[BRAKE] > 0.0:
        pedal = "full brake" if row[BRAKE] >= 1.0 else f"brake {row[BRAKE]:.1f}"
    elif row[THROTTLE] > 0.0:
        pedal = f"{'reverse' if row[REVERSE] else 'throttle'} {row[THROTTLE]:.1f}"
    else:
        pedal = "coast"
    if row[STEER] == 0.0:
        return pedal
    return f"{pedal}, {'right' if row[STEER] > 0.0 else 'left'} {abs(row[STEER]):.1f}"


def incident_text(kind: str) -> str:
    """An infraction's kind in words."""
    try:
        return INFRACTION_NAMES[Infraction(kind)]
    except ValueError:
        return kind


def _paint_header(draw: ImageDraw.ImageDraw, moment: Moment) -> None:
    step, route = moment.step, moment.route
    draw.rectangle((0, 0, SIZE_PX[0], HEADER_PX - GAP_PX), fill=PANEL)
    draw.text((16, 20), "Raw2Drive", font=_font(18), fill=TEXT, anchor="lm")
    draw.text((122, 20), f"route {route.route_id[:24]}  ·  {route.town[:16]}", font=_font(15), fill=MUTED, anchor="lm")
    right = (
        f"{step.time_s:6.1f} s     {step.speed_mps * 3.6:4.0f} km/h     {step.completion_percent:5.1f} % of the route"
    )
    draw.text((SIZE_PX[0] - 16, 20), right, font=_font(16), fill=TEXT, anchor="rm")


def _paint_cameras(picture: Image.Image, draw: ImageDraw.ImageDraw, moment: Moment) -> None:
    for row, names in enumerate(CAMERAS):
        for column, name in enumerate(names):
            x = column * (CAMERA_PX[0] + GAP_PX)
            y = HEADER_PX + row * (CAMERA_PX[1] + GAP_PX)
            image = moment.cameras.get(name)
            if image is None:
                draw.rectangle((x, y, x + CAMERA_PX[0], y + CAMERA_PX[1]), fill=PANEL)
            else:
                picture.paste(Image.fromarray(np.ascontiguousarray(image)).resize(CAMERA_PX), (x, y))
            title = name.removeprefix("CAM_").replace("_", " ")
            title = title if image is not None else f"{title}: no picture"
            draw.text(
                (x + 8, y + 14), title, font=_font(12), fill=TEXT, anchor="lm", stroke_width=2, stroke_fill=(0, 0, 0)
            )


def _paint_bev(picture: Image.Image, draw: ImageDraw.ImageDraw, moment: Moment) -> None:
    left, top = SIZE_PX[0] - BEV_PX[0] - 8, HEADER_PX + 22
    if moment.imagined:
        _label(draw, (left, HEADER_PX), "SEEN NOW, AND IMAGINED BEFORE")
        _paint_beliefs(picture, moment, (left, top), 2, BELIEF_PX)
    else:
        title = "WHAT THE NETWORK SEES FROM ABOVE" if moment.bev else "MAP AROUND THE CAR"
        _label(draw, (left, HEADER_PX), title)
        picture.paste(_bev_panel(moment, moment.bev, BEV_PX), (left, top))
    _paint_legend(draw, (left, top + BEV_PX[1] + 8), moment.bev)


def belief_strip(moment: Moment) -> np.ndarray:
    """What the network sees now beside what it had imagined for now, side by side: (168, 448, 3) uint8 RGB."""
    picture = Image.new("RGB", STRIP_PX, BACKGROUND)
    size_px = STRIP_PX[0] // BELIEFS - GAP_PX // 2, STRIP_PX[1]
    _paint_beliefs(picture, moment, (0, 0), BELIEFS, size_px)
    return np.asarray(picture)


def _paint_beliefs(
    picture: Image.Image, moment: Moment, corner_px: tuple[int, int], columns: int, size_px: tuple[int, int]
) -> None:
    """The network's view of now and what it had imagined for now, row by row."""
    views = [("now", moment.bev), *((f"{item.before_s:.1f} s before", item.bev) for item in moment.imagined)]
    draw = ImageDraw.Draw(picture)
    for index, (title, bev) in enumerate(views[:BELIEFS]):
        x = corner_px[0] + index % columns * (size_px[0] + GAP_PX // 2)
        y = corner_px[1] + index // columns * (size_px[1] + GAP_PX // 2)
        picture.paste(_bev_panel(moment, bev, size_px), (x, y))
        draw.text((x + 5, y + 9), title, font=_font(11), fill=TEXT, anchor="lm", stroke_width=2, stroke_fill=(0, 0, 0))


def _bev_panel(moment: Moment, bev: BevView | None, size_px: tuple[int, int]) -> Image.Image:
    """Surroundings of the ego, driving upwards: the network's masks or the map, its plan, and the true vehicles."""
    view = _EgoView(bev.range_m if bev else MAP_RANGE_M, size_px)
    panel = _mask_picture(bev, size_px) if bev else Image.new("RGB", size_px, PANEL)
    if bev is None:
        panel.paste(MASK_COLORS["road"], mask=_map_mask(moment, view, size_px))
    inner = ImageDraw.Draw(panel)
    inner.line(view.pixels(moment.route_ego_m), fill=BLUE, width=2)
    if bev is not None:
        for x, y in view.pixels(moment.route_ego_m):
            inner.ellipse((x - 3, y - 3, x + 3, y + 3), fill=BLUE)
    for other in moment.others:
        centre = to_ego([(other.x_m, other.y_m)], moment.step)[0]
        turn_rad = math.radians(moment.step.yaw_deg - other.yaw_deg)
        inner.polygon(view.pixels(_box(centre, turn_rad, other.half_length_m, other.half_width_m)), outline=YELLOW)
    inner.polygon(view.pixels(_box(np.zeros(2), 0.0, *EGO_HALF_M)), fill=TEXT, outline=BACKGROUND)
    return panel


def _map_mask(moment: Moment, view: _EgoView, panel_px: tuple[int, int]) -> Image.Image:
    """Where the map has road in the bird's-eye panel."""
    margin_px = round(MAP_MARGIN_M * view.scale)
    lanes_m = [to_ego(lane, moment.step) for lane in moment.route.lanes]
    near = [lane_m for lane_m in lanes_m if np.abs(lane_m).max(axis=1).min() < MAP_RANGE_M[1] + 2.0 * MAP_MARGIN_M]
    lanes_px = [[(x + margin_px, y + margin_px) for x, y in view.pixels(lane_m)] for lane_m in near]
    size_px = panel_px[0] + 2 * margin_px, panel_px[1] + 2 * margin_px
    return _road_mask(lanes_px, size_px, view.scale).crop(
        (margin_px, margin_px, margin_px + panel_px[0], margin_px + panel_px[1])
    )


def _road_mask(
    lanes_px: Sequence[Sequence[tuple[float, float]]], size_px: tuple[int, int], scale: float
) -> Image.Image:
    """255 where there is road: the lanes with rounded ends, and small areas they enclose. `scale`: pixels per metre."""
    from scipy import ndimage  # here: commands that draw nothing start faster without it

    mask = Image.new("L", size_px)
    draw = ImageDraw.Draw(mask)
    width_px = max(2, round(LANE_WIDTH_M * scale))
    radius_px = 0.5 * width_px
    for lane in lanes_px:
        draw.line(list(lane), fill=255, width=width_px, joint="curve")
        for x, y in (lane[0], lane[-1]):
            draw.ellipse((x - radius_px, y - radius_px, x + radius_px, y + radius_px), fill=255)
    road = np.array(mask)
    areas = np.empty(road.shape, np.int32)
    ndimage.label(road == 0, output=areas)
    enclosed = np.bincount(areas.ravel()) < ISLAND_M2 * scale**2
    for edge in (areas[0], areas[-1], areas[:, 0], areas[:, -1]):
        enclosed[edge] = False
    road[enclosed[areas]] = 255
    return Image.fromarray(road)


def _paint_legend(draw: ImageDraw.ImageDraw, corner_px: tuple[int, int], bev: BevView | None) -> None:
    entries = [("plan", BLUE), ("true vehicles", YELLOW)]
    if bev is not None:
        entries = [(name.replace("_", " "), MASK_COLORS.get(name, TEXT)) for name in bev.names] + entries
    for index, (name, color) in enumerate(entries):
        x, y = corner_px[0] + index % 3 * 100, corner_px[1] + index // 3 * 19
        outlined = name == "true vehicles"
        draw.rectangle((x, y + 3, x + 9, y + 12), fill=None if outlined else color, outline=color)
        draw.text((x + 15, y + 8), name, font=_font(12), fill=MUTED, anchor="lm")


def _mask_picture(bev: BevView, panel_px: tuple[int, int]) -> Image.Image:
    """The masks over each other in their colours, most important last."""
    size_px = panel_px[0] // MASK_BLEND, panel_px[1] // MASK_BLEND
    canvas = np.full((size_px[1], size_px[0], 3), PANEL, dtype=np.float32)
    for name, mask in zip(bev.names, bev.masks, strict=True):
        small = Image.fromarray((np.clip(mask[::-1], 0.0, 1.0) * 255.0).astype(np.uint8))
        alpha = np.asarray(small.resize(size_px, Image.Resampling.BILINEAR), dtype=np.float32)[..., None] / 255.0
        alpha = np.clip(alpha * 1.4 - 0.2, 0.0, 1.0)  # half-believed things fade, likely ones become solid
        canvas += (np.array(MASK_COLORS.get(name, TEXT), dtype=np.float32) - canvas) * alpha
    return Image.fromarray(canvas.astype(np.uint8)).resize(panel_px, Image.Resampling.BILINEAR)


def _paint_action(draw: ImageDraw.ImageDraw, step: Step) -> None:
    left, top = 16, HEADER_PX + 2 * (CAMERA_PX[1] + GAP_PX) + 8
    _label(draw, (left, top), "CONTROL")
    bars = (("throttle", step.throttle, GREEN), ("brake", step.brake, RED))
    for index, (name, value, color) in enumerate(bars):
        y = top + 30 + index * 34
        draw.text((left, y + 8), name, font=_font(14), fill=MUTED, anchor="lm")
        draw.rectangle((left + 76, y, left + 276, y + 16), fill=PANEL)
        if value > 0.0:
            draw.rectangle((left + 76, y, left + 76 + 200 * value, y + 16), fill=color)
        draw.text((left + 286, y + 8), f"{value:.2f}", font=_font(14), fill=TEXT, anchor="lm")
    y = top + 98
    draw.text((left, y + 8), "steer", font=_font(14), fill=MUTED, anchor="lm")
    draw.rectangle((left + 76, y, left + 276, y + 16), fill=PANEL)
    middle, end = left + 176, left + 176 + 100 * step.steer
    draw.rectangle((min(middle, end), y, max(middle, end), y + 16), fill=BLUE)
    draw.line((middle, y - 2, middle, y + 18), fill=MUTED)
    draw.text((left + 286, y + 8), f"{step.steer:+.2f}", font=_font(14), fill=TEXT, anchor="lm")
    y = top + 142
    if step.light:
        color = LIGHT_COLORS.get(step.light, MUTED)
        draw.ellipse((left, y, left + 14, y + 14), fill=color)
        text = f"{step.light} light, stop line in {max(step.light_m, 0.0):.0f} m"
    else:
        draw.ellipse((left, y, left + 14, y + 14), outline=LINE)
        text = "no traffic light ahead"
    draw.text((left + 24, y + 7), text, font=_font(14), fill=MUTED, anchor="lm")
    if step.guard:
        calm = step.guard == "nominal"
        text = "guard: passes the network's action on" if calm else f"guard: {step.guard}"
        draw.text((left, y + 38), text, font=_font(14), fill=MUTED if calm else RED, anchor="lm")
    if step.reverse:
        draw.text((left, y + 62), "reverse gear", font=_font(14), fill=YELLOW, anchor="lm")


def _paint_choices(draw: ImageDraw.ImageDraw, step: Step) -> None:
    left, top = 376, HEADER_PX + 2 * (CAMERA_PX[1] + GAP_PX) + 8
    _label(draw, (left, top), "MOST PROBABLE ACTIONS")
    if not step.top:
        draw.text((left, top + 38), "this agent gives no probabilities", font=_font(14), fill=MUTED, anchor="lm")
    for rank, (index, probability) in enumerate(step.top):
        y = top + 26 + rank * 44
        chosen = index == step.action
        draw.text((left, y + 8), action_text(index), font=_font(14), fill=TEXT if chosen else MUTED, anchor="lm")
        draw.text((left + 310, y + 8), f"{probability:.0%}", font=_font(14), fill=TEXT, anchor="rm")
        draw.rectangle((left, y + 20, left + 310, y + 28), fill=PANEL)
        draw.rectangle((left, y + 20, left + 310 * probability, y + 28), fill=BLUE if chosen else LINE)


def _paint_incidents(draw: ImageDraw.ImageDraw, moment: Moment) -> None:
    left, top = 376, HEADER_PX + 2 * (CAMERA_PX[1] + GAP_PX) + 172
    _label(draw, (left, top), "INFRACTIONS SO FAR")
    if not moment.incidents:
        draw.text((left, top + 30), "none", font=_font(14), fill=MUTED, anchor="lm")
    counts: dict[str, int] = {}
    for incident in moment.incidents:
        counts[incident.kind] = counts.get(incident.kind, 0) + 1
    for row, (kind, count) in enumerate(list(counts.items())[:5]):
        draw.text((left, top + 30 + row * 21), f"{count}x {incident_text(kind)}", font=_font(14), fill=RED, anchor="lm")


def _label(draw: ImageDraw.ImageDraw, corner_px: tuple[int, int], text: str) -> None:
    draw.text((corner_px[0], corner_px[1] + 8), text, font=_font(12), fill=MUTED, anchor="lm")


def _box(centre: np.ndarray, turn_rad: float, half_length_m: float, half_width_m: float) -> np.ndarray:
    """Corners (4, 2) of a box in the ego frame; `turn_rad` counter-clockwise from the ego's heading."""
    c, s = math.cos(turn_rad), math.sin(turn_rad)
    corners = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * (half_length_m, half_width_m)
    return corners @ np.array([(c, s), (-s, c)]) + centre


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font."""
    return ImageFont.load_default(size_px)
