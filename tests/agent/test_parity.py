"""The parity command, on the official encoder's recorded outputs and on damaged copies of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.model.bev_grid import RigGeometry
from agent.model.bevformer import BEVFormer
from agent.model.parity import TOLERANCE, compare, main
from agent.model.parity_cases import load_reference

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(shared_dir: Path) -> tuple[Path, Path]:
    folder = shared_dir / "bevformer"
    return folder / "reference_encoder.safetensors", folder / "reference_encoder.json"


@pytest.fixture(scope="module")
def small(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """Tensors and JSON of the first case's first frame only."""
    tensors = {name: value for name, value in load_file(files[0]).items() if name.startswith("tiny/")}
    cases = {"cases": {"tiny": json.loads(files[1].read_text())["cases"]["tiny"] | {"frames": 1}}}
    return tensors, cases


def write(folder: Path, tensors: dict[str, torch.Tensor], cases: Any) -> list[str]:
    save_file(tensors, folder / "reference.safetensors")
    (folder / "reference.json").write_text(json.dumps(cases))
    return [str(folder / "reference.safetensors"), str(folder / "reference.json")]


@pytest.mark.timeout(600)  # seconds of work, minutes on a starved machine
def test_encoder_equals_every_recorded_case(files: tuple[Path, Path]):
    reference = load_reference(*files)
    with torch.no_grad():
        differences = list(compare(reference))
    assert len(differences) == 2 * sum(case.frames for case in reference.cases)
    assert max(difference.largest for difference in differences) <= TOLERANCE
    assert all(bool(difference.remark) == (difference.case == "tiny_bs2") for difference in differences)


@pytest.mark.timeout(600)  # seconds of work, minutes on a starved machine
def test_backbone_equals_every_recorded_case(shared_dir: Path):
    folder = shared_dir / "bevformer"
    reference = load_reference(folder / "reference_backbone.safetensors", folder / "reference_backbone.json")
    with torch.no_grad():
        assert max(difference.largest for difference in compare(reference)) <= TOLERANCE


@pytest.mark.parametrize("path", ["static", "plain"])
def test_inner_results_equal_the_recorded_ones(files: tuple[Path, Path], path: str):
    reference = load_reference(*files)
    case = next(case for case in reference.cases if case.name == "tiny")
    encoder = BEVFormer(case.config, path)
    reference.load_state(encoder, "tiny/state/pts_bbox_head.")
    geometry = RigGeometry(case.config.grid, reference.tensor("tiny/in/lidar2img"), case.image_hw)
    memory = None
    for frame in range(2):
        taps: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            memory = encoder(
                [reference.tensor(f"tiny/in/frame{frame}.feat0")],
                reference.tensor(f"tiny/in/frame{frame}.can_bus"), geometry, memory, taps=taps,
            )  # fmt: skip
        for name, values in taps.items():
            for layer, value in enumerate(values):
                expected = reference.tensor(f"tiny/mid/frame{frame}.layer{layer}.{name}")
                torch.testing.assert_close(value, expected, atol=1e-4, rtol=0.0)


@pytest.mark.timeout(600)  # seconds of work, minutes on a starved machine
def test_command_reports_every_frame(files, small, tmp_path: Path):
    finished = subprocess.run(
        [sys.executable, "-m", "agent.model.parity", *write(tmp_path, *small)],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "tiny" in finished.stdout and "frame 0" in finished.stdout and "within" in finished.stdout


@pytest.mark.parametrize("change", [1e-3, float("inf")])
def test_a_difference_fails(small, tmp_path: Path, change: float, capsys: pytest.CaptureFixture):
    tensors, cases = dict(small[0]), small[1]
    weights = "tiny/state/pts_bbox_head.bev_embedding.weight"
    if change == float("inf"):
        tensors[weights] = torch.full_like(tensors[weights], 3e38)
    else:
        tensors["tiny/out/frame0.bev"] = tensors["tiny/out/frame0.bev"] + change
    assert main(write(tmp_path, tensors, cases)) == 1
    assert "ABOVE" in capsys.readouterr().out


def _without(mapping: dict, key: str) -> dict:
    return {name: value for name, value in mapping.items() if name != key}


def _case(cases: dict, **changes: object) -> dict:
    return {"cases": {"tiny": cases["cases"]["tiny"] | changes}}


DAMAGES = {
    "tensor missing": lambda t, c: (_without(t, "tiny/in/frame0.can_bus"), c),
    "weight missing": lambda t, c: (_without(t, "tiny/state/pts_bbox_head.bev_embedding.weight"), c),
    "unknown weight": lambda t, c: (t | {"tiny/state/pts_bbox_head.more": torch.zeros(1)}, c),
    "output misshapen": lambda t, c: (t | {"tiny/out/frame0.bev": torch.zeros(1, 3, 256)}, c),
    "output not finite": lambda t, c: (t | {"tiny/out/frame0.bev": torch.full((1, 400, 256), float("nan"))}, c),
    "no cases": lambda t, c: (t, {"cases": {}}),
    "a list": lambda t, c: (t, [1, 2]),
    "case is no object": lambda t, c: (t, {"cases": {"tiny": 3}}),
    "field missing": lambda t, c: (t, {"cases": {"tiny": _without(c["cases"]["tiny"], "bev_h")}}),
    "field is text": lambda t, c: (t, _case(c, bev_h="20")),
    "field is huge": lambda t, c: (t, _case(c, num_layers=10**9)),
    "another grid": lambda t, c: (t, _case(c, bev_h=21)),
    "empty range": lambda t, c: (t, _case(c, pc_range=[0, 0, 0, 0, 0, 0])),
    "short range": lambda t, c: (t, _case(c, pc_range=[0, 0])),
    "heads do not divide": lambda t, c: (t, _case(c, num_heads=7)),
    "more frames than recorded": lambda t, c: (t, _case(c, frames=4)),
    "levels wrong": lambda t, c: (t, _case(c, levels_hw=[[6]])),
    "unknown backbone": lambda t, c: (t, _case(c, style="other")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_give_one_clear_line(small, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture):
    assert main(write(tmp_path, *DAMAGES[damage](*small))) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "reference." in message


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b'{"cases": ', b"[" * 100_000])
@pytest.mark.parametrize("which", [0, 1])
def test_broken_files_give_one_clear_line(small, tmp_path: Path, which: int, content: bytes, capsys):
    paths = write(tmp_path, *small)
    Path(paths[which]).write_bytes(content)
    assert main(paths) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_missing_files_give_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
