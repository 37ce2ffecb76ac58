"""Recurrent state-space model of DreamerV3: categorical latents, KL with free bits, dense or block GRU.

The defaults are the recipe of 2023 (layer norm, dense GRU, learned start); that of the Nature version (RMS norm, block
GRU, zero start) is a matter of configuration.

Notation of the papers: h = deter, z = stoch, e = embed. Time convention: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from agent.model.recurrent import (
    BlockGruCell,
    BlockInput,
    DenseInput,
    GruCell,
    NormKind,
    after_first,
    hidden_layers,
    linear_at,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RssmConfig:
    """Sizes and switches of the recurrent state-space model."""

    deter: int = 256
    """Width of the deterministic state h."""
    groups: int = 16
    """Number of categorical variables in z."""
    classes: int = 16
    """Classes of each categorical variable."""
    hidden: int = 256
    """Width of the hidden layers around the recurrent cell."""
    unimix: float = 0.01
    """Share of the uniform distribution mixed into every categorical distribution."""
    free_nats: float = 1.0
    """KL below this many nats per step is not penalised."""
    action_input: bool = False
    """Whether h_t sees a_{t-1}. Off for cloning: a cloned policy that knows its last action repeats it for ever."""
    actions: int = 39
    """Width of the one-hot action, used when action_input is on."""
    recurrence: Literal["gru", "block_gru"] = "gru"
    """Dense GRU with a layer norm over its gates (2023) or block GRU (2025)."""
    blocks: int = 8
    """Blocks of the block GRU."""
    norm: NormKind = "layer"
    """Norm of the hidden layers around the cell; with "rms" they have biases."""
    prior_layers: int = 1
    """Hidden layers of the prior; the posterior has one."""
    start: Literal["learned", "zeros"] = "learned"
    """State before the first observation: h_0 = tanh(w) with the prior's mode, or zeros."""

    def __post_init__(self) -> None:
        if self.recurrence == "block_gru":
            if not self.action_input:
                raise ValueError("rssm.recurrence block_gru needs rssm.action_input")
            if self.blocks < 1 or self.deter % self.blocks:
                raise ValueError(f"rssm.deter {self.deter} must be a multiple of rssm.blocks {self.blocks}")
        if not 0.0 <= self.unimix < 1.0:
            raise ValueError(f"rssm.unimix must lie in [0, 1), got {self.unimix}")
        if min(self.deter, self.groups, self.classes, self.hidden, self.actions) < 1:
            raise ValueError("rssm sizes (deter, groups, classes, hidden, actions) must be at least 1")

    @property
    def stoch(self) -> int:
        """Width of the flattened stochastic state z."""
        return self.groups * self.classes


