"""The published BEVFormer models: their shapes and image conventions, and a network with their parameter names.

Sources: BEVFormer at 66b65f3, Bench2DriveZoo at 10a2e5d (configurations).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from agent.model.backbone import ResNet, ResNetConfig
from agent.model.bev_grid import BevGrid, RigGeometry
from agent.model.bevformer import BEVFormer, BEVFormerConfig
from agent.model.fpn import FPN

SQUARE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
VAD_M = (-15.0, -30.0, -2.0, 15.0, 30.0, 2.0)
RGB_IMAGENET = "rgb_imagenet"
"""Images in RGB, ImageNet's mean and standard deviation."""
BGR_MEAN = "bgr_mean"
"""Images in BGR, their mean subtracted only."""
LEGACY_CENTRE_PX = (100.0, 100.0)


@dataclass(frozen=True)
class OfficialModel:
    """One published model's encoder."""

    backbone: ResNetConfig
    levels: int
    grid: BevGrid
    layers: int
    image_hw: tuple[int, int]
    """Network input, padded to multiples of 32."""
    normalisation: str = BGR_MEAN
    alias_shift: bool = False

    @property
    def bevformer(self) -> BEVFormerConfig:
        """The encoder as it was trained: with the fixed centre of rotation."""
        return BEVFormerConfig(
            grid=self.grid,
            layers=self.layers,
            levels=self.levels,
            rotate_centre_px=LEGACY_CENTRE_PX,
            alias_shift=self.alias_shift,
        )

    @property
    def levels_hw(self) -> list[tuple[int, int]]:
        """Size of every feature map: the used stages, then halves of the last."""
        sizes = [(-(-self.image_hw[0] // s), -(-self.image_hw[1] // s)) for s in self.backbone.out_strides]
        while len(sizes) < self.levels:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        return sizes


def _square(side: int) -> BevGrid:
    return BevGrid(side, side, SQUARE_M)


_R50 = ResNetConfig(50, frozen_statistics=True)
_R101 = ResNetConfig(101, style="caffe", deformable_stages=(3, 4), frozen_statistics=True)
_C345 = (2, 3, 4)
_LARGE_HW = (928, 1600)

OFFICIAL_MODELS = {
    "tiny": OfficialModel(_R50, 1, _square(50), 3, (480, 800), RGB_IMAGENET),
    "small": OfficialModel(_R101, 1, _square(150), 3, (736, 1280)),
    "base": OfficialModel(replace(_R101, out_stages=_C345), 4, _square(200), 6, _LARGE_HW),
    "b2d-tiny": OfficialModel(replace(_R50, out_stages=_C345), 4, _square(100), 3, _LARGE_HW, alias_shift=True),
    "b2d-base": OfficialModel(replace(_R101, out_stages=_C345), 4, _square(200), 6, _LARGE_HW, alias_shift=True),
    "b2d-vad-base": OfficialModel(
        replace(_R50, out_stages=_C345), 4, BevGrid(200, 200, VAD_M), 6, (736, 1280), RGB_IMAGENET, True
    ),
}
"""By name; "b2d-" are Bench2DriveZoo's ("b2d-tiny" has the shape of its UniAD-tiny, too)."""


class OfficialEncoder(nn.Module):
    """Backbone, pyramid and BEV encoder under the top-level names of official checkpoints."""

    def __init__(self, model: OfficialModel, path: str = "static") -> None:
        super().__init__()
        self.model = model
        self.img_backbone = ResNet(model.backbone)
        self.img_neck = FPN(model.backbone.out_channels, model.bevformer.embed_dims, model.levels)
        self.pts_bbox_head = BEVFormer(model.bevformer, path)

    def features(self, images: Tensor) -> list[Tensor]:
        """images (b, cameras, 3, h, w) normalised -> maps (b, cameras, d, h, w), finest first."""
        levels = self.img_neck(self.img_backbone(images.flatten(0, 1)))
        return [level.unflatten(0, images.shape[:2]) for level in levels]

    def forward(self, images: Tensor, can_bus: Tensor, geometry: RigGeometry, memory: Tensor | None = None) -> Tensor:
        """BEV features (b, cells, d); can_bus and memory: see `BEVFormer.forward`."""
        return self.pts_bbox_head(self.features(images), can_bus, geometry, memory)


def build_official(name: str) -> OfficialEncoder:
    """An official encoder without values: on the meta device, for its names and shapes.

    Raises: ValueError naming the models there are.
    """
    if name not in OFFICIAL_MODELS:
        raise ValueError(f"no official model {name!r}; choose one of {', '.join(OFFICIAL_MODELS)}")
    with torch.device("meta"):
        return OfficialEncoder(OFFICIAL_MODELS[name])
