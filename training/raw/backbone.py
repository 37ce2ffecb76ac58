"""The frozen image backbone: what of it is stored beside a replay, and how that becomes maps again."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from agent.model.image_encoder import EncoderConfig, ImageEncoder
from agent.observation import CAMERA_NAMES
from training.experience.features import FORMAT, FeatureSource

KEY_DIGITS = 16


def map_shapes(config: EncoderConfig) -> list[tuple[int, int, int]]:
    """Rows, columns and channels of one camera's maps, finest first."""
    backbone = config.backbone
    return [
        (-(-config.image_height // stride), -(-config.image_width // stride), channels)
        for stride, channels in zip(backbone.out_strides, backbone.out_channels, strict=True)
    ]


def values_per_decision(config: EncoderConfig) -> int:
    """Numbers in the maps of all cameras."""
    return len(CAMERA_NAMES) * sum(rows * columns * channels for rows, columns, channels in map_shapes(config))


def pack(maps: list[Float[Tensor, "images c h w"]]) -> Float16[Tensor, "n values"]:
    """Maps as they are stored: map by map, camera by camera, cell by cell, the channels of a cell side by side."""
    cells = [one.permute(0, 2, 3, 1).half().reshape(-1, len(CAMERA_NAMES) * one[0].numel()) for one in maps]
    return torch.cat(cells, -1)


def unpack(features: Float16[Tensor, "n values"], config: EncoderConfig) -> list[Float[Tensor, "images c h w"]]:
    """The backbone's maps, channels last in memory."""
    shapes = map_shapes(config)
    sizes = [len(CAMERA_NAMES) * rows * columns * channels for rows, columns, channels in shapes]
    parts = features.split(sizes, -1)
    return [part.float().reshape(-1, *shape).permute(0, 3, 1, 2) for part, shape in zip(parts, shapes, strict=True)]


def feature_source(encoder: ImageEncoder) -> FeatureSource:
    """The encoder's backbone as it is now, for a store of features; later changes of the encoder do not matter."""
    config = encoder.config
    own = copy.deepcopy(encoder).eval().requires_grad_(False)
    device = own.mean.device

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        return pack(own.backbone_maps(torch.from_numpy(images).to(device))).cpu().numpy()

    return FeatureSource(
        key=backbone_key(encoder),
        values=values_per_decision(config),
        image_hw=(config.image_height, config.image_width),
        extract=extract,
    )


def backbone_key(encoder: ImageEncoder) -> str:
    """Hash of everything that decides the backbone's maps: weights, statistics, shape and size of the images."""
    config = encoder.config
    about = [FORMAT, config.image_height, config.image_width, asdict(config.backbone)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, value in sorted(encoder.backbone.state_dict().items()):
        if value.is_floating_point():  # not the number of batches seen
            digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:KEY_DIGITS]
