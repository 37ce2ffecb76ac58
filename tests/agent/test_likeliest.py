"""Dreams in NumPy are those of the tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agent.base_plan import Planner, base_plans, feature_width, imagined_actions
from agent.driver import load_model
from agent.model.likeliest import LikeliestDream, can_dream
from agent.model.raw_model import RawActorConfig, RawModel, RawModelConfig
from agent.model.rssm import RssmConfig
from agent.motion import start_state

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "raw"
SMALL = RawModelConfig(
    rssm=RssmConfig(deter=16, groups=4, classes=8, hidden=16, action_input=True, prior_layers=2),
    actor=RawActorConfig(units=16, layers=2, unimix=0.05),
)


def model_of(norm: Literal["layer", "rms"]) -> RawModel:
    """Random weights everywhere, biases and norms included, so strong that actions change."""
    torch.manual_seed(3)
    model = RawModel(replace(SMALL, rssm=replace(SMALL.rssm, norm=norm)))
    for part in (model.rssm, model.actor):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    return model.eval().requires_grad_(False)


def states(model: RawModel, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rssm = model.config.rssm
    classes = torch.randint(0, rssm.classes, (count, rssm.groups), generator=generator)
    deter = torch.tanh(torch.randn(count, rssm.deter, generator=generator))
    stoch = F.one_hot(classes, rssm.classes).flatten(1)
    seen = torch.randn(count, feature_width(model) - rssm.deter - rssm.stoch, generator=generator)
    return torch.cat([deter, stoch, seen], 1)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("choice", ["greedy", "pedal_first"])
def test_a_dream_takes_the_same_actions(
    norm: Literal["layer", "rms"], choice: Literal["greedy", "pedal_first"]
) -> None:
    model = model_of(norm)
    dream = LikeliestDream(model)
    rows, different = states(model, 40), set()
    for row in rows:
        mine = dream.actions(row.numpy(), 5, 30, choice)
        theirs = imagined_actions(model, row[None], torch.tensor([5]), choice)[0]
        assert mine.tolist() == theirs.tolist()
        different |= set(mine.tolist())
    assert len(different) > 5


def test_the_shipped_agent_plans_the_same_either_way() -> None:
    """Rounding may part two dreams where two classes are as good as equal; of twenty hardly one."""
    model = load_model(WEIGHTS, "cpu")
    assert isinstance(model, RawModel) and can_dream(model)
    start = start_state(8.0, 0.3, 0.02)[None]
    planner, rows = Planner(model), states(model, 20)
    mine = np.concatenate([planner.plan(row[None], 5, start) for row in rows])
    theirs = base_plans(model, rows, torch.full((20,), 5), np.repeat(start, 20, 0))
    assert feature_width(model) == rows.shape[1]
    assert (np.abs(mine - theirs).reshape(20, -1).max(1) < 1e-9).sum() >= 18


def test_another_recurrence_is_left_to_tensors() -> None:
    rssm = replace(SMALL.rssm, recurrence="block_gru", blocks=4, norm="rms", start="zeros")
    model = RawModel(replace(SMALL, rssm=rssm)).eval().requires_grad_(False)
    assert not can_dream(model)
    with pytest.raises(TypeError, match="block_gru"):
        LikeliestDream(model)
    start, row = start_state(8.0, 0.3, 0.02)[None], states(model, 1)
    assert np.array_equal(Planner(model).plan(row, 5, start), base_plans(model, row, torch.tensor([5]), start))
