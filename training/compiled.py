"""torch.compile for the two steps that an update repeats: the filter's and the imagination's.

Each consists of a few dozen small operations, of which launching costs more than computing on a GPU. The rest of an
update runs once on large tensors. A whole unrolled sequence would take minutes to compile, and again for every length.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

from agent.config import ConfigError
from training.policy.actor_critic import ActorCritic
from training.world_model.model import WorldModel

Arguments = ParamSpec("Arguments")
CPU_COMPILER = "g++"
"""torch.compile's own choice on Linux."""


def compile_steps(model: WorldModel, policy: ActorCritic, device: torch.device | str) -> None:
    """Let a world model and a policy on the device use compiled steps; they compile when they first run.

    Raises: ConfigError without a C++ compiler where one is needed.
    """
    if torch.device(device).type == "cpu" and shutil.which(CPU_COMPILER) is None:
        raise ConfigError(f"torch.compile on a CPU needs a C++ compiler, and there is no {CPU_COMPILER}: install one")
    model.rssm.filter_step = compiled(model.rssm.filter_step, device)
    policy.imagination_step = compiled(policy.imagination_step, device)


def compiled(
    step: Callable[Arguments, tuple[Tensor, Tensor, Tensor]], device: torch.device | str
) -> Callable[Arguments, tuple[Tensor, Tensor, Tensor]]:
    """The step compiled for fixed shapes; on CUDA launched as one graph."""
    if torch.device(device).type != "cuda":
        return torch.compile(step, dynamic=False)
    fast = torch.compile(step, dynamic=False, mode="reduce-overhead")

    def launch(*args: Arguments.args, **kwargs: Arguments.kwargs) -> tuple[Tensor, Tensor, Tensor]:
        first, second, third = fast(*args, **kwargs)
        return first.clone(), second.clone(), third.clone()  # a graph's outputs are overwritten by its next launch

    return launch
