"""One decision on fixed memory: what a CUDA graph can record once and replay, without a launch per operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from agent.model.driving_model import DrivingModel, ModelInput, ModelState
from agent.model.raw_model import RawModel
from agent.model.rssm import LatentState

WARM_UP_RUNS = 3
"""Libraries pick their kernels in the first runs, which must not be recorded."""
GRAPH_TOLERANCE = 1e-2
"""Largest difference of a replayed logit from the same operations one by one; kernels may differ, weights may not."""


class FixedStep:
    """`DrivingModel.act` for one car, reading from and writing to the same memory every time."""

    def __init__(
        self, model: DrivingModel | RawModel, inputs: ModelInput, state: ModelState, previous_action: Tensor | None
    ) -> None:
        """The arguments are copied; they say what later ones look like. Runs op by op until `record`."""
        self._model = model
        device = model.neck.centres_m.device
        self._buffers = [value.to(device, copy=True) for value in _tensors(inputs, state, previous_action)]
        self._has_previous, self._has_seen = previous_action is not None, state.seen is not None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: list[Tensor] = []

    def __call__(
        self, inputs: ModelInput, state: ModelState, previous_action: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        """As `DrivingModel.act`; the results are copies, so they outlive the next call."""
        for buffer, value in zip(self._buffers, _tensors(inputs, state, previous_action), strict=True):
            buffer.copy_(value, non_blocking=True)
        if self._graph is None:
            self.run()
        else:
            self._graph.replay()
        logits, *carried = (output.clone() for output in self._outputs)
        return logits, _state(carried)

    def run(self) -> None:
        """The recorded part: no copy from or to the host, no wait for the device, shapes that never change."""
        count = len(fields(ModelInput))
        logits, state = self._model.act(
            ModelInput(*self._buffers[:count]),
            _state(self._buffers[count : count + 4 + int(self._has_seen)]),
            self._buffers[-1] if self._has_previous else None,
        )
        self._outputs = [logits, *_state_tensors(state)]

    def record(self) -> None:
        """Record the graph and compare it with the single operations.

        Raises: RuntimeError where the device cannot, or if the results differ.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        expected = self._outputs[0].clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.run()
        graph.replay()
        difference = float((self._outputs[0] - expected).abs().max())
        if not difference <= GRAPH_TOLERANCE:
            raise RuntimeError(f"the recorded graph's logits differ from the single operations' by {difference:.1e}")
        self._graph = graph


def _tensors(inputs: ModelInput, state: ModelState, previous_action: Tensor | None) -> list[Tensor]:
    values = [getattr(inputs, field.name) for field in fields(ModelInput)]
    values += _state_tensors(state)
    return values if previous_action is None else [*values, previous_action]


def _state_tensors(state: ModelState) -> list[Tensor]:
    values = [state.latent.deter, state.latent.stoch, state.memory, state.has_memory]
    return values if state.seen is None else [*values, state.seen]


def _state(tensors: Sequence[Tensor]) -> ModelState:
    deter, stoch, *others = tensors
    return ModelState(LatentState(deter, stoch), *others)
