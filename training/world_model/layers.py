"""Layers shared by encoder, decoder and heads, and DreamerV3's initialisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.recurrent import BlockLinear, NormKind, hidden_layers, norm_act

TRUNCATION_CORRECTION = 0.87962566103423978
"""Standard deviation of a standard normal cut at two standard deviations."""


def mlp(inputs: int, outputs: int, *, units: int, layers: int, norm: NormKind) -> nn.Sequential:
    """Hidden layers and a linear layer with bias."""
    return nn.Sequential(*hidden_layers(inputs, units, layers, norm), nn.Linear(units if layers else inputs, outputs))


class Conv(nn.Module):
    """Convolution on channels-last maps (n, h, w, c), optionally followed by norm over the channels and SiLU.

    kernel 4 halves the map, kernel 5 keeps it (2025, pooled afterwards).
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, norm: NormKind | None, bias: bool) -> None:
        super().__init__()
        self.stride = 2 if kernel == 4 else 1
        self.padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=self.stride, padding=self.padding, bias=bias)
        self.act = norm_act(norm, outputs) if norm else None

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h2 w2 d"]:
        """Features of the next map."""
        # The permuted view of a channels-last map is what the convolution reads without copying.
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x if self.act is None else self.act(x)


class TransposedConv(nn.Module):
    """Transposed 4x4 convolution of stride 2 on channels-last maps, optionally with norm and SiLU."""

    def __init__(self, inputs: int, outputs: int, *, norm: NormKind | None, bias: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)
        self.act = norm_act(norm, outputs) if norm else None

    def forward(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n 2h 2w d"]:
        """Features of the map of twice the size."""
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x if self.act is None else self.act(x)


def pool2(x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h2 w2 c"]:
    """Maximum of 2x2 cells."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def upsample2(x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n 2h 2w c"]:
    """Each cell twice in both directions."""
    return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)


def merge2(x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h2 w2 4c"]:
    """2x2 cells side by side in the channels."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(n, h // 2, w // 2, 4 * c)


@torch.no_grad()
def initialise(module: nn.Module, norm: NormKind, generator: torch.Generator | None = None) -> None:
    """DreamerV3's start of all linear and convolution layers: truncated normal, biases 0.

    Variance 1 / fan, fan = (in + out) / 2 in 2023 (layer norm) and in alone in 2025 (RMS norm); a block linear layer
    counts the inputs of all its blocks. Norms start as the identity.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
            receptive = layer.weight[0, 0].numel()
            incoming, outgoing = layer.weight.shape[1] * receptive, layer.weight.shape[0] * receptive
            if isinstance(layer, nn.ConvTranspose2d):
                incoming, outgoing = outgoing, incoming
        elif isinstance(layer, BlockLinear):
            blocks, rows, columns = layer.weight.shape
            incoming, outgoing = blocks * rows, blocks * columns
        else:
            continue
        fan = 0.5 * (incoming + outgoing) if norm == "layer" else incoming
        std = math.sqrt(1.0 / fan) / TRUNCATION_CORRECTION
        nn.init.trunc_normal_(layer.weight, std=std, a=-2.0 * std, b=2.0 * std, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def scale_last(layers: nn.Sequential, scale: float) -> None:
    """Scale the weights of the last layer: 0 makes the first predictions exactly 0."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(scale)
