"""Recurrent state-space model: DreamerV3's recipe of 2023 (layer-norm GRU, categorical latents, KL with free bits).

Notation of the papers: h = deter, z = stoch, e = embed. Time convention: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agent.model.heads import NORM_EPS, NormAct


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

    def __post_init__(self) -> None:
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


def unimix_log_probs(logits: Float[Tensor, "*batch classes"], unimix: float) -> Float[Tensor, "*batch classes"]:
    """log((1 - unimix) softmax(logits) + unimix / classes), in float32."""
    logits = logits.float()
    if unimix == 0.0:
        return logits.log_softmax(-1)
    return ((1.0 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]).log()


def straight_through(
    log_probs: Float[Tensor, "*batch classes"], generator: torch.Generator | None, *, mode: bool
) -> Float[Tensor, "*batch classes"]:
    """One-hot sample (or mode) whose gradient is that of the probabilities."""
    probs = log_probs.exp()
    if mode:
        index = log_probs.argmax(-1)
    else:
        # Gumbel-max: argmax of log p plus Gumbel noise is an exact sample of p.
        exponential = torch.empty_like(log_probs).exponential_(generator=generator)
        index = (log_probs.detach() - exponential.log()).argmax(-1)
    one_hot = F.one_hot(index, log_probs.shape[-1]).to(probs.dtype)
    return one_hot + probs - probs.detach()


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


class GruCell(nn.Module):
    """GRU with one layer norm over the three gates, as in Dreamer."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b x"], deter: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """Next deterministic state."""
        reset, candidate, update = self.norm(self.gates(torch.cat([x, deter], -1))).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)  # the -1 starts the cell as a slow integrator
        return update * candidate + (1.0 - update) * deter


class Rssm(nn.Module):
    """Deterministic recurrence, prior p(z|h) and posterior q(z|h,e)."""

    def __init__(self, config: RssmConfig, embed: int) -> None:
        super().__init__()
        self.config = config
        inputs = config.stoch + (config.actions if config.action_input else 0)
        self.input = nn.Sequential(nn.Linear(inputs, config.hidden, bias=False), NormAct(config.hidden))
        self.cell = GruCell(config.hidden, config.deter)
        self.prior_head = nn.Sequential(
            nn.Linear(config.deter, config.hidden, bias=False),
            NormAct(config.hidden),
            nn.Linear(config.hidden, config.stoch),
        )
        self.posterior_head = nn.Sequential(
            nn.Linear(config.deter + embed, config.hidden, bias=False),
            NormAct(config.hidden),
            nn.Linear(config.hidden, config.stoch),
        )
        self.initial_deter = nn.Parameter(torch.zeros(config.deter))

    def initial(self, batch: int) -> LatentState:
        """Learned start: h_0 = tanh(w), z_0 = mode of the prior at h_0."""
        deter = torch.tanh(self.initial_deter).expand(batch, -1)
        stoch = straight_through(self.prior(deter), None, mode=True).flatten(-2)
        return LatentState(deter, stoch)

    def prior(self, deter: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch groups classes"]:
        """Log-probabilities of z before seeing the observation."""
        return self._log_probs(self.prior_head(deter))

    def posterior(
        self, deter: Float[Tensor, "*batch h"], embed: Float[Tensor, "*batch e"]
    ) -> Float[Tensor, "*batch groups classes"]:
        """Log-probabilities of z after seeing the observation."""
        return self._log_probs(self.posterior_head(torch.cat([deter, embed], -1)))

    def advance(self, state: LatentState, action: Float[Tensor, "b a"] | None) -> Float[Tensor, "b h"]:
        """Next deterministic state from (h, z) and, if the model uses it, the one-hot action taken there."""
        inputs = state.stoch
        if self.config.action_input:
            if action is None:
                raise ValueError("rssm.action_input is on, so advance() needs the previous action")
            inputs = torch.cat([inputs, action.to(inputs.dtype)], -1)
        return self.cell(self.input(inputs), state.deter)

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
        deter, stoch, posterior = [], [], []
        for t in range(embed.shape[1]):
            action = None if actions is None else actions[:, t]
            state, log_probs = self.observe_step(
                state, action, embed[:, t], first[:, t], mode=mode, generator=generator
            )
            deter.append(state.deter)
            stoch.append(state.stoch)
            posterior.append(log_probs)
        states = LatentState(torch.stack(deter, 1), torch.stack(stoch, 1))
        return Belief(state=states, posterior=torch.stack(posterior, 1), prior=self.prior(states.deter))

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
