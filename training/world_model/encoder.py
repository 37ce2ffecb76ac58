"""Encoders of the privileged stream: packed mask words and the ego vector to the embedding e_t."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from agent.model.mask_decoder import padded_channels
from agent.model.recurrent import hidden_layers, norm_act
from training.world_model.config import MIN_GRID_PX, WorldModelConfig
from training.world_model.distributions import symlog
from training.world_model.layers import Conv, merge2, pool2
from training.world_model.lookup import ByteLookup
from training.world_model.masks import byte_table, cut_patches, unpack

CHUNK_FRAMES = 8
"""Frames unpacked at a time on a CPU, so that the floats stay in the cache."""


class StridedEncoder(nn.Module):
    """4x4 convolutions of stride 2 down to 4x4 cells, channels doubling, norm over the channels of each cell.

    Source: Hafner et al. 2023. 64 px take four of them, 128 px the five of Raw2Drive's Table 13.
    """

    table: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.channels = config.observation.channels
        self.register_buffer("table", byte_table(), persistent=False)
        stages = int(math.log2(config.observation.size_px // MIN_GRID_PX))
        widths = [self.channels] + [config.vision.depth * 2**i for i in range(stages)]
        self.layers = nn.ModuleList(
            Conv(low, high, kernel=4, norm=config.norm, bias=config.norm == "rms") for low, high in pairwise(widths)
        )
        self.outputs = widths[-1] * MIN_GRID_PX**2

    def forward(self, words: Int64[Tensor, "n h w"]) -> Float[Tensor, "n e"]:
        """Flattened features of the smallest map."""
        x = convolve_masks(self.layers[0], words, self.table)
        for layer in self.layers[1:]:
            x = layer(x)
        return x.flatten(1)


class MaskConvolution(torch.autograd.Function):
    """First convolution on packed words: a few frames are unpacked at a time, again for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, weight: Tensor, table: Tensor, stride: int, padding: int) -> Tensor:
        """words (n, h, w), weight (d, channels, k, k); gives (n, d, i, j) in channels-last memory."""
        ctx.save_for_backward(words, weight, table)
        ctx.stride, ctx.padding = stride, padding
        padded = _padded(weight)
        outputs = [F.conv2d(masks, padded, None, stride, padding) for masks in _unpacked(words, weight, table)]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the weight; masks need none."""
        words, weight, table = ctx.saved_tensors
        padded = _padded(weight)
        total = torch.zeros_like(padded)
        start = 0
        for masks in _unpacked(words, weight, table):
            part = grad[0][start : start + masks.shape[0]]
            start += masks.shape[0]
            total += conv2d_weight(masks, padded.shape, part, ctx.stride, ctx.padding)
        return None, total[:, : weight.shape[1]], None, None, None


def _padded(weight: Tensor) -> Tensor:
    return F.pad(weight, (0, 0, 0, 0, 0, padded_channels(weight.shape[1]) - weight.shape[1]))


def _unpacked(words: Tensor, weight: Tensor, table: Tensor) -> Iterator[Tensor]:
    """The masks as (frames, padded, h, w) in channels-last memory, in chunks on a CPU."""
    chunk = CHUNK_FRAMES if words.device.type == "cpu" else words.shape[0]
    for start in range(0, words.shape[0], chunk):
        masks = unpack(words[start : start + chunk], weight.shape[1], table)
        yield masks.to(weight.dtype).permute(0, 3, 1, 2)


def convolve_masks(layer: nn.Module, words: Int64[Tensor, "n h w"], table: Tensor) -> Float[Tensor, "n i j c"]:
    """A Conv on packed words."""
    assert isinstance(layer, Conv)
    x = MaskConvolution.apply(words, layer.conv.weight, table, layer.stride, layer.padding)
    assert isinstance(x, Tensor)
    x = x.permute(0, 2, 3, 1)
    x = x if layer.conv.bias is None else x + layer.conv.bias
    return x if layer.act is None else layer.act(x)


class PooledEncoder(nn.Module):
    """5x5 convolutions of stride 1, each followed by 2x2 max pooling, RMS norm and SiLU. Source: Hafner et al. 2025."""

    table: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.channels = config.observation.channels
        self.register_buffer("table", byte_table(), persistent=False)
        depths = [config.vision.depth * multiplier for multiplier in config.vision.multipliers]
        widths = [self.channels, *depths]
        self.layers = nn.ModuleList(Conv(low, high, kernel=5, norm=None, bias=True) for low, high in pairwise(widths))
        self.norms = nn.ModuleList(norm_act(config.norm, depth) for depth in depths)
        self.outputs = depths[-1] * (config.observation.size_px // 2 ** len(depths)) ** 2

    def forward(self, words: Int64[Tensor, "n h w"]) -> Float[Tensor, "n e"]:
        """Flattened features of the smallest map."""
        x = self.norms[0](pool2(convolve_masks(self.layers[0], words, self.table)))
        for layer, norm in zip(self.layers[1:], self.norms[1:], strict=True):
            x = norm(pool2(layer(x)))
        return x.flatten(1)


class PatchEncoder(nn.Module):
    """Linear map of each patch of mask bits, then merges of 2x2 cells down to 4x4 cells.

    The product of a patch's bits with the weights is a sum of one table row per byte: a table with 256 rows per byte of
    the patch is made from the weights once per call, so that bits are never unpacked to floats.
    """

    table: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        vision, observation = config.vision, config.observation
        self.channels, self.patch = observation.channels, vision.patch_px
        self.register_buffer("table", byte_table(), persistent=False)
        stages = int(math.log2(observation.size_px // vision.patch_px // MIN_GRID_PX))
        width = 2 * vision.depth
        self.bits = nn.Linear(vision.patch_px**2 * padded_channels(self.channels), width, bias=False)
        self.bits_act = norm_act(config.norm, width)
        self.layers = nn.ModuleList()
        for _ in range(stages):
            self.layers.append(nn.Sequential(*hidden_layers(4 * width, 2 * width, 1, config.norm)))
            width *= 2
        self.outputs = width * MIN_GRID_PX**2

    def forward(self, words: Int64[Tensor, "n h w"]) -> Float[Tensor, "n e"]:
        """Flattened features of the smallest map."""
        patches = cut_patches(words, self.channels, self.patch)
        x = self.bits_act(self.embed_bytes(patches))
        for layer in self.layers:
            x = layer(merge2(x))
        return x.flatten(1)

    def embed_bytes(self, patches: Tensor) -> Float[Tensor, "n rows columns c"]:
        """Product of the patches' bits with the weights; patches: (n, rows, columns, bytes) uint8."""
        x = ByteLookup.apply(patches.flatten(0, 2), self.bits.weight, self.table)
        assert isinstance(x, Tensor)
        return x.unflatten(0, patches.shape[:3])


class Encoder(nn.Module):
    """Masks and, where the model has one, the ego vector through symlog and hidden layers: e_t side by side."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        kinds = {"strided": StridedEncoder, "pooled": PooledEncoder, "patch": PatchEncoder}
        self.masks = kinds[config.vision.kind](config)
        self.outputs: int = self.masks.outputs
        self.vector = None
        if config.observation.vector:
            units = config.heads.units
            layers = hidden_layers(config.observation.vector, units, config.vision.vector_layers, config.norm)
            self.vector = nn.Sequential(*layers)
            self.outputs += units

    def forward(
        self, words: Int64[Tensor, "n h w"], vector: Float[Tensor, "n v"] | None = None
    ) -> Float[Tensor, "n e"]:
        """e_t."""
        embed = self.masks(words)
        if self.vector is None:
            return embed
        if vector is None:
            raise ValueError("observation.vector is not 0, so the encoder needs the ego vector")
        return torch.cat([embed, self.vector(symlog(vector))], -1)
