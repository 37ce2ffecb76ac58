"""Dual imagination: the raw stream rolls out strictly, the privileged one follows on the same latents and actions.

h^' = f^(h^, z, a), z' ~ p^(h^'), h' = f(h, z, a): rewards and continue flags are the privileged heads' on (h', z'),
actor and critic see (h^', z'). It costs one recurrence more per step than imagining alone.
Source: Raw2Drive, section 3.3 (head guidance) and Figure 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.rssm import Rssm, sample_index, uniform_noise, unimix_probs
from training.policy.imagination import Imagined, IndexedNet, IndexedState, RowSum


@dataclass(frozen=True, slots=True)
class DualStart:
    """States of both streams with the same z to imagine from."""

    raw: Float[Tensor, "n deter"]
    privileged: Float[Tensor, "n deter"]
    index: Int64[Tensor, "n groups"]


@dataclass(frozen=True, slots=True)
class DualImagined:
    """Rollouts of both streams on the same latents and actions."""

    raw: Imagined
    privileged: Imagined


class _Recurrence:
    """h' = f(h, z, a) with z and a as indices."""

    def __init__(self, rssm: Rssm) -> None:
        config = rssm.config
        self._rssm = rssm
        self._stoch = RowSum(rssm.input.stoch_weight, config.classes)
        weight = rssm.input.stoch_weight
        rows = rssm.action_part(torch.eye(config.actions, device=weight.device, dtype=weight.dtype))
        assert rows is not None
        self._actions = rows

    def __call__(self, deter: Tensor, index: Tensor, action: Tensor) -> Tensor:
        part = F.embedding(action, self._actions)
        return self._rssm.cell(self._rssm.input.combine(self._stoch(index), part), deter)


@torch.no_grad()
def imagine_both(
    raw: Rssm,
    privileged: Rssm,
    actor: nn.Sequential,
    start: DualStart,
    horizon: int,
    *,
    actor_unimix: float,
    generator: torch.Generator | None = None,
) -> DualImagined:
    """Roll both streams forward under the actor, which sees the raw one. No gradients flow."""
    config = raw.config
    act = IndexedNet(actor, config.deter, config.classes)
    advance, follow = _Recurrence(raw), _Recurrence(privileged)
    ours, theirs, index = start.raw, start.privileged, start.index
    deters, others, indices, actions = [ours], [theirs], [index], []
    for _ in range(horizon):
        policy = unimix_probs(act(IndexedState(ours, index)), actor_unimix)
        action = sample_index(policy, uniform_noise(policy, generator))
        ours, theirs = advance(ours, index, action), follow(theirs, index, action)
        prior = raw.prior_probs(ours)
        index = sample_index(prior, uniform_noise(prior, generator))
        deters.append(ours)
        others.append(theirs)
        indices.append(index)
        actions.append(action)
    latents, taken = torch.stack(indices), torch.stack(actions)
    return DualImagined(
        raw=Imagined(torch.stack(deters), latents, taken), privileged=Imagined(torch.stack(others), latents, taken)
    )
