"""Policy: categorical distribution over the discrete actions, from the embedding e_t and the latent state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from agent.model.heads import mlp
from agent.model.rssm import LatentState

FEATURES = ("embed", "stoch", "deter")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """What the policy sees and how large it is."""

    features: tuple[str, ...] = ("embed", "stoch")
    """Inputs, a subset of embed (e_t), stoch (z_t), deter (h_t). A cloned policy that leans on h_t copies the past."""
    latent_dropout: float = 0.5
    """Probability, per frame of a training batch, that the latent part (z_t, h_t) is blanked."""
    hidden: int = 256
    layers: int = 2
    actions: int = 39

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise ValueError(f"policy.features must be a non-empty subset of {FEATURES}, got {self.features}")
        if not 0.0 <= self.latent_dropout <= 1.0:
            raise ValueError(f"policy.latent_dropout must lie in [0, 1], got {self.latent_dropout}")


class Policy(nn.Module):
    """Maps (e_t, z_t, h_t) to action logits."""

    def __init__(self, config: PolicyConfig, *, embed: int, stoch: int, deter: int) -> None:
        super().__init__()
        self.config = config
        widths = {"embed": embed, "stoch": stoch, "deter": deter}
        inputs = sum(widths[name] for name in config.features)
        # A small last layer starts the policy close to uniform, so the first gradients are those of the labels.
        self.net = mlp(inputs, config.actions, hidden=config.hidden, layers=config.layers, output_scale=0.1)

    def forward(
        self,
        embed: Float[Tensor, "*batch e"],
        latent: LatentState,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch actions"]:
        """Action logits; in training mode the latent part of random frames is blanked."""
        parts = {"embed": embed, "stoch": latent.stoch, "deter": latent.deter}
        if self.training and self.config.latent_dropout > 0.0:
            drawn = torch.rand((*embed.shape[:-1], 1), generator=generator, device=embed.device)
            keep = (drawn >= self.config.latent_dropout).to(embed.dtype)
            parts["stoch"] = parts["stoch"] * keep
            parts["deter"] = parts["deter"] * keep
        return self.net(torch.cat([parts[name].to(embed.dtype) for name in self.config.features], -1))


SETS_OFF = torch.from_numpy((ACTIONS[:, THROTTLE] > 0.0) & (ACTIONS[:, BRAKE] == 0.0) & (ACTIONS[:, REVERSE] == 0.0))
"""(39,) which actions make a standing car go forward."""


def setting_off(logits: Float[Tensor, " actions"]) -> tuple[float, int]:
    """Probability of the actions that set off, and the one that `pedal_first` would choose among them."""
    share = float(logits.float().softmax(-1)[SETS_OFF].sum())
    return share, pedal_first(logits.masked_fill(~SETS_OFF, -torch.inf))


def pedal_first(logits: Float[Tensor, " actions"]) -> int:
    """The action a driver would read from the distribution: the likeliest pedal, then the steering it means with it.

    The plain mode is biased: braking is one action, while the probability of a throttle is shared by up to eleven
    steering angles, so a car that should go would stand.
    """
    probabilities = logits.float().softmax(-1)
    table = torch.from_numpy(ACTIONS.copy())
    _, group = torch.unique(table[:, [THROTTLE, BRAKE, REVERSE]], dim=0, return_inverse=True)
    shares = torch.zeros(int(group.max()) + 1).index_add(0, group, probabilities)
    members = torch.nonzero(group == shares.argmax())[:, 0]
    steer = table[members, STEER]
    mean = (steer * probabilities[members]).sum() / probabilities[members].sum()
    return int(members[(steer - mean).abs().argmin()])


_TABLE = torch.from_numpy(ACTIONS.copy())
_PEDALS = torch.unique(_TABLE[:, [THROTTLE, BRAKE, REVERSE]], dim=0, return_inverse=True)[1]


def pedals_first(logits: Float[Tensor, "n actions"]) -> Int64[Tensor, " n"]:
    """As `pedal_first` for many distributions at once."""
    probabilities = logits.float().softmax(-1)
    pedals, table = _PEDALS.to(logits.device), _TABLE.to(logits.device)
    shares = probabilities.new_zeros(len(logits), int(_PEDALS.max()) + 1).index_add(1, pedals, probabilities)
    inside = pedals == shares.argmax(-1, keepdim=True)
    weights = probabilities * inside
    mean = (weights @ table[:, STEER]) / weights.sum(-1)
    distance = (table[:, STEER] - mean[:, None]).abs().masked_fill(~inside, torch.inf)
    return distance.argmin(-1)
