"""The pooled encoder and decoder of 2025, and the ego vector's way in, against float64 references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench.plain import mask_arrays
from tests.training.privileged import debug_config, random_batch
from training.presets import RECIPES, Recipe
from training.world_model.decoder import Decoder, PooledDecoder
from training.world_model.encoder import Encoder, PooledEncoder

CHANNELS = 43


def stirred(module: nn.Module) -> nn.Module:
    """The module in float64 with random biases and norms, which start as zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5, generator=generator)
    return module.double()


def images(recipe: Recipe = "strong") -> tuple[Tensor, Tensor]:
    """Ten frames as words (n, h, w) and as float64 masks (n, channels, h, w): more than a chunk of frames."""
    batch = random_batch(debug_config(recipe, "pooled"), 2, 5)
    masks = torch.from_numpy(mask_arrays(batch, CHANNELS) > 0).flatten(0, 1).permute(0, 3, 1, 2)
    return batch.words.flatten(0, 1), masks.double()


def rms_silu(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm over the channels (n, c, h, w), then SiLU."""
    normed = x * (x.square().mean(1, keepdim=True) + 1e-4).rsqrt() * weight[:, None, None]
    return normed * (1.0 / (1.0 + torch.exp(-normed)))


def assert_same_gradients(module: nn.Module, actual: Tensor, expected: Tensor) -> None:
    named = dict(module.named_parameters())
    found, wanted = (torch.autograd.grad(value, list(named.values())) for value in (actual, expected))
    for name, a, b in zip(named, found, wanted, strict=True):
        assert b.abs().max() > 0.0, name
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * float(b.abs().max() + 1.0), msg=name)


def test_pooled_encoder_equals_its_definition() -> None:
    """Values and all gradients: 5x5 convolution, largest of 2x2 cells, RMS norm, SiLU."""
    encoder = stirred(PooledEncoder(debug_config("strong", "pooled").world_model))
    assert isinstance(encoder, PooledEncoder)
    words, x = images()
    for layer, norm in zip(encoder.layers, encoder.norms, strict=True):
        x = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=2)
        x = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
        x = rms_silu(x, norm.norm.weight)
    expected = x.permute(0, 2, 3, 1).flatten(1)
    actual = encoder(words)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_same_gradients(encoder, (weight * actual).sum(), (weight * expected).sum())


def pooled_logits(decoder: PooledDecoder, features: Tensor) -> Tensor:
    """(n, channels, h, w): block g of h gives the g-th part of every cell's channels, z all of them by two layers."""
    blocks, side, own = decoder.blocks, decoder.side, decoder.width // decoder.blocks
    deter = features[:, : decoder.deter].reshape(len(features), blocks, -1)
    parts = torch.einsum("ngi,gio->ngo", deter, decoder.space_deter.weight)
    parts = parts + decoder.space_deter.bias.reshape(blocks, -1)
    cells = torch.cat([parts[:, g].reshape(-1, side, side, own) for g in range(blocks)], -1)
    first, act, last = decoder.space_stoch
    hidden = F.linear(features[:, decoder.deter :], first.weight, first.bias)
    hidden = rms_silu(hidden[..., None, None], act.norm.weight)[..., 0, 0]
    cells = cells + F.linear(hidden, last.weight, last.bias).reshape(-1, side, side, decoder.width)
    x = rms_silu(cells.permute(0, 3, 1, 2), decoder.space_act.norm.weight)
    for layer in decoder.layers:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = rms_silu(F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=2), layer.act.norm.weight)
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.conv2d(x, decoder.out.conv.weight, decoder.out.conv.bias, padding=2)


def test_pooled_decoder_equals_its_definition() -> None:
    """Masks, the loss (squared error of the sigmoid, summed over pixels and channels) and all gradients."""
    world = debug_config("strong", "pooled").world_model
    world = replace(world, rssm=replace(world.rssm, classes=5))  # h and z of different width
    decoder = stirred(Decoder(world))
    assert isinstance(decoder, Decoder) and isinstance(decoder.masks, PooledDecoder)
    words, masks = images()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(words), world.features, dtype=torch.float64, generator=generator, requires_grad=True)
    expected = torch.sigmoid(pooled_logits(decoder.masks, features))
    torch.testing.assert_close(decoder.probabilities(features), expected.detach(), rtol=1e-9, atol=1e-10)
    wanted, loss = (expected - masks).square().sum((1, 2, 3)).mean(), decoder.mask_loss(features, words)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    gradients = (torch.autograd.grad(value, features, retain_graph=True)[0] for value in (loss, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
    assert_same_gradients(decoder, loss, wanted)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_ego_vector_is_squashed_before_the_encoder(recipe: Recipe) -> None:
    """sign(x) ln(1 + |x|), far beyond 1 on both sides; the masks' part stands beside it."""
    world = debug_config(recipe, vector=4).world_model
    encoder = stirred(Encoder(world))
    assert isinstance(encoder, Encoder) and encoder.vector is not None
    words, _ = images(recipe)
    vector = torch.tensor([-300.0, -0.5, 0.0, 40.0], dtype=torch.float64).expand(len(words), 4)
    squashed = np.array([-np.log(301.0), -np.log(1.5), 0.0, np.log(41.0)])
    expected = encoder.vector(torch.from_numpy(squashed).expand(len(words), 4))
    torch.testing.assert_close(encoder(words, vector)[:, encoder.masks.outputs :], expected)
    torch.testing.assert_close(encoder(words, vector)[:, : encoder.masks.outputs], encoder.masks(words))
    with pytest.raises(ValueError, match="needs the ego vector"):
        encoder(words)
