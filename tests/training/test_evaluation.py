"""Evaluation on fixed routes: expert and an untrained policy drive, results are kept, bad input is told in a line."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import carla
import numpy as np
import pytest

from agent import config as configs
from agent.checkpoint import CheckpointError, save_checkpoint
from eval.generate import generate_routes
from eval.metrics.compare import compare_runs
from eval.metrics.records import read_runs
from eval.results import read_records
from eval.routes import read_routes, write_routes
from eval.scenarios.registry import BENCH2DRIVE_TYPES
from simulator.towns.generate import generate
from tests.training.privileged import debug_config
from training import __main__ as command
from training.evaluation.drivers import candidates, load_policy, make_driver
from training.evaluation.run import ROUTES, EvaluationConfig, evaluate
from training.learner import Learner

TOWN = "Gen02"


def save_policy(folder: Path, *, seed: int = 4, vector: int = 35) -> Path:
    """An untrained policy as a training run saves it, in several files."""
    learner = Learner(debug_config("paper", vector=vector), seed=seed)
    tensors = {key: value for key, value in learner.tensors().items() if key.startswith(("model.", "policy."))}
    plain = configs.to_plain(learner.config)
    save_checkpoint(folder, plain, tensors, step=7, created_by="a test", max_file_bytes=100_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short routes and a policy."""
    folder = tmp_path_factory.mktemp("evaluation")
    carla_map = carla.Map(TOWN, generate(2))
    write_routes(generate_routes(carla_map, 2, seed=3, town=TOWN, min_length_m=60.0, min_turns=0), folder / "r.xml")
    save_policy(folder / "model")
    return folder


def drive_both(folder: Path, **changes: Any) -> dict[str, Any]:
    drivers = ("expert", f"policy={folder / 'model'}")
    config = EvaluationConfig(drivers=drivers, routes=folder / "r.xml", traffic=2, workers=1, max_game_s=4.0)
    return evaluate(replace(config, **changes), folder / "out")


def test_drives_once_and_compares(folder: Path) -> None:
    first = drive_both(folder)
    assert first["server"] == "embedded" and list(first["drivers"]) == ["expert", "policy"]
    policy = first["drivers"]["policy"]
    assert policy["drives"] == 2 and policy["weights_step"] == 7 and policy["actions"] == "greedy"
    expert = first["drivers"]["expert"]
    assert expert["route_completion_percent"] > policy["route_completion_percent"]
    assert expert["driven_km"] > 0.01 and expert["success_wilson_95_percent"][1] <= 100.0
    journals = {path: path.read_bytes() for path in (folder / "out").glob("*/results.jsonl")}
    assert len(journals) == 2

    second = drive_both(folder, sampled=True, baseline="policy")
    assert list(second["drivers"]) == ["expert", "policy", "policy_sampled"]
    assert {path: path.read_bytes() for path in journals} == journals, "what was driven is kept"
    assert second["compared"]["expert"]["differences"]["driving_score_percent"]["difference"] > 0.0
    own = [folder / "out" / name for name in ("expert", f"policy-{policy['weights_sha256'][:8]}")]
    comparison = compare_runs(read_runs(own[1:]), read_runs(own[:1]))
    assert comparison.pairs == 2
    told = second["compared"]["expert"]["differences"]["driving_score_percent"]
    assert comparison.differences["driving_score_percent"].difference == pytest.approx(told["difference"])
    records = [record for path in own for record in read_records(path / "results.jsonl")]
    assert all(record.provenance["server"] == "embedded" and record.decided for record in records)
    text = (folder / "out" / "summary.md").read_text(encoding="utf-8")
    assert "not on CARLA" in text and "| **all** | " in text and "| minus policy" in text
    assert json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8")) == second


def test_other_weights_are_another_driver(tmp_path: Path) -> None:
    path = save_policy(tmp_path / "model")
    (before,) = candidates([f"policy={path}"], tmp_path / "store", sampled=False)
    (same,) = candidates([f"policy={path}"], tmp_path / "store", sampled=False)
    save_policy(path, seed=5)
    (after,) = candidates([f"policy={path}"], tmp_path / "store", sampled=False)
    assert before == same and before.folder != after.folder
    assert before.weights is not None and after.weights is not None
    kept, new = (load_policy(candidate.weights).state_dict() for candidate in (before, after))
    assert any(not np.array_equal(kept[name], new[name]) for name in kept), "the copy is of the weights of its time"


def test_the_fixed_routes() -> None:
    """A hundred routes, as even over types and towns as can be, with one scenario each."""
    routes = read_routes(ROUTES)
    kinds = Counter(route.scenarios[0].type for route in routes)
    assert len(routes) == 100 and all(len(route.scenarios) == 1 for route in routes)
    assert set(BENCH2DRIVE_TYPES) - set(kinds) == {"CrossingBicycleFlow"} and set(kinds.values()) == {2, 3}
    assert set(Counter(route.town for route in routes).values()) <= set(range(11, 15))
    assert all(route.town.startswith("Town") for route in routes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"drivers": "nobody"}, "--drivers 'nobody' is not known"),
        ({"drivers": "blind=x"}, "--drivers 'blind=x' is not known"),
        ({"drivers": "expert,expert"}, "--drivers names expert twice"),
        ({"drivers": ","}, "--drivers is empty"),
        ({"drivers": "policy=/nowhere"}, "/nowhere: no such checkpoint folder"),
        ({"baseline": "policy"}, "--baseline policy is none of the drivers"),
        ({"seeds": "0"}, "--seeds and --workers must be at least 1"),
        ({"max-game-s": "nan"}, "--max-game-s must be positive"),
        ({"routes": "/nowhere.xml"}, "/nowhere.xml: no such route file"),
        ({"routes": str(ROUTES)}, "no map of Town01"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path,
    arguments: dict[str, str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = {"drivers": "expert", "routes": str(folder / "r.xml"), "out": str(folder / "bad"), **arguments}
    line = [part for name, value in chosen.items() for part in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["training", "evaluate", *line])
    assert command.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and expected in error


def test_unfit_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="12 numbers"):
        load_policy(save_policy(tmp_path / "other", vector=12))
    altered = save_policy(tmp_path / "altered")
    path = max(altered.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="sha256"):
        candidates([f"policy={altered}"], tmp_path / "store", sampled=False)
    assert not any((tmp_path / "store").iterdir())


def test_sampled_drives_can_be_repeated(folder: Path, tmp_path: Path) -> None:
    """The actions depend on weights, route and seed alone, not on the drives before."""
    (_, sampled) = candidates([f"policy={folder / 'model'}"], tmp_path, sampled=True)
    route = read_routes(folder / "r.xml")[0]

    def actions(seed: int) -> list[int]:
        policy = make_driver(sampled, route, seed)._policy
        observation = {"words": np.zeros((16, 16), np.uint64), "vector": np.zeros(35, np.float32)}
        return [policy.act(observation) for _ in range(12)]

    assert actions(1) == actions(1) != actions(2)
