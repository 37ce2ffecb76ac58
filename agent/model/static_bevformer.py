"""A trained BEVFormer made ready to drive with a fixed rig: the same outputs as `BEVFormer`, in a fraction of its time.

What no frame changes is computed once: which cells which camera sees, embeddings as biases, weights of all layers in
one matrix. Per frame there is one matrix product for the offsets of a layer, one for the values of all layers, and one
weighted gather for all cameras, levels, points and corners. Shapes are static and nothing waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.model.bev_grid import RigGeometry
from agent.model.bevformer import (
    MAPS,
    BEVFormer,
    BEVFormerConfig,
    DeformableWeights,
    EncoderLayer,
    FeedForward,
    SpatialCrossAttention,
    TemporalContext,
    TemporalSelfAttention,
)
from agent.model.deformable import RING, TableLayout, corner_rows, corner_weights, gather_rows, table_layout

Mark = Callable[[str], None]
"""Told the name of each part of a frame as it ends."""


def no_mark(part: str) -> None:
    """Nobody is timing."""


def softmax_over_points(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, written out: short rows fuse with what follows."""
    powers = (logits - logits.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def temporal_rows(
    own: Tensor, constant: Tensor, remembered: Tensor, x: Tensor, y: Tensor, layout: TableLayout, heads: int
) -> tuple[Tensor, Tensor]:
    """Table rows and shares (b, n, heads, 4, maps * points) of temporal attention.

    The sum of own (b, n, k), constant (n, k) and remembered (b, n, k) are the offsets and logits; k is 3 * heads * maps
    * points. x, y (b, n, maps): references [cells]. Shares have the type of `own`.
    """
    control = own.float() + constant + remembered.float()
    offset_x, offset_y, logits = control.unflatten(-1, (3, heads, MAPS, -1)).unbind(2)
    attention = softmax_over_points(logits) / MAPS
    rows, fraction_x, fraction_y = corner_rows(
        (x[:, :, None, :, None] + offset_x).flatten(3), (y[:, :, None, :, None] + offset_y).flatten(3), layout
    )
    return rows, corner_weights(fraction_x, fraction_y, attention.flatten(3)).to(own.dtype)


def spatial_rows(
    control: Tensor, cell: Tensor, weights: Tensor, x: Tensor, y: Tensor, layout: TableLayout, heads: int
) -> tuple[Tensor, Tensor]:
    """Table rows and shares (b, p, heads, 4, levels * points) of cross attention, for every visible pair p.

    control (b, n, 3 * heads * levels * points); cell (p,); weights (b, p, 1, 1); x, y (p, 1, levels * points): [cells].
    Shares have the type of `control`.
    """
    offset_x, offset_y, logits = control.float().unflatten(-1, (3, heads, -1)).unbind(2)
    attention = softmax_over_points(logits)[:, cell] * weights
    rows, fraction_x, fraction_y = corner_rows(x + offset_x[:, cell], y + offset_y[:, cell], layout)
    return rows, corner_weights(fraction_x, fraction_y, attention).to(control.dtype)


def add_norm(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm of x + update, in float32 and once more in the type of `update`."""
    result = functional.layer_norm(x + update.float(), weight.shape, weight, bias, eps)
    return result, result.to(update.dtype)


@dataclass(frozen=True)
class _Control:
    """Weights of one attention's offsets and logits: x offsets, y offsets, logits, one row each."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, attention: DeformableWeights) -> "_Control":
        weight, bias = attention.sampling_offsets.weight, attention.sampling_offsets.bias
        return cls(
            torch.cat([weight[0::2], weight[1::2], attention.attention_weights.weight]),
            torch.cat([bias[0::2], bias[1::2], attention.attention_weights.bias]),
        )


class StaticLayer(nn.Module):
    """One encoder layer's own weights, in the type it computes with."""

    def __init__(self, layer: EncoderLayer, position: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        temporal = cast(TemporalSelfAttention, layer.attentions[0])
        spatial = cast(SpatialCrossAttention, layer.attentions[1])
        dims = position.shape[-1]
        control = _Control.of(temporal)
        own, remembered = control.weight[:, dims:], control.weight[:, :dims]
        self.norms = layer.norms
        self.ffn = cast(FeedForward, layer.ffns[0])
        self._keep("temporal_query", own.to(dtype))
        self._keep("temporal_memory", remembered.to(dtype))
        self._keep("temporal_constant", functional.linear(position, own, control.bias))
        self._keep("temporal_value_weight", temporal.value_proj.weight.to(dtype))
        self._keep("temporal_value_bias", temporal.value_proj.bias.to(dtype))
        self._keep("temporal_out_weight", temporal.output_proj.weight.to(dtype))
        self._keep("temporal_out_bias", temporal.output_proj.bias.to(dtype))
        control = _Control.of(spatial.deformable_attention)
        self._keep("spatial_query", control.weight.to(dtype))
        self._keep("spatial_bias", control.bias.to(dtype))
        self._keep("spatial_out_weight", spatial.output_proj.weight.to(dtype))
        self._keep("spatial_out_bias", spatial.output_proj.bias.to(dtype))
        wide, narrow = cast(nn.Linear, cast(nn.Sequential, self.ffn.layers[0])[0]), cast(nn.Linear, self.ffn.layers[1])
        for name, linear in (("wide", wide), ("narrow", narrow)):
            self._keep(f"{name}_weight", linear.weight.to(dtype))
            self._keep(f"{name}_bias", linear.bias.to(dtype))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().contiguous(), persistent=False)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """x times the weights of one part, with its bias."""
        weight = self.get_buffer(f"{name}_weight")
        return functional.linear(x.to(weight.dtype), weight, self.get_buffer(f"{name}_bias"))

    def norm(self, index: int) -> tuple[Tensor, Tensor, float]:
        """Arguments of `add_norm` for one of the three norms."""
        norm = cast(nn.LayerNorm, self.norms[index])
        return norm.weight, norm.bias, norm.eps

    def feed_forward(self, x: Tensor) -> Tensor:
        """The perceptron without its shortcut."""
        return self.linear("narrow", functional.relu(self.linear("wide", x)))


class StaticBEVFormer(nn.Module):
    """Inference with fixed weights, rig, grid and image size; gradients are not computed.

    Built from a `BEVFormer` whose weights are final: later changes of them have no effect here.
    """

    def __init__(
        self,
        encoder: BEVFormer,
        geometry: RigGeometry,
        levels_hw: list[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        compiler: str | None = None,
    ) -> None:
        """dtype: of matrix products and tables; positions, softmax and norms stay in float32. compiler: a backend of
        torch.compile ("inductor") for the arithmetic around the gathers, on CUDA for the whole frame as a graph; the
        first call then takes minutes.
        """
        super().__init__()
        config = encoder.config
        if config.mix_batch:
            raise ValueError("mix_batch reproduces a mistake of the official code; only `BEVFormer` does that")
        if len(levels_hw) != config.levels:
            raise ValueError(f"levels_hw must name {config.levels} map sizes, got {levels_hw}")
        self.config: BEVFormerConfig = config
        self.levels_hw = levels_hw
        self.dtype = dtype
        self.geometry = geometry
        self.encoder = encoder.eval().requires_grad_(False)
        with torch.no_grad():
            self._fold(encoder, dtype)
        self._temporal_rows, self._spatial_rows, self._add_norm = temporal_rows, spatial_rows, add_norm
        self._whole = self._frame
        if compiler and encoder.bev_embedding.weight.is_cuda:
            mode = "reduce-overhead" if compiler == "inductor" else None  # which records a CUDA graph
            self._whole = torch.compile(self._frame, dynamic=False, backend=compiler, mode=mode)
        elif compiler:
            self._temporal_rows = torch.compile(temporal_rows, dynamic=False, backend=compiler)
            self._spatial_rows = torch.compile(spatial_rows, dynamic=False, backend=compiler)
            self._add_norm = torch.compile(add_norm, dynamic=False, backend=compiler)

    def _fold(self, encoder: BEVFormer, dtype: torch.dtype) -> None:
        transformer = encoder.transformer
        layers = [cast(EncoderLayer, layer) for layer in transformer.encoder.layers]
        position, grid = encoder.positional_encoding(), self.config.grid
        self.layers = nn.ModuleList(StaticLayer(layer, position, dtype) for layer in layers)
        projections = [
            cast(SpatialCrossAttention, layer.attentions[1]).deformable_attention.value_proj for layer in layers
        ]
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        embeddings = transformer.level_embeds[: self.config.levels, None].expand(-1, self.config.cameras, -1)
        if self.config.camera_embeds:
            embeddings = embeddings + transformer.cams_embeds
        self.register_buffer("value_weight", weight.to(dtype), persistent=False)
        self.register_buffer("value_bias", functional.linear(embeddings, weight, bias).to(dtype), persistent=False)
        for name in ("temporal_memory", "temporal_value_weight", "temporal_value_bias"):
            stacked = torch.cat([layer.get_buffer(name) for layer in self.layers])
            self.register_buffer(f"all_{name}", stacked, persistent=False)
        # The first queries are the embedding plus one vector per frame, so are their values.
        values = [cast(TemporalSelfAttention, layer.attentions[0]).value_proj for layer in layers]
        embedding = torch.stack([projection(encoder.bev_embedding.weight) for projection in values])
        self.register_buffer("embedding_values", embedding.unflatten(1, (grid.rows, grid.columns)), persistent=False)

    @torch.no_grad()
    def forward(
        self,
        features: list[Tensor],
        can_bus: Tensor,
        memory: Tensor | None = None,
        has_memory: Tensor | None = None,
        camera_valid: Tensor | None = None,
        motion: Tensor | None = None,
        mark: Mark = no_mark,
    ) -> Tensor:
        """BEV features (b, cells, d), float32; arguments as in `BEVFormer.forward`, features of the given sizes."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in features]
        if sizes != self.levels_hw:
            raise ValueError(f"this encoder was made for maps of {self.levels_hw}, got {sizes}; make one for these")
        if camera_valid is None:
            camera_valid = torch.ones(can_bus.shape[0], self.geometry.cameras, dtype=torch.bool, device=can_bus.device)
        if mark is not no_mark:
            return self._frame(features, can_bus, memory, has_memory, camera_valid, motion, mark)
        # Copied: the graph's output memory is reused by its next run, while this result is the next frame's memory.
        output = self._whole(features, can_bus, memory, has_memory, camera_valid, motion)
        return output if self._whole == self._frame else output.clone()

    def _frame(
        self,
        features: list[Tensor],
        can_bus: Tensor,
        memory: Tensor | None,
        has_memory: Tensor | None,
        camera_valid: Tensor,
        motion: Tensor | None,
        mark: Mark = no_mark,
    ) -> Tensor:
        encoder, geometry = self.encoder, self.geometry
        query = encoder.first_query(can_bus)
        maps, references = encoder.align(query, can_bus, geometry, memory, has_memory, motion)
        temporal = TemporalContext.build(self.config, references)
        mark("align")
        tables = self._image_tables(features)
        weights = geometry.pair_weights(camera_valid)[..., None, None]
        layout, anchor_x, anchor_y = self._image_layout(can_bus.shape[0])
        mark("values")
        shared = None if maps is None else self._shared(maps, encoder.ego(can_bus))
        per_sample = None if self.config.warp == "affine" or maps is None else has_memory
        rough = query.to(self.dtype)
        for index, layer in enumerate(self.layers):
            layer = cast(StaticLayer, layer)
            remembered, table = self._temporal_inputs(layer, index, rough, shared, per_sample)
            own = functional.linear(rough, layer.get_buffer("temporal_query"))
            constant = layer.get_buffer("temporal_constant")
            rows, shares = self._temporal_rows(
                own, constant, remembered, temporal.x, temporal.y, temporal.layout, self.config.heads
            )
            read = gather_rows(table, rows, shares).flatten(2)
            query, rough = self._add_norm(query, layer.linear("temporal_out", read), *layer.norm(0))
            mark("temporal")
            control = functional.linear(rough, layer.get_buffer("spatial_query"), layer.get_buffer("spatial_bias"))
            rows, shares = self._spatial_rows(
                control, geometry.pair_cell, weights, anchor_x, anchor_y, layout, self.config.heads
            )
            read = gather_rows(tables[index], rows, shares).flatten(2)
            slots = torch.zeros_like(rough).index_add_(1, geometry.pair_cell, read)
            query, rough = self._add_norm(query, layer.linear("spatial_out", slots), *layer.norm(1))
            mark("spatial")
            query, rough = self._add_norm(query, layer.feed_forward(rough), *layer.norm(2))
            mark("ffn")
        return query

    def _image_tables(self, features: list[Tensor]) -> Tensor:
        """Projected image tokens of all layers (layers, rows, channels of a head), each level in its ring of zeros."""
        config, layers = self.config, self.config.layers
        images = features[0].shape[0] * features[0].shape[1]
        areas = [(height + 2 * RING) * (width + 2 * RING) for height, width in self.levels_hw]
        table = torch.zeros(layers, images, sum(areas), config.embed_dims, dtype=self.dtype, device=features[0].device)
        start = 0
        for level, (feature, (height, width), area) in enumerate(zip(features, self.levels_hw, areas, strict=True)):
            tokens = feature.to(self.dtype).flatten(3).transpose(2, 3)
            values = tokens @ self.get_buffer("value_weight").t() + self.get_buffer("value_bias")[level][:, None]
            inside = table[:, :, start : start + area].unflatten(2, (height + 2 * RING, width + 2 * RING))
            inside[:, :, RING:-RING, RING:-RING] = values.view(images, height, width, layers, -1).permute(3, 0, 1, 2, 4)
            start += area
        return table.view(layers, -1, config.embed_dims // config.heads)

    def _image_layout(self, b: int) -> tuple[TableLayout, Tensor, Tensor]:
        """Where each pair's points lie in a layer's table, and their anchors [cells]."""
        config, geometry = self.config, self.geometry
        device, points = geometry.pair_cell.device, config.spatial_points
        layout = table_layout(self.levels_hw, config.heads, device, points)
        rows_per_image = sum((h + 2 * RING) * (w + 2 * RING) for h, w in self.levels_hw) * config.heads
        first_image = torch.arange(b, dtype=torch.int32, device=device)[:, None] * geometry.cameras
        rows = ((first_image + geometry.pair_camera) * rows_per_image).to(torch.int32)
        u, v = geometry.pair_uv.repeat(1, points // geometry.grid.pillar_points * config.levels, 1)[:, None].unbind(-1)
        return layout.shifted(rows[..., None, None]), u * layout.width - 0.5, v * layout.height - 0.5

    def _shared(self, maps: Tensor, ego: Tensor) -> tuple[Tensor, Tensor]:
        """What all layers take from the same maps: controls (b, n, layers, k) and tables (layers, rows, channels).

        maps (b, 2, n, d), the second of which are the first queries; ego (b, d): see `BEVFormer.ego`.
        """
        memory = maps[:, 0].to(self.dtype)
        controls = functional.linear(memory, self.get_buffer("all_temporal_memory"))
        weight, bias = self.get_buffer("all_temporal_value_weight"), self.get_buffer("all_temporal_value_bias")
        table, inside = self._temporal_table(maps.shape[0], self.config.layers)
        inside[:, :, 0] = self._as_maps(functional.linear(memory, weight, bias))
        ego_values = functional.linear(ego.to(self.dtype), weight).unflatten(-1, (self.config.layers, -1))
        inside[:, :, 1] = self.get_buffer("embedding_values")[:, None] + ego_values.transpose(0, 1)[:, :, None, None]
        return controls.unflatten(-1, (self.config.layers, -1)), table

    def _as_maps(self, values: Tensor) -> Tensor:
        """values (b, n, layers * d) as a view (layers, b, rows, columns, d)."""
        grid = self.config.grid
        maps = values.unflatten(-1, (-1, self.config.embed_dims)).unflatten(1, (grid.rows, grid.columns))
        return maps.permute(3, 0, 1, 2, 4)

    def _temporal_table(self, b: int, layers: int) -> tuple[Tensor, Tensor]:
        """A table of zeros (layers, rows, channels of a head), and its maps inside their rings as a view
        (layers, b, 2, rows, columns, d)."""
        grid, config = self.config.grid, self.config
        size = (layers, b, MAPS, grid.rows + 2 * RING, grid.columns + 2 * RING, config.embed_dims)
        table = torch.zeros(size, dtype=self.dtype, device=self.geometry.pair_cell.device)
        inside = table[:, :, :, RING:-RING, RING:-RING]
        return table.view(layers, -1, config.embed_dims // config.heads), inside

    def _temporal_inputs(
        self,
        layer: StaticLayer,
        index: int,
        query: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        has_memory: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The memory's part of the control (b, n, k) and the value table of one layer.

        Samples without a memory read the layer's own input twice, as the official encoder does.
        """
        if shared is not None and has_memory is None:
            return shared[0][:, :, index], shared[1][index]
        remembered = functional.linear(query, layer.get_buffer("temporal_memory"))
        table, inside = self._temporal_table(query.shape[0], 1)
        inside[:] = self._as_maps(layer.linear("temporal_value", query))[:, :, None]
        table = table[0]
        if shared is None or has_memory is None:
            return remembered, table
        chosen = has_memory[:, None, None]
        tables = [rows.view(query.shape[0], -1, table.shape[-1]) for rows in (shared[1][index], table)]
        mixed = torch.where(chosen, tables[0], tables[1])
        return torch.where(chosen, shared[0][:, :, index], remembered), mixed.flatten(0, 1)
