"""Times the privileged observation and a decision of the environment, by processor time on a server of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.generate import generate_routes
from eval.routes import Route
from training import bev
from training.drive import TICKS_PER_DECISION
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.env.servers import Servers
from training.expert import ExpertConfig, ExpertDriver

WARM_UP_DECISIONS = 10
SIZE_PX = 64
"""To which the words are pooled, as in the sizes of the privileged stage for a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvBenchConfig:
    """What is timed."""

    town: str = "Gen02"
    traffic: int = 20
    """Traffic Manager's cars."""
    decisions: int = 60
    """In a round."""
    rounds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.decisions, self.rounds) < 1 or self.traffic < 0:
            raise ValueError("decisions and rounds must be at least 1 and traffic not negative")


@dataclass(frozen=True, slots=True)
class EnvTiming:
    """Processor milliseconds per decision by round: of `DrivingEnv.step` in this process, and of the server meanwhile.

    The expert that drives, and that a policy replaces, is not counted; neither are resets.
    """

    client_ms: tuple[float, ...]
    server_ms: tuple[float, ...]
    mean_speed_mps: float


@dataclass(frozen=True, slots=True)
class ObservationTiming:
    """Processor milliseconds of the parts of an observation, median of the best round, and how many others."""

    others: int
    update_ms: float
    """Taking in a tick: poses of all others, states of all lights; two ticks for a decision."""
    words_ms: float
    """Painting the 43 masks."""
    pool_ms: float
    """To 64 x 64 pixels."""

    @property
    def frame_ms(self) -> float:
        """Everything a decision needs."""
        return TICKS_PER_DECISION * self.update_ms + self.words_ms + self.pool_ms


def routes(town: str) -> list[Route]:
    """Routes without scenarios in a town."""
    servers = Servers(EnvConfig())
    try:
        carla_map = servers.client(town).get_world().get_map()
        return generate_routes(carla_map, 2, seed=3, town=town, min_length_m=150.0, min_turns=0)
    finally:
        servers.stop()


def time_decisions(config: EnvBenchConfig, driven: list[Route] | None = None) -> EnvTiming:
    """Drive with the expert among traffic, with criteria and masks. driven: routes; generated in the town if None."""
    env = DrivingEnv(EnvConfig(traffic=config.traffic), routes(config.town) if driven is None else driven)
    driver = ExpertDriver(ExpertConfig())
    client_ms, server_ms, speeds = [], [], []
    try:
        env.reset(seed=config.seed)
        for turn in range(-1, config.rounds):
            client_s = server_s = 0.0
            for _ in range(config.decisions if turn >= 0 else WARM_UP_DECISIONS):
                assert env.drive is not None and env.servers.pid is not None
                action = driver.decide(env.drive.view.scene()).action
                server_started_s, started_s = process_s(env.servers.pid), time.process_time()
                _, _, terminated, truncated, info = env.step(action)
                client_s += time.process_time() - started_s
                server_s += process_s(env.servers.pid) - server_started_s
                speeds.append(info["speed_mps"])
                if terminated or truncated:
                    env.reset()
            if turn >= 0:
                client_ms.append(1e3 * client_s / config.decisions)
                server_ms.append(1e3 * server_s / config.decisions)
    finally:
        env.close()
    return EnvTiming(tuple(client_ms), tuple(server_ms), statistics.mean(speeds))


def time_observation(config: EnvBenchConfig, driven: list[Route] | None = None) -> ObservationTiming:
    """Observe among `traffic` others. driven: routes; generated in the town if None."""
    env = DrivingEnv(EnvConfig(traffic=config.traffic), routes(config.town) if driven is None else driven)
    try:
        env.reset(seed=config.seed)
        for _ in range(WARM_UP_DECISIONS):
            env.step(env.action_space.sample())
        assert env.drive is not None
        view, episode = env.drive.view, env.drive.episode
        words = view.words()
        return ObservationTiming(
            others=len(episode.traffic.vehicles),
            update_ms=_best_median_ms(view.update, config),
            words_ms=_best_median_ms(view.words, config),
            pool_ms=_best_median_ms(lambda: bev.pool(words, bev.SIZE_PX // SIZE_PX), config),
        )
    finally:
        env.close()


def process_s(pid: int) -> float:
    """Processor time that another process has used, in steps of a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _best_median_ms(part: Callable[[], object], config: EnvBenchConfig) -> float:
    medians = []
    for _ in range(config.rounds):
        durations = []
        for _ in range(config.decisions):
            started_s = time.thread_time()
            part()
            durations.append(time.thread_time() - started_s)
        medians.append(statistics.median(durations))
    return 1e3 * min(medians)


def report(timing: EnvTiming | ObservationTiming) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return asdict(timing)


def decision_table(timing: EnvTiming) -> str:
    """The timing as text; the best round is the one that others disturbed least."""
    client, server = min(timing.client_ms), min(timing.server_ms)
    return "\n".join(
        [
            f"this process, ms per decision        {client:7.2f}   ({1e3 / client:.0f} decisions per CPU second)",
            f"server, ms per decision              {server:7.2f}   ({1e3 / (client + server):.0f} both together)",
            f"mean speed of the ego, m/s           {timing.mean_speed_mps:7.2f}",
        ]
    )


def observation_table(timing: ObservationTiming) -> str:
    """The timing as text."""
    return "\n".join(
        [
            f"others                               {timing.others:7d}",
            f"taking in a tick, ms                 {timing.update_ms:7.3f}",
            f"painting the masks, ms               {timing.words_ms:7.3f}",
            f"pooling to {SIZE_PX} x {SIZE_PX}, ms               {timing.pool_ms:7.3f}",
            f"frame ({TICKS_PER_DECISION} ticks), ms                  {timing.frame_ms:7.3f}",
        ]
    )
