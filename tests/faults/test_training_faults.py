"""Fault rows of the training: T1 to T12 around the learner's loop."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors

from agent.checkpoint import CheckpointError, latest_valid, load_checkpoint, read_manifest, recover, save_checkpoint
from agent.config import ConfigError
from eval.processes import is_dead
from tests.conftest import REPOSITORY
from tests.training.experience import STILL, fill, settings, transition
from tests.training.frozen import arguments, assert_equal, events, fill_with_vector, learn, trainer_of, wait_for
from tests.training.privileged import debug_config, random_batch
from training.__main__ import main
from training.env.observation import VECTOR_SIZE
from training.experience import sampler as sampler_module
from training.experience.batches import Batches
from training.experience.sampler import STALE_PARTIAL_S, Sampler
from training.experience.writer import ExperienceWriter
from training.learner import Learner, NonFiniteUpdateError
from training.presets import RECIPES, Recipe, preset
from training.privileged import crew as crews
from training.privileged import guard
from training.privileged.config import AlarmConfig, RunConfig
from training.privileged.crew import Crew
from training.privileged.guard import LossBudget, RunStoppedError, SkippedUpdates
from training.privileged.tracking import Tracker
from training.privileged.trainer import MAX_FILE_BYTES
from training.world_model.encoder import Encoder

PATIENCE_S = 120.0
EVERY_TURN = 1e-9
"""Minutes between checkpoints."""


def step_of(folder: Path) -> int:
    """Updates of the newest sound checkpoint."""
    latest = latest_valid(folder / "checkpoints")
    assert latest is not None
    return int(read_manifest(latest)["step"])


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    latest = latest_valid(folder / "checkpoints")
    assert latest is not None
    return load_checkpoint(latest)[1]


# ----------------------------------------------------------------------------- T1: not finite


@pytest.mark.parametrize("recipe", RECIPES)
def test_T01_an_update_that_is_not_finite_changes_nothing(recipe: Recipe) -> None:
    config = debug_config(recipe)
    learner = Learner(config)
    good = random_batch(config, 2, 6)
    learner.update(good)
    before = {name: value.clone() for name, value in learner.tensors().items()}
    reward = good.reward.clone()
    reward[1, 3] = float("nan")
    with pytest.raises(NonFiniteUpdateError, match="nan"):
        learner.update(replace(good, reward=reward))
    after = learner.tensors()
    assert_equal(
        {k: v for k, v in before.items() if k != "generator"}, {k: v for k, v in after.items() if k != "generator"}
    )
    learner.update(good)
    assert learner.updates == 2 and all(bool(v.isfinite().all()) for v in learner.tensors().values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_T01_a_planner_that_is_not_finite_keeps_actor_critic_and_scale(recipe: Recipe) -> None:
    """The imagined returns are not finite, which shows only after they were averaged into their scale."""
    config = debug_config(recipe)
    learner = Learner(config)
    batch = random_batch(config, 2, 6)
    learner.update(batch)
    with torch.no_grad():
        for parameter in learner.policy.critic.parameters():
            parameter.fill_(float("inf"))
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    with pytest.raises(NonFiniteUpdateError):
        learner.update(batch)
    assert_equal(before, learner.policy.state_dict())


def test_T01_bad_batches_are_skipped_and_dumped_until_there_are_too_many(tmp_path: Path) -> None:
    """The last checkpoint is what the run goes on with; the batches tell what was wrong."""
    fill_with_vector(tmp_path / "replay", 96, bad_every=20)
    trainer = trainer_of(tmp_path, vector=True, checkpoint_minutes=EVERY_TURN, updates=None)
    with pytest.raises(RunStoppedError, match="4 of the last 1000 updates were not finite") as stopped:
        trainer.train()
    assert stopped.value.exit_code == 1
    skipped = events(tmp_path, "skipped")
    dumps = sorted((tmp_path / "bad_batches").iterdir())
    assert len(skipped) == len(dumps) == 4 and all(event["segments"] for event in skipped)
    dumped = load_tensors(dumps[-1].read_bytes())
    assert dumped["vector"].shape == (2, 6, VECTOR_SIZE) and bool(dumped["vector"].isnan().any())
    assert "generator" in dumped
    assert step_of(tmp_path) == trainer.learner.updates > 0
    assert_equal(tensors_of(tmp_path), trainer.learner.tensors())


def test_T01_old_skips_are_forgotten(tmp_path: Path) -> None:
    skipped, batch = SkippedUpdates(tmp_path), random_batch(debug_config("paper"), 1, 4)
    for update in range(0, 12_000, guard.SKIP_WINDOW_UPDATES // guard.SKIPPED_UPDATES + 1):
        skipped.add(update, batch, torch.zeros(1), "nan")
    assert len(list(tmp_path.iterdir())) == guard.KEPT_DUMPS


# ----------------------------------------------------------------------------- T2: collectors


def test_T02_a_silent_collector_is_replaced_with_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "CLOSE_S", 0.0)
    with Crew(preset("paper", "debug"), RunConfig(), tmp_path, (), (), {}) as crew:
        (first,) = crew.pids()
        os.kill(first, signal.SIGSTOP)
        assert crew.listen() == []
        monkeypatch.setattr(crews, "SILENCE_S", 0.0)
        (told,) = crew.listen()
        (second,) = crew.pids()
        os.kill(second, signal.SIGSTOP)
        assert told == {"collector": 0, "lost": "silent"}
        assert second != first and is_dead(first)
        assert crew._job(0, 0).seed != crew._job(0, 1).seed
    assert is_dead(second)


def test_T02_an_episode_that_broke_off_is_cut_and_no_termination(tmp_path: Path) -> None:
    writer = ExperienceWriter(tmp_path, stream="killed", segment_steps=8)
    for step in range(18):  # the last two are lost with their process
        writer.add(transition(0, step))
    fill(tmp_path, 40, 1)
    with Batches(tmp_path, settings(), ahead=0) as batches:
        assert batches.sampler.catalogue.steps == 56
        for _ in range(30):
            batch = batches.next().replayed
            assert not batch.terminal[batch.reward < 1000].any()


def test_T02_too_many_losses_in_an_hour_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now_s[0])
    losses = LossBudget(2)
    for now_s[0] in (0.0, 100.0, 3650.0):
        losses.add("exit code 1")
    now_s[0] = 3690.0
    with pytest.raises(RunStoppedError, match=r"3 collectors were lost within an hour.*exit code 1") as stopped:
        losses.add("exit code 1")
    assert stopped.value.is_sound, "what was learned is saved"


# ----------------------------------------------------------------------------- T3: memory


def test_T03_out_of_memory_saves_and_names_a_batch_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "replay", 60, 0)
    forward, rows = Encoder.forward, [1000]

    def limited(self: Encoder, words: torch.Tensor, *others: Any) -> torch.Tensor:
        if words.shape[0] > rows[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, words, *others)

    learn(tmp_path, updates=4, batch=8)
    monkeypatch.setattr(Encoder, "forward", limited)
    rows[0] = 3 * 6
    before = tensors_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", *arguments(tmp_path, config__batch="8")])
    assert main() == 75
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "--config.batch 2 --allow-config-change batch" in error[0]
    assert_equal(before, tensors_of(tmp_path))
    assert learn(tmp_path, updates=6, batch=2, allowed=("batch",)) == 6


# ----------------------------------------------------------------------------- T4, T5: checkpoints


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Sets the size that no file may grow beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_T04_a_full_disk_keeps_the_checkpoint_and_ends_the_run_the_third_time(
    tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    fill(tmp_path / "replay", 60, 0)
    learn(tmp_path, updates=3)
    before = tensors_of(tmp_path)
    size = (tmp_path / "checkpoints" / "000000003" / "model.safetensors").stat().st_size
    full_disk(size // 2)
    with pytest.raises(RunStoppedError, match=r"3 checkpoints in a row could not be written.*make room") as stopped:
        learn(tmp_path, updates=None, checkpoint_minutes=EVERY_TURN)
    full_disk(resource.RLIM_INFINITY)
    assert stopped.value.exit_code == 3
    assert [event["updates"] for event in events(tmp_path, "checkpoint_failed")] == [4, 5, 6]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000003"]
    assert [path.name for path in (tmp_path / "replay" / "pins").iterdir()] == ["000000003.json"]
    assert_equal(before, tensors_of(tmp_path))
    assert learn(tmp_path, updates=5) == 5


def test_T05_killed_at_any_point_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old or new one is whole, whichever call to the disk was the last; what is left over goes."""
    target = tmp_path / "checkpoints" / "000000001"
    calls = {"fsync": os.fsync, "rename": Path.rename}

    def save(step: int) -> None:
        state = {"weight": torch.full((10,), float(step))}
        save_checkpoint(target, {}, state, step=step, created_by="tests")

    steps = set()
    for last in range(1, 20):
        shutil.rmtree(target.parent, ignore_errors=True)
        save(1)
        child = os.fork()
        if not child:
            left = [last]

            def counted(name: str, left: list[int] = left) -> Callable[..., Any]:
                def call(*arguments: Any) -> Any:
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return calls[name](*arguments)

                return call

            os.fsync, Path.rename = counted("fsync"), counted("rename")  # type: ignore[method-assign]
            save(2)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        recover(target.parent)
        assert [path.name for path in target.parent.iterdir()] == [target.name]
        step = step_of(tmp_path)
        assert load_checkpoint(target)[1]["weight"][0] == step
        steps.add(step)
        if os.WIFEXITED(status):
            break
    assert os.WEXITSTATUS(status) == 0 and last > 5 and steps == {1, 2}


