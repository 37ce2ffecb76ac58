"""Adapting the policy while it drives: plans around the base agent's are proposed, judged, and one of them is driven.

Source: MPA (arXiv 2511.21584): a diffusion adapter proposes what to add to the base trajectory, four multi-step
Q-values judge, the best candidate is taken. Off, the base policy drives exactly as without.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from agent.base_plan import Choice, Planner, feature_width, state_features, state_identity
from agent.checkpoint import check_state, load_checkpoint
from agent.config import ConfigError, parse
from agent.model.adapter import VALUES, AdapterNet, AdapterNetConfig, Situated, free_motion, plan_scale
from agent.model.diffusion import ddim
from agent.model.driving_model import DrivingModel, ModelInput, ModelState
from agent.model.raw_model import RawModel
from agent.motion import (
    KNOT_S,
    KNOTS,
    ActionChooser,
    follow_plan,
    plan_of,
    seen_from_start,
    start_state,
)

MAX_PARAMETERS = 2_000_000
DECISION_S = 0.1
RANDOM_ROTATION_RAD = math.radians(10.0)
RANDOM_WARP = (0.1, 1.0)
RANDOM_NOISE = 0.05
"""Perturbations of the base plan as in MPA's data: turned, slowed down, and noise in units of `plan_scale`."""
RAMP_KNOTS = 4
"""A random plan has turned, and has its new speed, after so many quarter seconds."""
RISKY = 1000.0
"""Below every sum of Q-values."""
CHOSEN_KNOTS = 2
"""The action serves the mean of so many quarter seconds of the picked plan."""
logger = logging.getLogger(__name__)

Weights = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What is proposed, and how one is picked."""

    checkpoint: str = "adapter"
    """Folder of the adapter's weights, relative to the configuration file."""
    source: Literal["diffusion", "random", "both"] = "diffusion"
    """random: the base plan turned, slowed down and disturbed at random; both: half of them so."""
    pick: Literal["value", "first", "random"] = "value"
    """value: the best by the Q-values; first: the first that was proposed; random: any."""
    candidates: int = 20
    keep_base: bool = True
    """Whether the base plan is one of the candidates; where it is picked, the base agent's own action is taken."""
    steps: int = 5
    """Of the sampler."""
    values: tuple[Literal["route", "distance", "collision", "speed"], ...] = VALUES
    """The Q-values that judge."""
    weights: Weights = (1.0, 1.0, 5.0, 0.5)
    """Of route, distance, collision and speed."""
    horizon: int = KNOTS
    """Quarter seconds that are summed up."""
    guidance: float = 0.0
    """How far each step of the sampler goes up the gradient of the weighted Q-values, in units of `plan_scale`."""
    margin: float = 0.0
    """By how much a plan must be better than the base plan."""
    careful: float | None = None
    """How far the collision's Q-value of the picked plan may lie below that of the base plan; None: however far."""
    seed: int = 0
    """Of the noise, which is drawn once for a drive, so that plans change no more than what they are made for."""

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 256 or not 1 <= self.horizon <= KNOTS or self.steps < 1:
            raise ValueError(
                f"adapter: candidates must lie in 1 to 256, horizon in 1 to {KNOTS}, steps be at least 1, got "
                f"{self.candidates}, {self.horizon}, {self.steps}"
            )
        if min(self.guidance, self.margin, self.careful or 0.0) < 0.0 or (self.pick == "value" and not self.values):
            raise ValueError("adapter: guidance, margin and careful must not be negative, and pick value needs values")

    def value_weights(self) -> Float[Tensor, " 4"]:
        """Weights of all VALUES; 0 for those that do not judge."""
        pairs = zip(VALUES, self.weights, strict=True)
        return torch.tensor([weight if name in self.values else 0.0 for name, weight in pairs])


@dataclass(frozen=True, slots=True)
class Proposals:
    """Candidates for b situations; n of each."""

    seen: Situated
    plans: Float64[np.ndarray, "b n 12 2"]
    motions: Float64[np.ndarray, "b n 61 4"]
    """From the ego's pose, every twentieth of a second."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What was decided, for viewers and records."""

    action: int
    index: int
    """Of the candidate; 0 is the base plan where that is kept."""
    motions: Float64[np.ndarray, "n 61 4"]
    scores: Float64[np.ndarray, " n"] | None
    """Weighted Q-values; None where they were not asked."""


