"""Deformable attention's reading step, fused for training on a CPU: softmax, positions, bilinear samples and their sum.

The agent's own sampling (`agent.model.deformable`) is made of tensor operations, whose intermediates cost more than the
reading. Here a cell's views, heads and points are looped over by compiled code that keeps them in registers, once
forwards and once backwards; nothing but the inputs is stored in between. The numbers are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable

_EXACT_ENOUGH = {"contract", "reassoc", "nsz"}
"""Sums may be taken in another order; what is not a number stays so."""


@dataclass(frozen=True, slots=True)
class Views:
    """Where each cell looks from: the same for all samples of a batch.

    A view is one camera that sees the cell. Positions follow `agent.model.deformable`: cell i of a map has its centre
    at i, and outside the map there is nothing.
    """

    begin: Int32[np.ndarray, " cells_and_one"]
    """First view of every cell; views are sorted by cell."""
    base: Int32[np.ndarray, "views points"]
    """Table row where the map of a point begins."""
    x: Float32[np.ndarray, "views points"]
    y: Float32[np.ndarray, "views points"]
    """Reference positions [cells]."""
    width: Int32[np.ndarray, " points"]
    height: Int32[np.ndarray, " points"]
    """Of the map of a point [cells]."""
    group: int
    """So many points in a row share a softmax."""

    def places(self) -> tuple[np.ndarray, ...]:
        """What the compiled functions take."""
        return self.begin, self.base, self.x, self.y, self.width, self.height


def read(
    table: Float[Tensor, "b rows heads c"],
    control: Float[Tensor, "b cells 3 heads points"],
    weights: Float[Tensor, "b views"],
    views: Views,
) -> Float[Tensor, "b cells channels"]:
    """Every cell's sum over its views of weight times attention times bilinear samples; heads side by side.

    table: the rows of all maps of a sample. control: offsets along x, along y [cells], logits. weights get no gradient.
    """
    result = _Read.apply(table, control, weights, views)
    assert isinstance(result, Tensor)
    return result.flatten(2)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, control: Tensor, weights: Tensor, views: Views) -> Tensor:
        table, control, weights = (value.detach().float().contiguous() for value in (table, control, weights))
        ctx.save_for_backward(table, control, weights)
        ctx.views = views
        out = table.new_empty(control.shape[0], control.shape[1], *table.shape[2:])
        inputs = (table.numpy(), control.numpy(), weights.numpy(), views.places(), views.group)
        _forward(*inputs, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, control, weights = ctx.saved_tensors
        views: Views = ctx.views
        of_table, of_control = torch.zeros_like(table), torch.zeros_like(control)
        inputs = (table.numpy(), control.numpy(), weights.numpy(), views.places(), views.group)
        _backward(*inputs, gradient.contiguous().numpy(), of_table.numpy(), of_control.numpy())
        return of_table, of_control, None, None


@numba.njit(cache=True, nogil=True, fastmath=_EXACT_ENOUGH)
def _softmax(logits, group, share):  # pragma: no cover - compiled
    """Softmax of logits (heads, points) within each group of points."""
    heads, points = share.shape
    for h in range(heads):
        for start in range(0, points, group):
            highest = logits[h, start]
            for k in range(start + 1, start + group):
                highest = max(highest, logits[h, k])
            total = np.float32(0.0)
            for k in range(start, start + group):
                share[h, k] = np.exp(logits[h, k] - highest)
                total += share[h, k]
            for k in range(start, start + group):
                share[h, k] /= total


@numba.njit(cache=True, nogil=True, fastmath=_EXACT_ENOUGH)
def _corners(px, py, width, height, base):  # pragma: no cover - compiled
    """Rows of the corners (left low, right low, left high, right high), whether each lies inside, and the fractions.

    A corner outside is given the row of one inside.
    """
    floor_x, floor_y = np.floor(px), np.floor(py)
    left, low = int(floor_x), int(floor_y)
    has_left, has_right = left >= 0, left + 1 < width
    has_low, has_high = low >= 0, low + 1 < height
    first = base + max(low, 0) * width
    second = base + min(low + 1, height - 1) * width
    near, far = max(left, 0), min(left + 1, width - 1)
    rows = (first + near, first + far, second + near, second + far)
    inside = (
        np.float32(has_left and has_low),
        np.float32(has_right and has_low),
        np.float32(has_left and has_high),
        np.float32(has_right and has_high),
    )
    return rows, inside, np.float32(px - floor_x), np.float32(py - floor_y)


@numba.njit(cache=True, nogil=True, fastmath=_EXACT_ENOUGH)
def _forward(table, control, weights, places, group, out):  # pragma: no cover - compiled
    begin, base, x, y, width, height = places
    batch, cells, heads, channels = out.shape
    points = x.shape[1]
    share = np.empty((heads, points), np.float32)
    for b in range(batch):
        for n in range(cells):
            _softmax(control[b, n, 2], group, share)
            out[b, n] = 0.0
            for v in range(begin[n], begin[n + 1]):
                weight = weights[b, v]
                if weight == 0.0:
                    continue
                for h in range(heads):
                    for k in range(points):
                        px, py = x[v, k] + control[b, n, 0, h, k], y[v, k] + control[b, n, 1, h, k]
                        if not (px > -1.0 and px < width[k] and py > -1.0 and py < height[k]):
                            if np.isnan(px) or np.isnan(py):
                                out[b, n, h] = np.nan
                            continue
                        rows, inside, fx, fy = _corners(px, py, width[k], height[k], base[v, k])
                        high = fy * share[h, k] * weight
                        low = share[h, k] * weight - high
                        s0, s1 = (low - low * fx) * inside[0], low * fx * inside[1]
                        s2, s3 = (high - high * fx) * inside[2], high * fx * inside[3]
                        r0, r1, r2, r3 = rows
                        for c in range(channels):
                            out[b, n, h, c] += (
                                s0 * table[b, r0, h, c]
                                + s1 * table[b, r1, h, c]
                                + s2 * table[b, r2, h, c]
                                + s3 * table[b, r3, h, c]
                            )


@numba.njit(cache=True, nogil=True, fastmath=_EXACT_ENOUGH)
def _backward(table, control, weights, places, group, gradient, of_table, of_control):  # pragma: no cover - compiled
    begin, base, x, y, width, height = places
    batch, cells, heads, channels = gradient.shape
    points = x.shape[1]
    share, of_share = np.empty((heads, points), np.float32), np.empty((heads, points), np.float32)
    for b in range(batch):
        for n in range(cells):
            _softmax(control[b, n, 2], group, share)
            of_share[:] = 0.0
            for v in range(begin[n], begin[n + 1]):
                weight = weights[b, v]
                if weight == 0.0:
                    continue
                for h in range(heads):
                    for k in range(points):
                        px, py = x[v, k] + control[b, n, 0, h, k], y[v, k] + control[b, n, 1, h, k]
                        if not (px > -1.0 and px < width[k] and py > -1.0 and py < height[k]):
                            continue
                        rows, inside, fx, fy = _corners(px, py, width[k], height[k], base[v, k])
                        r0, r1, r2, r3 = rows
                        d0 = d1 = d2 = d3 = np.float32(0.0)
                        for c in range(channels):
                            g = gradient[b, n, h, c]
                            d0 += g * table[b, r0, h, c]
                            d1 += g * table[b, r1, h, c]
                            d2 += g * table[b, r2, h, c]
                            d3 += g * table[b, r3, h, c]
                        d0, d1, d2, d3 = d0 * inside[0], d1 * inside[1], d2 * inside[2], d3 * inside[3]
                        lower, upper = d0 + (d1 - d0) * fx, d2 + (d3 - d2) * fx
                        of_share[h, k] += weight * (lower + (upper - lower) * fy)
                        attention = share[h, k] * weight
                        of_control[b, n, 0, h, k] += attention * ((d1 - d0) + ((d3 - d2) - (d1 - d0)) * fy)
                        of_control[b, n, 1, h, k] += attention * (upper - lower)
                        high = fy * attention
                        low = attention - high
                        s0, s1 = (low - low * fx) * inside[0], low * fx * inside[1]
                        s2, s3 = (high - high * fx) * inside[2], high * fx * inside[3]
                        for c in range(channels):
                            of_table[b, r0, h, c] += s0 * gradient[b, n, h, c]
                        for c in range(channels):
                            of_table[b, r1, h, c] += s1 * gradient[b, n, h, c]
                        for c in range(channels):
                            of_table[b, r2, h, c] += s2 * gradient[b, n, h, c]
                        for c in range(channels):
                            of_table[b, r3, h, c] += s3 * gradient[b, n, h, c]
            for h in range(heads):
                for start in range(0, points, group):
                    mean = np.float32(0.0)
                    for k in range(start, start + group):
                        mean += share[h, k] * of_share[h, k]
                    for k in range(start, start + group):
                        of_control[b, n, 2, h, k] = share[h, k] * (of_share[h, k] - mean)
