"""Runs of the privileged stage from the command line: real collectors on real servers, killed, resumed, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carla
import pytest
import torch

from agent.checkpoint import latest_valid, load_checkpoint, read_manifest
from eval.generate import generate_routes
from eval.processes import descendants, is_dead
from eval.routes import write_routes
from simulator.towns.generate import generate
from tests.training.privileged import debug_config
from training.experience.sampler import pinned
from training.learner import Learner
from training.presets import preset
from training.privileged.config import RunConfig
from training.privileged.driver import PolicyDriver, newest, publish, take_over
from training.privileged.trainer import train

TOWN = "Gen02"
PATIENCE_S = 120.0
REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = {
    "size": "debug",
    "preset": "strong",
    "config.env.traffic": "2",
    "config.env.ends.max-s": "4",
    "config.prefill-steps": "24",
    "config.batch": "2",
    "config.steps": "6",
    "config.segment-steps": "12",
    "config.train-ratio": "8",
    "config.log-updates": "2",
    "config.publish-updates": "2",
}


def start(folder: Path, **options: str) -> subprocess.Popen[bytes]:
    """The command on the town's routes, in a session of its own."""
    chosen = OPTIONS | {"out": str(folder / "run"), "config.routes.file": str(folder / "routes.xml")}
    chosen |= {"config.routes.evaluation-file": str(folder / "evaluation.xml")}
    chosen |= {name.replace("_", "-").replace("--", "."): value for name, value in options.items()}
    arguments = [part for name, value in chosen.items() for part in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "training", "privileged", *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "run" / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes], folder: Path) -> Any:
    """The first true answer."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if answer := what():
            return answer
        assert process.poll() is None, (folder / "output.txt").read_text(encoding="utf-8")
        time.sleep(0.05)
    raise AssertionError((folder / "output.txt").read_text(encoding="utf-8"))


def assert_gone(pids: list[int]) -> None:
    until_s = time.monotonic() + 5.0
    while not all(map(is_dead, pids)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert [pid for pid in pids if not is_dead(pid)] == []


def checkpoint(folder: Path) -> tuple[int, dict[str, Any]]:
    """Updates and progress of the newest sound checkpoint, which is the only one and pinned."""
    latest = latest_valid(folder / "run" / "checkpoints")
    assert latest is not None and [path.name for path in latest.parent.iterdir()] == [latest.name]
    load_checkpoint(latest)
    progress = json.loads((latest / "progress.json").read_text(encoding="utf-8"))
    assert len(pinned(folder / "run" / "replay")) >= len(progress["sampler"]["segments"])
    return int(read_manifest(latest)["step"]), progress


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("privileged")
    carla_map = carla.Map(TOWN, generate(2))
    routes = generate_routes(carla_map, 2, seed=3, town=TOWN, min_length_m=150.0, min_turns=0)
    write_routes(routes[:1], folder / "routes.xml")
    write_routes(routes[1:], folder / "evaluation.xml")
    return folder


@pytest.mark.soak  # half a minute of two processes with servers, minutes on a busy machine
@pytest.mark.timeout(600)
def test_killed_resumed_and_stopped(folder: Path) -> None:
    """SIGKILL leaves nothing running and the run goes on from its checkpoint, without a collector that dies, until
    SIGTERM; then the time ends it."""
    process = start(folder, config__checkpoint_minutes="0.01", config__evaluate_minutes="0")
    try:
        wait_for(lambda: len(events(folder, "checkpoint")) >= 2, process, folder)
        pids = descendants(process.pid)
        assert len(pids) >= 2, "a collector and its server"
    finally:
        process.kill()
        process.wait()
    assert_gone(pids)
    latest = latest_valid(folder / "run" / "checkpoints")
    assert latest is not None
    before = int(read_manifest(latest)["step"])

    process = start(folder, config__evaluate_minutes="0.02")
    try:
        begun = wait_for(lambda: events(folder, "start")[1:], process, folder)[0]
        assert begun["resumed"] and begun["updates"] == before and begun["collected"] > 0
        wait_for(lambda: [e for e in events(folder, "episode") if e["version"] is not None], process, folder)
        os.kill(begun["collectors"][0], signal.SIGKILL)
        (lost,) = wait_for(lambda: events(folder, "lost"), process, folder)
        assert lost["collectors"] != begun["collectors"]
        known = len(events(folder, "episode"))
        wait_for(lambda: len(events(folder, "episode")) > known, process, folder)
        (evaluation,) = wait_for(lambda: events(folder, "evaluation")[:1], process, folder)
        assert 0.0 <= evaluation["completion_percent"] <= 100.0 and len(evaluation["routes"]) == 1
        pids = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert_gone(pids)
    after, progress = checkpoint(folder)
    assert after > before and progress["updates"] == after
    update = events(folder, "update")[-1]
    assert update["drawn"] * 6 <= 8.0 * update["collected"] + 12, "replayed steps keep to the ratio"
    assert {"false_end_probability", "ends", "entropy"} <= update.keys()

    minutes = (progress["elapsed_s"] + 1.0) / 60.0
    assert start(folder, minutes=str(minutes), config__evaluate_minutes="0").wait(PATIENCE_S) == 0
    last, progress = checkpoint(folder)
    assert last >= after and progress["elapsed_s"] >= 60.0 * minutes
    with pytest.raises(ValueError, match="another configuration"):
        train(debug_config("paper"), RunConfig(), folder / "run", 60.0)
    chosen = RunConfig(batch=2, steps=6, segment_steps=12)
    with pytest.raises(ValueError, match="has been trained for"):
        train(preset("strong", "debug"), chosen, folder / "run", 0.9 * minutes, ("config",))


def test_weights_travel_to_the_driver(tmp_path: Path) -> None:
    """A driver with published weights acts as the learner's own modules do; old versions go."""
    learner = Learner(debug_config("paper", vector=35), seed=4)
    for learner.updates in (1, 2, 3):
        publish(tmp_path, learner)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000002.safetensors", "000000003.safetensors"]
    driver = PolicyDriver(learner.config)
    path = newest(tmp_path)
    assert path is not None
    take_over(driver, path)
    for name, value in driver.encoder.state_dict().items():
        torch.testing.assert_close(value, learner.model.encoder.state_dict()[name])
    for name, value in driver.actor.state_dict().items():
        torch.testing.assert_close(value, learner.policy.actor.state_dict()[name])