def test_T05_a_run_starts_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    fill(tmp_path / "replay", 60, 0)
    learn(tmp_path, updates=3)
    parent = tmp_path / "checkpoints"
    shutil.copytree(parent / "000000003", parent / "000000009")
    newer = parent / "000000009" / "model.safetensors"
    newer.write_bytes(newer.read_bytes()[:-100])
    shutil.copytree(parent / "000000003", parent / ".000000009.1.partial")
    assert learn(tmp_path, updates=5) == 5
    assert events(tmp_path, "start")[-1]["updates"] == 3
    assert [path.name for path in parent.iterdir()] == ["000000005"]


def test_checkpoints_of_a_small_model_have_small_files(tmp_path: Path) -> None:
    """Weights and moments of tiny fit into files below 16 MB."""
    learner = Learner(preset("paper", "tiny"))
    for stepper in learner.steppers.values():
        for parameter in stepper.parameters:
            parameter.grad = torch.zeros_like(parameter)
        stepper.step()
    tensors = learner.tensors()
    save_checkpoint(tmp_path / "a", {}, tensors, step=1, created_by="tests", max_file_bytes=MAX_FILE_BYTES)
    sizes = [path.stat().st_size for path in (tmp_path / "a").iterdir()]
    assert max(sizes) < 16_000_000 < sum(sizes)
    fresh = Learner(preset("paper", "tiny"), seed=1)
    fresh.load(load_checkpoint(tmp_path / "a")[1], "a")
    assert_equal(tensors, fresh.tensors())


