"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples everywhere, and a busy machine is not a failure.
settings.register_profile("raw2drive", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("raw2drive")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Third-party data (real towns, routes, reference tensors) beside the checkout; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no third-party data at {folder}")
    return folder
