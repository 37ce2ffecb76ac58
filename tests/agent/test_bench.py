"""The command that says what a frame costs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent.model import bench
from agent.model.__main__ import main
from agent.model.bev_grid import BevGrid
from tests.agent.synthetic import save_agent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest driving network."""
    return save_agent(tmp_path_factory.mktemp("bench") / "w").parent


def test_the_clone_and_the_six_cells_are_printed(weights: Path, capsys: pytest.CaptureFixture):
    threads = torch.get_num_threads()
    assert main(["bench", "--models", "clone", "--device", "cpu", "--repeats", "1", "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    for part in ("backbone and pyramid", "encoder", "neck", "world model", "policy"):
        assert f"{part} " in out
    privileged, raw = out.splitlines()[-2:]
    for line, name in ((privileged, "privileged stream"), (raw, "raw sensor stream")):
        assert line.startswith(name)
        times_ms = [float(cell) for cell in re.findall(r"([\d.]+) ms \(", line)]
        assert len(times_ms) == 3
        assert min(times_ms) > 0.0
    assert torch.get_num_threads() == threads


def test_large_models_are_counted_on_a_cpu(capsys: pytest.CaptureFixture):
    assert main(["bench", "--models", "b2d-tiny", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "not timed on a CPU" in out
    assert "31.9 M parameters" in out


def test_counts_are_those_of_the_published_networks():
    settings = bench.Settings(torch.device("cpu"), torch.float32, False, 1, False, bench.CLONE_WEIGHTS)
    tiny = bench.count_official("tiny", settings)
    # 4.1 G multiply-adds of ResNet-50 at 224 x 224, for six images of 480 x 800 (He et al. 2015: 3.8 to 4.1).
    assert tiny.backbone_gflop == pytest.approx(2 * 4.1 * 6 * 480 * 800 / 224**2, rel=0.05)
    # One layer's projections, attention inputs and perceptron for 2500 cells, and 2250 image tokens, by hand.
    cell = 512 * 192 + 256 * 192 + 2 * 256**2 + 2 * 256**2 + 2 * 256 * 512
    assert tiny.encoder_gflop == pytest.approx(3 * 2 * (2500 * cell + 2250 * 256**2) / 1e9)


def test_parts_of_an_official_encoder_are_timed(monkeypatch: pytest.MonkeyPatch):
    """With images and a grid a tenth of the size."""
    tiny = bench.OFFICIAL_MODELS["tiny"]
    small = replace(tiny, grid=BevGrid(6, 5, tiny.grid.range_m), image_hw=(64, 96))
    monkeypatch.setitem(bench.OFFICIAL_MODELS, "tiny", small)
    settings = bench.Settings(torch.device("cpu"), torch.bfloat16, False, 1, False, bench.CLONE_WEIGHTS)
    parts = bench.time_official("tiny", settings)
    assert list(parts) == ["backbone", "pyramid", "align", "values", "temporal", "spatial", "ffn"]
    assert all(value > 0.0 for value in parts.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "huge"],
        ["--device", "abacus"],
        ["--device", "meta"],
        ["--device", "cuda:99"],
        ["--repeats", "0"],
        ["--models", "clone", "--device", "cpu", "--weights", "/nowhere"],
    ],
)
def test_impossible_measurements_give_one_clear_line(arguments: list[str], capsys: pytest.CaptureFixture):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_commands_are_listed(capsys: pytest.CaptureFixture):
    assert main(["--help"]) == 0
    assert "convert" in capsys.readouterr().out
    assert main(["unknown"]) == 2