# ----------------------------------------------------------------------------- T6: stopped and resumed


def test_T06_a_run_stopped_by_sigterm_and_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Bit for bit, weights and moments, over at least 50 updates."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fill(parts / "replay", 60, 0)
    shutil.copytree(parts / "replay", whole / "replay")
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *arguments(parts)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(lambda: process.poll() is not None or [e for e in events(parts, "update") if e["update"] >= 10])
            process.send_signal(signal.SIGTERM)
            assert process.wait(60.0) == 0, (tmp_path / "output.txt").read_text()
        finally:
            process.kill()
            process.wait()
    stopped = step_of(parts)
    assert stopped >= 10
    total = stopped + 40
    assert learn(parts, updates=total) == total == learn(whole, updates=total)
    assert events(parts, "start")[-1]["updates"] == stopped
    assert_equal(tensors_of(whole), tensors_of(parts))


def test_T06_the_separate_optimisers_of_the_paper_resume_as_well(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fill(parts / "replay", 60, 0)
    shutil.copytree(parts / "replay", whole / "replay")
    for updates in (4, 10):
        learn(parts, recipe="paper", updates=updates)
    learn(whole, recipe="paper", updates=10)
    assert_equal(tensors_of(whole), tensors_of(parts))


def test_T06_a_planner_reset_is_the_same_after_a_resume(tmp_path: Path) -> None:
    config = debug_config("paper")
    config = replace(config, tricks=replace(config.tricks, planner_resets=(2,)))
    batch = random_batch(config, 2, 6)
    whole = Learner(config)
    for _ in range(2):
        whole.update(batch)
    resumed = Learner(config, seed=5)
    resumed.load({name: value.clone() for name, value in whole.tensors().items()}, "checkpoint")
    torch.manual_seed(1)
    whole.update(batch)
    torch.manual_seed(2)
    resumed.update(batch)
    assert_equal(whole.tensors(), resumed.tensors())


def test_T06_a_run_is_trained_by_one_process(tmp_path: Path) -> None:
    from training.privileged.resume import locked

    with locked(tmp_path), pytest.raises(ConfigError, match=f"is being trained by process {os.getpid()}"):
        learn(tmp_path)


# ----------------------------------------------------------------------------- T7: configuration


def test_T07_another_configuration_is_shown_and_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "replay", 60, 0)
    learn(tmp_path, updates=2)
    options = {"config__train_ratio": "8", "config__batch": "3", "config__updates": "4", "config__log_updates": "1"}
    monkeypatch.setattr(sys, "argv", ["training", *arguments(tmp_path, **options)])
    assert main() == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "batch: 2 -> 3; config.train_ratio: 64.0 -> 8.0." in error
    assert "--allow-config-change batch config.train_ratio" in error and "log_updates" not in error
    assert step_of(tmp_path) == 2
    with pytest.raises(ConfigError, match=r"configuration: config\.train_ratio: 64\.0 -> 8\.0\. Give"):
        learn(tmp_path, updates=4, train_ratio=8.0, batch=3, allowed=("batch",))
    sys.argv[2:2] = ["--allow-config-change", "batch", "config.train_ratio"]
    assert main() == 0
    assert step_of(tmp_path) == 4
    changed = events(tmp_path, "start")[-1]["changed"]
    assert changed["batch"] == [2, 3] and changed["config.train_ratio"] == [64.0, 8.0]


