"""A learner beside the first one, under torchrun: it replays its own windows whenever the first one does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from training.distributed import Order
from training.experience.batches import Batches, to_device
from training.learner import BaseLearner, NonFiniteUpdateError
from training.privileged.config import RunConfig

WAIT_S = 0.1


def follow(
    learner: BaseLearner,
    run: RunConfig,
    make_batches: Callable[[int], Batches],
    device: torch.device,
    sampler: dict[str, Any] | None,
) -> None:
    """Learn until the first learner says stop. make_batches: from a seed. sampler: the first one's state, of a
    checkpoint.

    Raises: ReplayError.
    """
    ranks = learner.ranks
    with make_batches(ranks.seed(run.seed, learner.updates)) as batches:
        if sampler is not None:  # the same segments, but draws of its own
            own = {"generator": batches.state()["generator"], "online": []}
            batches.sampler.restore(sampler | own)
        batches.sampler.turn = ranks.rank, ranks.size
        ready = False
        while (order := ranks.agree()) is not Order.STOP:
            if order is Order.WAIT:
                continue
            while not ready:  # a common disk may show segments here later than there
                ready = batches.refresh() > 0
                if not ready:
                    time.sleep(WAIT_S)
            batch = batches.next()
            try:
                metrics, state = learner.update(to_device(batch.replayed, device))
            except NonFiniteUpdateError:
                continue  # all learners skip it, and the first one keeps account
            batches.store(batch, state)
            if learner.updates % run.log_updates == 0:
                ranks.mean_metrics(metrics)
