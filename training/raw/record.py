"""Recording experience with camera images for the raw stage without learning: a fixed data set."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from training.env.config import EnvConfig
from training.privileged.config import RouteConfig
from training.privileged.crew import Crew, Worker
from training.privileged.resume import locked
from training.privileged.routes import routes_of
from training.raw.config import RawRunConfig
from training.raw.trainer import configured, job_of, take_teacher

WAIT_S = 0.5
SHOW_S = 15.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordConfig:
    """A recording."""

    teacher: Path = Path("weights/privileged_tiny")
    """Folder of the privileged model that drives."""
    steps: int = 2000
    """Decisions to record now, over all collectors."""
    collectors: int = 1
    seed: int = 0
    expert_share: float = 0.0
    """Share of the time that the rule-based expert drives, in turns of some seconds."""
    random_looks: bool = True
    """Whether weather and time of day are drawn anew for every episode."""
    env: EnvConfig = field(default_factory=EnvConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.collectors < 1:
            raise ValueError(f"steps and collectors must be at least 1, got {self.steps}, {self.collectors}")


def record(config: RecordConfig, folder: Path) -> str:
    """Drive until there are so many decisions more; gives what was recorded, and how fast.

    folder: the experience is in its `replay`.
    Raises: CheckpointError, ConfigError, ServerError, RouteFileError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        run = RawRunConfig(
            teacher=config.teacher,
            collectors=config.collectors,
            seed=config.seed,
            expert_share=config.expert_share,
            random_looks=config.random_looks,
            env=config.env,
            routes=config.routes,
        )
        teacher = take_teacher(config.teacher, folder)
        routes, _ = routes_of(config.routes, config.env, folder)
        adapt = lambda job: job_of(job, teacher, run)  # noqa: E731
        hire = lambda job, name: Worker(adapt(job), name)  # noqa: E731
        begun_s = shown_s = time.monotonic()
        recorded = episodes = 0
        with Crew(configured(run, teacher), run, folder, routes, (), {}, hire) as crew:
            while recorded < config.steps:
                for message in crew.listen():
                    recorded += message.get("steps", 0)
                    episodes += "episode" in message
                time.sleep(WAIT_S)
                if time.monotonic() - shown_s > SHOW_S:
                    shown_s = time.monotonic()
                    rate = recorded / (shown_s - begun_s)
                    left_min = (config.steps - recorded) / rate / 60.0 if rate else float("nan")
                    logger.info("%d of %d decisions, %.1f min left", recorded, config.steps, left_min)
    passed_s = time.monotonic() - begun_s
    return f"{recorded} decisions of {episodes} whole episodes in {passed_s:.0f} s, in {folder / 'replay'}"
