"""Optimisers of world model and policy: AdamW with a clipped global norm, LaProp with adaptive clipping."""

# The foreach functions, which torch's own optimisers use, are not in its public type information.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

AGC_MIN_NORM = 1e-3
"""Norm assumed for parameters that are smaller, so that zeros can move. Source: DreamerV3 (2025)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """One optimiser and its schedule."""

    kind: Literal["adamw", "laprop"] = "adamw"
    learning_rate: float = 1e-5
    final_learning_rate: float | None = None
    """Reached linearly after decay_updates; None keeps the rate."""
    decay_updates: int = 0
    warmup_updates: int = 0
    """Updates over which the rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Largest global norm of the gradient."""
    adaptive_clip: float | None = None
    """Largest ratio of each tensor's gradient norm to its own norm (AGC)."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0.0 or (self.final_learning_rate is not None and self.final_learning_rate < 0.0):
            raise ValueError(f"learning rates must be positive, got {self.learning_rate}, {self.final_learning_rate}")
        if self.warmup_updates < 0 or self.decay_updates < 0:
            raise ValueError("warmup_updates and decay_updates must not be negative")

    def rate(self, update: int) -> float:
        """Learning rate of update 0, 1, ..."""
        warm = min((update + 1) / self.warmup_updates, 1.0) if self.warmup_updates else 1.0
        if self.final_learning_rate is None or not self.decay_updates:
            return warm * self.learning_rate
        share = min(update / self.decay_updates, 1.0)
        return warm * (self.learning_rate + share * (self.final_learning_rate - self.learning_rate))


class LaProp(torch.optim.Optimizer):
    """Normalise by the second moment first, then average.

    v <- b2 v + (1 - b2) g^2; m <- b1 m + (1 - b1) g / (sqrt(v^) + eps); w <- w - lr m^, where ^ corrects a moment for
    its start at 0. Source: Ziyin et al. 2020, as used by DreamerV3 (2025).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            params: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in params:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in params]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1.0)
        gradients = [parameter.grad for parameter in params if parameter.grad is not None]
        squares, means = [state["square"] for state in states], [state["mean"] for state in states]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - beta2)
        # Steps live on the CPU, so that the corrections need no synchronisation with a GPU.
        root = torch._foreach_div(squares, [1.0 - beta2 ** step.item() for step in steps])
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, group["eps"])
        torch._foreach_lerp_(means, torch._foreach_div(gradients, root), 1.0 - beta1)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        factors = [-group["lr"] / (1.0 - beta1 ** step.item()) for step in steps]
        torch._foreach_add_(params, torch._foreach_mul(means, factors))


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """g <- g / max(1, |g| / (ratio max(1e-3, |w|))) for each tensor, in place. Source: Brock et al. 2021."""
    chosen: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in chosen if parameter.grad is not None]
    if not gradients:
        return
    limits = torch._foreach_norm(chosen)
    torch._foreach_clamp_min_(limits, AGC_MIN_NORM)
    torch._foreach_mul_(limits, ratio)
    factors = torch._foreach_div(torch._foreach_norm(gradients), limits)
    torch._foreach_clamp_min_(factors, 1.0)
    torch._foreach_div_(gradients, factors)


@torch.no_grad()
def move_towards(averages: Iterable[Tensor], values: Iterable[Tensor], rate: float) -> None:
    """average <- average + rate (value - average) for each pair, in place."""
    torch._foreach_lerp_(list(averages), list(values), rate)


class Stepper:
    """An optimiser over some parameters with its clipping and its schedule."""

    def __init__(self, config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> None:
        self.config = config
        self.parameters = list(parameters)
        self.updates = 0
        kind = torch.optim.AdamW if config.kind == "adamw" else LaProp
        self.optimizer = kind(
            self.parameters,
            lr=config.rate(0),
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            **({"fused": True} if config.kind == "adamw" else {}),
        )

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """The gradient's global norm."""
        return nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])

    def parameters_without_moments(self) -> list[nn.Parameter]:
        """Parameters for which a step has to allocate moments."""
        return [parameter for parameter in self.parameters if not self.optimizer.state.get(parameter)]

    def step(self, norm: Tensor | None = None) -> Tensor:
        """Clip, set the scheduled rate and update; gives the gradient's global norm before clipping.

        norm: that norm, if it is known already.
        """
        if norm is None:
            norm = self.gradient_norm()
        if self.config.adaptive_clip is not None:
            clip_adaptively(self.parameters, self.config.adaptive_clip)
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.updates)
        self.optimizer.step()
        self.updates += 1
        return norm

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drop the moments of some parameters, which then start as new ones."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)

    def tensors(self) -> dict[str, Tensor]:
        """State of the optimiser by `<index of the parameter>.<name>`."""
        tensors = {}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{index}.{name}"] = value
        return tensors | {"updates": torch.tensor(self.updates)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state made by `tensors`. Raises: ValueError for an entry that does not fit."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name == "updates":
                continue
            index, _, key = name.partition(".")
            if not index.isdecimal() or int(index) >= len(self.parameters):
                raise ValueError(f"optimiser state {name} names no parameter; {len(self.parameters)} are known")
            parameter = self.parameters[int(index)]
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"optimiser state {name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
                )
            state.setdefault(int(index), {})[key] = value.clone()
        if "updates" not in tensors:
            raise ValueError("optimiser state lacks the entry updates; save it again")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.updates = int(tensors["updates"])
