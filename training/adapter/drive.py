"""The adapter in closed loop: arms drive the same routes with the same seeds, and are compared route by route.

base: the agent alone. no_value: one sample of the adapter, no Q-values. random_value: random plans, the Q-values pick.
full: the adapter's plans, the Q-values pick. oracle: the adapter's plans, the best by geometry among others that go on
straight at their speed (the ceiling that a judge without a crystal ball can reach). random_pick: any of its plans.
Whatever is interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from agent.adapter import Adapter, AdapterConfig, Picker, adapter_for, load_adapter
from agent.base_plan import base_plans, state_features
from agent.config import to_plain
from agent.decider import Network
from agent.driver import ActionChoice, AgentConfig, load_model
from agent.ego_vector import SPEED_SCALE_MPS
from agent.inputs import model_input
from agent.motion import follow_plan, start_state
from eval.criteria import TICK_S
from eval.report import machine
from eval.results import write_json_atomically
from eval.routes import Route, file_sha256, read_routes
from eval.server import ServerDiedError
from training.adapter.hd_score import hd_score
from training.adapter.oracle import Oracle
from training.counterfactual import log as logs
from training.counterfactual.recorder import Recorder
from training.env.config import EndConfig, EnvConfig
from training.env.reward import End
from training.env.scheduler import kind_of
from training.experience.writer import SENSOR_ARRAYS
from training.raw.environment import SensingEnv
from training.risk.metrics import bootstrap, interval
from training.workers import Reporter, Told, work_through

Arm = Literal["base", "no_value", "random_value", "full", "oracle", "random_pick"]
ARMS: tuple[Arm, ...] = ("base", "no_value", "random_value", "full", "oracle", "random_pick")
CPU = torch.device("cpu")
DECISION_S = 0.1
MEASURES = (
    *("hd_score", "no_collision", "on_road", "time_to_collision", "comfort", "completion_percent", "collided"),
    *("collisions_per_km", "mean_mps", "score", "success"),
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriveConfig:
    """What is driven."""

    arms: tuple[Arm, ...] = ARMS
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Of the arm `full`; the others change one thing of it."""
    seeds: int = 1
    """Drives of every route by every arm."""
    seed: int = 0
    workers: int = 1
    max_s: float = 90.0
    """Game time after which a drive ends."""
    draws: int = 10_000
    """Of the paired bootstrap over routes."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(traffic=12))

    def __post_init__(self) -> None:
        if not self.arms or min(self.seeds, self.workers, self.draws) < 1 or self.max_s <= 0.0:
            raise ValueError(f"arms must not be empty, seeds, workers, draws at least 1, max-s positive, got {self}")


def setting(arm: Arm, config: AdapterConfig) -> AdapterConfig | None:
    """An arm's adapter; None: the agent alone."""
    changes: dict[Arm, dict[str, Any]] = {
        "no_value": {"pick": "first", "keep_base": False, "candidates": 1},
        "random_value": {"source": "random"},
        "random_pick": {"pick": "random"},
    }
    return None if arm == "base" else replace(config, **changes.get(arm, {}))


@dataclass(frozen=True, slots=True)
class Task:
    """One drive."""

    arm: Arm
    route: Route
    seed: int

    def path(self, out: Path) -> Path:
        """Of its result."""
        return out / self.arm / f"{self.route.town}-{self.route.id}-{self.seed}.json"


