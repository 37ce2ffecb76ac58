"""Sampling maps at fractional positions: deformable attention's reading step and the modulated deformable convolution.

Pixel positions follow `grid_sample(align_corners=False)`: the centre of cell i lies at i, so a fraction u of a map
w cells wide is the position u * w - 0.5. Outside the map there is nothing (zeros), each corner on its own.
"""

import warnings
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from agent.model.constants import constant


def sample_plain(values: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples of one map, by `grid_sample`: readable, but slow and memory-hungry.

    values (n, h, w, heads, c); x, y [cells] and weights (n, q, heads, p) -> (n, q, heads * c).
    """
    n, height, width, heads, channels = values.shape
    queries = x.shape[1]
    maps = values.permute(0, 3, 4, 1, 2).reshape(n * heads, channels, height, width)
    positions = torch.stack([(2.0 * x + 1.0) / width - 1.0, (2.0 * y + 1.0) / height - 1.0], -1)
    grid = positions.transpose(1, 2).flatten(0, 1)
    samples = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    sums = (samples * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return sums.view(n, heads * channels, queries).transpose(1, 2)


def softmax_of_few(logits: Tensor) -> Tensor:
    """Softmax over a short last dimension, several times faster on CPUs than the row-wise `Tensor.softmax`."""
    powers = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


# Said once per process, of the tested use in the backward pass below.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

RING = 2
"""Width of the frame of zeros around a map in a sampling table: clamped positions read zeros and have no gradient."""


@dataclass(frozen=True)
class TableLayout:
    """Where maps lie in a table of rows of one head's channels: row = start + y * stride_y + x * stride_x.

    Tensors broadcast against the positions sampled; cells are counted without the ring of zeros.
    """

    width: Tensor
    height: Tensor
    stride_x: int
    stride_y: Tensor
    start: Tensor
    """int32"""

    def shifted(self, rows: Tensor) -> "TableLayout":
        """The same maps at other places of the table: rows (int32) are added to `start`, with broadcasting."""
        return replace(self, start=self.start + rows)


def table_layout(levels_hw: list[tuple[int, int]], heads: int, device: torch.device, points: int = 1) -> TableLayout:
    """Layout of one image's ringed levels, one after the other, cells row-major, heads of a cell side by side.

    Shapes: (levels * points,) each level repeated for its points, but `start` (heads, levels * points).
    """
    heights, widths = (
        constant(sizes, device, torch.int64).repeat_interleave(points) for sizes in zip(*levels_hw, strict=True)
    )
    areas = [(height + 2 * RING) * (width + 2 * RING) for height, width in levels_hw]
    before = constant((0, *accumulate(areas[:-1])), device, torch.int64).repeat_interleave(points)
    stride_y = (widths + 2 * RING) * heads
    start = before * heads + RING * (stride_y + heads) + torch.arange(heads, device=device)[:, None]
    return TableLayout(widths.float(), heights.float(), heads, stride_y.to(torch.int32), start.to(torch.int32))


def ringed(maps: Tensor) -> Tensor:
    """Maps (..., h, w, c) in float32 inside a ring of zeros: (..., h + 2 RING, w + 2 RING, c)."""
    return functional.pad(maps.float(), (0, 0, RING, RING, RING, RING))


def sample_table(table: Tensor, x: Tensor, y: Tensor, weights: Tensor, layout: TableLayout) -> Tensor:
    """Weighted sums of bilinear samples: x, y [cells] and weights (..., k), table (r, c) -> (..., c).

    One gather with weights instead of the (n, k, 4, c) intermediates of `grid_sample`.
    """
    if torch.is_grad_enabled() and table.device.type == "cpu":
        return _SampleTable.apply(table, x, y, weights, layout)
    rows, fraction_x, fraction_y = corner_rows(x, y, layout)
    return gather_rows(table, rows, corner_weights(fraction_x, fraction_y, weights))


def gather_rows(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Sums of shares (..., 4, k) times rows (..., 4, k) of the table: (..., c)."""
    bags, entries = rows.shape[:-2], rows.shape[-2] * rows.shape[-1]
    sums = functional.embedding_bag(
        rows.view(-1, entries), table, mode="sum", per_sample_weights=shares.view(-1, entries)
    )
    return sums.view(*bags, -1)


def corner_rows(x: Tensor, y: Tensor, layout: TableLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Table rows (..., 4, k) int32 of the cells around each position, and its fractions (..., k) between them.

    Corners: (left, low), (right, low), (left, high), (right, high).
    """
    limit = constant((-RING,), x.device)[0]
    x, y = torch.clamp(x, limit, layout.width), torch.clamp(y, limit, layout.height)
    with torch.no_grad():
        left, low = x.floor(), y.floor()
        # A position that is not a number reads some cell; its fractions, and so the sum, are not numbers either.
        column, row = left.nan_to_num(nan=0.0), low.nan_to_num(nan=0.0)
        first = (row * layout.stride_y + column * layout.stride_x).to(torch.int32) + layout.start
        above = layout.stride_y
        corners = [first, first + layout.stride_x, first + above, first + (above + layout.stride_x)]
    return torch.stack(corners, -2), x - left, y - low


def corner_weights(fraction_x: Tensor, fraction_y: Tensor, weights: Tensor) -> Tensor:
    """Each corner's share (..., 4, k) of a weighted bilinear sample, in the order of `corner_rows`."""
    high = fraction_y * weights
    low = weights - high
    high_right, low_right = high * fraction_x, low * fraction_x
    return torch.stack([low - low_right, low_right, high - high_right, high_right], -2)


class _SampleTable(torch.autograd.Function):
    """`sample_table` with a backward pass for CPUs, where that of `embedding_bag` sorts all rows (20 times slower)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, y: Tensor, weights: Tensor, layout: TableLayout) -> Tensor:
        rows, fraction_x, fraction_y = corner_rows(x, y, layout)
        shares = corner_weights(fraction_x, fraction_y, weights)
        ctx.save_for_backward(table, rows, shares, fraction_x, fraction_y, weights)
        return gather_rows(table, rows, shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, rows, shares, fraction_x, fraction_y, weights = ctx.saved_tensors
        entries = rows.shape[-2] * rows.shape[-1]
        gradient = gradient.reshape(-1, table.shape[1])
        starts = torch.arange(0, rows.numel() + 1, entries, dtype=torch.int32)
        table_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = _transposed_product(shares, rows, starts, gradient, table.shape[0])
        dots = torch.sparse_csr_tensor(
            starts,
            rows.flatten(),
            torch.zeros_like(shares).flatten(),
            (gradient.shape[0], table.shape[0]),
            check_invariants=False,
        )
        torch.sparse.sampled_addmm(dots, gradient, table.t(), beta=0.0, out=dots)
        low_left, low_right, high_left, high_right = dots.values().view(shares.shape).unbind(-2)
        low_slope, high_slope = low_right - low_left, high_right - high_left
        low, high = low_left + low_slope * fraction_x, high_left + high_slope * fraction_x
        rise = high - low
        x_gradient = (low_slope + (high_slope - low_slope) * fraction_y) * weights
        return table_gradient, x_gradient, rise * weights, low + rise * fraction_y, None


def _transposed_product(shares: Tensor, rows: Tensor, starts: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Transposed sparse matrix times gradient (bags, c): (size, c). Matrix row i holds bag i's shares at its rows."""
    from scipy.sparse import csc_matrix  # only training needs scipy

    transposed = csc_matrix(
        (shares.flatten().numpy(), rows.flatten().numpy(), starts.numpy()), shape=(size, gradient.shape[0])
    )
    return torch.from_numpy(transposed @ gradient.numpy())


class ModulatedDeformConv2d(nn.Module):
    """3x3 convolution whose taps are displaced and scaled by a second convolution (DCNv2, Zhu et al. 2018).

    Keys as mmcv's `ModulatedDeformConv2dPack`: `weight` (no bias) and `conv_offset`, whose 27 channels are 9 taps'
    (y, x) displacements in cells, interleaved, and 9 mask logits.
    """

    TAPS = 9

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        self.conv_offset = nn.Conv2d(channels_in, 3 * self.TAPS, 3, stride, 1)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Start as an ordinary convolution at half strength."""
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, channels_out, ceil(h / stride), ceil(w / stride))."""
        n, channels, height, width = x.shape
        control = self.conv_offset(x)
        out_height, out_width = control.shape[-2:]
        offset_y, offset_x = control[:, : 2 * self.TAPS].unflatten(1, (self.TAPS, 2)).unbind(2)
        mask = control[:, 2 * self.TAPS :].sigmoid()
        row = torch.arange(out_height, device=x.device)[:, None] * self.stride
        column = torch.arange(out_width, device=x.device)[None, :] * self.stride
        taps = []
        for tap in range(self.TAPS):
            y = row + (tap // 3 - 1) + offset_y[:, tap]
            x_position = column + (tap % 3 - 1) + offset_x[:, tap]
            grid = torch.stack([(2.0 * x_position + 1.0) / width - 1.0, (2.0 * y + 1.0) / height - 1.0], -1)
            sample = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            taps.append(sample * mask[:, tap, None])
        columns = torch.stack(taps, 2).reshape(n, channels * self.TAPS, out_height * out_width)
        return (self.weight.flatten(1) @ columns).view(n, -1, out_height, out_width)
