"""The privileged world model: encoder, RSSM, decoder, reward and continue heads, and its loss.

Source: Raw2Drive, section 3.1 and Appendix D; "the same as DreamerV3".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Int64, UInt8
from torch import Tensor, nn

from agent.model.driving_model import ModelInput
from agent.model.recurrent import linear_at
from agent.model.rssm import Belief, LatentState, Rssm, full_precision, kl_loss
from training.world_model.config import WorldModelConfig
from training.world_model.decoder import Decoder
from training.world_model.distributions import TwoHot, binary_loss
from training.world_model.encoder import Encoder
from training.world_model.layers import initialise, mlp, scale_last


@dataclass(frozen=True, slots=True)
class Replayed:
    """Windows of replayed decisions: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}), and r_t is received on arriving at o_t."""

    words: Int64[Tensor, "b t h w"]
    """Mask words."""
    vector: Float[Tensor, "b t v"] | None
    """Ego vector, None for a model on masks alone."""
    previous_action: Int64[Tensor, "b t"]
    """Index of a_{t-1}; any valid index where `first`."""
    reward: Float[Tensor, "b t"]
    first: Bool[Tensor, "b t"]
    """First decision of an episode: state and previous action are reset."""
    last: Bool[Tensor, "b t"]
    """Last decision of an episode, terminated or cut off."""
    terminal: Bool[Tensor, "b t"]
    """The episode ended here for good: no value beyond."""
    start: LatentState | None = None
    """Stored (h, z) before the first step (latent carry-over); None starts afresh, as if first[:, 0] were set."""
    expert_action: Int64[Tensor, "b t"] | None = None
    """What the expert would do here, negative where it was not asked."""
    sensors: ModelInput | None = None
    """What the raw stream saw of the same decisions, where it was recorded and is wanted."""
    image_features: Float16[Tensor, "b t values"] | None = None
    """What a frozen backbone made of the images, in their place."""
    front_images: UInt8[Tensor, "b t 3 h w"] | None = None
    """Those of the front camera, where features take the place of the images and they are wanted all the same."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Replayed:
        """The same windows with every tensor changed."""
        return _mapped(self, change)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name; those of parts by part and name."""
        return _named(self, "")


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _mapped(getattr(value, field.name), change) for field in fields(value)})


def _named(value: Any, name: str) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    if not is_dataclass(value) or isinstance(value, type):
        return {}
    found: dict[str, Tensor] = {}
    for field in fields(value):
        found |= _named(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    return found


@dataclass(frozen=True, slots=True)
class WorldModelLoss:
    """Loss terms as means over batch and time, their weighted sum, and the states filtered on the way."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    belief: Belief


class WorldModel(nn.Module):
    """Encoder, recurrent state-space model and heads."""

    def __init__(self, config: WorldModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        heads = config.heads
        self.encoder = Encoder(config)
        self.rssm = Rssm(config.rssm, self.encoder.outputs)
        self.decoder = Decoder(config)
        self.two_hot = TwoHot(heads.two_hot)
        widths = {"units": heads.units, "layers": heads.layers}
        self.reward_head = mlp(config.features, len(self.two_hot.bins), norm=config.norm, **widths)
        self.continue_head = mlp(config.features, 1, norm=config.norm, **widths)
        initialise(self, config.norm, generator)
        scale_last(self.reward_head, 0.0)

    def observe(self, batch: Replayed, *, mode: bool = False, generator: torch.Generator | None = None) -> Belief:
        """Filtered states of the windows."""
        b, t = batch.first.shape
        vector = None if batch.vector is None else batch.vector.flatten(0, 1)
        embed = self.encoder(batch.words.flatten(0, 1), vector).unflatten(0, (b, t))
        first, start = batch.first, batch.start
        if start is None:
            start = LatentState(embed.new_zeros(b, self.config.rssm.deter), embed.new_zeros(b, self.config.rssm.stoch))
            first = torch.cat([torch.ones_like(first[:, :1]), first[:, 1:]], 1)
        actions = self.one_hot(batch.previous_action)
        return self.rssm.observe(embed, first, start, actions, mode=mode, generator=generator)

    def one_hot(self, action: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch actions"]:
        """Actions as the recurrence takes them."""
        dtype = linear_at(self.reward_head, 0).weight.dtype
        encoded = torch.zeros(*action.shape, self.config.rssm.actions, device=action.device, dtype=dtype)
        return encoded.scatter_(-1, action[..., None], 1.0)

    def loss(self, batch: Replayed, *, mode: bool = False, generator: torch.Generator | None = None) -> WorldModelLoss:
        """Reconstruction, reward, continuation and both KL terms. Source: Raw2Drive, Appendix D, equation 2.

        mode: latents are the posterior's mode instead of samples (for comparisons).
        """
        belief = self.observe(batch, mode=mode, generator=generator)
        features = belief.state.features()
        kl = kl_loss(belief, self.config.rssm.free_nats)
        masks, vector = reconstruction(self.decoder, features, batch, generator)
        terms = {
            "masks": masks,
            "vector": vector,
            "reward": self.two_hot.loss(self.reward_head(features), batch.reward).mean(),
            "continuation": binary_loss(self.continue_logits(features), self.continue_target(batch)).mean(),
            "dynamics": kl.dynamics,
            "representation": kl.representation,
        }
        weights = self.config.loss
        total = (
            weights.reconstruction * (masks + weights.vector * vector)
            + weights.reward * terms["reward"]
            + weights.continuation * terms["continuation"]
            + weights.dynamics * kl.dynamics
            + weights.representation * kl.representation
        )
        return WorldModelLoss(total, terms | {"kl": kl.kl}, belief)

    def continue_target(self, batch: Replayed) -> Float[Tensor, "b t"]:
        """1 - terminal, times gamma where the continue head carries the discount (2025)."""
        alive = 1.0 - batch.terminal.float()
        return alive * self.config.discount.gamma if self.config.discount.in_continue else alive

    def continue_logits(self, features: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch"]:
        """Logit of the continue flag."""
        return full_precision(self.continue_head(features)[..., 0])

    def reward(self, features: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch"]:
        """Expected reward on arriving in the state."""
        return self.two_hot.mean(self.reward_head(features))


def reconstruction(
    decoder: Decoder, features: Float[Tensor, "b t f"], batch: Replayed, generator: torch.Generator | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Losses of masks and vector per step, from a random part of the time steps (the same in all windows)."""
    steps = features.shape[1]
    decoded = math.ceil(decoder.config.decode_share * steps)
    words = batch.words
    flat = features
    if decoded < steps:
        chosen = torch.rand(steps, generator=generator, device=features.device).argsort()[:decoded]
        flat, words = features.index_select(1, chosen), words.index_select(1, chosen)
    masks = decoder.mask_loss(flat.flatten(0, 1), words.flatten(0, 1))
    if batch.vector is None:
        return masks, masks.new_zeros(())
    return masks, decoder.vector_loss(features.flatten(0, 1), batch.vector.flatten(0, 1)).mean()
