"""Who is evaluated: the rule-based expert, the driver that ignores everybody, and policies from checkpoints."""

from __future__ import annotations

import hashlib
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agent import config as configs
from agent.actions import ACTIONS, COAST
from agent.checkpoint import CheckpointError, check_state, load_checkpoint, read_manifest
from eval.routes import Route
from training import bev
from training.drive import Driver, RuleDriver
from training.env.environment import EXPERT_MPS
from training.env.gaps import GAP_SIZE
from training.env.observation import observe, vector_size
from training.expert import ExpertConfig
from training.presets import PrivilegedConfig
from training.privileged.driver import PolicyDriver
from training.scene import PrivilegedView

EXPERT, BLIND = "expert", "blind"
SAMPLED = "_sampled"
KNOWN = "known are expert, blind and NAME=FOLDER with a checkpoint of a policy, such as policy=runs/privileged/model"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_PARTS = {"encoder.": "model.encoder.", "rssm.": "model.rssm.", "actor.": "policy.actor."}
"""Where a driver's tensors stand in a checkpoint."""


class DriverError(ValueError):
    """A driver that cannot be had; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One driver of an evaluation."""

    name: str
    weights: Path | None = None
    """Our own copy of a policy's checkpoint folder; None: rule-based."""
    sha256: str = ""
    """Of the policy's weights and configuration."""
    sampled: bool = False
    source: str = field(default="", compare=False)
    """The folder as given."""
    step: int = field(default=0, compare=False)
    """Updates after which the weights were saved."""

    @property
    def folder(self) -> str:
        """Name of the folder of its results: other weights are another driver."""
        return f"{self.name}-{self.sha256[:8]}" if self.sha256 else self.name


def candidates(given: Sequence[str], store: Path, *, sampled: bool) -> list[Candidate]:
    """The drivers named on the command line; `sampled`: every policy also with sampled actions.

    Checkpoints are checked and copied into `store`, because a training that goes on replaces them.
    Raises: DriverError, CheckpointError, ConfigError.
    """
    found: list[Candidate] = []
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator and name in (EXPERT, BLIND):
            found.append(Candidate(name))
            continue
        if not separator or name in (EXPERT, BLIND) or not _NAME.fullmatch(name):
            raise DriverError(f"--drivers {text!r} is not known; {KNOWN}")
        policy = _kept(name, Path(folder), store)
        found += [policy]
        if sampled:
            found.append(
                Candidate(name + SAMPLED, policy.weights, policy.sha256, True, source=folder, step=policy.step)
            )
    names = [candidate.name for candidate in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        raise DriverError(f"--drivers names {twice[0]} twice" if twice else f"--drivers is empty; {KNOWN}")
    return found


def make_driver(candidate: Candidate, route: Route, seed: int) -> Driver:
    """The driver for one drive. Raises: CheckpointError, ConfigError."""
    if candidate.weights is None:
        return RuleDriver(ExpertConfig(max_speed_mps=EXPERT_MPS), blind=candidate.name == BLIND)
    policy = _loaded(candidate.weights)
    policy.begin()
    policy.generator.manual_seed(zlib.crc32(f"{route.id}/{seed}".encode()))  # a drive can be repeated by itself
    return MaskDriver(policy, greedy=not candidate.sampled)


class MaskDriver:
    """A policy that sees the masks of a ride."""

    def __init__(self, policy: PolicyDriver, *, greedy: bool) -> None:
        self._policy, self._greedy = policy, greedy
        seen = policy.config.world_model.observation
        self._size_px, self._gaps = seen.size_px, seen.gaps > 0
        self._action = COAST

    def act(self, view: PrivilegedView) -> int:
        """The policy's next action; the observation is that of the training environment."""
        observation = observe(view, view.scene(ways=self._gaps), self._action, self._size_px, gaps=self._gaps)
        self._action = self._policy.act(observation, greedy=self._greedy)
        return self._action


def load_policy(folder: Path) -> PolicyDriver:
    """A driver with the weights of a checkpoint folder. Raises: CheckpointError, ConfigError."""
    plain, tensors = load_checkpoint(folder)
    config = configs.parse(PrivilegedConfig, plain, str(folder))
    seen, actions = config.world_model.observation, config.world_model.rssm.actions
    vector = vector_size(gaps=seen.gaps > 0)
    fits = bev.SIZE_PX % seen.size_px == 0 and seen.vector in (0, vector) and seen.channels == bev.CHANNELS
    fits = fits and seen.gaps in (0, GAP_SIZE)
    if not fits or actions != len(ACTIONS):
        raise CheckpointError(
            f"{folder}: reads {seen.channels} masks of {seen.size_px} px and {seen.vector} numbers for {actions} "
            f"actions; this version shows {bev.CHANNELS} masks of {bev.SIZE_PX} px or a divisor and 0 or {vector} "
            f"numbers for {len(ACTIONS)} actions; train again"
        )
    driver = PolicyDriver(config)
    own = {
        short + name.removeprefix(long): value
        for name, value in tensors.items()
        for short, long in _PARTS.items()
        if name.startswith(long)
    }
    check_state(driver.state_dict(), own, str(folder))
    driver.load_state_dict(own)
    return driver


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> PolicyDriver:
    return load_policy(folder)


def _kept(name: str, folder: Path, store: Path) -> Candidate:
    """The candidate with a checked copy of its checkpoint."""
    read_manifest(folder)  # says in its own words what is wrong with the folder
    store.mkdir(parents=True, exist_ok=True)
    partial = store / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(folder, partial, symlinks=True)
        load_policy(partial)
        manifest = read_manifest(partial)
        sums = [entry["sha256"] for file, entry in sorted(manifest["files"].items()) if file.endswith(".safetensors")]
        sha256 = hashlib.sha256(" ".join([manifest["config_sha256"], *sums]).encode()).hexdigest()
        target = store / sha256[:16]
        if not target.is_dir():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Candidate(name, target, sha256, source=str(folder), step=int(manifest["step"]))
