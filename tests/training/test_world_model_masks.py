"""Packed mask words: unpacking, patches, and the encoders' products with bits."""

from dataclasses import replace

import numpy as np
import torch

from agent.model.mask_decoder import join_patches, padded_channels, split2
from tests.training.privileged import debug_config, random_batch
from training.bev import unpack as unpack_words
from training.presets import preset
from training.world_model.decoder import Decoder, FusedLastLayer
from training.world_model.distributions import symlog
from training.world_model.encoder import PatchEncoder
from training.world_model.layers import initialise, merge2
from training.world_model.masks import byte_table, cut_patches, unpack


def random_words(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 2**43, shape, generator=torch.Generator().manual_seed(seed))


def test_unpack_equals_the_masks_of_the_words() -> None:
    words = random_words(0, 2, 8, 8)
    masks = unpack(words, 43, byte_table())
    assert masks.shape == (2, 8, 8, padded_channels(43)) == (2, 8, 8, 48)
    expected = unpack_words(words.numpy().astype(np.uint64), range(48))
    np.testing.assert_array_equal(masks.numpy(), np.moveaxis(expected, 0, -1))


def test_patches_of_bits_join_to_the_image() -> None:
    words = random_words(1, 2, 8, 8)
    patches = torch.nn.functional.embedding(cut_patches(words, 43, 4).int(), byte_table()).flatten(-2)
    assert patches.shape == (2, 2, 2, 16 * 48)
    torch.testing.assert_close(join_patches(patches, 4), unpack(words, 43, byte_table()), rtol=0, atol=0)


def test_split_inverts_merge() -> None:
    x = torch.randn(2, 4, 4, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(split2(merge2(x)), x)


def test_table_lookup_equals_the_product_with_the_bits() -> None:
    config = debug_config("paper", "patch").world_model
    encoder = PatchEncoder(config)
    words = random_batch(debug_config("paper"), 1, 3).words[0]
    patches = cut_patches(words, 43, 4)
    bits = torch.nn.functional.embedding(patches.int(), byte_table()).flatten(-2)
    expected = bits.double() @ encoder.bits.weight.t().double()
    result = encoder.embed_bytes(patches)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    slope = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((result * slope).sum(), encoder.bits.weight)
    exact = slope.flatten(0, 2).t().double() @ bits.flatten(0, 2).double()
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-4)


def test_patch_loss_in_kept_memory_equals_the_general_one() -> None:
    config = preset("paper", "tiny").world_model
    decoder = Decoder(config)
    initialise(decoder, "layer", torch.Generator().manual_seed(0))
    words = random_words(3, 20, 64, 64) & random_words(4, 20, 64, 64)  # more frames than a chunk
    features = torch.randn(20, config.features, generator=torch.Generator().manual_seed(5))

    def loss_and_gradients(*, kept: bool) -> list[torch.Tensor]:
        decoder.zero_grad()
        inputs = features.clone().requires_grad_()
        if kept:
            loss = decoder.mask_loss(inputs, words) * len(words)
        else:
            hidden = decoder.masks.hidden(inputs)
            loss = FusedLastLayer.apply(decoder._chunk_loss, words, hidden, *decoder.masks.last_parameters())
        loss.backward()
        gradients = [inputs.grad, *(parameter.grad for parameter in decoder.masks.parameters())]
        return [loss.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]

    for kept, general in zip(loss_and_gradients(kept=True), loss_and_gradients(kept=False), strict=True):
        torch.testing.assert_close(kept, general, rtol=1e-4, atol=1e-5 * float(general.abs().max()))


def test_gaps_weigh_less_than_the_rest_of_the_vector() -> None:
    config = debug_config("paper", vector=7).world_model
    observation, loss = replace(config.observation, gaps=3), replace(config.loss, gaps=0.25)
    plain, weighted = Decoder(config), Decoder(replace(config, observation=observation, loss=loss))
    weighted.load_state_dict(plain.state_dict())
    features = torch.randn(5, config.features, generator=torch.Generator().manual_seed(6))
    vector = torch.randn(5, 7, generator=torch.Generator().manual_seed(7))
    assert plain.vector is not None
    error = (plain.vector(features) - symlog(vector)).square()
    torch.testing.assert_close(plain.vector_loss(features, vector), error.sum(-1))
    expected = error[:, :4].sum(-1) + 0.25 * error[:, 4:].sum(-1)
    torch.testing.assert_close(weighted.vector_loss(features, vector), expected)
