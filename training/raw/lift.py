"""The BEVFormer encoder over whole windows for training on a CPU: the numbers of `ImageEncoder.lift`, step after step.

What does not depend on the memory is computed for all steps at once: queries, image values, their projections. The
steps then have little more than the two readings, which `training.raw.sampling` fuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from agent.model.bev_grid import RigGeometry, can_bus_from_motion, warp_memory
from agent.model.bevformer import (
    MAPS,
    BEVFormerConfig,
    DeformableWeights,
    EncoderLayer,
    SpatialCrossAttention,
    TemporalSelfAttention,
)
from agent.model.image_encoder import ImageEncoder
from training.raw.sampling import Views, read


def fits(encoder: ImageEncoder) -> bool:
    """Whether the encoder's windows can be lifted here: on a CPU, with the conventions of our own models."""
    config = encoder.bevformer.config
    ours = config.warp == "affine" and config.dropout == 0.0 and not config.mix_batch
    return ours and encoder.bevformer.path == "static" and encoder.mean.device.type == "cpu"


def lift_windows(
    encoder: ImageEncoder,
    levels: list[Float[Tensor, "b t cameras d h w"]],
    camera_valid: Bool[Tensor, "b t cameras"],
    ego_motion: Float[Tensor, "b t 3"],
    first: Bool[Tensor, "b t"],
) -> Float[Tensor, "b t cells d"]:
    """BEV features with gradients to the encoder's parameters and the image features.

    The memory runs through the windows, and each begins without one.
    """
    bevformer, geometry = encoder.bevformer, encoder.geometry
    config = bevformer.config
    b, t = first.shape
    motion = ego_motion.transpose(0, 1)
    can_bus = can_bus_from_motion(motion.flatten(0, 1).float(), encoder.config.period_s)
    queries = bevformer.first_query(can_bus).unflatten(0, (t, b))
    position = bevformer.positional_encoding()
    layers = [_Layer.of(cast(EncoderLayer, layer), queries, position) for layer in bevformer.transformer.encoder.layers]
    tables = _image_tables(encoder, [level.transpose(0, 1) for level in levels])
    temporal = temporal_views(config, geometry)
    spatial = spatial_views(config, geometry, [(level.shape[-2], level.shape[-1]) for level in levels])
    weights = geometry.pair_weights(camera_valid.transpose(0, 1).flatten(0, 1)).unflatten(0, (t, b))
    half = torch.full((b, config.grid.cells), 1.0 / MAPS)
    memories: list[Tensor] = []
    for step, initial in enumerate(queries.unbind(0)):
        ahead = initial
        if memories:
            warped = warp_memory(memories[-1], config.grid, motion[step])
            ahead = torch.where(first[:, step, None, None], initial, warped)
        query = initial
        for index, layer in enumerate(layers):
            own = layer.first_control[step] if index == 0 else layer.own_control(query, position)
            query = layer.look_back(query, own, ahead, step, half, temporal)
            query = layer.look_around(query, tables[index][step], weights[step], spatial)
        memories.append(query)
    return torch.stack(memories, 1)


