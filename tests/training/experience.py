"""Replay folders shared by the tests of the replay: every transition says in its words and its reward which it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.training.privileged import debug_config
from training.experience.config import ReplayConfig
from training.experience.writer import ExperienceWriter, Transition
from training.presets import PrivilegedConfig, Recipe

STREAM_OFFSET = 1000
STILL = ReplayConfig(refresh_s=0.0, segment_steps=8)
"""New segments are seen when asked for."""


def transition(stream: int, step: int, episode: int = 20, *, terminal: bool = True) -> Transition:
    """Step of a stream of episodes of equal length; its number is in the reward and in the lowest bits of a corner."""
    words = np.zeros((128, 128), np.uint64)
    words[:64, :64] = np.uint64(step % 7)
    words[0, 0] = np.uint64(stream * STREAM_OFFSET + step)
    last = step % episode == episode - 1
    return Transition(
        words=words,
        previous_action=step % 39,
        reward=float(stream * STREAM_OFFSET + step),
        first=step % episode == 0,
        last=last,
        terminal=last and terminal,
    )


def fill(folder: Path, steps: int, *streams: int, segment_steps: int = 8, episode: int = 20) -> None:
    """Write whole streams."""
    for stream in streams:
        with ExperienceWriter(folder, stream=f"s{stream}", segment_steps=segment_steps) as writer:
            for step in range(steps):
                writer.add(transition(stream, step, episode))


def settings(recipe: Recipe = "paper", **replay: object) -> PrivilegedConfig:
    """The debug size with windows of 6 steps, 4 in a batch."""
    config = debug_config(recipe)
    both = {"online": config.replay.online, "carry_over": config.replay.carry_over, **replay}
    return replace(config, batch=4, steps=6, replay=replace(STILL, **both))  # pyright: ignore[reportArgumentType]
