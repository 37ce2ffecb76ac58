"""Masks told inside the neck, and the map that the privileged mask encoder makes of them.

Regressed as a whole, e_t is told without its cars: they are few of its numbers. Told pixel by pixel they are seen, and
what the masks mean for the world model need not be learned again: the reader begins as the privileged encoder. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.heads import ConvNormAct
from agent.model.mask_decoder import padded_channels
from agent.model.recurrent import NormKind, hidden_layers, norm_act


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldMasksConfig:
    """Shape of the masks and of the privileged encoder that reads them (kind `patch`)."""

    size_px: int = 64
    channels: int = 43
    patch_px: int = 4
    depth: int = 24
    stages: int = 2
    """Merges of 2x2 cells behind the patches."""
    hidden: int = 64
    """Channels of the convolutions that tell the masks."""
    way_units: int = 0
    """So many units tell the gaps from the masks along the way; 0: they are told as the other seen numbers are."""


class MaskReader(nn.Module):
    """Soft masks to a small map, by the weights of the privileged `PatchEncoder`, which has the same names for them."""

    def __init__(self, config: ToldMasksConfig, norm: NormKind) -> None:
        super().__init__()
        self.channels, self.patch = config.channels, config.patch_px
        width = 2 * config.depth
        self.bits = nn.Linear(config.patch_px**2 * padded_channels(config.channels), width, bias=False)
        self.bits_act = norm_act(norm, width)
        self.layers = nn.ModuleList()
        for _ in range(config.stages):
            self.layers.append(nn.Sequential(*hidden_layers(4 * width, 2 * width, 1, norm)))
            width *= 2

    def forward(self, masks: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n cells"]:
        """Flattened features of the smallest map; masks between 0 and 1, row 0 farthest ahead."""
        weight = self.bits.weight.unflatten(1, (self.patch, self.patch, -1))[..., : self.channels].permute(0, 3, 1, 2)
        x = F.conv2d(masks, weight.to(masks.dtype), stride=self.patch).to(self.bits.weight.dtype)
        x = self.bits_act(x.permute(0, 2, 3, 1))
        for layer in self.layers:
            n, h, w, c = x.shape
            merged = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(n, h // 2, w // 2, 4 * c)
            x = layer(merged)
        return x.flatten(1)


class ToldMasks(nn.Module):
    """Logits of all masks from two maps of the neck, and the reader behind them."""

    def __init__(self, config: ToldMasksConfig, wide: int, deep: int, canvas_px: int, norm: NormKind) -> None:
        """wide, deep: channels of the map of the canvas's size, canvas_px along a side, and of a smaller one."""
        super().__init__()
        self.config = config
        finer = config.size_px // canvas_px
        if finer * canvas_px != config.size_px:
            raise ValueError(f"neck.masks: {config.size_px} px are no multiple of the canvas's {canvas_px}")
        self.around = nn.Conv2d(deep, config.hidden, 1)
        self.refine = nn.Sequential(
            ConvNormAct(wide + config.hidden, config.hidden), ConvNormAct(config.hidden, config.hidden)
        )
        self.out = nn.Conv2d(config.hidden, finer**2 * config.channels, 1)
        self.finer = nn.PixelShuffle(finer)
        self.reader = MaskReader(config, norm)

    def forward(
        self, wide: Float[Tensor, "n wide h w"], deep: Float[Tensor, "n deep i j"]
    ) -> Float[Tensor, "n channels hh ww"]:
        """Logits; row 0 farthest ahead, column 0 farthest left, as in the masks."""
        around = F.interpolate(self.around(deep), wide.shape[2:], mode="bilinear", align_corners=False)
        return self.finer(self.out(self.refine(torch.cat([wide, around.to(wide.dtype)], 1))))
