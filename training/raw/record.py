"""Recording experience with camera images for the raw stage without learning: a fixed data set."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from training.env.config import EnvConfig
from training.privileged.config import RouteConfig
from training.privileged.crew import Crew, Worker
from training.privileged.resume import locked
from training.privileged.routes import routes_of
from training.privileged.trainer import stopping_on_signals
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
    """Drive until there are so many decisions more, or SIGTERM or SIGINT comes; gives what was recorded, and how fast.

    folder: the experience is in its `replay`; what there was before stays.
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
        stop = threading.Event()
        crew = Crew(configured(run, teacher), run, folder, routes, (), {}, hire)
        with stopping_on_signals(stop), crew:
            while recorded < config.steps and not stop.is_set():
                for message in crew.listen():
                    recorded += message.get("steps", 0)
                    episodes += "episode" in message
                stop.wait(WAIT_S)
                if time.monotonic() - shown_s > SHOW_S:
                    shown_s = time.monotonic()
                    logger.info("%s", _progress(recorded, config.steps, shown_s - begun_s))
        rate = recorded / (time.monotonic() - begun_s)
    return f"{recorded} decisions of {episodes} whole episodes, {rate:.2f} per s, in {folder / 'replay'}"


def _progress(recorded: int, wanted: int, passed_s: float) -> str:
    left = f"{passed_s * (wanted - recorded) / recorded / 60.0:.1f} min left" if recorded else "time left unknown"
    return f"{recorded} of {wanted} decisions, {left}"
