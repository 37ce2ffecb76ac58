"""Runs of the learner alone, on a replay that does not grow, for the tests of the training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.training.experience import transition
from training.experience.writer import ExperienceWriter
from training.presets import Recipe, preset
from training.privileged.config import RunConfig
from training.privileged.trainer import Trainer, configured, train

PATIENCE_S = 120.0
RUN = RunConfig(
    collectors=0, evaluate_minutes=0.0, vector=False, batch=2, steps=6, segment_steps=8, log_updates=2, updates=6
)
OPTIONS = {
    "preset": "strong",
    "size": "debug",
    "config.collectors": "0",
    "config.evaluate-minutes": "0",
    "config.batch": "2",
    "config.steps": "6",
    "config.segment-steps": "8",
    "config.log-updates": "2",
}
"""The same on the command line, with `--config.no-vector`, without a limit of updates."""


def learn(
    folder: Path, *, recipe: Recipe = "strong", minutes: float = 60.0, allowed: Collection[str] = (), **run: Any
) -> int:
    """Train on what is in the run's replay; gives the number of updates."""
    return train(preset(recipe, "debug"), replace(RUN, **run), folder, minutes, allowed)


def trainer_of(folder: Path, *, recipe: Recipe = "strong", **run: Any) -> Trainer:
    """The same before it starts."""
    chosen = replace(RUN, **run)
    return Trainer(configured(preset(recipe, "debug"), chosen), chosen, folder, 60.0)


def arguments(folder: Path, **options: str) -> list[str]:
    """Of the command; an option's name has - and . where a Python name has _ and __."""
    chosen = OPTIONS | {"out": str(folder)}
    chosen |= {name.replace("__", ".").replace("_", "-"): value for name, value in options.items()}
    return [
        "privileged",
        "--config.no-vector",
        *(part for name, value in chosen.items() for part in (f"--{name}", value)),
    ]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Events of a run so far."""
    path = folder / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def fill_with_vector(folder: Path, steps: int, *, bad_every: int) -> None:
    """A stream with ego vectors of which every so manieth is not a number, from its tenth step on."""
    with ExperienceWriter(folder, stream="s0", segment_steps=8) as writer:
        for step in range(steps):
            vector = np.full(35, np.nan if step > 9 and step % bad_every == 0 else 0.1 * step, np.float32)
            writer.add(replace(transition(0, step), vector=vector))


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true answer."""
    until_s = time.monotonic() + PATIENCE_S
    while not (answer := what()):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return answer


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert different == []
