"""Symlog, two-hot and mask losses against float64 references and identities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.world_model.distributions import (
    BernoulliMaskLoss,
    SquaredMaskLoss,
    TwoHot,
    TwoHotSpace,
    binary_loss,
    symexp,
    symlog,
)

SPACES: tuple[TwoHotSpace, ...] = ("symlog", "raw")


def reference_bins(space: TwoHotSpace) -> np.ndarray:
    points = np.linspace(-20.0, 20.0, 255)
    return points if space == "symlog" else np.sign(points) * np.expm1(np.abs(points))


def reference_two_hot(space: TwoHotSpace, target: float) -> np.ndarray:
    bins = reference_bins(space)
    y = np.sign(target) * np.log1p(abs(target)) if space == "symlog" else target
    y = np.clip(y, bins[0], bins[-1])
    high = int(np.clip(np.searchsorted(bins, y), 1, 254))
    share = (y - bins[high - 1]) / (bins[high] - bins[high - 1])
    probabilities = np.zeros(255)
    probabilities[high - 1], probabilities[high] = 1.0 - share, share
    return probabilities


@given(st.floats(-1e6, 1e6))
def test_symlog_matches_float64_and_is_inverted_by_symexp(value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)
    assert symlog(x).item() == pytest.approx(np.sign(value) * np.log(1.0 + abs(value)), rel=1e-9, abs=1e-12)
    assert symexp(symlog(x)).item() == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("target", [-3e8, -5.5, -1.0, -0.01, 0.0, 0.3, 1.0, 17.2, 4e3, 1e12])
def test_two_hot_matches_float64_and_decodes_what_it_encodes(space: TwoHotSpace, target: float) -> None:
    two_hot = TwoHot(space).double()
    two_hot.bins.copy_(torch.from_numpy(reference_bins(space)))
    encoded = two_hot.encode(torch.tensor([target], dtype=torch.float64))
    np.testing.assert_allclose(encoded[0].numpy(), reference_two_hot(space, target), atol=1e-9)
    assert encoded.sum().item() == pytest.approx(1.0)
    limit = np.expm1(20.0)
    assert two_hot.decode(encoded).item() == pytest.approx(np.clip(target, -limit, limit), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_two_hot_loss_matches_the_full_cross_entropy(space: TwoHotSpace) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 255, generator=generator) * 3.0
    target = torch.randn(40, generator=generator) * 10.0
    exact = logits.double().numpy()
    exact = exact - exact.max(-1, keepdims=True)
    log_probabilities = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    expected = [
        -(reference_two_hot(space, float(y)) * row).sum() for y, row in zip(target, log_probabilities, strict=True)
    ]
    np.testing.assert_allclose(TwoHot(space).loss(logits, target).numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("space", SPACES)
def test_uniform_logits_predict_exactly_zero(space: TwoHotSpace) -> None:
    prediction = TwoHot(space).mean(torch.zeros(3, 255))
    assert torch.equal(prediction, torch.zeros(3)) if space == "raw" else prediction.abs().max() < 1e-5


def test_only_the_raw_space_predicts_the_mean_of_a_mixture() -> None:
    # Half 0, half 100: the mean is 50, and the mean in symlog space is far below it.
    for space, expected in (("raw", 50.0), ("symlog", np.expm1(0.5 * np.log1p(100.0)))):
        two_hot = TwoHot(space)
        mixture = two_hot.encode(torch.tensor([0.0, 100.0])).mean(0)
        assert two_hot.decode(mixture).item() == pytest.approx(expected, rel=1e-4)


def test_binary_loss_matches_float64() -> None:
    logits = torch.linspace(-8.0, 8.0, 33)
    for target in (0.0, 0.997, 1.0):
        p = 1.0 / (1.0 + np.exp(-logits.double().numpy()))
        expected = -(target * np.log(p) + (1.0 - target) * np.log(1.0 - p))
        np.testing.assert_allclose(binary_loss(logits, torch.tensor(target)).numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [SquaredMaskLoss, BernoulliMaskLoss])
def test_mask_losses_match_float64_values_and_gradients(loss: type[torch.autograd.Function], weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(3, 4, 4, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(3, 4, 4, 8, generator=generator) < 0.2).double()
    weight = torch.rand(8, generator=generator, dtype=torch.float64) if weighted else None
    scale = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    value = loss.apply(outputs, target, weight)
    (gradient,) = torch.autograd.grad((value * scale).sum(), outputs)
    x, t = outputs.detach().numpy(), target.numpy()
    w = np.ones(8) if weight is None else weight.numpy()
    p = 1.0 / (1.0 + np.exp(-x))
    if loss is SquaredMaskLoss:
        expected, slope = w * (x - t) ** 2, w * 2.0 * (x - t)
    else:
        expected, slope = -w * (t * np.log(p) + (1.0 - t) * np.log(1.0 - p)), w * (p - t)
    np.testing.assert_allclose(value.detach().numpy(), expected.sum((1, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(gradient.numpy(), slope * scale.numpy()[:, None, None, None], rtol=1e-10)
