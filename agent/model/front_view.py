"""A closer look at the front image: what is small in it, such as lamps of traffic lights, or above the BEV's grid.

The backbone sees cells of 16 px, in which a lamp 30 m away is two of 256 pixels, and the pillars of the BEV grid end
below most lamps. Here the upper part of the image is read at full resolution by a few convolutions. Ours; the papers'
backbones see images seven times as wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from agent.model.heads import ConvNormAct, NormAct
from agent.observation import CAMERA_NAMES

FRONT = CAMERA_NAMES.index("CAM_FRONT")
STRIDE = 8
GREY = 127.5


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontViewConfig:
    """What is read of the front image, and by how much."""

    top_px: int = 0
    bottom_px: int = 88
    """Rows of the network's image; the horizon lies in row 64."""
    width_px: int = 224
    width: int = 24
    """Channels of the first convolution; the others have two and three times as many."""
    squeezed: int = 16
    """Channels of every cell that are kept."""
    units: int = 128
    """Width of what comes out."""

    def __post_init__(self) -> None:
        rows = self.bottom_px - self.top_px
        if self.top_px < 0 or rows < STRIDE or rows % STRIDE or self.width_px % STRIDE:
            raise ValueError(
                f"front: rows {self.top_px} to {self.bottom_px} and columns 0 to {self.width_px} must be multiples of "
                f"{STRIDE} px"
            )

    @property
    def cells(self) -> int:
        """Cells of the last map."""
        return (self.bottom_px - self.top_px) // STRIDE * (self.width_px // STRIDE)


class FrontView(nn.Module):
    """The front image to a vector."""

    def __init__(self, config: FrontViewConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.convolutions = nn.Sequential(
            ConvNormAct(3, width, stride=2),
            ConvNormAct(width, 2 * width, stride=2),
            ConvNormAct(2 * width, 2 * width),
            ConvNormAct(2 * width, 3 * width, stride=2),
            ConvNormAct(3 * width, config.squeezed, kernel=1),
        )
        self.out = nn.Sequential(
            nn.Linear(config.squeezed * config.cells, config.units, bias=False), NormAct(config.units)
        )

    def forward(self, image: UInt8[Tensor, "n 3 h w"], valid: Bool[Tensor, " n"]) -> Float[Tensor, "n units"]:
        """Zeros where the image is not valid."""
        config = self.config
        cut = image[:, :, config.top_px : config.bottom_px, : config.width_px]
        cells = self.convolutions((cut.float() / GREY - 1.0).contiguous(memory_format=torch.channels_last))
        return self.out(cells.flatten(1).float()) * valid[:, None]
