"""Recording experience with camera images for the raw stage without learning: a fixed data set."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.config import ConfigError
from training.env.config import EnvConfig
from training.experience.config import ReplayConfig
from training.experience.sampler import Sampler
from training.privileged.config import RouteConfig
from training.privileged.crew import Crew, Worker
from training.privileged.driver import write_weights
from training.privileged.resume import locked
from training.privileged.routes import routes_of
from training.privileged.trainer import stopping_on_signals
from training.raw.config import RawConfig, RawRunConfig
from training.raw.trainer import configured, job_of, raw_agent, take_teacher

REPLAY, WEIGHTS = "replay", "weights"
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
    total: int | None = None
    """Decisions that the folder shall hold in the end, instead of `steps` more: the same command goes on."""
    collectors: int = 1
    seed: int = 0
    expert_share: float = 0.0
    """Share of the time that the rule-based expert drives, in turns of some seconds."""
    noise_share: float = 0.0
    """Share of the time that a random action is held, so that there are mistakes to see, and how they are mended."""
    agent: Path | None = None
    """Folder of an exported raw agent that takes turns with the privileged model: states that it gets into itself."""
    privileged_share: float = 0.5
    """Share of the time that the privileged model drives, beside an agent."""
    random_looks: bool = True
    """Whether weather and time of day are drawn anew for every episode."""
    env: EnvConfig = field(default_factory=EnvConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.collectors < 1 or (self.total is not None and self.total < 1):
            raise ValueError(
                f"steps, collectors and total must be at least 1, got {self.steps}, {self.collectors}, {self.total}"
            )
        if not 0.0 <= self.privileged_share <= 1.0:
            raise ValueError(f"privileged_share must lie in [0, 1], got {self.privileged_share}")


def record(config: RecordConfig, folder: Path, minutes: float = math.inf) -> str:
    """Drive until there are so many decisions more, so many minutes over, or SIGTERM or SIGINT comes; gives what was
    recorded, and how fast.

    folder: the experience is in its `replay`; what there was before stays.
    Raises: CheckpointError, ConfigError, ServerError, RouteFileError; ValueError for minutes that are not positive.
    """
    if not minutes > 0.0:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        before = stored_decisions(folder / REPLAY)
        wanted = config.steps if config.total is None else config.total - before
        if wanted <= 0:
            return f"{folder / REPLAY} holds {before} decisions, {config.total} are wanted: nothing to do"
        run = RawRunConfig(
            teacher=config.teacher,
            collectors=config.collectors,
            seed=config.seed,
            expert_share=config.expert_share,
            noise_share=config.noise_share,
            privileged_share=config.privileged_share,
            final_privileged_share=config.privileged_share,
            random_looks=config.random_looks,
            env=config.env,
            routes=config.routes,
        )
        teacher = take_teacher(config.teacher, folder)
        ours = config.routes  # nothing is evaluated: routes for that need not be generated
        routes, _ = routes_of(replace(ours, evaluation_file=ours.evaluation_file or ours.file), config.env, folder)
        adapt = lambda job: job_of(job, teacher, run)  # noqa: E731
        hire = lambda job, name: Worker(adapt(job), name)  # noqa: E731
        begun_s = shown_s = time.monotonic()
        recorded = episodes = 0
        stop = threading.Event()
        crew = Crew(_stage(config, run, teacher, folder), run, folder, routes, (), {}, hire)
        with stopping_on_signals(stop), crew:
            while recorded < wanted and not stop.is_set() and time.monotonic() - begun_s < 60.0 * minutes:
                for message in crew.listen():
                    recorded += message.get("steps", 0)
                    episodes += "episode" in message
                stop.wait(WAIT_S)
                if time.monotonic() - shown_s > SHOW_S:
                    shown_s = time.monotonic()
                    logger.info("%s", _progress(recorded, wanted, shown_s - begun_s))
        rate = recorded / (time.monotonic() - begun_s)
    after = f"{folder / REPLAY} now holds {before + recorded}"
    return f"{recorded} decisions of {episodes} whole episodes, {rate:.2f} per s; {after}"


def _stage(config: RecordConfig, run: RawRunConfig, teacher: Path, folder: Path) -> RawConfig:
    """The stage whose collectors drive; the weights of an agent that shall drive too are laid where they look."""
    stage, weights = configured(run, teacher), folder / WEIGHTS
    shutil.rmtree(weights, ignore_errors=True)
    if config.agent is None:
        return stage
    model, tensors = raw_agent(config.agent, "config.agent")
    write_weights(weights, tensors, 0)
    try:
        return replace(stage, model=replace(model, decoder=None))
    except ValueError as error:
        raise ConfigError(f"config.agent: {config.agent} was not made under the model {config.teacher}") from error


def stored_decisions(replay: Path) -> int:
    """Decisions in a replay folder; 0 where there is none."""
    return Sampler(replay, ReplayConfig(), 1, 0).catalogue.steps if replay.is_dir() else 0


def _progress(recorded: int, wanted: int, passed_s: float) -> str:
    left = f"{passed_s * (wanted - recorded) / recorded / 60.0:.1f} min left" if recorded else "time left unknown"
    return f"{recorded} of {wanted} decisions, {left}"
