"""Routes that a run generates for itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from eval.routes import read_routes
from training.env.config import EnvConfig
from training.privileged.config import RouteConfig
from training.privileged.routes import GenerationStoppedError, routes_of


def test_routes_are_generated_once_and_then_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = RouteConfig(towns=("Gen02", "Gen03"), per_type=0, warm_up=2, evaluation=2)
    training, evaluation = routes_of(config, EnvConfig(), tmp_path)
    assert [(route.id, route.town) for route in training] == [
        ("1", "Gen02"),
        ("2", "Gen02"),
        ("3", "Gen03"),
        ("4", "Gen03"),
    ]
    assert [route.town for route in evaluation] == ["Gen02", "Gen02"]
    assert "generated 2 routes in 1 of 2 towns, about" in capsys.readouterr().out
    assert (training, evaluation) == routes_of(config, EnvConfig(), tmp_path)
    assert not capsys.readouterr().out
    assert tuple(read_routes(tmp_path / "routes.xml")) == training


def test_generating_ends_without_files_when_a_stop_is_wanted(tmp_path: Path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(GenerationStoppedError):
        routes_of(RouteConfig(), EnvConfig(), tmp_path, stop)
    assert not list(tmp_path.iterdir())
