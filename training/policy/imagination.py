"""Rollouts of the actor inside the world model, without a graph: its gradient is REINFORCE, not through the dynamics.

Sampled latents and actions are kept as indices, so the product of a one-hot vector with a weight matrix is a sum of
rows instead of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.recurrent import after_first, linear_at
from agent.model.rssm import LatentState, Rssm, full_precision, sample_index, uniform_noise, unimix_probs


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


class Rows(NamedTuple):
    """What one-hot vectors pick from: weights by class, laid out once for all steps of a rollout."""

    actor: Float[Tensor, "stoch units"]
    """Of the actor's first layer."""
    recurrence: Float[Tensor, "stoch hidden"]
    actions: Float[Tensor, "actions hidden"]
    offsets: Int64[Tensor, " groups"]
    """First row of each categorical variable."""

    @classmethod
    def of(cls, rssm: Rssm, actor: nn.Sequential) -> Rows:
        """The rows of a world model and an actor."""
        config, weight = rssm.config, linear_at(actor, 0).weight
        actions = rssm.action_part(torch.eye(config.actions, device=weight.device, dtype=weight.dtype))
        assert actions is not None
        return cls(
            actor=weight[:, config.deter :].t().contiguous(),
            recurrence=rssm.input.stoch_weight.t().contiguous(),
            actions=actions,
            offsets=config.classes * torch.arange(config.groups, device=weight.device),
        )


def imagination_step(
    rssm: Rssm,
    actor: nn.Sequential,
    rows: Rows,
    state: tuple[Float[Tensor, "n deter"], Int64[Tensor, "n groups"]],
    noise: tuple[Float[Tensor, "n 1"], Float[Tensor, "n groups 1"]],
    actor_unimix: float,
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "n deter"], Int64[Tensor, "n groups"]]:
    """Action in the state (h, z as indices), and the next state. Tensors alone come out, so that it can be compiled.

    noise: decides the action and the next z.
    """
    deter, index = state
    first, picked = linear_at(actor, 0), index + rows.offsets
    hidden = F.linear(deter, first.weight[:, : deter.shape[-1]], first.bias)
    hidden = hidden + F.embedding_bag(picked, rows.actor, mode="sum")
    action = sample_index(unimix_probs(after_first(actor, hidden), actor_unimix), noise[0])
    seen = F.embedding_bag(picked, rows.recurrence, mode="sum")
    deter = rssm.cell(rssm.input.combine(seen, F.embedding(action, rows.actions)), deter)
    return action, deter, sample_index(rssm.prior_probs(deter), noise[1])


ImaginationStep = Callable[..., tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def imagine(
    rssm: Rssm,
    actor: nn.Sequential,
    start: IndexedState,
    horizon: int,
    *,
    actor_unimix: float,
    generator: torch.Generator | None = None,
    step: ImaginationStep = imagination_step,
) -> Imagined:
    """Roll the prior forward under the actor; start: deter (n, D), index (n, G). No gradients flow.

    step: `imagination_step`, or the same compiled.
    """
    rows = Rows.of(rssm, actor)
    deter, index = start.deter, start.index
    like = full_precision(deter)
    like_index = like.new_empty((*index.shape, 1))
    deters, indices, actions = [deter], [index], []
    for _ in range(horizon):
        noise = uniform_noise(like, generator), uniform_noise(like_index, generator)
        action, deter, index = step(rssm, actor, rows, (deter, index), noise, actor_unimix)
        deters.append(deter)
        indices.append(index)
        actions.append(action)
    return Imagined(torch.stack(deters), torch.stack(indices), torch.stack(actions))
