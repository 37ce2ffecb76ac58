"""Agents with random weights for the tests of this folder and of tests/faults."""

from pathlib import Path

import pytest
import torch

from tests.agent.synthetic import FULL_THROTTLE, save_agent

torch.set_num_threads(1)  # the networks here are tiny: a second thread only waits


@pytest.fixture(scope="session")
def driving_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration file of an agent that always accelerates straight on; not strict, as when submitted."""
    return save_agent(tmp_path_factory.mktemp("driving") / "w", action=FULL_THROTTLE, yaml_text="device: cpu\n")


@pytest.fixture(scope="session")
def random_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration file of an agent with random weights; strict."""
    return save_agent(tmp_path_factory.mktemp("random") / "w")
