"""The raw sensor stream as it drives: cameras -> BEV features -> neck -> e_t -> RSSM (h_t, z_t) -> actor.

e_t has the shape of the privileged stream's: a small map of the surroundings, cell by cell, and the ego vector's hidden
layer side by side. So the recurrence, its posterior and the actor of the privileged stream fit as they are.
Source: Raw2Drive, sections 3.2 and 3.3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from agent.actions import ACTIONS
from agent.ego_vector import FIELDS, MANOEUVRE_SIZE, ROUTE_AHEAD_M, SEEN_FIELDS, SEEN_SIZE
from agent.ego_vector import POINT_SCALE_M as AHEAD_SCALE_M
from agent.ego_vector import VECTOR_SIZE as EGO_SIZE
from agent.model.driving_model import ModelInput, ModelState, route_raster, small_encoder
from agent.model.front_view import FRONT, FrontView, FrontViewConfig
from agent.model.heads import ConvNormAct, NormAct
from agent.model.image_encoder import EncoderConfig, ImageEncoder
from agent.model.mask_decoder import SHOWN_MASKS, MaskDecoderConfig, PatchMasks
from agent.model.recurrent import NormKind, hidden_layers, norm_act
from agent.model.rssm import LatentState, Rssm, RssmConfig, unimix_log_probs
from agent.model.told_masks import ToldMasks, ToldMasksConfig
from agent.model.way import WayReader
from agent.route import ROUTE_POINTS, VECTOR_SIZE

CANVAS_PER_CELL = 8
"""The neck's three convolutions of stride 2 end at the cells of the map."""
POINT_SCALE_M = 50.0
POINT_CLIP = 2.0
LIMIT_USUAL, LIMIT_SPREAD = 1.2, 0.6
ROUTE_SPREAD = (0.02, 0.3)
"""Of a point of the road: at the ego, and how much more 40 m ahead, growing with the square of the distance."""
GAP_USUAL, GAP_SPREAD = 0.7, 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class RawNeckConfig:
    """From BEV features to the map that the privileged mask encoder makes of the true masks."""

    cells: int = 4
    """Cells of the map along each side."""
    channels: int = 192
    """Of the map."""
    window_m: float = 64.0
    """Side of the square that the map covers: that of the masks."""
    ahead_m: float = 45.0
    """How far ahead of the ego it begins."""
    width: int = 64
    """Channels of the first convolutions; the third has twice as many."""
    route_width_m: float = 3.0
    """Distance from the sparse route's polyline at which its raster channel reaches zero."""
    seen_hidden: int = 256
    """Width of the hidden layer that tells the numbers which have to be seen."""
    vector_units: int = 256
    """Width of the ego vector's part of e_t; 0 for a privileged model on masks alone."""
    vector_layers: int = 1
    gaps: int = 0
    """How many numbers of the free road the privileged model reads behind the ego vector; an agent has to see them."""
    front: FrontViewConfig | None = None
    """A closer look at the front image; None: the BEV features alone."""
    front_channels: int = 16
    """So many channels of the canvas tell everywhere what was seen there."""
    masks: ToldMasksConfig | None = None
    """Tell masks and read them as the privileged stream does; None: convolutions make the map at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawActorConfig:
    """The actor, of the privileged stream's shape."""

    units: int = 256
    layers: int = 1
    unimix: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class RawModelConfig:
    """Everything that fixes the shape of the raw stream's agent."""

    encoder: EncoderConfig = field(default_factory=small_encoder)
    neck: RawNeckConfig = field(default_factory=RawNeckConfig)
    rssm: RssmConfig = field(default_factory=lambda: RssmConfig(action_input=True))
    actor: RawActorConfig = field(default_factory=RawActorConfig)
    decoder: MaskDecoderConfig | None = None
    """For showing what the agent believes and imagines; None: it drives without."""

    def __post_init__(self) -> None:
        if not self.rssm.action_input:
            raise ValueError("rssm.action_input must be on: the recurrence is the privileged world model's")
        if self.rssm.actions != len(ACTIONS):
            raise ValueError(f"rssm.actions is {self.rssm.actions}, this agent has {len(ACTIONS)} actions")
        front, encoder = self.neck.front, self.encoder
        if front is not None and (front.width_px != encoder.image_width or front.bottom_px > encoder.image_height):
            raise ValueError(
                f"neck.front reads {front.width_px} columns down to row {front.bottom_px}, the encoder's images have "
                f"{encoder.image_width} x {encoder.image_height} px"
            )

    @property
    def norm(self) -> NormKind:
        """The norm of all layers of the privileged stream is that of the recurrence."""
        return self.rssm.norm

    @property
    def map_size(self) -> int:
        """Width of the map's part of e_t."""
        return self.neck.cells**2 * self.neck.channels

    @property
    def embed(self) -> int:
        """Width of e_t."""
        return self.map_size + self.neck.vector_units


