"""The soak, for a short while."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOUR_S = 3600


def test_a_short_soak_finishes_and_reports_memory():
    command = [sys.executable, "-m", "eval", "soak", "--ticks", "400", "--traffic", "5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    assert "400 ticks in Gen01, 5 cars" in result.stdout
    assert "finished: tick median" in result.stdout and "memory of the server" in result.stdout


def test_a_soak_without_cars_is_refused():
    command = [sys.executable, "-m", "eval", "soak", "--traffic", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2 and "--traffic" in result.stderr


@pytest.mark.soak
@pytest.mark.timeout(HOUR_S)
def test_ten_routes_of_the_agent_in_one_process_do_not_grow():
    result = soak_the_agent("--routes", "10", "--route-s", "20")
    assert "10 routes, 200 s driven" in result.stdout
    assert result.returncode == 0, result.stdout


@pytest.mark.soak
@pytest.mark.timeout(4 * HOUR_S)
def test_two_hours_of_the_agent_in_one_process_do_not_grow():
    result = soak_the_agent("--minutes", "120", "--route-s", "120")
    assert result.returncode == 0, result.stdout


def soak_the_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Without traffic: the wheel's Traffic Manager keeps some MiB of every route for itself."""
    command = [sys.executable, "-m", "eval", "soak", "--traffic", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
