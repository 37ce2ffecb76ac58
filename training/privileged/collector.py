"""A process that drives: collects experience for the replay, or evaluates one version of the policy."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import msgpack
import numpy as np
import torch

from agent.actions import ACTIONS
from agent.checkpoint import CheckpointError
from eval.episode import FAILURE_SIMULATION, EpisodeError
from eval.processes import end_with_parent
from eval.routes import Route
from eval.server import ServerDiedError, ServerError
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.env.reward import End
from training.experience.writer import NO_LABEL, ExperienceWriter, Transition
from training.presets import PrivilegedConfig
from training.privileged.driver import PolicyDriver, newest, take_over, version_of

REPORT_DECISIONS = 20
"""Decisions after which a collector tells how far it is, and looks for new weights."""
FAILED = 1
PAUSED = "paused"
"""A file of this name in the run's folder has its collectors wait."""
PAUSE_S = 0.2
PAUSE_TELL_S = 20.0
EXPERT_TURN, NOISE_TURN = 30.0, 6.0
"""Mean lengths of their turns, in decisions."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CollectorJob:
    """What one process does."""

    number: int
    """Of the collector."""
    seed: int
    config: PrivilegedConfig
    env: EnvConfig
    routes: tuple[Route, ...]
    weights: Path
    """Folder of weight files to collect with; the file itself to evaluate."""
    replay: Path | None
    """Folder for the experience; None: evaluate."""
    prefill_expert: bool = False
    """Whether the expert drives until there are weights, otherwise random actions do."""
    expert_share: float = 0.0
    noise_share: float = 0.0
    """See RunConfig."""
    scheduler: Mapping[str, Any] | None = None
    """Outcomes to go on from."""
    indexed: bool = True
    """Whether segments are entered into the folder's index; not where they leave it again."""

    def environment(self) -> DrivingEnv:
        """What is driven in."""
        return DrivingEnv(self.env, self.routes)

    def pilots(self, env: DrivingEnv) -> Pilots:
        """Who drives while experience is collected."""
        return PrivilegedPilots(self, env)

    def evaluated(self) -> Evaluated:
        """Who is evaluated, with the weights of the job."""
        driver = PolicyDriver(self.config)
        take_over(driver, self.weights)
        return driver


class Pilots(Protocol):
    """Who drives while experience is collected."""

    @property
    def run(self) -> Path:
        """Folder of the run."""
        ...

    @property
    def version(self) -> int | None:
        """Updates of the weights that drive; None before there are any."""
        ...

    def refresh(self) -> None:
        """Take over the newest weights."""
        ...

    def begin(self) -> None:
        """Before an episode."""
        ...

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> int:
        """The next action."""
        ...


class Evaluated(Protocol):
    """A driver that is evaluated."""

    def begin(self) -> None:
        """Forget the episode before."""
        ...

    def act(self, observation: Mapping[str, Any], *, greedy: bool = False) -> int:
        """The action for the next observation."""
        ...


class _Stopped(Exception):
    """The owner wants no more."""


