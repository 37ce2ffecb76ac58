"""Sampling maps at fractional positions: deformable attention's reading step and the modulated deformable convolution.

Pixel positions follow `grid_sample(align_corners=False)`: the centre of cell i lies at i, so a fraction u of a map
w cells wide is the position u * w - 0.5. Outside the map there is nothing (zeros), each corner on its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def sample_plain(values: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples of one map, by `grid_sample`: readable, differentiable, memory-hungry.

    values (n, h, w, heads, c), positions (n, q, heads, p, 2) as fractions (x, y) of the map,
    weights (n, q, heads, p) -> (n, q, heads * c).
    """
    n, height, width, heads, channels = values.shape
    queries = positions.shape[1]
    maps = values.permute(0, 3, 4, 1, 2).reshape(n * heads, channels, height, width)
    grid = (2.0 * positions - 1.0).transpose(1, 2).flatten(0, 1)
    samples = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    sums = (samples * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return sums.view(n, heads * channels, queries).transpose(1, 2)


def bilinear_corners(x: Tensor, y: Tensor, width: Tensor | int, height: Tensor | int) -> tuple[Tensor, Tensor]:
    """Cells around pixel positions and their bilinear weights: cell (..., 4) int32 = row * width + column, weight (..., 4).

    Corners outside the map get weight zero and some cell inside it. Weights are differentiable in x and y.
    """
    with torch.no_grad():
        left, bottom = x.floor(), y.floor()
        columns = torch.stack([left, left + 1.0], -1)
        rows = torch.stack([bottom, bottom + 1.0], -1)
        last_column = torch.as_tensor(width, device=x.device)[..., None] - 1
        last_row = torch.as_tensor(height, device=x.device)[..., None] - 1
        column_inside = (columns >= 0) & (columns <= last_column)
        row_inside = (rows >= 0) & (rows <= last_row)
        column = columns.to(torch.int32).clamp(min=0).minimum(last_column.to(torch.int32))
        row = rows.to(torch.int32).clamp(min=0).minimum(last_row.to(torch.int32))
        cell = row[..., :, None] * (last_column[..., None].to(torch.int32) + 1) + column[..., None, :]
    fraction_x, fraction_y = x - left, y - bottom
    weight_x = torch.stack([1.0 - fraction_x, fraction_x], -1) * column_inside
    weight_y = torch.stack([1.0 - fraction_y, fraction_y], -1) * row_inside
    return cell.flatten(-2), (weight_y[..., :, None] * weight_x[..., None, :]).flatten(-2)


def gather_weighted(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of table rows: table (r, c), rows and weights (n, k) -> (n, c), with no (n, k, c) in between."""
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


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
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

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