def symlog(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x) ln(1 + |x|). Source: Hafner et al. 2023, equation 1."""
    return x.sign() * x.abs().log1p()


@dataclass(frozen=True, slots=True)
class Sight:
    """What the neck makes of one decision's BEV features."""

    embed: Float[Tensor, "n e"]
    """e_t: the map's cells row by row, then the ego vector's part."""
    seen: Float[Tensor, "n seen"]
    """What an agent has to see of the ego vector: speed limit, the points of the road to follow, and the gaps."""
    bev: Float[Tensor, "n cells d"] | None = None
    """The BEV features it was made of, where somebody asks for them."""
    masks: Float[Tensor, "n channels h w"] | None = None
    """Logits of the masks that were told on the way, by a neck that does so."""


def autocast_convolutions(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[object]:
    """bfloat16 for convolutions inside; whatever was before, where it is not enabled."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else contextlib.nullcontext()


class RawNeck(nn.Module):
    """BEV features and the sparse route to e_t.

    The BEV features are laid onto a canvas that covers what the privileged masks cover, row 0 ahead and column 0 left
    as there, so that every cell of the map shows the same ground in both streams.
    """

    grid: Tensor
    covered: Tensor
    centres_m: Tensor
    seen_usual: Tensor
    seen_spread: Tensor

    def __init__(self, config: RawNeckConfig, encoder: EncoderConfig, norm: NormKind) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.half_convolutions = False
        """Whether the convolutions are computed in bfloat16."""
        centres_m = canvas_centres_m(config)
        grid = sampling_grid(centres_m, encoder)
        ones = torch.ones(1, 1, encoder.bev_rows, encoder.bev_columns)
        self.register_buffer("centres_m", centres_m, persistent=False)
        self.register_buffer("grid", grid, persistent=False)
        usual, spread = usually_seen(config.gaps)
        self.register_buffer("seen_usual", usual, persistent=False)
        self.register_buffer("seen_spread", spread, persistent=False)
        self.register_buffer("covered", F.grid_sample(ones, grid[None], align_corners=False), persistent=False)
        width = config.width
        looked = front_units = 0
        self.front = None
        if config.front is not None:
            looked, front_units = config.front_channels, config.front.units
            self.front = FrontView(config.front)
            self.spread = nn.Linear(front_units, looked)
        self.convolutions = nn.Sequential(
            ConvNormAct(encoder.embed_dims + 2 + looked, width),
            ConvNormAct(width, width, stride=2),
            ConvNormAct(width, 2 * width, stride=2),
        )
        self.masks = None
        if config.masks is not None:
            self.masks = ToldMasks(config.masks, width, 2 * width, config.cells * CANVAS_PER_CELL, norm)
        else:
            self.last = nn.Conv2d(2 * width, config.channels, 3, stride=2, padding=1, bias=norm == "rms")
            self.last_act = norm_act(norm, config.channels)
        self.way = None
        if config.vector_units:
            told = VECTOR_SIZE + MANOEUVRE_SIZE + 2 * ROUTE_POINTS
            self.told = nn.Sequential(nn.Linear(told, 64), NormAct(64))
            self.squeeze = ConvNormAct(2 * width, 32, kernel=1)
            read = 32 * (2 * config.cells) ** 2 + 64 + front_units
            along_way = bool(config.gaps and config.masks is not None and config.masks.way_units)
            self.seen = nn.Sequential(
                nn.Linear(read, config.seen_hidden, bias=False),
                NormAct(config.seen_hidden),
                nn.Linear(config.seen_hidden, SEEN_SIZE + (0 if along_way else config.gaps)),
            )
            if along_way and config.masks is not None:
                units = config.masks.way_units
                self.way = WayReader(config.masks.channels, units, config.window_m, config.ahead_m)
                self.gaps = nn.Sequential(
                    nn.Linear(units + 64 + front_units, units, bias=False),
                    NormAct(units),
                    nn.Linear(units, config.gaps),
                )
            read = EGO_SIZE + config.gaps
            self.vector = nn.Sequential(*hidden_layers(read, config.vector_units, config.vector_layers, norm))

    def forward(
        self,
        bev: Float[Tensor, "n cells d"],
        route: Float[Tensor, "n 8 2"],
        vector: Float[Tensor, "n v"],
        action: Float[Tensor, "n actions"],
        image: UInt8[Tensor, "n 3 h w"] | None = None,
        valid: Bool[Tensor, " n"] | None = None,
    ) -> Sight:
        """action: the last one, one-hot; zeros at the start of an episode. image, valid: of the front camera, where
        the neck looks at it.
        """
        encoder = self.encoder
        features = bev.transpose(1, 2).unflatten(2, (encoder.bev_rows, encoder.bev_columns))
        n = features.shape[0]
        canvas = F.grid_sample(features, self.grid.expand(n, -1, -1, -1).to(features.dtype), align_corners=False)
        raster = route_raster(route, self.centres_m, self.config.route_width_m).to(features.dtype)
        covered = self.covered.expand(n, -1, -1, -1).to(features.dtype)
        planes = [canvas, covered, raster]
        with autocast_convolutions(features.device, self.half_convolutions):
            looked = self._look(image, valid)
            if looked is not None:
                spread = self.spread(looked)[:, :, None, None].expand(-1, -1, *canvas.shape[2:])
                planes.append(spread.to(features.dtype))
            wide = self.convolutions[0](torch.cat(planes, 1))
            middle = self.convolutions[1:](wide)
            last = self.last(middle) if self.masks is None else self.masks(wide, middle)
        if self.half_convolutions:
            middle = middle.float()
        masks = soft = None
        if self.masks is not None:
            masks, soft = last, last.sigmoid()
            cells = self.masks.reader(soft)
        else:
            cells = self.last_act(last.to(middle.dtype).permute(0, 2, 3, 1)).flatten(1)
        if not self.config.vector_units:
            return Sight(cells, cells.new_zeros(n, SEEN_SIZE + self.config.gaps), masks=masks)
        # Points lie up to hundreds of metres away; the square root keeps the near ones resolved.
        points = (route / POINT_SCALE_M).clamp(-POINT_CLIP, POINT_CLIP)
        points = points.sign() * points.abs().sqrt()
        told = self.told(torch.cat([vector, points.flatten(1)], -1))
        known = [told.to(middle.dtype)] if looked is None else [told.to(middle.dtype), looked.to(middle.dtype)]
        found = self.seen(torch.cat([self.squeeze(middle).flatten(1), *known], -1)).float()
        if self.way is not None and soft is not None:
            found = torch.cat([found, self._gaps_on_the_way(found, soft, known)], -1)
        seen = self.seen_usual + self.seen_spread * found
        ego = self.vector(symlog(ego_vector(vector, action, seen)))
        return Sight(torch.cat([cells, ego.to(cells.dtype)], -1), seen, masks=masks)

    def _gaps_on_the_way(
        self, found: Float[Tensor, "n 17"], soft: Float[Tensor, "n channels h w"], known: list[Tensor]
    ) -> Float[Tensor, "n gaps"]:
        """In units of their spread. The gradients of the gaps end at masks and points: both are told for themselves."""
        assert self.way is not None
        points = (self.seen_usual[1:SEEN_SIZE] + self.seen_spread[1:SEEN_SIZE] * found[:, 1:].detach()).unflatten(
            1, (-1, 2)
        )
        read = self.way(soft.detach().float(), points)
        return self.gaps(torch.cat([read, *(one.float() for one in known)], -1)).float()

    def _look(self, image: Tensor | None, valid: Tensor | None) -> Float[Tensor, "n units"] | None:
        if self.front is None:
            return None
        if image is None or valid is None:
            raise ValueError("this neck looks at the front image; hand it in")
        return self.front(image, valid).float()


def usually_seen(gaps: int) -> tuple[Float[Tensor, " seen"], Float[Tensor, " seen"]]:
    """About the mean and the standard deviation of what has to be seen, in recorded drives.

    The head tells numbers in these units: near points of the road, which say where in its lane the ego is, vary by
    decimetres, and an optimiser's steps in metres would drown them.
    """
    usual, spread = [LIMIT_USUAL], [LIMIT_SPREAD]
    for ahead_m in ROUTE_AHEAD_M:
        share = ahead_m / AHEAD_SCALE_M
        usual += [share, 0.0]
        spread += 2 * [ROUTE_SPREAD[0] + ROUTE_SPREAD[1] * share**2]
    return torch.tensor(usual + gaps * [GAP_USUAL]), torch.tensor(spread + gaps * [GAP_SPREAD])


def canvas_centres_m(config: RawNeckConfig) -> Float[Tensor, "rows columns 2"]:
    """Ego coordinates (x forward, y left) of the canvas: row 0 farthest ahead, column 0 farthest left."""
    count = config.cells * CANVAS_PER_CELL
    offset_m = (torch.arange(count) + 0.5) * (config.window_m / count)
    return torch.stack(torch.meshgrid(config.ahead_m - offset_m, config.window_m / 2 - offset_m, indexing="ij"), -1)


def sampling_grid(
    centres_m: Float[Tensor, "rows columns 2"], encoder: EncoderConfig
) -> Float[Tensor, "rows columns 2"]:
    """Where `grid_sample` finds those places in the encoder's BEV map; outside it they lie beyond -1 .. 1."""
    right_min, ahead_min, _, right_max, ahead_max, _ = encoder.bev_range_m
    across = (-centres_m[..., 1] - right_min) / (right_max - right_min)
    along = (centres_m[..., 0] - ahead_min) / (ahead_max - ahead_min)
    return 2.0 * torch.stack([across, along], -1) - 1.0


def ego_vector(
    vector: Float[Tensor, "n v"], action: Float[Tensor, "n actions"], seen: Float[Tensor, "n seen"]
) -> Float[Tensor, "n full"]:
    """The ego vector of the privileged stream with its gaps, from what the agent knows and what it sees."""
    gaps = seen.shape[1] - SEEN_SIZE
    table = torch.from_numpy(np.array(ACTIONS)).to(vector)
    full = vector.new_zeros(vector.shape[0], EGO_SIZE + gaps)
    full[:, FIELDS["speed"]] = vector[:, :1]
    full[:, FIELDS["action"]] = action.to(vector.dtype) @ table
    full[:, FIELDS["command"].start : EGO_SIZE] = vector[:, VECTOR_SIZE:]
    return full.index_copy(1, seen_columns(vector.device, gaps), seen.to(full.dtype))


def seen_columns(device: torch.device, gaps: int = 0) -> Tensor:
    """Where what an agent has to see stands in the ego vector with its gaps."""
    columns = [column for name in SEEN_FIELDS for column in range(FIELDS[name].start, FIELDS[name].stop)]
    return torch.tensor([*columns, *range(EGO_SIZE, EGO_SIZE + gaps)], device=device)


def seen_ground(neck: RawNeckConfig, encoder: EncoderConfig, size_px: int) -> tuple[slice, slice]:
    """Rows and columns of masks with that side, which cover the neck's window, where the image encoder looks."""
    right_min, rear, _, right_max, front, _ = encoder.bev_range_m
    per_m = size_px / neck.window_m
    rows = slice(*(round((neck.ahead_m - ahead_m) * per_m) for ahead_m in (front, rear)))
    return rows, slice(*(round((0.5 * neck.window_m + right_m) * per_m) for right_m in (right_min, right_max)))


class RawModel(nn.Module):
    """Image encoder, neck, recurrence and actor."""

    def __init__(self, config: RawModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.neck = RawNeck(config.neck, config.encoder, config.norm)
        self.rssm = Rssm(config.rssm, config.embed)
        actor = config.actor
        hidden = hidden_layers(config.rssm.deter + config.rssm.stoch, actor.units, actor.layers, config.norm)
        self.actor = nn.Sequential(*hidden, nn.Linear(actor.units, config.rssm.actions))
        self.decoder = None
        if config.decoder is not None:
            self.decoder = PatchMasks(config.rssm.deter + config.rssm.stoch, config.decoder, config.norm)

    def initial(self, batch: int) -> ModelState:
        """State before the first decision."""
        encoder, device = self.config.encoder, self.neck.centres_m.device
        return ModelState(
            latent=self.rssm.initial(batch),
            memory=torch.zeros(batch, encoder.grid.cells, encoder.embed_dims, device=device),
            has_memory=torch.zeros(batch, dtype=torch.bool, device=device),
            seen=torch.zeros(batch, SEEN_SIZE + self.config.neck.gaps, device=device),
        )

    def see(
        self, inputs: ModelInput, state: ModelState, action: Float[Tensor, "b actions"]
    ) -> tuple[Float[Tensor, "b cells d"], Sight]:
        """BEV features (the next memory) and e_t of one decision."""
        has_memory = state.has_memory & ~inputs.first
        memory = self.encoder(inputs.images, inputs.camera_valid, inputs.ego_motion, state.memory, has_memory)
        image, valid = inputs.images[:, FRONT], inputs.camera_valid[:, FRONT]
        return memory, self.neck(memory, inputs.route, inputs.vector, action, image, valid)

    @torch.no_grad()
    def act(
        self,
        inputs: ModelInput,
        state: ModelState,
        previous_action: Float[Tensor, "b actions"] | None = None,
        *,
        mode: bool = True,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "b actions"], ModelState]:
        """Log-probabilities of the actions at one decision; z_t is the posterior's mode, or drawn where mode is off.

        previous_action: one-hot, zeros before the first. Raises: ValueError without it.
        """
        if previous_action is None:
            raise ValueError("the recurrence needs the previous action")
        action = previous_action * ~inputs.first[:, None]
        memory, sight = self.see(inputs, state, action)
        latent, _ = self.rssm.observe_step(
            state.latent, action, sight.embed.float(), inputs.first, mode=mode, generator=generator
        )
        logits = unimix_log_probs(self.actor(latent.features()), self.config.actor.unimix)
        seen = (sight.seen - self.neck.seen_usual) / self.neck.seen_spread
        return logits, ModelState(latent, memory, torch.ones_like(state.has_memory), seen)

    def told_road(self, seen: Float[Tensor, "b seen"]) -> Float[Tensor, "b points 2"]:
        """Points of the road to follow, ROUTE_AHEAD_M along it (x forward, y left, metres), from a state's `seen`."""
        points = slice(1, SEEN_SIZE)
        told = self.neck.seen_usual[points] + self.neck.seen_spread[points] * seen[:, points]
        return AHEAD_SCALE_M * told.unflatten(1, (-1, 2))

    @torch.no_grad()
    def imagine(self, latent: LatentState, action: int, steps: int) -> list[LatentState]:
        """The likeliest states behind this one when the action and then the likeliest ones of the policy are taken."""
        actions = self.config.rssm.actions
        states: list[LatentState] = []
        for _ in range(steps):
            taken = F.one_hot(torch.tensor([action], device=latent.deter.device), actions).float()
            latent = self.rssm.imagine_step(latent, taken, mode=True)
            states.append(latent)
            action = int(self.actor(latent.features()).argmax(-1)[0])
        return states

    @torch.no_grad()
    def shown_masks(self, latents: Sequence[LatentState]) -> Float[Tensor, "n masks rows columns"]:
        """Probabilities of `SHOWN_MASKS` in states (batches of one), where the image encoder looks: row 0 at the rear.

        Raises: ValueError for an agent without a decoder.
        """
        if self.decoder is None or self.config.decoder is None:
            raise ValueError("this agent has no decoder; export it with one")
        return self._shown(self.decoder(torch.cat([latent.features() for latent in latents])))

    @torch.no_grad()
    def told_masks(self, inputs: ModelInput, state: ModelState) -> Float[Tensor, "b masks rows columns"]:
        """Probabilities of `SHOWN_MASKS` as the neck told them on the way to a state, placed as `shown_masks`.

        inputs, state: of one decision. Raises: ValueError for an agent whose neck tells none.
        """
        image, valid = inputs.images[:, FRONT], inputs.camera_valid[:, FRONT]
        unused = torch.zeros(inputs.vector.shape[0], len(ACTIONS), device=inputs.vector.device)
        told = self.neck(state.memory, inputs.route, inputs.vector, unused, image, valid).masks
        if told is None:
            raise ValueError("this agent's neck tells no masks; train it with told masks")
        return self._shown(told.sigmoid())

    def _shown(self, masks: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n masks rows columns"]:
        shown = torch.stack([masks[:, list(channels)].amax(1) for channels in SHOWN_MASKS.values()], 1)
        rows, columns = seen_ground(self.config.neck, self.config.encoder, masks.shape[-1])
        return shown[:, :, rows, columns].flip(2)
