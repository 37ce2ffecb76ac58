"""The encoder's operations the way the official implementation does them on a machine without its CUDA kernel.

Written from the published description as the yardstick of `bevformer_speed`: anchors are projected anew in each frame,
each camera's visible cells are looked up, padded to the busiest camera's and filled in by a loop over the cameras,
offsets are computed for every padded (camera, cell), values per layer, and maps are read by `grid_sample` per level.
Weights are those of our encoder, so outputs can be compared, too. Batches of one sample.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.model.bev_grid import official_shift, project_anchors, rotate_memory
from agent.model.bevformer import MAPS, BEVFormer, DeformableWeights, EncoderLayer, SpatialCrossAttention


def sample_levels(values: Tensor, levels_hw: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention without a kernel: one `grid_sample` per level, all samples kept, then one weighted sum.

    values (n, tokens, heads, c); locations (n, q, heads, levels, points, 2) in fractions of each map; weights without
    the last axis -> (n, q, heads * c).
    """
    n, _, heads, channels = values.shape
    queries = locations.shape[1]
    grids = 2.0 * locations - 1.0
    samples = []
    for level, tokens in enumerate(values.split([height * width for height, width in levels_hw], 1)):
        height, width = levels_hw[level]
        maps = tokens.flatten(2).transpose(1, 2).reshape(n * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(n * heads, 1, queries, -1)
    sums = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1)
    return sums.view(n, heads * channels, queries).transpose(1, 2).contiguous()


class ReferenceEncoder:
    """`BEVFormer`'s outputs by the reference operations; no gradients."""

    def __init__(self, encoder: BEVFormer, lidar2img: Tensor, image_hw: tuple[int, int]) -> None:
        self.encoder, self.config = encoder, encoder.config
        self.lidar2img, self.image_hw = lidar2img, image_hw

    @torch.no_grad()
    def __call__(self, features: list[Tensor], can_bus: Tensor, memory: Tensor | None = None) -> Tensor:
        """features per level (1, cameras, d, h, w), can_bus (1, 18), memory (1, cells, d) -> (1, cells, d)."""
        config, transformer = self.config, self.encoder.transformer
        query = self.encoder.first_query(can_bus)
        position = self.encoder.positional_encoding()
        tokens = torch.cat(
            [
                level[0].flatten(2).transpose(1, 2) + transformer.cams_embeds[:, None] + transformer.level_embeds[index]
                for index, level in enumerate(features)
            ],
            1,
        )
        levels_hw = [(level.shape[-2], level.shape[-1]) for level in features]
        uv, inside = project_anchors(config.grid.anchors_m(), self.lidar2img, self.image_hw)
        references = config.grid.centres()[None].expand(MAPS, -1, -1)
        maps = None
        if memory is not None:
            centre = config.rotate_centre_px or config.grid.origin_px
            aligned = rotate_memory(memory, config.grid, torch.deg2rad(can_bus[:, 17]), centre)
            maps = torch.cat([aligned, query])
            shift = official_shift(can_bus, config.grid).to(references.dtype)
            references = torch.stack([references[0] + shift, references[1] + shift * config.alias_shift])
        for layer in cast("list[EncoderLayer]", list(transformer.encoder.layers)):
            both = torch.cat([query, query]) if maps is None else maps
            query = layer.norms[0](self._temporal(layer, query, position, both, references))
            query = layer.norms[1](self._spatial(layer, query, tokens, levels_hw, uv, inside))
            query = layer.norms[2](layer.ffns[0](query))
        return query

    def _temporal(
        self, layer: EncoderLayer, query: Tensor, position: Tensor, maps: Tensor, references: Tensor
    ) -> Tensor:
        config, attention = self.config, cast(DeformableWeights, layer.attentions[0])
        grid, cells = config.grid, query.shape[1]
        values = attention.value_proj(maps).view(MAPS, cells, config.heads, -1)
        inputs = torch.cat([maps[:1], query + position], -1)
        shape = (cells, config.heads, MAPS, 1, config.temporal_points)
        offsets = attention.sampling_offsets(inputs).view(*shape, 2).permute(2, 0, 1, 3, 4, 5)
        weights = (
            attention.attention_weights(inputs).view(*shape[:3], -1).softmax(-1).view(shape).permute(2, 0, 1, 3, 4)
        )
        size = torch.tensor([grid.columns, grid.rows])
        locations = references[:, :, None, None, None] + offsets / size
        read = sample_levels(values, [(grid.rows, grid.columns)], locations, weights)
        return cast(nn.Linear, attention.output_proj)(read.mean(0, keepdim=True)) + query

    def _spatial(
        self,
        layer: EncoderLayer,
        query: Tensor,
        tokens: Tensor,
        levels_hw: list[tuple[int, int]],
        uv: Tensor,
        inside: Tensor,
    ) -> Tensor:
        config, cross = self.config, cast(SpatialCrossAttention, layer.attentions[1])
        seen = [mask.any(-1).nonzero().squeeze(-1) for mask in inside]
        longest = max(len(cells) for cells in seen)
        queries = query.new_zeros(len(seen), longest, config.embed_dims)
        anchors = uv.new_zeros(len(seen), longest, *uv.shape[2:])
        for camera, cells in enumerate(seen):
            queries[camera, : len(cells)] = query[0, cells]
            anchors[camera, : len(cells)] = uv[camera, cells]
        read = self._read_cameras(cross.deformable_attention, queries, tokens, levels_hw, anchors)
        slots = torch.zeros_like(query)
        for camera, cells in enumerate(seen):
            slots[0, cells] += read[camera, : len(cells)]
        count = inside.any(-1).sum(0).clamp(min=1)
        return cross.output_proj(slots / count[:, None]) + query

    def _read_cameras(
        self,
        attention: DeformableWeights,
        queries: Tensor,
        tokens: Tensor,
        levels_hw: list[tuple[int, int]],
        anchors: Tensor,
    ) -> Tensor:
        """queries (cameras, k, d), anchors (cameras, k, pillar, 2) -> (cameras, k, d)."""
        config = self.config
        cameras, longest, pillar = anchors.shape[:3]
        values = attention.value_proj(tokens).view(cameras, -1, config.heads, config.embed_dims // config.heads)
        shape = (cameras, longest, config.heads, len(levels_hw), config.spatial_points)
        offsets = attention.sampling_offsets(queries).view(*shape, 2)
        weights = attention.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        sizes = torch.tensor([(width, height) for height, width in levels_hw])
        offsets = (offsets / sizes[:, None]).unflatten(4, (-1, pillar))
        locations = (anchors[:, :, None, None, None] + offsets).flatten(4, 5)
        return sample_levels(values, levels_hw, locations, weights)
