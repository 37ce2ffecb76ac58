"""The networks that adapt a driving policy while it drives: a diffusion model of what to add to its plan, and four
multi-step Q-values that judge plans.

Both read the state of the base agent's world model. A plan is the wanted acceleration and curvature of every quarter
second (`agent.motion`); the diffusion model works on what is added to the base plan, in units of `plan_scale`.
Source: MPA (arXiv 2511.21584), whose sizes and horizon are not public; docs/adapter.md tells what is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.ego_vector import MANOEUVRE_SIZE
from agent.model.diffusion import cosine_alpha_bar
from agent.model.heads import NormAct
from agent.motion import KNOT_S, KNOTS
from agent.route import ROUTE_POINTS, VECTOR_SIZE

VALUES = ("route", "distance", "collision", "speed")
"""What the four Q-values are about."""
NUMBERS = 3
"""Speed, acceleration, yaw rate."""
NUMBER_SCALE = (10.0, 4.0, 0.5)
POINT_SCALE_M, POINT_CLIP = 50.0, 2.0
ACCEL_SCALE_MPS2 = 2.0
LATERAL_SCALE_MPS2 = 2.0
SLOW_MPS = 4.0
"""Curvatures are scaled as at this speed at least."""
CURVATURE_FLOOR = 0.01
WAY_SCALE = (20.0, 5.0, 0.5, 10.0)
"""x, y, yaw, speed of a motion."""
GAP_SCALE = (5.0, 2.0, 0.3, 3.0)
"""Of the difference of two motions."""
STEP_NUMBERS = 2 * 4 + 2 + 1
TIME_WAVES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterNetConfig:
    """Sizes."""

    features: int = 512
    """Width of the base agent's state."""
    code: int = 128
    """Width of what is kept of it."""
    hidden: int = 192
    channels: int = 48
    """Of the finest level of the denoiser."""
    modes: int = 4
    train_steps: int = 100
    """Noise levels."""
    value_units: int = 96
    gamma: float = 0.97
    """Discount per quarter second."""

    def __post_init__(self) -> None:
        sizes = (self.features, self.code, self.hidden, self.channels, self.modes, self.train_steps, self.value_units)
        if min(sizes) < 1 or not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"adapter: sizes must be at least 1 and gamma in (0, 1], got {self}")


@dataclass(frozen=True, slots=True)
class Situated:
    """What is known when b plans are wanted."""

    features: Float[Tensor, "b d"]
    """State of the base agent."""
    numbers: Float[Tensor, "b 3"]
    """Speed [m/s], acceleration [m/s2], yaw rate [rad/s]."""
    route: Float[Tensor, "b 8 2"]
    """Sparse plan in the ego frame."""
    vector: Float[Tensor, "b v"]
    """As in ModelInput."""
    plan: Float[Tensor, "b 12 2"]
    """The base plan."""
    motion: Float[Tensor, "b 12 4"]
    """What comes of it: x, y, yaw from here, and speed."""

    def to(self, device: torch.device | str) -> Situated:
        """The same on a device."""
        return Situated(*(getattr(self, name).to(device) for name in self.__slots__))

    def at(self, rows: Tensor) -> Situated:
        """Those of some rows."""
        return Situated(*(getattr(self, name)[rows] for name in self.__slots__))


def plan_scale(speed_mps: Float[Tensor, " b"]) -> Float[Tensor, "b 1 2"]:
    """Unit of what is added to a plan: 2 m/s2 along, and the curvature of 2 m/s2 sideways."""
    curvature = (LATERAL_SCALE_MPS2 / speed_mps.clamp(min=SLOW_MPS).square()).clamp(min=CURVATURE_FLOOR)
    return torch.stack([torch.full_like(curvature, ACCEL_SCALE_MPS2), curvature], -1)[:, None]


def free_motion(speed_mps: Float[Tensor, " b"], plan: Float[Tensor, "b k 12 2"]) -> Float[Tensor, "b k 12 4"]:
    """Motions of plans in quarter seconds without the car's limits, differentiable: x, y, yaw from here, and speed.

    Poses are those of the rear axle, which is as far from where it was as the box's middle but for the turn.
    """
    speed = (speed_mps[:, None, None] + (plan[..., 0] * KNOT_S).cumsum(-1)).clamp(min=0.0)
    before = torch.cat([speed_mps[:, None, None].expand(*speed.shape[:2], 1), speed[..., :-1]], -1)
    way = 0.5 * (speed + before) * KNOT_S
    turn = way * plan[..., 1]
    yaw = turn.cumsum(-1)
    middle = yaw - 0.5 * turn
    x, y = (way * middle.cos()).cumsum(-1), (way * middle.sin()).cumsum(-1)
    return torch.stack([x, y, yaw, speed], -1)


