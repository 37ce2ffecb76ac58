"""Arms of the ablation: every row of the paper's Tables 6 to 11, and ours. Each is a small change of a run.

An arm names only what it changes, so that everything else is the same in all arms, whatever a run is configured to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from training.raw.config import RawRunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """The paper's figures for an arm: Dev10, three repetitions. Source: Raw2Drive, section 4.4."""

    driving_score: float
    successes_of_10: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One row."""

    name: str
    says: str
    """What the arm is, in a table."""
    rows: tuple[str, ...] = ()
    """Where the paper has it; empty for arms of ours."""
    paper: Paper | None = None
    guidance: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GuidanceConfig`, `RawHeadConfig` and `RawRunConfig` that differ."""

    def of(self, run: RawRunConfig) -> RawRunConfig:
        """The run with this arm's changes."""
        return replace(
            run,
            guidance=replace(run.guidance, **self.guidance),
            heads=replace(run.heads, **self.heads),
            **self.run,
        )


class ArmError(ValueError):
    """A name that stands for no arm; the message lists what there is."""


FULL = "full"
_THREE_HEADS = {"reward": True, "continuation": True}
_ARMS = (
    Arm(
        name=FULL,
        says="decoder head, all alignments, shared samples, head guidance, fine-tuned policy",
        rows=("6.2", "7.4", "8.4", "9.1", "10.1", "11.2"),
        paper=Paper(driving_score=83.5, successes_of_10=7.5),
    ),
    Arm(
        name="no_decoder",
        says="no head at all",
        rows=("6.1",),
        paper=Paper(driving_score=17.4, successes_of_10=1.2),
        heads={"decoder": False},
    ),
    Arm(
        name="reward_head",
        says="decoder and reward head",
        rows=("6.3",),
        paper=Paper(driving_score=46.6, successes_of_10=3.4),
        heads={"reward": True},
    ),
    Arm(
        name="three_heads",
        says="decoder, reward and continue head",
        rows=("6.4", "9.2"),
        paper=Paper(driving_score=34.5, successes_of_10=2.2),
        heads=_THREE_HEADS,
    ),
    Arm(
        name="three_heads_detached",
        says="as three_heads, but reward and continue head do not shape the states",
        heads={**_THREE_HEADS, "stop_gradient": True},
    ),
    Arm(
        name="no_alignment",
        says="no rollout guidance: e, h and s are not aligned",
        rows=("7.1",),
        paper=Paper(driving_score=0.0, successes_of_10=0.0),
        guidance={"embed": 0.0, "deter": 0.0, "stoch": 0.0, "prior": 0.0},
    ),
    Arm(
        name="embed_only",
        says="e is aligned; h and s are not",
        rows=("7.2",),
        paper=Paper(driving_score=36.4, successes_of_10=2.4),
        guidance={"deter": 0.0, "stoch": 0.0, "prior": 0.0},
    ),
    Arm(
        name="embed_deter",
        says="e and h are aligned; s is not",
        rows=("7.3",),
        paper=Paper(driving_score=38.3, successes_of_10=2.8),
        guidance={"stoch": 0.0, "prior": 0.0},
    ),
    Arm(
        name="no_embed",
        says="h and s are aligned; e is not, in space or in time",
        rows=("8.1",),
        paper=Paper(driving_score=0.0, successes_of_10=0.0),
        guidance={"spatial": False, "temporal": False},
    ),
    Arm(
        name="spatial_only",
        says="e is aligned cell by cell, at the first step of a window alone",
        rows=("8.2",),
        paper=Paper(driving_score=13.6, successes_of_10=1.2),
        guidance={"spatial": True, "temporal": False},
    ),
    Arm(
        name="temporal_only",
        says="the grid's mean of e is aligned, at every step",
        rows=("8.3",),
        paper=Paper(driving_score=9.24, successes_of_10=0.8),
        guidance={"spatial": False, "temporal": True},
    ),
    Arm(
        name="own_heads",
        says="three heads, and the policy learns from the raw model's rewards and continue flags",
        rows=("9.3",),
        paper=Paper(driving_score=26.4, successes_of_10=1.6),
        heads={**_THREE_HEADS, "guidance": False},
    ),
    Arm(
        name="random_rssm",
        says="the recurrence begins with random weights",
        rows=("10.2",),
        paper=Paper(driving_score=53.2, successes_of_10=5.4),
        run={"rssm_start": "random"},
    ),
    Arm(
        name="random_decoder",
        says="the decoder begins with random weights",
        rows=("10.3",),
        paper=Paper(driving_score=65.6, successes_of_10=6.1),
        run={"decoder_start": "random"},
    ),
    Arm(
        name="tied_rssm",
        says="the recurrence is the privileged one and stays as it is",
        run={"rssm_start": "tied"},
    ),
    Arm(
        name="direct_policy",
        says="the privileged policy as it is",
        rows=("11.1",),
        paper=Paper(driving_score=58.4, successes_of_10=5.6),
        run={"fine_tuned": False},
    ),
    Arm(
        name="independent_sampling",
        says="each stream draws its own latents while it filters",
        guidance={"sampling": "independent"},
    ),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ARMS}
"""By name. Rows count from 1 within a table of the paper: 6.2 is the second row of Table 6."""


def arms_of(text: str) -> list[Arm]:
    """The arms of a comma-separated list of names; `all` stands for every one. Raises: ArmError."""
    names: Sequence[str] = list(ARMS) if text.strip() == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in ARMS]
    twice = sorted({name for name in names if names.count(name) > 1})
    if unknown or twice:
        wrong = f"{unknown[0]!r} is not known" if unknown else f"{twice[0]} stands there twice"
        raise ArmError(f"--arms: {wrong}; known are {', '.join(ARMS)}, or all")
    return [ARMS[name] for name in names]
