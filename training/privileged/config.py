"""Configuration of a run of the privileged stage: collectors, replay, evaluation and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from training.env.config import EnvConfig
from training.env.gaps import GAP_SIZE
from training.env.observation import vector_size
from training.presets import ImitationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteConfig:
    """What is driven. Generated routes are written into the run's folder and stay the same when it is resumed."""

    towns: tuple[str, ...] = ("Gen02",)
    """Towns in which routes are generated where no file is given."""
    per_type: int = 2
    """Generated routes of every scenario type in every town; types without a place there are left out."""
    warm_up: int = 10
    """Generated routes without scenarios in every town."""
    file: Path | None = None
    """Route file to train on instead."""
    evaluation_file: Path | None = None
    """Route file to evaluate on instead."""
    evaluation: int = 5
    """Generated routes of the evaluation, without scenarios first, in the first town."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.towns or min(self.per_type, self.warm_up) < 0 or self.evaluation < 1:
            raise ValueError(
                "routes: towns must not be empty, per_type and warm_up not negative and evaluation at least 1, got "
                f"{self.towns}, {self.per_type}, {self.warm_up}, {self.evaluation}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmConfig:
    """Bounds of the metrics, wide ones: rewards of a decision lie between -40 and 5."""

    reward: float = 100.0
    """Largest size of a replayed reward and of the mean imagined one."""
    value: float = 10_000.0
    """Largest size of mean return and value and of the scale of returns."""
    reports: int = 10
    """So many reports in a row out of bounds end the run."""

    def __post_init__(self) -> None:
        if min(self.reward, self.value) <= 0.0 or self.reports < 1:
            raise ValueError(
                "alarm: bounds must be positive and reports at least 1, got "
                f"{self.reward}, {self.value}, {self.reports}"
            )

    def limits(self) -> dict[str, float]:
        """By metric."""
        limits = {"replayed_reward": self.reward, "imagined_reward": self.reward}
        return limits | dict.fromkeys(("return", "value", "return_scale"), self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How a run is organised on one machine."""

    collectors: int = 1
    """Processes that drive, each with a server of its own; 0: learn from a replay that does not grow."""
    replay: Path | None = None
    """Folder of another run's experience to learn from without collectors; nothing is deleted there."""
    init: Path | None = None
    """Model folder (`model` of a run, or one made by `export-privileged`) whose weights a new run begins with."""
    updates: int | None = None
    """The run ends after so many updates, if the time is not over before."""
    threads: int = 1
    """Of the learner."""
    compile: bool = False
    """Whether the learner compiles its recurrent steps (torch.compile, as CUDA graphs on a GPU): a minute at the start,
    then fewer and larger operations. Rounding differs from that of the steps as they are."""
    seed: int = 0
    train_ratio: float = 64.0
    """Replayed steps per collected step at most; where it is reached, the learner waits. Not in Raw2Drive."""
    collect_ratio: float = 0.0
    """Replayed steps per collected step at least: below it the collectors wait, and leave the processors to the
    learner; 0: never."""
    prefill: Literal["random", "expert"] = "random"
    """Who drives before the first update: uniformly random actions or the rule-based expert."""
    expert_share: float = 0.0
    """Share of the time that the expert drives in the policy's episodes, in turns of some seconds."""
    noise_share: float = 0.0
    """Share of the time that a random action is held in the expert's episodes, so that there are mistakes to see."""
    prefill_steps: int = 5000
    """Collected steps before the first update."""
    publish_updates: int = 20
    """The collectors get new weights after so many updates."""
    log_updates: int = 20
    checkpoint_minutes: float = 10.0
    evaluate_minutes: float = 30.0
    """The greedy policy drives the evaluation's routes so often; 0: never."""
    vector: bool = True
    """Whether the world model sees the ego vector beside the masks: the reward depends on the speed limit in it."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    batch: int | None = None
    """Windows per update instead of the preset's."""
    steps: int | None = None
    """Decisions per window instead of the preset's."""
    segment_steps: int | None = None
    """Steps per replay segment instead of the preset's."""
    env: EnvConfig = field(default_factory=EnvConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    losses_per_hour: int = 20
    """Collectors that may die or fall silent within an hour; each is replaced."""

    def __post_init__(self) -> None:
        if min(self.threads, self.publish_updates, self.log_updates) < 1 or self.prefill_steps < 0:
            raise ValueError(
                "threads, publish_updates and log_updates must be at least 1 and prefill_steps not negative, got "
                f"{self.threads}, {self.publish_updates}, {self.log_updates}, {self.prefill_steps}"
            )
        if self.collectors < 0 or self.losses_per_hour < 0 or (self.updates is not None and self.updates < 1):
            raise ValueError(
                "collectors and losses_per_hour must not be negative and updates at least 1, got "
                f"{self.collectors}, {self.losses_per_hour}, {self.updates}"
            )
        if self.replay is not None and self.collectors:
            raise ValueError("replay is for learning without collectors: set collectors 0 as well")
        for name in ("expert_share", "noise_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0.0 <= self.collect_ratio < self.train_ratio:
            raise ValueError(
                f"collect_ratio must lie in [0, train_ratio), got {self.collect_ratio} with {self.train_ratio}"
            )
        if self.train_ratio <= 0.0 or self.checkpoint_minutes <= 0.0 or self.evaluate_minutes < 0.0:
            raise ValueError(
                "train_ratio and checkpoint_minutes must be positive and evaluate_minutes not negative, got "
                f"{self.train_ratio}, {self.checkpoint_minutes}, {self.evaluate_minutes}"
            )

    @property
    def vector_size(self) -> int:
        """Width of the model's ego vector."""
        return vector_size(gaps=self.env.gaps) if self.vector else 0

    @property
    def gap_size(self) -> int:
        """How many of the vector's numbers are gaps, its last ones."""
        return GAP_SIZE if self.vector and self.env.gaps else 0


DEMONSTRATIONS: dict[str, Any] = {
    "prefill": "expert",
    "prefill_steps": 20_000,
    "noise_share": 0.08,
    "expert_share": 0.15,
    "train_ratio": 128.0,
    "imitation": ImitationConfig(weight=1.0, final_weight=0.3, updates=15_000, alone_updates=4000, model_weight=200.0),
}
"""Settings of a run that the expert teaches, too: those of `weights/privileged_tiny`."""
OUTSIDE = 3.0
"""What a decision outside the route's lanes costs there: corners cut wide were a fifth of the failures without it."""


def with_demonstrations(run: RunConfig) -> RunConfig:
    """`DEMONSTRATIONS` for the fields that are not set, gaps to see, and a price on being outside the lanes."""
    default = RunConfig()
    open_fields = [name for name in DEMONSTRATIONS if getattr(run, name) == getattr(default, name)]
    reward = run.env.think2drive
    env = replace(run.env, gaps=True, think2drive=replace(reward, outside=reward.outside or OUTSIDE))
    return replace(run, env=env, **{name: DEMONSTRATIONS[name] for name in open_fields})
