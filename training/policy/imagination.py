"""Rollouts of the actor inside the world model, without a graph: its gradient is REINFORCE, not through the dynamics.

Sampled latents and actions are kept as indices, so the product of a one-hot vector with a weight matrix is a sum of
rows instead of a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.recurrent import linear_at
from agent.model.rssm import LatentState, Rssm, sample_index, uniform_noise, unimix_probs


@dataclass(frozen=True, slots=True)
class IndexedState:
    """Latent state with z as class indices."""

    deter: Float[Tensor, "*batch deter"]
    index: Int64[Tensor, "*batch groups"]
    """Class of each categorical variable."""

    @classmethod
    def of(cls, state: LatentState, groups: int) -> IndexedState:
        """The indices of a state whose z is one-hot; no gradient."""
        classes = state.stoch.shape[-1] // groups
        return cls(state.deter.detach(), state.stoch.detach().unflatten(-1, (groups, classes)).argmax(-1))

    def features(self, classes: int) -> Float[Tensor, "*batch features"]:
        """[h, z] with z one-hot."""
        one_hot = torch.zeros(*self.index.shape, classes, device=self.deter.device, dtype=self.deter.dtype)
        return torch.cat([self.deter, one_hot.scatter_(-1, self.index[..., None], 1.0).flatten(-2)], -1)


class RowSum(nn.Module):
    """x -> W z for one-hot z given as indices: the sum of one column of W per categorical variable."""

    def __init__(self, weight: Float[Tensor, "out stoch"], classes: int) -> None:
        super().__init__()
        self.rows = weight.t().contiguous()
        groups = self.rows.shape[0] // classes
        self.offsets = classes * torch.arange(groups, device=weight.device)

    def forward(self, index: Int64[Tensor, "n groups"]) -> Float[Tensor, "n out"]:
        """W z."""
        return F.embedding_bag(index + self.offsets, self.rows, mode="sum")


class IndexedNet:
    """A network on [h, z], applied to an IndexedState."""

    def __init__(self, net: nn.Sequential, deter: int, classes: int) -> None:
        first = linear_at(net, 0)
        self._deter_weight, self._bias = first.weight[:, :deter], first.bias
        self._stoch = RowSum(first.weight[:, deter:], classes)
        self._rest = net[1:]

    def __call__(self, state: IndexedState) -> Float[Tensor, "n out"]:
        """The network's output."""
        hidden = F.linear(state.deter, self._deter_weight, self._bias) + self._stoch(state.index)
        return self._rest(hidden)


@dataclass(frozen=True, slots=True)
class Imagined:
    """Rollouts of H steps from N states."""

    deter: Float[Tensor, "h+1 n deter"]
    index: Int64[Tensor, "h+1 n groups"]
    action: Int64[Tensor, "h n"]
    """action[t] is taken in state t."""

    def flat(self) -> IndexedState:
        """All states of all steps in one row."""
        return IndexedState(self.deter.flatten(0, 1), self.index.flatten(0, 1))


@torch.no_grad()
def imagine(
    rssm: Rssm,
    actor: nn.Sequential,
    start: IndexedState,
    horizon: int,
    *,
    actor_unimix: float,
    generator: torch.Generator | None = None,
) -> Imagined:
    """Roll the prior forward under the actor; start: deter (n, D), index (n, G). No gradients flow."""
    config = rssm.config
    act = IndexedNet(actor, config.deter, config.classes)
    embed_stoch = RowSum(rssm.input.stoch_weight, config.classes)
    every_action = torch.eye(config.actions, device=start.deter.device, dtype=start.deter.dtype)
    action_rows = rssm.action_part(every_action)
    assert action_rows is not None
    deters, indices, actions = [start.deter], [start.index], []
    state = start
    for _ in range(horizon):
        policy = unimix_probs(act(state), actor_unimix)
        action = sample_index(policy, uniform_noise(policy, generator))
        x = rssm.input.combine(embed_stoch(state.index), F.embedding(action, action_rows))
        deter = rssm.cell(x, state.deter)
        prior = rssm.prior_probs(deter)
        state = IndexedState(deter, sample_index(prior, uniform_noise(prior, generator)))
        deters.append(state.deter)
        indices.append(state.index)
        actions.append(action)
    return Imagined(torch.stack(deters), torch.stack(indices), torch.stack(actions))
