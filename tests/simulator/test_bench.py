"""`python -m simulator bench` measures and reports what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from simulator.bench import BenchConfig, BenchError
from simulator.bench_client import Growth, Timing

PATIENCE_S = 120


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_short_run_as_json() -> None:
    short = ("--cars", "2", "4", "--ticks", "20", "--frames", "0", "--resets", "1")
    result = bench(*short, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [traffic["cars"] for traffic in report["traffic"]] == [2, 4]
    for traffic in report["traffic"]:
        tick = traffic["tick"]
        assert 0.0 < tick["median_ms"] <= tick["p95_ms"] <= tick["max_ms"]
        assert traffic["ticks_per_s"] > 0.0
    assert report["resets"]["wall"]["median_ms"] > 0.0
    assert set(report["memory_mib"]) == {"start", "2 cars", "cameras", "4 cars", "resets"}
    assert all(50.0 < mib < 2000.0 for mib in report["memory_mib"].values())
    assert report["growth_by_ticks"] is None and report["cameras"] == [] and report["renderer"] == "software"


def test_wrong_numbers_are_refused_with_the_remedy() -> None:
    result = bench("--cars", "50", "20")
    assert result.returncode == 2
    assert "ascending" in result.stderr and "Traceback" not in result.stderr
    for wrong in ({"cars": ()}, {"cars": (0, 5)}, {"ticks": 0}, {"loads": 1}):
        with pytest.raises(BenchError):
            BenchConfig(**wrong)


def test_the_figures() -> None:
    timing = Timing.of([0.001 * value for value in range(1, 101)])
    assert (timing.median_ms, timing.p95_ms, timing.max_ms) == (50.5, 96.0, 100.0)
    growth = Growth.of([500.0, 500.0, *[200.0] * 5, *[201.0] * 5], warm_up=2)
    assert (growth.early_mib, growth.late_mib, growth.percent) == (200.0, 201.0, 0.5)
    with pytest.raises(BenchError, match="longer"):
        Growth.of([1.0, 2.0], warm_up=1)
