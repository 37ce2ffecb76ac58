"""Denoising diffusion with a network that predicts the clean sample, and its deterministic sampler DDIM.

x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps. Sources: Ho et al. 2020 (DDPM), Nichol and Dhariwal 2021 (cosine
schedule), Song et al. 2021 (DDIM, eta = 0).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.008
"""Of the cosine schedule, so that the first steps are not too small."""
LEAST_ALPHA_BAR = 1e-4
"""The last step keeps so much of the signal's variance, so that nothing is divided by 0."""


def cosine_alpha_bar(steps: int) -> Float[Tensor, " steps+1"]:
    """abar_0 = 1 (clean) to abar_steps (noise)."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + OFFSET) / (1.0 + OFFSET) * (math.pi / 2.0)
    value = angle.cos().square()
    return (value / value[0]).clamp(LEAST_ALPHA_BAR, 1.0).float()


def noised(
    clean: Float[Tensor, "b t c"], noise: Float[Tensor, "b t c"], alpha_bar: Float[Tensor, " b"]
) -> Float[Tensor, "b t c"]:
    """x_k of samples at their noise levels."""
    level = alpha_bar.reshape(-1, *[1] * (clean.dim() - 1))
    return level.sqrt() * clean + (1.0 - level).sqrt() * noise


def ddim_step(
    x: Float[Tensor, "*shape"], clean: Float[Tensor, "*shape"], now: float, after: float
) -> Float[Tensor, "*shape"]:
    """From noise level abar = now to `after`, with the clean sample that is predicted from x."""
    noise = (x - math.sqrt(now) * clean) / math.sqrt(1.0 - now)
    return math.sqrt(after) * clean + math.sqrt(1.0 - after) * noise


def sampling_levels(steps: int, train_steps: int) -> list[int]:
    """Noise levels that a sampler of so many steps visits: from train_steps down to 0.

    Raises: ValueError when there are more steps than levels.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"a sampler takes 1 to {train_steps} steps, got {steps}")
    return [round(train_steps * (steps - k) / steps) for k in range(steps + 1)]


def ddim(
    predict: Callable[[Tensor, int], Tensor],
    noise: Float[Tensor, "*shape"],
    alpha_bar: Float[Tensor, " levels"],
    steps: int,
) -> Float[Tensor, "*shape"]:
    """Samples from noise. predict: the clean sample from x and the index of its noise level."""
    x = noise
    table = alpha_bar.tolist()
    for now, after in itertools.pairwise(sampling_levels(steps, len(table) - 1)):
        x = ddim_step(x, predict(x, now), table[now], table[after])
    return x
