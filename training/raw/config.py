"""Configuration of the raw sensor stage. What the paper leaves open is a field with our reading as default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from agent.model.driving_model import EncoderSize, small_encoder
from agent.model.front_view import FrontViewConfig
from agent.model.image_encoder import EncoderConfig
from agent.model.raw_model import RawActorConfig, RawModelConfig, RawNeckConfig
from agent.model.rssm import RssmConfig
from agent.model.told_masks import ToldMasksConfig
from training import bev
from training.optim import OptimizerConfig
from training.policy.config import ActorCriticConfig
from training.presets import PrivilegedConfig
from training.privileged.config import RunConfig
from training.world_model.config import MIN_GRID_PX, WorldModelConfig

FINER_STRIDE = 8
"""Of the backbone's stage before the first one that the small encoder reads."""
Start = Literal["copy", "random", "tied"]
Backbone = Literal["learned", "frozen"]

WAY_UNITS = 128
"""That read the told masks along the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceConfig:
    """L_Rollout (Raw2Drive, equation 1) and where the latents come from."""

    embed: float = 10.0
    """beta_e, on the mean squared error of each cell of e_t, summed over the cells."""
    stoch: float = 5.0
    """beta_s, on KL(sg q || q^), summed over the categorical variables."""
    deter: float = 10.0
    """beta_h, on the mean squared error of h_t."""
    prior: float = 0.0
    """On KL(sg p || p^); not in the paper, where the dynamics loss alone pulls p^ to q^."""
    seen: float = 1.0
    """On the squared error, in units of their spread, of the numbers that the raw stream has to see (ours)."""
    policy: float = 0.0
    """On KL(pi(h, z*) || pi(h^, z^*)) of the privileged policy, at the likeliest z of each stream's own posterior: raw
    states shall be told apart by what is done in them (ours)."""
    lifted: float = 0.0
    """On the cross entropy of the masks, told from the image encoder's BEV map alone: the shortest way for gradients
    into what sees (ours)."""
    told: float = 1.0
    """On the cross entropy of the masks that the neck tells and reads, where it does (ours)."""
    spatial: bool = True
    temporal: bool = True
    """Table 8, which the paper does not define. Both: every cell at every step. Spatial alone: every cell at the first
    step of a window. Temporal alone: the grid's mean at every step. Neither: e_t is not aligned."""
    sampling: Literal["shared", "independent"] = "shared"
    """shared: one sample per step, of the raw posterior, for both streams; independent: one of its own for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawHeadConfig:
    """Heads of the raw world model (Tables 6 and 9)."""

    decoder: bool = True
    reward: bool = False
    continuation: bool = False
    stop_gradient: bool = False
    """Whether reward and continue head learn without shaping the states (ours)."""
    guidance: bool = True
    """Whether the policy's rewards and continue flags come from the privileged heads (head guidance)."""

    def __post_init__(self) -> None:
        if not self.guidance and not (self.reward and self.continuation):
            raise ValueError("heads.guidance can only be off where reward and continuation are on")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig:
    """KL(pi || pi^(h^, z)) in the actor's loss; the paper names distillation without loss, weight or schedule."""

    weight: float = 1.0
    final_weight: float = 0.0
    updates: int = 3000
    """Over so many updates the weight falls linearly."""
    imagined: float = 0.0
    """Share of the weight that the imagined states get; the replayed ones get the rest."""
    target: Literal["posterior", "sample"] = "posterior"
    """Where the privileged policy is asked in replayed states. posterior: at the likeliest z of the privileged
    posterior, which knows what is really there; sample: at the shared z, which holds what the raw stream believes."""

    def __post_init__(self) -> None:
        if min(self.weight, self.final_weight) < 0.0 or self.updates < 0 or not 0.0 <= self.imagined <= 1.0:
            raise ValueError(
                "distillation: weights and updates must not be negative and imagined must lie in [0, 1], got "
                f"{self.weight}, {self.final_weight}, {self.updates}, {self.imagined}"
            )

    def weight_at(self, update: int) -> float:
        """Weight in update 0, 1, ..."""
        share = min(update / self.updates, 1.0) if self.updates else 1.0
        return self.weight + share * (self.final_weight - self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class RawConfig(PrivilegedConfig):
    """The raw stream beside the privileged one, whose configuration this is besides.

    `policy` and `policy_optimizer` are those of the raw policy, `model_optimizer` that of the raw world model.
    """

    model: RawModelConfig = field(default_factory=RawModelConfig)
    """What the agent drives with."""
    rssm_start: Start = "copy"
    """copy: the privileged recurrence's weights, then trained; random: trained from scratch; tied: the privileged one
    itself, which stays as it is (Table 10)."""
    decoder_start: Start = "copy"
    policy_start: Literal["copy", "random"] = "copy"
    fine_tuned: bool = True
    """Whether the policy learns; off: the privileged one drives as it is (Table 11)."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    heads: RawHeadConfig = field(default_factory=RawHeadConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    image_gradients: float = 1.0
    """Share of a batch's decisions, drawn anew each time, from whose images backbone and pyramid learn. The others are
    seen all the same; 0: the image features stay as they are."""
    backbone: Backbone = "learned"
    """frozen: the image backbone stays as it is and its maps are computed once per decision; the pyramid learns."""
    bfloat16: bool = False
    """Whether the convolutions of pyramid and neck are computed in bfloat16 while training."""
    recompute: bool = False
    """Whether the backward pass computes the BEV encoder's steps again instead of keeping what is inside them."""

    def __post_init__(self) -> None:
        super(RawConfig, self).__post_init__()
        if not 0.0 <= self.image_gradients <= 1.0:
            raise ValueError(f"image_gradients must lie in [0, 1], got {self.image_gradients}")
        if self.backbone == "frozen" and self.image_gradients != 1.0:
            raise ValueError("image_gradients is for a backbone that learns; leave it out where it is frozen")
        wanted = fitting_model(self.world_model, self.policy, self.model.encoder)
        masks = self.model.neck.masks
        own = {} if masks is None else {"hidden": masks.hidden, "way_units": masks.way_units}
        if masks is not None and masks != replace(told_masks(self.world_model), **own):
            raise ValueError("model.neck.masks is not what the privileged encoder reads; make it with `raw_config`")
        if self.model != replace(wanted, neck=_with_widths_of(wanted.neck, self.model.neck)):
            raise ValueError("model does not fit the privileged world model; make it with `raw_config`")
        if self.joint:
            raise ValueError("joint is not for the raw stage: the policy does not train the raw world model")

    @property
    def carried(self) -> RssmConfig:
        """Shape of both streams' states side by side."""
        rssm = self.world_model.rssm
        return replace(rssm, deter=2 * rssm.deter, groups=2 * rssm.groups)


def _with_widths_of(neck: RawNeckConfig, other: RawNeckConfig) -> RawNeckConfig:
    own = ("width", "route_width_m", "seen_hidden", "front", "front_channels", "masks")
    return replace(neck, **{name: getattr(other, name) for name in own})


def fitting_model(world: WorldModelConfig, policy: ActorCriticConfig, encoder: EncoderConfig) -> RawModelConfig:
    """The agent whose recurrence and actor have the privileged ones' shapes."""
    vision, observation = world.vision, world.observation
    cells, channels = _map_shape(world)
    neck = RawNeckConfig(
        cells=cells,
        channels=channels,
        window_m=bev.SIZE_PX / bev.PIXELS_PER_M,
        ahead_m=bev.EGO_ROW_PX / bev.PIXELS_PER_M,
        vector_units=world.heads.units if observation.vector else 0,
        vector_layers=vision.vector_layers,
        gaps=observation.gaps,
    )
    actor = RawActorConfig(units=policy.units, layers=policy.layers, unimix=policy.actor_unimix)
    return RawModelConfig(encoder=encoder, neck=neck, rssm=world.rssm, actor=actor)


def told_masks(world: WorldModelConfig) -> ToldMasksConfig:
    """Masks that the privileged encoder can read. Raises: ValueError for one of another kind than `patch`."""
    vision, observation = world.vision, world.observation
    if vision.kind != "patch":
        raise ValueError(f"told_masks: the privileged encoder is of kind {vision.kind}; it has to be of kind patch")
    return ToldMasksConfig(
        size_px=observation.size_px,
        channels=observation.channels,
        patch_px=vision.patch_px,
        depth=vision.depth,
        stages=int(math.log2(observation.size_px // vision.patch_px // MIN_GRID_PX)),
        way_units=WAY_UNITS if observation.gaps else 0,
    )


def _map_shape(world: WorldModelConfig) -> tuple[int, int]:
    """Cells along a side and channels of the privileged conv map before it is flattened."""
    vision, size_px = world.vision, world.observation.size_px
    if vision.kind == "pooled":
        return size_px // 2 ** len(vision.multipliers), vision.depth * vision.multipliers[-1]
    if vision.kind == "strided":
        return MIN_GRID_PX, vision.depth * size_px // MIN_GRID_PX // 2
    return MIN_GRID_PX, 2 * vision.depth * (size_px // vision.patch_px // MIN_GRID_PX)


def raw_config(
    teacher: PrivilegedConfig,
    *,
    encoder: EncoderConfig | None = None,
    front: FrontViewConfig | None = None,
    told: bool = False,
    model_optimizer: OptimizerConfig | None = None,
    policy_optimizer: OptimizerConfig | None = None,
    carry_over: bool = False,
    **options: Any,
) -> RawConfig:
    """The raw stage under a privileged model; options are further fields of RawConfig."""
    model = fitting_model(teacher.world_model, teacher.policy, encoder or small_encoder())
    own: dict[str, Any] = {item.name: getattr(teacher, item.name) for item in fields(PrivilegedConfig)}
    own |= {
        "model": replace(
            model, neck=replace(model.neck, front=front, masks=told_masks(teacher.world_model) if told else None)
        ),
        "model_optimizer": model_optimizer or teacher.model_optimizer,
        "policy_optimizer": policy_optimizer or teacher.policy_optimizer,
        "policy": replace(teacher.policy, replay_critic=0.0),
        "tricks": replace(teacher.tricks, planner_resets=(), planner_ratio_updates=0, planner_ratio=1),
        "replay": replace(teacher.replay, carry_over=carry_over),
        "joint": False,
    }
    return RawConfig(**(own | options))


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRunConfig(RunConfig):
    """How a run of the raw stage is organised."""

    teacher: Path = Path("weights/privileged_tiny")
    """Folder of the privileged model; it is copied into the run's folder."""
    encoder: Path | None = Path("weights/raw_clone")
    """Agent's folder whose image encoder a new run begins with; None: a random one."""
    neck: Path | None = None
    """Agent's folder whose neck a new run begins with besides; None: a random one."""
    init: Path | None = None
    """Folder of an agent made by `export-raw` that a new run begins with: encoder, neck, recurrence and actor."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    heads: RawHeadConfig = field(default_factory=RawHeadConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    rssm_start: Start = "copy"
    decoder_start: Start = "copy"
    policy_start: Literal["copy", "random"] = "copy"
    fine_tuned: bool = True
    model_rate: float | None = None
    """Learning rate of the raw world model instead of the privileged one's."""
    policy_rate: float | None = None
    """Learning rate of actor and critic instead of the privileged ones'."""
    image_gradients: float = 1.0
    """See RawConfig: most of an update's time goes into learning from images."""
    backbone: Backbone = "learned"
    """learned, or frozen: the backbone of `encoder` stays as it is, and what it makes of a recorded decision is
    computed once and kept beside the replay."""
    bfloat16: bool = False
    """Whether convolutions that learn are computed in bfloat16: faster on processors with AMX, and on GPUs."""
    encoder_size: EncoderSize = "small"
    """small: that of the shipped agents; base: BEVFormer-base's, for GPUs (docs/raw.md). Weights to begin with have to
    be of this size."""
    recompute: bool = False
    """Whether the backward pass computes the BEV encoder's steps again instead of keeping what is inside them: a third
    more work, and memory for one step in place of a window."""
    features: Path | None = None
    """Folder for what a frozen backbone has computed; None: `features` beside the replay."""
    features_gib: float = 16.0
    """How much of it may be kept; the rest is computed whenever it is drawn. 1000 decisions take 0.12 GiB."""
    image_stride: Literal[8, 16] = 16
    """Pixels per cell of the finest map of the backbone that the BEV encoder reads. With 8, an encoder that begins with
    weights made for 16 keeps what it knows and learns to read the new map."""
    front_view: bool = True
    """Whether the agent looks closer at the front image, at full resolution (`agent/model/front_view.py`)."""
    told_masks: bool = False
    """Whether the neck tells the masks pixel by pixel and reads them with the privileged encoder's weights, which then
    learn (`agent/model/told_masks.py`). An agent to begin with that does without keeps the rest of its neck."""
    carry_over: bool = False
    """Whether a window goes on from the states that both streams had before it when it was last replayed; off: from
    none, as an episode begins. The BEV memory begins anew in any case."""
    random_looks: bool = True
    """Whether weather and time of day are drawn anew for every collected episode."""
    privileged_share: float = 1.0
    """Share of the decisions that the privileged driver takes while collecting, at the beginning."""
    final_privileged_share: float = 0.0
    privileged_updates: int = 3000
    """Over so many updates the share falls linearly."""

    def __post_init__(self) -> None:
        super(RawRunConfig, self).__post_init__()
        for name in ("privileged_share", "final_privileged_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.privileged_updates < 0:
            raise ValueError(f"privileged_updates must not be negative, got {self.privileged_updates}")
        if self.backbone == "frozen" and self.encoder is None:
            raise ValueError("a frozen backbone has to come from somewhere: give --config.encoder")
        if self.encoder_size != "small" and self.image_stride == FINER_STRIDE:
            raise ValueError("image_stride 8 is for encoder_size small: the larger one reads that map already")
        if self.compile:
            raise ValueError("compile is not for the raw stage: its two streams have steps of their own")
        if self.features_gib < 0.0:
            raise ValueError(f"features_gib must not be negative, got {self.features_gib}")

    def privileged_share_at(self, update: int) -> float:
        """Share in update 0, 1, ..."""
        done = min(update / self.privileged_updates, 1.0) if self.privileged_updates else 1.0
        return self.privileged_share + done * (self.final_privileged_share - self.privileged_share)


def for_cpus(run: RawRunConfig) -> RawRunConfig:
    """The run with what makes an update on a CPU several times cheaper: a frozen backbone, and bfloat16."""
    return replace(run, backbone="frozen", bfloat16=True)