def test_T07_a_run_goes_on_with_windows_of_another_length_or_another_replay(tmp_path: Path) -> None:
    fill(tmp_path / "replay", 60, 0)
    fill(tmp_path / "other", 90, 0)
    learn(tmp_path, updates=2)
    learn(tmp_path, updates=3, steps=4, allowed=("steps",))
    other = {"steps": 4, "replay": tmp_path / "other"}
    assert learn(tmp_path, updates=4, **other, allowed=("config.replay",)) == 4
    assert [event["collected"] for event in events(tmp_path, "start")] == [60, 60, 90]


def test_T07_weights_of_another_size_do_not_fit_even_if_allowed(tmp_path: Path) -> None:
    fill(tmp_path / "replay", 60, 0)
    learn(tmp_path, updates=2)
    with pytest.raises(CheckpointError, match="do not fit"):
        learn(
            tmp_path,
            recipe="paper",
            allowed=(
                "recipe",
                "world_model",
                "policy",
                "joint",
                "replay",
                "tricks",
                "model_optimizer",
                "policy_optimizer",
            ),
        )


# ----------------------------------------------------------------------------- T10: bounds


def test_T10_metrics_out_of_bounds_raise_an_alarm_and_end_the_stage(tmp_path: Path) -> None:
    fill(tmp_path / "replay", 60, 0)
    learn(tmp_path, updates=4)
    alarm = AlarmConfig(reward=0.5, reports=3)
    with pytest.raises(RunStoppedError, match=r"out of bounds in 3 reports in a row: .*replayed_reward") as stopped:
        learn(tmp_path, updates=None, checkpoint_minutes=EVERY_TURN, alarm=alarm, allowed=("config.alarm",))
    assert stopped.value.exit_code == 1
    assert events(tmp_path, "alarm")[0]["out_of_bounds"]["replayed_reward"] > 0.5
    assert step_of(tmp_path) in (5, 6), "the checkpoint from before the first report with the alarm"
    assert events(tmp_path, "stopped")[0]["updates"] == 10


