"""A small teacher, its raw stream and random windows with sensors, shared by the tests of the raw stage."""

from __future__ import annotations

from dataclasses import replace

import torch

from agent.ego_vector import MANOEUVRE_SIZE
from agent.ego_vector import VECTOR_SIZE as EGO_SIZE
from agent.model.driving_model import ModelInput
from agent.model.image_encoder import EncoderConfig
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from tests.training.privileged import debug_config, random_batch
from training.policy.actor_critic import ActorCritic
from training.privileged.checkpoint import PrivilegedModel
from training.raw.config import RawConfig, raw_config
from training.world_model.model import Replayed, WorldModel

ENCODER = EncoderConfig(
    backbone_depth=18,
    backbone_width=4,
    backbone_stages=(3, 4),
    image_height=32,
    image_width=64,
    bev_rows=8,
    bev_columns=8,
    bev_range_m=(-16.0, -8.0, -0.5, 16.0, 40.0, 3.5),
    pillar_points=2,
    embed_dims=16,
    heads=2,
    layers=1,
    temporal_points=2,
    spatial_points=2,
    ffn_dims=16,
)


def teacher(gaps: int = 0, seed: int = 1) -> PrivilegedModel:
    """A privileged model of the debug size with random weights, heads and actor that tell something included."""
    config = debug_config("paper", vector=EGO_SIZE + gaps)
    world_model = config.world_model
    observation = replace(world_model.observation, gaps=gaps)
    config = replace(config, world_model=replace(world_model, observation=observation))
    weights = torch.Generator().manual_seed(seed)
    world, policy = WorldModel(config.world_model, weights), ActorCritic(config.policy, config.world_model, weights)
    with torch.no_grad():
        for net in (world.reward_head, policy.critic):
            last = net[-1].weight
            last.copy_(0.1 * torch.randn(last.shape, generator=weights))
    return PrivilegedModel(config, world.eval(), policy.eval())


def config_for(model: PrivilegedModel, **options: object) -> RawConfig:
    """The raw stage under it, with a few small cameras and short windows."""
    config = raw_config(model.config, encoder=ENCODER, **options)  # pyright: ignore[reportArgumentType]
    return replace(config, batch=2, steps=6)


def batch_for(config: RawConfig, windows: int = 2, steps: int = 6, seed: int = 0) -> Replayed:
    """Random windows with sensors; the teacher's vector holds sensible numbers only by chance."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(config, windows, steps, seed)
    shape = (windows, steps)
    images = (*shape, 6, 3, config.model.encoder.image_height, config.model.encoder.image_width)
    motion = torch.tensor([0.5, 0.0, 0.02]).expand(*shape, 3)
    sensors = ModelInput(
        images=torch.randint(0, 255, images, generator=generator, dtype=torch.uint8),
        camera_valid=torch.ones(*shape, 6, dtype=torch.bool),
        ego_motion=motion.clone(),
        route=20.0 * torch.randn(*shape, ROUTE_POINTS, 2, generator=generator),
        vector=torch.rand(*shape, VECTOR_SIZE + MANOEUVRE_SIZE, generator=generator),
        first=batch.first,
    )
    return replace(batch, sensors=sensors)
