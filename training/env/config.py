"""Configuration of the driving environment: observation, reward, endings, choice of routes, server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.scoring import Infraction
from training import bev

RewardKind = Literal["think2drive", "carl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Think2DriveConfig:
    """Weights and distances of Think2Drive's reward.

    The paper (arXiv 2402.16720, section 3) names the terms; the numbers are those of the open reproduction by the
    authors of CaRL.
    """

    speed: float = 1.0
    travel: float = 1.0
    deviation: float = 2.0
    steer: float = 0.5
    outside: float = 0.0
    """Price of a decision outside the lanes of the route. Not in Think2Drive; success in Bench2Drive asks for it."""
    speed_scale_mps: float = 7.5
    deviation_scale_m: float = 8.0
    limit_share: float = 0.8
    """The wanted speed on a free road, as a share of the speed limit."""
    slowing_m: float = 12.5
    """The wanted speed falls to zero over this distance before a hazard's margin."""
    light_m: float = 4.0
    stop_sign_m: float = 2.5
    vehicle_m: float = 8.0
    bicycle_m: float = 5.0
    walker_m: float = 5.0
    """Margins: the wanted speed is zero when the ego's centre is so near to the hazard along the route."""
    failure: float = -1.0
    """Replaces the reward of a decision that ends the episode badly; minus the speed for an offence."""
    finish: float = 1.0
    """Replaces the reward of the decision that finishes the route."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CarlConfig:
    """CaRL's reward (arXiv 2504.17838): progress times soft factors.

    The paper names the factors; the thresholds of speeding and comfort are ours.
    """

    outside: float = 0.0
    time_to_collision: float = 0.5
    comfort: float = 0.5
    time_to_collision_s: float = 1.0
    overspeed_mps: float = 2.5
    """The factor of speeding falls to zero at this much above the limit."""
    lon_accel_mps2: float = 4.05
    lat_accel_mps2: float = 4.89
    lon_jerk_mps3: float = 8.37
    """Limits of comfort: those of nuPlan and Bench2Drive."""
    collision: float = -1.0
    """Reward of the decision with a collision or a red light run; other endings bring 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndConfig:
    """What ends an episode."""

    offences: tuple[Infraction, ...] = (
        Infraction.COLLISION_STATIC,
        Infraction.COLLISION_PEDESTRIAN,
        Infraction.COLLISION_VEHICLE,
        Infraction.RED_LIGHT,
        Infraction.STOP_SIGN,
    )
    """Infractions that are terminal."""
    deviation_m: float = 15.0
    """Farther from the route than this the ego is lost: terminal."""
    standing_s: float = 100.0
    """So long below standing_mps is terminal. The benchmark's own rule (60 s below 0.1 m/s) holds besides."""
    standing_mps: float = 1.0
    max_s: float = 150.0
    """Game time after which an episode is cut off (truncated)."""
    finish_is_terminal: bool = False
    """Whether a finished route is terminal; in the reproduction of Think2Drive it only truncates."""

    def __post_init__(self) -> None:
        for name in ("deviation_m", "standing_s", "max_s"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"ends.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """Which route is driven next."""

    warm_up_episodes: int = 0
    """The first episodes of an environment drive routes without scenarios, if there are any."""
    episodes_per_town: int = 40
    """Then the town is changed, which costs seconds."""
    floor: float = 0.2
    """Weight of what always succeeds, where what always fails has 1."""
    memory: float = 0.8
    """The success rate of a kind of scenario keeps this share at every episode."""

    def __post_init__(self) -> None:
        if not 0.0 < self.floor <= 1.0:
            raise ValueError(f"scheduler.floor must lie in (0, 1], got {self.floor}")
        if not 0.0 <= self.memory < 1.0:
            raise ValueError(f"scheduler.memory must lie in [0, 1), got {self.memory}")
        if self.episodes_per_town < 1:
            raise ValueError(f"scheduler.episodes_per_town must be at least 1, got {self.episodes_per_town}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvConfig:
    """A driving environment."""

    size_px: int = bev.SIZE_PX
    """Side of the masks: 128, or a divisor to which the words are pooled."""
    traffic: int = 20
    """Background vehicles."""
    scenarios: bool = True
    """Play the routes' scenarios."""
    reward: RewardKind = "think2drive"
    think2drive: Think2DriveConfig = field(default_factory=Think2DriveConfig)
    carl: CarlConfig = field(default_factory=CarlConfig)
    ends: EndConfig = field(default_factory=EndConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    gaps: bool = False
    """Show the free road in numbers besides (see `training.env.gaps`)."""
    expert: bool = False
    """Tell in every info what the expert would do (`expert_action`): for demonstrations and labels."""
    light_times_s: tuple[float, float, float] | None = None
    """Green, yellow and red time of the traffic lights; None leaves them as the server has them."""
    server: str = ""
    """HOST:PORT of a running server; empty: an embedded one of the environment's own."""
    town_dir: Path | None = None
    threads: int = 1
    """Of an embedded server of our own."""
    worker: int = 0
    """Index among environments on this machine: spreads their pinned threads over the cores."""
    timeout_s: float = 20.0
    """For one call to the server; after that the episode is lost."""

    def __post_init__(self) -> None:
        if self.size_px < 1 or bev.SIZE_PX % self.size_px:
            raise ValueError(f"size_px must divide {bev.SIZE_PX}, got {self.size_px}")
        if self.traffic < 0:
            raise ValueError(f"traffic must not be negative, got {self.traffic}")
        if self.timeout_s <= 0.0:
            raise ValueError(f"timeout_s must be positive, got {self.timeout_s}")
