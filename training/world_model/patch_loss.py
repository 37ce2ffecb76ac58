"""Reconstruction loss of patches of packed bits on a CPU, with its gradient, in memory that is used again and again."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from training.world_model.masks import BITS

CHUNK_CELLS = 2048
"""Cells (patches) at a time: with 4x4 pixels and 43 channels their outputs take 6 MB."""


class PatchBernoulliLoss(torch.autograd.Function):
    """Sum over all pixels and channels of -weight ln Bernoulli(bit) of a linear layer's outputs.

    The outputs are by far the largest tensors of the model. New memory for them costs more than the arithmetic where
    the system hands out pages slowly, so `Workspace` keeps it, and the gradient is computed on the way. Bits that are
    set are few: they are subtracted one by one and never become floats.
    """

    @staticmethod
    def forward(ctx: Any, workspace: Workspace, cells: Tensor, pixel_weight: Tensor, *inputs: Tensor) -> Tensor:
        """cells (n, bytes) uint8, pixel_weight (8 bytes,); inputs: hidden (n, c), weight (8 bytes, c), bias."""
        hidden, weight, bias = (tensor.detach() for tensor in inputs)
        total = hidden.new_zeros(())
        gradients = [torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)]
        for start in range(0, hidden.shape[0], CHUNK_CELLS):
            part = slice(start, start + CHUNK_CELLS)
            outputs, chance, logs = workspace.take(hidden[part].shape[0], weight.shape[0])
            torch.addmm(bias, hidden[part], weight.t(), out=outputs)
            torch.sigmoid(outputs, out=chance)
            # softplus(x) = x - ln sigmoid(x); the error of the difference is that of x itself, and not in the gradient.
            torch.log(chance.clamp_(min=torch.finfo(chance.dtype).tiny), out=logs)
            torch.sub(outputs, logs, out=logs)
            total += torch.mv(logs, pixel_weight).sum()
            gradient = chance.mul_(pixel_weight)
            total -= _take_set_bits(cells[part].numpy(), outputs.numpy(), pixel_weight.numpy(), gradient.numpy())
            torch.mm(gradient, weight, out=gradients[0][part])
            gradients[1].addmm_(gradient.t(), hidden[part])
            gradients[2] += gradient.sum(0)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients times the gradient of the sum."""
        return None, None, None, *(gradient * grad[0] for gradient in ctx.saved_tensors)


class Workspace:
    """Memory for the outputs of a chunk, kept between updates. Not for several threads at once."""

    def __init__(self) -> None:
        self._memory: dict[int, tuple[Tensor, ...]] = {}

    def take(self, cells: int, values: int) -> tuple[Tensor, ...]:
        """Three float32 tensors (cells, values) with anything in them."""
        if values not in self._memory:
            self._memory[values] = tuple(torch.empty(CHUNK_CELLS, values) for _ in range(3))
        return tuple(tensor[:cells] for tensor in self._memory[values])


@numba.njit("float64(uint8[:, ::1], float32[:, ::1], float32[::1], float32[:, ::1])", cache=True, nogil=True)
def _take_set_bits(cells, outputs, pixel_weight, gradient):  # pragma: no cover - compiled
    """Sum of weight x output over the set bits; their weight is subtracted from the gradient."""
    total = 0.0
    for i in range(cells.shape[0]):
        for k in range(cells.shape[1]):
            value = np.int64(cells[i, k])
            bit = 0
            while value:
                if value & 1:
                    j = BITS * k + bit
                    total += pixel_weight[j] * outputs[i, j]
                    gradient[i, j] -= pixel_weight[j]
                value >>= 1
                bit += 1
    return total
