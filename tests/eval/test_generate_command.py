"""Options of `routes generate` that cannot be are told before any server is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.generate_command import GenerateConfig, generate
from eval.runner import InputError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"town": ","}, "--town names no town"),
        ({"count": 0}, "--count 0: must be at least 1"),
        ({"min_length_m": float("nan")}, "--min-length-m nan"),
        ({"long_length_m": -1.0}, "--long-length-m -1.0"),
        ({"long": True, "scenarios": "all"}, "--long and --scenarios: choose one"),
        ({"scenarios": "Foo"}, "--scenarios Foo is not known"),
        ({"town_dir": Path("none")}, "--town-dir none: no such folder"),
        ({"out": Path()}, "--out .: is a folder"),
        ({"out": Path("none/routes.xml")}, "--out none/routes.xml: there is no folder none"),
    ],
)
def test_what_cannot_be_is_told_at_once(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    settings: dict[str, Any] = {"town": "Nowhere01", "out": tmp_path / "routes.xml", **options}
    with pytest.raises(InputError, match=expected):
        generate(GenerateConfig(**settings))
