"""An image encoder that begins to read a finer map of its backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.model.image_encoder import ImageEncoder
from tests.training.raw import ENCODER
from training.raw.finer import LEVEL_EMBEDS, SHY_LOGIT, weights_with_finer_map, with_finer_map

ATTENTION = "bevformer.transformer.encoder.layers.0.attentions.1.deformable_attention"


def encoders() -> tuple[ImageEncoder, ImageEncoder]:
    """One that reads strides 16 and 32, all of its weights random, and one that reads stride 8 as well."""
    torch.manual_seed(3)
    coarse = ImageEncoder(replace(ENCODER, levels=2)).eval()
    with torch.no_grad():
        for parameter in coarse.bevformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return coarse, ImageEncoder(with_finer_map(coarse.config)).eval()


def sensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 6, 3, ENCODER.image_height, ENCODER.image_width)
    images = torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)
    return images, torch.ones(2, 6, dtype=torch.bool), torch.tensor([[0.5, 0.0, 0.02]]).expand(2, 3)


def test_an_encoder_that_does_not_look_at_the_new_map_sees_what_it_saw() -> None:
    coarse, fine = encoders()
    fine.load_state_dict(weights_with_finer_map(fine, coarse.state_dict()))
    with torch.no_grad():
        logits = fine.get_parameter(f"{ATTENTION}.attention_weights.bias")
        biases = logits.unflatten(0, (ENCODER.heads, 3, ENCODER.spatial_points))
        assert torch.equal(biases[:, 0], torch.full_like(biases[:, 0], SHY_LOGIT))
        expected = coarse(*sensors())
        assert not torch.allclose(fine(*sensors()), expected, atol=1e-4)
        biases[:, 0] = -100.0
        torch.testing.assert_close(fine(*sensors()), expected)


def test_what_is_new_begins_as_the_new_encoder_does() -> None:
    coarse, fine = encoders()
    own = {name: value.clone() for name, value in fine.state_dict().items()}
    state = weights_with_finer_map(fine, coarse.state_dict())
    for name in ("neck.lateral_convs.0.conv.weight", "neck.fpn_convs.0.conv.bias"):
        assert torch.equal(state[name], own[name])
    assert torch.equal(state[LEVEL_EMBEDS][0], own[LEVEL_EMBEDS][0])
    key = f"{ATTENTION}.sampling_offsets.bias"
    offsets, usual = (value.unflatten(0, (ENCODER.heads, 3, -1))[:, 0] for value in (state[key], own[key]))
    assert torch.equal(offsets, usual)


def test_weights_that_fit_or_fit_nowhere_are_left_alone() -> None:
    coarse, fine = encoders()
    for encoder in (coarse, fine):
        given = encoder.state_dict()
        assert all(value is given[name] for name, value in weights_with_finer_map(encoder, given).items())
    broken = {name: value for name, value in coarse.state_dict().items() if name != LEVEL_EMBEDS}
    assert weights_with_finer_map(fine, broken).keys() == broken.keys()


def test_there_is_no_map_before_the_first() -> None:
    finest = with_finer_map(with_finer_map(ENCODER))
    assert (finest.backbone_stages, finest.levels) == ((1, 2, 3, 4), ENCODER.levels + 2)
    with pytest.raises(ValueError, match="begin with the finest"):
        with_finer_map(finest)
