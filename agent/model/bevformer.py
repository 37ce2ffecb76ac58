"""BEVFormer's encoder (Li et al. 2022) in plain PyTorch, with the official parameter names below `pts_bbox_head.`.

Three sampling paths give the same numbers: "plain" loops over cameras and uses `grid_sample`; "static" reads only the
(cell, camera) pairs a fixed rig can see, all at once; "mmcv" hands every camera's cells to a compiled mmcv's operator.
Batches never mix, unlike the official code's.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.model.bev_grid import BevGrid, RigGeometry, official_shift, rotate_memory, warp_memory
from agent.model.constants import constant
from agent.model.deformable import RING, TableLayout, ringed, sample_plain, sample_table, softmax_of_few, table_layout
from agent.model.multi_scale_op import MultiScaleOp, mmcv_op, run_levels

CAN_BUS_SIZE = 18
MAPS = 2
"""Temporal attention reads two maps: the memory and the current queries."""
WARPS = ("official", "affine")
PATHS = ("static", "plain")
MMCV_PATH = "mmcv"
"""Needs an operator that is not ours, see `agent.model.multi_scale_op`."""
OFFICIAL_TINY_GRID = BevGrid(50, 50, (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0))


@dataclass(frozen=True)
class BEVFormerConfig:
    """Shape and conventions of the encoder; the defaults are the official "tiny" model."""

    grid: BevGrid = OFFICIAL_TINY_GRID
    embed_dims: int = 256
    heads: int = 8
    layers: int = 3
    levels: int = 1
    """Feature maps per camera."""
    level_embeds: int = 4
    """Stored level embeddings; official checkpoints have 4 however many levels are used."""
    cameras: int = 6
    temporal_points: int = 4
    spatial_points: int = 8
    """Sampled points per level, a multiple of the grid's pillar points: point p belongs to anchor p % pillar_points."""
    ffn_dims: int = 512
    dropout: float = 0.0
    """In both attentions while training; the official models use 0.1."""
    camera_embeds: bool = True
    can_bus_norm: bool = True
    warp: str = "official"
    """"official": memory rotated to the nearest cell and translated through the reference points, as official weights
    expect; "affine": one bilinear rigid warp."""
    rotate_centre_px: tuple[float, float] | None = None
    """(column, row) that official rotation turns about; None is the car. The official default (100, 100) is right on
    a centred 200 x 200 grid only, but models trained with it need it."""
    alias_shift: bool = False
    """Translate the current map's reference points too, as Bench2DriveZoo's models were trained."""
    mix_batch: bool = False
    """Feed samples the first half of the interleaved (memory, query) list in front of their queries, as the official
    code does by mistake. Only to reproduce its outputs for batches over 1."""

    def __post_init__(self) -> None:
        if self.embed_dims % self.heads or self.embed_dims % 2:
            raise ValueError(f"embed_dims must be even and a multiple of heads, got {self.embed_dims} and {self.heads}")
        if self.spatial_points % self.grid.pillar_points:
            raise ValueError(
                f"spatial_points must be a multiple of pillar_points, got {self.spatial_points} and "
                f"{self.grid.pillar_points}"
            )
        if self.levels > self.level_embeds:
            raise ValueError(f"levels ({self.levels}) exceeds level_embeds ({self.level_embeds})")
        if self.warp not in WARPS:
            raise ValueError(f"warp must be one of {WARPS}, got {self.warp!r}")