class SituationEncoder(nn.Module):
    """State, motion and route to a code."""

    def __init__(self, config: AdapterNetConfig) -> None:
        super().__init__()
        told = NUMBERS + 2 * ROUTE_POINTS + VECTOR_SIZE + MANOEUVRE_SIZE
        self.state = nn.Sequential(nn.Linear(config.features, config.hidden, bias=False), NormAct(config.hidden))
        self.told = nn.Sequential(nn.Linear(told, config.hidden // 2, bias=False), NormAct(config.hidden // 2))
        self.out = nn.Sequential(
            nn.Linear(config.hidden + config.hidden // 2, config.code, bias=False), NormAct(config.code)
        )
        self.register_buffer("scale", torch.tensor(NUMBER_SCALE), persistent=False)
        self.scale: Tensor

    def forward(self, seen: Situated) -> Float[Tensor, "b code"]:
        """The code."""
        points = (seen.route / POINT_SCALE_M).clamp(-POINT_CLIP, POINT_CLIP).flatten(1)
        points = points.sign() * points.abs().sqrt()
        told = self.told(torch.cat([seen.numbers / self.scale, points, seen.vector], -1))
        return self.out(torch.cat([self.state(seen.features), told], -1))


class TimeConv(nn.Conv1d):
    """A convolution along the time of (n, t, c) as one matrix product, for a dozen steps much faster than `Conv1d`."""

    def forward(self, x: Float[Tensor, "n t c"]) -> Float[Tensor, "n t2 c2"]:
        """As Conv1d's, channels last."""
        (size,), (stride,), (padding,) = self.kernel_size, self.stride, self.padding
        if size > 1:
            x = F.pad(x, (0, 0, int(padding), int(padding)))
            x = x.unfold(1, size, stride).flatten(2)  # of every step: its channels, each with its neighbours in time
        return F.linear(x, self.weight.flatten(1), self.bias)


class _Block(nn.Module):
    """Two convolutions along the time with a residual connection; the condition scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.first = TimeConv(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(1, outputs)
        self.film = nn.Linear(condition, 2 * outputs)
        self.second = TimeConv(outputs, outputs, 3, padding=1)
        self.skip = TimeConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "n t c"], condition: Float[Tensor, "n d"]) -> Float[Tensor, "n t c2"]:
        """The block's output."""
        scale, shift = self.film(condition)[:, None].chunk(2, -1)
        h = F.silu(self._normed(self.first(x)) * (1.0 + scale) + shift)
        return F.silu(self.skip(x) + self.second(h))

    def _normed(self, x: Float[Tensor, "n t c"]) -> Float[Tensor, "n t c"]:
        return F.layer_norm(x, x.shape[1:], eps=self.norm.eps) * self.norm.weight + self.norm.bias


class Denoiser(nn.Module):
    """1-D U-Net over the twelve quarter seconds: the clean addition to a base plan, one guess per mode."""

    def __init__(self, config: AdapterNetConfig) -> None:
        super().__init__()
        self.config = config
        c, condition = config.channels, config.code
        self.encoder = SituationEncoder(config)
        self.time = nn.Sequential(nn.Linear(2 * TIME_WAVES, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.enter = _Block(2 + 2 + 4, c, condition)
        self.down = TimeConv(c, 2 * c, 4, stride=2, padding=1)
        self.middle = _Block(2 * c, 2 * c, condition)
        self.deep = TimeConv(2 * c, 2 * c, 4, stride=2, padding=1)
        self.deepest = _Block(2 * c, 2 * c, condition)
        self.rise = _Block(4 * c, c, condition)
        self.leave = _Block(2 * c, c, condition)
        self.out = TimeConv(c, 2 * config.modes, 1)
        with torch.no_grad():
            for parameter in self.out.parameters():  # at first nothing is added
                parameter.zero_()
        self.register_buffer("alpha_bar", cosine_alpha_bar(config.train_steps), persistent=False)
        waves = torch.exp(torch.linspace(0.0, 6.0, TIME_WAVES))
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("way_scale", torch.tensor(WAY_SCALE), persistent=False)
        self.alpha_bar: Tensor
        self.waves: Tensor
        self.way_scale: Tensor

    def context(self, seen: Situated, code: Float[Tensor, "b code"]) -> tuple[Tensor, Tensor]:
        """(base plan and motion (b, 12, 6), code): what stays the same over the noise levels."""
        base = torch.cat([seen.plan / plan_scale(seen.numbers[:, 0]), seen.motion / self.way_scale], -1)
        return base, code

    def forward(
        self, x: Float[Tensor, "n 12 2"], level: Int64[Tensor, " n"], context: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "n modes 12 2"]:
        """Clean additions from noisy ones at their noise levels; context: one row per addition."""
        base, code = context
        angle = (level.to(x.dtype) / self.config.train_steps)[:, None] * self.waves
        condition = F.silu(code + self.time(torch.cat([angle.sin(), angle.cos()], -1)))
        fine = self.enter(torch.cat([x, base], -1), condition)
        middle = self.middle(self.down(fine), condition)
        deepest = self.deepest(self.deep(middle), condition)
        up = self.rise(torch.cat([deepest.repeat_interleave(2, 1), middle], -1), condition)
        up = self.leave(torch.cat([up.repeat_interleave(2, 1), fine], -1), condition)
        return self.out(up).unflatten(-1, (self.config.modes, 2)).transpose(1, 2)


class QValues(nn.Module):
    """Four values of plans: rewards of the quarter seconds, summed up to every horizon.

    Q_i^n = sum over k < n of gamma^k r_i,k. What is foreseen of a quarter second depends on the motion up to its end.
    """

    def __init__(self, config: AdapterNetConfig) -> None:
        super().__init__()
        self.config = config
        units = config.value_units
        self.encoder = SituationEncoder(config)
        self.step = nn.Linear(STEP_NUMBERS, units)
        self.code = nn.Linear(config.code, units)
        self.layers = nn.ModuleList(nn.Linear(2 * units, units) for _ in range(2))
        self.out = nn.Linear(units, len(VALUES))
        self.register_buffer("discount", config.gamma ** torch.arange(KNOTS), persistent=False)
        self.register_buffer("way_scale", torch.tensor(WAY_SCALE), persistent=False)
        self.register_buffer("gap_scale", torch.tensor(GAP_SCALE), persistent=False)
        self.register_buffer("times", torch.linspace(0.0, 1.0, KNOTS), persistent=False)
        self.register_buffer("counts", torch.arange(1.0, KNOTS + 1.0), persistent=False)
        self.discount: Tensor
        self.way_scale: Tensor
        self.gap_scale: Tensor
        self.times: Tensor
        self.counts: Tensor

    def rewards(
        self,
        seen: Situated,
        code: Float[Tensor, "b code"],
        plan: Float[Tensor, "b k 12 2"],
        motion: Float[Tensor, "b k 12 4"],
    ) -> Float[Tensor, "b k 12 4"]:
        """What is foreseen of every quarter second."""
        unit = plan_scale(seen.numbers[:, 0])[:, None]
        times = self.times.expand(*motion.shape[:2], KNOTS)[..., None]
        gap = (motion - seen.motion[:, None]) / self.gap_scale
        told = torch.cat([motion / self.way_scale, gap, plan / unit, times], -1)
        h = F.silu(self.step(told) + self.code(code)[:, None, None])
        for layer in self.layers:
            passed = h.cumsum(-2) / self.counts[:, None]  # the mean of what was so far
            h = h + F.silu(layer(torch.cat([h, passed], -1)))
        return self.out(h)

    def forward(
        self,
        seen: Situated,
        code: Float[Tensor, "b code"],
        plan: Float[Tensor, "b k 12 2"],
        motion: Float[Tensor, "b k 12 4"],
    ) -> Float[Tensor, "b k 12 4"]:
        """Q_i^n for n = 1 to 12 (third axis) and the four VALUES (last axis)."""
        return self.accumulate(self.rewards(seen, code, plan, motion))

    def accumulate(self, rewards: Float[Tensor, "*b 12 4"]) -> Float[Tensor, "*b 12 4"]:
        """Discounted sums up to the end of every quarter second."""
        return (rewards * self.discount[:, None]).cumsum(-2)


class AdapterNet(nn.Module):
    """Both networks; they share nothing, so one can be left out or exchanged."""

    def __init__(self, config: AdapterNetConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = Denoiser(config)
        self.values = QValues(config)
