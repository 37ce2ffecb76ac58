"""Guidance of the raw world model by the privileged one: the terms of L_Rollout, each by itself.

Everything is a mean over windows and steps. In the paper all losses are sums over the steps; with a mean in all of them
their balance is the same. Source: Raw2Drive, section 3.3 and equation 1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.model.rssm import categorical_kl


def cell_errors(
    embed: Float[Tensor, "b t e"], target: Float[Tensor, "b t e"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b t cells"], Float[Tensor, "b t 1"] | None]:
    """Mean squared error over the channels of every cell of the map, and over the ego vector's part, which is one cell.

    size: cells and channels of the map, which comes first; the rest is the vector's part, None if there is no rest.
    """
    cells, channels = size
    squared = (embed - target.detach()).square()
    rest = squared[..., cells * channels :]
    parts = squared[..., : cells * channels].unflatten(-1, (cells, channels)).mean(-1)
    return parts, rest.mean(-1, keepdim=True) if rest.shape[-1] else None


def embed_alignment(
    embed: Float[Tensor, "b t e"],
    target: Float[Tensor, "b t e"],
    size: tuple[int, int],
    *,
    spatial: bool,
    temporal: bool,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Spatial-temporal alignment of e_t: losses of the map (summed over its cells) and of the ego vector's part.

    size: cells and channels of the map. Table 8's switches are read as `GuidanceConfig` says. With `spatial` alone only
    the first step counts; its error stands for the whole window.
    """
    cells, channels = size
    none = embed.new_zeros(())
    if not spatial and not temporal:
        return none, none
    if not temporal:
        embed, target = embed[:, :1], target[:, :1]
    if spatial:
        errors, rest = cell_errors(embed, target, size)
        return errors.sum(-1).mean(), none if rest is None else rest.mean()
    grid = [value[..., : cells * channels].unflatten(-1, (cells, channels)).mean(-2) for value in (embed, target)]
    mean = (grid[0] - grid[1].detach()).square().mean()
    _, rest = cell_errors(embed, target, size)
    return mean, none if rest is None else rest.mean()


def stoch_alignment(
    posterior: Float[Tensor, "b t groups classes"], target: Float[Tensor, "b t groups classes"]
) -> Float[Tensor, ""]:
    """KL(sg q || q^) of log-probabilities, summed over the variables: the raw stream imitates the privileged one."""
    return categorical_kl(target.detach(), posterior).mean()


def deter_alignment(deter: Float[Tensor, "b t h"], target: Float[Tensor, "b t h"]) -> Float[Tensor, ""]:
    """Mean squared error of h^ to sg h."""
    return (deter - target.detach()).square().mean()


def distillation(log_policy: Float[Tensor, "*b actions"], target: Float[Tensor, "*b actions"]) -> Float[Tensor, " *b"]:
    """KL(sg pi || pi^) of the actions' log-probabilities."""
    target = target.detach()
    return (target.exp() * (target - log_policy)).sum(-1)
