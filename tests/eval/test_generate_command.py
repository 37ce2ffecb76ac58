"""Options of `routes generate` that cannot be are told before any server is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.generate_command import GenerateConfig, generate
from eval.routes import Route, ScenarioBlock
from eval.runner import InputError
from eval.scenarios.generate import even_choice


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"town": ","}, "--town names no town"),
        ({"count": 0}, "--count 0: must be at least 1"),
        ({"min_length_m": float("nan")}, "--min-length-m nan"),
        ({"long_length_m": -1.0}, "--long-length-m -1.0"),
        ({"long": True, "scenarios": "all"}, "--long and --scenarios: choose one"),
        ({"even": True}, "--even chooses among routes with one scenario each"),
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


def test_choice_is_even_over_types_then_towns() -> None:
    """Types that fit in one town only leave the other towns to types that fit anywhere."""

    def route(number: int, town: str, kind: str) -> Route:
        return Route(str(number), town, ((0.0, 0.0, 0.0), (9.0, 0.0, 0.0)), (), (ScenarioBlock(kind, kind),))

    places = [("A", "Accident"), ("A", "ParkingExit"), ("B", "Accident"), ("A", "Accident"), ("C", "Accident")]
    candidates = [route(number, *place) for number, place in enumerate(places)]
    chosen = [(item.town, item.scenarios[0].type) for item in even_choice(candidates, 3)]
    assert chosen == [("A", "ParkingExit"), ("B", "Accident"), ("C", "Accident")]
    assert len(even_choice(candidates, 9)) == 5
