"""Collecting with six cameras: the privileged and the raw driver take turns, and both always know where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.env.environment import DrivingEnv
from training.privileged.checkpoint import load_model
from training.privileged.collector import EXPERT_TURN, CollectorJob, Evaluated, HeldNoise, Pilots, Turns
from training.privileged.driver import newest, take_over, version_of
from training.raw.config import RawConfig, RawRunConfig
from training.raw.driver import RawDriver
from training.raw.environment import SensingEnv


@dataclass(frozen=True, slots=True)
class RawCollectorJob(CollectorJob):
    """What one process of the raw stage does."""

    teacher: Path = Path()
    """Folder of the privileged model."""
    settings: RawRunConfig = field(default_factory=RawRunConfig)

    @property
    def raw(self) -> RawConfig:
        """The configuration of the stage."""
        assert isinstance(self.config, RawConfig)
        return self.config

    def environment(self) -> DrivingEnv:
        """What is driven in: with sensors, what the teacher sees, and the expert where it takes turns."""
        gaps = self.raw.world_model.observation.gaps > 0
        env = replace(self.env, expert=self.expert_share > 0.0, gaps=gaps)
        return SensingEnv(env, self.routes, random_looks=self.settings.random_looks)

    def pilots(self, env: DrivingEnv) -> Pilots:
        """Who drives while experience is collected."""
        return RawPilots(self, env)

    def evaluated(self) -> Evaluated:
        """Who is evaluated, with the weights of the job."""
        driver = RawDriver(self.raw.model)
        take_over(driver, self.weights)
        return driver


class RawPilots:
    """The privileged driver until there are weights, then in turns with the raw one; now and then expert or noise."""

    def __init__(self, job: RawCollectorJob, env: DrivingEnv) -> None:
        self.version: int | None = None
        self.run = job.weights.parent
        self._job, self._env = job, env
        self._privileged = load_model(job.teacher).driver(job.seed)
        self._raw = RawDriver(job.raw.model, job.seed)
        self._generator = np.random.default_rng(job.seed)
        self._expert_turns = Turns(job.expert_share, EXPERT_TURN, self._generator)
        self._privileged_turns = ShareTurns(self._generator)
        self._noise = HeldNoise(job.noise_share, self._generator)

    def refresh(self) -> None:
        """Take over the newest weights."""
        path = newest(self._job.weights)
        if path is None or version_of(path) == self.version:
            return
        try:
            take_over(self._raw, path)
        except FileNotFoundError:
            return  # replaced just now; the next look finds the newer one
        self.version = version_of(path)

    def begin(self) -> None:
        """Before an episode."""
        self.refresh()
        self._privileged.begin()
        self._raw.begin()

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> int:
        """The next action, which both drivers hear of."""
        action = self._privileged.act(observation)
        if self.version is not None:
            own = self._raw.act(observation)
            if not self._privileged_turns.next(self._job.settings.privileged_share_at(self.version)):
                action = own
        expert = info.get("expert_action")
        if expert is not None and self._expert_turns.next():
            action = int(expert)
        action = self._noise.instead_of(action)
        self._privileged.follow(action)
        self._raw.follow(action)
        return action


class ShareTurns:
    """Turns of a driver whose share of the time changes."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._left = 0
        self._on = False

    def next(self, share: float) -> bool:
        """Whether that driver takes this decision; it is drawn anew after every turn."""
        if self._left <= 0:
            self._left = 1 + int(self._generator.geometric(1.0 / EXPERT_TURN))
            self._on = bool(self._generator.random() < share)
        self._left -= 1
        return self._on
