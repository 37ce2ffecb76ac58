"""Configuration of the actor-critic that learns inside the world model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticConfig:
    """Networks, imagination, returns, losses. Raw2Drive, Appendix E, names the losses; the numbers are DreamerV3's."""

    units: int = 256
    layers: int = 1
    actor_unimix: float = 0.01
    """Share of the uniform distribution in the actor; 0.01 in 2023, none in the released code of 2025."""
    actor_output_scale: float = 1.0
    """Factor on the initial weights of the actor's last layer; 1 in 2023, 0.01 in 2025."""
    horizon: int = 15
    """Imagined steps H."""
    starts: int = 0
    """Replayed states, drawn anew for each update, that imagination starts from; 0 for all of them."""
    lam: float = 0.95
    """lambda of the returns."""
    entropy: float = 3e-4
    """eta. Raw2Drive's printed sign would minimise the entropy; our reading, as in DreamerV3, maximises it."""
    continue_value: Literal["mode", "probability"] = "mode"
    """Predicted continue flags as 0 or 1 (2023) or as probabilities (2025)."""
    true_first_continue: bool = True
    """Whether the continue flag of the start state is the replayed one (2023) or predicted (2025)."""
    return_decay: float = 0.99
    """Decay of the two averaged percentiles that scale the advantage."""
    return_percentiles: tuple[float, float] = (0.05, 0.95)
    return_debias: bool = False
    """Whether the averages are divided by 1 - decay^n; DreamerV3 starts them at 0 without it."""
    slow_rate: float = 0.02
    """The slow critic moves by this share towards the critic in each update."""
    slow_weight: float = 1.0
    """Weight of the critic's regression to the slow critic."""
    replay_critic: float = 0.0
    """Weight of the critic's loss on replayed states; 0.3 in 2025, where it also trains the world model."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.starts < 0:
            raise ValueError(
                f"policy.horizon must be at least 1 and starts at least 0, got {self.horizon}, {self.starts}"
            )
        low, high = self.return_percentiles
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"policy.return_percentiles must rise within [0, 1], got {self.return_percentiles}")
        for name in ("actor_unimix", "lam", "return_decay", "slow_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"policy.{name} must lie in [0, 1], got {getattr(self, name)}")
