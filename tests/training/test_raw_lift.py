"""The encoder over whole windows against the agent's encoder step by step: features and every gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.model.image_encoder import EncoderConfig, ImageEncoder
from tests.training.raw import ENCODER
from training.raw.lift import fits, lift_windows, spatial_views
from training.raw.sampling import Views, read


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder_of(config: EncoderConfig) -> ImageEncoder:
    """An encoder whose attentions look far around and differ from cell to cell."""
    torch.manual_seed(0)
    encoder = ImageEncoder(config)
    for name, parameter in encoder.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def step_by_step(encoder: ImageEncoder, levels: list[Tensor], valid: Tensor, motion: Tensor, first: Tensor) -> Tensor:
    b, t = first.shape
    memory = torch.zeros(b, encoder.config.grid.cells, encoder.config.embed_dims)
    memories = []
    for step in range(t):
        has_memory = ~first[:, step] if step else torch.zeros(b, dtype=torch.bool)
        memory = encoder.lift([level[:, step] for level in levels], valid[:, step], motion[:, step], memory, has_memory)
        memories.append(memory)
    return torch.stack(memories, 1)


@pytest.mark.parametrize(("layers", "levels"), [(1, 1), (2, 2)])
def test_windows_are_lifted_as_step_by_step_with_the_same_gradients(layers: int, levels: int) -> None:
    config = replace(ENCODER, layers=layers, levels=levels, bev_rows=10, bev_columns=6)
    encoder = encoder_of(config)
    assert fits(encoder)
    b, t = 2, 4
    maps = [random(b, t, 6, config.embed_dims, 4 >> k, 8 >> k, seed=k) for k in range(levels)]
    valid = torch.ones(b, t, 6, dtype=torch.bool)
    valid[0, 1, 2] = valid[1, :, 0] = False
    motion = random(b, t, 3, seed=5) * torch.tensor([0.8, 0.1, 0.1])
    first = torch.zeros(b, t, dtype=torch.bool)
    first[0, 2] = first[1, 0] = True
    wanted = random(b, t, config.grid.cells, config.embed_dims, seed=9)
    found = []
    for lift in (step_by_step, lift_windows):
        leaves = [one.clone().requires_grad_() for one in maps]
        encoder.zero_grad()
        bev = lift(encoder, leaves, valid, motion, first)
        (bev - wanted).square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        gradients |= {f"level {k}": leaf.grad for k, leaf in enumerate(leaves) if leaf.grad is not None}
        found.append((bev.detach(), gradients))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    assert {name for name in found[0][1] if "sampling_offsets" in name}
    for name, gradient in found[0][1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=name)


def views_of_two() -> Views:
    """Two cells, the second of which looks from two views at two maps of 3 x 4 and 2 x 2 cells."""
    return Views(
        begin=np.array([0, 1, 3], np.int32),
        base=np.array([[0, 12]] * 3, np.int32),
        x=np.array([[0.3, 0.6], [1.7, 0.2], [2.6, 1.1]], np.float32),
        y=np.array([[0.4, 0.1], [1.2, 0.9], [0.3, 0.6]], np.float32),
        width=np.array([4, 2], np.int32),
        height=np.array([3, 2], np.int32),
        group=2,
    )


def test_the_gradients_of_a_reading_are_its_slopes() -> None:
    table, control = random(2, 16, 2, 3, seed=1), random(2, 2, 3, 2, 2, seed=2, scale=0.4)
    weights, wanted = torch.rand(2, 3, generator=torch.Generator().manual_seed(3)), random(2, 2, 6, seed=4)
    views = views_of_two()

    def loss(table: Tensor, control: Tensor) -> Tensor:
        return (read(table, control, weights, views) * wanted).sum()

    leaves = [table.clone().requires_grad_(), control.clone().requires_grad_()]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    step = 2e-3
    for number, (value, gradient) in enumerate(zip((table, control), gradients, strict=True)):
        slopes = torch.zeros_like(value)
        for at in np.ndindex(*value.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = value.clone()
                moved[at] += sign * step
                ends.append(float(loss(*(moved if number == k else own for k, own in enumerate((table, control))))))
            slopes[at] = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(gradient, slopes, rtol=2e-2, atol=2e-2)


def test_outside_a_map_there_is_nothing_and_what_is_no_number_stays_so() -> None:
    views = views_of_two()
    table, weights = torch.ones(1, 16, 1, 2), torch.ones(1, 3)
    control = torch.zeros(1, 2, 3, 1, 2)
    control[:, 0, 0] = 100.0
    control[:, 1, 1] = -1e9
    assert torch.equal(read(table, control, weights, views), torch.zeros(1, 2, 2))
    leaf = control.clone().requires_grad_()
    read(table, leaf, weights, views).sum().backward()
    assert leaf.grad is not None and not leaf.grad.any()
    control[0, 0, 0, 0, 0] = torch.nan
    seen = read(table, control, weights, views)
    assert seen[0, 0].isnan().all() and not seen[0, 1].isnan().any()


def test_an_encoder_of_other_conventions_is_not_lifted_here() -> None:
    assert not fits(ImageEncoder(replace(ENCODER, warp="official")))
    assert not fits(ImageEncoder(replace(ENCODER, dropout=0.1)))
    encoder = ImageEncoder(ENCODER)
    views = spatial_views(encoder.bevformer.config, encoder.geometry, [(2, 4)])
    assert views.begin[-1] == len(views.base) == len(encoder.geometry.pair_cell)