@dataclass(frozen=True, slots=True)
class LatentState:
    """Compact state (h, z) of the world model; z is flattened one-hot."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]

    def features(self) -> Float[Tensor, "*batch features"]:
        """Concatenation [h, z]."""
        return torch.cat([self.deter, self.stoch], -1)

    def detach(self) -> LatentState:
        """The same values, cut from the graph."""
        return LatentState(self.deter.detach(), self.stoch.detach())


@dataclass(frozen=True, slots=True)
class Belief:
    """A sequence of latent states with the log-probabilities of posterior and prior (unimix included)."""

    state: LatentState
    posterior: Float[Tensor, "*batch groups classes"]
    prior: Float[Tensor, "*batch groups classes"]


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x in float32 if it is in a half precision: probabilities and losses need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unimix_log_probs(logits: Float[Tensor, "*batch classes"], unimix: float) -> Float[Tensor, "*batch classes"]:
    """log((1 - unimix) softmax(logits) + unimix / classes), at least in float32."""
    if unimix == 0.0:
        return full_precision(logits).log_softmax(-1)
    return unimix_probs(logits, unimix).log()


def unimix_probs(logits: Float[Tensor, "*batch classes"], unimix: float) -> Float[Tensor, "*batch classes"]:
    """(1 - unimix) softmax(logits) + unimix / classes, at least in float32."""
    return (1.0 - unimix) * full_precision(logits).softmax(-1) + unimix / logits.shape[-1]


def straight_through(
    log_probs: Float[Tensor, "*batch classes"], generator: torch.Generator | None, *, mode: bool
) -> Float[Tensor, "*batch classes"]:
    """One-hot sample (or mode) whose gradient is that of the probabilities."""
    uniform = None if mode else uniform_noise(log_probs, generator)
    probs = log_probs.exp()
    return straight_through_at(probs, sample_index(probs.detach(), uniform))


def uniform_noise(
    like: Float[Tensor, "*batch classes"], generator: torch.Generator | None
) -> Float[Tensor, "*batch 1"]:
    """One number in [0, 1) per distribution."""
    return torch.rand((*like.shape[:-1], 1), dtype=like.dtype, device=like.device, generator=generator)


def sample_index(
    probs: Float[Tensor, "*batch classes"], uniform: Float[Tensor, "*batch 1"] | None
) -> Int64[Tensor, "*batch"]:
    """Class at which the cumulated probability exceeds the uniform number, an exact sample; the mode without one."""
    if uniform is None:
        return probs.argmax(-1)
    cumulated = probs.cumsum(-1)
    # The last entry may miss 1 by rounding, so the number is scaled to it.
    return (cumulated <= uniform * cumulated[..., -1:]).sum(-1).clamp(max=probs.shape[-1] - 1)


def one_hot_at(
    like: Float[Tensor, "*batch classes"], index: Int64[Tensor, "*batch"]
) -> Float[Tensor, "*batch classes"]:
    """One-hot vectors of the given classes."""
    return torch.zeros_like(like).scatter_(-1, index[..., None], 1.0)


def straight_through_at(
    probs: Float[Tensor, "*batch classes"], index: Int64[Tensor, "*batch"]
) -> Float[Tensor, "*batch classes"]:
    """One-hot vectors of the given classes with the gradient of the probabilities."""
    return one_hot_at(probs, index) + (probs - probs.detach())


def categorical_kl(
    log_p: Float[Tensor, "*batch groups classes"], log_q: Float[Tensor, "*batch groups classes"]
) -> Float[Tensor, "*batch"]:
    """KL(p || q) in nats, summed over the independent categorical variables."""
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


@dataclass(frozen=True, slots=True)
class KlLoss:
    """Dynamics and representation loss (clipped at the free nats) and the unclipped KL, all means in nats."""

    dynamics: Float[Tensor, ""]
    representation: Float[Tensor, ""]
    kl: Float[Tensor, ""]


def kl_loss(belief: Belief, free_nats: float) -> KlLoss:
    """DreamerV3's KL balancing: the same divergence twice, with the gradient to one side each.

    Source: Hafner et al. 2023, equation 5; the clip applies to each step before the mean.
    """
    dynamics = categorical_kl(belief.posterior.detach(), belief.prior)
    representation = categorical_kl(belief.posterior, belief.prior.detach())
    return KlLoss(
        dynamics=dynamics.clamp(min=free_nats).mean(),
        representation=representation.clamp(min=free_nats).mean(),
        kl=dynamics.detach().mean(),
    )


class Rssm(nn.Module):
    """Deterministic recurrence, prior p(z|h) and posterior q(z|h,e)."""

    def __init__(self, config: RssmConfig, embed: int) -> None:
        super().__init__()
        self.config = config
        actions = config.actions if config.action_input else 0
        if config.recurrence == "gru":
            self.input = DenseInput(config.stoch, actions, config.hidden)
            self.cell = GruCell(config.hidden, config.deter)
        else:
            self.input = BlockInput(config.stoch, actions, config.hidden)
            self.cell = BlockGruCell(2 * config.hidden, config.deter, config.hidden, config.blocks)
        self.prior_head = nn.Sequential(
            *hidden_layers(config.deter, config.hidden, config.prior_layers, config.norm),
            nn.Linear(config.hidden, config.stoch),
        )
        self.posterior_head = nn.Sequential(
            *hidden_layers(config.deter + embed, config.hidden, 1, config.norm),
            nn.Linear(config.hidden, config.stoch),
        )
        if config.start == "learned":
            self.initial_deter = nn.Parameter(torch.zeros(config.deter))

    def initial(self, batch: int) -> LatentState:
        """State before the first observation: learned (h_0 = tanh(w), z_0 = mode of the prior at h_0) or zeros."""
        if self.config.start == "zeros":
            zeros = linear_at(self.prior_head, 0).weight.new_zeros(batch, self.config.deter + self.config.stoch)
            return LatentState(zeros[:, : self.config.deter], zeros[:, self.config.deter :])
        deter = torch.tanh(self.initial_deter)[None]
        stoch = straight_through(self.prior(deter), None, mode=True).flatten(-2)
        return LatentState(deter.expand(batch, -1), stoch.expand(batch, -1))

    def prior(self, deter: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch groups classes"]:
        """Log-probabilities of z before seeing the observation."""
        return self._log_probs(self.prior_head(deter))

    def prior_probs(self, deter: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch groups classes"]:
        """Probabilities of z before seeing the observation."""
        logits = self.prior_head(deter).unflatten(-1, (self.config.groups, self.config.classes))
        return unimix_probs(logits, self.config.unimix)

    def posterior(
        self, deter: Float[Tensor, "*batch h"], embed: Float[Tensor, "*batch e"]
    ) -> Float[Tensor, "*batch groups classes"]:
        """Log-probabilities of z after seeing the observation."""
        return self._log_probs(self.posterior_head(torch.cat([deter, embed], -1)))

    def advance(self, state: LatentState, action: Float[Tensor, "b a"] | None) -> Float[Tensor, "b h"]:
        """Next deterministic state from (h, z) and, if the model uses it, the one-hot action taken there."""
        x = self.input.combine(self.input.stoch_part(state.stoch), self.action_part(action))
        return self.cell(x, state.deter)

    def action_part(self, action: Float[Tensor, "*batch a"] | None) -> Float[Tensor, "*batch hidden"] | None:
        """What the recurrence needs of the action alone; None if the model does not see actions."""
        if not self.config.action_input:
            return None
        if action is None:
            raise ValueError("rssm.action_input is on, so the previous action is needed")
        return self.input.action_part(action.to(linear_at(self.prior_head, 0).weight.dtype))

    def observe_step(
        self,
        state: LatentState,
        action: Float[Tensor, "b a"] | None,
        embed: Float[Tensor, "b e"],
        first: Bool[Tensor, " b"],
        *,
        mode: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[LatentState, Float[Tensor, "b groups classes"]]:
        """State after one observation, and the posterior's log-probabilities.

        Where first is set, state and previous action are replaced by the learned start and by zeros.
        """
        start = self.initial(embed.shape[0])
        keep = ~first[:, None]
        state = LatentState(torch.where(keep, state.deter, start.deter), torch.where(keep, state.stoch, start.stoch))
        if action is not None:
            action = action * keep
        deter = self.advance(state, action)
        posterior = self.posterior(deter, embed)
        return LatentState(deter, straight_through(posterior, generator, mode=mode).flatten(-2)), posterior

    def observe(
        self,
        embed: Float[Tensor, "b t e"],
        first: Bool[Tensor, "b t"],
        state: LatentState,
        actions: Float[Tensor, "b t a"] | None = None,
        *,
        mode: bool = False,
        generator: torch.Generator | None = None,
    ) -> Belief:
        """Filter a sequence; actions[:, t] is the action taken before observation t."""
        config, keep = self.config, ~first[..., None]
        start = self.initial(embed.shape[0])
        # Whatever does not depend on the recurrence is computed for all steps at once.
        action_part = self.action_part(None if actions is None else actions * keep)
        first_layer = linear_at(self.posterior_head, 0)
        embed_part = F.linear(embed, first_layer.weight[:, config.deter :], first_layer.bias)
        uniform = None
        if not mode:
            shape = (*first.shape, config.groups, 1)
            uniform = torch.rand(shape, device=embed.device, dtype=full_precision(embed).dtype, generator=generator)
        deter, stoch, posterior = [], [], []
        for t in range(embed.shape[1]):
            h = torch.where(keep[:, t], state.deter, start.deter)
            z = torch.where(keep[:, t], state.stoch, start.stoch)
            h, z, log_probs = self.filter_step(
                h,
                z,
                None if action_part is None else action_part[:, t],
                embed_part[:, t],
                None if uniform is None else uniform[:, t],
            )
            state = LatentState(h, z)
            deter.append(state.deter)
            stoch.append(state.stoch)
            posterior.append(log_probs)
        states = LatentState(torch.stack(deter, 1), torch.stack(stoch, 1))
        return Belief(state=states, posterior=torch.stack(posterior, 1), prior=self.prior(states.deter))

    def filter_step(
        self,
        deter: Float[Tensor, "b h"],
        stoch: Float[Tensor, "b z"],
        action_part: Float[Tensor, "b hidden"] | None,
        embed_part: Float[Tensor, "b hidden"],
        uniform: Float[Tensor, "b groups 1"] | None,
    ) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b z"], Float[Tensor, "b groups classes"]]:
        """One step of `observe`: next h and z and the posterior's log-probabilities. Tensors alone, to be compiled.

        embed_part: of the posterior's first layer. uniform: noise that decides the sample; the mode without it.
        """
        x = self.input.combine(self.input.stoch_part(stoch), action_part)
        deter = self.cell(x, deter)
        weight = linear_at(self.posterior_head, 0).weight[:, : self.config.deter]
        log_probs = self._log_probs(after_first(self.posterior_head, embed_part + F.linear(deter, weight)))
        probs = log_probs.exp()
        index = sample_index(probs.detach(), uniform)
        return deter, straight_through_at(probs, index).flatten(-2), log_probs

    def imagine_step(
        self,
        state: LatentState,
        action: Float[Tensor, "b a"] | None,
        *,
        mode: bool = False,
        generator: torch.Generator | None = None,
    ) -> LatentState:
        """State after one step without an observation: z is drawn from the prior."""
        deter = self.advance(state, action)
        return LatentState(deter, straight_through(self.prior(deter), generator, mode=mode).flatten(-2))

    def _log_probs(self, logits: Float[Tensor, "*batch stoch"]) -> Float[Tensor, "*batch groups classes"]:
        logits = logits.unflatten(-1, (self.config.groups, self.config.classes))
        return unimix_log_probs(logits, self.config.unimix)
