"""A town to play scenarios in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eval.server import EmbeddedServer, EmbeddedServerConfig
from tests.eval.scenarios.playground import Playground

TOWN = "Gen03"


@pytest.fixture(scope="session")
def playground() -> Iterator[Playground]:
    with EmbeddedServer(EmbeddedServerConfig(town=TOWN)) as server:
        yield Playground(server, TOWN)
