"""Lambda-returns, trajectory weights and the scale of returns. Pure functions, time first."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.distributed import ALONE


def lambda_returns(
    reward: Float[Tensor, "h n"], discount: Float[Tensor, "h n"], value: Float[Tensor, "h n"], lam: float
) -> Float[Tensor, "h n"]:
    """R_t = r_{t+1} + d_{t+1} ((1 - lam) v_{t+1} + lam R_{t+1}) with R_H = v_H; all inputs start at step 1.

    discount: gamma times the continue flag of the step. Source: Hafner et al. 2023, equation 7; Raw2Drive, Appendix E,
    equation 3, prints reward, flag and value with the index of the state before (our reading: those of the next).
    """
    following = value[-1]
    returns = []
    for step in range(reward.shape[0] - 1, -1, -1):
        following = reward[step] + discount[step] * ((1.0 - lam) * value[step] + lam * following)
        returns.append(following)
    return torch.stack(returns[::-1])


def replay_returns(
    reward: Float[Tensor, "t b"],
    terminal: Bool[Tensor, "t b"],
    last: Bool[Tensor, "t b"],
    bootstrap: Float[Tensor, "t b"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "t-1 b"]:
    """Returns of replayed steps 0 .. t-2 from real rewards, bootstrapped by a value of every state.

    Where an episode is cut off (last, not terminal) the return is the bootstrap alone. Source: Hafner et al. 2025.
    """
    alive = gamma * (1.0 - terminal.float())
    mix = lam * (1.0 - last.float())
    following = bootstrap[-1]
    returns = []
    for step in range(reward.shape[0] - 1, 0, -1):
        ahead = (1.0 - mix[step]) * bootstrap[step] + mix[step] * following
        following = reward[step] + alive[step] * ahead
        returns.append(following)
    return torch.stack(returns[::-1])


def trajectory_weights(first_continue: Float[Tensor, " n"], discount: Float[Tensor, "h n"]) -> Float[Tensor, "h n"]:
    """w_t = c_0 d_1 ... d_t for t = 0 .. h-1: how far the imagined trajectory still counts; discount from step 1."""
    return torch.cumprod(torch.cat([first_continue[None], discount[:-1]]), 0)


class ReturnScale(nn.Module):
    """S = average of Per95(R) - Per5(R), kept as two averaged percentiles. Source: Raw2Drive, Appendix E; DreamerV3."""

    percentiles: Tensor
    averages: Tensor
    updates: Tensor

    def __init__(self, percentiles: tuple[float, float], decay: float, *, debias: bool) -> None:
        super().__init__()
        self.decay, self.debias = decay, debias
        self.ranks = ALONE
        """Learners whose returns are taken together, as all parts of one batch."""
        self.register_buffer("percentiles", torch.tensor(percentiles), persistent=False)
        self.register_buffer("averages", torch.zeros(2))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
        """max(1, S) after taking in the returns of one imagination."""
        current = torch.quantile(self.ranks.gather(returns.flatten()), self.percentiles)
        self.averages.lerp_(current, 1.0 - self.decay)
        self.updates += 1.0
        spread = self.averages[1] - self.averages[0]
        if self.debias:
            spread = spread / (1.0 - self.decay**self.updates)
        return spread.clamp(min=1.0)

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all returns."""
        self.averages.zero_()
        self.updates.zero_()
