"""Product of packed bits with a weight matrix, without unpacking the bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.world_model.masks import BITS

CHUNK_PATCHES = 1024
"""Patches unpacked at a time on other devices than the CPU."""
BYTE_VALUES = 256


class ByteLookup(torch.autograd.Function):
    """Product of packed bits with a weight matrix: the sum of one table row per byte.

    Nineteen of twenty bytes of real masks are 0 and add nothing; on a CPU they are skipped, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, patches: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        """patches (n, bytes) uint8, weight (c, 8 bytes), table (256, 8); gives (n, c)."""
        ctx.save_for_backward(patches, table)
        count = patches.shape[-1]
        rows = torch.matmul(table, weight.t().unflatten(0, (count, BITS))).flatten(0, 1)
        if _is_sparse_possible(rows):
            out = rows.new_zeros(patches.shape[0], rows.shape[-1])
            _sum_rows(patches.contiguous().numpy(), rows.numpy(), out.numpy())
            return out
        index = patches.int() + BYTE_VALUES * torch.arange(count, device=patches.device, dtype=torch.int32)
        return F.embedding_bag(index, rows, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the weight; bits need none."""
        patches, table = ctx.saved_tensors
        count, width = patches.shape[-1], grad[0].shape[-1]
        if _is_sparse_possible(grad[0]):
            rows = grad[0].new_zeros(count * BYTE_VALUES, width)
            _scatter_rows(patches.contiguous().numpy(), grad[0].contiguous().numpy(), rows.numpy())
            return None, torch.matmul(table.t(), rows.unflatten(0, (count, BYTE_VALUES))).flatten(0, 1).t(), None
        total = grad[0].new_zeros(width, BITS * count)
        chunk = CHUNK_PATCHES if patches.device.type == "cpu" else patches.shape[0]
        for start in range(0, patches.shape[0], chunk):
            bits = F.embedding(patches[start : start + chunk].int(), table).flatten(1)
            total.addmm_(grad[0][start : start + chunk].t(), bits.to(total.dtype))
        return None, total, None


def _is_sparse_possible(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32


@numba.njit("void(uint8[:, ::1], float32[:, ::1], float32[:, ::1])", cache=True, nogil=True, fastmath=True)
def _sum_rows(patches, rows, out):  # pragma: no cover - compiled
    """out[i] += rows[256 k + patches[i, k]] for every byte that is not 0."""
    for i in range(patches.shape[0]):
        for k in range(patches.shape[1]):
            value = np.int64(patches[i, k])
            if value:
                row = BYTE_VALUES * k + value
                for j in range(out.shape[1]):
                    out[i, j] += rows[row, j]


@numba.njit("void(uint8[:, ::1], float32[:, ::1], float32[:, ::1])", cache=True, nogil=True, fastmath=True)
def _scatter_rows(patches, grad, rows):  # pragma: no cover - compiled
    """rows[256 k + patches[i, k]] += grad[i] for every byte that is not 0."""
    for i in range(patches.shape[0]):
        for k in range(patches.shape[1]):
            value = np.int64(patches[i, k])
            if value:
                row = BYTE_VALUES * k + value
                for j in range(grad.shape[1]):
                    rows[row, j] += grad[i, j]
