"""The demo as a user runs it: a real server, real cameras, a real (tiny, untrained) network."""

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from agent.actions import ACTIONS
from eval.moments import read_trace, trace_path
from eval.recorder import moments_folder
from eval.video import HOLD_END_FRAMES
from tests.agent.synthetic import save_agent

SLOW_AHEAD = next(index for index, row in enumerate(ACTIONS.tolist()) if row[0] > 0.6 and row[1] == row[3] == 0.0)


PATIENCE_S = 280.0
"""The whole takes ten seconds on two free cores; a busy machine may take much longer."""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_missing_weights_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    outcome = demo("--weights", str(tmp_path / "agent.yaml"), "--out", str(tmp_path / "out"))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 and "agent.yaml" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_altered_weights_are_found_before_an_earlier_demo_is_cleared(tmp_path: Path) -> None:
    weights = save_agent(tmp_path / "weights", action=SLOW_AHEAD)
    with (weights.parent / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\x7e")
    earlier = tmp_path / "out" / "results.json"
    earlier.parent.mkdir()
    earlier.write_text("{}")
    outcome = demo("--weights", str(weights), "--out", str(earlier.parent))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 and "model.safetensors" in outcome.stderr
    assert earlier.read_text() == "{}"


@pytest.mark.parametrize("server", ["nonsense", "127.0.0.1:1"])
def test_a_server_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path, server: str) -> None:
    outcome = demo("--agent", "constant-throttle", "--server", server, "--out", str(tmp_path / "out"))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 and server in outcome.stderr


@pytest.mark.timeout(PATIENCE_S + 20.0)
def test_a_demo_leaves_scores_report_and_film(tmp_path: Path) -> None:
    weights = save_agent(tmp_path / "weights", action=SLOW_AHEAD)
    out = tmp_path / "out"
    arguments = ["--weights", str(weights), "--out", str(out), "--routes", "1", "--traffic", "2", "--max-game-s", "2"]
    outcome = demo(*arguments)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "driving score" in outcome.stdout and "report.html" in outcome.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["_checkpoint"]["progress"] == [1, 1]
    assert "<svg" in (out / "report.html").read_text()
    trace = read_trace(trace_path(moments_folder(out), "1"))
    assert len(trace.steps) >= 20 and trace.steps[-1].action == SLOW_AHEAD
    assert trace.steps[-1].speed_mps > 0.3 and trace.start_picture is not None
    with av.open(str(out / "demo.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 20 + HOLD_END_FRAMES
    front = frames[15][60:220, 330:630]
    assert front.std() > 10.0, "the front camera shows nothing"
