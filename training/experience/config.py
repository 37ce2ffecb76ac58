"""Configuration of the replay of the privileged stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """How much is kept and how windows are drawn. Raw2Drive gives no numbers; DreamerV3's where there is one."""

    capacity_steps: int = 1_000_000
    """Steps that windows are drawn from; the oldest segments leave first. 1e6 in 2023, 5e6 in 2025."""
    segment_steps: int = 256
    """Steps per file, what a killed writer loses at most."""
    online: bool = False
    """Whether fresh steps are trained on once, in order, before windows are drawn (2025)."""
    carry_over: bool = False
    """Whether filtered states are kept and a window starts from the one before its first step (2025)."""
    refresh_s: float = 2.0
    """How often new segments are looked for; 0 only when asked."""
    scan_s: float = 10.0
    """How often the folder itself is compared with its index, for segments whose writer could not enter them."""
    damaged_share: float = 0.01
    """Share of damaged segments (one is always tolerated) above which training stops."""

    def __post_init__(self) -> None:
        if self.capacity_steps < 1 or self.segment_steps < 1:
            raise ValueError(
                f"replay.capacity_steps and segment_steps must be at least 1, got {self.capacity_steps}, "
                f"{self.segment_steps}"
            )
        if self.refresh_s < 0.0 or self.scan_s < 0.0 or not 0.0 <= self.damaged_share <= 1.0:
            raise ValueError(
                "replay.refresh_s and scan_s must not be negative and damaged_share must lie in [0, 1], got "
                f"{self.refresh_s}, {self.scan_s}, {self.damaged_share}"
            )
