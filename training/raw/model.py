"""The raw world model: image encoder, neck, RSSM, BEV decoder and, in ablations, heads; its loss under guidance.

Source: Raw2Drive, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agent.model.driving_model import ModelInput
from agent.model.front_view import FRONT
from agent.model.image_encoder import EncoderConfig, ImageEncoder
from agent.model.raw_model import RawNeck, Sight, autocast_convolutions, seen_columns
from agent.model.rssm import Rssm, full_precision, kl_loss
from training.policy.actor_critic import ActorCritic
from training.raw.backbone import unpack
from training.raw.config import RawConfig
from training.raw.guidance import deter_alignment, distillation, embed_alignment, stoch_alignment
from training.raw.lift import fits, lift_windows
from training.raw.lifted import LiftedMasks
from training.raw.streams import Streams, Windows, filter_both, likeliest
from training.raw.told import mask_cross_entropy
from training.world_model.config import WorldModelConfig
from training.world_model.decoder import Decoder
from training.world_model.distributions import TwoHot, binary_loss
from training.world_model.layers import initialise, mlp, scale_last
from training.world_model.model import Replayed, WorldModel, reconstruction

ROLLOUT_TERMS = ("align_embed", "align_vector", "align_stoch", "align_deter", "align_prior", "align_policy")
"""What L_Rollout consists of."""
LEAST_TOLD = 0.1
"""Weight of a mask that is told in the neck: the reader needs the wide ones, too."""
RARELY_SET = -3.0
"""Logit that all pixels of told masks begin with: most of them are not set."""


@dataclass(frozen=True, slots=True)
class RawLoss:
    """Loss terms as means over windows and steps, their weighted sum, and both streams' beliefs."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    """Of the total, and besides: terms of weight 0, `kl`, and L_WM, which is the total without L_Rollout."""
    weights: Mapping[str, float]
    """What the total consists of."""
    streams: Streams