def test_T10_an_alarm_that_goes_by_is_told_once() -> None:
    alarms = guard.Alarms(AlarmConfig(value=10.0, reports=3))
    looks = [alarms.look({"return": value, "entropy": 1e9}) for value in (9.0, -11.0, 12.0, 9.0, 11.0)]
    assert looks == [False, True, False, True, True]
    assert alarms.look({"value": float("nan")})
    with pytest.raises(RunStoppedError, match="return 11"):
        alarms.look({"return": 11.0})


# ----------------------------------------------------------------------------- T11: data


def test_T11_a_replay_without_a_window_is_refused_at_the_start_with_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="0 segments with 0 steps hold no window of 6 steps"):
        learn(tmp_path / "empty")
    fill(tmp_path / "data", 5, 0)
    options = {"config__replay": str(tmp_path / "data")}
    monkeypatch.setattr(sys, "argv", ["training", *arguments(tmp_path / "short", **options)])
    assert main() == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "1 segments with 5 steps hold no window of 6 steps" in error


# ----------------------------------------------------------------------------- T12: tracking


def test_T12_a_stalled_log_stalls_no_training(tmp_path: Path) -> None:
    """Events go into a pipe that nobody reads for a while; those that find no room are dropped and counted."""
    os.mkfifo(tmp_path / "events.jsonl")
    tracker = Tracker(tmp_path, capacity=5)
    begun_s = time.monotonic()
    for number in range(100):
        tracker.write("update", {"update": number})
    assert time.monotonic() - begun_s < 5.0
    assert 94 <= tracker.dropped <= 95
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend((tmp_path / "events.jsonl").read_bytes().splitlines()))
    reader.start()
    tracker.close()
    reader.join(PATIENCE_S)
    assert lines[0] == b'{"kind": "update", "update": 0}' and 6 <= len(lines) <= 8
    assert f'{{"kind": "dropped", "events": {tracker.dropped}}}'.encode() in lines


def test_T12_a_log_that_cannot_be_written_is_told_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "replay", 60, 0)
    (tmp_path / "events.jsonl").mkdir()
    (tmp_path / "tensorboard").write_text("")
    assert learn(tmp_path, updates=6) == 6
    assert step_of(tmp_path) == 6
    assert sum("events are not written" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
def test_T12_a_jump_of_the_clock_costs_no_writer_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Half-written files go when they have not grown for an hour of running, whatever their dates say."""

    class Clock:
        wall_s, running_s = time.time(), 0.0

        def time(self) -> float:
            return self.wall_s

        def monotonic(self) -> float:
            return self.running_s

    clock = Clock()
    monkeypatch.setattr(sampler_module, "time", clock)
    fill(tmp_path, 8, 0)
    sampler = Sampler(tmp_path, STILL, 6, 0)
    slow, abandoned = tmp_path / "slow.partial", tmp_path / "abandoned.partial"
    for path in (slow, abandoned):
        path.write_bytes(b"half")
    sampler.sweep()
    clock.wall_s += jump_s
    os.utime(slow, (clock.wall_s, clock.wall_s - 1e8))  # the disk's server has a clock, too
    sampler.sweep()
    assert slow.exists() and abandoned.exists()
    clock.running_s = STALE_PARTIAL_S - 1.0
    with slow.open("ab") as file:
        file.write(b" of it")
    sampler.sweep()
    assert slow.exists() and abandoned.exists()
    clock.running_s = STALE_PARTIAL_S + 1.0
    sampler.sweep()
    assert slow.exists() and not abandoned.exists()
    clock.running_s = 2.0 * STALE_PARTIAL_S
    sampler.sweep()
    assert not slow.exists()