Picker = Callable[[Proposals], int]
"""Somebody else who picks."""


def weighted(values: Float[Tensor, "b k 12 4"], config: AdapterConfig) -> Float[Tensor, "b k"]:
    """Weighted sum of the Q-values at the horizon."""
    return values[:, :, config.horizon - 1] @ config.value_weights().to(values)


class Proposer:
    """Makes and judges candidates; has no memory but its noise."""

    def __init__(self, net: AdapterNet, config: AdapterConfig) -> None:
        self.net, self.config = net, config
        generator = torch.Generator().manual_seed(config.seed)
        wanted = config.candidates - int(config.keep_base)
        self._noise = torch.randn(max(wanted, 0), KNOTS, 2, generator=generator)
        self._draws = np.random.default_rng(config.seed).uniform(size=(max(wanted, 0), 2))
        self._diffused = {"diffusion": wanted, "random": 0, "both": (wanted + 1) // 2}[config.source]

    @torch.no_grad()
    def propose(self, seen: Situated, start: Float64[np.ndarray, "b 6"]) -> Proposals:
        """Candidates around base plans; start: states of the cars, each seen from its own pose."""
        base = seen.plan.double().cpu().numpy()[:, None]
        own = self._diffused
        plans = base + self.additions(seen).double().cpu().numpy()
        if own < len(self._noise):
            disturbed = random_plans(base[:, 0], start[:, 3], self._draws[own:], self._noise[own:].double().numpy())
            plans = np.concatenate([plans, disturbed], 1)
        if self.config.keep_base:
            plans = np.concatenate([base, plans], 1)
        n = plans.shape[1]
        motions = follow_plan(np.repeat(start, n, 0), plans.reshape(-1, KNOTS, 2)).reshape(len(start), n, -1, 4)
        return Proposals(seen, plans, motions)

    def additions(self, seen: Situated) -> Float[Tensor, "b n 12 2"]:
        """What the adapter adds to base plans; candidate j follows mode j modulo their number."""
        denoiser, config = self.net.denoiser, self.config
        noise = self._noise[: self._diffused].to(seen.plan)
        b, n = len(seen.plan), len(noise)
        if not n:
            return seen.plan.new_zeros(b, 0, KNOTS, 2)
        base, code = denoiser.context(seen, denoiser.encoder(seen))
        context = (base.repeat_interleave(n, 0), code.repeat_interleave(n, 0))
        mode = (torch.arange(b * n, device=noise.device) % n) % denoiser.config.modes
        rows = torch.arange(b * n, device=noise.device)
        guide = Guide(self.net, config, seen) if config.guidance else None

        def predict(x: Tensor, level: int) -> Tensor:
            levels = torch.full((b * n,), level, device=x.device)
            clean = denoiser(x, levels, context)[rows, mode]
            return clean if guide is None else guide(clean.unflatten(0, (b, n))).flatten(0, 1)

        added = ddim(predict, noise.repeat(b, 1, 1), denoiser.alpha_bar, config.steps)
        return added.unflatten(0, (b, n)) * plan_scale(seen.numbers[:, 0])[:, None]

    @torch.no_grad()
    def values(self, proposals: Proposals) -> Float[Tensor, "b n 12 4"]:
        """Q-values of all candidates."""
        seen = proposals.seen
        b, n = proposals.plans.shape[:2]
        rows = seen_from_start(proposals.motions.reshape(b * n, -1, 4)).reshape(b, n, KNOTS, 4)
        told = plan_of(proposals.motions.reshape(b * n, -1, 4)).reshape(b, n, KNOTS, 2)
        judge = self.net.values
        make = lambda array: torch.from_numpy(array).to(seen.plan)  # noqa: E731
        return judge(seen, judge.encoder(seen), make(told), make(rows))

    def scores(self, proposals: Proposals) -> Float[Tensor, "b n"]:
        """Weighted Q-values of all candidates; those of plans too risky for a careful one lie RISKY below."""
        values, careful = self.values(proposals), self.config.careful
        found = weighted(values, self.config)
        if careful is None or not self.config.keep_base:
            return found
        risk = values[:, :, self.config.horizon - 1, VALUES.index("collision")]
        return torch.where(risk < risk[:, :1] - careful, found - RISKY, found)


class Guide:
    """Moves plans up the gradient of the weighted Q-values while they are made; the car's limits are left to later."""

    def __init__(self, net: AdapterNet, config: AdapterConfig, seen: Situated) -> None:
        self._judge, self._config, self._seen = net.values, config, seen
        self._code = net.values.encoder(seen)
        self._scale = plan_scale(seen.numbers[:, 0])[:, None]

    def __call__(self, added: Float[Tensor, "b n 12 2"]) -> Float[Tensor, "b n 12 2"]:
        """Additions to base plans a little higher; each moves by `guidance` at most."""
        with torch.enable_grad():
            leaf = added.detach().requires_grad_(True)
            plan = self._seen.plan[:, None] + leaf * self._scale
            motion = free_motion(self._seen.numbers[:, 0], plan)
            score = weighted(self._judge(self._seen, self._code, plan, motion), self._config)
            (slope,) = torch.autograd.grad(score.sum(), leaf)
        length = slope.flatten(2).norm(dim=-1)[..., None, None]
        return added + self._config.guidance * slope / length.clamp(min=1.0)


def random_plans(
    base: Float64[np.ndarray, "b 12 2"],
    speed_mps: Float64[np.ndarray, " b"],
    draws: Float64[np.ndarray, "n 2"],
    noise: Float64[np.ndarray, "n 12 2"],
) -> Float64[np.ndarray, "b n 12 2"]:
    """The base plan turned by up to 10 degrees, driven at 0.1 to 1 times its speed, and disturbed.

    draws: uniform in [0, 1), for turn and speed; noise: standard normal.
    """
    ends = np.maximum(speed_mps[:, None] + np.cumsum(base[..., 0] * KNOT_S, 1), 0.0)
    speeds = np.concatenate([speed_mps[:, None], ends], 1)
    warp = RANDOM_WARP[0] + (RANDOM_WARP[1] - RANDOM_WARP[0]) * draws[:, 1]
    ramp = np.minimum(np.arange(KNOTS + 1) / RAMP_KNOTS, 1.0)
    warped = speeds[:, None] * (1.0 + (warp[:, None] - 1.0) * ramp)[None]
    way = np.maximum(0.5 * (warped[..., 1:] + warped[..., :-1]) * KNOT_S, 0.1)
    turn = np.where(np.arange(KNOTS) < RAMP_KNOTS, 1.0, 0.0) * (2.0 * draws[:, :1] - 1.0) * RANDOM_ROTATION_RAD
    plans = np.repeat(base[:, None], len(draws), 1)
    plans[..., 0] = np.diff(warped, axis=-1) / KNOT_S
    plans[..., 1] += turn / RAMP_KNOTS / way
    scale = plan_scale(torch.from_numpy(speed_mps)).numpy()[:, None]
    return plans + RANDOM_NOISE * noise * scale


class Adapter:
    """Decides for one car. Make a new one for every drive."""

    def __init__(self, net: AdapterNet, config: AdapterConfig, choice: Choice, picker: Picker | None = None) -> None:
        """choice: how the base agent takes actions from logits; picker: who picks instead of the configuration."""
        self.config = config
        self._proposer = Proposer(net, config)
        self._choice: Choice = choice
        self._planner: Planner | None = None
        self._picker = picker
        self._generator = np.random.default_rng(config.seed)
        self._chooser = ActionChooser()
        self._speed_mps: float | None = None

    def reset(self) -> None:
        """The past is not to be trusted."""
        self._speed_mps = None
        self._chooser.forget()

    def decide(
        self,
        model: DrivingModel | RawModel,
        inputs: ModelInput,
        state: ModelState,
        speed_mps: float,
        action: int,
    ) -> Picked:
        """The base agent's action or another one. state: after the decision; inputs: what it was made from."""
        features = state_features(model, inputs, state)
        numbers = car_numbers(inputs, speed_mps, self._speed_mps)
        self._speed_mps = speed_mps
        start = start_state(*numbers)[None]
        if self._planner is None or self._planner.model is not model:  # another one after a device has failed
            self._planner = Planner(model, self._choice)
        plan = self._planner.plan(features, action, start)
        seen = situated(features, numbers, inputs, plan, start)
        self._proposer.net.to(features.device)
        return self.pick(self._proposer.propose(seen, start), action)

    def pick(self, proposals: Proposals, action: int) -> Picked:
        """One of the candidates of one situation as an action; action: the base agent's."""
        scores = None
        if self._picker is not None:
            index = self._picker(proposals)
        elif self.config.pick == "value":
            scores = self._proposer.scores(proposals)[0].double().cpu().numpy()
            index = int(scores.argmax())
            if self.config.keep_base and scores[index] <= scores[0] + self.config.margin:
                index = 0
        elif self.config.pick == "random":
            index = int(self._generator.integers(proposals.plans.shape[1]))
        else:
            index = min(int(self.config.keep_base), proposals.plans.shape[1] - 1)
        motions = proposals.motions[0]
        usable = bool(np.isfinite(motions[index]).all()) and (scores is None or bool(np.isfinite(scores).all()))
        if not usable:
            logger.warning("the adapter's output is not finite; the base agent's action is taken")
        if not usable or (index == 0 and self.config.keep_base):
            self._chooser.forget()
            return Picked(action, 0, motions, scores)
        wanted = proposals.plans[0, index, :CHOSEN_KNOTS].mean(0)
        return Picked(self._chooser.choose(wanted[0], wanted[1], motions[index, 0, 3]), index, motions, scores)


def car_numbers(inputs: ModelInput, speed_mps: float, before_mps: float | None) -> tuple[float, float, float]:
    """Speed, acceleration and yaw rate of the car, in SI units; before_mps: its speed at the last decision."""
    gained_mps = 0.0 if before_mps is None else speed_mps - before_mps
    turned_rad = 0.0 if bool(inputs.first[0]) else float(inputs.ego_motion[0, 2])
    return speed_mps, gained_mps / DECISION_S, turned_rad / DECISION_S


def situated(
    features: Float[Tensor, "1 d"],
    numbers: tuple[float, float, float],
    inputs: ModelInput,
    plan: Float64[np.ndarray, "1 12 2"],
    start: Float64[np.ndarray, "1 6"],
) -> Situated:
    """What the networks read in one situation."""
    motion = seen_from_start(follow_plan(start, plan))
    make = lambda array: torch.from_numpy(np.asarray(array, np.float32)).to(features.device)  # noqa: E731
    return Situated(
        features.float(), make([numbers]), inputs.route.float(), inputs.vector.float(), make(plan), make(motion)
    )


def load_adapter(folder: Path) -> tuple[AdapterNet, dict[str, Any]]:
    """The networks of a folder in evaluation mode, and how they were trained. Raises: CheckpointError, ConfigError."""
    plain, state = load_checkpoint(folder)
    if "adapter" not in plain:
        raise ConfigError(f"{folder / 'config.yaml'}: has no section `adapter`; give the folder of a trained adapter")
    net = AdapterNet(parse(AdapterNetConfig, plain["adapter"], f"{folder / 'config.yaml'}: adapter"))
    check_state(net.state_dict(), state, str(folder))
    net.load_state_dict(state)
    return net.eval().requires_grad_(False), plain.get("training", {})


def check_agent(folder: Path, net: AdapterNet, about: Mapping[str, Any], model: DrivingModel | RawModel) -> None:
    """Raises: ConfigError for an adapter of another agent. about: how it was trained; old ones do not say on whom."""
    reads, own = net.config.features, feature_width(model)
    if reads != own:
        raise ConfigError(
            f"{folder}: the adapter reads states of {reads} numbers, this agent's have {own}; train one for this agent"
        )
    owner, identity = about.get("states_of"), state_identity(model)
    if owner is not None and owner != identity:
        raise ConfigError(
            f"{folder}: the adapter reads states made by weights {str(owner)[:12]}..., this agent's are made by "
            f"{identity[:12]}...; train one for this agent"
        )


def adapter_for(model: DrivingModel | RawModel, folder: Path, config: AdapterConfig, choice: Choice) -> Adapter:
    """The adapter of a folder for an agent. Raises: CheckpointError, ConfigError for one of another agent."""
    net, about = load_adapter(folder)
    check_agent(folder, net, about, model)
    steps = net.config.train_steps
    if config.steps > steps:
        raise ConfigError(f"adapter.steps is {config.steps}, {folder} knows {steps} noise levels; take fewer")
    return Adapter(net, config, choice)
