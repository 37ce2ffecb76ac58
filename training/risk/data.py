"""Futures for training and for the benchmark: the arms' samples, and what a model is to say about each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from eval.criteria import TICK_S
from training.counterfactual import render, synthesis
from training.counterfactual.candidates import Family
from training.counterfactual.npz import ArrayFileError
from training.counterfactual.outcome import FutureKind
from training.counterfactual.synthesis import FRAMES, MOTION_TICKS, OCCUPANCY_TICKS, STEPS, Futures

STEP_S = MOTION_TICKS * TICK_S
FRAME_S = OCCUPANCY_TICKS * TICK_S
NEVER = -1
AFTER_FAILURE_S = 0.25
"""Occupancy later than this after a failure is not learnt: the replay drives through what it has hit."""


class Arm(str, Enum):
    """What a model is trained on. All arms see the same states in the same order, from which driving went well, and
    equally many futures of each."""

    EXPERT = "expert"
    """Futures as they were driven: nothing fails."""
    NOISE = "noise"
    """And disturbed ones."""
    COUNTERFACTUAL = "counterfactual"
    """And all other families."""
    SHUFFLED = "shuffled"
    """As counterfactual, but every future has what came of another one of its state: must fail."""


# Families that each of a state's futures in a batch is drawn from.
FAMILIES: dict[Arm, tuple[tuple[Family, ...], ...]] = {
    Arm.EXPERT: ((Family.LOGGED,),) * 4,
    Arm.NOISE: ((Family.LOGGED,), *((Family.NOISE,),) * 3),
    Arm.COUNTERFACTUAL: (
        (Family.LOGGED,),
        (Family.NOISE,),
        *((tuple(family for family in Family if family not in (Family.LOGGED, Family.NOISE))),) * 2,
    ),
}
FAMILIES[Arm.SHUFFLED] = FAMILIES[Arm.COUNTERFACTUAL]
PER_STATE = 4


@dataclass(frozen=True, slots=True)
class Inputs:
    """Base states; b of them."""

    words: Int64[Tensor, "b 64 64"]
    vector: Float[Tensor, "b 4"]
    latent: Float[Tensor, "b d"]


@dataclass(frozen=True, slots=True)
class Targets:
    """What comes of k futures of each of b states."""

    motion: Float[Tensor, "b k 12 4"]
    contact_step: Int64[Tensor, "b k"]
    """Quarter second in which the first contact falls; NEVER."""
    off_road_step: Int64[Tensor, "b k"]
    road_steps: Int64[Tensor, "b k"]
    """So many quarter seconds tell whether the road was left: all, or those before a contact."""
    impact_mps: Float[Tensor, "b k"]
    occupancy: UInt8[Tensor, "b k 6 32 32"]
    shown: Float[Tensor, "b k 6"]
    """1 for frames that are learnt."""


class FutureSet:
    """All futures of some folders in memory."""

    def __init__(self, parts: Sequence[Futures]) -> None:
        """Raises: ValueError when there is no future at all, or latents of different widths."""
        parts = [part for part in parts if len(part.kind)]
        if not parts:
            raise ValueError("no futures; make some with counterfactual from longer logs")
        if len({part.latent.shape[1] for part in parts}) > 1:
            raise ValueError("some futures have states of a raw agent's world model and some have none, or others")
        owners = {str(part.meta.get("states_of", "")) for part in parts}
        self.states_of = owners.pop() if len(owners) == 1 else ""
        """`agent.base_plan.state_identity` of the agent that `latent` is of; empty when unknown, or several."""
        offsets = np.cumsum([0, *(len(part.tick) for part in parts)])
        self.words = np.concatenate([part.words for part in parts])
        self.vector = np.concatenate([part.vector for part in parts])
        self.latent = np.concatenate([part.latent for part in parts])
        self.episode = np.concatenate([np.full(len(part.tick), k) for k, part in enumerate(parts)])
        """(s,) number of the episode of each state."""
        self.towns = sorted({part.meta["town"] for part in parts})
        self.names = [part.meta["episode"] for part in parts]
        self.state = np.concatenate([part.state + offset for part, offset in zip(parts, offsets, strict=False)])
        for name in ("family", "kind", "motion", "contact_s", "off_road_s", "impact_mps", "occupancy"):
            setattr(self, name, np.concatenate([getattr(part, name) for part in parts]))
        self.family: np.ndarray
        self.kind: np.ndarray
        self.motion: np.ndarray
        self.contact_s: np.ndarray
        self.off_road_s: np.ndarray
        # the replay drives on through what it has hit: what it leaves then is no road that a car would have left
        self.off_road_s = np.where((self.contact_s >= 0.0) & (self.contact_s <= self.off_road_s), -1.0, self.off_road_s)
        self.impact_mps: np.ndarray
        self.occupancy: np.ndarray

    @classmethod
    def read(cls, folders: Sequence[Path]) -> FutureSet:
        """Raises: ArrayFileError, ValueError."""
        paths = [path for folder in folders for path in sorted(folder.glob(f"[!.]*{synthesis.SUFFIX}"))]
        if not paths:
            raise ArrayFileError(f"{', '.join(map(str, folders))}: no futures (*{synthesis.SUFFIX}); make some first")
        return cls([synthesis.load(path) for path in paths])

    def failure_s(self, futures: np.ndarray) -> np.ndarray:
        """Time of the first contact or way off the road of each; infinite without one."""
        contact, off_road = self.contact_s[futures], self.off_road_s[futures]
        return np.minimum(np.where(contact < 0.0, np.inf, contact), np.where(off_road < 0.0, np.inf, off_road))

    def inputs(self, states: np.ndarray) -> Inputs:
        """What a model sees of some states."""
        return Inputs(
            torch.from_numpy(self.words[states].view(np.int64)),
            torch.from_numpy(self.vector[states]),
            torch.from_numpy(self.latent[states]),
        )

    def targets(self, futures: np.ndarray, truth: np.ndarray | None = None) -> Targets:
        """What comes of futures (b, k); `truth`: futures whose outcome is told instead."""
        truth = futures if truth is None else truth
        contact, off_road = self.contact_s[truth], self.off_road_s[truth]
        shown = FRAME_S * np.arange(1, FRAMES + 1) <= self.failure_s(truth)[..., None] + AFTER_FAILURE_S
        return Targets(
            motion=torch.from_numpy(self.motion[futures]),
            contact_step=torch.from_numpy(step_of(contact)),
            off_road_step=torch.from_numpy(step_of(off_road)),
            road_steps=torch.from_numpy(np.where((contact < 0.0) | (off_road >= 0.0), STEPS, step_of(contact))),
            impact_mps=torch.from_numpy(self.impact_mps[truth]),
            occupancy=torch.from_numpy(self.occupancy[truth]),
            shown=torch.from_numpy(shown.astype(np.float32)),
        )


def step_of(seconds: np.ndarray) -> np.ndarray:
    """Quarter second that a time falls into, 0 to 11; NEVER for -1."""
    steps = np.clip(np.ceil(seconds / STEP_S - 1e-4) - 1, 0, STEPS - 1).astype(np.int64)
    return np.where(seconds < 0.0, NEVER, steps)


class Sampler:
    """Draws batches for one arm."""

    def __init__(self, data: FutureSet, arm: Arm, generator: np.random.Generator) -> None:
        """Raises: ValueError when no state has what the arm needs."""
        self._data, self._arm = data, arm
        # one for each, so that what an arm draws of a state does not change the states that follow
        self._of_states, self._of_futures, self._of_labels = generator.spawn(3)
        order = np.argsort(data.state, kind="stable")
        bounds = np.searchsorted(data.state[order], np.arange(len(data.words) + 1))
        self._of = [order[low:high] for low, high in itertools.pairwise(bounds)]
        well = (data.family == Family.LOGGED) & ~failing(data.kind)
        self._states = np.array([s for s, own in enumerate(self._of) if well[own].any()])
        if not len(self._states):
            raise ValueError("no base state has a logged future that goes well; make futures of more careful drives")

    def draw(self, states: int) -> tuple[Inputs, Targets]:
        """PER_STATE futures of each of some states."""
        chosen = self._of_states.choice(self._states, states)
        futures = np.stack([self._futures(self._of[state]) for state in chosen])
        truth = futures
        if self._arm is Arm.SHUFFLED:
            truth = np.stack([deranged(row, self._of_labels) for row in futures])
        return self._data.inputs(chosen), self._data.targets(futures, truth)

    def _futures(self, own: np.ndarray) -> np.ndarray:
        """Different ones, as far as the state has them."""
        family = self._data.family[own]
        found: list[int] = []
        for wanted in FAMILIES[self._arm]:
            fitting = own[np.isin(family, wanted)]
            fitting = fitting if len(fitting) else own[family == Family.LOGGED]
            new = fitting[~np.isin(fitting, found)]
            found.append(int(self._of_futures.choice(new if len(new) else fitting)))
        return np.array(found)


def deranged(row: Int64[np.ndarray, " k"], generator: np.random.Generator) -> Int64[np.ndarray, " k"]:
    """The row with every value replaced by another one of it; a value that is alone stays."""
    values = generator.permutation(np.unique(row))
    followers = dict(zip(values.tolist(), np.roll(values, 1).tolist(), strict=True))
    return np.array([followers[value] for value in row.tolist()])


def failing(kind: np.ndarray) -> np.ndarray:
    """Whether a future of a kind fails."""
    return kind >= FutureKind.REAR_END


def balanced(data: FutureSet, most: int, generator: np.random.Generator) -> np.ndarray:
    """Futures of the benchmark: equally many of every kind, at most `most`, fewer where there are fewer."""
    chosen = []
    for kind in FutureKind:
        own = np.flatnonzero(data.kind == kind)
        chosen.append(generator.permutation(own)[:most])
    return np.sort(np.concatenate(chosen))


CLASSES = len(render.CLASSES)
GRID = (render.ROWS, render.COLUMNS)
HORIZON_S = math.fsum([STEP_S] * STEPS)
