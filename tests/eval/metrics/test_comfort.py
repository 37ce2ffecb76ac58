"""Comfort: the official tool's figures, what was corrected, and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.metrics.comfort import Motion, MotionError, comfort, motion_file, read_motion
from eval.metrics.records import read_runs
from eval.metrics.summary import Options, summarise
from tests.eval.metrics.synthetic import record, write

TICK_S = 0.05


def motion(lon_mps2: np.ndarray, lat_mps2: np.ndarray, yaw_rate_degps: np.ndarray) -> Motion:
    """Motion along x."""
    ticks, zero = len(lon_mps2), np.zeros(len(lon_mps2))
    return Motion(
        acceleration_mps2=np.stack([lon_mps2, lat_mps2, zero], axis=1),
        angular_velocity_degps=np.stack([zero, zero, yaw_rate_degps], axis=1),
        forward=np.tile([1.0, 0.0, 0.0], (ticks, 1)),
        right=np.tile([0.0, 1.0, 0.0], (ticks, 1)),
    )


def test_figures_of_the_official_tool() -> None:
    time_s = np.arange(415) * TICK_S
    yaw, zero = 0.3 * np.sin(0.2 * time_s), np.zeros(415)
    lon_x = 1.6 * np.sin(0.9 * time_s) + 0.9 * np.sin(3.1 * time_s)
    weaving = Motion(
        np.stack([lon_x, 1.1 * np.cos(0.7 * time_s), zero], axis=1),
        np.stack([zero, zero, 1.2 * np.sin(0.35 * time_s)], axis=1),
        np.stack([np.cos(yaw), np.sin(yaw), zero], axis=1),
        np.stack([-np.sin(yaw), np.cos(yaw), zero], axis=1),
    )
    assert comfort(weaving).as_coded_percent == pytest.approx(45.0)  # printed by the official tool on the same data


def test_a_gentle_turn_is_comfortable_once_its_unit_is_right() -> None:
    turning = comfort(motion(np.zeros(60), np.zeros(60), np.full(60, 5.0)))  # 5 degrees/s = 0.087 rad/s
    assert (turning.as_coded_percent, turning.corrected_percent) == (0.0, 100.0)


def test_jerk_is_measured_in_true_time() -> None:
    ramp = np.arange(20) * TICK_S * 3.0 - 2.0  # 3 m/s3, within the limit in either reading
    assert comfort(motion(ramp, np.zeros(20), np.zeros(20))).corrected_percent == 100.0
    ramp = np.arange(20) * TICK_S * 6.0 - 3.8  # 6 m/s3, which the official tool takes for 3
    steep = comfort(motion(ramp, np.zeros(20), np.zeros(20)))
    assert (steep.as_coded_percent, steep.corrected_percent) == (100.0, 0.0)


def test_hard_braking_and_swerving_are_not_comfortable() -> None:
    braking = comfort(motion(np.full(20, -5.0), np.zeros(20), np.zeros(20)))
    swerving = comfort(motion(np.zeros(20), np.full(20, 5.0), np.zeros(20)))
    assert braking.as_coded_percent == braking.corrected_percent == swerving.corrected_percent == 0.0


def test_windows_are_whole_seconds() -> None:
    lon = np.concatenate([np.zeros(20), np.full(20, -5.0), np.full(19, -5.0)])
    assert comfort(motion(lon, np.zeros(59), np.zeros(59))).corrected_percent == 50.0  # the last 19 ticks are dropped
    assert comfort(motion(np.zeros(3), np.zeros(3), np.zeros(3))).corrected_percent == 100.0


def test_scores_take_the_files_that_are_there(tmp_path: Path) -> None:
    drives = [record("1"), record("2"), record("3")]
    tick = {name: [0.0, 0.0, 0.0] for name in ("acceleration", "angular_velocity", "forward_vector", "right_vector")}
    for drive, content in ((drives[0], {str(index): tick for index in range(40)}), (drives[1], {"0": tick})):
        folder = tmp_path / "motion" / drive["save_name"]
        folder.mkdir(parents=True)
        (folder / "metric_info.json").write_text(json.dumps(content))
    runs = read_runs([write(tmp_path / "results.json", drives)])
    summary = summarise(runs, Options(metric_dir=tmp_path / "motion", resamples=10))
    assert summary.values["comfort_as_coded_percent"] == summary.values["comfort_corrected_percent"] == 100.0
    assert any("comfort over 1 of 3 routes" in note for note in summary.notes)
    assert any("comfort without route 2" in note and "more than 2 ticks" in note for note in summary.notes)
    assert summarise(runs, Options(resamples=10)).values["comfort_as_coded_percent"] is None


@pytest.mark.parametrize("content", ["", "[]", "3", '{"0": 1}', '{"0": {}}', '{"0": {"acceleration": "x"}}', "\x00"])
def test_bad_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metric_info.json"
    path.write_text(content)
    with pytest.raises(MotionError, match=r"metric_info\.json"):
        read_motion(path)


def test_a_results_file_cannot_name_other_folders(tmp_path: Path) -> None:
    (tmp_path / "metric_info.json").write_text("{}")
    for name in ("..", ".", "../secret", "/etc", ""):
        drive = {**record("1"), "save_name": name}
        (run,) = read_runs([write(tmp_path / "results.json", [drive])])
        assert motion_file(run.results[0], [tmp_path / "below"]) is None
