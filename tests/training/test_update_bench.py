"""The timing of a full update against the plain one: what is run, what is reported, what the table says."""

from __future__ import annotations

import json

import pytest
import torch

from agent.config import ConfigError
from training import bench
from training.bench import BenchConfig, Timing
from training.presets import preset

NAMES = ["plain", "exact", "patch", "patch_quarter"]
TIMINGS = [
    Timing("plain", (6.0, 8.0, 12.0), (3.0, 4.0, 6.0)),
    Timing("patch", (2.0, 1.0, 4.0), (1.0, 0.5, 2.0)),
]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> BenchConfig:
    """One round at the debug size, with the number of threads there is."""
    monkeypatch.setattr(bench, "preset", lambda recipe, _: preset(recipe, "debug"))
    return BenchConfig(batch=2, steps=3, size_px=16, rounds=1, threads=torch.get_num_threads())


def test_one_round_runs_every_variant(config: BenchConfig) -> None:
    """Each is timed once after warming up, and the report can be written as JSON."""
    with torch.random.fork_rng():
        timings = bench.run(config)
    assert [timing.name for timing in timings] == NAMES
    assert all(len(timing.cpu_s) == len(timing.wall_s) == 1 for timing in timings)
    assert all(timing.cpu_s[0] > 0.0 and timing.wall_s[0] > 0.0 for timing in timings)
    report = json.loads(json.dumps(bench.report(config, timings)))
    assert report["config"]["rounds"] == 1 and list(report["variants"]) == NAMES
    compared = report["times_less_cpu_than_plain"]
    assert compared["plain"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert compared["exact"]["median"] == timings[0].cpu_s[0] / timings[1].cpu_s[0]
    assert len(bench.table(timings).splitlines()) == 1 + len(NAMES)


def test_variants_differ_in_their_eyes_only(config: BenchConfig) -> None:
    variants = [bench.bench_config(config, "strided"), bench.bench_config(config, "patch", bench.DECODE_SHARE)]
    kinds = [(one.world_model.vision.kind, one.world_model.vision.decode_share) for one in variants]
    assert kinds == [("strided", 1.0), ("patch", 0.25)]
    assert variants[0].recipe == "paper" and variants[0].world_model.observation.size_px == 16
    assert variants[0].world_model.rssm == variants[1].world_model.rssm


def test_ratios_are_paired_by_round() -> None:
    """6/2, 8/1 and 12/4, not the ratio of the medians."""
    assert bench.ratios(TIMINGS) == {"plain": (1.0, 1.0, 1.0), "patch": (3.0, 3.0, 8.0)}
    header, plain, patch = bench.table(TIMINGS).splitlines()
    assert header.split()[:5] == ["variant", "cpu", "s", "wall", "s"]
    assert plain.split() == ["plain", "8.00", "4.00", "1.00", "(1.00", "..", "1.00)"]
    assert patch.split() == ["patch", "2.00", "1.00", "3.00", "(3.00", "..", "8.00)"]


def test_windows_have_masks_as_dense_as_recorded_ones() -> None:
    batch = bench.random_windows(BenchConfig(batch=4, steps=16))
    for channel, density in enumerate(bench.MASK_DENSITY):
        share = (batch.words >> channel & 1).double().mean().item()
        assert share == pytest.approx(density, rel=0.25, abs=5e-4), channel
    assert batch.words.max() < 1 << len(bench.MASK_DENSITY) and batch.first.any() and batch.reward.std() > 0.5
    assert torch.equal(batch.words, bench.random_windows(BenchConfig(batch=4, steps=16)).words)


def test_without_the_plain_implementation_it_says_so(config: BenchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PLAIN_MODULE", "tests.bench.nothing_like_it")
    with pytest.raises(ConfigError, match="in a checkout of the repository"):
        bench.variants(config, bench.random_windows(config))


@pytest.mark.parametrize("fault", [{"batch": 0}, {"rounds": 0}, {"threads": 0}, {"steps": 1}])
def test_senseless_settings_are_refused(fault: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        BenchConfig(**fault)