def _offset_bias(heads: int, groups: int, points: int) -> Tensor:
    """Initial offsets: head i looks in the i-th direction, point p lies p + 1 cells away (Deformable DETR)."""
    angles = torch.arange(heads) * (2.0 * math.pi / heads)
    direction = torch.stack([angles.cos(), angles.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    reach = torch.arange(1, points + 1, dtype=torch.float32)
    return (direction[:, None, None] * reach[:, None]).expand(-1, groups, -1, -1).flatten()


def _projection(dims: int) -> nn.Linear:
    linear = nn.Linear(dims, dims)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class DeformableWeights(nn.Module):
    """Parameters of one deformable attention under their official names."""

    def __init__(self, dims: int, query_dims: int, heads: int, groups: int, points: int) -> None:
        """groups: maps or levels, each with its own offsets."""
        super().__init__()
        self.sampling_offsets = nn.Linear(query_dims, heads * groups * points * 2)
        self.attention_weights = nn.Linear(query_dims, heads * groups * points)
        self.value_proj = _projection(dims)
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(_offset_bias(heads, groups, points))

    def control(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets along x, along y [cells] and attention logits by one matrix product, in float32: positions need it.

        query (b, n, query_dims) -> three tensors (b, n, heads * groups * points).
        """
        weight, bias = self.sampling_offsets.weight, self.sampling_offsets.bias
        # Stored with x and y interleaved; apart, every step after this works on contiguous memory.
        weight = torch.cat([weight[0::2], weight[1::2], self.attention_weights.weight])
        bias = torch.cat([bias[0::2], bias[1::2], self.attention_weights.bias])
        offset_x, offset_y, logits = functional.linear(query, weight, bias).float().chunk(3, -1)
        return offset_x, offset_y, logits


class TemporalSelfAttention(DeformableWeights):
    """BEV queries read the aligned memory and the current queries around their own cell."""

    def __init__(self, config: BEVFormerConfig) -> None:
        super().__init__(config.embed_dims, 2 * config.embed_dims, config.heads, MAPS, config.temporal_points)
        self.config = config
        self.output_proj = _projection(config.embed_dims)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tensor, position: Tensor, maps: Tensor, context: "TemporalContext", path: str) -> Tensor:
        """query (b, n, d), position (n, d), maps (b, 2, n, d) -> (b, n, d)."""
        b, n, _ = query.shape
        grid = self.config.grid
        shape = (b, n, self.config.heads, MAPS, self.config.temporal_points)
        in_front = maps.flatten(0, 1)[:b] if self.config.mix_batch else maps[:, 0]
        offset_x, offset_y, logits = self.control(torch.cat([in_front, query + position], -1))
        x = context.x[:, :, None, :, None] + offset_x.view(shape)
        y = context.y[:, :, None, :, None] + offset_y.view(shape)
        attention = softmax_of_few(logits.view(shape)) / MAPS
        values = self.value_proj(maps).unflatten(2, (grid.rows, grid.columns))
        if context.op is not None:
            read = self._read_op(context.op, values, x, y, attention)
        else:
            read = (self._read_plain if path == "plain" else self._read_static)(values, x, y, attention, context)
        return self.dropout(self.output_proj(read.to(query.dtype))) + query

    def _read_op(self, op: MultiScaleOp, values: Tensor, x: Tensor, y: Tensor, attention: Tensor) -> Tensor:
        b, heads = x.shape[0], self.config.heads
        maps = values.flatten(0, 1).float().unflatten(-1, (heads, -1))
        x, y, attention = (value.permute(0, 3, 1, 2, 4).flatten(0, 1)[:, :, :, None] for value in (x, y, attention))
        return run_levels(op, [maps], x, y, attention).unflatten(0, (b, MAPS)).sum(1)

    def _read_plain(
        self, values: Tensor, x: Tensor, y: Tensor, attention: Tensor, context: "TemporalContext"
    ) -> Tensor:
        heads = self.config.heads
        memory, current = (
            sample_plain(
                values[:, index].float().unflatten(-1, (heads, -1)),
                x[:, :, :, index],
                y[:, :, :, index],
                attention[:, :, :, index],
            )
            for index in range(MAPS)
        )
        return memory + current

    def _read_static(
        self, values: Tensor, x: Tensor, y: Tensor, attention: Tensor, context: "TemporalContext"
    ) -> Tensor:
        table = ringed(values).view(-1, self.config.embed_dims // self.config.heads)
        return sample_table(table, x.flatten(3), y.flatten(3), attention.flatten(3), context.layout).flatten(2)


@dataclass(frozen=True)
class TemporalContext:
    """Where the temporal attention of all layers looks from."""

    x: Tensor
    """(b, n, 2 maps): reference points of each cell in either map [cells]"""
    y: Tensor
    layout: TableLayout
    op: MultiScaleOp | None = None
    """Reads instead of our own sampling."""

    @classmethod
    def build(cls, config: BEVFormerConfig, references: Tensor, op: MultiScaleOp | None = None) -> "TemporalContext":
        """references (b, n, 2 maps, 2): fractions (x, y) of the grid."""
        b, grid, device = references.shape[0], config.grid, references.device
        layout = table_layout([(grid.rows, grid.columns)], config.heads, device)
        rows_per_map = (grid.rows + 2 * RING) * (grid.columns + 2 * RING) * config.heads
        maps = torch.arange(b * MAPS, dtype=torch.int32, device=device).view(b, 1, 1, MAPS) * rows_per_map
        layout = layout.shifted(maps.repeat_interleave(config.temporal_points, -1))
        x, y = references.unbind(-1)
        return cls(x * grid.columns - 0.5, y * grid.rows - 0.5, layout, op)


class SpatialCrossAttention(nn.Module):
    """BEV queries read, around the projections of their pillars, the cameras that see them; the mean over cameras."""

    def __init__(self, config: BEVFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.deformable_attention = DeformableWeights(
            config.embed_dims, config.embed_dims, config.heads, config.levels, config.spatial_points
        )
        self.output_proj = _projection(config.embed_dims)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tensor, values: list[Tensor], context: "SpatialContext", path: str) -> Tensor:
        """query (b, n, d), values: projected maps (b, cameras, h, w, d) of every level -> (b, n, d)."""
        offset_x, offset_y, logits = (
            control.unflatten(-1, (self.config.heads, -1)) for control in self.deformable_attention.control(query)
        )
        attention = softmax_of_few(logits)
        read = self._read_plain if path == "plain" else self._read_static
        read = self._read_op if context.op is not None else read
        slots = read(values, context, offset_x, offset_y, attention)
        return self.dropout(self.output_proj(slots.to(query.dtype))) + query

    def _read_plain(
        self, values: list[Tensor], context: "SpatialContext", offset_x: Tensor, offset_y: Tensor, attention: Tensor
    ) -> Tensor:
        b, n, heads = offset_x.shape[:3]
        geometry, points = context.geometry, self.config.spatial_points
        repeats = points // geometry.grid.pillar_points
        seen = geometry.visible & context.camera_valid[..., None]
        total = offset_x.new_zeros(b, n, self.config.embed_dims)
        for camera in range(geometry.cameras):
            anchor_x, anchor_y = geometry.anchors_uv[camera].repeat(1, repeats, 1)[:, None].unbind(-1)
            for level, maps in enumerate(values):
                height, width = maps.shape[2:4]
                own = slice(level * points, (level + 1) * points)
                read = sample_plain(
                    maps[:, camera].float().unflatten(-1, (heads, -1)),
                    anchor_x * width - 0.5 + offset_x[..., own],
                    anchor_y * height - 0.5 + offset_y[..., own],
                    attention[..., own],
                )
                total = total + read * seen[:, camera, :, None]
        return total / seen.sum(1).clamp(min=1)[..., None]

    def _read_static(
        self, values: list[Tensor], context: "SpatialContext", offset_x: Tensor, offset_y: Tensor, attention: Tensor
    ) -> Tensor:
        b, n, heads = offset_x.shape[:3]
        cell = context.geometry.pair_cell
        table = torch.cat([ringed(maps).flatten(2, 3) for maps in values], 2).view(-1, self.config.embed_dims // heads)
        read = sample_table(
            table,
            context.x + offset_x[:, cell],
            context.y + offset_y[:, cell],
            attention[:, cell] * context.pair_weights,
            context.layout,
        ).flatten(2)
        return read.new_zeros(b, n, self.config.embed_dims).index_add(1, cell, read)

    def _read_op(
        self, values: list[Tensor], context: "SpatialContext", offset_x: Tensor, offset_y: Tensor, attention: Tensor
    ) -> Tensor:
        """Each camera's visible cells, padded to the busiest camera's by a static table."""
        assert context.op is not None
        b, n, heads = offset_x.shape[:3]
        geometry, points = context.geometry, self.config.spatial_points
        cells, weights = geometry.padded(context.camera_valid)
        anchors = geometry.anchors_uv.gather(1, cells[..., None, None].expand(-1, -1, *geometry.anchors_uv.shape[2:]))
        u, v = anchors.repeat(1, 1, points // geometry.grid.pillar_points, 1)[:, :, None, None].unbind(-1)
        shapes = [size for level in values for size in level.shape[2:4]]
        sizes = constant(tuple(shapes), u.device, u.dtype).view(-1, 2, 1)
        x, y, shares = (
            control[:, cells].unflatten(-1, (len(values), points)) for control in (offset_x, offset_y, attention)
        )
        x, y = u * sizes[:, 1] - 0.5 + x, v * sizes[:, 0] - 0.5 + y
        maps = [level.flatten(0, 1).float().unflatten(-1, (heads, -1)) for level in values]
        shares = shares * weights[..., None, None, None]
        read = run_levels(context.op, maps, x.flatten(0, 1), y.flatten(0, 1), shares.flatten(0, 1))
        summed = read.new_zeros(b, n, self.config.embed_dims)
        return summed.index_add(1, cells.flatten(), read.unflatten(0, (b, -1)).flatten(1, 2))


@dataclass(frozen=True)
class SpatialContext:
    """What the cross attention of all layers shares: a rig's geometry with this batch's working cameras."""

    geometry: RigGeometry
    camera_valid: Tensor
    """bool (b, cameras)"""
    pair_weights: Tensor
    """(b, p, 1, 1), see `RigGeometry.pair_weights`"""
    x: Tensor
    """(p, 1, levels * points): the anchor each point of a visible pair belongs to [cells of its level]"""
    y: Tensor
    layout: TableLayout
    op: MultiScaleOp | None = None
    """Reads instead of our own sampling."""

    @classmethod
    def build(
        cls,
        config: BEVFormerConfig,
        geometry: RigGeometry,
        features: list[Tensor],
        camera_valid: Tensor,
        op: MultiScaleOp | None = None,
    ) -> "SpatialContext":
        """features: maps (b, cameras, d, h, w) of every level; only their sizes are used."""
        b, points, device = camera_valid.shape[0], config.spatial_points, camera_valid.device
        levels_hw = [(level.shape[-2], level.shape[-1]) for level in features]
        layout = table_layout(levels_hw, config.heads, device, points)
        rows_per_image = sum((h + 2 * RING) * (w + 2 * RING) for h, w in levels_hw) * config.heads
        first_image = torch.arange(b, dtype=torch.int32, device=device)[:, None] * geometry.cameras
        rows = ((first_image + geometry.pair_camera) * rows_per_image).to(torch.int32)
        repeats = points // geometry.grid.pillar_points * len(features)
        u, v = geometry.pair_uv.repeat(1, repeats, 1)[:, None].unbind(-1)
        return cls(
            geometry,
            camera_valid,
            geometry.pair_weights(camera_valid)[..., None, None],
            u * layout.width - 0.5,
            v * layout.height - 0.5,
            layout.shifted(rows[..., None, None]),
            op,
        )


class FeedForward(nn.Module):
    """Two-layer perceptron with its shortcut, official names."""

    def __init__(self, dims: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dims, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)), nn.Linear(hidden, dims)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.layers(x))


class EncoderLayer(nn.Module):
    """Temporal attention, spatial attention and perceptron, each followed by a layer norm."""

    def __init__(self, config: BEVFormerConfig) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([TemporalSelfAttention(config), SpatialCrossAttention(config)])
        self.ffns = nn.ModuleList([FeedForward(config.embed_dims, config.ffn_dims, config.dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(config.embed_dims) for _ in range(3))

    def forward(
        self, query: Tensor, position: Tensor, maps: Tensor, values: list[Tensor], around: "Surroundings"
    ) -> Tensor:
        """query (b, n, d), position (n, d), maps (b, 2, n, d), values: see `SpatialCrossAttention` -> (b, n, d)."""
        query = self.attentions[0](query, position, maps, around.temporal, around.path)
        around.record("tsa", query)
        query = self.attentions[1](self.norms[0](query), values, around.spatial, around.path)
        around.record("sca", query)
        query = self.norms[2](self.ffns[0](self.norms[1](query)))
        around.record("out", query)
        return query


@dataclass(frozen=True)
class Surroundings:
    """What all layers of one pass share."""

    temporal: TemporalContext
    spatial: SpatialContext
    path: str
    taps: dict[str, list[Tensor]] | None
    """Filled, if given, with each layer's results after its attentions ("tsa", "sca") and at its end ("out")."""

    def record(self, name: str, value: Tensor) -> None:
        if self.taps is not None:
            self.taps.setdefault(name, []).append(value)


class LearnedPosition(nn.Module):
    """Position of a cell: the embedding of its column beside that of its row."""

    def __init__(self, rows: int, columns: int, dims: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(rows, dims // 2)
        self.col_embed = nn.Embedding(columns, dims // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self) -> Tensor:
        """(rows * columns, dims)"""
        row, column = self.row_embed.weight, self.col_embed.weight
        rows, columns = row.shape[0], column.shape[0]
        return torch.cat([column[None].expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)], -1).flatten(0, 1)


class LayerStack(nn.Module):
    """`encoder.layers` of the official names."""

    def __init__(self, config: BEVFormerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))


class PerceptionTransformer(nn.Module):
    """Embeddings, ego perceptron and layers: `transformer.` of the official names."""

    def __init__(self, config: BEVFormerConfig) -> None:
        super().__init__()
        dims = config.embed_dims
        self.level_embeds = nn.Parameter(torch.randn(config.level_embeds, dims))
        self.cams_embeds = nn.Parameter(torch.randn(config.cameras, dims))
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(CAN_BUS_SIZE, dims // 2), nn.ReLU(inplace=True), nn.Linear(dims // 2, dims), nn.ReLU(inplace=True)
        )
        if config.can_bus_norm:
            self.can_bus_mlp.add_module("norm", nn.LayerNorm(dims))
        self.encoder = LayerStack(config)


class BEVFormer(nn.Module):
    """Image features and ego motion to BEV features, with the previous BEV features as memory."""

    def __init__(self, config: BEVFormerConfig, path: str = "static", op: MultiScaleOp | None = None) -> None:
        """op: another operator for the path "mmcv". Raises: ImportError if there is none for it."""
        super().__init__()
        if path not in (*PATHS, MMCV_PATH):
            raise ValueError(f"path must be one of {(*PATHS, MMCV_PATH)}, got {path!r}")
        self.config = config
        self.path = path
        self._op = (op or mmcv_op()) if path == MMCV_PATH else None
        self.bev_embedding = nn.Embedding(config.grid.cells, config.embed_dims)
        self.positional_encoding = LearnedPosition(config.grid.rows, config.grid.columns, config.embed_dims)
        self.transformer = PerceptionTransformer(config)

    def forward(
        self,
        features: list[Tensor],
        can_bus: Tensor,
        geometry: RigGeometry,
        memory: Tensor | None = None,
        has_memory: Tensor | None = None,
        camera_valid: Tensor | None = None,
        motion: Tensor | None = None,
        taps: dict[str, list[Tensor]] | None = None,
    ) -> Tensor:
        """BEV features (b, cells, d).

        features: per level (b, cameras, d, h, w). can_bus (b, 18): official layout with displacement [m] at 0, 1,
        heading [rad] at 16 and turn [deg] at 17. memory (b, cells, d): the previous output, has_memory bool (b,): which
        samples have one (all, if not given). camera_valid bool (b, cameras): cameras not to be left out. motion (b, 3),
        needed by the "affine" warp: see `warp_memory`. taps: see `Surroundings`.
        """
        config, transformer = self.config, self.transformer
        b = can_bus.shape[0]
        if camera_valid is None:
            camera_valid = torch.ones(b, geometry.cameras, dtype=torch.bool, device=can_bus.device)
        query = self.first_query(can_bus)
        position = self.positional_encoding()
        spatial = SpatialContext.build(config, geometry, features, camera_valid, self._op)
        values = self.project_values(features)
        maps, references = self.align(query, can_bus, geometry, memory, has_memory, motion)
        around = Surroundings(TemporalContext.build(config, references, self._op), spatial, self.path, taps)
        for layer, layer_values in zip(transformer.encoder.layers, values, strict=True):
            query = layer(query, position, self._layer_maps(maps, query, has_memory), layer_values, around)
        return query

    def ego(self, can_bus: Tensor) -> Tensor:
        """What the ego vector adds to every query: can_bus (b, 18) -> (b, d)."""
        return self.transformer.can_bus_mlp(can_bus.to(self.bev_embedding.weight.dtype))

    def first_query(self, can_bus: Tensor) -> Tensor:
        """The queries before the first layer: can_bus (b, 18) -> (b, n, d)."""
        return self.bev_embedding.weight[None] + self.ego(can_bus)[:, None]

    def _layer_maps(self, maps: Tensor | None, query: Tensor, has_memory: Tensor | None) -> Tensor:
        """The two maps (b, 2, n, d) one layer's temporal attention reads.

        Without a memory the official encoder reads its own input twice, layer by layer; with one, the memory and the
        first layer's queries in all layers.
        """
        if maps is None:
            return torch.stack([query, query], 1)
        if has_memory is None or self.config.warp == "affine":
            return maps
        return torch.where(has_memory[:, None, None, None], maps, query[:, None])

    def project_values(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Image tokens with their embeddings, projected for all layers by one matrix product per level.

        Returns maps (b, cameras, h, w, d), indexed by layer and level.
        """
        transformer = self.transformer
        names = [f"{index}.attentions.1.deformable_attention.value_proj" for index in range(self.config.layers)]
        projections = [cast(nn.Linear, transformer.encoder.layers.get_submodule(name)) for name in names]
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        by_level = []
        for level, feature in enumerate(features):
            embedded = feature.permute(0, 1, 3, 4, 2) + transformer.level_embeds[level]
            if self.config.camera_embeds:
                embedded = embedded + transformer.cams_embeds[:, None, None]
            by_level.append(functional.linear(embedded, weight, bias).chunk(len(projections), -1))
        return [list(maps) for maps in zip(*by_level, strict=True)]

    def align(
        self,
        query: Tensor,
        can_bus: Tensor,
        geometry: RigGeometry,
        memory: Tensor | None,
        has_memory: Tensor | None,
        motion: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """The two temporal maps (b, 2, n, d), None if each layer reads its own input, and references (b, n, 2, 2)."""
        config = self.config
        references = geometry.centres[None, :, None].expand(query.shape[0], -1, MAPS, -1)
        if config.warp == "affine":
            return torch.stack([self._warped(query, memory, has_memory, motion), query], 1), references
        if memory is None:
            return None, references
        centre = config.rotate_centre_px or config.grid.origin_px
        aligned = rotate_memory(memory, config.grid, torch.deg2rad(can_bus[:, 17]), centre)
        shift = official_shift(can_bus, config.grid).to(references.dtype)
        if has_memory is not None:
            shift = shift * has_memory[:, None]
        current = shift if config.alias_shift else torch.zeros_like(shift)
        return torch.stack([aligned.to(query.dtype), query], 1), references + torch.stack([shift, current], 1)[:, None]

    def _warped(self, query: Tensor, memory: Tensor | None, has_memory: Tensor | None, motion: Tensor | None) -> Tensor:
        """The memory moved into the current frame; samples without one read the queries instead."""
        if memory is None:
            return query
        if motion is None:
            raise ValueError("warp='affine' aligns the memory by `motion`; pass it, or use warp='official'")
        warped = warp_memory(memory, self.config.grid, motion).to(query.dtype)
        return warped if has_memory is None else torch.where(has_memory[:, None, None], warped, query)
