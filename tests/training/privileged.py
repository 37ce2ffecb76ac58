"""Small batches and configurations shared by the tests of world model and policy."""

from dataclasses import replace

import torch

from training.presets import PrivilegedConfig, Recipe, preset
from training.world_model.config import VisionKind
from training.world_model.model import Replayed


def debug_config(recipe: Recipe, kind: VisionKind | None = None, vector: int = 0) -> PrivilegedConfig:
    """The debug size, optionally with another mask encoder (its pooled layers shortened to fit) and an ego vector."""
    config = preset(recipe, "debug")
    world = config.world_model
    if kind is not None:
        world = replace(world, vision=replace(world.vision, kind=kind, multipliers=(2, 3)))
    world = replace(world, observation=replace(world.observation, vector=vector))
    return replace(config, world_model=world)


def random_batch(config: PrivilegedConfig, windows: int, steps: int, seed: int = 0) -> Replayed:
    """Sparse random masks and random everything else; one episode ends inside each window."""
    generator = torch.Generator().manual_seed(seed)
    observation = config.world_model.observation
    shape = (windows, steps, observation.size_px, observation.size_px)
    words = torch.zeros(shape, dtype=torch.int64)
    for channel in range(0, observation.channels, 7):
        words |= (torch.rand(shape, generator=generator) < 0.1).long() << channel
    flag = torch.zeros(windows, steps, dtype=torch.bool)
    first, last, terminal = flag.clone(), flag.clone(), flag.clone()
    last[:, steps // 2] = terminal[0, steps // 2] = True
    first[:, steps // 2 + 1] = True
    return Replayed(
        words=words,
        vector=torch.randn(windows, steps, observation.vector, generator=generator) if observation.vector else None,
        previous_action=torch.randint(0, config.world_model.rssm.actions, (windows, steps), generator=generator),
        reward=torch.randn(windows, steps, generator=generator),
        first=first,
        last=last,
        terminal=terminal,
    )
