"""Strict YAML to dataclasses: what is wrong is named, what is right arrives with its type."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from agent.config import ConfigError, parse, parse_yaml, read_yaml, to_plain
from agent.driver import AgentConfig
from agent.model.driving_model import DrivingModelConfig


@dataclass(frozen=True)
class Inner:
    size: int = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    rate: float
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    pair: tuple[int, float] = (1, 2.0)
    maybe: float | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


def test_types_arrive() -> None:
    text = "rate: 2\nkind: b\nflag: true\npair: [3, 4]\nmaybe: null\ninner: {size: 5, names: [x, y]}"
    parsed = parse(Outer, parse_yaml(text, "t"), "t")
    assert parsed == Outer(2.0, "b", True, (3, 4.0), None, Inner(5, ("x", "y")))
    assert type(parsed.rate) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat: 1", "t: unknown key 'rat'; known keys are rate, kind"),
        ("kind: a", "required key missing: rate"),
        ("rate: fast", "t.rate: expected a number, got the text 'fast'"),
        ("rate: 1e-3", "write exponents with a dot"),
        ("rate: .nan", "t.rate: must be finite"),
        ("rate: true", "t.rate: expected float"),
        ("rate: 1\nkind: c", "t.kind: must be one of 'a', 'b', got 'c'"),
        ("rate: 1\nflag: 1", "t.flag: expected bool"),
        ("rate: 1\npair: [1]", "t.pair: expected 2 items, got 1"),
        ("rate: 1\npair: 7", "t.pair: expected a list"),
        ("rate: 1\ninner: {size: big}", "t.inner.size: expected int, got 'big'"),
        ("rate: 1\ninner: [1]", "t.inner: expected a mapping"),
        ("rate: 1\nmaybe: x", "t.maybe"),
        ("rate: -1", "t: rate must not be negative, got -1.0"),
    ],
)
def test_errors_name_field_value_and_expectation(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Outer, parse_yaml(text, "t"), "t")
    assert message in str(error.value)


def test_missing_file_and_binary_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("config", [AgentConfig(), DrivingModelConfig(), AgentConfig(strict=True)])
def test_configurations_survive_a_round_trip(config: object) -> None:
    text = yaml.safe_dump(to_plain(config))
    assert parse(type(config), parse_yaml(text, "t"), "t") == config
