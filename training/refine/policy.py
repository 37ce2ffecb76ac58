"""Group-relative policy optimisation on dreamt rollouts, and how far the policy is from its base.

A_k = (R_k - mean) / (std + eps) with the mean within the K rollouts of a state; the loss is
-mean min(r A, clip(r) A) + beta KL, with r the ratio of the policy's probability to that at the time of the rollout.
Source: Shao et al. 2024 (GRPO), with the std within a state; that over all states is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-4
Scale = Literal["group", "batch"]


def advantages(scores: Float[Tensor, "b k"], scale: Scale = "group") -> Float[Tensor, "b k"]:
    """Scores relative to the mean of their group; exactly 0 in a group whose scores are all the same.

    scale: what they are divided by, the spread within their group or that of all groups together.
    """
    centred = scores - scores.mean(-1, keepdim=True)
    spread = scores.amax(-1, keepdim=True) - scores.amin(-1, keepdim=True)
    within = centred.square().mean(-1, keepdim=True)
    found = centred / ((within if scale == "group" else within.mean()).sqrt() + EPSILON)
    return torch.where(spread > 0.0, found, torch.zeros_like(found))


def surrogate(
    log_probs: Float[Tensor, "h n"],
    before: Float[Tensor, "h n"],
    advantage: Float[Tensor, " n"],
    clip: float,
) -> Float[Tensor, ""]:
    """Loss of the clipped ratio; log_probs and before: of the actions taken, now and at the time of the rollout."""
    ratio = (log_probs - before).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


def divergence(log_policy: Float[Tensor, "*b actions"], log_base: Float[Tensor, "*b actions"]) -> Float[Tensor, "*b"]:
    """KL(policy || base) over all actions, as sum p (ln p - ln q) - p + q.

    The last two sum up to 0; with them value and gradient of a policy equal to its base are exactly 0 term by term.
    """
    policy, base = log_policy.exp(), log_base.exp()
    return (policy * (log_policy - log_base) - policy + base).sum(-1)