class RawWorldModel(nn.Module):
    """Encoder, neck, recurrence and heads of the raw stream. The privileged model is handed in and never changed."""

    def __init__(self, config: RawConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        agent, world = config.model, config.world_model
        self.encoder = _image_encoder(agent.encoder, generator)
        if config.backbone == "frozen":
            self.encoder.backbone.requires_grad_(False)
        self.neck = RawNeck(agent.neck, agent.encoder, agent.norm)
        self.neck.half_convolutions = config.bfloat16
        self.rssm = Rssm(agent.rssm, agent.embed) if config.rssm_start != "tied" else None
        self.decoder = None
        if config.heads.decoder and config.decoder_start != "tied":
            self.decoder = Decoder(world)
        self.two_hot = TwoHot(world.heads.two_hot)
        widths = {"units": world.heads.units, "layers": world.heads.layers, "norm": world.norm}
        self.lifted_masks = None
        if config.guidance.lifted:
            self.lifted_masks = LiftedMasks(agent.encoder, agent.neck, world.observation.size_px)
        heads = config.heads
        self.reward_head = mlp(world.features, len(self.two_hot.bins), **widths) if heads.reward else None
        self.continue_head = mlp(world.features, 1, **widths) if heads.continuation else None
        for module in (self.neck, self.rssm, self.decoder, self.lifted_masks, self.reward_head, self.continue_head):
            if module is not None:
                initialise(module, world.norm, generator)
        if self.reward_head is not None:
            scale_last(self.reward_head, 0.0)
        self.train()

    @torch.no_grad()
    def begin_with(self, teacher: WorldModel) -> None:
        """Take over the privileged weights that the configuration wants. Source: Raw2Drive, Figure 4."""
        if self.neck.masks is not None:
            bias = self.neck.masks.out.bias
            assert bias is not None
            bias.fill_(RARELY_SET)
            own = teacher.encoder.masks.state_dict()
            self.neck.masks.reader.load_state_dict({name: own[name] for name in self.neck.masks.reader.state_dict()})
        if teacher.encoder.vector is not None:
            self.neck.vector.load_state_dict(teacher.encoder.vector.state_dict())
        if self.rssm is not None and self.config.rssm_start == "copy":
            self.rssm.load_state_dict(teacher.rssm.state_dict())
        if self.decoder is not None and self.config.decoder_start == "copy":
            self.decoder.load_state_dict(teacher.decoder.state_dict())

    def train(self, mode: bool = True) -> RawWorldModel:
        """Training mode. Where not all images teach, batch norms keep their statistics: all are seen alike."""
        super().train(mode)
        if self.config.image_gradients < 1.0 or self.config.backbone == "frozen":
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def recurrence(self, teacher: WorldModel) -> Rssm:
        """The raw RSSM, which is the privileged one where they are tied."""
        return teacher.rssm if self.rssm is None else self.rssm

    def see(
        self,
        sensors: ModelInput,
        actions: Float[Tensor, "b t a"],
        generator: torch.Generator | None = None,
        features: Float16[Tensor, "b t values"] | None = None,
        front: UInt8[Tensor, "b t 3 h w"] | None = None,
    ) -> Sight:
        """e_t and what had to be seen for it, leading axes (b, t); actions[:, t] was taken before observation t.

        The BEV memory runs through the windows; each begins without one. generator: draws the images to learn from.
        features: what the frozen backbone made of the images, which are not looked at then. front: the front images,
        for a neck that looks at them; None: those of the sensors.
        """
        b, t = sensors.first.shape
        if features is None:
            pyramid = self._image_features(sensors.images.flatten(0, 1), generator)
        else:
            pyramid = self._pyramid(unpack(features.flatten(0, 1), self.config.model.encoder), b * t)
        bev = self._lift([level.unflatten(0, (b, t)) for level in pyramid], sensors).flatten(0, 1)
        known = (actions * ~sensors.first[..., None]).flatten(0, 1)
        image = sensors.images[:, :, FRONT] if front is None else front
        valid = sensors.camera_valid[:, :, FRONT]
        sight = self.neck(
            bev,
            sensors.route.flatten(0, 1),
            sensors.vector.flatten(0, 1),
            known,
            image.flatten(0, 1),
            valid.flatten(0, 1),
        )
        return Sight(
            sight.embed.float().unflatten(0, (b, t)),
            sight.seen.unflatten(0, (b, t)),
            bev.unflatten(0, (b, t)) if self.lifted_masks is not None else None,
            None if sight.masks is None else sight.masks.unflatten(0, (b, t)),
        )

    def _lift(self, levels: list[Float[Tensor, "b t 6 d h w"]], sensors: ModelInput) -> Float[Tensor, "b t cells d"]:
        """BEV features, step after step."""
        if fits(self.encoder) and not self.config.recompute:
            return lift_windows(self.encoder, levels, sensors.camera_valid, sensors.ego_motion, sensors.first)
        encoder = self.config.model.encoder
        memory = levels[0].new_zeros(len(sensors.first), encoder.grid.cells, encoder.embed_dims)
        has_memory = torch.zeros_like(sensors.first[:, 0])
        memories = []
        lift = (
            partial(checkpoint, self.encoder.lift, use_reentrant=False) if self.config.recompute else self.encoder.lift
        )
        for step in range(sensors.first.shape[1]):
            memory = lift(
                [level[:, step] for level in levels],
                sensors.camera_valid[:, step],
                sensors.ego_motion[:, step],
                memory,
                has_memory & ~sensors.first[:, step],
            )
            has_memory = torch.ones_like(has_memory)
            memories.append(memory)
        return torch.stack(memories, 1)

    def _image_features(
        self, images: UInt8[Tensor, "n 6 3 h w"], generator: torch.Generator | None
    ) -> list[Float[Tensor, "n 6 d rows columns"]]:
        """Levels of the pyramid; a random share of the decisions carries gradients."""
        if self.config.backbone == "frozen":
            with torch.no_grad():
                maps = self.encoder.backbone_maps(images)
            return self._pyramid(maps, len(images))
        count = math.ceil(self.config.image_gradients * len(images))
        if count == len(images) or not torch.is_grad_enabled():
            return self._levels(images)
        order = torch.rand(len(images), generator=generator, device=images.device).argsort()
        chosen, others = order[:count], order[count:]
        with torch.no_grad():
            levels = self._levels(images[others])
        if count:
            pairs = zip(self._levels(images[chosen]), levels, strict=True)
            levels = [torch.cat(pair) for pair in pairs]
        return [level[order.argsort()] for level in levels]

    def _levels(self, images: UInt8[Tensor, "n 6 3 h w"]) -> list[Float[Tensor, "n 6 d rows columns"]]:
        with autocast_convolutions(images.device, self.config.bfloat16):
            return [level.float() for level in self.encoder.features(images)]

    def _pyramid(self, maps: list[Tensor], batch: int) -> list[Float[Tensor, "n 6 d rows columns"]]:
        with autocast_convolutions(maps[0].device, self.config.bfloat16):
            return [level.float() for level in self.encoder.pyramid(maps, batch)]

    def loss(
        self,
        teacher: WorldModel,
        batch: Replayed,
        policy: ActorCritic | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> RawLoss:
        """Reconstruction of the masks, both KL terms and the guidance, L_raw. policy: the privileged one.

        Raises: ValueError for a batch without sensors.
        """
        if batch.sensors is None:
            raise ValueError("the batch has no sensors; read the replay with its images")
        actions = teacher.one_hot(batch.previous_action)
        with torch.no_grad():
            vector = None if batch.vector is None else batch.vector.flatten(0, 1)
            target = teacher.encoder(batch.words.flatten(0, 1), vector).unflatten(0, batch.first.shape)
        sight = self.see(batch.sensors, actions, generator, batch.image_features, batch.front_images)
        return self.loss_of(teacher, batch, sight, target, policy, generator=generator)

    def loss_of(
        self,
        teacher: WorldModel,
        batch: Replayed,
        sight: Sight,
        target: Float[Tensor, "b t e"],
        policy: ActorCritic | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> RawLoss:
        """The loss from both streams' e_t on."""
        config, guidance = self.config, self.config.guidance
        streams = filter_both(
            self.recurrence(teacher),
            teacher.rssm,
            sight.embed,
            target,
            Windows.of(batch, teacher.one_hot(batch.previous_action)),
            shared=guidance.sampling == "shared",
            generator=generator,
        )
        raw, privileged = streams.raw, streams.privileged
        kl = kl_loss(raw, config.world_model.rssm.free_nats)
        size = (config.model.neck.cells**2, config.model.neck.channels)
        spatial, temporal = guidance.spatial, guidance.temporal
        cells, ego = embed_alignment(sight.embed, target, size, spatial=spatial, temporal=temporal)
        terms = {
            "dynamics": kl.dynamics,
            "representation": kl.representation,
            "align_embed": cells,
            "align_vector": ego,
            "align_stoch": stoch_alignment(raw.posterior, privileged.posterior),
            "align_deter": deter_alignment(raw.state.deter, privileged.state.deter),
            "align_prior": stoch_alignment(raw.prior, privileged.prior),
            "seen": self._seen_loss(sight, batch),
        }
        if self.lifted_masks is not None and sight.bev is not None:
            terms["lifted"] = self.lifted_masks.loss(sight.bev, batch.words)
        if sight.masks is not None:
            terms["told"] = told_loss(sight.masks, batch.words, config.world_model)
        if policy is not None:
            taken = policy.log_policy(likeliest(privileged).features())
            terms["align_policy"] = distillation(policy.log_policy(likeliest(raw).features()), taken).mean()
        terms |= self._head_losses(teacher, batch, raw.state.features(), generator)
        weights = {name: weight for name, weight in self.weights().items() if weight and name in terms}
        parts = {name: weight * terms[name] for name, weight in weights.items()}
        rollout = [name for name in ROLLOUT_TERMS if name in parts]
        own = [value.detach() for name, value in parts.items() if name not in rollout]
        terms |= {"kl": kl.kl, "world_model": torch.stack(own).sum()}
        return RawLoss(torch.stack(list(parts.values())).sum(), terms, weights, streams)

    def weights(self) -> dict[str, float]:
        """Weight of every term there may be."""
        config, guidance = self.config.world_model.loss, self.config.guidance
        embed = guidance.embed if guidance.spatial or guidance.temporal else 0.0
        return {
            "dynamics": config.dynamics,
            "representation": config.representation,
            "masks": config.reconstruction,
            "vector": config.reconstruction * config.vector,
            "reward": config.reward,
            "continuation": config.continuation,
            "seen": guidance.seen,
            "lifted": guidance.lifted,
            "told": guidance.told,
            "align_embed": embed,
            "align_vector": embed,
            "align_stoch": guidance.stoch,
            "align_deter": guidance.deter,
            "align_prior": guidance.prior,
            "align_policy": guidance.policy,
        }

    def _seen_loss(self, sight: Sight, batch: Replayed) -> Float[Tensor, ""]:
        """Squared error of what has to be seen, each number in units of its spread, summed over the numbers."""
        if batch.vector is None:
            return sight.seen.new_zeros(())
        gaps = self.config.model.neck.gaps
        truth = batch.vector.index_select(-1, seen_columns(batch.vector.device, gaps))
        return ((sight.seen - truth) / self.neck.seen_spread).square().sum(-1).mean()

    def _head_losses(
        self, teacher: WorldModel, batch: Replayed, features: Float[Tensor, "b t f"], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        heads, losses = self.config.heads, {}
        if heads.decoder:
            decoder = self.decoder or teacher.decoder
            losses["masks"], losses["vector"] = reconstruction(decoder, features, batch, generator)
        seen = features.detach() if heads.stop_gradient else features
        if self.reward_head is not None:
            losses["reward"] = self.two_hot.loss(self.reward_head(seen), batch.reward).mean()
        if self.continue_head is not None:
            logits = full_precision(self.continue_head(seen)[..., 0])
            losses["continuation"] = binary_loss(logits, teacher.continue_target(batch)).mean()
        return losses


def told_loss(
    logits: Float[Tensor, "b t channels h w"], words: Int64[Tensor, "b t h w"], world: WorldModelConfig
) -> Float[Tensor, ""]:
    """Cross entropy of the masks that the neck tells, summed over pixels and masks, each with the weight that it has in
    the privileged reconstruction, at least LEAST_TOLD."""
    weights = torch.tensor(world.vision.channel_weights or [1.0] * world.observation.channels, device=words.device)
    logits = logits.flatten(0, 1)
    return mask_cross_entropy(logits, words.flatten(0, 1), weights.clamp_min(LEAST_TOLD)) / len(logits)


def _image_encoder(config: EncoderConfig, generator: torch.Generator | None) -> ImageEncoder:
    """An image encoder whose random weights are drawn from the generator: its layers know the global one only."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ImageEncoder(config)
