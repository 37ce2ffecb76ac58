"""Learners side by side under torchrun: each replays windows of its own, gradients are averaged over all.

This is not torch's DistributedDataParallel. That wraps one module whose forward pass it must see, and averages while
the backward pass runs. Here one backward pass serves several optimisers, gradients of imagined rollouts do not come
from a module's forward pass at all, and which parameters get one differs between the passes of an update. So the
gradients of an optimiser's parameters are averaged in one flat piece just before it takes its step: the same sum, and
one exchange more per update than a network of this size needs to hide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class Order(IntEnum):
    """What the first learner has the others do."""

    WAIT = 0
    LEARN = 1
    STOP = 2


@dataclass(frozen=True, slots=True)
class Ranks:
    """This learner among all. All calls are made by all learners in the same order; alone they change nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this learner owns collectors, checkpoints and log."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all learners; who has none has none anywhere."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.div_(self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all learners."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def mean_metrics(self, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean of every metric over all learners."""
        if self.size == 1 or not metrics:
            return dict(metrics)
        names = sorted(metrics)
        return dict(zip(names, self.mean(torch.stack([metrics[name].float() for name in names])), strict=True))

    def gather(self, values: Tensor) -> Tensor:
        """The learners' values, of the same shape everywhere, one after the other along the first axis."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Give all learners the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def agree(self, order: Order = Order.WAIT) -> Order:
        """The first learner's order, which the others wait for."""
        if self.size == 1:
            return order
        told = torch.tensor([int(order)])
        dist.broadcast(told, 0)
        return Order(int(told))

    def check_same(self, value: int, what: str) -> None:
        """Wait for all learners, and see whether they begin alike. Raises: ValueError."""
        values = self.gather(torch.tensor([value])).tolist()
        if len(set(values)) > 1:
            raise ValueError(
                f"the learners' {what} differ: {', '.join(map(str, values))}; they need the same run folder on a "
                "common disk"
            )

    def seed(self, seed: int, *more: int) -> int:
        """A seed of this learner's own; the first one keeps the given one."""
        if self.rank == 0:
            return seed
        return int(np.random.SeedSequence([seed, self.rank, *more]).generate_state(1)[0] % 2**31)

    def device(self) -> torch.device:
        """The processor of this learner: a GPU of its own where there are any."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if self.size == 1:
            return torch.device("cuda")
        return torch.device("cuda", dist.get_node_local_rank())  # pyright: ignore[reportPrivateImportUsage]


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun started; alone without torchrun."""
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    gpus = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        if gpus:
            torch.cuda.set_device(ranks.device())
        yield ranks
    finally:
        dist.destroy_process_group()