def run(config: DriveConfig, routes_file: Path, agent: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Drive what is missing and write adapter_drive.json and .md; gives the former's content.

    agent: configuration file of the base agent; its adapter, if it names one, is left aside.
    Raises: RouteFileError, CheckpointError, ConfigError, ServerError, RefusedError, ValueError.
    """
    routes = read_routes(routes_file)
    own = AgentConfig.read(agent)
    model = load_model(agent.parent / own.checkpoint, "cpu")  # told once, not by every worker
    adapter_for(model, adapter, config.adapter, own.action.choice)
    seeds = range(config.seed, config.seed + config.seeds)
    tasks = [Task(arm, route, seed) for seed in seeds for route in routes for arm in config.arms]
    _check_same(config, routes_file, agent, out)
    missing = [task for task in tasks if not task.path(out).exists()]
    towns = {task.route.town: [one for one in missing if one.route.town == task.route.town] for task in missing}
    begun_s, done = time.monotonic(), 0
    work = partial(_work, config, agent, adapter, out)
    label = lambda task: f"{task.arm} {task.route.id}"  # noqa: E731
    for event in work_through(work, list(towns.values()), config.workers, label=label):
        if isinstance(event, Told):
            continue
        done += 1
        left_min = (time.monotonic() - begun_s) / done * (len(missing) - done) / 60.0
        what = event.lost or f"HD-score {event.outcome:.0f}"
        logger.info("%s: %s; %d of %d drives, %.0f min left", label(event.item), what, done, len(missing), left_min)
    about = load_adapter(adapter)[1]
    summary = {
        "routes": len(routes),
        "routes_sha256": file_sha256(routes_file),
        "seeds": config.seeds,
        "agent": str(agent),
        "adapter": about,
        "config": to_plain(config.adapter),
        "server": "embedded" if not config.env.server else "CARLA",
        "machine": machine(),
        **summarised([task for task in tasks if task.path(out).exists()], out, config),
    }
    write_json_atomically(out / "adapter_drive.json", summary)
    (out / "adapter_drive.md").write_text(table(summary), encoding="utf-8")
    return summary


def _check_same(config: DriveConfig, routes_file: Path, agent: Path, out: Path) -> None:
    """Raises: ValueError when the folder was begun with something else."""
    facts = {
        "routes": file_sha256(routes_file),
        "agent": agent.read_text(encoding="utf-8"),
        "adapter": to_plain(config.adapter),
        "max_s": config.max_s,
        "traffic": config.env.traffic,
    }
    path = out / "begun.json"
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != json.loads(json.dumps(facts)):
        changed = sorted(name for name in facts if before.get(name) != json.loads(json.dumps(facts[name])))
        raise ValueError(f"{out}: was begun with another {', '.join(changed)}; give that of before, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, facts)


def _work(
    config: DriveConfig, agent: Path, adapter: Path, out: Path, reporter: Reporter, tasks: Sequence[Task], worker: int
) -> None:
    """Drive tasks of one town. Raises: ServerError, ServerDiedError when the simulation crashed."""
    torch.set_num_threads(1)
    ends = EndConfig(offences=(), max_s=config.max_s, standing_s=config.max_s)
    routes = list({task.route.id: task.route for task in tasks}.values())
    env = SensingEnv(replace(config.env, ends=ends, worker=worker), routes)
    own = AgentConfig.read(agent)
    model = load_model(agent.parent / own.checkpoint, "cpu")
    try:
        for task in tasks:
            result = _drive(config, own, model, adapter, env, task, reporter)
            task.path(out).parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(task.path(out), result)
            reporter.done(result["hd_score"])
    finally:
        env.close()


class Pilot:
    """The agent behind its inputs: network, choice of actions, and the adapter of an arm."""

    def __init__(self, model: Network, own: AgentConfig, adapter: Adapter | None) -> None:
        self._model, self._choice, self._adapter = model, ActionChoice(own.action), adapter
        self._own = own
        self._state = model.initial(1)
        self._previous: int | None = None
        self.plan: np.ndarray | None = None
        """(61, 4) what is meant to be driven, from the ego's pose."""

    @torch.no_grad()
    def act(self, frame: Any) -> int:
        """The action after the next decision's sensor frame."""
        arrays = {name: getattr(frame, name) for name in ("images", *SENSOR_ARRAYS)}
        inputs = model_input(arrays | {"first": self._previous is None}, CPU)
        rssm = self._model.config.rssm
        previous = None
        if rssm.action_input:
            previous = torch.zeros(1, rssm.actions)
            if self._previous is not None:
                previous = F.one_hot(torch.tensor([self._previous]), rssm.actions).float()
        logits, self._state = self._model.act(inputs, self._state, previous)
        speed_mps = float(inputs.vector[0, 0]) * SPEED_SCALE_MPS
        action = self._choice.choose(logits[0], speed_mps)
        if self._adapter is None:
            self.plan = self._base_plan(inputs, speed_mps, action)
        else:
            picked = self._adapter.decide(self._model, inputs, self._state, speed_mps, action)
            self.plan, action = picked.motions[picked.index], picked.action
        self._previous = action
        return action

    def _base_plan(self, inputs: Any, speed_mps: float, action: int) -> np.ndarray:
        features = state_features(self._model, inputs, self._state)
        start = start_state(speed_mps, 0.0, float(inputs.ego_motion[0, 2]) / DECISION_S)[None]
        plan = base_plans(self._model, features, torch.tensor([action]), start, self._own.action.choice)
        return follow_plan(start, plan)[0]


def _drive(
    config: DriveConfig,
    own: AgentConfig,
    model: Network,
    adapter: Path,
    env: SensingEnv,
    task: Task,
    reporter: Reporter,
) -> dict[str, Any]:
    """Result of one drive. Raises: ServerDiedError when the episode is lost."""
    observation, info = env.reset(options={"route": task.route.id, "episode_seed": task.seed})
    drive = env.drive
    assert drive is not None
    picker: Picker | None = Oracle(drive.view, config.adapter) if task.arm == "oracle" else None
    wanted = setting(task.arm, config.adapter)
    made = None if wanted is None else Adapter(load_adapter(adapter)[0], wanted, own.action.choice, picker)
    pilot, recorder = Pilot(model, own, made), Recorder(drive)
    plans: dict[int, np.ndarray] = {}
    static = drive.view.static
    while True:
        action = pilot.act(observation["sensors"])
        assert pilot.plan is not None
        plans[recorder.ticks - 1] = pilot.plan
        recorder.action = action
        observation, _, terminated, truncated, info = env.step(action)
        reporter.tell(lambda: None)
        if info.get("end") == End.LOST.value:
            raise ServerDiedError(f"{task.arm} {task.route.id}: {info['failure']}")
        if terminated or truncated:
            break
    meta = dict.fromkeys(logs.META_TEXTS, "x") | {"episode": f"{task.arm}-{task.route.id}-{task.seed}"}
    log = recorder.log(meta)
    completion = float(info["completion_percent"])
    way_km = float(np.hypot(*np.diff(log.ego[:, :2], axis=0).T).sum()) / 1000.0
    record = info["record"]
    contacts = len(log.contacts)
    scores = hd_score(log, static, plans, completion / 100.0)
    return {
        "arm": task.arm,
        "route": task.route.id,
        "town": task.route.town,
        "kind": kind_of(task.route),
        "seed": task.seed,
        "end": info["end"],
        **scores,
        "completion_percent": completion,
        "collided": float(contacts > 0),
        "collisions": contacts,
        "km": way_km,
        "mean_mps": 1000.0 * way_km / max(log.ticks * TICK_S, TICK_S),
        "score": float(record["score"]),
        "success": float(info["success"]),
        "infractions": record["infractions"],
    }


def summarised(tasks: Sequence[Task], out: Path, config: DriveConfig) -> dict[str, Any]:
    """Means of the arms, and differences from the first arm over the drives that both have made."""
    results = {task: json.loads(task.path(out).read_text(encoding="utf-8")) for task in tasks}
    arms: dict[str, Any] = {}
    first = config.arms[0]
    by_place = {arm: {(t.route.id, t.seed): r for t, r in results.items() if t.arm == arm} for arm in config.arms}
    for arm, own in by_place.items():
        if not own:
            continue
        arms[arm] = {"drives": len(own), **_means(list(own.values()))}
        shared = sorted(set(own) & set(by_place[first]))
        if arm == first or not shared:
            continue
        pairs = [(own[place], by_place[first][place]) for place in shared]
        routes = np.unique([place[0] for place in shared], return_inverse=True)[1]

        def differences(chosen: np.ndarray, pairs: list = pairs) -> np.ndarray:
            ours, theirs = (_means([pairs[int(k)][side] for k in chosen]) for side in (0, 1))
            return np.array([ours[name] - theirs[name] for name in MEASURES])

        whole = differences(np.arange(len(pairs)))
        drawn = bootstrap(differences, routes, config.draws, np.random.default_rng(0))
        arms[arm][f"minus_{first}"] = {
            name: [float(whole[k]), *(interval(drawn[:, k]) or (None, None))] for k, name in enumerate(MEASURES)
        }
    return {"arms": arms}


def _means(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of MEASURES; collisions per km over all ways."""
    km = max(sum(result["km"] for result in results), 1e-6)
    found = {
        name: float(np.mean([result[name] for result in results])) for name in MEASURES if name != "collisions_per_km"
    }
    return found | {"collisions_per_km": sum(result["collisions"] for result in results) / km}


def table(summary: Mapping[str, Any]) -> str:
    """Markdown tables: the arms, and their differences from the first."""
    lines = [
        f"{summary['routes']} routes, {summary['seeds']} seeds, {summary['server']} server; {summary['machine']}.",
        "",
        "| arm | drives | " + " | ".join(name.replace("_", " ") for name in MEASURES) + " |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    for arm, row in summary["arms"].items():
        lines.append(f"| {arm} | {row['drives']} | " + " | ".join(f"{row[name]:.2f}" for name in MEASURES) + " |")
    for arm, row in summary["arms"].items():
        for key in (key for key in row if key.startswith("minus_")):
            lines += ["", f"{arm} {key.replace('_', ' ')} (95 % intervals, paired bootstrap over routes):"]
            for name in ("hd_score", "collisions_per_km", "completion_percent", "mean_mps"):
                middle, low, high = row[key][name]
                between = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
                lines.append(f"* {name.replace('_', ' ')}: {middle:+.2f}{between}")
    return "\n".join(lines) + "\n"
