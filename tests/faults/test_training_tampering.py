"""Fault rows of the training: what of C1 to C10 concerns it, files and processes that were tampered with."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from agent.driver import AgentConfig, load_model
from eval.routes import Route
from tests.conftest import REPOSITORY
from tests.training.flaky_work import work
from tests.training.frozen import assert_equal, wait_for
from tests.training.privileged import debug_config
from training import workers
from training.env import isolated
from training.env.config import EnvConfig
from training.env.isolated import IsolatedEnv, WorkerLostError
from training.env.observation import VECTOR_SIZE
from training.evaluation.drivers import load_policy
from training.learner import Learner
from training.messages import MAX_MESSAGE_BYTES, MessageError, pack, read
from training.presets import preset
from training.privileged import crew as crews
from training.privileged.checkpoint import load_model as load_privileged
from training.privileged.config import RunConfig
from training.privileged.crew import Crew, read_message

PATIENCE_S = 120.0


def load_agent(folder: Path) -> object:
    """As the leaderboard's agent does."""
    return load_model(folder / AgentConfig.read(folder / "agent.yaml").checkpoint, "cpu")


SHIPPED = {
    "raw_clone": (load_agent,),
    "raw_tiny": (load_agent,),
    "raw": (load_agent,),
    "raw_refined": (load_agent,),
    "privileged_tiny": (load_policy, load_privileged),
}
"""Every folder of weights/ with what loads it: the agent, an evaluation, an analysis or another run."""
SHIPPED_FILES = [
    (weights, loader, path.name)
    for weights, loaders in SHIPPED.items()
    for loader in loaders
    for path in sorted((REPOSITORY / "weights" / weights).iterdir())
]


def test_C08_all_shipped_weights_load() -> None:
    assert SHIPPED.keys() == {path.name for path in (REPOSITORY / "weights").iterdir()}
    for weights, loaders in SHIPPED.items():
        for loader in loaders:
            assert loader(REPOSITORY / "weights" / weights) is not None


@pytest.mark.parametrize(("weights", "loader", "name"), SHIPPED_FILES)
def test_C08_a_tampered_file_of_shipped_weights_is_refused(
    tmp_path: Path, weights: str, loader: Callable[[Path], object], name: str
) -> None:
    """One flipped bit in what lies in weights/: nothing drives with it, and the message says which file it is."""
    folder = tmp_path / "weights"
    shutil.copytree(REPOSITORY / "weights" / weights, folder)
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x01
    path.write_bytes(data)
    with pytest.raises((CheckpointError, ConfigError)) as error:
        loader(folder)
    named = [other.name for other in folder.iterdir()] if name == "manifest.json" else [name]
    assert any(part in str(error.value) for part in named)


def test_C08_altered_weights_reach_no_driver(tmp_path: Path) -> None:
    """What the learner publishes to its collectors is checked for its tensors before one drives with it."""
    from training.privileged.driver import PolicyDriver, publish, take_over

    learner = Learner(debug_config("paper", vector=VECTOR_SIZE))
    driver = PolicyDriver(learner.config)
    path = publish(tmp_path, learner)
    before = {name: value.clone() for name, value in driver.state_dict().items()}
    data = path.read_bytes()
    for spoiled in (
        data[:-1],
        data[:8] + b"x" + data[9:],
        b"",
        publish(tmp_path, Learner(debug_config("strong"))).read_bytes(),
    ):
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=str(path)):
            take_over(driver, path)
    assert_equal(before, driver.state_dict())


FOREIGN = (
    b"",
    b"\xc1",
    b"\x80\x04\x95",  # as a pickle begins
    msgpack.packb([1]),
    msgpack.packb({"steps": "1"}),
    msgpack.packb({"steps": 1, "code": "print()"}),
    msgpack.packb({1: 2}),
    b"\xdf\xff\xff\xff\xff",  # a mapping of 4 billion entries
    b"\x81" * 5000,
)
"""What no process of ours tells another."""


@pytest.mark.parametrize("message", FOREIGN)
def test_C10_messages_of_another_form_are_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        read_message(message)
    assert read_message(msgpack.packb({"steps": 3})) == {"steps": 3}
    for types in (workers.MESSAGE_TYPES, isolated.CALL_TYPES, isolated.ANSWER_TYPES):
        with pytest.raises(MessageError):
            read(message, types)
    with pytest.raises(MessageError, match="'reward' is a int"):
        read(msgpack.packb({"reward": 1}), isolated.ANSWER_TYPES)


def test_C10_work_that_tells_anything_else_is_lost_and_nothing_of_it_executed(tmp_path: Path) -> None:
    """A pickle and a message beyond the limit cost their items; others of the group are done."""
    done = {
        event.item: event
        for event in workers.work_through(partial(work, tmp_path), [["pickle", "long", "a"]], 1, most_attempts=1)
        if isinstance(event, workers.Done)
    }
    assert list(done) == ["pickle", "long", "a"]
    assert "makes no sense (not msgpack" in done["pickle"].lost
    assert done["long"].outcome is None and done["long"].lost
    assert done["a"].outcome == ["a", 0]


def test_C10_an_environment_that_answers_anything_else_is_lost(tmp_path: Path) -> None:
    env = IsolatedEnv(EnvConfig(size_px=64), [Route("r", "Gen01", ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0)))])
    sound = {"words": bytes(8 * 64**2), "vector": bytes(4 * VECTOR_SIZE), "info": {}}
    answers = {
        "makes no sense": [*FOREIGN, pack(sound | {"words": bytes(8)}), pack(sound | {"vector": b""}), pack({})],
        "has died": [bytes(MAX_MESSAGE_BYTES + 1)],
        "no such town": [pack({"lost": "no such town"})],
    }
    for told, data in ((told, data) for told, some in answers.items() for data in some):
        env._pipe, other = get_context("spawn").Pipe()
        with socket.socket(fileno=os.dup(other.fileno())) as connection:
            assert connection.family == socket.AF_UNIX
        sender = threading.Thread(target=_send, args=(other, data))
        sender.start()
        with pytest.raises(WorkerLostError, match=told):
            env._ask({"call": "step", "action": 0}, PATIENCE_S)
        env.close()
        sender.join(PATIENCE_S)
    env._pipe, other = get_context("spawn").Pipe()
    other.send_bytes(pack(sound))
    answer = env._ask({"call": "step", "action": 0}, PATIENCE_S)
    assert env.observation_space.contains({name: answer[name] for name in ("words", "vector")})
    assert read(other.recv_bytes(), isolated.CALL_TYPES) == {"call": "step", "action": 0}
    env.close()


def test_C10_processes_talk_by_local_sockets_and_within_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message beyond the limit costs its sender the place."""
    monkeypatch.setattr(crews, "CLOSE_S", 0.0)
    with Crew(preset("paper", "debug"), RunConfig(), tmp_path, (), (), {}) as crew:
        worker = crew._seats[0].worker
        os.kill(crew.pids()[0], signal.SIGSTOP)
        with socket.socket(fileno=os.dup(worker.pipe.fileno())) as connection:
            assert connection.family == socket.AF_UNIX
        worker.pipe.close()
        worker.pipe, other = get_context("spawn").Pipe()
        sender = threading.Thread(target=_send, args=(other, bytes(crews.MAX_MESSAGE_BYTES + 1)))
        sender.start()
        told = wait_for(crew.listen)
        os.kill(crew.pids()[0], signal.SIGSTOP)
        sender.join(PATIENCE_S)
        assert told[0]["lost"].startswith("a message that makes no sense")


def _send(pipe: Any, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the other side hangs up in the middle of it
        pipe.send_bytes(data)
