"""Filtering both streams over the same windows with one sample per step.

Each step draws z_t once, from the raw posterior, and both recurrences go on from it: h_{t+1} = f(h_t, z_t, a_t) and
h^_{t+1} = f^(h^_t, z_t, a_t). Source: Raw2Drive, section 3.3 and Figure 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from agent.model.recurrent import linear_at
from agent.model.rssm import (
    Belief,
    LatentState,
    Rssm,
    one_hot_at,
    sample_index,
    straight_through_at,
    unimix_log_probs,
)
from training.world_model.model import Replayed


@dataclass(frozen=True, slots=True)
class Streams:
    """Beliefs of both streams over the same windows. Nothing of the privileged one carries a gradient."""

    raw: Belief
    privileged: Belief


def likeliest(belief: Belief) -> LatentState:
    """The states of a belief with the likeliest z of their posteriors in place of the sampled one, as an agent drives.

    Gradients reach the posterior's probabilities.
    """
    probs = belief.posterior.exp()
    return LatentState(belief.state.deter, straight_through_at(probs, probs.detach().argmax(-1)).flatten(-2))


def side_by_side(streams: Streams) -> LatentState:
    """The states of both streams as one, the raw one first: what windows that start later go on from."""
    raw, privileged = streams.raw.state, streams.privileged.state
    pairs = ((raw.deter, privileged.deter), (raw.stoch, privileged.stoch))
    return LatentState(*(torch.cat(pair, -1).detach() for pair in pairs))


def apart(state: LatentState) -> tuple[LatentState, LatentState]:
    """The raw and the privileged state out of one made by `side_by_side`."""
    deters, stochs = state.deter.chunk(2, -1), state.stoch.chunk(2, -1)
    return LatentState(deters[0], stochs[0]), LatentState(deters[1], stochs[1])


@dataclass(frozen=True, slots=True)
class Windows:
    """What both streams know of windows besides what they see."""

    first: Bool[Tensor, "b t"]
    """Where states are reset."""
    actions: Float[Tensor, "b t a"]
    """actions[:, t] was taken before observation t."""
    before: LatentState | None = None
    """Both states before the first step, side by side; None: zeros, as where states are reset."""

    @classmethod
    def of(cls, batch: Replayed, actions: Float[Tensor, "b t a"]) -> Windows:
        """Of replayed windows: those without stored states begin as an episode does."""
        first = batch.first
        if batch.start is None:
            first = torch.cat([torch.ones_like(first[:, :1]), first[:, 1:]], 1)
        return cls(first, actions, batch.start)


class _Filter:
    """One stream: everything that does not depend on the recurrence is computed for all steps at once."""

    def __init__(self, rssm: Rssm, embed: Float[Tensor, "b t e"], windows: Windows, before: LatentState | None) -> None:
        self.rssm, self._first, self._before = rssm, windows.first, before
        self._actions = rssm.action_part(windows.actions * ~windows.first[..., None])
        layer = linear_at(rssm.posterior_head, 0)
        self._deter_weight = layer.weight[:, : rssm.config.deter]
        self._embed = F.linear(embed, layer.weight[:, rssm.config.deter :], layer.bias)
        self._rest = rssm.posterior_head[1:]
        self._start = rssm.initial(embed.shape[0])
        self._deter = self._start.deter if before is None else before.deter
        self.deter: list[Tensor] = []
        self.stoch: list[Tensor] = []
        self.posterior: list[Tensor] = []

    def observe(self, t: int, stoch: Tensor | None) -> Float[Tensor, "b groups classes"]:
        """Posterior's log-probabilities of step t; stoch: z of the step before, None at the first of the window."""
        if stoch is None and self._before is not None:
            stoch = self._before.stoch
        keep = ~self._first[:, t, None]
        h = torch.where(keep, self._deter, self._start.deter)
        z = self._start.stoch if stoch is None else torch.where(keep, stoch, self._start.stoch)
        action = None if self._actions is None else self._actions[:, t]
        self._deter = self.rssm.cell(self.rssm.input.combine(self.rssm.input.stoch_part(z), action), h)
        logits = self._rest(self._embed[:, t] + F.linear(self._deter, self._deter_weight))
        config = self.rssm.config
        log_probs = unimix_log_probs(logits.unflatten(-1, (config.groups, config.classes)), config.unimix)
        self.deter.append(self._deter)
        self.posterior.append(log_probs)
        return log_probs

    def belief(self) -> Belief:
        states = LatentState(torch.stack(self.deter, 1), torch.stack(self.stoch, 1))
        return Belief(state=states, posterior=torch.stack(self.posterior, 1), prior=self.rssm.prior(states.deter))


def filter_both(
    raw: Rssm,
    privileged: Rssm,
    embed: Float[Tensor, "b t e"],
    target: Float[Tensor, "b t e"],
    windows: Windows,
    *,
    shared: bool = True,
    generator: torch.Generator | None = None,
) -> Streams:
    """Filter windows from their start in both streams.

    embed, target: e_t of the raw and of the privileged stream. shared: one sample for both, drawn from the raw
    posterior; otherwise each stream draws its own.
    """
    first, pasts = windows.first, (None, None) if windows.before is None else apart(windows.before)
    config = raw.config
    uniform = [
        torch.rand((*first.shape, config.groups, 1), device=embed.device, generator=generator)
        for _ in range(1 if shared else 2)
    ]
    ours = _Filter(raw, embed, windows, pasts[0])
    with torch.no_grad():
        theirs = _Filter(privileged, target.detach(), windows, pasts[1])
    own = other = None
    for t in range(first.shape[1]):
        probs = ours.observe(t, own).exp()
        own = straight_through_at(probs, sample_index(probs.detach(), uniform[0][:, t])).flatten(-2)
        with torch.no_grad():
            probs = theirs.observe(t, other).exp()
            other = own.detach() if shared else one_hot_at(probs, sample_index(probs, uniform[1][:, t])).flatten(-2)
        ours.stoch.append(own)
        theirs.stoch.append(other)
    with torch.no_grad():
        privileged_belief = theirs.belief()
    return Streams(ours.belief(), privileged_belief)
