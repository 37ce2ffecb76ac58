"""The raw stream's agent: its map shows the ground the masks show, its ego vector the fields the masks' stream has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agent.actions import ACTIONS
from agent.ego_vector import COMMAND_AHEAD_M, FIELDS, MANOEUVRE_SIZE, SEEN_SIZE, manoeuvre
from agent.model.driving_model import ModelInput, cell_centres_m, small_encoder
from agent.model.front_view import FRONT, FrontViewConfig
from agent.model.raw_model import (
    RawModel,
    RawModelConfig,
    RawNeckConfig,
    canvas_centres_m,
    ego_vector,
    sampling_grid,
    seen_columns,
)
from agent.model.rssm import RssmConfig
from agent.route import ROUTE_POINTS, VECTOR_SIZE, Command, RouteView

MAX_PARAMETERS = 6_000_000


@pytest.fixture(name="model", scope="module")
def _model() -> RawModel:
    torch.manual_seed(0)
    return RawModel(RawModelConfig(rssm=RssmConfig(groups=32, classes=16, action_input=True))).eval()


def inputs(seed: int = 0, *, first: bool = False) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    return ModelInput(
        images=torch.randint(0, 255, (1, 6, 3, 128, 224), dtype=torch.uint8, generator=generator),
        camera_valid=torch.ones(1, 6, dtype=torch.bool),
        ego_motion=torch.tensor([[0.5, 0.0, 0.01]]),
        route=20.0 * torch.randn(1, ROUTE_POINTS, 2, generator=generator),
        vector=torch.rand(1, VECTOR_SIZE + MANOEUVRE_SIZE, generator=generator),
        first=torch.tensor([first]),
    )


def test_it_has_at_most_six_million_parameters(model: RawModel) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) <= MAX_PARAMETERS


@pytest.fixture(name="looking", scope="module")
def _looking() -> RawModel:
    torch.manual_seed(0)
    rssm = RssmConfig(groups=32, classes=16, action_input=True)
    return RawModel(RawModelConfig(neck=RawNeckConfig(front=FrontViewConfig(), gaps=24), rssm=rssm)).eval()


def test_a_lamp_in_the_front_image_changes_what_is_seen_everywhere(looking: RawModel) -> None:
    assert sum(parameter.numel() for parameter in looking.parameters()) <= MAX_PARAMETERS
    action = torch.zeros(1, 39)

    def embedding(given: ModelInput) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():  # the same BEV features: only the closer look differs
            bev = torch.zeros(1, looking.config.encoder.grid.cells, looking.config.encoder.embed_dims)
            image, valid = given.images[:, FRONT], given.camera_valid[:, FRONT]
            sight = looking.neck(bev, given.route, given.vector, action, image, valid)
        return sight.embed[0], sight.seen[0]

    plain = inputs()
    red = replace(plain, images=plain.images.clone())
    red.images[0, FRONT, :, 30:33, 100:103] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    below = replace(plain, images=plain.images.clone())
    below.images[0, FRONT, :, 100:103, 100:103] = 0
    embed, seen = embedding(plain)
    embed_red, seen_red = embedding(red)
    cells = (embed != embed_red)[: looking.config.map_size].unflatten(0, (16, -1)).any(-1)
    assert cells.all() and (seen != seen_red).all()
    assert torch.equal(embedding(below)[0], embed)
    blind = [replace(one, camera_valid=torch.zeros(1, 6, dtype=torch.bool)) for one in (plain, red)]
    assert torch.equal(embedding(blind[0])[0], embedding(blind[1])[0])
    with pytest.raises(ValueError, match="front image"):
        looking.neck(torch.zeros(1, 384, 64), plain.route, plain.vector, action)


def test_the_closer_look_must_fit_the_images() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        FrontViewConfig(bottom_px=90)
    with pytest.raises(ValueError, match="448 columns"):
        RawModelConfig(neck=RawNeckConfig(front=FrontViewConfig(width_px=448)), rssm=RssmConfig(action_input=True))


def test_the_canvas_shows_the_ground_of_the_masks() -> None:
    centres_m = canvas_centres_m(RawNeckConfig())
    assert centres_m.shape == (32, 32, 2)
    torch.testing.assert_close(centres_m[0, 0], torch.tensor([44.0, 31.0]))  # ahead on the left
    torch.testing.assert_close(centres_m[-1, -1], torch.tensor([-18.0, -31.0]))


def test_the_canvas_reads_the_encoder_s_map_at_the_same_places() -> None:
    encoder = small_encoder()
    truth_m = cell_centres_m(encoder).permute(2, 0, 1)[None]
    centres_m = canvas_centres_m(RawNeckConfig())
    grid = sampling_grid(centres_m, encoder)
    read_m = F.grid_sample(truth_m, grid[None], align_corners=False)[0].permute(1, 2, 0)
    inner = (grid.abs() < 1.0 - 1.5 / 16).all(-1)
    assert int(inner.sum()) > 200
    torch.testing.assert_close(read_m[inner], centres_m[inner], atol=1e-4, rtol=1e-4)


def test_the_ego_vector_is_put_together_from_known_and_seen_fields() -> None:
    vector = torch.rand(2, VECTOR_SIZE + MANOEUVRE_SIZE)
    action = F.one_hot(torch.tensor([3, 17]), len(ACTIONS)).float()
    seen = torch.arange(2.0 * SEEN_SIZE).view(2, SEEN_SIZE)
    full = ego_vector(vector, action, seen)
    torch.testing.assert_close(full[:, FIELDS["speed"]], vector[:, :1])
    np.testing.assert_allclose(full[:, FIELDS["action"]].numpy(), ACTIONS[[3, 17]])
    torch.testing.assert_close(full[:, FIELDS["limit"]], seen[:, :1])
    torch.testing.assert_close(full[:, FIELDS["route"]], seen[:, 1:])
    torch.testing.assert_close(full[:, FIELDS["command"].start :], vector[:, VECTOR_SIZE:])
    torch.testing.assert_close(full[:, seen_columns(full.device)], seen)
    unknown = ego_vector(vector, torch.zeros_like(action), seen)
    assert not unknown[:, FIELDS["action"]].any()  # before the first action the car coasts


def view(points_m: list[tuple[float, float]], commands: list[Command]) -> RouteView:
    padded = points_m + [points_m[-1]] * (ROUTE_POINTS - len(points_m))
    told = commands + [commands[-1]] * (ROUTE_POINTS - len(commands))
    points = np.array(padded)
    return RouteView(points, points[1:3], told[1], told[0], tuple(told), float(np.linalg.norm(points[1])), False, False)


def test_the_manoeuvre_is_the_next_command_that_is_more_than_following() -> None:
    follow, left = Command.LANEFOLLOW, Command.LEFT
    seen = manoeuvre(view([(-5.0, 0.0), (20.0, 0.0), (50.0, 0.0), (50.0, 20.0)], [follow, follow, left, follow]))
    assert seen[:6].argmax() == follow and seen[6:12].argmax() == left and seen[:12].sum() == 2.0
    assert seen[12] == pytest.approx(50.0 / COMMAND_AHEAD_M)
    far = manoeuvre(view([(-5.0, 0.0), (30.0, 0.0), (70.0, 0.0)], [follow, follow, left]))
    assert not far[6:12].any() and far[12] == 1.0
    turning = manoeuvre(view([(-2.0, 0.0), (8.0, 8.0), (8.0, 30.0)], [left, follow, follow]))
    assert turning[:6].argmax() == left and not turning[6:12].any()


def test_a_lane_change_is_over_behind_its_last_point() -> None:
    change, follow = Command.CHANGELANELEFT, Command.LANEFOLLOW
    during = manoeuvre(view([(-1.0, 0.0), (1.0, 0.0), (40.0, 0.0)], [change, change, follow]))
    after = manoeuvre(view([(-8.0, 0.0), (30.0, 0.0)], [change, follow]))
    assert during[:6].argmax() == change and after[:6].argmax() == follow


def test_a_decision_is_deterministic_and_forgets_at_the_start_of_an_episode(model: RawModel) -> None:
    previous = F.one_hot(torch.tensor([5]), len(ACTIONS)).float()
    log_policy, state = model.act(inputs(), model.initial(1), torch.zeros(1, len(ACTIONS)))
    torch.testing.assert_close(log_policy.exp().sum(), torch.tensor(1.0))
    again, _ = model.act(inputs(1, first=True), state, previous)
    fresh, _ = model.act(inputs(1, first=True), model.initial(1), torch.zeros(1, len(ACTIONS)))
    torch.testing.assert_close(again, fresh)
    with pytest.raises(ValueError, match="previous action"):
        model.act(inputs(), model.initial(1))


def test_a_configuration_without_action_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rssm\.action_input"):
        RawModelConfig(rssm=replace(RssmConfig(), action_input=False))
