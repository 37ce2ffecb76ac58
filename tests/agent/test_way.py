"""The strip along the way: where its places lie, and that a bend does not change what is read."""

from __future__ import annotations

import math

import pytest
import torch

from agent.ego_vector import POINT_SCALE_M, ROUTE_AHEAD_M
from agent.model.way import ACROSS_M, BEHIND_M, WayReader

SIZE_PX, AHEAD_M = 64, 45.0
ROW, COLUMN = torch.meshgrid(torch.arange(SIZE_PX) + 0.5, torch.arange(SIZE_PX) + 0.5, indexing="ij")


@pytest.fixture(name="reader", scope="module")
def _reader() -> WayReader:
    torch.manual_seed(0)
    return WayReader(2, 8, float(SIZE_PX), AHEAD_M)


def bend(radius_m: float) -> torch.Tensor:
    """Points of a way that turns to the left, and straight ahead for an endless radius; (8, 2) m."""
    arcs = torch.tensor(ROUTE_AHEAD_M)
    if math.isinf(radius_m):
        return torch.stack([arcs, torch.zeros_like(arcs)], -1)
    angle = arcs / radius_m
    return radius_m * torch.stack([angle.sin(), 1.0 - angle.cos()], -1)


def test_places_of_a_straight_way_off_the_ego(reader: WayReader) -> None:
    points_m = bend(math.inf) + torch.tensor([0.0, -1.0])
    places_m = reader.places_m(points_m[None])[0]
    stations_m = torch.arange(len(places_m)) + 0.5 - BEHIND_M
    torch.testing.assert_close(places_m[..., 0], stations_m[:, None].expand(-1, len(ACROSS_M)))
    torch.testing.assert_close(places_m[..., 1], (torch.tensor(ACROSS_M) - 1.0).expand(len(places_m), -1))


def test_places_follow_a_bend(reader: WayReader) -> None:
    radius_m = 40.0
    places_m = reader.places_m(bend(radius_m)[None])[0]
    for station_m, across, offset_m in ((10, 8, -0.5), (25, 3, 5.0), (33, 12, -5.0)):
        angle = (station_m + 0.5) / radius_m
        expected = torch.tensor(
            [(radius_m - offset_m) * math.sin(angle), radius_m - (radius_m - offset_m) * math.cos(angle)]
        )
        found = places_m[station_m + BEHIND_M, across]
        assert float((found - expected).norm()) < 0.6, (station_m, offset_m)  # chords of 10 m cut this corner by 0.3 m


def masks_with_a_car(points_m: torch.Tensor) -> torch.Tensor:
    """A disc on the way 20 m ahead in the first of two masks."""
    x_m, y_m = AHEAD_M - ROW, 0.5 * SIZE_PX - COLUMN
    where = points_m[ROUTE_AHEAD_M.index(20.0)]
    disc = ((x_m - where[0]) ** 2 + (y_m - where[1]) ** 2 < 2.0**2).float()
    return torch.stack([disc, torch.zeros_like(disc)])[None]


def test_a_car_on_the_way_looks_alike_in_a_bend(reader: WayReader) -> None:
    strips = {}
    for radius_m in (math.inf, 40.0, -30.0):
        points_m = bend(radius_m)
        strips[radius_m] = reader.strip(masks_with_a_car(points_m), points_m[None])[0, 0]
    straight = strips[math.inf]
    stations_m = torch.arange(straight.shape[0]) + 0.5 - BEHIND_M
    for radius_m, strip in strips.items():
        seen = float(strip.sum())
        assert seen == pytest.approx(float(straight.sum()), rel=0.2), radius_m
        assert float((strip.sum(1) * stations_m).sum()) / seen == pytest.approx(20.0, abs=0.5), radius_m
        assert abs(float(strip[:, :8].sum() - strip[:, 8:].sum())) < 0.2 * seen, radius_m  # in the middle of the way
    for radius_m in (40.0, -30.0):
        beside = reader.strip(masks_with_a_car(bend(radius_m)), bend(math.inf)[None])[0, 0]
        assert float(beside[:, 6:10].sum()) < 0.1 * float(straight.sum())  # along another way it is not on it


def test_nothing_is_read_beyond_the_masks_and_everything_has_a_gradient(reader: WayReader) -> None:
    masks = torch.ones(1, 2, SIZE_PX, SIZE_PX)
    away_m = bend(math.inf) + torch.tensor([0.0, 100.0])
    assert not reader.strip(masks, away_m[None]).any()
    reader(masks, bend(40.0)[None] / POINT_SCALE_M).sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in reader.parameters())
