"""Presets of the privileged stage: the recipe (`paper`, `strong`) and the size (`debug`, `tiny`, `10m`, `100m`).

`paper` is Raw2Drive's: DreamerV3 as of 2023 with AdamW. `strong` is DreamerV3 as of 2025 (Nature): block GRU, LaProp
with adaptive clipping, replay critic, discount inside the continue head, fresh steps first and latent carry-over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from agent.actions import ACTIONS
from agent.model.rssm import RssmConfig
from training import bev
from training.experience.config import ReplayConfig
from training.optim import OptimizerConfig
from training.policy.config import ActorCriticConfig
from training.world_model.config import (
    DiscountConfig,
    HeadConfig,
    LossConfig,
    ObservationConfig,
    VisionConfig,
    VisionKind,
    WorldModelConfig,
)

Recipe = Literal["paper", "strong"]
Size = Literal["debug", "tiny", "10m", "100m"]
RECIPES: tuple[Recipe, ...] = ("paper", "strong")
SIZES: tuple[Size, ...] = ("debug", "tiny", "10m", "100m")


@dataclass(frozen=True, kw_only=True, slots=True)
class TricksConfig:
    """What Think2Drive adds to DreamerV3 (its section 3)."""

    planner_resets: tuple[int, ...] = ()
    """Updates after which actor and critic start afresh while the world model is kept."""
    warmup_updates: int = 0
    """Updates during which only routes without scenarios are driven (lane following and simple turns)."""
    termination_share: float = 0.0
    """Share of the replayed windows that end near a termination."""
    termination_steps: int = 64
    """How far before a termination such a window may end, in decisions."""
    planner_ratio: int = 1
    """Actor-critic updates per world-model update at the start."""
    final_planner_ratio: int = 1
    """The same after planner_ratio_updates; in between it rises linearly."""
    planner_ratio_updates: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.termination_share <= 1.0:
            raise ValueError(f"tricks.termination_share must lie in [0, 1], got {self.termination_share}")
        if min(self.planner_ratio, self.final_planner_ratio) < 1:
            raise ValueError("tricks.planner_ratio and final_planner_ratio must be at least 1")
        if min(self.warmup_updates, self.planner_ratio_updates, self.termination_steps, *self.planner_resets, 0) < 0:
            raise ValueError("tricks: counts of updates and steps must not be negative")

    def ratio(self, update: int) -> int:
        """Actor-critic updates that accompany world-model update 0, 1, ..."""
        if not self.planner_ratio_updates:
            return self.planner_ratio
        share = min(update / self.planner_ratio_updates, 1.0)
        return round(self.planner_ratio + share * (self.final_planner_ratio - self.planner_ratio))

    def scenarios_on(self, update: int) -> bool:
        """Whether routes with scenarios are driven."""
        return update >= self.warmup_updates


@dataclass(frozen=True, kw_only=True, slots=True)
class ImitationConfig:
    """How much the expert's actions in the replayed states teach the actor besides reinforcement; off in the papers."""

    weight: float = 0.0
    """Of the cross-entropy in the actor's loss at the start."""
    final_weight: float = 0.0
    """The same after `updates`; in between it falls linearly."""
    updates: int = 0
    alone_updates: int = 0
    """First updates in which the actor learns from the expert only, while model and critic learn as always."""
    model_weight: float = 0.0
    """Of the same cross-entropy in the world model's loss, relative to the actor's: keeps in the state what decides."""

    def __post_init__(self) -> None:
        for name in ("weight", "final_weight", "updates", "alone_updates", "model_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"imitation.{name} must not be negative, got {getattr(self, name)}")

    @property
    def used(self) -> bool:
        """Whether the expert has to be asked."""
        return max(self.weight, self.final_weight) > 0.0

    def weight_at(self, update: int) -> float:
        """Weight in update 0, 1, ..."""
        share = min(update / self.updates, 1.0) if self.updates else 0.0
        return self.weight + share * (self.final_weight - self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivilegedConfig:
    """World model, policy, their optimisers and the tricks of the privileged stage."""

    recipe: Recipe = "paper"
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    policy: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    model_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """For the actor and, separately, for the critic."""
    joint: bool = False
    """Whether one backward pass and the model's optimiser serve world model, actor and critic together (2025)."""
    tricks: TricksConfig = field(default_factory=TricksConfig)
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    batch: int = 16
    """Windows per update. Not in Raw2Drive; DreamerV3's value, as the length."""
    steps: int = 64
    """Decisions in a window."""

    def __post_init__(self) -> None:
        if self.policy.replay_critic and not self.joint:
            raise ValueError("policy.replay_critic trains the world model, so it needs joint")
        if self.policy.replay_critic and self.policy.starts:
            raise ValueError("policy.replay_critic needs the imagined return of every replayed state: policy.starts 0")
        if self.batch < 1 or self.steps < 2:
            raise ValueError(f"batch must be at least 1 and steps at least 2, got {self.batch}, {self.steps}")

    @property
    def carried(self) -> RssmConfig:
        """Shape of the states that windows go on from."""
        return self.world_model.rssm


@dataclass(frozen=True, kw_only=True, slots=True)
class _Widths:
    size_px: int
    deter: int
    hidden: int
    units: int
    depth: int
    layers: int
    groups: int
    classes: int


# 10m: DreamerV3's XS of 2023. 100m: Think2Drive's widths (it reports 104 million parameters with 34 masks of 128 px).
_PAPER = {
    "debug": _Widths(size_px=16, deter=32, hidden=32, units=32, depth=4, layers=1, groups=4, classes=4),
    "tiny": _Widths(size_px=64, deter=256, hidden=256, units=256, depth=24, layers=1, groups=32, classes=16),
    "10m": _Widths(size_px=64, deter=256, hidden=256, units=256, depth=24, layers=1, groups=32, classes=32),
    "100m": _Widths(size_px=128, deter=512, hidden=512, units=512, depth=96, layers=5, groups=32, classes=32),
}
# 10m and 100m: size12m and size100m of DreamerV3's configuration (2025); layers are those of actor and critic.
_STRONG = {
    "debug": _Widths(size_px=16, deter=64, hidden=16, units=16, depth=8, layers=1, groups=4, classes=4),
    "tiny": _Widths(size_px=64, deter=512, hidden=128, units=128, depth=24, layers=3, groups=32, classes=8),
    "10m": _Widths(size_px=64, deter=2048, hidden=256, units=256, depth=16, layers=3, groups=32, classes=16),
    "100m": _Widths(size_px=128, deter=6144, hidden=768, units=768, depth=48, layers=3, groups=32, classes=48),
}
_SMALL: tuple[Size, ...] = ("debug", "tiny")
_TINY_STATIC_WEIGHT = 0.03
_TINY_WEIGHTS = {bev.VEHICLE: 1.0, bev.WALKER: 2.0} | dict.fromkeys(
    (bev.BICYCLE, bev.EMERGENCY, bev.OBSTACLE, bev.GREEN, bev.YELLOW, bev.RED, bev.STOP_SIGN), 2.0
)
"""Weights of the masks in the reconstruction: what is small counts more, and the sum over all pixels does not drown
the other losses."""
_CPU_MODEL_RATE, _CPU_FINAL_MODEL_RATE, _CPU_POLICY_RATE = 5e-4, 2e-4, 2e-4
_CPU_DECAY_UPDATES = 50_000
_TINY_WARMUP_UPDATES = 500


def preset(recipe: Recipe = "paper", size: Size = "10m") -> PrivilegedConfig:
    """The configuration of a recipe and size.

    debug and tiny are for CPUs: they read masks by patches and learn at 5e-4 falling to 2e-4 (world model) and 2e-4
    (policy), because the few updates a CPU can afford do not suffice at the papers' rates (`paper`: 1e-5 and 3e-5).
    """
    if recipe == "paper":
        config = _paper(_PAPER[size], "patch" if size in _SMALL else "strided")
    else:
        config = _strong(_STRONG[size], "patch" if size in _SMALL else "pooled")
    if size not in _SMALL:
        return config
    if size == "tiny":
        config = _sparing(config)
    return replace(
        config,
        model_optimizer=replace(
            config.model_optimizer,
            learning_rate=_CPU_MODEL_RATE,
            final_learning_rate=_CPU_FINAL_MODEL_RATE,
            decay_updates=_CPU_DECAY_UPDATES,
        ),
        policy_optimizer=replace(config.policy_optimizer, learning_rate=_CPU_POLICY_RATE),
    )


def _sparing(config: PrivilegedConfig) -> PrivilegedConfig:
    """Shorter windows, a nearer horizon and fewer decoded and imagined states, for some updates per second on a CPU.

    Binary masks that count less beside a heavier vector (the route's points have to be known to a decimetre), and
    heavier heads with windows that end at terminations: a small model sees few endings and has to know them for the
    policy to fear them. Scenarios begin early: a CPU has no time for 10,000 updates without them.
    """
    world = config.world_model
    slices = len(bev.HISTORY_S)
    weights = [_TINY_WEIGHTS.get(k - (k - bev.VEHICLE) % slices, _TINY_STATIC_WEIGHT) for k in range(bev.CHANNELS)]
    vision = replace(
        world.vision,
        likelihood="bernoulli",
        sigmoid_output=False,
        channel_weights=tuple(weights),
        decode_share=0.125,
    )
    loss = replace(world.loss, reconstruction=0.15, vector=2000.0, reward=15.0, continuation=40.0)
    discount = replace(world.discount, horizon_steps=100.0)
    starts = 0 if config.policy.replay_critic else 64
    return replace(
        config,
        world_model=replace(world, vision=vision, loss=loss, discount=discount),
        policy=replace(config.policy, starts=starts, entropy=1e-3),
        tricks=replace(
            config.tricks,
            termination_share=0.25,
            termination_steps=0,
            warmup_updates=min(config.tricks.warmup_updates, _TINY_WARMUP_UPDATES),
        ),
        batch=8,
        steps=16,
    )


def _rssm(widths: _Widths, **options: object) -> RssmConfig:
    base = RssmConfig(
        deter=widths.deter,
        groups=widths.groups,
        classes=widths.classes,
        hidden=widths.hidden,
        action_input=True,
        actions=len(ACTIONS),
    )
    return replace(base, **options)  # pyright: ignore[reportArgumentType]


def _paper(widths: _Widths, kind: VisionKind) -> PrivilegedConfig:
    """DreamerV3 of 2023; learning rates and AdamW without decay from Raw2Drive, Appendix C.3."""
    world = WorldModelConfig(
        observation=ObservationConfig(size_px=widths.size_px),
        rssm=_rssm(widths),
        vision=VisionConfig(kind=kind, depth=widths.depth),
        heads=HeadConfig(units=widths.units, layers=widths.layers, two_hot="symlog"),
    )
    return PrivilegedConfig(
        recipe="paper",
        world_model=world,
        policy=ActorCriticConfig(units=widths.units, layers=widths.layers),
        model_optimizer=OptimizerConfig(learning_rate=1e-5, epsilon=1e-8, clip_norm=1000.0),
        policy_optimizer=OptimizerConfig(learning_rate=3e-5, epsilon=1e-5, clip_norm=100.0),
        tricks=TricksConfig(planner_resets=(50_000,), warmup_updates=10_000),
    )


def _strong(widths: _Widths, kind: VisionKind) -> PrivilegedConfig:
    """DreamerV3 of 2025 (Nature)."""
    world = WorldModelConfig(
        observation=ObservationConfig(size_px=widths.size_px),
        rssm=_rssm(widths, recurrence="block_gru", norm="rms", prior_layers=2, start="zeros"),
        vision=VisionConfig(kind=kind, depth=widths.depth, sigmoid_output=True),
        heads=HeadConfig(units=widths.units, layers=1, two_hot="raw"),
        loss=LossConfig(dynamics=1.0, representation=0.1),
        discount=DiscountConfig(in_continue=True),
    )
    optimizer = OptimizerConfig(
        kind="laprop", learning_rate=4e-5, epsilon=1e-20, adaptive_clip=0.3, warmup_updates=1000
    )
    return PrivilegedConfig(
        recipe="strong",
        world_model=world,
        policy=ActorCriticConfig(
            units=widths.units,
            layers=widths.layers,
            actor_unimix=0.0,
            actor_output_scale=0.01,
            continue_value="probability",
            true_first_continue=False,
            replay_critic=0.3,
        ),
        model_optimizer=optimizer,
        policy_optimizer=optimizer,
        joint=True,
        replay=ReplayConfig(online=True, carry_over=True),
    )
