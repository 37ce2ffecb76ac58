"""Logs of episodes: recorded on a real server they repaint what was seen, and damaged files are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import carla
import numpy as np
import pytest

from eval.generate import generate_routes
from simulator.towns.generate import generate
from training import bev
from training.counterfactual import log as logs
from training.counterfactual import render
from training.counterfactual.log import EpisodeLog
from training.counterfactual.npz import ArrayFileError
from training.counterfactual.recorder import Recorder
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.expert import ExpertConfig, ExpertDriver

TOWN = "Gen02"
DECISIONS = 40


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EpisodeLog, list[np.ndarray], Path]]:
    """A log of a short drive, the words that were painted at each tick, and the folder it lies in."""
    routes = generate_routes(carla.Map(TOWN, generate(2)), 1, seed=3, town=TOWN, min_length_m=150.0, min_turns=0)
    env = DrivingEnv(EnvConfig(traffic=10), routes)
    try:
        env.reset(seed=4)
        drive = env.drive
        assert drive is not None
        folder = tmp_path_factory.mktemp("logs")
        words = [drive.view.words()]
        recorder = Recorder(drive)
        drive.taps.append(lambda _: words.append(drive.view.words()))
        expert = ExpertDriver(ExpertConfig())
        for _ in range(DECISIONS):
            recorder.action = expert.decide(drive.view.scene()).action
            env.step(recorder.action)
        texts = dict.fromkeys(logs.META_TEXTS, "x") | {"town": TOWN}
        texts["map_sha256"] = logs.keep_map(folder, drive.episode.carla_map.to_opendrive())
        yield recorder.log(texts), words, folder
    finally:
        env.close()


def test_a_log_repaints_what_was_seen(driven: tuple[EpisodeLog, list[np.ndarray], Path]) -> None:
    """All 43 masks at every tick; poses of others are float32, so a pixel on a box's very edge may differ."""
    log, words, folder = driven
    path = folder / f"one{logs.SUFFIX}"
    logs.save(log, path)
    log = logs.load(path)
    assert log.ticks == len(words) == 2 * DECISIONS + 1
    assert (log.shown == bev.VEHICLE).any() and np.hypot(*log.ego[-1, 3:5]) > 2.0
    static = logs.town_map(folder, log)
    for tick in range(log.ticks):
        painted = render.logged_words(log, static, tick)
        if tick >= render.SLICE_TICKS[-1]:
            assert int((painted != words[tick]).sum()) <= 3, f"tick {tick}"


def test_a_log_comes_back_as_it_was(driven: tuple[EpisodeLog, list[np.ndarray], Path], tmp_path: Path) -> None:
    log, _, _ = driven
    logs.save(log, tmp_path / f"a{logs.SUFFIX}")
    again = logs.load(tmp_path / f"a{logs.SUFFIX}")
    for name in ("ego", "bodies", "shown", "corridor", "signal_state", "control", "contacts"):
        np.testing.assert_array_equal(getattr(log, name), getattr(again, name))
    assert again.meta["town"] == TOWN


def test_a_map_must_be_the_one_that_was_driven_on(
    driven: tuple[EpisodeLog, list[np.ndarray], Path], tmp_path: Path
) -> None:
    log, _, _ = driven
    with pytest.raises(ArrayFileError, match="copy it beside the logs"):
        logs.town_map(tmp_path, log)
    path = tmp_path / logs.MAPS / f"{log.meta['map_sha256']}.xodr"
    path.parent.mkdir()
    path.write_text("<OpenDRIVE/>")
    with pytest.raises(ArrayFileError, match="not the map"):
        logs.town_map(tmp_path, log)
