"""Drives of several agents over the same routes with the same seeds, one file each; what is driven is kept."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.adapter import Adapter, AdapterConfig, Picker, adapter_for, load_adapter
from agent.checkpoint import read_manifest
from agent.config import ConfigError, to_plain
from agent.decider import Network
from agent.driver import AgentConfig, load_model
from eval.criteria import TICK_S
from eval.results import write_json_atomically
from eval.routes import Route, file_sha256, read_routes
from eval.server import ServerDiedError
from training.adapter.hd_score import KEY_TICKS, hd_score
from training.adapter.oracle import Oracle
from training.closed_loop.pilot import Pilot
from training.counterfactual import log as logs
from training.counterfactual.recorder import Recorder
from training.env.config import EndConfig, EnvConfig
from training.env.reward import End
from training.env.scheduler import kind_of
from training.raw.environment import SensingEnv
from training.workers import Done, Reporter, work_through

BEGUN = "begun.json"
ARM_NAME = re.compile(r"[a-z0-9_]{1,40}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoopConfig:
    """How it is driven and compared."""

    seeds: int = 1
    """Drives of every route by every arm."""
    seed: int = 0
    """Of the first drive: traffic and scenarios."""
    workers: int = 1
    max_s: float = 90.0
    """Game time after which a drive ends."""
    minutes: float = math.inf
    """Wall time for each route file; drives that are unfinished then are left to the next time."""
    draws: int = 10_000
    """Of the paired bootstrap over routes."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(traffic=12))

    def __post_init__(self) -> None:
        if min(self.seeds, self.workers, self.draws) < 1 or min(self.max_s, self.minutes) <= 0.0:
            raise ValueError(f"seeds, workers and draws must be at least 1, max-s and minutes positive, got {self}")


@dataclass(frozen=True, slots=True)
class Arm:
    """An agent, with or without an adapter."""

    name: str
    """Lower case, digits and underscores: the folder of its drives."""
    agent: Path
    """Configuration file; its own adapter section does not count."""
    adapter: Path | None = None
    """Folder of an adapter; None: the policy drives alone."""
    setting: AdapterConfig = field(default_factory=AdapterConfig)
    judge: bool = False
    """Whether geometry picks among the adapter's plans, in place of its Q-values (`training.adapter.oracle`)."""

    def __post_init__(self) -> None:
        if not ARM_NAME.fullmatch(self.name):
            raise ValueError(f"arm {self.name!r}: a name consists of lower case letters, digits and underscores")

    @classmethod
    def of(cls, name: str, agent: Path) -> Arm:
        """An agent as its configuration file says, with its adapter if it names one. Raises: ConfigError."""
        own = AgentConfig.read(agent)
        if own.adapter is None:
            return cls(name, agent)
        return cls(name, agent, agent.parent / own.adapter.checkpoint, own.adapter)

    def load(self) -> tuple[AgentConfig, Network]:
        """Configuration and network. Raises: CheckpointError, ConfigError."""
        own = AgentConfig.read(self.agent)
        return own, load_model(self.agent.parent / own.checkpoint, "cpu")

    def facts(self) -> dict[str, Any]:
        """What makes its drives comparable with later ones of that name. Raises: CheckpointError, ConfigError."""
        own, model = self.load()
        facts: dict[str, Any] = {"agent": to_plain(own), "weights": _hashes(self.agent.parent / own.checkpoint)}
        if self.adapter is not None:
            adapter_for(model, self.adapter, self.setting, own.action.choice)
            facts |= {"adapter": to_plain(self.setting), "adapter_weights": _hashes(self.adapter), "judge": self.judge}
        return json.loads(json.dumps(facts))


def _hashes(folder: Path) -> list[str]:
    return sorted(entry["sha256"] for entry in read_manifest(folder)["files"].values())


@dataclass(frozen=True, slots=True)
class Task:
    """One drive."""

    arm: str
    route: Route
    seed: int

    def path(self, out: Path) -> Path:
        """Of its result."""
        return out / self.arm / f"{self.route.town}-{self.route.id}-{self.seed}.json"


Result = Mapping[str, Any]


def drive(config: ClosedLoopConfig, arms: Sequence[Arm], routes_file: Path, out: Path) -> dict[str, list[Result]]:
    """Drive what is missing; the results of every arm.

    Raises: RouteFileError, CheckpointError, ConfigError, ServerError, RefusedError; ValueError for arms that share a
    name, or a folder begun with something else.
    """
    names = [arm.name for arm in arms]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"arms: each needs a name of its own, got {', '.join(names) or 'none'}")
    routes = read_routes(routes_file)
    _begin(config, arms, routes_file, out)
    seeds = range(config.seed, config.seed + config.seeds)
    tasks = [Task(name, route, seed) for seed in seeds for route in routes for name in names]
    missing = [task for task in tasks if not task.path(out).exists()]
    towns = {task.route.town: [one for one in missing if one.route.town == task.route.town] for task in missing}
    begun_s, done = time.monotonic(), 0
    work = partial(_work, config, {arm.name: arm for arm in arms}, out)
    with closing(work_through(work, list(towns.values()), config.workers, label=_label)) as events:
        for event in events:
            passed_s = time.monotonic() - begun_s
            if isinstance(event, Done):
                done += 1
                left_min = passed_s / done * (len(missing) - done) / 60.0
                what = event.lost or f"HD-score {event.outcome:.0f}"
                told = f"{done} of {len(missing)} drives, {left_min:.0f} min left"
                logger.info("%s: %s; %s", _label(event.item), what, told)
            if passed_s > 60.0 * config.minutes:
                logger.info("%g minutes are over; %d drives are left for later", config.minutes, len(missing) - done)
                break
    return {
        name: [
            json.loads(task.path(out).read_text(encoding="utf-8"))
            for task in tasks
            if task.arm == name and task.path(out).exists()
        ]
        for name in names
    }


