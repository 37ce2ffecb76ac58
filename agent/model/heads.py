"""Small building blocks and prediction heads shared by the driving model."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NORM_EPS = 1e-3
"""DreamerV3 (2023) uses 1e-3 in every layer norm."""


class NormAct(nn.Module):
    """Layer norm over the last axis, then SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """Normalised and activated x."""
        return F.silu(self.norm(x))


def mlp(inputs: int, outputs: int, *, hidden: int, layers: int, output_scale: float = 1.0) -> nn.Sequential:
    """Multi-layer perceptron: `layers` times linear, layer norm, SiLU, then a linear layer scaled at the start."""
    blocks: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        blocks += [nn.Linear(width, hidden, bias=False), NormAct(hidden)]
        width = hidden
    last = nn.Linear(width, outputs)
    last.weight.data.mul_(output_scale)
    last.bias.data.zero_()
    return nn.Sequential(*blocks, last)


class ConvNormAct(nn.Module):
    """Convolution, group norm over all channels, SiLU: keeps training independent of the batch composition."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
        self.norm = nn.GroupNorm(1, outputs, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Normalised, activated features."""
        return F.silu(self.norm(self.conv(x)))


class MaskHead(nn.Module):
    """Logits of BEV masks from the encoder's BEV features, on twice their resolution."""

    def __init__(self, inputs: int, hidden: int, masks: int) -> None:
        super().__init__()
        self.refine = ConvNormAct(inputs, hidden)
        self.out = nn.Conv2d(hidden, 4 * masks, 1)
        self.up = nn.PixelShuffle(2)

    def forward(self, bev: Float[Tensor, "b c h w"]) -> Float[Tensor, "b masks hh ww"]:
        """Mask logits, (b, masks, 2h, 2w)."""
        return self.up(self.out(self.refine(bev)))


class LatentMaskHead(nn.Module):
    """Logits of coarse BEV masks decoded from the latent state [h, z]: the world model's reconstruction."""

    def __init__(self, inputs: int, hidden: int, masks: int, rows: int, columns: int) -> None:
        super().__init__()
        self.shape = (masks, rows, columns)
        self.net = mlp(inputs, masks * rows * columns, hidden=hidden, layers=1)

    def forward(self, features: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch masks rows columns"]:
        """Mask logits."""
        return self.net(features).unflatten(-1, self.shape)
