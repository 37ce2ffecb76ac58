"""The soak, for a short while."""

from __future__ import annotations

import subprocess
import sys


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
