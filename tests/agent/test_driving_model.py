"""Shapes, size, speed and learning of the driving model."""

import math
import time

import pytest
import torch
import yaml

from agent import config as configs
from agent.actions import ACTIONS, FULL_BRAKE
from agent.model.driving_model import (
    AUXILIARY,
    AUXILIARY_SCALE,
    MASKS,
    DrivingModel,
    DrivingModelConfig,
    ModelInput,
    cell_centres_m,
    route_raster,
    small_encoder,
)
from agent.model.policy import pedal_first
from agent.route import ROUTE_POINTS, VECTOR_SIZE

MAX_PARAMETERS = 6_000_000
MAX_DECISION_S = 0.080


def make_input(*batch: int, seed: int = 0) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    return ModelInput(
        images=torch.randint(0, 256, (*batch, 6, 3, 128, 224), dtype=torch.uint8, generator=generator),
        camera_valid=torch.ones(*batch, 6, dtype=torch.bool),
        ego_motion=torch.rand(*batch, 3, generator=generator) * 0.1,
        route=torch.randn(*batch, ROUTE_POINTS, 2, generator=generator) * 20.0,
        vector=torch.randn(*batch, VECTOR_SIZE, generator=generator),
        first=torch.zeros(*batch, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def model() -> DrivingModel:
    torch.manual_seed(0)
    return DrivingModel.build(DrivingModelConfig())


def test_parameter_budget(model: DrivingModel) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) <= MAX_PARAMETERS


def test_config_survives_yaml() -> None:
    config = DrivingModelConfig()
    text = yaml.safe_dump(configs.to_plain(config))
    assert configs.parse(DrivingModelConfig, yaml.safe_load(text), "config.yaml") == config


def test_decision_is_deterministic_and_within_the_time_budget(model: DrivingModel) -> None:
    model.eval()
    inputs = make_input(1)
    durations = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time of one thread: waiting threads of a busy machine would be counted too
    for _ in range(5):
        start = time.process_time()
        logits, state = model.act(inputs, model.initial(1))
        durations.append(time.process_time() - start)
    torch.set_num_threads(threads)
    again, _ = model.act(inputs, model.initial(1))
    assert logits.shape == (1, 39)
    assert bool(state.has_memory.all())
    torch.testing.assert_close(logits, again)
    assert min(durations) <= MAX_DECISION_S


def test_first_forgets_the_past(model: DrivingModel) -> None:
    model.eval()
    inputs = make_input(1)
    _, state = model.act(make_input(1, seed=1), model.initial(1))
    carried, _ = model.act(inputs, state)
    fresh, _ = model.act(inputs, model.initial(1))
    restarted = ModelInput(
        inputs.images, inputs.camera_valid, inputs.ego_motion, inputs.route, inputs.vector, ~inputs.first
    )
    reset, _ = model.act(restarted, state)
    torch.testing.assert_close(reset, fresh)
    assert not torch.allclose(carried, fresh)


def test_sequence_shapes_and_gradients(model: DrivingModel) -> None:
    model.train()
    output = model(make_input(2, 2), model.initial(2), generator=torch.Generator().manual_seed(0))
    assert output.logits.shape == (2, 2, 39)
    assert output.masks.shape == (2, 2, len(MASKS), 48, 32)
    assert output.latent_masks.shape == (2, 2, len(MASKS), 12, 8)
    assert output.auxiliary.shape == (2, 2, len(AUXILIARY)) and len(AUXILIARY) == len(AUXILIARY_SCALE)
    outputs = (output.logits, output.masks, output.latent_masks, output.auxiliary, output.belief.prior)
    sum(value.float().square().mean() for value in outputs).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == ["encoder.neck.fpn_convs.2.conv.weight"] or missing == []
    model.zero_grad()


def test_sequence_equals_single_decisions(model: DrivingModel) -> None:
    """Filtering a sequence and deciding step by step see the same e_t (the latent sample aside)."""
    model.eval()
    inputs = make_input(1, 3)
    state = model.initial(1)
    with torch.no_grad():
        sequence = model(inputs, state).auxiliary
        for t in range(3):
            _, embed = model.see(inputs.at(t), state)
            torch.testing.assert_close(model.auxiliary_head(embed), sequence[:, t], rtol=1e-4, atol=1e-4)
            _, state = model.act(inputs.at(t), state)


def test_route_raster_follows_the_polyline() -> None:
    centres = cell_centres_m(small_encoder())
    assert centres.shape == (24, 16, 2)
    assert centres[0, 0].tolist() == [-7.0, 15.0], "row 0 is the rear, column 0 the left"
    route = torch.tensor([[[0.0, 0.0], [20.0, 0.0], *[[20.0, 20.0]] * 6]])
    raster = route_raster(route, centres, 3.0)[0, 0]
    for row in range(24):
        for column in range(16):
            x, y = centres[row, column].tolist()
            along = math.hypot(x - min(max(x, 0.0), 20.0), y)
            across = math.hypot(x - 20.0, y - min(max(y, 0.0), 20.0))
            expected = max(0.0, 1.0 - min(along, across) / 3.0)
            assert raster[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_overfits_a_tiny_batch() -> None:
    """A few updates on two frames give the labels back: gradients reach the policy through e_t."""
    torch.manual_seed(1)
    model = DrivingModel.build(DrivingModelConfig())
    inputs, labels = make_input(2, 1), torch.tensor([[3], [17]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    losses = []
    for step in range(12):
        output = model(inputs, model.initial(2), generator=torch.Generator().manual_seed(step))
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0], losses


def test_pedal_first_is_not_fooled_by_split_probability() -> None:
    """Brake 0.4 against throttle 0.7 with steer -0.1, 0 and 0.1 at 0.2 each: go, straight on."""
    probabilities = torch.full((39,), 1e-6)
    probabilities[FULL_BRAKE] = 0.4
    probabilities[4:7] = 0.2
    assert int(probabilities.argmax()) == FULL_BRAKE
    assert ACTIONS[pedal_first(probabilities.log())].tolist() == pytest.approx([0.7, 0.0, 0.0, 0.0])


def test_pedal_first_keeps_a_certain_action() -> None:
    for action in range(39):
        logits = torch.zeros(39)
        logits[action] = 30.0
        assert pedal_first(logits) == action