def _label(task: Task) -> str:
    return f"{task.arm} {task.route.id}"


def _begin(config: ClosedLoopConfig, arms: Sequence[Arm], routes_file: Path, out: Path) -> None:
    """Raises: ValueError when the folder was begun with something else; arms may join."""
    path = out / BEGUN
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"arms": {}}
    common = {"routes": file_sha256(routes_file), "max_s": config.max_s, "traffic": config.env.traffic}
    common["server"] = "CARLA" if config.env.server else "embedded"
    own = {arm.name: arm.facts() for arm in arms}
    if path.exists():
        changed = [name for name, value in common.items() if before.get(name, value) != value]
        changed += [f"arm {name}" for name, facts in own.items() if before["arms"].get(name, facts) != facts]
        if changed:
            raise ValueError(
                f"{out}: was begun with another {', '.join(changed)}; give that of before, or another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, common | {"arms": before["arms"] | own})


def _work(
    config: ClosedLoopConfig,
    arms: Mapping[str, Arm],
    out: Path,
    reporter: Reporter,
    tasks: Sequence[Task],
    worker: int,
) -> None:
    """Drive tasks of one town. Raises: ServerError, ServerDiedError when the simulation crashed."""
    torch.set_num_threads(1)
    ends = EndConfig(offences=(), max_s=config.max_s, standing_s=config.max_s)
    routes = list({task.route.id: task.route for task in tasks}.values())
    env = SensingEnv(replace(config.env, ends=ends, worker=worker), routes)
    loaded = {name: arms[name].load() for name in {task.arm for task in tasks}}
    try:
        for task in tasks:
            result = _drive(env, arms[task.arm], *loaded[task.arm], task, reporter)
            task.path(out).parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(task.path(out), result)
            reporter.done(result["hd_score"])
    finally:
        env.close()


def _drive(
    env: SensingEnv, arm: Arm, own: AgentConfig, model: Network, task: Task, reporter: Reporter
) -> dict[str, Any]:
    """Result of one drive. Raises: ServerDiedError when the episode is lost."""
    observation, info = env.reset(options={"route": task.route.id, "episode_seed": task.seed})
    driven = env.drive
    assert driven is not None
    static = driven.view.static
    adapter = None
    if arm.adapter is not None:
        picker: Picker | None = Oracle(driven.view, arm.setting) if arm.judge else None
        adapter = Adapter(load_adapter(arm.adapter)[0], arm.setting, own.action.choice, picker)
    pilot, recorder = Pilot(model, own, adapter), Recorder(driven)
    plans: dict[int, np.ndarray] = {}
    while True:
        tick = recorder.ticks - 1
        action, plan = pilot.act(observation["sensors"], explain=tick % KEY_TICKS == 0)
        if plan is not None:
            plans[tick] = plan
        recorder.action = action
        observation, _, terminated, truncated, info = env.step(action)
        reporter.tell(lambda: None)
        if info.get("end") == End.LOST.value:
            raise ServerDiedError(f"{_label(task)}: {info['failure']}")
        if terminated or truncated:
            break
    log = recorder.log(dict.fromkeys(logs.META_TEXTS, "x") | {"episode": f"{task.arm}-{task.route.id}-{task.seed}"})
    completion = float(info["completion_percent"])
    way_km = float(np.hypot(*np.diff(log.ego[:, :2], axis=0).T).sum()) / 1000.0
    record = info["record"]
    return {
        "arm": task.arm,
        "route": task.route.id,
        "town": task.route.town,
        "kind": kind_of(task.route),
        "seed": task.seed,
        "end": info["end"],
        **hd_score(log, static, plans, completion / 100.0),
        "completion_percent": completion,
        "collided": float(len(log.contacts) > 0),
        "collisions": len(log.contacts),
        "km": way_km,
        "mean_mps": 1000.0 * way_km / max(log.ticks * TICK_S, TICK_S),
        "score": float(record["score"]),
        "success": float(info["success"]),
        "infractions": record["infractions"],
    }


def read_arms(text: str) -> list[Arm]:
    """Arms from NAME=FILE,NAME=FILE, each as its configuration file says. Raises: ConfigError, ValueError."""
    arms = []
    for part in text.split(","):
        name, equals, path = part.partition("=")
        if not equals or not path:
            raise ValueError(f"{part!r}: expected NAME=FILE, such as base=weights/raw_tiny/agent.yaml")
        if not Path(path).is_file():
            raise ConfigError(f"{name}: {path}: no such file; give the agent's configuration (agent.yaml)")
        arms.append(Arm.of(name, Path(path)))
    return arms
