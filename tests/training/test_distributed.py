"""Several learners against one: real processes that exchange gradients through gloo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from tests.training.experience import fill
from tests.training.frozen import arguments, events, learn
from tests.training.privileged import debug_config, random_batch
from tests.training.torchrun import SIZE, under_torchrun
from training.distributed import Order, Ranks
from training.learner import Learner
from training.policy.returns import ReturnScale
from training.presets import PrivilegedConfig, Recipe

UPDATES = 3
RECIPES: tuple[Recipe, ...] = ("paper", "strong")


def several(work: Callable[[Ranks, Path], None], folder: Path) -> None:
    """Run `work` as each of the learners."""
    mp.start_processes(_begin, (work, folder), nprocs=SIZE, start_method="spawn")  # pyright: ignore[reportPrivateImportUsage]


def _begin(rank: int, work: Callable[[Ranks, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=SIZE)
    work(Ranks(rank, SIZE), folder)
    dist.destroy_process_group()


def configured(recipe: Recipe) -> PrivilegedConfig:
    """With a planner that starts afresh before the last update."""
    config = debug_config(recipe, vector=35)
    return replace(config, tricks=replace(config.tricks, planner_resets=(UPDATES - 1,)))


def _learn(ranks: Ranks, folder: Path) -> None:
    saved: dict[str, Tensor] = {}
    for recipe in RECIPES:
        config = configured(recipe)
        learner = Learner(config, seed=5, ranks=ranks)
        learner.generator.manual_seed(7)  # the same noise, too
        learner.update(random_batch(config, 2, 6, seed=1))
        saved |= {f"{recipe}.same.{name}": value.clone() for name, value in learner.tensors().items()}
        learner.generator.manual_seed(ranks.seed(7))
        for seed in range(1, UPDATES):
            metrics, _ = learner.update(random_batch(config, 2, 6, seed=10 * seed + ranks.rank))
        saved |= {f"{recipe}.own.{name}": value.clone() for name, value in learner.tensors().items()}
        saved |= {f"{recipe}.mean.{name}": value for name, value in ranks.mean_metrics(metrics).items()}
        saved |= {f"{recipe}.metric.{name}": value for name, value in metrics.items()}
    half = debug_config("paper")
    model = Learner(half, seed=5).model
    batch = random_batch(half, 2, 6, seed=3)
    part = type(batch)(
        **{
            name: None if getattr(batch, name) is None else getattr(batch, name)[ranks.rank :][:1]
            for name in batch.__dataclass_fields__
        }
    )
    model.loss(part, mode=True).total.backward()
    ranks.average_gradients(model.parameters())
    saved |= {f"halves.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    scale = ReturnScale((0.05, 0.95), 0.5, debias=False)
    scale.ranks = ranks
    scale.update(torch.arange(30.0).view(2, 15)[ranks.rank])
    saved["scale"] = scale.averages
    order = ranks.agree(Order.LEARN if ranks.leads else Order.WAIT)
    saved["order"], saved["seed"] = torch.tensor(int(order)), torch.tensor(ranks.seed(3))
    try:
        ranks.check_same(ranks.rank, "updates")
    except ValueError as error:
        assert "updates differ: 0, 1" in str(error)
        saved["differs"] = torch.tensor(1)
    torch.save(saved, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each learner has at the end."""
    folder = tmp_path_factory.mktemp("learners")
    several(_learn, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def part(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_batch_twice_is_one_batch(results: list[dict[str, Tensor]], recipe: Recipe) -> None:
    config = configured(recipe)
    alone = Learner(config, seed=5)
    alone.generator.manual_seed(7)
    before = {name: value.clone() for name, value in alone.tensors().items()}
    alone.update(random_batch(config, 2, 6, seed=1))
    after = alone.tensors()
    assert any(not torch.equal(before[name], value) for name, value in after.items() if name.startswith("model."))
    for result in results:
        for name, value in part(result, f"{recipe}.same.").items():
            if "scale.averages" not in name:  # percentiles of the same values twice lie a little elsewhere
                torch.testing.assert_close(value, after[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_learners_with_batches_of_their_own_stay_the_same(results: list[dict[str, Tensor]], recipe: Recipe) -> None:
    """Bit for bit, optimisers included, after updates on other batches and noise and a planner that started afresh."""
    first, second = (part(result, f"{recipe}.own.") for result in results)
    assert not torch.equal(first.pop("generator"), second.pop("generator"))
    assert int(first["updates"]) == UPDATES
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    metrics = [part(result, f"{recipe}.metric.") for result in results]
    assert not torch.equal(metrics[0]["reward"], metrics[1]["reward"])
    for name, value in part(results[1], f"{recipe}.mean.").items():
        torch.testing.assert_close(value, (metrics[0][name] + metrics[1][name]) / 2)


def test_halves_of_a_batch_are_the_batch(results: list[dict[str, Tensor]]) -> None:
    config = debug_config("paper")
    model = Learner(config, seed=5).model
    model.loss(random_batch(config, 2, 6, seed=3), mode=True).total.backward()
    halves = part(results[0], "halves.")
    whole = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert halves.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=1e-5)


def test_returns_orders_and_seeds(results: list[dict[str, Tensor]]) -> None:
    scale = ReturnScale((0.05, 0.95), 0.5, debias=False)
    scale.update(torch.arange(30.0))
    for rank, result in enumerate(results):
        torch.testing.assert_close(result["scale"], scale.averages)
        assert Order(int(result["order"])) is Order.LEARN and bool(result["differs"])
        assert (int(result["seed"]) == 3) is (rank == 0)


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """Two learners on one replay write one run, which a single one goes on with."""
    fill(tmp_path / "replay", 40, 0, 1)
    told = under_torchrun(*arguments(tmp_path, config__updates="4"))
    assert told.count("stopped after 4 updates") == 1
    assert len(events(tmp_path, "start")) == len(events(tmp_path, "checkpoint")) == 1
    update = events(tmp_path, "update")[-1]
    assert update["update"] == 4 and update["drawn"] == 4 * SIZE * 2, "windows of both learners are counted"
    assert learn(tmp_path, updates=6) == 6
    assert [event["resumed"] for event in events(tmp_path, "start")] == [False, True]
