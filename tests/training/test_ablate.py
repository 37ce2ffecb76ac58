"""The ablation: interrupted anywhere it goes on to the same result; its tables, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.checkpoint import read_manifest
from agent.config import ConfigError
from eval.results import ResultsFolder, RouteRecord, judge
from eval.scoring import Scoring
from tests.training.test_raw_run import record, save_teacher
from training import ablate
from training.ablate import AblateConfig, Clock, Part
from training.ablate_table import Outcome, markdown, read_drives, summarised
from training.privileged.curves import read_events
from training.raw.arms import ARMS
from training.raw.config import RawRunConfig

UPDATES = 3
FACTS = {"format": 1, "data": {"sha256": "0", "steps": 100, "terminations": 2}, "held_out": None}
ABOUT = {
    "updates": UPDATES,
    "seeds": 2,
    "server": "embedded",
    "routes_file": "dev.xml",
    "routes": 3,
    "repetitions": 2,
    "traffic": 15,
    "max_game_s": None,
    "commit": "abc",
    "encoder": "raw_clone",
    "neck": None,
    "machine": "a machine",
    "date": "2026-01-01",
}


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with its teacher."""
    folder = tmp_path_factory.mktemp("data")
    record(folder / "replay", steps=40)
    save_teacher(folder / "teacher")
    return folder


def run_of(data: Path) -> RawRunConfig:
    return RawRunConfig(
        teacher=data / "teacher", encoder=None, batch=1, steps=3, checkpoint_minutes=1e-6, log_updates=1
    )


def config_of(data: Path, *arms: str) -> AblateConfig:
    own = tuple(ARMS[name] for name in arms)
    return AblateConfig(arms=own, data=data, updates=UPDATES, seeds=1, readout_windows=1, run=run_of(data))


def command(data: Path, out: Path, arms: str) -> list[str]:
    options = {"arms": arms, "data": data, "updates": UPDATES, "out": out, "seeds": 1, "readout-windows": 1}
    own = {"teacher": data / "teacher", "encoder": None, "batch": 1, "steps": 3, "checkpoint-minutes": 1e-6}
    options |= {f"config.{name}": value for name, value in (own | {"log-updates": 1}).items()}
    return [sys.executable, "-m", "training", "ablate", *(f"--{name}={value}" for name, value in options.items())]


def weights(out: Path, arm: str) -> object:
    return read_manifest(out / arm / "seed-0" / "model")["files"]


def updates_logged(run: Path) -> list[int]:
    events = list(read_events(run)) if (run / "events.jsonl").exists() else []
    return [event["update"] for event in events if event["kind"] == "update"]


def test_killed_anywhere_it_goes_on_to_the_same_result(data: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    second = killed / "embed_only" / "seed-0"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(data, killed, "full,embed_only"), env=environment, stderr=subprocess.PIPE)
    until_s = time.monotonic() + 240.0
    while not updates_logged(second) and time.monotonic() < until_s and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, words = process.communicate()
    assert process.returncode == -signal.SIGKILL, words.decode()
    assert "arm full, seed 0 (run 1 of 2): update 0 of 3" in words.decode()
    before = weights(killed, "full")
    summary = ablate.ablate(config_of(data, "full", "embed_only"), killed)
    assert weights(killed, "full") == before
    ablate.ablate(config_of(data, "embed_only"), whole)
    assert weights(killed, "embed_only") == weights(whole, "embed_only")
    assert [row["finished"] for row in summary["arms"].values()] == [1, 1]
    assert (
        summary["arms"]["embed_only"]["readout"]
        == json.loads((whole / "ablation.json").read_text())["arms"]["embed_only"]["readout"]
    )
    assert updates_logged(killed / "full" / "seed-0") == [1, 2, 3]


