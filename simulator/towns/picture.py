"""Towns drawn from above: lane types in colours, junctions, lights, stop signs; one picture of all training towns."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import carla
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from simulator.render.lanes import Section, sample_sections
from simulator.towns.catalogue import training_towns
from simulator.towns.town import Town, TownError, load_town

CELL_PX, CAPTION_PX, COLUMNS = 360, 34, 6
OVERSAMPLING = 3
MARGIN = 0.04
LEGEND_PX = 30
PALETTE_COLOURS = 128
ALONE_PX = 1400
"""Side of the picture of a single town."""
BACKGROUND, INK = (236, 239, 231), (30, 30, 30)
LANE_COLOURS = {
    "driving": (92, 96, 104),
    "biking": (196, 92, 60),
    "parking": (110, 150, 205),
    "shoulder": (172, 168, 150),
    "sidewalk": (205, 203, 198),
}
JUNCTION_COLOUR = (136, 120, 150)
BRIDGE_COLOUR = (58, 62, 70)
BRIDGE_M = 4.0
LIGHT_COLOUR, STOP_COLOUR = (20, 170, 60), (215, 30, 40)
LINE_COLOUR = (240, 225, 130)
FONT_PX = 13


ToPixels = Callable[[np.ndarray], list[tuple[float, ...]]]
"""From points (n, 2 or more) in metres to points in the picture."""


@dataclass(frozen=True)
class PictureConfig:
    """What to draw and where to."""

    out: Path
    """The PNG file to write."""
    town: tuple[str, ...] = field(default=())
    """Towns to draw instead of all training towns."""
    town_dir: Path | None = None
    """Folder of .xodr files for towns that are not our own."""


@dataclass(frozen=True)
class TownFacts:
    """What a town's caption says."""

    lane_km: float
    junctions: int
    lights: int
    stop_signs: int


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=FONT_PX * OVERSAMPLING)


def draw_towns(config: PictureConfig) -> None:
    """Write the picture.

    Raises: TownError for an unknown town or a file that cannot be written.
    """
    names = config.town or training_towns()
    towns = [load_town(name, config.town_dir) for name in names]
    alone = len(towns) == 1
    columns = min(COLUMNS, len(towns))
    cell_px = ALONE_PX if alone else CELL_PX
    rows = math.ceil(len(towns) / columns)
    size = (columns * cell_px, rows * (cell_px + CAPTION_PX) + LEGEND_PX)
    sheet = Image.new("RGB", size, BACKGROUND)
    for index, town in enumerate(towns):
        cell = _draw_cell(town, cell_px)
        sheet.paste(cell, (index % columns * cell_px, index // columns * (cell_px + CAPTION_PX)))
    sheet.paste(_legend(size[0]), (0, size[1] - LEGEND_PX))
    try:
        sheet.quantize(PALETTE_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            config.out, optimize=True
        )
    except (OSError, ValueError) as error:
        raise TownError(f"{config.out}: the picture cannot be written ({error}); give --out FILE.png") from error


def measure(town: Town, sections: Sequence[Section]) -> TownFacts:
    """The figures of a town's caption."""
    lane_m = 0.0
    for section in sections:
        for k, kind in enumerate(section.lane_types):
            if kind == "driving" and not section.in_junction:
                middle = (section.boundaries[k] + section.boundaries[k + 1]) / 2.0
                lane_m += float(np.linalg.norm(np.diff(middle, axis=0), axis=1).sum())
    junctions = {section.junction_id for section in sections if section.in_junction}
    return TownFacts(lane_m / 1e3, len(junctions), len(town.lights), len(town.stop_signs))


def _draw_cell(town: Town, cell_px: int) -> Image.Image:
    """A town with its name and figures below."""
    sections = sample_sections(carla.Map(town.name, town.opendrive), ET.fromstring(town.opendrive))
    side = cell_px * OVERSAMPLING
    cell = Image.new("RGB", (side, side + CAPTION_PX * OVERSAMPLING), BACKGROUND)
    canvas = ImageDraw.Draw(cell)
    points = np.concatenate([section.boundaries.reshape(-1, 3)[:, :2] for section in sections])
    low, high = points.min(axis=0), points.max(axis=0)
    px_per_m = side * (1.0 - 2.0 * MARGIN) / float((high - low).max())
    shift = np.array([side, side]) / 2.0 - (low + high) / 2.0 * px_per_m

    def to_px(xy: np.ndarray) -> list[tuple[float, ...]]:
        return [tuple(point) for point in (xy[..., :2] * px_per_m + shift).tolist()]

    ground_m = float(np.median(np.concatenate([section.boundaries[..., 2].ravel() for section in sections])))
    for section in sorted(sections, key=lambda section: (section.boundaries[..., 2].max(), not section.in_junction)):
        _draw_section(canvas, section, ground_m, to_px, px_per_m)
    for sign, colour in [
        *((light, LIGHT_COLOUR) for light in town.lights),
        *((s, STOP_COLOUR) for s in town.stop_signs),
    ]:
        ((x, y),) = to_px(np.array([sign.transform[:2]]))
        radius = max(1.6 * px_per_m, 1.7 * OVERSAMPLING)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    facts = measure(town, sections)
    text = (
        f"{town.name}  {facts.lane_km:.1f} lane km, {facts.junctions} junctions\n"
        f"{facts.lights} lights, {facts.stop_signs} stop signs, {high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} m"
    )
    canvas.multiline_text((side / 2, side), text, INK, _font(), anchor="ma", align="center")
    return cell.resize((cell_px, cell_px + CAPTION_PX), Image.Resampling.LANCZOS)


def _draw_section(
    canvas: ImageDraw.ImageDraw, section: Section, ground_m: float, to_px: ToPixels, px_per_m: float
) -> None:
    """Lanes as filled strips, lane lines where there is room for them."""
    bridge = float(section.boundaries[..., 2].min()) - ground_m > BRIDGE_M
    for k, kind in enumerate(section.lane_types):
        colour = LANE_COLOURS.get(kind)
        if kind == "driving" and section.in_junction:
            colour = JUNCTION_COLOUR
        elif kind == "driving" and bridge:
            colour = BRIDGE_COLOUR
        if colour is not None:
            a, b = section.boundaries[k], section.boundaries[k + 1]
            canvas.polygon(to_px(np.concatenate([a, b[::-1]])), fill=colour)
    if section.in_junction:
        return
    for line, marks in zip(section.boundaries, section.marks, strict=True):
        if any(mark.yellow for mark in marks):
            canvas.line(to_px(line), fill=LINE_COLOUR, width=max(1, round(0.35 * px_per_m)))


def _legend(width_px: int) -> Image.Image:
    legend = Image.new("RGB", (width_px * OVERSAMPLING, LEGEND_PX * OVERSAMPLING), BACKGROUND)
    canvas = ImageDraw.Draw(legend)
    entries = [
        *LANE_COLOURS.items(), ("junction", JUNCTION_COLOUR), ("bridge", BRIDGE_COLOUR), ("light", LIGHT_COLOUR),
        ("stop sign", STOP_COLOUR),
    ]  # fmt: skip
    x, middle, side = 10 * OVERSAMPLING, LEGEND_PX * OVERSAMPLING / 2, 7 * OVERSAMPLING
    for name, colour in entries:
        canvas.rectangle((x, middle - side, x + 2 * side, middle + side), fill=colour)
        canvas.text((x + 3 * side, middle), name, INK, _font(), anchor="lm")
        x += 3 * side + canvas.textlength(name, _font()) + 2 * side
    return legend.resize((width_px, LEGEND_PX), Image.Resampling.LANCZOS)
