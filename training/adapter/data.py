"""What the adapter learns from: base states of logs with the states of a base agent, its plans, and other futures.

The futures are those of `training.counterfactual` and plans around the base agent's, all driven by the same model of a
car; what comes of them is told by `training.adapter.truth`.
"""

from __future__ import annotations

import itertools
import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from agent.adapter import random_plans
from agent.base_plan import Choice, base_plans, chosen, feature_width, policy_logits, state_identity
from agent.decider import Network
from agent.ego_vector import manoeuvre
from agent.localization import Pose
from agent.model.adapter import Situated
from agent.motion import KNOTS, follow_plan, plan_of, seen_from_start, start_state
from agent.route import BENCH2DRIVE_SPACING_M, LANE_CHANGES, Command, Plan, RouteConfig, RouteTracker, route_vector
from eval.criteria import TICK_S
from eval.planner import RoadOption
from training import bev
from training.adapter.truth import Truth
from training.counterfactual import log as logs
from training.counterfactual.candidates import CandidateConfig, propose
from training.counterfactual.log import EpisodeLog
from training.counterfactual.motion import logged_motion
from training.counterfactual.replay import HORIZON_TICKS, NO
from training.counterfactual.surface import Surface
from training.counterfactual.synthesis import SynthesisConfig, base_ticks

