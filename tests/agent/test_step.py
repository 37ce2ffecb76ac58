"""The decision on fixed memory that a GPU records as a graph; what can be known about it without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agent.decider import Decider, DeciderConfig
from agent.driver import load_model
from agent.model.driving_model import DrivingModel, ModelInput
from agent.model.rig import BENCH2DRIVE_RIG
from agent.model.step import FixedStep
from agent.observation import IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX
from tests.agent.synthetic import tiny_model_config

CAMERAS = len(BENCH2DRIVE_RIG.mounts)


def inputs_at(seed: int, *, first: bool = False) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    size = (1, CAMERAS, 3, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX)
    return ModelInput(
        images=torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        camera_valid=torch.rand(1, CAMERAS, generator=generator) > 0.2,
        ego_motion=0.3 * torch.randn(1, 3, generator=generator),
        route=30.0 * torch.randn(1, 8, 2, generator=generator),
        vector=torch.randn(1, 18, generator=generator),
        first=torch.tensor([first]),
    )


def make_model(*, action_input: bool = False) -> DrivingModel:
    torch.manual_seed(0)
    config = tiny_model_config()
    config = replace(config, rssm=replace(config.rssm, action_input=action_input))
    return DrivingModel.build(config).eval().requires_grad_(False)


@pytest.mark.parametrize("action_input", [False, True])
def test_fixed_memory_gives_what_act_gives(action_input: bool):
    model = make_model(action_input=action_input)
    previous = torch.nn.functional.one_hot(torch.tensor([7]), 39).float() if action_input else None
    state, expected_state = model.initial(1), model.initial(1)
    step = FixedStep(model, inputs_at(0), state, previous)
    kept = []
    for seed in range(5):
        inputs = inputs_at(seed, first=seed in (0, 3))
        logits, state = step(inputs, state, previous)
        expected, expected_state = model.act(inputs, expected_state, previous)
        kept.append((logits, state, expected, expected_state))
    for logits, state, expected, expected_state in kept:  # results outlive later calls
        assert torch.equal(logits, expected)
        assert torch.equal(state.memory, expected_state.memory)
        assert torch.equal(state.latent.deter, expected_state.latent.deter)
        assert bool(state.has_memory.all())


class NothingFromTheHost(TorchDispatchMode):
    """Fails on what a CUDA graph cannot record: copies from or to the host, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        for value in (*args, *(kwargs or {}).values()):
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                    raise AssertionError(f"{func} takes a tensor of the host, {tuple(tensor.shape)}")
        by_numbers = func is torch.ops.aten.index.Tensor and not any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if waits and not by_numbers:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_what_is_recorded_never_touches_the_host():
    """On the meta device every tensor that is not on it comes from the host."""
    model = make_model().to("meta")
    on_meta = ModelInput(*(getattr(inputs_at(0), name).to("meta") for name in ModelInput.__slots__))
    step = FixedStep(model, on_meta, model.initial(1), None)
    step.run()  # as before recording: constants are made once
    with NothingFromTheHost() as watched:
        step.run()
    assert watched.operations > 100


def test_the_watch_sees_a_copy_from_the_host_and_a_wait_for_the_device():
    with pytest.raises(AssertionError, match="takes a tensor of the host"), NothingFromTheHost():
        torch.empty(2, device="meta").add_(torch.tensor([1.0, 2.0]).to("meta"))
    with pytest.raises((AssertionError, RuntimeError)), NothingFromTheHost():
        torch.empty(2, device="meta").nonzero()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_recording_is_refused_and_the_network_runs_op_by_op(
    random_agent: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    model = load_model(random_agent.parent, "cpu")
    with pytest.raises(RuntimeError):
        FixedStep(model, inputs_at(0), model.initial(1), None).record()
    arrays = {name: getattr(inputs_at(0, first=True), name)[0].numpy() for name in ModelInput.__slots__}
    eager, recording = Decider(model, DeciderConfig()), Decider(model, DeciderConfig())
    monkeypatch.setattr(recording, "_records", True)
    assert torch.equal(eager.decide(arrays, None).logits, recording.decide(arrays, None).logits)
    assert torch.equal(eager.decide(arrays, None).logits, recording.decide(arrays, None).logits)
    assert sum("no CUDA graph" in message for message in caplog.messages) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_graph_decides_as_single_operations_do():
    model = make_model().to("cuda")
    state = model.initial(1)
    step = FixedStep(model, inputs_at(0), state, None)
    step.record()
    expected_state = state
    for seed in range(4):
        logits, state = step(inputs_at(seed), state, None)
        on_gpu = ModelInput(*(getattr(inputs_at(seed), name).cuda() for name in ModelInput.__slots__))
        expected, expected_state = model.act(on_gpu, expected_state)
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0.0)
