"""Import of official checkpoints, from files written by torch.save with official names."""

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from agent.model.convert import ConversionError, convert, main
from agent.model.official import build_official

REPOSITORY = Path(__file__).resolve().parents[2]
EXTRA = {
    "pts_bbox_head.transformer.decoder.layers.0.norms.0.weight": torch.ones(256),
    "pts_bbox_head.query_embedding.weight": torch.ones(900, 512),
    "pts_bbox_head.code_weights": torch.ones(10),
    "motion_head.boxes.weight": torch.ones(3),
}


def official_state(name: str = "tiny") -> dict[str, torch.Tensor]:
    """Values under the official names of a model; cheap ones, as most of them."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in build_official(name).state_dict().items():
        small = value.is_floating_point() and value.numel() < 1_000_000
        state[key] = (
            torch.randn(value.shape, generator=generator) if small else torch.zeros(value.shape).to(value.dtype)
        )
    return state


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return official_state()


def saved(path: Path, document: Any, **options: Any) -> Path:
    torch.save(document, path, **options)
    return path


def test_mmdet3d_checkpoint_becomes_a_loadable_encoder(tiny, tmp_path: Path, capsys: pytest.CaptureFixture):
    document = {
        "meta": {
            "epoch": 24,
            "CLASSES": ("car", "truck"),
            "config": "model = dict(type='BEVFormer')",
            "hook_msgs": {"best_score": np.float64(0.354), "history": np.arange(3)},
        },
        "state_dict": OrderedDict(tiny | EXTRA),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4}]},
    }
    target = tmp_path / "tiny.safetensors"
    assert main([str(saved(tmp_path / "tiny.pth", document)), str(target)]) == 0
    out = capsys.readouterr().out
    assert "fits tiny" in out
    assert "motion_head.boxes (1 tensors)" in out
    state = load_file(target)
    build_official("tiny").load_state_dict(state, strict=True, assign=True)
    for key, value in tiny.items():
        assert torch.equal(state[key], value), key
    with safe_open(target, "pt") as file:
        assert file.metadata()["fits"] == "tiny"


@pytest.mark.parametrize("name", ["b2d-tiny", "small"])
def test_each_layout_is_recognised(name: str, tmp_path: Path):
    """Bench2DriveZoo's wrapped models too, and the old place of offset convolutions."""
    state = {
        f"module.{key.replace('conv2.conv_offset', 'conv2_offset')}": value
        for key, value in official_state(name).items()
    }
    fits, converted, _ = convert(saved(tmp_path / "m.pth", {"state_dict": state}), tmp_path / "m.safetensors")
    assert name in fits.split(",")
    assert set(converted) == set(build_official(name).state_dict())


def test_bare_old_format_and_half_precision_are_read(tiny, tmp_path: Path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in tiny.items()}
    path = saved(tmp_path / "m.pth", half, _use_new_zipfile_serialization=False)
    _, state, _ = convert(path, tmp_path / "m.safetensors", "tiny")
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    torch.testing.assert_close(state["img_backbone.conv1.weight"], half["img_backbone.conv1.weight"].float())


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_a_malicious_pickle_is_refused_in_one_line(tmp_path: Path, place: str, new_format: bool):
    trap = tmp_path / "executed"
    document = {"meta": {}, "state_dict": {"a": torch.zeros(1)}}
    document[place] = {**document[place], "evil": _Malicious(trap)}
    path = saved(tmp_path / "evil.pth", document, _use_new_zipfile_serialization=new_format)
    finished = subprocess.run(
        [sys.executable, "-m", "agent.model.convert", str(path), str(tmp_path / "out.safetensors")],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "system" in finished.stderr
    assert not trap.exists()
    assert not (tmp_path / "out.safetensors").exists()


DAMAGES: dict[str, Any] = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "an unknown class": b"\x80\x02ctorch\n_nothing\n.",
    "no tensors": {"state_dict": {}},
    "a list": [1, 2],
    "numbers for names": {"state_dict": {1: torch.zeros(1)}},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_unusable_files_give_one_clear_line(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture):
    path, content = tmp_path / "m.pth", DAMAGES[damage]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        saved(path, content)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "m.pth" in message


def test_truncated_and_missing_files_give_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = saved(tmp_path / "m.pth", {"state_dict": {"a": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:1500])
    for source in (path, tmp_path / "missing.pth", tmp_path):
        assert main([str(source), str(tmp_path / "out.safetensors")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "cams_embeds" not in k}, "missing pts_bbox_head.transformer.cams"),
        (lambda s: s | {"img_neck.more": torch.zeros(1)}, "unexpected img_neck.more"),
        (lambda s: s | {"img_backbone.bn1.bias": torch.zeros(3)}, "shape"),
        (lambda s: s | {"img_backbone.bn1.bias": torch.full((64,), float("nan"))}, "not finite"),
    ],
)
def test_other_models_are_refused(tiny, tmp_path: Path, change: Any, message: str):
    path = saved(tmp_path / "m.pth", {"state_dict": change(tiny)})
    with pytest.raises(ConversionError, match=message):
        convert(path, tmp_path / "out.safetensors", "tiny")


def test_a_target_that_cannot_be_written_gives_one_clear_line(tiny, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = saved(tmp_path / "m.pth", {"state_dict": tiny})
    assert main([str(path), str(tmp_path / "nowhere" / "out.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="choose one of tiny"):
        build_official("huge")
