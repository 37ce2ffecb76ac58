"""Saving and loading: round trip, atomic replacement, newest valid one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agent import checkpoint
from agent.checkpoint import CheckpointError, latest_valid, load_checkpoint, read_manifest, save_checkpoint

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "half": torch.ones(3).half()}
CONFIG = {"model": {"width": 3, "names": ["a", "b"]}}


def save(folder: Path, step: int = 1, **state: torch.Tensor) -> Path:
    save_checkpoint(folder, CONFIG, {**STATE, **state}, step=step, created_by="tests")
    return folder


def test_round_trip(tmp_path: Path) -> None:
    config, state = load_checkpoint(save(tmp_path / "a", step=42))
    assert config == CONFIG
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in STATE.items())
    manifest = read_manifest(tmp_path / "a")
    assert (manifest["format"], manifest["step"], manifest["created_by"]) == (1, 42, "tests")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.safetensors",
    ]


def test_transposed_and_shared_tensors_are_saved_by_value(tmp_path: Path) -> None:
    _, state = load_checkpoint(save(tmp_path / "a", t=STATE["layer.weight"].T))
    assert torch.equal(state["t"], STATE["layer.weight"].T)


def test_large_states_are_split_and_read_back_strictly(tmp_path: Path) -> None:
    """No file is over the limit but that of a tensor which is larger alone; every part is needed, none is added."""
    state = {f"layer{k}.weight": torch.full((100,), float(k)) for k in range(7)} | {"large": torch.zeros(1000)}
    arguments = {"step": 5, "created_by": "tests", "extra_files": {"notes.json": "{}"}, "max_file_bytes": 2600}
    save_checkpoint(tmp_path / "a", CONFIG, state, **arguments)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "a").glob("*.safetensors"))]
    assert len(sizes) == 4 and max(sizes[:-1]) <= 2600 and 4000 < sizes[-1] < 4300
    config, read = load_checkpoint(tmp_path / "a")
    assert config == CONFIG and read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert read_manifest(tmp_path / "a")["format"] == 2

    manifest = tmp_path / "a" / checkpoint.MANIFEST_FILE
    text = manifest.read_text()
    one, two = (f"model-0000{k}-of-00004.safetensors" for k in (1, 2))
    files = json.loads(text)["files"]

    def error_with(**changed: Any) -> str:
        manifest.write_text(json.dumps({**json.loads(text), **changed}))
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(tmp_path / "a")
        return str(error.value)

    assert f"lists no {two}" in error_with(files={name: entry for name, entry in files.items() if name != two})
    assert "lists no model-00001-of-00005" in error_with(
        files={**files, "model-00005-of-00005.safetensors": files[one]}
    )
    assert "besides model-00001-of-00004" in error_with(files={**files, "model-00001-of-00003.safetensors": files[one]})
    assert "lists no model.safetensors" in error_with(format=1)
    manifest.write_text(text)
    (tmp_path / "a" / two).write_bytes((tmp_path / "a" / one).read_bytes())
    assert "is in another file" in error_with(files={**files, two: files[one]})
    save_checkpoint(tmp_path / "b", CONFIG, {"small": torch.zeros(1)}, **arguments)
    assert (tmp_path / "b" / "model.safetensors").exists() and read_manifest(tmp_path / "b")["format"] == 1


def test_extra_files_are_kept_and_guarded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", CONFIG, STATE, step=0, created_by="t", extra_files={"agent.yaml": "device: cpu\n"})
    load_checkpoint(tmp_path / "a")
    (tmp_path / "a" / "agent.yaml").write_text("device: gpu\n")
    with pytest.raises(CheckpointError, match=r"agent\.yaml: sha256|agent\.yaml: \d+ bytes"):
        load_checkpoint(tmp_path / "a")


def test_replacing_leaves_only_the_new_one(tmp_path: Path) -> None:
    save(tmp_path / "a", step=1)
    save(tmp_path / "a", step=2)
    assert read_manifest(tmp_path / "a")["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_T04_a_failing_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save(tmp_path / "a", step=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        real = Path.rename
        monkeypatch.setattr(Path, "rename", lambda self, to: full() if ".partial" in self.name else real(self, to))
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "a", step=2)
    monkeypatch.undo()
    assert read_manifest(tmp_path / "a")["step"] == 1
    load_checkpoint(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_weights_that_could_not_be_loaded_again_are_not_saved(tmp_path: Path) -> None:
    save(tmp_path / "a", step=1)
    with pytest.raises(CheckpointError, match="not finite"):
        save(tmp_path / "a", step=2, bad=torch.tensor([1.0, float("inf")]))
    assert read_manifest(tmp_path / "a")["step"] == 1


def test_T05_latest_valid_skips_what_does_not_load(tmp_path: Path) -> None:
    assert latest_valid(tmp_path) is None
    assert latest_valid(tmp_path / "none") is None
    for step in (1, 2, 3):
        save(tmp_path / f"step{step}", step=step)
    (tmp_path / "step3" / "model.safetensors").write_bytes(b"broken")
    (tmp_path / ".step9.1.partial").mkdir()
    assert latest_valid(tmp_path) == tmp_path / "step2"


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    manifest = json.loads((save(tmp_path / "a") / checkpoint.MANIFEST_FILE).read_text())
    assert set(manifest) == {"format", "step", "config_sha256", "created_by", "files"}
    assert set(manifest["files"]["model.safetensors"]) == {"sha256", "bytes"}