BASE, AROUND = 100, 101
"""Families besides those of `training.counterfactual.candidates.Family`: the base plan, and plans around it."""
DECISION_TICKS = 2
DECISION_S = DECISION_TICKS * TICK_S
SHOW_S = 15.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which base states, and what is made of them."""

    every_s: float = 0.5
    """Between base states."""
    around: int = 8
    """Plans around the base plan."""
    choice: Choice = "pedal_first"
    """How the base agent takes its actions."""
    share: float = 1.0
    """Share of the base states that are used."""
    seed: int = 0
    candidates: CandidateConfig = field(default_factory=CandidateConfig)

    def __post_init__(self) -> None:
        if self.around < 0 or self.every_s < DECISION_S or not 0.0 < self.share <= 1.0:
            raise ValueError(
                f"around must not be negative, every-s at least {DECISION_S}, share in (0, 1], got {self.around}, "
                f"{self.every_s}, {self.share}"
            )


@dataclass(frozen=True, slots=True)
class AdapterData:
    """s base states and f futures of them."""

    seen: Situated
    """Of every base state."""
    start: Float32[np.ndarray, "s 6"]
    """States of the cars, each from its own pose."""
    action: Int64[np.ndarray, " s"]
    """What the base agent would do."""
    episode: Int64[np.ndarray, " s"]
    names: list[str]
    """Of the episodes."""
    towns: list[str]
    state: Int64[np.ndarray, " f"]
    family: Int64[np.ndarray, " f"]
    plan: Float32[np.ndarray, "f 12 2"]
    motion: Float32[np.ndarray, "f 12 4"]
    rewards: Float32[np.ndarray, "f 12 4"]
    failed: np.ndarray
    """(f,) bool: contact, off the road, or a signal disobeyed."""
    truths: list[Truth]
    """Of every base state."""

    def futures_of(self) -> list[np.ndarray]:
        """Rows of the futures of every base state."""
        order = np.argsort(self.state, kind="stable")
        bounds = np.searchsorted(self.state[order], np.arange(len(self.truths) + 1))
        return [order[low:high] for low, high in itertools.pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class BaseState:
    """One base state before the base agent is asked."""

    log: EpisodeLog
    truth: Truth
    base: int
    features: np.ndarray
    numbers: tuple[float, float, float]
    route: np.ndarray
    vector: np.ndarray
    episode: int


def read(folders: Sequence[Path], model: Network, config: DataConfig) -> AdapterData:
    """All base states of logs with the states of an agent, and their futures.

    Raises: ArrayFileError; ValueError for logs of another agent, or without any usable state.
    """
    return assemble(opened(folders, model), model, config)


def opened(folders: Sequence[Path], model: Network) -> Iterator[tuple[EpisodeLog, bev.StaticMap]]:
    """All logs of some folders with the maps of their towns.

    Raises: ArrayFileError; ValueError for logs of another agent.
    """
    paths = logs.log_files(folders)
    identity = state_identity(model)
    begun_s = shown_s = time.monotonic()
    for done, path in enumerate(paths, 1):
        log = logs.load(path)
        check_states(path, log, feature_width(model), identity)
        yield log, logs.town_map(path.parent, log)
        now_s = time.monotonic()
        if now_s - shown_s > SHOW_S:
            shown_s, left_s = now_s, (now_s - begun_s) / done * (len(paths) - done)
            logger.info("%d of %d logs read, %.0f s left", done, len(paths), left_s)


def assemble(opened: Iterable[tuple[EpisodeLog, bev.StaticMap]], model: Network, config: DataConfig) -> AdapterData:
    """All base states of logs on their maps, and their futures. Raises: ValueError without any."""
    states: list[BaseState] = []
    parts: list[dict[str, np.ndarray]] = []
    names, towns = [], set()
    for log, static in opened:
        surface = Surface.around(static, log.ego[:, :2])
        found = list(base_states(log, surface, config, len(names)))
        if found:
            parts.append(_futures(found, surface, model, config, len(states)))
            states += found
        names.append(log.name)
        towns.add(str(log.meta["town"]))
    if not states:
        raise ValueError("no log has a base state that can be used; record longer ones with --config.raw")
    join = lambda name: np.concatenate([part[name] for part in parts])  # noqa: E731
    logger.info("%d states with %d futures of %d logs", len(states), len(join("state")), len(names))
    features, numbers, route, vector = (
        torch.from_numpy(np.stack([getattr(one, name) for one in states]).astype(np.float32)) for name in _GIVEN
    )
    return AdapterData(
        seen=Situated(
            features,
            numbers,
            route,
            vector,
            torch.from_numpy(join("base_plan")),
            torch.from_numpy(join("base_motion")),
        ),
        start=join("start"),
        action=join("action"),
        episode=np.array([one.episode for one in states]),
        names=names,
        towns=sorted(towns),
        state=join("state"),
        family=join("family"),
        plan=join("plan"),
        motion=join("motion"),
        rewards=join("rewards"),
        failed=join("failed"),
        truths=[one.truth for one in states],
    )


_GIVEN = ("features", "numbers", "route", "vector")


def check_states(path: Path, log: EpisodeLog, width: int, identity: str) -> None:
    """Raises: ValueError for a log without states of the agent whose `feature_width` and `state_identity` these are."""
    found, owner = log.latent.shape[1], log.meta.get("states_of")
    if found == width and owner == identity:
        return
    what = "no states of an agent"
    if found:
        known = f"{owner[:12]}..." if isinstance(owner, str) and owner else "unknown"
        what = f"states of {found} numbers, made by weights {known}"
    raise ValueError(
        f"{path}: has {what}; this agent's have {width}, made by {identity[:12]}...; record it with log-episodes "
        "--config.raw FOLDER_OF_AGENT"
    )


def base_states(log: EpisodeLog, surface: Surface, config: DataConfig, episode: int) -> Iterator[BaseState]:
    """Base states at ticks with a decision; none within 3 s of a collision that really happened."""
    route = route_inputs(log)
    generator = np.random.default_rng([config.seed, zlib.crc32(log.name.encode())])
    for tick in base_ticks(log, surface, SynthesisConfig(every_s=config.every_s)):
        row = int(np.searchsorted(log.latent_tick, tick, side="right")) - 1
        if row < 0 or generator.random() >= config.share:
            continue
        base = int(log.latent_tick[row])
        ahead = (log.contacts[:, 0] >= base) & (log.contacts[:, 0] <= base + HORIZON_TICKS)
        if base < DECISION_TICKS or ahead.any():
            continue
        truth = Truth(log, surface, base)
        if not truth.begins_free():
            continue
        points, vector = route[base]
        yield BaseState(log, truth, base, log.latent[row], numbers_at(log, base), points, vector, episode)


def numbers_at(log: EpisodeLog, tick: int) -> tuple[float, float, float]:
    """Speed, acceleration and yaw rate as an agent has them: differences over a decision."""
    before, now = logged_motion(log.ego[[tick - DECISION_TICKS, tick]])
    turned = np.remainder(now[2] - before[2] + np.pi, 2.0 * np.pi) - np.pi
    return float(now[3]), float((now[3] - before[3]) / DECISION_S), float(turned / DECISION_S)


def route_inputs(log: EpisodeLog) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sparse route (8, 2) and vector (31,) of every tick, as the agent's own tracker makes them from the plan."""
    tracker = RouteTracker(RouteConfig(), sparse_plan(log).without_duplicates(RouteConfig().duplicate_m))
    motion, before, found = logged_motion(log.ego), log.ego[0, :2], []
    for tick, (x, y, yaw, speed) in enumerate(motion):
        travelled_m = float(np.hypot(*(log.ego[tick, :2] - before)))
        before = log.ego[tick, :2]
        view = tracker.update(Pose(float(x), float(y), float(yaw)), travelled_m)
        vector = np.concatenate([route_vector(view, float(speed)), manoeuvre(view)])
        found.append((view.points_m.astype(np.float32), vector))
    return found


