"""From a state [h, z] to the masks that the world model takes for true: how an agent shows what it believes.

Deciding does without it. Source: the decoder head of Raw2Drive (section 3.2), cut into patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.recurrent import NormKind, norm_act

MIN_GRID_PX = 4
"""Side of the smallest feature map, as in DreamerV3."""
BITS = 8
SHOWN_MASKS: dict[str, tuple[int, ...]] = {
    "road": (0,),
    "ego_lanes": (3,),
    "lane_lines": (4, 5),
    "obstacle": (23,),
    "vehicle": (7, 15, 19),
    "walker": (11,),
    "red_light": (35,),
    "yellow_light": (31,),
    "green_light": (27,),
    "stop_sign": (39,),
}
"""Channels of the masks by what they show to people, the least important first; of dynamic ones the newest slice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDecoderConfig:
    """Shape of the decoder and of the masks: row 0 farthest ahead, column 0 farthest left."""

    size_px: int = 64
    channels: int = 43
    patch_px: int = 4
    depth: int = 24
    sigmoid: bool = True
    """Whether the outputs are logits; otherwise they are the masks themselves."""


class PatchMasks(nn.Module):
    """Linear layer to 4x4 cells, linear splits into 2x2 cells, linear map of each cell to its patch of pixels."""

    def __init__(self, features: int, config: MaskDecoderConfig, norm: NormKind) -> None:
        super().__init__()
        self.channels, self.patch, self.sigmoid = config.channels, config.patch_px, config.sigmoid
        stages = int(math.log2(config.size_px // config.patch_px // MIN_GRID_PX))
        self.width = 2 * config.depth * 2**stages
        self.space = nn.Linear(features, self.width * MIN_GRID_PX**2, bias=norm == "rms")
        self.space_act = norm_act(norm, self.width)
        self.splits, self.acts = nn.ModuleList(), nn.ModuleList()
        width = self.width
        for _ in range(stages):
            self.splits.append(nn.Linear(width, 4 * (width // 2), bias=norm == "rms"))
            width //= 2
            self.acts.append(norm_act(norm, width))
        self.out = nn.Linear(width, self.patch**2 * padded_channels(self.channels))

    def hidden(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n i j c"]:
        """Input of the last layer."""
        x = self.space_act(self.space(features).unflatten(-1, (MIN_GRID_PX, MIN_GRID_PX, self.width)))
        for split, act in zip(self.splits, self.acts, strict=True):
            x = act(split2(split(x)))
        return x

    def image(self, outputs: Float[Tensor, "n rows columns values"]) -> Float[Tensor, "n h w padded"]:
        """Outputs as an image, channels last."""
        return join_patches(outputs, self.patch)

    @torch.no_grad()
    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n channels h w"]:
        """Probability of every mask at every pixel."""
        image = self.image(self.out(self.hidden(features)))
        image = image.sigmoid() if self.sigmoid else image.clamp(0.0, 1.0)
        return image[..., : self.channels].permute(0, 3, 1, 2)


def padded_channels(channels: int) -> int:
    """Channels rounded up to whole bytes: 43 become 48, the last five always 0."""
    return BITS * -(-channels // BITS)


def join_patches(values: Float[Tensor, "n rows columns values"], patch: int) -> Float[Tensor, "n h w padded"]:
    """Patches with their pixels row by row, each with its (padded) channels, as one image."""
    n, rows, columns, width = values.shape
    cells = values.reshape(n, rows, columns, patch, patch, width // patch**2).transpose(2, 3)
    return cells.reshape(n, rows * patch, columns * patch, -1)


def split2(x: Float[Tensor, "n h w 4c"]) -> Float[Tensor, "n 2h 2w c"]:
    """2x2 cells that lie side by side in the channels."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(2, 3).reshape(n, 2 * h, 2 * w, c // 4)
