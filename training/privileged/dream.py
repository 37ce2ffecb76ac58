"""A picture of the world model's imagination: what really came beside what was imagined from the same actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt64
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from agent.model.rssm import LatentState
from eval.routes import Route, read_routes
from training import bev
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.privileged.checkpoint import PrivilegedModel, load_model

BACKGROUND, TEXT = (15, 20, 27), (230, 236, 243)
TILE_PX = 192
"""Side of one picture of the masks."""
LABEL_PX = 22
FONT_PX = 14
SHOWN_STEPS = (0, 1, 3, 5, 8, 11, 15)
"""Imagined steps that are drawn; 0 is the last one seen."""

TABLE_STEPS = (0, 5, 15)
TABLE_CHANNELS = {
    "road": [bev.ROAD],
    "route": [bev.ROUTE],
    "ego": [bev.EGO],
    "lane lines": [bev.YELLOW_LINE, bev.WHITE_LINE],
    "vehicles": [bev.VEHICLE],
    "walkers and bicycles": [bev.WALKER, bev.BICYCLE],
    "obstacles": [bev.OBSTACLE],
    "stop lines": [bev.GREEN, bev.YELLOW, bev.RED, bev.STOP_SIGN],
}
"""Rows of the table; of what moves, where it is now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamConfig:
    """What is imagined."""

    model: Path
    """Folder with the checkpoint of world model and policy (`model` in a run)."""
    routes: Path
    """Route file; the first routes are driven, one row of pictures each."""
    out: Path = Path("runs/dream.png")
    rows: int = 4
    seen: int = 40
    """Decisions that are seen before imagination begins."""
    imagined: int = 15
    town_dir: Path | None = None
    traffic: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rows, self.seen, self.imagined) < 1:
            raise ValueError(f"rows, seen and imagined must be at least 1, got {self.rows, self.seen, self.imagined}")


@dataclass(frozen=True, slots=True)
class Dream:
    """One stretch of driving, seen and imagined; step 0 is the last one seen."""

    title: str
    real: UInt64[np.ndarray, "k h w"]
    imagined: Float[Tensor, "k channels h w"]
    """Probability of each mask."""

    def overlap(self, channels: list[int], threshold: float = 0.5) -> Float[np.ndarray, " k"]:
        """Intersection over union of real and imagined masks of the channels, by step; NaN where neither has any."""
        real = bev.unpack(self.real, channels).swapaxes(0, 1) > 0
        thought = self.imagined[:, channels].numpy() > threshold
        both, either = (real & thought).sum((1, 2, 3)), (real | thought).sum((1, 2, 3))
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def draw(config: DreamConfig) -> str:
    """Drive, imagine and write the picture; gives its path and the overlaps as a table.

    Raises: CheckpointError, RouteFileError, ServerError, ValueError.
    """
    model = load_model(config.model)
    routes = read_routes(config.routes)[: config.rows]
    gaps = model.config.world_model.observation.gaps > 0
    env = DrivingEnv(EnvConfig(traffic=config.traffic, town_dir=config.town_dir, gaps=gaps), routes)
    try:
        dreams = [_dream(env, route, model, config) for route in routes]
    finally:
        env.close()
    config.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(dreams).save(config.out)
    return f"{overlaps(dreams)}\n{config.out}"


def overlaps(dreams: list[Dream]) -> str:
    """Markdown table: intersection over union of what came and was imagined, mean over the dreams that have any."""
    steps = [step for step in TABLE_STEPS if any(step < len(dream.real) for dream in dreams)]
    lines = [f"| IoU, {len(dreams)} dreams | " + " | ".join(f"step {step}" for step in steps) + " |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for name, channels in TABLE_CHANNELS.items():
        shared = [dream.overlap(channels) for dream in dreams]
        cells = []
        for step in steps:
            values = [float(one[step]) for one in shared if step < len(one) and not np.isnan(one[step])]
            cells.append(f"{np.mean(values):.2f}" if values else "none there")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _dream(env: DrivingEnv, route: Route, model: PrivilegedModel, config: DreamConfig) -> Dream:
    """Drive on, then compare what came with what the model expected of the same actions."""
    driver = model.driver(config.seed)
    observation, info = env.reset(seed=config.seed, options={"route": route.id})
    frames, states, actions = [observation["words"]], [], []
    for _ in range(config.seen + config.imagined):
        actions.append(driver.act(observation))
        states.append(driver.state)
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        frames.append(observation["words"])
        if terminated or truncated:
            break
    seen = max(len(actions) - config.imagined, 0)
    size_px = model.config.world_model.observation.size_px
    return Dream(
        title=f"{info['town']}, {info['kind']}, {seen / 10.0:.1f} s after the start",
        real=bev.pool(np.stack(frames[seen:]), bev.SIZE_PX // size_px),
        imagined=imagine(model, states[seen], actions[seen:]),
    )


@torch.no_grad()
def imagine(model: PrivilegedModel, state: LatentState, actions: list[int]) -> Float[Tensor, "k channels h w"]:
    """Mask probabilities of a state (batch of one) and of the likeliest states behind each of the actions."""
    world = model.world_model
    features = [state.features()]
    for action in actions:
        state = world.rssm.imagine_step(state, world.one_hot(torch.tensor([action])), mode=True)
        features.append(state.features())
    return world.decoder.probabilities(torch.cat(features))


def as_words(masks: Float[Tensor, "*batch channels h w"], threshold: float = 0.5) -> UInt64[np.ndarray, "*batch h w"]:
    """Words of the masks that are likelier than the threshold."""
    bits = (masks > threshold).movedim(-3, 0).numpy().astype(np.uint64)
    return np.bitwise_or.reduce([plane << np.uint64(channel) for channel, plane in enumerate(bits)])


def sheet(dreams: list[Dream]) -> Image.Image:
    """Two rows of pictures per dream: what came, and below it what was imagined, with the overlap of the vehicles."""
    width = len(SHOWN_STEPS) * (TILE_PX + 4) + 90
    height = len(dreams) * (2 * TILE_PX + 2 * LABEL_PX + 12)
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for row, dream in enumerate(dreams):
        top = row * (2 * TILE_PX + 2 * LABEL_PX + 12)
        thought = as_words(dream.imagined)
        vehicles = dream.overlap([bev.VEHICLE])
        pen.text((4, top + 2), dream.title, fill=TEXT, font=font)
        pen.text((4, top + LABEL_PX + TILE_PX // 2), "came", fill=TEXT, font=font)
        pen.text((4, top + LABEL_PX + TILE_PX + TILE_PX // 2), "imagined", fill=TEXT, font=font)
        for column, step in enumerate(step for step in SHOWN_STEPS if step < len(dream.real)):
            x, y = 86 + column * (TILE_PX + 4), top + LABEL_PX
            image.paste(_tile(dream.real[step]), (x, y))
            image.paste(_tile(thought[step]), (x, y + TILE_PX + 2))
            shared = "" if np.isnan(vehicles[step]) else f", vehicles IoU {vehicles[step]:.2f}"
            text = f"step {step}, {step / 10.0:.1f} s{shared}"
            pen.text((x, y + 2 * TILE_PX + 4), text, fill=TEXT, font=font)
    return image


def _tile(words: UInt64[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(bev.picture(words)).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
