"""The driving network: cameras -> BEV features -> neck (with the sparse route) -> e_t -> RSSM (h_t, z_t) -> policy.

All geometry is in the ego frame (x forward, y left). BEV maps have row 0 at the rear and column 0 at the left, as the
image encoder returns them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from agent.model.heads import ConvNormAct, LatentMaskHead, MaskHead, NormAct, mlp
from agent.model.image_encoder import EncoderConfig, ImageEncoder
from agent.model.official import OFFICIAL_MODELS
from agent.model.policy import Policy, PolicyConfig
from agent.model.rssm import Belief, LatentState, Rssm, RssmConfig
from agent.route import ROUTE_POINTS, VECTOR_SIZE

MASKS = (
    "road",
    "lane_lines",
    "ego_lanes",
    "vehicle",
    "walker",
    "red_light",
    "yellow_light",
    "green_light",
    "stop_sign",
)
"""BEV masks the heads predict, in order."""

PATH_DISTANCES_M = (4.0, 8.0, 12.0, 16.0, 20.0)
"""Arc lengths ahead at which the lane centre to follow is predicted."""

AUXILIARY = (
    "lateral_offset_m",
    "heading_error_rad",
    "curvature_per_m",
    "stop_line_m",
    "lead_gap_m",
    "target_speed_mps",
    *(f"path_{axis}_{distance:.0f}_m" for distance in PATH_DISTANCES_M for axis in "xy"),
)
"""Privileged quantities regressed from e_t during training, in order (units in the names)."""

AUXILIARY_SCALE = (1.0, 0.2, 0.05, 20.0, 20.0, 4.0) + (5.0, 2.0) * len(PATH_DISTANCES_M)
"""Typical size of each auxiliary quantity: the heads predict value / scale."""


def small_encoder() -> EncoderConfig:
    """Encoder of the shipped agents: about one million parameters, 2 m cells from 8 m behind to 40 m ahead."""
    return EncoderConfig(
        backbone_depth=18,
        backbone_width=16,
        backbone_stages=(3, 4),
        levels=2,
        bev_rows=24,
        bev_columns=16,
        bev_range_m=(-16.0, -8.0, -0.5, 16.0, 40.0, 3.5),
        embed_dims=64,
        heads=4,
        layers=1,
        ffn_dims=128,
    )


def base_encoder() -> EncoderConfig:
    """BEVFormer-base's pyramid, grid and layers on this agent's images; ResNet-101 without deformable convolutions."""
    official = OFFICIAL_MODELS["base"]
    backbone, grid, bevformer = official.backbone, official.grid, official.bevformer
    return EncoderConfig(
        backbone_depth=backbone.depth,
        backbone_width=backbone.width,
        backbone_stages=tuple(backbone.out_stages),
        levels=official.levels,
        bev_rows=grid.rows,
        bev_columns=grid.columns,
        bev_range_m=grid.range_m,
        pillar_points=grid.pillar_points,
        embed_dims=bevformer.embed_dims,
        heads=bevformer.heads,
        layers=bevformer.layers,
        temporal_points=bevformer.temporal_points,
        spatial_points=bevformer.spatial_points,
        ffn_dims=bevformer.ffn_dims,
    )


EncoderSize = Literal["small", "base"]
ENCODERS: dict[EncoderSize, Callable[[], EncoderConfig]] = {"small": small_encoder, "base": base_encoder}


@dataclass(frozen=True, kw_only=True, slots=True)
class NeckConfig:
    """From BEV features to the embedding e_t."""

    width: int = 64
    """Channels of the convolutions; the last one has half of it."""
    embed: int = 384
    """Width of e_t."""
    route_width_m: float = 3.0
    """Distance from the route polyline at which its raster channel reaches zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingModelConfig:
    """Everything that fixes the shape of the driving model."""

    encoder: EncoderConfig = field(default_factory=small_encoder)
    neck: NeckConfig = field(default_factory=NeckConfig)
    rssm: RssmConfig = field(default_factory=RssmConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    mask_hidden: int = 48
    latent_mask_hidden: int = 256

    def __post_init__(self) -> None:
        if self.encoder.bev_rows % 4 or self.encoder.bev_columns % 4:
            raise ValueError(
                f"encoder.bev_rows and bev_columns must be multiples of 4 for the neck, got "
                f"{self.encoder.bev_rows} x {self.encoder.bev_columns}"
            )
        if self.rssm.actions != self.policy.actions:
            raise ValueError(f"rssm.actions {self.rssm.actions} differs from policy.actions {self.policy.actions}")


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the model sees at one decision (or, with a second axis t, at a sequence of them)."""

    images: UInt8[Tensor, "b *t 6 3 h w"]
    """RGB, Bench2Drive order of cameras."""
    camera_valid: Bool[Tensor, "b *t 6"]
    ego_motion: Float[Tensor, "b *t 3"]
    """dx, dy [m, ego frame of the previous decision], dyaw [rad, counter-clockwise] since the previous decision."""
    route: Float[Tensor, "b *t 8 2"]
    """Sparse plan in the current ego frame, from the last passed point on, padded by repeating the last point."""
    vector: Float[Tensor, "b *t v"]
    """speed/10, next two plan points/50, distance to the next/50, commands of the next and of the last passed point;
    behind these 18 the 13 of `agent.ego_vector.manoeuvre`, which this model does not read."""
    first: Bool[Tensor, " b *t"]
    """Start of an episode: memory and latent state are reset."""

    def at(self, t: int) -> ModelInput:
        """One step of a sequence."""
        return ModelInput(
            self.images[:, t],
            self.camera_valid[:, t],
            self.ego_motion[:, t],
            self.route[:, t],
            self.vector[:, t],
            self.first[:, t],
        )


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the model carries from one decision to the next."""

    latent: LatentState
    memory: Float[Tensor, "b cells d"]
    """BEV features of the previous decision."""
    has_memory: Bool[Tensor, " b"]
    seen: Float[Tensor, "b seen"] | None = None
    """What was seen of the ego vector, in units of its spread; by models that have to see some of it."""

    def detach(self) -> ModelState:
        """The same state, cut from the graph."""
        seen = None if self.seen is None else self.seen.detach()
        return ModelState(self.latent.detach(), self.memory.detach(), self.has_memory, seen)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Everything predicted for a sequence."""

    logits: Float[Tensor, "b t actions"]
    belief: Belief
    bev: Float[Tensor, "b t cells d"]
    """BEV features: the memory after each step."""
    masks: Float[Tensor, "b t masks rows columns"]
    """Mask logits from the BEV features (before the route is known)."""
    latent_masks: Float[Tensor, "b t masks r c"]
    """Coarse mask logits decoded from (h_t, z_t)."""
    auxiliary: Float[Tensor, "b t auxiliary"]
    """In units of AUXILIARY_SCALE."""
    state: ModelState


def route_raster(
    route: Float[Tensor, "b p 2"], centres_m: Float[Tensor, "rows columns 2"], width_m: float
) -> Float[Tensor, "b 1 rows columns"]:
    """The route polyline on the BEV grid: 1 on the line, falling linearly to 0 at width_m beside it."""
    start, end = route[:, :-1, None, None], route[:, 1:, None, None]
    direction = end - start
    offset = centres_m - start
    length2 = direction.square().sum(-1).clamp(min=1e-6)
    fraction = ((offset * direction).sum(-1) / length2).clamp(0.0, 1.0)
    distance = (offset - fraction[..., None] * direction).norm(dim=-1).amin(1)
    return (1.0 - distance / width_m).clamp(min=0.0)[:, None]


def cell_centres_m(encoder: EncoderConfig) -> Float[Tensor, "rows columns 2"]:
    """Ego coordinates (x forward, y left) of the BEV cells."""
    right_min, ahead_min, _, right_max, ahead_max, _ = encoder.bev_range_m
    rows, columns = encoder.bev_rows, encoder.bev_columns
    ahead = ahead_min + (torch.arange(rows) + 0.5) * (ahead_max - ahead_min) / rows
    right = right_min + (torch.arange(columns) + 0.5) * (right_max - right_min) / columns
    return torch.stack(torch.meshgrid(ahead, -right, indexing="ij"), -1).float()


class Neck(nn.Module):
    """BEV features, route raster and ego vector to the embedding e_t."""

    centres_m: Tensor

    def __init__(self, config: NeckConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centres_m", cell_centres_m(encoder), persistent=False)
        cells = (encoder.bev_rows // 4) * (encoder.bev_columns // 4)
        self.convolutions = nn.Sequential(
            ConvNormAct(encoder.embed_dims + 1, config.width),
            ConvNormAct(config.width, config.width, stride=2),
            ConvNormAct(config.width, config.width // 2, stride=2),
        )
        self.vector = nn.Sequential(nn.Linear(VECTOR_SIZE + 2 * ROUTE_POINTS, 64), NormAct(64))
        self.out = nn.Sequential(
            nn.Linear(cells * (config.width // 2) + 64, config.embed, bias=False), NormAct(config.embed)
        )

    def forward(
        self,
        bev: Float[Tensor, "b d rows columns"],
        route: Float[Tensor, "b 8 2"],
        vector: Float[Tensor, "b v"],
    ) -> Float[Tensor, "b embed"]:
        """e_t; of the vector the first 18 numbers are read."""
        raster = route_raster(route, self.centres_m, self.config.route_width_m)
        tokens = self.convolutions(torch.cat([bev, raster.to(bev.dtype)], 1)).flatten(1)
        # Points lie up to hundreds of metres away; the square root keeps the near ones resolved.
        points = (route / 50.0).clamp(-2.0, 2.0)
        points = points.sign() * points.abs().sqrt()
        ego = self.vector(torch.cat([vector[:, :VECTOR_SIZE], points.flatten(1)], -1))
        return self.out(torch.cat([tokens, ego.to(tokens.dtype)], -1))


class DrivingModel(nn.Module):
    """Encoder, neck, world model and policy, with the training heads that teach them to see."""

    def __init__(self, config: DrivingModelConfig) -> None:
        super().__init__()
        self.config = config
        encoder, rssm = config.encoder, config.rssm
        self.encoder = ImageEncoder(encoder)
        self.neck = Neck(config.neck, encoder)
        self.rssm = Rssm(rssm, config.neck.embed)
        self.policy = Policy(config.policy, embed=config.neck.embed, stoch=rssm.stoch, deter=rssm.deter)
        self.mask_head = MaskHead(encoder.embed_dims, config.mask_hidden, len(MASKS))
        self.latent_mask_head = LatentMaskHead(
            rssm.deter + rssm.stoch,
            config.latent_mask_hidden,
            len(MASKS),
            encoder.bev_rows // 2,
            encoder.bev_columns // 2,
        )
        self.auxiliary_head = mlp(config.neck.embed, len(AUXILIARY), hidden=128, layers=1)

    @classmethod
    def build(cls, config: DrivingModelConfig) -> DrivingModel:
        """A model with freshly initialised weights."""
        return cls(config)

    def initial(self, batch: int) -> ModelState:
        """State before the first decision."""
        cells, width = self.config.encoder.grid.cells, self.config.encoder.embed_dims
        device = self.neck.centres_m.device
        return ModelState(
            latent=self.rssm.initial(batch),
            memory=torch.zeros(batch, cells, width, device=device),
            has_memory=torch.zeros(batch, dtype=torch.bool, device=device),
        )

    def see(self, inputs: ModelInput, state: ModelState) -> tuple[Float[Tensor, "b cells d"], Float[Tensor, "b e"]]:
        """BEV features (the next memory) and embedding e_t of one decision."""
        has_memory = state.has_memory & ~inputs.first
        memory = self.encoder(inputs.images, inputs.camera_valid, inputs.ego_motion, state.memory, has_memory)
        return memory, self.neck(self._as_map(memory), inputs.route, inputs.vector)

    @torch.no_grad()
    def act(
        self, inputs: ModelInput, state: ModelState, previous_action: Float[Tensor, "b actions"] | None = None
    ) -> tuple[Float[Tensor, "b actions"], ModelState]:
        """Action logits of one decision, deterministic (z_t is the posterior's mode).

        previous_action: one-hot, needed only where rssm.action_input is on.
        """
        memory, embed = self.see(inputs, state)
        latent, _ = self.rssm.observe_step(state.latent, previous_action, embed, inputs.first, mode=True)
        logits = self.policy(embed, latent)
        return logits, ModelState(latent, memory, torch.ones_like(state.has_memory))

    @torch.no_grad()
    def explain(
        self, state: ModelState, embed: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, "b masks rows columns"], Float[Tensor, "b auxiliary"] | None]:
        """Mask probabilities of the state's BEV memory and, given e_t, the auxiliary quantities in their units."""
        masks = self.mask_head(self._as_map(state.memory)).sigmoid()
        if embed is None:
            return masks, None
        return masks, self.auxiliary_head(embed) * torch.tensor(AUXILIARY_SCALE, device=embed.device)

    def forward(
        self,
        inputs: ModelInput,
        state: ModelState,
        previous_actions: Float[Tensor, "b t actions"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> ModelOutput:
        """Predictions for a sequence; gradients reach back to its first step, the given state is a constant."""
        state = state.detach()
        memories, embeds, current = [], [], state
        for t in range(inputs.first.shape[1]):
            memory, embed = self.see(inputs.at(t), current)
            current = ModelState(state.latent, memory, torch.ones_like(state.has_memory))
            memories.append(memory)
            embeds.append(embed)
        embed = torch.stack(embeds, 1).float()
        belief = self.rssm.observe(embed, inputs.first, state.latent, previous_actions, generator=generator)
        last = LatentState(belief.state.deter[:, -1], belief.state.stoch[:, -1])
        bev = torch.stack(memories, 1)
        masks = self.mask_head(self._as_map(bev.flatten(0, 1)))
        return ModelOutput(
            logits=self.policy(embed, belief.state, generator=generator),
            belief=belief,
            bev=bev,
            masks=masks.unflatten(0, bev.shape[:2]),
            latent_masks=self.latent_mask_head(belief.state.features()),
            auxiliary=self.auxiliary_head(embed),
            state=ModelState(last, memories[-1], current.has_memory),
        )

    def _as_map(self, bev: Float[Tensor, "n cells d"]) -> Float[Tensor, "n d rows columns"]:
        encoder = self.config.encoder
        return bev.transpose(1, 2).unflatten(2, (encoder.bev_rows, encoder.bev_columns))