def test_what_is_finished_is_kept_and_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    config = replace(config_of(data, "no_decoder"), run=replace(run_of(data), carry_over=True))
    first = ablate.ablate(config, tmp_path)
    model = tmp_path / "no_decoder" / "seed-0" / "model" / "model.safetensors"
    written_ns = model.stat().st_mtime_ns
    assert ablate.ablate(config, tmp_path) == first
    assert model.stat().st_mtime_ns == written_ns
    readout = first["arms"]["no_decoder"]["readout"]
    assert {"embed", "stoch", "rollout_deter_15", "rollout_reward_15", "iou_road", "policy_kl"} <= readout.keys()
    assert all(low <= mean <= high for mean, low, high in filter(None, readout.values()))
    with pytest.raises(ConfigError, match="trained for 3 updates"):
        ablate.ablate(replace(config, updates=2), tmp_path)
    other = tmp_path / "other"
    record(other / "replay", steps=48)
    with pytest.raises(ConfigError, match="begun with another data"):
        ablate.ablate(replace(config, data=other), tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        ablate.ablate(replace(config, data=tmp_path / "nowhere"), tmp_path / "new")
    short = tmp_path / "short"
    record(short / "replay", steps=8)
    with pytest.raises(ConfigError, match="8 decisions in 1 segment hold no window of 24"):
        ablate.ablate(replace(config, data=short), tmp_path / "new")


def test_when_the_time_is_over_nothing_is_begun(data: Path, tmp_path: Path) -> None:
    config = config_of(data, "no_decoder")
    with pytest.raises(ablate.Interrupted, match="goes on") as stopped:
        ablate.ablate(replace(config, minutes=1e-9), tmp_path)
    assert stopped.value.exit_code == 1
    assert not (tmp_path / "no_decoder").exists()
    with pytest.raises(ValueError, match="--minutes"):
        replace(config, minutes=0.0)


def test_what_is_the_ablation_s_own_cannot_be_set(data: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.collectors"):
        replace(config_of(data, "full"), run=RawRunConfig(collectors=2))
    with pytest.raises(ValueError, match="at least 1"):
        replace(config_of(data, "full"), seeds=0)


def test_the_time_left_is_of_all_runs() -> None:
    clock = Clock(100, [100, 50, 0])
    part = Part(ARMS["full"], 1, Path("x"))
    clock.begin(1, part)
    assert clock.line(50) == "arm full, seed 1 (run 2 of 3): update 50 of 100, time left unknown"
    time.sleep(0.03)
    left_min = float(clock.line(60).split("about ")[1].split(" min")[0])
    assert left_min == pytest.approx(0.03 / 10 * 140 / 60, abs=0.1)
    assert "update 60 of 100, about" in clock.line(60)


def drives_of(score: dict[str, float], repetitions: int = 2) -> dict[tuple[str, int], tuple[float, float]]:
    return {
        (route, number): (value + number, 100.0 * (value > 50.0))
        for number in range(repetitions)
        for route, value in score.items()
    }


def test_the_table_has_means_intervals_and_paired_differences() -> None:
    full, direct = {"1": 80.0, "2": 60.0, "3": 40.0}, {"1": 70.0, "2": 50.0, "3": 30.0}
    outcomes = [
        Outcome(ARMS[name], seed, {"embed": 1.0 + seed, "iou_walker": None}, drives_of(score))
        for name, score in (("full", full), ("direct_policy", direct), ("no_alignment", dict.fromkeys(full, 1.0)))
        for seed in range(2)
    ]
    summary = summarised(outcomes, FACTS, ABOUT)
    row = summary["arms"]["direct_policy"]
    assert row["closed_loop"]["driving_score"] == pytest.approx(50.5)
    assert row["closed_loop"]["success_percent"] == pytest.approx(100.0 / 3.0)
    low, high = row["closed_loop"]["interval_95"]["driving_score"]
    assert 30.0 <= low < 50.5 < high <= 71.0
    apart = row["minus_full"]["driving_score"]
    assert apart["difference"] == pytest.approx(-10.0) and np.allclose(apart["interval_95"], -10.0)
    assert summary["arms"]["full"]["minus_full"] is None
    assert row["readout"] == {"embed": [1.5, 1.0, 2.0], "iou_walker": None}
    assert row["paper"] == {"driving_score": 58.4, "success_percent": 56.0}
    assert summary["rank_correlation"] == pytest.approx(1.0)
    text = markdown(summary)
    assert "beginning with the image encoder of raw_clone and a random neck; a machine" in text
    assert "not CARLA results" in text and "paper (CARLA, Dev10)" in text
    assert "| direct_policy | the privileged policy as it is | 11.1 | 58.4; 56 | 50.5 (" in text
    assert "-10.0 (-10.0 to -10.0)" in text and "1.5 (1 to 2)" in text
    json.dumps(summary, allow_nan=False)


def test_an_arm_that_has_not_driven_says_so_and_other_routes_are_refused() -> None:
    one = Outcome(ARMS["full"], 0, {"embed": 1.0}, drives_of({"1": 80.0, "2": 60.0}))
    open_one = Outcome(ARMS["no_embed"], 0, None, None)
    summary = summarised([one, open_one], FACTS, ABOUT)
    assert summary["arms"]["no_embed"] | {"says": "", "rows": [], "paper": None} == {
        "says": "",
        "rows": [],
        "paper": None,
        "finished": 0,
        "readout": {},
        "readout_per_seed": {},
        "closed_loop": None,
        "minus_full": None,
    }
    assert summary["rank_correlation"] is None
    assert "| no_embed |" in markdown(summary) and "| - | - | - | - |" in markdown(summary)
    other = Outcome(ARMS["embed_only"], 0, {}, drives_of({"1": 80.0}))
    with pytest.raises(ValueError, match="different routes"):
        summarised([one, other], FACTS, ABOUT)


def test_drives_are_read_from_a_run_s_results(tmp_path: Path) -> None:
    assert read_drives(tmp_path / "results.json") is None
    folder = ResultsFolder(tmp_path, {"server": "embedded"})
    for number, percent in enumerate((100.0, 50.0)):
        folder.append(
            RouteRecord(
                route_id="7",
                repetition=number,
                town="Gen01",
                scoring=Scoring.BENCH2DRIVE,
                **judge(percent, (), Scoring.BENCH2DRIVE, None),
                route_length_m=100.0,
                duration_game_s=1.0,
                duration_system_s=1.0,
                ticks=20,
                seed=number,
                traffic=0,
            )
        )
    folder.write_summary([("7", 0), ("7", 1)])
    folder.close()
    drives = read_drives(tmp_path / "results.json")
    assert drives is not None and drives["7", 0][0] == 100.0 and drives["7", 1][0] == 50.0
