"""Impartial world model: for a candidate ego motion, the occupancy that will be seen on the way, and per quarter second
the probability of a collision, of leaving the road, and the impact speed.

The base state (masks, or the state of another world model) becomes maps of features for every quarter second, once;
each candidate looks them up where its footprint will be. So many candidates of one state cost little more than one.
Where masks are seen, who is and was where is looked up besides, at full resolution: what stands need not be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.mask_decoder import padded_channels
from training import bev
from training.counterfactual import render
from training.counterfactual.synthesis import FRAMES, SIZE_PX, STEPS, VECTOR
from training.risk.data import CLASSES, STEP_S, Inputs
from training.world_model.masks import byte_table, unpack

CELL_M = bev.SIZE_PX / bev.PIXELS_PER_M / SIZE_PX
VIEW_M = SIZE_PX * CELL_M
"""Side of the view of a base state."""
EGO_ROW_M = bev.EGO_ROW_PX / bev.PIXELS_PER_M
MAP_PX = 32
FRAME_STEPS = STEPS // FRAMES
PROBES_AHEAD_M = (-3.9, -2.6, -1.3, 0.0, 1.3, 2.6, 3.9)
PROBES_LEFT_M = (-2.2, -1.1, 0.0, 1.1, 2.2)
"""Where a candidate looks: its footprint and a margin, seen from the box's middle."""
WAY_SCALE_M, SPEED_SCALE_MPS = 30.0, 10.0
VECTOR_SCALE = (10.0, 5.0, 0.5, 15.0)
STEP_NUMBERS = 6
IMPACT_SCALE_MPS = 10.0
PLANES = tuple(
    (tuple(channel + age for channel in channels))
    for channels, ages in zip(render.CLASS_CHANNELS, ((0,), *((range(len(bev.HISTORY_S))),) * 2), strict=True)
    for age in ages
)
"""Channels of what is looked up as it is: road, then vehicles and things at four ages, then walkers and cyclists."""
START_HAZARD = -4.0
"""Logit of a quarter second's risk before anything is learnt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskConfig:
    """Sizes."""

    source: Literal["masks", "latent"] = "masks"
    """What a base state is seen through."""
    latent: int = 0
    """Width of (h, z), for the latter; 0: that of the futures it is trained on."""
    depth: int = 24
    """Channels of the finest maps."""
    features: int = 12
    """Channels of a quarter second's map."""
    units: int = 96

    def __post_init__(self) -> None:
        if min(self.depth, self.features, self.units) < 1:
            raise ValueError(f"depth, features and units must be at least 1, got {self}")
        if self.latent < 0 or (self.source == "masks" and self.latent):
            raise ValueError(f"source {self.source} with a latent of width {self.latent}; leave latent out")


