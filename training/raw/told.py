"""Cross entropy of told masks on packed words: on a CPU with its gradient in one pass, picture by picture.

The logits are by far the largest tensors of an update. Taken one picture at a time they stay in the processor's cache,
and bits that are set, which are few, never become floats.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable


def mask_cross_entropy(
    logits: Float[Tensor, "n channels h w"], words: Int64[Tensor, "n h w"], weights: Float[Tensor, " channels"]
) -> Float[Tensor, ""]:
    """Sum over all pixels and channels of -weight ln Bernoulli(bit of the word)."""
    if logits.device.type != "cpu":
        return _plain(logits, words, weights)
    result = _CrossEntropy.apply(logits, words, weights)
    assert isinstance(result, Tensor)
    return result


def _plain(logits: Tensor, words: Tensor, weights: Tensor) -> Tensor:
    """By tensor operations."""
    bits = torch.arange(logits.shape[1], device=words.device)
    masks = (words[:, None] >> bits[:, None, None]) & 1
    loss = F.binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="none")
    return (loss.sum((2, 3)) * weights).sum()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, words: Tensor, weights: Tensor) -> Tensor:
        logits, weights = logits.detach().contiguous(), weights.float()
        gradient = torch.empty_like(logits)
        chance, logs = (torch.empty(logits.shape[1:]) for _ in range(2))
        total = 0.0
        for half, own, word in zip(logits, gradient, words.contiguous(), strict=True):
            picture = half.float()
            torch.sigmoid(picture, out=chance)
            # softplus(x) = x - ln sigmoid(x); far below 0, where the sigmoid is 0, it is 0 too.
            torch.log(chance.clamp_(min=torch.finfo(chance.dtype).tiny), out=logs)
            torch.sub(picture, logs, out=logs).clamp_(min=0.0)
            total += float(logs.sum((1, 2)) @ weights)
            chance.mul_(weights[:, None, None])
            total -= _take_set_bits(word.numpy(), picture.numpy(), weights.numpy(), chance.numpy())
            own.copy_(chance)
        ctx.save_for_backward(gradient)
        return weights.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradient.to(ctx.saved_tensors[0].dtype), None, None


@numba.njit("float64(int64[:, ::1], float32[:, :, ::1], float32[::1], float32[:, :, ::1])", cache=True, nogil=True)
def _take_set_bits(words, logits, weights, gradient):  # pragma: no cover - compiled
    """Sum of weight x logit over the set bits; their weight is subtracted from the gradient."""
    total = 0.0
    every = (np.int64(1) << np.int64(logits.shape[0])) - np.int64(1)
    for row in range(words.shape[0]):
        for column in range(words.shape[1]):
            word = words[row, column] & every
            channel = 0
            while word:
                if word & 1:
                    total += weights[channel] * logits[channel, row, column]
                    gradient[channel, row, column] -= weights[channel]
                word >>= 1
                channel += 1
    return total
