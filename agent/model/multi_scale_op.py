"""Deformable attention through a compiled operator with mmcv's calling convention: the "mmcv" sampling path."""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from agent.model.constants import constant

MultiScaleOp = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(values (n, tokens, heads, c), shapes (levels, 2) int64, starts (levels,) int64, locations (n, q, heads, levels,
points, 2) in fractions of each map, weights (n, q, heads, levels, points)) -> (n, q, heads * c)."""

IMAGES_PER_STEP = 64
"""mmcv's `im2col_step`: images worked on at once."""


def mmcv_op() -> MultiScaleOp:
    """The CUDA operator of a compiled mmcv. Raises: ImportError saying what to install if there is none."""
    try:
        module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"path='mmcv' needs a compiled mmcv with its CUDA operators ({error}); install one or use path='static'"
        ) from error
    function = module.MultiScaleDeformableAttnFunction

    def run(values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        if not values.is_cuda:
            raise ValueError(f"mmcv's operator runs on CUDA only, got tensors on {values.device}; use path='static'")
        step = _largest_divisor(values.shape[0], IMAGES_PER_STEP)
        return function.apply(values.contiguous(), shapes, starts, locations.contiguous(), weights.contiguous(), step)

    return run


def _largest_divisor(number: int, limit: int) -> int:
    """The operator wants its step to divide the number of images."""
    return next(step for step in range(min(number, limit), 0, -1) if number % step == 0)


def run_levels(op: MultiScaleOp, maps: list[Tensor], x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over all levels: maps (n, h, w, heads, c) per level; x, y [cells] and weights (n, q, heads, levels,
    points) -> (n, q, heads * c)."""
    device = x.device
    shapes = constant(tuple(size for level in maps for size in level.shape[1:3]), device, torch.int64).view(-1, 2)
    areas = shapes.prod(1)
    sizes = shapes.flip(1)[:, None].to(x.dtype)
    locations = (torch.stack([x, y], -1) + 0.5) / sizes
    values = torch.cat([level.flatten(1, 2) for level in maps], 1)
    return op(values, shapes, areas.cumsum(0) - areas, locations, weights)
