"""The encoder for mmdet3d configurations: importing this module registers it with mmengine (extra `mm`).

    custom_imports = dict(imports=["agent.model.mm"])
    model = dict(..., encoder=dict(type="Raw2DriveBEVFormer", bev_h=50, bev_w=50, num_layers=3))

Registered in mmengine's own `MODELS`, the parent of mmdet's and mmdet3d's, which therefore find it by its bare name.
"""

from typing import Any

import numpy as np
import torch
from mmengine.registry import MODELS  # pyright: ignore[reportMissingImports] - an optional extra
from torch import Tensor, nn

from agent.model.backbone import ResNet, ResNetConfig
from agent.model.bev_grid import BevGrid, RigGeometry
from agent.model.bevformer import BEVFormer, BEVFormerConfig
from agent.model.fpn import FPN
from agent.model.official import LEGACY_CENTRE_PX, SQUARE_M

KEPT_RIGS = 16
"""Rigs whose geometry is kept."""


@MODELS.register_module(name="Raw2DriveResNet")
class RegisteredResNet(ResNet):
    """The backbone, with the argument names of mmdet's ResNet."""

    def __init__(
        self,
        depth: int = 50,
        out_indices: tuple[int, ...] = (3,),
        style: str = "pytorch",
        base_channels: int = 64,
        stage_with_dcn: tuple[bool, ...] = (False, False, False, False),
        norm_eval: bool = True,
    ) -> None:
        super().__init__(
            ResNetConfig(
                depth=depth,
                width=base_channels,
                out_stages=tuple(index + 1 for index in out_indices),
                style=style,
                deformable_stages=tuple(stage for stage, dcn in enumerate(stage_with_dcn, 1) if dcn),
                frozen_statistics=norm_eval,
            )
        )


@MODELS.register_module(name="Raw2DriveFPN")
class RegisteredFPN(FPN):
    """The pyramid, with the argument names of mmdet's FPN."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int = 256, num_outs: int = 1) -> None:
        super().__init__(tuple(in_channels), out_channels, num_outs)


@MODELS.register_module(name="Raw2DriveBEVFormer")
class RegisteredBEVFormer(nn.Module):
    """The BEV encoder, called as official heads call theirs: image maps, their meta data, the previous BEV."""

    def __init__(  # noqa: PLR0913 - a configuration file's fields
        self,
        bev_h: int = 50,
        bev_w: int = 50,
        pc_range: tuple[float, float, float, float, float, float] = SQUARE_M,
        num_layers: int = 3,
        num_feature_levels: int = 1,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_cams: int = 6,
        feedforward_channels: int = 512,
        num_points_in_pillar: int = 4,
        num_points: int = 8,
        rotate_center: tuple[float, float] | None = LEGACY_CENTRE_PX,
        alias_shift: bool = False,
        dropout: float = 0.1,
        path: str = "static",
    ) -> None:
        """rotate_center: (100, 100) as official weights expect; None turns about the car. alias_shift: as weights of
        Bench2DriveZoo expect. path: "static", "plain" or "mmcv", see `BEVFormer`.
        """
        super().__init__()
        x_min, y_min, z_min, x_max, y_max, z_max = pc_range
        grid = BevGrid(bev_h, bev_w, (x_min, y_min, z_min, x_max, y_max, z_max), num_points_in_pillar)
        self.config = BEVFormerConfig(
            grid=grid,
            embed_dims=embed_dims,
            heads=num_heads,
            layers=num_layers,
            levels=num_feature_levels,
            level_embeds=max(4, num_feature_levels),
            cameras=num_cams,
            spatial_points=num_points,
            ffn_dims=feedforward_channels,
            dropout=dropout,
            rotate_centre_px=None if rotate_center is None else (rotate_center[0], rotate_center[1]),
            alias_shift=alias_shift,
        )
        self.encoder = BEVFormer(self.config, path)
        self._geometries: dict[bytes, RigGeometry] = {}

    def forward(
        self, mlvl_feats: list[Tensor], img_metas: list[dict[str, Any]], prev_bev: Tensor | None = None
    ) -> Tensor:
        """BEV features (b, cells, d).

        mlvl_feats: per level (b, cameras, d, h, w). img_metas: per sample `lidar2img` (cameras 4 x 4 matrices),
        `img_shape` (of each padded image, height first) and `can_bus` (18 numbers, deltas applied). prev_bev
        (b, cells, d) or (cells, b, d).
        """
        device = mlvl_feats[0].device
        can_bus = torch.as_tensor(np.stack([meta["can_bus"] for meta in img_metas]), dtype=torch.float32, device=device)
        memory = self._batch_first(prev_bev, len(img_metas))
        rigs = [self._geometry(meta, device) for meta in img_metas]
        if all(rig is rigs[0] for rig in rigs):
            return self.encoder(mlvl_feats, can_bus, rigs[0], memory)
        alone = [
            self.encoder(
                [level[i : i + 1] for level in mlvl_feats],
                can_bus[i : i + 1],
                rig,
                None if memory is None else memory[i : i + 1],
            )
            for i, rig in enumerate(rigs)
        ]
        return torch.cat(alone)

    def _batch_first(self, prev_bev: Tensor | None, b: int) -> Tensor | None:
        cells = self.config.grid.cells
        if prev_bev is None or (prev_bev.shape[0] == b and prev_bev.shape[1] == cells):
            return prev_bev
        if prev_bev.shape[0] == cells and prev_bev.shape[1] == b:
            return prev_bev.transpose(0, 1)
        raise ValueError(f"prev_bev must be ({b}, {cells}, d) or ({cells}, {b}, d), got {tuple(prev_bev.shape)}")

    def _geometry(self, meta: dict[str, Any], device: torch.device) -> RigGeometry:
        """The geometry of a sample's rig; only the last few rigs are kept, since a training set has many."""
        lidar2img = np.asarray(meta["lidar2img"], dtype=np.float64)
        height, width = (int(size) for size in meta["img_shape"][0][:2])
        key = lidar2img.tobytes() + f"{height}x{width}{device}".encode()
        if key not in self._geometries:
            while len(self._geometries) >= KEPT_RIGS:
                self._geometries.pop(next(iter(self._geometries)))
            self._geometries[key] = RigGeometry(self.config.grid, torch.from_numpy(lidar2img), (height, width)).to(
                device
            )
        return self._geometries[key]