def _image_tables(
    encoder: ImageEncoder, levels: list[Float[Tensor, "t b cameras d h w"]]
) -> list[tuple[Float[Tensor, "b rows heads c"], ...]]:
    """Rows of all cameras and levels, by layer and step."""
    t, b = levels[0].shape[:2]
    heads = encoder.bevformer.config.heads
    tables = []
    for maps in encoder.bevformer.project_values([level.flatten(0, 1) for level in levels]):
        rows = torch.cat([level.flatten(2, 3) for level in maps], 2).flatten(1, 2)
        tables.append(rows.view(t, b, rows.shape[1], heads, -1).unbind(0))
    return tables


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer with what of it is the same in all steps, and what can be computed for all of them at once."""

    layer: EncoderLayer
    query_weight: Tensor
    """Offsets and logits of temporal attention: the part that sees the queries, (k, d)."""
    query_bias: Tensor
    memory_weight: Tensor
    """The part that sees the memory."""
    spatial_weight: Tensor
    spatial_bias: Tensor
    first_control: tuple[Tensor, ...]
    """The queries' part for the first queries, by step."""
    first_values: tuple[Tensor, ...]
    """Values of the first queries by step, which all layers read beside the memory."""

    @classmethod
    def of(cls, layer: EncoderLayer, queries: Float[Tensor, "t b n d"], position: Float[Tensor, "n d"]) -> _Layer:
        temporal, spatial = _attentions(layer)
        weight, bias = control_parameters(temporal)
        spatial_weight, spatial_bias = control_parameters(spatial.deformable_attention)
        dims = queries.shape[-1]
        own = weight[:, dims:]
        return cls(
            layer=layer,
            query_weight=own,
            query_bias=bias,
            memory_weight=weight[:, :dims],
            spatial_weight=spatial_weight,
            spatial_bias=spatial_bias,
            first_control=functional.linear(queries + position, own, bias).unbind(0),
            first_values=temporal.value_proj(queries).unbind(0),
        )

    def own_control(self, query: Tensor, position: Tensor) -> Tensor:
        """The queries' part of temporal attention's offsets and logits."""
        return functional.linear(query + position, self.query_weight, self.query_bias)

    def look_back(self, query: Tensor, own: Tensor, ahead: Tensor, step: int, half: Tensor, views: Views) -> Tensor:
        """Temporal attention with shortcut and norm; ahead: the aligned memory, or the first queries without one."""
        temporal, _ = _attentions(self.layer)
        b, n, _ = query.shape
        heads = temporal.config.heads
        control = (own + functional.linear(ahead, self.memory_weight)).view(b, n, 3, heads, -1)
        table = torch.stack([temporal.value_proj(ahead), self.first_values[step]], 1)
        seen = read(table.view(b, MAPS * n, heads, -1), control, half, views)
        return self.layer.norms[0](temporal.output_proj(seen) + query)

    def look_around(self, query: Tensor, table: Tensor, weights: Tensor, views: Views) -> Tensor:
        """Cross attention and perceptron with shortcuts and norms."""
        _, spatial = _attentions(self.layer)
        b, n, _ = query.shape
        control = functional.linear(query, self.spatial_weight, self.spatial_bias)
        seen = read(table, control.view(b, n, 3, spatial.config.heads, -1), weights, views)
        query = self.layer.norms[1](spatial.output_proj(seen) + query)
        return self.layer.norms[2](self.layer.ffns[0](query))


def _attentions(layer: EncoderLayer) -> tuple[TemporalSelfAttention, SpatialCrossAttention]:
    return cast(TemporalSelfAttention, layer.attentions[0]), cast(SpatialCrossAttention, layer.attentions[1])


def control_parameters(attention: DeformableWeights) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Weight and bias of offsets along x, offsets along y and logits, in this order."""
    offsets, logits = attention.sampling_offsets, attention.attention_weights
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = [
        (offsets.weight, logits.weight),
        (offsets.bias, logits.bias),
    ]
    weight, bias = (torch.cat([offset[0::2], offset[1::2], logit]) for offset, logit in pairs)
    return weight, bias


def temporal_views(config: BEVFormerConfig, geometry: RigGeometry) -> Views:
    """Every cell looks from its own place at two maps, the memory and the first queries."""
    grid, points = config.grid, config.temporal_points
    u, v = geometry.centres.cpu().numpy().T
    maps = np.repeat(np.arange(MAPS), points)
    shape = (grid.cells, len(maps))
    return Views(
        begin=np.arange(grid.cells + 1, dtype=np.int32),
        base=np.broadcast_to(maps * grid.cells, shape).astype(np.int32),
        x=np.ascontiguousarray(np.broadcast_to(u[:, None] * grid.columns - 0.5, shape), np.float32),
        y=np.ascontiguousarray(np.broadcast_to(v[:, None] * grid.rows - 0.5, shape), np.float32),
        width=np.full(len(maps), grid.columns, np.int32),
        height=np.full(len(maps), grid.rows, np.int32),
        group=points,
    )


def spatial_views(config: BEVFormerConfig, geometry: RigGeometry, levels_hw: list[tuple[int, int]]) -> Views:
    """Every cell looks from the projections of its pillar at all levels of the cameras that see it."""
    points, levels = config.spatial_points, len(levels_hw)
    cell, camera = geometry.pair_cell.cpu().numpy(), geometry.pair_camera.cpu().numpy()
    height, width = (np.repeat(sizes, points).astype(np.int32) for sizes in zip(*levels_hw, strict=True))
    areas = [rows * columns for rows, columns in levels_hw]
    before = np.repeat(np.cumsum([0, *areas[:-1]]), points)
    uv = np.tile(geometry.pair_uv.cpu().numpy(), (1, levels * points // geometry.grid.pillar_points, 1))
    return Views(
        begin=np.searchsorted(cell, np.arange(config.grid.cells + 1)).astype(np.int32),
        base=(camera[:, None] * sum(areas) + before).astype(np.int32),
        x=(uv[..., 0] * width - 0.5).astype(np.float32),
        y=(uv[..., 1] * height - 0.5).astype(np.float32),
        width=width,
        height=height,
        group=levels * points,
    )
