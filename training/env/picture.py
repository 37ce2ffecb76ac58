"""A picture of the privileged observation: all masks together, and each of the 43 channels by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eval.routes import Route
from eval.scenarios.generate import Town, scenario_routes
from eval.scenarios.registry import SCENARIOS
from training import bev
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.env.servers import Servers
from training.expert import ExpertConfig, ExpertDriver

BACKGROUND = (15, 20, 27)
TEXT = (230, 236, 243)
EMPTY = (24, 31, 41)
SET = (86, 180, 233)
MARGIN_PX = 16
LARGE = 5
"""Pixels per pixel of the picture of all masks."""
LINE_PX = 24
ROW_PX = 18
"""Height of a channel's name above its mask."""
COLUMNS = 8
"""The static channels fill a row but for one place, two dynamic ones with their slices each further row."""
COLUMN_PX = 172
FONT_PX = 15
SMALL_FONT_PX = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureConfig:
    """What is drawn: the decision of a scenario's first seconds in which the most channels show something."""

    out: Path = Path("docs/bev.png")
    town: str = "Gen03"
    kind: str = "ConstructionObstacle"
    """Scenario type of the route."""
    seed: int = 0
    traffic: int = 40
    seconds: float = 60.0
    """Game time to drive at most."""


def draw(config: PictureConfig) -> Path:
    """Drive and write the picture. Raises: ValueError for a scenario type without a place in the town."""
    if config.kind not in SCENARIOS:
        raise ValueError(f"--kind {config.kind} is not known; known are {', '.join(sorted(SCENARIOS))}")
    words = richest_words(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(words).save(config.out)
    return config.out


def richest_words(config: PictureConfig) -> np.ndarray:
    """Words (128, 128) of the decision with the most channels in use, driven by the expert."""
    env = DrivingEnv(EnvConfig(traffic=config.traffic), [_route(config)])
    driver = ExpertDriver(ExpertConfig())
    try:
        observation, _ = env.reset(seed=config.seed)
        best, most = observation["words"], 0
        for _ in range(round(10.0 * config.seconds)):
            assert env.drive is not None
            action = driver.decide(env.drive.view.scene()).action
            observation, _, terminated, truncated, _ = env.step(action)
            used = int(np.bitwise_or.reduce(observation["words"].ravel())).bit_count()
            if used > most:
                best, most = observation["words"], used
            if terminated or truncated:
                break
    finally:
        env.close()
    return best


def sheet(words: np.ndarray) -> Image.Image:
    """All masks together with their colours on the left, every channel by itself on the right."""
    cell = bev.SIZE_PX
    rows = -(-(bev.CHANNELS + 1) // COLUMNS)
    left_px = LARGE * cell + 2 * MARGIN_PX
    width = left_px + COLUMNS * COLUMN_PX
    height = max(2 * MARGIN_PX + rows * (cell + ROW_PX + MARGIN_PX), LARGE * cell + 2 * MARGIN_PX + 7 * LINE_PX)
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    image.paste(_enlarged(bev.picture(words)), (MARGIN_PX, MARGIN_PX))
    _legend(pen, LARGE * cell + 2 * MARGIN_PX)
    small = ImageFont.load_default(SMALL_FONT_PX)
    for channel, name in enumerate(bev.CHANNEL_NAMES):
        row, column = divmod(channel if channel < bev.VEHICLE else channel + 1, COLUMNS)
        x = left_px + column * COLUMN_PX
        y = MARGIN_PX + row * (cell + ROW_PX + MARGIN_PX)
        pen.text((x, y), f"{channel} {name}", fill=TEXT, font=small)
        mask = bev.unpack(words, [channel])[0]
        colours = np.array([EMPTY, SET], np.uint8)
        image.paste(Image.fromarray(colours[mask]), (x, y + ROW_PX))
    return image


def _enlarged(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture.repeat(LARGE, 0).repeat(LARGE, 1))


def _legend(pen: ImageDraw.ImageDraw, top_px: int) -> None:
    font = ImageFont.load_default(FONT_PX)
    now = [(channel, colour) for channel, colour in bev.PALETTE if not bev.CHANNEL_NAMES[channel].endswith("5 s ago")]
    for k, (channel, colour) in enumerate(now):
        column, row = divmod(k, 6)
        x, y = MARGIN_PX + column * 220, top_px + row * LINE_PX
        pen.rectangle((x, y, x + 15, y + 15), fill=colour)
        pen.text((x + 24, y - 1), bev.CHANNEL_NAMES[channel].removesuffix(", 0 s ago"), fill=TEXT, font=font)


def _route(config: PictureConfig) -> Route:
    servers = Servers(EnvConfig())
    try:
        carla_map = servers.client(config.town).get_world().get_map()
        found, _ = scenario_routes(Town.of(config.town, carla_map), {config.kind: 1}, seed=config.seed)
    finally:
        servers.stop()
    if not found:
        raise ValueError(f"--kind {config.kind}: {config.town} offers no place for it; take another town")
    return found[0]