def work(pipe: Connection, job: CollectorJob, owner_pid: int) -> None:
    """Main function of the process. It ends when the other end of the pipe closes, or by itself after an evaluation."""
    end_with_parent(owner_pid)
    for number in (signal.SIGINT, signal.SIGTERM):  # the owner hears them, too, and ends this process in order
        signal.signal(number, _ignore)
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s collector {job.number}: %(message)s")
    torch.set_num_threads(1)
    code = 0
    env = job.environment()
    try:
        if job.replay is None:
            _evaluate(pipe, job, env)
        else:
            _collect(pipe, job, env, job.replay)
    except (_Stopped, EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except (ServerError, ServerDiedError, EpisodeError, CheckpointError, ValueError, OSError) as error:
        logger.error("%s", error)  # the owner starts another process
        code = FAILED
    finally:
        env.close()
    os._exit(code)  # the client's own threads may not survive an orderly end


def _ignore(*_: object) -> None:
    """A handler and not SIG_IGN, which the server would inherit: then it could not be ended any more."""


def _tell(pipe: Connection, message: Mapping[str, Any]) -> None:
    """Send a message. Raises: _Stopped when the owner has closed the pipe, OSError."""
    if pipe.poll():
        raise _Stopped
    packed = msgpack.packb(message)
    assert packed is not None  # msgpack's stubs allow None for a caller-owned buffer only
    pipe.send_bytes(packed)


class PrivilegedPilots:
    """Who drives: random actions or the expert before there are weights, then the policy."""

    def __init__(self, job: CollectorJob, env: DrivingEnv) -> None:
        self.version: int | None = None
        self.run = job.weights.parent
        self._job, self._env = job, env
        self._driver = PolicyDriver(job.config, job.seed)
        self._generator = np.random.default_rng(job.seed)
        self._expert_turns = Turns(job.expert_share, EXPERT_TURN, self._generator)
        self._noise = HeldNoise(job.noise_share, self._generator)

    def refresh(self) -> None:
        """Take over the newest weights."""
        path = newest(self._job.weights)
        if path is None or version_of(path) == self.version:
            return
        try:
            take_over(self._driver, path)
        except FileNotFoundError:
            return  # replaced just now; the next look finds the newer one
        self.version = version_of(path)

    def begin(self) -> None:
        """Before an episode: what is driven and whether the expert is asked."""
        self.refresh()
        self._driver.begin()
        wants_expert = self._job.prefill_expert and self.version is None
        wants_expert = wants_expert or self._job.config.imitation.used or self._job.expert_share > 0.0
        if self._env.config.expert != wants_expert:
            self._env.config = replace(self._env.config, expert=wants_expert)
        demonstrates = self._job.prefill_expert and self.version is None
        self._env.scheduler.scenarios_on = demonstrates or self._job.config.tricks.scenarios_on(self.version or 0)

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> int:
        """The next action."""
        expert = info.get("expert_action")
        if self.version is not None:
            action = self._driver.act(observation)
            if expert is not None and self._expert_turns.next():
                action = expert
        else:
            action = self._without_policy(expert)
        self._driver.follow(action)
        return action

    def _without_policy(self, expert: int | None) -> int:
        if expert is None or not self._job.prefill_expert:
            return int(self._generator.integers(len(ACTIONS)))
        return self._noise.instead_of(expert)


class Turns:
    """Whose turn it is: another driver takes over now and then, for a while of random length."""

    def __init__(self, share: float, mean_decisions: float, generator: np.random.Generator) -> None:
        """share: of all decisions, below 1; mean_decisions: of a turn."""
        self.on = False
        self._leave = 1.0 / mean_decisions
        self._enter = min(share * self._leave / (1.0 - share), 1.0)
        self._generator = generator

    def next(self) -> bool:
        """Whether the other driver takes this decision."""
        draw = self._generator.random()
        self.on = draw >= self._leave if self.on else draw < self._enter
        return self.on


class HeldNoise:
    """A random action that is held for some decisions now and then: a good driver alone never shows how to recover."""

    def __init__(self, share: float, generator: np.random.Generator) -> None:
        """share: of all decisions."""
        self._turns, self._generator = Turns(share, NOISE_TURN, generator), generator
        self._held = 0

    def instead_of(self, action: int) -> int:
        """The action of this decision."""
        was_held = self._turns.on
        if not self._turns.next():
            return action
        if not was_held:
            self._held = int(self._generator.integers(len(ACTIONS)))
        return self._held


def pause(run: Path, *, wanted: bool) -> None:
    """Have all collectors of a run's folder wait, or go on."""
    if wanted:
        (run / PAUSED).touch()
    else:
        (run / PAUSED).unlink(missing_ok=True)


def _wait_while_paused(pipe: Connection, run: Path) -> None:
    """Raises: _Stopped, OSError."""
    told_s = time.monotonic()
    while (run / PAUSED).exists():
        if pipe.poll(PAUSE_S):
            raise _Stopped
        if time.monotonic() - told_s > PAUSE_TELL_S:  # who only waits is not taken for dead
            _tell(pipe, {"steps": 0})
            told_s = time.monotonic()


def _collect(pipe: Connection, job: CollectorJob, env: DrivingEnv, replay: Path) -> None:
    """Drive episode after episode. Raises: _Stopped, and what environment and writer raise."""
    crew = job.pilots(env)
    seed: int | None = job.seed
    segment_steps = job.config.replay.segment_steps
    with ExperienceWriter(replay, segment_steps=segment_steps, indexed=job.indexed) as writer:
        while True:
            crew.begin()
            observation, info = env.reset(seed=seed)
            if seed is not None and job.scheduler is not None:
                env.scheduler.restore(job.scheduler)  # a reset with a seed forgets outcomes
            seed = None
            _episode(pipe, env, crew, writer, observation, info)


def _episode(
    pipe: Connection,
    env: DrivingEnv,
    crew: Pilots,
    writer: ExperienceWriter,
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
) -> None:
    writer.add(_transition(observation, info, action=0, reward=0.0, first=True))
    fresh, decisions, total = 1, 0, 0.0
    over = False
    while not over:
        action = crew.act(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        flags = {"first": False, "last": over, "terminal": terminated}
        writer.add(_transition(observation, info, action=action, reward=reward, **flags))
        fresh, decisions, total = fresh + 1, decisions + 1, total + reward
        if decisions % REPORT_DECISIONS == 0:
            _tell(pipe, {"steps": fresh})
            fresh = 0
            _wait_while_paused(pipe, crew.run)
            crew.refresh()
    outcome = _outcome(info, decisions, total) | {"version": crew.version}
    _tell(pipe, {"steps": fresh, "episode": outcome, "scheduler": env.scheduler.state()})


def _transition(
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
    *,
    action: int,
    reward: float,
    first: bool,
    last: bool = False,
    terminal: bool = False,
) -> Transition:
    return Transition(
        words=observation["words"],
        previous_action=action,
        reward=reward,
        first=first,
        last=last,
        terminal=terminal,
        vector=observation["vector"],
        expert_action=NO_LABEL if last else info.get("expert_action", NO_LABEL),
        sensors=observation.get("sensors"),
    )


def _outcome(info: Mapping[str, Any], decisions: int, total: float) -> dict[str, Any]:
    return {
        "route": info["route"],
        "scenario": info["kind"],
        "end": info["end"],
        "success": bool(info["success"]),
        "completion_percent": float(info.get("completion_percent", 0.0)),
        "decisions": decisions,
        "reward": total,
    }


def _evaluate(pipe: Connection, job: CollectorJob, env: DrivingEnv) -> None:
    """Drive every route once, greedily and always with the same traffic; tell all outcomes at once."""
    driver = job.evaluated()
    outcomes = [_drive_once(pipe, env, driver, route, job.seed + k) for k, route in enumerate(job.routes)]
    _tell(pipe, {"evaluation": outcomes, "version": version_of(job.weights)})


def _drive_once(pipe: Connection, env: DrivingEnv, driver: Evaluated, route: Route, seed: int) -> dict[str, Any]:
    driver.begin()
    observation, info = env.reset(options={"route": route.id, "episode_seed": seed})
    decisions, total, over = 0, 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(driver.act(observation, greedy=True))
        over, decisions, total = terminated or truncated, decisions + 1, total + reward
        if decisions % REPORT_DECISIONS == 0:
            _tell(pipe, {"steps": 0})
    if info["end"] == End.LOST.value:
        raise EpisodeError(FAILURE_SIMULATION, f"route {route.id} was lost during an evaluation")
    return _outcome(info, decisions, total)


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the routes of an evaluation."""
    return {
        "completion_percent": float(np.mean([outcome["completion_percent"] for outcome in outcomes])),
        "reward": float(np.mean([outcome["reward"] for outcome in outcomes])),
        "success": float(np.mean([outcome["success"] for outcome in outcomes])),
    }
