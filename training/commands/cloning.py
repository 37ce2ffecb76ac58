"""Commands that record data and clone a driver from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from eval.scenarios.registry import BENCH2DRIVE_TYPES, SCENARIOS
from training import clone, collect, scenario_study


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Record driving data on embedded servers."""

    towns: str
    """Towns, separated by commas: Gen02,Gen03."""
    out: Path
    """Folder for the segments; new ones are added to those already there."""
    driver: Literal["expert", "agent"] = "expert"
    """Who drives; with the agent the expert labels every frame."""
    weights: Path | None = None
    """Checkpoint folder of the agent."""
    frames: int = 20_000
    workers: int = 2
    seed: int = 0
    beta: float = 0.3
    """Share of the time that the expert drives in an agent's episode."""
    town_dir: Path | None = None
    max_traffic: int = 20

    def run(self) -> int:
        """Exit code."""
        if (self.driver == "agent") != (self.weights is not None):
            raise ValueError("--driver agent needs --weights FOLDER, and only then")
        config = collect.CollectConfig(
            towns=tuple(town for town in self.towns.split(",") if town),
            frames=self.frames,
            workers=self.workers,
            seed=self.seed,
            beta=self.beta,
            town_dir=self.town_dir,
            max_traffic=self.max_traffic,
        )
        return 1 if collect.run(config, self.out, self.weights) else 0


@dataclass(frozen=True, kw_only=True)
class Clone:
    """Train the driving model on recorded data; a run that exists is resumed."""

    data: str
    """Folders of segments, separated by commas."""
    out: Path
    """Folder of the run."""
    minutes: float = 45.0
    """Training time in all, resumed parts included."""
    init: Path | None = None
    """Checkpoint folder to start from."""
    config: clone.CloneConfig = field(default_factory=clone.CloneConfig)

    def run(self) -> int:
        """Exit code."""
        folders = tuple(Path(part) for part in self.data.split(",") if part)
        clone.run(replace(self.config, minutes=self.minutes), folders, self.out, self.init)
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's averaged weights as a folder the agent can drive with."""

    run_folder: Path
    out: Path
    half: bool = True
    """Store float16; cast back to float32 when loaded."""
    card: Path | None = None
    """Model card to include."""

    def run(self) -> int:
        """Exit code."""
        card = self.card.read_text(encoding="utf-8") if self.card else clone.MODEL_CARD
        print(clone.export(self.run_folder, self.out, half=self.half, card=card))
        return 0


@dataclass(frozen=True, kw_only=True)
class Scenarios:
    """Drive generated routes of every scenario type with the expert and with a blind driver; write a table."""

    towns: str
    """Towns, separated by commas."""
    out: Path
    """Folder for the counts, the table, the drives and the routes."""
    types: str = ""
    """Scenario types, separated by commas; Bench2Drive's 44 if empty."""
    seeds: int = 5
    """Routes per type."""
    seed: int = 0
    traffic: int = 8
    workers: int = 2
    town_dir: Path | None = None

    def run(self) -> int:
        """Exit code."""
        types = tuple(kind for kind in self.types.split(",") if kind) or BENCH2DRIVE_TYPES
        unknown = sorted(set(types) - set(SCENARIOS))
        if unknown:
            raise ValueError(f"--types {', '.join(unknown)} is not known; known are {', '.join(sorted(SCENARIOS))}")
        config = scenario_study.StudyConfig(
            towns=tuple(town for town in self.towns.split(",") if town),
            types=types,
            seeds=self.seeds,
            seed=self.seed,
            traffic=self.traffic,
            workers=self.workers,
            town_dir=self.town_dir,
        )
        print(scenario_study.table(scenario_study.study(config, self.out)))
        return 0