@dataclass(frozen=True, slots=True)
class Maps:
    """What candidates look up."""

    features: Float[Tensor, "b 12 c 32 32"]
    planes: Float[Tensor, "b p 64 64"] | None
    """What is and was where (PLANES); None where masks are not seen."""

    def of(self, states: Tensor) -> Maps:
        """Those of some states."""
        return Maps(self.features[states], None if self.planes is None else self.planes[states])


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is foreseen of k candidates of b states; logits but for the impact."""

    collision: Float[Tensor, "b k 12"]
    """Of the first contact falling into a quarter second, if there was none before."""
    off_road: Float[Tensor, "b k 12"]
    impact_mps: Float[Tensor, "b k 12"]
    """Relative speed of a contact in that quarter second."""

    def collision_probability(self) -> Float[Tensor, "b k"]:
        """Of any contact within the horizon."""
        return 1.0 - F.logsigmoid(-self.collision).sum(-1).exp()

    def off_road_probability(self) -> Float[Tensor, "b k"]:
        """Of leaving the road within the horizon."""
        return 1.0 - F.logsigmoid(-self.off_road).sum(-1).exp()

    def failure_probability(self) -> Float[Tensor, "b k"]:
        """Of either."""
        return 1.0 - (1.0 - self.collision_probability()) * (1.0 - self.off_road_probability())

    def failure_s(self) -> Float[Tensor, "b k"]:
        """Time by which half of the foreseen probability of failing has come."""
        alive = (F.logsigmoid(-self.collision) + F.logsigmoid(-self.off_road)).cumsum(-1).exp()
        gone = 1.0 - alive
        step = (gone < 0.5 * gone[..., -1:]).sum(-1)
        return STEP_S * (step + 0.5)


class RiskModel(nn.Module):
    """Maps of a base state, and what candidates find in them."""

    def __init__(self, config: RiskConfig) -> None:
        """Raises: ValueError for states of unknown width."""
        if config.source == "latent" and not config.latent:
            raise ValueError("source latent without the width of the states; give config.latent")
        super().__init__()
        self.config = config
        depth = config.depth
        if config.source == "masks":
            self.stem = nn.Conv2d(padded_channels(bev.CHANNELS), depth, 4, 2, 1)
        else:
            self.stem = nn.Sequential(
                nn.Linear(config.latent, 4 * depth * 16),
                nn.SiLU(),
                nn.Unflatten(-1, (4 * depth, 4, 4)),
                *(layer for k in (4, 2, 1) for layer in _widened(k * depth, max(k // 2, 1) * depth)),
            )
        self.fine = _block(depth, depth)
        self.middle = _block(depth, 2 * depth, stride=2)
        self.coarse = nn.Sequential(_block(2 * depth, 4 * depth, stride=2), _block(4 * depth, 4 * depth))
        self.to_middle = _block(6 * depth, 2 * depth)
        self.to_fine = _block(3 * depth, 2 * depth)
        self.maps = nn.Conv2d(2 * depth, STEPS * config.features, 1)
        probes = len(PROBES_AHEAD_M) * len(PROBES_LEFT_M)
        looked_up = config.features + (len(PLANES) if config.source == "masks" else 0)
        self.head = nn.Sequential(
            nn.Linear(probes * looked_up + STEP_NUMBERS + len(VECTOR), config.units),
            nn.SiLU(),
            nn.Linear(config.units, config.units),
            nn.SiLU(),
            nn.Linear(config.units, 3),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(looked_up, 2 * config.features, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * config.features, CLASSES, 1),
        )
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([START_HAZARD, START_HAZARD, 0.0]))
        self.register_buffer("table", byte_table(), persistent=False)
        ahead, left = torch.meshgrid(torch.tensor(PROBES_AHEAD_M), torch.tensor(PROBES_LEFT_M), indexing="ij")
        self.register_buffer("probes", torch.stack([ahead, left], -1).flatten(0, 1), persistent=False)
        rows = render.AHEAD_M[1] - render.CELL_M * (torch.arange(render.ROWS) + 0.5)
        columns = render.BESIDE_M[1] - render.CELL_M * (torch.arange(render.COLUMNS) + 0.5)
        cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        self.register_buffer("cells", cells.flatten(0, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(VECTOR_SCALE), persistent=False)
        self.table: Tensor
        self.probes: Tensor
        self.cells: Tensor
        self.scale: Tensor

    def encode(self, inputs: Inputs) -> Maps:
        """Maps of the base states."""
        planes = None
        if self.config.source == "masks":
            masks = unpack(inputs.words, bev.CHANNELS, self.table).movedim(-1, 1)
            first = F.silu(self.stem(masks))
            planes = torch.stack([masks[:, list(channels)].amax(1) for channels in PLANES], 1)
        else:
            first = self.stem(inputs.latent)
        fine = self.fine(first)
        middle = self.middle(fine)
        coarse = F.interpolate(self.coarse(middle), scale_factor=2.0)
        middle = self.to_middle(torch.cat([middle, coarse], 1))
        fine = self.to_fine(torch.cat([fine, F.interpolate(middle, scale_factor=2.0)], 1))
        return Maps(self.maps(fine).unflatten(1, (STEPS, self.config.features)), planes)

    def foresee(
        self,
        maps: Maps,
        vector: Float[Tensor, "b 4"],
        motion: Float[Tensor, "b k 12 4"],
    ) -> Forecast:
        """What comes of the candidates."""
        b, k = motion.shape[:2]
        found = _look_up(maps, motion, self.probes, range(STEPS)).flatten(3)  # b k 12 (c probes)
        time = torch.linspace(0.0, 1.0, STEPS, device=motion.device).expand(b, k, STEPS)
        x, y, yaw, speed = motion.unbind(-1)
        way = [x / WAY_SCALE_M, y / WAY_SCALE_M, yaw.sin(), yaw.cos(), speed / SPEED_SCALE_MPS, time]
        state = (vector / self.scale)[:, None, None].expand(b, k, STEPS, -1)
        out = self.head(torch.cat([found, torch.stack(way, -1), state], -1)).float()
        return Forecast(out[..., 0], out[..., 1], IMPACT_SCALE_MPS * F.softplus(out[..., 2]))

    def occupancy(self, maps: Maps, motion: Float[Tensor, "b k 12 4"]) -> Float[Tensor, "b k 6 classes 32 32"]:
        """Logits of what will be seen around the ego every half second."""
        b, k = motion.shape[:2]
        steps = range(FRAME_STEPS - 1, STEPS, FRAME_STEPS)
        found = _look_up(maps, motion, self.cells, steps).flatten(0, 2)
        return self.decoder(found.unflatten(-1, (render.ROWS, render.COLUMNS))).float().unflatten(0, (b, k, FRAMES))


def _look_up(
    maps: Maps, motion: Float[Tensor, "b k 12 4"], points: Float[Tensor, "p 2"], steps: range
) -> Float[Tensor, "b k steps c p"]:
    """Features and planes at points around the candidates' poses at some steps."""
    b, k = motion.shape[:2]
    chosen = slice(steps.start, steps.stop, steps.step)
    grid = _grid(motion[:, :, chosen].transpose(1, 2).flatten(0, 1), points)  # (b steps) k p 2
    found = F.grid_sample(maps.features[:, chosen].flatten(0, 1), grid, align_corners=False)
    found = found.unflatten(0, (b, len(steps))).permute(0, 3, 1, 2, 4)
    if maps.planes is None:
        return found
    whole = grid.unflatten(0, (b, len(steps))).transpose(1, 2).flatten(1, 2)  # b (k steps) p 2
    seen = F.grid_sample(maps.planes, whole, align_corners=False)
    return torch.cat([found, seen.unflatten(2, (k, len(steps))).permute(0, 2, 3, 1, 4)], 3)


def _grid(poses: Float[Tensor, "n k 4"], points: Float[Tensor, "p 2"]) -> Float[Tensor, "n k p 2"]:
    """Where points (ahead, left of poses) lie in a base state's view, as grid_sample wants it."""
    x, y, yaw = (poses[..., k, None] for k in range(3))
    ahead = x + points[:, 0] * yaw.cos() - points[:, 1] * yaw.sin()
    left = y + points[:, 0] * yaw.sin() + points[:, 1] * yaw.cos()
    row = (EGO_ROW_M - ahead) / VIEW_M
    column = 0.5 - left / VIEW_M
    return 2.0 * torch.stack([column, row], -1) - 1.0


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(1, outputs), nn.SiLU())


def _widened(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2.0), _block(inputs, outputs)]
