"""Fast training of the deformable attention on a CPU: weighted gather with a compiled backward pass.

PyTorch's backward of `embedding_bag` with per-sample weights sorts all indices and runs on one thread; it costs more
than the whole backbone. Here both gradients come from one pass over the indices, in blocks that run in parallel.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


@numba.njit(cache=True, nogil=True, parallel=True, fastmath={"contract", "reassoc"})
def _backward(table, rows, weights, grad, grad_weights, partial):  # pragma: no cover - compiled
    """grad_weights[i, j] = <table[rows[i, j]], grad[i]>; partial[block, rows[i, j]] += weights[i, j] * grad[i]."""
    bags, size = rows.shape
    channels = table.shape[1]
    blocks = partial.shape[0]
    for block in numba.prange(blocks):
        for i in range(block * bags // blocks, (block + 1) * bags // blocks):
            for j in range(size):
                row = rows[i, j]
                weight = weights[i, j]
                dot = np.float32(0.0)
                for c in range(channels):
                    dot += table[row, c] * grad[i, c]
                    partial[block, row, c] += weight * grad[i, c]
                grad_weights[i, j] = dot


class _GatherWeighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        table, rows, weights = ctx.saved_tensors
        grad = grads[0].float().contiguous()
        values = table.float().contiguous()
        grad_weights = torch.empty(weights.shape, dtype=torch.float32)
        partial = torch.zeros((torch.get_num_threads(), *values.shape))
        _backward(
            values.detach().numpy(),
            rows.contiguous().numpy(),
            weights.detach().float().contiguous().numpy(),
            grad.numpy(),
            grad_weights.numpy(),
            partial.numpy(),
        )
        return partial.sum(0).to(table.dtype), None, grad_weights.to(weights.dtype)


def gather_weighted(
    table: Float[Tensor, "r c"], rows: Int[Tensor, "n k"], weights: Float[Tensor, "n k"]
) -> Float[Tensor, "n c"]:
    """Weighted sums of table rows, as `agent.model.deformable.gather_weighted`, on the CPU."""
    return _GatherWeighted.apply(table, rows, weights)