def sparse_plan(log: EpisodeLog) -> Plan:
    """The plan that the evaluator hands out, from the dense route of a log."""
    options = [RoadOption(int(command)).name for command in log.commands]
    kept, passed_m, before = [], 0.0, None
    for k, option in enumerate(options):
        changing = option in LANE_CHANGES
        turns = k == 0 or changing or (option != options[k - 1] and options[k - 1] not in LANE_CHANGES)
        if turns or passed_m > BENCH2DRIVE_SPACING_M or k == len(options) - 1:
            kept.append(k)
            passed_m = 0.0
        elif before is not None:
            passed_m += float(np.hypot(*(log.corridor[k, :2] - before)))
        before = log.corridor[k, :2]
    points = log.corridor[kept, :2].astype(np.float64)
    names = Command.__members__
    commands = tuple(names.get(options[k], Command.LANEFOLLOW) for k in kept)
    return Plan(points, commands, np.zeros_like(points), float(log.corridor[0, 2]))


def _futures(
    states: Sequence[BaseState], surface: Surface, model: Network, config: DataConfig, first: int
) -> dict[str, np.ndarray]:
    """Arrays of the states of one log and of their futures; `first`: number of the first state."""
    features = torch.from_numpy(np.stack([one.features for one in states]))
    action = chosen(policy_logits(model, features), config.choice)
    start = np.stack([start_state(*one.numbers) for one in states])
    base = base_plans(model, features, action, start, config.choice)
    rows: list[dict[str, np.ndarray]] = []
    for k, one in enumerate(states):
        rows.append(_futures_of(one, surface, start[k], base[k], config))
        rows[-1]["state"] = np.full(len(rows[-1]["family"]), first + k)
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    motion = seen_from_start(follow_plan(start, base))
    return found | {
        "base_plan": base.astype(np.float32),
        "base_motion": motion.astype(np.float32),
        "start": start.astype(np.float32),
        "action": action.numpy(),
    }


def _futures_of(
    one: BaseState, surface: Surface, start: np.ndarray, base: np.ndarray, config: DataConfig
) -> dict[str, np.ndarray]:
    """Plans from one base state, and what comes of them."""
    generator = np.random.default_rng([config.seed, one.base, zlib.crc32(one.log.name.encode())])
    candidates = propose(one.log, one.truth.scene, surface, config.candidates, generator)
    draws = generator.uniform(size=(config.around, 2))
    noise = generator.normal(size=(config.around, KNOTS, 2))
    around = random_plans(base[None], start[None, 3], draws, noise)[0]
    plans = np.concatenate([base[None], around, plan_of(one.truth.local(candidates.motions))])
    family = np.concatenate([[BASE], np.full(config.around, AROUND), candidates.family])
    motions = follow_plan(np.repeat(start[None], len(plans), 0), plans)
    judged = one.truth.judge(motions)
    keep = judged.usable
    return {
        "family": family[keep],
        "plan": plan_of(motions[keep]).astype(np.float32),
        "motion": seen_from_start(motions[keep]).astype(np.float32),
        "rewards": judged.rewards[keep].astype(np.float32),
        "failed": np.isfinite(judged.failure_s[keep]),
    }


def part(data: AdapterData, states: np.ndarray) -> AdapterData:
    """Some base states with their futures."""
    number = np.full(len(data.truths), NO)
    number[states] = np.arange(len(states))
    futures = np.flatnonzero(number[data.state] != NO)
    return replace(
        data,
        seen=data.seen.at(torch.from_numpy(states)),
        start=data.start[states],
        action=data.action[states],
        episode=data.episode[states],
        state=number[data.state[futures]],
        family=data.family[futures],
        plan=data.plan[futures],
        motion=data.motion[futures],
        rewards=data.rewards[futures],
        failed=data.failed[futures],
        truths=[data.truths[k] for k in states],
    )
