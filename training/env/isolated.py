"""A driving environment in a process of its own, replaced when it dies with its server or freezes in CARLA's client."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agent.actions import ACTIONS
from eval.episode import EpisodeError
from eval.routes import Route
from eval.server import ServerDiedError, ServerError
from training import bev, spawn
from training.env.config import EnvConfig
from training.env.environment import START_ATTEMPTS, DrivingEnv, Observation
from training.env.observation import observation_space, vector_size
from training.env.reward import End
from training.env.scheduler import RouteScheduler, kind_of
from training.messages import MAX_MESSAGE_BYTES, MessageError, pack, read

STEP_TIMEOUT_S = 90.0
RESET_TIMEOUT_S = 400.0
"""An answer that takes longer never comes; the first start on a machine compiles and takes minutes."""
CLOSE_S = 15.0
CALL_TYPES = {"call": str, "route": str, "seed": int, "action": int}
"""What the process is told."""
ANSWER_TYPES = {
    "words": bytes,
    "vector": bytes,
    "info": dict,
    "reward": float,
    "terminated": bool,
    "truncated": bool,
    "refused": str,
    "lost": str,
}
"""What it answers."""
logger = logging.getLogger(__name__)


class WorkerLostError(RuntimeError):
    """The process of the environment is gone or silent."""


class IsolatedEnv(gymnasium.Env[Any, Any]):
    """As `DrivingEnv`, in another process; what happens to that process or its server costs one episode.

    The scheduler lives here and outlives the process. Messages are msgpack and raw arrays.
    """

    metadata = DrivingEnv.metadata

    def __init__(self, config: EnvConfig, routes: Sequence[Route], render_mode: str | None = None) -> None:
        """Raises: ValueError for routes or a render mode that cannot be used."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not known; take 'rgb_array' or None")
        self.config = config
        self.render_mode = render_mode
        self.observation_space: spaces.Space[Any] = observation_space(config.size_px, gaps=config.gaps)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.scheduler = RouteScheduler(routes, config.scheduler, self.np_random)
        self.workers = 0
        """How many processes were started."""
        self._routes = tuple(routes)
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._route: Route | None = None
        self._counted = False
        self._last: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin another episode, see `DrivingEnv.reset`. Raises: ServerError, WorkerLostError after some attempts."""
        super().reset(seed=seed)
        self.scheduler.generator = self.np_random
        if seed is not None:
            self.scheduler.reset()
        options = options or {}
        self._route = self.scheduler.get(options["route"]) if "route" in options else self.scheduler.draw()
        self._counted = "route" not in options
        drawn_seed = int(self.np_random.integers(2**31))
        message = {
            "call": "reset",
            "route": self._route.id,
            "seed": int(options.get("episode_seed", drawn_seed)),
        }
        for attempt in range(START_ATTEMPTS):
            try:
                answer = self._ask(message, RESET_TIMEOUT_S)
                break
            except WorkerLostError as error:
                logger.warning("route %s: %s (attempt %d of %d)", self._route.id, error, attempt + 1, START_ATTEMPTS)
                self._end_worker()
                if attempt == START_ATTEMPTS - 1:
                    raise
        self._last = {name: answer[name] for name in ("words", "vector")}
        return self._last, answer["info"]

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One tenth of a second. Raises: RuntimeError without an episode, ValueError for no action."""
        if self._route is None or self._last is None:
            raise RuntimeError("no episode is running; call reset() first")
        if not 0 <= int(action) < len(ACTIONS):
            raise ValueError(f"action {action} is none of the {len(ACTIONS)} actions, 0 to {len(ACTIONS) - 1}")
        route = self._route
        try:
            answer = self._ask({"call": "step", "action": int(action)}, STEP_TIMEOUT_S)
        except WorkerLostError as error:
            logger.warning("route %s: the episode is lost: %s", route.id, error)
            self._end_worker()
            self._route = None
            info = {"route": route.id, "kind": kind_of(route), "reward_terms": {}, "end": End.LOST.value}
            return self._last, 0.0, False, True, info | {"success": False, "failure": str(error)}
        self._last = {name: answer[name] for name in ("words", "vector")}
        info = answer["info"]
        if answer["terminated"] or answer["truncated"]:
            self._route = None
            if info["end"] == End.LOST.value:
                self._end_worker()
            elif self._counted:
                self.scheduler.report(route, info["success"])
        return self._last, answer["reward"], answer["terminated"], answer["truncated"], info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride] - gymnasium allows more
        """RGB picture of the masks."""
        if self.render_mode is None or self._last is None:
            return None
        return bev.picture(self._last["words"])

    def close(self) -> None:
        """End the process and, with it, its server; safe to call twice."""
        self._end_worker()

    def _ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The worker's answer, its arrays in shape; it is started if there is none.

        Raises: WorkerLostError, ServerError.
        """
        if self._pipe is None:
            self._start_worker()
        pipe = self._pipe
        assert pipe is not None
        try:
            pipe.send_bytes(pack(message))
            if not pipe.poll(timeout_s):
                raise WorkerLostError(f"the environment's process did not answer for {timeout_s:.0f} s")
            answer = read(pipe.recv_bytes(MAX_MESSAGE_BYTES), ANSWER_TYPES)
        except MessageError as error:
            raise WorkerLostError(f"the environment's process answered what makes no sense: {error}") from error
        except (EOFError, OSError) as error:  # also what is too long, after which the pipe is closed
            raise WorkerLostError(f"the environment's process has died ({error})") from error
        if "refused" in answer:
            raise ServerError(answer["refused"])
        if "lost" in answer:
            raise WorkerLostError(answer["lost"])
        try:
            return answer | self._observation(answer)
        except (KeyError, ValueError) as error:
            raise WorkerLostError(f"the environment's process answered what makes no sense: {error!r}") from error

    def _observation(self, answer: Mapping[str, Any]) -> Observation:
        """Raises: KeyError, ValueError for numbers that are missing, too few or too many."""
        size, gaps = self.config.size_px, self.config.gaps
        return {
            "words": np.frombuffer(answer["words"], np.uint64).reshape(size, size),
            "vector": np.frombuffer(answer["vector"], np.float32).reshape(vector_size(gaps=gaps)),
        }

    def _start_worker(self) -> None:
        self._pipe, other = spawn.pipe()
        self._process = spawn.start(_work, other, self.config, self._routes, name="driving")
        self.workers += 1

    def _end_worker(self) -> None:
        pipe, process = self._pipe, self._process
        self._pipe = self._process = None
        if pipe is not None:
            pipe.close()  # tells the worker to end
        if process is not None:
            process.join(CLOSE_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _work(pipe: Connection, config: EnvConfig, routes: Sequence[Route]) -> None:
    """Serve one environment until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's, who ends this process in order
    env = DrivingEnv(config, routes)
    try:
        while True:
            message = read(pipe.recv_bytes(MAX_MESSAGE_BYTES), CALL_TYPES)
            pipe.send_bytes(pack(_answer(env, message)))
    except (EOFError, OSError, MessageError):
        env.close()
    os._exit(0)  # the client's own threads may not survive an orderly end


def _answer(env: DrivingEnv, message: dict[str, Any]) -> dict[str, Any]:
    try:
        if message["call"] == "reset":
            observation, info = env.reset(options={"route": message["route"], "episode_seed": message["seed"]})
            return _packed(observation) | {"info": info}
        observation, reward, terminated, truncated, info = env.step(message["action"])
    except ServerError as error:
        return {"refused": str(error)}
    except (EpisodeError, ServerDiedError) as error:
        return {"lost": str(error)}
    answer = {"reward": reward, "terminated": terminated, "truncated": truncated, "info": info}
    return _packed(observation) | answer


def _packed(observation: Observation) -> dict[str, Any]:
    return {name: array.tobytes() for name, array in observation.items()}
