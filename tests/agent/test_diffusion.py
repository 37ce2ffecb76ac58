"""The noise schedule and the sampler, against what is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agent.model.diffusion import cosine_alpha_bar, ddim, ddim_step, noised, sampling_levels


def test_the_schedule_goes_from_clean_to_noise() -> None:
    """Nichol and Dhariwal's cosine, written out."""
    table = cosine_alpha_bar(100)
    assert table[0] == 1.0 and table[-1] <= 1e-3 and (table.diff() <= 0).all()
    for k in (1, 37, 80):
        f = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (k, 0)]
        assert float(table[k]) == pytest.approx(f[0] / f[1], rel=1e-5)


def test_noised_samples_keep_their_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 20_000, 1, 1, generator=generator)
    x = noised(clean, noise, torch.full((20_000,), 0.3))
    assert float(x.var()) == pytest.approx(1.0, abs=0.03)
    assert float((x * clean).mean()) == pytest.approx(math.sqrt(0.3), abs=0.02)


@pytest.mark.parametrize("steps", [1, 3, 5, 100])
def test_a_perfect_prediction_is_returned_whatever_the_steps(steps: int) -> None:
    truth = torch.randn(7, 12, 2, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(7, 12, 2, generator=torch.Generator().manual_seed(2))
    found = ddim(lambda x, level: truth, noise, cosine_alpha_bar(100), steps)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=0.0)
    levels = sampling_levels(steps, 100)
    assert levels[0] == 100 and levels[-1] == 0 and len(levels) == steps + 1


def test_a_step_keeps_signal_and_noise_apart() -> None:
    """Of x_k = sqrt(a) x_0 + sqrt(1 - a) eps with x_0 known, the step gives the same with another a."""
    clean, noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(3))
    x = 0.6 * clean + 0.8 * noise
    torch.testing.assert_close(ddim_step(x, clean, 0.36, 0.64), 0.8 * clean + 0.6 * noise)


def test_the_sampler_carries_noise_to_a_gaussian() -> None:
    """With the best possible denoiser of N(m, s^2), which is linear, noise becomes that distribution."""
    mean, deviation = 1.5, 0.4
    table = cosine_alpha_bar(200)

    def best(x: torch.Tensor, level: int) -> torch.Tensor:
        a = float(table[level])
        gain = math.sqrt(a) * deviation**2 / (a * deviation**2 + 1.0 - a)
        return mean + gain * (x - math.sqrt(a) * mean)

    noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(4))
    found = ddim(best, noise, table, 200).numpy()[:, 0]
    assert found.mean() == pytest.approx(mean, abs=0.01)
    assert found.std() == pytest.approx(deviation, rel=0.05)
    in_order = found[np.argsort(noise.numpy()[:, 0])]
    assert (np.diff(in_order) > -1e-5).all()  # an orderly map of the noise
    with pytest.raises(ValueError, match="1 to 200 steps"):
        sampling_levels(201, 200)
