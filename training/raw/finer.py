"""Weights of an image encoder for one that reads a finer map of the same backbone besides.

At stride 16 a car 20 m ahead and one 40 m ahead stand on the same row of cells; at stride 8 they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from agent.model.image_encoder import EncoderConfig, ImageEncoder

SHY_LOGIT = -2.0
"""Of the attention's points on the new map: at first the encoder sees nearly what it saw without it."""
PYRAMID = ("neck.lateral_convs.", "neck.fpn_convs.")
LEVEL_EMBEDS = "bevformer.transformer.level_embeds"


def with_finer_map(config: EncoderConfig) -> EncoderConfig:
    """The encoder that reads the next finer map of its backbone as well. Raises: ValueError if there is none."""
    finest = config.backbone_stages[0] - 1
    if finest < 1:
        raise ValueError(f"backbone_stages {config.backbone_stages} begin with the finest map that there is")
    return replace(config, backbone_stages=(finest, *config.backbone_stages), levels=config.levels + 1)


@torch.no_grad()
def weights_with_finer_map(encoder: ImageEncoder, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` of an encoder with one map less as a state for this one; what is new keeps the weights it has here.

    Tensors that fit as they are come back as they are.
    """
    own = encoder.state_dict()
    elsewhere = {name for name in own if not name.startswith(PYRAMID)}
    if _maps(own) != _maps(tensors) + 1 or not elsewhere <= tensors.keys():
        return dict(tensors)
    state = {name: value for name, value in tensors.items() if not name.startswith(PYRAMID)}
    for prefix in PYRAMID:
        shifted = {_one_coarser(name, prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        state |= {name: value for name, value in own.items() if name.startswith(prefix)} | shifted
    state[LEVEL_EMBEDS] = torch.cat([own[LEVEL_EMBEDS][:1], tensors[LEVEL_EMBEDS]])
    config = encoder.bevformer.config
    for name, module in encoder.named_modules():
        if name.endswith("attentions.1.deformable_attention"):
            for linear, numbers, new in (("sampling_offsets", 2, None), ("attention_weights", 1, SHY_LOGIT)):
                split = (config.heads, -1, config.spatial_points * numbers)
                for part, parameter in module.get_submodule(linear).named_parameters():
                    key = f"{name}.{linear}.{part}"
                    first = parameter.unflatten(0, split)[:, :1]
                    if new is not None and part == "bias":
                        first = torch.full_like(first, new)
                    state[key] = torch.cat([first, tensors[key].unflatten(0, split)], 1).flatten(0, 2)
    return state


def _maps(state: Mapping[str, Tensor]) -> int:
    return sum(name.startswith(PYRAMID[0]) and name.endswith(".weight") for name in state)


def _one_coarser(name: str, prefix: str) -> str:
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(index) + 1}.{rest}"
