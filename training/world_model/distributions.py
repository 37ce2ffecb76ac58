"""Symlog, two-hot regression and the squared or Bernoulli likelihood of masks, as DreamerV3 uses them."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.rssm import full_precision

BINS = 255
"""Bins of every two-hot distribution. Source: Hafner et al. 2023, section "Critic learning"."""
BIN_RANGE = 20.0
"""The bins span symexp(-20) .. symexp(20)."""

TwoHotSpace = Literal["symlog", "raw"]


def symlog(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x) ln(1 + |x|). Source: Hafner et al. 2023, equation 1."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Inverse of symlog: sign(x) (exp|x| - 1)."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Distribution over 255 bins that regresses a real number by classification.

    space "symlog" (2023): equidistant bins, two-hot of symlog(y), prediction symexp of the mean.
    space "raw" (2025): bins at symexp of equidistant points, two-hot of y by distance in raw space, prediction the
    mean, which is unbiased; it is summed from symmetric pairs so that uniform probabilities give exactly 0.
    """

    bins: Tensor

    def __init__(self, space: TwoHotSpace) -> None:
        super().__init__()
        self.space = space
        half = torch.linspace(-BIN_RANGE, 0.0, BINS // 2 + 1)
        if space == "raw":
            half = symexp(half)
        self.register_buffer("bins", torch.cat([half, -half[:-1].flip(0)]), persistent=False)

    def weights(self, target: Float[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
        """Index of the bin below the target and the share of the bin above it; both (*batch)."""
        y = symlog(target) if self.space == "symlog" else target
        y = y.clamp(self.bins[0], self.bins[-1])
        below = (torch.searchsorted(self.bins, y.contiguous(), right=True) - 1).clamp(0, BINS - 2)
        low, high = self.bins[below], self.bins[below + 1]
        return below, (y - low) / (high - low)

    def encode(self, target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch bins"]:
        """Two-hot probabilities of the target."""
        below, share = self.weights(target)
        pair = torch.stack([below, below + 1], -1)
        probabilities = torch.zeros(*target.shape, BINS, device=target.device, dtype=share.dtype)
        return probabilities.scatter(-1, pair, torch.stack([1.0 - share, share], -1))

    def decode(self, probabilities: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
        """Expected value of the distribution, in raw space."""
        if self.space == "symlog":
            return symexp((probabilities * self.bins).sum(-1))
        weighted = probabilities * self.bins
        middle = BINS // 2
        pairs = weighted[..., :middle] + weighted[..., middle + 1 :].flip(-1)
        return pairs.sum(-1) + weighted[..., middle]

    def mean(self, logits: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
        """Prediction from logits, in raw space."""
        return self.decode(full_precision(logits).softmax(-1))

    def loss(self, logits: Float[Tensor, "*batch bins"], target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """-sum target log softmax(logits) in nats; only two of the log-probabilities are needed."""
        logits = full_precision(logits)
        below, share = self.weights(target.detach())
        picked = logits.gather(-1, torch.stack([below, below + 1], -1))
        return logits.logsumexp(-1) - picked[..., 0] * (1.0 - share) - picked[..., 1] * share


def binary_loss(logits: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """-ln Bernoulli(target) in nats; the target may lie between 0 and 1."""
    logits = full_precision(logits)
    return F.softplus(logits) - target * logits


class SquaredMaskLoss(torch.autograd.Function):
    """Sum over pixels and channels of weight (output - target)^2, per frame; the gradient reuses the difference."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """output, target: (n, ...); weight broadcasts against them. Gives (n,)."""
        difference = output - target
        weighted = difference if weight is None else difference * weight
        ctx.save_for_backward(weighted)
        return torch.bmm(difference.flatten(1)[:, None], weighted.flatten(1)[:, :, None]).flatten()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        """2 weight (output - target) per unit of the frame's gradient."""
        (weighted,) = ctx.saved_tensors
        return weighted * (2.0 * grad[0]).reshape(-1, *[1] * (weighted.ndim - 1)), None, None


class BernoulliMaskLoss(torch.autograd.Function):
    """Sum over pixels and channels of -weight ln Bernoulli(target), per frame, from logits.

    The loss is softplus(logit) - target logit and its gradient sigmoid(logit) - target.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """logits, target: (n, ...); weight broadcasts against them. Gives (n,)."""
        loss = F.softplus(logits).addcmul_(target, logits, value=-1.0)
        gradient = torch.sigmoid(logits).sub_(target)
        if weight is not None:
            loss, gradient = loss.mul_(weight), gradient.mul_(weight)
        ctx.save_for_backward(gradient)
        return loss.flatten(1).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        """weight (sigmoid(logit) - target) per unit of the frame's gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad[0].reshape(-1, *[1] * (gradient.ndim - 1)), None, None
