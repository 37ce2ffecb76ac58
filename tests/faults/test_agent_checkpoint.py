"""Fault rows C1 to C7 and C9: checkpoints and configurations that must not be used, each with an error that helps."""

import contextlib
import hashlib
import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.checkpoint import CheckpointError, check_state, load_checkpoint, save_checkpoint
from agent.config import ConfigError, parse_yaml
from agent.driver import AgentConfig, load_model

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid checkpoint to be spoiled."""
    save_checkpoint(tmp_path / "weights", {"model": {}}, STATE, step=1, created_by="tests")
    return tmp_path / "weights"


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_model(folder: Path, data: bytes) -> None:
    """Puts other bytes in place of the weights, with a manifest that vouches for them."""
    (folder / "model.safetensors").write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_manifest(folder, files=files)


def error_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    return str(error.value)


class Bomb:
    """Executes code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('pickle was executed')",))


def test_C01_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb())
    for suffix in (".pth", ".pkl", ".pt", ".ckpt"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(bomb)
        message = error_of(path)
        assert path.name in message
        assert "safetensors" in message
    replace_model(folder, bomb)
    assert "model.safetensors" in error_of(folder)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files, "config.pickle": {"sha256": "0", "bytes": 1}})
    assert "config.pickle" in error_of(folder)


def test_C02_truncated_or_altered_weights(folder: Path) -> None:
    save_checkpoint(folder.parent / "older", {"model": {}}, STATE, step=0, created_by="tests")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"{len(data) - 1} bytes, manifest says {len(data)}" in error_of(folder)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    message = error_of(folder)
    assert "model.safetensors: sha256 is" in message
    assert "use one of older" in message
    path.unlink()
    assert "model.safetensors: missing" in error_of(folder)


def test_C02_altered_configuration(folder: Path) -> None:
    (folder / "config.yaml").write_text("model: {a: 1}\n")
    assert "config.yaml" in error_of(folder)


def tensor_file(header: bytes, body: bytes = b"", *, claimed_bytes: int | None = None) -> bytes:
    """A safetensors file with this header, which may claim another length than it has."""
    return struct.pack("<Q", len(header) if claimed_bytes is None else claimed_bytes) + header + body


OVERLAPPING = (
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        tensor_file(b"{}", claimed_bytes=10 * 1024**3),
        tensor_file(b"{}", claimed_bytes=2**63),
        tensor_file(b"{}", b"rest without a tensor"),
        tensor_file(b"{broken: "),
        tensor_file(b"[" * 100_000),
        tensor_file(OVERLAPPING, b"\x00" * 12),
        tensor_file(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}', b"\x00" * 8),
        tensor_file(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}', b"\x00" * 8),
        tensor_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', b"\x00" * 8),
        tensor_file(b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}', b"\x00" * 8),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_C03_hostile_headers(folder: Path, data: bytes) -> None:
    replace_model(folder, data)
    assert "model.safetensors" in error_of(folder)


def test_C03_fuzzed_headers_raise_nothing_else(folder: Path) -> None:
    good = (folder / "model.safetensors").read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(min(len(data), 160))] = generator.randrange(256)
        replace_model(folder, bytes(data))
        try:
            load_checkpoint(folder)
        except CheckpointError:
            continue


def test_C04_keys_and_shapes_must_fit(folder: Path) -> None:
    _, state = load_checkpoint(folder)
    check_state(STATE, state, "weights")
    expected = {"weight": torch.zeros(3, 3), **{f"layer{i}": torch.zeros(1) for i in range(7)}}
    with pytest.raises(CheckpointError) as error:
        check_state(expected, state, "weights")
    message = str(error.value)
    assert message.startswith("weights: 9 tensors do not fit")
    assert message.count("missing layer") == 5
    assert "layer5" not in message
    with pytest.raises(CheckpointError, match=r"weight has shape \(2, 3\) instead of \(3, 3\)"):
        check_state({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}, state, "weights")
    with pytest.raises(CheckpointError, match="unexpected bias"):
        check_state({"weight": torch.zeros(2, 3)}, state, "weights")


def test_C04_weights_of_another_model_do_not_load(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="tensors do not fit the model"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_C05_weights_must_be_finite(folder: Path, value: float) -> None:
    from safetensors.torch import save

    replace_model(folder, save({"weight": torch.tensor([1.0, value])}))
    assert "tensor weight has values that are not finite" in error_of(folder)


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/b", "..", "", ".hidden", "C:evil", "a\\b", "a\0b"])
def test_C06_only_plain_names(folder: Path, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files, name: {"sha256": "0" * 64, "bytes": 1}})
    assert "only plain names inside the folder" in error_of(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "manifest.json"])
def test_C06_links_are_not_followed(folder: Path, name: str) -> None:
    target = folder.parent / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    assert f"{name}: is a symbolic link" in error_of(folder)


def test_C07_newer_format_says_what_to_install(folder: Path) -> None:
    edit_manifest(folder, format=7)
    assert "format 7 is newer than this program's format 2; install a Raw2Drive version" in error_of(folder)
    edit_manifest(folder, format="1")
    assert "format is '1', expected 1 or 2" in error_of(folder)


@pytest.mark.parametrize(
    "changes", [{"files": {}}, {"files": 3}, {"step": -1}, {"step": None}, {"config_sha256": 1}, {"config_sha256": "0"}]
)
def test_C07_incomplete_manifests_are_named(folder: Path, changes: dict[str, Any]) -> None:
    edit_manifest(folder, **changes)
    assert "manifest.json" in error_of(folder)


@settings(max_examples=60)
@given(text=st.text(max_size=80))
def test_C07_any_manifest_text_gives_a_checkpoint_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "manifest.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        assert "manifest.json" in error_of(Path(name))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("device: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("device: cpu\ndevice: cuda", "given twice"),
        ("a: &x [1, 2]\nb: [*x, *x]", "aliases"),
        ("a: " + "[" * 30 + "]" * 30, "nested deeper"),
        ("a: " + "x" * 300_000, "larger than"),
        ("- 1", "must be a mapping"),
        ("a: b: c", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_C09_hostile_yaml(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        parse_yaml(text, "agent.yaml")
    assert str(error.value).startswith("agent.yaml: ")


def test_C09_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("guard: {hold_ms: 200}\n")
    with pytest.raises(ConfigError, match=r"agent\.yaml\.guard: unknown key 'hold_ms'; known keys are hold_s"):
        AgentConfig.read(path)


@settings(max_examples=150)
@given(text=st.text(max_size=60))
def test_C09_any_text_gives_a_mapping_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_yaml(text, "t"), dict)
