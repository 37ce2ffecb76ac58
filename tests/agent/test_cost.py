"""Operations and bytes that are counted for want of a device."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from agent.model import bench, cost
from agent.model.__main__ import main
from agent.model.official import OFFICIAL_MODELS
from tests.agent.synthetic import save_agent


def test_operations_read_their_inputs_and_write_their_outputs():
    a, b = torch.empty(4, 8, device="meta"), torch.empty(8, 2, device="meta")
    counted, _ = cost.cost(lambda: (a @ b).t().reshape(8))  # a product, a view, and a copy that straightens it
    assert counted.kernels == 2
    assert counted.gflop == pytest.approx(2 * 4 * 8 * 2 / 1e9)
    assert counted.gigabytes == pytest.approx(4 * (32 + 16 + 8 + 8 + 8) / 1e9)
    broadcast, _ = cost.cost(lambda: a + torch.empty(1, device="meta").expand(4, 8))
    assert broadcast.gigabytes == pytest.approx(4 * (32 + 32 + 1) / 1e9)


def test_a_gather_reads_the_rows_it_names_and_not_the_table():
    table = torch.empty(1000, 16, device="meta")
    rows = torch.empty(5, 3, dtype=torch.int32, device="meta")
    shares = torch.empty(5, 3, device="meta")
    counted, _ = cost.cost(lambda: functional.embedding_bag(rows, table, mode="sum", per_sample_weights=shares))
    assert 15 * (64 + 4) + 5 * 64 <= 1e9 * counted.gigabytes < 15 * (64 + 4) + 5 * 64 + 200


def test_counts_agree_with_the_closed_form():
    settings = bench.make_settings("cpu", repeats=1)
    parts = cost.cost_of_official(OFFICIAL_MODELS["tiny"], torch.float32)
    expected = bench.count_official("tiny", settings)
    assert parts["backbone and pyramid"].gflop == pytest.approx(expected.backbone_gflop, rel=0.01)
    assert parts["encoder"].gflop == pytest.approx(expected.encoder_gflop, rel=0.1)
    assert parts["encoder"].gigabytes > expected.sampled_gb


def test_the_table_names_every_part_and_its_sum(tmp_path: Path, capsys: pytest.CaptureFixture):
    weights = save_agent(tmp_path / "w").parent
    assert main(["count", "--models", "clone,r50", "--weights", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(("| clone", "| r50"))]
    parts = ["backbone and pyramid", "encoder", "neck", "world model", "policy", "all"]
    assert [row[1] for row in rows] == parts + parts
    for model in (rows[:6], rows[6:]):
        kernels = [int(row[2]) for row in model]
        assert sum(kernels[:-1]) == kernels[-1]
    assert main(["count", "--models", "huge"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
