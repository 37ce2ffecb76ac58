"""The way ahead, straightened: masks read along the road to follow and to both sides of it.

Whether somebody is on the way, and how far ahead, is another pattern on the square map in every bend and every lane. In
a strip along the way it is the same one everywhere, so it is learned from few scenes. Ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.ego_vector import POINT_SCALE_M, ROUTE_AHEAD_M
from agent.model.heads import NORM_EPS, NormAct

BEHIND_M, AHEAD_M = 16, 48
"""A station every metre, from so far behind the ego to so far ahead."""
ACROSS_M = (14.0, 10.0, 7.0, 5.0, 3.5, 2.5, 1.5, 0.5, -0.5, -1.5, -2.5, -3.5, -5.0, -7.0, -10.0, -14.0)
"""Places beside each station, left positive."""
MIXED, WIDTH = 12, 64
"""Channels of a place, and of the convolutions along the way."""


class WayReader(nn.Module):
    """Soft masks and the points of the road to follow to a vector."""

    knots: Tensor
    across_m: Tensor

    def __init__(self, channels: int, units: int, window_m: float, ahead_m: float) -> None:
        """window_m: side of the square that the masks cover; ahead_m: how far ahead of the ego it begins."""
        super().__init__()
        self.window_m, self.ahead_m = window_m, ahead_m
        self.register_buffer("knots", _knot_weights(), persistent=False)
        self.register_buffer("across_m", torch.tensor(ACROSS_M), persistent=False)
        self.mix = nn.Conv2d(channels, MIXED, 1)
        layers: list[nn.Module] = []
        for inputs in (MIXED * len(ACROSS_M), WIDTH):
            layers += [
                nn.Conv1d(inputs, WIDTH, 5, stride=2, padding=2, bias=False),
                nn.GroupNorm(1, WIDTH, eps=NORM_EPS),
                nn.SiLU(),
            ]
        self.along = nn.Sequential(*layers)
        stations = (BEHIND_M + AHEAD_M) // 4
        self.out = nn.Sequential(nn.Linear(WIDTH * stations, units, bias=False), NormAct(units))

    def forward(
        self, masks: Float[Tensor, "n channels h w"], points: Float[Tensor, "n 8 2"]
    ) -> Float[Tensor, "n units"]:
        """masks: between 0 and 1, row 0 farthest ahead, column 0 farthest left. points: as in the ego vector."""
        strip = self.strip(self.mix(masks), points * POINT_SCALE_M)
        return self.out(self.along(strip.transpose(2, 3).flatten(1, 2)).flatten(1))

    def strip(
        self, maps: Float[Tensor, "n c h w"], points_m: Float[Tensor, "n 8 2"]
    ) -> Float[Tensor, "n c stations across"]:
        """What maps of the masks' square say at the places; 0 beyond it."""
        places_m = self.places_m(points_m)
        column = (0.5 * self.window_m - places_m[..., 1]) / self.window_m
        row = (self.ahead_m - places_m[..., 0]) / self.window_m
        return F.grid_sample(maps, 2.0 * torch.stack([column, row], -1) - 1.0, align_corners=False)

    def places_m(self, points_m: Float[Tensor, "n 8 2"]) -> Float[Tensor, "n stations across 2"]:
        """Ego coordinates (x forward, y left) of all places, station 0 farthest behind; points ROUTE_AHEAD_M ahead."""
        near, far = points_m[:, :2], points_m[:, -2:]
        begin = 2.0 * near[:, 0] - near[:, 1]  # the first two points are as far apart as the first one is from here
        back = begin - BEHIND_M * F.normalize(near[:, 1] - near[:, 0], dim=-1)
        on = far[:, 1] + (AHEAD_M - ROUTE_AHEAD_M[-1]) * F.normalize(far[:, 1] - far[:, 0], dim=-1)
        knots = torch.cat([back[:, None], begin[:, None], points_m, on[:, None]], 1)
        middle = self.knots @ knots
        step = torch.cat(
            [middle[:, 1:2] - middle[:, :1], middle[:, 2:] - middle[:, :-2], middle[:, -1:] - middle[:, -2:-1]], 1
        )
        along = F.normalize(step, dim=-1)
        left = torch.stack([-along[..., 1], along[..., 0]], -1)
        return middle[:, :, None] + self.across_m[:, None] * left[:, :, None]


def _knot_weights() -> Float[Tensor, "stations knots"]:
    """Of the way's known points in each station, by linear interpolation."""
    knots_m = torch.tensor([-BEHIND_M, 0.0, *ROUTE_AHEAD_M, AHEAD_M])
    stations_m = torch.arange(-BEHIND_M, AHEAD_M) + 0.5
    after = torch.searchsorted(knots_m, stations_m)
    share = (stations_m - knots_m[after - 1]) / (knots_m[after] - knots_m[after - 1])
    weights = torch.zeros(len(stations_m), len(knots_m))
    rows = torch.arange(len(stations_m))
    weights[rows, after - 1], weights[rows, after] = 1.0 - share, share
    return weights
