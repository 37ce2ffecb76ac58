"""Milliseconds of one decision of the privileged stream: its row of Raw2Drive's Table 13."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from agent.model.bench import Settings, Stopwatch, time_frames
from agent.model.rssm import LatentState
from training.bev import CHANNELS
from training.presets import PrivilegedConfig
from training.privileged.driver import PolicyDriver


def time_privileged(config: PrivilegedConfig, settings: Settings) -> dict[str, float]:
    """Medians [ms] of encoder, world model and policy as the collectors run them, on random masks and weights."""
    torch.manual_seed(0)
    world, device = config.world_model, settings.device
    driver = PolicyDriver(config).to(device)
    size_px = world.observation.size_px
    words = torch.randint(0, 2**CHANNELS, (1, size_px, size_px), dtype=torch.int64).to(device)
    vector = torch.zeros(1, world.observation.vector, device=device) if world.observation.vector else None
    state = LatentState(
        torch.zeros(1, world.rssm.deter, device=device), torch.zeros(1, world.rssm.stoch, device=device)
    )
    previous = F.one_hot(torch.zeros(1, dtype=torch.int64, device=device), world.rssm.actions).float()
    first = torch.zeros(1, dtype=torch.bool, device=device)

    def frame(watch: Stopwatch) -> None:
        with settings.precision():
            embed = driver.encoder(words, vector)
            watch.mark("encoder")
            latent, _ = driver.rssm.observe_step(state, previous, embed, first, mode=True)
            watch.mark("world model")
            driver.actor(latent.features())
            watch.mark("policy")

    return time_frames(settings, frame)
