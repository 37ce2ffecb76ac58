"""Optimisers against steps written out in float64, and their saved state."""

import numpy as np
import pytest
import torch
from torch import nn

from training.optim import OptimizerConfig, Stepper, clip_adaptively


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,))]


def set_gradients(params: list[nn.Parameter], seed: int, scale: float = 1.0) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return [parameter.grad.double().numpy() for parameter in params if parameter.grad is not None]


def test_laprop_matches_float64_steps() -> None:
    config = OptimizerConfig(kind="laprop", learning_rate=1e-2, epsilon=1e-20)
    params = parameters()
    stepper = Stepper(config, params)
    weights = [parameter.detach().double().numpy().copy() for parameter in params]
    square, mean = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t in range(1, 6):
        gradients = set_gradients(params, t)
        stepper.step()
        for i, g in enumerate(gradients):
            square[i] = 0.999 * square[i] + 0.001 * g**2
            mean[i] = 0.9 * mean[i] + 0.1 * g / (np.sqrt(square[i] / (1 - 0.999**t)) + 1e-20)
            weights[i] = weights[i] - 1e-2 * mean[i] / (1 - 0.9**t)
    for parameter, expected in zip(params, weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_laprop_keeps_parameters_without_a_past_gradient() -> None:
    params = parameters()
    stepper = Stepper(OptimizerConfig(kind="laprop", learning_rate=1e-2, epsilon=1e-20), params)
    before = params[1].detach().clone()
    params[0].grad = torch.ones_like(params[0])
    params[1].grad = torch.zeros_like(params[1])
    stepper.step()
    assert torch.equal(params[1], before)


def test_adamw_without_decay_matches_float64_steps() -> None:
    params = parameters()
    stepper = Stepper(OptimizerConfig(learning_rate=1e-2, epsilon=1e-8), params)
    weight = params[0].detach().double().numpy().copy()
    square, mean = np.zeros_like(weight), np.zeros_like(weight)
    for t in range(1, 6):
        g = set_gradients(params, t)[0]
        stepper.step()
        square, mean = 0.999 * square + 0.001 * g**2, 0.9 * mean + 0.1 * g
        weight -= 1e-2 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(params[0].detach().numpy(), weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_adaptive_clipping_limits_each_tensor(scale: float) -> None:
    params = parameters()
    params[1].data.zero_()
    gradients = set_gradients(params, 1, scale)
    clip_adaptively(params, 0.3)
    for parameter, gradient in zip(params, gradients, strict=True):
        limit = 0.3 * max(1e-3, float(np.linalg.norm(parameter.detach().numpy())))
        expected = gradient / max(1.0, np.linalg.norm(gradient) / limit)
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-5)


def test_global_norm_is_clipped_and_reported() -> None:
    params = parameters()
    stepper = Stepper(OptimizerConfig(learning_rate=1e-3, clip_norm=0.5), params)
    norm = np.sqrt(sum((g**2).sum() for g in set_gradients(params, 2)))
    assert stepper.step().item() == pytest.approx(norm, rel=1e-5)
    clipped = np.sqrt(sum(float(p.grad.square().sum()) for p in params if p.grad is not None))
    assert clipped == pytest.approx(0.5, rel=1e-4)


def test_rate_rises_and_falls() -> None:
    config = OptimizerConfig(learning_rate=4.0, final_learning_rate=2.0, decay_updates=100, warmup_updates=10)
    assert [config.rate(update) for update in (0, 4)] == pytest.approx([0.4, 2.0 * (4.0 - 0.08) / 4.0])
    assert config.rate(50) == pytest.approx(3.0)
    assert config.rate(1000) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="must be positive"):
        OptimizerConfig(learning_rate=0.0)


@pytest.mark.parametrize("kind", ["adamw", "laprop"])
def test_resumed_state_continues_bit_for_bit(kind: str) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=1e-2, epsilon=1e-8, warmup_updates=5)
    params = parameters()
    stepper = Stepper(config, params)
    for seed in range(3):
        set_gradients(params, seed)
        stepper.step()
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    resumed = Stepper(config, copies)
    resumed.load(stepper.tensors())
    for seed in range(3, 6):
        for pair, one in ((params, stepper), (copies, resumed)):
            set_gradients(pair, seed)
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))
    with pytest.raises(ValueError, match="lacks the entry updates"):
        resumed.load({})
    with pytest.raises(ValueError, match="names no parameter"):
        resumed.load(stepper.tensors() | {"9.step": torch.zeros(())})
