"""The driving model's eyes: six camera images and the ego motion to BEV features in the ego frame."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agent.model.backbone import ResNet, ResNetConfig
from agent.model.bev_grid import BevGrid, RigGeometry, can_bus_from_motion
from agent.model.bevformer import BEVFormer, BEVFormerConfig
from agent.model.fpn import FPN
from agent.model.rig import BENCH2DRIVE_RIG, CameraRig

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Per RGB channel on the 0 to 255 scale."""


@dataclass(frozen=True)
class EncoderConfig:
    """Image encoder of a driving model; the defaults are those of the shipped agents."""

    backbone_depth: int = 18
    backbone_width: int = 32
    backbone_stages: tuple[int, ...] = (3, 4)
    """Backbone stages fed to the pyramid: 3 is stride 16, 4 is stride 32."""
    levels: int = 1
    """Pyramid levels read by the cross attention, the finest ones."""
    image_height: int = 128
    image_width: int = 224
    bev_rows: int = 32
    bev_columns: int = 24
    bev_range_m: tuple[float, float, float, float, float, float] = (-24.0, -12.0, -0.5, 24.0, 52.0, 3.5)
    """x_min, y_min, z_min, x_max, y_max, z_max: x right, y forward, z up from the ego origin on the ground."""
    pillar_points: int = 4
    embed_dims: int = 96
    heads: int = 4
    layers: int = 2
    temporal_points: int = 4
    spatial_points: int = 8
    ffn_dims: int = 192
    dropout: float = 0.0
    warp: str = "affine"
    period_s: float = 0.1
    """Time between two decisions, for the speed in the ego vector."""

    @property
    def grid(self) -> BevGrid:
        return BevGrid(self.bev_rows, self.bev_columns, self.bev_range_m, self.pillar_points)

    @property
    def backbone(self) -> ResNetConfig:
        return ResNetConfig(self.backbone_depth, self.backbone_width, tuple(self.backbone_stages))

    @property
    def bevformer(self) -> BEVFormerConfig:
        return BEVFormerConfig(
            grid=self.grid,
            embed_dims=self.embed_dims,
            heads=self.heads,
            layers=self.layers,
            levels=self.levels,
            level_embeds=self.levels,
            temporal_points=self.temporal_points,
            spatial_points=self.spatial_points,
            ffn_dims=self.ffn_dims,
            dropout=self.dropout,
            warp=self.warp,
        )


class ImageEncoder(nn.Module):
    """Backbone, pyramid and BEVFormer for a fixed rig.

    The BEV grid lies in the ego frame: row r grows with x forward, column c with y to the RIGHT (minus ego y); row 0 is
    the rearmost. `bev.view(b, rows, columns, d)` is thus a picture seen from above with forward pointing down.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, config: EncoderConfig, rig: CameraRig = BENCH2DRIVE_RIG) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.neck = FPN(config.backbone.out_channels, config.embed_dims, config.levels)
        self.bevformer = BEVFormer(config.bevformer)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("inverse_std", 1.0 / torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.set_rig(rig)
        for convolution in (*self.backbone.modules(), *self.neck.modules()):
            if isinstance(convolution, nn.Conv2d):
                convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)

    def set_rig(self, rig: CameraRig) -> None:
        """Use other cameras from now on; recomputes everything that depends on them."""
        config = self.config
        lidar2img = torch.from_numpy(rig.lidar2img(config.image_width, config.image_height))
        geometry = RigGeometry(config.grid, lidar2img, (config.image_height, config.image_width))
        self.geometry = geometry.to(self.mean.device)

    def forward(
        self,
        images: Tensor,
        camera_valid: Tensor,
        ego_motion: Tensor,
        memory: Tensor | None = None,
        has_memory: Tensor | None = None,
    ) -> Tensor:
        """BEV features (b, rows * columns, d), float32.

        images: uint8 (b, cameras, 3, h, w) RGB. camera_valid: bool (b, cameras); the others are ignored. ego_motion
        (b, 3): dx, dy [m, ego frame of the previous call: x forward, y left], dyaw [rad, counter-clockwise] since then.
        memory (b, rows * columns, d): the previous result; has_memory: bool (b,), False where an episode begins.
        """
        return self.lift(self.features(images), camera_valid, ego_motion, memory, has_memory)

    def features(self, images: Tensor) -> list[Tensor]:
        """Image features of every level, (b, cameras, d, h, w); they need no memory, so whole sequences go at once."""
        return self.pyramid(self.backbone_maps(images), images.shape[0])

    def backbone_maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps (b * cameras, c, h, w) of `config.backbone_stages`."""
        bytes_last = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # reordered while it is small
        return self.backbone(bytes_last.to(torch.float32, copy=True).sub_(self.mean).mul_(self.inverse_std))

    def pyramid(self, maps: list[Tensor], batch: int) -> list[Tensor]:
        """Levels (b, cameras, d, h, w) of the backbone's maps."""
        return [level.unflatten(0, (batch, -1)) for level in self.neck(maps)]

    def lift(
        self,
        features: list[Tensor],
        camera_valid: Tensor,
        ego_motion: Tensor,
        memory: Tensor | None = None,
        has_memory: Tensor | None = None,
    ) -> Tensor:
        """The rest of `forward`, from image features on."""
        can_bus = can_bus_from_motion(ego_motion.float(), self.config.period_s)
        bev = self.bevformer(features, can_bus, self.geometry, memory, has_memory, camera_valid, motion=ego_motion)
        return bev.float()
